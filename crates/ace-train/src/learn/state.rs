//! Saving a run so that it can be killed at any instant and goes on bit by bit as if nothing had happened.
//!
//! A checkpoint is a folder `checkpoint-<step>` with what learns, its moving average, the optimizer, the step and the recipe.
//! It is written under another name and renamed when it is complete; only then are older ones removed, and those under
//! another name first, too: whatever is called `checkpoint-<step>` was whole once. Random numbers need no state: every
//! draw follows from seed and step. What is frozen is not in it.

use super::{
    params,
    recipe::{CheckpointRecipe, FrozenPlacement, RateSchedule, Recipe},
    trainer::Trainer,
};
use crate::{Error, error::StateProblem};
use ace_weights::{WeightFile, replace::Temporary};
use burn::{module::Module, tensor::Bytes};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const WEIGHTS: &str = "weights.safetensors";
const AVERAGE: &str = "average.safetensors";
const OPTIMIZER: &str = "optimizer.bin";
const STATE: &str = "state.json";

/// Names under which folders are no checkpoints: being written, in the way of the one that is whole, being removed.
const PART: &str = "checkpoint.part";
const OLD: &str = "checkpoint.old";

#[derive(serde::Serialize, serde::Deserialize)]
struct State {
    step: u64,
    recipe: Recipe,
    #[serde(default, flatten)]
    standing: Standing,
    /// Sizes of the other files in bytes, by name.
    #[serde(default)]
    files: BTreeMap<String, u64>,
}

/// How good the weights of a step are, and those before them.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// The loss that says which checkpoint is the best; `None` if it was not measured at this step.
    #[serde(default)]
    pub score: Option<f32>,
    /// The lowest validation loss, as far as early stopping takes it for lower.
    #[serde(default)]
    pub best: Option<f32>,
    /// Measurements since then.
    #[serde(default)]
    pub since: u32,
}

/// Which checkpoints stay beside a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// The last so many, the new one included.
    pub last: usize,
    /// Also the one with the lowest score.
    pub best: bool,
}

/// A complete checkpoint in the folder of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    /// Steps done.
    pub step: u64,
    /// Its folder.
    pub path: PathBuf,
}

/// A checkpoint that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Its folder.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let wrap = ace_plus::Error::io(path);
    move |source| Error::Plus(wrap(source))
}

fn damaged(path: &Path, reason: impl Into<String>) -> Error {
    Error::state(path, StateProblem::Damaged { reason: reason.into() })
}

/// Writes a checkpoint of `trainer` into `folder` and removes those that are not kept.
///
/// # Errors
/// If the folder cannot be written; older checkpoints are then still there.
pub fn save<M: Module>(
    folder: &Path,
    trainer: &Trainer<M>,
    recipe: &Recipe,
    standing: Standing,
    kept: Kept,
) -> Result<PathBuf, Error> {
    let whole = folder.join(format!("checkpoint-{}", trainer.step));
    let temporary = Temporary(folder.join(PART));
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
    let state = State { step: trainer.step, recipe: recipe.clone(), standing, files: sizes(part)? };
    let state = serde_json::to_vec_pretty(&state).map_err(|source| io(part)(source.into()))?;
    ace_weights::replace::write(&part.join(STATE), &state)?;

    if whole.exists() {
        // A damaged one of the same step.
        move_away(&whole)?;
    }
    fs::rename(part, &whole).map_err(io(&whole))?;
    prune(folder, trainer.step, kept)?;
    Ok(whole)
}

/// Sizes of the files in a folder.
fn sizes(folder: &Path) -> Result<BTreeMap<String, u64>, Error> {
    let mut sizes = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io(folder))? {
        let entry = entry.map_err(io(folder))?;
        let size = entry.metadata().map_err(io(&entry.path()))?.len();
        sizes.insert(entry.file_name().to_string_lossy().into_owned(), size);
    }
    Ok(sizes)
}

/// Removes the checkpoints that are not kept beside that of `step`. Those of later steps are damaged, or their run would
/// not have gone on from an earlier one.
fn prune(folder: &Path, step: u64, kept: Kept) -> Result<(), Error> {
    let (later, mut all): (Vec<_>, Vec<_>) =
        checkpoints(folder)?.into_iter().partition(|checkpoint| checkpoint.step > step);
    all.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.step));
    let best = best_of(&all).map(|(checkpoint, _)| checkpoint.step).filter(|_| kept.best);
    let is_old = |(at, checkpoint): &(usize, Checkpoint)| *at >= kept.last && best != Some(checkpoint.step);
    let old = all.into_iter().enumerate().filter(is_old).map(|(_, checkpoint)| checkpoint);
    for checkpoint in later.into_iter().chain(old) {
        move_away(&checkpoint.path)?;
    }
    Ok(())
}

