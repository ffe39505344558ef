use super::dialect::{Dialect, Role, foreign, is_for_text_encoder, parse, unprefixed};

#[test]
fn a_key_is_a_stem_and_a_role() {
    let cases = [
        ("lora_unet_img_in.lora_down.weight", "lora_unet_img_in", Role::Down),
        ("lora_unet_img_in.alpha", "lora_unet_img_in", Role::Alpha),
        ("transformer.proj_out.lora_B.weight", "transformer.proj_out", Role::Up),
        ("transformer.proj_out.lora.up.weight", "transformer.proj_out", Role::Up),
        ("model.img_in.lora_A.0_SwiftLoRA.weight", "model.img_in", Role::Down),
        ("base_model.model.txt_in.lora_B.default.bias", "base_model.model.txt_in", Role::UpBias),
        ("txt_in.lora_B.bias", "txt_in", Role::UpBias),
        ("double_blocks.0.processor.qkv_lora1.down.weight", "double_blocks.0.processor.qkv_lora1", Role::Down),
        ("diffusion_model.txt_in.diff", "diffusion_model.txt_in", Role::Diff),
        ("diffusion_model.txt_in.diff_b", "diffusion_model.txt_in", Role::DiffBias),
        ("single_blocks.0.norm.key_norm.scale", "single_blocks.0.norm.key_norm", Role::Value),
        ("single_blocks.0.norm.key_norm.scale.diff", "single_blocks.0.norm.key_norm", Role::Diff),
        ("transformer_blocks.0.attn.norm_q.weight", "transformer_blocks.0.attn.norm_q", Role::Value),
    ];
    for (key, stem, role) in cases {
        assert_eq!(parse(key), Some((stem, role)), "{key}");
    }
    for key in ["img_in.bias", "txt_in.lora_A.bias", "weight", ""] {
        assert_eq!(parse(key), None, "{key}");
    }
}

#[test]
fn a_file_is_in_the_dialect_of_its_trainer() {
    let of = |keys: &[&str]| Dialect::of(keys.iter().copied());
    let cases = [
        ("lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight", Dialect::Kohya),
        ("lora_transformer_proj_out.lora_down.weight", Dialect::OneTrainer),
        ("lycoris_single_transformer_blocks_0_attn_to_q.lora_up.weight", Dialect::SimpleTuner),
        ("diffusion_model.single_blocks.0.processor.qkv_lora.up.weight", Dialect::XLabs),
        ("double_blocks.0.processor.proj_lora2.up.weight", Dialect::XLabs),
        ("base_model.model.final_layer.linear.lora_A.weight", Dialect::Peft),
        ("diffusion_model.txt_in.diff_b", Dialect::ComfyUi),
        ("model.diffusion_model.txt_in.lora_up.weight", Dialect::ComfyUi),
        ("model.single_blocks.0.linear1.lora_A.0_SwiftLoRA.weight", Dialect::Swift),
        ("transformer.transformer_blocks.0.attn.to_q.lora_A.weight", Dialect::Diffusers),
        ("transformer_blocks.0.attn.to_q.lora_A.weight", Dialect::Diffusers),
        ("img_in.lora_A.weight", Dialect::Bfl),
    ];
    for (key, dialect) in cases {
        assert_eq!(of(&[key]), Some(dialect), "{key}");
    }
    assert_eq!(
        of(&["img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale"]),
        Some(Dialect::BflControl),
        "only control adapters replace norms"
    );
    let checkpoint = ["img_in.weight", "img_in.bias", "single_blocks.0.norm.key_norm.scale"];
    assert_eq!(of(&checkpoint), None);
    assert_eq!(of(&["lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight"]), None);
    assert_eq!(of(&["encoder.block.0.layer.0.SelfAttention.q.lora_A.weight"]), None);
    assert_eq!(of(&[]), None);
}

#[test]
fn every_reading_of_a_prefix_is_tried() {
    let readings = |stem| unprefixed(stem).collect::<Vec<_>>();
    assert_eq!(readings("img_in"), [("img_in", false)]);
    assert_eq!(readings("lora_unet_img_in"), [("img_in", true), ("lora_unet_img_in", false)]);
    assert!(readings("model.diffusion_model.img_in").contains(&("img_in", false)));
    assert!(readings("base_model.model.img_in").contains(&("img_in", false)));
}

#[test]
fn other_kinds_of_adapter_and_other_networks_are_told_apart() {
    assert_eq!(foreign("transformer.proj_out.lora_magnitude_vector.weight"), Some("a DoRA magnitude"));
    assert_eq!(foreign("lycoris_proj_out.lokr_w1"), Some("a factor of a LoKr"));
    assert_eq!(foreign("lora_unet_img_in.lora_down.weight"), None);
    for key in
        ["lora_te3_x.alpha", "text_encoder.text_model.x.lora_A.weight", "text_encoders.t5xxl.x", "bundle_emb.x.t5"]
    {
        assert!(is_for_text_encoder(key), "{key}");
    }
    assert!(!is_for_text_encoder("lora_transformer_txt_in.alpha"));
}
