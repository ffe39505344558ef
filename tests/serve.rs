//! The server, asked over HTTP: what it answers, what it refuses, and what it survives.

// What cannot be read, or is not there, has failed the test; a test that is skipped says so.
#![allow(clippy::unwrap_used, clippy::print_stderr)]

use crate::support::{
    TestDir, ace,
    server::{Answer, Server, command, events, example, recolor, url},
};
use ace_plus::image::{self, GrayImage, Luma, Rgba, RgbaImage};
use serde_json::{Value, json};
use std::{
    fs,
    io::{BufRead, BufReader, Cursor, Write},
    net::TcpStream,
    process::Output,
    thread,
    time::{Duration, Instant},
};

fn png(picture: &image::DynamicImage) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

pub fn pixels(bytes: &[u8]) -> image::RgbImage {
    image::load_from_memory(bytes).unwrap().into_rgb8()
}

/// An edit that takes longer than any test wants to wait.
fn endless() -> Value {
    let mut message = recolor();
    message["num_steps"] = 100_000.into();
    message
}

/// An edit that takes a second or so.
fn slow(seed: u64) -> Value {
    let mut message = recolor();
    (message["num_steps"], message["seed"]) = (60.into(), seed.into());
    message
}

/// The shipped mask as OpenAI wants it: transparent where it is white.
pub fn transparent_mask() -> Vec<u8> {
    let mask = image::open(example("mask.png")).unwrap().into_luma8();
    let rgba = RgbaImage::from_fn(mask.width(), mask.height(), |x, y| Rgba([0, 0, 0, 255 - mask.get_pixel(x, y).0[0]]));
    png(&rgba.into())
}

/// What is wrong, whose kind it is and which field it is.
fn refused(answer: &Answer) -> (u16, String, Option<String>) {
    let error = &answer.json()["error"];
    for key in ["message", "type", "param", "code"] {
        assert!(error.get(key).is_some(), "{key} is missing: {error}");
    }
    let text = |key: &str| error[key].as_str().map(str::to_owned);
    (answer.status, text("message").unwrap(), text("param"))
}

fn is_same_outside(made: &image::RgbImage, mask: &GrayImage) -> bool {
    let given = image::open(example("image.png")).unwrap().into_rgb8();
    let outside = mask.enumerate_pixels().filter(|(.., Luma([grey]))| *grey == 0);
    outside.clone().count() > 0 && outside.into_iter().all(|(x, y, _)| given.get_pixel(x, y) == made.get_pixel(x, y))
}

#[test]
fn a_job_is_accepted_followed_and_gives_what_ace_sample_gives() {
    let dir = TestDir::new("serve-job");
    let server = Server::start(&dir, &[]);
    let mut message = recolor();
    message["previews"] = true.into();
    let answer = server.post("/ace/v1/jobs", &message);
    assert_eq!(answer.status, 202);
    let id = answer.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("location"), Some(format!("/ace/v1/jobs/{id}").as_str()));

    let done = server.wait(&id);
    assert_eq!((&done["state"], &done["seed"]), (&"done".into(), &5.into()), "{done}");
    assert_eq!(done["request"]["num_steps"], Value::Null, "the client did not say it");
    let picture = server.get(done["pictures"][0].as_str().unwrap());
    assert_eq!(picture.header("content-type"), Some("image/png"));

    // The same words on a command line.
    let Output { status, stderr, .. } = ace()
        .args(["sample", "--task", "recolor", "--seed", "5", "--out", "out.png", "--image"])
        .arg(example("image.png"))
        .arg("--mask")
        .arg(example("mask.png"))
        .args(["-p", message["instruction"].as_str().unwrap()])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
    let sampled = fs::read(dir.file("out.png")).unwrap();
    assert_eq!(pixels(&picture.body), pixels(&sampled));

    // What made it stands in it, with every default spelled out.
    let provenance = server.post_with("/ace/v1/provenance", &[("content-type", "image/png")], &picture.body).json();
    assert_eq!((&provenance["request"]["num_steps"], &provenance["request"]["seed"]), (&12.into(), &5.into()));
    assert_eq!(provenance["request"]["model"]["name"], "tiny");
    let plain = fs::read(example("image.png")).unwrap();
    assert_eq!(server.post_with("/ace/v1/provenance", &[], &plain).status, 404);
}

