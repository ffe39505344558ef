//! How the transformer learns: the mean squared error of its velocity over all units, references included.

use super::{
    emphasis::Emphasis,
    group::Share,
    recipe::Recipe,
    recompute,
    times::Times,
    trainer::{Loss, Measured, Objective},
};
use crate::{
    Error,
    data::{
        batch::Batch,
        encode::{Encoded, EncodedText, Encoders},
        example::Dataset,
        examples::Examples,
        packing,
        supply::Supply,
    },
    plan::{Extent, Sequence},
};
use ace_nn::{
    clip::Clip,
    flux::{Blocks, Fetched, Flux, FluxInput, Own},
    poll::to_the_end,
    t5::T5,
};
use ace_plus::{Card, flow, sample, text::TextConditioning};
use burn::{
    module::Module,
    prelude::*,
    tensor::{DType, FloatDType},
};
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};
use std::{
    collections::BTreeSet,
    ops::Range,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

/// Guidance that is embedded while learning: the distilled scale of no guidance.
const TRAINING_GUIDANCE: f32 = 1.0;

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

/// Loss of a batch, and its two halves as `(sum, elements)`, in which all tokens count alike.
pub struct FlowLoss {
    /// Mean over all elements, `[1]`.
    pub value: Tensor<1>,
    /// Sum of squared errors over the references' tokens, and how many numbers.
    pub reference: (f32, f32),
    /// The same over the edited picture's tokens.
    pub target: (f32, f32),
}

/// What is asked and what is expected: examples, their noise and their times.
struct Question<'a> {
    batch: &'a Batch,
    /// As `batch.latents`, `[B, L, 64]`.
    noise: Tensor<3>,
    /// `[B]`
    timesteps: Tensor<1>,
    /// How much tokens count, `[B, L, 1]`, for each example 1 on average; without them all count alike.
    weights: Option<Tensor<3>>,
    /// Numbers of the transformer.
    dtype: FloatDType,
}

impl Question<'_> {
    /// The transformer's input at `x = (1−t)·latents + t·noise`. `flux` only says how positions turn.
    fn ask(&self, flux: &Flux, text: Option<(&T5, &Clip)>) -> FluxInput {
        let text = EncodedText::conditioning(&self.batch.texts, text, &self.noise.device());
        if let Some(lens) = &self.batch.packed {
            return self.ask_packed(flux, &text, lens);
        }
        let noisy = flow::interpolate(self.batch.latents.clone(), self.noise.clone(), self.timesteps.clone());
        let guidance = self.timesteps.zeros_like() + TRAINING_GUIDANCE;
        sample::input(flux, noisy, &self.batch.units, &text, (self.timesteps.clone(), guidance), self.dtype)
    }

    /// As [`Question::ask`], of examples with so many tokens behind each other.
    fn ask_packed(&self, flux: &Flux, text: &TextConditioning, lens: &[usize]) -> FluxInput {
        let Batch { latents, units, .. } = self.batch;
        let [count, text_len, width] = text.prompt_embeds.dims();
        let (mut noisy, mut positions, mut at) = (Vec::new(), Vec::new(), 0);
        for (index, len) in lens.iter().copied().enumerate() {
            let part = |tokens: &Tensor<3>| tokens.clone().narrow(1, at, len);
            let time = self.timesteps.clone().narrow(0, index, 1);
            noisy.push(flow::interpolate(part(latents), part(&self.noise), time));
            positions.push((text_len, &units.ids[at..at + len]));
            at += len;
        }
        FluxInput {
            tokens: units.accompany(Tensor::cat(noisy, 1)).cast(self.dtype),
            rope: flux.packed_rope(&positions, &self.noise.device()),
            prompt_embeds: text.prompt_embeds.clone().reshape([1, count * text_len, width]).cast(self.dtype),
            pooled_prompt_embeds: text.pooled_prompt_embeds.clone().cast(self.dtype),
            timesteps: self.timesteps.clone(),
            guidance: self.timesteps.zeros_like() + TRAINING_GUIDANCE,
        }
    }

    /// `(v̂ − (noise − latents))²` of the transformer's answer, in f32, as `noise`.
    fn squares(&self, answer: Tensor<3>) -> Tensor<3> {
        let predicted = self.batch.units.of_noisy(answer).cast(DType::F32);
        let error = predicted - flow::velocity(self.batch.latents.clone(), self.noise.clone());
        error.clone() * error
    }

    /// `w·(v̂ − (noise − latents))²`.
    fn weighted(&self, squares: Tensor<3>) -> Tensor<3> {
        match &self.weights {
            Some(weights) => squares * weights.clone(),
            None => squares,
        }
    }

    /// `mean w·(v̂ − (noise − latents))²` of the transformer's answer, in f32.
    fn judge(&self, answer: Tensor<3>) -> FlowLoss {
        let squares = self.squares(answer);

        // The two halves only for the log: per token, on the host.
        let [size, len, features] = squares.dims();
        let per_token: Vec<f32> =
            squares.clone().inner().sum_dim(2).sum_dim(0).into_data().convert::<f32>().iter::<f32>().collect();
        let sum = |wanted: bool| {
            let tokens = per_token.iter().zip(&self.batch.units.is_reference).filter(|(_, is)| **is == wanted);
            tokens.fold((0.0, 0.0), |(sum, count), (square, _)| (sum + square, count + (size * features) as f32))
        };
        debug_assert_eq!(per_token.len(), len);
        let (reference, target) = (sum(true), sum(false));
        FlowLoss { value: self.weighted(squares).mean().cast(DType::F32), reference, target }
    }
}

