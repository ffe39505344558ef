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

pub use ace_plus::cost::Sequence;
pub use activations::Sizes;
pub use fit::{Fit, fit};

use crate::{
    Recipe,
    learn::recipe::{FrozenDtype, FrozenPacking, FrozenPlacement, NetworkName},
};
use ace_nn::{flux::FluxConfig, weight::Packing};
use ace_plus::{Card, cost};
use ace_weights::{Stored, WeightFile};
use activations::Moment;
use count::Numbers;

/// Bytes of a number that learns or is computed with on the way.
const F32: u64 = 4;
/// What the program itself has.
const PROGRAM: u64 = 4_000_000;

/// The longest examples that a recipe takes.
pub fn longest(card: &Card, recipe: &Recipe) -> Sequence {
    Sequence { image: recipe.max_seq_len.unwrap_or(card.canvas.max_seq_len), text: card.text.t5_max_length }
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
    /// Whether it stays on the host where a card has memory of its own.
    pub on_host: bool,
}

/// What a training takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prediction {
    /// What is there at the highest point, largest first.
    pub parts: Vec<Part>,
    /// Encoders that are there before, while the transformer is not loaded; 0 if they are small and stay.
    pub encoders_before: u64,
}

impl Prediction {
    /// The most memory at once, in bytes.
    pub fn peak(&self) -> u64 {
        let host: u64 = self.parts.iter().filter(|part| part.on_host).map(|part| part.bytes).sum();
        self.on_card() + host
    }

