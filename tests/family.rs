//! The FLUX.1 family gives diffusers' pictures: folders of FLUX.1-dev, schnell, Kontext and Control as diffusers writes them,
//! and a control adapter. `tests/reference/record_family.py` wrote what is compared with.

use crate::support::{self, TestDir, ace, relative_error, values};
use ace_nn::flux::FluxInput;
use ace_plus::{
    Card, Compat, Edit, Edited, Model,
    canvas::{self, Layout},
    latents, picture,
    unit::{Condition, Join, Positions, Shown, UnitPolicy},
};
use ace_weights::{
    WeightFile,
    adapter::{self, Dialect},
};
use burn::{
    prelude::*,
    tensor::{FloatDType, TensorData},
};
use image::{GrayImage, Luma, RgbImage};
use std::{
    collections::BTreeMap,
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

fn recorded(file: &str) -> PathBuf {
    support::data("family").join(file)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).expect("writable")),
        }
    }
}

/// A folder as diffusers writes it: what differs between the models, and what they share with the recorded FLUX-Fill.
fn folder(dir: &TestDir, index: &str, transformer: &str) -> PathBuf {
    let folder = dir.file(index);
    for part in ["scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae"] {
        copy(&support::data("fill").join(part), &folder.join(part));
    }
    copy(&recorded(transformer), &folder);
    fs::copy(recorded(index).join("model_index.json"), folder.join("model_index.json")).expect("recorded");
    folder
}

/// The card of such a folder, with the recorded lengths and sizes.
fn card(folder: &Path) -> Card {
    let asked = fs::read_to_string(recorded("asked.json")).expect("recorded");
    let asked: serde_json::Value = serde_json::from_str(&asked).expect("JSON");
    let size = |value: &serde_json::Value| serde_json::from_value::<(u32, u32)>(value.clone()).expect("two numbers");
    let mut card = Card::load(folder).expect("a card of its own");
    card.text.t5_max_length = asked["length"].as_u64().expect("a number") as usize;
    card.sampling.size = size(&asked["made"]);
    if !card.canvas.sizes.is_empty() {
        card.canvas.sizes = asked["sizes"].as_array().expect("a list").iter().map(size).collect();
    }
    card
}

/// The edit that was recorded, without its pictures.
fn edit(name: &str) -> Edit {
    let noise = WeightFile::open(&recorded(name).join("noise.safetensors")).expect("recorded").data("noise");
    Edit::new("make the red circle green").noise(noise.expect("recorded")).compat(Compat::Diffusers)
}

fn run(card: &Card, folder: &Path, lora: Option<&Path>, edit: &Edit) -> Edited {
    let model = Model::of(card.clone(), folder);
    let model = lora.into_iter().fold(model, |model, file| model.lora(file, 1.0));
    let ace = model.load(&support::device()).expect("every key has a place");
    ace.run(edit, &mut |_| ControlFlow::Continue(())).expect("edits")
}

