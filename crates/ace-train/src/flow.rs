//! How the transformer learns: the mean squared error of its velocity over all units, references included.

use crate::{
    Error,
    batch::{Batch, Encoded, Encoder, Words},
    example::Dataset,
    recipe::{Recipe, TimestepRecipe},
    trainer::{Loss, Objective},
};
use ace_nn::{clip::Clip, flux::Flux, t5::T5};
use ace_plus::{denoise, flow, latents};
use burn::{
    module::Module,
    prelude::*,
    tensor::{DType, FloatDType},
};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Guidance that is embedded while learning: the distilled scale of no guidance.
const TRAINING_GUIDANCE: f32 = 1.0;

/// The networks that may learn together.
#[derive(Module, Debug)]
pub struct Networks {
    /// The transformer.
    pub flux: Flux,
    /// The sequence encoder.
    pub t5: T5,
    /// The pooled encoder.
    pub clip: Clip,
}

/// Loss of a batch, and its two halves as `(sum, elements)`.
pub struct FlowLoss {
    /// Mean over all elements, `[1]`.
    pub value: Tensor<1>,
    /// Sum of squared errors over the references' tokens, and how many numbers.
    pub reference: (f32, f32),
    /// The same over the edited picture's tokens.
    pub target: (f32, f32),
}

/// `mean (v̂ − (noise − latents))²` at `x = (1−t)·latents + t·noise`: a pure function of its arguments.
///
/// # Shapes
/// - noise: as `batch.latents`; timesteps: `[B]`
pub fn loss(networks: &Networks, batch: &Batch, noise: Tensor<3>, timesteps: Tensor<1>) -> FlowLoss {
    let device = noise.device();
    let text = batch.conditioning(&networks.t5, &networks.clip, &device);
    let noisy = flow::interpolate(batch.latents.clone(), noise.clone(), timesteps.clone());
    let guidance = timesteps.zeros_like() + TRAINING_GUIDANCE;
    let predicted = denoise::velocity(&networks.flux, noisy, &batch.units, &text, timesteps, guidance, FloatDType::F32);
    let error = predicted - flow::velocity(batch.latents.clone(), noise);
    let squares = error.clone() * error;

    // The two halves only for the log: per token, on the host.
    let [size, len, features] = squares.dims();
    let per_token: Vec<f32> =
        squares.clone().inner().sum_dim(2).sum_dim(0).into_data().convert::<f32>().iter::<f32>().collect();
    let sum = |wanted: bool| {
        let tokens = per_token.iter().zip(&batch.units.is_reference).filter(|(_, is)| **is == wanted);
        tokens.fold((0.0, 0.0), |(sum, count), (square, _)| (sum + square, count + (size * features) as f32))
    };
    debug_assert_eq!(per_token.len(), len);
    FlowLoss { value: squares.mean().cast(DType::F32), reference: sum(true), target: sum(false) }
}

/// Draws batches from a dataset and measures the loss on them.
pub struct FlowObjective<'a> {
    data: &'a dyn Dataset,
    encoder: &'a Encoder,
    pool: u64,
    cache: HashMap<u64, Arc<Encoded>>,
    empty: Words,
    drop_instruction: f64,
    timesteps: TimestepRecipe,
    batch: usize,
    chunk: usize,
    seed: u64,
    device: Device,
}

impl<'a> FlowObjective<'a> {
    /// Learns from `data` on `device` (with gradients).
    pub fn new(recipe: &Recipe, data: &'a dyn Dataset, encoder: &'a Encoder, device: &Device) -> Self {
        let all = data.len().map_or(u64::MAX / 2, |len| len as u64);
        Self {
            data,
            encoder,
            pool: recipe.data.pool.unwrap_or(all).min(all),
            cache: HashMap::new(),
            empty: encoder.words(""),
            drop_instruction: recipe.drop_instruction,
            timesteps: recipe.timesteps,
            batch: recipe.optimizer.batch,
            chunk: recipe.optimizer.batch / recipe.optimizer.accumulate,
            seed: recipe.seed,
            device: device.clone(),
        }
    }

