//! LoRA files in every trainer's spelling: what each adds to each layer equals the product written out by hand, and
//! what cannot be added is refused and changes nothing.

use crate::{
    convert::tensors,
    support::{TestDir, data, device, flux_config, random, randomize, values},
};
use ace_nn::{
    flux::{Flux, FluxInput},
    lora::Linear,
};
use ace_plus::Card;
use ace_weights::Error;
use ace_weights::{
    WeightFile,
    adapter::{self, AdapterReport, Dialect, Spelling},
};
use burn::prelude::*;
use std::{collections::BTreeMap, ops::Range, path::Path};

mod dialects;

/// `hidden_size` of [`flux_config`].
const D: usize = 32;
/// Rows of `linear1`: queries, keys, values and the feed-forward.
const LINEAR1: usize = 3 * D + 4 * D;

type Tensors = BTreeMap<String, TensorData>;

fn flux(in_channels: usize) -> Flux {
    randomize(flux_config(in_channels).init(&device()), 1)
}

/// A layer by BFL's path: `[in, out]`.
fn layers(in_channels: usize) -> Vec<(String, [usize; 2])> {
    let mut layers = Vec::new();
    flux_config(in_channels)
        .init(&device())
        .for_each_linear(&mut |path, linear| layers.push((path.to_owned(), linear.features())));
    layers
}

/// An adapter in the making: the file's tensors, and what they add to each layer, written out.
#[derive(Default)]
struct Adapter {
    tensors: Tensors,
    /// By BFL's path: `[out, in]`, row by row.
    expected: BTreeMap<String, Vec<f64>>,
    seed: u64,
}

/// Where a branch goes.
struct Place<'a> {
    path: &'a str,
    features: [usize; 2],
    rows: Range<usize>,
    swapped: bool,
}

impl<'a> Place<'a> {
    fn whole(path: &'a str, features: [usize; 2]) -> Self {
        Self { path, features, rows: 0..features[1], swapped: false }
    }
}

impl Adapter {
    fn random<const N: usize>(&mut self, key: String, shape: [usize; N]) -> Vec<f64> {
        self.seed += 1;
        let tensor = random(shape, 100 + self.seed) * 0.3;
        assert!(self.tensors.insert(key.clone(), tensor.clone().into_data()).is_none(), "{key} twice");
        values(tensor).into_iter().map(f64::from).collect()
    }

    /// A branch under `down` and `up`; `alpha / rank` is `ratio` and, if an alpha is asked for, written under its key.
    fn branch(&mut self, [down, up]: [String; 2], alpha: Option<String>, rank: usize, ratio: f64, place: &Place<'_>) {
        let ([input, output], height) = (place.features, place.rows.len());
        let a = self.random(down, [rank, input]);
        let b = self.random(up, [height, rank]);
        if let Some(alpha) = alpha {
            self.tensors.insert(alpha, TensorData::new(vec![(ratio * rank as f64) as f32], [0usize; 0]));
        }
        let sum = self.expected.entry(place.path.to_owned()).or_insert_with(|| vec![0.0; input * output]);
        for i in 0..height {
            let row = place.rows.start + if place.swapped { (i + height / 2) % height } else { i };
            for j in 0..input {
                let product: f64 = (0..rank).map(|r| b[i * rank + r] * a[r * input + j]).sum();
                sum[row * input + j] += ratio * product;
            }
        }
    }

    fn file(&self, folder: &TestDir) -> WeightFile {
        written(folder, &self.tensors, &[])
    }
}

fn written(folder: &TestDir, tensors: &Tensors, metadata: &[(&str, &str)]) -> WeightFile {
    let path = folder.file("lora.safetensors");
    ace_weights::write(&path, tensors, metadata).expect("the folder is writable");
    WeightFile::open(&path).expect("just written")
}

/// What the branches of each layer add to its weight.
fn products(flux: &mut Flux) -> BTreeMap<String, Vec<f32>> {
    let mut products = BTreeMap::new();
    flux.for_each_linear(&mut |path, linear| {
        if !linear.lora.is_empty() {
            let weight = linear.weight.val().zeros_like().into();
            let (fused, _) = Linear { weight, ..linear.clone() }.fuse();
            products.insert(path.to_owned(), values(fused.weight.val()));
        }
    });
    products
}

fn assert_close(path: &str, ours: &[f32], expected: &[f64]) {
    assert_eq!(ours.len(), expected.len(), "{path}");
    let furthest = ours.iter().zip(expected).map(|(a, b)| (f64::from(*a) - b).abs()).fold(0.0, f64::max);
    assert!(furthest <= 1e-6 && ours.iter().all(|a| a.is_finite()), "{path}: {furthest}");
}

