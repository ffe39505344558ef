//! What goes wrong while learning: the run stops with a clear word, nothing is half-written, and it goes on from where it
//! was.

use crate::{
    support::{self, TestDir, ace},
    train::{FRESH, losses, options, write_recipe},
};
use ace_train::{
    Error,
    learn::{RunEvent, train},
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread,
    time::Instant,
};

const LEARNING: &str = "batch = 2\nlearning_rate = 1e-3\nschedule = \"constant\"";

/// What a run has written, without what it keeps for the next one and the curves of every start.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("written").filter_map(Result::ok);
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != "cache" && !name.starts_with("events.out.tfevents."));
    names.sort_unstable();
    names
}

#[test]
fn a_damaged_checkpoint_is_passed_over_and_said() {
    let dir = TestDir::new("surviving-damage");
    let recipe = |steps| write_recipe(&dir, "run", FRESH, "pool = 6", &format!("steps = {steps}\n{LEARNING}"));
    let whole = options(&recipe(6), dir.file("whole"));
    let expected = losses(&whole);
    let mut run = options(&recipe(4), dir.file("out"));
    losses(&run);
    assert_eq!(
        names(&run.out),
        ["checkpoint-2", "checkpoint-4", "clip.safetensors", "flux.safetensors", "log.jsonl", "t5.safetensors"]
    );

    recipe(6);
    run.resume = true;
    for file in ["optimizer.bin", "weights.safetensors", "state.json"] {
        let path = run.out.join("checkpoint-4").join(file);
        let bytes = fs::read(&path).expect("written");
        fs::write(&path, &bytes[..bytes.len() / 2]).expect("writable");
        let mut said = Vec::new();
        let mut first = None;
        let stopped = train(&run, &support::device(), &mut |event| {
            match event {
                RunEvent::Damaged { path, reason, resumed_at } => said.push((path, reason, resumed_at)),
                RunEvent::Step(step) => first = first.or(Some(step.step)),
                _ => {}
            }
            false
        });
        stopped.expect("it can be resumed");
        assert_eq!(first, None, "it was stopped before a step");
        let [(folder, reason, 2)] = &said[..] else { panic!("{said:?}") };
        assert!(folder.ends_with("checkpoint-4") && reason.contains(file), "{said:?}");
        fs::write(&path, bytes).expect("writable");
    }
    let cut = run.out.join("checkpoint-4/optimizer.bin");
    fs::write(&cut, b"short").expect("writable");
    assert_eq!(losses(&run), expected[2..]);
    let read = |out: &Path, file: &str| fs::read(out.join(file)).expect("written");
    for file in ["flux.safetensors", "t5.safetensors", "log.jsonl"] {
        assert!(read(&run.out, file) == read(&whole.out, file), "{file} differs");
    }

    for step in [4, 6] {
        fs::write(run.out.join(format!("checkpoint-{step}/weights.safetensors")), b"short").expect("writable");
    }
    let error = train(&run, &support::device(), &mut |_| true).expect_err("nothing is whole").to_string();
    assert!(error.contains("checkpoint-6") && error.contains("weights.safetensors has 5 of its"), "{error}");
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_and_leaves_the_last_checkpoint() {
    let dir = TestDir::new("surviving-nan");
    let recipe = write_recipe(
        &dir,
        "run",
        &FRESH.replace("save_every = 2", "save_every = 1"),
        "pool = 2",
        "steps = 40\nbatch = 1\nlearning_rate = 1e30",
    );
    let run = options(&recipe, dir.file("out"));
    let mut done = 0;
    let error = train(&run, &support::device(), &mut |event| {
        if let RunEvent::Step(step) = event {
            done = step.step;
        }
        true
    });
    let error = error.expect_err("it cannot learn so");
    assert!(matches!(error, Error::Diverged { step, .. } if step == done + 1), "{error} after {done}");
    assert!(error.hint().is_some_and(|hint| hint.contains("lower learning_rate")), "{error}");
    assert!(done >= 1);
    let names = names(&run.out);
    assert!(names.contains(&format!("checkpoint-{done}")), "{names:?}");
    assert!(names.iter().all(|name| name == "log.jsonl" || name.starts_with("checkpoint-")), "{names:?}");
}

/// A run of the program on a recipe, of which no file may become larger than `blocks` of 512 bytes, as on a full disk.
#[cfg(unix)]
fn limited(recipe: &Path, out: &Path, more: &[&str], blocks: u64) -> std::process::Output {
    let program = ace().get_program().to_owned();
    std::process::Command::new("sh")
        // A write past the limit is to fail, not to kill.
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")])
        .arg(program)
        .args(["train", "--recipe", &recipe.to_string_lossy(), "--out", &out.to_string_lossy()])
        .args(more)
        .output()
        .expect("the program starts")
}

#[cfg(unix)]
#[test]
fn a_full_disk_ends_the_run_and_nothing_is_half_written() {
    let dir = TestDir::new("surviving-disk");
    let recipe = |steps| write_recipe(&dir, "run", FRESH, "pool = 6", &format!("steps = {steps}\n{LEARNING}"));
    let whole = options(&recipe(4), dir.file("whole"));
    losses(&whole);
    let mut run = options(&recipe(2), dir.file("out"));
    losses(&run);
    let before: Vec<String> = names(&run.out);
    let state = fs::read(run.out.join("checkpoint-2/state.json")).expect("written");

    let output = limited(&recipe(4), &run.out, &["--resume"], 64);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("checkpoint.part") && said.to_lowercase().contains("too large"), "{said}");
    assert_eq!(names(&run.out), before);
    assert_eq!(fs::read(run.out.join("checkpoint-2/state.json")).expect("still there"), state);

    run.resume = true;
    losses(&run);
    for file in ["flux.safetensors", "clip.safetensors", "log.jsonl"] {
        let read = |out: &PathBuf| fs::read(out.join(file)).expect("written");
        assert!(read(&run.out) == read(&whole.out), "{file} differs");
    }
}

