//! Networks that draw of a picture what an edit keeps, through the program: with their weights, without them, and out of the
//! files that they are published in.

use crate::support::{TestDir, ace, data, shapes};
use ace_nn::contour::ContourConfig;
use ace_weights::{WeightFile, network::annotators::CONTOUR};
use burn::prelude::*;
use image::{GrayImage, Luma, RgbImage};
use std::{collections::BTreeMap, fs, path::Path, process::Output};

/// Runs the program in `dir` with an empty cache of the Hub.
fn run(dir: &TestDir, words: &[&str]) -> Output {
    let cache = dir.file("cache");
    ace().args(words).current_dir(dir.path()).env("HF_HUB_CACHE", cache).output().expect("the program starts")
}

#[track_caller]
fn done(dir: &TestDir, words: &[&str]) -> String {
    let output = run(dir, words);
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[track_caller]
fn fails(dir: &TestDir, words: &[&str]) -> String {
    let output = run(dir, words);
    assert!(!output.status.success(), "{words:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn picture(path: &Path) -> RgbImage {
    image::open(path).expect("a picture").into_rgb8()
}

/// Contours of every picture that are grey everywhere: all weights are zero, and half of 255 is cut to 127.
fn write_contour(path: &Path) {
    let network = ContourConfig::PUBLISHED.init(&Device::default());
    let zeros = |(path, shape): (String, Vec<usize>)| (CONTOUR.key(&path), TensorData::zeros::<f32, _>(shape));
    let tensors: BTreeMap<String, TensorData> = shapes(&network).into_iter().map(zeros).collect();
    ace_weights::write(path, &tensors, &[]).expect("writable");
}

#[test]
fn annotators_draw_what_the_references_draw() {
    let dir = TestDir::new("annotate");
    let cat = data("annotators").join("cat.png").display().to_string();
    for name in ["canny", "gray", "mosaic"] {
        let said = done(&dir, &["annotate", name, &cat, "-o", "drawn.png"]);
        assert!(said.contains("96×80"), "{said}");
        assert_eq!(
            picture(&dir.file("drawn.png")),
            picture(&data("annotators").join(format!("cat-{name}.png"))),
            "{name}"
        );
    }
    let said = fails(&dir, &["annotate", "map", &cat]);
    assert!(said.contains("annotator map draws nothing") && said.contains("canny, contour, depth"), "{said}");
}

#[test]
fn a_network_without_weights_says_where_they_are() {
    let dir = TestDir::new("annotate-nothing");
    let cat = data("annotators").join("cat.png").display().to_string();
    let said = fails(&dir, &["annotate", "contour", &cat, "-o", "drawn.png"]);
    assert!(said.contains("error: annotator contour is a network, and its weights are not here"), "{said}");
    assert!(said.contains("hint: get https://www.modelscope.cn/") && said.contains("--annotator FILE"), "{said}");
    let said = fails(&dir, &["annotate", "depth", &cat, "-o", "drawn.png"]);
    assert!(said.contains("hint: --fetch gets them from https://huggingface.co/depth-anything"), "{said}");
    assert!(!dir.file("drawn.png").exists());
    let output = run(&dir, &["doctor", "contour"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("nowhere") && said.contains("mend: get https://"), "{said}");
    let said = fails(&dir, &["annotate", "contour", &cat, "-o", "drawn.png", "--annotator", "none.pth"]);
    assert!(said.contains("none.pth"), "{said}");
}

#[test]
fn a_task_draws_its_own_map_where_the_weights_are() {
    let dir = TestDir::new("annotate-task");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny");
    fs::create_dir(dir.file("model")).expect("writable");
    let card = "base = \"tiny\"\n[[task]]\nname = \"contour\"\nannotator = \"contour\"\nrepainting_scale = 0.0\n\
                needs = [\"image\"]\nabout = \"an image\"\n";
    fs::write(dir.file("model/card.toml"), card).expect("writable");
    RgbImage::from_fn(64, 64, |x, y| image::Rgb([4 * x as u8, 4 * y as u8, 9]))
        .save(dir.file("in.png"))
        .expect("writable");
    GrayImage::from_pixel(64, 64, Luma([255])).save(dir.file("mask.png")).expect("writable");
    let tiny = tiny.display().to_string();
    let mut words = vec!["sample", "--model", "model", "--weights", &tiny, "--task", "contour", "--image", "in.png"];
    words.extend(["--mask", "mask.png", "-p", "fill the outline with a red circle", "--steps", "1", "--seed", "3"]);
    let said = fails(&dir, &[&words[..], &["--out", "without.png"]].concat());
    assert!(said.contains("annotator contour is a network, and its weights are not here"), "{said}");

    write_contour(&dir.file("contour.safetensors"));
    done(&dir, &[&words[..], &["--out", "drawn.png", "--plain", "--annotator", "contour.safetensors"]].concat());
    let said = done(&dir, &["annotate", "contour", "in.png", "-o", "map.png", "--annotator", "contour.safetensors"]);
    assert!(said.contains("64×64"), "{said}");
    assert!(picture(&dir.file("map.png")).iter().all(|level| *level == 127));
    done(&dir, &[&words[..], &["--out", "given.png", "--plain", "--map", "map.png"]].concat());
    assert_eq!(picture(&dir.file("drawn.png")), picture(&dir.file("given.png")));
    RgbImage::new(64, 64).save(dir.file("black.png")).expect("writable");
    done(&dir, &[&words[..], &["--out", "black-out.png", "--plain", "--map", "black.png"]].concat());
    assert_ne!(picture(&dir.file("drawn.png")), picture(&dir.file("black-out.png")));

    // Found where it belongs, without a word.
    fs::create_dir_all(dir.file("models/annotators")).expect("writable");
    let place = dir.file("models/annotators/informative_drawing_contour_style.safetensors");
    fs::rename(dir.file("contour.safetensors"), place).expect("writable");
    let said = done(&dir, &["doctor", "contour"]);
    assert!(said.contains("ok") && said.contains("contour_style.safetensors"), "{said}");
}

#[test]
fn what_torch_saved_is_converted_and_code_is_not_run() {
    let dir = TestDir::new("annotate-torch");
    let file = |name: &str| data("torch").join(name).display().to_string();
    let said = done(&dir, &["convert", &file("plain.pth"), "plain.safetensors"]);
    assert!(said.contains("what torch saved"), "{said}");
    let [ours, theirs] = [dir.file("plain.safetensors"), data("torch").join("plain.safetensors")]
        .map(|path| WeightFile::open(&path).expect("whole"));
    assert_eq!(ours.shapes().expect("read"), theirs.shapes().expect("read"));
    for key in theirs.keys() {
        assert_eq!(ours.data(key).expect("numbers"), theirs.data(key).expect("numbers"), "{key}");
    }
    let output = run(&dir, &["convert", &file("code.pth"), "code.safetensors"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("posix.system"), "{said}");
    assert!(output.stdout.is_empty() && !dir.file("code.safetensors").exists());
}