/// Attaches an adapter at half its strength and compares every layer.
fn assert_attached(adapter: &Adapter, in_channels: usize, dialect: Dialect) -> AdapterReport {
    let folder = TestDir::new(&format!("dialect-{dialect:?}-{}", adapter.tensors.len()));
    let file = adapter.file(&folder);
    assert_eq!(adapter::dialect(&file).expect("sound by making"), Some(dialect));
    let mut flux = flux(in_channels);
    let report = adapter::attach(&mut flux, &file, 0.5, &device()).expect("sound by making");
    assert_eq!((report.dialect, report.branches), (dialect, adapter.expected.len()));
    assert_eq!(report.ranks, adapter::ranks(&file).expect("sound by making"));
    let products = products(&mut flux);
    assert_eq!(products.keys().collect::<Vec<_>>(), adapter.expected.keys().collect::<Vec<_>>());
    for (path, expected) in &adapter.expected {
        let expected: Vec<f64> = expected.iter().map(|value| value * 0.5).collect();
        assert_close(path, &products[path], &expected);
    }
    report
}

#[test]
fn bfls_layers_are_found_behind_every_prefix() {
    for (dialect, prefix, down, up, dotted, alpha) in [
        (Dialect::Kohya, "lora_unet_", "lora_down.weight", "lora_up.weight", false, true),
        (Dialect::ComfyUi, "diffusion_model.", "lora_down.weight", "lora_up.weight", true, true),
        (Dialect::ComfyUi, "diffusion_model.", "lora_A.weight", "lora_B.weight", true, false),
        (Dialect::Peft, "base_model.model.", "lora_A.weight", "lora_B.weight", true, false),
        (Dialect::Swift, "model.", "lora_A.0_SwiftLoRA.weight", "lora_B.0_SwiftLoRA.weight", true, false),
        (Dialect::Diffusers, "transformer.", "lora_A.default.weight", "lora_B.default.weight", true, true),
        (Dialect::Bfl, "", "lora_A.weight", "lora_B.weight", true, false),
    ] {
        let mut adapter = Adapter::default();
        for (i, (path, features)) in layers(64).iter().enumerate() {
            let stem = format!("{prefix}{}", if dotted { path.clone() } else { path.replace('.', "_") });
            let names = [format!("{stem}.{down}"), format!("{stem}.{up}")];
            let ratio = if alpha { 0.25 } else { 1.0 };
            let alpha = alpha.then(|| format!("{stem}.alpha"));
            adapter.branch(names, alpha, 1 + i % 3, ratio, &Place::whole(path, *features));
        }
        let report = assert_attached(&adapter, 64, dialect);
        assert_eq!((report.ranks, report.parameters, report.skipped.len()), (Some(1..=3), 0, 0));
    }
}

/// Relative L2 error of the velocity with these adapters beside the recorded one of that name, which PEFT gave
/// (`tests/reference/record_adapters.py`).
fn error_beside_peft(name: &str, adapters: &[(&str, f64)]) -> f32 {
    error_beside("flux", name, adapters)
}

fn error_beside(recording: &str, name: &str, adapters: &[(&str, f64)]) -> f32 {
    let (device, folder) = (device(), data("fill"));
    let card = Card::load(&folder).expect("sound by making");
    let mut flux = WeightFile::open(&folder.join("transformer"))
        .expect("sound by making")
        .flux(&card.flux, None, &device)
        .expect("sound by making");
    for (file, weight) in adapters {
        let file = WeightFile::open(&data("adapters").join(file)).expect("sound by making");
        adapter::attach(&mut flux, &file, *weight, &device).expect("sound by making");
    }
    let recorded = WeightFile::open(&data("adapters/flux.safetensors")).expect("sound by making");
    let ids: Vec<f32> = recorded.data("input.img_ids").expect("sound by making").iter().collect();
    let ids: Vec<[f32; 3]> = ids.chunks_exact(3).map(|id| [id[0], id[1], id[2]]).collect();
    let prompt_embeds = recorded.tensor::<3>("input.encoder_hidden_states", None, &device).expect("sound by making");
    let [_, text_len, _] = prompt_embeds.dims();
    let velocity = flux.forward(FluxInput {
        tokens: recorded.tensor("input.hidden_states", None, &device).expect("sound by making"),
        rope: flux.rope(text_len, &ids, &device),
        prompt_embeds,
        pooled_prompt_embeds: recorded.tensor("input.pooled_projections", None, &device).expect("sound by making"),
        timesteps: recorded.tensor("input.timestep", None, &device).expect("sound by making"),
        guidance: recorded.tensor("input.guidance", None, &device).expect("sound by making"),
    });
    let expected = WeightFile::open(&data(&format!("adapters/{recording}.safetensors"))).expect("sound by making");
    let expected = expected.tensor::<3>(&format!("output.{name}"), None, &device).expect("sound by making");
    let norm = |tensor: Tensor<3>| (tensor.clone() * tensor).sum().into_scalar::<f32>().sqrt();
    norm(velocity - expected.clone()) / norm(expected)
}

