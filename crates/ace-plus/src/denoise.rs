//! The loop: from noise to latents, one velocity at a time.

use crate::{Error, Result, flow, text::TextConditioning, unit::Units};
use ace_nn::flux::{Flux, FluxInput};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};

/// What the observer of an edit is told. Its answer `false` cancels the edit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// A stage begins.
    Stage(Stage),
    /// A step of the loop is done.
    Step {
        /// Steps done.
        done: usize,
        /// Steps in all.
        of: usize,
    },
}

/// Stages of an edit, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Words to embeddings.
    Text,
    /// Pictures to conditions.
    Encode,
    /// Noise to latents.
    Denoise,
    /// Latents to pixels.
    Decode,
}

/// Who is told about progress; answers whether to go on.
pub type Observer<'a> = &'a mut dyn FnMut(Event) -> bool;

/// Tells the observer.
///
/// # Errors
/// [`Error::Cancelled`] if it wants no more.
pub fn tell(observer: Observer<'_>, event: Event) -> Result<()> {
    if observer(event) { Ok(()) } else { Err(Error::Cancelled) }
}

/// The velocity of the noisy tokens, in f32, whatever the network's dtype.
///
/// # Shapes
/// - noisy: `[B, L, 64]` f32; timesteps, guidance: `[B]`
/// - output: `[B, L, 64]` f32
pub fn velocity(
    flux: &Flux,
    noisy: Tensor<3>,
    units: &Units,
    text: &TextConditioning,
    timesteps: Tensor<1>,
    guidance: Tensor<1>,
    dtype: FloatDType,
) -> Tensor<3> {
    let device = noisy.device();
    let text_len = text.prompt_embeds.dims()[1];
    let output = flux.forward(FluxInput {
        tokens: units.accompany(noisy).cast(dtype),
        rope: flux.rope(text_len, &units.ids, &device),
        prompt_embeds: text.prompt_embeds.clone().cast(dtype),
        pooled_prompt_embeds: text.pooled_prompt_embeds.clone().cast(dtype),
        timesteps,
        guidance,
    });
    units.of_noisy(output).cast(DType::F32)
}

/// Walks from noise to latents along `times` (from 1 down to 0).
///
/// # Shapes
/// - noise, output: `[1, L, 64]`
///
/// # Errors
/// [`Error::Cancelled`] if the observer wants no more.
#[allow(clippy::too_many_arguments)] // each is one row of the paper's table
pub fn denoise(
    flux: &Flux,
    noise: Tensor<3>,
    units: &Units,
    text: &TextConditioning,
    times: &[f32],
    guidance: f32,
    dtype: FloatDType,
    observer: Observer<'_>,
) -> Result<Tensor<3>> {
    let device = noise.device();
    let scalar = |value: f32| Tensor::<1>::from_data([value], &device);
    let mut tokens = noise;
    let of = times.len().saturating_sub(1);
    for (done, pair) in times.windows(2).enumerate() {
        let (t, t_next) = (pair[0], pair[1]);
        let velocity = velocity(flux, tokens.clone(), units, text, scalar(t), scalar(guidance), dtype);
        tokens = flow::euler(tokens, velocity, t, t_next);
        tell(observer, Event::Step { done: done + 1, of })?;
    }
    Ok(tokens)
}
