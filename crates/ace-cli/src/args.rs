//! What can be said on the command line. What is said here and cannot be, clap answers; the rest, the verbs.

mod bench;
mod mask;
mod sample;
mod serve;
mod train;
mod values;

pub use bench::{
    BenchArgs, BenchVerb, BlockArgs, EditBenchArgs, FluxBenchArgs, HeldArgs, PlanArgs, PlanSampleArgs, PlanVerb,
    T5BenchArgs, TimesArgs, VaeBenchArgs,
};
pub use mask::MaskArgs;
pub use sample::{CourseArgs, SampleArgs};
pub use serve::{MakingArgs, ModelsArgs, ServeArgs, WorkerArgs};
pub use train::{ReportArgs, TrainArgs};
pub use values::dtype_name;

use crate::model::{Lora, ModelArgs, Overrides};
use ace_weights::{
    Network,
    convert::{Format, Precision},
};
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use values::{at_least_one, format, network, precision};

const EXAMPLES: &str = "\
Examples:
  ace sample                                     edit a shipped picture with the shipped miniature
  ace sample --task recolor --image in.png --mask mask.png -p \"make the circle green\" --out o.png
  ace sample --reference item.png --image scene.png --mask m.png -p \"put the item in the box\"
  ace serve                                      a page in the browser, and an API
  ace train                                      a LoRA on the miniature, in minutes
  ace report out/train/tiny-restoration          a page on it
  ace eval --tasks recolor,fill                  judge it on examples it never saw
  ace verify                                     does this machine compute right?

Exit codes: 0 done, 1 failed, 2 misused.";

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
    /// Make a mask of what clicks or a box mean
    Mask(MaskArgs),
    /// Compare every network with its recording
    Verify(VerifyArgs),
    /// Edit picture after picture: turns, branches, replay
    Session(Box<SessionArgs>),
    /// Edits over HTTP: a page on which one paints the mask, OpenAI's API, jobs
    Serve(Box<ServeArgs>),
    /// Make the pictures that servers elsewhere have accepted: several machines, one queue
    Worker(Box<WorkerArgs>),
    /// Get what a card needs from the Hugging Face Hub
    Fetch(FetchArgs),
    /// Say what is missing or broken of a model, and what mends it
    Doctor(DoctorArgs),
    /// Say what a weight file is
    Inspect(InspectArgs),
    /// Write a network's weights, or a LoRA, in another spelling or precision
    Convert(ConvertArgs),
    /// Draw of a picture what an edit can keep: edges, greys, contours, depths
    Annotate(AnnotateArgs),
}

const ANNOTATE_EXAMPLES: &str = "\
canny, gray and mosaic need nothing more. contour and depth are networks: their weights are looked for in models/annotators and in the
Hugging Face cache (models/README.md says where they are published).

Examples:
  ace annotate canny in.png -o edges.png
  ace annotate depth in.png -o depth.png --fetch
  ace annotate contour in.png -o contour.png --annotator informative_drawing_contour_style.pth";

/// `ace annotate`.
#[derive(Debug, Args)]
#[command(after_help = ANNOTATE_EXAMPLES)]
pub struct AnnotateArgs {
    /// gray, mosaic, canny, contour or depth
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Picture to look at
    #[arg(value_name = "FILE")]
    pub image: PathBuf,
    /// PNG to write
    #[arg(short, long, value_name = "PNG", default_value = "out/annotate.png")]
    pub out: PathBuf,
    /// Weights of an annotator that is a network: safetensors, or a .pth as it is published
    #[arg(long, value_name = "FILE")]
    pub annotator: Option<PathBuf>,
    /// Get its weights from the Hugging Face Hub if they are missing
    #[arg(long)]
    pub fetch: bool,
    /// Where to compute: flex, wgpu, vulkan, metal, cuda or rocm, as far as compiled in
    #[arg(long, value_name = "NAME")]
    pub backend: Option<String>,
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
    /// Instead, blocks as wide as the published ones beside the CPU, and what memory they take of the device (4 GB, minutes)
    #[arg(long, conflicts_with = "recordings")]
    pub published_size: bool,
    /// Image tokens of these blocks
    #[arg(long, value_name = "N", default_value_t = 64, requires = "published_size", value_parser = clap::value_parser!(u32).range(1..))]
    pub tokens: u32,
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
  ace convert flux1-fill-dev.safetensors transformer --format diffusers
  ace convert informative_drawing_contour_style.pth informative_drawing_contour_style.safetensors";

/// `ace convert`.
#[derive(Debug, Args)]
#[command(after_help = CONVERT_EXAMPLES)]
pub struct ConvertArgs {
    /// safetensors or GGUF file, .pth as torch.save writes it, index of several, or folder with one of them
    pub input: PathBuf,
    /// File to write; for diffusers a folder
    pub output: PathBuf,
    /// Whose keys: bfl, diffusers or comfyui [default: as they are]
    #[arg(long, value_name = "NAME", value_parser = format)]
    pub format: Option<Format>,
    /// How to store numbers: f32, bf16, f16, or fp8 (F8_E4M3 without scales; biases and norms stay); or, in a GGUF file, q8_0, q6_k, q5_k,
    /// q4_k or q4_0 [default: as they are]
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
    /// Built-in card by its name, NAME+ADDITION, or a folder with a card.toml
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
        assert!(fails(&["--width", "64"]));
        assert!(fails(&["--guidance", "nan"]));
        assert!(!fails(&["--width", "64", "--height", "64"]));
    }
}
