//! What stands before the tensors' bytes, read from front to back.

use super::{GgmlType, GgufError};
use std::{collections::BTreeMap, ops::Range};

/// A key or a name is no longer than this many bytes; published ones stay below 200.
const MAX_NAME: usize = 1024;
/// ggml's own bound on the axes of a stored tensor.
const MAX_AXES: usize = 4;
/// Arrays within arrays, to bound the recursion; nobody writes more than two.
const MAX_DEPTH: usize = 4;
/// All that stands before the tensors' bytes, as safetensors bounds its header; a vocabulary of 256 thousand words
/// takes some 10 MB.
const MAX_HEADER: usize = 100_000_000;
/// Bytes of the shortest entry: an empty key, a kind, one byte.
pub(super) const LEAST_ENTRY: usize = 8 + 4 + 1;
/// Bytes of the shortest tensor: an empty name, no axes, a type, an offset.
pub(super) const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `uint8` to `uint64`.
    Unsigned(u64),
    /// `int8` to `int64`.
    Signed(i64),
    /// `float32` and `float64`.
    Float(f64),
    /// `bool`.
    Bool(bool),
    /// `string`.
    Text(String),
    /// `array`.
    Array(Array),
}

/// Where an array of the metadata is: most are vocabularies that nobody asks for, so they are checked and left there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Array {
    pub(super) kind: Kind,
    pub(super) len: usize,
    pub(super) range: Range<usize>,
}

impl Array {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Its elements out of the bytes of the file, if they are integers that fit.
    pub fn integers(&self, bytes: &[u8]) -> Option<Vec<i64>> {
        let signed = match self.kind {
            Kind::I8 | Kind::I16 | Kind::I32 | Kind::I64 => true,
            Kind::U8 | Kind::U16 | Kind::U32 | Kind::U64 => false,
            _ => return None,
        };
        let integer = |little: &[u8]| {
            let negative = little.last().is_some_and(|byte| byte & 0x80 != 0);
            let mut wide = if signed && negative { [0xff; 8] } else { [0; 8] };
            wide[..little.len()].copy_from_slice(little);
            let value = i64::from_le_bytes(wide);
            (signed || value >= 0).then_some(value)
        };
        bytes.get(self.range.clone())?.chunks_exact(self.kind.least_bytes()).map(integer).collect()
    }
}

/// A tensor as the list has it: shape, type, and offset from where the tensors' bytes begin.
pub(super) struct Declared {
    pub shape: Vec<usize>,
    pub kind: GgmlType,
    pub offset: u64,
}

/// The kinds of metadata values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    Text,
    Array,
    U64,
    I64,
    F64,
}

impl Kind {
    /// By the file's number for them.
    pub const ALL: [Self; 13] = [
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::F32,
        Self::Bool,
        Self::Text,
        Self::Array,
        Self::U64,
        Self::I64,
        Self::F64,
    ];

    /// Bytes of a number, and of the shortest text or array.
    pub const fn least_bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::Text => 8,
            Self::Array => 12,
        }
    }
}

/// Reads a header from front to back; faults are sentences without a subject, which the callers add.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// The next byte, at most the header's length.
    pub at: usize,
}

impl<'a> Reader<'a> {
    /// Reads the header of a whole file.
    pub fn new(file: &'a [u8]) -> Self {
        Self { bytes: &file[..file.len().min(MAX_HEADER)], at: 0 }
    }

    fn ended(&self) -> String {
        if self.bytes.len() == MAX_HEADER {
            format!("the header does not end within {MAX_HEADER} bytes")
        } else {
            format!("the file ends inside it, at byte {}", self.bytes.len())
        }
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], String> {
        let end = self.at.checked_add(len).ok_or_else(|| self.ended())?;
        let taken = self.bytes.get(self.at..end).ok_or_else(|| self.ended())?;
        self.at = end;
        Ok(taken)
    }

