//! Weights that are used where they lie in their file: nothing is copied, and what the system keeps of the file is not held twice.

use super::{Bytes, WeightFile};
use ace_kernels::counted::Borrowed;
use burn::tensor::{AllocationProperty, DType};
use std::borrow::Cow;
#[cfg(unix)]
use std::{ops::Range, sync::Arc};

/// Bytes that a tensor uses, counted as held.
struct Lent<T> {
    bytes: T,
    _counted: Borrowed,
}

impl<T: AsRef<[u8]> + Send + 'static> Lent<T> {
    fn of(bytes: T) -> bytes::Bytes {
        let _counted = Borrowed::new(bytes.as_ref().len());
        bytes::Bytes::from_owner(Self { bytes, _counted })
    }
}

impl<T: AsRef<[u8]>> AsRef<[u8]> for Lent<T> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

/// A part of a map.
#[cfg(unix)]
struct Mapped {
    map: Arc<memmap2::Mmap>,
    range: Range<usize>,
}

#[cfg(unix)]
impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.map[self.range.clone()]
    }
}

impl WeightFile {
    /// A tensor's numbers where they lie, if they are as a tensor in `dtype` (or in their own) has them. Whoever writes to the
    /// tensor gets a copy first.
    pub(crate) fn lent(&self, key: &str, dtype: Option<DType>) -> Option<(burn::tensor::Bytes, DType)> {
        let entry = self.tensors.get(key).filter(|entry| entry.scale.is_none())?;
        let own = entry.stored.dtype().filter(|_| entry.stored.is_float() && !entry.stored.is_quantized())?;
        let bytes = self.bytes(entry);
        let is_aligned = bytes.as_ptr().addr().is_multiple_of(own.size());
        if dtype.is_some_and(|dtype| dtype != own) || !is_aligned || bytes.is_empty() {
            return None;
        }
        let bytes = match &self.parts[entry.part].bytes {
            // Elsewhere a file that is mapped cannot be replaced.
            #[cfg(unix)]
            Bytes::Mapped(map, _) => {
                let range = entry.range.clone();
                // Page by page costs more than all at once; a system that does not know this advice does it page by page.
                #[cfg(target_os = "linux")]
                drop(map.advise_range(memmap2::Advice::PopulateRead, range.start, range.len()));
                Lent::of(Mapped { map: map.clone(), range })
            }
            Bytes::Held(Cow::Borrowed(all)) => Lent::of(&all[entry.range.clone()]),
            _ => return None,
        };
        Some((burn::tensor::Bytes::from_shared(bytes, AllocationProperty::File), own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::{prelude::*, tensor::FloatDType};
    use std::fs;

    #[test]
    fn a_tensor_uses_its_file_and_never_changes_it() {
        let path = std::env::temp_dir().join(format!("ace-lent-{}.safetensors", std::process::id()));
        let numbers: Vec<f32> = (0..6).map(|number| number as f32).collect();
        let file_with = |header: String| {
            let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
            bytes.extend(header.bytes());
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            bytes
        };
        let header = r#"{"x":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}"#;
        let bytes = file_with(format!("{header:<64}"));
        fs::write(&path, &bytes).unwrap();

        let file = WeightFile::open(&path).unwrap();
        let (lent, dtype) = file.lent("x", None).expect("floats at a multiple of their size");
        assert_eq!(dtype, DType::F32);
        // In another precision, and under a name that is not there, nothing is lent.
        assert!(file.lent("x", Some(DType::BF16)).is_none() && file.lent("y", None).is_none());
        drop(file);
        let data = TensorData::from_bytes(lent, [2, 3], dtype);
        let tensor = Tensor::<2>::from_data(data, (&Device::default(), FloatDType::F32.into()));
        let changed = tensor.clone() * 2.0 + 1.0;
        assert_eq!(changed.into_data().try_into_vec_as::<f32>().unwrap(), [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]);
        assert_eq!((tensor * -1.0).into_data().try_into_vec_as::<f32>().unwrap()[5], -5.0);
        assert_eq!(fs::read(&path).unwrap(), bytes);

        // Numbers between multiples of their size are copied instead.
        fs::write(&path, file_with(format!("{header:<65}"))).unwrap();
        let file = WeightFile::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(file.lent("x", None).is_none());
        assert_eq!(file.floats("x").unwrap(), numbers);
    }
}
