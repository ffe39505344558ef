//! `ace sample --shard`: several machines make what one would have made, and what is there is not made again.

use crate::support::{TestDir, ace};
use std::{fs, process::Output};

/// Seven words, each of which would be a picture.
const WORDS: &str = "a red circle\n# not this\na blue star\na green square\n\na red star\na teal circle\na blue square\nan orange circle\n";

fn folder(name: &str) -> TestDir {
    let dir = TestDir::new(name);
    fs::write(dir.file("words.txt"), WORDS).expect("writable");
    dir
}

/// Runs `ace sample` on the words, one step each, into `DIR/OUT/o.png`.
fn run(dir: &TestDir, out: &str, words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = ace();
    command.args(["sample", "--prompts", "words.txt", "--steps", "1", "--seed", "3", "--out", &format!("{out}/o.png")]);
    for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "ACE_SHARDS"] {
        command.env_remove(name);
    }
    command.args(words).envs(variables.iter().copied()).current_dir(dir.path()).output().expect("the program starts")
}

/// What it says, on both ways.
#[track_caller]
fn says(output: &Output) -> String {
    let said = [&output.stdout[..], &output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// Names and bytes of everything in a folder.
fn files(dir: &TestDir, out: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(dir.file(out)).expect("a folder").map(|entry| entry.expect("readable").path());
    let name = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut files: Vec<_> = entries.map(|path| (name(&path), fs::read(&path).expect("readable"))).collect();
    files.sort();
    files
}

#[test]
fn three_shares_are_one_run_byte_for_byte_and_none_is_made_twice() {
    let dir = folder("shard-three");
    says(&run(&dir, "whole", &[], &[]));
    let whole = files(&dir, "whole");
    assert_eq!(whole.len(), 7);
    // One says it itself, one is told by Slurm, one by Kubernetes.
    let slurm = [
        ("SLURM_ARRAY_TASK_ID", "2"),
        ("SLURM_ARRAY_TASK_MIN", "1"),
        ("SLURM_ARRAY_TASK_COUNT", "3"),
        ("SLURM_ARRAY_TASK_STEP", "1"),
    ];
    let first = says(&run(&dir, "parts", &["--shard", "1/3"], &[]));
    assert!(first.contains("share 1/3: 3 of 7 pictures, 0 there, 3 to make"), "{first}");
    assert_eq!(files(&dir, "parts").len(), 3);
    says(&run(&dir, "parts", &["--shard", "auto"], &slurm));
    assert_eq!(files(&dir, "parts").len(), 5);
    says(&run(&dir, "parts", &["--shard", "auto/3"], &[("JOB_COMPLETION_INDEX", "2")]));
    assert_eq!(files(&dir, "parts"), whole);

    // Once more, as a launcher does that lost a machine: nothing is made, no weight is read.
    let again = says(&run(&dir, "parts", &["--shard", "1/1"], &[]));
    assert!(again.contains("share 1/1: 7 of 7 pictures, 7 there, 0 to make"), "{again}");
    assert_eq!(again.matches("is there already, not made again").count(), 7, "{again}");
    assert!(!again.contains('→'), "a picture was made: {again}");
    // Another request's pictures are not taken for this one's.
    let other = says(&run(&dir, "parts", &["--shard", "2/7", "--guidance", "1.5"], &[]));
    assert!(other.contains("o-2.png was made by another request: made again"), "{other}");
}

#[test]
fn what_is_no_picture_of_this_request_is_named_and_made_again() {
    let dir = folder("shard-broken");
    says(&run(&dir, "o", &["--shard", "1/1"], &[]));
    let whole = files(&dir, "o");
    let place = |name: &str| dir.file("o").join(name);
    // Cut behind the words that say what made it; another program's; none at all.
    let bytes = fs::read(place("o-1.png")).expect("made");
    fs::write(place("o-1.png"), &bytes[..bytes.len() - 40]).expect("writable");
    image::RgbImage::new(8, 8).save(place("o-2.png")).expect("writable");
    fs::write(place("o-3.png"), []).expect("writable");
    fs::remove_file(place("o-4.png")).expect("made");
    let said = says(&run(&dir, "o", &["--shard", "1/1"], &[]));
    for line in [
        "o-1.png is no whole picture: made again",
        "o-2.png does not say what made it: made again",
        "o-3.png is no whole picture: made again",
        "share 1/1: 7 of 7 pictures, 3 there, 4 to make",
    ] {
        assert!(said.contains(line), "{line} is not in {said}");
    }
    assert_eq!(files(&dir, "o"), whole);
    // What stands beside a picture is part of it.
    let said = says(&run(&dir, "o", &["--shard", "1/7", "--save-latents", "o/l.safetensors"], &[]));
    assert!(said.contains("l-1.safetensors is not: made again"), "{said}");
}

#[test]
fn a_share_that_is_none_is_refused_before_anything_is_made() {
    let dir = folder("shard-refused");
    for (words, variables, message) in [
        (&["--shard", "4/3"][..], &[][..], "choose a share from 1/3 to 3/3"),
        (&["--shard", "auto"], &[], "neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set"),
        (&["--shard", "auto"], &[("JOB_COMPLETION_INDEX", "0")], "nothing says how many shares there are"),
        (&["--shard", "1/2", "--plain"], &[], "cannot be used with"),
    ] {
        let output = run(&dir, "none", words, variables);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && said.contains(message), "{words:?}: {said}");
        assert!(!dir.file("none").exists(), "{words:?} left something");
    }
}
