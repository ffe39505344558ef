//! A model folder in diffusers' layout as a card: everything is read from its own `config.json` files.
//!
//! Published: FLUX.1-Fill-dev's folder (`model_index.json`, `transformer/`, `vae/`, `text_encoder/` CLIP,
//! `text_encoder_2/` T5, `tokenizer/`, `tokenizer_2/`, `scheduler/`), spec §7.2. A folder that says something that we
//! would compute differently is refused, not misread.

use super::{Card, Sampling, TextPolicy, WeightPaths};
use crate::{
    Error, Result,
    canvas::{CanvasPolicy, Layout, OfficialBytes, ReferenceFit},
    flow::Shift,
    latents::PATCH,
    unit::{Condition, Join, UnitPolicy},
};
use ace_nn::{
    autoencoder::AutoEncoderConfig,
    clip::{Activation, ClipConfig},
    flux::FluxConfig,
    t5::T5Config,
};
use serde::{Deserialize, de::DeserializeOwned};
use std::{fs, path::Path};

/// The file that makes a folder one of diffusers'.
pub(super) const INDEX: &str = "model_index.json";
/// T5 tokens of ACE++ and of diffusers' pipelines.
const T5_MAX_LENGTH: usize = 512;

/// `transformer/config.json`; absent fields have diffusers' defaults.
#[derive(Deserialize)]
struct Transformer {
    #[serde(default = "one")]
    patch_size: usize,
    in_channels: usize,
    out_channels: Option<usize>,
    num_layers: usize,
    num_single_layers: usize,
    attention_head_dim: usize,
    num_attention_heads: usize,
    joint_attention_dim: usize,
    pooled_projection_dim: usize,
    #[serde(default)]
    guidance_embeds: bool,
    #[serde(default = "published_axes")]
    axes_dims_rope: [usize; 3],
}

/// `vae/config.json`.
#[derive(Deserialize)]
struct Vae {
    block_out_channels: Vec<usize>,
    #[serde(default = "one")]
    layers_per_block: usize,
    latent_channels: usize,
    #[serde(default = "groups")]
    norm_num_groups: usize,
    scaling_factor: f64,
    shift_factor: Option<f64>,
    #[serde(default = "yes")]
    use_quant_conv: bool,
    #[serde(default = "yes")]
    use_post_quant_conv: bool,
    #[serde(default = "yes")]
    mid_block_add_attention: bool,
    #[serde(default = "silu")]
    act_fn: String,
}

/// `text_encoder/config.json`.
#[derive(Deserialize)]
struct Clip {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "quick_gelu")]
    hidden_act: String,
    #[serde(default = "clip_epsilon")]
    layer_norm_eps: f64,
    eos_token_id: Option<i64>,
}

/// `text_encoder_2/config.json`.
#[derive(Deserialize)]
struct T5 {
    vocab_size: usize,
    d_model: usize,
    d_kv: usize,
    d_ff: usize,
    num_layers: usize,
    num_heads: usize,
    #[serde(default = "buckets")]
    relative_attention_num_buckets: usize,
    #[serde(default = "max_distance")]
    relative_attention_max_distance: usize,
    #[serde(default = "t5_epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "relu")]
    feed_forward_proj: String,
}

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

