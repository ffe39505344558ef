//! What the frozen networks make of an example. It is computed once and kept on the host.

use super::{example::Example, plain::Plain};
use crate::Error;
use ace_nn::{autoencoder::AutoEncoder, clip::Clip, lora::Linears, t5::T5, weight::Weight};
use ace_plus::{
    Card,
    canvas::{self, Plane},
    text::{self, TextConditioning, TokenIds, Tokenizers},
    unit::{Shown, Units},
};
use burn::{
    module::{Module, ModuleVisitor, Param},
    prelude::*,
};
use std::{ops::ControlFlow, sync::Arc};

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
    pub(crate) pictures: Arc<EncodedPictures>,
    pub(super) text: EncodedText,
}

/// The pictures of one example as the transformer sees them, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct EncodedPictures {
    /// Clean latents of all units as tokens, `[L, 64]`.
    pub(super) latents: Vec<f32>,
    /// Conditions on the channels, `[L, C]`.
    pub(crate) beside: Option<Vec<f32>>,
    /// Conditions on the sequence, `[L', in_channels]`.
    pub(super) behind: Option<Vec<f32>>,
    pub(super) geometry: Geometry,
}

impl EncodedPictures {
    /// Whether everything has the length that the positions ask for.
    pub(super) fn is_consistent(&self) -> bool {
        let Geometry { ids, grids, is_reference } = &self.geometry;
        let (len, all) = (is_reference.len(), ids.len());
        let fits = |values: &Vec<f32>, rows: usize| rows > 0 && !values.is_empty() && values.len().is_multiple_of(rows);
        len > 0
            && all >= len
            && !grids.is_empty()
            && fits(&self.latents, len)
            && self.beside.as_ref().is_none_or(|beside| fits(beside, len))
            && self.behind.as_ref().map_or(all == len, |behind| fits(behind, all - len))
    }

    /// Memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        let numbers = self.latents.len()
            + self.beside.as_ref().map_or(0, Vec::len)
            + self.behind.as_ref().map_or(0, Vec::len)
            + 3 * self.geometry.ids.len();
        numbers * size_of::<f32>() + self.geometry.len()
    }
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
    pub(super) embeds: Option<Arc<WordEmbeddings>>,
}

/// What the text encoders make of an instruction, on the host.
#[derive(Debug, Clone, PartialEq)]
pub struct WordEmbeddings {
    /// T5's sequence, `[T, d_model]`.
    pub(super) sequence: Vec<f32>,
    /// CLIP's summary, `[hidden_size]`.
    pub(super) pooled: Vec<f32>,
}

impl TextEncoders {
    /// What an instruction becomes.
    pub fn encode(&self, ids: &TokenIds, device: &Device) -> WordEmbeddings {
        let conditioning = text::encode(&self.t5, &self.clip, std::slice::from_ref(ids), device);
        WordEmbeddings {
            sequence: on_host(conditioning.prompt_embeds),
            pooled: on_host(conditioning.pooled_prompt_embeds),
        }
    }
}

/// Refuses a card whose network is shown pictures as they are: examples are composed for networks that repaint.
///
/// # Errors
/// If it is one of these.
pub(crate) fn check_unit(card: &Card) -> ace_plus::Result<()> {
    match card.unit.shown() {
        None | Some(Shown::Nothing) => Ok(()),
        Some(Shown::Beside | Shown::Context) => Err(ace_plus::Error::input(
            format!("card {} is shown pictures as they are; such networks are not trained here", card.name),
            "train a card of FLUX-Fill or ACE++, or one that is shown none",
        )),
    }
}

/// What the pictures of an example become.
///
/// # Errors
/// If they do not fit each other or the card.
pub fn encode_pictures(
    card: &Card,
    autoencoder: &AutoEncoder,
    plain: &Plain,
    example: &Example,
    device: &Device,
) -> ace_plus::Result<EncodedPictures> {
    check_unit(card)?;
    let inputs = example.inputs();
    let canvases = canvas::compose(&inputs, &card.canvas)?;
    let targets = canvas::compose_target(&example.target, &inputs, &card.canvas)?;
    let encode = |plane: &Plane| plain.encode(autoencoder, plane, device);
    let each = &mut |planes: &[&Plane]| ControlFlow::Continue(planes.iter().map(|plane| encode(plane)).collect());
    let ControlFlow::Continue(units) = Units::encode_by(&canvases, &card.unit, autoencoder.downscale(), device, each)
    else {
        unreachable!("encoding never breaks off here");
    };
    Ok(EncodedPictures {
        latents: on_host(units.pack(targets.iter().map(encode).collect())),
        beside: units.beside.map(on_host),
        behind: units.behind.map(on_host),
        geometry: Geometry { ids: units.ids, grids: units.grids, is_reference: units.is_reference },
    })
}

