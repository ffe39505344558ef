//! How the transformer learns: the mean squared error of its velocity over all units, references included.

use super::{
    group::Share,
    recipe::{Recipe, TimestepRecipe},
    recompute,
    trainer::{Loss, Measured, Objective},
};
use crate::{
    Error,
    data::{
        batch::Batch,
        encode::{Encoded, EncodedText, Encoders},
        example::Dataset,
    },
};
use ace_nn::{
    clip::Clip,
    flux::{Blocks, Flux, FluxInput, Own},
    t5::T5,
};
use ace_plus::{flow, sample};
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
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
};

/// Guidance that is embedded while learning: the distilled scale of no guidance.
const TRAINING_GUIDANCE: f32 = 1.0;

/// Examples that are encoded between two words to the observer, for each core.
const ENCODED_AT_ONCE: usize = 4;

/// The networks that may learn together.
#[derive(Module, Debug)]
pub struct TrainedNetworks {
    /// The transformer.
    pub flux: Flux,
    /// The sequence encoder; absent if both text encoders are frozen, because examples are then encoded before.
    pub t5: Option<T5>,
    /// The pooled encoder; absent as `t5`.
    pub clip: Option<Clip>,
}

impl TrainedNetworks {
    /// The text encoders, if they are here.
    pub fn text(&self) -> Option<(&T5, &Clip)> {
        self.t5.as_ref().zip(self.clip.as_ref())
    }
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

/// What is asked and what is expected: examples of one geometry, their noise and their times.
struct Question<'a> {
    batch: &'a Batch,
    /// As `batch.latents`, `[B, L, 64]`.
    noise: Tensor<3>,
    /// `[B]`
    timesteps: Tensor<1>,
    /// Numbers of the transformer.
    dtype: FloatDType,
}

impl Question<'_> {
    /// The transformer's input at `x = (1−t)·latents + t·noise`. `flux` only says how positions turn.
    fn ask(&self, flux: &Flux, text: Option<(&T5, &Clip)>) -> FluxInput {
        let text = EncodedText::conditioning(&self.batch.texts, text, &self.noise.device());
        let noisy = flow::interpolate(self.batch.latents.clone(), self.noise.clone(), self.timesteps.clone());
        let guidance = self.timesteps.zeros_like() + TRAINING_GUIDANCE;
        sample::input(flux, noisy, &self.batch.units, &text, (self.timesteps.clone(), guidance), self.dtype)
    }

    /// `mean (v̂ − (noise − latents))²` of the transformer's answer, in f32.
    fn judge(&self, answer: Tensor<3>) -> FlowLoss {
        let predicted = self.batch.units.of_noisy(answer).cast(DType::F32);
        let error = predicted - flow::velocity(self.batch.latents.clone(), self.noise.clone());
        let squares = error.clone() * error;

        // The two halves only for the log: per token, on the host.
        let [size, len, features] = squares.dims();
        let per_token: Vec<f32> =
            squares.clone().inner().sum_dim(2).sum_dim(0).into_data().convert::<f32>().iter::<f32>().collect();
        let sum = |wanted: bool| {
            let tokens = per_token.iter().zip(&self.batch.units.is_reference).filter(|(_, is)| **is == wanted);
            tokens.fold((0.0, 0.0), |(sum, count), (square, _)| (sum + square, count + (size * features) as f32))
        };
        debug_assert_eq!(per_token.len(), len);
        FlowLoss { value: squares.mean().cast(DType::F32), reference: sum(true), target: sum(false) }
    }
}

/// `mean (v̂ − (noise − latents))²` at `x = (1−t)·latents + t·noise`, in f32; the transformer computes in `dtype`.
///
/// # Shapes
/// - noise: as `batch.latents`, `[B, L, 64]`; timesteps: `[B]`
pub fn loss(
    networks: &TrainedNetworks,
    batch: &Batch,
    noise: Tensor<3>,
    timesteps: Tensor<1>,
    dtype: FloatDType,
) -> FlowLoss {
    let question = Question { batch, noise, timesteps, dtype };
    question.judge(networks.flux.forward(question.ask(&networks.flux, networks.text())))
}

