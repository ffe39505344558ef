//! How a model is held so that an edit fits: what is predicted beside what the program counts, T5 that comes layer by layer,
//! words that are kept embedded.

use crate::support::{TestDir, ace, device, randomize};
use ace_nn::{autoencoder::AutoEncoderConfig, clip::ClipConfig, flux::FluxConfig, t5::T5Config};
use ace_plus::{Card, Edit, Model, Placement};
use ace_weights::{
    StreamedT5, WeightFile,
    network::{autoencoder, clip, flux, t5},
};
use burn::tensor::FloatDType;
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Output,
};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

/// A folder with a model of random weights, large enough that the program itself does not matter.
fn middle(name: &str) -> TestDir {
    let dir = TestDir::new(name);
    let mut card: toml::Table = fs::read_to_string(tiny().join("card.toml")).expect("shipped").parse().expect("TOML");
    card.remove("domain");
    let mut change = |section: &str, changes: &str| {
        let changes: toml::Table = changes.parse().expect("TOML");
        card[section].as_table_mut().expect("a section").extend(changes);
    };
    change("flux", "hidden_size = 512\nnum_heads = 4\naxes_dim = [16, 56, 56]\ncontext_in_dim = 512");
    change("autoencoder", "block_out_channels = [32, 64, 128, 128]\nlayers_per_block = 2");
    change("t5", "d_model = 512\nd_kv = 64\nd_ff = 2048\nnum_layers = 4\nnum_heads = 8");
    change("canvas", "max_seq_len = 1024");
    let of = |section: &str| card[section].clone();
    let (device, dtype) = (device(), Some(FloatDType::BF16));
    let config: FluxConfig = of("flux").try_into().expect("sizes");
    let mut networks =
        vec![("flux.safetensors", ace_weights::collect(&randomize(config.init(&device), 1), &flux::BFL, "", dtype))];
    let config: AutoEncoderConfig = of("autoencoder").try_into().expect("sizes");
    let tensors = ace_weights::collect(&randomize(config.init(&device), 2), &autoencoder::BFL, "", dtype);
    networks.push(("autoencoder.safetensors", tensors));
    let config: T5Config = of("t5").try_into().expect("sizes");
    let tensors = ace_weights::collect(&randomize(config.init(&device), 3), &t5::TRANSFORMERS, "", dtype);
    networks.push(("t5.safetensors", tensors));
    let config: ClipConfig = of("clip").try_into().expect("sizes");
    let tensors = ace_weights::collect(&randomize(config.init(&device), 4), &clip::TRANSFORMERS, "", dtype);
    networks.push(("clip.safetensors", tensors));
    for (file, tensors) in networks {
        ace_weights::write(&dir.file(file), &tensors, &[]).expect("writable");
    }
    fs::write(dir.file("card.toml"), card.to_string()).expect("writable");
    for file in ["t5/tokenizer.json", "clip/vocab.json", "clip/merges.txt"] {
        let place = dir.file("tokenizers").join(file);
        fs::create_dir_all(place.parent().expect("a folder")).expect("writable");
        fs::copy(tiny().join("tokenizers").join(file), place).expect("shipped");
    }
    dir
}

fn sample(dir: &TestDir, words: &[&str]) -> Output {
    let fixed = ["sample", "-p", "a blue star", "--steps", "2", "--plain", "--out", "o.png"];
    ace().args(fixed).args(words).current_dir(dir.path()).output().expect("the program starts")
}

/// Bytes of `1.5 GB`.
fn bytes(text: &str) -> f64 {
    let (number, unit) = text.trim().split_once(' ').expect("a number and its unit");
    let unit = ["B", "kB", "MB", "GB"].iter().position(|known| *known == unit).expect("a unit");
    number.parse::<f64>().expect("a number") * 1000f64.powi(unit as i32)
}

