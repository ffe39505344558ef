//! The loop: from noise to latents, one velocity at a time.

mod cache;
mod course;
mod masked;
mod noise;
pub(crate) mod preview;
mod sampler;
mod schedule;
pub mod torch_noise;

pub use cache::Cache;
pub use course::{Choice, Course, MaskedSteps, Work};
pub use noise::{SeedNoise, gaussian, noise, rng};
pub use preview::Preview;
pub use sampler::{Fresh, Sampler, Solver, Taken, Velocity};
pub use schedule::{Schedule, Shift, schedule};

use crate::{Error, Result, text::TextConditioning, unit::Units};
use ace_nn::flux::{Blocks, Fetched, Flux, FluxInput, Own};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};
use cache::Memory;
use masked::Masked;
use preview::Sight;
use std::ops::{ControlFlow, Range};

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

impl<'a> Event<'a> {
    /// The event with someone who makes pictures of latents.
    pub(crate) fn seen_by(self, sight: Sight<'a>) -> Self {
        match self {
            Self::Step { done, of, preview } => {
                Self::Step { done, of, preview: Preview { sight: Some(sight), ..preview } }
            }
            other => other,
        }
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

/// Where a walk ended.
#[derive(Debug)]
pub struct Denoised {
    /// `[B, L, 64]`
    pub tokens: Tensor<3>,
    /// What it took.
    pub work: Work,
    /// By how much what the blocks add grew from step to step, if that was [measured](Cache::Measure).
    pub mag_ratios: Vec<f32>,
}

/// How the network is asked.
enum Way {
    Whole(Box<Memory>),
    Masked(Box<Masked>),
}

/// Which of the seed's generators draws fresh noise on the way; 0 is the noise that a walk begins with.
const FRESH: u64 = 1;

impl Denoiser<'_> {
    /// Walks along a course.
    ///
    /// # Shapes
    /// - noise: `[B, L, 64]`, B as units and text have it
    ///
    /// # Errors
    /// [`Error::Cancelled`] if the observer wants no more.
    pub fn denoise(&self, noise: Tensor<3>, course: &Course, observer: Observer<'_>) -> Result<Denoised> {
        self.denoise_with(&mut Own, noise, course, observer)
    }

    /// As [`Denoiser::denoise`], with blocks that come from elsewhere.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn denoise_with(
        &self,
        blocks: &mut dyn Blocks,
        noise: Tensor<3>,
        course: &Course,
        observer: Observer<'_>,
    ) -> Result<Denoised> {
        let (shape, device) = (noise.dims(), noise.device());
        let mut generator = rng(course.seed, FRESH);
        let mut solver = Solver::new(course.sampler);
        let mut work = Work { steps: course.num_steps(), ..Work::default() };
        let mut way = self.way(course, &device)?;
        let mut tokens = noise;
        for (done, pair) in course.times.windows(2).enumerate() {
            let [t, t_next] = [pair[0], pair[1]];
            let mut velocity =
                |tokens: &Tensor<3>, t: f32| self.velocity(&mut way, blocks, tokens, t, &mut work, observer);
            let mut fresh = || gaussian(shape, &mut generator, &device);
            let taken = solver.step(&tokens, [t, t_next], &mut velocity, &mut fresh)?;
            let preview =
                Preview { tokens: &tokens, velocity: &taken.velocity, t, units: self.units, row: 0, sight: None };
            tell(observer, Event::Step { done: done + 1, of: work.steps, preview })?;
            tokens = taken.tokens;
        }
        let mag_ratios = match way {
            Way::Whole(memory) => memory.into_ratios(),
            Way::Masked(_) => Vec::new(),
        };
        Ok(Denoised { tokens, work, mag_ratios })
    }

    /// How the network is asked along a course.
    fn way(&self, course: &Course, device: &Device) -> Result<Way> {
        let evaluations = course.sampler.evaluations(course.num_steps());
        if let (Some(MaskedSteps { every, columns }), Some(beside)) = (&course.masked, &self.units.beside)
            && let Some(masked) = Masked::new(self, *every, &is_masked(beside, columns.clone()), device)
        {
            return Ok(Way::Masked(Box::new(masked)));
        }
        Ok(Way::Whole(Box::new(Memory::new(course.cache, evaluations, &course.mag_ratios))))
    }

    fn velocity(
        &self,
        way: &mut Way,
        blocks: &mut dyn Blocks,
        tokens: &Tensor<3>,
        t: f32,
        work: &mut Work,
        observer: Observer<'_>,
    ) -> Result<Tensor<3>> {
        let ([batch, ..], device) = (tokens.dims(), tokens.device());
        let for_all = |value: f32| Tensor::<1>::full([batch], value, &device);
        let times = (for_all(t), for_all(self.guidance));
        let input = input(self.flux, tokens.clone(), self.units, self.text, times, self.dtype);
        blocks.at(t);
        let mut poll = || observer(Event::Tick);
        match way {
            Way::Whole(memory) => {
                let walk = &mut Fetched::new(blocks, &mut poll);
                let output = uncancelled(memory.forward(self.flux, walk, input, work))?;
                Ok(self.units.of_noisy(output).cast(DType::F32))
            }
            Way::Masked(masked) => uncancelled(masked.velocity(self, blocks, &mut poll, input, work)),
        }
    }
}

/// Whether something of a token is under the mask, for each.
fn is_masked(beside: &Tensor<3>, columns: Range<usize>) -> Vec<bool> {
    let mask = beside.clone().narrow(2, columns.start, columns.len()).max_dim(2);
    mask.cast(DType::F32).into_data().iter::<f32>().map(|most| most > 0.0).collect()
}
