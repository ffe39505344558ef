//! Embeddings of instructions on disk, so that T5 is not read twice for the same words.
//!
//! ```text
//! FOLDER/<key>.safetensors    T5's sequence and CLIP's summary of one instruction
//! ```
//!
//! A key is a digest of everything that the numbers depend on: the instruction's tokens, the files of both encoders, their
//! sizes, and how they are held. So nothing is ever out of date, and the folder may be shared between models or removed. Files
//! are written whole or not at all. One that cannot be read, is cut, or is another's is as good as none: the words are encoded
//! again.

use crate::text::{TextConditioning, TokenIds};
use ace_weights::{WeightFile, digest, replace};
use burn::prelude::*;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Form of the files; another one is never read.
const FORM: &str = "ace-words-1";
const SEQUENCE: &str = "prompt_embeds";
const SUMMARY: &str = "pooled_prompt_embeds";

/// A folder of embedded instructions, for one pair of encoders.
#[derive(Debug, Clone)]
pub struct TextCache {
    folder: PathBuf,
    encoders: String,
}

impl TextCache {
    /// A folder that need not be there yet; `encoders` tells the encoders, and how they are held, from all others.
    pub fn new(folder: impl Into<PathBuf>, encoders: impl Into<String>) -> Self {
        Self { folder: folder.into(), encoders: encoders.into() }
    }

    fn key(&self, ids: &TokenIds) -> String {
        let TokenIds { t5, clip, clip_end } = ids;
        digest::of_bytes(format!("{FORM} {} {t5:?} {clip:?} {clip_end}", self.encoders).as_bytes())
    }

    fn place(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.safetensors"))
    }

    /// The embeddings of an instruction, if they are there; `widths` are those of sequence and summary.
    pub fn find(&self, ids: &TokenIds, widths: [usize; 2], device: &Device) -> Option<TextConditioning> {
        let key = self.key(ids);
        let file = WeightFile::open(&self.place(&key)).ok()?;
        let metadata = file.metadata().ok()?;
        let says = |field: &str, value: &str| metadata.get(field).is_some_and(|found| found == value);
        let [sequence, summary] = widths;
        let is_ours = says("form", FORM)
            && says("key", &key)
            && file.shape(SEQUENCE) == Some(&[1, ids.t5.len(), sequence])
            && file.shape(SUMMARY) == Some(&[1, summary]);
        if !is_ours {
            return None;
        }
        Some(TextConditioning {
            prompt_embeds: file.tensor(SEQUENCE, None, device).ok()?,
            pooled_prompt_embeds: file.tensor(SUMMARY, None, device).ok()?,
        })
    }

    /// Keeps the embeddings of an instruction. A folder that cannot be written costs time the next time, and nothing else.
    pub fn keep(&self, ids: &TokenIds, text: &TextConditioning) {
        let key = self.key(ids);
        let tensors = BTreeMap::from([
            (SEQUENCE.to_owned(), text.prompt_embeds.clone().into_data()),
            (SUMMARY.to_owned(), text.pooled_prompt_embeds.clone().into_data()),
        ]);
        drop(write(&self.place(&key), &tensors, &key));
    }
}

fn write(path: &Path, tensors: &BTreeMap<String, TensorData>, key: &str) -> ace_weights::Result<()> {
    replace::make_parent(path)?;
    ace_weights::write(path, tensors, &[("form", FORM), ("key", key)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::{DType, Distribution};
    use std::fs;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("ace-words-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            // A folder that was never made, or a file in its place, is no matter.
            drop(fs::remove_dir_all(&self.0));
            drop(fs::remove_file(&self.0));
        }
    }

    const WIDTHS: [usize; 2] = [8, 6];

    fn ids(word: i64) -> TokenIds {
        TokenIds { t5: vec![word, 1, 0], clip: vec![7, word, 9], clip_end: 2 }
    }

    fn text(dtype: DType) -> TextConditioning {
        let device = Device::default();
        TextConditioning {
            prompt_embeds: Tensor::<3>::random([1, 3, WIDTHS[0]], Distribution::Default, &device).cast(dtype),
            pooled_prompt_embeds: Tensor::<2>::random([1, WIDTHS[1]], Distribution::Default, &device).cast(dtype),
        }
    }

    #[test]
    fn what_is_kept_comes_back_bit_by_bit() {
        let folder = Folder::new("bits");
        let device = Device::default();
        for dtype in [DType::F32, DType::BF16] {
            let cache = TextCache::new(&folder.0, format!("{dtype:?}"));
            assert!(cache.find(&ids(5), WIDTHS, &device).is_none());
            let kept = text(dtype);
            cache.keep(&ids(5), &kept);
            let found = cache.find(&ids(5), WIDTHS, &device).expect("it was kept");
            assert_eq!(found.prompt_embeds.dtype(), dtype);
            assert_eq!(found.prompt_embeds.into_data(), kept.prompt_embeds.into_data());
            assert_eq!(found.pooled_prompt_embeds.into_data(), kept.pooled_prompt_embeds.into_data());
            // Other words, other encoders, other sizes.
            assert!(cache.find(&ids(6), WIDTHS, &device).is_none());
            assert!(TextCache::new(&folder.0, "others").find(&ids(5), WIDTHS, &device).is_none());
            assert!(cache.find(&ids(5), [WIDTHS[0], 5], &device).is_none());
        }
    }

    #[test]
    fn a_cut_or_foreign_file_is_a_miss() {
        let folder = Folder::new("miss");
        let (cache, device) = (TextCache::new(&folder.0, "a"), Device::default());
        for word in [5, 6, 7] {
            cache.keep(&ids(word), &text(DType::F32));
        }
        let [five, six, seven] = [5, 6, 7].map(|word| cache.place(&cache.key(&ids(word))));
        let bytes = fs::read(&five).unwrap();
        fs::write(&five, &bytes[..bytes.len() - 3]).unwrap();
        fs::copy(&seven, &six).unwrap();
        fs::write(&seven, b"no weights").unwrap();
        for word in [5, 6, 7] {
            assert!(cache.find(&ids(word), WIDTHS, &device).is_none(), "{word}");
        }
        cache.keep(&ids(5), &text(DType::F32));
        assert!(cache.find(&ids(5), WIDTHS, &device).is_some());
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_no_error() {
        let folder = Folder::new("full");
        fs::write(&folder.0, b"a file in its place").unwrap();
        let cache = TextCache::new(&folder.0, "a");
        cache.keep(&ids(5), &text(DType::F32));
        assert!(cache.find(&ids(5), WIDTHS, &Device::default()).is_none());
    }
}
