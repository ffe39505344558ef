//! The way from noise to latents that an edit, its task and its card agree on, and what it took.

use super::{Cache, Sampler, Schedule, Shift};
use crate::Card;
use serde::Serialize;
use std::ops::{AddAssign, Range};

/// The way from noise to latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// How a step is taken.
    pub sampler: Sampler,
    /// Times from 1 down to 0.
    pub times: Vec<f32>,
    /// What fresh noise follows from, for samplers that want some on the way.
    pub seed: u64,
    /// Which steps need not be computed.
    pub cache: Cache,
    /// By how much what the blocks add grows from step to step, for [`Cache::Mag`].
    pub mag_ratios: Vec<f32>,
    /// Whether only every so many-th step asks for the tokens outside the mask.
    pub masked: Option<MaskedSteps>,
}

/// Steps that ask for masked tokens alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaskedSteps {
    /// From one step that asks for all tokens to the next.
    pub every: usize,
    /// Where among what is [beside](crate::unit::Units::beside) a token its mask stands.
    pub columns: Range<usize>,
}

/// What of a [`Course`] can be chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Choice {
    /// How a step is taken.
    pub sampler: Sampler,
    /// How times are spread.
    pub schedule: Schedule,
    /// How far they are shifted towards noise.
    pub shift: Shift,
    /// Steps.
    pub num_steps: usize,
    /// Which of them need not be computed.
    pub cache: Cache,
    /// From one step that asks for the tokens outside the mask to the next; `None` if all do.
    pub masked_steps: Option<usize>,
}

impl Course {
    /// Plain Euler steps along `times`.
    pub fn euler(times: Vec<f32>) -> Self {
        let (sampler, cache, mag_ratios) = (Sampler::Euler, Cache::Off, Vec::new());
        Self { sampler, times, seed: 0, cache, mag_ratios, masked: None }
    }

    /// What was chosen, for so many image tokens of a card's edit and its seed.
    pub fn of(choice: &Choice, card: &Card, tokens: usize, seed: u64) -> Self {
        let columns = card.unit.mask_columns(card.flux.out_channels, card.autoencoder.downscale());
        let masked = choice.masked_steps.zip(columns).map(|(every, columns)| MaskedSteps { every, columns });
        Self {
            sampler: choice.sampler,
            times: choice.schedule.times(choice.num_steps, tokens, &choice.shift),
            seed,
            cache: choice.cache,
            mag_ratios: card.sampling.mag_ratios.clone(),
            masked,
        }
    }

    /// Its steps.
    pub fn num_steps(&self) -> usize {
        self.times.len().saturating_sub(1)
    }
}

/// What a walk took.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Work {
    /// Steps.
    pub steps: usize,
    /// How often the network was asked.
    pub evaluations: usize,
    /// How often of these all of its blocks ran over all tokens.
    pub computed: usize,
    /// Blocks that ran; one that ran over a part of the tokens counts as that part.
    pub blocks: f64,
}

impl AddAssign for Work {
    fn add_assign(&mut self, other: Self) {
        self.steps += other.steps;
        self.evaluations += other.evaluations;
        self.computed += other.computed;
        self.blocks += other.blocks;
    }
}
