//! `[validation]`: measuring on examples that are not learned from.

use crate::error::RecipeProblem;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// How the loss is measured on held-out examples: every time on the same ones, at the same times, with the same noise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidationRecipe {
    /// Steps between two measurements; the last step is measured too.
    pub every: u64,
    /// How many examples. Of a manifest that is learned from, the last ones are kept apart; the world has a part of its own.
    #[serde(default = "eight")]
    pub examples: u64,
    /// Examples of their own instead: a JSON-lines manifest, relative to the recipe.
    #[serde(default)]
    pub manifest: Option<PathBuf>,
    /// At which times, 1 being noise.
    #[serde(default = "spread")]
    pub timesteps: Vec<f32>,
    /// When to stop before the last step.
    #[serde(default)]
    pub early_stop: Option<EarlyStop>,
}

/// When to stop before the last step. What is written then is what was best.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EarlyStop {
    /// So many measurements in a row without a better one.
    pub patience: u32,
    /// By how much a measurement must be lower to be a better one.
    #[serde(default)]
    pub min_delta: f32,
}

fn eight() -> u64 {
    8
}

fn spread() -> Vec<f32> {
    vec![0.1, 0.3, 0.5, 0.7, 0.9]
}

impl ValidationRecipe {
    /// What is wrong with the section.
    pub(super) fn check(&self) -> Result<(), RecipeProblem> {
        let outside = |field, value, range| Err(RecipeProblem::OutOfRange { field, value, range });
        if self.every == 0 {
            return outside("validation.every", 0.0, "1 or more");
        }
        if self.examples == 0 {
            return outside("validation.examples", 0.0, "1 or more");
        }
        match self.timesteps.iter().find(|time| !(0.0..=1.0).contains(*time)) {
            Some(time) => return outside("validation.timesteps", f64::from(*time), "0 to 1"),
            None if self.timesteps.is_empty() => return Err(RecipeProblem::NoTimesteps),
            None => {}
        }
        match self.early_stop {
            Some(EarlyStop { patience: 0, .. }) => outside("validation.early_stop.patience", 0.0, "1 or more"),
            Some(EarlyStop { min_delta, .. }) if !(min_delta >= 0.0 && min_delta.is_finite()) => {
                outside("validation.early_stop.min_delta", f64::from(min_delta), "a number from 0 on")
            }
            _ => Ok(()),
        }
    }
}
