//! From examples to what a step needs of them: encoded once by the frozen networks, kept on the host, put together
//! into batches of one geometry.

use crate::{Error, data::example::Example};
use ace_nn::{autoencoder::AutoEncoder, clip::Clip, t5::T5};
use ace_plus::{
    Card, canvas,
    text::{self, TextConditioning, TokenIds, Tokenizers},
    unit::{self, Units},
};
use burn::prelude::*;

/// The frozen networks and rules that turn examples into [`Encoded`].
pub struct Encoders {
    /// What is known about the model.
    pub card: Card,
    /// Frozen, without gradients.
    pub autoencoder: AutoEncoder,
    /// EncodedText to numbers.
    pub tokenizers: Tokenizers,
    /// Text encoders, if they are frozen too: their outputs are then kept with the examples.
    pub text: Option<(T5, Clip)>,
    /// Where the frozen networks live.
    pub device: Device,
}

/// One example as the transformer sees it, on the host.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Clean latents of all units as tokens, `[L, 64]`.
    latents: Vec<f32>,
    /// Conditions on the channels, `[L, C]`.
    beside: Option<Vec<f32>>,
    /// Conditions on the sequence, `[L', in_channels]`.
    behind: Option<Vec<f32>>,
    /// Geometry: what must agree within a batch.
    geometry: Geometry,
    /// The instruction.
    text: EncodedText,
}

/// What must agree for examples to share a batch.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    ids: Vec<[f32; 3]>,
    grids: Vec<[usize; 2]>,
    is_reference: Vec<bool>,
}

impl Geometry {
    /// Noisy tokens of one example.
    pub fn len(&self) -> usize {
        self.is_reference.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.is_reference.is_empty()
    }
}

/// An instruction: numbers, and what frozen encoders make of them.
#[derive(Debug, Clone)]
pub struct EncodedText {
    ids: TokenIds,
    embeds: Option<(Vec<f32>, Vec<f32>)>,
}

/// Examples of one geometry as tensors.
#[derive(Debug)]
pub struct Batch {
    /// Clean latents as tokens, `[B, L, 64]`.
    pub latents: Tensor<3>,
    /// Conditions and positions.
    pub units: Units,
    /// The instructions.
    pub words: Vec<EncodedText>,
}

impl Encoders {
    /// Encodes an example.
    ///
    /// # Errors
    /// If its pictures do not fit each other or the card.
    pub fn encode(&self, example: &Example) -> Result<Encoded, Error> {
        let inputs = example.inputs();
        let canvases = canvas::compose(&inputs, &self.card.canvas)?;
        let targets = canvas::compose_target(&example.target, &inputs, &self.card.canvas)?;
        let units = Units::encode(&self.autoencoder, &canvases, &self.card.unit, None, &self.device);
        let clean =
            targets.iter().flat_map(|plane| unit::encode_planes(&self.autoencoder, &[plane], None, &self.device));
        Ok(Encoded {
            latents: host(units.pack(clean.collect())),
            beside: units.beside.map(host),
            behind: units.behind.map(host),
            geometry: Geometry { ids: units.ids, grids: units.grids, is_reference: units.is_reference },
            text: self.words(&example.instruction),
        })
    }

    /// Encodes an instruction.
    pub fn words(&self, instruction: &str) -> EncodedText {
        let ids = self.tokenizers.ids(instruction);
        let embeds = self.text.as_ref().map(|(t5, clip)| {
            let conditioning = text::encode(t5, clip, std::slice::from_ref(&ids), &self.device);
            (host(conditioning.prompt_embeds), host(conditioning.pooled_prompt_embeds))
        });
        EncodedText { ids, embeds }
    }
}

fn host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

impl Encoded {
    /// What must agree within a batch.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl Batch {
    /// Puts examples of one geometry together; `dropped` ones get the empty instruction.
    ///
    /// # Panics
    /// If there is no example, or they differ in geometry.
    pub fn new(examples: &[(&Encoded, bool)], empty: &EncodedText, device: &Device) -> Self {
        let (first, _) = examples.first().expect("a batch has an example"); // documented above
        let geometry = &first.geometry;
        assert!(examples.iter().all(|(example, _)| example.geometry == *geometry), "one geometry per batch");
        let stack = |part: &dyn Fn(&Encoded) -> &[f32], len: usize| {
            let flat: Vec<f32> = examples.iter().flat_map(|(example, _)| part(example).iter().copied()).collect();
            let width = flat.len() / examples.len() / len;
            Tensor::<3>::from_data(TensorData::new(flat, [examples.len(), len, width]), device)
        };
        let len = geometry.len();
        let behind_len = geometry.ids.len() - len;
        let units = Units {
            beside: first.beside.as_ref().map(|_| stack(&|one| one.beside.as_deref().unwrap_or_default(), len)),
            behind: first.behind.as_ref().map(|_| stack(&|one| one.behind.as_deref().unwrap_or_default(), behind_len)),
            ids: geometry.ids.clone(),
            grids: geometry.grids.clone(),
            is_reference: geometry.is_reference.clone(),
        };
        let words = examples.iter().map(|(one, dropped)| if *dropped { empty.clone() } else { one.text.clone() });
        Self { latents: stack(&|one| &one.latents, len), units, words: words.collect() }
    }

    /// What the transformer reads: kept embeddings if the encoders are frozen, fresh ones from `t5` and `clip` if not.
    pub fn conditioning(&self, t5: &T5, clip: &Clip, device: &Device) -> TextConditioning {
        let kept: Option<Vec<_>> = self.words.iter().map(|words| words.embeds.as_ref()).collect();
        let Some(kept) = kept else {
            let ids: Vec<TokenIds> = self.words.iter().map(|words| words.ids.clone()).collect();
            return text::encode(t5, clip, &ids, device);
        };
        let batch = kept.len();
        let text_len = self.words[0].ids.t5.len();
        let sequence: Vec<f32> = kept.iter().flat_map(|(sequence, _)| sequence.iter().copied()).collect();
        let pooled: Vec<f32> = kept.iter().flat_map(|(_, pooled)| pooled.iter().copied()).collect();
        let (width, pooled_width) = (sequence.len() / batch / text_len, pooled.len() / batch);
        TextConditioning {
            prompt_embeds: Tensor::from_data(TensorData::new(sequence, [batch, text_len, width]), device),
            pooled_prompt_embeds: Tensor::from_data(TensorData::new(pooled, [batch, pooled_width]), device),
        }
    }
}
