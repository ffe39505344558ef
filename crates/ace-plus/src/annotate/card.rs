//! Cards of annotators that are networks: `models/annotators/<name>.toml`.

use super::Annotator;
use crate::{
    Error, Result,
    card::{Paths, Repository},
};
use ace_weights::hub::{Hub, HubFile, Progress};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Everything about an annotator that is not code.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnnotatorCard {
    /// The annotator's name.
    pub name: String,
    /// What it draws with, one line.
    pub description: String,
    /// Under which licence its weights are.
    pub licence: String,
    /// Under which names its weights are looked for.
    pub file: Paths,
    /// Where a person gets them.
    pub source: String,
    /// Where a program gets them.
    #[serde(default)]
    pub repository: Vec<Repository>,
}

impl AnnotatorCard {
    /// The card of an annotator, if it is a network.
    pub fn of(annotator: Annotator) -> Option<Self> {
        let text = match annotator {
            Annotator::Contour => include_str!("../../cards/annotator-contour.toml"),
            Annotator::Depth => include_str!("../../cards/annotator-depth.toml"),
            _ => return None,
        };
        Some(toml::from_str(text).expect("a card that is built in is sound, a test reads it"))
    }

    /// The files on the Hub that are its weights; none if it is published elsewhere.
    pub fn hub_files(&self) -> impl Iterator<Item = HubFile> {
        self.repository.iter().flat_map(|repository| {
            repository.files.iter().map(|file| HubFile {
                repo: repository.repo.clone(),
                file: file.clone(),
                revision: repository.revision.clone(),
                sha256: repository.sha256.get(file).cloned(),
                size: None,
                licence_url: repository.licence_url.clone(),
            })
        })
    }

    /// Where its weights are: in one of these folders, or in the cache of the Hub.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn find(&self, folders: &[PathBuf], hub: Option<&Hub>) -> Result<Option<PathBuf>> {
        let places = folders.iter().flat_map(|folder| self.file.iter().map(move |name| folder.join(name)));
        if let Some(found) = places.into_iter().find(|place| place.is_file()) {
            return Ok(Some(found));
        }
        let Some(hub) = hub else { return Ok(None) };
        for file in self.hub_files() {
            if let Some(found) = hub.cached(&file)? {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Gets its weights into the cache of the Hub.
    ///
    /// # Errors
    /// If they are published elsewhere, or cannot be fetched.
    pub fn fetch(&self, hub: &Hub, progress: &mut dyn FnMut(&HubFile, Progress)) -> Result<PathBuf> {
        let Some(file) = self.hub_files().next() else {
            let what = format!("the weights of annotator {} are not on the Hugging Face Hub", self.name);
            return Err(Error::not_found(what, self.advice()));
        };
        Ok(hub.fetch(&file, &mut |step| progress(&file, step))?)
    }

    /// What is said where its weights are missing.
    pub fn missing(&self) -> Error {
        let what = format!("annotator {} is a network, and its weights are not here", self.name);
        Error::not_found(what, self.advice())
    }

    /// Where a person gets its weights.
    pub fn advice(&self) -> String {
        format!("get {} ({}) and name the file, or give a map of your own", self.source, self.licence)
    }
}

/// Whether there is a file of that name; messages of readers name it.
pub(super) fn check_there(path: &Path) -> Result<()> {
    std::fs::metadata(path).map(drop).map_err(Error::io(path))
}
