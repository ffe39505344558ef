//! Products in bf16 with the processor's own instruction for them: two products of 16 bits in the time of one of 32, added
//! up in f32.
//!
//! Only without gradients, and only where the processor has the instruction; otherwise numbers of 16 bits are widened.

use super::{
    Maybe, RowInputs,
    linear::{self, Base, Branch},
    memory::{GRAIN, New, dense, each, each_rows, numbers, sizes},
    simd::wide,
    stream_of, streams,
    tile::{PANEL, Plus, Strips, multiply_pairs},
    transpose::transpose,
};
use burn::{
    backend::{Backend, Flex, backend_extension, tensor::FloatTensor},
    tensor::{Shape, bf16},
};
use burn_flex::FlexTensor;

/// Panels of the weight that a task turns and multiplies with: they stay in a core's cache.
const PANELS: usize = 4;
/// Rows of x that are worth a turning of the weight of their own.
const ROWS: usize = 384;
/// Rows of x that are multiplied with every panel before the next ones.
const TOGETHER: usize = 48;

/// What is done in bf16. Callers have checked shapes, types, devices, and [`super::tile::multiplies_pairs`].
#[backend_extension(Flex)]
pub trait Halves: Backend {
    /// `x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ` of x and W in bf16, into bf16; bias and low rank are f32.
    #[allow(clippy::too_many_arguments)]
    fn project_halves(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        #[extension_type] a: Maybe<Self>,
        #[extension_type] b: Maybe<Self>,
        scale: f64,
    ) -> FloatTensor<Self>;

    /// As [`super::Own::attend_rows`], with products in bf16.
    #[allow(clippy::too_many_arguments)]
    fn attend_rows_in_halves(
        first: FloatTensor<Self>,
        query_scale: FloatTensor<Self>,
        key_scale: FloatTensor<Self>,
        #[extension_type] second: Maybe<Self>,
        #[extension_type] second_query_scale: Maybe<Self>,
        #[extension_type] second_key_scale: Maybe<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        heads: usize,
        epsilon: f64,
    ) -> FloatTensor<Self>;

    /// f32 rounded to bf16.
    fn halve(x: FloatTensor<Self>) -> FloatTensor<Self>;

