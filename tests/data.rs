//! What is learned from: bad examples stop the run or are skipped, encoded ones are kept and found again.

use crate::{
    support::{self, TestDir},
    train::{losses, options, write_manifest, write_recipe},
};
use ace_plus::{model::Component, text::Tokenizers};
use ace_train::{
    Error, Outcome, Recipe, RunEvent, RunOptions, Start,
    data::{
        Cache, Digests, Notices, Supply,
        shapes::{Split, World, WorldTask},
        supply::Lazy,
    },
    learn::{flow::FlowObjective, train, trainer::Objective},
};
use ace_weights::Network;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// An adapter on the miniature, in a moment.
const ADAPTER: &str = "train = [\"flux\"]\ndrop_instruction = 0.3\n[lora]\nrank = 2\nalpha = 2.0";
const SHORT: &str = "steps = 4\nbatch = 3\nlearning_rate = 1e-3";

/// A recipe on the examples of a manifest.
fn on_manifest(dir: &TestDir, name: &str, manifest: &Path, more: &str) -> PathBuf {
    let path = write_recipe(dir, name, &format!("save_every = 1\n{ADAPTER}"), more, SHORT);
    let text = fs::read_to_string(&path).expect("written");
    fs::write(&path, text.replace("world = 64", &format!("manifest = {manifest:?}"))).expect("writable");
    path
}

/// Cuts the end off a picture: its size can still be read, its pixels cannot.
fn cut(path: &Path) {
    let bytes = fs::read(path).expect("there");
    fs::write(path, &bytes[..bytes.len() / 2]).expect("writable");
}

/// Losses and what was said about the data, up to the end or the error.
fn heard(options: &RunOptions) -> (Vec<f32>, Vec<RunEvent>, Result<Outcome, Error>) {
    let (mut losses, mut said) = (Vec::new(), Vec::new());
    let outcome = train(options, &support::device(), &mut |event| {
        match event {
            RunEvent::Step(step) => losses.push(step.loss),
            event @ (RunEvent::Skipped { .. } | RunEvent::Note(_)) => said.push(event),
            _ => {}
        }
        true
    });
    (losses, said, outcome)
}

#[test]
fn a_corrupt_picture_stops_the_run_with_its_line() {
    let dir = TestDir::new("data-stop");
    let manifest = write_manifest(&dir, 5);
    cut(&dir.file("2-target.png"));
    let recipe = on_manifest(&dir, "run", &manifest, "");
    let (_, _, outcome) = heard(&options(&recipe, dir.file("out")));
    let error = outcome.expect_err("a picture is corrupt").to_string();
    assert!(error.contains("manifest.jsonl:3: ") && error.contains("2-target.png"), "{error}");
    // One that is not there is found before anything is loaded.
    fs::remove_file(dir.file("2-target.png")).expect("there");
    let (_, _, outcome) = heard(&options(&recipe, dir.file("out")));
    let error = outcome.expect_err("a picture is missing").to_string();
    assert!(error.contains("manifest.jsonl:3: target ") && error.contains("2-target.png"), "{error}");
}

