//! The official programs' preparation and post-processing, to the pixel: `tests/reference/record_official.py`.

use crate::support;
use ace_plus::{
    Card, Compat, Edit,
    canvas::{OfficialBytes, Plane, ReferenceFit},
    checkpoint::WeightFile,
};
use image::{GrayImage, RgbImage};
use std::fs;

/// Numbers of a recording and their shape.
fn array(file: &WeightFile, key: &str) -> Option<(Vec<f32>, Vec<usize>)> {
    file.has(key).then(|| {
        let data = file.data(key).expect("readable").convert::<f32>();
        (data.iter::<f32>().collect(), data.shape().to_vec())
    })
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().map(|value| *value as u8).collect()
}

fn rgb(file: &WeightFile, key: &str) -> Option<RgbImage> {
    let (values, shape) = array(file, key)?;
    RgbImage::from_raw(shape[1] as u32, shape[0] as u32, bytes(&values))
}

/// A recording's case: the edit, the card it is for, and the file.
fn case(name: &str) -> (Edit, Card, WeightFile) {
    let file = WeightFile::open(&support::data("official").join(format!("{name}.safetensors"))).expect("a recording");
    let said = file.metadata().expect("a header");
    let number = |key: &str| said[key].parse::<f32>().expect("a number");
    let mut card = Card::builtin(said["card"].as_str()).expect("a sound card");
    // The cards say what their programs do.
    assert_eq!(card.canvas.change_image, said["use_change"] == "True", "{name}");
    assert_eq!(card.canvas.official_bytes == OfficialBytes::Truncated, said["bytes"] == "truncated", "{name}");
    assert_eq!(card.canvas.reference_fit != ReferenceFit::Height, said["keep_pixels"] == "True", "{name}");
    card.canvas.max_seq_len = number("max_seq_len") as usize;
    let mut edit = Edit::new("words").repainting_scale(number("repainting_scale"));
    edit.compat = Some(Compat::Official);
    edit.image = rgb(&file, "image");
    edit.references.extend(rgb(&file, "reference"));
    edit.mask = array(&file, "mask")
        .and_then(|(values, shape)| GrayImage::from_raw(shape[1] as u32, shape[0] as u32, bytes(&values)));
    if edit.image.is_none() {
        let sides: Vec<u32> =
            said["size"].trim_matches(['(', ')']).split(", ").map(|side| side.parse().expect("a side")).collect();
        edit.size = Some((sides[1], sides[0]));
    }
    (edit, card, file)
}

#[test]
fn canvases_and_pictures_are_the_official_ones_to_the_pixel() {
    let mut seen = 0;
    for entry in fs::read_dir(support::data("official")).expect("recordings") {
        let path = entry.expect("readable").path();
        let name = path.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        let (edit, card, file) = case(name);
        let prepared = edit.prepare(&card).expect("a canvas");
        let [canvas] = &prepared.canvases[..] else { panic!("{name}: one canvas") };
        assert_eq!(canvas.split.to_string(), file.metadata().expect("a header")["slice_width"], "{name}");
        let planes =
            [("canvas", Some(&canvas.image)), ("canvas_mask", Some(&canvas.mask)), ("change", canvas.change.as_ref())];
        for (key, plane) in planes {
            let theirs = array(&file, key);
            assert_eq!(
                plane.map(|plane| plane.shape().to_vec()),
                theirs.as_ref().map(|(_, shape)| shape.clone()),
                "{name}: {key}"
            );
            let (Some(plane), Some((theirs, _))) = (plane, theirs) else { continue };
            let off = plane.data.iter().zip(&theirs).map(|(ours, theirs)| (ours - theirs).abs()).fold(0.0, f32::max);
            // torch computes the weights of the antialiased resize in 32 bits, we in 64.
            assert!(off <= 1e-5, "{name}: {key} is off by {off}");
        }
        let (decoded, shape) = array(&file, "decoded").expect("a recording");
        let data = decoded.iter().map(|value| value / 100.0).collect();
        let decoded = Plane { channels: shape[0], height: shape[1], width: shape[2], data };
        let (ours, theirs) = (edit.finish(&decoded, &prepared), rgb(&file, "output").expect("a recording"));
        assert_eq!(ours.dimensions(), theirs.dimensions(), "{name}");
        let wrong = ours.pixels().zip(theirs.pixels()).filter(|(ours, theirs)| ours != theirs).count();
        assert_eq!(wrong, 0, "{name}: {wrong} pixels differ");
        seen += 1;
    }
    assert_eq!(seen, 6);
}

#[test]
fn what_the_official_programs_cannot_do_is_refused() {
    let (mut edit, card, _) = case("lora-reference");
    edit.references.push(edit.references[0].clone());
    let error = edit.prepare(&card).expect_err("two references");
    assert_eq!(error.to_string(), "there are 2 references; the official programs take one");
}
