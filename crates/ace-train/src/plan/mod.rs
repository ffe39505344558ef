//! What memory a training takes, before anything is loaded: arithmetic on a card and a recipe.
//!
//! ```text
//! peak = base + learned + optimizer + average + cache + max(step, update)
//!   step    gradients of the parts before + what the forward pass keeps + what one block needs on the way back
//!   update  gradients + the parameters that take the place of the old ones
//! ```
//!
//! Everything but the activations follows from shapes. Of activations, [`activations`] has what was measured, and why.

pub mod activations;
pub mod count;
mod fit;

pub use activations::Sizes;
pub use fit::{Fit, fit};

use crate::Recipe;
use crate::learn::recipe::{FrozenDtype, NetworkName};
use ace_nn::{clip::ClipConfig, t5::T5Config};
use ace_plus::Card;
use count::Numbers;

/// Bytes of a number that learns or is computed with on the way.
const F32: u64 = 4;

/// Tokens of one example.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence {
    /// Of its pictures.
    pub image: usize,
    /// Of its words, padding included.
    pub text: usize,
}

impl Sequence {
    /// All of them.
    pub fn all(self) -> usize {
        self.image + self.text
    }

    /// Rows and columns of a picture with that many tokens, as square as can be.
    pub fn grid(self) -> [usize; 2] {
        let root = (self.image as f64).sqrt() as usize;
        let rows = (1..=root).rev().find(|rows| self.image.is_multiple_of(*rows)).unwrap_or(1);
        [rows, self.image / rows]
    }

    /// The longest examples that a card takes.
    pub fn longest(card: &Card) -> Self {
        Self { image: card.canvas.max_seq_len, text: card.text.t5_max_length }
    }
}

/// A part of the memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// What it is.
    pub name: &'static str,
    /// How large it is, in bytes.
    pub bytes: u64,
}

/// What a training takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// What is there at the highest point, largest first.
    pub parts: Vec<Part>,
    /// What is there before, while the examples are encoded and the transformer is not loaded; 0 if the encoders are
    /// small and stay.
    pub encoding: u64,
}

impl Prediction {
    /// The most memory at once, in bytes.
    pub fn peak(&self) -> u64 {
        self.parts.iter().map(|part| part.bytes).sum::<u64>().max(self.encoding)
    }
}

/// How a frozen matrix is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// As numbers of so many bytes.
    Dense(u64),
}

impl Base {
    /// As the recipe says.
    pub fn of(recipe: &Recipe) -> Self {
        match recipe.frozen_dtype {
            FrozenDtype::F32 => Self::Dense(4),
            FrozenDtype::Bf16 | FrozenDtype::F16 => Self::Dense(2),
        }
    }

    fn bytes(self, numbers: Numbers) -> u64 {
        match self {
            Self::Dense(each) => numbers.all() * each,
        }
    }

    /// Bytes of a number that is computed with.
    fn computes_in(self) -> u64 {
        match self {
            Self::Dense(each) => each,
        }
    }
}

/// Rank of the branch that a layer gets.
fn rank(recipe: &Recipe, path: &str) -> Option<usize> {
    recipe.lora.as_ref()?.branch(path).map(|(rank, _)| rank)
}

/// What a training of the transformer takes on examples of `sequence`, with `workers` micro-batches at the same time and
/// `examples` of them kept. Encoders of more than `budget` bytes are dropped before the transformer comes.
pub fn predict(
    card: &Card,
    recipe: &Recipe,
    sequence: Sequence,
    (workers, examples, budget): (usize, u64, u64),
) -> Prediction {
    let flux = &card.flux;
    let base = Base::of(recipe);
    let whole = count::numbers(flux, |_| true);
    let is_frozen = recipe.lora.is_some() || !recipe.trains(NetworkName::Flux);
    let learned = match &recipe.lora {
        Some(_) => count::branches(flux, |path| rank(recipe, path)),
        None if is_frozen => 0,
        None => whole.all(),
    };
    let optimizer = &recipe.optimizer;
    let chunk = optimizer.batch / optimizer.accumulate;
    let parts_of_step = optimizer.accumulate as u64;
    let at_once = (workers as u64).min(parts_of_step).max(1);

    let computes_in = if is_frozen { base.computes_in() } else { F32 };
    let sizes = Sizes { flux: flux.clone(), sequence, batch: chunk, bytes: computes_in };
    let gradients = learned * F32 * parts_of_step;
    let kept = at_once * sizes.kept(recipe.recompute);
    let block = at_once * sizes.one_block(recipe.recompute);
    // On the way back gradients are made while activations are given up; then new parameters come beside the old.
    let step = kept + block;
    let update = learned * F32;
    let encoders = encoder_bytes(card, recipe);
    let stays = if encoders > budget { 0 } else { encoders };
    let each = sizes.example();

    let mut parts = vec![
        Part { name: "base weights", bytes: if is_frozen { base.bytes(whole) } else { 0 } },
        Part { name: if is_frozen { "adapters" } else { "weights" }, bytes: learned * F32 },
        Part { name: "gradients", bytes: gradients },
        Part { name: "optimizer", bytes: optimizer.state.bytes(learned) },
        Part { name: "moving average", bytes: if optimizer.ema.is_some() { learned * F32 } else { 0 } },
        Part { name: "encoders", bytes: stays },
        Part { name: "examples", bytes: examples * each + at_once * sizes.question() },
    ];
    if step >= update {
        parts.push(Part { name: "activations kept", bytes: kept });
        parts.push(Part { name: "one block at work", bytes: block });
    } else {
        parts.push(Part { name: "new weights beside the old", bytes: update });
    }
    parts.retain(|part| part.bytes > 0);
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    Prediction { parts, encoding: if stays == 0 { encoders + examples * each } else { 0 } }
}

/// Bytes of the networks that encode examples, in the numbers of frozen networks; the autoencoder is in f32.
fn encoder_bytes(card: &Card, recipe: &Recipe) -> u64 {
    let each = Base::of(recipe).computes_in();
    (t5_numbers(&card.t5) + clip_numbers(&card.clip)) * each + autoencoder_numbers(card) * F32
}

/// Numbers of T5's encoder: the embedding, and in each layer four projections, a gated feed-forward and two norms.
fn t5_numbers(t5: &T5Config) -> u64 {
    let inner = t5.num_heads * t5.d_kv;
    let layer = 4 * t5.d_model * inner + 3 * t5.d_model * t5.d_ff + 2 * t5.d_model;
    let bias = t5.relative_attention_num_buckets * t5.num_heads;
    (t5.vocab_size * t5.d_model + t5.num_layers * layer + bias + t5.d_model) as u64
}

/// Numbers of CLIP's text model: two embeddings, and in each layer four projections, a feed-forward and two norms.
fn clip_numbers(clip: &ClipConfig) -> u64 {
    let (d, wide) = (clip.hidden_size, clip.intermediate_size);
    let layer = 4 * (d * d + d) + d * wide + wide + wide * d + d + 4 * d;
    ((clip.vocab_size + clip.max_position_embeddings) * d + clip.num_layers * layer + 2 * d) as u64
}

/// About how many numbers the autoencoder has: its convolutions of 3 × 3, of which a level has two per block.
fn autoencoder_numbers(card: &Card) -> u64 {
    let config = &card.autoencoder;
    let blocks = 2 * config.layers_per_block + 1;
    let level = |channels: &usize| 2 * blocks * 9 * channels * channels;
    config.block_out_channels.iter().map(level).sum::<usize>() as u64
}
