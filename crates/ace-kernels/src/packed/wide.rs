//! Products with packed matrices that are widened a few hundred rows at a time, on all cores, and multiplied while they are in
//! the processor's cache.

use super::codes::{Packed, STEP};
use crate::flex::{
    product::{Into, Matrix, multiply as gemm},
    simd::wide,
};
use burn::{
    prelude::*,
    tensor::{Element, bf16, f16},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// Wide numbers that exist at a time: eight megabytes.
const WIDE: usize = 1 << 21;

/// Fewer rows are not multiplied at a time.
const MIN_ROWS: usize = 64;

/// What the wide matrix would have been rounded to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Rounding {
    None,
    Bf16,
    F16,
}

wide! {
    /// Widens one row.
    fn widen(matrix: &Packed<'_>, row: usize, out: &mut [f32]) {
        for (part, out) in out.chunks_mut(STEP).enumerate() {
            matrix.widen(row, part * STEP, out);
        }
    }
}

/// The whole matrix.
pub(super) fn all<E: Element>(matrix: &Packed<'_>, number: impl Fn(f32) -> E + Sync) -> FlexTensor {
    let mut values = vec![number(0.0); matrix.rows * matrix.columns];
    let fill = |buffer: &mut Vec<f32>, (row, out): (usize, &mut [E])| {
        buffer.resize(matrix.columns, 0.0);
        widen(matrix, row, buffer);
        for (out, value) in out.iter_mut().zip(buffer) {
            *out = number(*value);
        }
    };
    values.par_chunks_mut(matrix.columns.max(1)).enumerate().for_each_init(Vec::new, fill);
    FlexTensor::from_data(TensorData::new(values, [matrix.rows, matrix.columns]))
}

/// Calls `f` with the first row and the wide numbers of as many rows as are wide at a time.
fn each_part(matrix: &Packed<'_>, rounding: Rounding, mut f: impl FnMut(usize, &[f32])) {
    let at_once = (WIDE / matrix.columns.max(1)).max(MIN_ROWS).min(matrix.rows);
    let mut wide = vec![0.0; at_once * matrix.columns];
    for first in (0..matrix.rows).step_by(at_once.max(1)) {
        let wide = &mut wide[..at_once.min(matrix.rows - first) * matrix.columns];
        wide.par_chunks_mut(matrix.columns.max(1)).enumerate().with_min_len(8).for_each(|(row, out)| {
            widen(matrix, first + row, out);
            match rounding {
                Rounding::None => (),
                Rounding::Bf16 => out.iter_mut().for_each(|value| *value = bf16::from_f32(*value).to_f32()),
                Rounding::F16 => out.iter_mut().for_each(|value| *value = f16::from_f32(*value).to_f32()),
            }
        });
        f(first, wide);
    }
}

/// `x·Wᵀ`
pub(super) fn multiply(matrix: &Packed<'_>, x: &[f32], rounding: Rounding) -> Vec<f32> {
    let (outputs, columns) = (matrix.rows, matrix.columns);
    let rows = x.len().checked_div(columns).unwrap_or(0);
    let mut y = vec![0.0; rows * outputs];
    each_part(matrix, rounding, |first, wide| {
        let part = wide.len() / columns;
        let x = Matrix::new(x, rows, columns, columns);
        let wide = Matrix::new(wide, part, columns, columns).transposed();
        gemm(y.get_mut(first..).unwrap_or_default(), outputs, Into::Place, 1.0, x, wide, true);
    });
    y
}

/// `y·W`
pub(super) fn multiply_back(matrix: &Packed<'_>, y: &[f32], rounding: Rounding) -> Vec<f32> {
    let (outputs, columns) = (matrix.rows, matrix.columns);
    let rows = y.len().checked_div(outputs).unwrap_or(0);
    let mut x = vec![0.0; rows * columns];
    each_part(matrix, rounding, |first, wide| {
        let part = wide.len() / columns;
        let y = Matrix::new(y.get(first..).unwrap_or_default(), rows, part, outputs);
        let wide = Matrix::new(wide, part, columns, columns);
        let into = if first > 0 { Into::Sum } else { Into::Place };
        gemm(&mut x, columns, into, 1.0, y, wide, true);
    });
    x
}
