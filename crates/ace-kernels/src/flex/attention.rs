//! Attention that never holds more scores than one core works on.
//!
//! Forward, every task takes some queries of one head: their scores against all keys, the softmax, the product with the
//! values. Backward, scores are computed again from queries, keys and the logarithm of each softmax's sum, some queries
//! against some keys at a time:
//!
//! ```text
//! P  = exp(factor·Q·Kᵀ − lse)          dP = dO·Vᵀ         dS = factor·P∘(dP − rowsum(dO∘O))
//! dV = Pᵀ·dO                           dQ = dS·K          dK = dSᵀ·Q
//! ```
//!
//! How the work is cut depends on the sizes alone, and what several tasks add to is added in their order: the number of
//! threads changes no bit.

use super::{
    halves::{narrow, turn},
    memory::{New, Shared, each},
    product::{Into, Matrix, multiply},
    simd::{exp, largest, sum, sum2, wide},
    tile::{PANEL, Plus, Strips, multiply_pairs},
    transpose::transpose,
};
use burn_flex::FlexTensor;

/// Queries of a forward task.
const QUERIES: usize = 128;
/// Queries and keys whose scores a backward task looks at together: two such tiles stay in a core's cache.
const TILE: [usize; 2] = [256, 256];
/// Backward, a head's keys are cut into pieces until there are so many tasks.
const TASKS: usize = 16;

/// Sizes of one attention.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub batch: usize,
    pub heads: usize,
    pub queries: usize,
    pub keys: usize,
    /// Features of a query and a key.
    pub width: usize,
    /// Features of a value.
    pub value_width: usize,
    /// What scores are multiplied with.
    pub factor: f32,
}

/// `[batch, heads, len, width]` with rows that lie together; every other axis may be anywhere.
#[derive(Clone, Copy)]
pub struct Heads<'a> {
    numbers: &'a [f32],
    steps: [usize; 3],
}

impl<'a> Heads<'a> {
    /// In a slice, with the distances between batches, heads and rows.
    pub fn new(numbers: &'a [f32], steps: [usize; 3]) -> Self {
        Self { numbers, steps }
    }

    /// `None` if the rows of the tensor do not lie together.
    pub fn of(tensor: &'a FlexTensor) -> Option<Self> {
        let strides = tensor.layout().strides();
        let &[batch, head, row, 1] = strides else { return None };
        let steps = [batch.try_into().ok()?, head.try_into().ok()?, row.try_into().ok()?];
        Some(Self { numbers: &tensor.storage()[tensor.layout().start_offset()..], steps })
    }

    /// From a row of one head on.
    fn from(&self, batch: usize, head: usize, row: usize) -> &'a [f32] {
        &self.numbers[batch * self.steps[0] + head * self.steps[1] + row * self.steps[2]..]
    }

    fn matrix(&self, batch: usize, head: usize, first: usize, count: usize, width: usize) -> Matrix<'a> {
        Matrix::new(self.from(batch, head, first), count, width, self.steps[2])
    }
}

/// As [`Heads`], to be written.
#[derive(Clone, Copy)]
pub struct HeadsOut<'a> {
    pub numbers: Shared<'a>,
    pub steps: [usize; 3],
}