#[test]
fn every_step_of_a_job_is_told_in_order() {
    let dir = TestDir::new("serve-events");
    let server = Server::start(&dir, &["--batch", "1"]);
    // One before it, so that nothing is missed while the connection opens.
    let before = server.job(&slow(1));
    let mut message = recolor();
    (message["previews"], message["n"]) = (true.into(), 2.into());
    let id = server.job(&message);
    assert_eq!(server.status(&id)["position"], 0);
    let told = server.events(&id);
    let names: Vec<&str> = told.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((names[0], names[names.len() - 1]), ("queued", "done"), "{names:?}");
    let stages: Vec<&str> = told.iter().filter_map(|(_, data)| data["stage"].as_str()).take(5).collect();
    assert_eq!(stages, ["load", "text", "encode", "denoise", "decode"]);
    let steps: Vec<u64> =
        told.iter().filter(|(name, _)| name == "step").map(|(_, data)| data["done"].as_u64().unwrap()).collect();
    assert_eq!(steps, (1..=24).collect::<Vec<u64>>());
    let preview = told.iter().find(|(name, _)| name == "preview").expect("a preview");
    assert!(preview.1["picture"].as_str().unwrap().starts_with("data:image/png;base64,"));
    let done = &told[told.len() - 1].1;
    let both: Vec<_> = (0..2).map(|nth| server.get(done["pictures"][nth].as_str().unwrap()).body).collect();
    assert_ne!(pixels(&both[0]), pixels(&both[1]), "another seed, another picture");
    assert_eq!(server.get(&format!("/ace/v1/jobs/{id}/pictures/2")).status, 404);
    assert_eq!(server.status(&before)["state"], "done");
}

#[test]
fn openai_edits_keep_what_is_opaque_in_the_mask() {
    let dir = TestDir::new("serve-openai");
    let server = Server::start(&dir, &[]);
    let given = fs::read(example("image.png")).unwrap();
    let mask = image::open(example("mask.png")).unwrap().into_luma8();
    let words = "make the circle green";
    let texts =
        [("task", "recolor"), ("n", "2"), ("seed", "5"), ("prompt", words), ("model", "tiny"), ("colour", "warm")];
    let answer = server.form("/v1/images/edits", &texts, &[("image", &given), ("mask", &transparent_mask())]);
    let pictures = [answer.picture(0), answer.picture(1)];
    for picture in &pictures {
        assert!(is_same_outside(&pixels(picture), &mask));
        assert_ne!(pixels(picture), pixels(&given));
    }
    assert_eq!((answer.header("x-ace-mask"), answer.header("x-ace-ignored")), (Some("alpha"), Some("colour")));
    assert_eq!(answer.header("x-ace-seed"), Some("5"));
    let body = answer.json();
    assert_eq!((&body["size"], &body["output_format"]), (&"64x64".into(), &"png".into()));
    assert!(body["usage"]["total_tokens"].as_u64().unwrap() > 0);

    // White where there is nothing transparent; the same edit as JSON.
    let white = json!({"prompt": words, "task": "recolor", "seed": 5, "images": [{"image_url": url(&given)}],
        "mask": url(&fs::read(example("mask.png")).unwrap())});
    let answer = server.post("/v1/images/edits", &white);
    assert_eq!(answer.header("x-ace-mask"), Some("white"));
    assert_eq!(pixels(&answer.picture(0)), pixels(&pictures[0]));

    // Another kind of file, and a picture of words.
    let jpeg =
        json!({"prompt": "a big red circle on a gray background", "size": "64x64", "seed": 1, "output_format": "jpeg"});
    let answer = server.post("/v1/images/generations", &jpeg);
    assert_eq!(answer.picture(0)[..3], [0xff, 0xd8, 0xff]);
    let models = server.get("/v1/models").json();
    assert_eq!((&models["data"][0]["id"], &models["object"]), (&"tiny".into(), &"list".into()));
    assert_eq!(server.get("/v1/models/tiny").status, 200);
}

