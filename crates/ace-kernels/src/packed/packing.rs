//! How numbers of few bits are laid out: the facts of every packing.

use burn::tensor::DType;

/// How numbers of few bits are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Packing {
    /// GGUF's: 8 bits with a sign.
    Q8_0,
    /// GGUF's: 4 bits, symmetric but for −8.
    Q4_0,
    /// GGUF's: 4 bits above a minimum.
    Q4_1,
    /// GGUF's: 5 bits, symmetric but for −16.
    Q5_0,
    /// GGUF's: 5 bits above a minimum.
    Q5_1,
    /// GGUF's: 2 bits above a minimum.
    Q2K,
    /// GGUF's: 3 bits.
    Q3K,
    /// GGUF's: 4 bits above a minimum.
    Q4K,
    /// GGUF's: 5 bits above a minimum.
    Q5K,
    /// GGUF's: 6 bits.
    Q6K,
    /// torch's `float8_e4m3fn`.
    E4M3,
    /// torch's `float8_e5m2`.
    E5M2,
    /// QLoRA's: 4 bits, the quantiles of a normal distribution.
    Nf4,
}

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// `scale·(code − this)`
    Offset(u8),
    /// `scale·code − minimum`
    Minimum,
    /// `scale·TABLE[code]`
    Table(&'static [f32; 256]),
}

/// A packing's row in the table.
#[derive(Clone, Copy)]
struct Facts {
    name: &'static str,
    block_len: usize,
    block_words: usize,
    /// Floats of a block; none where every row has one.
    block_scales: usize,
    /// Codes that share a scale once those floats are multiplied with the small integers among the bits.
    group_len: usize,
    form: Form,
}

/// NF4's numbers, from bitsandbytes' `functional.py` and `kernels.cu`.
#[allow(clippy::excessive_precision)]
pub(super) const NF4: [f32; 16] = [
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

/// NF4's, as often as they fit.
static NF4_TABLE: [f32; 256] = {
    let (mut table, mut code) = ([0.0; 256], 0);
    while code < 256 {
        table[code] = NF4[code % 16];
        code += 1;
    }
    table
};

/// What each code of E4M3 stands for: no infinity, one pattern that is no number.
static E4M3: [f32; 256] = {
    let mut table = float8(3, 7);
    (table[0x7f], table[0xff]) = (f32::NAN, f32::NAN);
    table
};

/// What each code of E5M2 stands for, as in IEEE 754.
static E5M2: [f32; 256] = {
    let mut table = float8(2, 15);
    (table[0x7c], table[0xfc]) = (f32::INFINITY, f32::NEG_INFINITY);
    let mut code = 0x7d;
    while code < 0x80 {
        (table[code], table[code | 0x80]) = (f32::NAN, f32::NAN);
        code += 1;
    }
    table
};

/// Floats of eight bits with so many bits of mantissa, as if all their exponents were numbers.
const fn float8(mantissa: u32, bias: i32) -> [f32; 256] {
    let (mut table, mut code) = ([0.0; 256], 0_usize);
    while code < 128 {
        let (exponent, rest) = ((code >> mantissa) as i32, code & ((1 << mantissa) - 1));
        let (digits, exponent) = if exponent == 0 { (rest, 1) } else { (rest + (1 << mantissa), exponent) };
        let unit = f32::from_bits(((exponent - bias - mantissa as i32 + 127) as u32) << 23);
        (table[code], table[code | 128]) = (digits as f32 * unit, -(digits as f32 * unit));
        code += 1;
    }
    table
}

impl Packing {
    /// Every one.
    pub const ALL: [Self; 13] = [
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q2K,
        Self::Q3K,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::E4M3,
        Self::E5M2,
        Self::Nf4,
    ];

    /// Those that wide numbers can be packed in.
    pub const WRITTEN: [Self; 7] = [Self::Q8_0, Self::Q6K, Self::Q5K, Self::Q4K, Self::Q4_0, Self::E4M3, Self::Nf4];

    const fn facts(self) -> Facts {
        let (name, [block_len, block_words, block_scales, group_len], form) = match self {
            Self::Q8_0 => ("q8_0", [32, 8, 1, 32], Form::Offset(128)),
            Self::Q4_0 => ("q4_0", [32, 4, 1, 32], Form::Offset(8)),
            Self::Q4_1 => ("q4_1", [32, 4, 2, 32], Form::Minimum),
            Self::Q5_0 => ("q5_0", [32, 5, 1, 32], Form::Offset(16)),
            Self::Q5_1 => ("q5_1", [32, 5, 2, 32], Form::Minimum),
            Self::Q2K => ("q2_k", [256, 20, 2, 16], Form::Minimum),
            Self::Q3K => ("q3_k", [256, 27, 1, 16], Form::Offset(4)),
            Self::Q4K => ("q4_k", [256, 35, 2, 32], Form::Minimum),
            Self::Q5K => ("q5_k", [256, 43, 2, 32], Form::Minimum),
            Self::Q6K => ("q6_k", [256, 52, 1, 16], Form::Offset(32)),
            Self::E4M3 => ("fp8", [4, 1, 0, 64], Form::Table(&E4M3)),
            Self::E5M2 => ("fp8_e5m2", [4, 1, 0, 64], Form::Table(&E5M2)),
            Self::Nf4 => ("nf4", [64, 8, 1, 64], Form::Table(&NF4_TABLE)),
        };
        Facts { name, block_len, block_words, block_scales, group_len, form }
    }

    /// Its name: `q8_0`, `q4_k`, `fp8`, `nf4` …
    pub const fn name(self) -> &'static str {
        self.facts().name
    }

    /// Numbers that are stored together; the width of a packed matrix is a multiple of it.
    pub const fn block_len(self) -> usize {
        self.facts().block_len
    }

    /// Words of 32 bits that a block takes, its scales aside: all of its bytes in the order of the file but those of its
    /// floats.
    pub const fn block_words(self) -> usize {
        self.facts().block_words
    }

    /// Floats of a block: a scale, or a scale and that of the minima. None where every row has one.
    pub const fn block_scales(self) -> usize {
        self.facts().block_scales
    }

    /// Codes that share a scale.
    pub(super) const fn group_len(self) -> usize {
        self.facts().group_len
    }

    /// What its codes stand for.
    pub(super) const fn form(self) -> Form {
        self.facts().form
    }

    /// The floats that hold a scale exactly.
    pub const fn scale_dtype(self) -> DType {
        match self {
            Self::Nf4 | Self::E4M3 | Self::E5M2 => DType::F32,
            _ => DType::F16,
        }
    }

    /// Bytes of that many numbers, scales included but for those that rows have.
    pub const fn bytes(self, elements: usize) -> usize {
        elements / self.block_len() * (4 * self.block_words() + self.block_scales() * self.scale_dtype().size())
    }
}
