//! `[optimizer]`: how long and how fast.

use crate::{error::RecipeProblem, learn::adamw8::BLOCK};
use serde::{Deserialize, Serialize};

/// How to learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerRecipe {
    /// Optimizer steps.
    pub steps: u64,
    /// Examples per step.
    pub batch: usize,
    /// The batch is split into this many parts whose gradients are added up.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Peak learning rate; the paper's is 1e-3.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// What follows the warm-up.
    #[serde(default)]
    pub schedule: RateSchedule,
    /// Where a falling schedule ends, as a share of the peak: 0 for nothing, 0.1 for a tenth.
    #[serde(default)]
    pub floor: f64,
    /// Exponent of the polynomial schedule: 1 is a straight line.
    #[serde(default = "straight")]
    pub power: f64,
    /// Decoupled weight decay; the paper's is 1e-2.
    #[serde(default = "paper_weight_decay")]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm.
    #[serde(default = "paper_clip_norm")]
    pub clip_norm: f64,
    /// How the optimizer's two moments are held.
    #[serde(default)]
    pub state: OptimizerState,
    /// Decay of the moving average that is shipped; none if absent.
    #[serde(default)]
    pub ema: Option<f64>,
    /// How several processes add up their gradients.
    #[serde(default)]
    pub reduce: Reduce,
}

/// How several processes add up their gradients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Reduce {
    /// In the order of the micro-batches: the result has the bits of one process. The gradients of every micro-batch travel.
    #[default]
    Exact,
    /// First on every process, then over all: one sum travels. The result depends on the number of processes in its last
    /// bits.
    Fast,
}

/// What follows the warm-up. All but the first fall from the peak to [`floor`](OptimizerRecipe::floor) at the last step;
/// diffusers' names are read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// The peak for ever.
    #[default]
    #[serde(alias = "constant-with-warmup", alias = "constant_with_warmup")]
    Constant,
    /// Half a cosine.
    #[serde(alias = "cosine_with_min_lr")]
    Cosine,
    /// A straight line.
    Linear,
    /// What is left of the way, to the power of [`power`](OptimizerRecipe::power).
    Polynomial,
}

impl RateSchedule {
    /// How much of the way from floor to peak is left when `progress` (0..1) of the steps after the warm-up are done.
    fn left(self, progress: f64, power: f64) -> f64 {
        match self {
            Self::Constant => 1.0,
            Self::Cosine => (1.0 + (std::f64::consts::PI * progress).cos()) / 2.0,
            Self::Linear => 1.0 - progress,
            Self::Polynomial => (1.0 - progress).powf(power),
        }
    }
}

/// How AdamW's two moments are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum OptimizerState {
    /// 32-bit floats.
    #[default]
    #[serde(rename = "f32")]
    F32,
    /// Blocks of 256 numbers in 8 bits, each with a scale: see [`AdamW8`](crate::learn::adamw8::AdamW8).
    #[serde(rename = "8bit")]
    EightBit,
}

impl OptimizerState {
    /// Memory for a parameter of so many numbers, in bytes.
    pub fn bytes(self, numbers: u64) -> u64 {
        match self {
            Self::F32 => 2 * 4 * numbers,
            Self::EightBit => 2 * numbers.div_ceil(BLOCK as u64) * (BLOCK as u64 + 4),
        }
    }
}

fn straight() -> f64 {
    1.0
}

fn one() -> usize {
    1
}

fn paper_weight_decay() -> f64 {
    1e-2
}

fn paper_clip_norm() -> f64 {
    1.0
}

impl OptimizerRecipe {
    /// The learning rate of a step, counted from 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        let progress = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
        let left = self.schedule.left(progress.min(1.0), self.power);
        self.learning_rate * (self.floor + (1.0 - self.floor) * left)
    }

    /// What is wrong with the section.
    pub(super) fn check(&self) -> Result<(), RecipeProblem> {
        let &Self { batch, accumulate, floor, power, .. } = self;
        if batch == 0 || accumulate == 0 || !batch.is_multiple_of(accumulate) {
            return Err(RecipeProblem::UnevenBatch { batch, accumulate });
        }
        let outside = |field, value, range| Err(RecipeProblem::OutOfRange { field, value, range });
        if !(0.0..=1.0).contains(&floor) {
            return outside("optimizer.floor", floor, "0 to 1");
        }
        // As `partial_cmp` would have it: what is no number is not above zero.
        if !(power > 0.0 && power.is_finite()) {
            return outside("optimizer.power", power, "a number above 0");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_to_zero() {
        let recipe: OptimizerRecipe =
            toml::from_str("steps = 110\nbatch = 1\nlearning_rate = 1e-3\nwarmup = 10\nschedule = \"cosine\"").unwrap();
        assert!((recipe.learning_rate_at(0) - 1e-4).abs() < 1e-12);
        assert!((recipe.learning_rate_at(10) - 1e-3).abs() < 1e-12);
        assert!((recipe.learning_rate_at(60) - 5e-4).abs() < 1e-12);
        assert!(recipe.learning_rate_at(110).abs() < 1e-12);
    }

    #[test]
    fn schedules_fall_to_the_floor_as_their_names_say() {
        let rates = |more: &str| -> Vec<f64> {
            let text = format!("steps = 110\nbatch = 1\nlearning_rate = 1.0\nwarmup = 10\n{more}");
            let recipe: OptimizerRecipe = toml::from_str(&text).unwrap();
            recipe.check().unwrap();
            [4, 10, 35, 60, 110, 200].map(|step| recipe.learning_rate_at(step)).to_vec()
        };
        // Half of the warm-up, its end, a quarter, a half, the end, and past it.
        for (schedule, expected) in [
            ("schedule = \"constant-with-warmup\"", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
            ("schedule = \"linear\"", [0.5, 1.0, 0.75, 0.5, 0.0, 0.0]),
            ("schedule = \"linear\"\nfloor = 0.2", [0.5, 1.0, 0.8, 0.6, 0.2, 0.2]),
            ("schedule = \"polynomial\"\npower = 2.0", [0.5, 1.0, 0.5625, 0.25, 0.0, 0.0]),
            ("schedule = \"polynomial\"", [0.5, 1.0, 0.75, 0.5, 0.0, 0.0]),
            ("schedule = \"cosine\"\nfloor = 0.1", [0.5, 1.0, 0.868198, 0.55, 0.1, 0.1]),
        ] {
            let rates = rates(schedule);
            let is_near = rates.iter().zip(expected).all(|(rate, expected)| (rate - expected).abs() < 1e-6);
            assert!(is_near, "{schedule}: {rates:?}");
        }
        assert!(
            toml::from_str::<OptimizerRecipe>("steps = 1\nbatch = 1\nlearning_rate = 1.0\nschedule = \"x\"").is_err()
        );
    }

    #[test]
    fn unstated_values_are_the_papers() {
        let recipe: OptimizerRecipe = toml::from_str("steps = 1\nbatch = 1\nlearning_rate = 1e-3").unwrap();
        assert_eq!((recipe.weight_decay, recipe.clip_norm, recipe.reduce), (1e-2, 1.0, Reduce::Exact));
    }
}