/// Name, measured and predicted bytes of every part that the program has printed; the last is the whole.
fn compared(output: &Output) -> Vec<(String, f64, f64)> {
    let (said, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{errors}");
    let line = said.lines().find(|line| line.starts_with("memory, ")).unwrap_or_else(|| panic!("{said}"));
    let (_, parts) = line.split_once(": ").expect("parts");
    let one = |part: &str| {
        let (measured, predicted) = part.trim_end_matches(')').split_once(" (predicted ").expect("both");
        let at = measured.trim().rfind(' ').and_then(|unit| measured.trim()[..unit].rfind(' ')).expect("a name");
        let (name, measured) = measured.trim().split_at(at);
        (name.to_owned(), bytes(measured), bytes(predicted))
    };
    parts.split("), ").map(one).collect()
}

#[test]
fn what_is_predicted_is_what_is_counted() {
    let dir = middle("hold-middle");
    let size = ["--model", ".", "--width", "256", "--height", "256"];
    let mut before = f64::INFINITY;
    for way in [&["--memory", "64G"][..], &["--placement", "one-at-a-time"], &["--placement", "streamed"]] {
        let parts = compared(&sample(&dir, &[&size[..], way].concat()));
        let names: Vec<&str> = parts.iter().map(|(name, ..)| name.as_str()).collect();
        assert_eq!(names, ["words", "encode", "denoise", "decode", "at most"]);
        let (_, most, predicted) = parts[4];
        assert!((predicted / most - 1.0).abs() <= 0.1, "{way:?}: {parts:?}");
        assert!(most < before, "{way:?} takes less than the way before: {parts:?}");
        before = most;
        let denoise = &parts[2];
        assert!((denoise.2 / denoise.1 - 1.0).abs() <= 0.1, "{way:?}: {parts:?}");
    }
}

#[test]
fn the_miniature_takes_what_is_predicted() {
    let dir = TestDir::new("hold-tiny");
    for way in [&["--memory", "64G"][..], &["--low-memory"]] {
        let parts = compared(&sample(&dir, way));
        let (_, most, predicted) = parts[4];
        assert!((predicted / most - 1.0).abs() <= 0.1, "{way:?}: {parts:?}");
    }
}

#[test]
fn a_plan_names_the_way_that_fits_or_the_least_that_would() {
    let dir = middle("hold-plan");
    let asked = ["plan", "sample", "--model", ".", "--width", "256", "--height", "256", "--steps", "2", "--json"];
    let plan = |memory: &str| {
        let output = ace().args(asked).args(["--memory", memory]).current_dir(dir.path()).output().expect("starts");
        let plan: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        (output.status.success(), plan)
    };
    let (fits, plan_of_all) = plan("64G");
    assert!(fits && plan_of_all["fits"]["placement"] == "resident", "{plan_of_all}");
    let peaks: Vec<u64> =
        plan_of_all["ways"].as_array().expect("ways").iter().map(|way| way["peak"].as_u64().expect("bytes")).collect();
    // The way that is chosen is the first that fits.
    let (second, least) = (peaks[1], *peaks.iter().min().expect("ways"));
    let (fits, plan_of_some) = plan(&second.to_string());
    assert!(fits && plan_of_some["fits"]["placement"] == "one-at-a-time", "{plan_of_some}");
    assert!(!plan(&(least - 1).to_string()).0);

    let output = sample(&dir, &["--model", ".", "--width", "256", "--height", "256", "--memory", "10M"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("nothing fits into") && said.contains("\nhint: "), "{said}");
    assert!(!dir.file("o.png").exists());
}

#[test]
fn t5_from_a_file_layer_by_layer_is_t5() {
    let card = Card::builtin("tiny").expect("a sound card");
    let (config, device, dtype) = (&card.t5, device(), Some(FloatDType::F32));
    for packing in [None, Some(ace_nn::weight::Packing::Q8_0)] {
        let open = || {
            let file = WeightFile::open(&tiny().join("t5.safetensors")).expect("shipped");
            packing.into_iter().fold(file, WeightFile::packed)
        };
        let whole = open().t5(config, dtype, &device).expect("it fits");
        let lean = open().t5_without_layers(config, dtype, &device).expect("it fits");
        let streamed = StreamedT5::open(open(), config, dtype, &device).expect("it fits");
        let ids = vec![vec![5i64, 9, 17, 1, 0], vec![3, 3, 100, 191, 1]];
        let flat: Vec<i32> = ids.concat().iter().map(|id| *id as i32).collect();
        let tensor = burn::tensor::Tensor::<2, burn::tensor::Int>::from_data(
            burn::tensor::TensorData::new(flat, [2, 5]),
            &device,
        );
        let mut layers = streamed.clone();
        let ours = lean.forward_with(&ids, &mut layers, &mut || ControlFlow::Continue(()));
        let ours = ours.continue_value().expect("nothing breaks");
        assert_eq!(ours.into_data(), whole.forward(tensor).into_data(), "{packing:?}");
        assert!(layers.most_held() <= 2);
    }
}

#[test]
fn words_that_were_embedded_before_need_no_encoder() {
    let dir = TestDir::new("hold-words");
    let copy = |from: &Path, to: &Path| {
        fs::create_dir_all(to.parent().expect("a folder")).expect("writable");
        fs::copy(from, to).expect("shipped");
    };
    for file in [
        "card.toml",
        "flux.safetensors",
        "autoencoder.safetensors",
        "t5.safetensors",
        "clip.safetensors",
        "tokenizers/t5/tokenizer.json",
        "tokenizers/clip/vocab.json",
        "tokenizers/clip/merges.txt",
    ] {
        copy(&tiny().join(file), &dir.file("model").join(file));
    }
    let folder = dir.file("model").display().to_string();
    let load = |cache: bool| {
        let model = Model::find(&folder).expect("a card").placement(Placement::Streamed);
        model.text_cache(cache.then(|| dir.file("words"))).load(&device()).expect("whole")
    };
    let edit = |ace: &ace_plus::Ace, words: &str| {
        ace.edit(&Edit::new(words).steps(1).size(32, 32), &mut |_| ControlFlow::Continue(()))
    };
    let expected = edit(&load(false), "a red circle").expect("it is made");
    let ace = load(true);
    assert_eq!(edit(&ace, "a red circle").expect("it is made"), expected);
    assert_eq!(fs::read_dir(dir.file("words")).expect("made").count(), 1);
    // The pooled encoder is read when words are encoded, and only then.
    fs::remove_file(dir.file("model/clip.safetensors")).expect("there");
    assert_eq!(edit(&ace, "a red circle").expect("it is made"), expected);
    assert!(edit(&ace, "a blue star").is_err());
}
