//! Weight files as people have them: one safetensors or GGUF file, or one that torch saved, or several with an index, or a folder of either.

mod lent;

use super::{
    header::{Header, Unique},
    stored::Stored,
};
use crate::{Error, Result, quantize::Matrices};
use ace_nn::weight::Packing;
use burn::prelude::*;
use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    ops::Range,
    path::{Component, Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

/// What an index file is called: `<name>.safetensors.index.json`.
pub(crate) const INDEX: &str = ".safetensors.index.json";
/// What weight files are called; how they are read, their first bytes decide.
const ENDINGS: [&str; 3] = [".safetensors", ".sft", ".gguf"];
/// Largest index file that is read, in bytes; FLUX.1's has 121 KB.
const MAX_INDEX: u64 = 64 << 20;

/// The number by which a layer's 8-bit weight is multiplied, behind the layer's name: ComfyUI's older and newer word.
const SCALES: [&str; 2] = [".scale_weight", ".weight_scale"];
/// What else ComfyUI keeps beside such a weight, for multiplying in eight bits, which is not done here.
const BESIDE: [&str; 3] = [".scale_input", ".input_scale", ".comfy_quant"];
/// The mark of such a file.
const MARK: &str = "scaled_fp8";

/// The tensors of a weight file, or of several that belong together, mapped into memory or held in it.
#[derive(Debug)]
pub struct WeightFile {
    path: PathBuf,
    parts: Vec<Part>,
    tensors: BTreeMap<String, Entry>,
    /// What becomes of the matrices of linear layers.
    matrices: Matrices,
    /// Whether products with packed matrices are those of the wide ones.
    exact: bool,
}

/// One file.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    bytes: Bytes,
    metadata: BTreeMap<String, String>,
    is_gguf: bool,
}

/// Where one tensor is.
#[derive(Debug, Clone)]
struct Entry {
    part: usize,
    stored: Stored,
    shape: Vec<usize>,
    range: Range<usize>,
    /// Where the number is by which its numbers are multiplied.
    scale: Option<Box<Entry>>,
}

/// Where the bytes of a file are.
#[derive(Debug)]
enum Bytes {
    /// Headers are read from the map, numbers from the file: a page that is mapped costs more than its bytes.
    Mapped(Arc<memmap2::Mmap>, Mutex<Reader>),
    Held(Cow<'static, [u8]>),
}

impl std::ops::Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map, _) => map,
            Self::Held(bytes) => bytes,
        }
    }
}

/// A file that is read a piece at a time.
#[derive(Debug)]
struct Reader {
    file: File,
    buffer: Vec<u8>,
}

/// What numbers can be.
pub(crate) const FLOATS: &str = "weights are F64, F32, F16, BF16, F8_E4M3, F8_E5M2 or of one of GGUF's types";

/// Bytes of a piece: few enough to stay in a processor's cache.
const PIECE: usize = 1 << 20;

/// A tensor's bytes in the file, what they are, and by what the numbers are multiplied.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Raw<'a> {
    pub bytes: &'a [u8],
    pub stored: Stored,
    pub scale: f32,
}

/// The part of an index file that matters.
#[derive(serde::Deserialize)]
struct Index {
    weight_map: Unique<String>,
}

impl WeightFile {
    /// Opens a safetensors or GGUF file, what `torch.save` wrote, an index (`….safetensors.index.json`) with the files it names, or a folder with
    /// one of them. Headers are checked, weights are not read yet.
    ///
    /// # Errors
    /// If a file cannot be read, is truncated or of another format; if an index names a file outside its folder, or a
    /// tensor that is not where it says; if a folder has several candidates.
    pub fn open(path: &Path) -> Result<Self> {
        let file = if path.is_dir() { find_in(path)? } else { path.to_owned() };
        let is_index = file.file_name().is_some_and(|name| name.to_string_lossy().ends_with(INDEX));
        if is_index { Self::sharded(&file) } else { Self::of(&file, vec![(file.clone(), map(&file)?)]) }
    }

    /// Leaves the matrices of linear layers as they are stored where they have fewer than 16 bits: as many bits a number are
    /// on the device, and the wide numbers never.
    pub fn quantized(mut self) -> Self {
        self.matrices = Matrices::AsStored;
        self
    }

    /// Packs the matrices of a network's blocks when they are read, unless the file has them packed so already. Other
    /// matrices and the rest of the network are widened.
    pub fn packed(mut self, packing: Packing) -> Self {
        self.matrices = Matrices::Packed(packing);
        self
    }

    /// Multiplies with packed matrices as with wide ones: what is computed without gradients is then what gradients are of.
    pub fn exact(mut self) -> Self {
        self.exact = true;
        self
    }

