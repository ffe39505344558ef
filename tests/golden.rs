//! The shipped miniature does today what it did when it was recorded. `UPDATE_EXPECT=1 cargo test golden` records anew.

use crate::support::{self, TestDir};
use ace_plus::{Edit, Model, canvas::Plane, picture, sample};
use ace_train::{RunEvent, RunOptions, train};
use burn::prelude::*;
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny")
}

fn updating() -> bool {
    std::env::var_os("UPDATE_EXPECT").is_some()
}

/// The shipped miniature.
fn shipped() -> Model {
    Model::find(tiny().to_str().expect("plain")).expect("a model")
}

/// The shipped example, from a noise of its own.
fn shipped_edit(noise: TensorData) -> Edit {
    let words = fs::read_to_string(tiny().join("examples/instruction.txt")).expect("shipped");
    let image = picture::read_rgb(&tiny().join("examples/image.png")).expect("shipped");
    let mask = picture::read_mask(&tiny().join("examples/mask.png")).expect("shipped");
    Edit::new(words.trim()).image(image).mask(mask).task("recolor").noise(noise)
}

/// The comparison itself is a case of `ace verify`, which `parity.rs` watches; this records what it compares with, and
/// holds the edit to what it is for: the circle is green, and nothing else has moved.
#[test]
fn the_shipped_edit_turns_the_red_circle_green_and_keeps_the_rest() {
    let device = support::device();
    let ace = shipped().load(&device).expect("shipped");
    let noise = sample::gaussian([1, 16, 8, 8], &mut sample::rng(7, 0), &device).into_data();
    let edit = shipped_edit(noise.clone());
    let edited = ace.run(&edit, &mut |_| ControlFlow::Continue(())).expect("edits");
    if updating() {
        let picture = Plane::from_rgb(&edited.image);
        let tensors = BTreeMap::from([
            ("input.noise".to_owned(), noise),
            ("output.tokens".to_owned(), edited.tokens.clone().into_data()),
            ("output.picture".to_owned(), TensorData::new(picture.data, [3, picture.height, picture.width])),
        ]);
        let path = support::data("parity").join("miniature_edit.safetensors");
        ace_weights::write(&path, &tensors, &[("made_with", "this project, flex")]).expect("writable");
    }
    let (image, mask) = (edit.input().expect("given"), edit.masked().expect("given"));
    let (mut green, mut red) = (0, 0);
    for (x, y, after) in edited.image.enumerate_pixels() {
        let before = image.get_pixel(x, y);
        if mask.get_pixel(x, y).0[0] == 0 {
            assert_eq!(before, after, "the pixel at {x},{y} is outside the mask");
        } else if before.0[0] > 150 && before.0[1] < 80 {
            red += 1;
            green += usize::from(after.0[1] > after.0[0] && after.0[1] > after.0[2]);
        }
    }
    assert!(red > 100 && green * 10 > red * 9, "{green} of {red} red pixels became green");
}

#[test]
fn the_first_losses_of_the_adapter_recipe_are_the_recorded_ones() {
    let dir = TestDir::new("golden");
    let options =
        RunOptions { batch: Some(4), workers: 2, ..RunOptions::new(tiny().join("lora-subject.toml"), dir.file("out")) };
    let mut losses = Vec::new();
    train(&options, &support::device(), &mut |report| {
        if let RunEvent::Step(step) = report {
            losses.push(f64::from(step.loss));
        }
        losses.len() < 3
    })
    .expect("learns");
    let path = support::data("golden").join("losses.json");
    if updating() {
        fs::create_dir_all(support::data("golden")).expect("writable");
        fs::write(&path, serde_json::to_string(&losses).expect("numbers")).expect("writable");
    }
    let expected: Vec<f64> = serde_json::from_slice(&fs::read(&path).expect("recorded")).expect("numbers");
    assert_eq!(losses.len(), expected.len());
    for (ours, expected) in losses.iter().zip(&expected) {
        // Another processor sums in another order.
        assert!((ours / expected - 1.0).abs() < 1e-3, "{losses:?} are not {expected:?}");
    }
}

#[test]
fn every_shipped_adapter_is_one_of_the_shipped_miniature_and_changes_what_it_predicts() {
    let device = support::device();
    let noise = sample::gaussian([1, 16, 8, 8], &mut sample::rng(7, 0), &device).into_data();
    let edit = shipped_edit(noise).steps(1);
    let plain =
        shipped().load(&device).expect("shipped").run(&edit, &mut |_| ControlFlow::Continue(())).expect("edits");
    for name in ["subject", "local-editing", "restoration"] {
        let mut ace = shipped().load(&device).expect("shipped");
        ace.add_lora(&tiny().join(format!("lora/{name}.safetensors")), 1.0).expect("an adapter of this model");
        let edited = ace.run(&edit, &mut |_| ControlFlow::Continue(())).expect("edits");
        let moved = support::distance(edited.tokens, plain.tokens.clone());
        // Each was taught another task than this edit's, and a single step shows it: one moves by 5.5.
        assert!(moved > 1e-3 && moved < 8.0, "{name} moves the latents by {moved}");
    }
}
