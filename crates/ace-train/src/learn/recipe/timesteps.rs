//! `[timesteps]`: at which times the transformer learns.

use crate::error::RecipeProblem;
use serde::{Deserialize, Serialize};

/// Which times are drawn, 1 being noise.
///
/// The default is the paper's: `sigmoid(z)` with `z ~ N(0,1)`. A small picture is decided within the first steps of a
/// walk, where noise still hides everything: only there must a network listen to words and references, so a higher mean
/// teaches it to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimestepRecipe {
    /// The law that times are drawn by.
    pub law: TimestepLaw,
    /// Mean before the sigmoid; of the logit-normal law alone.
    pub mean: f32,
    /// Standard deviation before the sigmoid; of the logit-normal law alone.
    pub std: f32,
    /// Whether times are moved towards noise after they are drawn.
    pub shift: Option<TimestepShift>,
}

/// The law that times are drawn by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimestepLaw {
    /// `sigmoid(mean + std · z)` with `z ~ N(0,1)`.
    #[default]
    LogitNormal,
    /// All times alike.
    Uniform,
    /// As the official training draws them: 1000 times `1 − sigmoid(z)` are drawn once and sorted, and every example
    /// takes one of them, all but the first and the last alike (`PRE_T_SAMPLE` in `schedules.py` of
    /// `modelscope/scepter`).
    Official,
}

/// How times are moved towards noise: `t ↦ s·t / (1 + (s − 1)·t)`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum TimestepShift {
    /// The same `s` for every picture.
    Constant(f32),
    /// A law of the picture's size.
    Named(ShiftLaw),
}

/// A law of the picture's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ShiftLaw {
    /// `s = exp(μ)`, with `μ` by the number of tokens as in sampling ([`Shift`](ace_plus::sample::Shift)).
    Dynamic,
}

impl Default for TimestepRecipe {
    fn default() -> Self {
        Self { law: TimestepLaw::LogitNormal, mean: 0.0, std: 1.0, shift: None }
    }
}

impl TimestepRecipe {
    /// What is wrong with the section.
    pub(super) fn check(&self) -> Result<(), RecipeProblem> {
        let outside =
            |field, value: f32, range| Err(RecipeProblem::OutOfRange { field, value: f64::from(value), range });
        match *self {
            Self { std, .. } if !(std >= 0.0 && std.is_finite()) => outside("timesteps.std", std, "a number from 0 on"),
            Self { mean, .. } if !mean.is_finite() => outside("timesteps.mean", mean, "a number"),
            Self { shift: Some(TimestepShift::Constant(shift)), .. } if !(shift > 0.0 && shift.is_finite()) => {
                outside("timesteps.shift", shift, "a number above 0, or \"dynamic\"")
            }
            _ => Ok(()),
        }
    }
}
