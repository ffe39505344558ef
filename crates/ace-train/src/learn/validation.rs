//! The loss on held-out examples: the same ones every time, at the same times, with the same noise. Two measurements of the
//! same weights give the same number, so what differs between two steps was learned between them.

use super::{
    flow::{FlowObjective, TrainedNetworks},
    recipe::{Recipe, ValidationRecipe},
};
use crate::{
    Error,
    data::{encode::Encoded, supply::Supply},
};
use ace_plus::sample;
use rand_distr::{Distribution, StandardNormal};
use std::{collections::BTreeMap, ops::Range, sync::Arc};

/// Streams of the seed's random numbers from here on are for validation; steps have those from 0 on.
const FIRST_STREAM: u64 = 1 << 62;

/// One measurement.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ValidationReport {
    /// Steps done.
    pub step: u64,
    /// The loss: the mean over all examples and times.
    pub validation: f32,
    /// The mean over all examples at each time.
    pub timesteps: BTreeMap<String, f32>,
}

/// Held-out examples with what the frozen networks make of them, on the host.
pub struct Validation {
    examples: Vec<Arc<Encoded>>,
    times: Vec<f32>,
    features: usize,
    /// So many are measured together as a step learns from together.
    chunk: usize,
    seed: u64,
}

impl Validation {
    /// Takes the examples at `indices`. `progress` hears how many are encoded; the answer is `None` if it wants no more.
    ///
    /// # Errors
    /// If an example cannot be used, or the networks cannot be loaded.
    pub fn take(
        section: &ValidationRecipe,
        recipe: &Recipe,
        supply: &mut Supply<'_>,
        indices: Range<u64>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<Option<Self>, Error> {
        if !supply.ensure_all(&indices.clone().collect(), progress)? {
            return Ok(None);
        }
        let indices = supply.ensure(&indices.collect::<Vec<_>>())?;
        Ok(Some(Self {
            examples: indices.into_iter().map(|index| supply.get(index).clone()).collect(),
            times: section.timesteps.clone(),
            features: supply.card().flux.out_channels,
            chunk: (recipe.optimizer.batch / recipe.optimizer.accumulate).max(1),
            seed: recipe.seed,
        }))
    }

    /// The loss of networks without gradients after `step` steps: as in training, each example with its own words.
    ///
    /// # Errors
    /// If it is no finite number.
    pub fn measure(
        &self,
        objective: &FlowObjective<'_>,
        networks: &TrainedNetworks,
        step: u64,
    ) -> Result<ValidationReport, Error> {
        let mut sums = vec![0.0f64; self.times.len()];
        for (index, example) in self.examples.iter().enumerate() {
            let all: Vec<usize> = (0..self.times.len()).collect();
            for some in all.chunks(self.chunk) {
                for (at, loss) in some.iter().zip(self.losses(objective, networks, (index, example), some)) {
                    sums[*at] += f64::from(loss);
                }
            }
        }
        let count = self.examples.len() as f64;
        let validation = (sums.iter().sum::<f64>() / (count * sums.len() as f64)) as f32;
        if !validation.is_finite() {
            return Err(Error::Diverged { step, what: "validation loss", value: validation });
        }
        let timesteps = self.times.iter().zip(&sums).map(|(time, sum)| (time.to_string(), (sum / count) as f32));
        Ok(ValidationReport { step, validation, timesteps: timesteps.collect() })
    }

    /// The losses of one example at some of the times.
    fn losses(
        &self,
        objective: &FlowObjective<'_>,
        networks: &TrainedNetworks,
        (index, example): (usize, &Encoded),
        at: &[usize],
    ) -> Vec<f32> {
        let count = example.geometry().len() * self.features;
        let noise = at.iter().flat_map(|at| {
            let stream = FIRST_STREAM + (index * self.times.len() + at) as u64;
            StandardNormal.sample_iter(sample::rng(self.seed, stream)).take(count)
        });
        let times = at.iter().map(|at| self.times[*at]).collect();
        let squares = objective.squared_error(networks, (example, at.len()), noise.collect(), times);
        squares.mean_dims(&[1, 2]).into_data().convert::<f32>().iter::<f32>().collect()
    }
}