#[test]
fn bad_examples_are_skipped_and_counted_and_a_resumed_run_skips_the_same() {
    let dir = TestDir::new("data-skip");
    let manifest = write_manifest(&dir, 5);
    cut(&dir.file("2-target.png"));
    fs::remove_file(dir.file("4-target.png")).expect("there");
    let recipe = on_manifest(&dir, "run", &manifest, "on_bad_example = \"skip\"");
    let whole = options(&recipe, dir.file("whole"));
    let (expected, said, outcome) = heard(&whole);
    outcome.expect("three examples are good");
    let mut places: Vec<String> = said
        .iter()
        .map(|event| match event {
            RunEvent::Skipped { place, count, reason } => {
                assert!(reason.contains("-target.png"), "{reason}");
                format!("{} {count}", place.rsplit_once(':').expect("a line").1)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    places.sort_by_key(|place| place.rsplit_once(' ').map(|(_, count)| count.to_owned()));
    // Twelve draws of five examples: both are drawn, each is said once.
    assert!(places == ["3 1", "5 2"] || places == ["5 1", "3 2"], "{places:?}");

    let mut broken = options(&recipe, dir.file("broken"));
    let outcome = train(&broken, &support::device(), &mut |event| !matches!(event, RunEvent::Step(s) if s.step == 2));
    assert_eq!(outcome.expect("stops"), Outcome::Stopped { step: 2 });
    broken.resume = true;
    let (rest, _, outcome) = heard(&broken);
    outcome.expect("goes on");
    assert_eq!(rest, expected[2..]);
    let bytes = |out: &Path| fs::read(out.join("run.safetensors")).expect("written");
    assert!(bytes(&whole.out) == bytes(&broken.out), "the adapters differ");

    for index in [0, 1, 3] {
        cut(&dir.file(&format!("{index}-target.png")));
    }
    let (_, _, outcome) = heard(&options(&recipe, dir.file("none")));
    let error = outcome.expect_err("nothing is good").to_string();
    assert!(error.contains("none of the examples can be used"), "{error}");
}

#[test]
fn a_damaged_cache_is_said_and_changes_nothing() {
    let dir = TestDir::new("data-damaged-cache");
    let manifest = write_manifest(&dir, 3);
    let recipe = on_manifest(&dir, "run", &manifest, &format!("cache = {:?}", dir.file("cache")));
    let expected = losses(&options(&recipe, dir.file("first")));
    let (again, said, _) = heard(&options(&recipe, dir.file("second")));
    assert_eq!(again, expected);
    assert!(said.is_empty(), "{said:?}");
    let mut damaged = 0;
    for kind in ["pictures", "words"] {
        for entry in fs::read_dir(dir.file("cache").join(kind)).expect("kept") {
            cut(&entry.expect("listed").path());
            damaged += 1;
        }
    }
    // Three examples, their words, and the empty instruction.
    assert_eq!(damaged, 3 + 3 + 1);
    let (again, said, _) = heard(&options(&recipe, dir.file("third")));
    assert_eq!(again, expected);
    let is_note = |event: &RunEvent| matches!(event, RunEvent::Note(line) if line.contains("encoded again"));
    assert!(said.len() == damaged && said.iter().all(is_note), "{said:?}");
    let (again, said, _) = heard(&options(&recipe, dir.file("fourth")));
    assert_eq!(again, expected);
    assert!(said.is_empty(), "what was damaged was made again: {said:?}");
}

/// The miniature's start and an adapter's recipe on the world.
fn miniature(dir: &TestDir) -> (Start, Recipe) {
    let path = write_recipe(dir, "run", ADAPTER, "pool = 6", SHORT);
    let recipe = Recipe::load(&path).expect("sound");
    (Start::of_recipe(&recipe, &path).expect("shipped"), recipe)
}

#[test]
fn what_is_kept_needs_no_encoders_and_is_what_would_be_encoded() {
    let dir = TestDir::new("data-kept");
    let (start, recipe) = miniature(&dir);
    let (device, learning) = (support::device(), support::device().autodiff());
    let world = World::new(64, WorldTask::ALL, Split::Train).expect("64 is a size of the world");
    let model = start.trained(&recipe, &learning).expect("shipped");
    let cache = || {
        let digests = start.digests(&recipe).expect("readable");
        Cache::new(dir.file("cache"), digests, Notices::default())
    };
    let losses = |supply: Supply<'_>| {
        let mut objective =
            FlowObjective::of(&recipe, supply, start.flux_dtype(&recipe), &learning).expect("words are there");
        let steps = (0..recipe.optimizer.steps).flat_map(|step| objective.micro_batches(step).expect("encoded"));
        let steps: Vec<_> = steps.collect();
        let loss = |micro_batch| objective.loss(&model, micro_batch).value.inner().into_scalar::<f32>();
        steps.into_iter().map(loss).collect::<Vec<_>>()
    };
    let supply = || start.supply(&recipe, &world, &device).expect("shipped");
    let plain = losses(supply());
    let first = losses(supply().cached(cache()));
    let tokenizers = Tokenizers::read(
        start.card(),
        &start.model.require(Component::T5Tokenizer).expect("shipped"),
        &start.model.require(Component::ClipTokenizer).expect("shipped"),
    );
    let second = losses(
        Supply::new(
            &world,
            (start.card().clone(), tokenizers.expect("shipped")),
            Lazy::new(|| panic!("the autoencoder was loaded")),
            Some(Lazy::new(|| panic!("the text encoders were loaded"))),
            recipe.data.pool,
            &device,
        )
        .cached(cache()),
    );
    assert_eq!((&first, &second), (&plain, &plain));
}

#[test]
fn another_encoder_or_preparation_has_other_digests() {
    let dir = TestDir::new("data-digests");
    let (start, recipe) = miniature(&dir);
    let digests = |start: &Start| start.digests(&recipe).expect("readable");
    let known = digests(&start);
    let other = |network: Network, change: bool| {
        let file = start.model.require(Component::of(network)).expect("shipped");
        let mut bytes = fs::read(file.path()).expect("readable");
        // The last number of the last tensor.
        *bytes.last_mut().expect("not empty") ^= u8::from(change);
        let path = dir.file(&format!("{}-{change}.safetensors", network.word()));
        fs::write(&path, bytes).expect("writable");
        digests(&Start { model: start.model.clone().network(network, path), ..start.clone() })
    };
    for network in [Network::AutoEncoder, Network::T5, Network::Clip] {
        assert_eq!(other(network, false), known, "another place is no other encoder");
        let Digests { pictures, words } = other(network, true);
        assert_eq!(pictures != known.pictures, network == Network::AutoEncoder, "{network:?}");
        assert_eq!(words != known.words, network != Network::AutoEncoder, "{network:?}");
    }
    let half = start.model.clone().dtype(burn::tensor::FloatDType::BF16);
    let half = digests(&Start { model: half, ..start.clone() });
    assert_eq!((&half.pictures, half.words != known.words), (&known.pictures, true));
    // Text encoders that learn give nothing that could be kept.
    let learning = write_recipe(&dir, "words", crate::train::FRESH, "pool = 6", SHORT);
    let learning = Recipe::load(&learning).expect("sound");
    assert_eq!(start.digests(&learning).expect("readable").words, None);
}

#[test]
fn a_picture_that_does_not_fit_the_card_is_named_by_its_line() {
    let dir = TestDir::new("data-misfit");
    let manifest = write_manifest(&dir, 2);
    // A mask without a white pixel: the canvas refuses it, not the reader.
    let size = image::image_dimensions(dir.file("0-target.png")).expect("written");
    image::GrayImage::new(size.0, size.1).save(dir.file("black.png")).expect("writable");
    let line = r#"{"target": "0-target.png", "image": "0-target.png", "mask": "black.png", "instruction": "x"}"#;
    let text = fs::read_to_string(&manifest).expect("written");
    fs::write(&manifest, format!("{text}{line}\n")).expect("writable");
    let recipe = on_manifest(&dir, "run", &manifest, "");
    let (_, _, outcome) = heard(&options(&recipe, dir.file("out")));
    let error = outcome.expect_err("nothing to repaint").to_string();
    assert!(error.contains("manifest.jsonl:3: "), "{error}");
}

#[test]
fn the_program_finds_all_that_is_bad_before_training() {
    let dir = TestDir::new("data-check");
    let manifest = write_manifest(&dir, 4);
    let check = |path: &Path| {
        let output = support::ace().args(["data", "check"]).arg(path).output().expect("the program runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("words"))
    };
    let (code, said) = check(&manifest);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("4 examples can be used, 0 cannot"), "{said}");
    cut(&dir.file("1-target.png"));
    fs::remove_file(dir.file("3-target.png")).expect("there");
    let (code, said) = check(&manifest);
    assert_eq!(code, Some(1), "{said}");
    for line in ["manifest.jsonl:2: target ", "manifest.jsonl:4: target ", "2 examples can be used, 2 cannot"] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    // A folder of pictures with captions beside them.
    let folder = dir.file("pictures");
    fs::create_dir_all(&folder).expect("writable");
    fs::copy(dir.file("0-target.png"), folder.join("a.png")).expect("there");
    let (code, said) = check(&folder);
    assert!(code == Some(1) && said.contains("a.png: it has no caption, a.txt"), "{said}");
    fs::write(folder.join("a.txt"), "a shape").expect("writable");
    let (code, said) = check(&folder);
    assert!(code == Some(0) && said.contains("text-to-image 1"), "{said}");
}
