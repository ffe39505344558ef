//! What can be said on the command line. What is said here and cannot be, clap answers; the rest, the verbs.

mod bench;
mod train;

pub use bench::{
    BenchArgs, BenchVerb, BlockArgs, EditBenchArgs, FluxBenchArgs, HeldArgs, PlanArgs, PlanSampleArgs, PlanVerb,
    T5BenchArgs, TimesArgs, VaeBenchArgs,
};
pub use train::{ReportArgs, TrainArgs};

use crate::model::{Lora, ModelArgs, Overrides};
use ace_nn::weight::Packing;
use ace_plus::{
    Compat, Placement, Request, SeedNoise,
    request::{DTYPES, InputFile, ModelRequest, RegionRequest},
    sample::{Cache, Sampler, Schedule},
};
use ace_weights::{
    Network,
    convert::{Format, Precision},
};
use burn::tensor::FloatDType;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  ace sample                                     edit a shipped picture with the shipped miniature
  ace sample --task recolor --image in.png --mask mask.png -p \"make the circle green\" --out o.png
  ace sample --reference item.png --image scene.png --mask m.png -p \"put the item in the box\"
  ace train                                      a LoRA on the miniature, in minutes
  ace report out/train/tiny-subject              a page on it
  ace eval --tasks recolor,fill                  judge it on examples it never saw
  ace verify                                     does this machine compute right?

Exit codes: 0 done, 1 failed, 2 misused.";

const SAMPLE_EXAMPLES: &str = "\
Without words and pictures it edits the example that is shipped with the miniature and draws a sheet of it.

Examples:
  ace sample -p \"a small red circle at the top left on a teal background\" --seed 3
  ace sample --task recolor --image in.png --mask mask.png -p \"make the circle green\" --sheet
  ace sample --lora out/train/lora/lora.safetensors:0.8 --reference item.png -p \"the item on a teal background\"
  ace sample --from out/sample.png --seed 4      as that picture was made, from another seed
  ace sample -p \"a blue star\" --count 4 --out out/star.png
  ace sample --model ace-plus-portrait --reference me.jpg -p \"…\" --fetch --dtype bf16
  ace sample --noise noise.safetensors --save-latents latents.safetensors -p \"a blue star\"";

const EVAL_EXAMPLES: &str = "\
Every task is judged on examples that no training saw. Beside the model stand the input returned unchanged, and the
ceiling: the exact answer through the autoencoder.

Examples:
  ace eval
  ace eval --tasks subject --lora out/train/subject/lora.safetensors --json out/subject.json
  ace eval --steps 4 --sampler unipc --per-task 16      what fewer steps cost (docs/sampling.md)";

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
    Train(Box<TrainArgs>),
    /// Look at examples before training on them
    #[command(subcommand)]
    Data(DataVerb),
    /// Write a page on a training: losses, previews, settings, speed
    Report(ReportArgs),
    /// Say beforehand what something takes
    Plan {
        /// What is planned.
        #[command(subcommand)]
        what: PlanVerb,
    },
    /// Measure how fast something is
    Bench {
        /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
        // Before or behind what is measured.
        #[arg(long, value_name = "NAME", global = true)]
        backend: Option<String>,
        /// What is measured.
        #[command(subcommand)]
        what: BenchVerb,
    },
    /// Judge a model on held-out examples, task by task
    Eval(EvalArgs),
    /// Measure what --cache mag wants to know of a model; options as those of sample
    Calibrate(Box<SampleArgs>),
    /// Compare every network with its recording
    Verify(VerifyArgs),
    /// Edit picture after picture: turns, branches, replay
    Session(Box<SessionArgs>),
    /// Get what a card needs from the Hugging Face Hub
    Fetch(FetchArgs),
    /// Say what is missing or broken of a model, and what mends it
    Doctor(DoctorArgs),
    /// Say what a weight file is
    Inspect(InspectArgs),
    /// Write a network's weights, or a LoRA, in another spelling or precision
    Convert(ConvertArgs),
}

