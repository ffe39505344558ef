//! Saving a run so that it can be killed at any instant and go on bit by bit as if nothing had happened.
//!
//! A checkpoint is a folder `checkpoint-<step>`: weights, moving average, optimizer, step and recipe. It is written
//! under another name and renamed when whole; only then is the one before it removed. Random numbers need no state:
//! every draw is a function of seed and step.

use super::{
    params,
    recipe::{RateSchedule, Recipe},
    trainer::Trainer,
};
use crate::Error;
use ace_plus::checkpoint::{self, WeightFile};
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

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let wrap = ace_plus::Error::io(path);
    move |source| Error::Plus(wrap(source))
}

/// Writes a checkpoint of `trainer` into `folder` and removes the older ones.
///
/// # Errors
/// If the folder cannot be written; older checkpoints are then still there.
pub fn save<M: Module>(folder: &Path, trainer: &Trainer<M>, recipe: &Recipe) -> Result<PathBuf, Error> {
    let whole = folder.join(format!("checkpoint-{}", trainer.step));
    let part = folder.join("checkpoint.part");
    if part.exists() {
        fs::remove_dir_all(&part).map_err(io(&part))?;
    }
    fs::create_dir_all(&part).map_err(io(&part))?;

    checkpoint::write(&part.join(WEIGHTS), &params::learned(&trainer.model), &[])?;
    if let Some(average) = &trainer.ema {
        checkpoint::write(&part.join(AVERAGE), &params::learned(&average.apply(trainer.model.clone())), &[])?;
    }
    let optimizer = trainer.optimizer.into_bytes().map_err(|source| {
        Error::state(&part, format!("the optimizer cannot be written: {source:?}"), "this is a bug; please report it")
    })?;
    checkpoint::write_atomically(&part.join(OPTIMIZER), &optimizer)?;
    let state = State { step: trainer.step, recipe: recipe.clone() };
    let state = serde_json::to_vec_pretty(&state).map_err(|source| io(&part)(source.into()))?;
    checkpoint::write_atomically(&part.join(STATE), &state)?;

    if whole.exists() {
        fs::remove_dir_all(&whole).map_err(io(&whole))?;
    }
    fs::rename(&part, &whole).map_err(io(&whole))?;
    for (step, older) in checkpoints(folder)? {
        if step != trainer.step {
            fs::remove_dir_all(&older).map_err(io(&older))?;
        }
    }
    Ok(whole)
}

/// The newest checkpoint in `folder`, if there is one.
///
/// # Errors
/// If the folder cannot be listed.
pub fn newest(folder: &Path) -> Result<Option<PathBuf>, Error> {
    Ok(checkpoints(folder)?.into_iter().max_by_key(|(step, _)| *step).map(|(_, path)| path))
}

fn checkpoints(folder: &Path) -> Result<Vec<(u64, PathBuf)>, Error> {
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let entries = fs::read_dir(folder).map_err(io(folder))?;
    Ok(entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let step = path.file_name()?.to_str()?.strip_prefix("checkpoint-")?.parse().ok()?;
            Some((step, path))
        })
        .collect())
}

/// Puts a checkpoint into `trainer`, which was made from the same recipe.
///
/// # Errors
/// If the checkpoint is of another recipe, incomplete or of another network.
pub fn resume<M: Module>(checkpoint: &Path, trainer: &mut Trainer<M>, recipe: &Recipe) -> Result<(), Error> {
    let path = checkpoint.join(STATE);
    let text = fs::read_to_string(&path).map_err(io(&path))?;
    let state: State = serde_json::from_str(&text)
        .map_err(|source| Error::state(&path, source.to_string(), "remove the checkpoint and start over"))?;
    if !same_run(&state.recipe, recipe) {
        return Err(Error::state(
            checkpoint,
            "it was made by another recipe",
            "give the recipe it was made by, or another --out; without --resume the run starts over",
        ));
    }
    let weights = WeightFile::open(&checkpoint.join(WEIGHTS))?;
    trainer.model = params::with_learned(trainer.model.clone(), &weights)?;
    if let Some(ema) = &mut trainer.ema {
        let average = WeightFile::open(&checkpoint.join(AVERAGE))?;
        ema.restart(&params::with_learned(trainer.model.clone(), &average)?);
    }
    let path = checkpoint.join(OPTIMIZER);
    let bytes = Bytes::from_bytes_vec(fs::read(&path).map_err(io(&path))?);
    trainer.optimizer = trainer
        .optimizer
        .clone()
        .from_bytes(bytes)
        .map_err(|source| Error::state(&path, format!("{source:?}"), "remove the checkpoint and start over"))?;
    trainer.step = state.step;
    Ok(())
}

/// Whether two recipes give the same weights step by step: how often one looks, and with a constant learning rate how
/// long one goes on, do not matter.
fn same_run(a: &Recipe, b: &Recipe) -> bool {
    let normal = |recipe: &Recipe| {
        let mut recipe = recipe.clone();
        (recipe.log_every, recipe.save_every, recipe.preview_every) = (0, 0, 0);
        if recipe.optimizer.schedule == RateSchedule::Constant {
            recipe.optimizer.steps = 0;
        }
        recipe
    };
    normal(a) == normal(b)
}
