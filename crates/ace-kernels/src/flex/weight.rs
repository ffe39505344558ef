//! Products with a weight in f32 or 16 bits. Some of its rows are widened and turned at a time, by all cores; the wide
//! weight never exists.

use super::{
    halves::widen,
    memory::{New, Rows, Shared, each, each_rows},
    product::{Into, Matrix, multiply},
    transpose::transpose,
};
use burn::tensor::{DType, bf16, f16};
use burn_flex::FlexTensor;

/// Rows that are widened and turned at a time.
const PANEL: usize = 512;
/// Columns of them that one task turns.
const STRIP: usize = 128;
/// Fewer rows of x do not repay the turning.
const FEW: usize = 64;

/// A matrix `[out, in]`.
pub struct Weight<'a> {
    numbers: Numbers<'a>,
    pub output: usize,
    pub input: usize,
}

#[derive(Clone, Copy)]
enum Numbers<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
    F16(&'a [f16]),
}

/// A tensor that [`Weight::of`] understands: itself, or a copy.
pub fn in_order(weight: FlexTensor) -> FlexTensor {
    if weight.is_contiguous() { weight } else { weight.to_contiguous() }
}

impl<'a> Weight<'a> {
    /// # Panics
    /// If the tensor is none that [`in_order`] gave, has not two axes, or is no float.
    pub fn of(tensor: &'a FlexTensor) -> Self {
        let numbers = match tensor.dtype() {
            DType::F32 => tensor.as_slice().map(Numbers::F32),
            DType::BF16 => tensor.as_slice().map(Numbers::Bf16),
            DType::F16 => tensor.as_slice().map(Numbers::F16),
            _ => None,
        };
        let Some(numbers) = numbers else { panic!("a matrix of floats in order, not {tensor:?}") };
        let [output, input] = [0, 1].map(|axis| tensor.layout().shape()[axis]);
        Self { numbers, output, input }
    }

    /// `x·Wᵀ`
    pub fn times(&self, y: &mut [f32], into: Into, x: Rows<'_>) {
        let (input, output) = (self.input, self.output);
        if let (Numbers::F32(weight), true) = (self.numbers, x.count < FEW) {
            let weight = Matrix::new(weight, output, input, input).transposed();
            return multiply(y, output, into, 1.0, x.matrix(), weight, true);
        }
        let mut turned = New::of(PANEL.min(output) * input);
        for first in (0..output).step_by(PANEL) {
            let count = PANEL.min(output - first);
            self.turn(first, count, turned.shared());
            let panel = Matrix::new(turned.all(), input, count, count);
            multiply(&mut y[first..], output, into, 1.0, x.matrix(), panel, true);
        }
    }

    /// `y·W`: the gradient of x from that of the product.
    pub fn times_back(&self, dx: &mut [f32], y: Rows<'_>) {
        let (input, output) = (self.input, self.output);
        if let Numbers::F32(weight) = self.numbers {
            let weight = Matrix::new(weight, output, input, input);
            return multiply(dx, input, Into::Place, 1.0, y.matrix(), weight, true);
        }
        let mut widened = New::of(PANEL.min(output) * input);
        for first in (0..output).step_by(PANEL) {
            let count = PANEL.min(output - first);
            let to = widened.shared();
            each_rows(count, input, |row, rows| {
                self.widen((first + row) * input, to.part(row * input, rows * input));
            });
            let panel = Matrix::new(widened.all(), count, input, input);
            let into = if first == 0 { Into::Place } else { Into::Sum };
            multiply(dx, input, into, 1.0, y.columns(first, count), panel, true);
        }
    }

    /// Rows as columns: `count` numbers for each column of the weight.
    fn turn(&self, first: usize, count: usize, to: Shared<'_>) {
        let input = self.input;
        each(input.div_ceil(STRIP), count * input, |task| {
            let at = task * STRIP;
            let strip = STRIP.min(input - at);
            let to = to.part(at * count, strip * count);
            match self.numbers {
                Numbers::F32(weight) => transpose(&weight[first * input + at..], count, strip, input, to, count),
                _ => {
                    let mut wide = New::of(count * strip);
                    for (row, wide) in wide.all().chunks_exact_mut(strip).enumerate() {
                        self.widen((first + row) * input + at, wide);
                    }
                    transpose(wide.all(), count, strip, strip, to, count);
                }
            }
        });
    }

    /// As many numbers as there is room for, from `start` on.
    fn widen(&self, start: usize, to: &mut [f32]) {
        let len = to.len();
        match self.numbers {
            Numbers::F32(weight) => to.copy_from_slice(&weight[start..][..len]),
            Numbers::Bf16(weight) => widen(&weight[start..][..len], to),
            Numbers::F16(weight) => {
                to.iter_mut().zip(&weight[start..][..len]).for_each(|(to, from)| *to = from.to_f32());
            }
        }
    }
}
