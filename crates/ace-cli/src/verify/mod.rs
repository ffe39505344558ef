//! `ace verify`: every network and formula of this program against recordings of the reference implementations.
//!
//! The recordings (`tests/data/parity`, made by `tests/reference/record.py` and `record_samplers.py`) hold the weights, inputs and outputs of
//! small random modules of diffusers, transformers and PEFT; where f32 is at its limits, the formula in f64 is the
//! reference. The recordings are part of the program, so that one file can be carried to a machine with a GPU and asked
//! whether it still computes there what the reference computes.

mod autoencoder;
mod caches;
mod flux;
mod formulas;
mod kernels;
mod lora;
mod miniature;
mod precision;
mod published;
mod recording;
mod sam;
mod text;
mod vision;

use ace_plus::Card;
use ace_weights::WeightFile;
use anyhow::{Context, Result};
use burn::tensor::Device;
use recording::Recording;
use std::path::Path;

/// Largest relative error in f32 on the CPU: the references sum in another order than we do, nothing else differs.
const CPU_BOUND: f64 = 1e-5;
/// Largest relative error elsewhere: matrix products of a GPU add in blocks, may run on tensor cores that keep 10 bits
/// of a factor, and its cosine of a large angle (guidance 50 is one of 50000) loses digits.
const ACCELERATOR_BOUND: f64 = 1e-3;
/// A whole edit passes a dozen steps through four networks, each of which passes on the error of the one before.
const EDIT_FACTOR: f64 = 20.0;

/// What one recording, or a formula in f64, says about one result of ours.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The recording, or the operation where the formula itself is the reference.
    pub name: &'static str,
    /// What was compared: "velocity", "gradients" and so on.
    pub what: String,
    /// `|ours − theirs| / |theirs|`, with the Euclidean norm.
    pub error: f64,
    /// What the error may be at most.
    pub bound: f64,
}

impl Case {
    /// Whether the error is within the bound; not a number is not.
    pub fn passed(&self) -> bool {
        self.error <= self.bound
    }
}

/// What a check found: what was compared, and its relative error.
type Findings = Vec<(String, f64)>;

/// One recording and who looks at it.
struct Check {
    name: &'static str,
    bytes: &'static [u8],
    run: fn(&Recording) -> Result<Findings>,
}

/// A [`Check`] with the recording of its name built in.
macro_rules! check {
    ($name:literal, $run:path) => {
        Check {
            name: $name,
            bytes: include_bytes!(concat!("../../../../tests/data/parity/", $name, ".safetensors")),
            run: $run,
        }
    };
}

/// Every recording, parts before wholes.
const CHECKS: &[Check] = &[
    check!("flux_double_block", flux::double_block),
    check!("flux_single_block", flux::single_block),
    check!("flux", flux::whole),
    check!("flux_dev", flux::whole),
    check!("autoencoder_resnet", autoencoder::resnet),
    check!("autoencoder_attention", autoencoder::attention),
    check!("autoencoder_downsample", autoencoder::downsample),
    check!("autoencoder_upsample", autoencoder::upsample),
    check!("autoencoder", autoencoder::whole),
    check!("t5_attention", text::t5_attention),
    check!("t5_feed_forward", text::t5_feed_forward),
    check!("t5", text::t5),
    check!("clip_layer", text::clip_layer),
    check!("clip", text::clip),
    check!("siglip", vision::tower),
    check!("dinov2", vision::dinov2),
    check!("clip_vision", vision::tower),
    check!("contour", vision::contour),
    check!("depth", vision::depth),
    check!("sam_encoder", sam::encoder),
    check!("sam_decoder", sam::decoder),
    check!("lora_linear", lora::linear),
    check!("fill_conditioning", formulas::fill_conditioning),
    check!("schedule", formulas::schedule),
    check!("schedules", formulas::schedules),
    check!("samplers", formulas::samplers),
    check!("caches", caches::walks),
    check!("miniature_edit", miniature::edit),
];

/// Runs every check on `device`, with the built-in recordings or those of a folder, and those that need none.
///
/// # Errors
/// If a recording cannot be read, does not fit our modules, or holds something that no check looked at.
pub fn run(device: &Device, recordings: Option<&Path>) -> Result<Vec<Case>> {
    let bound = bound(device);
    let mut cases = Vec::new();
    for check in CHECKS {
        let file = match recordings {
            Some(folder) => WeightFile::open(&folder.join(format!("{}.safetensors", check.name)))?,
            None => WeightFile::from_bytes(Path::new(check.name), check.bytes)?,
        };
        let recording = Recording::new(file, device)?;
        let findings = (check.run)(&recording)
            .and_then(|findings| recording.all_read().map(|()| findings))
            .with_context(|| format!("recording {}", check.name))?;
        let bound = if check.name == "miniature_edit" { EDIT_FACTOR * bound } else { bound };
        cases.extend(findings.into_iter().map(|(what, error)| Case { name: check.name, what, error, bound }));
    }
    let bound = precision::GROUP_NORM_BOUND;
    let findings = precision::group_norm(device);
    cases.extend(findings.into_iter().map(|(what, error)| Case { name: "group_norm", what, error, bound }));
    if let Some(cpu) = crate::device::cpu() {
        cases.extend(kernels::run(device, &cpu, self::bound(device)));
    }
    Ok(cases)
}

/// Blocks of the published size on `device` beside the CPU, with so many image tokens: see [`published`].
///
/// # Errors
/// If the CPU's backend is not part of this build, or a temporary file cannot be written.
pub fn published_size(device: &Device, tokens: usize) -> Result<Vec<Case>> {
    let cpu = crate::device::cpu().context("the CPU's backend, flex, is not part of this build")?;
    let card = Card::builtin("flux1-fill-dev").context("a card that is built in")?;
    published::run(&published::Sizes::of(&card), tokens, device, &cpu)
}

fn bound(device: &Device) -> f64 {
    if crate::device::is_cpu(device) { CPU_BOUND } else { ACCELERATOR_BOUND }
}
