//! What each trainer's names mean: which layer, which rows, which columns, how strong.

use super::*;

/// diffusers' layers, with BFL's path and rows, by hand.
fn diffusers() -> Vec<(String, String, Range<usize>)> {
    let third = |i: usize| i * D..(i + 1) * D;
    let mut all: Vec<(String, String, Range<usize>)> = [
        ("x_embedder", "img_in", D),
        ("context_embedder", "txt_in", D),
        ("time_text_embed.timestep_embedder.linear_1", "time_in.in_layer", D),
        ("time_text_embed.timestep_embedder.linear_2", "time_in.out_layer", D),
        ("time_text_embed.guidance_embedder.linear_1", "guidance_in.in_layer", D),
        ("time_text_embed.guidance_embedder.linear_2", "guidance_in.out_layer", D),
        ("time_text_embed.text_embedder.linear_1", "vector_in.in_layer", D),
        ("time_text_embed.text_embedder.linear_2", "vector_in.out_layer", D),
        ("norm_out.linear", "final_layer.adaLN_modulation.1", 2 * D),
        ("proj_out", "final_layer.linear", 64),
    ]
    .map(|(theirs, ours, rows)| (theirs.to_owned(), ours.to_owned(), 0..rows))
    .into();
    for i in 0..2 {
        for (theirs, ours, rows) in [
            ("norm1.linear", "img_mod.lin", 0..6 * D),
            ("norm1_context.linear", "txt_mod.lin", 0..6 * D),
            ("attn.to_q", "img_attn.qkv", third(0)),
            ("attn.to_k", "img_attn.qkv", third(1)),
            ("attn.to_v", "img_attn.qkv", third(2)),
            ("attn.add_q_proj", "txt_attn.qkv", third(0)),
            ("attn.add_k_proj", "txt_attn.qkv", third(1)),
            ("attn.add_v_proj", "txt_attn.qkv", third(2)),
            ("attn.to_out.0", "img_attn.proj", third(0)),
            ("attn.to_add_out", "txt_attn.proj", third(0)),
            ("ff.net.0.proj", "img_mlp.0", 0..4 * D),
            ("ff.net.2", "img_mlp.2", 0..D),
            ("ff_context.net.0.proj", "txt_mlp.0", 0..4 * D),
            ("ff_context.net.2", "txt_mlp.2", 0..D),
        ] {
            all.push((format!("transformer_blocks.{i}.{theirs}"), format!("double_blocks.{i}.{ours}"), rows));
        }
        for (theirs, ours, rows) in [
            ("norm.linear", "modulation.lin", 0..3 * D),
            ("attn.to_q", "linear1", third(0)),
            ("attn.to_k", "linear1", third(1)),
            ("attn.to_v", "linear1", third(2)),
            ("proj_mlp", "linear1", 3 * D..LINEAR1),
            ("proj_out", "linear2", 0..D),
        ] {
            all.push((format!("single_transformer_blocks.{i}.{theirs}"), format!("single_blocks.{i}.{ours}"), rows));
        }
    }
    all
}

#[test]
fn diffusers_parts_join_on_the_fused_layers() {
    let features: BTreeMap<_, _> = layers(64).into_iter().collect();
    let dot: fn(&str) -> String = str::to_owned;
    let underscore: fn(&str) -> String = |name| name.replace('.', "_");
    for (dialect, prefix, spelled, down, up, alpha) in [
        (Dialect::Diffusers, "transformer.", dot, "lora_A.weight", "lora_B.weight", true),
        (Dialect::Diffusers, "transformer.", dot, "lora.down.weight", "lora.up.weight", false),
        (Dialect::Diffusers, "", dot, "lora_A.weight", "lora_B.weight", false),
        (Dialect::OneTrainer, "lora_transformer_", underscore, "lora_down.weight", "lora_up.weight", true),
        (Dialect::SimpleTuner, "lycoris_", underscore, "lora_down.weight", "lora_up.weight", true),
    ] {
        let mut adapter = Adapter::default();
        for (i, (theirs, path, rows)) in diffusers().into_iter().enumerate() {
            let stem = format!("{prefix}{}", spelled(&theirs));
            let names = [format!("{stem}.{down}"), format!("{stem}.{up}")];
            let (rank, ratio) = (1 + i % 3, if alpha { 0.5 + i as f64 / 32.0 } else { 1.0 });
            let alpha = alpha.then(|| format!("{stem}.alpha"));
            let swapped = theirs == "norm_out.linear";
            let place = Place { path: &path, features: features[&path], rows, swapped };
            adapter.branch(names, alpha, rank, ratio, &place);
        }
        assert_eq!(adapter.expected.len(), features.len());
        assert_attached(&adapter, 64, dialect);
    }
}

