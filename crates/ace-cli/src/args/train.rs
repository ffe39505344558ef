//! `ace train`, and looking at a training: `ace report`.

use super::values::{dtype, packing};
use crate::model::ModelArgs;
use ace_nn::weight::Packing;
use burn::tensor::FloatDType;
use clap::Args;
use std::path::PathBuf;

const TRAIN_EXAMPLES: &str = "\
A model is anything that `ace sample` takes. Ctrl-C saves and says how to go on. Beside the checkpoints, --out gets log.jsonl, loss.png, the previews and an event file: `tensorboard --logdir out/train` shows it, and `ace report` writes a page.

Examples:
  ace train                                      models/tiny/lora-restoration.toml into out/train/tiny-restoration
  ace train --model ace-plus-portrait --dtype bf16 --data pictures.jsonl
  ace train --model FLUX.1-Fill-dev/ --recipe lora.toml --data pictures.jsonl
  ace train --recipe models/tiny/stage2.toml --resume
  ace train --steps 20 --out out/short           a look before a long run";

/// `ace train`.
#[derive(Debug, Args)]
#[command(after_help = TRAIN_EXAMPLES)]
pub struct TrainArgs {
    /// What to train, on what, how long [default: a LoRA of the miniature; with --data, models/lora.toml]
    #[arg(long, value_name = "FILE")]
    pub recipe: Option<PathBuf>,
    /// Your own pictures, instead of what the recipe learns from: JSON lines, a folder of pictures with .txt captions, a
    /// folder with before/ and after/, or an ACE++ list (see `ace data check --help`)
    #[arg(long, value_name = "FILE|DIR")]
    pub data: Option<PathBuf>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Numbers of the frozen networks: f32, bf16 or f16 [default: the recipe's]; what learns is in f32
    #[arg(long, value_name = "NAME", value_parser = dtype)]
    pub dtype: Option<FloatDType>,
    /// Pack blocks of frozen networks when they are read: q8_0, q6_k, q5_k, q4_k, q4_0, nf4 or fp8 [default: the recipe's]
    #[arg(long, value_name = "NAME", value_parser = packing)]
    pub quantize: Option<Packing>,
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

/// `ace report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Folder of a training, as `ace train --out` made it
    #[arg(value_name = "DIR")]
    pub run: PathBuf,
    /// Where the page goes [default: report.html in the folder]
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
}
