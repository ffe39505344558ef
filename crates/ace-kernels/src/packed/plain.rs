//! Widening in operations that every backend has.

use super::{
    PackedMatrix,
    packing::{Form, Packing},
};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};

/// Numbers that are widened at a time.
const AT_ONCE: usize = 1 << 22;

impl PackedMatrix {
    /// As [`PackedMatrix::widen`], in operations that every backend has. They make tensors of integers as large as the
    /// matrix, so that it is widened in parts.
    pub(super) fn widen_plainly(&self, dtype: FloatDType) -> Tensor<2> {
        let [rows, columns] = self.shape();
        let at_once = (AT_ONCE / columns.max(1)).clamp(1, rows.max(1));
        let parts = (0..rows).step_by(at_once).map(|first| self.widen_rows(first, at_once.min(rows - first), dtype));
        Tensor::cat(parts.collect(), 0)
    }

    fn widen_rows(&self, first: usize, rows: usize, dtype: FloatDType) -> Tensor<2> {
        let ([_, columns], packing) = (self.shape(), self.packing);
        let (len, group) = (packing.block_len(), packing.group_len().min(packing.block_len()));
        let blocks = rows * (columns / len);
        let words = self.words.clone().narrow(0, first, rows).reshape([blocks, packing.block_words()]);
        let codes = codes(packing, &words);
        let numbers = match packing.form() {
            Form::Offset(offset) => codes.float().cast(DType::F32) - f32::from(offset),
            Form::Minimum => codes.float().cast(DType::F32),
            Form::Table(table) => {
                let table = Tensor::<1>::from_data(*table, (&words.device(), DType::F32));
                table.select(0, codes.reshape([rows * columns])).reshape([blocks, len])
            }
        };
        let floats = self.scales.clone().narrow(0, first, rows).cast(DType::F32);
        if packing.block_scales() == 0 {
            return (numbers.reshape([rows, columns]) * floats).cast(dtype);
        }
        let floats = floats.reshape([blocks, packing.block_scales()]);
        let (scales, minima) = scales(packing, &words, &floats);
        let (groups, spread) = (blocks * (len / group), |each: Tensor<2>| each.reshape([blocks * (len / group), 1]));
        let scaled = numbers.reshape([groups, group]) * spread(scales);
        let numbers = match minima {
            Some(minima) => scaled - spread(minima),
            None => scaled,
        };
        numbers.reshape([rows, columns]).cast(dtype)
    }
}

/// Bits of integers from `shift` up.
fn bits<const N: usize>(from: &Tensor<N, Int>, shift: usize, mask: i32) -> Tensor<N, Int> {
    from.clone().bitwise_right_shift_scalar(shift as i32).bitwise_and_scalar(mask)
}

/// Some words of every block as bytes, in their order.
fn bytes(words: &Tensor<2, Int>, first: usize, count: usize) -> Tensor<2, Int> {
    let blocks = words.dims()[0];
    let words = words.clone().narrow(1, first, count);
    let bytes = (0..4).map(|byte| bits(&words, 8 * byte, 255)).collect();
    Tensor::stack::<3>(bytes, 2).reshape([blocks, 4 * count])
}

/// The `count` fields of `8 / count` bits of every byte: the lowest of `run` bytes, the next ones of the same, and so on.
fn fields(bytes: &Tensor<2, Int>, run: usize, count: usize) -> Tensor<2, Int> {
    let [blocks, len] = bytes.dims();
    let (runs, width) = (bytes.clone().reshape([blocks, len / run, run]), 8 / count);
    let fields = (0..count).map(|field| bits(&runs, field * width, (1 << width) - 1)).collect();
    Tensor::stack::<4>(fields, 2).reshape([blocks, len * count])
}

/// What [`super::packing::Form`] is of, `[blocks, block_len]`.
fn codes(packing: Packing, words: &Tensor<2, Int>) -> Tensor<2, Int> {
    let bytes = |first, count| bytes(words, first, count);
    let above = |low: Tensor<2, Int>, high: Tensor<2, Int>, by: i32| low + high * by;
    match packing {
        Packing::Q8_0 => bytes(0, 8).bitwise_xor_scalar(128),
        Packing::E4M3 | Packing::E5M2 => bytes(0, 1),
        Packing::Nf4 => {
            let bytes = bytes(0, 8);
            let blocks = bytes.dims()[0];
            Tensor::stack::<3>(vec![bits(&bytes, 4, 15), bits(&bytes, 0, 15)], 2).reshape([blocks, 64])
        }
        Packing::Q4_0 | Packing::Q4_1 => fields(&bytes(0, 4), 16, 2),
        Packing::Q5_0 | Packing::Q5_1 => above(fields(&bytes(1, 4), 16, 2), fields(&bytes(0, 1), 1, 8), 16),
        Packing::Q2K => fields(&bytes(4, 16), 32, 4),
        Packing::Q3K => above(fields(&bytes(8, 16), 32, 4), fields(&bytes(0, 8), 32, 8), 4),
        Packing::Q4K => fields(&bytes(3, 32), 32, 2),
        Packing::Q5K => above(fields(&bytes(11, 32), 32, 2), fields(&bytes(3, 8), 32, 8), 16),
        Packing::Q6K => above(fields(&bytes(0, 32), 64, 2), fields(&bytes(32, 16), 32, 4), 16),
    }
}

/// Scales and minima of every group, `[blocks, groups of a block]`.
fn scales(packing: Packing, words: &Tensor<2, Int>, floats: &Tensor<2>) -> (Tensor<2>, Option<Tensor<2>>) {
    let float = |which| floats.clone().narrow(1, which, 1);
    let wide = |integers: Tensor<2, Int>| integers.float().cast(DType::F32);
    let both = |scales, minima| (float(0) * wide(scales), Some(float(1) * wide(minima)));
    match packing {
        Packing::Q4_1 | Packing::Q5_1 => (float(0), Some(-float(1))),
        Packing::Q2K => {
            let bytes = bytes(words, 0, 4);
            both(bits(&bytes, 0, 15), bits(&bytes, 4, 15))
        }
        Packing::Q3K => {
            let low = fields(&bytes(words, 24, 2), 8, 2);
            let high = fields(&bytes(words, 26, 1), 4, 4);
            (float(0) * (wide(low + high * 16) - 32.0), None)
        }
        Packing::Q4K | Packing::Q5K => {
            let [a, b, c] = [0, 1, 2].map(|word| bytes(words, word, 1));
            let six = |low: &Tensor<2, Int>, rest| {
                let high = bits(low, 6, 3) * 16 + rest;
                Tensor::cat(vec![bits(low, 0, 63), high], 1)
            };
            both(six(&a, bits(&c, 0, 15)), six(&b, bits(&c, 4, 15)))
        }
        Packing::Q6K => {
            let signed = wide(bytes(words, 48, 4).bitwise_xor_scalar(128)) - 128.0;
            (float(0) * signed, None)
        }
        Packing::Q8_0 | Packing::Q4_0 | Packing::Q5_0 | Packing::E4M3 | Packing::E5M2 | Packing::Nf4 => {
            (float(0), None)
        }
    }
}
