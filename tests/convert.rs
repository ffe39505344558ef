//! Weights in other formats: what is converted there and back is the same, what is widened is what its numbers mean, and
//! nothing is overwritten or misread.

use crate::support::{TestDir, ace, data};
use ace_nn::{
    flux::{Blocks, Fetched, Flux, FluxConfig, FluxInput, SingleBlock},
    weight::{Packing, Weight},
};
use ace_weights::{
    Network, Streamed, WeightFile, adapter,
    convert::{self, Format, Options, Precision},
    store::float8::Float8,
};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use half::bf16;
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// The networks of the recorded folder, as diffusers wrote them.
const NETWORKS: [(&str, Network); 4] = [
    ("transformer", Network::Flux),
    ("vae", Network::AutoEncoder),
    ("text_encoder", Network::Clip),
    ("text_encoder_2", Network::T5),
];

fn options(format: Format, precision: Option<Precision>) -> Options {
    let card = ace_plus::Card::load(&data("fill")).expect("recorded");
    Options { format: Some(format), precision, card: Some(card.described()), ..Options::default() }
}

fn converted(from: &Path, to: PathBuf, options: &Options) -> PathBuf {
    let result = convert::convert(from, &to, options, &Device::default(), &mut |_, _| true);
    result.unwrap_or_else(|error| panic!("{}: {error} ({:?})", from.display(), error.hint()));
    to
}

pub fn tensors(path: &Path) -> BTreeMap<String, TensorData> {
    let file = WeightFile::open(path).expect("whole");
    file.keys().map(|key| (key.to_owned(), file.data(key).expect("readable"))).collect()
}

#[test]
fn every_network_goes_to_one_file_and_back_without_a_changed_bit() {
    let dir = TestDir::new("convert-back");
    for (name, network) in NETWORKS {
        let original = data("fill").join(name);
        let bfl = converted(&original, dir.file(&format!("{name}.safetensors")), &options(Format::Bfl, None));
        let file = WeightFile::open(&bfl).expect("whole");
        assert_eq!(file.networks().len(), 1);
        assert_eq!(file.networks()[0].network, network);
        // Small shards, so that tensors of one layer come to lie in several files.
        let back = Options { shard_size: 20_000, ..options(Format::Diffusers, None) };
        let back = converted(&bfl, dir.file(name), &back);
        let (back_tensors, original) = (tensors(&back), tensors(&original));
        assert_eq!(back_tensors.len(), original.len(), "{name}");
        for (key, data) in original {
            // transformers 5 leaves the tower's name out; written are the published names.
            let key = if network == Network::Clip { format!("text_model.{key}") } else { key };
            assert!(back_tensors.get(&key) == Some(&data), "{name}: {key}");
        }
        assert!(back.join("config.json").exists(), "{name}");
    }
    // BFL's keys are not diffusers'.
    let bfl = WeightFile::open(&dir.file("transformer.safetensors")).expect("whole");
    assert!(bfl.has("double_blocks.0.img_attn.qkv.weight") && !bfl.has("x_embedder.weight"));
}

#[test]
fn a_converted_folder_is_the_same_model_to_whoever_reads_its_configurations() {
    let dir = TestDir::new("convert-config");
    for (name, _) in NETWORKS {
        let original = data("fill").join(name);
        let bfl = converted(&original, dir.file(&format!("{name}.safetensors")), &options(Format::Bfl, None));
        converted(&bfl, dir.file(&format!("whole/{name}")), &options(Format::Diffusers, None));
    }
    for name in ["scheduler", "tokenizer", "tokenizer_2"] {
        fs::create_dir_all(dir.file(&format!("whole/{name}"))).expect("writable");
        for entry in fs::read_dir(data("fill").join(name)).expect("recorded") {
            let entry = entry.expect("readable");
            let to = dir.file(&format!("whole/{name}")).join(entry.file_name());
            fs::copy(entry.path(), to).expect("writable");
        }
    }
    fs::copy(data("fill/model_index.json"), dir.file("whole/model_index.json")).expect("writable");
    let (card, original) =
        (ace_plus::Card::load(&dir.file("whole")).expect("valid"), ace_plus::Card::load(&data("fill")).expect("valid"));
    assert_eq!(card.flux, original.flux);
    assert_eq!(card.autoencoder, original.autoencoder);
    assert_eq!(card.t5, original.t5);
    assert_eq!(card.clip, original.clip);
    ace_plus::Model::of(card, dir.file("whole")).load(&Device::default()).expect("every key has a place");
}

