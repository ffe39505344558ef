//! `[judge]`: edits of held-out examples of the world, judged before the first step and after the last.

use crate::error::RecipeProblem;
use serde::{Deserialize, Serialize};

/// How a run shows what it has taught: how many edits succeed before it, and how many after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeRecipe {
    /// How many held-out examples are edited, each time with the same noise.
    #[serde(default = "thirty_two")]
    pub examples: u64,
}

fn thirty_two() -> u64 {
    32
}

impl JudgeRecipe {
    /// What is wrong with the section.
    pub(super) fn check(self) -> Result<(), RecipeProblem> {
        match self.examples {
            0 => Err(RecipeProblem::OutOfRange { field: "judge.examples", value: 0.0, range: "1 or more" }),
            _ => Ok(()),
        }
    }
}