/// `ace sample`.
#[derive(Debug, Clone, Args)]
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
    /// What to repaint of it: white on black, or painted on transparent; without it everything
    #[arg(long, value_name = "FILE")]
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
    /// The noise follows from it, the same on every backend; several, separated by commas, make a picture each [default: 0]
    #[arg(long, value_name = "N", value_delimiter = ',')]
    pub seed: Vec<u64>,
    /// So many pictures, with this seed and those that follow
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: u64,
    /// One picture for each line of a text file, instead of --prompt; empty lines and those that begin with # are none
    #[arg(long, value_name = "FILE", conflicts_with = "prompt")]
    pub prompts: Option<PathBuf>,
    /// Make a picture again from what is written in it; whatever else is said here replaces what was said then
    #[arg(long, value_name = "PNG")]
    pub from: Option<PathBuf>,
    /// With --from: go on although weights have changed since
    #[arg(long, requires = "from")]
    pub anyway: bool,
    /// Write nothing into the picture on how it was made
    #[arg(long)]
    pub plain: bool,
    /// Draw the seed's noise as another program does: torch (its generator on a CPU in f32, as diffusers begins)
    #[arg(long, value_name = "NAME", value_parser = seed_noise)]
    pub seed_compat: Option<SeedNoise>,
    /// Steps from noise to the picture [default: the card's]
    #[arg(long, value_name = "N")]
    pub steps: Option<usize>,
    #[command(flatten)]
    pub course: CourseArgs,
    /// Guidance that is embedded [default: the card's]
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub guidance: Option<f32>,
    /// What is blanked under the mask: 1 hides it from the network, 0 shows it [default: the task's, or 1]
    #[arg(long, value_name = "X", value_parser = finite, allow_negative_numbers = true)]
    pub repainting_scale: Option<f32>,
    /// Your own drawing of the image for tasks that want one: contours, depths
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// One of several places of the image with words of its own, one after the other; instead of --mask and --prompt
    #[arg(long = "region", value_name = "MASK=TEXT", value_parser = RegionWords::parse,
          conflicts_with_all = ["mask", "prompt", "prompts", "map"])]
    pub regions: Vec<RegionWords>,
    /// Pixels outside the mask over which the edit fades into the image [default: 0]
    #[arg(long, value_name = "PIXELS")]
    pub feather: Option<u32>,
    /// Take the decoded pixels everywhere instead of keeping the image's own where the mask is black
    #[arg(long)]
    pub no_keep_outside: bool,
    /// Prepare and finish to the letter as another program does: diffusers (plain FLUX-Fill), official (ACE++)
    #[arg(long, value_name = "NAME", value_parser = compat)]
    pub compat: Option<Compat>,
    /// Where the picture goes, a PNG; several get their line and seed behind the name, as o-2-seed7.png
    #[arg(long, default_value = "out/sample.png", value_name = "FILE")]
    pub out: PathBuf,
    /// Draw inputs and output side by side [default file: beside --out, named -sheet.png]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    #[allow(clippy::option_option)] // absent, present, present with a name: clap's own spelling of the three
    pub sheet: Option<Option<PathBuf>>,
    /// Initial noise instead of the seed's: safetensors with `noise`, `[1,16,h,w]` or packed `[1,L,64]`
    #[arg(long, value_name = "FILE")]
    pub noise: Option<PathBuf>,
    /// Numbers of transformer and text encoders: f32, bf16 or f16, as far as the device computes in them [default: f32]
    #[arg(long, value_name = "NAME", value_parser = dtype)]
    pub dtype: Option<FloatDType>,
    /// Widen weights of a GGUF file in Q8_0 or Q4_0 once, when they are read: faster, and two to seven times the memory
    #[arg(long)]
    pub widen: bool,
    /// Pack the blocks of transformer and text encoders when they are read: q8_0, q4_0 or nf4
    #[arg(long, value_name = "NAME", value_parser = packing)]
    pub quantize: Option<Packing>,
    /// One network in memory at a time: the weights are read again for every picture. A name for --placement one-at-a-time
    #[arg(long, conflicts_with = "placement")]
    pub low_memory: bool,
    /// Where weights are: resident, one-at-a-time (as --low-memory), or streamed, which reads transformer and T5 block by block
    #[arg(long, value_name = "NAME", value_parser = placement)]
    pub placement: Option<Placement>,
    /// Hold the model so that an edit takes no more than this, as 6G or 800M; `ace plan sample` says how
    #[arg(long, value_name = "BYTES", value_parser = bench::memory, conflicts_with_all = ["placement", "low_memory"])]
    pub memory: Option<u64>,
    /// Encode the words again, even if their embeddings are kept from before
    #[arg(long)]
    pub no_text_cache: bool,
    /// Encode and decode pictures in tiles of at most so many pixels along a side: memory is then that of one tile
    #[arg(long, value_name = "PIXELS")]
    pub tile: Option<u32>,
    /// Fetch from the Hugging Face Hub what is missing of the model
    #[arg(long)]
    pub fetch: bool,
    /// Write the final latents: safetensors with `latents` `[1,16,h,w]` and `tokens` `[1,L,64]`
    #[arg(long, value_name = "FILE")]
    pub save_latents: Option<PathBuf>,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
}