/// The card of such a folder.
pub(super) fn card(folder: &Path) -> Result<Card> {
    let transformer = transformer(&folder.join("transformer/config.json"))?;
    let autoencoder = autoencoder(&folder.join("vae/config.json"))?;
    let (clip, clip_end_id) = clip(&folder.join("text_encoder/config.json"))?;
    let t5 = t5(&folder.join("text_encoder_2/config.json"))?;
    let shift = shift(&folder.join("scheduler/scheduler_config.json"))?;
    let cell = autoencoder.downscale();
    let unit = unit(&transformer, &autoencoder)
        .map_err(|problem| Error::format(&folder.join("transformer/config.json"), problem, HINT))?;
    let tokenizer: TokenizerConfig = read(&folder.join("tokenizer/tokenizer_config.json"))?;
    let name = folder.file_name().map_or("diffusers".to_owned(), |name| name.to_string_lossy().into_owned());
    let change_image = unit.wants_change_image();
    Ok(Card {
        name,
        description: "a folder in diffusers' layout".into(),
        licence: "as its source says".into(),
        domain: None,
        weights: WeightPaths {
            flux: "transformer".into(),
            autoencoder: "vae".into(),
            t5: "text_encoder_2".into(),
            clip: "text_encoder".into(),
        },
        flux: transformer,
        autoencoder,
        t5,
        clip,
        text: TextPolicy {
            t5_tokenizer: "tokenizer_2/tokenizer.json".into(),
            clip_tokenizer: "tokenizer".into(),
            t5_max_length: T5_MAX_LENGTH,
            placeholders: Vec::new(),
            prepend: None,
            // "No limit" is written as a number of 31 digits.
            clip_max_length: tokenizer.model_max_length.filter(|most| *most < 1e6).map(|most| most as usize),
            clean: false,
            clip_end_id: Some(clip_end_id),
        },
        // FLUX-Fill's and the ACE++ LoRAs' preparation, spec §5.2.
        canvas: CanvasPolicy {
            max_seq_len: 4096,
            max_aspect_ratio: 4.0,
            reference_fit: ReferenceFit::Height,
            change_image,
            seam_crop: 30,
            match_colours: true,
            official_bytes: OfficialBytes::Rounded,
            layout: Layout::Canvas,
            token: cell * PATCH,
        },
        unit,
        // FLUX-Fill's own defaults, spec §6.2; ACE++'s adapters want 28 steps and a guidance of 50.
        sampling: Sampling { num_steps: 50, guidance: 30.0, size: (128 * cell as u32, 128 * cell as u32), shift },
        adapter: Vec::new(),
        repository: Vec::new(),
        task: Vec::new(),
    })
}

const HINT: &str = "FLUX.1 and FLUX.1-Fill folders are read, in the layout that diffusers writes";

fn transformer(path: &Path) -> Result<FluxConfig> {
    let config: Transformer = read(path)?;
    if config.patch_size != 1 {
        return Err(Error::format(path, format!("patch_size is {}, not 1", config.patch_size), HINT));
    }
    Ok(FluxConfig {
        in_channels: config.in_channels,
        out_channels: config.out_channels.unwrap_or(config.in_channels),
        hidden_size: config.attention_head_dim * config.num_attention_heads,
        num_heads: config.num_attention_heads,
        depth: config.num_layers,
        depth_single_blocks: config.num_single_layers,
        axes_dim: config.axes_dims_rope,
        // Neither is configurable in diffusers.
        theta: 10_000.0,
        mlp_ratio: 4.0,
        qkv_bias: true,
        context_in_dim: config.joint_attention_dim,
        vec_in_dim: config.pooled_projection_dim,
        guidance_embed: config.guidance_embeds,
    })
}

fn autoencoder(path: &Path) -> Result<AutoEncoderConfig> {
    let config: Vae = read(path)?;
    let refused = [
        (config.use_quant_conv, "use_quant_conv is true"),
        (config.use_post_quant_conv, "use_post_quant_conv is true"),
        (!config.mid_block_add_attention, "mid_block_add_attention is false"),
        (config.act_fn != "silu", "act_fn is not silu"),
    ];
    if let Some((_, problem)) = refused.iter().find(|(is, _)| *is) {
        return Err(Error::format(path, *problem, "FLUX's autoencoder has none of this"));
    }
    Ok(AutoEncoderConfig {
        block_out_channels: config.block_out_channels,
        layers_per_block: config.layers_per_block,
        latent_channels: config.latent_channels,
        norm_num_groups: config.norm_num_groups,
        scaling_factor: config.scaling_factor,
        shift_factor: config.shift_factor.unwrap_or(0.0),
    })
}

