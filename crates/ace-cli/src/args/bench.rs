//! `ace plan` and `ace bench`: what something will take, and how fast it is.

use super::{
    SampleArgs,
    values::{dtype, packing},
};
use crate::{model::ModelArgs, report::Failure};
use ace_nn::{flux::FluxConfig, weight::Packing};
use burn::tensor::FloatDType;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is planned.
#[derive(Debug, Subcommand)]
pub enum PlanVerb {
    /// Say what memory a training takes, and which settings fit
    Train(Box<PlanArgs>),
    /// Say what memory an edit takes, part by part, and how the model is held so that it fits
    Sample(Box<PlanSampleArgs>),
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Measure training steps on random weights and examples
    Train(Box<BenchArgs>),
    /// Measure one pass of a transformer of random weights
    Flux(Box<FluxBenchArgs>),
    /// Measure encoding and decoding with an autoencoder of random weights
    Vae(Box<VaeBenchArgs>),
    /// Measure a look at a picture and the answer to a click, with a MobileSAM of random weights
    Sam(TimesArgs),
    /// Measure a T5 of random weights
    T5(Box<T5BenchArgs>),
    /// Measure a whole edit with random weights, its words embedded beforehand
    Edit(Box<EditBenchArgs>),
}

const PLAN_EXAMPLES: &str = "\
Nothing is loaded: it is arithmetic on the model's sizes and the recipe, with what was counted on the CPU. For a graphics card
it is a prediction from the same counts; its pool holds some back, so leave it a tenth.

Examples:
  ace plan train models/lora.toml --model ace-plus-portrait --memory 12G --card
  ace plan train models/tiny/lora-subject.toml
  ace plan train models/lora.toml --model flux1-fill-dev --tokens 1024 --memory 24G";

