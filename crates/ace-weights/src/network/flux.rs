//! FLUX's transformer as the world outside knows it: keys of BFL (`flux1-dev.safetensors`) and diffusers
//! (`transformer/`), its sizes, and `transformer/config.json`.
//!
//! Sources: <https://github.com/black-forest-labs/flux>, diffusers' `FluxTransformer2DModel`.

use super::{CONFIG_HINT, Facts, Names, Shapes, Sizes, read_config};
use crate::{Error, Result, names::KeyMap};
use ace_nn::flux::FluxConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// What there is to know.
pub(super) const FACTS: Facts = Facts {
    title: "FLUX transformer",
    word: "flux",
    stem: "diffusion_pytorch_model",
    marks: &[
        (Names::Diffusers, "transformer_blocks.0.norm1.linear.weight"),
        (Names::Diffusers, "single_transformer_blocks.0.norm.linear.weight"),
        (Names::Bfl, "double_blocks.0.img_mod.lin.weight"),
        (Names::Bfl, "img_in.weight"),
    ],
    keys: |names, _| if names == Names::Diffusers { DIFFUSERS } else { BFL },
    measure: |shapes| measure(shapes).map(Sizes::Flux),
};

/// Features of a head that FLUX.1's axes turn, and the head's.
const AXES: ([usize; 3], usize) = ([16, 56, 56], 128);

/// Sizes of the published FLUX.1-Fill-dev.
pub const PUBLISHED: FluxConfig = FluxConfig {
    in_channels: 384,
    out_channels: 64,
    hidden_size: 3072,
    num_heads: 24,
    depth: 19,
    depth_single_blocks: 38,
    axes_dim: AXES.0,
    theta: 10_000.0,
    mlp_ratio: 4.0,
    context_in_dim: 4096,
    vec_in_dim: 768,
    guidance_embed: true,
    qkv_bias: true,
};

/// Module path to BFL key.
pub const BFL: KeyMap = KeyMap::renaming(&[
    // BFL's feed-forward is a list: 0 linear, 1 activation, 2 linear.
    ("img_mlp.in_layer", "img_mlp.0"),
    ("img_mlp.out_layer", "img_mlp.2"),
    ("txt_mlp.in_layer", "txt_mlp.0"),
    ("txt_mlp.out_layer", "txt_mlp.2"),
    // The final modulation is a list too: 0 activation, 1 linear.
    ("adaln_modulation.", "adaLN_modulation.1."),
]);

