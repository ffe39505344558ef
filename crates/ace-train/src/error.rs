//! What can go wrong while learning.

use crate::data::ExampleError;
use burn::tensor::FloatDType;
use std::path::{Path, PathBuf};

/// An error of training or judging.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The model or a picture.
    #[error(transparent)]
    Plus(#[from] ace_plus::Error),
    /// A weight file.
    #[error(transparent)]
    Weights(#[from] ace_weights::Error),
    /// The data.
    #[error(transparent)]
    Example(#[from] ExampleError),
    /// A recipe cannot be used.
    #[error("{path}: {problem}")]
    Recipe {
        /// The recipe.
        path: PathBuf,
        /// What is wrong with it.
        problem: RecipeProblem,
    },
    /// A transformer cannot be given so many more input channels.
    #[error("it is not known where the new columns belong when {from} input channels become {to}")]
    Widening {
        /// Input channels of the starting transformer.
        from: usize,
        /// Input channels of the card.
        to: usize,
    },
    /// The device does not compute in the numbers that are asked for.
    #[error("this device does not compute in {dtype:?}")]
    Dtype {
        /// The numbers.
        dtype: FloatDType,
    },
    /// A matrix that is to learn is more than the device takes as one tensor.
    #[error("this device takes the matrices of {network} in parts only, and parts do not learn")]
    Divided {
        /// The network.
        network: &'static str,
    },
    /// A checkpoint cannot be written or resumed.
    #[error("{path}: {problem}")]
    State {
        /// The checkpoint, or a file in it.
        path: PathBuf,
        /// What is in the way.
        problem: StateProblem,
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
    /// One of several processes failed; all of them end with this.
    #[error("rank {rank}: {message}")]
    Rank {
        /// Which one, counted from 0.
        rank: usize,
        /// What it said.
        message: String,
        /// What can be done about it.
        hint: Option<String>,
    },
}

/// Why a recipe cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RecipeProblem {
    /// It is not TOML, or has an unknown or missing field.
    #[error("line {line}: {reason}")]
    Syntax {
        /// Counted from 1.
        line: usize,
        /// What the parser said.
        reason: String,
    },
    /// It says twice what is trained.
    #[error("model and card both name the model; one of them is enough")]
    TwoModels,
    /// It does not say what is trained, and nobody else did.
    #[error("neither model nor card names the model")]
    NoModel,
    /// Every network is frozen.
    #[error("train names no network")]
    NothingLearns,
    /// The autoencoder would learn beside others.
    #[error("the autoencoder is trained alone")]
    AutoEncoderNotAlone,
    /// The autoencoder's section is missing, or there without the autoencoder.
    #[error("the [autoencoder] section belongs to train = [\"autoencoder\"], and only there")]
    AutoEncoderSection,
    /// Something else than T5 would learn to read, or something else than sentences of the world, or it would be measured.
    #[error("reading = true is for train = [\"t5\"] on the world's sentences, without a [validation] section")]
    Reading,
    /// A LoRA would learn beside whole networks.
    #[error("lora trains the transformer alone: train = [\"flux\"]")]
    LoraNotAlone,
    /// Blocks would be fetched that are to change.
    #[error("placement = \"streamed\" is for the frozen blocks under [lora], neither fresh nor widened")]
    StreamedLearns,
    /// Neither or both sources of examples are named.
    #[error("data needs either world or manifest")]
    DataSource,
    /// There is nothing to draw from.
    #[error("data.pool is 0")]
    EmptyPool,
    /// No token fits on a sequence.
    #[error("data.pack_tokens is 0")]
    EmptyPack,
    /// The batch cannot be split as asked.
    #[error("batch {batch} is not a multiple of accumulate {accumulate}")]
    UnevenBatch {
        /// Examples per step.
        batch: usize,
        /// Into how many equal parts.
        accumulate: usize,
    },
    /// A number is outside its range.
    #[error("{field} is {value}, expected {range}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: f64,
        /// What it may be.
        range: &'static str,
    },
    /// There is no time to measure at.
    #[error("validation.timesteps names no time")]
    NoTimesteps,
    /// The autoencoder's loss is not measured on held-out examples.
    #[error("the [validation] section is for the transformer; the autoencoder has none")]
    ValidationOfAutoEncoder,
    /// There would be nothing whose right answer is known.
    #[error("the [judge] section is for the transformer on examples of the world")]
    Judge,
    /// Every example would be held out.
    #[error("validation.examples = {examples} leaves none of {of} examples to learn from")]
    NothingButHeldOut {
        /// How many are held out.
        examples: u64,
        /// How many there are.
        of: u64,
    },
    /// The card has no masks that could weigh.
    #[error("loss.mask_weight is {value}, but the units of {card} have no masks")]
    NoMasks {
        /// Its value.
        value: f32,
        /// The card.
        card: String,
    },
    /// No layer has such a name.
    #[error("lora: no layer is called {pattern:?}; there are {}", known.join(", "))]
    NoSuchModule {
        /// The pattern in the recipe.
        pattern: String,
        /// Names of the layers, numbers of blocks left out.
        known: Vec<String>,
    },
    /// Every layer is excluded.
    #[error("lora: no layer is left that gets a branch")]
    NoModules,
    /// `fuse` without a file.
    #[error("lora.fuse has nothing to fuse without lora.from")]
    NothingToFuse,
    /// The LoRA to start from does not fit what the recipe asks for.
    #[error("lora.from: {reason}")]
    OtherLora {
        /// The layer and what is wrong.
        reason: String,
    },
    /// A probability is outside 0..1.
    #[error("drop_instruction {value} is no probability")]
    NoProbability {
        /// Its value.
        value: f64,
    },
    /// The world of shapes has no such task.
    #[error("there is no task {name:?}; the world has {}", known.join(", "))]
    UnknownTask {
        /// The name in the recipe.
        name: String,
        /// The names that there are.
        known: Vec<&'static str>,
    },
}

/// Why a checkpoint cannot be written or resumed.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StateProblem {
    /// The output folder holds a run that was not to be resumed.
    #[error("a run is already here")]
    RunExists,
    /// The run was started by a recipe that would have given other weights.
    #[error("it was made by another recipe: {field} is {ours}, the checkpoint's run had {theirs}")]
    OtherRecipe {
        /// The first field that differs.
        field: String,
        /// What this recipe says.
        ours: String,
        /// What the checkpoint's says.
        theirs: String,
    },
    /// A parameter has another shape than in the network.
    #[error("{key} has shape {found:?}, expected {expected:?}")]
    OtherShape {
        /// The parameter.
        key: String,
        /// Its shape in the checkpoint.
        found: Vec<usize>,
        /// Its shape in the network.
        expected: Vec<usize>,
    },
    /// A file of the checkpoint is damaged.
    #[error("it cannot be read: {reason}")]
    Damaged {
        /// What the reader said.
        reason: String,
    },
    /// The optimizer's state cannot be turned into bytes.
    #[error("the optimizer cannot be written: {reason}")]
    Unwritable {
        /// What the writer said.
        reason: String,
    },
}

