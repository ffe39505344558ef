//! How T5 learns to read before a transformer listens to it: a small head, thrown away afterwards, asks what a sentence of
//! the world says. What is at each place? What is named first, what second? Before which ground?
//!
//! A transformer takes its text as a set of tokens. Which colour belongs to which shape and place must therefore stand
//! in each token, and nothing teaches an encoder that as fast as being asked.

use super::{
    params,
    recipe::Recipe,
    trainer::{Loss, Objective},
};
use crate::{
    Error,
    data::{
        example::Dataset,
        shapes::{CELL, Said},
    },
};
use ace_nn::{lora::Linear, poll::to_the_end, t5::T5};
use ace_plus::{
    sample,
    text::{self, TokenIds, Tokenizers},
};
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{activation, assert_shape},
};
use rand::RngExt;

/// Tokens that a question looks at, each in its own way.
const LOOKS: usize = 4;

/// All answers to a question, those to each fact beside each other.
const ANSWERS: usize = {
    let [what, color, texture, size, ground] = Said::CHOICES;
    what + color + texture + size + ground
};

/// T5, and the head that asks it.
#[derive(Module, Debug)]
pub struct TextReader {
    /// What learns to read.
    pub t5: T5,
    /// What each question looks for, `[slots·looks, d_model]`.
    queries: Param<Tensor<2>>,
    /// From what its looks found to the answers, `[answers, looks·d_model]`.
    answer: Linear,
}

impl TextReader {
    /// A head of random numbers on `t5`, for sentences with so many slots ([`Said::slots`]).
    pub fn new(t5: T5, slots: usize, seed: u64, device: &Device) -> Self {
        /// The part that is made here.
        #[derive(Module, Debug)]
        struct Head {
            queries: Param<Tensor<2>>,
            answer: Linear,
        }
        let [_, width] = t5.shared.shape();
        let queries = Param::from_tensor(Tensor::zeros([slots * LOOKS, width], device));
        let head = Head { queries, answer: Linear::new(LOOKS * width, ANSWERS, device) };
        let Head { queries, answer } = params::initialize(head, "reader", seed, device);
        Self { t5, queries, answer }
    }

    /// # Shapes
    /// - output: `[B, slots, answers]`, before the softmax of each fact
    pub fn forward(&self, sentences: &[TokenIds]) -> Tensor<3> {
        let queries = self.queries.val();
        let [looks, width] = queries.dims();
        let (batch, slots) = (sentences.len(), looks / LOOKS);
        let tokens = to_the_end(|poll| text::sequence_polled(&self.t5, sentences, &queries.device(), poll));
        assert_shape!(tokens, [batch, _, width]);
        let scores = queries.unsqueeze::<3>().matmul(tokens.clone().swap_dims(1, 2)) / (width as f64).sqrt();
        let found = activation::softmax(scores, 2).matmul(tokens);
        self.answer.forward(found.reshape([batch, slots, LOOKS * width]))
    }
}

/// Sentences of a dataset, and what they say.
pub struct ReadingObjective<'a> {
    data: &'a dyn Dataset,
    tokenizers: Tokenizers,
    /// Places each way.
    grid: u32,
    batch: usize,
    parts: usize,
    seed: u64,
}

impl<'a> ReadingObjective<'a> {
    /// Reads the instructions of `data`, of a world of pictures of `size` pixels.
    pub fn new(recipe: &Recipe, data: &'a dyn Dataset, size: u32, tokenizers: Tokenizers) -> Self {
        Self {
            data,
            tokenizers,
            grid: size / CELL,
            batch: recipe.optimizer.batch,
            parts: recipe.optimizer.accumulate,
            seed: recipe.seed,
        }
    }

    /// Questions about a sentence.
    pub fn slots(&self) -> usize {
        Said::slots(self.grid)
    }
}

/// Sentences that are read together.
pub struct Sentences {
    ids: Vec<TokenIds>,
    said: Vec<Said>,
}

impl Objective for ReadingObjective<'_> {
    type Model = TextReader;
    type MicroBatch = Sentences;

    fn micro_batches(&mut self, step: u64) -> Result<Vec<Sentences>, Error> {
        let mut rng = sample::rng(self.seed, step);
        let mut part = || {
            let (mut ids, mut said) = (Vec::new(), Vec::new());
            for _ in 0..self.batch / self.parts {
                let index = rng.random_range(0..self.data.len().map_or(u64::MAX / 2, |len| len as u64));
                let instruction = self.data.example(index)?.instruction;
                ids.push(self.tokenizers.ids(&instruction));
                said.push(Said::of(&instruction, self.grid));
            }
            Ok(Sentences { ids, said })
        };
        (0..self.parts).map(|_| part()).collect()
    }

    fn loss(&self, model: &TextReader, Sentences { ids, said }: Sentences) -> Loss {
        let answers = model.forward(&ids);
        let (batch, slots, device) = (ids.len(), self.slots(), answers.device());
        let (mut value, mut at) = (Tensor::<1>::zeros([1], &device), 0);
        // Whether every answer about a slot is right.
        let mut right = Tensor::<2, Bool>::ones([batch, slots], &device.clone().inner());
        for (fact, choices) in Said::CHOICES.into_iter().enumerate() {
            let wanted: Vec<i64> = said.iter().flat_map(|one| one.slots.iter().map(|slot| slot[fact] as i64)).collect();
            let wanted = |device: &Device| {
                Tensor::<3, Int>::from_data(TensorData::new(wanted.clone(), [batch, slots, 1]), device)
            };
            let part = answers.clone().narrow(2, at, choices);
            let chosen = part.clone().inner().argmax(2);
            right = right.bool_and(chosen.equal(wanted(&device.clone().inner())).squeeze_dim::<2>(2));
            value = value - activation::log_softmax(part, 2).gather(2, wanted(&device)).mean();
            at += choices;
        }
        let read = right.all_dim(1).int().sum().into_scalar::<i64>() as f32;
        let figures = vec![("sentences read", read, batch as f32)];
        Loss { value, weight: batch as f64 / self.batch as f64, figures }
    }
}
