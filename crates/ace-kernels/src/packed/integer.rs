//! Products with packed matrices in eight-bit integers: the weights are multiplied as they are packed, and never widened.
//!
//! Activations are rounded to eight bits with a sign, 32 numbers of a row with one scale, the largest magnitude over 127, as
//! ggml does. What is left of a product is a sum of products of bytes for every 32 columns, which is exact, times two
//! scales. A block's offset or minimum goes with the sum of the activations' codes.
//!
//! ```text
//! weights, a panel of 32 rows           activations, a tile of 6 rows
//! [columns/4][32 rows][4 columns]       [columns/4][6 rows][4 columns]      bytes
//! ```
//!
//! A task unpacks a few panels into the processor's second cache, once, and multiplies them with every tile.

use super::{
    codes::{Packed, STEP},
    packing::{Form, Packing},
};
use crate::flex::{
    memory::{New, Rows, Shared},
    simd::wide,
};
use rayon::prelude::*;

/// Rows of weights in a panel.
pub(super) const LANES: usize = 32;
/// Rows of activations in a tile: with more, sums no longer fit into the registers.
const HEIGHT: usize = 6;
/// Numbers of a row of activations that share a scale.
const BLOCK: usize = 32;
/// Bytes of panels that a task unpacks: half of a usual second cache.
const UNPACKED: usize = 1 << 19;

/// Whether this processor multiplies matrices of this packing in integers.
pub(super) fn is_possible(packing: Packing) -> bool {
    #[cfg(target_arch = "x86_64")]
    let has = super::vnni::is_there();
    #[cfg(not(target_arch = "x86_64"))]
    let has = false;
    has && !matches!(packing.form(), Form::Table(_))
}

/// Rounded activations.
pub(super) struct Activations {
    rows: usize,
    columns: usize,
    /// Numbers that share a scale of the weights.
    group: usize,
    /// Tile after tile, `[columns/4][rows of the tile]`: four codes.
    codes: Vec<i32>,
    /// Tile after tile, `[columns/32][rows of the tile]`.
    scales: Vec<f32>,
    /// Tile after tile, `[columns/group][rows of the tile]`: minus the offset, times the sum of the codes.
    starts: Vec<i32>,
    /// As `starts`: the scale, times the sum of the codes.
    shares: Vec<f32>,
}

/// Rows of activations.
pub(super) struct Tile<'a> {
    pub codes: &'a [i32],
    pub scales: &'a [f32],
    pub starts: &'a [i32],
    pub shares: &'a [f32],
}

/// Rows of weights.
pub(super) struct Panel<'a> {
    /// `[columns/4][LANES][4]`
    pub codes: &'a [u8],
    /// `[columns/group][LANES]`
    pub scales: &'a [f32],
    /// `[columns/group][LANES]`, or nothing.
    pub minima: &'a [f32],
}

impl Activations {
    pub fn of(x: Rows<'_>, packing: Packing) -> Self {
        let (rows, columns, group) = (x.count, x.width, packing.group_len());
        let offset = match packing.form() {
            Form::Offset(offset) => i32::from(offset),
            Form::Minimum | Form::Table(_) => 0,
        };
        let (mut codes, mut scales) = (vec![0; rows * columns / 4], vec![0.0; rows * columns / BLOCK]);
        let (mut starts, mut shares) = (vec![0; rows * columns / group], vec![0.0; rows * columns / group]);
        let tiles = codes.par_chunks_mut(HEIGHT * columns / 4).zip(scales.par_chunks_mut(HEIGHT * columns / BLOCK));
        let sums = starts.par_chunks_mut(HEIGHT * columns / group).zip(shares.par_chunks_mut(HEIGHT * columns / group));
        tiles.zip(sums).with_min_len(4).enumerate().for_each(|(tile, ((codes, scales), (starts, shares)))| {
            let (first, height) = (tile * HEIGHT, HEIGHT.min(rows - tile * HEIGHT));
            for row in 0..height {
                let at = At { row, height, group, offset };
                round(x.row(first + row), at, codes, scales, starts, shares);
            }
        });
        Self { rows, columns, group, codes, scales, starts, shares }
    }

    fn tile(&self, tile: usize) -> (usize, Tile<'_>) {
        let (first, height) = (tile * HEIGHT, HEIGHT.min(self.rows - tile * HEIGHT));
        let part = |each: usize| first * self.columns / each..(first + height) * self.columns / each;
        let sums = part(self.group);
        let tile = Tile {
            codes: &self.codes[part(4)],
            scales: &self.scales[part(BLOCK)],
            starts: &self.starts[sums.clone()],
            shares: &self.shares[sums],
        };
        (height, tile)
    }
}

