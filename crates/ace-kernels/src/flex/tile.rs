//! Products whose second factor lies in panels, by a kernel of our own: rows of the first factor need not lie at one
//! place, and what was there before the product, a bias or another picture, is added on the way out.
//!
//! The kernel holds twelve rows of 32 sums in the processor's registers. Where it has no vectors of sixteen, the `gemm`
//! crate multiplies panel by panel.

use super::product::{self, Into, Matrix};

/// Columns of a panel: two vectors of sixteen.
pub const PANEL: usize = 32;
/// Rows whose sums fit into the registers.
pub const ROWS: usize = 12;

/// The first factor: row `i` is made of `depth` numbers from `offset + i·step` on, for each offset.
#[derive(Clone, Copy)]
pub struct Strips<'a> {
    pub numbers: &'a [f32],
    pub step: usize,
    pub count: usize,
    pub offsets: &'a [usize],
    pub depth: usize,
}

impl Strips<'_> {
    fn fit(&self) -> bool {
        let last = self.offsets.iter().max().copied().unwrap_or(0);
        self.count == 0 || last + (self.count - 1) * self.step + self.depth <= self.numbers.len()
    }
}

/// What is added to a product.
#[derive(Clone, Copy, Default)]
pub struct Plus<'a> {
    /// One number for each column.
    pub bias: Option<&'a [f32]>,
    /// A number for each sum, in rows as far apart as those of the output.
    pub rows: Option<&'a [f32]>,
}

