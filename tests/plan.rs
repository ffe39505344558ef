//! What the planner predicts, beside what the program counts.

use crate::{
    convert::{tensors, write_q8},
    support::{TestDir, ace},
};
use ace_train::{
    Recipe,
    plan::{Base, Packed},
};
use ace_weights::WeightFile;
use serde_json::Value;
use std::path::Path;

/// What the program prints as JSON.
fn json(words: &[&str]) -> Value {
    let output = ace().args(words).output().expect("the program starts");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn number(json: &Value, name: &str) -> f64 {
    json[name].as_f64().unwrap_or_else(|| panic!("{name} in {json}"))
}

/// A recipe of the miniature.
fn recipe() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny/lora-subject.toml");
    path.display().to_string()
}

#[test]
fn a_file_that_is_packed_is_counted_as_it_is() {
    let dir = TestDir::new("plan-packed");
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny/flux.safetensors");
    let packed = dir.file("flux-Q8_0.gguf");
    write_q8(&packed, &tensors(&shipped));
    let recipe = Recipe::load(Path::new(&recipe())).expect("shipped");
    let base = |path: &Path| Base::on(&WeightFile::open(path).expect("readable"), &recipe);
    assert_eq!(base(&shipped), Base::of(&recipe));
    assert_eq!(base(&packed), Base { packed: Packed::Q8_0, ..Base::of(&recipe) });
}

#[test]
fn the_predicted_memory_is_what_is_counted() {
    let recipe = recipe();
    let miniature = ["--recipe", &recipe, "--batch", "8"];
    let small = ["--hidden", "384", "--blocks", "2,4", "--tokens", "256", "--text-tokens", "128"];
    for model in [&miniature[..], &small] {
        for way in ["--plain", "--recompute"] {
            let words = [&["bench", "train", "--json", "--steps", "2", way], model].concat();
            let measured = json(&words);
            let (counted, predicted) = (number(&measured, "peak_memory"), number(&measured, "predicted_memory"));
            let off = predicted / counted - 1.0;
            assert!(off.abs() <= 0.1, "{words:?}: {predicted:e} predicted, {counted:e} counted: {measured:#}");
        }
    }
}

#[test]
fn a_bench_says_where_time_and_operations_go() {
    let words =
        ["bench", "train", "--json", "--hidden", "128", "--blocks", "1,1", "--tokens", "16", "--text-tokens", "8"];
    let measured = json(&words);
    let stages = measured["stages"].as_object().expect("a table");
    let shares: f64 = stages.values().filter_map(Value::as_f64).sum();
    assert!((shares - 1.0).abs() < 1e-6 && stages.len() == 4, "{stages:?}");
    assert_eq!((number(&measured, "steps"), measured["recompute"].as_bool()), (5.0, Some(true)));
    let [fastest, slowest] = [0, 1].map(|at| measured["step_seconds_range"][at].as_f64().expect("a number"));
    let median = number(&measured, "step_seconds");
    assert!(fastest <= median && median <= slowest);
    assert!((number(&measured, "samples_per_second") * median - 1.0).abs() < 1e-6);
    assert!(number(&measured, "flops") > 0.0 && number(&measured, "matmul_flops") > 0.0);
}

#[test]
fn a_plan_finds_settings_that_fit() {
    let plan = |more: &[&str]| {
        let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/lora.toml");
        let lora = lora.display().to_string();
        let words = [&["plan", "train", &lora, "--model", "ace-plus-portrait"], more].concat();
        ace().args(&words).output().expect("the program starts")
    };
    let output = plan(&["--memory", "24G", "--json"]);
    let json: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success());
    assert!(json["fits"]["peak"].as_u64().expect("a way") <= 24 << 30);
    let first = json["ways"][0]["peak"].as_u64().expect("as the recipe says");
    assert!(first > 24 << 30, "twelve billion numbers in f32");
    // In words it names the parts and the lines for the recipe.
    let text = String::from_utf8(plan(&["--memory", "24G"]).stdout).expect("text");
    for part in ["does not fit", "base weights", "adapters", "optimizer", "one block at work", "for the recipe:"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = plan(&["--memory", "1M"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stdout).contains("none of these fits"));
}
