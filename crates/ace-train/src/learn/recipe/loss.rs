//! `[loss]`: what counts more.

use crate::error::RecipeProblem;
use serde::{Deserialize, Serialize};

/// What counts more in the squared error. With 1 and 1 all tokens count alike, as in the paper.
///
/// A token of a reference counts `reference_weight`, any other `1 + (mask_weight − 1) · m`, where `m` is the share of its
/// pixels that are under the mask. The weights of an example are divided by their mean, so that examples count among
/// each other as without weights.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LossRecipe {
    /// What a token that lies wholly under the mask counts, beside 1 for one outside.
    pub mask_weight: f32,
    /// What the tokens of references count, `L_ref`; 0 leaves them out.
    pub reference_weight: f32,
}

impl Default for LossRecipe {
    fn default() -> Self {
        Self { mask_weight: 1.0, reference_weight: 1.0 }
    }
}

impl LossRecipe {
    /// What is wrong with the section.
    pub(super) fn check(&self) -> Result<(), RecipeProblem> {
        for (field, value) in [("loss.mask_weight", self.mask_weight), ("loss.reference_weight", self.reference_weight)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                let range = "a number from 0 on";
                return Err(RecipeProblem::OutOfRange { field, value: f64::from(value), range });
            }
        }
        Ok(())
    }
}