    pub fn chunk<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let chunk = *self.bytes[self.at..].first_chunk().ok_or_else(|| self.ended())?;
        self.at += N;
        Ok(chunk)
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        self.chunk().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.chunk().map(u64::from_le_bytes)
    }

    /// How many `things` of at least `least` bytes follow: no more than the rest of the header can hold.
    pub fn count(&mut self, least: usize, things: &str) -> Result<usize, String> {
        let count = self.u64()?;
        let room = (self.bytes.len() - self.at) / least;
        usize::try_from(count)
            .ok()
            .filter(|&count| count <= room)
            .ok_or_else(|| format!("{count} {things} cannot follow byte {}, there is room for {room}", self.at))
    }

    fn text(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        let len = self.count(1, "bytes of text")?;
        str::from_utf8(self.take(len)?).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    fn name(&mut self) -> Result<&'a str, String> {
        let at = self.at;
        let name = self.text()?;
        if name.len() > MAX_NAME {
            return Err(format!("the name at byte {at} has {} bytes, more than {MAX_NAME}", name.len()));
        }
        Ok(name)
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.chunk()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(format!("{other} is neither true nor false")),
        }
    }

    fn kind(&mut self) -> Result<Kind, String> {
        let number = self.u32()?;
        let kind = usize::try_from(number).ok().and_then(|number| Kind::ALL.get(number));
        kind.copied().ok_or_else(|| format!("there is no kind of value number {number}"))
    }

    fn value(&mut self) -> Result<Value, String> {
        Ok(match self.kind()? {
            Kind::U8 => Value::Unsigned(u8::from_le_bytes(self.chunk()?).into()),
            Kind::U16 => Value::Unsigned(u16::from_le_bytes(self.chunk()?).into()),
            Kind::U32 => Value::Unsigned(self.u32()?.into()),
            Kind::U64 => Value::Unsigned(self.u64()?),
            Kind::I8 => Value::Signed(i8::from_le_bytes(self.chunk()?).into()),
            Kind::I16 => Value::Signed(i16::from_le_bytes(self.chunk()?).into()),
            Kind::I32 => Value::Signed(i32::from_le_bytes(self.chunk()?).into()),
            Kind::I64 => Value::Signed(i64::from_le_bytes(self.chunk()?)),
            Kind::F32 => Value::Float(f32::from_le_bytes(self.chunk()?).into()),
            Kind::F64 => Value::Float(f64::from_le_bytes(self.chunk()?)),
            Kind::Bool => Value::Bool(self.bool()?),
            Kind::Text => Value::Text(self.text()?.to_owned()),
            Kind::Array => Value::Array(self.array(1)?),
        })
    }

    fn array(&mut self, depth: usize) -> Result<Array, String> {
        if depth > MAX_DEPTH {
            return Err(format!("arrays within arrays, more than {MAX_DEPTH} deep"));
        }
        let kind = self.kind()?;
        let len = self.count(kind.least_bytes(), "elements")?;
        let start = self.at;
        match kind {
            Kind::Bool => (0..len).try_for_each(|_| self.bool().map(drop))?,
            Kind::Text => (0..len).try_for_each(|_| self.text().map(drop))?,
            Kind::Array => (0..len).try_for_each(|_| self.array(depth + 1).map(drop))?,
            // The count left room for them all.
            number => self.take(len * number.least_bytes()).map(drop)?,
        }
        Ok(Array { kind, len, range: start..self.at })
    }

    pub fn metadata(&mut self, entries: usize) -> Result<BTreeMap<String, Value>, GgufError> {
        let mut metadata = BTreeMap::new();
        for index in 0..entries {
            let key = self.name().map_err(|reason| GgufError::Header(format!("key {index}: {reason}")))?.to_owned();
            let fault = |reason| GgufError::Entry { key: key.clone(), reason };
            let value = self.value().map_err(fault)?;
            if metadata.contains_key(&key) {
                return Err(fault("the key stands there twice".to_owned()));
            }
            metadata.insert(key, value);
        }
        Ok(metadata)
    }

    pub fn tensors(&mut self, tensors: usize) -> Result<BTreeMap<String, Declared>, GgufError> {
        let mut declared = BTreeMap::new();
        for index in 0..tensors {
            let name = self.name().map_err(|reason| GgufError::Header(format!("tensor {index}: {reason}")))?.to_owned();
            let fault = |reason| GgufError::Tensor { name: name.clone(), reason };
            let shape = self.shape().map_err(fault)?;
            let kind = GgmlType::of(self.u32().map_err(fault)?)
                .map_err(|kind| GgufError::Type { name: name.clone(), kind })?;
            let offset = self.u64().map_err(fault)?;
            if declared.contains_key(&name) {
                return Err(fault("the name stands there twice".to_owned()));
            }
            declared.insert(name, Declared { shape, kind, offset });
        }
        Ok(declared)
    }

    /// The file has the innermost axis first.
    fn shape(&mut self) -> Result<Vec<usize>, String> {
        let axes = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if axes > MAX_AXES {
            return Err(format!("{axes} axes, more than {MAX_AXES}"));
        }
        let mut shape = (0..axes)
            .map(|_| self.u64().and_then(|axis| usize::try_from(axis).map_err(|_| format!("an axis of {axis}"))))
            .collect::<Result<Vec<_>, _>>()?;
        shape.reverse();
        Ok(shape)
    }
}