#[test]
fn adapters_in_diffusers_files_give_pefts_velocity() {
    let both = [("first", 0.7), ("second", -0.4)];
    for (name, adapters) in
        [("none", &[][..]), ("first", &[("first", 1.0)]), ("second", &[("second", 1.0)]), ("both", &both)]
    {
        let error = error_beside_peft(name, adapters);
        assert!(error < 1e-5, "{name}: {error:e}");
    }
    // The recordings tell adapters and strengths apart.
    assert!(error_beside_peft("first", &[]) > 0.1 && error_beside_peft("both", &[("first", 0.7)]) > 0.1);
}

#[test]
fn peft_and_diffusers_read_what_is_written_for_them_and_pefts_own_is_read() {
    let folder = TestDir::new("written");
    let card = Card::load(&data("fill")).expect("recorded");
    let mut flux = card.flux.init(&device());
    let ours = WeightFile::open(&data("adapters/ours/ours.safetensors")).expect("recorded");
    adapter::attach(&mut flux, &ours, 1.0, &device()).expect("of this model");
    // What PEFT and diffusers were given, when their velocity was recorded, is what is written now.
    for (name, spelling) in [
        ("ours.safetensors", Spelling::Kohya),
        ("ours-diffusers.safetensors", Spelling::Diffusers),
        ("ours-peft", Spelling::Peft),
    ] {
        let written = folder.file(name);
        adapter::write_as(&written, &flux, spelling, &[]).expect("writable");
        let (written, recorded) = (tensors(&written), tensors(&data("adapters/ours").join(name)));
        assert!(written == recorded, "{name}");
    }
    let read = |folder: &Path| std::fs::read_to_string(folder.join("adapter_config.json")).expect("there");
    assert_eq!(read(&folder.file("ours-peft")), read(&data("adapters/ours/ours-peft")));

    for (name, file) in [
        ("diffusers", "ours/ours.safetensors"),
        ("peft", "ours/ours.safetensors"),
        ("diffusers", "ours/ours-diffusers.safetensors"),
        ("peft", "ours/ours-peft"),
        ("written_by_peft", "peft"),
    ] {
        let error = error_beside("peft", name, &[(file, 1.0)]);
        assert!(error < 1e-5, "{file} beside {name}: {error:e}");
        assert!(error_beside("peft", name, &[]) > 0.1);
    }
}

#[test]
fn several_adapters_add_up() {
    let folder = TestDir::new("several");
    let mut flux = flux(64);
    let mut sum = vec![0.0; 3 * D * D];
    for (stem, seed, weight) in
        [("lora_unet_double_blocks_0_img_attn_qkv", 0, 0.75), ("double_blocks.0.img_attn.qkv", 9, -2.0)]
    {
        let mut adapter = Adapter { seed, ..Adapter::default() };
        let names = [format!("{stem}.lora_down.weight"), format!("{stem}.lora_up.weight")];
        adapter.branch(names, None, 2, 1.0, &Place::whole("qkv", [D, 3 * D]));
        adapter::attach(&mut flux, &adapter.file(&folder), weight, &device()).expect("sound by making");
        sum.iter_mut().zip(&adapter.expected["qkv"]).for_each(|(sum, product)| *sum += weight * product);
    }
    assert_eq!(flux.double_blocks[0].img_attn.qkv.lora.len(), 2);
    assert_close("sum", &products(&mut flux)["double_blocks.0.img_attn.qkv"], &sum);
}

