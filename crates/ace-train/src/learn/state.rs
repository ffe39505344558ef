//! Saving a run so that it can be killed at any instant and goes on bit by bit as if nothing had happened.
//!
//! A checkpoint is a folder `checkpoint-<step>` with what learns, its moving average, the optimizer, the step and the recipe.
//! It is written under another name and renamed when it is complete; only then are older ones removed. Random numbers need
//! no state: every draw follows from seed and step. What is frozen is not in it.

use super::{
    params,
    recipe::{RateSchedule, Recipe},
    trainer::Trainer,
};
use crate::{Error, error::StateProblem};
use ace_weights::{WeightFile, replace::Temporary};
use burn::{module::Module, tensor::Bytes};
use std::{
    fs,
    path::{Path, PathBuf},
};

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.bin";
const STATE: &str = "state.json";

#[derive(serde::Serialize, serde::Deserialize)]
struct State {
    step: u64,
    recipe: Recipe,
}

/// A complete checkpoint in the folder of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let wrap = ace_plus::Error::io(path);
    move |source| Error::Plus(wrap(source))
}

fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::state(path, StateProblem::Damaged { reason: reason.into() })
}

/// Writes a checkpoint of `trainer` into `folder` and removes the older ones.
///
/// # Errors
/// If the folder cannot be written; older checkpoints are then still there.
pub fn save<M: Module>(folder: &Path, trainer: &Trainer<M>, recipe: &Recipe) -> Result<PathBuf, Error> {
    let whole = folder.join(format!("checkpoint-{}", trainer.step));
    let temporary = Temporary(folder.join("checkpoint.part"));
    let part = &temporary.0;
    if part.exists() {
        fs::remove_dir_all(part).map_err(io(part))?;
    }
    fs::create_dir_all(part).map_err(io(part))?;

    ace_weights::write(&part.join(WEIGHTS), &params::learned(&trainer.model), &[])?;
    if let Some(average) = &trainer.ema {
        ace_weights::write(&part.join(AVERAGE), &params::learned(&average.apply(trainer.model.clone())), &[])?;
    }
    let optimizer = trainer
        .optimizer
        .into_bytes()
        .map_err(|source| Error::state(part, StateProblem::Unwritable { reason: format!("{source:?}") }))?;
    ace_weights::replace::write(&part.join(OPTIMIZER), &optimizer)?;
    let state = State { step: trainer.step, recipe: recipe.clone() };
    let state = serde_json::to_vec_pretty(&state).map_err(|source| io(part)(source.into()))?;
    ace_weights::replace::write(&part.join(STATE), &state)?;

    if whole.exists() {
        fs::remove_dir_all(&whole).map_err(io(&whole))?;
    }
    fs::rename(part, &whole).map_err(io(&whole))?;
    for older in checkpoints(folder)?.into_iter().filter(|older| older.step != trainer.step) {
        fs::remove_dir_all(&older.path).map_err(io(&older.path))?;
    }
    Ok(whole)
}

fn checkpoints(folder: &Path) -> Result<Vec<Checkpoint>, Error> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(io(folder))?;
    Ok(entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some(Checkpoint { step, path })
        })
        .collect())
}

impl Checkpoint {
    /// The newest one in `folder`, if there is one.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn newest(folder: &Path) -> Result<Option<Self>, Error> {
        Ok(checkpoints(folder)?.into_iter().max_by_key(|checkpoint| checkpoint.step))
    }

    /// Refuses a checkpoint that a run of `recipe` cannot go on from.
    ///
    /// # Errors
    /// If it is of another recipe, or damaged.
    pub fn check(&self, recipe: &Recipe) -> Result<(), Error> {
        let state = self.state()?;
        if same_run(&state.recipe, recipe) { Ok(()) } else { Err(Error::state(&self.path, StateProblem::OtherRecipe)) }
    }

    /// Puts the checkpoint into `trainer`, which was made from the same recipe.
    ///
    /// # Errors
    /// If it is damaged, or of another network.
    pub fn restore<M: Module>(&self, trainer: &mut Trainer<M>) -> Result<(), Error> {
        let state = self.state()?;
        let weights = WeightFile::open(&self.path.join(WEIGHTS))?;
        trainer.model = params::with_learned(trainer.model.clone(), &weights, &self.path)?;
        if let Some(ema) = &mut trainer.ema {
            let average = WeightFile::open(&self.path.join(AVERAGE))?;
            ema.restart(&params::with_learned(trainer.model.clone(), &average, &self.path)?);
        }
        let path = self.path.join(OPTIMIZER);
        let bytes = Bytes::from_bytes_vec(fs::read(&path).map_err(io(&path))?);
        let optimizer = trainer.optimizer.clone().from_bytes(bytes);
        trainer.optimizer = optimizer.map_err(|source| damaged(&path, format!("{source:?}")))?;
        trainer.step = state.step;
        Ok(())
    }

    fn state(&self) -> Result<State, Error> {
        let path = self.path.join(STATE);
        let text = fs::read_to_string(&path).map_err(io(&path))?;
        serde_json::from_str(&text).map_err(|source| damaged(&path, source.to_string()))
    }
}

/// Whether two recipes give the same weights after every step. How often something is written does not matter, nor does
/// the number of steps if the learning rate does not depend on it.
fn same_run(a: &Recipe, b: &Recipe) -> bool {
    let normal = |recipe: &Recipe| {
        let mut recipe = recipe.clone();
        (recipe.log_every, recipe.save_every, recipe.preview_every) = (0, 0, 0);
        recipe.data = recipe.data.deciding();
        if recipe.optimizer.schedule == RateSchedule::Constant {
            recipe.optimizer.steps = 0;
        }
        recipe
    };
    normal(a) == normal(b)
}