/// Draws batches from a dataset and measures the loss on them.
///
/// Which examples a step draws follows from the seed and the step alone. So all that a run will need can be encoded before
/// it begins ([`FlowObjective::encode_ahead`]), and the encoders are gone when the transformer comes. Otherwise examples
/// are encoded when a step draws them.
pub struct FlowObjective<'a> {
    data: &'a dyn Dataset,
    /// `None` once everything is encoded.
    encoders: Option<Encoders>,
    pool: Option<u64>,
    encoded: HashMap<u64, Arc<Encoded>>,
    empty: EncodedText,
    features: usize,
    drop_instruction: f64,
    times: TimestepRecipe,
    batch: usize,
    chunk: usize,
    seed: u64,
    dtype: FloatDType,
    recompute: bool,
    /// Where blocks come from that are not in the network; one micro-batch at a time walks through them.
    blocks: Option<Mutex<Box<dyn Blocks>>>,
    device: Device,
}

impl<'a> FlowObjective<'a> {
    /// Learns from `data` on `device` (with gradients) with a transformer that computes in `dtype`.
    pub fn new(recipe: &Recipe, data: &'a dyn Dataset, encoders: Encoders, dtype: FloatDType, device: &Device) -> Self {
        let all = data.len().map(|len| len as u64);
        Self {
            data,
            pool: recipe.data.pool.map(|pool| pool.min(all.unwrap_or(u64::MAX))).or(all),
            encoded: HashMap::new(),
            empty: encoders.encode_text(""),
            features: encoders.card.flux.out_channels,
            encoders: Some(encoders),
            drop_instruction: recipe.drop_instruction,
            times: recipe.timesteps,
            batch: recipe.optimizer.batch,
            chunk: recipe.optimizer.batch / recipe.optimizer.accumulate,
            seed: recipe.seed,
            dtype,
            recompute: recipe.recompute,
            blocks: None,
            device: device.clone().inner(),
        }
    }

    /// Takes the blocks' weights from `blocks`, and recomputes every block.
    pub fn with_blocks(self, blocks: Box<dyn Blocks>) -> Self {
        Self { recompute: true, blocks: Some(Mutex::new(blocks)), ..self }
    }

    /// How many distinct examples are drawn from; `None` if there is no end to them.
    pub fn pool(&self) -> Option<u64> {
        self.pool
    }

