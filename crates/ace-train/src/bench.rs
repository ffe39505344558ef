//! How fast a training goes on a device: steps of the trainer itself, on a transformer and examples of random numbers.

use crate::{
    Error, Recipe,
    data::Encoded,
    learn::{
        Stages, Start,
        flow::{FlowObjective, TrainedNetworks},
        params,
        recipe::{FrozenPlacement, NetworkName},
        trainer::Trainer,
    },
    plan::{Sequence, count},
};
use ace_nn::flux::Flux;
use ace_plus::Card;
use burn::{
    module::{Module, ModuleMapper, Param},
    prelude::*,
    tensor::FloatDType,
};

/// Distinct examples: as many as a small set of pictures has, so that none stays in a cache.
pub const EXAMPLES: usize = 8;

/// What is measured.
#[derive(Debug, Clone)]
pub struct Bench {
    /// Sizes of the transformer; nothing is read.
    pub card: Card,
    /// What learns, in which batches.
    pub recipe: Recipe,
    /// Tokens of an example.
    pub sequence: Sequence,
    /// Steps that do not count.
    pub warmup: u64,
    /// Steps that do.
    pub steps: u64,
    /// Micro-batches that are measured at the same time.
    pub workers: usize,
}

/// What came out.
#[derive(Debug, Clone)]
pub struct Measured {
    /// Time of every step that counts.
    pub steps: Vec<Stages>,
    /// Parameters of the transformer.
    pub parameters: u64,
    /// Parameters that learn.
    pub learned: u64,
    /// Multiplications and additions of a step, without what is computed a second time.
    pub operations: f64,
}

impl Measured {
    /// Median seconds of a step, the fastest and the slowest.
    pub fn seconds(&self) -> [f64; 3] {
        let mut seconds: Vec<f64> = self.steps.iter().map(|step| step.total().as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        let middle = seconds.len() / 2;
        let median = match seconds.len() % 2 {
            0 if middle > 0 => (seconds[middle - 1] + seconds[middle]) / 2.0,
            _ => seconds.get(middle).copied().unwrap_or_default(),
        };
        let end = |at: Option<&f64>| at.copied().unwrap_or_default();
        [median, end(seconds.first()), end(seconds.last())]
    }

    /// All steps together.
    pub fn stages(&self) -> Stages {
        self.steps.iter().fold(Stages::default(), |mut sum, step| {
            sum += *step;
            sum
        })
    }
}

impl Bench {
    /// Takes the steps. `progress` hears how many are done and answers whether to go on.
    ///
    /// # Errors
    /// If the recipe cannot be used, the device does not compute in its numbers, or the loss is no number.
    pub fn run(&self, device: &Device, progress: &mut dyn FnMut(u64) -> bool) -> Result<Measured, Error> {
        let learning = device.clone().autodiff();
        let mut recipe = self.recipe.clone();
        // What is random has no file to be read from, and is as wide as what computes.
        recipe.fresh = vec![NetworkName::Flux];
        (recipe.quantize, recipe.placement) = (None, FrozenPlacement::Resident);
        let start = Start::of(ace_plus::Model::of(self.card.clone(), ""));
        let dtype = dtype(&recipe);
        if !device.supports_dtype(dtype) {
            return Err(Error::Dtype { dtype });
        }
        let flux = frozen_in(start.flux(&recipe, &learning)?, dtype);
        let parameters = flux.num_params() as u64;
        let grid = self.sequence.grid();
        let examples =
            (0..EXAMPLES as u64).map(|seed| Encoded::random(&self.card.flux, grid, self.sequence.text, seed)).collect();
        let mut objective = FlowObjective::of_encoded(&recipe, &self.card, examples, dtype, &learning);
        let mut trainer = Trainer::new(TrainedNetworks { flux, t5: None, clip: None }, &recipe.optimizer);
        let mut steps = Vec::new();
        for step in 0..self.warmup + self.steps {
            trainer.step(&mut objective, self.workers)?;
            if step >= self.warmup {
                steps.push(trainer.stages);
            }
            if !progress(step + 1) {
                break;
            }
        }
        let each = count::step_operations(&self.card.flux, self.sequence, recipe.lora.is_some());
        Ok(Measured {
            steps,
            parameters,
            learned: params::count_learned(&trainer.model) as u64,
            operations: each * recipe.optimizer.batch as f64,
        })
    }
}

/// What does not learn, in other numbers.
fn frozen_in(flux: Flux, dtype: FloatDType) -> Flux {
    struct Cast(FloatDType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            if param.val().is_require_grad() { param } else { param.map(|value| value.cast(self.0)) }
        }
    }
    if dtype == FloatDType::F32 { flux } else { flux.map(&mut Cast(dtype)) }
}

/// Numbers of the transformer.
fn dtype(recipe: &Recipe) -> FloatDType {
    if recipe.lora.is_some() { recipe.frozen_dtype.into() } else { FloatDType::F32 }
}

/// Operations per second of a product of large matrices, in the numbers of the transformer.
pub fn matmul_peak(recipe: &Recipe, device: &Device) -> f64 {
    ace_plus::bench::matmul_peak(dtype(recipe), device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_median_is_the_middle() {
        let measured = |seconds: &[u64]| Measured {
            steps: seconds
                .iter()
                .map(|seconds| Stages { forward: Duration::from_secs(*seconds), ..Stages::default() })
                .collect(),
            parameters: 0,
            learned: 0,
            operations: 0.0,
        };
        assert_eq!(measured(&[3, 1, 9]).seconds(), [3.0, 1.0, 9.0]);
        assert_eq!(measured(&[3, 1, 9, 4]).seconds(), [3.5, 1.0, 9.0]);
        assert_eq!(measured(&[]).seconds(), [0.0; 3]);
        assert_eq!(measured(&[3, 1]).stages().total(), Duration::from_secs(4));
    }
}
