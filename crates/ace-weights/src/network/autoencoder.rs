//! FLUX's autoencoder as the world outside knows it: keys of BFL (`ae.safetensors`, the module's own) and diffusers
//! (`vae/`, which counts the decoder's levels from the other end), its sizes, and `vae/config.json`.
//!
//! Sources: <https://github.com/black-forest-labs/flux>, diffusers' `AutoencoderKL`.

use super::{Facts, Names, Shapes, Sizes, read_config};
use crate::{Error, Result, names::KeyMap};
use ace_nn::autoencoder::AutoEncoderConfig;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// What there is to know.
pub(super) const FACTS: Facts = Facts {
    title: "autoencoder",
    word: "autoencoder",
    stem: "diffusion_pytorch_model",
    marks: &[
        (Names::Diffusers, "encoder.down_blocks.0.resnets.0.conv1.weight"),
        (Names::Bfl, "encoder.down.0.block.0.conv1.weight"),
    ],
    keys: |names, levels| if names == Names::Diffusers { diffusers(levels) } else { BFL },
    measure: |shapes| measure(shapes).map(Sizes::AutoEncoder),
};

/// Groups of FLUX.1's group norms.
const GROUPS: usize = 32;
/// Levels of FLUX.1's autoencoder.
const LEVELS: [usize; 4] = [128, 256, 512, 512];

/// Module path to BFL key.
pub const BFL: KeyMap = KeyMap::renaming(&[]);

/// Module path to diffusers key, for an autoencoder of so many levels. Its 1×1 convolutions of the attention are
/// stored as linear weights, `[out, in]`.
pub const fn diffusers(levels: usize) -> KeyMap {
    KeyMap {
        renames: &[
            ("encoder.down.", "encoder.down_blocks."),
            ("decoder.up.", "decoder.up_blocks."),
            (".block.", ".resnets."),
            ("nin_shortcut", "conv_shortcut"),
            (".downsample.", ".downsamplers.0."),
            (".upsample.", ".upsamplers.0."),
            (".mid.block_1.", ".mid_block.resnets.0."),
            (".mid.block_2.", ".mid_block.resnets.1."),
            (".mid.attn_1.norm.", ".mid_block.attentions.0.group_norm."),
            (".mid.attn_1.q.", ".mid_block.attentions.0.to_q."),
            (".mid.attn_1.k.", ".mid_block.attentions.0.to_k."),
            (".mid.attn_1.v.", ".mid_block.attentions.0.to_v."),
            (".mid.attn_1.proj_out.", ".mid_block.attentions.0.to_out.0."),
            ("norm_out.", "conv_norm_out."),
        ],
        reversed: Some(("decoder.up_blocks.", levels)),
        flat: &[".attentions.0.to_"],
        ..KeyMap::renaming(&[])
    }
}

/// Sizes read off the shapes of weights; how latents are scaled has no shape and is FLUX.1's.
fn measure(shapes: &Shapes) -> Result<AutoEncoderConfig> {
    let levels = shapes.count(|level| format!("encoder.down.{level}.block.0.conv1.weight"));
    let channels = |level| shapes.of::<4>(&format!("encoder.down.{level}.block.0.conv1.weight")).map(|shape| shape[0]);
    let block_out_channels = (0..levels).map(channels).collect::<Result<Vec<_>>>()?;
    let [_, latent_channels, _, _] = shapes.of("decoder.conv_in.weight")?;
    let divides = |groups: &usize| block_out_channels.iter().all(|channels| channels.is_multiple_of(*groups));
    let config = AutoEncoderConfig {
        // One group divides everything.
        norm_num_groups: (1..=GROUPS).rev().find(divides).unwrap_or(1),
        layers_per_block: shapes.count(|block| format!("encoder.down.0.block.{block}.conv1.weight")),
        latent_channels,
        scaling_factor: 0.3611,
        shift_factor: 0.1159,
        block_out_channels,
    };
    config.check().map_err(|problem| shapes.contradiction(problem))?;
    Ok(config)
}

/// These sizes with what shapes do not tell as `known` has it.
pub(super) fn completed(measured: &AutoEncoderConfig, known: &AutoEncoderConfig) -> AutoEncoderConfig {
    let AutoEncoderConfig { norm_num_groups, scaling_factor, shift_factor, .. } = *known;
    AutoEncoderConfig { norm_num_groups, scaling_factor, shift_factor, ..measured.clone() }
}

/// What shapes do not tell, of a network that is not of FLUX.1's sizes.
pub(super) fn untold(config: &AutoEncoderConfig) -> Option<&'static str> {
    (config.block_out_channels != LEVELS).then_some("how latents are scaled")
}

/// `vae/config.json`; absent fields have diffusers' defaults.
#[derive(Deserialize)]
struct ConfigFile {
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

fn one() -> usize {
    1
}

fn groups() -> usize {
    GROUPS
}

fn yes() -> bool {
    true
}

fn silu() -> String {
    "silu".into()
}

/// Reads diffusers' `config.json`.
///
/// # Errors
/// If it cannot be read, or is of a network that is computed differently.
pub fn from_config(path: &Path) -> Result<AutoEncoderConfig> {
    let config: ConfigFile = read_config(path)?;
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

/// diffusers' `config.json`.
pub(super) fn to_config(config: &AutoEncoderConfig) -> Value {
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

#[cfg(test)]
mod tests {
    use super::diffusers;

    #[test]
    fn diffusers_stores_the_attention_as_linear_layers() {
        let shape = |path: &str, shape: &[usize]| diffusers(4).stored_shape(&diffusers(4).key(path), shape).to_vec();
        assert_eq!(shape("encoder.mid.attn_1.q.weight", &[8, 8, 1, 1]), [8, 8]);
        assert_eq!(shape("decoder.mid.attn_1.proj_out.weight", &[8, 8, 1, 1]), [8, 8]);
        assert_eq!(shape("decoder.mid.attn_1.proj_out.bias", &[8]), [8]);
        assert_eq!(shape("encoder.down.1.block.0.nin_shortcut.weight", &[8, 4, 1, 1]), [8, 4, 1, 1]);
    }

    #[test]
    fn diffusers_counts_the_decoder_from_the_lowest_resolution() {
        for (path, key) in [
            ("decoder.up.0.block.2.conv1.weight", "decoder.up_blocks.3.resnets.2.conv1.weight"),
            ("decoder.up.3.upsample.conv.bias", "decoder.up_blocks.0.upsamplers.0.conv.bias"),
            ("encoder.down.1.block.0.nin_shortcut.bias", "encoder.down_blocks.1.resnets.0.conv_shortcut.bias"),
            ("encoder.mid.attn_1.proj_out.weight", "encoder.mid_block.attentions.0.to_out.0.weight"),
            ("decoder.norm_out.bias", "decoder.conv_norm_out.bias"),
        ] {
            assert_eq!(diffusers(4).key(path), key);
        }
    }
}
