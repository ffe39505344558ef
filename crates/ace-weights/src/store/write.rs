//! Modules to safetensors files.

use super::Stored;
use crate::{Error, Result, names::KeyMap, replace};
use burn::{
    module::{Module, ModuleVisitor, Param},
    prelude::*,
    tensor::{DType, FloatDType},
};
use safetensors::tensor::TensorInfo;
use std::{
    collections::BTreeMap,
    io::{BufWriter, Write},
    path::Path,
};

/// Bytes that are gathered before the system is asked to write them.
const BUFFER: usize = 1 << 20;

/// Collects a module's parameters under `prefix + keys.key(path)`.
struct Collector<'a> {
    keys: &'a KeyMap,
    prefix: &'a str,
    dtype: Option<FloatDType>,
    path: Vec<String>,
    tensors: BTreeMap<String, TensorData>,
}

impl ModuleVisitor for Collector<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let key = format!("{}{}", self.prefix, self.keys.key(&self.path.join(".")));
        let data = param.val().into_data();
        let data = match self.dtype {
            Some(dtype) => data.convert_dtype(dtype.into()),
            None => data,
        };
        self.tensors.insert(key, data);
    }
}

/// A module's parameters by checkpoint key, in `dtype` or their own.
pub fn collect<M: Module>(
    module: &M,
    keys: &KeyMap,
    prefix: &str,
    dtype: Option<FloatDType>,
) -> BTreeMap<String, TensorData> {
    let mut collector = Collector { keys, prefix, dtype, path: Vec::new(), tensors: BTreeMap::new() };
    module.visit(&mut collector);
    collector.tensors
}

/// Writes tensors to a safetensors file: to a temporary name beside it first, then renamed, so that `path` is either
/// the old file or the whole new one.
///
/// # Errors
/// If the folder is missing or not writable, or a tensor has a dtype that safetensors does not know.
pub fn write(path: &Path, tensors: &BTreeMap<String, TensorData>, metadata: &[(&str, &str)]) -> Result<()> {
    let plan = tensors
        .iter()
        .map(|(key, data)| {
            let stored = match data.dtype() {
                DType::F32 => Stored::F32,
                DType::F16 => Stored::F16,
                DType::BF16 => Stored::BF16,
                DType::F64 => Stored::F64,
                DType::I64 => Stored::I64,
                DType::I32 => Stored::I32,
                other => {
                    return Err(Error::format(path, format!("{key} has dtype {other:?}"), "cast it to a float dtype"));
                }
            };
            Ok(Planned { key: key.clone(), stored, shape: data.shape().to_vec() })
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata = metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    stream(path, plan, &metadata, &mut |tensor, file| {
        file.write_all(tensors[&tensor.key].as_bytes()).map_err(Error::io(path))
    })
}

/// A tensor that is going to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Planned {
    pub key: String,
    pub stored: Stored,
    pub shape: Vec<usize>,
}

impl Planned {
    /// How many bytes it takes.
    pub fn bytes(&self) -> usize {
        self.stored.bytes(self.shape.iter().product())
    }
}

/// Writes a safetensors file, its header first and then tensor after tensor as `write` gives their bytes.
///
/// # Errors
/// If the folder is missing or not writable, a tensor is stored as safetensors does not know, or `write` fails or gives
/// another number of bytes. Nothing is left behind then.
pub(crate) fn stream(
    path: &Path,
    mut plan: Vec<Planned>,
    metadata: &BTreeMap<String, String>,
    write: &mut dyn FnMut(&Planned, &mut dyn Write) -> Result<()>,
) -> Result<()> {
    // As the safetensors crate orders them: wide numbers first, so that all are aligned.
    plan.sort_by(|a, b| b.stored.safetensors().cmp(&a.stored.safetensors()).then_with(|| a.key.cmp(&b.key)));
    let header = header(path, &plan, metadata)?;
    let header = [&(header.len() as u64).to_le_bytes()[..], &header].concat();
    write_all(path, &header, &plan, 1, write)
}

/// Writes a header and then tensor after tensor, each from a multiple of `alignment` bytes on.
///
/// # Errors
/// As [`stream`].
pub(super) fn write_all(
    path: &Path,
    header: &[u8],
    plan: &[Planned],
    alignment: usize,
    write: &mut dyn FnMut(&Planned, &mut dyn Write) -> Result<()>,
) -> Result<()> {
    replace::file(path, &mut |file| {
        let mut file = Counted { inner: BufWriter::with_capacity(BUFFER, file), count: 0 };
        file.write_all(header).map_err(Error::io(path))?;
        for tensor in plan {
            let before = file.count;
            write(tensor, &mut file)?;
            let (written, expected) = (file.count - before, tensor.bytes());
            if written != expected {
                let reason = format!("{} has {written} bytes, expected {expected}", tensor.key);
                return Err(Error::format(path, reason, "the tensor is inconsistent"));
            }
            file.write_all(&vec![0; written.next_multiple_of(alignment) - written]).map_err(Error::io(path))?;
        }
        file.flush().map_err(Error::io(path))
    })
}

/// The header's JSON, padded so that the tensors begin at a multiple of eight bytes.
fn header(path: &Path, plan: &[Planned], metadata: &BTreeMap<String, String>) -> Result<Vec<u8>> {
    let json = |value: serde_json::Result<String>| {
        value.map_err(|source| Error::format(path, source.to_string(), "the header cannot be written"))
    };
    let mut entries = Vec::with_capacity(plan.len() + 1);
    if !metadata.is_empty() {
        entries.push(format!("\"__metadata__\":{}", json(serde_json::to_string(metadata))?));
    }
    let mut at = 0;
    for tensor in plan {
        let Some(dtype) = tensor.stored.safetensors() else {
            let reason = format!("{} is stored as {}", tensor.key, tensor.stored);
            return Err(Error::format(path, reason, "safetensors files do not have this; choose a float dtype"));
        };
        let end = at + tensor.bytes();
        let info = TensorInfo { dtype, shape: tensor.shape.clone(), data_offsets: (at, end) };
        entries.push(format!("{}:{}", json(serde_json::to_string(&tensor.key))?, json(serde_json::to_string(&info))?));
        at = end;
    }
    let mut header = format!("{{{}}}", entries.join(",")).into_bytes();
    header.resize(header.len().next_multiple_of(size_of::<u64>()), b' ');
    Ok(header)
}

/// Counts what goes through.
struct Counted<W> {
    inner: W,
    count: usize,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.count += written;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
