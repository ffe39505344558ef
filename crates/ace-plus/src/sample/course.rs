//! The way from noise to latents that an edit, its task and its card agree on, and what it took.

use super::{Sampler, Schedule, Shift};
use serde::Serialize;
use std::ops::AddAssign;

/// The way from noise to latents.
#[derive(Debug, Clone, PartialEq)]
pub struct Course {
    /// How a step is taken.
    pub sampler: Sampler,
    /// Times from 1 down to 0.
    pub times: Vec<f32>,
    /// What fresh noise follows from, for samplers that want some on the way.
    pub seed: u64,
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
}

impl Course {
    /// Plain Euler steps along `times`.
    pub fn euler(times: Vec<f32>) -> Self {
        Self { sampler: Sampler::Euler, times, seed: 0 }
    }

    /// What was chosen, for so many image tokens and the edit's seed.
    pub fn of(choice: &Choice, tokens: usize, seed: u64) -> Self {
        let Choice { sampler, schedule, shift, num_steps } = choice;
        Self { sampler: *sampler, times: schedule.times(*num_steps, tokens, shift), seed }
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