impl Encoders {
    /// Encodes an example.
    ///
    /// # Errors
    /// If its pictures do not fit each other or the card.
    pub fn encode(&self, example: &Example) -> Result<Encoded, Error> {
        let pictures = encode_pictures(&self.card, &self.autoencoder, &Plain::default(), example, &self.device)?;
        Ok(Encoded { pictures: Arc::new(pictures), text: self.encode_text(&example.instruction) })
    }

    /// Memory that the networks take, in bytes.
    pub fn bytes(&self) -> u64 {
        struct Walk(u64);
        impl ModuleVisitor for Walk {
            fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
                let value = param.val();
                self.0 += (value.shape().num_elements() * value.dtype().size()) as u64;
            }
        }
        let mut walk = Walk(0);
        let mut packed = 0;
        self.autoencoder.visit(&mut walk);
        if let Some(TextEncoders { t5, clip }) = &self.text {
            t5.visit(&mut walk);
            clip.visit(&mut walk);
            // Matrices that are packed or split are no parameters; a copy of a network shares them.
            let mut add = |weight: &mut Weight| packed += weight.frozen_bytes() as u64;
            t5.clone().each_weight(&mut add);
            clip.clone().each_weight(&mut add);
        }
        walk.0 + packed
    }

    /// Encodes an instruction.
    pub fn encode_text(&self, instruction: &str) -> EncodedText {
        let ids = self.tokenizers.ids(instruction);
        let embeds = self.text.as_ref().map(|encoders| Arc::new(encoders.encode(&ids, &self.device)));
        EncodedText { ids, embeds }
    }
}

pub(super) fn on_host<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().convert::<f32>().iter::<f32>().collect()
}

impl Encoded {
    /// What must be the same within a batch.
    pub fn geometry(&self) -> &Geometry {
        &self.pictures.geometry
    }

    /// Its instruction.
    pub fn text(&self) -> &EncodedText {
        &self.text
    }

    /// Tokens that the transformer sees of it: of the text, and of the pictures.
    pub fn tokens(&self) -> usize {
        self.text.ids.t5.len() + self.pictures.geometry.ids.len()
    }

    /// Whether it may stand behind others on one sequence: none of its conditions are tokens of their own.
    pub fn can_be_packed(&self) -> bool {
        self.pictures.behind.is_none()
    }
}

impl EncodedText {
    /// Memory that it takes, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.embeds.as_ref().map_or(0, |words| (words.sequence.len() + words.pooled.len()) * size_of::<f32>())
    }

    /// What the transformer reads of instructions of one length: the embeddings that are kept, or what `trained` makes of
    /// the token ids.
    ///
    /// # Shapes
    /// - output: `[B, T, d_model]` and `[B, hidden_size]`
    ///
    /// # Panics
    /// If there are neither embeddings nor encoders, or no instruction.
    pub fn conditioning(texts: &[Self], trained: Option<(&T5, &Clip)>, device: &Device) -> TextConditioning {
        let kept: Option<Vec<_>> = texts.iter().map(|text| text.embeds.as_deref()).collect();
        let Some(kept) = kept else {
            let (t5, clip) = trained.expect("without embeddings the text encoders are trained"); // documented above
            let ids: Vec<TokenIds> = texts.iter().map(|text| text.ids.clone()).collect();
            return text::encode(t5, clip, &ids, device);
        };
        let (batch, text_len) = (kept.len(), texts[0].ids.t5.len());
        let sequence: Vec<f32> = kept.iter().flat_map(|words| words.sequence.iter().copied()).collect();
        let pooled: Vec<f32> = kept.iter().flat_map(|words| words.pooled.iter().copied()).collect();
        let (width, pooled_width) = (sequence.len() / batch / text_len, pooled.len() / batch);
        TextConditioning {
            prompt_embeds: Tensor::from_data(TensorData::new(sequence, [batch, text_len, width]), device),
            pooled_prompt_embeds: Tensor::from_data(TensorData::new(pooled, [batch, pooled_width]), device),
        }
    }
}
