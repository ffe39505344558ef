//! Matrices that stay packed: as a file has them, or packed when they are read.

use crate::{
    Result, WeightFile,
    load::Origins,
    store::{Raw, Stored, gguf::GgmlType},
};
use ace_nn::weight::{PackedMatrix, Packing};
use burn::{prelude::*, tensor::DType};

/// What becomes of the matrices of linear layers when they are read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Matrices {
    /// They are widened.
    #[default]
    Wide,
    /// Those that a file has packed as networks hold them stay so; others are widened.
    AsStored,
    /// Those of a network's blocks are packed, unless they are already packed so.
    Packed(Packing),
}

impl Matrices {
    /// How the matrix at `path` of a module is to be held, given how its file has it; `None` for wide.
    pub fn packing(self, path: &[String], stored: Option<Packing>) -> Option<Packing> {
        match self {
            Self::Wide => None,
            Self::AsStored => stored,
            // What is outside of the blocks is small, and the first and the last layer suffer most.
            Self::Packed(packing) => is_in_block(path).then_some(packing),
        }
    }
}

/// Whether a parameter belongs to one of a network's blocks.
pub(crate) fn is_in_block(path: &[String]) -> bool {
    path.iter().any(|name| name.ends_with("blocks") || name == "layers")
}

/// What a file's type is called here, if networks can hold it as it is.
fn packing_of(raw: &Raw<'_>) -> Option<Packing> {
    match raw.stored {
        Stored::Block(GgmlType::Q8_0) if raw.scale == 1.0 => Some(Packing::Q8_0),
        Stored::Block(GgmlType::Q4_0) if raw.scale == 1.0 => Some(Packing::Q4_0),
        _ => None,
    }
}

/// A matrix that was packed: how, its shape, words and scales.
pub(crate) type Repacked = (Packing, [usize; 2], (Vec<i32>, Vec<f32>));

impl WeightFile {
    /// Matrices, rows behind each other, as `matrices` wants them packed; `None` if they are to be widened.
    ///
    /// # Errors
    /// If a key is missing or cannot be read.
    pub(crate) fn join_packed(
        &self,
        keys: &[&str],
        shape: [usize; 2],
        matrices: Matrices,
        path: &[String],
        device: &Device,
    ) -> Result<Option<PackedMatrix>> {
        let (stored, packing) = self.packings(keys, shape, matrices, path)?;
        match packing {
            None => Ok(None),
            Some(packing) if stored == Some(packing) => self.join_blocks(keys, shape, packing, device).map(Some),
            Some(packing) => {
                let (words, scales) = packing.pack(&self.numbers(keys)?);
                Ok(Some(PackedMatrix::new(packing, shape, words, scales, device)))
            }
        }
    }

    /// The matrix at `path` of a network, packed here because the file has it otherwise; `None` if it is as the file has it,
    /// or wide.
    ///
    /// # Errors
    /// As [`WeightFile::join_packed`].
    pub(crate) fn repacked(&self, origins: &Origins, path: &[String]) -> Result<Option<Repacked>> {
        let Some(origin) = origins.get(&path.join(".")).filter(|origin| !origin.swapped) else { return Ok(None) };
        let keys: Vec<&str> = origin.keys.iter().map(String::as_str).collect();
        let &[rows, columns] = &origin.shape[..] else { return Ok(None) };
        let (stored, packing) = self.packings(&keys, [rows, columns], self.matrices(), path)?;
        match packing {
            Some(packing) if stored != Some(packing) => {
                Ok(Some((packing, [rows, columns], packing.pack(&self.numbers(&keys)?))))
            }
            _ => Ok(None),
        }
    }

    /// How the file has matrices, and how they are to be held.
    pub(crate) fn packings(
        &self,
        keys: &[&str],
        [_, columns]: [usize; 2],
        matrices: Matrices,
        path: &[String],
    ) -> Result<(Option<Packing>, Option<Packing>)> {
        let raw = keys.iter().map(|key| self.raw(key)).collect::<Result<Vec<_>>>()?;
        let stored = raw.first().and_then(packing_of);
        let stored = stored.filter(|first| raw.iter().all(|raw| packing_of(raw) == Some(*first)));
        let wanted = matrices.packing(path, stored);
        Ok((stored, wanted.filter(|packing| columns.is_multiple_of(packing.block_len()))))
    }

    fn numbers(&self, keys: &[&str]) -> Result<Vec<f32>> {
        let values = self.join(keys, Some(DType::F32))?.try_into_vec::<f32>();
        values.map_err(|source| self.misfit(format!("{}: {source}", keys[0]), "get the file again"))
    }

    /// Blocks of GGUF, each a scale in f16 and its bits, taken apart.
    fn join_blocks(&self, keys: &[&str], shape: [usize; 2], packing: Packing, device: &Device) -> Result<PackedMatrix> {
        let blocks = shape[0] * shape[1] / packing.block_len();
        let (mut words, mut scales) = (Vec::with_capacity(blocks * packing.block_words()), Vec::with_capacity(blocks));
        let size = 2 + 4 * packing.block_words();
        for key in keys {
            self.each_piece(key, size, &mut |bytes| {
                for block in bytes.chunks_exact(size) {
                    let (scale, bits) = block.split_at(2);
                    scales.push(half::f16::from_le_bytes([scale[0], scale[1]]).to_f32());
                    words.extend(bits.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word)));
                }
                Ok(())
            })?;
        }
        if scales.len() != blocks {
            return Err(self.misfit(format!("{} is not all there", keys[0]), "get the file again"));
        }
        Ok(PackedMatrix::new(packing, shape, words, scales, device))
    }
}