#[test]
fn precisions_are_torchs() {
    let dir = TestDir::new("convert-precision");
    let original = data("fill/transformer");
    let exact = tensors(&converted(&original, dir.file("f32.safetensors"), &options(Format::Bfl, None)));
    let half = converted(&original, dir.file("bf16.safetensors"), &options(Format::Bfl, Some(Precision::BF16)));
    for (key, half) in tensors(&half) {
        let half: Vec<f32> = half.convert::<f32>().iter().collect();
        let rounded: Vec<f32> = exact[&key].iter::<f32>().map(|value| bf16::from_f32(value).to_f32()).collect();
        assert_eq!(half, rounded, "{key}");
    }
    let eight = converted(&original, dir.file("fp8.safetensors"), &options(Format::ComfyUi, Some(Precision::Fp8)));
    let file = WeightFile::open(&eight).expect("whole");
    for (key, eight) in tensors(&eight) {
        let exact: Vec<f32> = exact[&key].iter().collect();
        let expected = match file.shape(&key).expect("there").len() {
            1 => exact,
            // Eight bits lie within bf16.
            _ => Float8::E4M3.decode(&Float8::E4M3.encode(&exact)),
        };
        assert_eq!(eight.convert::<f32>().iter::<f32>().collect::<Vec<_>>(), expected, "{key}");
    }
    let sizes = [&half, &eight].map(|path| fs::metadata(path).expect("there").len());
    assert!(sizes[1] < sizes[0] * 6 / 10, "{sizes:?}");
    // It loads as a network, widened.
    let card = ace_plus::Card::load(&data("fill")).expect("recorded");
    let mut widened = file.flux(&card.flux, Some(FloatDType::F32), &Device::default()).expect("a whole network");
    let mut weights = BTreeMap::new();
    widened.for_each_linear(&mut |path, linear| {
        weights.insert(path.to_owned(), linear.weight.val().into_data());
    });
    // And in eight bits, with the same numbers.
    let mut packed = file.quantized().flux(&card.flux, Some(FloatDType::F32), &Device::default()).expect("it fits");
    let mut wide = 0;
    packed.for_each_linear(&mut |path, linear| {
        wide += usize::from(!matches!(linear.weight, Weight::Packed(_)));
        assert_eq!(linear.weight.val().into_data(), weights[path], "{path}");
    });
    assert_eq!(wide, 0);
}