impl SampleArgs {
    /// What is asked for, but for how many pictures and where they go.
    pub fn request(&self) -> Request {
        let file = |path: &Option<PathBuf>| path.clone().map(InputFile::from);
        let region = |region: &RegionWords| RegionRequest {
            mask: region.mask.clone().into(),
            instruction: region.words.clone(),
        };
        Request {
            model: ModelRequest {
                loras: self.lora.iter().map(Lora::request).collect(),
                dtype: self.dtype.map(|dtype| dtype_name(dtype).to_owned()),
                widen: self.widen.then_some(true),
                quantize: self.quantize.map(|packing| packing.name().to_owned()),
                placement: self.placement.or(self.low_memory.then_some(Placement::OneAtATime)),
                ..self.model.request()
            },
            instruction: self.prompt.clone(),
            task: self.task.clone(),
            image: file(&self.image),
            mask: file(&self.mask),
            references: self.references.iter().cloned().map(InputFile::from).collect(),
            map: file(&self.map),
            regions: self.regions.iter().map(region).collect(),
            size: self.width.zip(self.height),
            seed: self.seed.first().copied(),
            seed_noise: self.seed_compat,
            noise: file(&self.noise),
            num_steps: self.steps,
            guidance: self.guidance,
            repainting_scale: self.repainting_scale,
            keep_outside: self.no_keep_outside.then_some(false),
            feather: self.feather,
            tile: self.tile,
            compat: self.compat,
            ..self.course.request()
        }
    }
}

/// How steps go from noise to the picture; docs/sampling.md compares.
#[derive(Debug, Clone, Default, Args)]
pub struct CourseArgs {
    /// How a step is taken: euler, heun (asks the network twice), dpmpp-2m, dpmpp-2m-comfy, unipc or lcm [default: the card's]
    #[arg(long, value_name = "NAME", value_parser = sampler)]
    pub sampler: Option<Sampler>,
    /// How their times are spread: flux, simple, normal, sgm-uniform, beta, beta-comfy, linear-quadratic, kl-optimal, karras
    /// or exponential [default: the card's]
    #[arg(long, value_name = "NAME", value_parser = schedule)]
    pub schedule: Option<Schedule>,
    /// How far the times are shifted towards noise, the same for pictures of any size; 1 shifts nothing [default: the card's]
    #[arg(long, value_name = "X", value_parser = above_zero)]
    pub shift: Option<f64>,
    /// Skip steps that change little: 0.08 (a threshold for what the first block says), mag[:THRESHOLD] (what the card says),
    /// taylor[:INTERVAL[:ORDER]] (all but every so many-th); 0 skips none [default: 0]
    #[arg(long, value_name = "HOW")]
    pub cache: Option<Cache>,
    /// Ask the network for what is outside the mask at every K-th step only; not together with --cache
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    pub masked_steps: Option<usize>,
}

impl CourseArgs {
    /// What is asked for of a way.
    pub fn request(&self) -> Request {
        let Self { sampler, schedule, shift, cache, masked_steps } = *self;
        Request { sampler, schedule, shift, cache, masked_steps, ..Request::default() }
    }
}

