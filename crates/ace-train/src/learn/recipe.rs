//! A recipe says how to train: what, on what, how long. Recipes are the commented TOML files under `models/<name>/`.

use crate::{Error, error::RecipeProblem};
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
    /// Numbers in which frozen networks are held and compute. What learns is always in f32.
    #[serde(default)]
    pub frozen_dtype: FrozenDtype,
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
    /// At which times the transformer learns.
    #[serde(default)]
    pub timesteps: TimestepRecipe,
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

/// Low-rank branches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraRecipe {
    /// Rank of every branch.
    pub rank: usize,
    /// Strength: the branch is scaled by `alpha / rank`.
    pub alpha: f64,
}

/// What to learn from: the procedural world or a manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataRecipe {
    /// Side of the world's pictures in pixels.
    #[serde(default)]
    pub world: Option<u32>,
    /// Tasks of the world; all of them if empty.
    #[serde(default)]
    pub tasks: Vec<String>,
    /// JSON-lines manifest, relative to the recipe.
    #[serde(default)]
    pub manifest: Option<PathBuf>,
    /// How many distinct examples are drawn from; all of a manifest if absent. Every one that is drawn is encoded once and
    /// kept in memory. On the world without a pool, no example is drawn twice, and none is kept.
    #[serde(default)]
    pub pool: Option<u64>,
}

/// How to learn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptimizerRecipe {
    /// Optimizer steps.
    pub steps: u64,
    /// Examples per step.
    pub batch: usize,
    /// The batch is split into this many parts whose gradients are added up.
    #[serde(default = "one")]
    pub accumulate: usize,
    /// Peak learning rate; the paper's is 1e-3.
    pub learning_rate: f64,
    /// Steps of linear warm-up.
    #[serde(default)]
    pub warmup: u64,
    /// What follows the warm-up.
    #[serde(default)]
    pub schedule: RateSchedule,
    /// Decoupled weight decay; the paper's is 1e-2.
    #[serde(default = "paper_weight_decay")]
    pub weight_decay: f64,
    /// Gradients are scaled down to this global L2 norm.
    #[serde(default = "paper_clip_norm")]
    pub clip_norm: f64,
    /// Decay of the moving average that is shipped; none if absent.
    #[serde(default)]
    pub ema: Option<f64>,
}

/// What follows the warm-up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RateSchedule {
    /// The peak for ever.
    #[default]
    Constant,
    /// Half a cosine down to zero at the last step.
    Cosine,
}

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

/// How the autoencoder learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoEncoderRecipe {
    /// Side of the random crops in pixels, a multiple of 8; whole pictures if absent. Group norms see all of a picture,
    /// so a network that only ever saw crops is a little off on whole ones.
    #[serde(default)]
    pub crop: Option<usize>,
    /// Weight of the KL divergence beside the mean squared error.
    pub kl_weight: f64,
    /// The encoder stays as it is, and with it the latents that a transformer has learned.
    #[serde(default)]
    pub decoder_only: bool,
    /// Standard deviation of the noise on normalized latents while learning: what a transformer leaves behind is no
    /// exact latent either.
    #[serde(default)]
    pub latent_noise: f64,
}

fn every_10() -> u64 {
    10
}

fn every_500() -> u64 {
    500
}

fn one() -> usize {
    1
}

fn paper_weight_decay() -> f64 {
    1e-2
}

fn paper_clip_norm() -> f64 {
    1.0
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
        let mut recipe: Self = toml::from_str(&text).map_err(|source| {
            let line = source.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error::recipe(path, RecipeProblem::Syntax { line, reason: source.message().to_owned() })
        })?;
        if let Some(manifest) = manifest {
            recipe.data.manifest = Some(manifest.to_owned());
            recipe.data.world = None;
            recipe.data.tasks.clear();
        }
        recipe.check().map_err(|problem| Error::recipe(path, problem))?;
        Ok(recipe)
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
        if self.lora.is_some() && self.train != [NetworkName::Flux] {
            return Err(RecipeProblem::LoraNotAlone);
        }
        if self.data.world.is_some() == self.data.manifest.is_some() {
            return Err(RecipeProblem::DataSource);
        }
        if self.data.pool == Some(0) {
            return Err(RecipeProblem::EmptyPool);
        }
        let &OptimizerRecipe { batch, accumulate, .. } = &self.optimizer;
        if batch == 0 || accumulate == 0 || !batch.is_multiple_of(accumulate) {
            return Err(RecipeProblem::UnevenBatch { batch, accumulate });
        }
        if !(0.0..=1.0).contains(&self.drop_instruction) {
            return Err(RecipeProblem::NoProbability { value: self.drop_instruction });
        }
        Ok(())
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

impl OptimizerRecipe {
    /// The learning rate of a step, counted from 0.
    pub fn learning_rate_at(&self, step: u64) -> f64 {
        if step < self.warmup {
            return self.learning_rate * (step + 1) as f64 / self.warmup as f64;
        }
        match self.schedule {
            RateSchedule::Constant => self.learning_rate,
            RateSchedule::Cosine => {
                let progress = (step - self.warmup) as f64 / self.steps.saturating_sub(self.warmup).max(1) as f64;
                self.learning_rate * (1.0 + (std::f64::consts::PI * progress.min(1.0)).cos()) / 2.0
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_learning_rate_rises_then_falls_to_zero() {
        let recipe: OptimizerRecipe =
            toml::from_str("steps = 110\nbatch = 1\nlearning_rate = 1e-3\nwarmup = 10\nschedule = \"cosine\"").unwrap();
        assert!((recipe.learning_rate_at(0) - 1e-4).abs() < 1e-12);
        assert!((recipe.learning_rate_at(10) - 1e-3).abs() < 1e-12);
        assert!((recipe.learning_rate_at(60) - 5e-4).abs() < 1e-12);
        assert!(recipe.learning_rate_at(110).abs() < 1e-12);
    }

    #[test]
    fn unstated_values_are_the_papers() {
        let recipe: OptimizerRecipe = toml::from_str("steps = 1\nbatch = 1\nlearning_rate = 1e-3").unwrap();
        assert_eq!((recipe.weight_decay, recipe.clip_norm), (1e-2, 1.0));
    }

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
            ("train = [\"flux\"]", "train = []", RecipeProblem::NothingLearns),
            ("train = [\"flux\"]", "train = [\"flux\", \"t5\"]", RecipeProblem::LoraNotAlone),
            ("train = [\"flux\"]", "train = [\"flux\", \"autoencoder\"]", RecipeProblem::AutoEncoderNotAlone),
            ("world = 64", "world = 64\nmanifest = \"m.jsonl\"", RecipeProblem::DataSource),
            ("world = 64", "world = 64\npool = 0", RecipeProblem::EmptyPool),
            ("batch = 4", "batch = 4\naccumulate = 3", RecipeProblem::UnevenBatch { batch: 4, accumulate: 3 }),
        ] {
            assert_eq!(parsed(from, to).unwrap().check(), Err(problem));
        }
    }
}