/// Which row of a tile is written, and how.
#[derive(Clone, Copy)]
struct At {
    row: usize,
    height: usize,
    group: usize,
    offset: i32,
}

wide! {
    fn round(x: &[f32], at: At, codes: &mut [i32], scales: &mut [f32], starts: &mut [i32], shares: &mut [f32]) {
        // Adding it leaves the nearest integer in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let At { row, height, group, offset } = at;
        for (block, x) in x.as_chunks::<BLOCK>().0.iter().enumerate() {
            // As integers, so that what is not a number is the largest, and is not lost.
            let largest = x.iter().map(|x| x.to_bits() & 0x7fff_ffff).fold(0, u32::max);
            let scale = f32::from_bits(largest) / 127.0;
            // A block of such small numbers is one of zeros.
            let (scale, inverse) = if scale < f32::MIN_POSITIVE { (0.0, 0.0) } else { (scale, 1.0 / scale) };
            let mut bits = [0; BLOCK];
            for (bits, x) in bits.iter_mut().zip(x) {
                *bits = (x * inverse + ROUND).to_bits().cast_signed();
            }
            let bytes = bits.map(|bits| bits as u8);
            for (word, bytes) in bytes.as_chunks::<4>().0.iter().enumerate() {
                codes[(block * (BLOCK / 4) + word) * height + row] = i32::from_le_bytes(*bytes);
            }
            scales[block * height + row] = scale;
            for (part, bits) in bits.chunks_exact(group).enumerate() {
                let sum: i32 = bits.iter().map(|bits| bits.wrapping_sub(ROUND.to_bits().cast_signed())).fold(0, i32::wrapping_add);
                let place = (block * (BLOCK / group) + part) * height + row;
                (starts[place], shares[place]) = (sum.wrapping_mul(-offset), scale * sum as f32);
            }
        }
    }
}

/// Panels of weights, unpacked.
#[derive(Default)]
struct Unpacked {
    codes: Vec<u8>,
    scales: Vec<f32>,
    minima: Vec<f32>,
}

impl Unpacked {
    /// Unpacks rows from `first` on into whole panels; what is missing of the last has scales of zero.
    fn fill(&mut self, matrix: &Packed<'_>, first: usize, rows: usize) {
        let (columns, group) = (matrix.columns, matrix.packing.group_len());
        let panels = rows.div_ceil(LANES);
        self.codes.resize(panels * LANES * columns, 0);
        self.scales.resize(panels * LANES * columns / group, 0.0);
        if matrix.packing.form() == Form::Minimum {
            self.minima.resize(self.scales.len(), 0.0);
        }
        let (codes, scales) = (LANES * columns, LANES * columns / group);
        for panel in 0..panels {
            let from = panel * LANES;
            unpack(
                matrix,
                first + from,
                LANES.min(rows - from),
                &mut self.codes[panel * codes..][..codes],
                &mut self.scales[panel * scales..][..scales],
                self.minima.get_mut(panel * scales..(panel + 1) * scales).unwrap_or_default(),
            );
        }
    }

    fn panel(&self, panel: usize, columns: usize, group: usize) -> Panel<'_> {
        let (codes, scales) = (LANES * columns, LANES * columns / group);
        Panel {
            codes: &self.codes[panel * codes..][..codes],
            scales: &self.scales[panel * scales..][..scales],
            minima: self.minima.get(panel * scales..(panel + 1) * scales).unwrap_or_default(),
        }
    }
}

wide! {
    fn unpack(
        matrix: &Packed<'_>,
        first: usize,
        rows: usize,
        codes: &mut [u8],
        scales: &mut [f32],
        minima: &mut [f32],
    ) {
        let group = matrix.packing.group_len();
        if rows < LANES {
            scales.fill(0.0);
            minima.fill(0.0);
        }
        let (mut row_codes, mut row_scales, mut row_minima) = ([0; STEP], [0.0; STEP / 16], [0.0; STEP / 16]);
        let words = codes.as_chunks_mut::<4>().0;
        for from in (0..matrix.columns).step_by(STEP) {
            let count = STEP.min(matrix.columns - from);
            let row_codes = &mut row_codes[..count];
            let (row_scales, row_minima) = (&mut row_scales[..count / group], &mut row_minima[..count / group]);
            for row in 0..rows {
                matrix.codes(first + row, from, row_codes);
                matrix.scales(first + row, from, row_scales, row_minima);
                let words = words[from / 4 * LANES + row..].iter_mut().step_by(LANES);
                for (word, code) in words.zip(row_codes.as_chunks::<4>().0) {
                    *word = *code;
                }
                let places = from / group * LANES + row..;
                for (place, scale) in scales[places.clone()].iter_mut().step_by(LANES).zip(&*row_scales) {
                    *place = *scale;
                }
                for (place, minimum) in minima.get_mut(places).unwrap_or_default().iter_mut().step_by(LANES).zip(&*row_minima) {
                    *place = *minimum;
                }
            }
        }
    }
}

