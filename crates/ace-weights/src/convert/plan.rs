//! What is going to be written: every tensor with its rows in the input.

use super::{Format, Precision, stored};
use crate::{
    Network, Result, Sizes, WeightFile,
    load::Origin,
    names::KeyMap,
    network::{Found, Names},
    quantize::is_in_block,
    store::Planned,
};
use burn::prelude::*;
use std::ops::Range;

/// A network as it is going to be written.
#[derive(Debug)]
pub(super) struct Plan {
    /// In the order of their keys.
    pub tensors: Vec<Tensor>,
}

/// One tensor.
#[derive(Debug)]
pub(super) struct Tensor {
    pub planned: Planned,
    /// What stands behind each other in it.
    pub pieces: Vec<Piece>,
}

/// Bytes of one of the input's tensors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Piece {
    pub key: String,
    pub bytes: Range<usize>,
}

/// Rows of one of the input's tensors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Rows {
    pub key: String,
    pub rows: Range<usize>,
}

impl Plan {
    /// Cuts and joins every parameter's rows from one spelling to another.
    ///
    /// # Errors
    /// If the file does not hold exactly the network's weights.
    pub fn new(
        file: &WeightFile,
        found: &Found,
        sizes: &Sizes,
        format: Format,
        precision: Option<Precision>,
        device: &Device,
    ) -> Result<Self> {
        let (levels, width) = match sizes {
            Sizes::AutoEncoder(config) => (config.block_out_channels.len(), 0),
            Sizes::Flux(config) => (0, config.hidden_size),
            Sizes::T5(_) | Sizes::Clip(_) => (0, 0),
        };
        let origins = sizes.origins(file, found, device)?;
        let names = match (found.network, format) {
            // GGUF files of T5 are llama.cpp's.
            (Network::T5, _) if matches!(precision, Some(Precision::Gguf(_))) => Names::LlamaCpp,
            (Network::T5 | Network::Clip, _) => Names::Transformers,
            (_, Format::Diffusers) => Names::Diffusers,
            (_, Format::Bfl | Format::ComfyUi) => Names::Bfl,
        };
        let keys = found.network.keys(names, levels);
        let mut tensors = Vec::new();
        for (path, origin) in &origins {
            let rows = rows_of(file, origin);
            let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
            let packs = (is_in_block(&parts), precision);
            for (key, height, rows) in targets(&keys, path, origin, width, &rows) {
                tensors.push(tensor(file, &keys, key, height, origin, &rows, packs)?);
            }
        }
        tensors.sort_by(|a, b| a.planned.key.cmp(&b.planned.key));
        Ok(Self { tensors })
    }

    /// All tensors' bytes.
    pub fn bytes(&self) -> u64 {
        self.tensors.iter().map(|tensor| tensor.planned.bytes() as u64).sum()
    }

    /// Tensors in files of at most so many bytes, as far as single tensors allow.
    pub fn shards(&self, most: u64) -> Vec<Vec<&Tensor>> {
        let (mut shards, mut size) = (vec![Vec::new()], 0);
        for tensor in &self.tensors {
            let bytes = tensor.planned.bytes() as u64;
            if size > 0 && size + bytes > most {
                shards.push(Vec::new());
                size = 0;
            }
            size += bytes;
            if let Some(shard) = shards.last_mut() {
                shard.push(tensor);
            }
        }
        shards
    }
}

/// The rows of a parameter, in its own order.
fn rows_of(file: &WeightFile, origin: &Origin) -> Vec<Rows> {
    let height = |key: &String| file.shape(key).and_then(|shape| shape.first()).copied().unwrap_or(0);
    let rows: Vec<Rows> = origin.keys.iter().map(|key| Rows { key: key.clone(), rows: 0..height(key) }).collect();
    if origin.swapped { swapped(&rows) } else { rows }
}

/// The second half first.
fn swapped(rows: &[Rows]) -> Vec<Rows> {
    let height: usize = rows.iter().map(|rows| rows.rows.len()).sum();
    [cut(rows, height / 2..height), cut(rows, 0..height / 2)].concat()
}

/// The part of rows that stand behind each other.
pub(super) fn cut(rows: &[Rows], wanted: Range<usize>) -> Vec<Rows> {
    let (mut at, mut parts) = (0, Vec::new());
    for Rows { key, rows } in rows {
        let begin = wanted.start.clamp(at, at + rows.len()) - at;
        let end = wanted.end.clamp(at, at + rows.len()) - at;
        if begin < end {
            parts.push(Rows { key: key.clone(), rows: rows.start + begin..rows.start + end });
        }
        at += rows.len();
    }
    parts
}

/// The keys that a parameter's rows go to: how many, and which.
fn targets(keys: &KeyMap, path: &str, origin: &Origin, width: usize, rows: &[Rows]) -> Vec<(String, usize, Vec<Rows>)> {
    let height = origin.shape.first().copied().unwrap_or(0);
    let target = keys.rows(path);
    let mut at = 0;
    let part = |(key, height): (&String, usize)| {
        let mut part = cut(rows, at..at + height);
        at += height;
        if target.swapped {
            part = swapped(&part);
        }
        (key.clone(), height, part)
    };
    target.keys.iter().zip(target.heights(height, width)).map(part).collect()
}

fn tensor(
    file: &WeightFile,
    keys: &KeyMap,
    key: String,
    height: usize,
    origin: &Origin,
    rows: &[Rows],
    (is_in_block, precision): (bool, Option<Precision>),
) -> Result<Tensor> {
    let mut shape = keys.stored_shape(&key, &origin.shape).to_vec();
    if let Some(first) = shape.first_mut() {
        *first = height;
    }
    let mut kinds = Vec::with_capacity(rows.len());
    let mut pieces = Vec::with_capacity(rows.len());
    for Rows { key, rows } in rows {
        let raw = file.raw(key)?;
        kinds.push((raw.stored, raw.scale != 1.0 || file.has_row_scales(key)));
        let all = file.shape(key).and_then(|shape| shape.first()).copied().unwrap_or(0);
        // Blocks lie along the last axis: only a vector of blocks cannot be cut anywhere.
        let bytes = if *rows == (0..all) {
            0..raw.bytes.len()
        } else if raw.bytes.len().is_multiple_of(all) {
            let row = raw.bytes.len() / all;
            rows.start * row..rows.end * row
        } else {
            return Err(file.misfit(format!("{key} cannot be cut between its rows"), "convert it to bf16 elsewhere"));
        };
        pieces.push(Piece { key: key.clone(), bytes });
    }
    let stored = stored(&kinds, &shape, is_in_block, precision);
    Ok(Tensor { planned: Planned { key, stored, shape }, pieces })
}
