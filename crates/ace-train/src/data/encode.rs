//! What the frozen networks make of an example. It is computed once and kept on the host.

use super::example::{Dataset, Example};
use crate::Error;
use ace_nn::{autoencoder::AutoEncoder, clip::Clip, t5::T5};
use ace_plus::{
    Card, canvas, pixels,
    text::{self, TextConditioning, TokenIds, Tokenizers},
    unit::Units,
};
use burn::{
    module::{Module, ModuleVisitor, Param},
    prelude::*,
    tensor::DType,
};

/// The frozen networks that turn examples into [`Encoded`], on a device without gradients.
///
/// A run loads them once. Large ones encode every example and preview that the run will need, and are dropped before the
/// network that is trained is loaded.
#[derive(Debug)]
pub struct Encoders {
    /// What is known about the model.
    pub card: Card,
    /// Pictures to latents.
    pub autoencoder: AutoEncoder,
    /// Words to numbers.
    pub tokenizers: Tokenizers,
    /// Numbers to embeddings. `None` if the text encoders are trained: their outputs then change with every step.
    pub text: Option<TextEncoders>,
    /// Where they compute.
    pub device: Device,
}

/// The two networks that read an instruction.
#[derive(Debug, Clone)]
pub struct TextEncoders {
    /// The sequence encoder.
    pub t5: T5,
    /// The pooled encoder.
    pub clip: Clip,
}

/// One example as the transformer sees it, on the host.
#[derive(Debug, Clone)]
pub struct Encoded {
    /// Clean latents of all units as tokens, `[L, 64]`.
    pub(super) latents: Vec<f32>,
    /// Conditions on the channels, `[L, C]`.
    pub(crate) beside: Option<Vec<f32>>,
    /// Conditions on the sequence, `[L', in_channels]`.
    pub(super) behind: Option<Vec<f32>>,
    pub(super) geometry: Geometry,
    pub(super) text: EncodedText,
}

/// What must be the same for examples to share a batch: positions, sizes, and which tokens belong to references.
#[derive(Debug, Clone, PartialEq)]
pub struct Geometry {
    pub(super) ids: Vec<[f32; 3]>,
    pub(super) grids: Vec<[usize; 2]>,
    pub(crate) is_reference: Vec<bool>,
}

impl Geometry {
    /// Noisy tokens of one example, `L`.
    pub fn len(&self) -> usize {
        self.is_reference.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.is_reference.is_empty()
    }
}

/// An instruction as token ids, with its embeddings if the text encoders are frozen.
#[derive(Debug, Clone)]
pub struct EncodedText {
    pub(super) ids: TokenIds,
    /// T5's sequence `[T, d_model]` and CLIP's summary `[hidden_size]`.
    pub(super) embeds: Option<(Vec<f32>, Vec<f32>)>,
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
        let clean = targets.iter().flat_map(|plane| pixels::encode(&self.autoencoder, &[plane], None, &self.device));
        Ok(Encoded {
            latents: on_host(units.pack(clean.collect())),
            beside: units.beside.map(on_host),
            behind: units.behind.map(on_host),
            geometry: Geometry { ids: units.ids, grids: units.grids, is_reference: units.is_reference },
            text: self.encode_text(&example.instruction),
        })
    }

    /// Encodes the examples at `indices`, on all cores.
    ///
    /// # Errors
    /// If one cannot be read, or its pictures do not fit each other or the card.
    ///
    /// # Panics
    /// If one of the threads panicked; it has then said why.
    pub fn encode_all(&self, data: &dyn Dataset, indices: &[u64]) -> Result<Vec<(u64, Encoded)>, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(indices.len().max(1));
        let share = indices.len().div_ceil(threads).max(1);
        let encode = |indices: &[u64]| {
            let one = |index: &u64| Ok((*index, self.encode(&data.example(*index)?)?));
            indices.iter().map(one).collect::<Result<Vec<_>, Error>>()
        };
        let encoded: Vec<Result<Vec<_>, Error>> = std::thread::scope(|scope| {
            let threads: Vec<_> = indices.chunks(share).map(|share| scope.spawn(move || encode(share))).collect();
            // The run must not go on with a part of what it asked for.
            threads.into_iter().map(|thread| thread.join().expect("an encoding thread panicked")).collect()
        });
        Ok(encoded.into_iter().collect::<Result<Vec<_>, Error>>()?.into_iter().flatten().collect())
    }

    /// Memory that the networks take, in bytes.
    pub fn bytes(&self) -> u64 {
        struct Walk(u64);
        impl ModuleVisitor for Walk {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                let each = match value.dtype() {
                    // `Q8_0`; its scales are an eighth more at most.
                    DType::QFloat(_) => 1,
                    dtype => dtype.size(),
                };
                self.0 += (value.shape().num_elements() * each) as u64;
            }
        }
        let mut walk = Walk(0);
        self.autoencoder.visit(&mut walk);
        if let Some(TextEncoders { t5, clip }) = &self.text {
            t5.visit(&mut walk);
            clip.visit(&mut walk);
        }
        walk.0
    }

    /// Encodes an instruction.
    pub fn encode_text(&self, instruction: &str) -> EncodedText {
        let ids = self.tokenizers.ids(instruction);
        let embeds = self.text.as_ref().map(|TextEncoders { t5, clip }| {
            let conditioning = text::encode(t5, clip, std::slice::from_ref(&ids), &self.device);
            (on_host(conditioning.prompt_embeds), on_host(conditioning.pooled_prompt_embeds))
        });
        EncodedText { ids, embeds }
    }
}

fn on_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

impl Encoded {
    /// What must be the same within a batch.
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }
}

impl EncodedText {
    /// What the transformer reads of instructions of one length: the embeddings that are kept, or what `trained` makes of
    /// the token ids.
    ///
    /// # Shapes
    /// - output: `[B, T, d_model]` and `[B, hidden_size]`
    ///
    /// # Panics
    /// If there are neither embeddings nor encoders, or no instruction.
    pub fn conditioning(texts: &[Self], trained: Option<(&T5, &Clip)>, device: &Device) -> TextConditioning {
        let kept: Option<Vec<_>> = texts.iter().map(|text| text.embeds.as_ref()).collect();
        let Some(kept) = kept else {
            let (t5, clip) = trained.expect("without embeddings the text encoders are trained"); // documented above
            let ids: Vec<TokenIds> = texts.iter().map(|text| text.ids.clone()).collect();
            return text::encode(t5, clip, &ids, device);
        };
        let (batch, text_len) = (kept.len(), texts[0].ids.t5.len());
        let sequence: Vec<f32> = kept.iter().flat_map(|(sequence, _)| sequence.iter().copied()).collect();
        let pooled: Vec<f32> = kept.iter().flat_map(|(_, pooled)| pooled.iter().copied()).collect();
        let (width, pooled_width) = (sequence.len() / batch / text_len, pooled.len() / batch);
        TextConditioning {
            prompt_embeds: Tensor::from_data(TensorData::new(sequence, [batch, text_len, width]), device),
            pooled_prompt_embeds: Tensor::from_data(TensorData::new(pooled, [batch, pooled_width]), device),
        }
    }
}
