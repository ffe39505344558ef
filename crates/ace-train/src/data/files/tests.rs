//! What is read from disk, and how it is refused.

use super::*;
use ace_plus::{
    Card,
    canvas::{self, Canvas, Plane},
    picture,
};
use image::{GrayImage, Luma, RgbImage};
use std::collections::BTreeMap;

/// A folder of pictures with a manifest, gone at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str, manifest: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ace-train-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        RgbImage::from_pixel(8, 4, image::Rgb([9, 9, 9])).save(path.join("wide.png")).unwrap();
        RgbImage::from_pixel(4, 4, image::Rgb([200, 200, 200])).save(path.join("light.png")).unwrap();
        RgbImage::from_pixel(4, 4, image::Rgb([50, 60, 70])).save(path.join("dark.png")).unwrap();
        fs::write(path.join("manifest.jsonl"), manifest).unwrap();
        Self(path)
    }

    fn open(&self) -> Result<Manifest, ExampleError> {
        Manifest::open(self.0.join("manifest.jsonl"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn complaint(name: &str, line: &str) -> String {
    Folder::new(name, &format!("\n{line}\n")).open().unwrap_err().to_string()
}

#[test]
fn a_manifest_gives_the_pictures_it_names() {
    let lines = r#"{"target": "dark.png", "instruction": " a dog "}
{"target": "dark.png", "image": "light.png", "mask": "light.png", "references": ["wide.png"], "instruction": "x", "task": "swap", "repainting_scale": 0}"#;
    let folder = Folder::new("good", lines);
    let manifest = folder.open().unwrap();
    assert_eq!((manifest.len(), manifest.is_empty()), (Some(2), false));
    assert_eq!(manifest.tasks(), ["edit", "swap"]);

    let plain = manifest.example(0).unwrap();
    assert_eq!((plain.instruction.as_str(), plain.repainting_scale), ("a dog", 1.0));
    assert_eq!(plain.target.get_pixel(0, 0).0, [50, 60, 70]);
    let edit = manifest.example(3).unwrap();
    assert_eq!(edit.mask.unwrap().get_pixel(0, 0).0, [200]);
    assert_eq!((edit.references[0].dimensions(), edit.repainting_scale), ((8, 4), 0.0));
}

#[test]
fn a_complaint_names_the_line_and_the_fault() {
    let cases = [
        (r#"{"target": "dark.png", "instruction": "x", "prompt": "y"}"#, "unknown field `prompt`"),
        (r#"{"target": "gone.png", "instruction": "x"}"#, "gone.png"),
        (r#"{"target": "dark.png", "instruction": "  "}"#, "instruction is empty"),
        (r#"{"target": "dark.png", "instruction": "x", "mask": "dark.png"}"#, "mask without image"),
        (
            r#"{"target": "dark.png", "instruction": "x", "image": "dark.png", "mask": "wide.png"}"#,
            "mask is 8x4 but image is 4x4",
        ),
        (r#"{"target": "dark.png", "instruction": "x", "image": "wide.png"}"#, "target is 4x4 but image is 8x4"),
        (r#"{"target": "dark.png", "instruction": "x", "repainting_scale": 2}"#, "repainting_scale is 2"),
    ];
    for (index, (line, fault)) in cases.into_iter().enumerate() {
        let complaint = complaint(&format!("bad{index}"), line);
        assert!(complaint.contains("manifest.jsonl:2: ") && complaint.contains(fault), "{complaint}");
    }
}

#[test]
fn every_fault_of_a_line_is_found() {
    let line = r#"{"target": "gone.png", "instruction": " ", "image": "dark.png", "mask": "wide.png"}"#;
    let folder = Folder::new("all-faults", line);
    let rows = list(&folder.0.join("manifest.jsonl")).unwrap().rows;
    let faults = rows[0].content.as_ref().unwrap().faults();
    let begins: Vec<&str> = faults.iter().map(|fault| fault.split(' ').next().unwrap()).collect();
    assert_eq!(begins, ["instruction", "target", "mask"], "{faults:?}");
}

#[test]
fn a_bad_example_keeps_its_index_and_says_its_line() {
    let lines = r#"{"target": "dark.png", "instruction": "x"}
{"target": "gone.png", "instruction": "x"}
{"target": "wide.png", "instruction": "y"}"#;
    let folder = Folder::new("with-bad", lines);
    let manifest = Manifest::open_with_bad(folder.0.join("manifest.jsonl")).unwrap();
    assert_eq!(manifest.len(), Some(3));
    assert_eq!(manifest.example(2).unwrap().instruction, "y");
    let complaint = manifest.example(1).unwrap_err().to_string();
    assert!(complaint.contains("manifest.jsonl:2: target ") && complaint.contains("gone.png"), "{complaint}");
    // One that vanishes when the manifest is open is named as well.
    fs::remove_file(folder.0.join("wide.png")).unwrap();
    let complaint = manifest.example(2).unwrap_err().to_string();
    assert!(complaint.contains("manifest.jsonl:3: ") && complaint.contains("wide.png"), "{complaint}");
    assert_eq!(manifest.place(5).to_string(), manifest.place(2).to_string());
}

/// What a folder of these files is read as: names instead of whole paths, examples or complaints.
fn read(name: &str, files: &[(&str, &str)]) -> BTreeMap<String, String> {
    let folder = Folder::new(name, "");
    fs::remove_file(folder.0.join("manifest.jsonl")).unwrap();
    for picture in ["wide.png", "light.png", "dark.png"] {
        fs::rename(folder.0.join(picture), std::env::temp_dir().join(format!("{name}-{picture}"))).unwrap();
    }
    for (path, text) in files {
        let path = folder.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match text.strip_prefix('=') {
            Some(picture) => drop(fs::copy(std::env::temp_dir().join(format!("{name}-{picture}.png")), path).unwrap()),
            None => fs::write(path, text).unwrap(),
        }
    }
    let manifest = Manifest::open_with_bad(&folder.0).unwrap();
    let inside = |text: String| text.replace(&format!("{}/", folder.0.display()), "");
    let example = |index| match manifest.example(index) {
        Ok(example) => {
            let sides = |count: usize, what| if count == 0 { String::new() } else { format!(" {count} {what}") };
            let image = sides(usize::from(example.image.is_some()), "image");
            let mask = sides(usize::from(example.mask.is_some()), "mask");
            format!("{}{image}{mask}{}", example.instruction, sides(example.references.len(), "reference"))
        }
        Err(error) => inside(error.to_string()),
    };
    let count = manifest.len().unwrap() as u64;
    (0..count).map(|index| (inside(manifest.place(index).to_string()), example(index))).collect()
}

fn read_as(name: &str, files: &[(&str, &str)], expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(place, what)| ((*place).to_owned(), (*what).to_owned())).collect();
    assert_eq!(read(name, files), expected);
}

#[test]
fn a_folder_of_pictures_has_captions_beside_them() {
    read_as(
        "captions",
        &[
            ("a.png", "=dark"),
            ("a.txt", "a dark\n square \n"),
            ("b.PNG", "=wide"),
            ("b.caption", "wide"),
            ("c.png", "=dark"),
            ("d.png", "=dark"),
            ("d.txt", " \n"),
            ("10_more/e.png", "=light"),
            ("10_more/e.txt", "light"),
            ("notes.md", "not read"),
        ],
        &[
            ("10_more/e.png", "light"),
            ("a.png", "a dark square"),
            ("b.PNG", "wide"),
            ("c.png", "c.png: it has no caption, c.txt"),
            ("d.png", "d.png: d.txt is empty"),
        ],
    );
}

#[test]
fn pairs_lie_in_folders_of_what_they_are() {
    let files = [
        ("before/a.png", "=dark"),
        ("after/a.png", "=light"),
        ("after/a.txt", "lighter"),
        ("mask/a.png", "=light"),
        ("reference/a/1.png", "=wide"),
        ("reference/a/2.png", "=dark"),
        ("before/b.jpg", "=dark"),
        ("after/b.png", "=light"),
        ("instructions/b.txt", "b"),
        ("before/c.png", "=dark"),
        ("after/d.png", "=dark"),
        ("before/e.png", "=wide"),
        ("after/e.png", "=dark"),
        ("instruction.txt", "all alike"),
        ("mask/f.png", "=dark"),
    ];
    let expected = [
        ("after/a.png", "lighter 1 image 1 mask 2 reference"),
        ("after/b.png", "b 1 image"),
        ("before/c.png", "before/c.png: there is no picture after it, of the same name"),
        ("after/d.png", "after/d.png: there is no picture before it, of the same name"),
        ("after/e.png", "after/e.png: target is 4x4 but image is 8x4"),
        ("mask/f.png", "mask/f.png: there is no picture after it, of the same name"),
    ];
    read_as("pairs", &files, &expected);
}

#[test]
fn pairs_may_be_named_or_lie_beside_a_folder_of_controls() {
    let files = [("a_start.png", "=dark"), ("a_end.png", "=light"), ("a.txt", "lighter"), ("b_end.png", "=dark")];
    let expected =
        [("a_end.png", "lighter 1 image"), ("b_end.png", "b_end.png: there is no picture before it, of the same name")];
    read_as("named", &files, &expected);
    let files = [("a.png", "=dark"), ("a.txt", "darker"), ("control/a.jpg", "=light")];
    read_as("controls", &files, &[("a.png", "darker 1 image")]);
    let files = [("target/a.png", "=dark"), ("target/a.txt", "it, darker"), ("reference/a.png", "=wide")];
    read_as("subjects", &files, &[("target/a.png", "it, darker 1 reference")]);
}

#[test]
fn the_list_of_ace_is_read_as_its_trainer_does() {
    let lines = "#;##;#wide.png#;#dark.png#;# a dog #;#portrait\n\nwide.png#;#light.png#;##;#dark.png#;#x#;#\nwide.png#;#dark.png#;#x";
    let folder = Folder::new("list", lines);
    let path = folder.0.join("manifest.jsonl");
    let list = Manifest::open_with_bad(&path).unwrap();
    assert_eq!(list.tasks(), ["edit", "portrait"]);
    let first = list.example(0).unwrap();
    assert_eq!((first.instruction.as_str(), first.repainting_scale, first.references.len()), ("a dog", 1.0, 1));
    // Brought to the target's size, half blanked under the mask.
    let second = list.example(1).unwrap();
    assert_eq!((second.image.unwrap().dimensions(), second.mask.unwrap().dimensions()), ((4, 4), (4, 4)));
    assert_eq!(second.repainting_scale, 0.5);
    let complaint = list.example(2).unwrap_err().to_string();
    assert!(complaint.contains("manifest.jsonl:4: 3 fields between #;#"), "{complaint}");
    assert!(Manifest::open(&path).unwrap_err().to_string().contains("manifest.jsonl:4: "));
}

#[test]
fn a_manifest_without_lines_is_refused() {
    assert!(complaint("empty", "").contains("no examples"));
}

/// Picture files of every kind, which the sampler's reader is tested with too.
fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/pictures").join(name)
}

/// The example of a line with these files, and the canvases that an edit with the same files sees.
fn trained_and_sampled(image: &Path, mask: &Path, reference: &Path) -> ([Vec<Canvas>; 2], [Example; 2]) {
    let policy = Card::builtin("tiny").unwrap().canvas;
    let line = serde_json::json!({
        "target": image, "image": image, "mask": mask, "references": [reference], "instruction": "x",
    });
    let folder = Folder::new(&format!("same-{}", mask.file_stem().unwrap().display()), &line.to_string());
    let trained = folder.open().unwrap().example(0).unwrap();
    let image = picture::read_rgb(image).unwrap();
    let sampled = Example {
        target: image.clone(),
        image: Some(image),
        mask: Some(picture::read_mask(mask).unwrap()),
        references: vec![picture::read_rgb(reference).unwrap()],
        ..trained.clone()
    };
    let compose = |example: &Example| canvas::compose(&example.inputs(), &policy).unwrap();
    ([compose(&trained), compose(&sampled)], [trained, sampled])
}

#[test]
fn pictures_mean_in_training_what_they_mean_in_sampling() {
    let files = ["orientation-6.jpg", "orientation-6.png", "orientation-5-late.png", "rgba.png", "rgb16.png"];
    for name in files.into_iter().chain(["palette.png", "cmyk.jpg", "lossy.webp"]) {
        // A mask of the same size, right half to be repainted.
        let (width, height) = picture::read_rgb(&shipped(name)).unwrap().dimensions();
        let mask = GrayImage::from_fn(width, height, |x, _| Luma([if x < width / 2 { 0 } else { 255 }]));
        let path = std::env::temp_dir().join(format!("ace-train-half-{name}-{}.png", std::process::id()));
        mask.save(&path).unwrap();
        let (canvases, [trained, sampled]) = trained_and_sampled(&shipped(name), &path, &shipped("rgba.png"));
        fs::remove_file(&path).unwrap();
        assert_eq!(trained, sampled, "{name}");
        assert!(canvases[0] == canvases[1], "{name}");
    }
    // What the cases are for: a picture that was taken on its side is learned upright.
    let sideways = serde_json::json!({"target": shipped("orientation-6.png"), "instruction": "x"});
    let upright = Folder::new("upright", &sideways.to_string()).open().unwrap().example(0).unwrap();
    assert_eq!(upright.target.dimensions(), (16, 24));
}

#[test]
fn a_picture_on_its_side_has_the_size_of_an_upright_one() {
    let [side, flat] = [shipped("orientation-6.png"), shipped("rgb16.png")];
    let line = serde_json::json!({"target": flat, "image": side, "instruction": "x"});
    let complaint = complaint("sideways", &line.to_string());
    assert!(complaint.ends_with("manifest.jsonl:2: target is 24x16 but image is 16x24"), "{complaint}");
}

#[test]
fn masks_mean_in_training_what_they_mean_in_sampling() {
    let image = shipped("rgb16.png");
    for name in ["white-brush", "black-brush", "red-brush", "la-brush", "inked", "grey", "opaque", "colours"] {
        let mask = shipped(&format!("mask-{name}.png"));
        let (canvases, [trained, sampled]) = trained_and_sampled(&image, &mask, &image);
        assert_eq!(trained, sampled, "{name}");
        assert!(canvases[0] == canvases[1], "{name}");
    }
    // Three columns of greys around the threshold: 128 is kept, as an edit keeps it.
    let greys = std::env::temp_dir().join(format!("ace-train-greys-{}.png", std::process::id()));
    let (width, height) = picture::read_size(&image).unwrap();
    GrayImage::from_fn(width, height, |x, _| Luma([127 + (x * 3 / width) as u8])).save(&greys).unwrap();
    let (canvases, [trained, sampled]) = trained_and_sampled(&image, &greys, &image);
    fs::remove_file(&greys).unwrap();
    assert_eq!(trained, sampled);
    assert!(canvases[0] == canvases[1]);
    let mask = Plane::from_mask(trained.mask.as_ref().unwrap());
    let third = width as usize / 3;
    assert_eq!([mask.data[0], mask.data[third], mask.data[2 * third]], [0.0, 0.0, 1.0]);
}
