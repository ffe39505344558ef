//! Encoded examples of one geometry, put together as tensors.

use super::encode::{Encoded, EncodedPictures, EncodedText};
use ace_plus::unit::Units;
use burn::prelude::*;

/// Examples of one geometry as tensors.
#[derive(Debug)]
pub struct Batch {
    /// Clean latents as tokens, `[B, L, 64]`.
    pub latents: Tensor<3>,
    /// Conditions and positions.
    pub units: Units,
    /// The instructions.
    pub texts: Vec<EncodedText>,
}

impl Batch {
    /// Puts examples of one geometry together. Those whose flag is set get the `empty` instruction instead of their own.
    ///
    /// # Panics
    /// If there is no example, or they differ in geometry.
    pub fn new(examples: &[(&Encoded, bool)], empty: &EncodedText, device: &Device) -> Self {
        let (first, _) = examples.first().expect("a batch has an example"); // documented above
        let geometry = first.geometry();
        assert!(examples.iter().all(|(example, _)| example.geometry() == geometry), "one geometry per batch");
        let stack = |part: &dyn Fn(&EncodedPictures) -> &[f32], len: usize| {
            let parts = examples.iter().flat_map(|(example, _)| part(&example.pictures).iter().copied());
            let flat: Vec<f32> = parts.collect();
            let width = flat.len() / examples.len() / len;
            Tensor::<3>::from_data(TensorData::new(flat, [examples.len(), len, width]), device)
        };
        let len = geometry.len();
        let behind_len = geometry.ids.len() - len;
        let units = Units {
            beside: first
                .pictures
                .beside
                .as_ref()
                .map(|_| stack(&|one| one.beside.as_deref().unwrap_or_default(), len)),
            behind: first
                .pictures
                .behind
                .as_ref()
                .map(|_| stack(&|one| one.behind.as_deref().unwrap_or_default(), behind_len)),
            ids: geometry.ids.clone(),
            grids: geometry.grids.clone(),
            is_reference: geometry.is_reference.clone(),
        };
        let texts = examples.iter().map(|(one, dropped)| if *dropped { empty.clone() } else { one.text.clone() });
        Self { latents: stack(&|one| &one.latents, len), units, texts: texts.collect() }
    }
}
