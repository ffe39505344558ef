//! Several servers and workers on one queue, with a real NATS server: what any of them does is seen by all, and what any of
//! them survives, or does not, loses no job and makes none twice.
//!
//! The server is found by `NATS_SERVER`, or as `nats-server` on the PATH; without one the tests say so and pass.

// What cannot be read, or is not there, has failed the test; a test that is skipped says so.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use crate::support::{
    TestDir, ace,
    server::{Server, events, recolor},
};
use ace_plus::image;
use serde_json::Value;
use std::{
    collections::BTreeMap,
    env,
    io::{BufRead, BufReader},
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use ureq::Agent;

/// Longest time that anything here may take before the test fails instead of hanging.
const PATIENCE: Duration = Duration::from_secs(240);
/// Jobs of the long test.
const JOBS: usize = 100;

/// A NATS server with its files in a folder. It is killed when it is dropped.
struct Nats {
    program: PathBuf,
    dir: TestDir,
    port: u16,
    child: Child,
}

impl Nats {
    /// Starts one, where there is one.
    fn start(name: &str) -> Option<Self> {
        let on_path = || {
            let path = env::var_os("PATH")?;
            env::split_paths(&path).map(|folder| folder.join("nats-server")).find(|file| file.is_file())
        };
        let Some(program) = env::var_os("NATS_SERVER").map(PathBuf::from).or_else(on_path) else {
            eprintln!("skipped: there is no nats-server on the PATH, and NATS_SERVER names none");
            return None;
        };
        let dir = TestDir::new(name);
        // Free now; nobody else is likely to take it within a second.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = spawn(&program, &dir, port);
        Some(Self { program, dir, port, child })
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// As a power failure does, and as the system then starts it again.
    fn kill_and_start(&mut self, after: Duration) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        thread::sleep(after);
        self.child = spawn(&self.program, &self.dir, self.port);
    }

    /// A server that speaks HTTP.
    fn front(&self, options: &[&str]) -> Server {
        let mut command = ace();
        command.args(["serve", "--listen", "127.0.0.1:0", "--queue", &self.url()]).args(options);
        command.env_remove("ACE_TOKEN").current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Server::of(command)
    }

    fn worker(&self) -> Worker {
        let mut command = ace();
        command.args(["worker", "--queue", &self.url()]).current_dir(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (lines, stderr) = (Arc::clone(&log), child.stderr.take().unwrap());
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| lines.lock().unwrap().push(line));
        });
        assert!(line.starts_with("making tiny"), "{line}{:?}", log.lock().unwrap());
        Worker { child, log }
    }
}

