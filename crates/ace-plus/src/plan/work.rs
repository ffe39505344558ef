//! What the parts of an edit compute with, besides weights: counted at the allocator on the CPU, and written down in units that
//! follow from sizes. Whoever changes what an operation holds changes a constant here; `tests/plan.rs` holds both together.

use crate::{
    Card,
    cost::{
        Sequence,
        autoencoder::{self, Convolution, Half, Moment},
    },
};
use ace_nn::{autoencoder::AutoEncoderConfig, flux::FluxConfig, t5::T5Config};
use burn::tensor::DType;
use std::thread;

/// Bytes of f32.
const F32: u64 = 4;

/// A block of the transformer at work, `[double, single]`, and what the transformer is asked.
///
/// The highest point of a single block, in rows of `hidden_size` numbers for each token and `m` for the width of the
/// feed-forward over it: its input, that modulated, `3 + m` for queries, keys, values and the feed-forward, 3 for the heads of
/// the attention, `1 + m` for what goes into the last layer. A double block has its streams one after the other: `2 + 2·m`.
pub fn denoise(flux: &FluxConfig, sequence: Sequence, dtype: DType) -> [u64; 2] {
    // 16 bits are multiplied in 32: rows are wide for a moment, and so is the largest matrix.
    let widened = if dtype == DType::F32 { 0.0 } else { (flux.hidden_size.pow(2) as f64) * (3.0 + flux.mlp_ratio) };
    let asked = sequence.image * (flux.in_channels * 2 + flux.out_channels * 4);
    let turning = 2 * sequence.all() * flux.axes_dim.iter().sum::<usize>();
    [2.0 + 2.0 * flux.mlp_ratio, 9.0 + 2.0 * flux.mlp_ratio].map(|rows| {
        let numbers = rows * (sequence.all() * flux.hidden_size) as f64;
        F32 * ((numbers + widened) as u64 + (asked + turning) as u64)
    })
}

/// What all modulations say in all steps.
pub fn modulations(flux: &FluxConfig, num_steps: usize, dtype: DType) -> u64 {
    let each = flux.hidden_size * (12 * flux.depth + 3 * flux.depth_single_blocks);
    (num_steps * each * dtype.size()) as u64
}

/// Embedded words.
pub fn embeddings(card: &Card, tokens: usize, dtype: DType) -> u64 {
    (dtype.size() * (tokens * card.t5.d_model + card.clip.hidden_size)) as u64
}

/// T5 on so many tokens: the bias of every pair of positions, and of a layer its input, that normed, and three times the width of
/// the feed-forward.
pub fn t5(t5: &T5Config, tokens: usize, dtype: DType) -> u64 {
    let bias = t5.num_heads * tokens * tokens;
    (dtype.size() * (bias + tokens * (3 * t5.d_ff + 2 * t5.d_model))) as u64
}

/// The encoder on so many pictures at once.
pub fn encode(config: &AutoEncoderConfig, size: [usize; 2], pictures: usize) -> u64 {
    half(&autoencoder::encoder(config, size), pictures)
}

/// The decoder to one picture.
pub fn decode(config: &AutoEncoderConfig, size: [usize; 2]) -> u64 {
    half(&autoencoder::decoder(config, size), 1)
}

fn half(half: &Half, pictures: usize) -> u64 {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let of = |moment: &Moment| pictures * moment.maps + convolving(moment.convolution, pictures, threads);
    F32 * half.moments.iter().map(of).max().unwrap_or_default() as u64
}

/// Numbers that a convolution of 3 × 3 by Winograd's method has at hand: its kernel at 6 × 6 points, and for each thread as many
/// tiles of 4 × 4 pixels as stay in the caches, before and after the product (see `ace-kernels`, `flex/conv`).
fn convolving(Convolution { input, output, size, .. }: Convolution, pictures: usize, threads: usize) -> usize {
    const POINTS: usize = 36;
    const TOGETHER: usize = 12;
    const LANES: usize = 16;
    // Fewer channels are multiplied directly.
    if input < 2 * LANES {
        return 0;
    }
    let most = if input + output > 512 { 4 * TOGETHER } else { 8 * TOGETHER };
    let tiles = pictures * size[0].div_ceil(4) * size[1].div_ceil(4);
    let together = tiles.div_ceil(threads).next_multiple_of(TOGETHER).min(most);
    POINTS * (input * output + threads * together * (input + output + 2 * LANES))
}

/// Pictures on the host: the edit's own, its canvases, and the one that is made.
pub fn pixels([height, width]: [usize; 2]) -> u64 {
    const PLANES: u64 = 12;
    PLANES * F32 * (height * width) as u64
}
