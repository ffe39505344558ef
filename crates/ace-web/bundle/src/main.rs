//! Puts the folder together that a static server hosts: the painting page with the engine behind it, WebAssembly with its
//! glue, and the files of the miniature with a list of them.
//!
//! The glue between WebAssembly and JavaScript must be of the version of the `wasm-bindgen` that was compiled in; here both
//! come from one `Cargo.lock`, and nothing has to be installed.

// `cargo xtask web` runs it, and shows what it says.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};
use wasm_bindgen_cli_support::Bindgen;

/// Files that the model is opened with, in its folder.
const FILES: [&str; 10] = [
    "flux.safetensors",
    "autoencoder.safetensors",
    "t5.safetensors",
    "clip.safetensors",
    "tokenizers/t5/tokenizer.json",
    "tokenizers/clip/vocab.json",
    "tokenizers/clip/merges.txt",
    "examples/image.png",
    "examples/mask.png",
    "examples/instruction.txt",
];
/// The folder of the model, and that of its adapters in it.
const MODEL: &str = "models/tiny";
const ADAPTERS: &str = "lora";
/// Where the page is, and what of it goes out as it is.
const PAGE: &str = "crates/ace-serve/page";
const ENGINE: &str = "crates/ace-web/page";
/// Tells the page what computes behind it.
const TAG: &str = r#"<meta name="ace-engine" content="./engine.js">"#;

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let words: Vec<PathBuf> = env::args_os().skip(1).map(PathBuf::from).collect();
    let [root, wasm, out] = &words[..] else {
        eprintln!("usage: ace-web-bundle ROOT WASM OUT");
        return ExitCode::from(2);
    };
    match bundle(root, wasm, out) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::FAILURE
        }
    }
}

fn bundle(root: &Path, wasm: &Path, out: &Path) -> Outcome<()> {
    glue(wasm, out)?;
    let wasm = out.join("ace_web_bg.wasm");
    optimize(&wasm)?;
    copy_page(root, out)?;
    let listing = copy_model(root, out)?;
    let [code, model] = [fs::metadata(&wasm).map_err(at(&wasm))?.len(), sum(&listing["files"])];
    let path = out.join("files.json");
    fs::write(&path, listing.to_string()).map_err(at(&path))?;
    println!(
        "{}: code {} kB, model {} kB; any static server can host it, such as",
        out.display(),
        code / 1000,
        model / 1000
    );
    println!("  python3 -m http.server --bind 127.0.0.1 --directory {}", out.display());
    Ok(())
}

/// Writes the WebAssembly, and the JavaScript that calls it.
fn glue(wasm: &Path, out: &Path) -> Outcome<()> {
    let mut bindgen = Bindgen::new();
    let ready = bindgen.input_path(wasm).out_name("ace_web").typescript(false).remove_name_section(true);
    let ready = ready.remove_producers_section(true).web(true).map_err(|problem| problem.to_string())?;
    ready.generate(out).map_err(|problem| format!("{}: {problem:#}", wasm.display()))
}

/// What the code uses: vectors, and what Rust compiles to unless told otherwise.
const ENABLED: [&str; 7] = [
    "--enable-simd",
    "--enable-bulk-memory",
    "--enable-multivalue",
    "--enable-mutable-globals",
    "--enable-nontrapping-float-to-int",
    "--enable-reference-types",
    "--enable-sign-ext",
];

/// Runs binaryen's `wasm-opt` over it, if there is one; an old one may not know it all.
fn optimize(wasm: &Path) -> Outcome<()> {
    let smaller = wasm.with_extension("opt");
    let run = Command::new("wasm-opt").arg("-O3").args(ENABLED).arg("-o").arg(&smaller).arg(wasm).output();
    match run {
        Ok(run) if run.status.success() => fs::rename(&smaller, wasm).map_err(at(wasm)),
        Ok(run) => {
            let said = String::from_utf8_lossy(&run.stderr);
            eprintln!("note: wasm-opt was of no use: {}", said.lines().next().unwrap_or("it failed"));
            Ok(())
        }
        Err(_) => Ok(()),
    }
}

/// The page that the server has, with a tag that names the engine, and the engine.
fn copy_page(root: &Path, out: &Path) -> Outcome<()> {
    for folder in [PAGE, ENGINE] {
        let folder = root.join(folder);
        for entry in fs::read_dir(&folder).map_err(at(&folder))? {
            let from = entry.map_err(at(&folder))?.path();
            let name = from.file_name().unwrap_or_default();
            if from.is_file() {
                fs::copy(&from, out.join(name)).map_err(at(&from))?;
            }
        }
    }
    let index = out.join("index.html");
    let html = fs::read_to_string(&index).map_err(at(&index))?;
    let Some((before, after)) = html.split_once("<head>") else {
        return Err(format!("{}: there is no <head>", index.display()));
    };
    fs::write(&index, format!("{before}<head>\n{TAG}{after}")).map_err(at(&index))
}

/// Copies the model, and gives the list of what the engine fetches.
fn copy_model(root: &Path, out: &Path) -> Outcome<Value> {
    let from = root.join(MODEL);
    let copied = |name: &str, path: &str| -> Outcome<Value> {
        let (source, place) = (from.join(path), format!("{MODEL}/{path}"));
        let target = out.join(&place);
        let folder = target.parent().unwrap_or(out);
        fs::create_dir_all(folder).map_err(at(folder))?;
        fs::copy(&source, &target).map_err(at(&source))?;
        described(name, &place, &target)
    };
    let files = FILES.iter().map(|path| copied(path, path)).collect::<Outcome<Vec<_>>>()?;
    let folder = from.join(ADAPTERS);
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).map_err(at(&folder))? {
        let path = entry.map_err(at(&folder))?.path();
        names.extend(path.file_stem().and_then(|name| name.to_str()).map(str::to_owned));
    }
    names.sort();
    let adapters = names.iter().map(|name| copied(name, &format!("{ADAPTERS}/{name}.safetensors")));
    let wasm = described("ace_web_bg.wasm", "ace_web_bg.wasm", &out.join("ace_web_bg.wasm"))?;
    Ok(json!({ "wasm": wasm, "files": files, "adapters": adapters.collect::<Outcome<Vec<_>>>()? }))
}

/// What the engine knows of a file before it fetches it.
fn described(name: &str, path: &str, file: &Path) -> Outcome<Value> {
    let bytes = fs::read(file).map_err(at(file))?;
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({ "name": name, "path": path, "bytes": bytes.len(), "sha256": sha256 }))
}

fn sum(files: &Value) -> u64 {
    files.as_array().into_iter().flatten().filter_map(|file| file["bytes"].as_u64()).sum()
}

/// Names the file that something was wrong with.
fn at(path: &Path) -> impl FnOnce(std::io::Error) -> String + use<> {
    let path = path.display().to_string();
    move |problem| format!("{path}: {problem}")
}
