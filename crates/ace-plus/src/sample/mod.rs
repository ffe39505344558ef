//! The loop: from noise to latents, one velocity at a time.

mod noise;
mod schedule;
pub mod torch_noise;

pub use noise::{SeedNoise, gaussian, noise, rng};
pub use schedule::{Shift, schedule};

use crate::{Error, Result, flow, text::TextConditioning, unit::Units};
use ace_nn::flux::{Blocks, Fetched, Flux, FluxInput, Own};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};
use std::ops::ControlFlow;

/// What the observer of an edit is told.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A stage begins.
    Stage(Stage),
    /// A block of a network, or a tile, is about to be computed: nothing to show, but a place to stop.
    Tick,
    /// A step of the loop is done.
    Step {
        /// Steps done.
        done: usize,
        /// Steps in all.
        of: usize,
        /// What the picture would become from here.
        preview: Preview<'a>,
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

/// The picture as it looks from a step of the loop; computed when it is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Preview<'a> {
    tokens: &'a Tensor<3>,
    velocity: &'a Tensor<3>,
    t: f32,
    units: &'a Units,
}

impl Preview<'_> {
    /// Latents of the edited picture, `[1, 16, h, w]`: where the velocity of this step leads if it never changes.
    pub fn latents(&self) -> Option<Tensor<4>> {
        self.units.unpack(flow::euler(self.tokens.clone(), self.velocity.clone(), self.t, 0.0)).pop()
    }
}

/// Who is told about progress; `Break` cancels the edit.
pub type Observer<'a> = &'a mut dyn FnMut(Event<'_>) -> ControlFlow<()>;

/// Tells the observer.
///
/// # Errors
/// [`Error::Cancelled`] if it wants no more.
pub fn tell(observer: Observer<'_>, event: Event<'_>) -> Result<()> {
    uncancelled(observer(event))
}

/// What was computed, unless the observer broke it off.
///
/// # Errors
/// [`Error::Cancelled`] if it did.
pub(crate) fn uncancelled<T>(flow: ControlFlow<(), T>) -> Result<T> {
    match flow {
        ControlFlow::Continue(value) => Ok(value),
        ControlFlow::Break(()) => Err(Error::Cancelled),
    }
}

/// What the transformer is asked about some noisy tokens. `flux` only says how positions turn.
///
/// # Shapes
/// - noisy: `[B, L, 64]` f32; timesteps, guidance: `[B]`
pub fn input(
    flux: &Flux,
    noisy: Tensor<3>,
    units: &Units,
    text: &TextConditioning,
    (timesteps, guidance): (Tensor<1>, Tensor<1>),
    dtype: FloatDType,
) -> FluxInput {
    let device = noisy.device();
    let text_len = text.prompt_embeds.dims()[1];
    FluxInput {
        tokens: units.accompany(noisy).cast(dtype),
        rope: flux.rope(text_len, &units.ids, &device),
        prompt_embeds: text.prompt_embeds.clone().cast(dtype),
        pooled_prompt_embeds: text.pooled_prompt_embeds.clone().cast(dtype),
        timesteps,
        guidance,
    }
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
    let output = flux.forward(input(flux, noisy, units, text, (timesteps, guidance), dtype));
    units.of_noisy(output).cast(DType::F32)
}

/// The transformer and what it is given at every step from noise to latents.
#[derive(Debug, Clone, Copy)]
pub struct Denoiser<'a> {
    /// The transformer.
    pub flux: &'a Flux,
    /// What accompanies the noise.
    pub units: &'a Units,
    /// What it reads.
    pub text: &'a TextConditioning,
    /// Guidance that is embedded.
    pub guidance: f32,
    /// Numbers of the transformer.
    pub dtype: FloatDType,
}

impl Denoiser<'_> {
    /// Walks along `times` (from 1 down to 0).
    ///
    /// # Shapes
    /// - noise, output: `[1, L, 64]`
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the observer wants no more.
    pub fn denoise(&self, noise: Tensor<3>, times: &[f32], observer: Observer<'_>) -> Result<Tensor<3>> {
        self.denoise_with(&mut Own, noise, times, observer)
    }

    /// As [`Denoiser::denoise`], with blocks that come from elsewhere.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn denoise_with(
        &self,
        blocks: &mut dyn Blocks,
        noise: Tensor<3>,
        times: &[f32],
        observer: Observer<'_>,
    ) -> Result<Tensor<3>> {
        let mut tokens = noise;
        let of = times.len().saturating_sub(1);
        for (done, pair) in times.windows(2).enumerate() {
            let (t, t_next) = (pair[0], pair[1]);
            let velocity = self.velocity(blocks, &tokens, t, observer)?;
            let next = flow::euler(tokens.clone(), velocity.clone(), t, t_next);
            let preview = Preview { tokens: &tokens, velocity: &velocity, t, units: self.units };
            tell(observer, Event::Step { done: done + 1, of, preview })?;
            tokens = next;
        }
        Ok(tokens)
    }

    fn velocity(
        &self,
        blocks: &mut dyn Blocks,
        tokens: &Tensor<3>,
        t: f32,
        observer: Observer<'_>,
    ) -> Result<Tensor<3>> {
        let device = tokens.device();
        let scalar = |value: f32| Tensor::<1>::from_data([value], &device);
        let times = (scalar(t), scalar(self.guidance));
        let input = input(self.flux, tokens.clone(), self.units, self.text, times, self.dtype);
        blocks.at(t);
        let mut poll = || observer(Event::Tick);
        let output = uncancelled(self.flux.forward_with(&mut Fetched::new(blocks, &mut poll), input))?;
        Ok(self.units.of_noisy(output).cast(DType::F32))
    }
}