const DATA_EXAMPLES: &str = "\
Examples are any of:
  a file of JSON lines, {\"target\": …, \"instruction\": …}, and if wanted image, mask, references, task, repainting_scale
  a folder of pictures with captions beside them, NAME.png and NAME.txt
  a folder with before/NAME.png, after/NAME.png and after/NAME.txt, and if wanted mask/NAME.png and reference/NAME.png;
    or NAME_start.png, NAME_end.png and NAME.txt
  a list of ACE++'s own trainer, six fields between #;# on a line

Exit code 1 if there is one that cannot be used.";

/// `ace data`.
#[derive(Debug, Subcommand)]
pub enum DataVerb {
    /// Find every example that cannot be used, and count the rest
    Check(DataCheckArgs),
}

/// `ace data check`.
#[derive(Debug, Args)]
#[command(after_help = DATA_EXAMPLES)]
pub struct DataCheckArgs {
    /// List or folder of examples, as `ace train --data` takes it
    #[arg(value_name = "FILE|DIR")]
    pub path: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
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
    /// Steps from noise to a picture [default: the card's]
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub steps: Option<usize>,
    #[command(flatten)]
    pub course: CourseArgs,
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

/// `ace inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// safetensors or GGUF file, index of several, or folder with one of them
    #[arg(value_name = "FILE|DIR")]
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

const CONVERT_EXAMPLES: &str = "\
Memory is that of a few tensors, whatever the file. What is there is replaced only with --force, and only by a whole file.

Examples:
  ace convert flux1-fill-dev-Q8_0.gguf flux1-fill-dev.safetensors --format bfl
  ace convert FLUX.1-Fill-dev/transformer flux1-fill-dev-fp8.safetensors --format comfyui --dtype fp8
  ace convert flux1-fill-dev.safetensors transformer --format diffusers";

/// `ace convert`.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct ConvertArgs {
    /// safetensors or GGUF file, index of several, or folder with one of them
    pub input: PathBuf,
    /// File to write; for diffusers a folder
    pub output: PathBuf,
    /// Whose keys: bfl, diffusers or comfyui [default: as they are]
    #[arg(long, value_name = "NAME", value_parser = format)]
    pub format: Option<Format>,
    /// How to store numbers: f32, bf16, f16, or fp8 (F8_E4M3 without scales; biases and norms stay) [default: as they are]
    #[arg(long, value_name = "NAME", value_parser = precision)]
    pub dtype: Option<Precision>,
    /// Which network of a file with several: flux, autoencoder, t5 or clip
    #[arg(long, value_name = "NAME", value_parser = network)]
    pub network: Option<Network>,
    /// Card or folder of the model, for diffusers' config.json of other sizes than FLUX.1's
    #[arg(long, value_name = "NAME|DIR")]
    pub card: Option<PathBuf>,
    /// The most megabytes of one of diffusers' files
    #[arg(long, default_value_t = 10_000, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
    pub shard_size: u64,
    /// Replace what is there
    #[arg(long)]
    pub force: bool,
}

/// A place of an image and what should be there.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionWords {
    /// What to repaint.
    pub mask: PathBuf,
    /// What should be seen there.
    pub words: String,
}

impl RegionWords {
    fn parse(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((mask, words)) if !mask.is_empty() && !words.trim().is_empty() => {
                Ok(Self { mask: mask.into(), words: words.trim().to_owned() })
            }
            _ => Err("a region is MASK=TEXT".to_owned()),
        }
    }
}

const SESSION_EXAMPLES: &str = "\
A turn edits the picture of the turn before it, and has all the options of `ace sample`. {image1} in the words is the
picture of turn 1, as a reference. Without words for a turn, turns are read line by line: options as above, or plain
words; `undo`, `at N` and `log` are understood too.

Examples:
  ace session chat -p \"a small red circle at the top left on a teal background\"
  ace session chat --task recolor --mask m.png -p \"make the circle green\"
  ace session chat --at 1 --task recolor --mask m.png -p \"make the circle blue\"      another branch
  ace session chat --replay                      does every turn come out the same, byte by byte?";

/// `ace session`.
#[derive(Debug, Args)]
#[command(after_help = SESSION_EXAMPLES)]
pub struct SessionArgs {
    /// Folder of the session; made if it is not there
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Go on from this turn; 0 is before the first
    #[arg(long, value_name = "N")]
    pub at: Option<usize>,
    /// Go back to the turn before
    #[arg(long, conflicts_with = "at")]
    pub undo: bool,
    /// List the turns
    #[arg(long)]
    pub log: bool,
    /// Make every turn again, and compare
    #[arg(long, conflicts_with_all = ["at", "undo", "log"])]
    pub replay: bool,
    /// Begin a new picture instead of editing the last
    #[arg(long)]
    pub new: bool,
    #[command(flatten)]
    pub turn: SampleArgs,
}

