//! Edits made as one batch: each is what it is alone.

use crate::support::{self, device, server::example, values};
use ace_plus::{Ace, Edit, Event, Model, Shape, image, sample::Sampler};
use std::ops::ControlFlow;

fn tiny() -> Ace {
    let folder = support::data("../../models/tiny");
    Model::find(&folder.display().to_string()).and_then(|model| model.load(&device())).expect("shipped")
}

/// The shipped example, and the same picture with other words, another mask and another seed.
fn edits() -> Vec<Edit> {
    let open = |name| image::open(example(name)).expect("shipped");
    let (picture, mask) = (open("image.png").into_rgb8(), open("mask.png").into_luma8());
    let turned = image::imageops::rotate180(&mask);
    let words = ["make the circle green", "make the square red", "make the circle blue"];
    let edit = |(nth, words): (u64, &str)| {
        let mask = if nth == 1 { turned.clone() } else { mask.clone() };
        Edit::new(words).task("recolor").image(picture.clone()).mask(mask).seed(7 + nth)
    };
    (0..).zip(words).map(edit).collect()
}

#[test]
fn edits_of_a_batch_are_what_they_are_alone() {
    let (ace, edits) = (tiny(), edits());
    let mut previews = Vec::new();
    let together = ace.run_together(&edits, &mut |event| {
        if let Event::Step { done: 6, preview, .. } = event {
            previews = (0..3).map(|row| preview.of(row).picture().expect("decoded")).collect();
        }
        ControlFlow::Continue(())
    });
    let together = together.expect("of one shape");
    for (row, edit) in edits.iter().enumerate() {
        let mut preview = None;
        let alone = ace.run(edit, &mut |event| {
            if let Event::Step { done: 6, preview: seen, .. } = event {
                preview = seen.picture();
            }
            ControlFlow::Continue(())
        });
        let alone = alone.expect("edits");
        let far = support::relative_error(&values(together[row].tokens.clone()), &values(alone.tokens));
        assert!(far < 1e-5, "edit {row}: {far:e}");
        let most = |a: &image::RgbImage, b: &image::RgbImage| a.iter().zip(b.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most(&together[row].image, &alone.image) <= Some(1), "edit {row}");
        assert!(most(&previews[row], &preview.expect("a preview")) <= Some(1), "preview {row}");
    }
    assert_ne!(together[0].image, together[2].image);
}

#[test]
fn what_is_not_of_one_shape_is_refused() {
    let (ace, edits) = (tiny(), edits());
    let shape = |edit: &Edit| Shape::of(edit, ace.card()).expect("fits");
    assert!(shape(&edits[0]).is_some());
    assert_eq!(shape(&edits[0]), shape(&edits[1]));
    for other in [
        edits[1].clone().steps(3),
        edits[1].clone().guidance(2.0),
        edits[1].clone().reference(image::RgbImage::new(64, 64)),
    ] {
        assert_ne!(shape(&edits[0]), shape(&other));
        let both = [edits[0].clone(), other];
        let error = ace.run_together(&both, &mut |_| ControlFlow::Continue(())).expect_err("two shapes");
        assert_eq!(error.to_string(), "these edits are not of one shape");
    }
    // Fresh noise, and steps that are left out as an edit's own numbers have it.
    assert_eq!(shape(&edits[0].clone().sampler(Sampler::Lcm)), None);
    assert_eq!(shape(&edits[0].clone().masked_steps(3)), None);
}
