//! JSON lines that name picture files, relative to the file's folder.
//!
//! ```json
//! {"target": "after.png", "image": "before.png", "mask": "where.png", "instruction": "remove the boat"}
//! ```
//!
//! Optional: `image`, `mask` (needs `image`), `references` (a list), `task` (default `edit`), `repainting_scale`
//! (default 1, in 0..1).

use super::Entry;
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// A line, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    target: PathBuf,
    image: Option<PathBuf>,
    mask: Option<PathBuf>,
    #[serde(default)]
    references: Vec<PathBuf>,
    instruction: String,
    task: Option<String>,
    repainting_scale: Option<f32>,
}

/// What a line says, with its paths joined to `folder`.
pub(super) fn parse(text: &str, folder: &Path) -> Result<Entry, String> {
    let line: Line = serde_json::from_str(text).map_err(|error| error.to_string())?;
    let place = |path: PathBuf| folder.join(path);
    Ok(Entry {
        target: place(line.target),
        image: line.image.map(place),
        mask: line.mask.map(place),
        references: line.references.into_iter().map(place).collect(),
        instruction: line.instruction,
        task: line.task,
        repainting_scale: line.repainting_scale,
        fits: false,
    })
}