/// `x·Wᵀ + bias`, `[rows, out]`, of a packing for which it [`is_possible`].
pub(super) fn multiply(x: Rows<'_>, matrix: &Packed<'_>, bias: Option<&[f32]>) -> New {
    let (outputs, columns) = (matrix.rows, matrix.columns);
    let mut y = New::of(x.count * outputs);
    let to = y.shared();
    let x = Activations::of(x, matrix.packing);
    let (panels, tiles, threads) = (outputs.div_ceil(LANES), x.rows.div_ceil(HEIGHT), rayon::current_num_threads());
    // Few panels fit into the cache; and every core gets some.
    let most = (UNPACKED / (LANES * columns.max(1))).min(panels.div_ceil(4 * threads)).max(1);
    let groups = panels.div_ceil(most);
    // Where there are fewer than cores, several unpack the same, each for some of the rows.
    let parts =
        if groups < 2 * threads { (2 * threads).div_ceil(groups.max(1)).min(tiles.div_ceil(16)).max(1) } else { 1 };
    let task = |unpacked: &mut Unpacked, task: usize| {
        let (first, part) = (task / parts * most * LANES, task % parts);
        let rows = (most * LANES).min(outputs - first);
        unpacked.fill(matrix, first, rows);
        for tile in tiles * part / parts..tiles * (part + 1) / parts {
            for panel in 0..rows.div_ceil(LANES) {
                let weights = unpacked.panel(panel, columns, matrix.packing.group_len());
                let from = first + panel * LANES;
                let bias = bias.map(|bias| &bias[from..]);
                let place = Place { to, row: tile * HEIGHT, from, outputs };
                let (height, tile) = x.tile(tile);
                match height {
                    1 => place.put::<1>(&tile, &weights, bias, matrix.packing),
                    2 => place.put::<2>(&tile, &weights, bias, matrix.packing),
                    3 => place.put::<3>(&tile, &weights, bias, matrix.packing),
                    4 => place.put::<4>(&tile, &weights, bias, matrix.packing),
                    5 => place.put::<5>(&tile, &weights, bias, matrix.packing),
                    _ => place.put::<HEIGHT>(&tile, &weights, bias, matrix.packing),
                }
            }
        }
    };
    if groups * parts == 1 {
        task(&mut Unpacked::default(), 0);
    } else {
        (0..groups * parts).into_par_iter().for_each_init(Unpacked::default, task);
    }
    y
}

/// Where a tile and a panel meet in the product.
struct Place<'a> {
    to: Shared<'a>,
    row: usize,
    from: usize,
    outputs: usize,
}

impl Place<'_> {
    fn put<const R: usize>(&self, tile: &Tile<'_>, weights: &Panel<'_>, bias: Option<&[f32]>, packing: Packing) {
        let mut y = [[0.0; LANES]; R];
        let count = LANES.min(self.outputs - self.from);
        if let Some(bias) = bias {
            y.iter_mut().for_each(|y| y[..count].copy_from_slice(&bias[..count]));
        }
        meet(tile, weights, &mut y, packing);
        for (row, y) in y.iter().enumerate() {
            self.to.part((self.row + row) * self.outputs + self.from, count).copy_from_slice(&y[..count]);
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn meet<const R: usize>(x: &Tile<'_>, weights: &Panel<'_>, y: &mut [[f32; LANES]; R], packing: Packing) {
    use super::vnni::multiply;
    let is_least = !weights.minima.is_empty();
    // SAFETY: callers asked [`is_possible`], which asks the processor for these instructions.
    #[allow(unsafe_code)]
    unsafe {
        match (packing.group_len(), is_least) {
            (16, false) => multiply::<R, 4, false>(x, weights, y),
            (16, true) => multiply::<R, 4, true>(x, weights, y),
            (_, false) => multiply::<R, 8, false>(x, weights, y),
            (_, true) => multiply::<R, 8, true>(x, weights, y),
        }
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn meet<const R: usize>(_x: &Tile<'_>, _weights: &Panel<'_>, _y: &mut [[f32; LANES]; R], packing: Packing) {
    unreachable!("a product in integers of {packing:?}, which `is_possible` says there is not");
}
