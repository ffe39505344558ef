//! Pictures as prompts (FLUX.1 Redux): what an image encoder sees of them stands behind the words, as tokens that the
//! transformer reads as it reads words.
//!
//! How pictures are weighed against words and each other is that of diffusers' `FluxPriorReduxPipeline`: each picture brings
//! `scale · [words ; tokens]` and `pooled_scale · summary`, and several add up. So one picture at full strength leaves the
//! words as they are, and the sequence is as long for ten pictures as for one.

use crate::{
    Card, Error, Result,
    canvas::{Plane, bicubic},
    pixels::upload,
    text::TextConditioning,
};
use ace_nn::{poll::Poll, redux::Redux, vit::Vit};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};
use image::RgbImage;
use std::ops::ControlFlow;

/// A picture that is read as words are, and how strongly it counts.
#[derive(Debug, Clone)]
pub struct PicturePrompt {
    /// The picture; the image encoder sees it stretched to a square.
    pub picture: RgbImage,
    /// How often its tokens, and the words beside them, are counted.
    pub scale: f32,
    /// How often the summary of the words is counted for it.
    pub pooled_scale: f32,
}

/// The networks that read pictures as prompts.
#[derive(Debug, Clone)]
pub struct Prompter {
    /// The image encoder.
    pub vision: Vit,
    /// From its tokens to the transformer's.
    pub redux: Redux,
    /// Side of the pictures that it sees, in pixels.
    pub side: u32,
}

impl Prompter {
    /// The tokens of a picture, `[1, N, d_model]`, in the numbers of its networks; breaks off where `poll` does.
    pub fn read(
        &self,
        picture: &RgbImage,
        dtype: FloatDType,
        device: &Device,
        poll: Poll<'_>,
    ) -> ControlFlow<(), Tensor<3>> {
        let square = Plane::from_rgb(&bicubic(picture, self.side, self.side));
        let seen = self.vision.forward_polled(upload(&square, device).cast(dtype), poll)?;
        ControlFlow::Continue(self.redux.forward(seen))
    }
}

/// Refuses picture prompts that cannot be read.
///
/// # Errors
/// If the card reads none, or a scale is no number.
pub(crate) fn check(prompts: &[PicturePrompt], card: &Card) -> Result<()> {
    if prompts.is_empty() {
        return Ok(());
    }
    if card.vision.is_none() {
        let what = format!("card {} takes no pictures as prompts", card.name);
        let hint = format!("use it with Redux on top, {}+redux, or give the picture as a reference", card.name);
        return Err(Error::input(what, hint));
    }
    let mut scales = prompts.iter().flat_map(|prompt| [prompt.scale, prompt.pooled_scale]);
    match scales.find(|scale| !scale.is_finite()) {
        Some(scale) => {
            Err(Error::input(format!("the scale of a picture prompt is {scale}"), "choose a number; 1 is as it is"))
        }
        None => Ok(()),
    }
}

/// Words with pictures behind them; `tokens` are those of each prompt, as [`Prompter::read`] gives them.
///
/// # Shapes
/// - text: `[1, T, C]` and `[1, P]`; tokens: `[1, N, C]` each
/// - output: `[1, T + N, C]` and `[1, P]`, in the numbers of `text`
pub fn combine(text: &TextConditioning, prompts: &[PicturePrompt], tokens: Vec<Tensor<3>>) -> TextConditioning {
    let dtype = text.prompt_embeds.dtype();
    let words = text.prompt_embeds.clone().cast(DType::F32);
    let summary = text.pooled_prompt_embeds.clone().cast(DType::F32);
    let each = prompts.iter().zip(tokens).map(|(prompt, tokens)| {
        let sequence = Tensor::cat(vec![words.clone(), tokens.cast(DType::F32)], 1) * prompt.scale;
        (sequence, summary.clone() * prompt.pooled_scale)
    });
    let sum = each.reduce(|(sequence, summary), (more, other)| (sequence + more, summary + other));
    match sum {
        Some((sequence, summary)) => TextConditioning {
            prompt_embeds: sequence.cast(dtype),
            pooled_prompt_embeds: summary.cast(text.pooled_prompt_embeds.dtype()),
        },
        None => text.clone(),
    }
}
