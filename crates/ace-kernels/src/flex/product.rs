//! Matrix products into memory that is there already, by the `gemm` crate, which burn's CPU backend uses too.

use gemm::Parallelism;

/// A matrix in a slice.
#[derive(Clone, Copy)]
pub struct Matrix<'a> {
    numbers: &'a [f32],
    rows: usize,
    cols: usize,
    row_step: usize,
    col_step: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of `cols` numbers that start `step` numbers apart.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn new(numbers: &'a [f32], rows: usize, cols: usize, step: usize) -> Self {
        assert!(fits(numbers.len(), rows, cols, step), "{rows} rows of {cols}, {step} apart, in {}", numbers.len());
        Self { numbers, rows, cols, row_step: step, col_step: 1 }
    }

    /// The same numbers with rows as columns.
    pub fn transposed(self) -> Self {
        Self { rows: self.cols, cols: self.rows, row_step: self.col_step, col_step: self.row_step, ..self }
    }
}

fn fits(len: usize, rows: usize, cols: usize, step: usize) -> bool {
    rows == 0 || cols == 0 || (rows - 1) * step + cols <= len
}

/// What a product does with what is in its place.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// Overwrites it.
    Place,
    /// Adds to it.
    Sum,
}

/// `factor·a·b` into rows of `out` that start `step` numbers apart; on all cores if `spread`.
///
/// # Panics
/// If the shapes do not fit, or `out` is too short.
pub fn multiply(out: &mut [f32], step: usize, into: Into, factor: f32, a: Matrix<'_>, b: Matrix<'_>, spread: bool) {
    let (m, k, n) = (a.rows, a.cols, b.cols);
    assert_eq!(k, b.rows, "columns of the first and rows of the second matrix");
    assert!(fits(out.len(), m, n, step) && step >= n, "{m} rows of {n}, {step} apart, in {}", out.len());
    let parallelism = if spread && m * n * k > 1 << 18 { all_cores() } else { Parallelism::None };
    // SAFETY: all three matrices lie inside their slices, as asserted here and in `Matrix::new`; `out` is borrowed
    // alone, and its rows do not overlap.
    #[allow(unsafe_code)]
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            step as isize,
            into == Into::Sum,
            a.numbers.as_ptr(),
            a.col_step as isize,
            a.row_step as isize,
            b.numbers.as_ptr(),
            b.col_step as isize,
            b.row_step as isize,
            if into == Into::Sum { 1.0 } else { 0.0 },
            factor,
            false,
            false,
            false,
            parallelism,
        );
    }
}

#[cfg(not(target_family = "wasm"))]
fn all_cores() -> Parallelism {
    Parallelism::Rayon(0)
}

/// A page has one, and `gemm` is built without threads there.
#[cfg(target_family = "wasm")]
fn all_cores() -> Parallelism {
    Parallelism::None
}