    /// bf16 as f32.
    fn unhalve(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

impl Halves for Flex {
    fn project_halves(
        x: FlexTensor,
        weight: FlexTensor,
        bias: Maybe<Self>,
        a: Maybe<Self>,
        b: Maybe<Self>,
        scale: f64,
    ) -> FlexTensor {
        let (x, weight) = (in_order(x), in_order(weight));
        let [output, input] = [0, 1].map(|axis| weight.layout().shape()[axis]);
        let mut shape = sizes(&x);
        let rows = shape.iter().product::<usize>() / input;
        if let Some(last) = shape.last_mut() {
            *last = output;
        }
        let bias = bias.get().map(dense);
        let bias_numbers = bias.as_ref().map(numbers);
        let product = Product { x: pairs(&x), rows, weight: pairs(&weight), output, input };
        let Some((a, b)) = a.get().zip(b.get()) else {
            let mut y = New::<bf16>::room(rows * output);
            let to = y.shared();
            product.each_part(bias_numbers, |at, sums| narrow(sums, to.part(at, sums.len())));
            return y.tensor(Shape::from(shape));
        };
        let mut y = New::of(rows * output);
        let to = y.shared();
        product.each_part(None, |at, sums| to.part(at, sums.len()).copy_from_slice(sums));
        let branch = Branch { a, b, scale: scale as f32 };
        halve(linear::forward(unhalve(x), (Base::Sum, y.tensor(Shape::from(shape))), bias, Some(branch)).0)
    }

    fn attend_rows_in_halves(
        first: FlexTensor,
        query_scale: FlexTensor,
        key_scale: FlexTensor,
        second: Maybe<Self>,
        second_query_scale: Maybe<Self>,
        second_key_scale: Maybe<Self>,
        cos: FlexTensor,
        sin: FlexTensor,
        heads: usize,
        epsilon: f64,
    ) -> FlexTensor {
        let second = stream_of(second, second_query_scale, second_key_scale);
        let inputs = RowInputs::new([first, query_scale, key_scale], second, [cos, sin], heads, epsilon);
        streams::forward_halves(&inputs.streams(), inputs.common())
    }

    fn halve(x: FlexTensor) -> FlexTensor {
        halve(x)
    }

    fn unhalve(x: FlexTensor) -> FlexTensor {
        unhalve(x)
    }
}

/// A tensor of bf16 whose numbers lie one after the other: itself, or a copy.
fn in_order(tensor: FlexTensor) -> FlexTensor {
    if tensor.as_slice::<bf16>().is_some() { tensor } else { tensor.to_contiguous() }
}

fn halves(tensor: &FlexTensor) -> &[bf16] {
    let Some(numbers) = tensor.as_slice() else { panic!("a dense tensor of bf16, not {tensor:?}") };
    numbers
}

/// The numbers of a tensor that [`in_order`] gave, in pairs.
///
/// # Panics
/// If the first does not lie at a pair's place, or there is half a pair: callers see to it.
fn pairs(tensor: &FlexTensor) -> &[u32] {
    bytemuck::cast_slice(halves(tensor))
}

/// `x·Wᵀ`
struct Product<'a> {
    /// `[rows, input / 2]`
    x: &'a [u32],
    rows: usize,
    /// `[output, input / 2]`
    weight: &'a [u32],
    output: usize,
    input: usize,
}

impl Product<'_> {
    /// Calls `write` with parts of the output's rows: where they begin, and their numbers.
    fn each_part(&self, bias: Option<&[f32]>, write: impl Fn(usize, &[f32]) + Sync + Send) {
        let (depth, output) = (self.input / 2, self.output);
        let width = PANEL * PANELS;
        // All rows with one turning of the weight, if that leaves work for every core.
        let across = output.div_ceil(width);
        let down = if across >= 4 * rayon::current_num_threads() { 1 } else { self.rows.div_ceil(ROWS) };
        let together = self.rows.div_ceil(down);
        each(across * down, self.rows * output * depth, |task| {
            let (first, top) = (task % across * width, task / across * together);
            let (columns, bottom) = (width.min(output - first), (top + together).min(self.rows));
            let mut turned = New::<u32>::room(depth * width);
            for (panel, to) in turned.all().chunks_exact_mut(depth * PANEL).enumerate().take(columns.div_ceil(PANEL)) {
                let at = panel * PANEL;
                let count = PANEL.min(columns - at);
                turn(&self.weight[(first + at) * depth..][..count * depth], count, depth, to);
            }
            let mut sums = New::of(TOGETHER * width);
            let sums = sums.all();
            for row in (top..bottom).step_by(TOGETHER) {
                let count = TOGETHER.min(bottom - row);
                let strips = Strips { numbers: &self.x[row * depth..], step: depth, count, offsets: &[0], depth };
                for (panel, from) in turned.all().chunks_exact(depth * PANEL).enumerate().take(columns.div_ceil(PANEL))
                {
                    let at = panel * PANEL;
                    let plus = Plus { bias: bias.map(|bias| &bias[first + at..]), rows: None };
                    multiply_pairs(strips, from, &mut sums[at..], width, PANEL.min(columns - at), plus);
                }
                for (i, sums) in sums.chunks_exact(width).enumerate().take(count) {
                    write((row + i) * output + first, &sums[..columns]);
                }
            }
        });
    }
}

/// Rows of pairs as a panel: `[depth, PANEL]`. Columns beyond the rows are zeros.
pub fn turn(rows: &[u32], count: usize, depth: usize, panel: &mut [u32]) {
    if count < PANEL {
        panel.fill(0);
    }
    // Pairs are moved, not computed with.
    transpose(bytemuck::cast_slice(rows), count, depth, depth, bytemuck::cast_slice_mut(panel), PANEL);
}

/// f32 rounded to bf16.
fn halve(x: FlexTensor) -> FlexTensor {
    let x = dense(x);
    let from = numbers(&x);
    let mut y = New::<bf16>::room(from.len());
    let to = y.shared();
    each_rows(from.len().div_ceil(GRAIN), GRAIN, |task, count| {
        let (first, last) = (task * GRAIN, ((task + count) * GRAIN).min(from.len()));
        narrow(&from[first..last], to.part(first, last - first));
    });
    y.tensor(x.layout().shape().clone())
}

/// bf16 as f32.
fn unhalve(x: FlexTensor) -> FlexTensor {
    let x = in_order(x);
    let from = halves(&x);
    let mut y = New::of(from.len());
    let to = y.shared();
    each_rows(from.len().div_ceil(GRAIN), GRAIN, |task, count| {
        let (first, last) = (task * GRAIN, ((task + count) * GRAIN).min(from.len()));
        widen(&from[first..last], to.part(first, last - first));
    });
    y.tensor(x.layout().shape().clone())
}

wide! {
    /// Numbers rounded to the nearest of bf16, to the even one of two.
    pub fn narrow(from: &[f32], to: &mut [bf16]) {
        for (to, from) in to.iter_mut().zip(from) {
            let bits = from.to_bits();
            let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16;
            // What is no number stays none.
            let bits = if from.is_nan() { bits >> 16 | 0x40 } else { rounded };
            *to = bf16::from_bits(bits as u16);
        }
    }

    pub fn widen(from: &[bf16], to: &mut [f32]) {
        for (to, from) in to.iter_mut().zip(from) {
            // The upper half of an f32.
            *to = f32::from_bits(u32::from(from.to_bits()) << 16);
        }
    }
}
