//! Weight files: what is written comes back bit for bit, what does not fit is refused by name, and a file is written
//! whole or not at all.

use crate::support::{TestDir, flux, flux_config, random};
use ace_nn::flux::Flux;
use ace_weights::Error;
use ace_weights::network::flux::BFL;
use ace_weights::{WeightFile, adapter};
use burn::tensor::{DType, Device, FloatDType, TensorData};
use std::{collections::BTreeMap, fs, path::Path};

const KEY: &str = "double_blocks.1.img_attn.qkv.weight";

fn device() -> Device {
    crate::support::device()
}

/// The weights of a small transformer by key.
fn tensors() -> BTreeMap<String, TensorData> {
    ace_weights::collect(&flux(64), &BFL, "", None)
}

/// Writes `tensors` and reads them into a transformer.
fn load(folder: &TestDir, tensors: &BTreeMap<String, TensorData>) -> Result<Flux, Error> {
    let path = folder.file("flux.safetensors");
    ace_weights::write(&path, tensors, &[]).expect("the folder is writable");
    WeightFile::open(&path)?.load(flux_config(64).init(&device()), &BFL, "", None, &device())
}

/// The error of something that should have failed, and its hint.
fn refusal<T>(result: Result<T, Error>) -> (String, String) {
    let error = result.err().expect("this must be refused");
    let hint = error.hint().expect("an error about a file has a hint").to_owned();
    (error.to_string(), hint)
}

#[test]
fn a_round_trip_is_bit_equal() {
    let folder = TestDir::new("round-trip");
    let written = tensors();
    let read = ace_weights::collect(&load(&folder, &written).unwrap(), &BFL, "", None);
    assert_eq!(written.keys().collect::<Vec<_>>(), read.keys().collect::<Vec<_>>());
    for (key, data) in &written {
        assert_eq!(data.as_bytes(), read[key].as_bytes(), "{key}");
    }
}

