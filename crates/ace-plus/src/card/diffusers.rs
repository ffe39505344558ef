//! A model folder in diffusers' layout as a card: everything is read from its own `config.json` files.
//!
//! Published: the folders of FLUX.1 and of its Fill, Kontext and Control models (`model_index.json`, `transformer/`, `vae/`,
//! `text_encoder/` CLIP, `text_encoder_2/` T5, `tokenizer/`, `tokenizer_2/`, `scheduler/`). The class of the pipeline says
//! what the network is shown. A folder that says something that we would compute differently is refused, not misread.

use super::{Card, Sampling, TextPolicy, WeightPaths};
use crate::{
    Error, Result,
    canvas::{CanvasPolicy, Layout, OfficialBytes, ReferenceFit},
    latents::PATCH,
    sample::{Sampler, Schedule, Shift},
    unit::{Condition, Join, Positions, UnitPolicy},
};
use ace_nn::{autoencoder::AutoEncoderConfig, flux::FluxConfig};
use ace_weights::network::{self, read_config};
use serde::Deserialize;
use std::path::Path;

/// The file that makes a folder one of diffusers'.
pub(super) const INDEX: &str = "model_index.json";
/// T5 tokens of ACE++ and of diffusers' pipelines.
const T5_MAX_LENGTH: usize = 512;

/// `scheduler/scheduler_config.json`; absent fields have diffusers' defaults.
#[derive(Deserialize)]
struct Scheduler {
    #[serde(default = "one_f64")]
    shift: f64,
    #[serde(default)]
    use_dynamic_shifting: bool,
    #[serde(default = "base_shift")]
    base_shift: f64,
    #[serde(default = "max_shift")]
    max_shift: f64,
    #[serde(default = "base_len")]
    base_image_seq_len: f64,
    #[serde(default = "max_len")]
    max_image_seq_len: f64,
    #[serde(default = "exponential")]
    time_shift_type: String,
    shift_terminal: Option<f64>,
    #[serde(default)]
    invert_sigmas: bool,
    #[serde(default)]
    use_karras_sigmas: Option<bool>,
    #[serde(default)]
    use_exponential_sigmas: Option<bool>,
    #[serde(default)]
    use_beta_sigmas: Option<bool>,
    #[serde(default)]
    stochastic_sampling: bool,
}

/// `tokenizer/tokenizer_config.json`.
#[derive(Deserialize)]
struct TokenizerConfig {
    model_max_length: Option<f64>,
}

/// `model_index.json`.
#[derive(Deserialize)]
struct Index {
    #[serde(rename = "_class_name", default)]
    class: String,
}

/// What follows from the class of the pipeline.
struct Kind {
    unit: UnitPolicy,
    num_steps: usize,
    guidance: f32,
    /// Sizes that pictures are brought to.
    sizes: Vec<(u32, u32)>,
}

impl Kind {
    /// Steps and guidance are the pipeline's defaults, or what its documentation takes where it distils or edits.
    fn of(class: &str, flux: &FluxConfig, autoencoder: &AutoEncoderConfig) -> std::result::Result<Self, String> {
        let unit = |conditions, join| UnitPolicy { conditions, join, positions: Positions::default() };
        let plain = |unit| Self { unit, num_steps: 28, guidance: 3.5, sizes: Vec::new() };
        Ok(match class {
            "FluxPipeline" if !flux.guidance_embed => {
                Self { num_steps: 4, guidance: 0.0, ..plain(unit(Vec::new(), Join::Channels)) }
            }
            "FluxPipeline" => plain(unit(Vec::new(), Join::Channels)),
            "FluxControlPipeline" => plain(unit(vec![Condition::Image], Join::Channels)),
            "FluxKontextPipeline" => {
                let published = Card::builtin("flux1-kontext-dev").map_err(|error| error.to_string())?;
                let unit = unit(vec![Condition::Image], Join::Context);
                Self { guidance: published.sampling.guidance, sizes: published.canvas.sizes, ..plain(unit) }
            }
            // FLUX-Fill's own defaults in diffusers; ACE++'s adapters want 28 steps and a guidance of 50.
            _ => Self { num_steps: 50, guidance: 30.0, ..plain(filling(flux, autoencoder)?) },
        })
    }
}

