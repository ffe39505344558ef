//! A 3×3 convolution with a quarter of the multiplications: Winograd's minimal filtering, F(4×4, 3×3).
//!
//! Four by four pixels of the output depend on six by six of the input. Both they and the weights are taken as polynomials
//! and evaluated at six points along each axis; there a convolution is a product of numbers, and a sum over channels makes 36
//! matrix products of it (A. Lavin and S. Gray, *Fast Algorithms for Convolutional Neural Networks*, 2015). With the usual
//! points 0, ±1, ±2 and ∞ the error is four times that of adding up; with 0, ±3/4, ±3/2 and ∞ less than twice (measured
//! over 256 channels: 3.1e-6, 1.5e-6 and 0.9e-6), and all factors are exact in f32.

use super::{
    super::{
        memory::{New, Shared, each},
        simd::wide,
        tile::{PANEL, Plus, ROWS, Strips, multiply},
    },
    Source, Target,
};
use crate::conv::Convolution;
use rayon::prelude::*;
use std::{
    ops::{Add, Mul, Sub},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Pixels of the output along a side of a tile.
const TILE: usize = 4;
/// Pixels of the input that they depend on, and points of evaluation.
const POINTS: usize = TILE + 2;
/// Matrix products.
const PRODUCTS: usize = POINTS * POINTS;
/// Channels that are turned at a time.
const LANES: usize = 16;

/// The points besides 0 and ∞ are ±A and ±B.
const A: f32 = 0.75;
const B: f32 = 1.5;

/// The numbers of some channels at one place.
#[derive(Clone, Copy)]
struct Lanes([f32; LANES]);

impl Lanes {
    const ZERO: Self = Self([0.0; LANES]);

    /// The first numbers of a slice.
    #[inline(always)]
    fn of(numbers: &[f32]) -> Self {
        let mut lanes = Self::ZERO;
        lanes.0.copy_from_slice(&numbers[..LANES]);
        lanes
    }

    #[inline(always)]
    fn write(self, to: &mut [f32]) {
        to[..LANES].copy_from_slice(&self.0);
    }
}

impl Add for Lanes {
    type Output = Self;

    #[inline(always)]
    fn add(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a += b);
        self
    }
}

impl Sub for Lanes {
    type Output = Self;

    #[inline(always)]
    fn sub(mut self, other: Self) -> Self {
        self.0.iter_mut().zip(other.0).for_each(|(a, b)| *a -= b);
        self
    }
}

impl Mul<f32> for Lanes {
    type Output = Self;

    #[inline(always)]
    fn mul(mut self, factor: f32) -> Self {
        self.0.iter_mut().for_each(|a| *a *= factor);
        self
    }
}

/// Whether a convolution is one of these.
pub fn takes(kernel: usize, how: Convolution, input: usize, output: usize) -> bool {
    kernel == 3
        && how.stride == 1
        && how.padding == (1, 1)
        && input.is_multiple_of(LANES)
        && output.is_multiple_of(PANEL)
        && input >= PANEL
}

/// Tiles of a picture, row by row, picture by picture.
#[derive(Clone, Copy)]
struct Grid {
    rows: usize,
    columns: usize,
    all: usize,
}

pub fn forward(source: Source<'_>, weight: &[f32], target: &Target<'_>, out: &mut New) {
    let (input, sizes) = (source.sizes.channels, target.sizes);
    let output = sizes.channels;
    let mut turned = New::of(PRODUCTS * input * output);
    turn_weights(weight, input, output, turned.shared());
    let turned = &*turned.all();
    let (rows, columns) = (sizes.height.div_ceil(TILE), sizes.width.div_ceil(TILE));
    let grid = Grid { rows, columns, all: sizes.batch * rows * columns };

    // As many tiles at a time as stay in the processor's caches, the same number for each core where there are few.
    let workers = rayon::current_num_threads();
    let most = if input + output > 512 { 4 } else { 8 } * ROWS;
    let together = grid.all.div_ceil(workers).next_multiple_of(ROWS).min(most);
    let (next, out) = (AtomicUsize::new(0), out.shared());
    (0..workers.min(grid.all.div_ceil(together))).into_par_iter().for_each(|_| {
        let mut block = Block::new(together, input, output);
        loop {
            let first = next.fetch_add(together, Ordering::Relaxed);
            if first >= grid.all {
                break;
            }
            block.run(first, together.min(grid.all - first), grid, &source, turned, target, out);
        }
    });
}

