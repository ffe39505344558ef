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
        Stored::F8E4M3 => Some(Packing::E4M3),
        Stored::F8E5M2 => Some(Packing::E5M2),
        Stored::Block(kind) if raw.scale == 1.0 => packing_of_blocks(kind),
        _ => None,
    }
}

/// What a type of ggml is called here, if it is one of few bits.
pub(crate) fn packing_of_blocks(kind: GgmlType) -> Option<Packing> {
    Some(match kind {
        GgmlType::Q8_0 => Packing::Q8_0,
        GgmlType::Q6K => Packing::Q6K,
        GgmlType::Q5K => Packing::Q5K,
        GgmlType::Q5_1 => Packing::Q5_1,
        GgmlType::Q5_0 => Packing::Q5_0,
        GgmlType::Q4K => Packing::Q4K,
        GgmlType::Q4_1 => Packing::Q4_1,
        GgmlType::Q4_0 => Packing::Q4_0,
        GgmlType::Q3K => Packing::Q3K,
        GgmlType::Q2K => Packing::Q2K,
        GgmlType::F32 | GgmlType::F16 | GgmlType::Bf16 => return None,
    })
}

/// ggml's type of a packing, if it is one of ggml's.
pub(crate) fn blocks_of_packing(packing: Packing) -> Option<GgmlType> {
    GgmlType::ALL.into_iter().find(|kind| packing_of_blocks(*kind) == Some(packing))
}

/// What rows of so many numbers are packed in if `packing` is wanted: 8 bits where blocks of 256 do not fit, as llama.cpp does.
pub(crate) fn fitting(packing: Packing, columns: usize) -> Packing {
    let is_too_long = packing.block_len() == 256 && !columns.is_multiple_of(256);
    if is_too_long { Packing::Q8_0 } else { packing }
}

/// Whether a block of the file ends with its floats; others begin with them.
const fn has_floats_last(packing: Packing) -> bool {
    matches!(packing, Packing::Q2K | Packing::Q3K | Packing::Q6K)
}

/// Takes blocks of a file apart, behind what is there already.
fn take_apart(packing: Packing, bytes: &[u8], words: &mut Vec<i32>, scales: &mut Vec<f32>) {
    let (bits, floats) = (4 * packing.block_words(), 2 * packing.block_scales());
    for block in bytes.chunks_exact(bits + floats) {
        let (first, last) = block.split_at(if has_floats_last(packing) { bits } else { floats });
        let (floats, bits) = if has_floats_last(packing) { (last, first) } else { (first, last) };
        scales.extend(floats.as_chunks().0.iter().map(|float| half::f16::from_le_bytes(*float).to_f32()));
        words.extend(bits.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word)));
    }
}

/// Numbers as a file's blocks; `None` if they are not written so, or no whole number of blocks.
pub(crate) fn blocks(kind: GgmlType, values: &[f32]) -> Option<Vec<u8>> {
    let packing = packing_of_blocks(kind).filter(|packing| Packing::WRITTEN.contains(packing))?;
    if !values.len().is_multiple_of(packing.block_len()) {
        return None;
    }
    let (words, scales) = packing.pack(values, values.len());
    let mut bytes = Vec::with_capacity(packing.bytes(values.len()));
    for (words, scales) in words.chunks(packing.block_words()).zip(scales.chunks(packing.block_scales())) {
        let floats = scales.iter().flat_map(|scale| half::f16::from_f32(*scale).to_le_bytes());
        let bits = words.iter().flat_map(|word| word.to_le_bytes());
        if has_floats_last(packing) { bytes.extend(bits.chain(floats)) } else { bytes.extend(floats.chain(bits)) }
    }
    Some(bytes)
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
        let packed = match packing {
            None => return Ok(None),
            Some(packing) if stored == Some(packing) => self.join_blocks(keys, shape, packing, device)?,
            Some(packing) => {
                let (words, scales) = packing.pack(&self.numbers(keys)?, shape[1]);
                PackedMatrix::new(packing, shape, words, scales, device)
            }
        };
        Ok(Some(packed.exactly(self.is_exact())))
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
                Ok(Some((packing, [rows, columns], packing.pack(&self.numbers(&keys)?, columns))))
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
        let wanted = matrices.packing(path, stored).map(|packing| fitting(packing, columns));
        Ok((stored, wanted.filter(|packing| columns.is_multiple_of(packing.block_len()))))
    }

    fn numbers(&self, keys: &[&str]) -> Result<Vec<f32>> {
        let values = self.join(keys, Some(DType::F32))?.try_into_vec::<f32>();
        values.map_err(|source| self.misfit(format!("{}: {source}", keys[0]), "get the file again"))
    }

    /// What a file has packed, taken apart into words and scales.
    fn join_blocks(&self, keys: &[&str], shape: [usize; 2], packing: Packing, device: &Device) -> Result<PackedMatrix> {
        let blocks = shape[0] * shape[1] / packing.block_len();
        let count = if packing.block_scales() == 0 { shape[0] } else { blocks * packing.block_scales() };
        let (mut words, mut scales) = (Vec::with_capacity(blocks * packing.block_words()), Vec::with_capacity(count));
        for key in keys {
            let rows = self.shape(key).and_then(|shape| shape.first()).copied().unwrap_or(0);
            if packing.block_scales() == 0 {
                match self.row_scales(key)? {
                    Some(of_rows) => scales.extend(of_rows),
                    None => scales.extend(std::iter::repeat_n(self.raw(key)?.scale, rows)),
                }
            }
            let size = 4 * packing.block_words() + 2 * packing.block_scales();
            self.each_piece(key, size, &mut |bytes| {
                take_apart(packing, bytes, &mut words, &mut scales);
                Ok(())
            })?;
        }
        if (words.len(), scales.len()) != (blocks * packing.block_words(), count) {
            return Err(self.misfit(format!("{} is not all there", keys[0]), "get the file again"));
        }
        Ok(PackedMatrix::new(packing, shape, words, scales, device))
    }
}

