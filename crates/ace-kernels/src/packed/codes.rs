//! From a packed matrix's bits to small integers without a sign, a byte each, and the scales that belong to them: what both
//! widening and the products in eight bits begin with. Layouts are those of ggml's `ggml-common.h`, without the floats.

use super::packing::{Form, Packing};
use burn::tensor::{DType, f16};
use burn_flex::FlexTensor;
use std::borrow::Cow;

/// Numbers of a row that are read at a time: whole blocks of every packing.
pub(super) const STEP: usize = 256;

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
            Packing::Q8_0 => out.iter_mut().zip(bytes).for_each(|(out, byte)| *out = byte ^ 128),
            Packing::E4M3 | Packing::E5M2 => out.copy_from_slice(bytes),
            Packing::Nf4 => {
                for (byte, out) in bytes.iter().zip(out.as_chunks_mut::<2>().0) {
                    *out = [byte >> 4, byte & 15];
                }
            }
            Packing::Q4_0 | Packing::Q4_1 => each::<16, 32>(bytes, out, |block, out| halves(block, out)),
            Packing::Q5_0 | Packing::Q5_1 => each::<20, 32>(bytes, out, |block, out| {
                halves(&block[4..], out);
                for (at, out) in out.iter_mut().enumerate() {
                    *out |= (block[at / 8] >> (at % 8) & 1) << 4;
                }
            }),
            // 16 bytes of scales and minima, 64 of codes.
            Packing::Q2K => each::<80, 256>(bytes, out, |block, out| quarters(&block[16..], out, |_, _| 0)),
            // 32 bytes of third bits, 64 of the others, 12 of scales.
            Packing::Q3K => each::<108, 256>(bytes, out, |block, out| {
                let (thirds, rest) = block.split_at(32);
                quarters(&rest[..64], out, |group, at| (thirds[at] >> group & 1) << 2);
            }),
            // 12 bytes of scales and minima, 128 of codes.
            Packing::Q4K => each::<140, 256>(bytes, out, |block, out| long_halves(&block[12..], out, |_, _| 0)),
            // 12 bytes of scales and minima, 32 of fifth bits, 128 of the others.
            Packing::Q5K => each::<172, 256>(bytes, out, |block, out| {
                let (fifths, rest) = block[12..].split_at(32);
                long_halves(rest, out, |group, at| (fifths[at] >> group & 1) << 4);
            }),
            // 128 bytes of low halves, 64 of high quarters, 16 of scales.
            Packing::Q6K => each::<208, 256>(bytes, out, |block, out| {
                let (low, high) = block.split_at(128);
                for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                    let low = low[group / 4 * 64 + group % 2 * 32..][..32].iter();
                    let high = high[group / 4 * 32..][..32].iter();
                    for ((out, low), high) in out.iter_mut().zip(low).zip(high) {
                        *out = low >> (group % 4 / 2 * 4) & 15 | (high >> (group % 4 * 2) & 3) << 4;
                    }
                }
            }),
        }
    }

    /// The scales that belong to them, one for each [`Packing::group_len`] codes, and the minima, if the packing has them.
    #[inline(always)]
    pub fn scales(&self, row: usize, first: usize, scales: &mut [f32], minima: &mut [f32]) {
        let (len, group) = (self.packing.block_len(), self.packing.group_len());
        let block = (row * self.columns + first) / len;
        let bytes = self.bytes(row, first / len, (scales.len() * group).min(self.columns - first) / len);
        match self.packing {
            Packing::E4M3 | Packing::E5M2 => scales.fill(self.scales.get(row)),
            Packing::Q8_0 | Packing::Q4_0 | Packing::Q5_0 | Packing::Nf4 => {
                for (at, scale) in scales.iter_mut().enumerate() {
                    *scale = self.scales.get(block + at);
                }
            }
            Packing::Q4_1 | Packing::Q5_1 => {
                for (at, (scale, minimum)) in scales.iter_mut().zip(minima).enumerate() {
                    (*scale, *minimum) = (self.scales.get(2 * (block + at)), -self.scales.get(2 * (block + at) + 1));
                }
            }
            Packing::Q2K => {
                let all = scales.as_chunks_mut::<16>().0.iter_mut().zip(minima.as_chunks_mut::<16>().0);
                for (at, ((scales, minima), bytes)) in all.zip(bytes.as_chunks::<80>().0).enumerate() {
                    let [d, m] = [0, 1].map(|which| self.scales.get(2 * (block + at) + which));
                    for ((scale, minimum), byte) in scales.iter_mut().zip(minima).zip(bytes) {
                        (*scale, *minimum) = (d * f32::from(byte & 15), m * f32::from(byte >> 4));
                    }
                }
            }
            Packing::Q3K => {
                let all = scales.as_chunks_mut::<16>().0.iter_mut().zip(bytes.as_chunks::<108>().0);
                for (at, (scales, bytes)) in all.enumerate() {
                    let (d, bytes) = (self.scales.get(block + at), &bytes[96..]);
                    for (group, scale) in scales.iter_mut().enumerate() {
                        let low = bytes[group % 8] >> (group / 8 * 4) & 15;
                        let high = bytes[8 + group % 4] >> (group / 4 * 2) & 3;
                        *scale = d * (f32::from(high << 4 | low) - 32.0);
                    }
                }
            }
            Packing::Q4K => self.long_scales::<140>(block, bytes, scales, minima),
            Packing::Q5K => self.long_scales::<172>(block, bytes, scales, minima),
            Packing::Q6K => {
                let all = scales.as_chunks_mut::<16>().0.iter_mut().zip(bytes.as_chunks::<208>().0);
                for (at, (scales, bytes)) in all.enumerate() {
                    let d = self.scales.get(block + at);
                    for (scale, byte) in scales.iter_mut().zip(&bytes[192..]) {
                        *scale = d * f32::from(byte.cast_signed());
                    }
                }
            }
        }
    }

    /// Those of `Q4_K` and `Q5_K`: six bits each, a block's in its first twelve bytes.
    #[inline(always)]
    fn long_scales<const BYTES: usize>(&self, block: usize, bytes: &[u8], scales: &mut [f32], minima: &mut [f32]) {
        let all = scales.as_chunks_mut::<8>().0.iter_mut().zip(minima.as_chunks_mut::<8>().0);
        for (at, ((scales, minima), bytes)) in all.zip(bytes.as_chunks::<BYTES>().0).enumerate() {
            let [d, m] = [0, 1].map(|which| self.scales.get(2 * (block + at) + which));
            for j in 0..4 {
                let [a, b, c] = [bytes[j], bytes[4 + j], bytes[8 + j]];
                (scales[j], minima[j]) = (d * f32::from(a & 63), m * f32::from(b & 63));
                (scales[4 + j], minima[4 + j]) =
                    (d * f32::from(c & 15 | a >> 6 << 4), m * f32::from(c >> 4 | b >> 6 << 4));
            }
        }
    }

    /// Widens some of a row's numbers, from number `first` on: whole blocks, at most [`STEP`].
    #[inline(always)]
    pub fn widen(&self, row: usize, first: usize, out: &mut [f32]) {
        let group = self.packing.group_len();
        let (mut codes, mut scales, mut minima) = ([0; STEP], [0.0; STEP / 16], [0.0; STEP / 16]);
        let (codes, groups) = (&mut codes[..out.len()], out.len().div_ceil(group));
        let (scales, minima) = (&mut scales[..groups], &mut minima[..groups]);
        self.codes(row, first, codes);
        self.scales(row, first, scales, minima);
        let groups = out.chunks_mut(group).zip(codes.chunks(group)).zip(&*scales);
        match self.packing.form() {
            Form::Offset(offset) => {
                for ((out, codes), scale) in groups {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = scale * (i32::from(*code) - i32::from(offset)) as f32;
                    }
                }
            }
            Form::Minimum => {
                for (((out, codes), scale), minimum) in groups.zip(&*minima) {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = scale * f32::from(*code) - minimum;
                    }
                }
            }
            Form::Table(table) => {
                for ((out, codes), scale) in groups {
                    for (out, code) in out.iter_mut().zip(codes) {
                        *out = scale * table[usize::from(*code)];
                    }
                }
            }
        }
    }
}