/// One line of a session.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
pub struct SessionLine {
    /// Begin a new picture instead of editing the last
    #[arg(long)]
    pub new: bool,
    #[command(flatten)]
    pub turn: SampleArgs,
}

/// `ace fetch`.
#[derive(Debug, Args)]
pub struct FetchArgs {
    /// Built-in card by its name, or a folder with a card.toml
    #[arg(value_name = "CARD")]
    pub card: String,
    /// Folder in which files need not be fetched
    #[arg(long, value_name = "DIR")]
    pub weights: Option<PathBuf>,
    /// Read what is there, and fetch again what does not have the digest that it should
    #[arg(long)]
    pub verify: bool,
}

/// `ace doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Built-in card by its name, or a folder with a model
    #[arg(value_name = "CARD|DIR", default_value = ace_plus::model::DEFAULT)]
    pub card: String,
    /// Folder of the weights that the card names [default: the card's own folder, then the Hugging Face cache]
    #[arg(long, value_name = "DIR")]
    pub weights: Option<PathBuf>,
    #[command(flatten)]
    pub overrides: Overrides,
    /// Do not read whole files for their digests
    #[arg(long)]
    pub quick: bool,
}

/// A kind of numbers by its name.
pub fn dtype(name: &str) -> Result<FloatDType, String> {
    let found = DTYPES.iter().find_map(|(known, dtype)| (*known == name).then_some(*dtype));
    found.ok_or_else(|| format!("known are: {}", DTYPES.map(|(known, _)| known).join(", ")))
}

/// The name of a kind of numbers.
pub fn dtype_name(dtype: FloatDType) -> &'static str {
    DTYPES.iter().find_map(|(name, known)| (*known == dtype).then_some(*name)).unwrap_or("f32")
}

/// A packing by its name.
fn packing(name: &str) -> Result<Packing, String> {
    named(name, &Packing::WRITTEN.map(|packing| (packing.name(), packing)))
}

/// A placement by its name.
fn placement(name: &str) -> Result<Placement, String> {
    named(name, &Placement::ALL)
}

/// A sampler by its name.
fn sampler(name: &str) -> Result<Sampler, String> {
    named(name, &Sampler::ALL)
}

/// A schedule by its name.
fn schedule(name: &str) -> Result<Schedule, String> {
    named(name, &Schedule::ALL)
}

/// A format by its name.
fn format(name: &str) -> Result<Format, String> {
    named(name, &Format::ALL)
}

/// A precision by its name.
fn precision(name: &str) -> Result<Precision, String> {
    named(name, &Precision::ALL)
}

/// A network by the word that cards have for it.
fn network(name: &str) -> Result<Network, String> {
    named(name, &Network::ALL.map(|network| (network.word(), network)))
}

/// What has a name.
fn named<T: Copy>(name: &str, all: &[(&str, T)]) -> Result<T, String> {
    let found = all.iter().find_map(|(known, value)| (*known == name).then_some(*value));
    let known = || all.iter().map(|(known, _)| *known).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("known are: {}", known()))
}

/// Another program by its name.
fn compat(name: &str) -> Result<Compat, String> {
    let known = || Compat::ALL.map(|(known, _)| known).join(", ");
    Compat::from_name(name).ok_or_else(|| format!("known are: {}", known()))
}

/// Another program's generator by its name.
fn seed_noise(name: &str) -> Result<SeedNoise, String> {
    if name == "torch" { Ok(SeedNoise::Torch) } else { Err("known is: torch".to_owned()) }
}

/// A count that is not 0.
fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count) if count > 0 => Ok(count),
        _ => Err("choose 1 or more".to_owned()),
    }
}

/// A number above 0.
fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() && value > 0.0 => Ok(value),
        _ => Err("not a number above 0".to_owned()),
    }
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
    fn a_size_needs_no_image_and_both_sides() {
        let fails = |words: &[&str]| Cli::try_parse_from([&["ace", "sample"], words].concat()).is_err();
        assert!(fails(&["--image", "i.png", "--width", "64", "--height", "64"]));
        assert!(fails(&["--width", "64"]));
        assert!(fails(&["--guidance", "nan"]));
        assert!(!fails(&["--width", "64", "--height", "64"]));
    }
}
