//! The program as a person meets it: help, messages with hints, exit codes, and files that are whole or not there.

use crate::support::{self, TestDir, ace};
use ace_plus::{Card, latents, sample};
use ace_weights::{WeightFile, names::KeyMap};
use burn::{module::Module, tensor::DType};
use image::{GrayImage, Luma, Rgb, RgbImage};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::{Duration, Instant},
};

/// Words that make a complete request of the miniature.
const WORDS: [&str; 2] = ["-p", "make the circle green"];

/// Runs the program in `dir`.
fn run(dir: &TestDir, words: &[&str]) -> Output {
    ace().args(words).current_dir(dir.path()).output().expect("the program starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs something that must fail with `code`, one line with `message` and one hint with `hint`, and leave no file.
#[track_caller]
fn fails(dir: &TestDir, words: &[&str], code: i32, message: &str, hint: &str) {
    let before = dir.names();
    let output = run(dir, words);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(code), "{words:?}: {said}");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 2, "{words:?}: {said}");
    assert!(lines[0].starts_with("error: ") && lines[0].contains(message), "{words:?}: {said}");
    assert!(lines[1].starts_with("hint: ") && lines[1].contains(hint), "{words:?}: {said}");
    assert_eq!(dir.names(), before, "{words:?} left something");
}

/// As [`fails`], for `sample` with an instruction.
#[track_caller]
fn sample_fails(dir: &TestDir, words: &[&str], code: i32, message: &str, hint: &str) {
    fails(dir, &[&["sample"], &WORDS[..], words].concat(), code, message, hint);
}

/// The repository.
fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A picture of 64×64 with a red square, and a mask for it.
fn pictures(dir: &TestDir) {
    let inside = |x, y| (16..40).contains(&x) && (16..40).contains(&y);
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb(if inside(x, y) { [200, 30, 30] } else { [20, 120, 130] }));
    image.save(dir.file("image.png")).expect("writable");
    let mask = GrayImage::from_fn(64, 64, |x, y| Luma([if inside(x, y) { 255 } else { 0 }]));
    mask.save(dir.file("mask.png")).expect("writable");
}

/// A model folder `model` with the miniature's card, one more task, its tokenizers, and random weights.
fn random_model(dir: &TestDir) {
    let shipped = repository().join("models/tiny");
    let model = dir.file("model");
    for folder in ["tokenizers/t5", "tokenizers/clip"] {
        fs::create_dir_all(model.join(folder)).expect("writable");
        for entry in fs::read_dir(shipped.join(folder)).expect("tokenizers are shipped") {
            let entry = entry.expect("readable");
            fs::copy(entry.path(), model.join(folder).join(entry.file_name())).expect("writable");
        }
    }
    let task =
        "\n[[task]]\nname = \"recolor\"\nrepainting_scale = 0.0\nabout = \"image and mask in, recoloured out\"\n";
    let card = fs::read_to_string(shipped.join("card.toml")).expect("the card is shipped");
    fs::write(model.join("card.toml"), card + task).expect("writable");
    let card = Card::load(&model).expect("the card is sound");
    fn write<M: Module>(path: PathBuf, module: M, keys: &KeyMap) {
        let tensors = ace_weights::collect(&support::randomize(module, 5), keys, "", None);
        ace_weights::write(&path, &tensors, &[]).expect("writable");
    }
    let device = support::device();
    write(model.join(card.weights.flux.first()), card.flux.init(&device), &ace_weights::network::flux::BFL);
    write(
        model.join(card.weights.autoencoder.first()),
        card.autoencoder.init(&device),
        &ace_weights::network::autoencoder::BFL,
    );
    write(model.join(card.weights.t5.first()), card.t5.init(&device), &ace_weights::network::t5::TRANSFORMERS);
    write(model.join(card.weights.clip.first()), card.clip.init(&device), &ace_weights::network::clip::TRANSFORMERS);
}

