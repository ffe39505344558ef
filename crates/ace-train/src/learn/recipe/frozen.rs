//! `quantize` and `placement`: how what does not learn is held.

use ace_nn::weight::Packing;
use ace_weights::Placement;
use serde::{Deserialize, Serialize};

/// Bits in which matrices of frozen blocks are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrozenPacking {
    /// 8.5 bits a number: GGUF's blocks of 32 with a scale.
    #[serde(rename = "q8_0")]
    Q8,
    /// 6.56 bits a number: GGUF's blocks of 256 with integer scales.
    #[serde(rename = "q6_k")]
    Q6K,
    /// 5.5 bits a number: GGUF's blocks of 256 with integer scales and minima.
    #[serde(rename = "q5_k")]
    Q5K,
    /// 4.5 bits a number: GGUF's blocks of 256 with integer scales and minima.
    #[serde(rename = "q4_k")]
    Q4K,
    /// 8 bits a number: torch's `float8_e4m3fn` with a scale per row.
    Fp8,
    /// 4.5 bits a number: GGUF's blocks of 32 with a scale.
    #[serde(rename = "q4_0")]
    Q4,
    /// 4.5 bits a number: QLoRA's NormalFloat in blocks of 64.
    Nf4,
}

impl From<FrozenPacking> for Packing {
    fn from(packing: FrozenPacking) -> Self {
        match packing {
            FrozenPacking::Q8 => Self::Q8_0,
            FrozenPacking::Q6K => Self::Q6K,
            FrozenPacking::Q5K => Self::Q5K,
            FrozenPacking::Q4K => Self::Q4K,
            FrozenPacking::Fp8 => Self::E4M3,
            FrozenPacking::Q4 => Self::Q4_0,
            FrozenPacking::Nf4 => Self::Nf4,
        }
    }
}

/// Where the frozen blocks of the transformer are while its branches learn.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrozenPlacement {
    /// On the device.
    #[default]
    Resident,
    /// In the file, or packed in the memory of the host if the file is wider than `quantize`: one is at work on the device, the
    /// next on its way.
    Streamed,
}

impl From<FrozenPlacement> for Placement {
    fn from(placement: FrozenPlacement) -> Self {
        match placement {
            FrozenPlacement::Resident => Self::Resident,
            FrozenPlacement::Streamed => Self::Streamed,
        }
    }
}