/// Module path to diffusers key.
pub const DIFFUSERS: KeyMap = KeyMap {
    renames: &[
        ("img_in.", "x_embedder."),
        ("txt_in.", "context_embedder."),
        ("time_in.in_layer.", "time_text_embed.timestep_embedder.linear_1."),
        ("time_in.out_layer.", "time_text_embed.timestep_embedder.linear_2."),
        ("guidance_in.in_layer.", "time_text_embed.guidance_embedder.linear_1."),
        ("guidance_in.out_layer.", "time_text_embed.guidance_embedder.linear_2."),
        ("vector_in.in_layer.", "time_text_embed.text_embedder.linear_1."),
        ("vector_in.out_layer.", "time_text_embed.text_embedder.linear_2."),
        ("double_blocks.", "transformer_blocks."),
        ("single_blocks.", "single_transformer_blocks."),
        ("img_mod.lin.", "norm1.linear."),
        ("txt_mod.lin.", "norm1_context.linear."),
        ("img_attn.norm.query_norm.scale", "attn.norm_q.weight"),
        ("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
        ("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
        ("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
        ("img_attn.proj.", "attn.to_out.0."),
        ("txt_attn.proj.", "attn.to_add_out."),
        ("img_mlp.in_layer.", "ff.net.0.proj."),
        ("img_mlp.out_layer.", "ff.net.2."),
        ("txt_mlp.in_layer.", "ff_context.net.0.proj."),
        ("txt_mlp.out_layer.", "ff_context.net.2."),
        (".modulation.lin.", ".norm.linear."),
        (".linear2.", ".proj_out."),
        (".norm.query_norm.scale", ".attn.norm_q.weight"),
        (".norm.key_norm.scale", ".attn.norm_k.weight"),
        ("final_layer.linear.", "proj_out."),
        ("final_layer.adaln_modulation.", "norm_out.linear."),
    ],
    joined: &[
        (".img_attn.qkv.", &[".attn.to_q.", ".attn.to_k.", ".attn.to_v."]),
        (".txt_attn.qkv.", &[".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj."]),
        (".linear1.", &[".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp."]),
    ],
    // Scale before shift.
    swapped: &["norm_out.linear."],
    ..KeyMap::renaming(&[])
};

/// Sizes read off the shapes of weights. How a position is divided among the axes has no shape: it is FLUX.1's, or even
/// thirds of a head.
fn measure(shapes: &Shapes) -> Result<FluxConfig> {
    let [hidden_size, in_channels] = shapes.of("img_in.weight")?;
    let [_, context_in_dim] = shapes.of("txt_in.weight")?;
    let [_, vec_in_dim] = shapes.of("vector_in.in_layer.weight")?;
    let [out_channels, _] = shapes.of("final_layer.linear.weight")?;
    let [mlp_hidden, _] = shapes.of("double_blocks.0.img_mlp.in_layer.weight")?;
    let [head] = shapes.of("double_blocks.0.img_attn.norm.query_norm.scale")?;
    let third = head / 3 / 2 * 2;
    let axes_dim = if head == AXES.1 { AXES.0 } else { [head - 2 * third, third, third] };
    let config = FluxConfig {
        in_channels,
        out_channels,
        hidden_size,
        num_heads: hidden_size / head,
        depth: shapes.count(|block| format!("double_blocks.{block}.img_mod.lin.weight")),
        depth_single_blocks: shapes.count(|block| format!("single_blocks.{block}.linear2.weight")),
        axes_dim,
        theta: PUBLISHED.theta,
        mlp_ratio: mlp_hidden as f64 / hidden_size as f64,
        context_in_dim,
        vec_in_dim,
        guidance_embed: shapes.find::<2>("guidance_in.in_layer.weight")?.is_some(),
        qkv_bias: shapes.find::<1>("double_blocks.0.img_attn.qkv.bias")?.is_some(),
    };
    config.check().map_err(|problem| shapes.contradiction(problem))?;
    Ok(config)
}

/// These sizes with what shapes do not tell as `known` has it.
pub(super) fn completed(measured: &FluxConfig, known: &FluxConfig) -> FluxConfig {
    FluxConfig { axes_dim: known.axes_dim, theta: known.theta, ..measured.clone() }
}

/// What shapes do not tell, of a network that is not of FLUX.1's sizes.
pub(super) fn untold(config: &FluxConfig) -> Option<&'static str> {
    (config.hidden_size != config.num_heads * AXES.1).then_some("how positions are divided among the axes")
}

/// `transformer/config.json`; absent fields have diffusers' defaults.
#[derive(Deserialize)]
struct ConfigFile {
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

fn one() -> usize {
    1
}

fn published_axes() -> [usize; 3] {
    AXES.0
}

/// Reads diffusers' `config.json`.
///
/// # Errors
/// If it cannot be read, or is of a network that is computed differently.
pub fn from_config(path: &Path) -> Result<FluxConfig> {
    let config: ConfigFile = read_config(path)?;
    if config.patch_size != 1 {
        return Err(Error::format(path, format!("patch_size is {}, not 1", config.patch_size), CONFIG_HINT));
    }
    Ok(FluxConfig {
        in_channels: config.in_channels,
        out_channels: config.out_channels.unwrap_or(config.in_channels),
        hidden_size: config.attention_head_dim * config.num_attention_heads,
        num_heads: config.num_attention_heads,
        depth: config.num_layers,
        depth_single_blocks: config.num_single_layers,
        axes_dim: config.axes_dims_rope,
        // None of these is configurable in diffusers.
        theta: 10_000.0,
        mlp_ratio: 4.0,
        qkv_bias: true,
        context_in_dim: config.joint_attention_dim,
        vec_in_dim: config.pooled_projection_dim,
        guidance_embed: config.guidance_embeds,
    })
}

/// diffusers' `config.json`.
pub(super) fn to_config(config: &FluxConfig) -> Result<Value> {
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

#[cfg(test)]
mod tests {
    use super::DIFFUSERS;

    #[test]
    fn diffusers_cuts_fused_weights_and_swaps_the_last_modulation() {
        let qkv = DIFFUSERS.rows("double_blocks.3.txt_attn.qkv.bias");
        let keys =
            ["add_q_proj", "add_k_proj", "add_v_proj"].map(|key| format!("transformer_blocks.3.attn.{key}.bias"));
        assert_eq!(qkv.keys, keys);
        let fused = DIFFUSERS.rows("single_blocks.12.linear1.weight");
        assert_eq!(fused.keys.len(), 4);
        assert_eq!(fused.keys[3], "single_transformer_blocks.12.proj_mlp.weight");
        let last = DIFFUSERS.rows("final_layer.adaln_modulation.weight");
        assert_eq!((last.keys, last.swapped), (vec!["norm_out.linear.weight".to_owned()], true));
        assert!(!fused.swapped);
    }
}
