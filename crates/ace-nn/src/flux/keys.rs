//! Names for the weights of [`Flux`](super::Flux): BFL's (`flux1-dev.safetensors`, spec §7.1) and diffusers'
//! (`transformer/`, spec §7.2).

use crate::keys::KeyMap;

/// Module path to BFL key.
pub const BFL: KeyMap = KeyMap::renaming(&[
    // BFL's feed-forward is a list: 0 linear, 1 activation, 2 linear.
    ("img_mlp.in_layer", "img_mlp.0"),
    ("img_mlp.out_layer", "img_mlp.2"),
    ("txt_mlp.in_layer", "txt_mlp.0"),
    ("txt_mlp.out_layer", "txt_mlp.2"),
    // The final modulation is a list too: 0 activation, 1 linear.
    ("adaln_modulation.", "adaLN_modulation.1."),
]);

/// Module path to diffusers key.
pub const DIFFUSERS: KeyMap = KeyMap {
    renames: &[
        ("img_in.", "x_embedder."),
        ("txt_in.", "context_embedder."),
        ("time_in.in_layer.", "time_text_embed.timestep_embedder.linear_1."),
        ("time_in.out_layer.", "time_text_embed.timestep_embedder.linear_2."),
        ("guidance_in.in_layer.", "time_text_embed.guidance_embedder.linear_1."),
        ("guidance_in.out_layer.", "time_text_embed.guidance_embedder.linear_2."),
        ("vector_in.in_layer.", "time_text_embed.text_embedder.linear_1."),
        ("vector_in.out_layer.", "time_text_embed.text_embedder.linear_2."),
        ("double_blocks.", "transformer_blocks."),
        ("single_blocks.", "single_transformer_blocks."),
        ("img_mod.lin.", "norm1.linear."),
        ("txt_mod.lin.", "norm1_context.linear."),
        ("img_attn.norm.query_norm.scale", "attn.norm_q.weight"),
        ("img_attn.norm.key_norm.scale", "attn.norm_k.weight"),
        ("txt_attn.norm.query_norm.scale", "attn.norm_added_q.weight"),
        ("txt_attn.norm.key_norm.scale", "attn.norm_added_k.weight"),
        ("img_attn.proj.", "attn.to_out.0."),
        ("txt_attn.proj.", "attn.to_add_out."),
        ("img_mlp.in_layer.", "ff.net.0.proj."),
        ("img_mlp.out_layer.", "ff.net.2."),
        ("txt_mlp.in_layer.", "ff_context.net.0.proj."),
        ("txt_mlp.out_layer.", "ff_context.net.2."),
        (".modulation.lin.", ".norm.linear."),
        (".linear2.", ".proj_out."),
        (".norm.query_norm.scale", ".attn.norm_q.weight"),
        (".norm.key_norm.scale", ".attn.norm_k.weight"),
        ("final_layer.linear.", "proj_out."),
        ("final_layer.adaln_modulation.", "norm_out.linear."),
    ],
    joined: &[
        (".img_attn.qkv.", &[".attn.to_q.", ".attn.to_k.", ".attn.to_v."]),
        (".txt_attn.qkv.", &[".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj."]),
        (".linear1.", &[".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp."]),
    ],
    // Scale before shift.
    swapped: &["norm_out.linear."],
    ..KeyMap::renaming(&[])
};

#[cfg(test)]
mod tests {
    use super::DIFFUSERS;

    #[test]
    fn diffusers_cuts_fused_weights_and_swaps_the_last_modulation() {
        let qkv = DIFFUSERS.rows("double_blocks.3.txt_attn.qkv.bias");
        let keys =
            ["add_q_proj", "add_k_proj", "add_v_proj"].map(|key| format!("transformer_blocks.3.attn.{key}.bias"));
        assert_eq!(qkv.keys, keys);
        let fused = DIFFUSERS.rows("single_blocks.12.linear1.weight");
        assert_eq!(fused.keys.len(), 4);
        assert_eq!(fused.keys[3], "single_transformer_blocks.12.proj_mlp.weight");
        let last = DIFFUSERS.rows("final_layer.adaln_modulation.weight");
        assert_eq!((last.keys, last.swapped), (vec!["norm_out.linear.weight".to_owned()], true));
        assert!(!fused.swapped);
    }
}