/// `mean w·(v̂ − (noise − latents))²` at `x = (1−t)·latents + t·noise`, in f32; the transformer computes in `dtype`.
///
/// # Shapes
/// - noise: as `batch.latents`, `[B, L, 64]`; timesteps: `[B]`; weights: `[B, L, 1]`, for each example 1 on average
pub fn loss(
    networks: &TrainedNetworks,
    batch: &Batch,
    noise: Tensor<3>,
    timesteps: Tensor<1>,
    weights: Option<Tensor<3>>,
    dtype: FloatDType,
) -> FlowLoss {
    let question = Question { batch, noise, timesteps, weights, dtype };
    question.judge(networks.flux.forward(question.ask(&networks.flux, networks.text())))
}

/// Weights of the tokens of so many sequences as a tensor, `[B, L, 1]`.
fn weights(weights: Vec<f32>, sequences: usize, device: &Device) -> Tensor<3> {
    let len = weights.len() / sequences;
    Tensor::from_data(TensorData::new(weights, [sequences, len, 1]), device)
}

/// Draws batches from a dataset and measures the loss on them.
///
/// Which examples a step draws follows from the seed and the step alone. So all that a run will need can be encoded before
/// it begins ([`FlowObjective::encode_ahead`]), and the encoders are gone when the transformer comes. Otherwise examples
/// are encoded when a step draws them.
pub struct FlowObjective<'a> {
    examples: Examples<'a>,
    empty: EncodedText,
    features: usize,
    drop_instruction: f64,
    times: Times,
    emphasis: Option<Emphasis>,
    batch: usize,
    chunk: usize,
    /// Tokens of a sequence on which examples are packed.
    pack_tokens: Option<usize>,
    seed: u64,
    dtype: FloatDType,
    recompute: bool,
    /// Where blocks come from that are not in the network; one micro-batch at a time walks through them.
    blocks: Option<Mutex<Box<dyn Blocks>>>,
    /// The longest example so far.
    longest: Option<Sequence>,
    /// Examples that were drawn so far; without an end to them, by the last step.
    drawn: BTreeSet<u64>,
    device: Device,
}

