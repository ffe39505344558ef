//! Encoded examples put together as tensors: of one geometry beside each other, or of any behind each other.

use super::encode::{Encoded, EncodedPictures, EncodedText};
use ace_plus::unit::Units;
use burn::prelude::*;

/// Examples as tensors.
#[derive(Debug)]
pub struct Batch {
    /// Clean latents as tokens, `[B, L, 64]`; of packed examples `[1, ΣL, 64]`.
    pub latents: Tensor<3>,
    /// Conditions and positions.
    pub units: Units,
    /// The instructions.
    pub texts: Vec<EncodedText>,
    /// Tokens of each example, if they are packed: behind each other on one sequence.
    pub packed: Option<Vec<usize>>,
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
        Self { latents: stack(&|one| &one.latents, len), units, texts: texts.collect(), packed: None }
    }

    /// Puts examples of any geometry behind each other. Those whose flag is set get the `empty` instruction instead of their
    /// own.
    ///
    /// # Panics
    /// If there is no example, or one has conditions on the sequence, which would come between them.
    pub fn pack(examples: &[(&Encoded, bool)], empty: &EncodedText, device: &Device) -> Self {
        let all = || examples.iter().map(|(example, _)| example.pictures.as_ref());
        assert!(all().all(|pictures| pictures.behind.is_none()), "conditions on the sequence are not packed");
        let lens: Vec<usize> = all().map(|pictures| pictures.geometry.len()).collect();
        let join = |part: &dyn Fn(&EncodedPictures) -> &[f32]| {
            let flat: Vec<f32> = all().flat_map(|pictures| part(pictures).iter().copied()).collect();
            let len: usize = lens.iter().sum();
            let width = flat.len() / len;
            Tensor::<3>::from_data(TensorData::new(flat, [1, len, width]), device)
        };
        let has_beside = all().any(|pictures| pictures.beside.is_some());
        let units = Units {
            beside: has_beside.then(|| join(&|pictures| pictures.beside.as_deref().unwrap_or_default())),
            behind: None,
            ids: all().flat_map(|pictures| pictures.geometry.ids.iter().copied()).collect(),
            grids: all().flat_map(|pictures| pictures.geometry.grids.iter().copied()).collect(),
            is_reference: all().flat_map(|pictures| pictures.geometry.is_reference.iter().copied()).collect(),
        };
        let texts = examples.iter().map(|(one, dropped)| if *dropped { empty.clone() } else { one.text.clone() });
        Self { latents: join(&|pictures| &pictures.latents), units, texts: texts.collect(), packed: Some(lens) }
    }
}

impl Encoded {
    /// Its conditions and positions, on a device.
    pub fn units(&self, device: &Device) -> Units {
        Batch::new(&[(self, false)], &self.text, device).units
    }
}
