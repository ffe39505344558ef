//! What a weight file says it holds, believed only as far as the file bears it out.
//!
//! safetensors: the header's length (u64), the header (JSON), the tensors' bytes without a gap. The `safetensors` crate
//! has the types, but a key that stands twice in a header is lost in its map, and a header of nonsense is held in
//! memory before it is refused; so the map is read here, entry by entry.

use super::Stored;
use super::{gguf::Gguf, torch};
use crate::Error;
use safetensors::tensor::TensorInfo;
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use std::{collections::BTreeMap, fmt, marker::PhantomData, ops::Range, path::Path};

/// The header's length stands before it.
const LENGTH: usize = size_of::<u64>();
/// The format's own bound on the header's length; FLUX.1's has 90 KB, a LoRA's with its training diary some MB.
const MAX_HEADER: u64 = 100_000_000;
/// Networks have five axes at most (3-D convolutions).
const MAX_AXES: usize = 8;
/// A key is no longer; published ones stay below 200.
const MAX_KEY: usize = 1024;
/// Letters of a file that an error quotes.
const MAX_REASON: usize = 300;
/// Where the writer leaves what it likes.
const METADATA: &str = "__metadata__";

/// What a file says of itself.
#[derive(Debug)]
pub(super) struct Header {
    pub tensors: BTreeMap<String, Declared>,
    pub metadata: BTreeMap<String, String>,
    pub is_gguf: bool,
}

/// One tensor; its bytes are in the file.
#[derive(Debug, Clone)]
pub(super) struct Declared {
    pub stored: Stored,
    pub shape: Vec<usize>,
    pub range: Range<usize>,
}

impl Header {
    /// Reads the header of a whole file, safetensors, GGUF or PyTorch's, told apart by what it begins with.
    ///
    /// # Errors
    /// If it is none of them, ends early, contradicts itself or says something twice.
    pub fn of(path: &Path, bytes: &[u8]) -> crate::Result<Self> {
        if bytes.starts_with(b"GGUF") {
            return Self::gguf(bytes).map_err(|error| error.of(path));
        }
        if bytes.starts_with(torch::MARK) {
            let tensors = torch::tensors(bytes).map_err(|reason| {
                let reason = format!("not weights that torch.save wrote: {}", cut(reason));
                Error::format(path, reason, "nothing of it was run; only tensors and plain values are read")
            })?;
            return Ok(Self { tensors, metadata: BTreeMap::new(), is_gguf: false });
        }
        if bytes.starts_with(torch::OLD) {
            let hint = "open it with torch and save it again";
            return Err(Error::format(path, "torch before version 1.6 wrote it, in a form that is not read", hint));
        }
        Self::safetensors(bytes).map_err(|reason| {
            let reason = format!("not a whole safetensors file: {}", cut(reason));
            Error::format(path, reason, "it may be truncated or of another format; get it again")
        })
    }

    fn gguf(bytes: &[u8]) -> Result<Self, crate::store::gguf::GgufError> {
        let gguf = Gguf::parse(bytes)?;
        let tensors = gguf.tensors().iter().map(|(key, tensor)| {
            let stored = Stored::of_gguf(tensor.kind);
            (key.clone(), Declared { stored, shape: tensor.shape.clone(), range: tensor.range.clone() })
        });
        let metadata = gguf.metadata().iter().filter_map(|(key, value)| {
            use crate::store::gguf::Value;
            let text = match value {
                Value::Text(text) => text.clone(),
                Value::Unsigned(number) => number.to_string(),
                Value::Signed(number) => number.to_string(),
                Value::Float(number) => number.to_string(),
                Value::Bool(is) => is.to_string(),
                Value::Array(_) => return None,
            };
            Some((key.clone(), text))
        });
        Ok(Self { tensors: tensors.collect(), metadata: metadata.collect(), is_gguf: true })
    }

    fn safetensors(bytes: &[u8]) -> Result<Self, String> {
        let (length, rest) =
            bytes.split_first_chunk::<LENGTH>().ok_or_else(|| format!("it has {} bytes", bytes.len()))?;
        let length = u64::from_le_bytes(*length);
        if length > MAX_HEADER {
            return Err(format!("a header of {length} bytes is longer than {MAX_HEADER}"));
        }
        // At most MAX_HEADER, which fits everywhere.
        let length = length as usize;
        let json = rest
            .get(..length)
            .ok_or_else(|| format!("its header has {length} bytes, the file ends after {}", rest.len()))?;
        let parsed: Parsed = serde_json::from_slice(json).map_err(|source| format!("its header: {source}"))?;
        let begin = LENGTH + length;
        let mut tensors = BTreeMap::new();
        for (key, info) in parsed.tensors {
            let declared = place(&info, begin, bytes.len()).map_err(|reason| format!("{key} {reason}"))?;
            tensors.insert(key, declared);
        }
        is_gapless(&tensors, begin, bytes.len())?;
        Ok(Self { tensors, metadata: parsed.metadata, is_gguf: false })
    }
}

