//! Wide numbers to packed ones.

use super::packing::{NF4, Packing};

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

impl Packing {
    /// Packs numbers, rounding each to the nearest that can be held: words and scales of block after block. Q8_0 and Q4_0 round
    /// as ggml's `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` do.
    ///
    /// # Panics
    /// If the numbers are no whole number of blocks.
    pub fn pack(self, values: &[f32]) -> (Vec<i32>, Vec<f32>) {
        let (len, width) = (self.block_len(), self.block_words());
        assert!(values.len().is_multiple_of(len), "{} numbers are no whole blocks of {len}", values.len());
        let mut words = vec![0; values.len() / len * width];
        let mut scales = vec![0.0; values.len() / len];
        let block =
            |((values, words), scale): ((&[f32], &mut [i32]), &mut f32)| *scale = self.pack_block(values, words);
        #[cfg(feature = "flex")]
        {
            use rayon::prelude::*;
            values.par_chunks(len).zip(words.par_chunks_mut(width)).zip(&mut scales).with_min_len(1024).for_each(block);
        }
        #[cfg(not(feature = "flex"))]
        values.chunks(len).zip(words.chunks_mut(width)).zip(&mut scales).for_each(block);
        (words, scales)
    }

    /// Packs one block; its scale.
    fn pack_block(self, values: &[f32], words: &mut [i32]) -> f32 {
        let mut put = |byte: usize, bits: u8| words[byte / 4] |= (u32::from(bits) << (byte % 4 * 8)).cast_signed();
        let largest = values.iter().fold(0.0_f32, |most, value| if value.abs() > most.abs() { *value } else { most });
        // What is divided by a scale of nothing is nothing.
        let inverse = |scale: f32| if scale == 0.0 { 0.0 } else { 1.0 / scale };
        match self {
            Self::Q8_0 => {
                let scale = largest.abs() / 127.0;
                for (at, value) in values.iter().enumerate() {
                    put(at, ((value * inverse(scale)).round() as i8).cast_unsigned());
                }
                scale
            }
            Self::Q4_0 => {
                let scale = largest / -8.0;
                let code = |value: f32| ((value * inverse(scale) + 8.5) as u8).min(15);
                for at in 0..16 {
                    put(at, code(values[at]) | code(values[at + 16]) << 4);
                }
                scale
            }
            Self::Nf4 => {
                let scale = largest.abs();
                let code = |value: f32| {
                    let value = value * inverse(scale);
                    // The upper half of what is left, four times.
                    let step = |code, half| if value > NF4_BETWEEN[code + half - 1] { code + half } else { code };
                    [8_usize, 4, 2, 1].into_iter().fold(0, step) as u8
                };
                for (at, pair) in values.chunks_exact(2).enumerate() {
                    put(at, code(pair[0]) << 4 | code(pair[1]));
                }
                scale
            }
            other => panic!("nothing is packed in {other:?}"),
        }
    }
}