/// A safetensors file by hand: key, dtype, shape, bytes.
fn safetensors(tensors: &[(&str, &str, &[usize], &[u8])]) -> Vec<u8> {
    let (mut header, mut body) = (serde_json::Map::new(), Vec::new());
    for (key, dtype, shape, bytes) in tensors {
        let offsets = [body.len(), body.len() + bytes.len()];
        header.insert((*key).to_owned(), serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
        body.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    [&(header.len() as u64).to_le_bytes()[..], &header, &body].concat()
}

#[test]
fn a_scale_beside_an_eight_bit_weight_multiplies_it() {
    let codes: Vec<u8> = (0..24).map(|code| code * 5).collect();
    let bytes = safetensors(&[
        ("scaled_fp8", "F8_E4M3", &[2], &[0, 0]),
        ("a.weight", "F8_E4M3", &[4, 6], &codes),
        ("a.scale_weight", "F32", &[], &0.125f32.to_le_bytes()),
        ("a.scale_input", "F32", &[], &3f32.to_le_bytes()),
        ("b.weight", "F8_E5M2", &[4, 6], &codes),
        ("c.weight", "F8_E4M3", &[4, 6], &codes),
        ("c.weight_scale", "F32", &[4, 1], &[0.5f32, 1.0, 2.0, 4.0].map(f32::to_le_bytes).concat()),
    ]);
    let file = WeightFile::from_bytes(Path::new("scaled"), bytes).expect("whole");
    assert_eq!(file.keys().collect::<Vec<_>>(), ["a.weight", "b.weight", "c.weight"]);
    assert!(file.is_scaled("a.weight") && !file.is_scaled("b.weight"));
    let read = |key: &str| file.data(key).expect("readable").convert::<f32>().iter::<f32>().collect::<Vec<_>>();
    let scaled: Vec<f32> = Float8::E4M3.decode(&codes).iter().map(|value| value * 0.125).collect();
    assert_eq!(read("a.weight"), scaled);
    assert_eq!(read("b.weight"), Float8::E5M2.decode(&codes));
    // One for every row.
    let rows: Vec<f32> = Float8::E4M3
        .decode(&codes)
        .iter()
        .enumerate()
        .map(|(at, value)| value * 0.5 * f32::from(1_u8 << (at / 6)))
        .collect();
    assert_eq!(read("c.weight"), rows);
    let blocks = safetensors(&[("d.weight", "F8_E4M3", &[4, 6], &codes), ("d.weight_scale", "F32", &[2, 3], &[0; 24])]);
    let refused = WeightFile::from_bytes(Path::new("scaled"), blocks).expect_err("a scale per block");
    assert!(refused.to_string().contains("one per row"), "{refused}");
}

#[test]
fn a_gguf_file_is_read_as_its_own_library_reads_it() {
    let file = WeightFile::open(&data("gguf/types.gguf")).expect("whole");
    assert!(file.is_gguf());
    let theirs = WeightFile::open(&data("gguf/types.safetensors")).expect("recorded");
    let mut types = 0;
    for key in file.keys() {
        let theirs: Vec<f32> = theirs.data(key).unwrap_or_else(|error| panic!("{key}: {error}")).iter().collect();
        let widened = file.stored(key).expect("there").is_quantized();
        let theirs: Vec<f32> =
            if widened { theirs.iter().map(|value| bf16::from_f32(*value).to_f32()).collect() } else { theirs };
        let ours = file.data(key).expect("readable").convert::<f32>();
        assert_eq!(ours.iter::<f32>().collect::<Vec<_>>(), theirs, "{key}");
        types += 1;
    }
    assert_eq!(types, 16);
}

#[test]
fn nothing_is_overwritten_unasked_and_nothing_half_written() {
    let dir = TestDir::new("convert-refused");
    let original = data("fill/transformer");
    let bfl = converted(&original, dir.file("flux.safetensors"), &options(Format::Bfl, None));
    let before = dir.names();
    let refused = |from: &Path, to: &Path, options: &Options| {
        let error = convert::convert(from, to, options, &Device::default(), &mut |_, _| true).expect_err("refused");
        assert!(error.hint().is_some(), "{error}");
        assert_eq!(dir.names(), before, "{error} left something");
        error.to_string()
    };
    let plain = options(Format::Bfl, None);
    assert!(refused(&original, &bfl, &plain).contains("is there already"));
    assert!(refused(&bfl, &bfl, &Options { force: true, ..plain.clone() }).contains("is what is to be converted"));
    let lora = data("adapters/first/pytorch_lora_weights.safetensors");
    assert!(refused(&lora, &dir.file("o"), &options(Format::Bfl, Some(Precision::Fp8))).contains("a LoRA in fp8"));
    let without = Options { card: None, ..options(Format::Diffusers, None) };
    assert!(refused(&bfl, &dir.file("o"), &without).contains("not FLUX.1's sizes"));
    let vae = data("fill/vae");
    assert!(refused(&vae, &dir.file("o"), &options(Format::Bfl, Some(Precision::Fp8))).contains("fp8"));
    // Stopped in the middle.
    let mut calls = 0;
    let stopped = convert::convert(&original, &dir.file("o"), &plain, &Device::default(), &mut |_, _| {
        calls += 1;
        calls < 5
    });
    assert!(matches!(stopped, Err(ace_weights::Error::Cancelled)) && dir.names() == before);
    converted(&original, bfl.clone(), &Options { force: true, ..plain });
}

#[test]
fn the_program_says_what_a_file_is() {
    let dir = TestDir::new("inspect");
    let said = |words: &[&str]| {
        let output = ace().args(words).current_dir(dir.path()).output().expect("starts");
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let folder = data("fill/transformer");
    let (code, text) = said(&["inspect", folder.to_str().expect("a name")]);
    assert_eq!(code, Some(0), "{text}");
    for part in
        ["safetensors in 5 files", "FLUX transformer", "diffusers", "288 input features", "1 double and 2 single"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let (_, text) = said(&["inspect", data("adapters/first").to_str().expect("a name")]);
    for part in ["LoRA", "diffusers", "2 to 5"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    let tensors = BTreeMap::from([("x".to_owned(), TensorData::new(vec![1f32], [1]))]);
    ace_weights::write(&dir.file("odd.safetensors"), &tensors, &[]).expect("writable");
    let (code, text) = said(&["inspect", "odd.safetensors"]);
    assert!(code == Some(1) && text.contains("nothing that is known is in this file, only x"), "{text}");
    let (code, text) =
        said(&["convert", folder.to_str().expect("a name"), "out.safetensors", "--format", "bfl", "--dtype", "bf16"]);
    assert!(code == Some(0) && text.contains("FLUX transformer as bfl"), "{text}");
    assert!(dir.file("out.safetensors").exists());
    let (code, text) = said(&["convert", "out.safetensors", "o", "--format", "paint"]);
    assert!(code == Some(2) && text.contains("bfl, diffusers, comfyui"), "{text}");
}

/// What a LoRA file adds to each layer of the transformer of `card`.
fn added(path: &Path, card: &ace_plus::Card) -> BTreeMap<String, Vec<f32>> {
    let device = Device::default();
    let mut flux = card.flux.init(&device);
    adapter::attach(&mut flux, &WeightFile::open(path).expect("whole"), 1.0, &device).expect("it fits");
    let mut all = BTreeMap::new();
    flux.for_each_linear(&mut |path, linear| {
        let products = linear.lora.iter().map(|branch| branch.lora_b.val().matmul(branch.lora_a.val()) * branch.scale);
        if let Some(sum) = products.reduce(|sum, product| sum + product) {
            all.insert(path.to_owned(), sum.into_data().iter::<f32>().collect());
        }
    });
    all
}

#[test]
fn a_lora_goes_to_every_spelling_and_adds_the_same() {
    let dir = TestDir::new("convert-lora");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let fill = ace_plus::Card::load(&data("fill")).expect("recorded");
    let peft = |name: &str| {
        let folder = fs::read_dir(data("adapters").join(name)).expect("recorded");
        folder.flatten().map(|entry| entry.path()).find(|path| path.extension().is_some_and(|e| e == "safetensors"))
    };
    let cases = [
        (tiny.join("lora/subject.safetensors"), ace_plus::Card::builtin("tiny").expect("a sound card")),
        (peft("first").expect("recorded"), fill.clone()),
        (peft("second").expect("recorded"), fill),
    ];
    for (at, (original, card)) in cases.into_iter().enumerate() {
        let expected = added(&original, &card);
        assert!(!expected.is_empty());
        let lora = |format| Options { format: Some(format), ..Options::default() };
        let release = converted(&original, dir.file(&format!("{at}-release.safetensors")), &lora(Format::ComfyUi));
        let diffusers = converted(&release, dir.file(&format!("{at}-diffusers.safetensors")), &lora(Format::Diffusers));
        let back = converted(&diffusers, dir.file(&format!("{at}-back.safetensors")), &lora(Format::ComfyUi));
        let keys = |path: &Path| WeightFile::open(path).expect("whole").keys().next().expect("a key").to_owned();
        assert!(keys(&release).starts_with("lora_unet_") && keys(&diffusers).starts_with("transformer."));
        for path in [release, diffusers, back] {
            let ours = added(&path, &card);
            assert_eq!(ours.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{}", path.display());
            for (layer, theirs) in &expected {
                let scale = theirs.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                let off = ours[layer].iter().zip(theirs).fold(0.0_f32, |most, (a, b)| most.max((a - b).abs()));
                // Factors are the same numbers; sums of parts are taken in another order.
                assert!(off <= 1e-5 * scale, "{}: {layer} is off by {off} of {scale}", path.display());
            }
        }
    }
    let fp8 = Options { precision: Some(Precision::Fp8), ..Options::default() };
    let refused = convert::convert(
        &tiny.join("lora/subject.safetensors"),
        &dir.file("fp8.safetensors"),
        &fp8,
        &Device::default(),
        &mut |_, _| true,
    );
    assert!(refused.expect_err("refused").to_string().contains("a LoRA in fp8"));
    assert!(!dir.file("fp8.safetensors").exists());
}

/// Writes a GGUF file: matrices as `Q8_0`, whatever has rows of another length than whole blocks as `F32`.
pub fn write_q8(path: &Path, tensors: &BTreeMap<String, TensorData>) {
    let string = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    let (mut header, mut payload) = (Vec::new(), Vec::new());
    header.extend(b"GGUF");
    header.extend(3_u32.to_le_bytes());
    header.extend((tensors.len() as u64).to_le_bytes());
    header.extend(1_u64.to_le_bytes());
    string(&mut header, "general.architecture");
    header.extend(8_u32.to_le_bytes());
    string(&mut header, "flux");
    for (key, data) in tensors {
        let shape = data.shape().to_vec();
        let values: Vec<f32> = data.iter::<f32>().collect();
        let is_packed = shape.len() == 2 && shape[1].is_multiple_of(32);
        string(&mut header, key);
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
        header.extend((if is_packed { 8_u32 } else { 0 }).to_le_bytes());
        header.extend((payload.len() as u64).to_le_bytes());
        if is_packed {
            for block in values.chunks(32) {
                let largest = block.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                let scale = half::f16::from_f32(largest / 127.0);
                payload.extend(scale.to_le_bytes());
                let codes = block.iter().map(|value| match scale.to_f32() {
                    0.0 => 0,
                    scale => (value / scale).round().clamp(-127.0, 127.0) as i8,
                });
                payload.extend(codes.map(|code| code as u8));
            }
        } else {
            values.iter().for_each(|value| payload.extend(value.to_le_bytes()));
        }
        payload.resize(payload.len().next_multiple_of(32), 0);
    }
    header.resize(header.len().next_multiple_of(32), 0);
    header.extend(payload);
    fs::write(path, header).expect("writable");
}

#[test]
fn q8_stays_packed_and_gives_what_the_widened_weights_give() {
    let dir = TestDir::new("convert-packed");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let card = ace_plus::Card::builtin("tiny").expect("a sound card");
    let device = Device::default();
    let gguf = dir.file("flux-Q8_0.gguf");
    write_q8(&gguf, &tensors(&tiny.join("flux.safetensors")));
    let small = fs::metadata(&gguf).expect("written").len();
    assert!(small * 3 < fs::metadata(tiny.join("flux.safetensors")).expect("shipped").len());

    let open = || WeightFile::open(&gguf).expect("whole");
    let mut packed = open().quantized().flux(&card.flux, Some(FloatDType::F32), &device).expect("it fits");
    let mut widened = open().flux(&card.flux, Some(FloatDType::F32), &device).expect("it fits");
    let mut weights = BTreeMap::new();
    widened.for_each_linear(&mut |path, linear| {
        weights.insert(path.to_owned(), linear.weight.val().into_data());
    });
    packed.for_each_linear(&mut |path, linear| {
        let [input, _] = linear.features();
        assert_eq!(matches!(linear.weight, Weight::Packed(_)), input.is_multiple_of(32), "{path}");
        assert_eq!(linear.weight.val().into_data(), weights[path], "{path}");
    });
    let exact = open().quantized().exact().flux(&card.flux, Some(FloatDType::F32), &device).expect("it fits");
    let input = input(&widened, &card.flux, &device);
    let expected = widened.forward(input.clone());
    let error = |ours: &Flux| {
        let norm = |x: Tensor<3>| x.powf_scalar(2.0).sum().into_scalar::<f32>().sqrt();
        norm(ours.forward(input.clone()) - expected.clone()) / norm(expected.clone())
    };
    assert!(error(&exact) < 1e-5, "exact products: {}", error(&exact));
    // Where the processor multiplies bytes, activations are rounded to eight bits.
    assert!(error(&packed) < 2e-2, "products in bytes: {}", error(&packed));

    let file = gguf.to_str().expect("plain");
    let sample = |words: &[&str], out: &str| {
        let mut command = ace();
        command.args([
            "sample",
            "-p",
            "a big red circle at the center on a gray background",
            "--plain",
            "--flux",
            file,
        ]);
        let output = command.args(["--out", out]).args(words).current_dir(dir.path()).output().expect("starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(dir.file(out)).expect("a picture")
    };
    let pixels = |png: Vec<u8>| image::load_from_memory(&png).expect("a picture").to_rgb8().into_raw();
    let (packed, widened) = (pixels(sample(&[], "packed.png")), pixels(sample(&["--widen"], "widened.png")));
    let apart: u64 = packed.iter().zip(&widened).map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    assert!(apart < packed.len() as u64, "{apart} of 255 levels over {} numbers", packed.len());
    // With an adapter on top, and in other numbers.
    let lora = tiny.join("lora/restoration.safetensors");
    sample(&["--lora", lora.to_str().expect("plain"), "--dtype", "bf16"], "adapted.png");
}

#[test]
fn a_transformer_becomes_a_gguf_file_in_every_packing_and_computes_from_it() {
    let dir = TestDir::new("convert-gguf");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let card = ace_plus::Card::builtin("tiny").expect("a sound card");
    let device = Device::default();
    let original = tiny.join("flux.safetensors");
    let exact = WeightFile::open(&original).expect("shipped").flux(&card.flux, Some(FloatDType::F32), &device);
    let exact = exact.expect("it fits");
    let input = input(&exact, &card.flux, &device);
    let expected = exact.forward(input.clone());
    let norm = |x: Tensor<3>| x.powf_scalar(2.0).sum().into_scalar::<f32>().sqrt();
    let all = Precision::ALL.into_iter().filter(|(_, precision)| matches!(precision, Precision::Gguf(_)));
    for (name, precision) in all {
        let options = Options { precision: Some(precision), ..Options::default() };
        let gguf = converted(&original, dir.file(&format!("flux-{name}.gguf")), &options);
        let file = WeightFile::open(&gguf).expect("whole");
        assert!(file.is_gguf());
        let mut flux = file.quantized().exact().flux(&card.flux, Some(FloatDType::F32), &device).expect("it fits");
        let mut packed = 0;
        flux.for_each_linear(&mut |_, linear| packed += usize::from(matches!(linear.weight, Weight::Packed(_))));
        assert!(packed > 0, "{name}");
        let error = norm(flux.forward(input.clone()) - expected.clone()) / norm(expected.clone());
        assert!(error > 0.0 && error < 0.3, "{name}: {error}");
    }
    let refused = |output: &str, options: Options| {
        let error = convert::convert(&original, &dir.file(output), &options, &device, &mut |_, _| true);
        error.expect_err("refused").to_string()
    };
    let options = || Options { precision: Some(Precision::ALL[4].1), ..Options::default() };
    assert!(refused("flux.safetensors", options()).contains("GGUF"));
    let diffusers = Options { format: Some(Format::Diffusers), ..options() };
    assert!(refused("folder.gguf", diffusers).contains("diffusers"));
}

#[test]
fn blocks_from_a_file_give_what_blocks_in_memory_give_and_two_are_there_at_most() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    let card = ace_plus::Card::builtin("tiny").expect("a sound card");
    let (config, device, dtype) = (&card.flux, Device::default(), Some(FloatDType::F32));
    let open = |packing: Option<Packing>| {
        let file = WeightFile::open(&tiny.join("flux.safetensors")).expect("shipped");
        packing.into_iter().fold(file, WeightFile::packed)
    };
    for packing in [None, Some(Packing::Q4_0)] {
        let whole = open(packing).flux(config, dtype, &device).expect("it fits");
        let mut lean = open(packing).flux_without_blocks(config, dtype, &device).expect("it fits");
        let mut streamed = Streamed::open(open(packing), config, dtype, &device).expect("it fits");
        let absent = |flux: &mut Flux| {
            let mut count = 0;
            flux.for_each_linear(&mut |_, linear| count += usize::from(!linear.weight.is_present()));
            count
        };
        assert_eq!(absent(&mut lean), 10 * config.depth + 3 * config.depth_single_blocks);
        assert!(lean.num_params() * 4 < whole.num_params() || packing.is_some());

        let input = input(&whole, config, &device);
        let expected = whole.forward(input.clone()).into_data();
        // Twice: the second pass begins with what was fetched ahead at the end of the first.
        for _ in 0..2 {
            let mut poll = || ControlFlow::Continue(());
            let velocity = lean.forward_with(&mut Fetched::new(&mut streamed, &mut poll), input.clone());
            assert_eq!(velocity.continue_value().expect("nothing breaks").into_data(), expected);
        }
        // A backward pass asks from the end; what is asked for twice is the same.
        let linear1 = |block: SingleBlock| block.linear1.weight.val().into_data();
        for (index, own) in whole.single_blocks.iter().enumerate().rev() {
            let first = linear1(streamed.single(index, &lean.single_blocks[index]));
            assert_eq!(first, linear1(own.clone()));
            assert_eq!(first, linear1(streamed.single(index, &lean.single_blocks[index])));
        }
        assert_eq!(streamed.most_held(), 2);
    }
}

/// A question to the transformer.
fn input(flux: &Flux, config: &FluxConfig, device: &Device) -> FluxInput {
    let numbers = |shape: [usize; 3]| {
        let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| (i as f32 * 0.7).sin()).collect();
        Tensor::<3>::from_data(TensorData::new(values, shape), device)
    };
    FluxInput {
        tokens: numbers([1, 4, config.in_channels]),
        rope: flux.rope(3, &[[0.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 1.0]], device),
        prompt_embeds: numbers([1, 3, config.context_in_dim]),
        pooled_prompt_embeds: numbers([1, 1, config.vec_in_dim]).squeeze_dim(1),
        timesteps: Tensor::from_data([0.5_f32], device),
        guidance: Tensor::from_data([3.5_f32], device),
    }
}