/// A reason that may quote the file, whatever that says there and at whatever length.
fn cut(mut reason: String) -> String {
    if let Some((end, _)) = reason.char_indices().nth(MAX_REASON) {
        reason.replace_range(end.., "…");
    }
    reason
}

/// Where a tensor's bytes are in a file of `len` bytes whose tensors begin at `begin`.
fn place(info: &TensorInfo, begin: usize, len: usize) -> Result<Declared, String> {
    let shape = &info.shape;
    if shape.len() > MAX_AXES {
        return Err(format!("has {} axes, more than {MAX_AXES}", shape.len()));
    }
    let bits = shape.iter().try_fold(info.dtype.bitsize(), |product, axis| product.checked_mul(*axis));
    let bytes = bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8);
    let (start, end) = info.data_offsets;
    let size = end.checked_sub(start).filter(|_| bytes.is_some());
    if size.is_none() || size != bytes {
        return Err(format!("has shape {shape:?} of {} at bytes {start} to {end}, which does not fit", info.dtype));
    }
    let range = begin.checked_add(start).zip(begin.checked_add(end)).filter(|(_, end)| *end <= len);
    let (start, end) = range.ok_or_else(|| format!("ends at byte {end} from {begin}, the file has {len}"))?;
    Ok(Declared { stored: Stored::of_safetensors(info.dtype), shape: shape.clone(), range: start..end })
}

/// Checks that every byte behind the header belongs to one tensor.
fn is_gapless(tensors: &BTreeMap<String, Declared>, begin: usize, len: usize) -> Result<(), String> {
    let mut places: Vec<_> = tensors.iter().map(|(key, tensor)| (tensor.range.start, tensor.range.end, key)).collect();
    places.sort_unstable();
    let mut at = begin;
    for (start, end, key) in places {
        if start != at {
            let what = if start < at { "overlaps with the tensor before it" } else { "follows a gap" };
            return Err(format!("{key} {what}, at byte {start}"));
        }
        at = end;
    }
    if at == len { Ok(()) } else { Err(format!("the tensors end at byte {at}, the file at {len}")) }
}

/// A header as JSON has it.
#[derive(Default)]
struct Parsed {
    tensors: BTreeMap<String, TensorInfo>,
    metadata: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Parsed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Parsed;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed, A::Error> {
                let (mut parsed, mut has_metadata) = (Parsed::default(), false);
                while let Some(key) = map.next_key::<String>()? {
                    if key == METADATA {
                        if std::mem::replace(&mut has_metadata, true) {
                            return Err(A::Error::custom("the metadata stands there twice"));
                        }
                        let entries: Option<Unique<String>> = map.next_value()?;
                        parsed.metadata = entries.map_or_else(BTreeMap::new, |entries| entries.0);
                    } else {
                        let info = map.next_value()?;
                        insert(&mut parsed.tensors, key, info)?;
                    }
                }
                Ok(parsed)
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A map in which no key stands twice.
pub(super) struct Unique<V>(pub BTreeMap<String, V>);

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Unique<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<V> {
            type Value = Unique<V>;

            fn expecting(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
                formatter.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique<V>, A::Error> {
                let mut entries = BTreeMap::new();
                while let Some((key, value)) = map.next_entry()? {
                    insert(&mut entries, key, value)?;
                }
                Ok(Unique(entries))
            }
        }
        deserializer.deserialize_map(Entries(PhantomData))
    }
}

fn insert<V, E: serde::de::Error>(map: &mut BTreeMap<String, V>, key: String, value: V) -> Result<(), E> {
    if key.len() > MAX_KEY {
        return Err(E::custom(format_args!("a key has {} bytes, more than {MAX_KEY}", key.len())));
    }
    match map.entry(key) {
        std::collections::btree_map::Entry::Vacant(place) => {
            place.insert(value);
            Ok(())
        }
        std::collections::btree_map::Entry::Occupied(place) => {
            Err(E::custom(format_args!("{} stands there twice", place.key())))
        }
    }
}