/// Starts the program on a recipe, on with what is there if anything is.
fn start(recipe: &Path, out: &Path) -> Child {
    let mut command = ace();
    command.args(["train", "--recipe", &recipe.to_string_lossy(), "--out", &out.to_string_lossy()]);
    let is_begun = out.is_dir() && names(out).iter().any(|name| name.starts_with("checkpoint-"));
    if is_begun {
        command.arg("--resume");
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
}

#[test]
fn a_run_that_is_killed_twenty_times_at_any_moment_ends_with_the_same_bytes() {
    let dir = TestDir::new("surviving-kills");
    // Recomputed blocks, packed examples, what is encoded kept on disk, held-out examples, 8 bits, a moving average, a
    // checkpoint a step.
    let top = "train = [\"flux\"]\nrecompute = true\ndrop_instruction = 0.2\nsave_every = 1\n\
               [lora]\nrank = 2\nalpha = 2.0\nmodules = [\"*.img_attn.*\", \"single_blocks.*\"]\n\
               [validation]\nevery = 2\nexamples = 1\ntimesteps = [0.5]\n\
               [checkpoints]\nkeep = 2";
    let optimizer = "steps = 8\nbatch = 3\nlearning_rate = 1e-3\nschedule = \"cosine\"\nema = 0.9\nstate = \"8bit\"";
    let recipe = write_recipe(&dir, "run", top, "pool = 6\npack_tokens = 160", optimizer);
    let begun = Instant::now();
    let whole = dir.file("whole");
    assert!(start(&recipe, &whole).wait().expect("it ends").success());
    let length = begun.elapsed();
    let read = |out: &Path, file: &str| fs::read(out.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));

    // Moments are spread over all that a run does; which they are differs from machine to machine anyway.
    let mut moments = (1..).map(|kill: u32| length.mul_f64((f64::from(kill) * 0.618_034).fract()));
    let (mut kills, mut ends) = (0, 0);
    while kills < 20 || ends == 0 {
        let out = dir.file(&format!("killed-{ends}"));
        let mut child = start(&recipe, &out);
        if kills < 20 {
            thread::sleep(moments.next().expect("endless"));
            // Its last word, unless it has come to its end before.
            child.kill().expect("it is ours");
        }
        match child.wait().expect("it ends").code() {
            None => kills += 1,
            Some(0) => {
                // The optimizer's numbers have no order in their file.
                for file in [
                    "run.safetensors",
                    "log.jsonl",
                    "checkpoint-8/weights.safetensors",
                    "checkpoint-8/average.safetensors",
                ] {
                    assert!(read(&out, file) == read(&whole, file), "{file} differs after {kills} kills");
                }
                ends += 1;
            }
            Some(code) => {
                let output = start(&recipe, &out).wait_with_output();
                panic!("it failed with {code} after {kills} kills: {output:?}, {:?}", names(&out));
            }
        }
    }
}