#[test]
fn a_part_may_be_missing_and_parts_with_the_same_input_factor_share_it() {
    let mut adapter = Adapter::default();
    let path = "double_blocks.1.txt_attn.qkv";
    for (name, third) in [("add_q_proj", 0), ("add_v_proj", 2)] {
        let stem = format!("transformer.transformer_blocks.1.attn.{name}");
        let names = [format!("{stem}.lora_A.weight"), format!("{stem}.lora_B.weight")];
        let place = Place { path, features: [D, 3 * D], rows: third * D..(third + 1) * D, swapped: false };
        // The same random numbers, as when a fused adapter was cut.
        adapter.seed = third as u64 * 2 % 2;
        adapter.branch(names, None, 4, 1.0, &place);
    }
    assert_attached(&adapter, 64, Dialect::Diffusers);
    let folder = TestDir::new("shared-factor");
    let mut flux = flux(64);
    adapter::attach(&mut flux, &adapter.file(&folder), 1.0, &device()).expect("sound by making");
    assert_eq!(flux.double_blocks[1].txt_attn.qkv.lora[0].lora_a.dims(), [4, D]);
}

#[test]
fn xlabs_processors_are_the_projections_around_the_attention() {
    for prefix in ["", "diffusion_model."] {
        let mut adapter = Adapter::default();
        for i in 0..2 {
            for (kind, name, ours, features, height) in [
                ("double_blocks", "qkv_lora1", "img_attn.qkv", [D, 3 * D], 3 * D),
                ("double_blocks", "proj_lora1", "img_attn.proj", [D, D], D),
                ("double_blocks", "qkv_lora2", "txt_attn.qkv", [D, 3 * D], 3 * D),
                ("double_blocks", "proj_lora2", "txt_attn.proj", [D, D], D),
                ("single_blocks", "qkv_lora", "linear1", [D, LINEAR1], 3 * D),
                ("single_blocks", "proj_lora", "linear2", [5 * D, D], D),
            ] {
                let stem = format!("{prefix}{kind}.{i}.processor.{name}");
                let names = [format!("{stem}.down.weight"), format!("{stem}.up.weight")];
                let path = format!("{kind}.{i}.{ours}");
                let place = Place { path: &path, features, rows: 0..height, swapped: false };
                adapter.branch(names, None, 2, 1.0, &place);
            }
        }
        assert_attached(&adapter, 64, Dialect::XLabs);
    }
}

#[test]
fn a_control_adapter_brings_biases_and_norms() {
    // The control image stands on the channels of the model.
    let channels = 128;
    let mut adapter = Adapter::default();
    let mut biases = BTreeMap::new();
    for (path, features) in layers(channels) {
        let names = [format!("{path}.lora_A.weight"), format!("{path}.lora_B.weight")];
        adapter.branch(names, None, 2, 1.0, &Place::whole(&path, features));
        biases.insert(path.clone(), adapter.random(format!("{path}.lora_B.bias"), [features[1]]));
    }
    let mut norms = BTreeMap::new();
    flux(channels).for_each_norm(&mut |path, norm| {
        norms.insert(path.to_owned(), adapter.random(format!("{path}.scale"), norm.scale.dims()));
    });
    assert_eq!(norms.len(), 2 * 4 + 2 * 2);
    let report = assert_attached(&adapter, channels, Dialect::BflControl);
    assert_eq!(report.parameters, biases.len() + norms.len());

    let folder = TestDir::new("control");
    let (mut before, mut after) = (flux(channels), flux(channels));
    adapter::attach(&mut after, &adapter.file(&folder), 0.5, &device()).expect("sound by making");
    let mut old = BTreeMap::new();
    before.for_each_linear(&mut |path, linear| {
        old.insert(path.to_owned(), values(linear.bias.as_ref().expect("sound by making").val()));
    });
    after.for_each_linear(&mut |path, linear| {
        let expected: Vec<_> = old[path].iter().zip(&biases[path]).map(|(a, b)| f64::from(*a) + 0.5 * b).collect();
        assert_close(path, &values(linear.bias.as_ref().expect("sound by making").val()), &expected);
    });
    after.for_each_norm(&mut |path, norm| assert_close(path, &values(norm.scale.val()), &norms[path]));
}

