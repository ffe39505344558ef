//! How a run is started, what it tells on the way, and how it ends.

use super::{recipe::Recipe, stages::Stages, trainer::StepReport, validation::ValidationReport};
use crate::{Error, data::Notice, judge::Score, plan::Extent};
use std::path::PathBuf;

/// How a run is started.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The recipe's file.
    pub recipe: PathBuf,
    /// A manifest in the place of what the recipe learns from.
    pub manifest: Option<PathBuf>,
    /// Folder for everything that the run writes.
    pub out: PathBuf,
    /// Go on from the newest checkpoint in `out`.
    pub resume: bool,
    /// Steps instead of the recipe's.
    pub steps: Option<u64>,
    /// Examples per step instead of the recipe's.
    pub batch: Option<usize>,
    /// Micro-batches that are measured at the same time: the cores of a CPU, 1 on a GPU.
    pub workers: usize,
}

impl RunOptions {
    /// A run of a recipe as it says, on one core.
    pub fn new(recipe: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        let (recipe, out) = (recipe.into(), out.into());
        Self { recipe, manifest: None, out, resume: false, steps: None, batch: None, workers: 1 }
    }

    /// The recipe, with what these options say instead.
    ///
    /// # Errors
    /// If it cannot be read or used.
    pub fn recipe(&self) -> Result<Recipe, Error> {
        let mut recipe = Recipe::load_with(&self.recipe, self.manifest.as_deref())?;
        recipe.optimizer.steps = self.steps.unwrap_or(recipe.optimizer.steps);
        recipe.optimizer.batch = self.batch.unwrap_or(recipe.optimizer.batch);
        Ok(recipe)
    }
}

/// What a run tells its observer.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum RunEvent {
    /// Examples are encoded, before the network that is trained is loaded.
    Encoding {
        /// Examples done.
        done: u64,
        /// Examples that the run will draw.
        of: u64,
    },
    /// Everything is loaded.
    Started {
        /// The recipe's name.
        name: String,
        /// Steps in all.
        steps: u64,
        /// Steps done before.
        resumed_at: u64,
        /// Parameters that learn.
        learned: usize,
        /// Parameters of the networks that learn, frozen ones included.
        parameters: usize,
    },
    /// A checkpoint is passed over, for it is damaged.
    Damaged {
        /// Its folder.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// Steps done at the one that the run goes on from.
        resumed_at: u64,
    },
    /// Where the time of a step went; its report follows.
    Timed(Stages),
    /// The last step of this part of the run is done, and this is what its examples were.
    Extent(Extent),
    /// A step is done.
    Step(StepReport),
    /// An example cannot be used and is left out, as the recipe wants it.
    Skipped {
        /// Its line or file.
        place: String,
        /// What is wrong with it.
        reason: String,
        /// Examples left out so far, this one included.
        count: usize,
    },
    /// Something to know that does not stop the run, such as a file of the cache that cannot be read.
    Note(String),
    /// The loss on held-out examples was measured.
    Validated(ValidationReport),
    /// The loss on held-out examples has not become lower for long, and the run ends. What is written is of its best step.
    StoppedEarly {
        /// Steps done.
        step: u64,
        /// The best step.
        best: u64,
        /// The loss there.
        validation: f32,
    },
    /// Edits of held-out examples were judged, before the first step or after the last.
    Judged {
        /// Steps done.
        step: u64,
        /// How right they were.
        score: Score,
    },
    /// A preview was written.
    Preview {
        /// Steps done.
        step: u64,
        /// Its file.
        path: PathBuf,
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: u64,
        /// Its folder.
        path: PathBuf,
    },
    /// What a finished autoencoder's card should say.
    Measured {
        /// Mean of the raw latents.
        shift_factor: f32,
        /// One over their standard deviation.
        scaling_factor: f32,
    },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are done.
    Finished {
        /// Steps done.
        step: u64,
        /// The files that were learned.
        weights: Vec<PathBuf>,
    },
    /// The observer stopped it. There is a checkpoint of this step, if it is not 0.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// Who is told about progress; answers whether to go on.
pub type RunObserver<'a> = &'a mut dyn FnMut(RunEvent) -> bool;

impl From<Notice> for RunEvent {
    fn from(notice: Notice) -> Self {
        match notice {
            Notice::Skipped { place, reason, count } => Self::Skipped { place: place.to_string(), reason, count },
            Notice::Note(line) => Self::Note(line),
        }
    }
}
