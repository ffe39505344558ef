//! Wide numbers to packed ones.

use super::{
    packing::{NF4, Packing},
    search,
};

/// The numbers halfway between those of NF4.
const NF4_BETWEEN: [f32; 15] = {
    let mut between = [0.0; 15];
    let mut at = 0;
    while at < 15 {
        between[at] = (NF4[at] + NF4[at + 1]) / 2.0;
        at += 1;
    }
    between
};

/// The largest number of `float8_e4m3fn`.
const E4M3_LARGEST: f32 = 448.0;

impl Packing {
    /// Packs a matrix with rows of `columns` numbers: words and scales of block after block. Each number is rounded to the nearest
    /// that can be held. Q8_0 and Q4_0 round as ggml's `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` do; scales and
    /// minima of Q4_K, Q5_K and Q6_K are searched for, so that the sum of the squared errors is small; in fp8 the largest
    /// magnitude of a row becomes the largest number.
    ///
    /// # Panics
    /// If rows are no whole number of blocks, the numbers no whole number of rows, or this is none of
    /// [`Packing::WRITTEN`].
    pub fn pack(self, values: &[f32], columns: usize) -> (Vec<i32>, Vec<f32>) {
        let (len, width) = (self.block_len(), self.block_words());
        assert!(columns.is_multiple_of(len), "{columns} columns are no whole blocks of {len}");
        assert!(values.len().is_multiple_of(columns.max(1)), "{} numbers are no rows of {columns}", values.len());
        assert!(Self::WRITTEN.contains(&self), "nothing is packed in {self:?}");
        // What is packed together: a block, or a row of them.
        let (len, width, floats) = match self.block_scales() {
            0 => (columns, columns / len * width, 1),
            floats => (len, width, floats),
        };
        let count = values.len().checked_div(len).unwrap_or(0);
        let (mut words, mut scales) = (vec![0; count * width], vec![0.0; count * floats]);
        if count == 0 {
            return (words, scales);
        }
        let part = |((values, words), scales): ((&[f32], &mut [i32]), &mut [f32])| match self.block_scales() {
            0 => pack_row(values, words, scales),
            _ => self.pack_block(values, words, scales),
        };
        #[cfg(feature = "flex")]
        {
            use rayon::prelude::*;
            let parts = values.par_chunks(len).zip(words.par_chunks_mut(width)).zip(scales.par_chunks_mut(floats));
            parts.with_min_len(1 << 15 >> len.ilog2()).for_each(part);
        }
        #[cfg(not(feature = "flex"))]
        values.chunks(len).zip(words.chunks_mut(width)).zip(scales.chunks_mut(floats)).for_each(part);
        (words, scales)
    }

    fn pack_block(self, values: &[f32], words: &mut [i32], scales: &mut [f32]) {
        let largest = values.iter().fold(0.0_f32, |most, value| if value.abs() > most.abs() { *value } else { most });
        match self {
            Self::Q8_0 => {
                scales[0] = largest.abs() / 127.0;
                for (at, value) in values.iter().enumerate() {
                    put(words, at, ((value * inverse(scales[0])).round() as i8).cast_unsigned());
                }
            }
            Self::Q4_0 => {
                scales[0] = largest / -8.0;
                let code = |value: f32| ((value * inverse(scales[0]) + 8.5) as u8).min(15);
                for at in 0..16 {
                    put(words, at, code(values[at]) | code(values[at + 16]) << 4);
                }
            }
            Self::Nf4 => {
                scales[0] = largest.abs();
                let code = |value: f32| {
                    let value = value * inverse(scales[0]);
                    // The upper half of what is left, four times.
                    let step = |code, half| if value > NF4_BETWEEN[code + half - 1] { code + half } else { code };
                    [8_usize, 4, 2, 1].into_iter().fold(0, step) as u8
                };
                for (at, pair) in values.chunks_exact(2).enumerate() {
                    put(words, at, code(pair[0]) << 4 | code(pair[1]));
                }
            }
            Self::Q4K => search::above_minima::<15>(values, words, scales),
            Self::Q5K => search::above_minima::<31>(values, words, scales),
            Self::Q6K => search::six_bits(values, words, scales),
            other => unreachable!("nothing is packed in {other:?}, as `pack` says"),
        }
    }
}

/// Adds bits to byte `at` of words.
pub(super) fn put(words: &mut [i32], at: usize, bits: u8) {
    words[at / 4] |= (u32::from(bits) << (at % 4 * 8)).cast_signed();
}

/// What is divided by a scale of nothing is nothing.
pub(super) fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Packs a row in `float8_e4m3fn`.
fn pack_row(values: &[f32], words: &mut [i32], scale: &mut [f32]) {
    let largest = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    scale[0] = largest / E4M3_LARGEST;
    for (at, value) in values.iter().enumerate() {
        put(words, at, e4m3(value * inverse(scale[0])));
    }
}

/// The code of the number of `float8_e4m3fn` that is nearest, of two the even one; what is too large becomes the largest.
fn e4m3(value: f32) -> u8 {
    let (sign, value) = (((value.to_bits() >> 31) << 7) as u8, value.abs());
    if value.is_nan() {
        return sign | 0x7f;
    }
    // Below 2⁻⁶ the steps are those at 2⁻⁶.
    let exponent = ((value.to_bits() >> 23).cast_signed() - 127).max(-6);
    let exponent = exponent.min(8);
    let unit = f32::from_bits((exponent - 3 + 127).cast_unsigned() << 23);
    let steps = (value.min(E4M3_LARGEST) / unit).round_ties_even() as i32;
    sign | ((exponent + 6) * 8 + steps).min(0x7e) as u8
}
