//! What stands between a user and a first picture: everything that a card needs, found, whole, and of the right kind.
//! Headers are read, and whole files where a digest is known; no weight is loaded.

use super::{Component, Model};
use crate::{
    Card, Error, Result,
    tokenizer::{ClipTokenizer, T5Tokenizer},
};
use ace_weights::{Network, Sizes, Source, adapter, digest, hub::HubFile};
use burn::tensor::Device;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What was found of one part of a card.
#[derive(Debug)]
pub struct Finding {
    /// The component.
    pub component: Component,
    /// Where it is, if it is anywhere.
    pub path: Option<Source>,
    /// Its size, bytes.
    pub bytes: u64,
    /// What is wrong with it.
    pub problem: Option<Problem>,
}

/// What can be wrong with a part.
#[derive(Debug)]
pub enum Problem {
    /// It is neither in the folder nor in the cache.
    Missing,
    /// It cannot be read: cut short, changed, or no such file at all.
    Broken(Error),
    /// It is another network, or one of another size, or for another one.
    Foreign(String),
    /// It is not the file that was published.
    Digest {
        /// Which file.
        file: PathBuf,
        /// The SHA-256 that was published.
        expected: String,
        /// The SHA-256 that it has.
        found: String,
    },
}

impl Problem {
    /// One line.
    pub fn message(&self) -> String {
        match self {
            Self::Missing => "missing".to_owned(),
            Self::Broken(error) => error.to_string(),
            Self::Foreign(reason) => reason.clone(),
            Self::Digest { file, expected, found } => {
                format!("{}: the SHA-256 is {found}, published is {expected}", file.display())
            }
        }
    }
}

/// Told which file is being read, how many of its bytes were, and how many there are.
pub type Reading<'a> = &'a mut dyn FnMut(&Path, u64, u64);

/// Looks at everything that a card needs. With `reading`, files whose digest is known are read.
///
/// # Errors
/// If the cache cannot be read; what is wrong with the files is in the findings.
pub fn checkup(model: &Model, device: &Device, mut reading: Option<Reading<'_>>) -> Result<Vec<Finding>> {
    let card = model.card();
    let mut findings = Vec::new();
    for component in card.components() {
        let Some(source) = model.find_component(component)? else {
            findings.push(Finding { component, path: None, bytes: 0, problem: Some(Problem::Missing) });
            continue;
        };
        let mut problem = examine(card, component, &source, device);
        if let (None, Some(reading), Source::File(path)) = (&problem, &mut reading, &source) {
            problem = compare(card, component, path, reading)?;
        }
        findings.push(Finding { component, bytes: size(&source), path: Some(source), problem });
    }
    Ok(findings)
}

/// What is wrong with a part, from its headers.
fn examine(card: &Card, component: Component, source: &Source, device: &Device) -> Option<Problem> {
    let network = match component {
        Component::Flux => Network::Flux,
        Component::AutoEncoder => Network::AutoEncoder,
        Component::T5 => Network::T5,
        Component::Clip => Network::Clip,
        Component::T5Tokenizer => return broken(T5Tokenizer::read(source, &card.text.placeholders)),
        Component::ClipTokenizer => return broken(ClipTokenizer::read(source)),
        Component::Vision | Component::Redux => {
            let (vision, redux) = card.prompter()?;
            let file = match source.open() {
                Ok(file) => file,
                Err(error) => return Some(Problem::Broken(error.into())),
            };
            let fits = match component {
                Component::Vision => file.check_vit(&vision, device),
                _ => file.check_redux(&redux, device),
            };
            return fits.err().map(|error| Problem::Foreign(error.to_string()));
        }
        Component::Adapter(_) => {
            let fits = |file| adapter::check(&mut card.flux.init(device), &file);
            return match source.open() {
                Ok(file) => fits(file).err().map(|error| Problem::Foreign(error.to_string())),
                Err(error) => Some(Problem::Broken(error.into())),
            };
        }
    };
    let file = match source.open() {
        Ok(file) => file,
        Err(error) => return Some(Problem::Broken(error.into())),
    };
    let found = match file.find(network) {
        Ok(found) => found,
        Err(error) => return Some(Problem::Foreign(error.to_string())),
    };
    match Sizes::of(&file, &found) {
        Ok(sizes) if sizes.completed(&card.sizes(network)).is_none() => {
            let is_variant = |sizes: &Sizes| match sizes {
                Sizes::Flux(config) if config.in_channels != card.flux_in_file().in_channels => {
                    let features = card.flux_in_file().in_channels;
                    format!("it takes {} input features, the card's {features}", config.in_channels)
                }
                _ => "its sizes are not the card's".to_owned(),
            };
            return Some(Problem::Foreign(format!("{}: {}", source.path().display(), is_variant(&sizes))));
        }
        Ok(_) => {}
        Err(error) => return Some(Problem::Broken(error.into())),
    }
    card.sizes(network).check(&file, &found, device).err().map(|error| Problem::Broken(error.into()))
}

fn broken<T>(read: Result<T>) -> Option<Problem> {
    read.err().map(Problem::Broken)
}

/// Reads the files of a part whose digests are known.
fn compare(card: &Card, component: Component, path: &Path, reading: Reading<'_>) -> Result<Option<Problem>> {
    for source in card.hub_files(component) {
        let Some(file) = file_of(path, &source, card.paths(component).iter()) else { continue };
        let blob = fs::canonicalize(&file).map_err(Error::io(&file))?;
        // A large file of the cache is called as its digest is.
        let named = blob.file_name().and_then(|name| name.to_str()).filter(|name| digest::is_sha256(name));
        let Some(expected) = source.sha256.as_deref().or(named).map(str::to_ascii_lowercase) else { continue };
        let total = fs::metadata(&blob).map_err(Error::io(&blob))?.len();
        let found = digest::sha256(&blob, &mut |done| reading(&file, done, total))?;
        if found != expected {
            return Ok(Some(Problem::Digest { file, expected, found }));
        }
    }
    Ok(None)
}

/// The file of a published part that was found at `path`; `None` if something else was found.
fn file_of<'a>(path: &Path, source: &HubFile, mut places: impl Iterator<Item = &'a Path>) -> Option<PathBuf> {
    let place = places.find(|place| Path::new(&source.file).starts_with(place) && path.ends_with(place))?;
    let rest = Path::new(&source.file).strip_prefix(place).ok()?;
    let file = if rest.as_os_str().is_empty() { path.to_owned() } else { path.join(rest) };
    file.exists().then_some(file)
}

/// Bytes of a file, or of the files of a folder.
fn size(source: &Source) -> u64 {
    let path = match source {
        Source::File(path) => path,
        Source::Bytes { bytes, .. } => return bytes.len() as u64,
        Source::Folder { files, .. } => return files.values().map(|bytes| bytes.len() as u64).sum(),
    };
    let Ok(found) = fs::metadata(path) else { return 0 };
    if found.is_file() {
        return found.len();
    }
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| fs::metadata(entry.path()).ok())
        .filter(fs::Metadata::is_file)
        .map(|file| file.len())
        .sum()
}
