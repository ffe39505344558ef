//! `[timesteps]`: at which times the transformer learns.

use serde::{Deserialize, Serialize};

/// Which times are drawn: `sigmoid(mean + std · z)` with `z ~ N(0,1)`, 1 being noise.
///
/// The default is the paper's. A small picture is decided within the first steps of a walk, where noise still hides
/// everything: only there must a network listen to words and references, so a higher mean teaches it to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimestepRecipe {
    /// Mean before the sigmoid.
    pub mean: f32,
    /// Standard deviation before the sigmoid.
    pub std: f32,
}

impl Default for TimestepRecipe {
    fn default() -> Self {
        Self { mean: 0.0, std: 1.0 }
    }
}