#[cfg(test)]
mod tests {
    use super::{blocks, packing_of_blocks, take_apart};
    use crate::store::{
        float8::Float8,
        gguf::{GgmlType, dequantize},
    };
    use ace_nn::weight::{PackedMatrix, Packing};
    use burn::{prelude::*, tensor::FloatDType};
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    const SHAPE: [usize; 2] = [7, 768];

    fn bits(matrix: &PackedMatrix) -> Vec<u32> {
        let values = matrix.widen(FloatDType::F32).into_data().try_into_vec::<f32>().expect("f32");
        values.into_iter().map(f32::to_bits).collect()
    }

    #[test]
    fn packed_blocks_are_the_numbers_that_the_file_means_bit_for_bit() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let elements = SHAPE[0] * SHAPE[1];
        for kind in GgmlType::ALL {
            let Some(packing) = packing_of_blocks(kind) else { continue };
            let mut bytes = vec![0; kind.bytes(elements).expect("whole blocks")];
            rng.fill_bytes(&mut bytes);
            // Any bits are codes, but not every f16 is a number.
            let ends = packing.block_scales() * 2;
            for block in bytes.chunks_exact_mut(kind.block_bytes()) {
                let from = if super::has_floats_last(packing) { kind.block_bytes() - ends } else { 0 };
                for float in block[from..from + ends].as_chunks_mut::<2>().0 {
                    *float = half::f16::from_f32(f32::from(i16::from_le_bytes(*float)) / 3e5).to_le_bytes();
                }
            }
            let expected: Vec<u32> =
                dequantize(kind, &bytes, elements).expect("as long").into_iter().map(f32::to_bits).collect();
            let (mut words, mut scales) = (Vec::new(), Vec::new());
            take_apart(packing, &bytes, &mut words, &mut scales);
            let matrix = PackedMatrix::new(packing, SHAPE, words, scales, &Device::default());
            assert_eq!(matrix.bytes(), bytes.len(), "{kind}: not a byte more than the file has");
            assert_eq!(matrix.bytes(), packing.bytes(elements));
            assert!(bits(&matrix) == expected, "{kind}");
        }
    }

    #[test]
    fn written_blocks_are_read_as_what_was_packed() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let values: Vec<f32> = (0..SHAPE[0] * SHAPE[1]).map(|_| (rng.next_u32() as f32 / 4e9 - 0.5).powi(3)).collect();
        for kind in GgmlType::ALL {
            let Some(bytes) = blocks(kind, &values) else { continue };
            let packing = packing_of_blocks(kind).expect("written");
            let matrix = PackedMatrix::pack(packing, SHAPE, &values, &Device::default());
            let read = dequantize(kind, &bytes, values.len()).expect("as long");
            assert!(read.iter().map(|value| value.to_bits()).eq(bits(&matrix)), "{kind}");
            let error = |read: &[f32]| read.iter().zip(&values).map(|(a, b)| (a - b).powi(2)).sum::<f32>().sqrt();
            assert!(error(&read) < 0.15 * error(&vec![0.0; values.len()]), "{kind}");
        }
        assert_eq!(blocks(GgmlType::Q4K, &values[..32]), None);
        assert_eq!(blocks(GgmlType::Q2K, &values), None);
    }

    #[test]
    fn packed_floats_of_eight_bits_are_rounded_as_torch_rounds() {
        let largest = 448.0;
        let mut rng = ChaCha8Rng::seed_from_u64(5);
        // Of every size; the first makes the scale one.
        let mut values: Vec<f32> = (0..4096).map(|_| f32::from_bits(rng.next_u32())).collect();
        values
            .iter_mut()
            .for_each(|value| *value = if value.abs() < largest { *value } else { 0.017 * value.signum() });
        values[0] = largest;
        let (words, scales) = Packing::E4M3.pack(&values, values.len());
        assert_eq!(scales, [1.0]);
        let ours: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(ours, Float8::E4M3.encode(&values));
    }

    #[test]
    fn floats_of_eight_bits_are_those_of_torch() {
        for (packing, format) in [(Packing::E4M3, Float8::E4M3), (Packing::E5M2, Float8::E5M2)] {
            let codes: Vec<u8> = (0..=255).collect();
            let words = codes.as_chunks().0.iter().map(|word| i32::from_le_bytes(*word)).collect();
            let matrix = PackedMatrix::new(packing, [2, 128], words, vec![1.0, 0.25], &Device::default());
            let ours = matrix.widen(FloatDType::F32).into_data().try_into_vec::<f32>().expect("f32");
            for (code, (ours, theirs)) in ours.into_iter().zip(format.table()).enumerate() {
                let theirs = theirs * if code < 128 { 1.0 } else { 0.25 };
                let same = ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan();
                assert!(same, "{packing:?} {code:#04x}: {ours} is not {theirs}");
            }
        }
    }
}