/// The one with the lowest score, and the score.
fn best_of(all: &[Checkpoint]) -> Option<(&Checkpoint, f32)> {
    let score = |checkpoint: &Checkpoint| checkpoint.state().ok()?.standing.score;
    let scored = all.iter().filter_map(|checkpoint| Some((checkpoint, score(checkpoint)?)));
    // Of two that are as good the earlier one: it has learned less by heart.
    scored.min_by(|one, other| one.1.total_cmp(&other.1).then(one.0.step.cmp(&other.0.step)))
}

/// Removes a checkpoint. It loses its name first, for a kill may come when half of its files are gone.
fn move_away(path: &Path) -> Result<(), Error> {
    let old = Temporary(path.with_file_name(OLD));
    drop(Temporary(old.0.clone()));
    fs::rename(path, &old.0).map_err(io(path))
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
    /// The newest whole one in `folder`, and newer ones that are damaged, the newest first.
    ///
    /// # Errors
    /// If the folder cannot be listed, or all that it has are damaged.
    pub fn newest(folder: &Path) -> Result<(Option<Self>, Vec<Damage>), Error> {
        let mut all = checkpoints(folder)?;
        all.sort_by_key(|checkpoint| std::cmp::Reverse(checkpoint.step));
        let mut damages = Vec::new();
        for checkpoint in all {
            match checkpoint.check_files() {
                Ok(()) => return Ok((Some(checkpoint), damages)),
                Err(reason) => damages.push(Damage { path: checkpoint.path, reason }),
            }
        }
        match damages.into_iter().next() {
            None => Ok((None, Vec::new())),
            Some(Damage { path, reason }) => Err(damaged(&path, reason)),
        }
    }

    /// The best one in `folder` with its score, if any was measured.
    ///
    /// # Errors
    /// If the folder cannot be listed.
    pub fn best(folder: &Path) -> Result<Option<(Self, f32)>, Error> {
        Ok(best_of(&checkpoints(folder)?).map(|(checkpoint, score)| (checkpoint.clone(), score)))
    }

    /// Refuses a checkpoint that a run of `recipe` cannot go on from.
    ///
    /// # Errors
    /// If it is of another recipe, or damaged.
    pub fn check(&self, recipe: &Recipe) -> Result<(), Error> {
        let state = self.state()?;
        match difference(recipe, &state.recipe) {
            None => Ok(()),
            Some((field, ours, theirs)) => {
                Err(Error::state(&self.path, StateProblem::OtherRecipe { field, ours, theirs }))
            }
        }
    }

    /// Whether its files have the sizes that they were written with, or what is wrong.
    fn check_files(&self) -> Result<(), String> {
        let state = self.state().map_err(|error| error.to_string())?;
        for (name, expected) in &state.files {
            match fs::metadata(self.path.join(name)) {
                Ok(found) if found.len() == *expected => {}
                Ok(found) => return Err(format!("{name} has {} of its {expected} bytes", found.len())),
                Err(source) => return Err(format!("{name}: {source}")),
            }
        }
        Ok(())
    }

    /// How good its weights are, and those before them.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn standing(&self) -> Result<Standing, Error> {
        Ok(self.state()?.standing)
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

/// The first field in which two recipes give other weights after some step, with what either says. How often something is
/// written does not matter, nor does how, nor the number of steps if the learning rate does not depend on it.
fn difference(ours: &Recipe, theirs: &Recipe) -> Option<(String, String, String)> {
    let normal = |recipe: &Recipe| {
        let mut recipe = recipe.clone();
        (recipe.log_every, recipe.save_every, recipe.preview_every) = (0, 0, 0);
        recipe.placement = FrozenPlacement::default();
        recipe.data = recipe.data.deciding();
        recipe.checkpoints = CheckpointRecipe::default();
        if recipe.optimizer.schedule == RateSchedule::Constant {
            recipe.optimizer.steps = 0;
        }
        // The folder of a file may be named from elsewhere.
        let name = |path: PathBuf| path.file_name().map_or(path.clone(), PathBuf::from);
        recipe.flux = recipe.flux.take().map(name);
        if let Some(lora) = &mut recipe.lora {
            lora.save_as.clear();
            lora.from = lora.from.take().map(name);
        }
        // Numbers, strings and lists alone always are JSON.
        serde_json::to_value(&recipe).unwrap_or_default()
    };
    first_difference("", &normal(ours), &normal(theirs))
}

/// The path of the first value that differs between two trees, with both.
fn first_difference(path: &str, ours: &Value, theirs: &Value) -> Option<(String, String, String)> {
    match (ours, theirs) {
        (Value::Object(one), Value::Object(other)) => one.keys().chain(other.keys()).find_map(|key| {
            let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
            first_difference(&path, one.get(key).unwrap_or(&Value::Null), other.get(key).unwrap_or(&Value::Null))
        }),
        _ if ours == theirs => None,
        _ => {
            let said = |value: &Value| match value {
                Value::Null => "nothing".to_owned(),
                value => value.to_string(),
            };
            Some((path.to_owned(), said(ours), said(theirs)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recipe(from: &str, to: &str) -> Recipe {
        let text = "name = \"run\"\nmodel = \"tiny\"\ntrain = [\"flux\"]\nseed = 1\nsave_every = 3\n[lora]\nrank = 2\nalpha = 2.0\n\
                    [data]\nworld = 64\n[optimizer]\nsteps = 1\nbatch = 4\nlearning_rate = 1e-3\n";
        assert!(text.contains(from));
        toml::from_str(&text.replace(from, to)).unwrap()
    }

    #[test]
    fn the_field_that_differs_is_named_with_both_values() {
        let theirs = recipe("", "");
        for (from, to, field, ours, were) in [
            ("1e-3", "2e-3", "optimizer.learning_rate", "0.002", "0.001"),
            ("rank = 2", "rank = 4", "lora.rank", "4", "2"),
            ("[lora]\nrank = 2\nalpha = 2.0\n", "", "lora", "nothing", "{\"alpha\":2.0,"),
            ("[optimizer]", "[loss]\nmask_weight = 2.0\n[optimizer]", "loss.mask_weight", "2.0", "1.0"),
            ("seed = 1", "seed = 2", "seed", "2", "1"),
        ] {
            let found = difference(&recipe(from, to), &theirs).unwrap();
            assert_eq!((found.0.as_str(), found.1.as_str()), (field, ours));
            assert!(found.2.starts_with(were), "{found:?}");
        }
        for (from, to) in [
            ("save_every = 3", "save_every = 30\nlog_every = 1"),
            ("steps = 1", "steps = 9"),
            ("rank = 2", "rank = 2\nsave_as = [\"peft\"]"),
            ("[optimizer]", "[checkpoints]\nkeep = 9\n[optimizer]"),
        ] {
            assert_eq!(difference(&recipe(from, to), &theirs), None, "{to}");
        }
    }

    #[test]
    fn the_last_ones_and_the_best_are_kept_and_damaged_ones_are_passed_over() {
        let folder = std::env::temp_dir().join(format!("ace-train-kept-{}", std::process::id()));
        let write = |step: u64, score: Option<f32>| {
            let path = folder.join(format!("checkpoint-{step}"));
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join(WEIGHTS), [0; 8]).unwrap();
            let standing = Standing { score, ..Standing::default() };
            let state = State { step, recipe: recipe("", ""), standing, files: sizes(&path).unwrap() };
            fs::write(path.join(STATE), serde_json::to_vec(&state).unwrap()).unwrap();
        };
        let steps = || {
            let mut steps: Vec<u64> = checkpoints(&folder).unwrap().iter().map(|one| one.step).collect();
            steps.sort_unstable();
            steps
        };
        for (step, score) in [(1, 0.5), (2, 0.25), (3, 0.75), (4, 0.25), (5, 0.5)] {
            write(step, Some(score));
        }
        write(6, None);
        prune(&folder, 6, Kept { last: 2, best: true }).unwrap();
        assert_eq!(steps(), [2, 5, 6], "of two that are as good the earlier");
        prune(&folder, 6, Kept { last: 2, best: false }).unwrap();
        assert_eq!(steps(), [5, 6]);

        assert_eq!(Checkpoint::best(&folder).unwrap().map(|(best, score)| (best.step, score)), Some((5, 0.5)));
        write(9, None);
        fs::write(folder.join("checkpoint-9").join(WEIGHTS), [0; 3]).unwrap();
        let (newest, damages) = Checkpoint::newest(&folder).unwrap();
        assert_eq!(newest.unwrap().step, 6);
        assert_eq!(damages.len(), 1);
        assert!(damages[0].reason.contains("weights.safetensors has 3 of its 8 bytes"), "{damages:?}");
        write(7, None);
        // What a kill leaves of an older one that is being removed.
        fs::create_dir_all(folder.join(OLD)).unwrap();
        prune(&folder, 7, Kept { last: 3, best: false }).unwrap();
        assert_eq!(steps(), [5, 6, 7], "the damaged one of a later step is gone");
        for step in [5, 6, 7] {
            fs::remove_file(folder.join(format!("checkpoint-{step}/{STATE}"))).unwrap();
        }
        let nothing = Checkpoint::newest(&folder).unwrap_err().to_string();
        assert!(nothing.contains("checkpoint-7") && nothing.contains("state.json"), "{nothing}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
