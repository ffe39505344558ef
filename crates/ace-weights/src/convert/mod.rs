//! Weights from one spelling to another: names, cuts, dtype; tensor after tensor, whatever the size of the file.
//!
//! ```text
//! keys of the file ─ their KeyMap ─▶ rows of a parameter ─ the other KeyMap ─▶ keys of the result
//! ```
//!
//! There is no table of conversions: both spellings are described by what the network's own parameters are called in
//! them, so whatever can be loaded can be converted. What is written is checked first: all names, shapes and dtypes are
//! known from the input's header. Where name and dtype alone change, bytes are copied as they are.

mod adapter;
mod place;
mod plain;
mod plan;

use crate::{
    Error, Network, Result, Sizes, Stored, WeightFile,
    adapter::Dialect,
    network::{Described, Found, Names},
    quantize::{self, fitting},
    replace,
    store::{
        self, INDEX, Planned,
        gguf::{self, GgmlType},
    },
};
use burn::prelude::*;
use plan::{Plan, Tensor};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Bytes of a shard unless another number is asked for, as diffusers cuts them.
pub const SHARD_SIZE: u64 = 10_000_000_000;

/// How many numbers, or blocks of them, are converted at a time: a tensor may be larger than what is held in memory.
const STEP: usize = 1 << 20;

/// Whose spelling to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One file with Black Forest Labs' keys; text encoders keep transformers' keys, as everywhere.
    Bfl,
    /// A folder with `config.json` and one file, or several with an index; a LoRA is one file.
    Diffusers,
    /// One file as ComfyUI's model folders have it: BFL's keys. A LoRA is spelled as the ACE++ release is (kohya's).
    ComfyUi,
}

impl Format {
    /// Every format with its name.
    pub const ALL: [(&'static str, Self); 3] =
        [("bfl", Self::Bfl), ("diffusers", Self::Diffusers), ("comfyui", Self::ComfyUi)];
}

/// How to store numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16.
    BF16,
    /// 16-bit floats of IEEE 754; numbers that are too large for them are an error.
    F16,
    /// `F8_E4M3` without scales for matrices; biases and norms, a thousandth of a network, stay as wide as they are.
    Fp8,
    /// A GGUF file: matrices of blocks in ggml's blocks (8 bits where rows are no multiple of 256 numbers), biases and norms in
    /// f32, other matrices as they are, in bf16 where they have fewer bits.
    Gguf(GgmlType),
}

impl Precision {
    /// Every precision with its name.
    pub const ALL: [(&'static str, Self); 9] = [
        ("f32", Self::F32),
        ("bf16", Self::BF16),
        ("f16", Self::F16),
        ("fp8", Self::Fp8),
        ("q8_0", Self::Gguf(GgmlType::Q8_0)),
        ("q6_k", Self::Gguf(GgmlType::Q6K)),
        ("q5_k", Self::Gguf(GgmlType::Q5K)),
        ("q4_k", Self::Gguf(GgmlType::Q4K)),
        ("q4_0", Self::Gguf(GgmlType::Q4_0)),
    ];
}

/// What to make of a file.
#[derive(Debug, Clone)]
pub struct Options {
    /// The input's own if absent; single files stay single.
    pub format: Option<Format>,
    /// The input's own if absent, bf16 for scaled 8-bit weights and GGUF's types.
    pub precision: Option<Precision>,
    /// Which network of a file that holds several.
    pub network: Option<Network>,
    /// What a weight file does not say and diffusers' `config.json` must, for networks of other sizes than FLUX.1's.
    pub card: Option<Described>,
    /// The most bytes of one of diffusers' files.
    pub shard_size: u64,
    /// Whether what is there may be replaced.
    pub force: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { format: None, precision: None, network: None, card: None, shard_size: SHARD_SIZE, force: false }
    }
}

/// What a file held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// A network.
    Network(Network),
    /// A LoRA in somebody's spelling.
    Lora(Dialect),
    /// Tensors of something else that torch saved.
    Tensors,
}

