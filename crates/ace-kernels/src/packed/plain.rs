//! Widening in operations that every backend has.

use super::{
    PackedMatrix,
    packing::{NF4, Packing},
};
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};

/// Numbers that are widened at a time where plain operations do it.
const PLAIN: usize = 1 << 22;

impl PackedMatrix {
    /// As [`PackedMatrix::widen`], in operations that every backend has. They make tensors of integers as large as the
    /// matrix, so that it is widened in parts.
    pub(super) fn widen_plainly(&self, dtype: FloatDType) -> Tensor<2> {
        let [rows, columns] = self.shape();
        let at_once = (PLAIN / columns.max(1)).clamp(1, rows.max(1));
        let parts = (0..rows).step_by(at_once).map(|first| self.widen_rows(first, at_once.min(rows - first), dtype));
        Tensor::cat(parts.collect(), 0)
    }

    fn widen_rows(&self, first: usize, rows: usize, dtype: FloatDType) -> Tensor<2> {
        let ([_, columns], len) = (self.shape(), self.packing.block_len());
        let blocks = columns / len;
        let words = self.words.clone().narrow(0, first, rows).reshape([rows * blocks, self.packing.block_words()]);
        // The bits from `shift` up, of every word.
        let bits = |shift: i32, mask: i32| words.clone().bitwise_right_shift_scalar(shift).bitwise_and_scalar(mask);
        // Numbers that follow each other within a word stand beside each other.
        let row = |parts: Vec<Tensor<2, Int>>| {
            let width = parts.len() * self.packing.block_words();
            Tensor::stack::<3>(parts, 2).reshape([rows * blocks, width])
        };
        let numbers = match self.packing {
            Packing::Q8_0 => {
                let codes = row((0..4).map(|byte| bits(8 * byte, 255)).collect());
                // The sign, which the mask took away.
                codes.bitwise_xor_scalar(128).float() - 128.0
            }
            Packing::Q4_0 => {
                let half = |from| row((0..4).map(|byte| bits(8 * byte + from, 15)).collect());
                Tensor::cat(vec![half(0), half(4)], 1).float() - 8.0
            }
            Packing::Nf4 => {
                let codes = row((0..4).flat_map(|byte| [bits(8 * byte + 4, 15), bits(8 * byte, 15)]).collect());
                let table = Tensor::<1>::from_data(NF4, (&self.words.device(), DType::F32));
                table.select(0, codes.reshape([rows * columns])).reshape([rows * blocks, len])
            }
        };
        let scales = self.scales.clone().narrow(0, first, rows).cast(DType::F32).reshape([rows * blocks, 1]);
        (numbers.cast(DType::F32) * scales).reshape([rows, columns]).cast(dtype)
    }
}
