//! The tensor types of GGUF: blocks of quantized weights, and how to read them as numbers.
//!
//! A block holds `block_len` weights that follow each other along a tensor's last axis, with one or two scales in f16.
//! `d` is the scale, `m` an offset, `q` an unsigned integer of few bits. In a K-quant a block of 256 has smaller groups
//! with integer scales `s` and offsets `o` of their own. Layouts and the order of the arithmetic are those of ggml's
//! `ggml-quants.c` and the `gguf` package's `quants.py`, so the numbers agree to the last bit.

use super::GgufError;
use half::{bf16, f16};
use std::fmt;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GgmlType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
    /// 32 weights in 18 bytes: `d·(q − 8)`, 4 bits.
    Q4_0,
    /// 32 weights in 20 bytes: `d·q + m`, 4 bits.
    Q4_1,
    /// 32 weights in 22 bytes: `d·(q − 16)`, 5 bits.
    Q5_0,
    /// 32 weights in 24 bytes: `d·q + m`, 5 bits.
    Q5_1,
    /// 32 weights in 34 bytes: `d·q`, 8 bits with a sign.
    Q8_0,
    /// 256 weights in 84 bytes: `d·s·q − m·o`, 2 bits; 4-bit scales and offsets of 16 weights.
    Q2K,
    /// 256 weights in 110 bytes: `d·(s − 32)·(q − 4)`, 3 bits; 6-bit scales of 16 weights.
    Q3K,
    /// 256 weights in 144 bytes: `d·s·q − m·o`, 4 bits; 6-bit scales and offsets of 32 weights.
    Q4K,
    /// 256 weights in 176 bytes: `d·s·q − m·o`, 5 bits; 6-bit scales and offsets of 32 weights.
    Q5K,
    /// 256 weights in 210 bytes: `d·s·(q − 32)`, 6 bits; 8-bit scales of 16 weights.
    Q6K,
}

