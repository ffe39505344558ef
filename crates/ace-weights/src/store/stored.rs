//! How a file stores a tensor's numbers, and those numbers in a dtype that networks compute in.
//!
//! Numbers of few bits (8-bit floats, GGUF's blocks) are widened when they are read, unless networks hold them as they are
//! ([`super::WeightFile::quantized`]).

use super::{
    float8::Float8,
    gguf::{self, GgmlType},
};
use crate::quantize;
use burn::tensor::{DType, Element, TensorData};
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;
use std::{borrow::Cow, fmt};

/// Numbers that are worth a task of their own.
const TASK: usize = 1 << 16;

/// Bytes of a file that are converted at a time where they are converted by way of f32.
const PIECE: usize = 1 << 20;

/// How numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stored {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats of IEEE 754.
    F16,
    /// The upper half of 32-bit floats.
    BF16,
    /// 8-bit floats with three bits of mantissa.
    F8E4M3,
    /// 8-bit floats with two bits of mantissa.
    F8E5M2,
    /// Integers of 64 bits.
    I64,
    /// Integers of 32 bits.
    I32,
    /// GGUF's blocks.
    Block(GgmlType),
    /// What is carried along and never read as numbers.
    Other(&'static str),
}

impl Stored {
    /// What safetensors' dtypes are.
    pub(super) fn of_safetensors(dtype: Dtype) -> Self {
        match dtype {
            Dtype::F64 => Self::F64,
            Dtype::F32 => Self::F32,
            Dtype::F16 => Self::F16,
            Dtype::BF16 => Self::BF16,
            Dtype::F8_E4M3 => Self::F8E4M3,
            Dtype::F8_E5M2 => Self::F8E5M2,
            Dtype::I64 => Self::I64,
            Dtype::I32 => Self::I32,
            Dtype::BOOL => Self::Other("BOOL"),
            Dtype::U8 => Self::Other("U8"),
            Dtype::I8 => Self::Other("I8"),
            Dtype::I16 => Self::Other("I16"),
            Dtype::U16 => Self::Other("U16"),
            Dtype::U32 => Self::Other("U32"),
            Dtype::U64 => Self::Other("U64"),
            _ => Self::Other("another dtype"),
        }
    }

    /// What GGUF's types are; floats are stored there as everywhere.
    pub(super) fn of_gguf(kind: GgmlType) -> Self {
        match kind {
            GgmlType::F32 => Self::F32,
            GgmlType::F16 => Self::F16,
            GgmlType::Bf16 => Self::BF16,
            packed => Self::Block(packed),
        }
    }

    /// safetensors' dtype, for what can be written there.
    pub(crate) fn safetensors(self) -> Option<Dtype> {
        Some(match self {
            Self::F64 => Dtype::F64,
            Self::F32 => Dtype::F32,
            Self::F16 => Dtype::F16,
            Self::BF16 => Dtype::BF16,
            Self::F8E4M3 => Dtype::F8_E4M3,
            Self::F8E5M2 => Dtype::F8_E5M2,
            Self::I64 => Dtype::I64,
            Self::I32 => Dtype::I32,
            Self::Block(_) | Self::Other(_) => return None,
        })
    }

    /// The dtype of a tensor's numbers when none is asked for: the stored one, bf16 for what is packed. `None` if they
    /// cannot be read.
    pub fn dtype(self) -> Option<DType> {
        Some(match self {
            Self::F64 => DType::F64,
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 | Self::F8E4M3 | Self::F8E5M2 | Self::Block(_) => DType::BF16,
            Self::I64 => DType::I64,
            Self::I32 => DType::I32,
            Self::Other(_) => return None,
        })
    }

    /// Whether the numbers have fewer bits than any dtype that networks compute in.
    pub fn is_quantized(self) -> bool {
        matches!(self, Self::F8E4M3 | Self::F8E5M2 | Self::Block(_))
    }

    /// Bytes that are read together, or a multiple of them.
    pub(crate) fn block_bytes(self) -> usize {
        match self {
            Self::Block(kind) => kind.block_bytes(),
            _ => size_of::<f64>(),
        }
    }

    /// How many bytes so many numbers take in a file that is written; 0 for what is not written.
    pub(crate) fn bytes(self, elements: usize) -> usize {
        match self {
            Self::Block(kind) => kind.bytes(elements).unwrap_or(0),
            other => elements * other.safetensors().map_or(0, |dtype| dtype.bitsize()) / 8,
        }
    }

