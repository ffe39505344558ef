//! What can be said on the command line. What is said here and cannot be, clap answers; the rest, the verbs.

use crate::model::{Lora, ModelArgs};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ace sample                                     edit a shipped picture with the shipped miniature
  ace sample --task recolor --image in.png --mask mask.png -p \"make the circle green\" --out o.png
  ace sample --reference item.png --image scene.png --mask m.png -p \"put the item in the box\"
  ace train                                      a LoRA on the miniature, in minutes
  ace eval --tasks recolor,fill                  judge it on examples it never saw
  ace verify                                     does this machine compute right?

Exit codes: 0 done, 1 failed, 2 misused.";

const SAMPLE_EXAMPLES: &str = "\
Without words and pictures it edits the example that is shipped with the miniature and draws a sheet of it.

Examples:
  ace sample -p \"a small red circle at the top left on a teal background\" --seed 3
  ace sample --task recolor --image in.png --mask mask.png -p \"make the circle green\" --sheet
  ace sample --lora out/train/lora/lora.safetensors:0.8 --reference item.png -p \"the item on a teal background\"
  ace sample --noise noise.safetensors --save-latents latents.safetensors -p \"a blue star\"";

const TRAIN_EXAMPLES: &str = "\
Ctrl-C saves and says how to go on. Beside the checkpoints, --out gets log.jsonl, loss.png and the previews.

Examples:
  ace train                                      models/tiny/lora-subject.toml into out/train/lora-subject
  ace train --recipe models/tiny/stage2.toml --resume
  ace train --steps 20 --out out/short           a look before a long run";

const EVAL_EXAMPLES: &str = "\
Every task is judged on examples that no training saw. Beside the model stand the input returned unchanged, and the
ceiling: the exact answer through the autoencoder.

Examples:
  ace eval
  ace eval --tasks subject --lora out/train/subject/lora.safetensors --json out/subject.json";

/// Edit pictures by instruction, with ACE++ on FLUX.
#[derive(Debug, Parser)]
#[command(name = "ace", version, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make or edit one picture
    Sample(Box<SampleArgs>),
    /// Train a network, or a LoRA, as a recipe says
    Train(TrainArgs),
    /// Judge a model on held-out examples, task by task
    Eval(EvalArgs),
    /// Compare every network with its recording
    Verify(VerifyArgs),
}

/// `ace sample`.
#[derive(Debug, Args)]
#[command(after_help = SAMPLE_EXAMPLES)]
pub struct SampleArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// LoRA file, with its weight if not 1; may be given several times
    #[arg(long, value_name = "FILE[:WEIGHT]", value_parser = Lora::parse)]
    pub lora: Vec<Lora>,
    /// What should be seen or changed
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: Option<String>,
    /// Kind of edit, with the card's defaults for it
    #[arg(long, value_name = "NAME")]
    pub task: Option<String>,
    /// Picture to edit; without it one is made from nothing
    #[arg(long, value_name = "FILE")]
    pub image: Option<PathBuf>,
    /// What to repaint of it, white; without it everything
    #[arg(long, value_name = "FILE", requires = "image")]
    pub mask: Option<PathBuf>,
    /// Picture to take something from; may be given several times
    #[arg(long = "reference", value_name = "FILE")]
    pub references: Vec<PathBuf>,
    /// Width of a picture made from nothing, in pixels
    #[arg(long, requires = "height", conflicts_with = "image", value_name = "PIXELS")]
    pub width: Option<u32>,
    /// Height of a picture made from nothing, in pixels
    #[arg(long, requires = "width", conflicts_with = "image", value_name = "PIXELS")]
    pub height: Option<u32>,
    /// The noise follows from it, the same on every backend
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
    /// Euler steps [default: the card's]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    /// Guidance that is embedded [default: the card's]
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub guidance: Option<f32>,
    /// What is blanked under the mask: 1 hides it from the network, 0 shows it [default: the task's, or 1]
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub repainting_scale: Option<f32>,
    /// Take the decoded pixels everywhere instead of keeping the image's own where the mask is black
    #[arg(long)]
    pub no_keep_outside: bool,
    /// Where the picture goes, a PNG
    #[arg(long, default_value = "out/sample.png", value_name = "FILE")]
    pub out: PathBuf,
    /// Draw inputs and output side by side [default file: beside --out, named -sheet.png]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option)] // absent, present, present with a name: clap's own spelling of the three
    pub sheet: Option<Option<PathBuf>>,
    /// Initial noise instead of the seed's: safetensors with `noise`, `[1,16,h,w]` or packed `[1,L,64]`
    #[arg(long, value_name = "FILE")]
    pub noise: Option<PathBuf>,
    /// Write the final latents: safetensors with `latents` `[1,16,h,w]` and `tokens` `[1,L,64]`
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

/// `ace train`.
#[derive(Debug, Args)]
#[command(after_help = TRAIN_EXAMPLES)]
pub struct TrainArgs {
    /// What to train, on what, how long [default: models/tiny/lora-subject.toml]
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Where log, plot, previews, checkpoints and weights go [default: out/train/ and the name of the recipe]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Go on from the newest checkpoint in --out
    #[arg(long)]
    pub resume: bool,
    /// Optimizer steps instead of the recipe's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

/// `ace eval`.
#[derive(Debug, Args)]
#[command(after_help = EVAL_EXAMPLES)]
pub struct EvalArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// LoRA file, with its weight if not 1; may be given several times
    #[arg(long, value_name = "FILE[:WEIGHT]", value_parser = Lora::parse)]
    pub lora: Vec<Lora>,
    /// Tasks to judge, separated by commas [default: all]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub tasks: Vec<String>,
    /// Examples of each task
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub per_task: u64,
    /// Side of the pictures in pixels: 64 or 96
    #[arg(long, default_value_t = 64, value_name = "PIXELS")]
    pub size: u32,
    /// Write all figures to a file too
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

/// `ace verify`.
#[derive(Debug, Args)]
pub struct VerifyArgs {
    /// Print JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// Folder with other recordings than those in the program
    #[arg(long, value_name = "DIR")]
    pub recordings: Option<PathBuf>,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

/// A number that is one: `nan` and `inf` parse as floats and would end in a black picture.
fn finite(text: &str) -> Result<f32, String> {
    match text.parse::<f32>() {
        Ok(value) if value.is_finite() => Ok(value),
        _ => Err("not a finite number".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_sheet_is_absent_or_present_or_named() {
        let sheet = |words: &[&str]| match Cli::try_parse_from([&["ace", "sample"], words].concat()).unwrap().verb {
            Verb::Sample(args) => args.sheet,
            other => panic!("{other:?}"),
        };
        assert_eq!(sheet(&[]), None);
        assert_eq!(sheet(&["--sheet"]), Some(None));
        assert_eq!(sheet(&["--sheet", "s.png", "--seed", "1"]), Some(Some("s.png".into())));
    }

    #[test]
    fn a_mask_needs_an_image_and_a_size_needs_none() {
        let fails = |words: &[&str]| Cli::try_parse_from([&["ace", "sample"], words].concat()).is_err();
        assert!(fails(&["--mask", "m.png"]));
        assert!(fails(&["--image", "i.png", "--width", "64", "--height", "64"]));
        assert!(fails(&["--width", "64"]));
        assert!(fails(&["--guidance", "nan"]));
        assert!(!fails(&["--width", "64", "--height", "64"]));
    }
}