/// `a·panel` plus what is added, into rows of `columns` numbers that start `step` numbers apart.
///
/// # Shapes
/// - panel: `[offsets · depth, PANEL]`
///
/// # Panics
/// If a slice is too short.
pub fn multiply(a: Strips<'_>, panel: &[f32], out: &mut [f32], step: usize, columns: usize, plus: Plus<'_>) {
    let inner = a.offsets.len() * a.depth;
    assert!(a.fit() && panel.len() >= inner * PANEL && (1..=PANEL).contains(&columns), "a panel of {columns} columns");
    let len = if a.count == 0 { 0 } else { (a.count - 1) * step + columns };
    assert!(out.len() >= len && plus.rows.is_none_or(|rows| rows.len() >= len), "{} rows, {step} apart", a.count);
    assert!(plus.bias.is_none_or(|bias| bias.len() >= columns), "a bias for {columns} columns");
    #[cfg(target_arch = "x86_64")]
    if super::simd::width() == 16 {
        let mut first = 0;
        while first < a.count {
            let rows = ROWS.min(a.count - first);
            let a = Strips { numbers: &a.numbers[first * a.step..], count: rows, ..a };
            let (out, plus) =
                (&mut out[first * step..], Plus { rows: plus.rows.map(|rows| &rows[first * step..]), ..plus });
            // SAFETY: the processor was asked for these instructions, and the slices were measured above.
            #[allow(unsafe_code)]
            unsafe {
                wide::few_rows(a, panel, out, step, columns, plus);
            }
            first += rows;
        }
        return;
    }
    for i in 0..a.count {
        let out = &mut out[i * step..][..columns];
        match plus.rows {
            Some(rows) => out.copy_from_slice(&rows[i * step..][..columns]),
            None => out.fill(0.0),
        }
        if let Some(bias) = plus.bias {
            out.iter_mut().zip(bias).for_each(|(out, bias)| *out += bias);
        }
    }
    for (part, offset) in a.offsets.iter().enumerate() {
        let rows = Strips { numbers: &a.numbers[*offset..], ..a };
        let of = |numbers| Matrix::new(numbers, rows.count, rows.depth, rows.step);
        let panel = Matrix::new(&panel[part * a.depth * PANEL..], a.depth, columns, PANEL);
        product::multiply(out, step, Into::Sum, 1.0, of(rows.numbers), panel, false);
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{PANEL, Plus, ROWS, Strips};
    use std::arch::x86_64::{
        __m512, __mmask16, _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps,
        _mm512_maskz_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps,
    };

    /// At most [`ROWS`] rows.
    ///
    /// # Safety
    /// The processor has AVX-512; the slices are as long as [`super::multiply`] asserts.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    pub unsafe fn few_rows(a: Strips<'_>, panel: &[f32], out: &mut [f32], step: usize, columns: usize, plus: Plus<'_>) {
        // SAFETY: as this function's.
        unsafe {
            match a.count {
                12 => rows::<12>(a, panel, out, step, columns, plus),
                11 => rows::<11>(a, panel, out, step, columns, plus),
                10 => rows::<10>(a, panel, out, step, columns, plus),
                9 => rows::<9>(a, panel, out, step, columns, plus),
                8 => rows::<8>(a, panel, out, step, columns, plus),
                7 => rows::<7>(a, panel, out, step, columns, plus),
                6 => rows::<6>(a, panel, out, step, columns, plus),
                5 => rows::<5>(a, panel, out, step, columns, plus),
                4 => rows::<4>(a, panel, out, step, columns, plus),
                3 => rows::<3>(a, panel, out, step, columns, plus),
                2 => rows::<2>(a, panel, out, step, columns, plus),
                1 => rows::<1>(a, panel, out, step, columns, plus),
                count => debug_assert!(count <= ROWS),
            }
        }
    }

    /// `M` rows.
    ///
    /// # Safety
    /// As [`few_rows`], and there are `M` rows.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn rows<const M: usize>(
        a: Strips<'_>,
        panel: &[f32],
        out: &mut [f32],
        step: usize,
        columns: usize,
        plus: Plus<'_>,
    ) {
        // SAFETY: as this function's.
        let sums = unsafe { sums::<M>(a, panel) };
        let mask = |half: usize| -> __mmask16 {
            let count = columns.saturating_sub(16 * half).min(16);
            ((1_u32 << count) - 1) as u16
        };
        for half in 0..columns.div_ceil(16) {
            let mask = mask(half);
            // SAFETY: the mask leaves out what is beyond the columns.
            unsafe {
                let bias = plus.bias.map(|bias| _mm512_maskz_loadu_ps(mask, bias.as_ptr().add(16 * half)));
                for (i, sums) in sums.iter().enumerate() {
                    let at = i * step + 16 * half;
                    let mut sum = sums[half];
                    if let Some(bias) = bias {
                        sum = _mm512_add_ps(sum, bias);
                    }
                    if let Some(rows) = plus.rows {
                        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, rows.as_ptr().add(at)));
                    }
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(at), mask, sum);
                }
            }
        }
    }

    /// The products' sums: a function of its own, so that they stay in registers until it ends.
    ///
    /// # Safety
    /// As [`rows`].
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    #[inline(never)]
    unsafe fn sums<const M: usize>(a: Strips<'_>, panel: &[f32]) -> [[__m512; 2]; M] {
        let mut sums = [[_mm512_setzero_ps(); 2]; M];
        let mut b = panel.as_ptr();
        for offset in a.offsets {
            // SAFETY: every row has `depth` numbers behind each offset, and the panel as many rows.
            unsafe {
                let start = a.numbers.as_ptr().add(*offset);
                for k in 0..a.depth {
                    let columns = [_mm512_loadu_ps(b), _mm512_loadu_ps(b.add(16))];
                    b = b.add(PANEL);
                    for (i, sums) in sums.iter_mut().enumerate() {
                        let x = _mm512_set1_ps(*start.add(i * a.step + k));
                        sums[0] = _mm512_fmadd_ps(x, columns[0], sums[0]);
                        sums[1] = _mm512_fmadd_ps(x, columns[1], sums[1]);
                    }
                }
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::{PANEL, Plus, Strips, multiply};
    use crate::testing::noise;

    #[test]
    fn every_sum_is_the_one_that_is_written() {
        let mut next = noise(1);
        let mut numbers = |len: usize| -> Vec<f32> { (0..len).map(|_| next()).collect() };
        for (count, depth, columns, offsets) in
            [(1, 1, 1, vec![0]), (13, 7, 32, vec![0]), (12, 16, 17, vec![3, 40, 0]), (25, 5, 16, vec![2, 9])]
        {
            let (step, out_step) = (11, 35);
            let a = numbers(offsets.iter().max().unwrap_or(&0) + count * step + depth);
            let (panel, bias) = (numbers(offsets.len() * depth * PANEL), numbers(columns));
            let rows = numbers(count * out_step);
            let mut out = vec![7.0; count * out_step];
            let strips = Strips { numbers: &a, step, count, offsets: &offsets, depth };
            multiply(strips, &panel, &mut out, out_step, columns, Plus { bias: Some(&bias), rows: Some(&rows) });
            for i in 0..count {
                for j in 0..out_step {
                    let expected = if j < columns {
                        let sum = offsets.iter().enumerate().flat_map(|(part, offset)| {
                            let (a, panel) = (&a, &panel);
                            (0..depth).map(move |k| {
                                f64::from(a[offset + i * step + k]) * f64::from(panel[(part * depth + k) * PANEL + j])
                            })
                        });
                        sum.sum::<f64>() + f64::from(bias[j]) + f64::from(rows[i * out_step + j])
                    } else {
                        7.0
                    };
                    assert!((f64::from(out[i * out_step + j]) - expected).abs() < 1e-5, "row {i}, column {j}");
                }
            }
        }
    }
}