    /// The most of it that is on a card with memory of its own.
    pub fn on_card(&self) -> u64 {
        let card = self.parts.iter().filter(|part| !part.on_host).map(|part| part.bytes);
        card.sum::<u64>().max(self.encoders_before)
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
    /// So many bytes for so many numbers.
    Of {
        /// Bytes.
        bytes: u64,
        /// Numbers that they hold.
        numbers: u64,
    },
}

impl From<FrozenPacking> for Packed {
    fn from(packing: FrozenPacking) -> Self {
        match packing {
            FrozenPacking::Q8 => Self::Q8_0,
            FrozenPacking::Q4 => Self::Q4_0,
            FrozenPacking::Nf4 => Self::Nf4,
            other => {
                let packing = Packing::from(other);
                let numbers = packing.block_len();
                Self::Of { bytes: packing.bytes(numbers) as u64, numbers: numbers as u64 }
            }
        }
    }
}

/// How what does not learn is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Bytes of a number that is computed with.
    pub bytes: u64,
    /// Matrices of the transformer's blocks.
    pub packed: Packed,
    /// Matrices of the text encoders' blocks.
    pub encoders: Packed,
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
        let packed = recipe.quantize.map_or(Packed::Wide, Packed::from);
        Self { bytes, packed, encoders: packed, streamed: recipe.placement == FrozenPlacement::Streamed }
    }

    /// As the recipe says, on the transformer's own file: matrices that are packed there stay so.
    pub fn on(file: &WeightFile, recipe: &Recipe) -> Self {
        let base = Self::of(recipe);
        let is_block = |key: &&str| key.contains("blocks.") && file.shape(key).is_some_and(|shape| shape.len() == 2);
        let (mut numbers, mut bytes, mut is_packed) = (0, 0, false);
        for key in file.keys().filter(is_block) {
            let each = file.shape(key).map_or(0, |shape| shape.iter().product::<usize>()) as u64;
            let keeps = file.stored(key).is_some_and(Stored::is_quantized);
            numbers += each;
            bytes += if keeps { file.len_of(key).unwrap_or_default() as u64 } else { each * base.bytes };
            is_packed |= keeps;
        }
        let packed = match base.packed {
            Packed::Wide if is_packed && bytes * 32 == numbers * 18 => Packed::Q4_0,
            Packed::Wide if is_packed && bytes * 32 == numbers * 34 => Packed::Q8_0,
            // What a network keeps as it is in the file.
            Packed::Wide if is_packed => Packed::Of { bytes, numbers },
            packed => packed,
        };
        Self { packed, ..base }
    }

    fn of_block(self, numbers: Numbers) -> u64 {
        let matrices = match self.packed {
            Packed::Wide => numbers.matrices * self.bytes,
            Packed::Q8_0 => numbers.matrices * 34 / 32,
            Packed::Q4_0 => numbers.matrices * 18 / 32,
            Packed::Nf4 => numbers.matrices * 36 / 64,
            Packed::Of { bytes, numbers: of } => {
                (u128::from(numbers.matrices) * u128::from(bytes) / u128::from(of.max(1))) as u64
            }
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
    // Packed, as many examples share a sequence as it has room for.
    let room = recipe.data.pack_tokens.map(|tokens| (tokens / sequence.all()).clamp(1, optimizer.batch));
    let batch = room.unwrap_or(optimizer.batch / optimizer.accumulate);
    let micro_batches = optimizer.batch.div_ceil(batch) as u64;
    let at_once = (around.workers as u64).clamp(1, micro_batches);
    let bytes = if is_frozen { base.bytes } else { F32 };
    let sizes = Sizes { flux: flux.clone(), sequence, batch, bytes, is_packed: room.is_some_and(|room| room > 1) };

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

    let encoders = around.encoder_budget.map_or(0, |_| encoder_bytes(card, base));
    let stays = if around.encoder_budget.is_some_and(|budget| encoders > budget) { 0 } else { encoders };
    let part = |(name, bytes): (&'static str, u64)| Part { name, bytes, on_host: false };
    let mut parts: Vec<Part> = [
        ("base weights", if is_frozen { base.of_all(flux) } else { 0 }),
        (if recipe.lora.is_some() { "adapters" } else { "weights" }, all),
        ("optimizer", optimizer.state.bytes(all / F32)),
        ("moving average", if optimizer.ema.is_some() { all } else { 0 }),
        ("encoders", stays),
        ("examples of a step", at_once * sizes.question()),
    ]
    .map(part)
    .into();
    parts.extend(highest.map(part));
    for (name, bytes) in [("examples kept", around.examples * sizes.example()), ("the program", PROGRAM)] {
        parts.push(Part { name, bytes, on_host: true });
    }
    parts.retain(|part| part.bytes > 0);
    parts.sort_by_key(|part| std::cmp::Reverse(part.bytes));
    Prediction { parts, encoders_before: encoders - stays }
}

/// Bytes of the networks that encode examples, held as frozen networks are; the autoencoder is in f32.
fn encoder_bytes(card: &Card, base: Base) -> u64 {
    let text = [cost::text::t5_numbers(&card.t5), cost::text::clip_numbers(&card.clip)];
    let base = Base { packed: base.encoders, ..base };
    let text = text.map(|(blocks, others)| base.of_block(blocks) + others * base.bytes);
    text.iter().sum::<u64>() + cost::autoencoder::numbers(&card.autoencoder) * F32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_and_fetched_matrices_take_what_their_formats_say() {
        let flux = Card::builtin("flux1-fill-dev").unwrap().flux;
        let base = Base { bytes: 2, packed: Packed::Wide, encoders: Packed::Wide, streamed: false };
        let gigabytes = |base: Base| base.of_all(&flux) as f64 / 1e9;
        // 11.9 billion numbers in 16, 8.5 and 4.5 bits, but for 0.03 billion outside of the blocks and the vectors.
        assert!((gigabytes(base) - 23.8).abs() < 0.1);
        assert!((gigabytes(Base { packed: Packed::Q8_0, ..base }) - 12.7).abs() < 0.1);
        assert!((gigabytes(Base { packed: Packed::Nf4, ..base }) - 6.8).abs() < 0.1);
        // Two of nineteen double blocks of 340 million numbers.
        assert!((gigabytes(Base { packed: Packed::Nf4, streamed: true, ..base }) - 0.5).abs() < 0.1);
    }
}
