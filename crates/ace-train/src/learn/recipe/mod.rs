//! A recipe says how to train: what, on what, how long. Recipes are the commented TOML files under `models/<name>/`.

mod autoencoder;
mod checkpoints;
mod data;
mod frozen;
mod judge;
mod lora;
mod loss;
mod optimizer;
mod timesteps;
mod validation;

pub use autoencoder::AutoEncoderRecipe;
pub use checkpoints::CheckpointRecipe;
pub use data::DataRecipe;
pub use frozen::{FrozenPacking, FrozenPlacement};
pub use judge::JudgeRecipe;
pub use lora::{LoraModules, LoraRecipe, RankedModules, Spelling};
pub use loss::LossRecipe;
pub use optimizer::{OptimizerRecipe, OptimizerState, RateSchedule, Reduce};
pub use timesteps::{ShiftLaw, TimestepLaw, TimestepRecipe, TimestepShift};
pub use validation::{EarlyStop, ValidationRecipe};

use crate::{Error, data::Dataset, error::RecipeProblem};
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// One training run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// What the run is called; its output folder has this name unless another is given.
    pub name: String,
    /// The model that is trained: the name of a built-in card, or a folder (with a card, or as diffusers writes it)
    /// relative to the recipe. A caller that names another model comes first.
    #[serde(default)]
    pub model: Option<String>,
    /// Instead of `model`, the card's own file or folder, relative to the recipe.
    #[serde(default)]
    pub card: Option<PathBuf>,
    /// Networks that learn; all others are frozen.
    pub train: Vec<NetworkName>,
    /// Folders with the weights to start from, relative to the recipe: a network's file is taken from the first that
    /// has it. If absent, the card's own folder (for a built-in card, the recipe's). What is in none of them is looked for
    /// in the Hugging Face cache.
    #[serde(default)]
    pub weights: Vec<PathBuf>,
    /// The transformer's file to start from instead of the card's, relative to the recipe. A caller that names another
    /// comes first.
    #[serde(default)]
    pub flux: Option<PathBuf>,
    /// Whether the card's own LoRAs lie under what is learned. Without them the base learns alone, as when they were made.
    #[serde(default = "yes")]
    pub with_adapters: bool,
    /// Tokens that the pictures of an example may take, instead of the card's: sampling may have more than learning.
    #[serde(default)]
    pub max_seq_len: Option<usize>,
    /// Numbers in which frozen networks are held and compute. What learns is always in f32.
    #[serde(default)]
    pub frozen_dtype: FrozenDtype,
    /// Bits to which matrices of the blocks of frozen networks are packed when they are read, whatever their files have. If
    /// absent, those that a GGUF file has in `Q8_0` or `Q4_0` stay so, and others are in `frozen_dtype`.
    #[serde(default)]
    pub quantize: Option<FrozenPacking>,
    /// Where the transformer's frozen blocks are.
    #[serde(default)]
    pub placement: FrozenPlacement,
    /// Whether the transformer's blocks are run again in the backward pass instead of keeping all that they computed: memory
    /// of one block for a third more time. Small models need not.
    #[serde(default = "yes")]
    pub recompute: bool,
    /// Networks that start from random weights instead.
    #[serde(default)]
    pub fresh: Vec<NetworkName>,
    /// The starting transformer has this many input channels and is widened to the card's.
    #[serde(default)]
    pub widen_from: Option<usize>,
    /// Train low-rank branches of the transformer instead of its weights.
    #[serde(default)]
    pub lora: Option<LoraRecipe>,
    /// What to learn from; a caller that names a manifest comes first.
    #[serde(default)]
    pub data: DataRecipe,
    /// How to learn.
    pub optimizer: OptimizerRecipe,
    /// Only for the autoencoder.
    #[serde(default)]
    pub autoencoder: Option<AutoEncoderRecipe>,
    /// T5 alone learns to say what sentences of the world say, instead of helping the transformer. Nothing is drawn.
    #[serde(default)]
    pub reading: bool,
    /// At which times the transformer learns.
    #[serde(default)]
    pub timesteps: TimestepRecipe,
    /// What counts more in the transformer's loss.
    #[serde(default)]
    pub loss: LossRecipe,
    /// Measuring on examples that are not learned from; not for the autoencoder.
    #[serde(default)]
    pub validation: Option<ValidationRecipe>,
    /// Edits of held-out examples of the world, judged before and after.
    #[serde(default)]
    pub judge: Option<JudgeRecipe>,
    /// Which checkpoints are kept.
    #[serde(default)]
    pub checkpoints: CheckpointRecipe,
    /// Probability that the instruction is replaced by an empty one.
    #[serde(default)]
    pub drop_instruction: f64,
    /// Everything random follows from it.
    #[serde(default)]
    pub seed: u64,
    /// Steps between lines of the log.
    #[serde(default = "every_10")]
    pub log_every: u64,
    /// Steps between checkpoints.
    #[serde(default = "every_500")]
    pub save_every: u64,
    /// Steps between previews; 0 for none.
    #[serde(default = "every_500")]
    pub preview_every: u64,
}

