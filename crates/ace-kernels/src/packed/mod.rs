//! Products with a matrix that is held in few bits, with a scale per block of numbers.
//!
//! | packing | numbers of a block | bits of a number | value |
//! |---|---|---|---|
//! | `Q8_0`, `Q5_0`, `Q4_0` | 32 | 8.5, 5.5, 4.5 | `scale · (q − 128, 16 or 8)` |
//! | `Q5_1`, `Q4_1` | 32 | 6, 5 | `scale · q + least` |
//! | `Q6K`, `Q3K` | 256 | 6.56, 3.44 | `scale · s · (q − 32 or 4)`, a small integer `s` for every 16 |
//! | `Q5K`, `Q4K` | 256 | 5.5, 4.5 | `scale · s · q − least · t`, small integers `s` and `t` for every 32 |
//! | `Q2K` | 256 | 2.63 | as `Q5K`, for every 16 |
//! | `E4M3`, `E5M2` | a row | 8 | `scale · TABLE[q]` |
//! | `Nf4` | 64 | 4.5 | `scale · TABLE[q]` |
//!
//! The first rows are GGUF's, and hold the blocks of a file bit for bit. `E4M3` and `E5M2` are the floats of eight bits that torch
//! has. `Nf4` is the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023) as
//! bitsandbytes has it: its table, its order of halves, the largest magnitude of a block as its scale. QLoRA's second
//! quantization, that of the scales, is not done: it would save 0.4 of 4.5 bits.
//!
//! A block's bits are little-endian words in an integer tensor, its floats are in a float tensor: every backend has these.
//! The wide numbers exist while a product takes place, and nowhere else: its gradient widens them anew. burn's CPU backend
//! has them for a few hundred rows at a time, on all cores; on another backend they are plain tensor operations, and
//! there autodiff holds the wide matrix until the backward pass.
//!
//! Where nothing learns, [`PackedMatrix::project`] on the CPU does not widen at all, if the processor multiplies bytes
//! (AVX-512 VNNI): the activations are rounded to eight bits with a scale for every 32, as ggml does, which moves a product
//! by half a percent.

#[cfg(feature = "flex")]
mod codes;
#[cfg(feature = "flex")]
mod flex;
#[cfg(feature = "flex")]
mod integer;
mod pack;
mod packing;
mod plain;
mod search;
#[cfg(test)]
mod tests;
#[cfg(all(feature = "flex", target_arch = "x86_64"))]
mod vnni;
#[cfg(feature = "flex")]
mod wide;

pub use packing::Packing;

use crate::limit;
use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};
use std::ops::Range;

/// A packed matrix, `[out, in]`.
///
/// # Shapes
/// - words: `[out, in / block_len · block_words]`, 32-bit integers
/// - scales: `[out, in / block_len · block_scales]`, or `[out, 1]` where every row has one
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    /// Bits of the numbers.
    pub words: Tensor<2, Int>,
    /// Floats of the blocks.
    pub scales: Tensor<2>,
    /// How they are laid out.
    pub packing: Packing,
    /// Whether products are those of the wide matrix, even where nothing learns from them.
    pub exact: bool,
}

impl PackedMatrix {
    /// A matrix of words and scales in the order of its blocks, on a device without gradients.
    ///
    /// # Panics
    /// If there are not as many as `shape` takes.
    pub fn new(
        packing: Packing,
        [rows, columns]: [usize; 2],
        words: Vec<i32>,
        scales: Vec<f32>,
        device: &Device,
    ) -> Self {
        let (device, blocks) = (device.clone().inner(), columns / packing.block_len());
        let each = if packing.block_scales() == 0 { 1 } else { blocks * packing.block_scales() };
        let scales = TensorData::new(scales, [rows, each]);
        // Every scale of f16 is one of f32 too, where a device has no f16.
        let dtype = if device.supports_dtype(packing.scale_dtype()) { packing.scale_dtype() } else { DType::F32 };
        Self {
            words: Tensor::from_data(
                TensorData::new(words, [rows, blocks * packing.block_words()]),
                (&device, DType::I32),
            ),
            scales: Tensor::from_data(scales.convert_dtype(dtype), (&device, dtype)),
            packing,
            exact: false,
        }
    }

    /// Packs the rows of a matrix.
    ///
    /// # Panics
    /// As [`Packing::pack`], or if there are not as many numbers as `shape` takes.
    pub fn pack(packing: Packing, shape: [usize; 2], values: &[f32], device: &Device) -> Self {
        let (words, scales) = packing.pack(values, shape[1]);
        Self::new(packing, shape, words, scales, device)
    }

    /// The same matrix, whose products are exact or not: see [`PackedMatrix::exact`].
    pub fn exactly(self, exact: bool) -> Self {
        Self { exact, ..self }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let each = |dims: [usize; 2], dtype: DType| dims[0] * dims[1] * dtype.size();
        each(self.words.dims(), self.words.dtype()) + each(self.scales.dims(), self.scales.dtype())
    }

    /// `[out, in]`
    pub fn shape(&self) -> [usize; 2] {
        let [rows, width] = self.words.dims();
        [rows, width / self.packing.block_words() * self.packing.block_len()]
    }

    /// Some of its rows, as packed.
    ///
    /// # Panics
    /// If it has no such rows.
    pub fn rows(&self, rows: Range<usize>) -> Self {
        let part = [rows.clone(), 0..self.words.dims()[1]];
        let scales = self.scales.clone().narrow(0, rows.start, rows.len());
        Self { words: self.words.clone().slice(part), scales, packing: self.packing, exact: self.exact }
    }

    /// Its numbers, `[out, in]`.
    pub fn widen(&self, dtype: FloatDType) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if flex::is_flex(&self.words.device()) {
            return flex::widen(self, dtype);
        }
        self.widen_plainly(dtype)
    }

    /// `x·Wᵀ + bias`, in the numbers of `x`. On burn's CPU backend, where `x` carries no gradient, the numbers of `x` are
    /// rounded to eight bits for it, unless the matrix is [`exact`](PackedMatrix::exact).
    ///
    /// # Shapes
    /// - x: `[rows, in]`; bias: `[out]`
    /// - output: `[rows, out]`
    pub fn project(&self, x: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if !self.exact && flex::projects(self, &x) {
            return flex::project(self, x, bias);
        }
        let y = self.multiply(x);
        match bias {
            Some(bias) => y + bias.unsqueeze(),
            None => y,
        }
    }

    /// `x·Wᵀ` of the wide matrix, in the numbers of `x`.
    ///
    /// # Shapes
    /// - x: `[rows, in]`
    /// - output: `[rows, out]`
    pub fn multiply(&self, x: Tensor<2>) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if flex::is_flex(&self.words.device()) {
            return flex::multiply(self, x);
        }
        self.multiply_plainly(x)
    }

    /// No wide part is larger than a device allows.
    fn multiply_plainly(&self, x: Tensor<2>) -> Tensor<2> {
        let ([output, input], dtype) = (self.shape(), float(x.dtype()));
        let runs = limit::runs(output, input * x.dtype().size(), &x.device());
        let multiply = |part: &Self| {
            let weight = part.widen_plainly(dtype);
            let weight = if x.device().is_autodiff() { weight.autodiff() } else { weight };
            x.clone().matmul(weight.transpose())
        };
        if runs.len() == 1 {
            return multiply(self);
        }
        Tensor::cat(runs.into_iter().map(|rows| multiply(&self.rows(rows))).collect(), 1)
    }
}

/// The dtype of floats.
fn float(dtype: DType) -> FloatDType {
    match dtype {
        DType::F64 => FloatDType::F64,
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    }
}
