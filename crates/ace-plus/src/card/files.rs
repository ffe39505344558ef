//! Where everything lies that a card names: in a folder, or in the cache of the Hugging Face Hub.

use super::Card;
use crate::{
    Error, Result,
    fetch::{Hub, Progress, Source},
};
use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// Names under which a file or folder may be found, relative to the weights folder; the first that exists is taken.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "OneOrMany")]
pub struct Paths(Vec<PathBuf>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(PathBuf),
    Many(Vec<PathBuf>),
}

impl From<OneOrMany> for Paths {
    fn from(places: OneOrMany) -> Self {
        match places {
            OneOrMany::One(place) => Self(vec![place]),
            OneOrMany::Many(places) => Self(places),
        }
    }
}

impl<P: Into<PathBuf>> From<P> for Paths {
    fn from(place: P) -> Self {
        Self(vec![place.into()])
    }
}

impl Paths {
    /// The name under which it is published, and written.
    pub fn first(&self) -> &Path {
        self.0.first().map_or(Path::new(""), PathBuf::as_path)
    }

    /// All names, best first.
    pub fn iter(&self) -> impl Iterator<Item = &Path> {
        self.0.iter().map(PathBuf::as_path)
    }
}

/// Files of one repository on the Hub; their paths there are the names that a card has for them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Repository {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit; `main` unless said.
    #[serde(default)]
    pub revision: Option<String>,
    /// Where the licence can be read and accepted.
    #[serde(default)]
    pub licence_url: Option<String>,
    /// Paths inside the repository.
    pub files: Vec<String>,
    /// SHA-256 of those files whose publisher states it. Of others the Hub's own is asked.
    #[serde(default)]
    pub sha256: BTreeMap<String, String>,
}

/// A LoRA that belongs to a card.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    /// The file.
    pub file: Paths,
    /// 1 as it was trained.
    #[serde(default = "one")]
    pub weight: f64,
}

fn one() -> f64 {
    1.0
}

/// What a card needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The transformer.
    Flux,
    /// The autoencoder.
    AutoEncoder,
    /// The sequence encoder.
    T5,
    /// The pooled encoder.
    Clip,
    /// The sequence encoder's tokenizer.
    T5Tokenizer,
    /// The pooled encoder's tokenizer.
    ClipTokenizer,
    /// The card's LoRA of this number.
    Adapter(usize),
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flux => f.write_str("flux"),
            Self::AutoEncoder => f.write_str("autoencoder"),
            Self::T5 => f.write_str("t5"),
            Self::Clip => f.write_str("clip"),
            Self::T5Tokenizer => f.write_str("t5_tokenizer"),
            Self::ClipTokenizer => f.write_str("clip_tokenizer"),
            Self::Adapter(0) => f.write_str("adapter"),
            Self::Adapter(at) => write!(f, "adapter {}", at + 1),
        }
    }
}

/// Where everything of a card was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Files {
    /// The transformer.
    pub flux: PathBuf,
    /// The autoencoder.
    pub autoencoder: PathBuf,
    /// The sequence encoder.
    pub t5: PathBuf,
    /// The pooled encoder.
    pub clip: PathBuf,
    /// `tokenizer.json` of the sequence encoder.
    pub t5_tokenizer: PathBuf,
    /// Folder of the pooled encoder's tokenizer.
    pub clip_tokenizer: PathBuf,
    /// The card's LoRAs, each with its weight.
    pub adapters: Vec<(PathBuf, f64)>,
}

impl Files {
    /// Every part with its place.
    pub fn iter(&self) -> impl Iterator<Item = (Part, &Path)> {
        let networks = [
            (Part::Flux, &self.flux),
            (Part::AutoEncoder, &self.autoencoder),
            (Part::T5, &self.t5),
            (Part::Clip, &self.clip),
            (Part::T5Tokenizer, &self.t5_tokenizer),
            (Part::ClipTokenizer, &self.clip_tokenizer),
        ];
        let adapters = self.adapters.iter().enumerate().map(|(at, (path, _))| (Part::Adapter(at), path));
        networks.into_iter().chain(adapters).map(|(part, path)| (part, path.as_path()))
    }
}

impl Card {
    /// Everything that it needs.
    pub fn parts(&self) -> impl Iterator<Item = Part> + use<> {
        use Part::{Adapter, AutoEncoder, Clip, ClipTokenizer, Flux, T5, T5Tokenizer};
        let adapters = (0..self.adapter.len()).map(Adapter);
        [Flux, AutoEncoder, T5, Clip, T5Tokenizer, ClipTokenizer].into_iter().chain(adapters)
    }