/// A network of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NetworkName {
    /// Pictures to latents.
    AutoEncoder,
    /// The transformer.
    Flux,
    /// The sequence encoder.
    T5,
    /// The pooled encoder.
    Clip,
}

/// Numbers in which frozen networks are held and compute.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FrozenDtype {
    /// 32-bit floats.
    #[default]
    F32,
    /// 16-bit floats with the range of 32-bit ones.
    Bf16,
    /// 16-bit floats of IEEE 754.
    F16,
}

impl From<FrozenDtype> for FloatDType {
    fn from(dtype: FrozenDtype) -> Self {
        match dtype {
            FrozenDtype::F32 => Self::F32,
            FrozenDtype::Bf16 => Self::BF16,
            FrozenDtype::F16 => Self::F16,
        }
    }
}

fn yes() -> bool {
    true
}

fn every_10() -> u64 {
    10
}

fn every_500() -> u64 {
    500
}

impl Recipe {
    /// Reads a recipe and checks it.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown field, or its fields contradict each other.
    pub fn load(path: &Path) -> Result<Self, Error> {
        Self::load_with(path, None)
    }

    /// As [`Recipe::load`], with a manifest in the place of what the recipe learns from.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn load_with(path: &Path, manifest: Option<&Path>) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(ace_plus::Error::io(path))?;
        Self::from_text(&text, path, manifest)
    }

    fn from_text(text: &str, path: &Path, manifest: Option<&Path>) -> Result<Self, Error> {
        let mut recipe: Self = toml::from_str(text).map_err(|source| {
            let line = source.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error::recipe(path, RecipeProblem::Syntax { line, reason: source.message().to_owned() })
        })?;
        if let Some(manifest) = manifest {
            recipe.data.manifest = Some(manifest.to_owned());
            recipe.data.world = None;
            recipe.data.tasks.clear();
        }
        let from = recipe.lora.as_mut().and_then(|lora| lora.from.as_mut());
        for file in from.into_iter().chain(&mut recipe.flux) {
            *file = path.parent().unwrap_or(Path::new("")).join(&*file);
        }
        recipe.check().map_err(|problem| Error::recipe(path, problem))?;
        if recipe.reading {
            recipe.preview_every = 0;
        }
        Ok(recipe)
    }

    /// A recipe from its text, checked.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::from_text(text, Path::new("recipe.toml"), None)
    }

    fn check(&self) -> Result<(), RecipeProblem> {
        if self.model.is_some() && self.card.is_some() {
            return Err(RecipeProblem::TwoModels);
        }
        if self.train.is_empty() {
            return Err(RecipeProblem::NothingLearns);
        }
        if self.trains(NetworkName::AutoEncoder) && self.train.len() > 1 {
            return Err(RecipeProblem::AutoEncoderNotAlone);
        }
        if self.trains(NetworkName::AutoEncoder) != self.autoencoder.is_some() {
            return Err(RecipeProblem::AutoEncoderSection);
        }
        if self.reading && (self.train != [NetworkName::T5] || self.data.world.is_none() || self.validation.is_some()) {
            return Err(RecipeProblem::Reading);
        }
        if self.lora.is_some() && self.train != [NetworkName::Flux] {
            return Err(RecipeProblem::LoraNotAlone);
        }
        let is_frozen = self.lora.is_some() && self.widen_from.is_none() && !self.is_fresh(NetworkName::Flux);
        if self.placement == FrozenPlacement::Streamed && !is_frozen {
            return Err(RecipeProblem::StreamedLearns);
        }
        if self.data.world.is_some() == self.data.manifest.is_some() {
            return Err(RecipeProblem::DataSource);
        }
        if self.data.pool == Some(0) {
            return Err(RecipeProblem::EmptyPool);
        }
        if self.data.pack_tokens == Some(0) {
            return Err(RecipeProblem::EmptyPack);
        }
        self.optimizer.check()?;
        self.timesteps.check()?;
        self.loss.check()?;
        self.checkpoints.check()?;
        if let Some(lora) = &self.lora {
            lora.check()?;
        }
        if let Some(validation) = &self.validation {
            validation.check()?;
            if self.trains(NetworkName::AutoEncoder) {
                return Err(RecipeProblem::ValidationOfAutoEncoder);
            }
        }
        if let Some(judge) = self.judge {
            judge.check()?;
            if self.data.world.is_none() || self.trains(NetworkName::AutoEncoder) || self.reading {
                return Err(RecipeProblem::Judge);
            }
        }
        if !(0.0..=1.0).contains(&self.drop_instruction) {
            return Err(RecipeProblem::NoProbability { value: self.drop_instruction });
        }
        Ok(())
    }

    /// How many distinct examples of `data` are drawn from; `None` if there is no end to them.
    pub fn pool_of(&self, data: &dyn Dataset) -> Option<u64> {
        let all = data.len().map(|len| self.learned_of(len as u64));
        self.data.pool.map(|pool| pool.min(all.unwrap_or(u64::MAX))).or(all)
    }

    /// How many of a dataset's examples, the first ones, are learned from: the others are held out for validation.
    pub fn learned_of(&self, len: u64) -> u64 {
        match &self.validation {
            Some(ValidationRecipe { manifest: None, examples, .. }) => len.saturating_sub(*examples).max(1),
            _ => len,
        }
    }

    /// Whether a network learns.
    pub fn trains(&self, network: NetworkName) -> bool {
        self.train.contains(&network)
    }

    /// Whether a network starts from random weights.
    pub fn is_fresh(&self, network: NetworkName) -> bool {
        self.fresh.contains(&network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A sound recipe with `from` replaced by `to`.
    fn parsed(from: &str, to: &str) -> Result<Recipe, toml::de::Error> {
        let text = "name = \"run\"\nmodel = \"tiny\"\ntrain = [\"flux\"]\n[lora]\nrank = 2\nalpha = 2.0\n\
                    [data]\nworld = 64\n[optimizer]\nsteps = 1\nbatch = 4\nlearning_rate = 1e-3\n";
        assert!(text.contains(from));
        toml::from_str(&text.replace(from, to))
    }

    #[test]
    fn a_recipe_names_a_model_or_a_card() {
        let recipe = parsed("", "").unwrap();
        assert_eq!((recipe.model.as_deref(), &recipe.card, recipe.check()), (Some("tiny"), &None, Ok(())));
        assert_eq!(recipe.frozen_dtype, FrozenDtype::F32);
        let recipe = parsed("model = \"tiny\"", "card = \".\"\nfrozen_dtype = \"bf16\"").unwrap();
        assert_eq!((recipe.card.as_deref(), recipe.check()), (Some(Path::new(".")), Ok(())));
        assert_eq!(FloatDType::from(recipe.frozen_dtype), FloatDType::BF16);
        assert!(parsed("model = \"tiny\"", "frozen_dtype = \"f64\"").is_err());
    }

    #[test]
    fn contradictions_are_named() {
        for (from, to, problem) in [
            ("model = \"tiny\"", "model = \"tiny\"\ncard = \".\"", RecipeProblem::TwoModels),
            ("[lora]\nrank = 2\nalpha = 2.0", "placement = \"streamed\"", RecipeProblem::StreamedLearns),
            (
                "train = [\"flux\"]",
                "placement = \"streamed\"\nfresh = [\"flux\"]\ntrain = [\"flux\"]",
                RecipeProblem::StreamedLearns,
            ),
            ("train = [\"flux\"]", "train = []", RecipeProblem::NothingLearns),
            ("train = [\"flux\"]", "train = [\"flux\", \"t5\"]", RecipeProblem::LoraNotAlone),
            ("train = [\"flux\"]", "train = [\"flux\", \"autoencoder\"]", RecipeProblem::AutoEncoderNotAlone),
            ("world = 64", "world = 64\nmanifest = \"m.jsonl\"", RecipeProblem::DataSource),
            ("train = [\"flux\"]", "reading = true\ntrain = [\"flux\"]", RecipeProblem::Reading),
            ("world = 64", "manifest = \"m.jsonl\"\n[judge]\nexamples = 4", RecipeProblem::Judge),
            ("world = 64", "world = 64\npool = 0", RecipeProblem::EmptyPool),
            ("world = 64", "world = 64\npack_tokens = 0", RecipeProblem::EmptyPack),
            ("batch = 4", "batch = 4\naccumulate = 3", RecipeProblem::UnevenBatch { batch: 4, accumulate: 3 }),
        ] {
            assert_eq!(parsed(from, to).unwrap().check(), Err(problem));
        }
    }

    #[test]
    fn numbers_out_of_their_range_are_named() {
        for (more, field) in [
            ("[timesteps]\nstd = -1.0", "timesteps.std is -1"),
            ("[timesteps]\nshift = 0.0", "timesteps.shift is 0"),
            ("[loss]\nmask_weight = -2.0", "loss.mask_weight is -2"),
            ("[loss]\nreference_weight = nan", "loss.reference_weight is NaN"),
            ("[checkpoints]\nkeep = 0", "checkpoints.keep is 0"),
            ("[judge]\nexamples = 0", "judge.examples is 0"),
            ("[validation]\nevery = 0", "validation.every is 0"),
            ("[validation]\nevery = 1\ntimesteps = [0.5, 1.5]", "validation.timesteps is 1.5"),
            ("[validation]\nevery = 1\nearly_stop = { patience = 0 }", "validation.early_stop.patience is 0"),
        ] {
            let problem = parsed("[data]", &format!("{more}\n[data]")).unwrap().check().unwrap_err().to_string();
            assert!(problem.starts_with(field), "{problem}");
        }
    }

    #[test]
    fn times_are_drawn_as_the_recipe_says() {
        let times =
            |more: &str| parsed("[data]", &format!("[timesteps]\n{more}\n[data]")).map(|recipe| recipe.timesteps);
        // As recipes were written before there were other laws.
        let old = times("mean = 0.5\nstd = 1.2").unwrap();
        assert_eq!(old, TimestepRecipe { mean: 0.5, std: 1.2, ..TimestepRecipe::default() });
        assert_eq!(parsed("", "").unwrap().timesteps, TimestepRecipe::default());
        let moved = times("law = \"uniform\"\nshift = 3.0").unwrap();
        assert_eq!((moved.law, moved.shift), (TimestepLaw::Uniform, Some(TimestepShift::Constant(3.0))));
        let moved = times("law = \"official\"\nshift = \"dynamic\"").unwrap();
        assert_eq!((moved.law, moved.shift), (TimestepLaw::Official, Some(TimestepShift::Named(ShiftLaw::Dynamic))));
        assert!(times("law = \"cubic\"").is_err() && times("shift = \"upwards\"").is_err());
    }

    #[test]
    fn a_recipe_is_the_same_after_it_was_stored() {
        let more = "modules = [\"double_blocks.*\", { pattern = \"single_blocks.*\", rank = 4 }]\nsave_as = [\"peft\"]\n\
                    [timesteps]\nlaw = \"uniform\"\nshift = \"dynamic\"\n[loss]\nmask_weight = 2.0\n\
                    [validation]\nevery = 5\nearly_stop = { patience = 3 }\n[checkpoints]\nkeep = 4\nbest = true\n[data]";
        let recipe = parsed("[data]", more).unwrap();
        let stored = serde_json::to_string(&recipe).unwrap();
        assert_eq!(serde_json::from_str::<Recipe>(&stored).unwrap(), recipe);
    }
}