#[test]
fn openai_streams_previews_and_then_the_picture() {
    let dir = TestDir::new("serve-stream");
    let server = Server::start(&dir, &[]);
    let body =
        json!({"prompt": "a big red circle on a gray background", "seed": 1, "stream": true, "partial_images": 3});
    let told = events(&server.post("/v1/images/generations", &body).text());
    let kinds: Vec<&str> = told.iter().map(|(_, data)| data["type"].as_str().unwrap()).collect();
    let partial = "image_generation.partial_image";
    assert_eq!(kinds, [partial, partial, partial, "image_generation.completed"]);
    let indices: Vec<_> = told[..3].iter().map(|(_, data)| data["partial_image_index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2]);
    assert!(told[3].1["usage"]["output_tokens"].as_u64().unwrap() > 0);
    let mut whole = body.clone();
    whole["stream"] = false.into();
    let answer = server.post("/v1/images/generations", &whole);
    assert_eq!(answer.json()["data"][0]["b64_json"], told[3].1["b64_json"]);
}

#[test]
fn what_cannot_be_done_is_said_in_openais_form_with_the_field() {
    let dir = TestDir::new("serve-refused");
    let server = Server::start(&dir, &["--max-pixels", "5000", "--max-body", "1"]);
    let (generate, edit) = ("/v1/images/generations", "/v1/images/edits");
    let image = url(&fs::read(example("image.png")).unwrap());
    let large = url(&png(&image::RgbImage::new(80, 80).into()));
    for (path, body, status, said, param) in [
        (generate, json!({}), 400, "the prompt is missing", Some("prompt")),
        (generate, json!({"prompt": "p", "model": "dall-e-2"}), 404, "there is no model \"dall-e-2\"", Some("model")),
        (generate, json!({"prompt": "p", "n": 11}), 400, "n is 11", Some("n")),
        (generate, json!({"prompt": "p", "size": "1024x1024"}), 400, "size has 1024×1024 pixels", Some("size")),
        (generate, json!({"prompt": "p", "loras": ["none"]}), 400, "there is no adapter \"none\"", Some("loras")),
        (generate, json!({"prompt": "p", "task": "juggle"}), 400, "juggle", None),
        (generate, json!({"prompt": "p", "num_steps": 0}), 400, "num_steps is 0", None),
        (edit, json!({"prompt": "p"}), 400, "the image is missing", Some("image")),
        (edit, json!({"prompt": "p", "images": ["http://127.0.0.1:1/a.png"]}), 400, "never fetched", Some("images")),
        (edit, json!({"prompt": "p", "images": ["data:image/png;base64,AAAA"]}), 400, "not a readable picture", None),
        (edit, json!({"prompt": "p", "images": [large]}), 400, "image has 80×80 pixels", Some("image")),
        (edit, json!({"prompt": "p", "images": [image], "task": "recolor"}), 400, "needs a mask", None),
    ] {
        let answer = server.post(path, &body);
        let (code, message, field) = refused(&answer);
        assert_eq!((code, field.as_deref()), (status, param), "{message}");
        assert!(message.contains(said), "{message}");
    }
    let mismatch = json!({"instruction": "p", "image": image, "mask": url(&png(&GrayImage::new(8, 8).into()))});
    assert!(refused(&server.post("/ace/v1/jobs", &mismatch)).1.contains("8"));
    assert_eq!(refused(&server.post_with("/ace/v1/jobs", &[], b"{")).0, 400);
    assert!(too_large(&server).starts_with("HTTP/1.1 413"));
    assert_eq!(refused(&server.get("/nowhere")).0, 404);
    assert_eq!(refused(&server.delete("/v1/models")).0, 405);
    assert_eq!(refused(&server.get("/ace/v1/jobs/..%2f..%2fetc")).0, 404);
    assert_eq!(server.get("/healthz").text(), "ok\n");
}

/// What is answered to a body that is announced with two megabytes, before it is sent.
fn too_large(server: &Server) -> String {
    let head = "POST /ace/v1/jobs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-length: 2097152\r\n\r\n";
    let mut connection = TcpStream::connect(server.address()).unwrap();
    connection.write_all(head.as_bytes()).unwrap();
    let mut line = String::new();
    BufReader::new(connection).read_line(&mut line).unwrap();
    line
}

#[test]
fn who_does_not_know_the_token_or_comes_from_elsewhere_is_refused() {
    let dir = TestDir::new("serve-token");
    let mut server = Server::start(&dir, &["--token", "one", "--token", "two"]).with_token("one");
    let id = server.job(&recolor());
    assert_eq!(server.wait(&id)["state"], "done");
    server.set_token(Some("two"));
    assert_eq!(server.status(&id)["error"]["code"], "not_found", "another's job");
    assert_eq!(server.get("/ace/v1/jobs").json()["jobs"], json!([]));
    server.set_token(Some("three"));
    assert_eq!(refused(&server.get("/v1/models")).0, 401);
    assert_eq!(server.get("/v1/models").json()["error"]["code"], "invalid_api_key");
    server.set_token(None);
    assert_eq!(server.get("/metrics").status, 401);
    assert_eq!(server.get("/").status, 200);
    let foreign = server.get_with("/ace/v1/models", &[("origin", "http://evil.example")]);
    assert_eq!(foreign.json()["error"]["code"], "foreign_origin");
    drop(server);

    let server = Server::start(&dir, &[]);
    let renamed = server.get_with("/ace/v1/models", &[("host", "evil.example")]);
    assert_eq!((renamed.status, &renamed.json()["error"]["code"]), (403, &"unknown_host".into()));

    for (options, said) in [(&["--token", " "][..], "the token is empty"), (&[], "there is no token")] {
        let Output { status, stderr, .. } =
            command(&TestDir::new("serve-open"), "0.0.0.0:0", options).output().unwrap();
        assert_eq!(status.code(), Some(2));
        assert!(String::from_utf8_lossy(&stderr).contains(said));
    }
    let Output { status, stderr, .. } = command(&dir, "127.0.0.1:0", &[]).output().unwrap();
    assert_eq!(status.code(), Some(2));
    assert!(String::from_utf8_lossy(&stderr).contains("another server works there"));
}

#[test]
fn the_page_asks_nobody_else_and_begins_with_the_example() {
    let dir = TestDir::new("serve-page");
    let server = Server::start(&dir, &[]);
    let page = server.get("/");
    assert!(page.header("content-security-policy").unwrap().starts_with("default-src 'self'"));
    for file in ["/page.js", "/page.css"] {
        let answer = server.get(file);
        assert_eq!(answer.status, 200);
        assert!(
            !answer.text().contains("http://") || answer.text().contains("www.w3.org"),
            "{file} names another place"
        );
    }
    let example = server.get("/ace/v1/example").json();
    let made = server.wait(&server.job(&example));
    assert_eq!(made["state"], "done", "{made}");
    let models = server.get("/ace/v1/models").json();
    assert_eq!(models["models"][0]["id"], "tiny");
    let loras = models["models"][0]["loras"].as_array().unwrap();
    assert!(loras.iter().any(|lora| lora["name"] == "subject"), "{loras:?}");
}

#[test]
fn an_adapter_is_asked_for_by_name_and_changes_the_picture() {
    let dir = TestDir::new("serve-lora");
    let lora = example("image.png").ancestors().nth(2).unwrap().join("lora/subject.safetensors");
    let server = Server::start(&dir, &["--lora", &format!("item={}:0.5", lora.display()), "--keep-models", "1"]);
    let mut made = Vec::new();
    for loras in [json!([]), json!([{"name": "item"}]), json!([{"name": "item", "weight": 1.0}]), json!([])] {
        let mut message = recolor();
        message["loras"] = loras;
        let done = server.wait(&server.job(&message));
        assert_eq!(done["state"], "done", "{done}");
        made.push(pixels(&server.get(done["pictures"][0].as_str().unwrap()).body));
    }
    assert_ne!(made[0], made[1]);
    assert_ne!(made[1], made[2]);
    assert_eq!(made[0], made[3], "the base is what it was");
}

#[test]
fn a_job_is_cancelled_while_it_waits_and_while_it_is_made() {
    let dir = TestDir::new("serve-cancel");
    let server = Server::start(&dir, &[]);
    let (running, waiting) = (server.job(&endless()), server.job(&recolor()));
    server.until("a first step", |server| server.status(&running)["step"]["done"].as_u64().is_some());
    let job = |id: &str| format!("/ace/v1/jobs/{id}");
    assert_eq!(server.delete(&job(&waiting)).json()["state"], "cancelled");
    assert_eq!(server.delete(&job(&running)).json()["state"], "cancelled");
    assert_eq!(refused(&server.delete(&job(&running))).0, 409);
    assert_eq!(server.wait(&server.job(&recolor()))["state"], "done");
    let metrics = server.get("/metrics").text();
    assert!(metrics.contains("ace_jobs_total{state=\"cancelled\"} 1"), "{metrics}");
    assert!(metrics.contains("ace_jobs_waiting 0"), "{metrics}");
}

#[test]
fn jobs_of_one_shape_are_made_together_and_each_can_be_cancelled() {
    let dir = TestDir::new("serve-batch");
    let server = Server::start(&dir, &["--batch", "3"]);
    let blocker = server.job(&endless());
    server.until("it runs", |server| server.status(&blocker)["state"] == "running");
    // All but one wait behind it, of one shape.
    let ids: Vec<String> = (0..3).map(|seed| server.job(&slow(seed))).collect();
    let mut endless = [endless(), endless()].map(|message| server.job(&message)).to_vec();
    server.delete(&format!("/ace/v1/jobs/{blocker}"));
    let made: Vec<_> = ids.iter().map(|id| server.wait(id)).collect();
    assert!(made.iter().all(|job| job["state"] == "done" && job["step"]["done"] == 60), "{made:?}");
    let ends: Vec<_> = made.iter().map(|job| job["seconds"].clone()).collect();
    assert!(ends.iter().all(|end| *end == ends[0]), "together they take the same time: {ends:?}");
    let pictures: Vec<_> =
        ids.iter().map(|id| pixels(&server.get(&format!("/ace/v1/jobs/{id}/pictures/0")).body)).collect();

    // Two that would go on for ever: one is cancelled, then the other.
    server.until("both run", |server| endless.iter().all(|id| server.status(id)["state"] == "running"));
    let last = endless.pop().unwrap();
    assert_eq!(server.delete(&format!("/ace/v1/jobs/{last}")).json()["state"], "cancelled");
    assert_eq!(server.status(&endless[0])["state"], "running");
    assert_eq!(server.delete(&format!("/ace/v1/jobs/{}", endless[0])).json()["state"], "cancelled");
    drop(server);

    let server = Server::start(&TestDir::new("serve-alone"), &["--batch", "1"]);
    for (seed, together) in (0..).zip(&pictures) {
        let done = server.wait(&server.job(&slow(seed)));
        let alone = pixels(&server.get(done["pictures"][0].as_str().unwrap()).body);
        let most = alone.iter().zip(together.iter()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(1), "seed {seed}: {most:?}");
    }
}

#[test]
fn a_client_that_goes_away_takes_its_job_with_it() {
    let dir = TestDir::new("serve-gone");
    let server = Server::start(&dir, &[]);
    let body = json!({"prompt": "a red circle", "num_steps": 100_000}).to_string();
    let head = format!(
        "POST /v1/images/generations HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut connection = TcpStream::connect(server.address()).unwrap();
    connection.write_all((head + &body).as_bytes()).unwrap();
    let state = |server: &Server| server.get("/ace/v1/jobs").json()["jobs"][0]["state"].clone();
    server.until("it runs", |server| state(server) == "running");
    drop(connection);
    server.until("it is cancelled", |server| state(server) == "cancelled");
    assert_eq!(server.wait(&server.job(&recolor()))["state"], "done");
}

#[test]
fn a_full_queue_sends_away_and_clients_take_turns() {
    let dir = TestDir::new("serve-full");
    let mut server = Server::start(&dir, &["--max-queue", "4", "--batch", "1"]).with_token("greedy");
    let running = server.job(&endless());
    server.until("it runs", |server| server.status(&running)["state"] == "running");
    let waiting: Vec<String> = (0..3).map(|seed| server.job(&slow(seed))).collect();
    server.set_token(Some("modest"));
    let modest = server.job(&recolor());
    assert_eq!(server.status(&modest)["position"], 1, "after one of the other's");
    assert_eq!(server.status(&waiting[2])["position"], 3);
    let full = server.post("/ace/v1/jobs", &recolor());
    assert_eq!((full.status, &full.json()["error"]["code"]), (429, &"queue_full".into()));
    assert!(full.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    server.delete(&format!("/ace/v1/jobs/{running}"));
    assert_eq!(server.wait(&modest)["state"], "done");
    assert_ne!(server.status(&waiting[2])["state"], "done");
}

#[test]
fn a_killed_server_loses_no_job_and_makes_none_twice() {
    let dir = TestDir::new("serve-killed");
    let mut server = Server::start(&dir, &[]);
    let keyed = |server: &Server| {
        let headers = [("content-type", "application/json"), ("idempotency-key", "mine")];
        server.post_with("/ace/v1/jobs", &headers, slow(9).to_string().as_bytes()).json()["id"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    let mut ids: Vec<String> = (0..5).map(|seed| server.job(&slow(seed))).collect();
    ids.push(keyed(&server));
    assert_eq!(keyed(&server), ids[5]);
    assert_eq!(server.wait(&ids[0])["state"], "done");
    let picture = |server: &Server, id: &str| server.get(&format!("/ace/v1/jobs/{id}/pictures/0")).body;
    let first = picture(&server, &ids[0]);
    let finished = server.status(&ids[0])["finished"].clone();
    for _ in 0..3 {
        server.until("another runs", |server| {
            ids.iter().any(|id| server.status(id)["step"]["done"].as_u64().is_some_and(|done| done > 3 && done < 60))
        });
        server.kill();
        server = Server::start(&dir, &[]);
    }
    assert_eq!(keyed(&server), ids[5], "the key is known to the next server");
    let made: Vec<Vec<u8>> = ids
        .iter()
        .map(|id| {
            assert_eq!(server.wait(id)["state"], "done");
            picture(&server, id)
        })
        .collect();
    assert_eq!((&made[0], server.status(&ids[0])["finished"].clone()), (&first, finished), "it was not made again");
    assert_eq!(server.get("/ace/v1/jobs").json()["jobs"].as_array().unwrap().len(), 6);
    let metrics = server.get("/metrics").text();
    let count: u64 =
        metrics.lines().find_map(|line| line.strip_prefix("ace_jobs_total{state=\"done\"} ")).unwrap().parse().unwrap();
    assert!((1..=5).contains(&count), "{count} jobs of 5 that were not made");
}

#[test]
fn a_server_that_is_asked_to_stop_finishes_what_it_has_begun_or_leaves_it_to_the_next() {
    let dir = TestDir::new("serve-stop");
    let mut server = Server::start(&dir, &[]);
    let (begun, waiting) = (server.job(&slow(1)), server.job(&slow(2)));
    server.until("it runs", |server| server.status(&begun)["state"] == "running");
    assert!(server.terminate().success());
    let mut server = Server::start(&dir, &["--grace", "0"]);
    assert_eq!(server.status(&begun)["state"], "done", "it was finished");
    assert_eq!(server.wait(&waiting)["state"], "done");

    let begun = server.job(&endless());
    server.until("it runs", |server| server.status(&begun)["state"] == "running");
    let begin = Instant::now();
    assert!(server.terminate().success());
    assert!(begin.elapsed() < Duration::from_secs(60), "it would take hours");
    let server = Server::start(&dir, &[]);
    server.until("it is made anew", |server| server.status(&begun)["state"] == "running");
}

#[test]
fn a_hundred_clients_at_once_are_all_answered() {
    let dir = TestDir::new("serve-many");
    let server = Server::start(&dir, &["--max-queue", "100"]);
    let body = json!({"prompt": "a red circle", "num_steps": 1, "seed": 1});
    let answers: Vec<(u16, Vec<u8>)> = thread::scope(|scope| {
        let asked: Vec<_> = (0..100)
            .map(|_| {
                scope.spawn(|| {
                    let answer = server.post("/v1/images/generations", &body);
                    (answer.status, answer.picture(0))
                })
            })
            .collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 200));
}

#[test]
fn the_openapi_document_names_the_routes_that_there_are_and_every_field() {
    let dir = TestDir::new("serve-openapi");
    let server = Server::start(&dir, &[]);
    let document = server.get("/openapi.json").json();
    for (path, methods) in document["paths"].as_object().unwrap() {
        let path = path.replace("{id}", "none").replace("{nth}", "0");
        for method in methods.as_object().unwrap().keys() {
            let answer = match method.as_str() {
                "get" => server.get(&path),
                "post" => server.post_with(&path, &[("content-type", "application/json")], b"{"),
                _ => server.delete(&path),
            };
            let is_route = answer.status != 405 && !answer.text().contains("there is nothing at this address");
            assert!(is_route, "{method} {path}: {}", answer.text());
        }
    }
    let fields = serde_json::to_value(ace_plus::Message::default()).unwrap();
    let described = document["components"]["schemas"]["Message"]["properties"].as_object().unwrap();
    let said: Vec<_> = fields.as_object().unwrap().keys().filter(|name| !described.contains_key(*name)).collect();
    assert!(said.is_empty(), "not described: {said:?}");
    assert_eq!(described.len(), fields.as_object().unwrap().len());
}

/// A server that makes masks with a small network of random weights.
fn segmenting(dir: &TestDir) -> Server {
    let weights = crate::support::data("segment").join("weights.safetensors");
    Server::start(dir, &["--segmenter", weights.to_str().unwrap()])
}

#[test]
fn a_click_becomes_the_mask_that_ace_mask_makes_and_the_picture_is_sent_once() {
    let dir = TestDir::new("serve-mask");
    let server = segmenting(&dir);
    assert_eq!(server.get("/ace/v1/models").json()["masks"], true);
    let picture = crate::support::data("segment").join("small.png");
    let sent = server.post("/ace/v1/mask", &json!({ "image": url(&fs::read(&picture).unwrap()) }));
    assert_eq!(sent.status, 200, "{}", sent.text());
    let sent = sent.json();
    assert_eq!((&sent["width"], &sent["height"], &sent["mask"]), (&37.into(), &61.into(), &Value::Null));
    let question = json!({ "embedding": sent["embedding"], "clicks": [{ "x": 14, "y": 30 }, { "x": 3, "y": 2, "inside": false }] });
    let answer = server.post("/ace/v1/mask", &question).json();
    assert_eq!(answer["embedding"], sent["embedding"]);
    assert!(answer["score"].is_number(), "{answer}");
    let mask = answer["mask"].as_str().unwrap().split_once("base64,").unwrap().1;
    let mask = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, mask).unwrap();
    let weights = crate::support::data("segment").join("weights.safetensors");
    let Output { status, .. } = ace()
        .args(["mask", "--click", "14,30", "--click-out", "3,2", "-o", "m.png", "--weights"])
        .args([&weights, &picture])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(status.success());
    assert_eq!(pixels(&mask), pixels(&fs::read(dir.file("m.png")).unwrap()));
    // A picture and its first question together, and a box.
    let both = json!({ "image": url(&fs::read(&picture).unwrap()), "box": [5, 7, 28, 49] });
    assert!(server.post("/ace/v1/mask", &both).json()["mask"].is_string());
}

#[test]
fn what_cannot_become_a_mask_is_said() {
    let dir = TestDir::new("serve-mask-refused");
    let picture = url(&fs::read(crate::support::data("segment").join("small.png")).unwrap());
    {
        let server = Server::start(&dir, &[]);
        assert_eq!(server.get("/ace/v1/models").json()["masks"], false);
        let answer = server.post("/ace/v1/mask", &json!({ "image": picture }));
        assert_eq!(
            (answer.status, answer.json()["error"]["message"].as_str()),
            (404, Some("this server makes no masks"))
        );
    }
    let server = segmenting(&dir);
    for (question, status, message) in [
        (json!({}), 400, "either image or embedding"),
        (json!({ "image": picture, "embedding": "x" }), 400, "either image or embedding"),
        (json!({ "embedding": "x", "clicks": [] }), 404, "not kept any more"),
        (json!({ "image": picture, "clicks": [{ "x": 37, "y": 1 }] }), 400, "the click at 37,1 is outside"),
        (json!({ "image": picture, "box": [3, 3, 2, 9] }), 400, "the box 3,3,2,9 is not within"),
        (json!({ "image": "data:image/png;base64,AAAA", "clicks": [] }), 400, "image"),
        (json!({ "image": picture, "click": [] }), 400, "unknown field"),
    ] {
        let answer = server.post("/ace/v1/mask", &question);
        let (said, text, _) = refused(&answer);
        assert!(said == status && text.contains(message), "{question}: {said} {text}");
    }
    // The last sixteen pictures are kept.
    let first = server.post("/ace/v1/mask", &json!({ "image": picture })).json()["embedding"].clone();
    for _ in 0..16 {
        server.post("/ace/v1/mask", &json!({ "image": picture }));
    }
    let gone = server.post("/ace/v1/mask", &json!({ "embedding": first, "clicks": [{ "x": 1, "y": 1 }] }));
    assert_eq!(gone.status, 404);
}
