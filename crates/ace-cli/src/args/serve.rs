//! `ace serve` and `ace worker`: what they offer, to whom, and how much of it.

use super::values::{at_least_one, dtype, packing};
use crate::model::ModelArgs;
use ace_nn::weight::Packing;
use burn::tensor::FloatDType;
use clap::Args;
use std::{net::SocketAddr, path::PathBuf};

const EXAMPLES: &str = "\
Opens a page in which one paints the mask, OpenAI's images API under /v1, and jobs under /ace/v1. docs/server.md says more.

Examples:
  ace serve                                               the miniature, for this machine alone
  ace serve --model ace-plus-portrait --weights DIR       another model
  ace serve --lora glass=glass.safetensors:0.8            an adapter that clients can ask for
  ace serve --listen 0.0.0.0:8080 --token SECRET          for others: a token is compulsory then
  ace serve --queue nats://queue:4222                     a front: workers elsewhere make the pictures";

const WORKER_EXAMPLES: &str = "\
Takes jobs that `ace serve --queue` has accepted, of the models named here. Say the same --model, --also and --lora on all
fronts and workers. docs/scaling.md says more.

Examples:
  ace worker --queue nats://queue:4222                            the miniature
  ace worker --queue nats://queue:4222 --model ace-plus-portrait --weights DIR --backend cuda";

/// `ace serve`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArgs {
    #[command(flatten)]
    pub models: ModelsArgs,
    /// MobileSAM's weights, as safetensors: a click on the picture then becomes a mask
    #[arg(long, value_name = "FILE")]
    pub segmenter: Option<PathBuf>,
    /// Where to listen
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,
    /// Answer only those who send this token; compulsory for any address but loopback. May be said several times
    /// [default: ACE_TOKEN of the environment]
    #[arg(long, value_name = "TOKEN")]
    pub token: Vec<String>,
    /// Another name by which this server may be called
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// Folder of the queue, which survives a restart
    #[arg(long, value_name = "DIR", default_value = "out/serve")]
    pub state: PathBuf,
    /// Keep the queue in NATS instead, where several servers and workers share it; this server then makes nothing itself
    #[arg(long, value_name = "nats://HOST:PORT", conflicts_with = "state")]
    pub queue: Option<String>,
    /// Jobs that wait at most; others are asked to come again
    #[arg(long, value_name = "JOBS", default_value_t = 64, value_parser = at_least_one)]
    pub max_queue: usize,
    /// Pixels of one picture at most
    #[arg(long, value_name = "PIXELS", default_value_t = 4_194_304)]
    pub max_pixels: u64,
    /// Megabytes of one request at most
    #[arg(long, value_name = "MB", default_value_t = 64, value_parser = at_least_one)]
    pub max_body: usize,
    /// Minutes for which pictures that were made are kept
    #[arg(long, value_name = "MINUTES", default_value_t = 60)]
    pub keep_for: u64,
    #[command(flatten)]
    pub making: MakingArgs,
}

/// `ace worker`.
#[derive(Debug, Clone, Args)]
#[command(after_help = WORKER_EXAMPLES)]
pub struct WorkerArgs {
    /// Where the queue is
    #[arg(long, value_name = "nats://HOST:PORT")]
    pub queue: String,
    #[command(flatten)]
    pub models: ModelsArgs,
    #[command(flatten)]
    pub making: MakingArgs,
}

/// What clients can ask for.
#[derive(Debug, Clone, Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    /// Serve this card or folder, too; clients ask for it by its name. May be said several times
    #[arg(long, value_name = "NAME|DIR")]
    pub also: Vec<String>,
    /// An adapter that clients can ask for, for the first model. May be said several times
    #[arg(long, value_name = "[NAME=]FILE[:WEIGHT]")]
    pub lora: Vec<String>,
}

/// How pictures are made.
#[derive(Debug, Clone, Args)]
pub struct MakingArgs {
    /// Seconds that one job may take [default: any]
    #[arg(long, value_name = "SECONDS")]
    pub max_seconds: Option<u64>,
    /// Models kept in memory at most; adapters on top of one share its numbers
    #[arg(long, value_name = "MODELS", default_value_t = 2, value_parser = at_least_one)]
    pub keep_models: usize,
    /// Pictures of one shape that are made together at most, as far as there is memory; more than 1 moves last bits, so
    /// that a pixel may differ by a level [default: 1 on the processor, 4 on a card]
    #[arg(long, value_name = "PICTURES", value_parser = at_least_one)]
    pub batch: Option<usize>,
    /// Seconds that a job which is being made has when the program is told to stop
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u64,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
    /// Numbers of transformer and text encoders: f32, bf16 or f16
    #[arg(long, value_name = "NAME", value_parser = dtype)]
    pub dtype: Option<FloatDType>,
    /// Pack the matrices of blocks when they are read: q8_0, q6_k, q5_k, q4_k, q4_0, nf4 or fp8
    #[arg(long, value_name = "NAME", value_parser = packing)]
    pub quantize: Option<Packing>,
    /// Read one network after the other, so that the largest alone must fit in memory
    #[arg(long)]
    pub low_memory: bool,
    /// Write the log as lines of JSON
    #[arg(long)]
    pub log_json: bool,
}
