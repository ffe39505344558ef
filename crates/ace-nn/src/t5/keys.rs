//! transformers' names for the weights of [`T5`](super::T5) (spec §7.4).

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
};

/// The embedding has two names in the wild; files hold one of them or both, tied.
pub const EMBEDDING: [&str; 2] = ["shared.weight", "encoder.embed_tokens.weight"];

#[cfg(test)]
mod tests {
    use super::TRANSFORMERS;

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
}