/// What was written.
#[derive(Debug, Clone)]
pub struct Report {
    /// What the input was.
    pub content: Content,
    /// The format written.
    pub format: Format,
    /// Files, in the order of writing.
    pub files: Vec<PathBuf>,
    /// Tensors.
    pub tensors: usize,
    /// Bytes of these.
    pub bytes: u64,
    /// Keys of a LoRA for text encoders, which were left out.
    pub skipped: Vec<String>,
}

/// Told how many bytes are written and how many there will be; false stops the work.
pub type Observer<'a> = &'a mut dyn FnMut(u64, u64) -> bool;

/// Writes the network or the LoRA in `input` to `output`, in another spelling or precision. Nothing of a network is
/// computed on `device`: it is where the parameters would be, were they made; a LoRA's factors are.
///
/// # Errors
/// If `input` is no network or LoRA, or not exactly one; if `output` is in its way or in the input's; if a number does
/// not fit the precision; if the observer stops it. `output` is then as it was.
pub fn convert(
    input: &Path,
    output: &Path,
    options: &Options,
    device: &Device,
    observer: Observer<'_>,
) -> Result<Report> {
    let file = WeightFile::open(input)?;
    place::check(input, &file, output, options.force)?;
    if let Some(dialect) = crate::adapter::dialect(&file)? {
        return adapter::convert(&file, dialect, output, options, device);
    }
    if file.is_torch() && options.network.is_none() && file.networks().is_empty() {
        return plain::convert(&file, output, options, observer);
    }
    let found = one(&file, options.network)?;
    let own = || match options.precision {
        Some(Precision::Gguf(_)) => Format::ComfyUi,
        _ => own_format(&file, &found),
    };
    let format = options.format.unwrap_or_else(own);
    let gguf = match options.precision {
        Some(Precision::Gguf(kind)) => Some((architecture(found.network, options.format, output)?, kind)),
        _ => None,
    };
    let sizes = Sizes::of(&file, &found)?;
    let config = match format {
        Format::Diffusers => Some(sizes.config_json(&file, options.card.as_ref())?),
        Format::Bfl | Format::ComfyUi => None,
    };
    if found.network == Network::AutoEncoder && options.precision == Some(Precision::Fp8) {
        return Err(Error::input("an autoencoder in fp8 would be of no use", "choose bf16, f16 or f32"));
    }
    let plan = Plan::new(&file, &found, &sizes, format, options.precision, device)?;

    let mut work = Work { file: &file, done: 0, total: plan.bytes(), observer };
    let files = match config {
        Some(config) => folder(&mut work, &plan, found.network, &config, output, options)?,
        None => {
            replace::make_parent(output)?;
            // What other programs left in the header stays true; which library's format it is does not.
            let mut metadata = if file.is_gguf() { BTreeMap::new() } else { file.metadata()? };
            metadata.remove("format");
            let tensors = plan.tensors.iter().collect();
            match gguf {
                Some((name, kind)) => work.write_gguf(output, tensors, name, kind)?,
                None => work.write(output, tensors, &metadata)?,
            }
            vec![output.to_owned()]
        }
    };
    Ok(Report {
        content: Content::Network(found.network),
        format,
        files,
        tensors: plan.tensors.len(),
        bytes: plan.bytes(),
        skipped: Vec::new(),
    })
}

/// What GGUF files call a network, if there are such files of it and this can be one.
fn architecture(network: Network, format: Option<Format>, output: &Path) -> Result<&'static str> {
    if format == Some(Format::Diffusers) {
        return Err(Error::input(
            "diffusers' folders have no GGUF files",
            "leave the format out, or choose bf16 or f16",
        ));
    }
    if output.extension().is_none_or(|ending| !ending.eq_ignore_ascii_case("gguf")) {
        let what = format!("{} would be a GGUF file", output.display());
        return Err(Error::input(what, "give it a name that ends in .gguf"));
    }
    match network {
        Network::Flux => Ok("flux"),
        Network::T5 => Ok("t5encoder"),
        Network::AutoEncoder | Network::Clip => {
            let what = format!("no program reads a GGUF file of the {}", network.title());
            Err(Error::input(what, "choose bf16, f16 or f32"))
        }
    }
}