/// `ace plan train`.
#[derive(Debug, Args)]
#[command(after_help = PLAN_EXAMPLES)]
pub struct PlanArgs {
    /// The recipe [default: models/lora.toml]
    #[arg(value_name = "RECIPE")]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// What there is, as 12G or 800M
    #[arg(long, value_name = "BYTES", value_parser = memory)]
    pub memory: Option<u64>,
    /// It is that of a card of its own: what stays on the host does not count
    #[arg(long, requires = "memory")]
    pub card: bool,
    /// Tokens of an example's pictures, one for 16 × 16 pixels [default: the most that the card takes]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    /// Examples that are kept encoded
    #[arg(long, default_value_t = 64, value_name = "N")]
    pub examples: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const PLAN_SAMPLE_EXAMPLES: &str = "\
It takes all options of `ace sample`, and answers from the headers of the model's files and the size of the picture; no weight
is read. `ace sample --memory` does what is said here.

Examples:
  ace plan sample --model flux1-fill-dev --flux flux-Q4_0.gguf --width 512 --height 512 --memory 6G
  ace plan sample --model ace-plus-portrait --reference me.jpg --dtype bf16";

/// `ace plan sample`.
#[derive(Debug, Args)]
#[command(after_help = PLAN_SAMPLE_EXAMPLES)]
pub struct PlanSampleArgs {
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const BENCH_EXAMPLES: &str = "\
The steps are those of `ace train`, on random weights and examples. Without a recipe it is a LoRA of rank 16 on a FLUX-Fill of
hidden 1024 with 4 double and 8 single blocks, 1024 picture and 512 text tokens, batch 1, in f32: the model of
tests/reference/bench_train.py, which times diffusers and PEFT.

Examples:
  ace bench train
  ace bench train --plain --steps 5 --json
  ace bench train --hidden 256 --tokens 256
  ace bench train --recipe models/tiny/lora-subject.toml";

/// `ace bench train`.
#[derive(Debug, Args)]
#[command(after_help = BENCH_EXAMPLES)]
pub struct BenchArgs {
    /// What learns, in which batches, and the sizes of its model
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub blocks: BlockArgs,
    /// Tokens of an example's pictures [default: 1024, or the most that the recipe's card takes]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    /// Tokens of its words [default: the card's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub text_tokens: Option<usize>,
    /// Rank of the LoRA [default: 16, or the recipe's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub rank: Option<usize>,
    /// Examples of a step [default: 1, or the recipe's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch: Option<usize>,
    /// Keep what every block computed instead of computing it twice
    #[arg(long)]
    pub plain: bool,
    /// Compute every block twice, whatever the recipe says
    #[arg(long, conflicts_with = "plain")]
    pub recompute: bool,
    /// Steps that do not count
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub warmup: u64,
    /// Steps that count
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Sizes of a transformer.
#[derive(Debug, Args)]
pub struct BlockArgs {
    /// Width of the transformer [default: 1024, or that of the card or recipe]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub hidden: Option<usize>,
    /// Double and single blocks [default: 4,8, or those of the card or recipe]
    #[arg(long, value_name = "DOUBLE,SINGLE", value_parser = blocks)]
    pub blocks: Option<(usize, usize)>,
}

impl BlockArgs {
    /// Changes what is said, and what is not said to `otherwise`. Heads stay as wide as they are.
    ///
    /// # Errors
    /// If no whole number of heads is that wide.
    pub fn apply(&self, flux: &mut FluxConfig, otherwise: Option<(usize, (usize, usize))>) -> anyhow::Result<()> {
        if let Some(hidden) = self.hidden.or(otherwise.map(|(hidden, _)| hidden)) {
            let head = flux.hidden_size / flux.num_heads;
            if hidden % head != 0 {
                let hint = format!("{} would do", (hidden / head).max(1) * head);
                let what = format!("--hidden {hidden} is not a multiple of a head of {head}");
                return Err(Failure::misuse(what, hint).into());
            }
            (flux.hidden_size, flux.num_heads) = (hidden, hidden / head);
        }
        if let Some((double, single)) = self.blocks.or(otherwise.map(|(_, blocks)| blocks)) {
            (flux.depth, flux.depth_single_blocks) = (double, single);
        }
        Ok(())
    }
}

/// How weights are held.
#[derive(Debug, Args)]
pub struct HeldArgs {
    /// Numbers: f32, bf16 or f16, as far as the device computes in them [default: f32]
    #[arg(long, value_name = "NAME", value_parser = dtype)]
    pub dtype: Option<FloatDType>,
    /// Pack the matrices of blocks, to any of what `ace sample --quantize` takes
    #[arg(long, value_name = "NAME", value_parser = packing)]
    pub quantize: Option<Packing>,
}

/// How often something is done.
#[derive(Debug, Args)]
pub struct TimesArgs {
    /// Times that do not count
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub warmup: u64,
    /// Times that count
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub repeat: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const INFER_EXAMPLES: &str = "\
Weights and inputs are random numbers, on the device from the start. Beside the operations of a second stands what the device
reaches in a product of two large matrices, measured in the same run. tests/reference/bench_infer.py times diffusers on the
same sizes and prints the same fields.

Examples:
  ace bench flux
  ace bench flux --dtype bf16 --json
  ace bench flux --card flux1-fill-dev --blocks 1,2 --quantize q8_0
  ace bench vae --size 512
  ace bench t5 --layers 2
  ace bench edit --size 512 --steps 2";

/// `ace bench flux`.
#[derive(Debug, Args)]
#[command(after_help = INFER_EXAMPLES)]
pub struct FluxBenchArgs {
    /// A built-in card, whose sizes are taken [default: FLUX-Fill, narrower and with fewer blocks]
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    #[command(flatten)]
    pub blocks: BlockArgs,
    /// Tokens of the pictures [default: 1024]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    /// A square picture of so many pixels a side, instead of --tokens
    #[arg(long, value_name = "PIXELS", conflicts_with = "tokens")]
    pub size: Option<u32>,
    /// Tokens of the words [default: the card's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub text_tokens: Option<usize>,
    #[command(flatten)]
    pub held: HeldArgs,
    #[command(flatten)]
    pub times: TimesArgs,
}

/// `ace bench vae`.
#[derive(Debug, Args)]
#[command(after_help = INFER_EXAMPLES)]
pub struct VaeBenchArgs {
    /// A built-in card, whose sizes are taken [default: flux1-fill-dev]
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// Pixels of a side of the picture [default: 512]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<u32>,
    #[command(flatten)]
    pub times: TimesArgs,
}

/// `ace bench t5`.
#[derive(Debug, Args)]
#[command(after_help = INFER_EXAMPLES)]
pub struct T5BenchArgs {
    /// A built-in card, whose sizes are taken [default: flux1-fill-dev, with fewer layers]
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    /// Layers [default: 4, or the card's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub layers: Option<usize>,
    /// Tokens [default: the card's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub tokens: Option<usize>,
    #[command(flatten)]
    pub held: HeldArgs,
    #[command(flatten)]
    pub times: TimesArgs,
}

/// `ace bench edit`.
#[derive(Debug, Args)]
#[command(after_help = INFER_EXAMPLES)]
pub struct EditBenchArgs {
    /// A built-in card, whose sizes are taken [default: FLUX-Fill, narrower and with fewer blocks]
    #[arg(long, value_name = "NAME")]
    pub card: Option<String>,
    #[command(flatten)]
    pub blocks: BlockArgs,
    /// Pixels of a side of the picture [default: 512]
    #[arg(long, value_name = "PIXELS")]
    pub size: Option<u32>,
    /// Steps of an edit
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = positive)]
    pub steps: usize,
    #[command(flatten)]
    pub held: HeldArgs,
    #[command(flatten)]
    pub times: TimesArgs,
}

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a number from 1 on".to_owned())
}

fn blocks(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once(',').and_then(|(double, single)| Some((double.parse().ok()?, single.parse().ok()?)));
    numbers.filter(|(double, single)| double + single > 0).ok_or_else(|| "two numbers, as 4,8".to_owned())
}

/// `12G`, `800M`, `1.5GB`: as cards are sold, a gigabyte is a power of two.
pub fn memory(text: &str) -> Result<u64, String> {
    let text = text.trim().trim_end_matches(['b', 'B']).trim_end_matches('i');
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1u64 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        _ => (text, 1),
    };
    let number = number.trim().parse::<f64>().ok().filter(|number| *number > 0.0 && number.is_finite());
    number.map(|number| (number * unit as f64) as u64).ok_or_else(|| "an amount of memory, as 12G".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_said_as_cards_are_sold() {
        assert_eq!(memory("12G"), Ok(12 << 30));
        assert_eq!(memory("1.5GB"), Ok(3 << 29));
        assert_eq!(memory("800MiB"), Ok(800 << 20));
        assert_eq!(memory("4096"), Ok(4096));
        assert!(memory("much").is_err() && memory("-1G").is_err() && memory("").is_err());
    }

    #[test]
    fn blocks_are_two_numbers() {
        assert_eq!(blocks("4,8"), Ok((4, 8)));
        assert_eq!(blocks("0,2"), Ok((0, 2)));
        assert!(blocks("0,0").is_err() && blocks("4").is_err());
    }
}
