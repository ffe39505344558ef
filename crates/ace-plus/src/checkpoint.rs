//! The only reader and writer of weight files.
//!
//! Files are memory-mapped and read tensor by tensor into the module's own parameters: no second copy of the network,
//! no transposition, the file's dtype kept unless another is asked for. Loading is strict: a missing, extra or
//! misshapen weight is an error that names it. Files are written to a temporary name and renamed.

use crate::{Error, Result};
use ace_nn::keys::KeyMap;
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    prelude::*,
    tensor::{DType, FloatDType},
};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet, HashMap},
    fs::File,
    path::{Path, PathBuf},
};

/// A safetensors file, mapped into memory or held in it.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    bytes: Bytes,
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Bytes {
    Mapped(memmap2::Mmap),
    Held(Cow<'static, [u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

impl WeightFile {
    /// Maps a file and checks its header.
    ///
    /// # Errors
    /// If the file cannot be read, is truncated, or is no safetensors file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        // SAFETY: the map is read only; a file that another program cuts short while we read it would fault, which is
        // the accepted price of not holding 24 GB twice.
        #[allow(unsafe_code)]
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
        Self::checked(path, Bytes::Mapped(map))
    }

    /// A file that is already in memory, such as one built into a program; `name` stands for its path in errors.
    ///
    /// # Errors
    /// If it is truncated, or is no safetensors file.
    pub fn from_bytes(name: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::checked(name, Bytes::Held(bytes.into()))
    }

    fn checked(path: &Path, bytes: Bytes) -> Result<Self> {
        let weights = Self { path: path.to_owned(), bytes };
        weights.tensors()?;
        Ok(weights)
    }

    fn tensors(&self) -> Result<SafeTensors<'_>> {
        SafeTensors::deserialize(&self.bytes).map_err(|source| {
            Error::format(
                &self.path,
                format!("not a whole safetensors file: {source}"),
                "it may be truncated or of another format; get it again",
            )
        })
    }

    /// The text that the writer left in the header.
    ///
    /// # Errors
    /// As [`WeightFile::open`].
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        let (_, header) = SafeTensors::read_metadata(&self.bytes).map_err(|source| {
            Error::format(&self.path, format!("unreadable header: {source}"), "get the file again")
        })?;
        Ok(header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    /// Every key with its shape.
    ///
    /// # Errors
    /// As [`WeightFile::open`].
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        Ok(self.tensors()?.iter().map(|(key, view)| (key.to_owned(), view.shape().to_vec())).collect())
    }

    /// One tensor, as the file has it.
    ///
    /// # Errors
    /// If the key is missing or its dtype has no place here.
    pub fn data(&self, key: &str) -> Result<TensorData> {
        let tensors = self.tensors()?;
        let view = tensors
            .tensor(key)
            .map_err(|_| self.misfit(format!("{key} is missing"), "this file belongs to another network"))?;
        let dtype = match view.dtype() {
            Dtype::F32 => DType::F32,
            Dtype::F16 => DType::F16,
            Dtype::BF16 => DType::BF16,
            Dtype::F64 => DType::F64,
            Dtype::I64 => DType::I64,
            Dtype::I32 => DType::I32,
            other => {
                let reason = format!("{key} has dtype {other:?}");
                return Err(self.misfit(reason, "supported are F64, F32, F16, BF16, I64 and I32"));
            }
        };
        Ok(TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype))
    }

    /// One float tensor on a device, in `dtype` (or the file's own).
    ///
    /// # Errors
    /// As [`WeightFile::data`], or if the rank is not `D`.
    pub fn tensor<const D: usize>(&self, key: &str, dtype: Option<FloatDType>, device: &Device) -> Result<Tensor<D>> {
        let data = self.data(key)?;
        if data.shape().len() != D {
            return Err(self.misfit(format!("{key} has {} axes, expected {D}", data.shape().len()), "another network"));
        }
        Ok(self.place(data, dtype, device))
    }

    fn place<const D: usize>(&self, data: TensorData, dtype: Option<FloatDType>, device: &Device) -> Tensor<D> {
        let dtype = dtype.map_or(data.dtype(), DType::from);
        // Converted on the host: a device that cannot hold bf16 never sees it.
        Tensor::from_data(data.convert_dtype(dtype), (device, dtype))
    }

    pub(crate) fn misfit(&self, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Weights { path: self.path.clone(), reason: reason.into(), hint: Some(hint.into()) }
    }

    /// Fills every parameter of `module` that stands in this file under `prefix + keys.key(path)`.
    ///
    /// # Errors
    /// If a parameter is missing, a key under `prefix` is left over, or a shape differs; the first of each is named.
    pub fn load<M: Module>(
        &self,
        module: M,
        keys: &KeyMap,
        prefix: &str,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<M> {
        let mut left: BTreeSet<String> = self.shapes()?.into_keys().filter(|key| key.starts_with(prefix)).collect();
        let mut filler = Filler {
            file: self,
            keys,
            prefix,
            dtype,
            device,
            path: Vec::new(),
            left: &mut left,
            missing: Vec::new(),
            misshapen: Vec::new(),
            error: None,
        };
        let module = module.map(&mut filler);
        let (missing, misshapen, error) = (filler.missing, filler.misshapen, filler.error);
        if let Some(error) = error {
            return Err(error);
        }
        let count =
            |list: &[String]| if list.len() > 1 { format!(" (and {} more)", list.len() - 1) } else { String::new() };
        if let Some(first) = misshapen.first() {
            return Err(self.misfit(format!("{first}{}", count(&misshapen)), "this file fits a card of other sizes"));
        }
        if let Some(first) = missing.first() {
            let reason = format!("{first} is missing{}", count(&missing));
            return Err(self.misfit(reason, "this file belongs to another network or is incomplete"));
        }
        if let Some(first) = left.first() {
            let more = if left.len() > 1 { format!(" (and {} more)", left.len() - 1) } else { String::new() };
            return Err(self.misfit(
                format!("{first} has no place in the network{more}"),
                "this file belongs to another or a larger network",
            ));
        }
        Ok(module)
    }
}

