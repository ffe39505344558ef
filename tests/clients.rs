//! The server, asked through programs that others wrote: the official clients of OpenAI's API, curl, and what the documentation
//! says in each language.

// What cannot be read, or is not there, has failed the test; a test that is skipped says so.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use crate::{
    serve::{pixels, transparent_mask},
    support::{
        TestDir,
        server::{Server, events, example, recolor},
    },
};
use serde_json::Value;
use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

#[path = "../crates/ace-serve/examples/client.rs"]
mod rust_client;

/// The blocks of docs/server.md in a language, which begin with a fence of that name.
fn documented(language: &str) -> Vec<String> {
    let text = fs::read_to_string(root().join("docs/server.md")).unwrap();
    let fence = format!("```{language}\n");
    let blocks = text.split(&fence).skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

/// The repository.
fn root() -> PathBuf {
    example("image.png").ancestors().nth(4).unwrap().to_owned()
}

/// A folder in which what the documentation says can be run, and a server, which works in one of its own.
fn documentation(name: &str) -> ([TestDir; 2], Server) {
    let dir = TestDir::new(name);
    let models = dir.file("models/tiny");
    fs::create_dir_all(&models).unwrap();
    std::os::unix::fs::symlink(root().join("models/tiny/examples").canonicalize().unwrap(), models.join("examples"))
        .unwrap();
    let own = TestDir::new(&format!("{name}-server"));
    let lora = root().join("models/tiny/lora/subject.safetensors").canonicalize().unwrap();
    let server = Server::start(&own, &["--lora", &format!("subject={}", lora.display())]);
    ([dir, own], server)
}

#[cfg(unix)]
#[test]
fn what_the_documentation_says_in_a_shell_works() {
    if !Command::new("curl").arg("--version").output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: there is no curl");
        return;
    }
    let ([dir, _own], server) = documentation("serve-docs");
    for block in documented("bash") {
        let block = block.replace("http://127.0.0.1:8080", &server.url);
        let Output { status, stderr, .. } =
            Command::new("sh").args(["-ec", &block]).current_dir(dir.path()).output().unwrap();
        assert!(status.success(), "{block}{}", String::from_utf8_lossy(&stderr));
    }
    let answer: Value = serde_json::from_slice(&fs::read(dir.file("answer.json")).unwrap()).unwrap();
    assert_eq!(answer["size"], "64x64");
    assert_eq!(pixels(&fs::read(dir.file("second.png")).unwrap()).dimensions(), (64, 64));
    assert_eq!(events(&fs::read_to_string(dir.file("events.txt")).unwrap()).last().unwrap().0, "done");
}

#[cfg(unix)]
#[test]
fn what_the_documentation_says_in_python_and_javascript_works() {
    for (language, made, program, variable, has, run) in [
        ("python", "edited.png", "python3", "ACE_PYTHON", &["-c", "import openai"][..], "-c"),
        ("js", "made.png", "node", "ACE_NODE", &["-e", "require('openai')"], "-e"),
    ] {
        let Some(program) = client(program, variable, has) else { continue };
        let ([dir, _own], server) = documentation(&format!("serve-docs-{language}"));
        let block = documented(language).concat().replace("http://127.0.0.1:8080", &server.url);
        let Output { status, stderr, .. } =
            Command::new(program).args([run, &block]).current_dir(dir.path()).output().unwrap();
        assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
        assert_eq!(pixels(&fs::read(dir.file(made)).unwrap()).dimensions(), (64, 64));
    }
}

#[test]
fn the_example_of_a_client_gets_its_picture() {
    let dir = TestDir::new("serve-example");
    let server = Server::start(&dir, &[]);
    let picture = rust_client::edit(&server.url, &recolor()).unwrap();
    assert_eq!(pixels(&picture).dimensions(), (64, 64));
}

/// A program that has an official client. Where there is none, says so.
fn client(program: &str, variable: &str, has: &[&str]) -> Option<String> {
    let program = std::env::var(variable).unwrap_or_else(|_| program.to_owned());
    let there = Command::new(&program).args(has).output();
    if there.is_ok_and(|output| output.status.success()) {
        return Some(program);
    }
    eprintln!("skipped: {program} finds no package openai ({variable} names another program)");
    None
}

/// Runs a script that speaks to the server through an official client.
fn official(name: &str, program: &str, variable: &str, has: &[&str], script: &str) {
    let Some(program) = client(program, variable, has) else { return };
    let dir = TestDir::new(name);
    let server = Server::start(&dir, &["--token", "secret"]);
    fs::write(dir.file("mask.png"), transparent_mask()).unwrap();
    let script = root().join("tests/reference").join(script);
    let output = Command::new(&program)
        .arg(script)
        .arg(format!("{}/v1", server.url))
        .arg(example("image.png"))
        .arg(dir.file("mask.png"))
        .current_dir(dir.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("all is well"), "{said}");
}

#[test]
fn the_official_python_client_works_unchanged() {
    official("serve-python", "python3", "ACE_PYTHON", &["-c", "import openai"], "openai_client.py");
}

#[test]
fn the_official_node_client_works_unchanged() {
    official("serve-node", "node", "ACE_NODE", &["-e", "require('openai')"], "openai_client.cjs");
}
