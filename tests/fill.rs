//! A FLUX-Fill folder in diffusers' layout gives diffusers' edit: `tests/reference/record_fill.py` wrote both.

use crate::support::{self, TestDir};
use ace_plus::{
    Card, Compat, Edit, Model,
    canvas::{OfficialBytes, Plane},
    picture,
};
use ace_weights::WeightFile;
use image::RgbImage;
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// The committed recording, or the folder in `ACE_FILL` for recordings of other sizes.
fn folder() -> PathBuf {
    std::env::var_os("ACE_FILL").map_or_else(|| support::data("fill"), PathBuf::from)
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("writable");
    for entry in fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("writable");
        }
    }
}

fn edit(folder: &Path, card: &mut Card) -> Edit {
    let given = folder.join("edit");
    let settings = fs::read_to_string(given.join("edit.json")).expect("recorded");
    let settings: serde_json::Value = serde_json::from_str(&settings).expect("JSON");
    let number = |name: &str| settings[name].as_f64().expect("a number");
    card.text.t5_max_length = number("length") as usize;
    let words = fs::read_to_string(given.join("instruction.txt")).expect("recorded");
    let noise = WeightFile::open(&given.join("noise.safetensors")).expect("recorded").data("noise").expect("one");
    Edit::new(words.trim())
        .image(picture::read_rgb(&given.join("image.png")).expect("recorded"))
        .mask(picture::read_mask(&given.join("mask.png")).expect("recorded"))
        .steps(number("steps") as usize)
        .guidance(number("guidance") as f32)
        .noise(noise)
        .compat(Compat::Diffusers)
}

#[test]
fn a_diffusers_folder_gives_diffusers_edit() {
    let (device, folder) = (support::device(), folder());
    let mut card = Card::load(&folder).expect("a card of its own");
    let edit = edit(&folder, &mut card);
    let ace = Model::of(card, &folder).load(&device).expect("every key has a place");
    let edited = ace.run(&edit, &mut |_| ControlFlow::Continue(())).expect("edits");

    let recorded = WeightFile::open(&folder.join("edit/result.safetensors")).expect("recorded");
    let expected = recorded.tensor::<3>("tokens", None, &device).expect("recorded");
    let norm = |tensor: burn::Tensor<3>| (tensor.clone() * tensor).sum().into_scalar::<f32>().sqrt();
    let error = norm(edited.tokens - expected.clone()) / norm(expected);
    assert!(error < 1e-5, "relative L2 error of the latents is {error:e}");

    let psnr = psnr(&edited.image, &folder);
    assert!(psnr > 60.0, "{psnr:.1} dB");
}

/// How near a picture is to the recorded one, in dB.
fn psnr(ours: &RgbImage, folder: &Path) -> f64 {
    let theirs = Plane::from_rgb(&picture::read_rgb(&folder.join("edit/result.png")).expect("recorded"));
    let ours = Plane::from_rgb(ours);
    assert_eq!(ours.shape(), theirs.shape());
    let square = ours.data.iter().zip(&theirs.data).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    // Pictures are in −1..1: the peak is 2.
    10.0 * (4.0 / (square / ours.data.len() as f64).max(1e-12)).log10()
}

/// The official programs for the LoRAs hand their canvas to `FluxFillPipeline`, so on a picture that needs no fitting
/// its recorded edit is theirs.
#[test]
fn the_official_lora_program_ends_as_diffusers_does() {
    let (device, folder) = (support::device(), support::data("fill"));
    let mut card = Card::load(&folder).expect("a card of its own");
    let edit = edit(&folder, &mut card).compat(Compat::Official);
    // Of the greys in between diffusers repaints 128, they do not.
    let mut mask = edit.masked().expect("recorded").clone();
    for grey in mask.pixels_mut() {
        grey.0 = [if grey.0[0] >= 128 { 255 } else { 0 }];
    }
    let edit = edit.mask(mask);
    let mut rated = |bytes| {
        card.canvas.official_bytes = bytes;
        let ace = Model::of(card.clone(), &folder).load(&device).expect("every key has a place");
        psnr(&ace.edit(&edit, &mut |_| ControlFlow::Continue(())).expect("edits"), &folder)
    };
    let (rounded, truncated) = (rated(OfficialBytes::Rounded), rated(OfficialBytes::Truncated));
    assert!(rounded >= 80.0 && truncated < 60.0, "{rounded:.1} and {truncated:.1} dB");
}

#[test]
fn a_folder_that_would_be_misread_is_refused() {
    let home = TestDir::new("fill-refused");
    let whole = home.file("whole");
    copy(&support::data("fill"), &whole);
    let refused = |file: &str, from: &str, to: &str| {
        let broken = home.file(&format!("{}-{}", file.replace('/', "-"), from.len()));
        copy(&whole, &broken);
        let path = broken.join(file);
        let text = fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{file} has no {from}");
        fs::write(&path, text.replace(from, to)).expect("writable");
        let error = match Card::load(&broken) {
            Ok(card) => Model::of(card, &broken).load(&support::device()).expect_err("this must be refused"),
            Err(error) => error,
        };
        assert!(error.hint().is_some(), "{error}");
        error.to_string()
    };
    for (file, from, to, told) in [
        ("text_encoder_2/config.json", "\"gated-gelu\"", "\"relu\"", "feed_forward_proj is \"relu\""),
        ("text_encoder/config.json", "\"quick_gelu\"", "\"swish\"", "hidden_act is \"swish\""),
        ("vae/config.json", "\"use_quant_conv\": false", "\"use_quant_conv\": true", "use_quant_conv is true"),
        ("transformer/config.json", "\"in_channels\": 288", "\"in_channels\": 290", "in_channels is 290"),
        ("scheduler/scheduler_config.json", "exponential", "linear", "time_shift_type is not exponential"),
        ("transformer/config.json", "\"num_layers\": 1", "\"num_layers\": 2", "transformer_blocks.1."),
        (
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "diffusion_pytorch_model-00001-of-00005",
            "../diffusion_pytorch_model-00001-of-00005",
            "not a file beside it",
        ),
        (
            "transformer/diffusion_pytorch_model.safetensors.index.json",
            "00005-of-00005",
            "00006-of-00005",
            "00006-of-00005.safetensors is missing",
        ),
    ] {
        let error = refused(file, from, to);
        assert!(error.contains(told), "{error}");
    }
}

#[test]
fn plain_fill_says_what_it_cannot_take() {
    let folder = support::data("fill");
    let mut card = Card::load(&folder).expect("valid");
    let edit = edit(&folder, &mut card);
    let told = |edit: &Edit| edit.prepare(&card).expect_err("refused").to_string();
    let odd = RgbImage::new(50, 48);
    let plain = || Edit::new("words").compat(Compat::Diffusers);
    assert!(told(&plain()).contains("there is none"));
    assert!(told(&edit.reference(odd.clone())).contains("no references"));
    assert!(told(&plain().image(odd)).contains("multiples of 16"));
}
