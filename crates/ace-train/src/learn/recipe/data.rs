//! `[data]`: what to learn from.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What to learn from: the procedural world or a manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Side of the world's pictures in pixels.
    #[serde(default)]
    pub world: Option<u32>,
    /// Tasks of the world; all of them if empty.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// JSON-lines manifest, relative to the recipe.
    #[serde(default)]
    pub manifest: Option<PathBuf>,
    /// How many distinct examples are drawn from; all of a manifest if absent. Every one that is drawn is encoded once and
    /// kept in memory. On the world without a pool, no example is drawn twice, and none is kept.
    #[serde(default)]
    pub pool: Option<u64>,
}