impl<'a> FlowObjective<'a> {
    /// Learns from `data` on `device` (with gradients) with a transformer that computes in `dtype`.
    pub fn new(recipe: &Recipe, data: &'a dyn Dataset, encoders: Encoders, dtype: FloatDType, device: &Device) -> Self {
        let empty = encoders.encode_text("");
        let supply = Supply::of(data, encoders, recipe.pool_of(data));
        let card = supply.card().clone();
        Self::build(recipe, &card, Examples::Supplied(Box::new(supply)), empty, dtype, device)
    }

    /// As [`FlowObjective::new`], with examples that are encoded elsewhere.
    ///
    /// # Errors
    /// If the empty instruction is not encoded yet, and the text encoders cannot be loaded.
    pub fn of(recipe: &Recipe, mut supply: Supply<'a>, dtype: FloatDType, device: &Device) -> Result<Self, Error> {
        // It costs as much as any other, and often nothing reads it.
        let empty = if recipe.drop_instruction > 0.0 { supply.text("")? } else { supply.unread_text() };
        let card = supply.card().clone();
        Ok(Self::build(recipe, &card, Examples::Supplied(Box::new(supply)), empty, dtype, device))
    }

    /// Learns from examples that are encoded already, all of them.
    pub fn of_encoded(
        recipe: &Recipe,
        card: &Card,
        examples: Vec<Encoded>,
        dtype: FloatDType,
        device: &Device,
    ) -> Self {
        let empty = EncodedText::blank(&card.flux, examples.first().map_or(0, Encoded::text_len));
        let examples = Examples::Given(examples.into_iter().map(Arc::new).collect());
        Self::build(recipe, card, examples, empty, dtype, device)
    }

    fn build(
        recipe: &Recipe,
        card: &Card,
        examples: Examples<'a>,
        empty: EncodedText,
        dtype: FloatDType,
        device: &Device,
    ) -> Self {
        Self {
            features: card.flux.out_channels,
            examples,
            empty,
            emphasis: Emphasis::new(recipe.loss, card),
            drop_instruction: recipe.drop_instruction,
            times: Times::new(recipe.timesteps, recipe.seed),
            batch: recipe.optimizer.batch,
            chunk: recipe.optimizer.batch / recipe.optimizer.accumulate,
            pack_tokens: recipe.data.pack_tokens,
            seed: recipe.seed,
            dtype,
            recompute: recipe.recompute,
            blocks: None,
            longest: None,
            drawn: BTreeSet::new(),
            device: device.clone().inner(),
        }
    }

    /// Takes the blocks' weights from `blocks`, and recomputes every block.
    pub fn with_blocks(self, blocks: Box<dyn Blocks>) -> Self {
        Self { recompute: true, blocks: Some(Mutex::new(blocks)), ..self }
    }

    /// How many distinct examples are drawn from; `None` if there is no end to them.
    pub fn pool(&self) -> Option<u64> {
        self.examples.pool()
    }

    /// Encodes `share` of the examples that the steps (counted from 0) draw, then drops the encoders. `progress` hears how
    /// many are done and how many there are, and answers whether to go on. The result says whether all is done.
    ///
    /// # Errors
    /// If an example cannot be read, or its pictures do not fit each other or the card.
    pub fn encode_ahead(
        &mut self,
        steps: Range<u64>,
        share: Share,
        progress: &mut dyn FnMut(u64, u64) -> bool,
    ) -> Result<bool, Error> {
        let draws = steps.flat_map(|step| self.draw_indices(&mut sample::rng(self.seed, step)));
        let all: BTreeSet<u64> = draws.collect();
        let wanted =
            all.into_iter().enumerate().filter(|(place, _)| share.has(*place)).map(|(_, index)| index).collect();
        let Examples::Supplied(supply) = &mut self.examples else { return Ok(true) };
        let is_whole = supply.ensure_all(&wanted, progress)?;
        supply.release();
        Ok(is_whole)
    }

    /// The examples of a step: the first that is drawn of its random numbers.
    fn draw_indices(&self, rng: &mut ChaCha20Rng) -> Vec<u64> {
        let pool = self.pool().unwrap_or(u64::MAX / 2);
        (0..self.batch).map(|_| rng.random_range(0..pool)).collect()
    }
}

