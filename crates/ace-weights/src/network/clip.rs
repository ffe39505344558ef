//! CLIP's text tower as the world outside knows it: keys of transformers with and without the tower's own name in front
//! (version 5 leaves it out), its sizes, and `text_encoder/config.json`.
//!
//! Source: transformers' `CLIPTextModel`.

use super::{Facts, Names, Shapes, Sizes, read_config};
use crate::{Error, Result, names::KeyMap};
use ace_nn::clip::{Activation, ClipConfig};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::Path;

/// What there is to know.
pub(super) const FACTS: Facts = Facts {
    title: "CLIP text tower",
    word: "clip",
    stem: "model",
    marks: &[
        (Names::Transformers, "text_model.encoder.layers.0.self_attn.q_proj.weight"),
        (Names::Transformers5, "encoder.layers.0.self_attn.q_proj.weight"),
    ],
    keys: |names, _| if names == Names::Transformers5 { TRANSFORMERS_5 } else { TRANSFORMERS },
    measure: |shapes| measure(shapes).map(Sizes::Clip),
};

/// Features of a head in OpenAI's text towers.
const HEAD: usize = 64;
/// Width of FLUX.1's pooled encoder.
const WIDTH: usize = 768;
/// End of text as old configurations have it, which means: the largest id.
pub(super) const OLD_END: i64 = 2;
/// End of text unless a configuration says another; transformers' default.
const END: i64 = 49407;

/// Module path to transformers key.
pub const TRANSFORMERS: KeyMap = KeyMap {
    renames: &[
        ("layers.", "text_model.encoder.layers."),
        ("final_layer_norm.", "text_model.final_layer_norm."),
        ("token_embedding", "text_model.embeddings.token_embedding.weight"),
        ("position_embedding", "text_model.embeddings.position_embedding.weight"),
    ],
    // ComfyUI's file has the projection, OpenAI's the whole other tower too.
    unused: &[
        "text_projection.weight",
        "visual_projection.weight",
        "logit_scale",
        "text_model.embeddings.position_ids",
        "vision_model.",
    ],
    ..KeyMap::renaming(&[])
};

/// Module path to the key of transformers 5.
pub const TRANSFORMERS_5: KeyMap = KeyMap {
    renames: &[
        ("layers.", "encoder.layers."),
        ("token_embedding", "embeddings.token_embedding.weight"),
        ("position_embedding", "embeddings.position_embedding.weight"),
    ],
    unused: &["text_projection.weight", "logit_scale", "embeddings.position_ids"],
    ..KeyMap::renaming(&[])
};

/// Sizes read off the shapes of weights; heads have no shape and 64 features.
fn measure(shapes: &Shapes) -> Result<ClipConfig> {
    let [vocab_size, hidden_size] = shapes.of("token_embedding")?;
    let [max_position_embeddings, _] = shapes.of("position_embedding")?;
    let [intermediate_size, _] = shapes.of("layers.0.mlp.fc1.weight")?;
    Ok(ClipConfig {
        vocab_size,
        hidden_size,
        intermediate_size,
        num_layers: shapes.count(|layer| format!("layers.{layer}.mlp.fc1.weight")),
        num_heads: if hidden_size.is_multiple_of(HEAD) { hidden_size / HEAD } else { 1 },
        max_position_embeddings,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
    })
}

/// These sizes with what shapes do not tell as `known` has it.
pub(super) fn completed(measured: &ClipConfig, known: &ClipConfig) -> ClipConfig {
    let ClipConfig { num_heads, hidden_act, layer_norm_eps, .. } = *known;
    ClipConfig { num_heads, hidden_act, layer_norm_eps, ..measured.clone() }
}

/// What shapes do not tell, of a network that is not of FLUX.1's sizes.
pub(super) fn untold(config: &ClipConfig) -> Option<&'static str> {
    (config.hidden_size != WIDTH).then_some("how many heads there are")
}

/// `text_encoder/config.json`; absent fields have transformers' defaults.
#[derive(Deserialize)]
struct ConfigFile {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    #[serde(default = "quick_gelu")]
    hidden_act: String,
    #[serde(default = "epsilon")]
    layer_norm_eps: f64,
    eos_token_id: Option<i64>,
}

fn quick_gelu() -> String {
    "quick_gelu".into()
}

fn epsilon() -> f64 {
    1e-5
}

/// Reads transformers' `config.json`: the sizes, and the id at which text ends.
///
/// # Errors
/// If it cannot be read, or is of a network that is computed differently.
pub fn from_config(path: &Path) -> Result<(ClipConfig, i64)> {
    let config: ConfigFile = read_config(path)?;
    let hidden_act = match config.hidden_act.as_str() {
        "quick_gelu" => Activation::QuickGelu,
        "gelu" => Activation::Gelu,
        "gelu_pytorch_tanh" => Activation::GeluTanh,
        other => {
            let hint = "quick_gelu, gelu and gelu_pytorch_tanh are known";
            return Err(Error::format(path, format!("hidden_act is {other:?}"), hint));
        }
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
    Ok((sizes, config.eos_token_id.unwrap_or(END)))
}

/// transformers' `config.json`; text ends at the id `end`.
pub(super) fn to_config(config: &ClipConfig, end: i64) -> Value {
    json!({
        "architectures": ["CLIPTextModel"],
        "bos_token_id": 0,
        "eos_token_id": end,
        "hidden_act": match config.hidden_act {
            Activation::QuickGelu => "quick_gelu",
            Activation::Gelu => "gelu",
            Activation::GeluTanh => "gelu_pytorch_tanh",
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