#[test]
fn help_lists_the_verbs() {
    let dir = TestDir::new("cli-help");
    let output = run(&dir, &["--help"]);
    assert!(output.status.success());
    for verb in ["fetch", "doctor", "inspect", "convert"] {
        assert!(stdout(&output).contains(&format!("\n  {verb}")), "{verb}");
    }
    for verb in ["sample", "train", "eval", "verify", "calibrate"] {
        assert!(stdout(&output).contains(&format!("\n  {verb}")), "{verb}");
        let help = run(&dir, &[verb, "--help"]);
        assert!(help.status.success() && stdout(&help).contains("--backend"), "{verb}");
    }
    assert_eq!(run(&dir, &[]).status.code(), Some(2));
    assert_eq!(run(&dir, &["paint"]).status.code(), Some(2));
}

#[test]
fn bad_words_are_answered_before_any_work() {
    let dir = TestDir::new("cli-words");
    fails(&dir, &["sample", "-p", "  "], 2, "the instruction is empty", "what should be seen or changed");
    sample_fails(
        &dir,
        &["--backend", "abacus"],
        2,
        "there is no backend \"abacus\"; this build has: ",
        "cargo features",
    );
    sample_fails(&dir, &["--steps", "0"], 2, "--steps is 0", "1 or more");
    sample_fails(&dir, &["--task", "juggle"], 2, "has no task \"juggle\"", "its tasks are");
    sample_fails(&dir, &["--width", "64", "--height", "1"], 2, "size is 64x1", "larger picture");
    sample_fails(&dir, &["--repainting-scale", "-1"], 2, "repainting_scale is -1", "0..1");
    sample_fails(&dir, &["--out", "o.jpg"], 2, "pictures are written as PNG", "o.png");
    fails(&dir, &["eval", "--tasks", "juggle"], 2, "there is no task \"juggle\"", "recolor");
    fails(&dir, &["train", "--recipe", "none.toml"], 1, "none.toml", "check the path");
}

#[test]
fn an_unknown_sampler_schedule_cache_or_shift_is_answered_with_the_known_ones() {
    let dir = TestDir::new("cli-course");
    let caches = "0.08 (a threshold), mag, mag:0.06, taylor, taylor:3 or taylor:3:2";
    for (option, value, known) in [
        ("--sampler", "dpm", "euler, heun, dpmpp-2m, dpmpp-2m-comfy, unipc, lcm"),
        (
            "--schedule",
            "cosine",
            "flux, simple, normal, sgm-uniform, beta, beta-comfy, linear-quadratic, kl-optimal, karras, exponential",
        ),
        ("--shift", "0", "not a number above 0"),
        ("--cache", "tea", caches),
        ("--cache", "taylor:1", caches),
        ("--masked-steps", "0", "1 or more"),
    ] {
        let output = run(&dir, &["sample", WORDS[0], WORDS[1], option, value]);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(&format!("invalid value '{value}' for '{option}")) && said.contains(known), "{said}");
    }
    let both = ["--cache", "0.08", "--masked-steps", "4"];
    sample_fails(&dir, &both, 2, "a cache and masked steps do not go together", "choose one of them");
    sample_fails(&dir, &["--cache", "mag"], 2, "has no mag_ratios", "ace calibrate");
}

#[cfg(all(feature = "flex", not(feature = "cuda")))]
#[test]
fn a_backend_that_is_not_built_in_says_how_to_build_it() {
    let dir = TestDir::new("cli-backend");
    let message = "backend cuda is not part of this build, which has: ";
    sample_fails(&dir, &["--backend", "cuda"], 2, message, "cargo xtask <verb> --backend cuda");
}