    /// Whether products with packed matrices are those of the wide ones.
    pub(crate) fn is_exact(&self) -> bool {
        self.exact
    }

    /// What becomes of the matrices of linear layers.
    pub(crate) fn matrices(&self) -> Matrices {
        self.matrices
    }

    /// A file that is already in memory, such as one built into a program; `name` stands for its path in errors.
    ///
    /// # Errors
    /// If it is truncated, or neither a safetensors nor a GGUF file.
    pub fn from_bytes(name: &Path, bytes: impl Into<Cow<'static, [u8]>>) -> Result<Self> {
        Self::of(name, vec![(name.to_owned(), Bytes::Held(bytes.into()))])
    }

    fn sharded(path: &Path) -> Result<Self> {
        let io = || Error::io(path);
        if fs::metadata(path).map_err(io())?.len() > MAX_INDEX {
            return Err(Error::format(path, "the index is larger than 64 MiB", "get the file again"));
        }
        let text = fs::read(path).map_err(io())?;
        let index: Index = serde_json::from_slice(&text).map_err(|source| {
            Error::format(path, format!("not an index of weight files: {source}"), "get the file again")
        })?;
        let weight_map = index.weight_map.0;
        let folder = path.parent().unwrap_or(Path::new(""));
        let names: BTreeSet<&String> = weight_map.values().collect();
        let mut parts = Vec::new();
        for name in &names {
            let is_plain = matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
            if !is_plain {
                let reason = format!("it names {name:?}, which is not a file beside it");
                return Err(Error::format(path, reason, "an index that leaves its folder is not to be trusted"));
            }
            let shard = folder.join(name);
            if !shard.exists() {
                let reason = format!("{name} is missing ({} files are named)", names.len());
                return Err(Error::format(path, reason, "get the missing file from where the others came from"));
            }
            parts.push((shard.clone(), map(&shard)?));
        }
        let weights = Self::of(path, parts)?;
        for (key, name) in &weight_map {
            // Scales were put with their weights.
            let place = weights.tensors.get(key).map(|entry| entry.part);
            let is_beside = SCALES.iter().chain(&BESIDE).any(|ending| key.ends_with(ending)) || key.ends_with(MARK);
            if place != names.iter().position(|known| *known == name) && !(place.is_none() && is_beside) {
                return Err(Error::format(path, format!("{key} is not in {name}"), "the files do not belong together"));
            }
        }
        Ok(weights)
    }

    fn of(path: &Path, files: Vec<(PathBuf, Bytes)>) -> Result<Self> {
        let mut weights = Self {
            path: path.to_owned(),
            parts: Vec::new(),
            tensors: BTreeMap::new(),
            matrices: Matrices::Wide,
            exact: false,
        };
        for (file, bytes) in files {
            let Header { tensors, metadata, is_gguf } = Header::of(&file, &bytes)?;
            for (key, declared) in tensors {
                if weights.tensors.contains_key(&key) {
                    return Err(Error::format(path, format!("{key} is in two files"), "keep one of them"));
                }
                let part = weights.parts.len();
                let (stored, shape, range) = (declared.stored, declared.shape, declared.range);
                weights.tensors.insert(key, Entry { part, stored, shape, range, scale: None });
            }
            weights.parts.push(Part { path: file, bytes, metadata, is_gguf });
        }
        weights.put_scales()?;
        Ok(weights)
    }

    /// Puts every scale with the weight that it belongs to, and takes off what else stands beside 8-bit weights.
    fn put_scales(&mut self) -> Result<()> {
        let beside = |key: &str, endings: &[&str]| {
            endings.iter().find_map(|ending| Some(format!("{}.weight", key.strip_suffix(ending)?)))
        };
        let all: Vec<String> = self.tensors.keys().cloned().collect();
        for key in all {
            let scaled = beside(&key, &SCALES).filter(|weight| self.is_float(weight));
            let accompanied = beside(&key, &BESIDE).filter(|weight| self.is_float(weight));
            let is_mark = key.strip_suffix(MARK).is_some_and(|prefix| prefix.is_empty() || prefix.ends_with('.'));
            if let Some(weight) = scaled {
                let Some(scale) = self.tensors.remove(&key) else { continue };
                let is_number = matches!(scale.stored, Stored::F32 | Stored::F16 | Stored::BF16 | Stored::F64);
                let rows = self.shape(&weight).and_then(|shape| shape.first()).copied();
                let is_of_rows = rows.is_some() && scale.shape.first().copied() == rows && self.is_float8(&weight);
                let count = scale.shape.iter().product::<usize>();
                if !(is_number && (count == 1 || is_of_rows && rows == Some(count))) {
                    let reason =
                        format!("{key} is {:?} of {}, not a number, or one per row", scale.shape, scale.stored);
                    return Err(self.misfit(reason, "weights with a scale per block are not read"));
                }
                if let Some(weight) = self.tensors.get_mut(&weight) {
                    weight.scale = Some(Box::new(scale));
                }
            } else if accompanied.is_some() || is_mark {
                self.tensors.remove(&key);
            }
        }
        Ok(())
    }

