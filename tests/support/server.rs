//! `ace serve` on this machine, and a client of it.

use super::{TestDir, ace};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};
use ureq::{Agent, Body, http::Response};

/// Longest time that anything here may take before the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server of the miniature. It is killed when it is dropped.
pub struct Server {
    child: Child,
    /// `http://127.0.0.1:PORT`
    pub url: String,
    agent: Agent,
    token: Option<String>,
}

impl Server {
    /// Starts one on any free port, its queue in a folder of `dir`.
    pub fn start(dir: &TestDir, options: &[&str]) -> Self {
        Self::start_at(dir, "127.0.0.1:0", options)
    }

    /// Starts one at an address.
    pub fn start_at(dir: &TestDir, address: &str, options: &[&str]) -> Self {
        Self::of(command(dir, address, options))
    }

    /// Starts a server as its command says.
    pub fn of(mut command: Command) -> Self {
        let mut child = command.spawn().expect("the program starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("piped");
        BufReader::new(stdout).read_line(&mut line).expect("readable");
        let url = line.split(" at ").nth(1).and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        let Some(url) = url else {
            let mut said = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut said);
            panic!("no server: {line}{said}");
        };
        // Nobody reads the log; a full pipe would stop the server.
        let mut stderr = child.stderr.take().expect("piped");
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
        let config = Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build();
        Self { child, url, agent: config.into(), token: None }
    }

    /// The same server asked with a token, or with a key that tells a client from others.
    pub fn with_token(mut self, token: &str) -> Self {
        self.token = Some(token.to_owned());
        self
    }

    /// Another token from now on.
    pub fn set_token(&mut self, token: Option<&str>) {
        self.token = token.map(str::to_owned);
    }

    /// `127.0.0.1:PORT`
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// Asks for something.
    pub fn get(&self, path: &str) -> Answer {
        self.get_with(path, &[])
    }

    /// Asks for something with more headers.
    pub fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        let mut request = self.agent.get(format!("{}{path}", self.url));
        for (name, value) in self.headers(headers) {
            request = request.header(name, value);
        }
        Answer::of(request.call().expect("an answer"))
    }

    /// Wants something no more.
    pub fn delete(&self, path: &str) -> Answer {
        let mut request = self.agent.delete(format!("{}{path}", self.url));
        for (name, value) in self.headers(&[]) {
            request = request.header(name, value);
        }
        Answer::of(request.call().expect("an answer"))
    }

    /// Sends JSON.
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.post_with(path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    /// Sends bytes with headers.
    pub fn post_with(&self, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut request = self.agent.post(format!("{}{path}", self.url));
        for (name, value) in self.headers(headers) {
            request = request.header(name, value);
        }
        Answer::of(request.send(body).expect("an answer"))
    }

    /// Sends a form: texts, and files as name, file name and bytes.
    pub fn form(&self, path: &str, texts: &[(&str, &str)], files: &[(&str, &[u8])]) -> Answer {
        const BOUNDARY: &str = "a-boundary-that-is-in-no-picture";
        let mut body = Vec::new();
        for (name, text) in texts {
            body.extend(
                format!("--{BOUNDARY}\r\ncontent-disposition: form-data; name=\"{name}\"\r\n\r\n{text}\r\n").bytes(),
            );
        }
        for (name, bytes) in files {
            let head = format!("content-disposition: form-data; name=\"{name}\"; filename=\"f\"");
            body.extend(format!("--{BOUNDARY}\r\n{head}\r\n\r\n").bytes());
            body.extend(*bytes);
            body.extend(b"\r\n");
        }
        body.extend(format!("--{BOUNDARY}--\r\n").bytes());
        let kind = format!("multipart/form-data; boundary={BOUNDARY}");
        self.post_with(path, &[("content-type", &kind)], &body)
    }

    /// Asks for a job that must be accepted; its name.
    pub fn job(&self, message: &Value) -> String {
        let answer = self.post("/ace/v1/jobs", message);
        assert_eq!(answer.status, 202, "{}", answer.text());
        answer.json()["id"].as_str().expect("a name").to_owned()
    }

    /// How far a job is.
    pub fn status(&self, id: &str) -> Value {
        self.get(&format!("/ace/v1/jobs/{id}")).json()
    }

    /// What happens to a job until it is over: names and data.
    pub fn events(&self, id: &str) -> Vec<(String, Value)> {
        events(&self.get(&format!("/ace/v1/jobs/{id}/events")).text())
    }

    /// Waits until a job is over.
    pub fn wait(&self, id: &str) -> Value {
        let last = self.events(id).pop().expect("an event");
        assert!(["done", "failed", "cancelled"].contains(&last.0.as_str()), "{last:?}");
        last.1
    }

    /// Waits until something is so.
    pub fn until(&self, what: &str, is: impl Fn(&Self) -> bool) {
        let begin = Instant::now();
        while !is(self) {
            assert!(begin.elapsed() < PATIENCE, "never: {what}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends it as a power failure would.
    pub fn kill(&mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("it ends");
    }

    /// Asks it to end, as a service manager does.
    pub fn terminate(&mut self) -> ExitStatus {
        let told = Command::new("kill").arg(self.child.id().to_string()).status().expect("a shell's kill");
        assert!(told.success());
        self.child.wait().expect("it ends")
    }

    fn headers<'a>(&self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, String)> {
        let mut headers: Vec<_> = more.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        headers.extend(self.token.iter().map(|token| ("authorization", format!("Bearer {token}"))));
        headers
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `ace serve`, not started yet.
pub fn command(dir: &TestDir, address: &str, options: &[&str]) -> Command {
    let mut command = ace();
    command.args(["serve", "--listen", address, "--state"]).arg(dir.file("queue")).args(options);
    command.env_remove("ACE_TOKEN").current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// What came back.
pub struct Answer {
    /// Its code.
    pub status: u16,
    /// What stands above it.
    headers: Vec<(String, String)>,
    /// What it is.
    pub body: Vec<u8>,
}

impl Answer {
    fn of(mut response: Response<Body>) -> Self {
        let text = |value: &ureq::http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = response.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(64 << 20).read_to_vec().expect("a whole answer");
        Self { status, headers, body }
    }

    /// A header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|(known, value)| known.eq_ignore_ascii_case(name).then_some(value.as_str()))
    }

    /// As text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// As JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The picture of an answer of OpenAI's kind.
    pub fn picture(&self, nth: usize) -> Vec<u8> {
        assert_eq!(self.status, 200, "{}", self.text());
        let body = self.json();
        STANDARD.decode(body["data"][nth]["b64_json"].as_str().expect("a picture")).expect("base64")
    }
}

/// Server-sent events: names and data.
pub fn events(text: &str) -> Vec<(String, Value)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|rest| rest.trim().to_owned()))
    };
    let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
    blocks
        .map(|block| {
            let data = field(block, "data").expect("data");
            (field(block, "event").unwrap_or_default(), serde_json::from_str(&data).expect("JSON"))
        })
        .collect()
}

/// A file as a `data:` URL.
pub fn url(bytes: &[u8]) -> String {
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

/// A file of the shipped example.
pub fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/tiny/examples").join(name)
}

/// The shipped example as a message.
pub fn recolor() -> Value {
    let read = |name| std::fs::read(example(name)).expect("shipped");
    json!({
        "instruction": String::from_utf8_lossy(&read("instruction.txt")).trim(),
        "task": "recolor",
        "image": url(&read("image.png")),
        "mask": url(&read("mask.png")),
        "seed": 5,
    })
}
