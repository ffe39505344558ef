//! Pictures as prompts give diffusers' embeddings and latents, on FLUX.1-dev and on FLUX.1-Fill.
//! `tests/reference/record_redux.py` wrote what is compared with.

use crate::support::{self, TestDir, ace, relative_error, values};
use ace_nn::vit::VitConfig;
use ace_plus::{Card, Compat, Edit, Model, PicturePrompt, Placement, Request, picture};
use ace_weights::{WeightFile, network};
use image::RgbImage;
use std::{fs, ops::ControlFlow, path::PathBuf};

fn recorded(file: &str) -> PathBuf {
    support::data("redux").join(file)
}

fn given(name: &str) -> RgbImage {
    let path = if name == "second.png" { recorded(name) } else { support::data("family").join(name) };
    picture::read_rgb(&path).expect("recorded")
}

/// The recorded encoder's sizes.
const VISION: VitConfig = VitConfig {
    image_size: 42,
    hidden_size: 24,
    intermediate_size: 40,
    num_layers: 2,
    num_heads: 3,
    ..VitConfig::SIGLIP_SO400M
};

/// A card of the recorded FLUX-Fill folder, with the recorded encoder on top; `dev` for the plain transformer in its place.
fn model(dev: bool) -> Model {
    let fill = support::data("fill");
    let folder = if dev { support::data("family").join("dev") } else { fill.clone() };
    let mut card = Card::load(&fill).expect("a card of its own");
    if dev {
        card.flux = network::flux::from_config(&folder.join("transformer/config.json")).expect("recorded");
        card.unit.conditions.clear();
    }
    let path = |path: PathBuf| path.to_str().expect("plain").into();
    card.weights.flux = path(folder.join("transformer"));
    card.weights.vision = Some(path(recorded("image_encoder")));
    card.weights.redux = Some(path(recorded("image_embedder")));
    card.vision = Some(VISION);
    Model::of(card, fill)
}

fn prompt(name: &str, scale: f32, pooled_scale: f32) -> PicturePrompt {
    PicturePrompt { picture: given(name), scale, pooled_scale }
}

fn edit(name: &str) -> Edit {
    let noise = WeightFile::open(&recorded(name).join("noise.safetensors")).expect("recorded").data("noise");
    Edit::new("make the red circle green")
        .noise(noise.expect("recorded"))
        .compat(Compat::Diffusers)
        .steps(3)
        .size(64, 48)
        .guidance(3.5)
}

#[test]
fn picture_prompts_give_diffusers_embeddings_and_latents() {
    let device = support::device();
    let one = edit("one").prompted_by(prompt("first.png", 1.0, 1.0));
    let two = edit("two").prompted_by(prompt("first.png", 0.7, 0.6)).prompted_by(prompt("second.png", 0.4, 0.5));
    let fill = edit("fill")
        .prompted_by(prompt("second.png", 0.8, 1.0))
        .image(picture::read_rgb(&support::data("fill/edit/image.png")).expect("recorded"))
        .mask(picture::read_mask(&support::data("fill/edit/mask.png")).expect("recorded"))
        .guidance(30.0);
    for (name, edit, dev) in [("one", &one, true), ("two", &two, true), ("fill", &fill, false)] {
        for placement in [Placement::Resident, Placement::OneAtATime] {
            let ace = model(dev).placement(placement).load(&device).expect("every key has a place");
            let observer = &mut |_: ace_plus::Event<'_>| ControlFlow::Continue(());
            let words = ace.encode_text(edit.words(), observer).expect("encodes");
            let text = ace.with_pictures(edit, words, observer).expect("reads");
            let embeds = WeightFile::open(&recorded(name).join("embeds.safetensors")).expect("recorded");
            let compare = |ours: Vec<f32>, key: &str| {
                let theirs: Vec<f32> = embeds.data(key).expect("recorded").iter().collect();
                let error = relative_error(&ours, &theirs);
                assert!(error < 1e-5, "{name}: {key}: {error:e}");
            };
            compare(values(text.prompt_embeds), "prompt_embeds");
            compare(values(text.pooled_prompt_embeds), "pooled_prompt_embeds");
            let edited = ace.run(edit, observer).expect("edits");
            let tokens = WeightFile::open(&recorded(name).join("result.safetensors")).expect("recorded");
            let tokens = tokens.tensor::<3>("tokens", None, &device).expect("recorded");
            let latents = relative_error(&values(edited.tokens), &values(tokens));
            assert!(latents < 1e-5, "{name}: relative L2 error of the latents is {latents:e}");
        }
    }
}