impl Error {
    pub(crate) fn recipe(path: &Path, problem: RecipeProblem) -> Self {
        Self::Recipe { path: path.to_owned(), problem }
    }

    pub(crate) fn state(path: &Path, problem: StateProblem) -> Self {
        Self::State { path: path.to_owned(), problem }
    }

    /// What the user can do about it, one line.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Plus(error) => error.hint(),
            Self::Weights(error) => error.hint(),
            Self::Example(error) => error.hint(),
            Self::Recipe { .. } => Some("models/README.md describes every field of a recipe"),
            Self::Widening { .. } => Some("a base has as many channels as it puts out, or the masks' channels besides"),
            Self::Divided { .. } => Some("train a LoRA, or on a device that takes larger tensors"),
            Self::Dtype { .. } => Some("set frozen_dtype = \"f32\" in the recipe"),
            Self::State { problem, .. } => Some(match problem {
                StateProblem::RunExists => "resume it, or choose another output folder",
                StateProblem::OtherRecipe { .. } => {
                    "resume with the recipe it was made by, or choose another output folder"
                }
                StateProblem::OtherShape { .. } => "it is of another network",
                StateProblem::Damaged { .. } => "remove the checkpoint and start over",
                StateProblem::Unwritable { .. } => "this is a bug; please report it",
            }),
            Self::Rank { hint, .. } => hint.as_deref(),
            Self::Diverged { .. } => Some("lower learning_rate or lengthen warmup in the recipe, then resume"),
        }
    }
}
