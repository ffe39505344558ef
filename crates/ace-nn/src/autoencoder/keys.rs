//! Names for the weights of [`AutoEncoder`](super::AutoEncoder) (spec §7.3): BFL's (`ae.safetensors`) are the module's
//! own, diffusers' (`vae/`) count the decoder's levels from the other end.

use crate::keys::KeyMap;

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
