//! A static server of a folder, as any is, that counts what it is asked for.

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread,
};

/// It runs until the test binary ends.
pub struct Server {
    address: String,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    asked: BTreeMap<String, usize>,
    /// A file whose first byte is sent wrong.
    damaged: Option<String>,
}

impl Server {
    pub fn start(folder: &Path) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let state = Arc::new(Mutex::new(State::default()));
        let (shared, folder) = (Arc::clone(&state), folder.to_owned());
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (state, folder) = (Arc::clone(&shared), folder.clone());
                // A browser that goes away in the middle is no failure.
                thread::spawn(move || answer(stream, &folder, &state).ok());
            }
        });
        Self { address, state }
    }

    pub fn address(&self) -> &str {
        &self.address
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.state.lock().expect("whole").asked.get(path).copied().unwrap_or(0)
    }

    /// From now on a file is sent with a wrong byte.
    pub fn damage(&self, path: &str) {
        self.state.lock().expect("whole").damaged = Some(path.to_owned());
    }
}

fn answer(mut stream: TcpStream, folder: &Path, state: &Mutex<State>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    for line in lines.by_ref() {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or("/").split('?').next().unwrap_or("/").to_owned();
    *state.lock().expect("whole").asked.entry(path.clone()).or_default() += 1;
    let file: PathBuf = folder.join(path.trim_start_matches('/'));
    let found = match path.as_str() {
        // An empty page, which is ready at once.
        "/" => Some(b"<!doctype html><html data-ready=\"true\"><title>empty</title></html>".to_vec()),
        _ => fs::read(&file).ok(),
    };
    let (status, mut body) = match found {
        Some(bytes) => ("200 OK", bytes),
        None => ("404 Not Found", Vec::new()),
    };
    if state.lock().expect("whole").damaged.as_ref() == Some(&path) {
        body[0] ^= 1;
    }
    let kind = match file.extension().and_then(|ending| ending.to_str()) {
        Some("html") | None => "text/html; charset=utf-8",
        Some("js") => "text/javascript",
        Some("css") => "text/css",
        Some("json") => "application/json",
        Some("wasm") => "application/wasm",
        Some("png") => "image/png",
        _ => "application/octet-stream",
    };
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\ncache-control: no-store\r\nconnection: close\r\n\r\n"
    )?;
    stream.write_all(&body)
}
