//! The examples of the libraries run on the miniature.

use crate::support::TestDir;

#[path = "../crates/ace-plus/examples/batch.rs"]
mod batch;
#[path = "../crates/ace-plus/examples/cancel.rs"]
mod cancel;
#[path = "../crates/ace-plus/examples/edit.rs"]
mod edit;
#[path = "../crates/ace-train/examples/train_lora.rs"]
mod train_lora;

#[test]
fn one_edit() {
    assert_eq!(edit::edit().expect("edits").dimensions(), (64, 64));
}

#[test]
fn threads_share_a_model() {
    let pictures = batch::batch().expect("makes pictures");
    assert_eq!(pictures.len(), 3);
    assert!(pictures.iter().all(|picture| picture.dimensions() == (64, 64)) && pictures[0] != pictures[1]);
}

#[test]
fn an_edit_stops_between_two_blocks() {
    assert_eq!(cancel::cancel().expect("stops"), (1, vec![1, 16, 8, 8]));
}

#[test]
fn a_lora_is_trained_and_used() {
    let dir = TestDir::new("example-lora");
    let adapter = train_lora::train_lora(&dir.file("out"), 2).expect("learns");
    assert!(adapter.ends_with("lora.safetensors") && adapter.exists(), "{}", adapter.display());
}
