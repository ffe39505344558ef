//! A Hub on this machine, for tests of fetching; `ace-plus` has it in its own tests too.

// Neither of the two uses all of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::{
    io::{BufRead, BufReader, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// The commit that every file is of.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// What git would call the file: too short for a SHA-256.
pub const GIT: &str = "00112233445566778899aabbccddeeff00112233";

/// What was asked.
#[derive(Clone)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub start: Option<usize>,
    pub authorization: Option<String>,
}

/// What is answered.
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    /// The connection is closed after so many bytes of the body.
    pub cut: usize,
}

impl Answer {
    pub fn new(status: u16, headers: &[(&'static str, &str)], body: &[u8]) -> Self {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self { status, headers, body: body.to_vec(), cut: usize::MAX }
    }

    /// `bytes`, or the range of them that was asked for, as the Hub does.
    pub fn file(request: &Request, bytes: &[u8], etag: &str) -> Self {
        let etag = format!("\"{etag}\"");
        let start = request.start.unwrap_or(0);
        let mut answer = Self::new(200, &[("etag", &etag), ("x-repo-commit", COMMIT)], &bytes[start..]);
        if request.start.is_some() {
            answer.status = 206;
            answer.headers.push(("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())));
        }
        answer
    }

    pub fn cut(mut self, cut: usize) -> Self {
        self.cut = cut;
        self
    }
}

/// A server of one test.
pub struct Server {
    pub address: String,
    pub log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that went away is its own business.
                let _ = Self::talk(stream.unwrap(), &answer, &kept);
            }
        });
        Self { address, log }
    }

    fn talk(
        mut stream: TcpStream,
        answer: &impl Fn(&Request) -> Answer,
        log: &Mutex<Vec<Request>>,
    ) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let mut words = first.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut request = Request { method, path, start: None, authorization: None };
        for line in lines {
            let line = line?;
            let Some((name, value)) = line.split_once(": ") else { break };
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    request.start =
                        value.strip_prefix("bytes=").map(|range| range.trim_end_matches('-').parse().unwrap());
                }
                "authorization" => request.authorization = Some(value.to_owned()),
                _ => {}
            }
        }
        log.lock().unwrap().push(request.clone());
        let Answer { status, headers, body, cut } = answer(&request);
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        write!(stream, "HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n")?;
        if request.method != "HEAD" {
            stream.write_all(&body[..cut.min(length)])?;
        }
        stream.flush()
    }

    /// Always the same file.
    pub fn of(bytes: &[u8], etag: &str) -> Self {
        let (bytes, etag) = (bytes.to_vec(), etag.to_owned());
        Self::start(move |request| Answer::file(request, &bytes, &etag))
    }

    /// Always the same refusal.
    pub fn refusing(status: u16, headers: &'static [(&'static str, &str)]) -> Self {
        Self::start(move |_| Answer::new(status, headers, b"no"))
    }

    /// `HEAD`, `GET`, or `GET 7` for a range, in their order.
    pub fn asked(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let asked = |request: &Request| match request.start {
            Some(start) => format!("{} {start}", request.method),
            None => request.method.clone(),
        };
        log.iter().map(asked).collect()
    }
}