/// Type numbers of `ggml.h` that this reader knows by name only, for its refusal.
const OTHERS: [(u32, &str); 21] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl GgmlType {
    /// Every type that [`dequantize`] reads.
    pub const ALL: [Self; 13] = [
        Self::F32,
        Self::F16,
        Self::Bf16,
        Self::Q8_0,
        Self::Q6K,
        Self::Q5K,
        Self::Q5_1,
        Self::Q5_0,
        Self::Q4K,
        Self::Q4_1,
        Self::Q4_0,
        Self::Q3K,
        Self::Q2K,
    ];

    /// Number in the file, name, weights of a block and bytes of a block; from `ggml.h` and `ggml-common.h`.
    const fn row(self) -> (u32, &'static str, usize, usize) {
        match self {
            Self::F32 => (0, "F32", 1, 4),
            Self::F16 => (1, "F16", 1, 2),
            Self::Q4_0 => (2, "Q4_0", 32, 18),
            Self::Q4_1 => (3, "Q4_1", 32, 20),
            Self::Q5_0 => (6, "Q5_0", 32, 22),
            Self::Q5_1 => (7, "Q5_1", 32, 24),
            Self::Q8_0 => (8, "Q8_0", 32, 34),
            Self::Q2K => (10, "Q2_K", 256, 84),
            Self::Q3K => (11, "Q3_K", 256, 110),
            Self::Q4K => (12, "Q4_K", 256, 144),
            Self::Q5K => (13, "Q5_K", 256, 176),
            Self::Q6K => (14, "Q6_K", 256, 210),
            Self::Bf16 => (30, "BF16", 1, 2),
        }
    }

    /// The type behind a number in a file, or the name of one that is not read here.
    pub(super) fn of(number: u32) -> Result<Self, String> {
        Self::ALL.into_iter().find(|kind| kind.row().0 == number).ok_or_else(|| {
            let known = OTHERS.iter().find(|(other, _)| *other == number);
            known.map_or_else(|| format!("number {number}"), |(_, name)| (*name).to_owned())
        })
    }

    /// The number that a file has for it.
    pub(super) const fn number(self) -> u32 {
        self.row().0
    }

    /// The name as ggml writes it, such as `Q4_K`.
    pub const fn name(self) -> &'static str {
        self.row().1
    }

    /// Weights that are stored together; a tensor's last axis is a multiple of it.
    pub const fn block_len(self) -> usize {
        self.row().2
    }

    /// Bytes of `block_len` weights.
    pub const fn block_bytes(self) -> usize {
        self.row().3
    }

    /// Bytes of that many weights; nothing if they are no whole number of blocks, or too many to count.
    pub const fn bytes(self, elements: usize) -> Option<usize> {
        if elements.is_multiple_of(self.block_len()) {
            (elements / self.block_len()).checked_mul(self.block_bytes())
        } else {
            None
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// The numbers of a tensor of `elements` weights, in the order of the file; takes 4 bytes for each.
///
/// # Errors
/// If `bytes` is not exactly as long as that many weights are.
pub fn dequantize(kind: GgmlType, bytes: &[u8], elements: usize) -> Result<Vec<f32>, GgufError> {
    if kind.bytes(elements) != Some(bytes.len()) {
        return Err(GgufError::Length { kind, elements, bytes: bytes.len() });
    }
    Ok(match kind {
        GgmlType::F32 => each::<4, 1>(bytes, |block, [out]| *out = f32::from_le_bytes(*block)),
        GgmlType::F16 => each::<2, 1>(bytes, |block, [out]| *out = f16::from_le_bytes(*block).to_f32()),
        GgmlType::Bf16 => each::<2, 1>(bytes, |block, [out]| *out = bf16::from_le_bytes(*block).to_f32()),
        GgmlType::Q4_0 => each(bytes, q4_0),
        GgmlType::Q4_1 => each(bytes, q4_1),
        GgmlType::Q5_0 => each(bytes, q5_0),
        GgmlType::Q5_1 => each(bytes, q5_1),
        GgmlType::Q8_0 => each(bytes, q8_0),
        GgmlType::Q2K => each(bytes, q2_k),
        GgmlType::Q3K => each(bytes, q3_k),
        GgmlType::Q4K => each(bytes, q4_k),
        GgmlType::Q5K => each(bytes, q5_k),
        GgmlType::Q6K => each(bytes, q6_k),
    })
}

/// Reads block after block.
fn each<const BYTES: usize, const LEN: usize>(bytes: &[u8], read: impl Fn(&[u8; BYTES], &mut [f32; LEN])) -> Vec<f32> {
    let (blocks, _) = bytes.as_chunks::<BYTES>();
    let mut values = vec![0.0; blocks.len() * LEN];
    let (out, _) = values.as_chunks_mut::<LEN>();
    for (block, out) in blocks.iter().zip(out) {
        read(block, out);
    }
    values
}

/// The f16 at byte `at`.
fn scale(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// 32 weights in the halves of 16 bytes, the low ones first; weight `i` has its fifth bit, if it has one, in bit `i` of
/// `fifths`.
fn halves(bytes: &[u8], fifths: u32, out: &mut [f32; 32], read: impl Fn(f32) -> f32) {
    let (low, high) = out.split_at_mut(16);
    for (i, ((low, high), byte)) in low.iter_mut().zip(high).zip(bytes).enumerate() {
        *low = read((u32::from(byte & 15) | (fifths >> i & 1) << 4) as f32);
        *high = read((u32::from(byte >> 4) | (fifths >> (i + 16) & 1) << 4) as f32);
    }
}

/// The 32 bits at byte `at`.
fn bits(block: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]])
}

fn q4_0(block: &[u8; 18], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    halves(&block[2..], 0, out, |q| d * (q - 8.0));
}

fn q4_1(block: &[u8; 20], out: &mut [f32; 32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    halves(&block[4..], 0, out, |q| d * q + m);
}

fn q5_0(block: &[u8; 22], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    halves(&block[6..], bits(block, 2), out, |q| d * (q - 16.0));
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    halves(&block[8..], bits(block, 4), out, |q| d * q + m);
}

fn q8_0(block: &[u8; 34], out: &mut [f32; 32]) {
    let d = scale(block, 0);
    for (out, q) in out.iter_mut().zip(&block[2..]) {
        *out = d * f32::from(q.cast_signed());
    }
}

/// 16 scales and offsets in halves of a byte, 64 bytes of weights, `d`, `m`. A run of 32 bytes holds 128 weights: the
/// lowest two bits of each byte come first.
fn q2_k(block: &[u8; 84], out: &mut [f32; 256]) {
    let (scales, weights) = (&block[..16], &block[16..80]);
    let (d, m) = (scale(block, 80), scale(block, 82));
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let (d, m) = (d * f32::from(scales[group] & 15), m * f32::from(scales[group] >> 4));
        let (from, shift) = (group / 8 * 32 + group % 2 * 16, group / 2 % 4 * 2);
        for (out, byte) in out.iter_mut().zip(&weights[from..]) {
            *out = d * f32::from(byte >> shift & 3) - m;
        }
    }
}