fn spawn(program: &PathBuf, dir: &TestDir, port: u16) -> Child {
    let mut command = Command::new(program);
    command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(dir.file("store"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("the NATS server starts")
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A worker. It is killed when it is dropped.
struct Worker {
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    /// How often it says that it has ended each job.
    fn ended(&self) -> Vec<String> {
        let log = self.log.lock().unwrap();
        let ends = log.iter().filter(|line| line.contains("job is over") && line.contains("done"));
        ends.filter_map(|line| plain(line).split("job=").nth(1).map(|rest| rest[..32].to_owned())).collect()
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A line of the log without quotes.
fn plain(line: &str) -> String {
    line.replace('"', "")
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Asks, and takes no answer for one.
fn ask(agent: &Agent, url: &str, body: Option<(&Value, &str)>) -> Option<(u16, Vec<u8>)> {
    let answer = match body {
        Some((body, key)) => {
            let request = agent.post(url).header("content-type", "application/json").header("idempotency-key", key);
            request.send(body.to_string().as_bytes())
        }
        None => agent.get(url).call(),
    };
    let mut answer = answer.ok()?;
    let status = answer.status().as_u16();
    Some((status, answer.body_mut().with_config().limit(64 << 20).read_to_vec().ok()?))
}

fn agent() -> Agent {
    Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into()
}

fn pixels(bytes: &[u8]) -> image::RgbImage {
    image::load_from_memory(bytes).unwrap().into_rgb8()
}

fn message(seed: usize) -> Value {
    let mut message = recolor();
    message["seed"] = seed.into();
    message
}

/// One client: it asks for its job until it is accepted, and follows it until it is over, on whichever server is there.
/// What it saw: the job, how often it was told that it is done, and the picture.
fn client(urls: &[String], seed: usize, done: &AtomicUsize) -> (String, usize, Vec<u8>) {
    let (agent, begin) = (agent(), Instant::now());
    let mut servers = urls.iter().cycle().skip(seed);
    let mut server = || {
        assert!(begin.elapsed() < PATIENCE, "the job of seed {seed} is not done");
        servers.next().unwrap()
    };
    let id = loop {
        let url = format!("{}/ace/v1/jobs", server());
        match ask(&agent, &url, Some((&message(seed), &format!("key {seed}")))) {
            Some((202, body)) => {
                let job: Value = serde_json::from_slice(&body).unwrap();
                break job["id"].as_str().unwrap().to_owned();
            }
            Some((429 | 503, _)) | None => thread::sleep(Duration::from_millis(200)),
            Some((status, body)) => panic!("{status}: {}", String::from_utf8_lossy(&body)),
        }
    };
    let count = loop {
        let told = ask(&agent, &format!("{}/ace/v1/jobs/{id}/events", server()), None);
        let told =
            told.filter(|(status, _)| *status == 200).map(|(_, body)| String::from_utf8_lossy(&body).into_owned());
        let names: Vec<String> = told.iter().flat_map(|text| events(text)).map(|(name, _)| name).collect();
        assert!(!names.iter().any(|name| name == "failed" || name == "cancelled"), "{names:?}");
        match names.iter().filter(|name| *name == "done").count() {
            0 => thread::sleep(Duration::from_millis(200)),
            count => break count,
        }
    };
    let picture = loop {
        match ask(&agent, &format!("{}/ace/v1/jobs/{id}/pictures/0", server()), None) {
            Some((200, picture)) => break picture,
            _ => thread::sleep(Duration::from_millis(200)),
        }
    };
    done.fetch_add(1, Ordering::AcqRel);
    (id, count, picture)
}

#[test]
fn nothing_is_lost_and_nothing_is_made_twice_whoever_is_killed() {
    let Some(mut nats) = Nats::start("nats-kill") else { return };
    let mut fronts: Vec<Server> = (0..2).map(|_| nats.front(&["--max-queue", "200"])).collect();
    let mut workers: Vec<Worker> = (0..3).map(|_| nats.worker()).collect();
    let urls: Vec<String> = fronts.iter().map(|front| front.url.clone()).collect();
    let (urls, done) = (Arc::new(urls), Arc::new(AtomicUsize::new(0)));
    let next = Arc::new(AtomicUsize::new(0));
    let clients: Vec<_> = (0..20)
        .map(|_| {
            let (urls, done, next) = (Arc::clone(&urls), Arc::clone(&done), Arc::clone(&next));
            thread::spawn(move || {
                let seeds =
                    std::iter::from_fn(|| Some(next.fetch_add(1, Ordering::AcqRel)).filter(|seed| *seed < JOBS));
                seeds.map(|seed| (seed, client(&urls, seed, &done))).collect::<Vec<_>>()
            })
        })
        .collect();
    let begin = Instant::now();
    let reach = |many: usize| {
        while done.load(Ordering::Acquire) < many && !clients.iter().all(thread::JoinHandle::is_finished) {
            assert!(begin.elapsed() < PATIENCE, "only {} jobs are done", done.load(Ordering::Acquire));
            thread::sleep(Duration::from_millis(20));
        }
    };
    reach(15);
    // A worker, in the middle of something: all three are at work while so many wait.
    workers[0].kill();
    reach(35);
    fronts[0].kill();
    reach(60);
    nats.kill_and_start(Duration::from_secs(2));
    reach(JOBS);
    let seen: BTreeMap<usize, (String, usize, Vec<u8>)> =
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect();

    assert_eq!(seen.len(), JOBS);
    assert!(seen.values().all(|(_, count, _)| *count == 1), "a client was told twice");
    let listed = fronts[1].get("/ace/v1/jobs").json();
    let listed = listed["jobs"].as_array().unwrap();
    assert_eq!(listed.len(), JOBS, "as many jobs as were asked for, and no others");
    for job in listed {
        let (id, _, picture) = &seen[&usize::try_from(job["seed"].as_u64().unwrap()).unwrap()];
        assert_eq!((&job["id"], &job["state"]), (&id.as_str().into(), &"done".into()));
        // Another front shows the same picture, which is of that seed.
        let again = fronts[1].get(job["pictures"][0].as_str().unwrap());
        assert_eq!(&again.body, picture);
        let said = fronts[1].post_with("/ace/v1/provenance", &[], picture).json();
        assert_eq!(said["request"]["seed"], job["seed"]);
    }
    // What the workers say: none ended a job that another had ended. One that was killed may have kept its last word.
    let mut ended: Vec<String> = workers.iter().flat_map(Worker::ended).collect();
    let words = ended.len();
    ended.sort();
    ended.dedup();
    assert_eq!(ended.len(), words, "a job was ended twice");
    assert!((JOBS - 1..=JOBS).contains(&words), "{words} jobs were ended");
    eprintln!("{JOBS} jobs, {words} ended by workers, {:.1} s", begin.elapsed().as_secs_f64());
}

#[test]
fn a_job_belongs_to_all_servers_and_waits_for_a_worker() {
    let Some(nats) = Nats::start("nats-wait") else { return };
    let (first, second) = (nats.front(&[]), nats.front(&[]));
    let ready = first.get("/readyz");
    assert_eq!(
        (ready.status, ready.text().as_str()),
        (200, "ready, but no worker takes jobs of tiny now: they wait\n")
    );
    let key = [("content-type", "application/json"), ("idempotency-key", "mine")];
    let body = message(7).to_string();
    let asked = |server: &Server| server.post_with("/ace/v1/jobs", &key, body.as_bytes()).json();
    let id = asked(&first)["id"].as_str().unwrap().to_owned();
    assert_eq!(asked(&second)["id"], id.as_str(), "the key means the same everywhere");
    let unwanted = second.job(&message(8));
    first.until("both are known", |server| server.status(&unwanted)["position"] == 1);
    assert_eq!(first.status(&id)["waits_for"], "no worker takes jobs of tiny now");
    // One that waits is over at once, whoever accepted it.
    assert_eq!(first.delete(&format!("/ace/v1/jobs/{unwanted}")).json()["state"], "cancelled");
    second.until("the other knows it", |server| server.status(&unwanted)["state"] == "cancelled");
    assert_eq!(second.delete(&format!("/ace/v1/jobs/{unwanted}")).status, 409);

    let _worker = nats.worker();
    let (here, there) = (first.wait(&id), second.wait(&id));
    assert_eq!((&here["state"], &here), (&"done".into(), &there));
    let picture = |server: &Server| server.get(&format!("/ace/v1/jobs/{id}/pictures/0")).body;
    assert_eq!(picture(&first), picture(&second));
    first.until("it is heard of", |server| server.get("/readyz").text() == "ready\n");
}

#[test]
fn an_answer_may_come_from_another_machine_and_so_may_a_cancellation() {
    let Some(nats) = Nats::start("nats-two") else { return };
    let (first, second, mut worker) = (nats.front(&[]), nats.front(&[]), nats.worker());
    // OpenAI's API on one server; the same words as a job on the other.
    let mut body = message(3);
    let asked = body.as_object_mut().unwrap();
    let (words, image) = (asked.remove("instruction").unwrap(), asked.remove("image").unwrap());
    let mask = asked.remove("mask").unwrap();
    (body["prompt"], body["image"], body["mask"]) = (words, image, mask);
    body["mask_convention"] = "white".into();
    let made = first.post("/v1/images/edits", &body).picture(0);
    let mut job = message(3);
    job["previews"] = true.into();
    let id = second.job(&job);
    let told = first.events(&id);
    assert_eq!(told[told.len() - 1].0, "done", "{told:?}");
    assert_eq!(pixels(&made), pixels(&second.get(&format!("/ace/v1/jobs/{id}/pictures/0")).body));

    // Stopped on the server that did not accept it, within a step.
    let mut endless = message(4);
    endless["num_steps"] = 100_000.into();
    let id = first.job(&endless);
    second.until("it runs", |server| server.status(&id)["step"]["done"].as_u64().is_some_and(|done| done > 2));
    assert_eq!(second.delete(&format!("/ace/v1/jobs/{id}")).json()["state"], "cancelled");
    assert_eq!(first.wait(&id)["state"], "cancelled");

    // A worker is killed in the middle of a job. Another makes it, and the client that was following hears of one end.
    endless["num_steps"] = 400.into();
    let id = first.job(&endless);
    second.until("it runs", |server| server.status(&id)["step"]["done"].as_u64().is_some_and(|done| done > 2));
    let following = {
        let (agent, url) = (agent(), format!("{}/ace/v1/jobs/{id}/events", second.url));
        thread::spawn(move || ask(&agent, &url, None))
    };
    let _other = nats.worker();
    worker.kill();
    let told = following.join().unwrap().map(|(_, body)| String::from_utf8_lossy(&body).into_owned()).unwrap();
    let ends = events(&told).into_iter().filter(|(name, _)| name == "done").count();
    assert_eq!((ends, &second.status(&id)["state"]), (1, &"done".into()));
}
