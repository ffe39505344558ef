//! Launches `ace` with the right cargo flags, and runs every check: `cargo xtask sample`, `cargo xtask check`.

// Nobody else could tell the user how the launcher itself is used.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    env,
    ffi::OsString,
    path::PathBuf,
    process::{Command, ExitCode},
};

const USAGE: &str = "\
Usage: cargo xtask <verb> [--backend NAME] [options of the verb]

  sample | serve | session | train | eval | verify | bench | calibrate | worker | mask
                                   builds `ace` for one backend and runs it; --help after the verb lists its options
  fetch | doctor                   get a model from the Hugging Face Hub, and see whether it is whole
  inspect | convert                weight files; nothing is computed
  data | plan | report             examples before a training, what it will take, a page on it
  web [--out DIR] [--check]        an edit inside a browser: builds a folder for any static server (out/web unless said),
                                   and with --check runs its tests in Chromium
  check                            fmt, clippy, test and doc, cheapest first

Backends: flex (default: pure Rust on the CPU), wgpu, vulkan, metal, cuda, rocm, and wgpu-software, which is wgpu for a
software Vulkan device. Each but flex has a target folder of its own, because a build of one takes long.";

const VERBS: [&str; 11] =
    ["sample", "annotate", "mask", "serve", "session", "train", "eval", "verify", "bench", "calibrate", "worker"];
/// Verbs that compute nothing and know no backend.
const FILE_VERBS: [&str; 7] = ["fetch", "doctor", "inspect", "convert", "data", "plan", "report"];
const CPU: &str = "flex";
const SOFTWARE: &str = "wgpu-software";
/// What browsers run.
const WASM: &str = "wasm32-unknown-unknown";
/// Exit code for words that are not understood.
const MISUSED: u8 = 2;

fn main() -> ExitCode {
    let mut words = env::args_os().skip(1);
    let verb = words.next().unwrap_or_default();
    match verb.to_str() {
        Some(verb) if VERBS.contains(&verb) || FILE_VERBS.contains(&verb) => launch(verb, words.collect()),
        Some("web") => web(words),
        Some("check") => check(),
        Some("" | "help" | "-h" | "--help") => {
            println!("{USAGE}");
            ExitCode::SUCCESS
        }
        _ => misused(&format!("there is no verb {verb:?}")),
    }
}

/// Runs `ace <verb>`, built for the backend that the words name.
fn launch(verb: &str, words: Vec<OsString>) -> ExitCode {
    let Some((features, words)) = take_backend(words) else { return misused("--backend needs a name") };
    let mut cargo = cargo("run");
    cargo.args(["--package", "ace-cli"]);
    if features != CPU {
        // The default features are those of the tests: nothing is compiled twice.
        cargo.args(["--no-default-features", "--features"]).arg(format!("{features},hub"));
    }
    if features != CPU {
        cargo.arg("--target-dir").arg(root().join("target").join(&features));
    }
    let backend = if features == SOFTWARE { "wgpu" } else { &features };
    // Before the words of the verb: what follows a `--` among them would be no option any more.
    cargo.args(["--", verb]);
    if VERBS.contains(&verb) {
        cargo.args(["--backend", backend]);
    }
    cargo.args(words);
    finish(&mut cargo)
}

/// Takes `--backend NAME` or `--backend=NAME` out of the words; everything else is the verb's own.
fn take_backend(words: Vec<OsString>) -> Option<(String, Vec<OsString>)> {
    let (mut backend, mut rest) = (CPU.to_owned(), Vec::new());
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        match word.to_str() {
            Some("--backend") => backend = words.next()?.into_string().ok()?,
            Some(word) if word.starts_with("--backend=") => backend = word["--backend=".len()..].to_owned(),
            _ => rest.push(word),
        }
    }
    Some((backend, rest))
}

/// Builds the folder that edits inside a browser, and tests it if that is asked for.
fn web(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let (mut out, mut checks) = (root().join("out").join("web"), false);
    while let Some(word) = words.next() {
        match (word.to_str(), words.by_ref()) {
            (Some("--check"), _) => checks = true,
            (Some("--out"), rest) => match rest.next() {
                Some(folder) => out = folder.into(),
                None => return misused("--out needs a folder"),
            },
            _ => return misused(&format!("web does not know {word:?}")),
        }
    }
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let mut code = cargo("build");
    code.args(["--package", "ace-web", "--lib", "--target", WASM, "--profile", "wasm", "--target-dir"]).arg(&target);
    // They would replace those of `.cargo/config.toml`, and with them the vectors.
    code.env_remove("RUSTFLAGS");
    let mut bundle = cargo("run");
    bundle.args(["--package", "ace-web-bundle", "--target-dir"]).arg(&target).arg("--").arg(root());
    bundle.arg(target.join(WASM).join("wasm").join("ace_web.wasm")).arg(&out);
    let mut test = cargo("test");
    test.args(["--test", "tests", "--target-dir"]).arg(&target).args(["--", "web::"]).env("ACE_WEB", &out);
    let steps = [Some(code), Some(bundle), checks.then_some(test)];
    let codes = steps.into_iter().flatten().map(|mut step| finish(&mut step));
    codes.into_iter().find(|code| *code != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
}

/// Every check, cheapest first; the first that fails ends it.
fn check() -> ExitCode {
    // What browsers run is built for them alone: `cargo xtask web`.
    let checks: [&[&str]; 5] = [
        &["fmt", "--all", "--check"],
        &["clippy", "--all-targets", "--", "-D", "warnings"],
        &["clippy", "--package", "xtask", "--", "-D", "warnings"],
        &["test"],
        &["doc", "--no-deps"],
    ];
    for words in checks {
        eprintln!("cargo {}", words.join(" "));
        let mut cargo = cargo(words[0]);
        cargo.args(&words[1..]).env("RUSTDOCFLAGS", "-D warnings");
        let code = finish(&mut cargo);
        if code != ExitCode::SUCCESS {
            return code;
        }
    }
    ExitCode::SUCCESS
}

/// The cargo that runs us, on this workspace, whatever the current folder is.
fn cargo(command: &str) -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.arg(command).arg("--manifest-path").arg(root().join("Cargo.toml"));
    cargo
}

fn root() -> PathBuf {
    // Cargo says where it runs from; the path at compile time may be another clone's that shares the target folder.
    let here = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    here.parent().unwrap_or(&here).to_owned()
}

/// Runs a command to its end and passes its exit code on.
fn finish(command: &mut Command) -> ExitCode {
    match command.status() {
        Ok(status) => match status.code() {
            Some(code) => ExitCode::from(u8::try_from(code).unwrap_or(1)),
            None => ExitCode::FAILURE, // ended by a signal
        },
        Err(error) => {
            eprintln!("error: cargo cannot be started: {error}");
            ExitCode::FAILURE
        }
    }
}

fn misused(problem: &str) -> ExitCode {
    eprintln!("error: {problem}\n\n{USAGE}");
    ExitCode::from(MISUSED)
}
