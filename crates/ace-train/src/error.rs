//! What can go wrong while learning.

use crate::data::example::ExampleError;
use std::path::{Path, PathBuf};

/// An error of training or judging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model or a picture.
    #[error(transparent)]
    Plus(#[from] ace_plus::Error),
    /// The data.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// A recipe is wrong.
    #[error("{path}: {reason}")]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A checkpoint cannot be resumed.
    #[error("{path}: {reason}")]
    State {
        /// The checkpoint.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: String,
    },
    /// Loss or gradients are not numbers any more.
    #[error("the {what} of step {step} is {value}")]
    Diverged {
        /// Step, counted from 1.
        step: u64,
        /// Loss or gradient norm.
        what: &'static str,
        /// Its value.
        value: f32,
    },
}

impl Error {
    pub(crate) fn recipe(path: &Path, reason: impl Into<String>) -> Self {
        Self::Recipe { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn state(path: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::State { path: path.to_owned(), reason: reason.into(), hint: hint.into() }
    }

    /// What the user can do about it, one line.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Plus(error) => error.hint(),
            Self::Example(error) => error.hint(),
            Self::Recipe { .. } => Some("models/README.md describes every field of a recipe"),
            Self::State { hint, .. } => Some(hint),
            Self::Diverged { .. } => Some("lower learning_rate or lengthen warmup in the recipe, then resume"),
        }
    }
}