    /// Names under which a part may be found.
    ///
    /// # Panics
    /// If the card has no adapter of that number.
    pub fn paths(&self, part: Part) -> &Paths {
        match part {
            Part::Flux => &self.weights.flux,
            Part::AutoEncoder => &self.weights.autoencoder,
            Part::T5 => &self.weights.t5,
            Part::Clip => &self.weights.clip,
            Part::T5Tokenizer => &self.text.t5_tokenizer,
            Part::ClipTokenizer => &self.text.clip_tokenizer,
            Part::Adapter(at) => &self.adapter[at].file,
        }
    }

    /// The files on the Hub of which a part consists; empty if it is not published there.
    pub fn sources(&self, part: Part) -> Vec<Source> {
        let mut places = self.paths(part).iter();
        places.find_map(|place| Some(self.published(place)).filter(|sources| !sources.is_empty())).unwrap_or_default()
    }

    /// The files on the Hub that are this file, or in this folder.
    fn published(&self, place: &Path) -> Vec<Source> {
        let files = self.repository.iter().flat_map(|repository| repository.files.iter().map(move |f| (repository, f)));
        files
            .filter(|(_, file)| Path::new(file).starts_with(place))
            .map(|(repository, file)| Source {
                repo: repository.repo.clone(),
                file: file.clone(),
                revision: repository.revision.clone(),
                sha256: repository.sha256.get(file).cloned(),
                size: None,
                licence_url: repository.licence_url.clone(),
            })
            .collect()
    }

    /// Where a part is: in the folder under any of its names, or else whole in the cache of `hub`.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn find_part(&self, part: Part, folder: &Path, hub: Option<&Hub>) -> Result<Option<PathBuf>> {
        let in_folder = self.paths(part).iter().map(|place| folder.join(place)).find(|path| path.exists());
        match (in_folder, hub) {
            (None, Some(hub)) => self.find_cached(part, hub),
            (found, _) => Ok(found),
        }
    }

    fn find_cached(&self, part: Part, hub: &Hub) -> Result<Option<PathBuf>> {
        for place in self.paths(part).iter() {
            let mut found = None;
            for source in self.published(place) {
                let Some(path) = hub.cached(&source)? else {
                    found = None;
                    break;
                };
                found = Some(folder_in(&path, place, &source));
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// Where everything is.
    ///
    /// # Errors
    /// If something is nowhere: all that is missing is named.
    pub fn locate(&self, folder: &Path, hub: Option<&Hub>) -> Result<Files> {
        let mut missing = Vec::new();
        let mut find = |part: Part| -> Result<PathBuf> {
            let found = self.find_part(part, folder, hub)?;
            if found.is_none() {
                missing.push(format!("{part} ({})", self.paths(part).first().display()));
            }
            Ok(found.unwrap_or_default())
        };
        let files = Files {
            flux: find(Part::Flux)?,
            autoencoder: find(Part::AutoEncoder)?,
            t5: find(Part::T5)?,
            clip: find(Part::Clip)?,
            t5_tokenizer: find(Part::T5Tokenizer)?,
            clip_tokenizer: find(Part::ClipTokenizer)?,
            adapters: (self.adapter.iter().enumerate())
                .map(|(at, adapter)| Ok((find(Part::Adapter(at))?, adapter.weight)))
                .collect::<Result<_>>()?,
        };
        if missing.is_empty() {
            return Ok(files);
        }
        let place = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
        let place = match (self.repository.is_empty(), place.is_dir()) {
            (true, _) => format!("in {}", place.display()),
            (false, true) => format!("in {} or the Hugging Face cache", place.display()),
            (false, false) => "in the Hugging Face cache".to_owned(),
        };
        Err(Error::input(
            format!("{} is not complete: {place} there is no {}", self.name, missing.join(", ")),
            match self.repository.is_empty() {
                true => "put the files there, or name their folder with --weights DIR".to_owned(),
                false => format!("ace fetch {} gets what is missing; or name a folder with --weights DIR", self.name),
            },
        ))
    }

    /// Fetches into the cache what is neither in the folder nor there.
    ///
    /// # Errors
    /// As [`Hub::fetch`], and if something is missing that is not published.
    pub fn fetch(&self, folder: &Path, hub: &Hub, progress: &mut dyn FnMut(&Source, Progress)) -> Result<Files> {
        for part in self.parts() {
            if self.find_part(part, folder, Some(hub))?.is_none() {
                for source in self.sources(part) {
                    hub.fetch(&source, &mut |event| progress(&source, event))?;
                }
            }
        }
        self.locate(folder, Some(hub))
    }
}

/// The path of `place` in a snapshot, given that of one of its files.
fn folder_in(path: &Path, place: &Path, source: &Source) -> PathBuf {
    let deeper = Path::new(&source.file).components().count() - place.components().count();
    path.ancestors().nth(deeper).unwrap_or(path).to_owned()
}
