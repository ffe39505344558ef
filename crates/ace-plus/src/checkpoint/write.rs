//! Modules to files. Every file is written to a temporary name and renamed: it is the old one or the whole new one.

use super::Stored;
use crate::{Error, Result};
use ace_nn::keys::KeyMap;
use burn::{
    module::{Module, ModuleVisitor, Param},
    prelude::*,
    tensor::{DType, FloatDType},
};
use safetensors::tensor::TensorInfo;
use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
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
        let bits = self.stored.safetensors().map_or(0, |dtype| dtype.bitsize());
        self.shape.iter().product::<usize>() * bits / 8
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
    replace(path, &mut |file| {
        let mut file = Counted { inner: BufWriter::with_capacity(BUFFER, file), count: 0 };
        file.write_all(&(header.len() as u64).to_le_bytes()).map_err(Error::io(path))?;
        file.write_all(&header).map_err(Error::io(path))?;
        for tensor in &plan {
            let before = file.count;
            write(tensor, &mut file)?;
            let (written, expected) = (file.count - before, tensor.bytes());
            if written != expected {
                let reason = format!("{} has {written} bytes, expected {expected}", tensor.key);
                return Err(Error::format(path, reason, "the tensor is inconsistent"));
            }
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

/// Writes a file whole or not at all.
///
/// # Errors
/// If the folder is missing or not writable.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, &mut |file| file.write_all(bytes).map_err(Error::io(path)))
}

/// Puts what `write` writes into the place of a file, once it is whole.
fn replace(path: &Path, write: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = Temporary(path.with_file_name(name));
    let mut file = File::create(&temporary.0).map_err(Error::io(path))?;
    write(&mut file)?;
    file.sync_all().map_err(Error::io(path))?;
    std::fs::rename(&temporary.0, path).map_err(Error::io(path))
}

/// A file that is gone in the end, whether it got its name, or an error or a panic came in between.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // It is not there if it was renamed or never made.
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn what_ends_before_it_is_whole_leaves_the_old_file_and_nothing_else() {
        let folder = std::env::temp_dir().join(format!("ace-replace-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("file");
        write_atomically(&path, b"old").unwrap();
        let half = |file: &mut File| {
            file.write_all(b"ne").unwrap();
            assert!(folder.read_dir().unwrap().count() == 2, "beside the old file");
        };
        let failed = replace(&path, &mut |file| {
            half(file);
            Err(Error::Cancelled)
        });
        assert!(failed.is_err());
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            replace(&path, &mut |file| {
                half(file);
                panic!("while writing")
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        assert_eq!(folder.read_dir().unwrap().count(), 1);
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