    fn is_float8(&self, key: &str) -> bool {
        self.tensors.get(key).is_some_and(|entry| matches!(entry.stored, Stored::F8E4M3 | Stored::F8E5M2))
    }

    fn is_float(&self, key: &str) -> bool {
        self.tensors.get(key).is_some_and(|entry| entry.stored.is_float())
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files behind it, one or several with an index.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.parts.iter().map(|part| part.path.as_path())
    }

    /// Whether it is a GGUF file.
    pub fn is_gguf(&self) -> bool {
        self.parts.iter().any(|part| part.is_gguf)
    }

    /// Whether `torch.save` wrote it.
    pub fn is_torch(&self) -> bool {
        self.parts.iter().any(|part| part.bytes.starts_with(super::torch::MARK))
    }

    /// Every key, sorted; scales of 8-bit weights are not among them.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Whether there is a tensor of that name.
    pub fn has(&self, key: &str) -> bool {
        self.tensors.contains_key(key)
    }

    /// The text that the writer left in the header, of all files together.
    ///
    /// # Errors
    /// None today: headers were checked when the file was opened.
    pub fn metadata(&self) -> Result<BTreeMap<String, String>> {
        Ok(self.parts.iter().flat_map(|part| part.metadata.clone()).collect())
    }

    /// Every key with its shape.
    ///
    /// # Errors
    /// None today: headers were checked when the file was opened.
    pub fn shapes(&self) -> Result<BTreeMap<String, Vec<usize>>> {
        Ok(self.tensors.iter().map(|(key, entry)| (key.clone(), entry.shape.clone())).collect())
    }

    /// The shape of a tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.tensors.get(key).map(|entry| entry.shape.as_slice())
    }

    /// How a tensor is stored.
    pub fn stored(&self, key: &str) -> Option<Stored> {
        self.tensors.get(key).map(|entry| entry.stored)
    }

    /// How many bytes a tensor has in the file.
    pub fn len_of(&self, key: &str) -> Option<usize> {
        self.tensors.get(key).map(|entry| entry.range.len())
    }

    /// Whether a tensor's numbers are multiplied by one that stands beside it.
    pub fn is_scaled(&self, key: &str) -> bool {
        self.tensors.get(key).is_some_and(|entry| entry.scale.is_some())
    }

    /// A tensor as it is stored.
    ///
    /// # Errors
    /// If the key is missing.
    pub(crate) fn raw(&self, key: &str) -> Result<Raw<'_>> {
        let entry = self
            .tensors
            .get(key)
            .ok_or_else(|| self.misfit(format!("{key} is missing"), "this file belongs to another network"))?;
        let scale = match &entry.scale {
            Some(_) if self.has_row_scales(key) => 1.0,
            Some(scale) => self.scales(key, scale)?[0],
            None => 1.0,
        };
        Ok(Raw { bytes: self.bytes(entry), stored: entry.stored, scale })
    }

    /// Whether every row of a tensor has a scale of its own; [`Raw::scale`] is 1 then.
    pub(crate) fn has_row_scales(&self, key: &str) -> bool {
        let scale = self.tensors.get(key).and_then(|entry| entry.scale.as_ref());
        scale.is_some_and(|scale| scale.shape.iter().product::<usize>() > 1)
    }

    /// The scales of a tensor's rows, if they have some of their own.
    ///
    /// # Errors
    /// If they are no numbers.
    pub(crate) fn row_scales(&self, key: &str) -> Result<Option<Vec<f32>>> {
        match self.tensors.get(key).and_then(|entry| entry.scale.as_ref()).filter(|_| self.has_row_scales(key)) {
            Some(scale) => self.scales(key, scale).map(Some),
            None => Ok(None),
        }
    }

    fn scales(&self, key: &str, scale: &Entry) -> Result<Vec<f32>> {
        let count = scale.shape.iter().product();
        let mut values = super::stored::Values::F32(Vec::with_capacity(count));
        let read = scale.stored.read(self.bytes(scale), 1.0, &mut values);
        match values {
            super::stored::Values::F32(values) if read.is_ok() && values.len() == count => Ok(values),
            _ => Err(self.misfit(format!("the scale of {key} is no number"), "get the file again")),
        }
    }

    /// Shows a tensor's bytes as they are stored, a piece at a time, each a whole number of `unit` bytes but the last.
    ///
    /// # Errors
    /// If the key is missing, the file cannot be read any more, or `visit` finds something wrong.
    pub(crate) fn each_piece(
        &self,
        key: &str,
        unit: usize,
        visit: &mut dyn FnMut(&[u8]) -> std::result::Result<(), String>,
    ) -> Result<()> {
        let raw = self.raw(key)?;
        let wrong = |reason: String| self.misfit(format!("{key}: {reason}"), FLOATS);
        let piece = (PIECE / unit).max(1) * unit;
        let part = self.tensors.get(key).map(|entry| (&self.parts[entry.part], &entry.range));
        let Some((Part { bytes: Bytes::Mapped(_, reader), path, .. }, range)) = part else {
            return raw.bytes.chunks(piece).try_for_each(visit).map_err(wrong);
        };
        // A thread that panicked while it read has left nothing behind that matters.
        let mut reader = reader.lock().unwrap_or_else(PoisonError::into_inner);
        let Reader { file, buffer } = &mut *reader;
        buffer.resize(piece.max(buffer.len()), 0);
        file.seek(SeekFrom::Start(range.start as u64)).map_err(Error::io(path))?;
        let mut left = range.len();
        while left > 0 {
            let bytes = &mut buffer[..left.min(piece)];
            file.read_exact(bytes).map_err(Error::io(path))?;
            visit(bytes).map_err(wrong)?;
            left -= bytes.len();
        }
        Ok(())
    }

    fn bytes(&self, entry: &Entry) -> &[u8] {
        &self.parts[entry.part].bytes[entry.range.clone()]
    }

    /// Lets the system take back the memory behind a tensor that has been read: it is in the file, and otherwise a
    /// network would seem to be held twice.
    pub(crate) fn release(&self, key: &str) {
        #[cfg(unix)]
        if let Some(entry) = self.tensors.get(key)
            && let Bytes::Mapped(map, _) = &self.parts[entry.part].bytes
        {
            // SAFETY: the map is shared with the file and read only, so pages that are dropped come back as they were.
            #[allow(unsafe_code)]
            let advised = unsafe {
                map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, entry.range.start, entry.range.len())
            };
            // Advice that is not taken costs memory that the system can take anyway.
            drop(advised);
        }
        #[cfg(not(unix))]
        let _ = key;
    }

    pub(crate) fn misfit(&self, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Misfit { path: self.path.clone(), reason: reason.into(), hint: Some(hint.into()) }
    }
}