/// Compares latents and picture with the recorded ones.
fn compare(name: &str, edited: Edited) {
    let file = WeightFile::open(&recorded(name).join("result.safetensors")).expect("recorded");
    let tokens = file.tensor::<3>("tokens", None, &support::device()).expect("recorded");
    let error = relative_error(&values(edited.tokens), &values(tokens));
    assert!(error < 1e-5, "{name}: relative L2 error of the latents is {error:e}");
    let theirs = picture::read_rgb(&recorded(name).join("result.png")).expect("recorded");
    assert_eq!(edited.image.dimensions(), theirs.dimensions(), "{name}");
    let furthest = edited.image.as_raw().iter().zip(theirs.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(furthest <= Some(1), "{name}: {furthest:?} grey levels");
}

fn given(name: &str) -> RgbImage {
    picture::read_rgb(&recorded(name)).expect("recorded")
}

#[test]
fn kontext_gives_diffusers_edits() {
    let dir = TestDir::new("family-kontext");
    let folder = folder(&dir, "kontext", "dev");
    let card = card(&folder);
    assert_eq!((card.sampling.num_steps, card.sampling.guidance), (28, 2.5));
    let edit = |name: &str| edit(name).steps(3).size(64, 48);
    for (name, edit) in [
        ("kontext-text", edit("kontext-text")),
        ("kontext-one", edit("kontext-one").image(given("first.png"))),
        ("kontext-size", edit("kontext-size").image(given("second.png")).size(48, 80)),
    ] {
        compare(name, run(&card, &folder, None, &edit));
    }
}

#[test]
fn several_pictures_of_kontext_stand_side_by_side_or_each_at_its_place() {
    let dir = TestDir::new("family-several");
    let folder = folder(&dir, "kontext", "dev");
    let mut card = card(&folder);
    let edit = |name: &str| edit(name).steps(3).size(64, 48).image(given("first.png")).reference(given("second.png"));
    for (name, positions) in [("kontext-index", Positions::Index), ("kontext-offset", Positions::Offset)] {
        card.unit.positions = positions;
        compare(name, run(&card, &folder, None, &edit(name).reference(given("first.png"))));
    }
    card.canvas.layout = Layout::Canvas;
    compare("kontext-beside", run(&card, &folder, None, &edit("kontext-beside")));
}

/// Prepared as this project does it, the result has the image's size, and outside a mask its bytes.
#[test]
fn outside_the_mask_kontext_leaves_every_byte() {
    let dir = TestDir::new("family-mask");
    let folder = folder(&dir, "kontext", "dev");
    let mut card = card(&folder);
    let image = given("first.png");
    let mask = GrayImage::from_fn(image.width(), image.height(), |x, y| {
        Luma([if (20..44).contains(&x) && (10..30).contains(&y) { 255 } else { 0 }])
    });
    let plain = Edit::new("a green box").image(image.clone()).steps(1);
    // With room for all of it, and with room for the mask's surroundings alone.
    for budget in [4096, 9] {
        card.canvas.max_seq_len = budget;
        let whole = run(&card, &folder, None, &plain).image;
        let masked = run(&card, &folder, None, &plain.clone().mask(mask.clone())).image;
        assert_eq!((whole.dimensions(), masked.dimensions()), (image.dimensions(), image.dimensions()));
        let pairs = || image.pixels().zip(masked.pixels()).zip(mask.pixels());
        assert!(pairs().all(|((own, made), grey)| grey.0[0] == 255 || own == made));
        assert!(pairs().any(|((own, made), grey)| grey.0[0] == 255 && own != made));
        assert!(whole.pixels().zip(image.pixels()).filter(|(a, b)| a != b).count() > 1000);
    }
    let told = |edit: Edit| edit.prepare(&card).expect_err("refused").to_string();
    let sized = plain.clone().mask(mask.clone()).size(64, 64);
    assert!(told(sized).contains("with a mask the result has the image's size"));
    assert!(told(plain.clone().mask(mask).compat(Compat::Diffusers)).contains("knows no mask"));
    assert!(told(plain.compat(Compat::Official)).contains("none of ACE++'s"));
}

#[test]
fn words_alone_give_diffusers_pictures() {
    let dir = TestDir::new("family-words");
    for (name, index, guidance, length) in [("dev-text", "dev", 3.5, 512), ("schnell-text", "schnell", 0.0, 256)] {
        let folder = folder(&dir, index, index);
        let own = Card::load(&folder).expect("a card of its own");
        assert_eq!((own.sampling.guidance, own.text.t5_max_length), (guidance, length));
        let card = card(&folder);
        // Sides that are no multiples of a token lose the rest.
        let (width, height) = if index == "dev" { (70, 50) } else { (64, 48) };
        let edit = edit(name).steps(4).size(width, height);
        compare(name, run(&card, &folder, None, &edit));
        let error = edit.image(given("first.png")).check(&card).expect_err("it is shown none");
        assert!(error.to_string().contains("makes pictures from words"), "{error}");
    }
}

#[test]
fn a_control_image_and_a_control_adapter_give_diffusers_pictures() {
    let dir = TestDir::new("family-control");
    let control = folder(&dir, "control", "control");
    let edit = |name: &str| edit(name).image(given("first.png")).size(64, 48).steps(3).guidance(30.0);
    compare("control-one", run(&card(&control), &control, None, &edit("control-one")));

    // The plain transformer, widened, and the adapter on top.
    let plain = folder(&dir, "dev", "dev");
    let mut card = card(&plain);
    card.widen_from = Some(card.flux.in_channels);
    card.flux.in_channels *= 2;
    card.unit = UnitPolicy { conditions: vec![Condition::Image], join: Join::Channels, positions: Positions::Index };
    let adapter = recorded("control-lora.safetensors");
    compare("control-lora-one", run(&card, &plain, Some(&adapter), &edit("control-lora-one")));

    let told = |edit: Edit| edit.check(&card).expect_err("refused").to_string();
    assert!(told(Edit::new("words")).contains("there is none"));
    assert!(told(edit("control-one").reference(given("first.png"))).contains("alone"));
}

/// Pillow's resizing to the byte, and diffusers' choice among the published sizes of Kontext.
#[test]
fn pictures_are_fitted_as_pillow_and_diffusers_do_it() {
    let file = WeightFile::open(&recorded("fitting.safetensors")).expect("recorded");
    let bytes = |key: &str| -> (Vec<u8>, [u32; 2]) {
        let data: TensorData = file.data(key).expect("recorded");
        let shape = data.shape().to_vec();
        (data.iter::<f32>().map(|byte| byte as u8).collect(), [shape[1] as u32, shape[0] as u32])
    };
    let mut compared = 0;
    for key in file.keys().filter(|key| key.contains(".lanczos.") || key.contains(".bicubic.")) {
        let number = key.split('.').next().expect("a number");
        let (image, [width, height]) = bytes(&format!("{number}.image"));
        let image = RgbImage::from_raw(width, height, image).expect("all pixels");
        let (expected, [width, height]) = bytes(key);
        let resize = if key.contains("lanczos") { canvas::lanczos } else { canvas::bicubic };
        assert!(*resize(&image, width, height).as_raw() == expected, "{key}");
        compared += 1;
    }
    assert_eq!(compared, 14);

    let card = Card::builtin("flux1-kontext-dev").expect("a sound card");
    let table = file.data("kontext").expect("recorded").iter::<i64>().collect::<Vec<_>>();
    assert_eq!(table.len(), 4 * 400);
    for row in table.chunks(4) {
        let [width, height, fit_width, fit_height] = [0, 1, 2, 3].map(|at| row[at] as u32);
        let fitted = canvas::fitted_size((width, height), &card.canvas).expect("there are sizes");
        assert_eq!(fitted, (fit_width, fit_height), "{width}x{height}");
    }
    // What it is shown, and what is made, have that size; the result has the image's.
    let canvases = Edit::new("words").image(RgbImage::new(90, 50)).prepare(&card).expect("fits").canvases;
    let size = |canvas: &canvas::Canvas| (canvas.image.width, canvas.image.height);
    assert_eq!(canvases.iter().map(size).collect::<Vec<_>>(), [(1328, 800); 2]);
    assert_eq!(canvases[1].output_size, (90, 50));
}

#[test]
fn the_cards_of_the_family_are_shown_what_they_were_trained_with() {
    let shown = |name: &str| Card::builtin(name).expect("a sound card").unit.shown();
    for (name, expected) in [
        ("flux1-fill-dev", None),
        ("ace-plus-fft", None),
        ("flux1-schnell", Some(Shown::Nothing)),
        ("flux1-dev", Some(Shown::Nothing)),
        ("flux1-krea-dev", Some(Shown::Nothing)),
        ("flux1-kontext-dev", Some(Shown::Context)),
        ("flux1-canny-dev", Some(Shown::Beside)),
        ("flux1-depth-dev-lora", Some(Shown::Beside)),
    ] {
        assert_eq!(shown(name), expected, "{name}");
    }
    let lora = Card::builtin("flux1-canny-dev-lora").expect("a sound card");
    let dev = Card::builtin("flux1-dev").expect("a sound card");
    assert_eq!((lora.flux_in_file(), lora.flux.in_channels), (dev.flux, 128));
    assert_eq!(lora.sampling.guidance, 30.0);
    let schnell = Card::builtin("flux1-schnell").expect("a sound card");
    let times = schnell.sampling.schedule.times(4, 4096, &schnell.sampling.shift);
    assert_eq!(times, [1.0, 0.75, 0.5, 0.25, 0.0]);
}

/// A folder of diffusers is a model for every command that takes one.
#[test]
fn the_program_takes_a_folder_as_diffusers_wrote_it() {
    let dir = TestDir::new("family-program");
    let folder = folder(&dir, "dev", "dev");
    let path = folder.to_str().expect("plain");
    let size = ["--width", "64", "--height", "48", "--steps", "1"];
    let output = ace()
        .args(["sample", "--model", path, "-p", "a circle", "--compat", "diffusers", "--out", "made.png"])
        .args(size)
        .current_dir(dir.path())
        .output()
        .expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made = picture::read_rgb(&dir.file("made.png")).expect("made");
    assert_eq!(made.dimensions(), (64, 48));
    let output = ace().args(["doctor", path, "--quick"]).output().expect("starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// The command line says so before a weight is looked for.
#[test]
fn a_size_beside_an_image_is_for_models_that_are_shown_it() {
    let dir = TestDir::new("family-size");
    given("first.png").save(dir.file("i.png")).expect("writable");
    let said = |model: &str| {
        let words = ["sample", "--model", model, "-p", "words", "--image", "i.png", "--width", "64", "--height", "64"];
        let output = ace().args(words).current_dir(dir.path()).env("HF_HOME", dir.file("hf")).output().expect("starts");
        assert_eq!(output.status.code(), Some(2), "{model}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    assert!(said("tiny").contains("--width and --height are for a picture made from nothing"));
    assert!(said("flux1-kontext-dev").contains("is not complete"));
}

/// An adapter that was trained for plain latents does in wider networks what it does in its own: the conditions' columns
/// see nothing of it.
#[test]
fn an_adapter_for_fewer_steps_does_the_same_in_wider_networks() {
    let (dir, device) = (TestDir::new("family-turbo"), support::device());
    let card = card(&folder(&dir, "dev", "dev"));
    let latents = card.flux.in_channels;
    // The keys that diffusers' trainers write: every layer, also those outside the blocks.
    let recorded_adapter = WeightFile::open(&recorded("control-lora.safetensors")).expect("recorded");
    let keys = recorded_adapter.keys().filter(|key| key.contains(".lora_A.weight") || key.contains(".lora_B.weight"));
    let mut tensors = BTreeMap::new();
    for key in keys {
        let matrix = recorded_adapter.tensor::<2>(key, Some(FloatDType::F32), &device).expect("recorded");
        let matrix = if key.contains("x_embedder.lora_A") { matrix.narrow(1, 0, latents) } else { matrix };
        tensors.insert(key.to_owned(), matrix.into_data());
    }
    let path = dir.file("turbo.safetensors");
    ace_weights::write(&path, &tensors, &[]).expect("writable");
    let adapter = WeightFile::open(&path).expect("just written");

    let file = WeightFile::open(&recorded("dev/transformer")).expect("recorded");
    let plain = file.flux(&card.flux, Some(FloatDType::F32), &device).expect("recorded");
    let ids = latents::ids([3, 4], 0);
    let velocity = |features: usize, weight: f64| {
        let mut flux = plain.clone();
        flux.widen_input(features);
        let report = adapter::attach(&mut flux, &adapter, weight, &device).expect("it fits");
        assert_eq!((report.dialect, report.ranks), (Dialect::Diffusers, Some(3..=3)));
        let noisy = support::random([1, 12, latents], 1);
        let conditions = support::random([1, 12, features - latents], 2);
        flux.forward(FluxInput {
            tokens: if features == latents { noisy } else { Tensor::cat(vec![noisy, conditions], 2) },
            rope: flux.rope(5, &ids, &device),
            prompt_embeds: support::random([1, 5, card.flux.context_in_dim], 3),
            pooled_prompt_embeds: support::random([1, card.flux.vec_in_dim], 4),
            timesteps: Tensor::full([1], 0.7, &device),
            guidance: Tensor::full([1], 3.5, &device),
        })
    };
    let (without, own) = (velocity(latents, 0.0), velocity(latents, 0.125));
    assert!(support::distance(without, own.clone()) > 1e-3);
    // FLUX-Fill's and ACE++'s features at this size: one or two pictures' latents and a token's mask.
    for features in [2 * latents + 256, 3 * latents + 256] {
        let wide = velocity(features, 0.125);
        let error = relative_error(&values(wide), &values(own.clone()));
        assert!(error < 1e-6, "{features} features: {error:e}");
    }
}
