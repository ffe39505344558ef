//! T5's encoder as the world outside knows it: keys of transformers and of llama.cpp's GGUF files, its sizes, and
//! `text_encoder_2/config.json`.
//!
//! Sources: transformers' `T5EncoderModel`, llama.cpp's `tensor_mapping.py`.

use super::{Facts, Names, Shapes, Sizes, read_config};
use crate::{Error, Result, names::KeyMap};
use ace_nn::t5::{MAX_DISTANCE, T5Config};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// What there is to know.
pub(super) const FACTS: Facts = Facts {
    title: "T5 encoder",
    word: "t5",
    stem: "model",
    marks: &[
        (Names::Transformers, "encoder.block.0.layer.0.SelfAttention.q.weight"),
        (Names::LlamaCpp, "enc.blk.0.attn_q.weight"),
    ],
    keys: |names, _| if names == Names::LlamaCpp { LLAMA_CPP } else { TRANSFORMERS },
    measure: |shapes| measure(shapes).map(Sizes::T5),
};

/// Module path to transformers key.
pub const TRANSFORMERS: KeyMap = KeyMap {
    renames: &[
        // A layer of theirs is a list of two: 0 attention, 1 feed-forward, each with its norm beside it.
        ("layers.", "encoder.block."),
        (".attention.layer_norm.scale", ".layer.0.layer_norm.weight"),
        (".feed_forward.layer_norm.scale", ".layer.1.layer_norm.weight"),
        (".attention.", ".layer.0.SelfAttention."),
        (".feed_forward.", ".layer.1.DenseReluDense."),
        ("final_layer_norm.scale", "encoder.final_layer_norm.weight"),
        ("shared", "shared.weight"),
        // The bias table is stored with the first layer.
        ("relative_attention_bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
    ],
    aliases: &[("shared.weight", "encoder.embed_tokens.weight")],
    // ComfyUI's checkpoints of several networks leave one beside each text encoder.
    unused: &["logit_scale"],
    ..KeyMap::renaming(&[])
};

/// Module path to llama.cpp key.
pub const LLAMA_CPP: KeyMap = KeyMap {
    renames: &[
        ("layers.", "enc.blk."),
        (".attention.layer_norm.scale", ".attn_norm.weight"),
        (".feed_forward.layer_norm.scale", ".ffn_norm.weight"),
        (".attention.", ".attn_"),
        (".feed_forward.wi_0.", ".ffn_gate."),
        (".feed_forward.wi_1.", ".ffn_up."),
        (".feed_forward.wo.", ".ffn_down."),
        ("final_layer_norm.scale", "enc.output_norm.weight"),
        ("shared", "token_embd.weight"),
        ("relative_attention_bias", "enc.blk.0.attn_rel_b.weight"),
    ],
    ..KeyMap::renaming(&[])
};

/// Sizes read off the shapes of weights.
fn measure(shapes: &Shapes) -> Result<T5Config> {
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

/// These sizes with what shapes do not tell as `known` has it.
pub(super) fn completed(measured: &T5Config, known: &T5Config) -> T5Config {
    let T5Config { relative_attention_max_distance, layer_norm_epsilon, .. } = *known;
    T5Config { relative_attention_max_distance, layer_norm_epsilon, ..measured.clone() }
}

/// `text_encoder_2/config.json`; absent fields have transformers' defaults.
#[derive(Deserialize)]
struct ConfigFile {
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
    #[serde(default = "epsilon")]
    layer_norm_epsilon: f64,
    #[serde(default = "relu")]
    feed_forward_proj: String,
}

fn buckets() -> usize {
    32
}

fn max_distance() -> usize {
    MAX_DISTANCE
}

fn epsilon() -> f64 {
    1e-6
}

fn relu() -> String {
    "relu".into()
}

/// Reads transformers' `config.json`.
///
/// # Errors
/// If it cannot be read, or is of a network that is computed differently.
pub fn from_config(path: &Path) -> Result<T5Config> {
    let config: ConfigFile = read_config(path)?;
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

/// transformers' `config.json`.
pub(super) fn to_config(config: &T5Config) -> Value {
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

#[cfg(test)]
mod tests {
    use super::{LLAMA_CPP, TRANSFORMERS};

    #[test]
    fn paths_become_published_keys() {
        for (path, key) in [
            ("layers.3.attention.q.weight", "encoder.block.3.layer.0.SelfAttention.q.weight"),
            ("layers.0.attention.layer_norm.scale", "encoder.block.0.layer.0.layer_norm.weight"),
            ("layers.1.feed_forward.wi_0.weight", "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"),
            ("final_layer_norm.scale", "encoder.final_layer_norm.weight"),
            ("relative_attention_bias", "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ] {
            assert_eq!(TRANSFORMERS.key(path), key);
        }
    }
    #[test]
    fn llama_cpp_has_names_of_its_own() {
        for (path, key) in [
            ("layers.3.attention.q.weight", "enc.blk.3.attn_q.weight"),
            ("layers.0.attention.layer_norm.scale", "enc.blk.0.attn_norm.weight"),
            ("layers.11.feed_forward.layer_norm.scale", "enc.blk.11.ffn_norm.weight"),
            ("layers.1.feed_forward.wi_0.weight", "enc.blk.1.ffn_gate.weight"),
            ("layers.1.feed_forward.wi_1.weight", "enc.blk.1.ffn_up.weight"),
            ("layers.1.feed_forward.wo.weight", "enc.blk.1.ffn_down.weight"),
            ("final_layer_norm.scale", "enc.output_norm.weight"),
            ("shared", "token_embd.weight"),
            ("relative_attention_bias", "enc.blk.0.attn_rel_b.weight"),
        ] {
            assert_eq!(LLAMA_CPP.key(path), key);
        }
    }
}
