//! Names for the weights of [`T5`](super::T5): transformers' (spec §7.4), and llama.cpp's in GGUF files (spec §7.7).

use crate::keys::KeyMap;

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