/// One example's share of a step.
struct Draw {
    index: u64,
    dropped: bool,
    timestep: f32,
    noise: Vec<f32>,
}

/// Examples of one geometry, or on one sequence, with what was drawn for them.
pub struct FlowMicroBatch {
    batch: Batch,
    noise: Tensor<3>,
    timesteps: Tensor<1>,
    /// Of tokens that do not count alike.
    weights: Option<Tensor<3>>,
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
        let drawn = self.draw_indices(&mut rng);
        let indices = self.examples.ensure(&drawn)?;
        for index in &indices {
            let example = self.examples.get(*index);
            let sequence = Sequence { image: example.geometry().len(), text: example.text_len() };
            self.longest = self.longest.filter(|longest| longest.all() >= sequence.all()).or(Some(sequence));
        }
        if self.pool().is_none() {
            self.drawn.clear();
        }
        self.drawn.extend(&indices);
        let features = self.features;
        let draws: Vec<Draw> = indices
            .into_iter()
            .map(|index| {
                let len = self.examples.get(index).geometry().len();
                draw(index, len, features, self.drop_instruction, &self.times, &mut rng)
            })
            .collect();

        let example = |draw: &Draw| self.examples.get(draw.index);
        let pack_tokens = self.pack_tokens.filter(|_| draws.iter().all(|draw| example(draw).can_be_packed()));
        let mut groups: Vec<Vec<&Draw>> = Vec::new();
        if let Some(budget) = pack_tokens {
            let lens: Vec<usize> = draws.iter().map(|draw| example(draw).tokens()).collect();
            let packs = packing::first_fit(&lens, budget);
            groups.extend(packs.iter().map(|pack| pack.iter().map(|item| &draws[*item]).collect()));
        } else {
            let geometry = |draw: &Draw| example(draw).geometry();
            for draw in &draws {
                match groups.iter_mut().find(|group| group.len() < self.chunk && geometry(group[0]) == geometry(draw)) {
                    Some(group) => group.push(draw),
                    None => groups.push(vec![draw]),
                }
            }
        }
        // Every geometry, or every packed sequence, is a batch of its own; its weight is its share of all numbers, so that their sum
        // is the mean over the whole batch.
        let numbers = |group: &[&Draw]| group.iter().map(|draw| draw.noise.len()).sum::<usize>() as f64;
        let total: f64 = groups.iter().map(|group| numbers(group)).sum();
        let is_packed = pack_tokens.is_some();
        let own = groups.iter().enumerate().filter(|(index, _)| share.has(*index));
        Ok(own.map(|(_, group)| self.micro_batch(group, is_packed, numbers(group) / total)).collect())
    }

    fn extent(&self) -> Option<Extent> {
        Some(Extent { sequence: self.longest?, examples: self.drawn.len() as u64 })
    }

    fn loss(&self, model: &TrainedNetworks, micro_batch: FlowMicroBatch) -> Loss {
        let FlowMicroBatch { batch, noise, timesteps, weights, weight } = micro_batch;
        let FlowLoss { value, reference, target } = loss(model, &batch, noise, timesteps, weights, self.dtype);
        Loss { value, weight, figures: figures(reference, target) }
    }

    fn measure(&self, model: &TrainedNetworks, micro_batch: FlowMicroBatch) -> Measured {
        if !self.recompute {
            // As documented at the trait's own.
            let own = model.valid().train();
            return Measured::of(self.loss(&own, micro_batch), &own);
        }
        let FlowMicroBatch { batch, noise, timesteps, weights, weight } = micro_batch;
        let question = Question { batch: &batch, noise, timesteps, weights, dtype: self.dtype };
        let inputs = (model.t5.clone(), model.clip.clone());
        let ask = |(t5, clip): &(Option<T5>, Option<Clip>)| question.ask(&model.flux, t5.as_ref().zip(clip.as_ref()));
        let judge = |answer: Tensor<3>| {
            let FlowLoss { value, reference, target } = question.judge(answer);
            let known = f64::from(value.clone().inner().into_scalar::<f32>());
            (value * weight, (known, figures(reference, target), Instant::now()))
        };
        let ((loss, figures, known_at), grads) = match &self.blocks {
            None => recompute::gradients(&model.flux, &mut Own, &inputs, ask, judge),
            Some(blocks) => {
                // A thread that panicked has ended the run.
                let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
                recompute::gradients(&model.flux, blocks.as_mut(), &inputs, ask, judge)
            }
        };
        Measured { loss: loss * weight, grads, figures, known_at }
    }
}