/// The one network that is meant.
fn one(file: &WeightFile, wanted: Option<Network>) -> Result<Found> {
    if let Some(network) = wanted {
        return file.find(network);
    }
    let mut all = file.networks();
    match all.len() {
        1 => Ok(all.remove(0)),
        0 => {
            let first = file.keys().next().map_or("nothing".to_owned(), |key| format!("{key} and others"));
            let reason = format!("no network and no LoRA is in this file, only {first}");
            Err(file.misfit(reason, "FLUX transformers, autoencoders, T5, CLIP and LoRAs are converted"))
        }
        _ => {
            let names: Vec<_> = all.iter().map(|found| found.network.title()).collect();
            let what = format!("{}: several networks are in this file: {}", file.path().display(), names.join(", "));
            Err(Error::input(what, "choose one of them: flux, autoencoder, t5 or clip"))
        }
    }
}

/// The format that a file is in already.
fn own_format(file: &WeightFile, found: &Found) -> Format {
    let is_folder = file.files().count() > 1 || file.path().with_file_name("config.json").exists();
    match found.names {
        Names::Diffusers => Format::Diffusers,
        Names::Transformers | Names::Transformers5 if is_folder => Format::Diffusers,
        Names::Transformers | Names::Transformers5 | Names::LlamaCpp => Format::ComfyUi,
        Names::Bfl => Format::Bfl,
    }
}

/// Writing in progress.
struct Work<'a> {
    file: &'a WeightFile,
    done: u64,
    total: u64,
    observer: Observer<'a>,
}

impl Work<'_> {
    fn write(&mut self, path: &Path, tensors: Vec<&Tensor>, metadata: &BTreeMap<String, String>) -> Result<()> {
        let planned = tensors.iter().map(|tensor| tensor.planned.clone()).collect();
        store::stream(path, planned, metadata, &mut |planned, out| self.write_tensor(path, &tensors, planned, out))
    }

    fn write_gguf(&mut self, path: &Path, tensors: Vec<&Tensor>, name: &str, kind: GgmlType) -> Result<()> {
        let planned: Vec<Planned> = tensors.iter().map(|tensor| tensor.planned.clone()).collect();
        gguf::stream(path, &planned, name, kind, &mut |planned, out| self.write_tensor(path, &tensors, planned, out))
    }

    /// Writes the bytes of one of the tensors, which are in the order of their keys.
    fn write_tensor(
        &mut self,
        path: &Path,
        tensors: &[&Tensor],
        planned: &Planned,
        out: &mut dyn std::io::Write,
    ) -> Result<()> {
        if !(self.observer)(self.done, self.total) {
            return Err(Error::Cancelled);
        }
        let found = tensors.binary_search_by(|tensor| tensor.planned.key.cmp(&planned.key));
        let tensor = found.map(|at| tensors[at]);
        for piece in tensor.iter().flat_map(|tensor| &tensor.pieces) {
            let raw = self.file.raw(&piece.key)?;
            let scales = self.file.row_scales(&piece.key)?;
            // A row at a time where every row has a scale.
            let (step, first) = match &scales {
                Some(scales) => {
                    let width = (raw.bytes.len() / scales.len()).max(1);
                    (width, piece.bytes.start / width)
                }
                None => (STEP * raw.stored.block_bytes(), 0),
            };
            for (at, bytes) in raw.bytes[piece.bytes.clone()].chunks(step).enumerate() {
                let scale = scales.as_ref().map_or(raw.scale, |scales| scales[first + at]);
                let bytes = store::restore(raw.stored, planned.stored, bytes, scale)
                    .map_err(|reason| self.file.misfit(format!("{}: {reason}", piece.key), "choose bf16 or f32"))?;
                out.write_all(&bytes).map_err(Error::io(path))?;
            }
            self.file.release(&piece.key);
        }
        self.done += planned.bytes() as u64;
        Ok(())
    }
}