/// Onto a device, in the data's dtype: it was converted on the host, so that a device that cannot hold bf16 never sees
/// it.
pub(crate) fn place<const D: usize>(data: TensorData, device: &Device) -> Tensor<D> {
    let dtype = data.dtype();
    Tensor::from_data(data, (device, dtype))
}

/// Maps a file.
fn map(path: &Path) -> Result<Bytes> {
    // A pipe or a device would be waited for.
    if !fs::metadata(path).map_err(Error::io(path))?.is_file() {
        return Err(Error::format(path, "not a file", "name a weight file, an index or a folder with one"));
    }
    let file = File::open(path).map_err(Error::io(path))?;
    // SAFETY: the map is read only; a file that another program cuts short while we read it would fault, which is
    // the accepted price of not holding 24 GB twice.
    #[allow(unsafe_code)]
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(Error::io(path))?;
    Ok(Bytes::Mapped(Arc::new(map), Mutex::new(Reader { file, buffer: Vec::new() })))
}

/// The one index or weight file of a folder.
fn find_in(folder: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).map_err(Error::io(folder))?;
    let mut names: Vec<String> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort();
    let ending = |endings: &[&str]| {
        let stem =
            |name: &str| endings.iter().find_map(|end| Some(name.strip_suffix(end)?.trim_end_matches(end).to_owned()));
        let found: Vec<&String> = names.iter().filter(|name| stem(name).is_some()).collect();
        // A folder may hold the same weights in another precision too, as `model.fp16.safetensors`.
        let plain = found.iter().copied().filter(|name| stem(name).is_some_and(|stem| !stem.contains('.')));
        if found.len() > 1 { plain.collect() } else { found }
    };
    let (indices, files) = (ending(&[INDEX]), ending(&ENDINGS));
    match (&indices[..], &files[..]) {
        ([index], _) => Ok(folder.join(index)),
        ([], [file]) => Ok(folder.join(file)),
        ([], []) => Err(Error::format(folder, "no weight file is here", "name the folder that holds the weights")),
        _ => Err(Error::format(folder, "several weight files are here", "name one of them")),
    }
}