/// The numbers of some tiles at every point. Rows of tiles are a little longer than their numbers: lines of the
/// cache would share a place otherwise.
struct Block {
    inputs: New,
    outputs: New,
    input: usize,
    output: usize,
    together: usize,
}

impl Block {
    fn new(together: usize, input: usize, output: usize) -> Self {
        let room = |channels: usize| New::of(PRODUCTS * Self::point(together, channels));
        Self { inputs: room(input), outputs: room(output), input, output, together }
    }

    /// Numbers of a tile at one point.
    const fn row(channels: usize) -> usize {
        channels + LANES
    }

    /// Numbers of all tiles at one point.
    const fn point(together: usize, channels: usize) -> usize {
        together * Self::row(channels) + 5 * LANES
    }

    #[allow(clippy::too_many_arguments)]
    fn run(
        &mut self,
        first: usize,
        count: usize,
        grid: Grid,
        source: &Source<'_>,
        weights: &[f32],
        target: &Target<'_>,
        out: Shared<'_>,
    ) {
        let (input, output) = (self.input, self.output);
        let (row, point) = (Self::row(input), Self::point(self.together, input));
        let (out_row, out_point) = (Self::row(output), Self::point(self.together, output));
        for tile in 0..count {
            let at = Place::of(first + tile, grid);
            turn_input(source, at, &mut self.inputs.all()[tile * row..], point);
        }
        let outputs = self.outputs.all();
        for (index, weights) in weights.chunks_exact(input * output).enumerate() {
            let numbers = &self.inputs.all()[index * point..];
            let strips = Strips { numbers, step: row, count, offsets: &[0], depth: input };
            for (panel, weights) in weights.chunks_exact(input * PANEL).enumerate() {
                let to = &mut outputs[index * out_point + panel * PANEL..];
                multiply(strips, weights, to, out_row, PANEL, Plus::default());
            }
        }
        for tile in 0..count {
            turn_output(&outputs[tile * out_row..], out_point, Place::of(first + tile, grid), target, out);
        }
    }
}

/// Where a tile begins in the output.
#[derive(Clone, Copy)]
struct Place {
    picture: usize,
    y: usize,
    x: usize,
}

impl Place {
    fn of(tile: usize, grid: Grid) -> Self {
        let (row, column) = (tile / grid.columns, tile % grid.columns);
        Self { picture: row / grid.rows, y: row % grid.rows * TILE, x: column * TILE }
    }
}

/// Six numbers at the six points: `Bᵀd`.
#[inline(always)]
fn evaluate(d: [Lanes; POINTS]) -> [Lanes; POINTS] {
    const AA: f32 = A * A;
    const BB: f32 = B * B;
    let (even_a, odd_a) = (d[4] - d[2] * BB, (d[3] - d[1] * BB) * A);
    let (even_b, odd_b) = (d[4] - d[2] * AA, (d[3] - d[1] * AA) * B);
    [
        d[0] * (AA * BB) - d[2] * (AA + BB) + d[4],
        even_a + odd_a,
        even_a - odd_a,
        even_b + odd_b,
        even_b - odd_b,
        d[1] * (AA * BB) - d[3] * (AA + BB) + d[5],
    ]
}

/// Four numbers from their values at the six points: `Aᵀm`.
#[inline(always)]
fn collect(m: [Lanes; POINTS]) -> [Lanes; TILE] {
    let (sum_a, difference_a) = (m[1] + m[2], m[1] - m[2]);
    let (sum_b, difference_b) = (m[3] + m[4], m[3] - m[4]);
    [
        m[0] + sum_a + sum_b,
        difference_a * A + difference_b * B,
        sum_a * (A * A) + sum_b * (B * B),
        difference_a * (A * A * A) + difference_b * (B * B * B) + m[5],
    ]
}

/// Three weights at the six points: `Gg`.
#[inline(always)]
fn weigh(g: [Lanes; 3]) -> [Lanes; POINTS] {
    const OF_ZERO: f32 = 1.0 / (A * A * B * B);
    const OF_A: f32 = 1.0 / (2.0 * A * A * (A * A - B * B));
    const OF_B: f32 = 1.0 / (2.0 * B * B * (B * B - A * A));
    let (even_a, odd_a) = ((g[0] + g[2] * (A * A)) * OF_A, g[1] * (A * OF_A));
    let (even_b, odd_b) = ((g[0] + g[2] * (B * B)) * OF_B, g[1] * (B * OF_B));
    [g[0] * OF_ZERO, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, g[2]]
}