#[test]
fn sixteen_bits_widen_exactly_when_f32_is_asked_for() {
    let folder = TestDir::new("widen");
    let halves = ace_weights::collect(&flux(64), &BFL, "", Some(FloatDType::BF16));
    let path = folder.file("half.safetensors");
    ace_weights::write(&path, &halves, &[]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert_eq!(file.data(KEY).unwrap().dtype(), DType::BF16);
    let module = file.load(flux_config(64).init(&device()), &BFL, "", Some(FloatDType::F32), &device()).unwrap();
    let wide = ace_weights::collect(&module, &BFL, "", None);
    for (key, data) in &halves {
        assert_eq!(wide[key].dtype(), DType::F32);
        assert_eq!(wide[key].as_bytes(), data.clone().convert::<f32>().as_bytes(), "{key}");
    }
}

#[test]
fn a_file_in_memory_is_read_like_one_on_disk() {
    let folder = TestDir::new("memory");
    let path = folder.file("a.safetensors");
    ace_weights::write(&path, &tensors(), &[("who", "me")]).unwrap();
    let held = WeightFile::from_bytes(Path::new("held"), fs::read(&path).unwrap()).unwrap();
    let mapped = WeightFile::open(&path).unwrap();
    assert_eq!(held.shapes().unwrap(), mapped.shapes().unwrap());
    assert_eq!(held.data(KEY).unwrap(), mapped.data(KEY).unwrap());
    assert_eq!(held.metadata().unwrap()["who"], "me");
}

#[test]
fn a_missing_weight_is_named() {
    let mut tensors = tensors();
    tensors.remove(KEY);
    let (message, _) = refusal(load(&TestDir::new("missing"), &tensors));
    assert!(message.ends_with(&format!("{KEY} is missing")), "{message}");
}

#[test]
fn several_missing_weights_are_counted() {
    let mut tensors = tensors();
    tensors.retain(|key, _| !key.starts_with("single_blocks.1."));
    let (message, _) = refusal(load(&TestDir::new("several"), &tensors));
    assert!(message.contains("single_blocks.1.") && message.ends_with("is missing (and 7 more)"), "{message}");
}

#[test]
fn an_extra_weight_is_named() {
    let mut tensors = tensors();
    tensors.insert("double_blocks.2.img_mlp.0.bias".into(), TensorData::new(vec![0f32; 4], [4]));
    let (message, _) = refusal(load(&TestDir::new("extra"), &tensors));
    assert!(message.contains("double_blocks.2.img_mlp.0.bias has no place"), "{message}");
}

#[test]
fn a_misshapen_weight_is_named_with_both_shapes() {
    let mut tensors = tensors();
    tensors.insert(KEY.into(), TensorData::new(vec![0f32; 64 * 192], [192, 64]));
    let (message, _) = refusal(load(&TestDir::new("misshapen"), &tensors));
    assert!(message.contains(KEY) && message.contains("[192, 64]") && message.contains("[96, 32]"), "{message}");
}

#[test]
fn a_weight_of_another_kind_is_named() {
    let folder = TestDir::new("kind");
    let path = folder.file("a.safetensors");
    ace_weights::write(&path, &tensors(), &[]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    let (message, _) = refusal(file.data("no.such.key"));
    assert!(message.contains("no.such.key is missing"), "{message}");
    let (message, _) = refusal(file.tensor::<3>(KEY, None, &device()));
    assert!(message.contains(KEY) && message.contains("2 axes, expected 3"), "{message}");
}

#[test]
fn a_truncated_file_is_refused_by_name() {
    let folder = TestDir::new("truncated");
    let path = folder.file("cut.safetensors");
    ace_weights::write(&path, &tensors(), &[]).unwrap();
    let whole = fs::read(&path).unwrap();
    for len in [whole.len() - 1, whole.len() / 2, 100, 8, 3] {
        fs::write(&path, &whole[..len]).unwrap();
        let (message, hint) = refusal(WeightFile::open(&path));
        assert!(message.contains("cut.safetensors") && hint.contains("truncated"), "{len} bytes: {message}; {hint}");
    }
}

#[test]
fn a_foreign_or_absent_file_is_refused_by_name() {
    let folder = TestDir::new("foreign");
    let path = folder.file("picture.safetensors");
    fs::write(&path, b"\x89PNG\r\n\x1a\n and then what a picture has to say").unwrap();
    assert!(refusal(WeightFile::open(&path)).0.contains("picture.safetensors"));
    let (message, _) = refusal(WeightFile::open(&folder.file("absent.safetensors")));
    assert!(message.contains("absent.safetensors"), "{message}");
}

#[test]
fn writing_leaves_one_whole_file_and_nothing_else() {
    let folder = TestDir::new("atomic");
    let path = folder.file("a.safetensors");
    ace_weights::write(&path, &tensors(), &[]).unwrap();
    ace_weights::write(&path, &tensors(), &[]).unwrap();
    assert_eq!(folder.names(), ["a.safetensors"]);
}

#[test]
fn a_write_that_fails_leaves_the_old_file_as_it_was() {
    let folder = TestDir::new("fails");
    let path = folder.file("a.safetensors");
    ace_weights::write(&path, &tensors(), &[]).unwrap();
    let before = fs::read(&path).unwrap();
    let mut unwritable = tensors();
    unwritable.insert(KEY.into(), TensorData::new(vec![true; 4], [4]));
    let (message, _) = refusal(ace_weights::write(&path, &unwritable, &[]));
    assert!(message.contains(KEY), "{message}");
    assert_eq!(fs::read(&path).unwrap(), before);

    // A folder in the place of the file: everything is written, only the last move fails.
    let occupied = folder.file("b.safetensors");
    fs::create_dir(&occupied).unwrap();
    fs::write(occupied.join("inside"), "").unwrap();
    assert!(ace_weights::write(&occupied, &tensors(), &[]).is_err());
    assert_eq!(folder.names(), ["a.safetensors", "b.safetensors"]);
}

/// A transformer with one branch on every layer of its blocks.
fn adapted() -> Flux {
    let mut flux = flux(64);
    let mut seed = 10;
    flux.for_each_linear(&mut |path, linear| {
        if path.starts_with("double_blocks.") || path.starts_with("single_blocks.") {
            let [input, output] = linear.features();
            let (a, b) = (random([3, input], seed), random([output, 3], seed + 1));
            linear.lora.push(ace_nn::lora::LoraBranch::from_factors(a, b, 6.0 / 3.0));
            seed += 2;
        }
    });
    flux
}

#[test]
fn an_adapter_comes_back_with_its_alpha_and_the_weight_asked_for() {
    let folder = TestDir::new("adapter");
    let path = folder.file("lora.safetensors");
    let mut written = adapted();
    adapter::write(&path, &written, &[]).unwrap();
    let file = WeightFile::open(&path).unwrap();
    assert!(file.shapes().unwrap().contains_key("lora_unet_double_blocks_1_img_mlp_0.lora_down.weight"));

    let mut read = flux(64);
    adapter::attach(&mut read, &file, 0.5, &device()).unwrap();
    let mut branches = Vec::new();
    written.for_each_linear(&mut |_, linear| branches.extend(linear.lora.clone()));
    let mut count = 0;
    read.for_each_linear(&mut |path, linear| {
        for branch in &linear.lora {
            let same = &branches[count];
            assert_eq!(branch.lora_a.val().into_data(), same.lora_a.val().into_data(), "{path}");
            assert_eq!(branch.lora_b.val().into_data(), same.lora_b.val().into_data(), "{path}");
            assert_eq!(branch.scale, 0.5 * 6.0 / 3.0);
            count += 1;
        }
    });
    assert_eq!((count, branches.len()), (2 * 10 + 2 * 3, 2 * 10 + 2 * 3));
}

#[test]
fn an_adapter_for_another_model_is_refused_and_changes_nothing() {
    let folder = TestDir::new("foreign-adapter");
    let path = folder.file("lora.safetensors");
    let factor = |shape: [usize; 2]| random(shape, 5).into_data();
    for (stem, features, expected) in [
        ("double_blocks.7.img_attn.proj", 32, "double_blocks.7.img_attn.proj.lora_A.weight has no place"),
        ("double_blocks.1.img_attn.proj", 48, "double_blocks.1.img_attn.proj.lora_A.weight is [2, 48]"),
    ] {
        let mut tensors = BTreeMap::from([
            (format!("{stem}.lora_A.weight"), factor([2, features])),
            (format!("{stem}.lora_B.weight"), factor([features, 2])),
        ]);
        // One branch that would fit: it must not be left behind.
        tensors.insert("double_blocks.0.img_attn.proj.lora_A.weight".into(), factor([2, 32]));
        tensors.insert("double_blocks.0.img_attn.proj.lora_B.weight".into(), factor([32, 2]));
        ace_weights::write(&path, &tensors, &[]).unwrap();
        let mut flux = flux(64);
        let file = WeightFile::open(&path).unwrap();
        let (message, _) = refusal(adapter::attach(&mut flux, &file, 1.0, &device()));
        assert!(message.contains(expected), "{message}");
        flux.for_each_linear(&mut |path, linear| assert!(linear.lora.is_empty(), "{path}"));
    }
}
