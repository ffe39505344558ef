use super::*;
use std::path::Path;

/// A recording of OpenCV's or Pillow's.
fn recorded(name: &str) -> image::DynamicImage {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/annotators");
    image::open(folder.join(format!("{name}.png"))).unwrap()
}

fn rgb(name: &str) -> RgbImage {
    recorded(name).into_rgb8()
}

const PICTURES: [&str; 3] = ["cat", "cup", "noise"];

#[test]
fn greys_and_edges_are_opencvs_to_the_byte() {
    for name in PICTURES {
        let image = rgb(name);
        for annotator in [Annotator::Gray, Annotator::Canny] {
            let theirs = rgb(&format!("{name}-{}", annotator.name()));
            let wrong =
                annotator.draw(&image, None).unwrap().pixels().zip(theirs.pixels()).filter(|(a, b)| a != b).count();
            assert_eq!(wrong, 0, "{name}, {}", annotator.name());
        }
    }
}

#[test]
fn cells_are_those_of_opencv_with_ipp_and_one_level_from_those_without() {
    for name in PICTURES {
        let ours = mosaic(&rgb(name));
        assert_eq!(ours, rgb(&format!("{name}-mosaic")), "{name}");
        let plain = rgb(&format!("{name}-mosaic-plain"));
        assert!(ours.iter().zip(plain.iter()).all(|(ours, theirs)| ours.abs_diff(*theirs) <= 1), "{name}");
    }
}

#[test]
fn a_mask_with_every_grey_blends_as_pillow_blends() {
    let image = rgb("cat");
    let mask = recorded("cat-mask").into_luma8();
    assert_eq!(apply(&image, &mask, &canny(&image)).unwrap(), rgb("cat-applied"));
    let small = GrayImage::new(95, 80);
    let error = apply(&image, &small, &image).unwrap_err();
    assert_eq!(error.to_string(), "mask is 95x80 but image is 96x80");
    assert_eq!(error.hint(), Some("the mask must cover the image exactly"));
}

#[test]
fn red_is_darker_than_blue() {
    let image = RgbImage::from_fn(3, 1, |x, _| Rgb(std::array::from_fn(|i| if i == x as usize { 255 } else { 0 })));
    assert_eq!(gray(&image).into_raw(), [29, 29, 29, 150, 150, 150, 76, 76, 76]);
}

#[test]
fn annotators_go_by_their_names() {
    for annotator in Annotator::ALL {
        assert_eq!(Annotator::from_name(annotator.name()).unwrap(), annotator);
    }
    let error = Annotator::from_name("grey").unwrap_err();
    assert_eq!(error.to_string(), "there is no annotator \"grey\"");
    assert_eq!(error.hint(), Some("known are: none, gray, mosaic, canny, contour, depth, map"));

    #[derive(Deserialize)]
    struct Task {
        #[serde(default)]
        annotator: Annotator,
    }
    let read = |text: &str| toml::from_str::<Task>(text).map(|task| task.annotator);
    assert_eq!(read("annotator = \"canny\"").unwrap(), Annotator::Canny);
    assert_eq!(read("").unwrap(), Annotator::None);
    assert_eq!(read("annotator = \"depth\"").unwrap(), Annotator::Depth);
    assert!(read("annotator = \"pose\"").unwrap_err().to_string().contains("there is no annotator"));
}

#[test]
fn every_network_has_a_card_and_takes_a_drawing_in_its_place() {
    let image = rgb("cat");
    for annotator in Annotator::ALL {
        let card = AnnotatorCard::of(annotator);
        assert_eq!(card.is_some(), annotator.is_network());
        let Some(card) = card else { continue };
        assert_eq!(card.name, annotator.name());
        assert!(card.missing().hint().unwrap().contains(&card.source));
        assert_eq!(annotator.draw(&image, Some(&gray(&image))).unwrap(), gray(&image));
        let error = annotator.draw(&image, None).unwrap_err();
        assert_eq!(error.to_string(), format!("this task needs the {} of its image as a map", card.name));
        assert_eq!(card.find(&[], None).unwrap(), None);
    }
}
