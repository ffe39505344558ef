//! `[data]`: what to learn from.

use crate::data::OnBadExample;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to learn from: the procedural world, or examples on disk.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Side of the world's pictures in pixels.
    #[serde(default)]
    pub world: Option<u32>,
    /// Tasks of the world; all of them if empty.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// Examples on disk, relative to the recipe: JSON lines, a folder of pictures with captions, a folder of pairs, or an
    /// ACE++ list (see [`data::files`](crate::data::files)).
    #[serde(default)]
    pub manifest: Option<PathBuf>,
    /// How many distinct examples are drawn from; all of a manifest if absent. Every one that is drawn is encoded once and
    /// kept. On the world without a pool, no example is drawn twice, and none is kept.
    #[serde(default)]
    pub pool: Option<u64>,
    /// Folder in which encoded examples are kept for the next run, relative to the recipe; `cache` in the run's own folder
    /// if absent. Several runs may share one.
    #[serde(default)]
    pub cache: Option<PathBuf>,
    /// What happens to an example that cannot be used: `stop`, or `skip`.
    #[serde(default)]
    pub on_bad_example: OnBadExample,
    /// Examples of any sizes stand behind each other on sequences of at most so many tokens, text and pictures together,
    /// without padding; each sees itself alone. If absent, only examples of one size are computed together. A longer example
    /// has a sequence for itself, so memory is that of the longest or of this, whatever the order.
    #[serde(default)]
    pub pack_tokens: Option<usize>,
}

impl DataRecipe {
    /// The part of it that decides what is learned: where encoded examples are kept does not, nor does what would happen to
    /// bad ones.
    pub(in crate::learn) fn deciding(&self) -> Self {
        Self { cache: None, on_bad_example: OnBadExample::default(), ..self.clone() }
    }
}
