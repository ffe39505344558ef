//! From a packed matrix's bits to small integers without a sign, a byte each, and the scales that belong to them: what both
//! widening and the products in eight bits begin with.

use super::packing::{Form, NF4, Packing};
use burn::tensor::{DType, f16};
use burn_flex::FlexTensor;
use std::borrow::Cow;

/// A packed matrix on burn's CPU backend.
pub(super) struct Packed<'a> {
    words: Cow<'a, [i32]>,
    scales: Scales<'a>,
    pub packing: Packing,
    /// Rows, or the product's outputs.
    pub rows: usize,
    pub columns: usize,
}

/// Scales of blocks, as the tensor has them.
enum Scales<'a> {
    F16(Cow<'a, [f16]>),
    F32(Cow<'a, [f32]>),
}

impl Scales<'_> {
    fn get(&self, at: usize) -> f32 {
        match self {
            Self::F16(scales) => scales[at].to_f32(),
            Self::F32(scales) => scales[at],
        }
    }
}

/// The numbers of a tensor in order: its own, or a copy.
fn in_order<E: burn::tensor::Element + bytemuck::Pod>(tensor: &FlexTensor) -> Cow<'_, [E]> {
    match tensor.as_slice() {
        Some(numbers) => Cow::Borrowed(numbers),
        None => Cow::Owned(tensor.to_contiguous().storage().to_vec()),
    }
}

impl<'a> Packed<'a> {
    pub fn of(words: &'a FlexTensor, scales: &'a FlexTensor, packing: Packing) -> Self {
        let [rows, width] = words.layout().shape().dims();
        let scales = match scales.dtype() {
            DType::F16 => Scales::F16(in_order(scales)),
            _ => Scales::F32(in_order(scales)),
        };
        let columns = width / packing.block_words() * packing.block_len();
        Self { words: in_order(words), scales, packing, rows, columns }
    }

    /// Numbers of a part of a row that [`Packed::codes`] reads at a time: whole blocks.
    pub const fn step(&self) -> usize {
        256
    }

    /// The bits of some blocks of a row.
    fn bytes(&self, row: usize, first: usize, count: usize) -> &[u8] {
        let width = self.packing.block_words();
        let start = (row * (self.columns / self.packing.block_len()) + first) * width;
        bytemuck::cast_slice(&self.words[start..start + count * width])
    }

    /// The codes of a row's numbers, from number `first` on, as many as there is room for: whole blocks.
    #[inline(always)]
    pub fn codes(&self, row: usize, first: usize, out: &mut [u8]) {
        let len = self.packing.block_len();
        let bytes = self.bytes(row, first / len, out.len() / len);
        match self.packing {
            Packing::Q8_0 => {
                for (out, byte) in out.iter_mut().zip(bytes) {
                    *out = byte ^ 128;
                }
            }
            Packing::Q4_0 => {
                for (block, out) in bytes.as_chunks::<16>().0.iter().zip(out.as_chunks_mut::<32>().0) {
                    halves(block, out);
                }
            }
            Packing::Nf4 => {
                for (byte, out) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = [byte >> 4, byte & 15];
                }
            }
        }
    }

    /// The scales that belong to them, one for each [`Packing::group_len`] codes.
    #[inline(always)]
    pub fn scales(&self, row: usize, first: usize, out: &mut [f32]) {
        let start = (row * self.columns + first) / self.packing.block_len();
        for (at, out) in out.iter_mut().enumerate() {
            *out = self.scales.get(start + at);
        }
    }

    /// Widens some of a row's numbers, from number `first` on: whole blocks, at most [`Packed::step`].
    #[inline(always)]
    pub fn widen(&self, row: usize, first: usize, out: &mut [f32]) {
        let (mut codes, mut scales) = ([0; 256], [0.0; 16]);
        let (codes, group) = (&mut codes[..out.len()], self.packing.group_len());
        let scales = &mut scales[..out.len() / group];
        self.codes(row, first, codes);
        self.scales(row, first, scales);
        let groups = out.chunks_exact_mut(group).zip(codes.chunks_exact(group)).zip(scales);
        match self.packing.form() {
            Form::Offset(offset) => {
                for ((out, codes), scale) in groups {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = *scale * (i32::from(*code) - i32::from(offset)) as f32;
                    }
                }
            }
            Form::Table => {
                for ((out, codes), scale) in groups {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = *scale * NF4[usize::from(*code & 15)];
                    }
                }
            }
        }
    }
}

/// 32 codes in the halves of 16 bytes, the low ones first.
#[inline(always)]
fn halves(bytes: &[u8; 16], out: &mut [u8; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}