    /// Whether these are numbers with a fraction.
    pub fn is_float(self) -> bool {
        self.is_quantized() || matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The format of numbers of eight bits.
    fn float8(self) -> Option<Float8> {
        match self {
            Self::F8E4M3 => Some(Float8::E4M3),
            Self::F8E5M2 => Some(Float8::E5M2),
            _ => None,
        }
    }

    /// `bytes` as numbers of `dtype`, each times `scale`, behind those already in `values`.
    ///
    /// # Errors
    /// Says why not: the dtype is none that these numbers can become, or the bytes are no whole number of them.
    pub(crate) fn read(self, bytes: &[u8], scale: f32, values: &mut Values) -> Result<(), String> {
        match values {
            Values::F64(values) => self.extend(bytes, scale, values),
            Values::F32(values) => self.extend(bytes, scale, values),
            Values::F16(values) => self.extend(bytes, scale, values),
            Values::BF16(values) => self.extend(bytes, scale, values),
            Values::Bytes(stored, all) if *stored == self && scale == 1.0 => {
                all.extend_from_slice(bytes);
                Ok(())
            }
            Values::Bytes(stored, _) => Err(format!("{self} does not become {stored}")),
        }
    }

    fn extend<T: Number>(self, bytes: &[u8], scale: f32, values: &mut Vec<T>) -> Result<(), String> {
        if let Some(format) = self.float8() {
            let table = format.table().map(|value| T::from_f32(value * scale));
            values.par_extend(bytes.par_iter().with_min_len(TASK).map(|code| table[usize::from(*code)]));
            return Ok(());
        }
        match self {
            Self::F64 => {
                let (all, _) = bytes.as_chunks();
                values.par_extend(
                    all.par_iter()
                        .with_min_len(TASK)
                        .map(|bytes| T::from_f64(f64::from_le_bytes(*bytes) * f64::from(scale))),
                );
            }
            Self::F32 => {
                let (all, _) = bytes.as_chunks();
                values.par_extend(
                    all.par_iter().with_min_len(TASK).map(|bytes| T::from_f32(f32::from_le_bytes(*bytes) * scale)),
                );
            }
            Self::F16 => {
                let (all, _) = bytes.as_chunks();
                values.par_extend(
                    all.par_iter()
                        .with_min_len(TASK)
                        .map(|bytes| T::from_f32(f16::from_le_bytes(*bytes).to_f32() * scale)),
                );
            }
            Self::BF16 => {
                let (all, _) = bytes.as_chunks();
                values.par_extend(
                    all.par_iter()
                        .with_min_len(TASK)
                        .map(|bytes| T::from_f32(bf16::from_le_bytes(*bytes).to_f32() * scale)),
                );
            }
            Self::Block(kind) => {
                let piece = (PIECE / kind.block_bytes()).max(1) * kind.block_bytes();
                for bytes in bytes.chunks(piece) {
                    let len = bytes.len() / kind.block_bytes() * kind.block_len();
                    let floats = gguf::dequantize(kind, bytes, len).map_err(|error| error.to_string())?;
                    values.extend(floats.into_iter().map(|value| T::from_f32(value * scale)));
                }
            }
            other => return Err(format!("dtype {other} cannot be read as floats")),
        }
        Ok(())
    }
}

impl fmt::Display for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::F8E4M3 => "F8_E4M3",
            Self::F8E5M2 => "F8_E5M2",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::Block(kind) => kind.name(),
            Self::Other(name) => name,
        })
    }
}

/// A float that others are converted to.
trait Number: Element {
    fn from_f32(value: f32) -> Self;
    fn from_f64(value: f64) -> Self;
}

macro_rules! numbers {
    ($($number:ty: $of_f32:expr, $of_f64:expr;)*) => {$(
        impl Number for $number {
            fn from_f32(value: f32) -> Self {
                $of_f32(value)
            }

            fn from_f64(value: f64) -> Self {
                $of_f64(value)
            }
        }
    )*};
}

numbers! {
    f64: f64::from, |value| value;
    f32: |value| value, |value| value as f32;
    f16: f16::from_f32, f16::from_f64;
    bf16: bf16::from_f32, bf16::from_f64;
}

/// Numbers in the making, in their last dtype from the start.
pub(crate) enum Values {
    F64(Vec<f64>),
    F32(Vec<f32>),
    F16(Vec<f16>),
    BF16(Vec<bf16>),
    /// As they are stored.
    Bytes(Stored, Vec<u8>),
}