/// diffusers' folder of one network.
fn folder(
    work: &mut Work,
    plan: &Plan,
    network: Network,
    config: &serde_json::Value,
    output: &Path,
    options: &Options,
) -> Result<Vec<PathBuf>> {
    let stem = network.stem();
    let shards = plan.shards(options.shard_size);
    let names: Vec<String> = match shards.len() {
        1 => vec![format!("{stem}.safetensors")],
        count => (1..=count).map(|shard| format!("{stem}-{shard:05}-of-{count:05}.safetensors")).collect(),
    };
    // transformers asks for it.
    let metadata = BTreeMap::from([("format".to_owned(), "pt".to_owned())]);
    let mut files: Vec<PathBuf> = names.iter().map(|name| output.join(name)).collect();
    replace::folder(output, &mut |folder| {
        let json = |name: &str, value: &serde_json::Value| {
            // A value is always written; only maps with odd keys are not.
            let text =
                serde_json::to_string_pretty(value).map_err(|source| Error::input(source.to_string(), "report it"))?;
            let path = folder.join(name);
            fs::write(&path, text + "\n").map_err(Error::io(&path))
        };
        for (name, shard) in names.iter().zip(&shards) {
            work.write(&folder.join(name), shard.clone(), &metadata)?;
        }
        if shards.len() > 1 {
            let shard_of = |(name, shard): (&String, &Vec<&Tensor>)| {
                shard.iter().map(|tensor| (tensor.planned.key.clone(), name.clone().into())).collect::<Vec<_>>()
            };
            let weight_map: serde_json::Map<_, _> = names.iter().zip(&shards).flat_map(shard_of).collect();
            let index = serde_json::json!({ "metadata": { "total_size": plan.bytes() }, "weight_map": weight_map });
            json(&format!("{stem}{INDEX}"), &index)?;
        }
        json("config.json", config)
    })?;
    if shards.len() > 1 {
        files.push(output.join(format!("{stem}{INDEX}")));
    }
    files.push(output.join("config.json"));
    Ok(files)
}

/// What a tensor of these sources and this shape is stored as; blocks may be packed.
fn stored(sources: &[(Stored, bool)], shape: &[usize], is_in_block: bool, precision: Option<Precision>) -> Stored {
    let axes = shape.len();
    match precision {
        Some(Precision::F32) => return Stored::F32,
        Some(Precision::BF16) => return Stored::BF16,
        Some(Precision::F16) => return Stored::F16,
        Some(Precision::Fp8) if axes > 1 => return Stored::F8E4M3,
        Some(Precision::Gguf(_)) if axes < 2 => return Stored::F32,
        Some(Precision::Gguf(kind)) if is_in_block => {
            let columns = shape.last().copied().unwrap_or(1);
            let kind = quantize::packing_of_blocks(kind).map(|packing| fitting(packing, columns));
            let kind = kind.and_then(quantize::blocks_of_packing);
            if let Some(kind) = kind.filter(|kind| columns.is_multiple_of(kind.block_len())) {
                return Stored::Block(kind);
            }
        }
        Some(Precision::Fp8 | Precision::Gguf(_)) | None => {}
    }
    let is_kept = |stored: Stored, is_scaled: bool| {
        let is_float8 = matches!(stored, Stored::F8E4M3 | Stored::F8E5M2);
        precision.is_none() && is_float8 && !is_scaled
    };
    let widened = sources.iter().map(|&(stored, is_scaled)| match stored {
        packed if packed.is_quantized() && !is_kept(packed, is_scaled) => Stored::BF16,
        Stored::F64 if matches!(precision, Some(Precision::Gguf(_))) => Stored::F32,
        other => other,
    });
    let mut all = widened.clone();
    match all.next() {
        Some(first) if all.all(|other| other == first) => first,
        // Rows of several dtypes in one tensor: all of them fit here.
        _ => Stored::F32,
    }
}