/// 32 bytes of third bits, 64 bytes of the other two as in [`q2_k`], 12 bytes of scales, `d`. Weight `i`'s third bit is
/// bit `i / 32` of byte `i % 32`. The 16 scales have their low four bits in halves of eight bytes, their high two in
/// quarters of the last four.
fn q3_k(block: &[u8; 110], out: &mut [f32; 256]) {
    let (thirds, weights, scales) = (&block[..32], &block[32..96], &block[96..108]);
    let d = scale(block, 108);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let low = scales[group % 8] >> (group / 8 * 4) & 15;
        let high = scales[8 + group % 4] >> (group / 4 * 2) & 3;
        let d = d * (f32::from(high << 4 | low) - 32.0);
        let (from, shift) = (group / 8 * 32 + group % 2 * 16, group / 2 % 4 * 2);
        for ((out, byte), third) in out.iter_mut().zip(&weights[from..]).zip(&thirds[group % 2 * 16..]) {
            let q = byte >> shift & 3 | (third >> (group / 2) & 1) << 2;
            *out = d * (f32::from(q) - 4.0);
        }
    }
}

/// Scale and offset of group `group` of eight: six bits each, twelve bytes together.
fn scale_and_offset(packed: &[u8], group: usize) -> (f32, f32) {
    let j = group % 4;
    let (s, o) = if group < 4 {
        (packed[j] & 63, packed[4 + j] & 63)
    } else {
        (packed[8 + j] & 15 | packed[j] >> 6 << 4, packed[8 + j] >> 4 | packed[4 + j] >> 6 << 4)
    };
    (f32::from(s), f32::from(o))
}

/// `d`, `m`, 12 bytes of scales, 128 bytes of weights. A run of 32 bytes holds two groups of 32: low halves, high halves.
fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    let (scales, weights) = (&block[4..16], &block[16..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, o) = scale_and_offset(scales, group);
        let (d, m) = (d * s, m * o);
        for (out, byte) in out.iter_mut().zip(&weights[group / 2 * 32..]) {
            *out = d * f32::from(byte >> (group % 2 * 4) & 15) - m;
        }
    }
}

/// As [`q4_k`], with 32 bytes of fifth bits before the weights: group `g`'s is bit `g`.
fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let (d, m) = (scale(block, 0), scale(block, 2));
    let (scales, fifths, weights) = (&block[4..16], &block[16..48], &block[48..]);
    for (group, out) in out.chunks_exact_mut(32).enumerate() {
        let (s, o) = scale_and_offset(scales, group);
        let (d, m) = (d * s, m * o);
        for ((out, byte), fifth) in out.iter_mut().zip(&weights[group / 2 * 32..]).zip(fifths) {
            let q = byte >> (group % 2 * 4) & 15 | (fifth >> group & 1) << 4;
            *out = d * f32::from(q) - m;
        }
    }
}

/// 128 bytes of low halves, 64 bytes of high quarters, 16 scales with a sign, `d`. For 128 weights there are 64 bytes of
/// halves (low ones are the first 64 weights) and 32 bytes of quarters (the lowest are the first 32).
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (halves, quarters, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = scale(block, 208);
    for (group, out) in out.chunks_exact_mut(16).enumerate() {
        let d = d * f32::from(scales[group].cast_signed());
        let (part, within) = (group / 8, group % 8);
        let (half, quarter) = (part * 64 + within % 4 * 16, part * 32 + within % 2 * 16);
        for ((out, half), quarter) in out.iter_mut().zip(&halves[half..]).zip(&quarters[quarter..]) {
            let q = half >> (within / 4 * 4) & 15 | (quarter >> (within / 2 * 2) & 3) << 4;
            *out = d * (f32::from(q) - 32.0);
        }
    }
}
