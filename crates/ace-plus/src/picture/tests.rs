use super::*;
use safetensors::SafeTensors;
use std::{collections::BTreeMap, fs, path::PathBuf};

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/pictures").join(name)
}

/// Shape and pixels of each readable file, as Pillow has them.
fn expected() -> BTreeMap<String, (Vec<usize>, Vec<u8>)> {
    let bytes = fs::read(file("expected.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let content =
        |(name, view): (String, safetensors::tensor::TensorView)| (name, (view.shape().to_vec(), view.data().to_vec()));
    tensors.tensors().into_iter().map(content).collect()
}

/// How much two JPEG decoders differ, in grey levels: each may round its steps as it likes. Measured: 3. The others agree.
fn tolerance(name: &str) -> u8 {
    if name.ends_with(".jpg") { 4 } else { 0 }
}

fn error(name: &str) -> (String, String) {
    let error = read_rgb(&file(name)).unwrap_err();
    let message = error.to_string();
    let message = message.rsplit_once(&format!("{name}: ")).unwrap().1;
    (message.to_owned(), error.hint().unwrap().to_owned())
}

/// Notes without the path in front.
fn notes(name: &str) -> Vec<String> {
    let path = file(name);
    let notes = if name.starts_with("mask") {
        read_mask_noted(&path).unwrap().notes
    } else {
        read_rgb_noted(&path).unwrap().notes
    };
    notes.iter().map(|note| note.strip_prefix(&format!("{}: ", path.display())).unwrap().to_owned()).collect()
}

#[test]
fn every_kind_of_file_is_read_as_pillow_reads_it() {
    let expected = expected();
    assert_eq!(expected.len(), 38);
    for (name, (shape, pixels)) in expected {
        let (size, ours) = if name.starts_with("mask") {
            let mask = read_mask(&file(&name)).unwrap();
            (vec![mask.height() as usize, mask.width() as usize], mask.into_raw())
        } else {
            let picture = read_rgb(&file(&name)).unwrap();
            (vec![picture.height() as usize, picture.width() as usize, 3], picture.into_raw())
        };
        assert_eq!(size, shape, "{name}");
        let (width, height) = read_size(&file(&name)).unwrap();
        assert_eq!(size[..2], [height as usize, width as usize], "{name}");
        let furthest = ours.iter().zip(&pixels).map(|(ours, theirs)| ours.abs_diff(*theirs)).max().unwrap();
        assert!(furthest <= tolerance(&name), "{name}: {furthest}");
    }
}

#[test]
fn what_is_not_taken_from_a_file_is_said() {
    for name in ["profile.png", "profile.jpg", "profile.webp"] {
        assert_eq!(
            notes(name),
            ["its colour profile \"Display P3 v4\" is ignored, colours are taken as sRGB"],
            "{name}"
        );
    }
    for name in ["rgba.png", "rgba.webp", "la.png", "palette.png"] {
        assert_eq!(notes(name), ["its transparent parts are laid on white"], "{name}");
    }
    for name in ["mask-white-brush.png", "mask-black-brush.png", "mask-red-brush.png", "mask-la-brush.png"] {
        assert_eq!(notes(name), ["what is painted on transparent is the mask, whatever its colour"], "{name}");
    }
    assert_eq!(notes("mask-inked.png"), ["what is bright is the mask, its transparent parts are kept"]);
    for name in ["srgb.png", "orientation-6.jpg", "cmyk.jpg", "rgb16.png", "mask-opaque.png", "mask-colours.png"] {
        assert!(notes(name).is_empty(), "{name}");
    }
}

#[test]
fn a_picture_with_a_hole_is_no_mask() {
    let error = read_mask(&file("mask-hole.png")).unwrap_err();
    assert!(error.to_string().ends_with("mask-hole.png: the mask has several colours and transparent parts"));
    assert!(error.hint().unwrap().contains("one colour painted on transparent"));
}

#[test]
fn a_huge_picture_is_refused_by_its_header() {
    for name in ["bomb.png", "bomb.jpg", "bomb.webp", "bomb.bmp"] {
        let (message, hint) = error(name);
        assert_eq!(message, "the picture is 60000x60000", "{name}");
        assert_eq!(hint, "scale it down to at most 16384 pixels a side");
    }
    let (message, hint) = error("bomb-deep.png");
    assert_eq!(message, "the picture is 16000x16000 with 8 bytes a pixel");
    assert_eq!(hint, "scale it down: at most 512 MiB are read");
}

#[test]
fn what_is_no_whole_picture_is_an_error_of_one_line() {
    for name in ["truncated.png", "truncated.jpg", "truncated.webp", "truncated.bmp"] {
        let (message, hint) = error(name);
        assert_eq!(message, "not a readable picture: the file ends too early", "{name}");
        assert_eq!(hint, CUT_SHORT);
    }
    for (name, reason) in [
        ("empty.png", "the file is empty"),
        ("words.png", "it is of no known format"),
        ("other.gif", "it is of the format Gif"),
        ("phone.heic", "it is of the format HEIC"),
    ] {
        assert_eq!(error(name), (format!("not a readable picture: {reason}"), FORMATS.to_owned()), "{name}");
    }
    assert!(matches!(read_rgb(&file("none.png")).unwrap_err(), Error::File(ace_weights::Error::Io { .. })));
    assert!(matches!(read_rgb(&file("")).unwrap_err(), Error::File(ace_weights::Error::Io { .. })));
}

#[test]
fn a_picture_is_read_as_it_was_written() {
    let path = std::env::temp_dir().join(format!("ace-picture-{}.png", std::process::id()));
    let picture = RgbImage::from_fn(5, 3, |x, y| Rgb([x as u8, y as u8, 200]));
    write_png(&path, &picture).unwrap();
    let read = read_rgb(&path);
    fs::remove_file(&path).unwrap();
    assert_eq!(read.unwrap(), picture);
}