#[test]
fn differences_are_added_to_the_models_own_parameters() {
    let mut adapter = Adapter::default();
    let norm = "double_blocks.0.img_attn.norm.key_norm";
    let weight = adapter.random("diffusion_model.double_blocks.0.img_attn.proj.diff".into(), [D, D]);
    let bias = adapter.random("diffusion_model.double_blocks.0.img_attn.proj.diff_b".into(), [D]);
    let scale = adapter.random(format!("diffusion_model.{norm}.scale.diff"), [D / 2]);
    let swapped = adapter.random("transformer.norm_out.linear.diff_b".into(), [2 * D]);
    let folder = TestDir::new("differences");
    let file = adapter.file(&folder);
    let (before, mut after) = (flux(64), flux(64));
    let report = adapter::attach(&mut after, &file, 2.0, &device()).expect("sound by making");
    assert_eq!((report.dialect, report.ranks), (Dialect::ComfyUi, None));
    assert_eq!((report.branches, report.parameters), (0, 4));

    let moved = |name, before: Vec<f32>, after: Vec<f32>, by: &[f64]| {
        let expected: Vec<f64> = before.iter().zip(by).map(|(a, b)| f64::from(*a) + 2.0 * b).collect();
        assert_close(name, &after, &expected);
    };
    let proj = |flux: &Flux| flux.double_blocks[0].img_attn.proj.clone();
    let bias_of = |linear: Linear| values(linear.bias.expect("sound by making").val());
    moved("weight", values(proj(&before).weight.val()), values(proj(&after).weight.val()), &weight);
    moved("bias", bias_of(proj(&before)), bias_of(proj(&after)), &bias);
    let norm = |flux: &Flux| values(flux.double_blocks[0].img_attn.norm.key_norm.scale.val());
    moved("norm", norm(&before), norm(&after), &scale);
    let last = |flux: &Flux| bias_of(flux.final_layer.adaln_modulation.clone());
    moved("halves", last(&before), last(&after), &[&swapped[D..], &swapped[..D]].concat());
}

#[test]
fn an_adapter_of_fewer_conditions_keeps_its_columns() {
    // [latents 64 | masked image 64 | change image 64 | mask 256]
    for (columns, channels, places) in [
        (64, 384, vec![(0..64, 0)]),
        (64, 448, vec![(0..64, 0)]),
        (384, 448, vec![(0..128, 0), (128..384, 192)]),
        (448, 448, vec![(0..448, 0)]),
    ] {
        for stem in ["lora_unet_img_in", "transformer.x_embedder"] {
            let mut adapter = Adapter::default();
            let names = [format!("{stem}.lora_down.weight"), format!("{stem}.lora_up.weight")];
            adapter.branch(names, None, 2, 1.0, &Place::whole("img_in", [columns, D]));
            let narrow = adapter.expected.remove("img_in").expect("sound by making");
            let mut wide = vec![0.0; D * channels];
            for row in 0..D {
                for (from, to) in &places {
                    let to = row * channels + to;
                    wide[to..to + from.len()]
                        .copy_from_slice(&narrow[row * columns + from.start..row * columns + from.end]);
                }
            }
            adapter.expected.insert("img_in".into(), wide);
            let dialect = if stem.starts_with("lora_") { Dialect::Kohya } else { Dialect::Diffusers };
            assert_attached(&adapter, channels, dialect);
        }
    }
}

#[test]
fn diffusers_header_says_how_strong_a_branch_is() {
    let stems = ["attn.to_q", "ff.net.2"].map(|name| format!("transformer.transformer_blocks.0.{name}"));
    let file = |header: &str, folder: &TestDir| {
        let mut adapter = Adapter::default();
        for stem in &stems {
            let input = if stem.ends_with('2') { 4 * D } else { D };
            adapter.random(format!("{stem}.lora_A.weight"), [4, input]);
            adapter.random(format!("{stem}.lora_B.weight"), [D, 4]);
        }
        written(folder, &adapter.tensors, &[("lora_adapter_metadata", header)])
    };
    let scales = |header: &str| {
        let folder = TestDir::new("header");
        let mut flux = flux(64);
        adapter::attach(&mut flux, &file(header, &folder), 1.0, &device()).map(|_| {
            let block = &flux.double_blocks[0];
            [block.img_attn.qkv.lora[0].scale, block.img_mlp.out_layer.lora[0].scale]
        })
    };
    assert_eq!(scales(r#"{"transformer.r": 4}"#).expect("sound by making"), [1.0, 1.0]);
    assert_eq!(scales(r#"{"transformer.r": 4, "transformer.lora_alpha": 8}"#).expect("sound by making"), [2.0, 2.0]);
    let own = r#"{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"transformer_blocks.0.attn.to_q": 2}}"#;
    assert_eq!(scales(own).expect("sound by making"), [0.5, 2.0]);
    assert_eq!(
        scales(r#"{"transformer.lora_alpha": 8, "transformer.alpha_pattern": {"net.2": 2}}"#).expect("sound by making"),
        [2.0, 0.5]
    );
    assert_eq!(
        scales(r#"{"transformer.lora_alpha": 8, "transformer.use_rslora": true}"#).expect("sound by making"),
        [4.0, 4.0]
    );
    assert_eq!(scales(r#"{"text_encoder.lora_alpha": 8}"#).expect("sound by making"), [1.0, 1.0]);
    for (header, reason) in
        [("nonsense", "lora_adapter_metadata in the header"), (r#"{"alpha_pattern": {"to_.*": 2}}"#, "to_.*")]
    {
        let message = scales(header).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
}
