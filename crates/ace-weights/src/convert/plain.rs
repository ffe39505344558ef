//! What torch saved and is none of the project's networks, such as an annotator's: every tensor under its own name, in one
//! safetensors file.

use super::{Content, Format, Observer, Options, Precision, Report};
use crate::{Error, Result, WeightFile, replace, store};
use burn::tensor::{DType, TensorData};
use std::{collections::BTreeMap, path::Path};

/// Writes all tensors of `file`, which are held together: such networks are small.
pub(super) fn convert(file: &WeightFile, output: &Path, options: &Options, observer: Observer<'_>) -> Result<Report> {
    let what = || format!("{}: no network of FLUX is in this file", file.path().display());
    if options.format == Some(Format::Diffusers) {
        return Err(Error::input(what(), "diffusers has no folder for it; leave the format out"));
    }
    let dtype = match options.precision {
        None => None,
        Some(Precision::F32) => Some(DType::F32),
        Some(Precision::BF16) => Some(DType::BF16),
        Some(Precision::F16) => Some(DType::F16),
        Some(Precision::Fp8 | Precision::Gguf(_)) => {
            return Err(Error::input(what(), "it is written in f32, bf16, f16 or as it is"));
        }
    };
    let total: usize = file.keys().filter_map(|key| file.len_of(key)).sum();
    let (mut done, mut tensors) = (0, BTreeMap::new());
    for key in file.keys() {
        let is_float = file.stored(key).is_some_and(crate::Stored::is_float);
        let data = file.join(&[key], dtype.filter(|_| is_float))?;
        if dtype == Some(DType::F16) && is_float && !is_finite(&data) {
            return Err(file.misfit(format!("{key} has numbers that are too large for f16"), "choose bf16 or f32"));
        }
        tensors.insert(key.to_owned(), data);
        done += file.len_of(key).unwrap_or(0);
        if !observer(done as u64, total as u64) {
            return Err(Error::Cancelled);
        }
    }
    replace::make_parent(output)?;
    store::write(output, &tensors, &[])?;
    Ok(Report {
        content: Content::Tensors,
        format: Format::ComfyUi,
        files: vec![output.to_owned()],
        tensors: tensors.len(),
        bytes: tensors.values().map(|data| data.as_bytes().len() as u64).sum(),
        skipped: Vec::new(),
    })
}

fn is_finite(data: &TensorData) -> bool {
    data.iter::<f32>().all(f32::is_finite)
}