/// The card of such a folder.
pub(super) fn card(folder: &Path) -> Result<Card> {
    let Index { class } = read_config(&folder.join(INDEX))?;
    let transformer = network::flux::from_config(&folder.join("transformer/config.json"))?;
    let autoencoder = network::autoencoder::from_config(&folder.join("vae/config.json"))?;
    let (clip, clip_end_id) = network::clip::from_config(&folder.join("text_encoder/config.json"))?;
    let t5 = network::t5::from_config(&folder.join("text_encoder_2/config.json"))?;
    let (schedule, shift) = times(&folder.join("scheduler/scheduler_config.json"))?;
    let cell = autoencoder.downscale();
    let Kind { unit, num_steps, guidance, sizes } = Kind::of(&class, &transformer, &autoencoder)
        .map_err(|problem| Error::format(&folder.join("transformer/config.json"), problem, HINT))?;
    let tokenizer: TokenizerConfig = read_config(&folder.join("tokenizer/tokenizer_config.json"))?;
    let name = folder.file_name().map_or("diffusers".to_owned(), |name| name.to_string_lossy().into_owned());
    let change_image = unit.wants_change_image();
    // FLUX.1-schnell reads half as many words.
    let transformer_is_distilled = !transformer.guidance_embed;
    // What a mask leaves is matched to what is around it, where the network has seen that.
    let match_colours = unit.shown().is_none();
    // Pictures that are shown as they are stand each for itself.
    let layout = if match_colours { Layout::Canvas } else { Layout::Sequence };
    Ok(Card {
        name,
        description: "a folder in diffusers' layout".into(),
        licence: "as its source says".into(),
        weights: WeightPaths {
            flux: "transformer".into(),
            autoencoder: "vae".into(),
            t5: "text_encoder_2".into(),
            clip: "text_encoder".into(),
            vision: None,
            redux: None,
        },
        flux: transformer,
        autoencoder,
        t5,
        clip,
        vision: None,
        text: TextPolicy {
            t5_tokenizer: "tokenizer_2/tokenizer.json".into(),
            clip_tokenizer: "tokenizer".into(),
            t5_max_length: if transformer_is_distilled { T5_MAX_LENGTH / 2 } else { T5_MAX_LENGTH },
            placeholders: Vec::new(),
            prepend: None,
            // "No limit" is written as a number of 31 digits.
            clip_max_length: tokenizer.model_max_length.filter(|most| *most < 1e6).map(|most| most as usize),
            clean: false,
            clip_end_id: Some(clip_end_id),
        },
        // FLUX-Fill's and the ACE++ LoRAs' preparation, as its released programs do it.
        canvas: CanvasPolicy {
            max_seq_len: 4096,
            max_aspect_ratio: 4.0,
            reference_fit: ReferenceFit::Height,
            change_image,
            official_bytes: OfficialBytes::default(),
            seam_crop: 30,
            match_colours,
            layout,
            token: cell * PATCH,
            sizes,
        },
        widen_from: None,
        unit,
        sampling: Sampling {
            num_steps,
            guidance,
            size: (128 * cell as u32, 128 * cell as u32),
            sampler: Sampler::Euler,
            schedule,
            shift,
            mag_ratios: Vec::new(),
        },
        adapter: Vec::new(),
        repository: Vec::new(),
        domain: None,
        task: Vec::new(),
    })
}

const HINT: &str =
    "folders of FLUX.1 and of its Fill, Kontext and Control models are read, in the layout that diffusers writes";

fn times(path: &Path) -> Result<(Schedule, Shift)> {
    let config: Scheduler = read_config(path)?;
    let is_set = |flag: Option<bool>| flag.unwrap_or(false);
    let refused = [
        (config.time_shift_type != "exponential", "time_shift_type is not exponential"),
        (config.shift_terminal.is_some(), "shift_terminal is set"),
        (config.invert_sigmas, "invert_sigmas is true"),
        (config.stochastic_sampling, "stochastic_sampling is true"),
    ];
    if let Some((_, problem)) = refused.iter().find(|(is, _)| *is) {
        return Err(Error::format(path, *problem, "FLUX's schedule has none of this"));
    }
    let (base, max) = match config.use_dynamic_shifting {
        true => (config.base_shift, config.max_shift),
        // One shift for every size: e^μ is that shift.
        false => (config.shift.ln(), config.shift.ln()),
    };
    let bent = [
        (config.use_karras_sigmas, Schedule::Karras),
        (config.use_exponential_sigmas, Schedule::Exponential),
        (config.use_beta_sigmas, Schedule::Beta),
    ];
    let schedule = bent.iter().find(|(flag, _)| is_set(*flag)).map_or(Schedule::Flux, |(_, schedule)| *schedule);
    Ok((schedule, Shift { base, max, base_len: config.base_image_seq_len, max_len: config.max_image_seq_len }))
}

/// What accompanies the noise of a network that repaints, from how many channels the transformer takes.
fn filling(flux: &FluxConfig, autoencoder: &AutoEncoderConfig) -> std::result::Result<UnitPolicy, String> {
    use Condition::{ChangeImage, Mask, MaskedImage};
    let latent_features = PATCH * PATCH * autoencoder.latent_channels;
    let candidates = [vec![], vec![MaskedImage], vec![MaskedImage, Mask], vec![MaskedImage, ChangeImage, Mask]];
    let positions = Positions::default();
    let policies = candidates.map(|conditions| UnitPolicy { conditions, join: Join::Channels, positions });
    let fits = |policy: &UnitPolicy| policy.in_channels(latent_features, autoencoder.downscale()) == flux.in_channels;
    let known: Vec<usize> =
        policies.iter().map(|policy| policy.in_channels(latent_features, autoencoder.downscale())).collect();
    policies
        .into_iter()
        .find(fits)
        .ok_or_else(|| format!("in_channels is {}; with this autoencoder {known:?} have a meaning", flux.in_channels))
}

fn one_f64() -> f64 {
    1.0
}

fn exponential() -> String {
    "exponential".into()
}

fn base_shift() -> f64 {
    0.5
}

fn max_shift() -> f64 {
    1.15
}

fn base_len() -> f64 {
    256.0
}

fn max_len() -> f64 {
    4096.0
}