/// Both halves of the loss, for the log.
fn figures(reference: (f32, f32), target: (f32, f32)) -> Vec<(&'static str, f32, f32)> {
    vec![("ref", reference.0, reference.1), ("tar", target.0, target.1)]
}

impl FlowObjective<'_> {
    /// The squared errors of networks without gradients on copies of one example, number by number and weighted as in
    /// training: what the loss is the mean of.
    pub(super) fn squared_error(
        &self,
        networks: &TrainedNetworks,
        (example, copies): (&Encoded, usize),
        noise: Vec<f32>,
        times: Vec<f32>,
    ) -> Tensor<3> {
        let batch = Batch::new(&vec![(example, false); copies], &self.empty, &self.device);
        let noise = Tensor::from_data(TensorData::new(noise, batch.latents.shape()), &self.device);
        let timesteps = Tensor::from_data(TensorData::new(times, [copies]), &self.device);
        let emphasis = self.emphasis.as_ref();
        let weights = emphasis.map(|emphasis| self::weights(emphasis.of(example).repeat(copies), copies, &self.device));
        let question = Question { batch: &batch, noise, timesteps, weights, dtype: self.dtype };
        let input = question.ask(&networks.flux, networks.text());
        let answer = match &self.blocks {
            None => networks.flux.forward(input),
            Some(blocks) => {
                // A thread that panicked has ended the run.
                let mut blocks = blocks.lock().unwrap_or_else(PoisonError::into_inner);
                let mut blocks = recompute::Plain(blocks.as_mut());
                to_the_end(|poll| networks.flux.forward_with(&mut Fetched::new(&mut blocks, poll), input))
            }
        };
        question.weighted(question.squares(answer))
    }

    fn micro_batch(&self, group: &[&Draw], is_packed: bool, weight: f64) -> FlowMicroBatch {
        let examples: Vec<(&Encoded, bool)> =
            group.iter().map(|draw| (self.examples.get(draw.index).as_ref(), draw.dropped)).collect();
        // One alone is the same either way.
        let batch = match is_packed && examples.len() > 1 {
            true => Batch::pack(&examples, &self.empty, &self.device),
            false => Batch::new(&examples, &self.empty, &self.device),
        };
        let noise: Vec<f32> = group.iter().flat_map(|draw| draw.noise.iter().copied()).collect();
        let noise = Tensor::from_data(TensorData::new(noise, batch.latents.shape()), &self.device);
        let times: Vec<f32> = group.iter().map(|draw| draw.timestep).collect();
        let timesteps = Tensor::from_data(TensorData::new(times, [group.len()]), &self.device);
        let weights = self.emphasis.as_ref().map(|emphasis| {
            let all = examples.iter().flat_map(|(example, _)| emphasis.of(example));
            self::weights(all.collect(), batch.latents.dims()[0], &self.device)
        });
        FlowMicroBatch { batch, noise, timesteps, weights, weight }
    }
}

/// Whether the instruction is dropped, the time and the noise of one example.
fn draw(index: u64, len: usize, features: usize, drop_instruction: f64, times: &Times, rng: &mut ChaCha20Rng) -> Draw {
    let dropped = rng.random_bool(drop_instruction);
    let timestep = times.draw(len, rng);
    let noise = StandardNormal.sample_iter(rng).take(len * features).collect();
    Draw { index, dropped, timestep, noise }
}
