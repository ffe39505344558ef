//! BFL's names for the weights of [`Flux`](super::Flux) (`flux1-dev.safetensors`, spec §7.1).

use crate::keys::KeyMap;

/// Module path to BFL key.
pub const BFL: KeyMap = KeyMap {
    renames: &[
        // BFL's feed-forward is a list: 0 linear, 1 activation, 2 linear.
        ("img_mlp.in_layer", "img_mlp.0"),
        ("img_mlp.out_layer", "img_mlp.2"),
        ("txt_mlp.in_layer", "txt_mlp.0"),
        ("txt_mlp.out_layer", "txt_mlp.2"),
        // The final modulation is a list too: 0 activation, 1 linear.
        ("adaln_modulation.", "adaLN_modulation.1."),
    ],
};
