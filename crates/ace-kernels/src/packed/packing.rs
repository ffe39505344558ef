//! How numbers of few bits are laid out: the facts of every packing.

use burn::tensor::DType;

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

/// What a code stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Form {
    /// `scale·(code − this)`
    Offset(u8),
    /// `scale·TABLE[code]`
    Table,
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

    /// Codes that share a scale.
    pub(super) const fn group_len(self) -> usize {
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

    /// What its codes stand for.
    pub(super) const fn form(self) -> Form {
        match self {
            Self::Q8_0 => Form::Offset(128),
            Self::Q4_0 => Form::Offset(8),
            Self::Nf4 => Form::Table,
        }
    }
}