/// Walks a module and replaces each parameter by the file's.
struct Filler<'a> {
    file: &'a WeightFile,
    keys: &'a KeyMap,
    prefix: &'a str,
    dtype: Option<FloatDType>,
    device: &'a Device,
    path: Vec<String>,
    left: &'a mut BTreeSet<String>,
    missing: Vec<String>,
    misshapen: Vec<String>,
    error: Option<Error>,
}

impl ModuleMapper for Filler<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let key = format!("{}{}", self.prefix, self.keys.key(&self.path.join(".")));
        if !self.left.remove(&key) {
            self.missing.push(key);
            return param;
        }
        match self.file.data(&key) {
            Ok(data) => {
                let expected = param.lazy_shape();
                if *data.shape() != expected {
                    self.misshapen.push(format!("{key} has shape {:?}, expected {expected:?}", data.shape()));
                    return param;
                }
                let mut filled = Param::from_tensor(self.file.place(data, self.dtype, self.device));
                filled.id = param.id;
                filled
            }
            Err(error) => {
                self.error.get_or_insert(error);
                param
            }
        }
    }
}

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
    let views = tensors
        .iter()
        .map(|(key, data)| {
            let dtype = match data.dtype() {
                DType::F32 => Dtype::F32,
                DType::F16 => Dtype::F16,
                DType::BF16 => Dtype::BF16,
                DType::F64 => Dtype::F64,
                DType::I64 => Dtype::I64,
                DType::I32 => Dtype::I32,
                other => {
                    return Err(Error::format(path, format!("{key} has dtype {other:?}"), "cast it to a float dtype"));
                }
            };
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
                .map_err(|source| Error::format(path, format!("{key}: {source}"), "the tensor is inconsistent"))?;
            Ok((key.clone(), view))
        })
        .collect::<Result<Vec<_>>>()?;
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    let bytes = safetensors::serialize(views, (!metadata.is_empty()).then_some(metadata))
        .map_err(|source| Error::format(path, source.to_string(), "the tensors cannot be written"))?;
    write_atomically(path, &bytes)
}

/// Writes a file whole or not at all.
///
/// # Errors
/// If the folder is missing or not writable.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let temporary = path.with_file_name(name);
    let write = || -> std::io::Result<()> {
        let mut file = File::create(&temporary)?;
        std::io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)
    };
    write().map_err(|source| {
        // The error that matters is the first one; a temporary that was never created cannot be removed.
        let _ = std::fs::remove_file(&temporary);
        Error::Io { path: path.to_owned(), source }
    })
}