    /// Encodes every example that the steps (counted from 0) draw, then drops the encoders. `progress` hears how many are
    /// done and how many there are, and answers whether to go on. The result says whether all is done.
    ///
    /// # Errors
    /// If an example cannot be read, or its pictures do not fit each other or the card.
    pub fn encode_ahead(
        &mut self,
        steps: Range<u64>,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<bool, Error> {
        let Some(encoders) = self.encoders.take() else { return Ok(true) };
        let wanted: BTreeSet<u64> =
            steps.flat_map(|step| self.draw_indices(&mut sample::rng(self.seed, step))).collect();
        let wanted: Vec<u64> = wanted.into_iter().collect();
        let of = wanted.len() as u64;
        let at_once = ENCODED_AT_ONCE * std::thread::available_parallelism().map_or(1, usize::from);
        for indices in wanted.chunks(at_once) {
            let encoded = encoders.encode_all(self.data, indices)?;
            self.keep(encoded);
            if !progress(self.encoded.len() as u64, of) {
                return Ok(false);
            }
        }
        // A device that works ahead would still hold the encoders when the transformer comes.
        drop(encoders);
        drop(self.device.sync());
        Ok(true)
    }

    /// The examples of a step: the first that is drawn of its random numbers.
    fn draw_indices(&self, rng: &mut ChaCha20Rng) -> Vec<u64> {
        let pool = self.pool.unwrap_or(u64::MAX / 2);
        (0..self.batch).map(|_| rng.random_range(0..pool)).collect()
    }

    /// Encodes what is not there yet.
    fn encode(&mut self, indices: &[u64]) -> Result<(), Error> {
        let wanted: BTreeSet<u64> = indices.iter().copied().collect();
        if self.pool.is_none() {
            // Without an end to the examples, none comes a second time.
            self.encoded.retain(|index, _| wanted.contains(index));
        }
        let missing: Vec<u64> = wanted.into_iter().filter(|index| !self.encoded.contains_key(index)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Documented at `micro_batches`.
        let encoders = self.encoders.as_ref().expect("the step was encoded ahead, or the encoders are still here");
        let encoded = encoders.encode_all(self.data, &missing)?;
        self.keep(encoded);
        Ok(())
    }

    fn keep(&mut self, encoded: Vec<(u64, Encoded)>) {
        self.encoded.extend(encoded.into_iter().map(|(index, encoded)| (index, Arc::new(encoded))));
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
pub struct FlowMicroBatch {
    batch: Batch,
    noise: Tensor<3>,
    timesteps: Tensor<1>,
    weight: f64,
}

impl Objective for FlowObjective<'_> {
    type Model = TrainedNetworks;
    type MicroBatch = FlowMicroBatch;

    /// # Panics
    /// If the encoders were dropped after encoding other steps than this one.
    fn micro_batches(&mut self, step: u64) -> Result<Vec<FlowMicroBatch>, Error> {
        self.share_of(step, Share::ALL)
    }

    /// Every rank draws the whole step; only its share goes to the device.
    ///
    /// # Panics
    /// As [`FlowObjective::micro_batches`].
    fn share_of(&mut self, step: u64, share: Share) -> Result<Vec<FlowMicroBatch>, Error> {
        let mut rng = sample::rng(self.seed, step);
        let indices = self.draw_indices(&mut rng);
        self.encode(&indices)?;
        let features = self.features;
        let draws: Vec<Draw> = indices
            .into_iter()
            .map(|index| {
                let len = self.encoded[&index].geometry().len();
                draw(index, len * features, self.drop_instruction, self.times, &mut rng)
            })
            .collect();

        let geometry = |draw: &Draw| self.encoded[&draw.index].geometry();
        let mut groups: Vec<Vec<&Draw>> = Vec::new();
        for draw in &draws {
            match groups.iter_mut().find(|group| group.len() < self.chunk && geometry(group[0]) == geometry(draw)) {
                Some(group) => group.push(draw),
                None => groups.push(vec![draw]),
            }
        }
        // Every geometry is a batch of its own; its weight is its share of all numbers, so that their sum
        // is the mean over the whole batch.
        let numbers = |group: &[&Draw]| group.iter().map(|draw| draw.noise.len()).sum::<usize>() as f64;
        let total: f64 = groups.iter().map(|group| numbers(group)).sum();
        let own = groups.iter().enumerate().filter(|(index, _)| share.has(*index));
        Ok(own.map(|(_, group)| self.micro_batch(group, numbers(group) / total)).collect())
    }

    fn loss(&self, model: &TrainedNetworks, micro_batch: FlowMicroBatch) -> Loss {
        let FlowMicroBatch { batch, noise, timesteps, weight } = micro_batch;
        let FlowLoss { value, reference, target } = loss(model, &batch, noise, timesteps, self.dtype);
        Loss { value, weight, figures: figures(reference, target) }
    }

    fn measure(&self, model: &TrainedNetworks, micro_batch: FlowMicroBatch) -> Measured {
        if !self.recompute {
            // As documented at the trait's own.
            let own = model.valid().train();
            return Measured::of(self.loss(&own, micro_batch), &own);
        }
        let FlowMicroBatch { batch, noise, timesteps, weight } = micro_batch;
        let question = Question { batch: &batch, noise, timesteps, dtype: self.dtype };
        let inputs = (model.t5.clone(), model.clip.clone());
        let ask = |(t5, clip): &(Option<T5>, Option<Clip>)| question.ask(&model.flux, t5.as_ref().zip(clip.as_ref()));
        let judge = |answer: Tensor<3>| {
            let FlowLoss { value, reference, target } = question.judge(answer);
            let known = f64::from(value.clone().inner().into_scalar::<f32>());
            (value * weight, (known, figures(reference, target)))
        };
        let ((loss, figures), grads) = match &self.blocks {
            None => recompute::gradients(&model.flux, &mut Own, &inputs, ask, judge),
            Some(blocks) => {
                // A thread that panicked has ended the run.
                let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
                recompute::gradients(&model.flux, blocks.as_mut(), &inputs, ask, judge)
            }
        };
        Measured { loss: loss * weight, grads, figures }
    }
}

/// Both halves of the loss, for the log.
fn figures(reference: (f32, f32), target: (f32, f32)) -> Vec<(&'static str, f32, f32)> {
    vec![("ref", reference.0, reference.1), ("tar", target.0, target.1)]
}

impl FlowObjective<'_> {
    fn micro_batch(&self, group: &[&Draw], weight: f64) -> FlowMicroBatch {
        let examples: Vec<(&Encoded, bool)> =
            group.iter().map(|draw| (self.encoded[&draw.index].as_ref(), draw.dropped)).collect();
        let batch = Batch::new(&examples, &self.empty, &self.device);
        let noise: Vec<f32> = group.iter().flat_map(|draw| draw.noise.iter().copied()).collect();
        let noise = Tensor::from_data(TensorData::new(noise, batch.latents.shape()), &self.device);
        let times: Vec<f32> = group.iter().map(|draw| draw.timestep).collect();
        let timesteps = Tensor::from_data(TensorData::new(times, [group.len()]), &self.device);
        FlowMicroBatch { batch, noise, timesteps, weight }
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
