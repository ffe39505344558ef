//! `ace sample`, and what of it others take: the way from noise to a picture.

use super::values::{
    above_zero, at_least_one, compat, dtype, dtype_name, finite, packing, placement, sampler, schedule, seed_noise,
};
use crate::{
    model::{Lora, ModelArgs},
    shard::Sharding,
};
use ace_nn::weight::Packing;
use ace_plus::{
    Compat, Placement, Request, SeedNoise,
    request::{InputFile, ModelRequest, PicturePromptRequest, RegionRequest},
    sample::{Cache, Sampler, Schedule},
};
use burn::tensor::FloatDType;
use clap::Args;
use std::path::PathBuf;

const SAMPLE_EXAMPLES: &str = "\
Without words and pictures it edits the example that is shipped with the miniature and draws a sheet of it.

Examples:
  ace sample -p \"a small red circle at the top left on a teal background\" --seed 3
  ace sample --task recolor --image in.png --mask mask.png -p \"make the circle green\" --sheet
  ace sample --lora out/train/lora/lora.safetensors:0.8 --reference item.png -p \"the item on a teal background\"
  ace sample --from out/sample.png --seed 4      as that picture was made, from another seed
  ace sample -p \"a blue star\" --count 4 --out out/star.png
  ace sample --prompts lines.txt --shard 2/3     the second of three machines; what is there is not made again
  ace sample --model ace-plus-portrait --reference me.jpg -p \"…\" --fetch --dtype bf16
  ace sample --noise noise.safetensors --save-latents latents.safetensors -p \"a blue star\"";

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
    /// Picture that is read as words are, for models with Redux on top (MODEL+redux), and how often its tokens (with the words) and
    /// the words' summary count [default: 1 each]; may be given several times
    #[arg(long = "picture-prompt", value_name = "FILE[:SCALE[:SUMMARY]]", value_parser = PictureWords::parse)]
    pub picture_prompts: Vec<PictureWords>,
    /// Width of a picture made from nothing, in pixels; beside --image for models that are shown it as it is, such as Kontext
    #[arg(long, requires = "height", value_name = "PIXELS")]
    pub width: Option<u32>,
    /// Its height
    #[arg(long, requires = "width", value_name = "PIXELS")]
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
    /// Make a share of the pictures, as 2/3 on the second of three machines; auto asks Slurm or Kubernetes which, auto/N of how
    /// many. Pictures that are there, and say that they were made as they would be now, are not made again
    #[arg(long, value_name = "I/N|auto", value_parser = Sharding::parse, conflicts_with = "plain")]
    pub shard: Option<Sharding>,
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
    /// Your own drawing of the image for tasks that want one: contours, depths [default: drawn by the task's annotator]
    #[arg(long, value_name = "FILE")]
    pub map: Option<PathBuf>,
    /// Weights of the network that draws the map, as ace annotate takes them
    #[arg(long, value_name = "FILE", conflicts_with = "map")]
    pub annotator: Option<PathBuf>,
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
    /// Widen weights of fewer than 16 bits once, when they are read: two to twelve times the memory, and products are exact
    #[arg(long)]
    pub widen: bool,
    /// Pack the blocks of transformer and text encoders when they are read: q8_0, q6_k, q5_k, q4_k, q4_0, nf4 or fp8
    #[arg(long, value_name = "NAME", value_parser = packing)]
    pub quantize: Option<Packing>,
    /// One network in memory at a time: the weights are read again for every picture. A name for --placement one-at-a-time
    #[arg(long, conflicts_with = "placement")]
    pub low_memory: bool,
    /// Where weights are: resident, one-at-a-time (as --low-memory), or streamed, which reads transformer and T5 block by block
    #[arg(long, value_name = "NAME", value_parser = placement)]
    pub placement: Option<Placement>,
    /// Hold the model so that an edit takes no more than this, as 6G or 800M; `ace plan sample` says how
    #[arg(long, value_name = "BYTES", value_parser = super::bench::memory, conflicts_with_all = ["placement", "low_memory"])]
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
            picture_prompts: self.picture_prompts.iter().map(|words| words.0.clone()).collect(),
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
    /// Skip steps that change little: 0.08 (a threshold for what the first block says), mag or mag:THRESHOLD (what the card says),
    /// taylor, taylor:INTERVAL or taylor:INTERVAL:ORDER (all but every so many-th); 0 skips none [default: 0]
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

/// A place of an image and what should be there.
#[derive(Debug, Clone, PartialEq)]
pub struct RegionWords {
    /// What to repaint.
    pub mask: PathBuf,
    /// What should be seen there.
    pub words: String,
}

/// A picture that is read as words are.
#[derive(Debug, Clone, PartialEq)]
pub struct PictureWords(pub PicturePromptRequest);

impl PictureWords {
    /// What stands behind a colon is a scale if it is a number.
    fn parse(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.parse::<f32>().ok().filter(|number| number.is_finite());
        let mut file = text;
        let mut scales = Vec::new();
        while let Some((rest, scale)) = file.rsplit_once(':').and_then(|(rest, last)| Some((rest, number(last)?)))
            && scales.len() < 2
        {
            scales.insert(0, scale);
            file = rest;
        }
        if file.is_empty() {
            return Err("a picture prompt is FILE, FILE:SCALE or FILE:SCALE:SUMMARY".to_owned());
        }
        let scale = |at: usize| scales.get(at).copied().unwrap_or(1.0);
        Ok(Self(PicturePromptRequest { picture: file.into(), scale: scale(0), pooled_scale: scale(1) }))
    }
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
