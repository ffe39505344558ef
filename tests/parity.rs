//! The recordings of the reference implementations, through `ace verify`: they agree, all of them are looked at, and
//! a recording that says something else is noticed.

use crate::support::{TestDir, ace, data};
use ace_weights::{self, WeightFile};
use burn::tensor::TensorData;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Output,
};

/// What `ace verify --json` says: exit code and cases.
fn verify(recordings: Option<&Path>) -> (Option<i32>, Vec<Value>) {
    let mut command = ace();
    command.args(["verify", "--json"]);
    if let Some(folder) = recordings {
        command.arg("--recordings").arg(folder);
    }
    let Output { status, stdout, stderr } = command.output().expect("the program runs");
    let cases =
        serde_json::from_slice(&stdout).unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&stderr)));
    (status.code(), cases)
}

fn name(case: &Value) -> &str {
    case["name"].as_str().expect("a case has a name")
}

/// Names of the recordings, from the folder.
fn recorded() -> BTreeSet<String> {
    fs::read_dir(data("parity"))
        .expect("the recordings are part of the repository")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "safetensors"))
        .map(|path| path.file_stem().expect("a file has a name").to_string_lossy().into_owned())
        .collect()
}

/// Copies the recordings to `folder` and changes one number of one of them.
fn tamper(folder: &TestDir, recording: &str, key: &str) {
    for name in recorded() {
        let name = format!("{name}.safetensors");
        fs::copy(data("parity").join(&name), folder.file(&name)).expect("the folder is writable");
    }
    let path = folder.file(&format!("{recording}.safetensors"));
    let file = WeightFile::open(&path).expect("a recording is a weight file");
    let mut tensors: BTreeMap<String, TensorData> = BTreeMap::new();
    for name in file.shapes().expect("readable").into_keys() {
        tensors.insert(name.clone(), file.data(&name).expect("readable"));
    }
    let changed = tensors.get_mut(key).expect("the recording has the tensor");
    let mut values: Vec<f32> = changed.iter::<f32>().collect();
    values[0] += 0.5;
    *changed = TensorData::new(values, changed.shape().clone());
    let metadata = file.metadata().expect("readable");
    let metadata: Vec<_> = metadata.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    ace_weights::write(&path, &tensors, &metadata).expect("the folder is writable");
}

#[test]
fn every_recording_is_reproduced() {
    let (code, cases) = verify(None);
    for case in &cases {
        assert_eq!(case["passed"], Value::Bool(true), "{case}");
        assert!(case["error"].as_f64() <= case["bound"].as_f64(), "{case}");
    }
    assert_eq!(code, Some(0));
}

#[test]
fn every_recording_has_a_case() {
    let (_, cases) = verify(None);
    let covered: BTreeSet<String> = cases.iter().map(|case| name(case).to_owned()).collect();
    let forgotten: Vec<_> = recorded().difference(&covered).cloned().collect();
    assert!(forgotten.is_empty(), "no case for {forgotten:?}");
}

#[test]
fn one_tampered_output_is_noticed_and_named() {
    let folder = TestDir::new("tampered-output");
    tamper(&folder, "flux", "output.velocity");
    let (code, cases) = verify(Some(folder.path()));
    assert_eq!(code, Some(1));
    let failed: Vec<_> = cases.iter().filter(|case| case["passed"] == Value::Bool(false)).collect();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((name(failed[0]), &failed[0]["what"]), ("flux", &Value::from("velocity")));
}

#[test]
fn one_tampered_weight_is_noticed() {
    let folder = TestDir::new("tampered-weight");
    tamper(&folder, "t5", "weights.encoder.block.1.layer.1.DenseReluDense.wi_0.weight");
    let (code, cases) = verify(Some(folder.path()));
    assert_eq!(code, Some(1));
    assert!(cases.iter().all(|case| case["passed"] == Value::Bool(name(case) != "t5")));
}
