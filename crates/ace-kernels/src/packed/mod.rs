//! Products with a matrix that is held in few bits, with a scale per block of numbers.
//!
//! | packing | numbers of a block | bits of a number | value |
//! |---|---|---|---|
//! | [`Packing::Q8_0`] | 32, an f16 scale | 8 | `scale · q`, `q` in −128..127 |
//! | [`Packing::Q4_0`] | 32, an f16 scale | 4 | `scale · (q − 8)` |
//! | [`Packing::Nf4`] | 64, an f32 scale | 4 | `scale · TABLE[q]` |
//!
//! The first two have the blocks of GGUF. The third is the 4-bit NormalFloat of QLoRA (Dettmers et al. 2023) as
//! bitsandbytes has it: its table, its order of halves, the largest magnitude of a block as its scale. QLoRA's second
//! quantization, that of the scales, is not done: it would save 0.4 of 4.5 bits.
//!
//! A block's bits are little-endian words in an integer tensor, its scale is in a float tensor: every backend has these.
//! The wide numbers exist while a product takes place, and nowhere else: its gradient widens them anew. burn's CPU backend
//! has them for a few hundred rows at a time, on all cores; on another backend they are plain tensor operations, and
//! there autodiff holds the wide matrix until the backward pass.

#[cfg(feature = "flex")]
mod flex;
#[cfg(test)]
mod tests;

use burn::{
    prelude::*,
    tensor::{DType, FloatDType},
};

/// How numbers of few bits are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// GGUF's: 8 bits with a sign.
    Q8_0,
    /// GGUF's: 4 bits, symmetric but for −8.
    Q4_0,
    /// QLoRA's: 4 bits, the quantiles of a normal distribution.
    Nf4,
}

/// NF4's numbers, from bitsandbytes' `functional.py` and `kernels.cu`.
#[allow(clippy::excessive_precision)]
const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_800_998_687_7,
    -0.525_073_051_452_636_7,
    -0.394_917_488_098_144_53,
    -0.284_441_381_692_886_35,
    -0.184_773_430_228_233_34,
    -0.091_050_036_251_544_95,
    0.0,
    0.079_580_299_556_255_34,
    0.160_930_201_411_247_25,
    0.246_112_301_945_686_34,
    0.337_915_241_718_292_24,
    0.440_709_829_330_444_34,
    0.562_617_003_917_694_1,
    0.722_956_836_223_602_3,
    1.0,
];

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

/// Numbers that are widened at a time where plain operations do it.
const PLAIN: usize = 1 << 22;

impl Packing {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Q8_0, Self::Q4_0, Self::Nf4];

    /// Its name: `q8_0`, `q4_0`, `nf4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Q8_0 => "q8_0",
            Self::Q4_0 => "q4_0",
            Self::Nf4 => "nf4",
        }
    }

    /// Numbers that share a scale; the width of a packed matrix is a multiple of it.
    pub const fn block_len(self) -> usize {
        match self {
            Self::Q8_0 | Self::Q4_0 => 32,
            Self::Nf4 => 64,
        }
    }

    /// Words of 32 bits that a block takes, its scale aside.
    pub const fn block_words(self) -> usize {
        match self {
            Self::Q4_0 => 4,
            Self::Q8_0 | Self::Nf4 => 8,
        }
    }

    /// The floats that hold a scale exactly.
    pub const fn scale_dtype(self) -> DType {
        match self {
            Self::Q8_0 | Self::Q4_0 => DType::F16,
            Self::Nf4 => DType::F32,
        }
    }

    /// Bytes of that many numbers, scales included.
    pub const fn bytes(self, elements: usize) -> usize {
        elements / self.block_len() * (4 * self.block_words() + self.scale_dtype().size())
    }

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
        }
    }
}

/// A packed matrix, `[out, in]`.
///
/// # Shapes
/// - words: `[out, in / block_len · block_words]`, 32-bit integers
/// - scales: `[out, in / block_len]`
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    /// Bits of the numbers.
    pub words: Tensor<2, Int>,
    /// Scales of the blocks.
    pub scales: Tensor<2>,
    /// How they are laid out.
    pub packing: Packing,
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
        let scales = TensorData::new(scales, [rows, blocks]);
        // Every scale of f16 is one of f32 too, where a device has no f16.
        let dtype = if device.supports_dtype(packing.scale_dtype()) { packing.scale_dtype() } else { DType::F32 };
        Self {
            words: Tensor::from_data(
                TensorData::new(words, [rows, blocks * packing.block_words()]),
                (&device, DType::I32),
            ),
            scales: Tensor::from_data(scales.convert_dtype(dtype), (&device, dtype)),
            packing,
        }
    }

    /// Packs the rows of a matrix.
    ///
    /// # Panics
    /// If the numbers are no whole number of blocks, or not as many as `shape` takes.
    pub fn pack(packing: Packing, shape: [usize; 2], values: &[f32], device: &Device) -> Self {
        let (words, scales) = packing.pack(values);
        Self::new(packing, shape, words, scales, device)
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        let each = |dims: [usize; 2], dtype: DType| dims[0] * dims[1] * dtype.size();
        each(self.words.dims(), self.words.dtype()) + each(self.scales.dims(), self.scales.dtype())
    }

    /// `[out, in]`
    pub fn shape(&self) -> [usize; 2] {
        let [rows, blocks] = self.scales.dims();
        [rows, blocks * self.packing.block_len()]
    }

    /// Its numbers, `[out, in]`.
    pub fn widen(&self, dtype: FloatDType) -> Tensor<2> {
        #[cfg(feature = "flex")]
        if flex::is_flex(&self.words.device()) {
            return flex::widen(self, dtype);
        }
        self.widen_plainly(dtype)
    }

    /// `x·Wᵀ`, in the numbers of `x`.
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

    fn multiply_plainly(&self, x: Tensor<2>) -> Tensor<2> {
        let weight = self.widen_plainly(float(x.dtype()));
        let weight = if x.device().is_autodiff() { weight.autodiff() } else { weight };
        x.matmul(weight.transpose())
    }

    /// As [`PackedMatrix::widen`], in operations that every backend has. They make tensors of integers as large as the
    /// matrix, so that it is widened in parts.
    fn widen_plainly(&self, dtype: FloatDType) -> Tensor<2> {
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

/// The dtype of floats.
fn float(dtype: DType) -> FloatDType {
    match dtype {
        DType::F64 => FloatDType::F64,
        DType::F16 => FloatDType::F16,
        DType::BF16 => FloatDType::BF16,
        _ => FloatDType::F32,
    }
}
