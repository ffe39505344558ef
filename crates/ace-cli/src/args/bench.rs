//! `ace plan` and `ace bench`: what a training will take, and how fast it is.

use crate::model::ModelArgs;
use clap::{Args, Subcommand};
use std::path::PathBuf;

/// What is planned.
#[derive(Debug, Subcommand)]
pub enum PlanVerb {
    /// Say what memory a training takes, and which settings fit
    Train(Box<PlanArgs>),
}

/// What is measured.
#[derive(Debug, Subcommand)]
pub enum BenchVerb {
    /// Measure training steps on random weights and examples
    Train(Box<BenchArgs>),
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
    /// Width of the transformer [default: 1024, or the recipe's]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub hidden: Option<usize>,
    /// Double and single blocks [default: 4,8, or the recipe's]
    #[arg(long, value_name = "DOUBLE,SINGLE", value_parser = blocks)]
    pub blocks: Option<(usize, usize)>,
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

fn positive(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "a number from 1 on".to_owned())
}

fn blocks(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once(',').and_then(|(double, single)| Some((double.parse().ok()?, single.parse().ok()?)));
    numbers.filter(|(double, single)| double + single > 0).ok_or_else(|| "two numbers, as 4,8".to_owned())
}

/// `12G`, `800M`, `1.5GB`: as cards are sold, a gigabyte is a power of two.
fn memory(text: &str) -> Result<u64, String> {
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
