//! Latents as tokens and back, positions of tokens, and the folded mask.

use burn::prelude::*;

/// Pixels per latent cell along a side in the published autoencoder; every autoencoder says its own.
pub const DOWNSCALE: usize = 8;
/// Latent cells per token along a side.
pub const PATCH: usize = 2;

/// Packs 2×2 cells into one token: feature `4c + 2y + x` is channel `c` at row `y`, column `x` of the patch.
///
/// # Shapes
/// - latents: `[B, C, h, w]`, even sides
/// - output: `[B, (h/2)(w/2), 4C]`, row-major over patches
pub fn pack(latents: Tensor<4>) -> Tensor<3> {
    let [batch, channels, height, width] = latents.dims();
    let (rows, columns) = (height / PATCH, width / PATCH);
    latents.reshape([batch, channels, rows, PATCH, columns, PATCH]).permute([0, 2, 4, 1, 3, 5]).reshape([
        batch,
        rows * columns,
        channels * PATCH * PATCH,
    ])
}

/// Undoes [`pack`] for latents of `[h, w]` cells.
///
/// # Shapes
/// - tokens: `[B, (h/2)(w/2), 4C]`
/// - output: `[B, C, h, w]`
pub fn unpack(tokens: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [batch, _, features] = tokens.dims();
    let (rows, columns, channels) = (height / PATCH, width / PATCH, features / (PATCH * PATCH));
    tokens
        .reshape([batch, rows, columns, channels, PATCH, PATCH])
        .permute([0, 3, 1, 4, 2, 5])
        .reshape([batch, channels, height, width])
}

/// Folds a pixel mask into latent space: the `cell`×`cell` pixels of a latent cell become its channels, the pixel at row
/// `y`, column `x` channel `cell·y + x`.
///
/// # Shapes
/// - mask: `[B, 1, H, W]`, sides multiples of `cell`
/// - output: `[B, cell², H/cell, W/cell]`
pub fn fold_mask(mask: Tensor<4>, cell: usize) -> Tensor<4> {
    let [batch, _, height, width] = mask.dims();
    let (rows, columns) = (height / cell, width / cell);
    let patches = mask.reshape([batch, rows, cell, columns, cell]).permute([0, 2, 4, 1, 3]);
    patches.reshape([batch, cell * cell, rows, columns])
}

/// Positions `(unit, row, column)` of the tokens of a grid, row-major; the released models know only unit 0.
pub fn ids([rows, columns]: [usize; 2], unit: usize) -> Vec<[f32; 3]> {
    (0..rows).flat_map(|row| (0..columns).map(move |column| [unit as f32, row as f32, column as f32])).collect()
}