#[test]
fn bad_pictures_are_answered_before_any_work() {
    let dir = TestDir::new("cli-pictures");
    pictures(&dir);
    let file = |name: &str| dir.file(name);
    fs::write(file("words.png"), "not a picture at all").expect("writable");
    let whole = fs::read(file("image.png")).expect("readable");
    fs::write(file("half.png"), &whole[..whole.len() / 2]).expect("writable");
    // The header of a BMP of 20000×20000 without its pixels: nobody may try to allocate them.
    let mut header = b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0".to_vec();
    header.extend([20_000u32.to_le_bytes(), 20_000u32.to_le_bytes(), [1, 0, 24, 0]].concat());
    header.resize(54, 0);
    fs::write(file("huge.bmp"), header).expect("writable");
    RgbImage::new(1, 1).save(file("dot.png")).expect("writable");
    GrayImage::new(64, 64).save(file("black.png")).expect("writable");
    GrayImage::new(32, 64).save(file("other.png")).expect("writable");

    sample_fails(&dir, &["--image", "none.png"], 1, "none.png: ", "check the path");
    sample_fails(&dir, &["--image", "words.png"], 1, "words.png: not a readable picture", "PNG, JPEG, WebP and BMP");
    sample_fails(&dir, &["--image", "half.png"], 1, "half.png: not a readable picture: the file ends", "cut short");
    sample_fails(&dir, &["--image", "huge.bmp"], 1, "20000x20000", "16384");
    sample_fails(&dir, &["--image", "dot.png"], 2, "image is 1x1", "larger picture");
    sample_fails(&dir, &["--reference", "dot.png"], 2, "reference 1 is 1x1", "larger picture");
    let mask = |mask| ["--image", "image.png", "--mask", mask];
    sample_fails(&dir, &mask("other.png"), 2, "mask is 32x64 but image is 64x64", "cover the image exactly");
    sample_fails(&dir, &mask("black.png"), 2, "the mask is all black", "paint white");
}

#[test]
fn what_is_not_taken_from_a_picture_is_said_in_one_line() {
    let dir = TestDir::new("cli-notes");
    let image = support::data("pictures").join("profile.jpg");
    // The places for the output are looked at after the pictures, so that nothing has to be computed here.
    let output = run(&dir, &["sample", WORDS[0], WORDS[1], "--image", &image.to_string_lossy(), "--out", "o.jpg"]);
    let said = stderr(&output);
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    assert!(lines[0].starts_with("note: ") && lines[0].contains("profile.jpg: its colour profile"), "{said}");
    assert!(lines[1].starts_with("error: "), "{said}");
}

#[test]
fn bad_outputs_are_answered_before_any_work() {
    let dir = TestDir::new("cli-outputs");
    fs::write(dir.file("file"), "in the way").expect("writable");
    fs::create_dir(dir.file("folder")).expect("writable");
    sample_fails(&dir, &["--out", "file/o.png"], 1, "file: not a folder", "another place");
    sample_fails(&dir, &["--out", "folder"], 2, "folder is a folder", "name the file");
    sample_fails(&dir, &["--sheet", "file/s.png"], 1, "file: not a folder", "another place");
    sample_fails(&dir, &["--save-latents", "file/l.safetensors"], 1, "file: not a folder", "another place");
}

