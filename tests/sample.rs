//! `ace sample` over and over: what made a picture stands in it and makes it again, several pictures at once, and noise
//! as torch draws it.

use crate::support::{self, TestDir, ace};
use ace_plus::{
    picture,
    sample::{Sampler, Schedule},
};
use image::{GrayImage, Luma, Rgb, RgbImage};
use std::{fs, path::Path, process::Output};

/// A folder with a picture, a mask and another mask.
fn folder(name: &str) -> TestDir {
    let dir = TestDir::new(name);
    RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, 90])).save(dir.file("image.png")).expect("writable");
    for (name, left) in [("mask.png", 16), ("other.png", 32)] {
        let mask = GrayImage::from_fn(64, 64, |x, _| Luma([if x >= left { 255 } else { 0 }]));
        mask.save(dir.file(name)).expect("writable");
    }
    dir
}

/// Runs `ace sample` with the shipped miniature and one step.
fn run(dir: &TestDir, words: &[&str]) -> Output {
    ace().arg("sample").args(words).current_dir(dir.path()).output().expect("the program starts")
}

#[track_caller]
fn runs(dir: &TestDir, words: &[&str]) {
    let output = run(dir, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[track_caller]
fn fails(dir: &TestDir, words: &[&str], message: &str) {
    let before = dir.names();
    let output = run(dir, words);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(message) && said.contains("\nhint: "), "{words:?}: {said}");
    assert_eq!(dir.names(), before, "{words:?} left something");
}

fn bytes(dir: &TestDir, name: &str) -> Vec<u8> {
    fs::read(dir.file(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn pixels(dir: &TestDir, name: &str) -> Vec<u8> {
    picture::read_rgb(&dir.file(name)).expect("a picture").into_raw()
}

const EDIT: [&str; 10] =
    ["--image", "image.png", "--mask", "mask.png", "-p", "make the circle green", "--steps", "1", "--seed", "5"];

#[test]
fn a_picture_says_what_made_it_and_is_made_again_byte_for_byte() {
    let dir = folder("from");
    let asked = [&EDIT[..], &["--guidance", "3.3", "--no-keep-outside", "--out", "first.png"]].concat();
    runs(&dir, &asked);
    runs(&dir, &["--from", "first.png", "--out", "again.png"]);
    assert_eq!(bytes(&dir, "first.png"), bytes(&dir, "again.png"));
    // What is said now replaces what was said then, and nothing else.
    runs(
        &dir,
        &["--from", "first.png", "--mask", "mask.png", "--image", "image.png", "--seed", "6", "--out", "six.png"],
    );
    let six = [&asked[..9], &["6", "--guidance", "3.3", "--no-keep-outside", "--out", "direct.png"]].concat();
    runs(&dir, &six);
    assert_eq!(bytes(&dir, "six.png"), bytes(&dir, "direct.png"));
    assert_ne!(pixels(&dir, "six.png"), pixels(&dir, "first.png"));
    let said = picture::read_text(&dir.file("first.png"), "ace").expect("readable").expect("something");
    for part in
        ["\"seed\":5", "make the circle green", "\"guidance\":3.3", "\"keep_outside\":false", "\"version\"", "\"flux\""]
    {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    // The same pixels without words.
    runs(&dir, &["--from", "first.png", "--plain", "--out", "plain.png"]);
    assert_eq!(picture::read_text(&dir.file("plain.png"), "ace").expect("readable"), None);
    assert_eq!(pixels(&dir, "plain.png"), pixels(&dir, "first.png"));
}

#[test]
fn what_is_not_as_it_was_is_named() {
    let dir = folder("from-changed");
    runs(&dir, &[&EDIT[..], &["--out", "first.png"]].concat());
    fs::copy(dir.file("other.png"), dir.file("mask.png")).expect("writable");
    fails(&dir, &["--from", "first.png", "--out", "o.png"], "mask.png has changed since the picture was made");
    fs::remove_file(dir.file("image.png")).expect("there");
    fails(&dir, &["--from", "first.png", "--mask", "other.png", "--out", "o.png"], "image.png");
    fails(&dir, &["--from", "mask.png", "--out", "o.png"], "the picture does not say how it was made");
    fails(&dir, &["--from", "none.png", "--out", "o.png"], "none.png");
    fs::write(dir.file("words.png"), "no picture").expect("writable");
    fails(&dir, &["--from", "words.png", "--out", "o.png"], "not a readable PNG");
}

#[test]
fn several_seeds_and_several_words_make_the_pictures_that_each_makes_alone() {
    let dir = folder("several");
    fs::write(dir.file("words.txt"), "# two\na red circle\na blue star\n").expect("writable");
    runs(&dir, &["--prompts", "words.txt", "--seed", "3", "--count", "2", "--steps", "1", "--plain", "--out", "o.png"]);
    for name in ["o-1-seed3.png", "o-1-seed4.png", "o-2-seed3.png", "o-2-seed4.png"] {
        assert!(dir.file(name).exists(), "{name}");
    }
    runs(&dir, &["-p", "a blue star", "--seed", "4", "--steps", "1", "--plain", "--out", "alone.png"]);
    assert_eq!(bytes(&dir, "alone.png"), bytes(&dir, "o-2-seed4.png"));
    assert_ne!(bytes(&dir, "alone.png"), bytes(&dir, "o-1-seed4.png"));
    fails(&dir, &["--prompts", "none.txt", "--out", "p.png"], "none.txt");
}

#[test]
fn the_noise_of_a_seed_can_be_torchs() {
    let dir = folder("torch-seed");
    let asked = |noise: &[&'static str], out: &'static str| {
        [&["-p", "a red circle", "--steps", "1", "--plain", "--out", out], noise].concat()
    };
    runs(&dir, &asked(&["--seed", "11", "--seed-compat", "torch"], "torch.png"));
    let noise = ace_plus::sample::torch_noise::normal(11, 16 * 8 * 8);
    let noise = burn::tensor::TensorData::new(noise, [1, 16, 8, 8]);
    let tensors = std::collections::BTreeMap::from([("noise".to_owned(), noise)]);
    ace_weights::write(&dir.file("noise.safetensors"), &tensors, &[]).expect("writable");
    runs(&dir, &asked(&["--noise", "noise.safetensors"], "given.png"));
    runs(&dir, &asked(&["--seed", "11"], "ours.png"));
    assert_eq!(bytes(&dir, "torch.png"), bytes(&dir, "given.png"));
    assert_ne!(bytes(&dir, "torch.png"), bytes(&dir, "ours.png"));
    // It is remembered too.
    runs(&dir, &["-p", "a red circle", "--steps", "1", "--seed", "11", "--seed-compat", "torch", "--out", "said.png"]);
    runs(&dir, &["--from", "said.png", "--out", "again.png"]);
    assert_eq!(bytes(&dir, "said.png"), bytes(&dir, "again.png"));
}

#[test]
fn one_network_at_a_time_makes_the_same_picture() {
    let dir = TestDir::new("sample-lean");
    let lora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny/lora/subject.safetensors");
    let picture = |words: &[&str], out: &str| {
        let mut command = ace();
        command.args(["sample", "-p", "a blue star at the center on a gray background", "--plain", "--steps", "3"]);
        command.args(["--lora", lora.to_str().expect("plain"), "--out", out]).args(words);
        let output = command.current_dir(dir.path()).output().expect("the program starts");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read(dir.file(out)).expect("a picture")
    };
    let whole = picture(&[], "whole.png");
    assert_eq!(whole, picture(&["--low-memory"], "lean.png"));
    assert_eq!(whole, picture(&["--placement", "streamed"], "streamed.png"));
    // Packed from a wider file, in memory and block by block.
    let packed = picture(&["--quantize", "q8_0"], "packed.png");
    assert!(packed != whole);
    assert_eq!(packed, picture(&["--quantize", "q8_0", "--placement", "streamed"], "packed-streamed.png"));
}

#[test]
fn regions_are_edited_one_after_the_other_and_come_out_again() {
    let dir = TestDir::new("sample-regions");
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8 * 3, y as u8 * 3, 90]));
    image.save(dir.file("image.png")).expect("writable");
    let inside = |at: u32, x: u32, y: u32| (at..at + 16).contains(&x) && (at..at + 16).contains(&y);
    for (name, at) in [("first.png", 4), ("second.png", 40)] {
        let mask = GrayImage::from_fn(64, 64, |x, y| Luma([if inside(at, x, y) { 255 } else { 0 }]));
        mask.save(dir.file(name)).expect("writable");
    }
    let regions = [
        "--image",
        "image.png",
        "--region",
        "first.png=a red circle",
        "--region",
        "second.png=a blue star",
        "--steps",
        "2",
    ];
    runs(&dir, &[&regions[..], &["--out", "both.png"]].concat());
    let both = picture::read_rgb(&dir.file("both.png")).expect("a PNG");
    let changed = |at: u32| {
        both.enumerate_pixels().filter(|(x, y, p)| inside(at, *x, *y) && *p != image.get_pixel(*x, *y)).count()
    };
    assert!(changed(4) > 100 && changed(40) > 100, "{} and {} pixels changed", changed(4), changed(40));
    let outside = both.enumerate_pixels().filter(|(x, y, _)| !inside(4, *x, *y) && !inside(40, *x, *y));
    assert!(outside.into_iter().all(|(x, y, pixel)| pixel == image.get_pixel(x, y)));
    runs(&dir, &["--from", "both.png", "--out", "again.png"]);
    assert_eq!(bytes(&dir, "again.png"), bytes(&dir, "both.png"));
    let output = run(&dir, &["--image", "image.png", "--region", "first.png"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("a region is MASK=TEXT"));
}

#[test]
fn a_picture_says_its_sampler_and_schedule_and_is_made_again_with_them() {
    let dir = TestDir::new("sample-course");
    let words = ["-p", "a blue star", "--steps", "3", "--seed", "2"];
    let made = |out: &str, more: &[&str]| {
        let output = run(&dir, &[&words[..], &["--out", out], more].concat());
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let plain = made("plain.png", &[]);
    assert!(plain.contains("3 steps, seed 2"), "{plain}");
    made("said.png", &["--sampler", "euler", "--schedule", "flux"]);
    assert_eq!(bytes(&dir, "said.png"), bytes(&dir, "plain.png"));
    let heun = made("heun.png", &["--sampler", "heun", "--schedule", "karras", "--shift", "2.5"]);
    assert!(heun.contains("3 steps in 5 evaluations, seed 2"), "{heun}");
    assert_ne!(pixels(&dir, "heun.png"), pixels(&dir, "plain.png"));
    let request = ace_plus::provenance::Provenance::read(&dir.file("heun.png")).expect("written").request;
    assert_eq!(
        (request.sampler, request.schedule, request.shift),
        (Some(Sampler::Heun), Some(Schedule::Karras), Some(2.5))
    );
    runs(&dir, &["--from", "heun.png", "--out", "again.png"]);
    assert_eq!(bytes(&dir, "again.png"), bytes(&dir, "heun.png"));
}

/// `tests/data/first` was written by the first version, before requests had a form of their own.
fn first(name: &str) -> TestDir {
    let dir = TestDir::new(name);
    for file in ["first.png", "image.png", "mask.png"] {
        fs::copy(support::data("first").join(file), dir.file(file)).expect("writable");
    }
    dir
}

#[test]
fn a_picture_of_the_first_version_is_made_again() {
    let dir = first("from-first");
    let output = run(&dir, &["--from", "first.png", "--out", "again.png"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() {
        let (then, now) = (pixels(&dir, "first.png"), pixels(&dir, "again.png"));
        let off = then.iter().zip(&now).map(|(then, now)| then.abs_diff(*now)).max();
        // Later versions may sum in another order: a level of 255.
        assert!(then.len() == now.len() && off <= Some(1), "off by {off:?} levels");
    } else {
        // The shipped weights are others by now: the message names the file, and the way on.
        assert!(said.contains("of the model is not what it was") && said.contains("--anyway"), "{said}");
    }
    let output = run(&dir, &["--from", "first.png", "--anyway", "--out", "anyway.png"]);
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && told.contains("2 steps, seed 3"), "{told}");
    let again = ace_plus::provenance::Provenance::read(&dir.file("anyway.png")).expect("written");
    assert_eq!(again.request.task.as_deref(), Some("recolor"));
}

#[test]
fn weights_that_have_changed_are_named_and_taken_anyway_if_it_is_said() {
    let dir = folder("from-anyway");
    runs(&dir, &[&EDIT[..], &["--out", "then.png"]].concat());
    let mut then = ace_plus::provenance::Provenance::read(&dir.file("then.png")).expect("written");
    let flux = then.files.iter_mut().find(|(name, _)| name == "flux").expect("a network");
    flux.1 = "0".repeat(64);
    let image = picture::read_rgb(&dir.file("then.png")).expect("a picture");
    ace_plus::provenance::write(&dir.file("then.png"), &image, Some(&then)).expect("writable");
    fails(&dir, &["--from", "then.png", "--out", "no.png"], "flux of the model is not what it was");
    let output = run(&dir, &["--from", "then.png", "--anyway", "--out", "anyway.png"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("flux of the model"), "{said}");
    assert_eq!(pixels(&dir, "anyway.png"), pixels(&dir, "then.png"));
}

#[test]
fn the_program_alone_edits_a_first_picture_anywhere() {
    let dir = TestDir::new("alone");
    let output = ace().arg("sample").current_dir(dir.path()).env_remove("CARGO_MANIFEST_DIR").output();
    let output = output.expect("the program starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    for name in ["sample.png", "sample-sheet.png", "sample-image.png", "sample-mask.png"] {
        assert!(dir.file("out").join(name).is_file(), "{name}");
    }
    // What made it stands in it, and is there.
    runs(&dir, &["--from", "out/sample.png", "--out", "again.png"]);
    assert_eq!(bytes(&dir, "again.png"), bytes(&dir, "out/sample.png"));
}
