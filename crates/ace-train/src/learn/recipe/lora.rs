//! `[lora]`: low-rank branches of the transformer instead of its weights.

use serde::{Deserialize, Serialize};

/// Low-rank branches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rank of every branch.
    pub rank: usize,
    /// Strength: the branch is scaled by `alpha / rank`.
    pub alpha: f64,
}
