//! Under which names a card's files are found, and where they are published.

use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Names under which a file or folder may be found, relative to the weights folder; the first that exists is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
