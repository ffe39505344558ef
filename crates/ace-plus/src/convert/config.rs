//! What diffusers and transformers want to know beside the weights: `config.json`.

use crate::{
    Card, Error, Result,
    checkpoint::{Sizes, WeightFile},
};
use ace_nn::{
    autoencoder::AutoEncoderConfig,
    clip::{Activation, ClipConfig},
    flux::FluxConfig,
    t5::T5Config,
};
use serde_json::{Value, json};

/// Features of a head of FLUX.1; whoever has another has axes of its own.
const FLUX_HEAD: usize = 128;
/// Levels of FLUX.1's autoencoder.
const FLUX_LEVELS: [usize; 4] = [128, 256, 512, 512];
/// Width of FLUX.1's pooled encoder.
const CLIP_WIDTH: usize = 768;
/// End of text as old configurations of CLIP have it, which means: the largest id.
const OLD_END: i64 = 2;

/// The configuration of a network of these sizes; `card` says what weights do not.
///
/// # Errors
/// If it takes a card to know and there is none, the card is of other sizes, or diffusers has no word for something.
pub(super) fn json(file: &WeightFile, sizes: &Sizes, card: Option<&Card>) -> Result<Value> {
    let unknown = |what: &str| {
        let reason = format!("these are not FLUX.1's sizes, and a weight file does not say {what}");
        file.misfit(reason, "name the model's card with --card, or choose another format")
    };
    let sizes = match card {
        Some(card) => sizes.with(card).ok_or_else(|| {
            let reason = format!("the card {:?} is of a network of other sizes", card.name);
            file.misfit(reason, "name the card of this model")
        })?,
        None => sizes.clone(),
    };
    match &sizes {
        Sizes::Flux(config) if card.is_none() && config.hidden_size != config.num_heads * FLUX_HEAD => {
            Err(unknown("how positions are divided among the axes"))
        }
        Sizes::AutoEncoder(config) if card.is_none() && config.block_out_channels != FLUX_LEVELS => {
            Err(unknown("how latents are scaled"))
        }
        Sizes::Clip(config) if card.is_none() && config.hidden_size != CLIP_WIDTH => {
            Err(unknown("how many heads there are"))
        }
        Sizes::Flux(config) => flux(config),
        Sizes::AutoEncoder(config) => Ok(autoencoder(config)),
        Sizes::T5(config) => Ok(t5(config)),
        Sizes::Clip(config) => Ok(clip(config, card.and_then(|card| card.text.clip_end_id).unwrap_or(OLD_END))),
    }
}

fn flux(config: &FluxConfig) -> Result<Value> {
    let fixed = [
        (config.theta == 10_000.0, "theta is not 10000"),
        (config.mlp_ratio == 4.0, "mlp_ratio is not 4"),
        (config.qkv_bias, "queries, keys and values have no bias"),
    ];
    if let Some((_, problem)) = fixed.iter().find(|(holds, _)| !holds) {
        return Err(Error::input(
            format!("{problem}, which diffusers has no word for"),
            "choose format bfl or comfyui",
        ));
    }
    Ok(json!({
        "_class_name": "FluxTransformer2DModel",
        "attention_head_dim": config.hidden_size / config.num_heads,
        "axes_dims_rope": config.axes_dim,
        "guidance_embeds": config.guidance_embed,
        "in_channels": config.in_channels,
        "joint_attention_dim": config.context_in_dim,
        "num_attention_heads": config.num_heads,
        "num_layers": config.depth,
        "num_single_layers": config.depth_single_blocks,
        "out_channels": config.out_channels,
        "patch_size": 1,
        "pooled_projection_dim": config.vec_in_dim,
    }))
}

fn autoencoder(config: &AutoEncoderConfig) -> Value {
    let levels = config.block_out_channels.len();
    json!({
        "_class_name": "AutoencoderKL",
        "act_fn": "silu",
        "block_out_channels": config.block_out_channels,
        "down_block_types": vec!["DownEncoderBlock2D"; levels],
        "force_upcast": true,
        "in_channels": 3,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_add_attention": true,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": 3,
        "sample_size": 1024,
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor,
        "up_block_types": vec!["UpDecoderBlock2D"; levels],
        "use_post_quant_conv": false,
        "use_quant_conv": false,
    })
}

fn t5(config: &T5Config) -> Value {
    json!({
        "architectures": ["T5EncoderModel"],
        "d_ff": config.d_ff,
        "d_kv": config.d_kv,
        "d_model": config.d_model,
        "decoder_start_token_id": 0,
        "dense_act_fn": "gelu_new",
        "eos_token_id": 1,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": true,
        "is_gated_act": true,
        "layer_norm_epsilon": config.layer_norm_epsilon,
        "model_type": "t5",
        "num_decoder_layers": config.num_layers,
        "num_heads": config.num_heads,
        "num_layers": config.num_layers,
        "pad_token_id": 0,
        "relative_attention_max_distance": config.relative_attention_max_distance,
        "relative_attention_num_buckets": config.relative_attention_num_buckets,
        "tie_word_embeddings": false,
        "vocab_size": config.vocab_size,
    })
}

fn clip(config: &ClipConfig, end: i64) -> Value {
    json!({
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": end,
        "hidden_act": match config.hidden_act {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
        },
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "layer_norm_eps": config.layer_norm_eps,
        "max_position_embeddings": config.max_position_embeddings,
        "model_type": "clip_text_model",
        "num_attention_heads": config.num_heads,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": 1,
        "projection_dim": config.hidden_size,
        "vocab_size": config.vocab_size,
    })
}