    /// Encodes what is not kept yet, on all cores; the frozen networks are small beside the transformer.
    fn encode(&mut self, wanted: &BTreeSet<u64>) -> Result<(), Error> {
        let missing: Vec<u64> = wanted.iter().copied().filter(|index| !self.cache.contains_key(index)).collect();
        let threads = std::thread::available_parallelism().map_or(1, usize::from).min(missing.len().max(1));
        let (data, encoder) = (self.data, self.encoder);
        let encode = |indices: &[u64]| {
            let one = |index: &u64| Ok((*index, Arc::new(encoder.encode(&data.example(*index)?)?)));
            indices.iter().map(one).collect::<Result<Vec<_>, Error>>()
        };
        let encoded: Vec<Result<Vec<_>, Error>> = std::thread::scope(|scope| {
            let share = missing.len().div_ceil(threads).max(1);
            let workers: Vec<_> = missing.chunks(share).map(|part| scope.spawn(move || encode(part))).collect();
            // A worker that panicked has already said why; the run must not go on with half a batch.
            workers.into_iter().map(|worker| worker.join().expect("an encoding thread panicked")).collect()
        });
        for part in encoded {
            self.cache.extend(part?);
        }
        Ok(())
    }
}

/// One example's share of a step.
struct Draw {
    index: u64,
    dropped: bool,
    timestep: f32,
    noise: Vec<f32>,
}

/// Examples of one geometry with what was drawn for them.
pub struct FlowPart {
    batch: Batch,
    noise: Tensor<3>,
    timesteps: Tensor<1>,
    weight: f64,
}

impl Objective for FlowObjective<'_> {
    type Model = Networks;
    type Part = FlowPart;

    fn parts(&mut self, step: u64) -> Result<Vec<FlowPart>, Error> {
        let mut rng = latents::rng(self.seed, step);
        let indices: Vec<u64> = (0..self.batch).map(|_| rng.random_range(0..self.pool)).collect();
        self.encode(&indices.iter().copied().collect())?;
        let features = self.encoder.card.flux.out_channels;
        let draws: Vec<Draw> = indices
            .into_iter()
            .map(|index| {
                let len = self.cache[&index].geometry().len();
                draw(index, len * features, self.drop_instruction, self.timesteps, &mut rng)
            })
            .collect();

        let geometry = |draw: &Draw| self.cache[&draw.index].geometry();
        let mut groups: Vec<Vec<&Draw>> = Vec::new();
        for draw in &draws {
            match groups.iter_mut().find(|group| group.len() < self.chunk && geometry(group[0]) == geometry(draw)) {
                Some(group) => group.push(draw),
                None => groups.push(vec![draw]),
            }
        }
        // Every geometry is a batch of its own; its weight is its share of all numbers, so that the sum of the parts
        // is the mean over the whole batch.
        let numbers = |group: &[&Draw]| group.iter().map(|draw| draw.noise.len()).sum::<usize>() as f64;
        let total: f64 = groups.iter().map(|group| numbers(group)).sum();
        Ok(groups.iter().map(|group| self.part(group, numbers(group) / total)).collect())
    }

    fn loss(&self, model: &Networks, part: FlowPart) -> Loss {
        let FlowLoss { value, reference, target } = loss(model, &part.batch, part.noise, part.timesteps);
        let figures = vec![("ref", reference.0, reference.1), ("tar", target.0, target.1)];
        Loss { value, weight: part.weight, figures }
    }
}

impl FlowObjective<'_> {
    fn part(&self, group: &[&Draw], weight: f64) -> FlowPart {
        let examples: Vec<(&Encoded, bool)> =
            group.iter().map(|draw| (self.cache[&draw.index].as_ref(), draw.dropped)).collect();
        let batch = Batch::new(&examples, &self.empty, &self.device);
        let noise: Vec<f32> = group.iter().flat_map(|draw| draw.noise.iter().copied()).collect();
        let noise = Tensor::from_data(TensorData::new(noise, batch.latents.shape()), &self.device);
        let times: Vec<f32> = group.iter().map(|draw| draw.timestep).collect();
        let timesteps = Tensor::from_data(TensorData::new(times, [group.len()]), &self.device);
        FlowPart { batch, noise, timesteps, weight }
    }
}

/// Whether the instruction is dropped, the time and the noise of one example.
fn draw(index: u64, numbers: usize, drop_instruction: f64, times: TimestepRecipe, rng: &mut ChaCha20Rng) -> Draw {
    let dropped = rng.random_bool(drop_instruction);
    let z: f32 = StandardNormal.sample(rng);
    let noise = StandardNormal.sample_iter(rng).take(numbers).collect();
    let z = times.mean + times.std * z;
    Draw { index, dropped, timestep: 1.0 / (1.0 + (-z).exp()), noise }
}