/// The text tower, and the id at which its text ends.
fn clip(path: &Path) -> Result<(ClipConfig, i64)> {
    let config: Clip = read(path)?;
    let hidden_act = match config.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        other => return Err(Error::format(path, format!("hidden_act is {other:?}"), "quick_gelu and gelu are known")),
    };
    let sizes = ClipConfig {
        vocab_size: config.vocab_size,
        hidden_size: config.hidden_size,
        intermediate_size: config.intermediate_size,
        num_layers: config.num_hidden_layers,
        num_heads: config.num_attention_heads,
        max_position_embeddings: config.max_position_embeddings,
        hidden_act,
        layer_norm_eps: config.layer_norm_eps,
    };
    // transformers' own default.
    Ok((sizes, config.eos_token_id.unwrap_or(49407)))
}

fn t5(path: &Path) -> Result<T5Config> {
    let config: T5 = read(path)?;
    if config.feed_forward_proj != "gated-gelu" {
        let problem = format!("feed_forward_proj is {:?}, not \"gated-gelu\"", config.feed_forward_proj);
        return Err(Error::format(path, problem, "FLUX reads T5 v1.1; T5 1.0 has another feed-forward"));
    }
    Ok(T5Config {
        vocab_size: config.vocab_size,
        d_model: config.d_model,
        d_kv: config.d_kv,
        d_ff: config.d_ff,
        num_layers: config.num_layers,
        num_heads: config.num_heads,
        relative_attention_num_buckets: config.relative_attention_num_buckets,
        relative_attention_max_distance: config.relative_attention_max_distance,
        layer_norm_epsilon: config.layer_norm_epsilon,
    })
}

fn shift(path: &Path) -> Result<Shift> {
    let config: Scheduler = read(path)?;
    let is_set = |flag: Option<bool>| flag.unwrap_or(false);
    let refused = [
        (config.time_shift_type != "exponential", "time_shift_type is not exponential"),
        (config.shift_terminal.is_some(), "shift_terminal is set"),
        (config.invert_sigmas, "invert_sigmas is true"),
        (is_set(config.use_karras_sigmas), "use_karras_sigmas is true"),
        (is_set(config.use_exponential_sigmas), "use_exponential_sigmas is true"),
        (is_set(config.use_beta_sigmas), "use_beta_sigmas is true"),
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
    Ok(Shift { base, max, base_len: config.base_image_seq_len, max_len: config.max_image_seq_len })
}

/// What accompanies the noise, from how many channels the transformer takes.
fn unit(flux: &FluxConfig, autoencoder: &AutoEncoderConfig) -> std::result::Result<UnitPolicy, String> {
    use Condition::{ChangeImage, Mask, MaskedImage};
    let latent_features = PATCH * PATCH * autoencoder.latent_channels;
    let candidates = [vec![], vec![MaskedImage], vec![MaskedImage, Mask], vec![MaskedImage, ChangeImage, Mask]];
    let policies = candidates.map(|conditions| UnitPolicy { conditions, join: Join::Channels });
    let fits = |policy: &UnitPolicy| policy.in_channels(latent_features, autoencoder.downscale()) == flux.in_channels;
    let known: Vec<usize> =
        policies.iter().map(|policy| policy.in_channels(latent_features, autoencoder.downscale())).collect();
    policies
        .into_iter()
        .find(fits)
        .ok_or_else(|| format!("in_channels is {}; with this autoencoder {known:?} have a meaning", flux.in_channels))
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&text).map_err(|source| Error::format(path, source.to_string(), HINT))
}

fn one() -> usize {
    1
}

fn one_f64() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

fn groups() -> usize {
    32
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    128
}

fn t5_epsilon() -> f64 {
    1e-6
}

fn clip_epsilon() -> f64 {
    1e-5
}

fn published_axes() -> [usize; 3] {
    [16, 56, 56]
}

fn silu() -> String {
    "silu".into()
}

fn relu() -> String {
    "relu".into()
}

fn quick_gelu() -> String {
    "quick_gelu".into()
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