/// `softmax(factor·q·kᵀ)·v` into `out`, and the logarithm of each softmax's sum into `lse`, `[batch, heads, queries]`.
pub fn forward(sizes: Sizes, [q, k, v]: [Heads<'_>; 3], out: HeadsOut<'_>, lse: &mut [f32]) {
    let Sizes { batch, heads, queries, keys, width, value_width, factor } = sizes;
    let mut turned = New::of(batch * heads * width * keys);
    let columns = turned.shared();
    each(batch * heads, batch * heads * width * keys, |head| {
        let to = columns.part(head * width * keys, width * keys);
        transpose(k.from(head / heads, head % heads, 0), keys, width, k.steps[2], to, keys);
    });
    let turned = &*turned.all();
    let lse = Shared::of(lse);
    let blocks = queries.div_ceil(QUERIES);
    each(batch * heads * blocks, batch * heads * queries * keys, |task| {
        let (head, first) = (task / blocks, task % blocks * QUERIES);
        let (b, h, count) = (head / heads, head % heads, QUERIES.min(queries - first));
        let mut room = New::of(count * (keys + value_width));
        let (scores, values) = room.all().split_at_mut(count * keys);
        let k = Matrix::new(&turned[head * width * keys..], width, keys, keys);
        multiply(scores, keys, Into::Place, factor, q.matrix(b, h, first, count, width), k, false);
        let lse = lse.part(head * queries + first, count);
        softmax(scores, keys, lse);
        let p = Matrix::new(scores, count, keys, keys);
        multiply(values, value_width, Into::Place, 1.0, p, v.matrix(b, h, 0, keys, value_width), false);
        for (i, row) in values.chunks_exact(value_width).enumerate() {
            let start = b * out.steps[0] + h * out.steps[1] + (first + i) * out.steps[2];
            out.numbers.part(start, value_width).copy_from_slice(row);
        }
    });
}

/// Gradients of q, k and v, each `[batch, heads, len, width]` one after the other, from that of `out`.
pub fn backward(
    sizes: Sizes,
    [q, k, v]: [Heads<'_>; 3],
    out: Heads<'_>,
    lse: &[f32],
    out_gradient: Heads<'_>,
    [dq, dk, dv]: [&mut [f32]; 3],
) {
    let Sizes { batch, heads, queries, keys, width, value_width, factor } = sizes;
    let mut dots = vec![0.0; batch * heads * queries];
    let shared = Shared::of(&mut dots);
    each(batch * heads, batch * heads * queries * value_width, |head| {
        let (b, h) = (head / heads, head % heads);
        for (i, dot) in shared.part(head * queries, queries).iter_mut().enumerate() {
            *dot = row_dot(&out.from(b, h, i)[..value_width], &out_gradient.from(b, h, i)[..value_width]);
        }
    });

    let pieces = TASKS.div_ceil(batch * heads).clamp(1, keys.div_ceil(TILE[1]).max(1));
    let per_piece = keys.div_ceil(pieces);
    // What each piece of the keys adds to the queries' gradients.
    let mut parts = New::of(if pieces > 1 { pieces * dq.len() } else { 0 });
    let whole = dq.len();
    {
        let dq = if pieces > 1 { parts.shared() } else { Shared::of(&mut *dq) };
        let (dk, dv) = (Shared::of(dk), Shared::of(dv));
        each(batch * heads * pieces, batch * heads * queries * keys, |task| {
            let (head, piece) = (task / pieces, task % pieces);
            let (b, h) = (head / heads, head % heads);
            let dq = dq.part(piece * whole + head * queries * width, queries * width);
            let (start, end) = (piece * per_piece, ((piece + 1) * per_piece).min(keys));
            if start >= end {
                dq.fill(0.0);
            }
            // Tiles of about the same size.
            let tiles = (end.saturating_sub(start)).div_ceil(TILE[1]).max(1);
            let per_tile = end.saturating_sub(start).div_ceil(tiles).max(1);
            let mut room = New::of(per_tile * (width + value_width + 2 * TILE[0]));
            let room = room.all();
            for first in (start..end).step_by(per_tile) {
                let count = per_tile.min(end - first);
                let (k_turned, rest) = room.split_at_mut(width * count);
                let (v_turned, rest) = rest.split_at_mut(value_width * count);
                let (scores, rest) = rest.split_at_mut(TILE[0] * count);
                let gradients = &mut rest[..TILE[0] * count];
                transpose(k.from(b, h, first), count, width, k.steps[2], k_turned, count);
                transpose(v.from(b, h, first), count, value_width, v.steps[2], v_turned, count);
                let dk = dk.part((head * keys + first) * width, count * width);
                let dv = dv.part((head * keys + first) * value_width, count * value_width);
                for row in (0..queries).step_by(TILE[0]) {
                    let rows = TILE[0].min(queries - row);
                    let (scores, gradients) = (&mut scores[..rows * count], &mut gradients[..rows * count]);
                    let q = q.matrix(b, h, row, rows, width);
                    let dout = out_gradient.matrix(b, h, row, rows, value_width);
                    multiply(scores, count, Into::Place, factor, q, Matrix::new(k_turned, width, count, count), false);
                    let v = Matrix::new(v_turned, value_width, count, count);
                    multiply(gradients, count, Into::Place, 1.0, dout, v, false);
                    let at = head * queries + row;
                    soften(scores, gradients, count, &lse[at..][..rows], &dots[at..][..rows], factor);
                    let weights = Matrix::new(scores, rows, count, count);
                    let gradients = Matrix::new(gradients, rows, count, count);
                    let into = if row == 0 { Into::Place } else { Into::Sum };
                    multiply(dv, value_width, into, 1.0, weights.transposed(), dout, false);
                    multiply(dk, width, into, 1.0, gradients.transposed(), q, false);
                    let into = if first == start { Into::Place } else { Into::Sum };
                    let k = k.matrix(b, h, first, count, width);
                    multiply(&mut dq[row * width..][..rows * width], width, into, 1.0, gradients, k, false);
                }
            }
        });
    }
    if pieces > 1 {
        let parts = &*parts.all();
        let (dq, len) = (Shared::of(dq), queries * width);
        each(batch * heads, pieces * whole, |head| {
            let out = dq.part(head * len, len);
            out.copy_from_slice(&parts[head * len..][..len]);
            for piece in 1..pieces {
                add(out, &parts[piece * whole + head * len..][..len]);
            }
        });
    }
}

/// As [`forward`] without the sums, in bf16 with sums in f32: queries, keys, values and weights are rounded.
///
/// # Panics
/// If `width` is odd, or the processor does not multiply pairs.
pub fn forward_halves(sizes: Sizes, [q, k, v]: [Heads<'_>; 3], out: HeadsOut<'_>) {
    let Sizes { batch, heads, queries, keys, width, value_width, factor } = sizes;
    let (depth, key_pairs) = (width / 2, keys.div_ceil(2));
    // Of each head: keys as panels of 32 keys, values as panels of 32 features.
    let (key_panels, value_panels) = (keys.div_ceil(PANEL), value_width.div_ceil(PANEL));
    let (of_keys, of_values) = (key_panels * depth * PANEL, value_panels * key_pairs * PANEL);
    let mut turned = New::<u32>::room(batch * heads * (of_keys + of_values));
    let to = turned.shared();
    each(batch * heads, batch * heads * (width + value_width) * keys, |head| {
        let (b, h) = (head / heads, head % heads);
        let (k_panels, v_panels) = to.part(head * (of_keys + of_values), of_keys + of_values).split_at_mut(of_keys);
        let mut rows = vec![0_u32; PANEL * depth];
        for (panel, to) in k_panels.chunks_exact_mut(depth * PANEL).enumerate() {
            let count = PANEL.min(keys - panel * PANEL);
            for (i, row) in rows.chunks_exact_mut(depth).enumerate().take(count) {
                narrow(&k.from(b, h, panel * PANEL + i)[..width], bytemuck::cast_slice_mut(row));
            }
            turn(&rows, count, depth, to);
        }
        let nothing = vec![0.0; value_width];
        for pair in 0..key_pairs {
            let row = |key: usize| if key < keys { &v.from(b, h, key)[..value_width] } else { &nothing };
            let (first, second) = (row(2 * pair), row(2 * pair + 1));
            for (panel, to) in v_panels.chunks_exact_mut(key_pairs * PANEL).enumerate() {
                let columns = panel * PANEL..value_width.min((panel + 1) * PANEL);
                let to = &mut to[pair * PANEL..][..PANEL];
                if columns.len() < PANEL {
                    to.fill(0);
                }
                interleave(&first[columns.clone()], &second[columns], to);
            }
        }
    });
    let turned = &*turned.all();
    let blocks = queries.div_ceil(QUERIES);
    each(batch * heads * blocks, batch * heads * queries * keys, |task| {
        let (head, first) = (task / blocks, task % blocks * QUERIES);
        let (b, h, count) = (head / heads, head % heads, QUERIES.min(queries - first));
        let (k_panels, v_panels) = turned[head * (of_keys + of_values)..][..of_keys + of_values].split_at(of_keys);
        let (mut rows, mut scaled) = (vec![0_u32; count * depth], vec![0.0; width]);
        for (i, row) in rows.chunks_exact_mut(depth).enumerate() {
            scale(&q.from(b, h, first + i)[..width], factor, &mut scaled);
            narrow(&scaled, bytemuck::cast_slice_mut(row));
        }
        let mut room = New::of(count * (keys + value_width + 1));
        let (scores, rest) = room.all().split_at_mut(count * keys);
        let (values, sums) = rest.split_at_mut(count * value_width);
        let strips = Strips { numbers: &rows, step: depth, count, offsets: &[0], depth };
        for (panel, k) in k_panels.chunks_exact(depth * PANEL).enumerate() {
            let at = panel * PANEL;
            multiply_pairs(strips, k, &mut scores[at..], keys, PANEL.min(keys - at), Plus::default());
        }
        softmax(scores, keys, sums);
        let mut weights = vec![0_u32; count * key_pairs];
        for (scores, weights) in scores.chunks_exact(keys).zip(weights.chunks_exact_mut(key_pairs)) {
            narrow(scores, &mut bytemuck::cast_slice_mut(weights)[..keys]);
        }
        let strips = Strips { numbers: &weights, step: key_pairs, count, offsets: &[0], depth: key_pairs };
        for (panel, v) in v_panels.chunks_exact(key_pairs * PANEL).enumerate() {
            let at = panel * PANEL;
            let columns = PANEL.min(value_width - at);
            multiply_pairs(strips, v, &mut values[at..], value_width, columns, Plus::default());
        }
        for (i, row) in values.chunks_exact(value_width).enumerate() {
            let start = b * out.steps[0] + h * out.steps[1] + (first + i) * out.steps[2];
            out.numbers.part(start, value_width).copy_from_slice(row);
        }
    });
}

wide! {
    /// Rows of scores become weights that sum to one; `lse` gets the logarithms of the sums before.
    fn softmax(scores: &mut [f32], keys: usize, lse: &mut [f32]) {
        for (row, lse) in scores.chunks_exact_mut(keys).zip(lse) {
            let most = largest(row);
            row.iter_mut().for_each(|score| *score = exp(*score - most));
            let total = sum(row, |weight| weight);
            let factor = 1.0 / total;
            row.iter_mut().for_each(|weight| *weight *= factor);
            *lse = most + total.ln();
        }
    }

    /// Scores become weights, and gradients of weights gradients of scores before `factor`.
    fn soften(scores: &mut [f32], gradients: &mut [f32], keys: usize, lse: &[f32], dots: &[f32], factor: f32) {
        let rows = scores.chunks_exact_mut(keys).zip(gradients.chunks_exact_mut(keys));
        for ((scores, gradients), (lse, dot)) in rows.zip(lse.iter().zip(dots)) {
            for (score, gradient) in scores.iter_mut().zip(gradients) {
                let weight = exp(*score - lse);
                *score = weight;
                *gradient = weight * (*gradient - dot) * factor;
            }
        }
    }

    fn scale(from: &[f32], factor: f32, to: &mut [f32]) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to = from * factor);
    }

    /// Numbers of two rows in pairs of bf16, rounded to the nearest.
    fn interleave(first: &[f32], second: &[f32], to: &mut [u32]) {
        for ((to, first), second) in to.iter_mut().zip(first).zip(second) {
            let half = |number: f32| {
                let bits = number.to_bits();
                let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1))) >> 16;
                if number.is_nan() { bits >> 16 | 0x40 } else { rounded }
            };
            *to = half(*first) | half(*second) << 16;
        }
    }

    fn row_dot(a: &[f32], b: &[f32]) -> f32 {
        sum2(a, b, |a, b| a * b)
    }

    fn add(to: &mut [f32], what: &[f32]) {
        to.iter_mut().zip(what).for_each(|(to, what)| *to += what);
    }
}
