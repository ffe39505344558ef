//! A recipe says how to train: what, on what, how long. Recipes are the commented TOML files under `models/<name>/`.

use crate::Error;
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
    /// Folder of the model's card, relative to the recipe.
    pub card: PathBuf,
    /// Networks that learn; all others are frozen.
    pub train: Vec<Network>,
    /// Folders with the weights to start from, relative to the recipe: a network's file is taken from the first that
    /// has it. The card's own folder if absent.
    #[serde(default)]
    pub weights: Vec<PathBuf>,
    /// Networks that start from random weights instead.
    #[serde(default)]
    pub fresh: Vec<Network>,
    /// The starting transformer has this many input channels and is widened to the card's.
    #[serde(default)]
    pub widen_from: Option<usize>,
    /// Train low-rank branches of the transformer instead of its weights.
    #[serde(default)]
    pub lora: Option<LoraRecipe>,
    /// What to learn from.
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
pub enum Network {
    /// Pictures to latents.
    AutoEncoder,
    /// The transformer.
    Flux,
    /// The sequence encoder.
    T5,
    /// The pooled encoder.
    Clip,
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
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
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
    /// Distinct examples that are drawn from; their encodings are kept in memory. All of a manifest if absent.
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
    pub schedule: Schedule,
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
pub enum Schedule {
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
    /// If it cannot be read, has an unknown field, or asks for something contradictory.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = fs::read_to_string(path).map_err(ace_plus::Error::io(path))?;
        let recipe: Self = toml::from_str(&text).map_err(|source| {
            let line = source.span().map_or(1, |span| text[..span.start.min(text.len())].lines().count().max(1));
            Error::recipe(path, format!("line {line}: {}", source.message()))
        })?;
        recipe.check().map_err(|problem| Error::recipe(path, problem))?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if self.train.is_empty() {
            return Err("train names no network".into());
        }
        if self.trains(Network::AutoEncoder) && self.train.len() > 1 {
            return Err("the autoencoder is trained alone".into());
        }
        if self.trains(Network::AutoEncoder) != self.autoencoder.is_some() {
            return Err("the [autoencoder] section belongs to train = [\"autoencoder\"], and only there".into());
        }
        if self.lora.is_some() && self.train != [Network::Flux] {
            return Err("lora trains the transformer alone: train = [\"flux\"]".into());
        }
        if self.data.world.is_some() == self.data.manifest.is_some() {
            return Err("data needs either world or manifest".into());
        }
        let optimizer = &self.optimizer;
        if optimizer.batch == 0 || optimizer.accumulate == 0 || !optimizer.batch.is_multiple_of(optimizer.accumulate) {
            return Err(format!("batch {} is not a multiple of accumulate {}", optimizer.batch, optimizer.accumulate));
        }
        if !(0.0..=1.0).contains(&self.drop_instruction) {
            return Err(format!("drop_instruction {} is no probability", self.drop_instruction));
        }
        Ok(())
    }

    /// Whether a network learns.
    pub fn trains(&self, network: Network) -> bool {
        self.train.contains(&network)
    }

    /// Whether a network starts from random weights.
    pub fn is_fresh(&self, network: Network) -> bool {
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
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
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
}
