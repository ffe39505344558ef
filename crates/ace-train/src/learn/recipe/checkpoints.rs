//! `[checkpoints]`: which of them are kept.

use crate::error::RecipeProblem;
use serde::{Deserialize, Serialize};

/// Which checkpoints are kept. Older ones are removed when a new one is whole, never before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointRecipe {
    /// The last so many. With two, a run whose newest checkpoint was damaged goes on from the one before.
    pub keep: usize,
    /// Also the best one: that of the lowest validation loss or, without `[validation]`, of the lowest training loss on
    /// average since the checkpoint before it. If absent, only with `[validation]`.
    pub best: Option<bool>,
}

impl Default for CheckpointRecipe {
    fn default() -> Self {
        Self { keep: 2, best: None }
    }
}

impl CheckpointRecipe {
    /// What is wrong with the section.
    pub(super) fn check(&self) -> Result<(), RecipeProblem> {
        match self.keep {
            0 => Err(RecipeProblem::OutOfRange { field: "checkpoints.keep", value: 0.0, range: "1 or more" }),
            _ => Ok(()),
        }
    }
}
