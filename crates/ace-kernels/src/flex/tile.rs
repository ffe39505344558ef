//! Products whose second factor lies in panels, by a kernel of our own: rows of the first factor need not lie at one
//! place, and what was there before the product, a bias or another picture, is added on the way out.
//!
//! The kernel holds twelve rows of 32 sums in the processor's registers. Where it has no vectors of sixteen, the `gemm`
//! crate multiplies panel by panel. Numbers of 16 bits go in pairs ([`multiply_pairs`]), on processors that multiply them
//! so: twice as fast.

use super::product::{self, Into, Matrix};

/// Columns of a panel: two vectors of sixteen.
pub const PANEL: usize = 32;
/// Rows whose sums fit into the registers.
pub const ROWS: usize = 12;

/// The first factor: row `i` is made of `depth` numbers from `offset + i·step` on, for each offset.
#[derive(Clone, Copy)]
pub struct Strips<'a, T = f32> {
    pub numbers: &'a [T],
    pub step: usize,
    pub count: usize,
    pub offsets: &'a [usize],
    pub depth: usize,
}

impl<T> Strips<'_, T> {
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
    check(a, panel, out, step, columns, plus);
    #[cfg(target_arch = "x86_64")]
    if super::simd::width() == 16 {
        // SAFETY: the processor was asked for these instructions, and the slices were measured.
        #[allow(unsafe_code)]
        unsafe {
            wide::numbers::rows(a, panel, out, step, columns, plus);
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

fn check<T: Copy>(a: Strips<'_, T>, panel: &[T], out: &[f32], step: usize, columns: usize, plus: Plus<'_>) {
    let inner = a.offsets.len() * a.depth;
    assert!(a.fit() && panel.len() >= inner * PANEL && (1..=PANEL).contains(&columns), "a panel of {columns} columns");
    let len = if a.count == 0 { 0 } else { (a.count - 1) * step + columns };
    assert!(out.len() >= len && plus.rows.is_none_or(|rows| rows.len() >= len), "{} rows, {step} apart", a.count);
    assert!(plus.bias.is_none_or(|bias| bias.len() >= columns), "a bias for {columns} columns");
}

/// Whether this processor multiplies pairs of bf16.
pub fn multiplies_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        super::simd::width() == 16 && is_x86_feature_detected!("avx512bf16")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// As [`multiply`], of pairs of bf16, the first in the lower half of each word; sums are f32.
///
/// # Shapes
/// - panel: `[offsets · depth, PANEL]`; row `k` has the pairs `2k` and `2k + 1` of each column
///
/// # Panics
/// If a slice is too short, or the processor does not do this: see [`multiplies_pairs`].
pub fn multiply_pairs(a: Strips<'_, u32>, panel: &[u32], out: &mut [f32], step: usize, columns: usize, plus: Plus<'_>) {
    check(a, panel, out, step, columns, plus);
    assert!(multiplies_pairs(), "pairs of bf16 on a processor that does not multiply them");
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the processor was asked for these instructions, and the slices were measured.
    #[allow(unsafe_code)]
    unsafe {
        wide::pairs::rows(a, panel, out, step, columns, plus);
    }
}

#[cfg(target_arch = "x86_64")]
mod wide {
    use super::{PANEL, Plus, ROWS, Strips};
    use std::arch::x86_64::{
        __m512, __m512bh, __m512i, __mmask16, _mm512_add_ps, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
        _mm512_loadu_si512, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps,
        _mm512_setzero_ps,
    };

    /// The kernel for one kind of numbers: a module with `rows`.
    macro_rules! kernel {
        ($name:ident, $number:ty, $features:literal, $vector:ty, $load:ident, $spread:ident, $multiply:ident) => {
            pub mod $name {
                use super::*;

                /// All rows, [`ROWS`] at a time.
                ///
                /// # Safety
                /// The processor has these features; the slices are as long as `check` asserts.
                #[allow(unsafe_code)]
                #[target_feature(enable = $features)]
                pub unsafe fn rows(
                    a: Strips<'_, $number>,
                    panel: &[$number],
                    out: &mut [f32],
                    step: usize,
                    columns: usize,
                    plus: Plus<'_>,
                ) {
                    for first in (0..a.count).step_by(ROWS) {
                        let few =
                            Strips { numbers: &a.numbers[first * a.step..], count: ROWS.min(a.count - first), ..a };
                        let plus = Plus { rows: plus.rows.map(|rows| &rows[first * step..]), ..plus };
                        let out = &mut out[first * step..];
                        // SAFETY: as this function's.
                        unsafe {
                            match few.count {
                                12 => finish(&sums::<12>(few, panel), out, step, columns, plus),
                                11 => finish(&sums::<11>(few, panel), out, step, columns, plus),
                                10 => finish(&sums::<10>(few, panel), out, step, columns, plus),
                                9 => finish(&sums::<9>(few, panel), out, step, columns, plus),
                                8 => finish(&sums::<8>(few, panel), out, step, columns, plus),
                                7 => finish(&sums::<7>(few, panel), out, step, columns, plus),
                                6 => finish(&sums::<6>(few, panel), out, step, columns, plus),
                                5 => finish(&sums::<5>(few, panel), out, step, columns, plus),
                                4 => finish(&sums::<4>(few, panel), out, step, columns, plus),
                                3 => finish(&sums::<3>(few, panel), out, step, columns, plus),
                                2 => finish(&sums::<2>(few, panel), out, step, columns, plus),
                                _ => finish(&sums::<1>(few, panel), out, step, columns, plus),
                            }
                        }
                    }
                }

                /// The products' sums of `M` rows: a function of its own, so that they stay in registers until it ends.
                ///
                /// # Safety
                /// As [`rows`], and there are `M` rows.
                #[allow(unsafe_code)]
                #[target_feature(enable = $features)]
                #[inline(never)]
                unsafe fn sums<const M: usize>(a: Strips<'_, $number>, panel: &[$number]) -> [[__m512; 2]; M] {
                    let mut sums = [[_mm512_setzero_ps(); 2]; M];
                    let mut b = panel.as_ptr();
                    for offset in a.offsets {
                        // SAFETY: every row has `depth` numbers behind each offset, and the panel as many rows.
                        unsafe {
                            let start = a.numbers.as_ptr().add(*offset);
                            for k in 0..a.depth {
                                let columns: [$vector; 2] = [$load(b), $load(b.add(16))];
                                b = b.add(PANEL);
                                for (i, sums) in sums.iter_mut().enumerate() {
                                    let x: $vector = $spread(*start.add(i * a.step + k));
                                    sums[0] = $multiply(sums[0], x, columns[0]);
                                    sums[1] = $multiply(sums[1], x, columns[1]);
                                }
                            }
                        }
                    }
                    sums
                }
            }
        };
    }

    kernel!(numbers, f32, "avx512f", __m512, load, spread, multiply_add);
    kernel!(pairs, u32, "avx512f,avx512bf16", __m512bh, load_pairs, spread_pair, multiply_add_pairs);

    /// # Safety
    /// Sixteen numbers can be read.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    #[inline]
    unsafe fn load(numbers: *const f32) -> __m512 {
        // SAFETY: as this function's.
        unsafe { _mm512_loadu_ps(numbers) }
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn spread(number: f32) -> __m512 {
        _mm512_set1_ps(number)
    }

    #[target_feature(enable = "avx512f")]
    #[inline]
    fn multiply_add(sum: __m512, a: __m512, b: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, sum)
    }

    /// # Safety
    /// Sixteen pairs can be read.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    unsafe fn load_pairs(pairs: *const u32) -> __m512bh {
        // SAFETY: as this function's; both types are 64 bytes of any content.
        unsafe { std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(pairs.cast())) }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    fn spread_pair(pair: u32) -> __m512bh {
        // SAFETY: both types are 64 bytes of any content.
        #[allow(unsafe_code)]
        unsafe {
            std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(pair.cast_signed()))
        }
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    #[inline]
    fn multiply_add_pairs(sum: __m512, a: __m512bh, b: __m512bh) -> __m512 {
        _mm512_dpbf16_ps(sum, a, b)
    }

    /// Adds what is to be added and writes.
    ///
    /// # Safety
    /// The processor has AVX-512; the slices are as long as `check` asserts.
    #[allow(unsafe_code)]
    #[target_feature(enable = "avx512f")]
    unsafe fn finish(sums: &[[__m512; 2]], out: &mut [f32], step: usize, columns: usize, plus: Plus<'_>) {
        for half in 0..columns.div_ceil(16) {
            let count = (columns - 16 * half).min(16);
            let mask = ((1_u32 << count) - 1) as __mmask16;
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