/// Reads block after block.
#[inline(always)]
fn each<const BYTES: usize, const LEN: usize>(
    bytes: &[u8],
    out: &mut [u8],
    read: impl Fn(&[u8; BYTES], &mut [u8; LEN]),
) {
    for (block, out) in bytes.as_chunks().0.iter().zip(out.as_chunks_mut().0) {
        read(block, out);
    }
}

/// 32 codes in the halves of 16 bytes, the low ones first.
#[inline(always)]
fn halves(bytes: &[u8], out: &mut [u8; 32]) {
    let (low, high) = out.split_at_mut(16);
    for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

/// 256 codes in the halves of 128 bytes: low ones of 32, high ones of the same. `more` are higher bits, by group and place.
#[inline(always)]
fn long_halves(bytes: &[u8], out: &mut [u8; 256], more: impl Fn(usize, usize) -> u8) {
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (at, (out, byte)) in out.iter_mut().zip(&bytes[group / 2 * 32..][..32]).enumerate() {
            *out = byte >> (group % 2 * 4) & 15 | more(group, at);
        }
    }
}

/// 256 codes in the quarters of 64 bytes: lowest ones of 32, the next ones of the same, and so on. `more` as above.
#[inline(always)]
fn quarters(bytes: &[u8], out: &mut [u8; 256], more: impl Fn(usize, usize) -> u8) {
    for (group, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (at, (out, byte)) in out.iter_mut().zip(&bytes[group / 4 * 32..][..32]).enumerate() {
            *out = byte >> (group % 4 * 2) & 3 | more(group, at);
        }
    }
}
