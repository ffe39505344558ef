//! Sessions: turns, branches, undo, replay byte by byte from wherever the folder was moved to.

use crate::support::{self, TestDir, ace};
use image::{GrayImage, Luma};
use std::{
    fs,
    io::Write,
    process::{Output, Stdio},
};

const FIRST: &str = "a small red circle at the top left on a teal background";

fn session(dir: &TestDir, words: &[&str]) -> (Output, String) {
    piped(dir, words, "")
}

/// Runs `ace session chat` in `dir` with lines on its standard input.
fn piped(dir: &TestDir, words: &[&str], lines: &str) -> (Output, String) {
    let mut child = ace()
        .args([&["session", "chat"], words].concat())
        .current_dir(dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    child.stdin.take().expect("piped").write_all(lines.as_bytes()).expect("read");
    let output = child.wait_with_output().expect("it ends");
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output, said)
}

#[track_caller]
fn goes(dir: &TestDir, words: &[&str]) -> String {
    let (output, said) = session(dir, words);
    assert!(output.status.success(), "{words:?}: {said}");
    said
}

#[track_caller]
fn fails(dir: &TestDir, words: &[&str], message: &str) {
    let (output, said) = session(dir, words);
    assert!(!output.status.success() && said.contains(message), "{words:?}: {said}");
}

fn mask(dir: &TestDir, name: &str, grey: u8) {
    let inside = |x, y| x < 40 && y < 40;
    let mask = GrayImage::from_fn(64, 64, |x, y| Luma([if inside(x, y) { grey } else { 0 }]));
    mask.save(dir.file(name)).expect("writable");
}

#[test]
fn turns_branch_and_come_out_the_same_again_wherever_the_folder_is() {
    let dir = TestDir::new("session");
    mask(&dir, "mask.png", 255);
    mask(&dir, "black.png", 100);
    let picture = |turn: usize| fs::read(dir.file(&format!("chat/{turn}.png"))).expect("a picture");
    let recolor = ["--task", "recolor", "--mask", "mask.png", "--steps", "2"];

    fails(&dir, &["--undo"], "there is no session");
    fails(&dir, &["-p", FIRST, "--task", "juggle"], "has no task \"juggle\"");
    assert!(!dir.file("chat").exists());
    goes(&dir, &["-p", FIRST, "--steps", "2"]);
    goes(&dir, &[&recolor[..], &["-p", "make the circle green"]].concat());
    goes(&dir, &[&recolor[..], &["-p", "make the circle blue", "--at", "1"]].concat());
    // Nothing to repaint: the same bytes.
    goes(&dir, &["--mask", "black.png", "-p", "make the circle red"]);
    assert_eq!(picture(4), picture(3));
    assert_ne!(picture(3), picture(2));
    // Outside the mask a turn leaves the pixels of the turn before.
    let [one, two] = [1, 2].map(|turn| image::open(dir.file(&format!("chat/{turn}.png"))).expect("a PNG").into_rgb8());
    assert!(one.enumerate_pixels().filter(|(x, y, _)| *x >= 40 || *y >= 40).all(|(x, y, p)| two.get_pixel(x, y) == p));
    goes(&dir, &["--undo"]);
    goes(&dir, &["--new", "-p", "put the item {image1} at the center on a gray background", "--steps", "2"]);
    // Lines on the standard input, the model loaded once.
    let lines = "undo\n# a remark\n--task recolor --mask mask.png --steps 2 -p \"make the circle red\"\nat 1\nlog\n";
    let (output, said) = piped(&dir, &[], lines);
    assert!(output.status.success(), "{said}");
    let log = goes(&dir, &["--log"]);
    assert!(log.contains(&format!("* 1: {FIRST}")), "{log}");
    assert!(log.contains("  3 after 1: make the circle blue") && log.contains("  4 after 3"), "{log}");
    assert!(log.contains("  5 after 3: put the item at the center") && log.contains("  6 after 3"), "{log}");

    fails(&dir, &["--at", "9"], "there is no turn 9");
    fails(&dir, &["-p", "the {image7}"], "{image7}: there is no turn 7");
    fails(&dir, &["-p", "twice", "--count", "2"], "--count has no meaning in a session");
    fails(&dir, &["-p", "words", "--model", "ace-plus-fft"], "another model");
    goes(&dir, &["--at", "0"]);
    fails(&dir, &["--undo"], "no turn to undo");

    fs::remove_file(dir.file("mask.png")).expect("ours");
    let elsewhere = TestDir::new("session-moved");
    fs::rename(dir.file("chat"), elsewhere.file("chat")).expect("the same disk");
    let said = goes(&elsewhere, &["--replay"]);
    assert!(said.contains("6 turns, the same bytes"), "{said}");
    // A picture that was tampered with is not what its turn makes.
    fs::copy(elsewhere.file("chat/2.png"), elsewhere.file("chat/3.png")).expect("writable");
    fails(&elsewhere, &["--replay"], "changed");
}

#[test]
fn a_session_of_the_first_version_goes_on() {
    let dir = TestDir::new("session-first");
    let chat = dir.file("chat");
    fs::create_dir(&chat).expect("writable");
    for entry in fs::read_dir(support::data("first/session")).expect("recorded").flatten() {
        fs::copy(entry.path(), chat.join(entry.file_name())).expect("writable");
    }
    assert!(goes(&dir, &["--log"]).contains(&format!("* 1: {FIRST}")));
    goes(&dir, &["-p", "a large blue star at the center on a yellow background", "--steps", "1"]);
    let log = goes(&dir, &["--log"]);
    assert!(log.contains("* 2 after 1: a large blue star"), "{log}");
}
