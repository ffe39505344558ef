//! Reads and writes GGUF, the format of quantized weights: what a file says of itself, and where each tensor's bytes are.
//!
//! ```text
//! "GGUF" · version u32 · tensors u64 · entries u64
//! entries × (key · kind u32 · value)                                     metadata
//! tensors × (name · axes u32 · lengths u64, innermost first · type u32 · offset u64)
//! padding to `general.alignment` (32) · the tensors' bytes, each at its offset from here
//! ```
//!
//! Little-endian throughout, texts as length u64 and UTF-8; <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
//! Nothing is believed before it is checked: no number of a file reserves memory, and every offset is tested against
//! the file's length. A file is parsed or refused, never half read.
//!
//! Our own, because no crate fits: candle-core 0.11.1 is a second tensor framework, and divides by an alignment of 0;
//! ggus 0.5.1 knows version 3 only and reserves memory for any count; gguf-rs 0.1.8 reads streams and brings clap; gguf
//! 0.1.2 is built on nom 7 and stops at the tensor list.

mod blocks;
mod header;
#[cfg(test)]
pub(crate) mod tests;
mod write;

pub use blocks::{GgmlType, dequantize};
pub use header::{Array, Value};

pub(crate) use write::stream;

use crate::Error;
use header::{Declared, Reader};
use std::{collections::BTreeMap, ops::Range, path::Path};

/// Bound on the axes of a shape that metadata restores; networks have five at most (3-D convolutions).
const MAX_TRUE_AXES: usize = 8;
/// Unless the metadata says otherwise, tensors begin at multiples of this.
const ALIGNMENT: u64 = 32;
/// Metadata of the ComfyUI converters: the shape of a tensor that they had to fold, outermost axis first.
const TRUE_SHAPE: &str = "comfy.gguf.orig_shape.";

/// What a file says of itself; the bytes stay where they are.
#[derive(Debug, Clone)]
pub struct Gguf {
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, GgufTensor>,
}

/// One tensor of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GgufTensor {
    /// Outermost axis first, as elsewhere in this project; empty for a single number.
    pub shape: Vec<usize>,
    /// How the numbers are stored.
    pub kind: GgmlType,
    /// Where they are stored, in bytes from the file's start; inside the file.
    pub range: Range<usize>,
}

