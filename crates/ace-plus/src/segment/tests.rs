//! The way from a click to a mask against the same way in PyTorch and Pillow (`tests/reference/record_sam.py`), with a
//! small network of random weights.

use super::{Click, Embedding, Frame, MOBILE_SAM, Segmenter, inner_size};
use crate::{canvas::bilinear, picture::read_rgb};
use ace_weights::WeightFile;
use burn::prelude::*;
use image::RgbImage;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/segment").join(name)
}

fn numbers(file: &WeightFile, key: &str) -> Vec<f32> {
    file.data(key).unwrap().convert::<f32>().iter::<f32>().collect()
}

fn segmenter() -> Segmenter {
    Segmenter::load(&data("weights.safetensors"), &Device::default()).unwrap()
}

fn small() -> (Segmenter, Embedding) {
    let segmenter = segmenter();
    let embedding = segmenter.embed(&RgbImage::new(40, 30)).unwrap();
    (segmenter, embedding)
}

fn click(x: f32, y: f32, is_inside: bool) -> Click {
    Click { x, y, is_inside }
}

#[test]
fn clicks_and_boxes_give_the_masks_that_they_give_in_pytorch() {
    let (segmenter, theirs) = (segmenter(), WeightFile::open(&data("mask.safetensors")).unwrap());
    for name in ["large", "small"] {
        let picture = read_rgb(&data(&format!("{name}.png"))).unwrap();
        let [width, height] = inner_size([picture.width(), picture.height()], 80);
        let resized: Vec<f32> = bilinear(&picture, width, height).into_raw().into_iter().map(f32::from).collect();
        assert_eq!(resized, numbers(&theirs, &format!("{name}.resized")), "Pillow's filter");
        let embedding = segmenter.embed(&picture).unwrap();
        let place = |key: &str, is_inside| {
            let place = numbers(&theirs, &format!("{name}.{key}"));
            click(place[0], place[1], is_inside)
        };
        let (inside, outside) = (place("click", true), place("out", false));
        let corners = numbers(&theirs, &format!("{name}.corners"));
        let frame = Frame { left: corners[0], top: corners[1], right: corners[2], bottom: corners[3] };
        for (prompt, clicks, frame) in
            [("click", vec![inside], None), ("clicks", vec![inside, outside], None), ("box", vec![], Some(frame))]
        {
            let ours = segmenter.mask(&embedding, &clicks, frame).unwrap();
            let expected = numbers(&theirs, &format!("{name}.{prompt}.logits"));
            assert_eq!((ours.mask.width(), ours.mask.height()), picture.dimensions());
            let length = expected.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
            let apart = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
            let error = ours.logits.values.iter().zip(&expected).map(apart).sum::<f64>().sqrt() / length;
            assert!(error <= 1e-5, "{name}, {prompt}: {error:e}");
            let pairs =
                || ours.mask.pixels().map(|pixel| pixel.0[0] == 255).zip(expected.iter().map(|value| *value > 0.0));
            let both = pairs().filter(|(ours, theirs)| *ours && *theirs).count() as f64;
            let either = pairs().filter(|(ours, theirs)| *ours || *theirs).count() as f64;
            assert!(both > 0.1 * expected.len() as f64, "{name}, {prompt}: a mask of something");
            assert!(both / either >= 0.999, "{name}, {prompt}: {both} of {either}");
            let score = numbers(&theirs, &format!("{name}.{prompt}.score"))[0];
            assert!((ours.score - score).abs() <= 1e-5 * score.abs().max(1.0), "{name}, {prompt}");
        }
    }
}

#[test]
fn a_click_moves_the_mask_and_the_same_click_gives_the_same() {
    let (segmenter, embedding) = small();
    let mask = |x, y| segmenter.mask(&embedding, &[click(x, y, true)], None).unwrap().logits;
    assert_eq!(mask(4.0, 5.0), mask(4.0, 5.0));
    assert_ne!(mask(4.0, 5.0), mask(30.0, 20.0));
    assert_eq!(embedding.size(), (40, 30));
    assert_eq!(embedding.bytes(), 32 * 5 * 5 * 4);
}

#[test]
fn what_is_outside_of_the_picture_is_said() {
    let (segmenter, embedding) = small();
    let frame = |left, top, right, bottom| Some(Frame { left, top, right, bottom });
    for (clicks, frame, what) in [
        (vec![], None, "neither a click nor a box"),
        (vec![click(40.0, 3.0, true)], None, "the click at 40,3 is outside of the picture, which has 40×30 pixels"),
        (vec![click(2.0, 3.0, true), click(1.0, -1.0, false)], None, "the click at 1,-1 is outside"),
        (vec![click(f32::NAN, 3.0, true)], None, "is outside"),
        (vec![], frame(0.0, 0.0, 41.0, 30.0), "the box 0,0,41,30 is not within the picture"),
        (vec![], frame(9.0, 0.0, 9.0, 30.0), "the box 9,0,9,30 is not"),
    ] {
        let error = segmenter.mask(&embedding, &clicks, frame).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
        assert!(error.hint().is_some());
    }
    assert!(segmenter.embed(&RgbImage::new(0, 3)).is_err());
}

#[test]
fn the_longest_side_is_that_of_the_square() {
    assert_eq!(inner_size([1800, 1200], 1024), [1024, 683]);
    assert_eq!(inner_size([3, 4000], 1024), [1, 1024]);
    assert_eq!(inner_size([10_000, 1], 1024), [1024, 1]);
}

#[test]
fn the_card_says_whose_the_network_is() {
    assert_eq!((MOBILE_SAM.license.as_str(), MOBILE_SAM.file.as_str()), ("Apache-2.0", "mobile_sam.pt"));
    assert!(MOBILE_SAM.url.ends_with(&MOBILE_SAM.file));
}