#[test]
fn what_is_for_the_text_encoders_is_reported() {
    let mut adapter = Adapter::default();
    let stem = "lora_unet_double_blocks_0_img_attn_proj";
    let names = [format!("{stem}.lora_down.weight"), format!("{stem}.lora_up.weight")];
    adapter.branch(names, None, 2, 1.0, &Place::whole("double_blocks.0.img_attn.proj", [D, D]));
    let words = ["lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "text_encoder.x.lora_A.weight"];
    for key in words {
        adapter.random(key.to_owned(), [1]);
    }
    let report = assert_attached(&adapter, 64, Dialect::Kohya);
    assert_eq!(report.skipped, words);
    assert_eq!(report.ranks, Some(2..=2));
}

#[test]
fn what_cannot_be_added_is_refused_and_changes_nothing() {
    let down = |stem: &str, shape: [usize; 2]| (format!("{stem}.lora_A.weight"), shape.to_vec());
    let up = |stem: &str, shape: [usize; 2]| (format!("{stem}.lora_B.weight"), shape.to_vec());
    let proj = "double_blocks.1.img_attn.proj";
    let square = |stem: &str| vec![down(stem, [2, D]), up(stem, [D, 2])];
    let with = |mut keys: Vec<(String, Vec<usize>)>, key: &str, shape: &[usize]| {
        keys.push((key.to_owned(), shape.to_vec()));
        keys
    };
    let cases = [
        (vec![], "no branch is in this file", "another model"),
        (
            vec![("lora_te1_x.alpha".into(), vec![1])],
            "lora_te1_x.alpha and the others are for the text encoders",
            "nothing",
        ),
        (with(square(proj), "oddity", &[1]), "oddity has no place in the transformer", "another model"),
        (
            square("double_blocks.7.img_attn.proj"),
            "double_blocks.7.img_attn.proj.lora_A.weight has no place",
            "another",
        ),
        (
            with(square(proj), &format!("{proj}.dora_scale"), &[D]),
            "is a DoRA magnitude, which is not read",
            "plain LoRAs",
        ),
        (with(square(proj), "img_in.set_weight", &[D, 64]), "is a weight to put in the place of", "plain LoRAs"),
        (with(square(proj), &format!("{proj}.lora_down.weight"), &[2, D]), "are the same factor", "one adapter"),
        (with(square(proj), &format!("{proj}.weight"), &[D, D]), "proj.weight is a whole weight", "checkpoint"),
        (with(square(proj), &format!("{proj}.alpha"), &[2]), "alpha has 2 numbers", "broken"),
        (with(vec![], &format!("{proj}.alpha"), &[1]), "alpha stands without factors", "incomplete"),
        (vec![down(proj, [2, D])], "lora_A.weight stands without its other factor", "incomplete"),
        (vec![up(proj, [D, 2])], "lora_B.weight stands without its other factor", "incomplete"),
        (vec![down(proj, [2, D]), up(proj, [D, 3])], "is [2, 32] and", "another size"),
        (vec![down(proj, [2, 48]), up(proj, [48, 2])], "the layer takes 32 and gives 32", "another size"),
        (
            vec![
                down("transformer.transformer_blocks.0.attn.to_q", [2, D]),
                up("transformer.transformer_blocks.0.attn.to_q", [48, 2]),
            ],
            "the layer takes 32 and gives 32 there",
            "another size",
        ),
        (
            with(square(proj), &format!("{proj}.lora_B.bias"), &[D + 1]),
            "is [33], double_blocks.1.img_attn.proj takes [32]",
            "size",
        ),
        (with(vec![], &format!("{proj}.diff"), &[D, D + 1]), "the layer has [32, 32]", "another size"),
        (vec![down("img_in", [2, 128]), up("img_in", [D, 2])], "img_in.lora_A.weight is [2, 128]", "control image"),
        (vec![down("img_in", [2, 96]), up("img_in", [D, 2])], "img_in.lora_A.weight is [2, 96]", "another size"),
        (
            [square(proj), square("lora_unet_double_blocks_1_img_attn_proj")].concat(),
            "double_blocks.1.img_attn.proj and lora_unet_double_blocks_1_img_attn_proj change the same rows",
            "two spellings",
        ),
        (
            [
                square("transformer_blocks.0.attn.to_k"),
                vec![down("double_blocks.0.img_attn.qkv", [2, D]), up("double_blocks.0.img_attn.qkv", [3 * D, 2])],
            ]
            .concat(),
            "change the same rows of double_blocks.0.img_attn.qkv",
            "two spellings",
        ),
        (with(vec![], "double_blocks.0.img_attn.norm.key_norm.alpha", &[1]), "has no place in a norm", "another model"),
    ];
    for (keys, reason, way_out) in cases {
        let folder = TestDir::new("refused-adapter");
        let tensors = keys.into_iter().map(|(key, shape)| {
            let len = shape.iter().product();
            (key, TensorData::new(vec![1.0f32; len], shape))
        });
        // What would fit must not be left behind.
        let mut tensors: Tensors = tensors.collect();
        if tensors.len() > 1 {
            tensors.insert("txt_in.diff_b".into(), TensorData::new(vec![1.0f32; D], [D]));
        }
        let mut flux = flux(384);
        let bias = values(flux.txt_in.bias.as_ref().expect("sound by making").val());
        let file = written(&folder, &tensors, &[]);
        let error = adapter::attach(&mut flux, &file, 1.0, &device()).expect_err(reason);
        assert!(matches!(error, Error::Misfit { .. }) && error.to_string().contains(reason), "{error}");
        assert!(error.hint().expect("sound by making").contains(way_out), "{error}: {:?}", error.hint());
        assert!(products(&mut flux).is_empty(), "{reason}");
        assert_eq!(values(flux.txt_in.bias.as_ref().expect("sound by making").val()), bias, "{reason}");
    }
}