#[test]
fn pictures_need_no_words_and_a_model_that_reads_them() {
    let model = model(true);
    let silent = Edit::new("").picture_prompt(given("first.png"), 1.0);
    silent.check(model.card()).expect("a picture says enough");
    let card = Card::builtin("flux1-dev").expect("a sound card");
    let error = silent.check(&card).expect_err("it reads none");
    assert!(error.to_string().contains("takes no pictures as prompts"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("flux1-dev+redux")));
    silent.check(&Card::builtin("flux1-dev+redux").expect("a sound card")).expect("with it on top it does");
    let endless = Edit::new("words").picture_prompt(given("first.png"), f32::NAN);
    assert!(endless.check(model.card()).expect_err("no number").to_string().contains("NaN"));
}

#[test]
fn edits_of_pictures_are_made_together_too() {
    let device = support::device();
    let ace = model(true).load(&device).expect("every key has a place");
    let edit = |seed: u64, scale: f32| {
        Edit::new("a circle").size(64, 48).steps(2).seed(seed).picture_prompt(given("first.png"), scale)
    };
    let both = [edit(1, 0.5), edit(2, 1.0)];
    let observer = &mut |_: ace_plus::Event<'_>| ControlFlow::Continue(());
    let together = ace.run_together(&both, observer).expect("one shape");
    for (edit, made) in both.iter().zip(together) {
        let alone = ace.run(edit, observer).expect("edits");
        assert!(relative_error(&values(made.tokens), &values(alone.tokens)) < 1e-5);
    }
    let mixed = [edit(1, 0.5), Edit::new("a circle").size(64, 48).steps(2)];
    assert!(ace.run_together(&mixed, observer).is_err());
}

/// The published encoder and layers: SigLIP so400m's image tower without its head, and Redux.
#[test]
fn the_published_sizes_are_those_of_the_addition() {
    let card = Card::builtin("flux1-fill-dev+redux").expect("a sound card");
    let (vision, redux) = card.prompter().expect("on top");
    let count = |shapes: std::collections::BTreeMap<String, Vec<usize>>| -> usize {
        shapes.values().map(|shape| shape.iter().product::<usize>()).sum()
    };
    let device = support::device();
    assert_eq!((&vision, card.prompt_tokens()), (&VitConfig::SIGLIP_SO400M, 729));
    let shapes = support::shapes(&redux.init(&device));
    let named: Vec<(&str, &[usize])> = shapes.iter().map(|(name, shape)| (name.as_str(), shape.as_slice())).collect();
    // The keys of `flux1-redux-dev.safetensors`.
    let published: [(&str, &[usize]); 4] = [
        ("redux_down.bias", &[4096]),
        ("redux_down.weight", &[4096, 12288]),
        ("redux_up.bias", &[12288]),
        ("redux_up.weight", &[12288, 1152]),
    ];
    assert_eq!(named, published);
    assert_eq!(count(shapes), 64_503_808);
    assert_eq!(count(support::shapes(&vision.init(&device))), 412_987_248);
}

/// What is asked on the command line is stored in the picture and asked again.
#[test]
fn picture_prompts_are_stored_and_made_again() {
    let dir = TestDir::new("redux-stored");
    given("first.png").save(dir.file("p.png")).expect("writable");
    let stored = r#"{"instruction": "a cat", "picture_prompts": [{"picture": {"path": "p.png"}, "scale": 0.5}]}"#;
    let request: Request = serde_json::from_str(stored).expect("readable");
    assert_eq!((request.picture_prompts[0].scale, request.picture_prompts[0].pooled_scale), (0.5, 1.0));
    let edit = request.edit(dir.path(), &mut |_| ()).expect("its picture is there");
    assert_eq!(edit.picture_prompts().len(), 1);
    let mut stamped = request.clone();
    stamped.stamp(dir.path()).expect("its picture is there");
    assert!(stamped.picture_prompts[0].picture.sha256.is_some());
    // Requests from before there were any.
    assert!(serde_json::from_str::<Request>("{}").expect("readable").picture_prompts.is_empty());

    let words = ["sample", "--model", "tiny", "-p", "a circle", "--picture-prompt", "p.png:0.5:2"];
    let output = ace().args(words).current_dir(dir.path()).output().expect("starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("takes no pictures as prompts"), "{said}");
    assert!(fs::read_dir(dir.path()).expect("readable").count() == 1, "nothing is written");
}
