//! What memory a training takes, before anything is loaded: arithmetic on a card and a recipe.
//!
//! ```text
//! peak = base + learned + optimizer + average + encoders + examples + the highest of these moments:
//!   a block's way back   what the forward pass kept + the block at work + gradients so far
//!   the update           all gradients + parameters that take the place of the old ones
//! ```
//!
//! All but the activations follows from shapes; [`activations`] says what those are and why. It was counted on the CPU. On a
//! card the same is allocated, but its pool holds some back, and its kernels need room of their own.

pub mod activations;
pub mod count;
mod fit;

pub use activations::Sizes;
pub use fit::{Fit, fit};

use crate::{
    Recipe,
    learn::recipe::{FrozenDtype, NetworkName},
};
use ace_nn::{clip::ClipConfig, flux::FluxConfig, t5::T5Config};
use ace_plus::Card;
use activations::Moment;
use count::Numbers;

/// Bytes of a number that learns or is computed with on the way.
const F32: u64 = 4;
/// What the program itself has.
const PROGRAM: u64 = 4_000_000;

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

/// What the examples of a run were so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// The longest of them.
    pub sequence: Sequence,
    /// How many distinct ones there were; without an end to the examples, those of a step.
    pub examples: u64,
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

/// How the matrices of frozen blocks are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packed {
    /// In the numbers that are computed with.
    Wide,
    /// 34 bytes for 32 numbers.
    Q8_0,
    /// 18 bytes for 32 numbers.
    Q4_0,
    /// 36 bytes for 64 numbers.
    Nf4,
}

/// How what does not learn is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Bytes of a number that is computed with.
    pub bytes: u64,
    /// Matrices of its blocks.
    pub packed: Packed,
    /// Whether a block is fetched when it runs: one is at work, the next on its way.
    pub streamed: bool,
}

impl Base {
    /// As the recipe says.
    pub fn of(recipe: &Recipe) -> Self {
        let bytes = match recipe.frozen_dtype {
            FrozenDtype::F32 => 4,
            FrozenDtype::Bf16 | FrozenDtype::F16 => 2,
        };
        Self { bytes, packed: Packed::Wide, streamed: false }
    }

    fn of_block(self, numbers: Numbers) -> u64 {
        let matrices = match self.packed {
            Packed::Wide => numbers.matrices * self.bytes,
            Packed::Q8_0 => numbers.matrices * 34 / 32,
            Packed::Q4_0 => numbers.matrices * 18 / 32,
            Packed::Nf4 => numbers.matrices * 36 / 64,
        };
        matrices + numbers.vectors * self.bytes
    }

    /// The whole transformer: what is outside of its blocks is never packed and always there.
    fn of_all(self, flux: &FluxConfig) -> u64 {
        let is_block = |path: &str| path.contains("_blocks.");
        let blocks = match self.streamed {
            false => self.of_block(count::numbers(flux, is_block)),
            // The double blocks are the larger ones, unless there are none.
            true => {
                let first = if flux.depth > 0 { "double_blocks.0." } else { "single_blocks.0." };
                2 * self.of_block(count::numbers(flux, |path| path.starts_with(first)))
            }
        };
        blocks + count::numbers(flux, |path| !is_block(path)).all() * self.bytes
    }
}

/// What a training has besides transformer and optimizer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around {
    /// Micro-batches that are measured at the same time.
    pub workers: usize,
    /// Encoded examples that are kept in memory.
    pub examples: u64,
    /// Encoders of more bytes than this are dropped before the transformer comes; `None` if nothing is encoded at all.
    pub encoder_budget: Option<u64>,
}

/// Numbers that learn in layers whose paths `wanted` takes.
fn learned(flux: &FluxConfig, recipe: &Recipe, wanted: impl Fn(&str) -> bool) -> u64 {
    match &recipe.lora {
        Some(lora) => count::branches(flux, |path| lora.branch(path).map(|(rank, _)| rank).filter(|_| wanted(path))),
        None if recipe.trains(NetworkName::Flux) => count::numbers(flux, wanted).all(),
        None => 0,
    }
}

/// What a training of the transformer takes on examples of `sequence`, with what is frozen held as `base` says.
pub fn predict(card: &Card, recipe: &Recipe, base: Base, sequence: Sequence, around: Around) -> Prediction {
    let flux = &card.flux;
    let is_frozen = recipe.lora.is_some() || !recipe.trains(NetworkName::Flux);
    let all = F32 * learned(flux, recipe, |_| true);
    let single = F32 * learned(flux, recipe, |path| path.starts_with("single_blocks."));
    let double = F32 * learned(flux, recipe, |path| path.starts_with("double_blocks."));

    let optimizer = &recipe.optimizer;
    let micro_batches = optimizer.accumulate as u64;
    let at_once = (around.workers as u64).clamp(1, micro_batches);
    let bytes = if is_frozen { base.bytes } else { F32 };
    let batch = optimizer.batch / optimizer.accumulate;
    let sizes = Sizes { flux: flux.clone(), sequence, batch, bytes };

    // Gradients of the micro-batches before wait for those of the last.
    let waiting = (micro_batches - at_once) * all;
    let moment = |moment: Moment| {
        let [of_single, of_double] = moment.gradients;
        let gradients = waiting + at_once * (of_single * single as f64 + of_double * double as f64) as u64;
        let part = |bytes: f64| at_once * bytes as u64;
        [("gradients", gradients), ("activations kept", part(moment.kept)), ("one block at work", part(moment.block))]
    };
    let update = [("gradients", micro_batches * all), ("new weights beside the old", all), ("one block at work", 0)];
    let moments = sizes.moments(recipe.recompute).into_iter().map(moment).chain([update]);
    let bytes_of = |parts: &[(&str, u64); 3]| parts.iter().map(|(_, bytes)| bytes).sum::<u64>();
    let highest = moments.max_by_key(bytes_of).unwrap_or(update);

    let encoders = around.encoder_budget.map_or(0, |_| encoder_bytes(card, recipe));
    let stays = if around.encoder_budget.is_some_and(|budget| encoders > budget) { 0 } else { encoders };
    let examples = around.examples * sizes.example();
    let mut parts = vec![
        ("base weights", if is_frozen { base.of_all(flux) } else { 0 }),
        (if recipe.lora.is_some() { "adapters" } else { "weights" }, all),
        ("optimizer", optimizer.state.bytes(all / F32)),
        ("moving average", if optimizer.ema.is_some() { all } else { 0 }),
        ("encoders", stays),
        ("examples", examples + at_once * sizes.question()),
        ("the program", PROGRAM),
    ];
    parts.extend(highest);
    parts.retain(|(_, bytes)| *bytes > 0);
    parts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let parts = parts.into_iter().map(|(name, bytes)| Part { name, bytes }).collect();
    Prediction { parts, encoding: if stays < encoders { encoders + examples } else { 0 } }
}

/// Bytes of the networks that encode examples, in the numbers of frozen networks; the autoencoder is in f32.
fn encoder_bytes(card: &Card, recipe: &Recipe) -> u64 {
    let each = Base::of(recipe).bytes;
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
