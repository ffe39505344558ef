//! Encoded examples on disk, so that a second run starts at once.
//!
//! ```text
//! CACHE/pictures/<key>.safetensors    latents, conditions, positions of one example
//!       words/<key>.safetensors       T5's sequence and CLIP's summary of one instruction
//! ```
//!
//! A key is a digest of everything that the numbers depend on: pixels, mask and repainting scale, or the instruction's
//! tokens; the weights of the networks that encode; how the card lays out canvases and units. So nothing is ever out of
//! date: whatever changes has another key, and the folder may be shared between runs, or removed. Files are written whole or
//! not at all. One that cannot be read is named and made again.

use super::{
    encode::{EncodedPictures, Geometry, WordEmbeddings},
    example::Example,
    notices::Notices,
};
use ace_plus::text::TokenIds;
use ace_weights::{WeightFile, digest, replace};
use burn::tensor::{DType, TensorData};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
};

/// Form of the files; another one is never read.
const FORM: &str = "ace-encoded-1";

/// Digests of what encodes: weights, sizes and preparation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Digests {
    /// Of the autoencoder and of how pictures become units.
    pub pictures: String,
    /// Of both text encoders; `None` if they learn, and nothing of theirs can be kept.
    pub words: Option<String>,
}

/// A folder of encoded examples.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    digests: Digests,
    notices: Notices,
    /// Whether writing has failed once: a full disk is said once, and the run goes on without.
    full: AtomicBool,
}

