//! A network's sizes, read off the shapes of its weights.
//!
//! What has no shape (how a position is divided among axes, how latents are scaled) is as published for FLUX.1; a card
//! knows better.

use super::{
    WeightFile,
    dialect::{Found, Network},
};
use crate::{Card, Result};
use ace_nn::{
    autoencoder::AutoEncoderConfig,
    clip::{Activation, ClipConfig},
    flux::FluxConfig,
    t5::{MAX_DISTANCE, T5Config},
};

/// Features of a head that FLUX.1's axes turn, and the head's.
const FLUX_AXES: ([usize; 3], usize) = ([16, 56, 56], 128);
/// Features of a head in OpenAI's text towers.
const CLIP_HEAD: usize = 64;
/// Groups of FLUX.1's group norms.
const GROUPS: usize = 32;

/// Sizes of a network.
#[derive(Debug, Clone, PartialEq)]
pub enum Sizes {
    /// Of a transformer; the axes are FLUX.1's, or even thirds of a head.
    Flux(FluxConfig),
    /// Of an autoencoder; scaling and groups are FLUX.1's.
    AutoEncoder(AutoEncoderConfig),
    /// Of a sequence encoder.
    T5(T5Config),
    /// Of a pooled encoder; heads have 64 features.
    Clip(ClipConfig),
}

impl Sizes {
    /// Sizes of a network in a file.
    ///
    /// # Errors
    /// If a weight that tells them is missing, or they contradict each other.
    pub fn of(file: &WeightFile, found: &Found) -> Result<Self> {
        let shapes = Shapes { file, found };
        Ok(match found.network {
            Network::Flux => Self::Flux(flux(&shapes)?),
            Network::AutoEncoder => Self::AutoEncoder(autoencoder(&shapes)?),
            Network::T5 => Self::T5(t5(&shapes)?),
            Network::Clip => Self::Clip(clip(&shapes)?),
        })
    }

    /// These sizes with what a card knows besides; `None` if it is the card of another network.
    pub fn with(&self, card: &Card) -> Option<Self> {
        let (known, carded) = match self {
            Self::Flux(measured) => {
                let FluxConfig { axes_dim, theta, .. } = card.flux;
                (Self::Flux(FluxConfig { axes_dim, theta, ..measured.clone() }), Self::Flux(card.flux.clone()))
            }
            Self::AutoEncoder(measured) => {
                let AutoEncoderConfig { norm_num_groups, scaling_factor, shift_factor, .. } = card.autoencoder;
                let known = AutoEncoderConfig { norm_num_groups, scaling_factor, shift_factor, ..measured.clone() };
                (Self::AutoEncoder(known), Self::AutoEncoder(card.autoencoder.clone()))
            }
            Self::T5(measured) => {
                let T5Config { relative_attention_max_distance, layer_norm_epsilon, .. } = card.t5;
                let known = T5Config { relative_attention_max_distance, layer_norm_epsilon, ..measured.clone() };
                (Self::T5(known), Self::T5(card.t5.clone()))
            }
            Self::Clip(measured) => {
                let ClipConfig { num_heads, hidden_act, layer_norm_eps, .. } = card.clip;
                let known = ClipConfig { num_heads, hidden_act, layer_norm_eps, ..measured.clone() };
                (Self::Clip(known), Self::Clip(card.clip.clone()))
            }
        };
        (known == carded).then_some(known)
    }
}

/// Shapes by the paths of modules.
struct Shapes<'a> {
    file: &'a WeightFile,
    found: &'a Found,
}