impl Values {
    /// Room for `elements` numbers of `dtype`, all of which are stored as `stored` or, if that is `None`, in several
    /// ways; `None` if nothing becomes that dtype.
    pub fn new(dtype: DType, stored: Option<Stored>, elements: usize) -> Option<Self> {
        if let Some(stored) = stored.filter(|stored| !stored.is_quantized() && stored.dtype() == Some(dtype)) {
            return Some(Self::Bytes(stored, Vec::with_capacity(elements * dtype.size())));
        }
        Some(match dtype {
            DType::F64 => Self::F64(Vec::with_capacity(elements)),
            DType::F32 => Self::F32(Vec::with_capacity(elements)),
            DType::F16 => Self::F16(Vec::with_capacity(elements)),
            DType::BF16 => Self::BF16(Vec::with_capacity(elements)),
            _ => return None,
        })
    }

    /// The second half first.
    pub fn swap_halves(&mut self) {
        fn swap<T>(values: &mut [T]) {
            values.rotate_left(values.len() / 2);
        }
        match self {
            Self::F64(values) => swap(values),
            Self::F32(values) => swap(values),
            Self::F16(values) => swap(values),
            Self::BF16(values) => swap(values),
            Self::Bytes(_, values) => swap(values),
        }
    }

    /// As a tensor; nothing is copied. `None` if there are not as many numbers as `shape` takes.
    pub fn into_data(self, shape: Vec<usize>, dtype: DType) -> Option<TensorData> {
        let len = match &self {
            Self::F64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F16(values) => values.len(),
            Self::BF16(values) => values.len(),
            Self::Bytes(_, values) => values.len() / dtype.size(),
        };
        if len != shape.iter().product::<usize>() {
            return None;
        }
        Some(match self {
            Self::F64(values) => TensorData::new(values, shape),
            Self::F32(values) => TensorData::new(values, shape),
            Self::F16(values) => TensorData::new(values, shape),
            Self::BF16(values) => TensorData::new(values, shape),
            Self::Bytes(_, values) => TensorData::from_bytes_vec(values, shape, dtype),
        })
    }

    /// As the bytes of a file.
    pub fn into_bytes(self) -> Vec<u8> {
        fn bytes<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Vec<u8> {
            let mut all = vec![0; values.len() * N];
            let (places, _) = all.as_chunks_mut();
            for (place, value) in places.iter_mut().zip(values) {
                *place = bytes(value);
            }
            all
        }
        match self {
            Self::F64(values) => bytes(&values, |value| value.to_le_bytes()),
            Self::F32(values) => bytes(&values, |value| value.to_le_bytes()),
            Self::F16(values) => bytes(&values, |value| value.to_le_bytes()),
            Self::BF16(values) => bytes(&values, |value| value.to_le_bytes()),
            Self::Bytes(_, values) => values,
        }
    }
}

/// From here on numbers do not round to E4M3's largest, 448, but beyond it: halfway to the 480 that would follow.
const E4M3_OVERFLOW: f32 = 464.0;

/// `bytes` of numbers stored as `from`, each times `scale`, as the bytes of the same numbers stored as `to`.
///
/// # Errors
/// As [`Stored::read`], if a number does not fit into `to`, or if nothing is written as `to`.
pub(crate) fn restore<'a>(from: Stored, to: Stored, bytes: &'a [u8], scale: f32) -> Result<Cow<'a, [u8]>, String> {
    if from == to && scale == 1.0 {
        return Ok(Cow::Borrowed(bytes));
    }
    if to == Stored::F8E4M3 {
        let mut values: Vec<f32> = Vec::new();
        from.extend(bytes, scale, &mut values)?;
        // A NaN is none of them, and stays one.
        return match values.iter().find(|value| value.abs() >= E4M3_OVERFLOW) {
            Some(value) => Err(format!("{value} does not fit into {to}")),
            None => Ok(Cow::Owned(Float8::E4M3.encode(&values))),
        };
    }
    if let Stored::Block(kind) = to {
        let mut values: Vec<f32> = Vec::new();
        from.extend(bytes, scale, &mut values)?;
        return match values.iter().find(|value| !value.is_finite()) {
            Some(value) => Err(format!("{value} does not fit into {to}")),
            None => quantize::blocks(kind, &values).map(Cow::Owned).ok_or_else(|| format!("{to} is not written")),
        };
    }
    let values = to.dtype().filter(|_| !to.is_quantized()).and_then(|dtype| Values::new(dtype, None, 0));
    let mut values = values.ok_or_else(|| format!("{to} is not written"))?;
    from.read(bytes, scale, &mut values)?;
    match &values {
        Values::F16(values) if values.iter().any(|value| value.is_infinite()) => {
            Err(format!("a number does not fit into {to}"))
        }
        _ => Ok(Cow::Owned(values.into_bytes())),
    }
}