/// Weights `[output, input, 3, 3]` as panels at every point: `[36, output / 32, input, 32]`.
fn turn_weights(weight: &[f32], input: usize, output: usize, to: Shared<'_>) {
    let panels = output / PANEL;
    each(panels * input / LANES, PRODUCTS * input * output, |task| {
        let (panel, first) = (task % panels, task / panels * LANES);
        turn_weights_of(weight, input, output, panel, first, to);
    });
}

wide! {
    /// Sixteen input channels of a panel.
    fn turn_weights_of(weight: &[f32], input: usize, output: usize, panel: usize, first: usize, to: Shared<'_>) {
        const TAPS: usize = 9;
        for channel in first..first + LANES {
            for half in (0..PANEL).step_by(LANES) {
                let mut taps = [[Lanes::ZERO; 3]; 3];
                for lane in 0..LANES {
                    let column = panel * PANEL + half + lane;
                    let from = &weight[(column * input + channel) * TAPS..][..TAPS];
                    for (tap, number) in from.iter().enumerate() {
                        taps[tap / 3][tap % 3].0[lane] = *number;
                    }
                }
                // Along columns, then along rows.
                let rows = taps.map(weigh);
                let [first_row, second, third] = rows;
                for (x, ((a, b), c)) in first_row.into_iter().zip(second).zip(third).enumerate() {
                    let column = weigh([a, b, c]);
                    for (y, numbers) in column.into_iter().enumerate() {
                        let at = (y * POINTS + x) * input * output + (panel * input + channel) * PANEL + half;
                        numbers.write(to.part(at, LANES));
                    }
                }
            }
        }
    }

    /// The input of a tile at every point; points are `apart` numbers from each other.
    fn turn_input(source: &Source<'_>, at: Place, to: &mut [f32], apart: usize) {
        let zeros = [0.0; LANES];
        let channels = source.sizes.channels;
        let pixels: [[&[f32]; POINTS]; POINTS] = std::array::from_fn(|dy| {
            std::array::from_fn(|dx| {
                let (y, x) = ((at.y + dy) as isize - 1, (at.x + dx) as isize - 1);
                source.pixel(at.picture, y, x).unwrap_or(&zeros)
            })
        });
        for first in (0..channels).step_by(LANES) {
            let mut rows = [[Lanes::ZERO; POINTS]; POINTS];
            for (row, pixels) in rows.iter_mut().zip(&pixels) {
                // Beside the picture there are as many zeros as are read at a time.
                let lanes = |x: usize| Lanes::of(&pixels[x][if pixels[x].len() == channels { first } else { 0 }..]);
                *row = evaluate([lanes(0), lanes(1), lanes(2), lanes(3), lanes(4), lanes(5)]);
            }
            for x in 0..POINTS {
                let column = evaluate([rows[0][x], rows[1][x], rows[2][x], rows[3][x], rows[4][x], rows[5][x]]);
                for (y, numbers) in column.into_iter().enumerate() {
                    numbers.write(&mut to[(y * POINTS + x) * apart + first..]);
                }
            }
        }
    }

    /// The output of a tile from its values at every point.
    fn turn_output(from: &[f32], apart: usize, at: Place, target: &Target<'_>, out: Shared<'_>) {
        let sizes = target.sizes;
        let (height, width) = (TILE.min(sizes.height - at.y), TILE.min(sizes.width - at.x));
        for first in (0..sizes.channels).step_by(LANES) {
            let mut rows = [[Lanes::ZERO; TILE]; POINTS];
            for (y, row) in rows.iter_mut().enumerate() {
                let lanes = |x: usize| Lanes::of(&from[(y * POINTS + x) * apart + first..]);
                *row = collect([lanes(0), lanes(1), lanes(2), lanes(3), lanes(4), lanes(5)]);
            }
            let bias = target.bias.map_or(Lanes::ZERO, |bias| Lanes::of(&bias[first..]));
            // Along the other axis, and the tile's columns at last, all of them: how many are written is no reason to count.
            let column = |x: usize| collect([rows[0][x], rows[1][x], rows[2][x], rows[3][x], rows[4][x], rows[5][x]]);
            for (x, column) in [column(0), column(1), column(2), column(3)].into_iter().enumerate().take(width) {
                for (y, mut numbers) in column.into_iter().enumerate().take(height) {
                    let pixel = (at.picture * sizes.height + at.y + y) * sizes.width + at.x + x;
                    let start = pixel * sizes.channels + first;
                    numbers = numbers + bias;
                    if let Some(plus) = target.plus {
                        numbers = numbers + Lanes::of(&plus[start..]);
                    }
                    numbers.write(out.part(start, LANES));
                }
            }
        }
    }
}