impl Cache {
    /// A folder that need not be there yet.
    pub fn new(folder: impl Into<PathBuf>, digests: Digests, notices: Notices) -> Self {
        Self { folder: folder.into(), digests, notices, full: AtomicBool::new(false) }
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Whether what is encoded is still kept: no longer once the folder could not be written.
    pub fn is_writable(&self) -> bool {
        !self.full.load(Ordering::Relaxed)
    }

    /// The key of an example's pictures.
    pub fn key(&self, example: &Example) -> String {
        let mut parts = format!("{FORM} {} {}", self.digests.pictures, example.repainting_scale);
        let mut add = |what: &str, size: (u32, u32), pixels: &[u8]| {
            parts += &format!(" {what} {}x{} {}", size.0, size.1, digest::of_bytes(pixels));
        };
        add("target", example.target.dimensions(), example.target.as_raw());
        if let Some(image) = &example.image {
            add("image", image.dimensions(), image.as_raw());
        }
        if let Some(mask) = &example.mask {
            add("mask", mask.dimensions(), mask.as_raw());
        }
        for reference in &example.references {
            add("reference", reference.dimensions(), reference.as_raw());
        }
        digest::of_bytes(parts.as_bytes())
    }

    /// The key of an instruction; `None` if its embeddings cannot be kept.
    fn words_key(&self, ids: &TokenIds) -> Option<String> {
        let words = self.digests.words.as_ref()?;
        let parts = format!("{FORM} {words} {:?} {:?} {}", ids.t5, ids.clip, ids.clip_end);
        Some(digest::of_bytes(parts.as_bytes()))
    }

    fn place(&self, kind: &str, key: &str) -> PathBuf {
        self.folder.join(kind).join(format!("{key}.safetensors"))
    }

    /// Encoded pictures, if they are there.
    pub fn pictures(&self, key: &str) -> Option<EncodedPictures> {
        self.read("pictures", key, |file| {
            let is_reference: Vec<bool> = values(file, "is_reference")?.iter().map(|flag| *flag == 1.0).collect();
            let grids = values(file, "grids")?;
            let ids = values(file, "ids")?;
            let optional = |name: &str| if file.has(name) { values(file, name).map(Some) } else { Some(None) };
            let pictures = EncodedPictures {
                latents: values(file, "latents")?,
                beside: optional("beside")?,
                behind: optional("behind")?,
                geometry: Geometry {
                    ids: ids.as_chunks::<3>().0.to_vec(),
                    grids: grids.as_chunks::<2>().0.iter().map(|grid| grid.map(|side| side as usize)).collect(),
                    is_reference,
                },
            };
            pictures.is_consistent().then_some(pictures)
        })
    }

    /// Keeps encoded pictures.
    pub fn keep_pictures(&self, key: &str, pictures: &EncodedPictures) {
        let EncodedPictures { latents, beside, behind, geometry } = pictures;
        let Geometry { ids, grids, is_reference } = geometry;
        let (len, all) = (geometry.len(), ids.len());
        let rows = |values: &Vec<f32>, rows: usize| TensorData::new(values.clone(), [rows, values.len() / rows.max(1)]);
        let flags: Vec<f32> = is_reference.iter().map(|is| f32::from(u8::from(*is))).collect();
        // Sides are far below 2^24, so they are exact as f32.
        let sides: Vec<f32> = grids.iter().flatten().map(|side| *side as f32).collect();
        let mut tensors = BTreeMap::from([
            ("latents".to_owned(), rows(latents, len)),
            ("ids".to_owned(), TensorData::new(ids.as_flattened().to_vec(), [all, 3])),
            ("grids".to_owned(), TensorData::new(sides, [grids.len(), 2])),
            ("is_reference".to_owned(), TensorData::new(flags, [len])),
        ]);
        tensors.extend(beside.as_ref().map(|beside| ("beside".to_owned(), rows(beside, len))));
        tensors.extend(behind.as_ref().map(|behind| ("behind".to_owned(), rows(behind, all - len))));
        self.write("pictures", key, &tensors);
    }

    /// Embeddings of an instruction, if they are there.
    pub fn words(&self, ids: &TokenIds) -> Option<WordEmbeddings> {
        self.read("words", &self.words_key(ids)?, |file| {
            let words = WordEmbeddings { sequence: values(file, "sequence")?, pooled: values(file, "pooled")? };
            let is_whole = !words.pooled.is_empty() && words.sequence.len().is_multiple_of(ids.t5.len().max(1));
            is_whole.then_some(words)
        })
    }

    /// Keeps embeddings of an instruction.
    pub fn keep_words(&self, ids: &TokenIds, words: &WordEmbeddings) {
        let Some(key) = self.words_key(ids) else { return };
        let (sequence, pooled) = (&words.sequence, &words.pooled);
        let len = ids.t5.len();
        let tensors = BTreeMap::from([
            ("sequence".to_owned(), narrowed(sequence, [len, sequence.len() / len.max(1)])),
            ("pooled".to_owned(), narrowed(pooled, [1, pooled.len()])),
        ]);
        self.write("words", &key, &tensors);
    }

    fn read<T>(&self, kind: &str, key: &str, read: impl FnOnce(&WeightFile) -> Option<T>) -> Option<T> {
        let path = self.place(kind, key);
        if !path.exists() {
            return None;
        }
        let found = match WeightFile::open(&path) {
            Ok(file) => {
                let metadata = file.metadata().unwrap_or_default();
                let is_ours = metadata.get("form").is_some_and(|form| form == FORM)
                    && metadata.get("key").is_some_and(|found| found == key);
                let content = if is_ours { read(&file) } else { None };
                content.ok_or_else(|| format!("{}: it is not what its name says", path.display()))
            }
            Err(error) => Err(error.to_string()),
        };
        found.map_err(|reason| self.notices.note(format!("{reason}; it is encoded again"))).ok()
    }

    fn write(&self, kind: &str, key: &str, tensors: &BTreeMap<String, TensorData>) {
        if !self.is_writable() {
            return;
        }
        let path = self.place(kind, key);
        let written = replace::make_parent(&path)
            .and_then(|()| ace_weights::write(&path, tensors, &[("form", FORM), ("key", key)]));
        if let Err(error) = written
            && !self.full.swap(true, Ordering::Relaxed)
        {
            self.notices.note(format!("{error}; nothing more is kept there"));
        }
    }
}

/// A tensor's numbers; `None` if it is not there or cannot be read.
fn values(file: &WeightFile, name: &str) -> Option<Vec<f32>> {
    file.data(name).ok()?.try_into_vec_as::<f32>().ok()
}

/// In 16 bits if that loses nothing, as of an encoder that computes in bf16.
fn narrowed(values: &[f32], shape: [usize; 2]) -> TensorData {
    let data = TensorData::new(values.to_vec(), shape);
    let is_lossless = values.iter().all(|value| value.to_bits() & 0xffff == 0);
    if is_lossless { data.convert_dtype(DType::BF16) } else { data }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::notices::Notice;
    use image::{GrayImage, RgbImage};
    use std::fs;

    struct Folder(PathBuf);

    impl Drop for Folder {
        fn drop(&mut self) {
            drop(fs::remove_dir_all(&self.0));
        }
    }

    fn cache(name: &str) -> (Cache, Notices, Folder) {
        let folder = std::env::temp_dir().join(format!("ace-cache-{name}-{}", std::process::id()));
        let digests = Digests { pictures: "a".to_owned(), words: Some("b".to_owned()) };
        let notices = Notices::default();
        (Cache::new(&folder, digests, notices.clone()), notices, Folder(folder))
    }

    fn pictures(behind: bool) -> EncodedPictures {
        EncodedPictures {
            latents: vec![0.1, -2.0, 3.0, 1e-30],
            beside: Some(vec![1.0, 0.0]),
            behind: behind.then(|| vec![0.5, 0.25, 0.125]),
            geometry: Geometry {
                ids: vec![[0.0; 3]; if behind { 3 } else { 2 }],
                grids: vec![[2, 4]],
                is_reference: vec![true, false],
            },
        }
    }

    fn ids() -> TokenIds {
        TokenIds { t5: vec![5, 1], clip: vec![7, 8, 9], clip_end: 2 }
    }

    #[test]
    fn what_is_kept_comes_back_bit_by_bit() {
        let (cache, notices, _folder) = cache("bits");
        for behind in [false, true] {
            let key = format!("key-{behind}");
            assert_eq!(cache.pictures(&key), None);
            cache.keep_pictures(&key, &pictures(behind));
            assert_eq!(cache.pictures(&key), Some(pictures(behind)));
        }
        for sequence in [vec![0.1f32, 0.2, 0.3, 0.4], vec![1.0, -2.0, 0.5, 3.0]] {
            let words = WordEmbeddings { sequence, pooled: vec![0.7] };
            cache.keep_words(&ids(), &words);
            assert_eq!(cache.words(&ids()), Some(words));
        }
        assert_eq!(cache.words(&TokenIds { clip_end: 1, ..ids() }), None);
        assert!(notices.take().is_empty());
    }

    #[test]
    fn a_truncated_or_foreign_file_is_a_miss_that_is_said() {
        let (cache, notices, _folder) = cache("miss");
        cache.keep_pictures("one", &pictures(false));
        cache.keep_pictures("two", &pictures(false));
        let [one, two] = ["one", "two"].map(|key| cache.place("pictures", key));
        let bytes = fs::read(&one).unwrap();
        fs::write(&one, &bytes[..bytes.len() - 3]).unwrap();
        fs::copy(&two, cache.place("pictures", "three")).unwrap();
        fs::write(&two, b"no weights").unwrap();
        for key in ["one", "two", "three"] {
            assert_eq!(cache.pictures(key), None);
            let said = notices.take();
            assert!(
                matches!(&said[..], [Notice::Note(line)] if line.contains(key) && line.contains("again")),
                "{said:?}"
            );
        }
        cache.keep_pictures("one", &pictures(false));
        assert_eq!(cache.pictures("one"), Some(pictures(false)));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_said_once() {
        let (cache, notices, folder) = cache("full");
        fs::write(&folder.0, b"a file in its place").unwrap();
        cache.keep_pictures("one", &pictures(false));
        cache.keep_pictures("two", &pictures(false));
        assert_eq!(notices.take().len(), 1);
        fs::remove_file(&folder.0).unwrap();
    }

    #[test]
    fn every_input_is_in_the_key() {
        let (cache, _, _folder) = cache("key");
        let picture = |grey| RgbImage::from_pixel(4, 2, image::Rgb([grey; 3]));
        let plain = Example {
            task: "edit".to_owned(),
            instruction: "x".to_owned(),
            image: Some(picture(1)),
            mask: Some(GrayImage::from_pixel(4, 2, image::Luma([255]))),
            references: vec![picture(2), picture(3)],
            target: picture(4),
            repainting_scale: 1.0,
        };
        let changes: [fn(&mut Example); 7] = [
            |example| example.image = None,
            |example| example.mask = None,
            |example| example.references.reverse(),
            |example| example.references.truncate(1),
            |example| example.target.put_pixel(3, 1, image::Rgb([4, 4, 5])),
            |example| example.target = RgbImage::from_pixel(2, 4, image::Rgb([4; 3])),
            |example| example.repainting_scale = 0.5,
        ];
        let mut keys = vec![cache.key(&plain)];
        for change in changes {
            let mut changed = plain.clone();
            change(&mut changed);
            keys.push(cache.key(&changed));
        }
        let digests = Digests { pictures: "other".to_owned(), words: None };
        let other = Cache::new("elsewhere", digests, Notices::default());
        keys.push(other.key(&plain));
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[index + 1..].contains(key), "{index}");
        }
        // Words have a file of their own.
        let reworded = Example { instruction: "y".to_owned(), task: "other".to_owned(), ..plain.clone() };
        assert_eq!(cache.key(&reworded), keys[0]);
        assert_eq!(other.words_key(&ids()), None);
    }
}
