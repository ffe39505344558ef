//! Writes GGUF, version 3.

use super::{ALIGNMENT, GgmlType};
use crate::{
    Error, Result,
    store::{Planned, Stored, write::write_all},
};
use std::{io::Write, path::Path};

/// A number of the metadata, of 32 bits without a sign; a text.
const UNSIGNED: u32 = 4;
const TEXT: u32 = 8;

/// The version of ggml's blocks.
const BLOCKS: u32 = 2;

/// What ggml calls a file whose matrices are mostly of this type: `enum ggml_ftype`.
fn file_type(kind: GgmlType) -> u32 {
    match kind {
        GgmlType::F32 => 0,
        GgmlType::F16 => 1,
        GgmlType::Q4_0 => 2,
        GgmlType::Q4_1 => 3,
        GgmlType::Q8_0 => 7,
        GgmlType::Q5_0 => 8,
        GgmlType::Q5_1 => 9,
        GgmlType::Q2K => 10,
        GgmlType::Q3K => 11,
        // Those of mixed files: all matrices of one type are the small ones of llama.cpp's names.
        GgmlType::Q4K => 14,
        GgmlType::Q5K => 16,
        GgmlType::Q6K => 18,
        GgmlType::Bf16 => 32,
    }
}

/// ggml's type of what is planned.
fn kind_of(stored: Stored) -> Option<GgmlType> {
    match stored {
        Stored::F32 => Some(GgmlType::F32),
        Stored::F16 => Some(GgmlType::F16),
        Stored::BF16 => Some(GgmlType::Bf16),
        Stored::Block(kind) => Some(kind),
        _ => None,
    }
}

/// Writes a file of the architecture `name`, most of whose matrices are of type `kind`: its header first and then tensor after
/// tensor as `write` gives their bytes.
///
/// # Errors
/// If the folder is missing or not writable, a tensor is stored as GGUF does not know, or `write` fails or gives another
/// number of bytes. Nothing is left behind then.
pub(crate) fn stream(
    path: &Path,
    plan: &[Planned],
    name: &str,
    kind: GgmlType,
    write: &mut dyn FnMut(&Planned, &mut dyn Write) -> Result<()>,
) -> Result<()> {
    let alignment = ALIGNMENT as usize;
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut header = b"GGUF".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((plan.len() as u64).to_le_bytes());
    header.extend(3_u64.to_le_bytes());
    header.extend([text("general.architecture"), TEXT.to_le_bytes().to_vec(), text(name)].concat());
    for (key, value) in [("general.file_type", file_type(kind)), ("general.quantization_version", BLOCKS)] {
        header.extend([text(key), UNSIGNED.to_le_bytes().to_vec(), value.to_le_bytes().to_vec()].concat());
    }
    let mut offset = 0_u64;
    for tensor in plan {
        let Some(kind) = kind_of(tensor.stored) else {
            let reason = format!("{} is stored as {}", tensor.key, tensor.stored);
            return Err(Error::format(path, reason, "GGUF files do not have this; choose a float dtype"));
        };
        header.extend(text(&tensor.key));
        header.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
        header.extend(kind.number().to_le_bytes());
        header.extend(offset.to_le_bytes());
        offset += (tensor.bytes() as u64).next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(alignment), 0);
    write_all(path, &header, plan, alignment, write)
}
