//! transformers' names for the weights of [`Clip`](super::Clip) (spec §7.4), with and without the tower's own name in
//! front: files of transformers 5 leave it out.

use crate::keys::KeyMap;

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