impl Shapes<'_> {
    fn find<const D: usize>(&self, path: &str) -> Result<Option<[usize; D]>> {
        let Found { keys, prefix, .. } = self.found;
        let mut names = Vec::new();
        for key in keys.rows(path).keys {
            match keys.names(&key).map(|key| format!("{prefix}{key}")).find(|key| self.file.has(key)) {
                Some(name) => names.push(name),
                None => return Ok(None),
            }
        }
        let shape = self.file.joined_shape(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        match <[usize; D]>::try_from(shape) {
            Ok(shape) if !shape.contains(&0) => Ok(Some(shape)),
            Ok(shape) => Err(self.strange(&names[0], &shape)),
            Err(shape) => Err(self.strange(&names[0], &shape)),
        }
    }

    fn of<const D: usize>(&self, path: &str) -> Result<[usize; D]> {
        self.find(path)?.ok_or_else(|| {
            let key = &self.found.keys.rows(path).keys[0];
            let reason = format!("{}{key} is missing", self.found.prefix);
            self.file.misfit(reason, "this file belongs to another network or is incomplete")
        })
    }

    /// How many of `path(0)`, `path(1)` … there are.
    fn count(&self, path: impl Fn(usize) -> String) -> usize {
        let has = |index: &usize| {
            let keys = self.found.keys.rows(&path(*index)).keys;
            keys.iter().all(|key| self.file.has(&format!("{}{key}", self.found.prefix)))
        };
        (0..).take_while(has).count()
    }

    fn strange(&self, key: &str, shape: &[usize]) -> crate::Error {
        self.file.misfit(format!("{key} has shape {shape:?}"), "this file belongs to another network")
    }

    fn contradiction(&self, problem: String) -> crate::Error {
        self.file.misfit(problem, "the shapes of this file do not make a network")
    }
}

fn flux(shapes: &Shapes) -> Result<FluxConfig> {
    let [hidden_size, in_channels] = shapes.of("img_in.weight")?;
    let [_, context_in_dim] = shapes.of("txt_in.weight")?;
    let [_, vec_in_dim] = shapes.of("vector_in.in_layer.weight")?;
    let [out_channels, _] = shapes.of("final_layer.linear.weight")?;
    let [mlp_hidden, _] = shapes.of("double_blocks.0.img_mlp.in_layer.weight")?;
    let [head] = shapes.of("double_blocks.0.img_attn.norm.query_norm.scale")?;
    let third = head / 3 / 2 * 2;
    let axes_dim = if head == FLUX_AXES.1 { FLUX_AXES.0 } else { [head - 2 * third, third, third] };
    let config = FluxConfig {
        in_channels,
        out_channels,
        hidden_size,
        num_heads: hidden_size / head,
        depth: shapes.count(|block| format!("double_blocks.{block}.img_mod.lin.weight")),
        depth_single_blocks: shapes.count(|block| format!("single_blocks.{block}.linear2.weight")),
        axes_dim,
        theta: 10_000.0,
        mlp_ratio: mlp_hidden as f64 / hidden_size as f64,
        context_in_dim,
        vec_in_dim,
        guidance_embed: shapes.find::<2>("guidance_in.in_layer.weight")?.is_some(),
        qkv_bias: shapes.find::<1>("double_blocks.0.img_attn.qkv.bias")?.is_some(),
    };
    config.check().map_err(|problem| shapes.contradiction(problem))?;
    Ok(config)
}

fn autoencoder(shapes: &Shapes) -> Result<AutoEncoderConfig> {
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

fn t5(shapes: &Shapes) -> Result<T5Config> {
    let [vocab_size, d_model] = shapes.of("shared")?;
    let [relative_attention_num_buckets, num_heads] = shapes.of("relative_attention_bias")?;
    let [inner, _] = shapes.of("layers.0.attention.q.weight")?;
    let [d_ff, _] = shapes.of("layers.0.feed_forward.wi_0.weight")?;
    if !inner.is_multiple_of(num_heads) {
        return Err(shapes.contradiction(format!("{inner} features do not divide into {num_heads} heads")));
    }
    Ok(T5Config {
        vocab_size,
        d_model,
        d_kv: inner / num_heads,
        d_ff,
        num_layers: shapes.count(|layer| format!("layers.{layer}.attention.q.weight")),
        num_heads,
        relative_attention_num_buckets,
        relative_attention_max_distance: MAX_DISTANCE,
        layer_norm_epsilon: 1e-6,
    })
}

fn clip(shapes: &Shapes) -> Result<ClipConfig> {
    let [vocab_size, hidden_size] = shapes.of("token_embedding")?;
    let [max_position_embeddings, _] = shapes.of("position_embedding")?;
    let [intermediate_size, _] = shapes.of("layers.0.mlp.fc1.weight")?;
    Ok(ClipConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers: shapes.count(|layer| format!("layers.{layer}.mlp.fc1.weight")),
        num_heads: if hidden_size.is_multiple_of(CLIP_HEAD) { hidden_size / CLIP_HEAD } else { 1 },
        max_position_embeddings,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
    })
}
