//! Rows as columns.

/// Squares that are turned in the processor's registers, where it has vectors as long.
const SIDE: usize = 16;

/// `from`, rows of `cols` numbers `step` apart, with rows as columns: `cols` rows of `rows` numbers, `to_step` apart.
///
/// # Panics
/// If either slice is too short.
pub fn transpose(from: &[f32], rows: usize, cols: usize, step: usize, to: &mut [f32], to_step: usize) {
    if rows == 0 || cols == 0 {
        return;
    }
    assert!(cols <= step && (rows - 1) * step + cols <= from.len(), "{rows} rows of {cols}, {step} apart");
    assert!(rows <= to_step && (cols - 1) * to_step + rows <= to.len(), "{cols} rows of {rows}, {to_step} apart");
    #[cfg(target_arch = "x86_64")]
    if super::simd::width() == SIDE {
        let (whole_rows, whole_cols) = (rows / SIDE * SIDE, cols / SIDE * SIDE);
        for i in (0..whole_rows).step_by(SIDE) {
            for j in (0..whole_cols).step_by(SIDE) {
                // SAFETY: the processor was asked for these instructions.
                #[allow(unsafe_code)]
                unsafe {
                    square(&from[i * step + j..], step, &mut to[j * to_step + i..], to_step);
                }
            }
        }
        plain(from, [0..rows, whole_cols..cols], step, to, to_step);
        plain(from, [whole_rows..rows, 0..whole_cols], step, to, to_step);
        return;
    }
    plain(from, [0..rows, 0..cols], step, to, to_step);
}

/// The given rows and columns, one number after the other.
fn plain(from: &[f32], [rows, cols]: [std::ops::Range<usize>; 2], step: usize, to: &mut [f32], to_step: usize) {
    for i in rows.clone().step_by(SIDE) {
        for j in cols.clone() {
            for i in i..(i + SIDE).min(rows.end) {
                to[j * to_step + i] = from[i * step + j];
            }
        }
    }
}

/// Sixteen rows of sixteen numbers: in four rounds, rows 1, 2, 4 and 8 apart exchange every other run of as many numbers.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn square(from: &[f32], step: usize, to: &mut [f32], to_step: usize) {
    use std::arch::x86_64::{
        __m512, __m512i, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_permutex2var_ps, _mm512_setzero_ps,
        _mm512_storeu_ps,
    };
    /// Which numbers the upper and the lower row of a pair take; those of the lower row count from 16.
    const fn exchange(apart: usize) -> [[i32; SIDE]; 2] {
        let mut both = [[0; SIDE]; 2];
        let mut i = 0;
        while i < SIDE {
            let second = i & apart != 0;
            both[0][i] = if second { (SIDE + i - apart) as i32 } else { i as i32 };
            both[1][i] = if second { (SIDE + i) as i32 } else { (i + apart) as i32 };
            i += 1;
        }
        both
    }
    const EXCHANGES: [[[i32; SIDE]; 2]; 4] = [exchange(1), exchange(2), exchange(4), exchange(8)];

    let mut rows: [__m512; SIDE] = [_mm512_setzero_ps(); SIDE];
    for (i, row) in rows.iter_mut().enumerate() {
        let numbers = &from[i * step..][..SIDE];
        // SAFETY: sixteen numbers, checked by the slice.
        #[allow(unsafe_code)]
        unsafe {
            *row = _mm512_loadu_ps(numbers.as_ptr());
        }
    }
    for (round, indices) in EXCHANGES.iter().enumerate() {
        // SAFETY: sixteen integers each.
        #[allow(unsafe_code)]
        let [upper, lower]: [__m512i; 2] =
            indices.each_ref().map(|indices| unsafe { _mm512_loadu_si512(indices.as_ptr().cast()) });
        let apart = 1 << round;
        for i in (0..SIDE).filter(|i| i & apart == 0) {
            let (a, b) = (rows[i], rows[i + apart]);
            rows[i] = _mm512_permutex2var_ps(a, upper, b);
            rows[i + apart] = _mm512_permutex2var_ps(a, lower, b);
        }
    }
    for (j, row) in rows.iter().enumerate() {
        let numbers = &mut to[j * to_step..][..SIDE];
        // SAFETY: as above.
        #[allow(unsafe_code)]
        unsafe {
            _mm512_storeu_ps(numbers.as_mut_ptr(), *row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::transpose;

    #[test]
    fn every_number_goes_where_it_belongs() {
        for (rows, cols) in [(1, 1), (16, 16), (17, 33), (40, 15), (15, 40), (64, 48), (0, 3)] {
            let (step, to_step) = (cols + 3, rows + 2);
            let from: Vec<f32> = (0..rows * step).map(|i| i as f32).collect();
            let mut to = vec![-1.0; cols * to_step];
            transpose(&from, rows, cols, step, &mut to, to_step);
            for (at, number) in to.iter().enumerate() {
                let (j, i) = (at / to_step, at % to_step);
                let expected = if i < rows { from[i * step + j] } else { -1.0 };
                assert_eq!(*number, expected, "{rows}×{cols}, row {j}, column {i}");
            }
        }
    }
}
