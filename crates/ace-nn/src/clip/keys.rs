//! transformers' names for the weights of [`Clip`](super::Clip) (spec §7.4).

use crate::keys::KeyMap;

/// Module path to transformers key.
pub const TRANSFORMERS: KeyMap = KeyMap {
    renames: &[
        ("layers.", "text_model.encoder.layers."),
        ("final_layer_norm.", "text_model.final_layer_norm."),
        ("token_embedding", "text_model.embeddings.token_embedding.weight"),
        ("position_embedding", "text_model.embeddings.position_embedding.weight"),
    ],
};