#[test]
fn bad_models_are_answered_with_the_file_and_the_key() {
    let dir = TestDir::new("cli-models");
    pictures(&dir);
    random_model(&dir);
    let model = ["--model", "./model"];
    let with = |words: &[&'static str]| [&model[..], words].concat();
    let task = with(&["--task", "recolor", "--image", "image.png"]);
    sample_fails(&dir, &task, 2, "task recolor needs --mask FILE", "recolor: ");
    sample_fails(&dir, &["--model", "giant"], 2, "there is no built-in card \"giant\"", "tiny");
    sample_fails(
        &dir,
        &["--weights", "none"],
        1,
        "none: there is no such folder with the weights of tiny",
        "--weights",
    );
    sample_fails(&dir, &with(&["--lora", "mask.png:0.5"]), 1, "mask.png: not a whole safetensors file", "truncated");
    sample_fails(
        &dir,
        &with(&["--lora", "model/clip.safetensors"]),
        1,
        "has no place in the transformer",
        "another model",
    );
    sample_fails(&dir, &with(&["--noise", "model/clip.safetensors"]), 1, "noise is missing", "another network");

    let flux = dir.file("model/flux.safetensors");
    let whole = fs::read(&flux).expect("readable");
    fs::write(&flux, &whole[..whole.len() - 1]).expect("writable");
    sample_fails(&dir, &model, 1, "flux.safetensors: not a whole safetensors file", "truncated");
    fs::copy(dir.file("model/clip.safetensors"), &flux).expect("writable");
    sample_fails(&dir, &model, 1, "flux.safetensors: ", "another network");

    let card = dir.file("model/card.toml");
    let text = fs::read_to_string(&card).expect("readable");
    fs::write(&card, format!("colour = \"blue\"\n{text}")).expect("writable");
    sample_fails(&dir, &model, 1, "card.toml: line 1: unknown field `colour`", "models/README.md");
}

#[test]
fn a_panic_is_one_line_and_a_request_to_report_it() {
    let dir = TestDir::new("cli-panic");
    random_model(&dir);
    // So many tokens that no memory could hold them: std panics.
    let card = dir.file("model/card.toml");
    let text = fs::read_to_string(&card).expect("readable");
    let length = "t5_max_length = ";
    assert!(text.contains(&format!("{length}26")));
    fs::write(&card, text.replace(&format!("{length}26"), &format!("{length}{}", i64::MAX))).expect("writable");
    let words = [&["sample", "--model", "./model"], &WORDS[..]].concat();
    let before = dir.names();
    let said = |backtrace: &str| {
        let output = ace().args(&words).current_dir(dir.path()).env("RUST_BACKTRACE", backtrace).output();
        let output = output.expect("the program starts");
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert_eq!(dir.names(), before);
        stderr(&output)
    };
    let quiet = said("0");
    let lines: Vec<_> = quiet.lines().collect();
    assert_eq!(lines.len(), 2, "{quiet}");
    assert!(lines[0].starts_with("error: the program has a bug: capacity overflow ("), "{quiet}");
    assert!(lines[1].starts_with("hint: please report this line"), "{quiet}");
    let loud = said("1");
    assert!(loud.contains("stack backtrace:") && loud.ends_with(&quiet), "{loud}");
}

#[test]
fn a_broken_tokenizer_is_named() {
    let dir = TestDir::new("cli-tokenizer");
    random_model(&dir);
    let file = dir.file("model/tokenizers/t5/tokenizer.json");
    let whole = fs::read_to_string(&file).expect("shipped");
    let model = ["--model", "./model"];
    for broken in ["\u{1}", "\\u12", "\\ud800"] {
        let marked = whole.replace("\"decoder\":{", &format!("\"decoder\":{{\"note\":\"{broken}\","));
        assert_ne!(marked, whole);
        fs::write(&file, marked).expect("writable");
        sample_fails(&dir, &model, 1, "tokenizer.json: not a tokenizer file: ", "the published folders have");
    }
    fs::write(&file, whole.replace("\"type\":\"Metaspace\"}", "\"type\":\"Meta\"}")).expect("writable");
    sample_fails(&dir, &model, 1, "tokenizer.json: not a tokenizer file: ", "the published folders have");
}

#[test]
fn an_edit_is_written_whole_and_follows_from_its_noise() {
    let dir = TestDir::new("cli-sample");
    pictures(&dir);
    random_model(&dir);
    let edit = |words: &[&str]| {
        let asked = ["sample", "--model", "./model", "--task", "recolor", "--image", "image.png", "--mask", "mask.png"];
        let output = run(&dir, &[&asked[..], &WORDS[..], &["--steps", "2"], words].concat());
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        stdout(&output)
    };
    let picture = |name: &str| image::open(dir.file(name)).expect("a picture").into_rgb8();

    let said = edit(&["--seed", "3", "--out", "new/o.png", "--sheet", "--save-latents", "new/l.safetensors"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    let begins = "recolor \"make the circle green\": 64×64, 2 steps, seed 3 on ";
    assert!(said.starts_with(begins), "{said}");
    for part in ["text ", "encode ", "denoise ", "decode ", "→ new/o.png, new/o-sheet.png, new/l.safetensors"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (input, output) = (picture("image.png"), picture("new/o.png"));
    assert_eq!(output.dimensions(), (64, 64));
    assert_eq!(output.get_pixel(0, 0), input.get_pixel(0, 0), "the mask keeps what is outside");
    assert_ne!(output.get_pixel(20, 20), input.get_pixel(20, 20));
    // Both pictures three times enlarged, and paper around them; a line of words, a line of captions.
    assert_eq!(picture("new/o-sheet.png").dimensions(), (2 * 192 + 3 * 8, 2 * 16 + 192 + 3 * 8));
    let written = WeightFile::open(&dir.file("new/l.safetensors")).expect("whole").shapes().expect("sound");
    assert_eq!((&written["latents"], &written["tokens"]), (&vec![1, 16, 8, 8], &vec![1, 16, 64]));

    // The seed's own noise, from a file, unpacked and packed.
    let noise = sample::gaussian([1, 16, 8, 8], &mut sample::rng(3, 0), &support::device());
    let file = |name: &str, data| ace_weights::write(&dir.file(name), &[("noise".to_owned(), data)].into(), &[]);
    file("noise.safetensors", noise.clone().into_data()).expect("writable");
    file("packed.safetensors", latents::pack(noise).cast(DType::F32).into_data()).expect("writable");
    for name in ["noise.safetensors", "packed.safetensors"] {
        assert!(edit(&["--noise", name, "--out", "n.png"]).contains("given noise"));
        assert_eq!(picture("n.png"), output, "{name}");
    }
    edit(&["--seed", "4", "--out", "other.png"]);
    assert_ne!(picture("other.png"), output);
    assert!(!dir.names().iter().any(|name| name.ends_with(".part") || name.starts_with(".ace")), "{:?}", dir.names());
}

#[test]
fn the_shipped_picture_is_edited_without_a_word() {
    let dir = TestDir::new("cli-shipped");
    let output = run(&dir, &["sample"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("recolor \""), "{}", stdout(&output));
    assert!(!stderr(&output).contains("note: "), "{}", stderr(&output));
    assert!(dir.file("out/sample.png").is_file() && dir.file("out/sample-sheet.png").is_file());
}

#[test]
fn a_picture_that_the_model_does_not_know_is_named() {
    let dir = TestDir::new("cli-domain");
    pictures(&dir);
    random_model(&dir);
    let noise = |x: u32, y: u32| (x * 37 + y * 101 + x * y * 13) as u8;
    RgbImage::from_fn(64, 64, |x, y| Rgb([noise(x, y); 3])).save(dir.file("noise.png")).expect("writable");
    RgbImage::from_pixel(256, 200, Rgb([9; 3])).save(dir.file("large.png")).expect("writable");
    let notes = |words: &[&str]| {
        let output = run(&dir, &[&["sample", "--model", "./model", "--steps", "1"], &WORDS[..], words].concat());
        assert!(output.status.success(), "{words:?}: {}", stderr(&output));
        stderr(&output).lines().filter(|line| line.starts_with("note: ")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(notes(&["--image", "image.png", "--reference", "image.png"]).is_empty());
    let said = notes(&["--image", "noise.png", "--reference", "large.png"]);
    let [said] = &said[..] else { panic!("{said:?}") };
    assert!(said.starts_with("note: tiny knows 64-pixel scenes of flat coloured shapes, so expect little: "), "{said}");
    assert!(said.contains("noise.png is ") && said.ends_with("large.png is 256x200, the largest known side is 64"));
}

#[test]
fn every_task_gets_a_line_and_both_kinds_a_mean() {
    let dir = TestDir::new("cli-eval");
    random_model(&dir);
    let words = ["eval", "--model", "./model", "--tasks", "fill,subject", "--per-task", "1", "--json", "new/e.json"];
    let output = run(&dir, &words);
    assert!(output.status.success(), "{}", stderr(&output));
    for line in ["\nfill ", "\nsubject ", "\nmean without reference ", "\nmean with reference "] {
        assert!(stdout(&output).contains(line), "{line}: {}", stdout(&output));
    }
    let json = fs::read(dir.file("new/e.json")).expect("written");
    let json: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!((json[0]["task"].as_str(), json[1]["task"].as_str()), (Some("fill"), Some("subject")));
}

/// A recipe that trains the miniature's autoencoder for `steps` steps.
fn recipe(dir: &TestDir, steps: u64) {
    let text = format!(
        "name = \"short\"\ncard = \"model\"\ntrain = [\"autoencoder\"]\nfresh = [\"autoencoder\"]\nseed = 1\n\
         log_every = 1\nsave_every = 2\npreview_every = 2\n[data]\nworld = 64\n\
         [autoencoder]\ncrop = 16\nkl_weight = 1e-6\n[optimizer]\nsteps = {steps}\nbatch = 1\nlearning_rate = 1e-3\n"
    );
    fs::write(dir.file("short.toml"), text).expect("writable");
}

#[test]
fn a_training_leaves_log_plot_previews_and_weights_and_goes_on_when_asked() {
    let dir = TestDir::new("cli-train");
    random_model(&dir);
    recipe(&dir, 2);
    let words = ["train", "--recipe", "short.toml"];
    let output = run(&dir, &words);
    assert!(output.status.success(), "{}", stderr(&output));
    let out = dir.file("out/train/short");
    let weights = out.join("autoencoder.safetensors");
    assert!(weights.is_file() && stdout(&output).contains("weights: out/train/short/autoencoder.safetensors"));
    assert_eq!(image::open(out.join("loss.png")).expect("a plot").width(), 960);
    assert!(out.join("preview-000002.png").is_file());

    fails(&dir, &words, 1, "a run is already here", "add --resume");
    let output = run(&dir, &["train", "--recipe", "short.toml", "--resume", "--steps", "3"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let log = fs::read_to_string(out.join("log.jsonl")).expect("written");
    let steps: Vec<_> =
        log.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON")).collect();
    assert_eq!(steps.iter().map(|line| line["step"].as_u64()).collect::<Vec<_>>(), [Some(1), Some(2), Some(3)]);
    // TensorBoard sees the same steps, each once, and the page shows them.
    let told = ace_train::learn::board::scalars(&out).expect("an event file");
    let losses: Vec<_> = told.iter().filter(|scalar| scalar.tag == "loss").collect();
    assert_eq!(losses.iter().map(|scalar| scalar.step).collect::<Vec<_>>(), [1, 2, 3]);
    let logged = |at: usize| steps[at]["loss"].as_f64().expect("a number") as f32;
    assert!(losses.iter().enumerate().all(|(at, scalar)| scalar.value == logged(at)));
    assert!(stdout(&output).contains("peak memory"), "{}", stdout(&output));
    let output = run(&dir, &["report", "out/train/short"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let page = fs::read_to_string(out.join("report.html")).expect("written");
    for part in ["<h2>Loss</h2>", "after 3 steps", "autoencoder.crop", "samples/s"] {
        assert!(page.contains(part), "{part}");
    }
    fails(&dir, &["report", "model"], 2, "it has no log.jsonl", "the folder that ace train wrote to");

    let text = fs::read_to_string(dir.file("short.toml")).expect("readable");
    fs::write(dir.file("short.toml"), text.replace("batch = 1", "batch = 2")).expect("writable");
    fails(&dir, &[&words[..], &["--resume"]].concat(), 1, "made by another recipe", "another --out");
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_saves_and_says_how_to_go_on() {
    let dir = TestDir::new("cli-interrupt");
    random_model(&dir);
    recipe(&dir, 1_000_000);
    let mut command = ace();
    command.args(["train", "--recipe", "short.toml", "--out", "run"]).current_dir(dir.path());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let begun = Instant::now();
    while fs::read_to_string(dir.file("run/log.jsonl")).unwrap_or_default().is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(120), "no step in two minutes");
        thread::sleep(Duration::from_millis(50));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(killed.expect("kill is there").success());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    let said = stdout(&output);
    assert!(said.starts_with("stopped and saved at step "), "{said}");
    assert!(said.trim_end().ends_with("ace train --recipe short.toml --out run --resume"), "{said}");
    let saved = fs::read_dir(dir.file("run")).expect("written").filter_map(Result::ok);
    let saved = saved.filter(|entry| entry.file_name().to_string_lossy().starts_with("checkpoint-"));
    assert_eq!(saved.count(), 1);
}

#[test]
fn a_queue_elsewhere_is_refused_where_it_is_not_built_in_or_not_there() {
    let dir = TestDir::new("cli-queue");
    for words in [&["worker", "--queue", "here"][..], &["serve", "--queue", "here"]] {
        fails(&dir, words, 2, "here is no address of a queue", "nats://HOST:PORT");
    }
    if !cfg!(feature = "nats") {
        for words in [&["worker", "--queue", "nats://127.0.0.1:1"][..], &["serve", "--queue", "nats://127.0.0.1:1"]] {
            fails(&dir, words, 2, "this build has no nats", "--features nats");
        }
    }
}

/// A picture, a small MobileSAM with random weights, and a picture of theirs.
fn segment(name: &str) -> String {
    support::data("segment").join(name).to_string_lossy().into_owned()
}

#[test]
fn a_click_becomes_a_mask_that_an_edit_takes() {
    let dir = TestDir::new("cli-mask");
    let (picture, weights) = (segment("small.png"), segment("weights.safetensors"));
    let clicked = run(&dir, &["mask", &picture, "--click", "14,30", "--weights", &weights, "-o", "out/one.png"]);
    assert!(clicked.status.success(), "{}", stderr(&clicked));
    assert!(stdout(&clicked).contains("% of the picture"), "{}", stdout(&clicked));
    let mask = ace_plus::picture::read_mask(&dir.file("out/one.png")).expect("a mask");
    assert_eq!(mask.dimensions(), (37, 61));
    let inside = mask.pixels().filter(|pixel| pixel.0[0] == 255).count();
    assert!(inside > 0 && inside < 37 * 61 && mask.pixels().all(|pixel| [0, 255].contains(&pixel.0[0])));
    let boxed = run(&dir, &["mask", &picture, "--box", "5,7,28,49", "--click-out", "3,2", "--weights", &weights]);
    assert!(boxed.status.success(), "{}", stderr(&boxed));
    assert!(dir.file("mask.png").exists());
}

#[test]
fn mask_says_what_is_missing_and_what_is_outside() {
    let dir = TestDir::new("cli-mask-fails");
    let (picture, weights) = (segment("small.png"), segment("weights.safetensors"));
    let named = ["--weights", weights.as_str()];
    fails(
        &dir,
        &["mask", &picture, "--click", "1,1"],
        2,
        "no file with its weights",
        "mobile_sam.pt (41 MB, Apache-2.0)",
    );
    let outside = "the click at 37,3 is outside of the picture, which has 37×61 pixels";
    fails(&dir, &[&["mask", &picture, "--click", "37,3"], &named[..]].concat(), 2, outside, "x goes from 0 to 36");
    fails(&dir, &[&["mask", &picture], &named[..]].concat(), 2, "neither a click nor a box", "click on what is meant");
    let flat = [&["mask", &picture, "--box", "5,5,5,9"], &named[..]].concat();
    fails(&dir, &flat, 2, "the box 5,5,5,9 is not within", "left,top,right,bottom");
    let other = segment("mask.safetensors");
    let output = run(&dir, &["mask", &picture, "--click", "1,1", "--weights", &other]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert!(stderr(&output).starts_with("error: ") && !dir.file("mask.png").exists(), "{}", stderr(&output));
}