/// Why a file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// Another format.
    #[error("not a GGUF file: it does not begin with the letters GGUF")]
    NotGguf,
    /// GGUF of a version that is not read here.
    #[error("GGUF of {0}")]
    Version(String),
    /// The lists' lengths, or metadata as a whole.
    #[error("damaged GGUF header: {0}")]
    Header(String),
    /// An entry of the metadata.
    #[error("damaged GGUF metadata, {key:?}: {reason}")]
    Entry {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor.
    #[error("damaged GGUF tensor {name:?}: {reason}")]
    Tensor {
        /// Its name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor of a type that is not read here.
    #[error("GGUF tensor {name:?} has type {kind}")]
    Type {
        /// Its name.
        name: String,
        /// The type's name or number.
        kind: String,
    },
    /// Bytes that are not as many as the numbers take.
    #[error("{elements} numbers of type {kind} do not stand in {bytes} bytes")]
    Length {
        /// The numbers' type.
        kind: GgmlType,
        /// How many are expected.
        elements: usize,
        /// How many bytes there are.
        bytes: usize,
    },
}

impl GgufError {
    /// This error, said of a file, with the way out.
    pub fn of(self, path: &Path) -> Error {
        let hint = match self {
            Self::NotGguf => "its name ends in .gguf, but it is of another format; get it again".to_owned(),
            Self::Version(_) => "supported are versions 2 and 3, little-endian; convert it anew".to_owned(),
            Self::Type { .. } => {
                format!("supported are {}; take one of those files", GgmlType::ALL.map(GgmlType::name).join(", "))
            }
            _ => "it may be truncated or damaged; get it again".to_owned(),
        };
        Error::format(path, self.to_string(), hint)
    }
}

impl Gguf {
    /// Reads everything before the tensors' bytes and checks that these are where it says.
    ///
    /// # Errors
    /// If `bytes` are no GGUF file of version 2 or 3, end early, contradict themselves, or hold a tensor of a type that
    /// [`dequantize`] does not read.
    pub fn parse(bytes: &[u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(bytes);
        if reader.chunk().ok() != Some(*b"GGUF") {
            return Err(GgufError::NotGguf);
        }
        match reader.u32().map_err(GgufError::Header)? {
            2 | 3 => {}
            version @ ..0x1_0000 => return Err(GgufError::Version(format!("version {version}"))),
            _ => return Err(GgufError::Version("a big-endian machine".to_owned())),
        }
        let tensors = reader.count(header::LEAST_TENSOR, "tensors").map_err(GgufError::Header)?;
        let entries = reader.count(header::LEAST_ENTRY, "metadata entries").map_err(GgufError::Header)?;

        let metadata = reader.metadata(entries)?;
        let declared = reader.tensors(tensors)?;
        let alignment = alignment(&metadata)?;
        let start = (reader.at as u64)
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| GgufError::Header(format!("an alignment of {alignment} is not of this world")))?;
        let mut tensors = BTreeMap::new();
        for (name, tensor) in declared {
            let fault = |reason| GgufError::Tensor { name: name.clone(), reason };
            let true_shape = match metadata.get(&format!("{TRUE_SHAPE}{name}")) {
                Some(value) => Some(true_shape(value, bytes).map_err(fault)?),
                None => None,
            };
            if !tensor.offset.is_multiple_of(alignment) {
                return Err(fault(format!("its offset {} is no multiple of {alignment}", tensor.offset)));
            }
            let tensor = tensor.placed(start, bytes.len(), true_shape).map_err(fault)?;
            tensors.insert(name, tensor);
        }
        apart(&tensors)?;
        Ok(Self { metadata, tensors })
    }

    /// What the writer left in the header, by key.
    pub fn metadata(&self) -> &BTreeMap<String, Value> {
        &self.metadata
    }

    /// Every tensor, by the file's name for it.
    pub fn tensors(&self) -> &BTreeMap<String, GgufTensor> {
        &self.tensors
    }

    /// The kind of network, such as `flux` or `t5encoder`, if the writer said.
    pub fn architecture(&self) -> Option<&str> {
        match self.metadata.get("general.architecture")? {
            Value::Text(name) => Some(name),
            _ => None,
        }
    }
}

impl GgufTensor {
    /// How many numbers it has.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Its numbers, row-major, out of the bytes of the file that it was parsed from.
    ///
    /// # Errors
    /// If `bytes` are those of another file, too short for it.
    pub fn values(&self, bytes: &[u8]) -> Result<Vec<f32>, GgufError> {
        dequantize(self.kind, bytes.get(self.range.clone()).unwrap_or_default(), self.elements())
    }
}

impl Declared {
    /// The tensor's place in a file of `len` bytes.
    fn placed(self, start: u64, len: usize, true_shape: Option<Vec<usize>>) -> Result<GgufTensor, String> {
        let Self { shape, kind, offset } = self;
        let elements = product(&shape).ok_or_else(|| format!("shape {shape:?} is not of this world"))?;
        if !shape.last().unwrap_or(&1).is_multiple_of(kind.block_len()) {
            return Err(format!("shape {shape:?} does not divide into blocks of {} ({kind})", kind.block_len()));
        }
        let bytes = kind.bytes(elements).ok_or_else(|| format!("shape {shape:?} is not of this world"))?;
        let begin = start.checked_add(offset).and_then(|begin| usize::try_from(begin).ok());
        let range = begin.and_then(|begin| Some(begin..begin.checked_add(bytes)?)).filter(|range| range.end <= len);
        let range = range.ok_or_else(|| {
            format!("{bytes} bytes at {offset} from byte {start} are not in the file, which has {len}")
        })?;
        let shape = match true_shape {
            Some(true_shape) if product(&true_shape) == Some(elements) => true_shape,
            Some(true_shape) => return Err(format!("shape {shape:?} cannot be the stored form of {true_shape:?}")),
            None => shape,
        };
        Ok(GgufTensor { shape, kind, range })
    }
}

/// The number of elements, if there are any and it can be counted.
fn product(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1_usize, |product, &axis| product.checked_mul(axis)).filter(|&elements| elements > 0)
}

/// Tensors begin at multiples of this many bytes, counted from the first multiple after the header.
fn alignment(metadata: &BTreeMap<String, Value>) -> Result<u64, GgufError> {
    let key = "general.alignment";
    match metadata.get(key) {
        None => Ok(ALIGNMENT),
        Some(Value::Unsigned(alignment)) if alignment.is_power_of_two() => Ok(*alignment),
        Some(_) => Err(GgufError::Entry { key: key.to_owned(), reason: "it is no power of two".to_owned() }),
    }
}

/// The shape that a converter folded away.
fn true_shape(value: &Value, bytes: &[u8]) -> Result<Vec<usize>, String> {
    let axes = match value {
        Value::Array(array) if array.len() <= MAX_TRUE_AXES => array.integers(bytes),
        _ => None,
    };
    axes.and_then(|axes| axes.into_iter().map(|axis| usize::try_from(axis).ok()).collect())
        .ok_or_else(|| format!("its true shape, under {TRUE_SHAPE}, is no list of at most {MAX_TRUE_AXES} lengths"))
}

/// Checks that no byte belongs to two tensors.
fn apart(tensors: &BTreeMap<String, GgufTensor>) -> Result<(), GgufError> {
    let mut places: Vec<_> = tensors.iter().map(|(name, tensor)| (&tensor.range, name)).collect();
    places.sort_by_key(|(range, _)| range.start);
    for pair in places.windows(2) {
        let ((before, first), (after, second)) = (pair[0], pair[1]);
        if before.end > after.start {
            return Err(GgufError::Tensor { name: second.clone(), reason: format!("it overlaps with {first:?}") });
        }
    }
    Ok(())
}
