//! `[optimizer]`: how long and how fast.

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
    /// Decoupled weight decay; the paper's is 1e-2.
    #[serde(default = "paper_weight_decay")]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm.
    #[serde(default = "paper_clip_norm")]
    pub clip_norm: f64,
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

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// The peak for ever.
    #[default]
    Constant,
    /// Half a cosine down to zero at the last step.
    Cosine,
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
        match self.schedule {
            RateSchedule::Constant => self.learning_rate,
            RateSchedule::Cosine => {
                let progress = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
                self.learning_rate * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()) / 2.0
            }
        }
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
    fn unstated_values_are_the_papers() {
        let recipe: OptimizerRecipe = toml::from_str("steps = 1\nbatch = 1\nlearning_rate = 1e-3").unwrap();
        assert_eq!((recipe.weight_decay, recipe.clip_norm, recipe.reduce), (1e-2, 1.0, Reduce::Exact));
    }
}
