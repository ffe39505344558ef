//! An edit inside a browser beside the same edit here. `cargo xtask web --check` builds the folder that is opened and runs
//! these; where there is no such folder or no browser, they say so and pass.

mod server;

use crate::support::{
    self,
    browser::{self, Visit},
};
use ace_plus::{Message, Model, message::Picture, picture, provenance::Provenance};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use server::Server;
use std::{
    fs,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// By how much latents may differ, and by how many grey levels pixels.
const CLOSE: f32 = 1e-4;
const LEVEL: u8 = 1;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A page in a browser. [`Page::open_engine`] has the engine as `engine` in it.
struct Page {
    visit: Visit,
    server: Server,
}

impl Page {
    /// `None`, and a sentence, where it cannot be.
    fn open(name: &str) -> Option<Self> {
        let folder = std::env::var_os("ACE_WEB").map_or_else(|| root().join("out/web"), PathBuf::from);
        if !folder.join("files.json").is_file() {
            return skipped("there is no built folder: cargo xtask web --check builds one");
        }
        let chrome = browser::find()?;
        let server = Server::start(&folder);
        let visit = Visit::open(chrome, name, server.address(), (1200, 900));
        Some(Self { visit, server })
    }

    /// Goes to an empty page once more.
    fn again(&self) {
        self.visit.go(&format!("{}/", self.server.address()));
    }

    /// What an asynchronous function of this body returns.
    fn run(&self, body: &str) -> Value {
        let wrapped = format!(
            "(async () => {{ {body} }})().then((value) => JSON.stringify({{ value }}), \
             (error) => JSON.stringify({{ error: error.message, hint: error.hint, code: error.code }}))"
        );
        let answer = self.visit.js(&wrapped);
        serde_json::from_str(answer.as_str().expect("a text")).expect("JSON")
    }

    fn value(&self, body: &str) -> Value {
        let mut answer = self.run(body);
        assert!(answer["error"].is_null(), "{answer}");
        answer["value"].take()
    }

    /// Opens the engine; gives the last that was heard of its progress.
    fn open_engine(&self) -> Value {
        self.value(
            "let last = null;
             const { open } = await import('./engine.js');
             self.engine = await open((progress) => (last = progress));
             self.text = async (blob) => {
               const bytes = new Uint8Array(await blob.arrayBuffer());
               return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(''));
             };
             return last;",
        )
    }

    /// Runs an edit: what came of it, and the names of its events.
    fn edit(&self, message: &Value) -> Made {
        let answer = self.value(&format!(
            "const events = [];
             const made = await engine.run({message}, (name, data) => events.push([name, data]));
             const pictures = await Promise.all(made.pictures.map(text));
             const latents = made.latents.map((numbers) => Array.from(numbers));
             return {{ ...made, pictures, latents, events }};"
        ));
        let pictures = answer["pictures"].as_array().expect("pictures").iter();
        let latents = answer["latents"].as_array().expect("latents").iter();
        Made {
            pictures: pictures.map(|text| STANDARD.decode(text.as_str().expect("a text")).expect("base64")).collect(),
            latents: latents.map(|numbers| serde_json::from_value(numbers.clone()).expect("numbers")).collect(),
            events: answer["events"].as_array().expect("events").clone(),
            seed: answer["seed"].clone(),
        }
    }
}

struct Made {
    pictures: Vec<Vec<u8>>,
    latents: Vec<Vec<f32>>,
    events: Vec<Value>,
    seed: Value,
}

#[allow(clippy::print_stderr)]
fn skipped<T>(why: &str) -> Option<T> {
    eprintln!("skipped: {why}");
    None
}

fn shipped(path: &str) -> Value {
    let bytes = fs::read(root().join("models/tiny").join(path)).expect("shipped");
    String::from(Picture(bytes)).into()
}

fn example() -> Value {
    let words = fs::read_to_string(root().join("models/tiny/examples/instruction.txt")).expect("shipped");
    json!({
        "instruction": words.trim(), "task": "recolor", "seed": 7,
        "image": shipped("examples/image.png"), "mask": shipped("examples/mask.png"),
    })
}

/// The model from its files in memory, as the program has them, with the adapters that a message names.
fn model(message: &Message) -> Model {
    let folder = root().join("models/tiny");
    let model = Model::find("tiny").expect("built in").weights(&folder);
    message.loras.iter().fold(model, |model, lora| {
        model.lora(folder.join(format!("lora/{}.safetensors", lora.name)), lora.weight.unwrap_or(1.0))
    })
}

/// Holds what a browser made beside what this program makes of the same message.
fn holds(message: &Value, made: &Made) {
    let message: Message = serde_json::from_value(message.clone()).expect("a message");
    let ace = model(&message).load(&support::device()).expect("shipped");
    let count = message.n.unwrap_or(1);
    let mut pictures = std::collections::BTreeMap::new();
    let request = message.into_request(&mut |what, bytes| {
        pictures.insert(PathBuf::from(what), bytes);
        Ok(what.into())
    });
    let request = request.expect("a request");
    let edit = request.edit_from(&mut |path| Ok(pictures[path].clone()), &mut |_| ()).expect("an edit");
    assert_eq!((made.pictures.len(), made.latents.len()), (count as usize, count as usize));
    for (at, (png, latents)) in made.pictures.iter().zip(&made.latents).enumerate() {
        let edit = edit.clone().seed(request.seed.unwrap_or(0) + at as u64);
        let edited = ace.run(&edit, &mut |_| ControlFlow::Continue(())).expect("edits");
        let expected = support::values(edited.latents.last().expect("latents").clone());
        assert_eq!(expected.len(), latents.len());
        let far = expected.iter().zip(latents).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= CLOSE && latents.iter().all(|number| number.is_finite()), "latents differ by {far}");
        let picture = picture::rgb_from_bytes(Path::new("made"), png).expect("a picture").picture;
        assert_eq!(picture.dimensions(), edited.image.dimensions());
        let levels = picture.as_raw().iter().zip(edited.image.as_raw()).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(levels <= Some(LEVEL), "pixels differ by {levels:?}");
    }
}

#[test]
fn a_browser_makes_the_picture_that_this_program_makes() {
    let Some(page) = Page::open("web-same") else { return };
    page.open_engine();
    let all = [
        example(),
        json!({ "instruction": "a big red circle at the top left on a gray background", "task": "text_to_image", "seed": 3 }),
        json!({
            "instruction": "put the item at the top left on a teal background", "task": "subject", "seed": 11,
            "references": [shipped("examples/image.png")],
        }),
        json!({
            "instruction": "a small blue ring at the top right on a white background", "seed": 5, "n": 2,
            "num_steps": 4, "sampler": "heun", "loras": [{ "name": "subject", "weight": 0.5 }], "previews": true,
        }),
    ];
    for message in &all {
        let made = page.edit(message);
        assert_eq!(made.seed, message["seed"]);
        holds(message, &made);
    }
}

#[test]
fn stages_steps_and_previews_are_told_as_a_server_tells_them() {
    let Some(page) = Page::open("web-events") else { return };
    let progress = page.open_engine();
    assert!(progress["loaded"].as_u64() > Some(15_000_000) && progress["loaded"] == progress["total"], "{progress}");
    let models = page.value("return engine.models();");
    assert_eq!((&models["models"][0]["id"], &models["limits"]["max_references"]), (&"tiny".into(), &16.into()));
    let mut message = page.value("return engine.example();");
    assert_eq!((&message["instruction"], &message["task"]), (&example()["instruction"], &"recolor".into()));
    message["num_steps"] = 3.into();
    message["previews"] = true.into();
    let made = page.edit(&message);
    let told: Vec<&str> = made.events.iter().filter_map(|event| event[0].as_str()).collect();
    let expected = ["stage", "stage", "stage", "step", "preview", "step", "preview", "step", "stage"];
    assert_eq!(told, expected);
    let stages: Vec<_> = made.events.iter().filter_map(|event| event[1]["stage"].as_str()).collect();
    assert_eq!(stages, ["text", "encode", "denoise", "decode"]);
    assert_eq!(made.events[3][1], json!({ "done": 1, "of": 3 }));
    let shown = Picture::try_from(made.events[6][1]["picture"].as_str().expect("a URL").to_owned()).expect("a picture");
    let of = |bytes: &[u8]| picture::rgb_from_bytes(Path::new("made"), bytes).expect("a picture").picture;
    let (shown, made) = (of(&shown.0), of(&made.pictures[0]));
    assert_eq!(shown.dimensions(), made.dimensions());
    // Outside the mask it is the image, as the picture is.
    assert_eq!((shown.get_pixel(0, 63), shown != made), (made.get_pixel(0, 63), true));
}

#[test]
fn a_picture_says_what_made_it_here_and_there() {
    let Some(page) = Page::open("web-provenance") else { return };
    page.open_engine();
    let mut message = example();
    message["num_steps"] = 2.into();
    let made = page.edit(&message);
    let here = Provenance::from_bytes(Path::new("made"), &made.pictures[0]).expect("inside");
    assert_eq!(here.files, model(&Message::default()).fingerprints().expect("shipped"));
    assert_eq!((here.request.seed, here.request.num_steps, here.request.guidance), (Some(7), Some(2), Some(1.0)));
    let digest = ace_weights::digest::sha256(&root().join("models/tiny/examples/image.png"), &mut |_| ());
    assert_eq!(here.request.image.expect("named").sha256, Some(digest.expect("shipped")));
    let there = page.value(
        "const [picture] = (await engine.run({ instruction: 'a red circle', num_steps: 1, seed: 4 })).pictures;
         return { made: await engine.provenance(picture), plain: await engine.provenance(await (await fetch(\
         './models/tiny/examples/image.png')).blob()) };",
    );
    let request = &there["made"]["request"];
    assert_eq!((&request["seed"], &request["instruction"]), (&4.into(), &"a red circle".into()));
    assert!(there["plain"].is_null(), "{there}");
}

#[test]
fn a_cancelled_edit_stops_and_the_next_one_runs() {
    let Some(page) = Page::open("web-cancel") else { return };
    page.open_engine();
    let cancelled = page.run(&format!(
        "const abort = new AbortController();
         self.steps = 0;
         const hear = (name) => {{ if (name === 'step') {{ self.steps += 1; abort.abort(); }} }};
         self.waiting = engine.run({}, (name) => (self.heard = name));
         const message = {{ ...{}, num_steps: 200 }};
         await self.waiting;
         await engine.run(message, hear, abort.signal);",
        json!({ "instruction": "a red circle", "num_steps": 1 }),
        example(),
    ));
    assert_eq!(cancelled["code"], "cancelled", "{cancelled}");
    let steps = page.value("return self.steps;").as_u64();
    assert!((1..200).contains(&steps.expect("a number")), "{steps:?}");
    // Two at once: the second waits, and both are right.
    let both = page.value(
        "const events = [];
         const message = { instruction: 'a red circle', num_steps: 2, seed: 1 };
         const all = [engine.run(message), engine.run(message, (name, data) => events.push([name, data]))];
         const [a, b] = await Promise.all(all);
         return { a: await text(a.pictures[0]), b: await text(b.pictures[0]), first: events[0] };",
    );
    assert_eq!(both["a"], both["b"]);
    assert_eq!(both["first"], json!(["queued", { "position": 1 }]));
    let made = page.edit(&example());
    holds(&example(), &made);
}

#[test]
fn what_cannot_be_made_is_explained_and_nothing_breaks() {
    let Some(page) = Page::open("web-refused") else { return };
    page.open_engine();
    let cases = [
        (json!({ "instruction": "a circle", "task": "paint" }), "invalid_request", "paint"),
        (json!({ "instruction": "" }), "invalid_request", "instruction is empty"),
        (json!({ "instruction": "a circle", "task": "recolor" }), "invalid_request", "needs"),
        (json!({ "instruction": "a circle", "image": "data:image/png;base64,AAAA" }), "invalid_request", "picture"),
        (
            json!({ "instruction": "a circle", "image": "https://example.org/a.png" }),
            "invalid_request",
            "never fetched",
        ),
        (json!({ "instruction": "a circle", "model": "flux" }), "not_found", "flux"),
        (json!({ "instruction": "a circle", "loras": [{ "name": "none" }] }), "not_found", "none"),
        (json!({ "instruction": "a circle", "size": [20000, 20000] }), "invalid_request", "20000"),
    ];
    for (message, code, part) in cases {
        let answer = page.run(&format!("await engine.run({message});"));
        assert!(answer["error"].as_str().is_some_and(|text| text.contains(part)), "{message}: {answer}");
        assert_eq!(answer["code"], code, "{answer}");
    }
    page.edit(&json!({ "instruction": "a red circle", "num_steps": 1 }));
}

#[test]
fn the_model_is_fetched_once_and_damage_is_noticed() {
    let Some(page) = Page::open("web-once") else { return };
    page.open_engine();
    assert_eq!(page.server.asked("/models/tiny/flux.safetensors"), 1);
    page.again();
    page.open_engine();
    page.edit(&json!({ "instruction": "a red circle", "num_steps": 1, "loras": [{ "name": "subject" }] }));
    assert_eq!(page.server.asked("/models/tiny/flux.safetensors"), 1);
    assert_eq!(page.server.asked("/models/tiny/lora/subject.safetensors"), 1);
    assert_eq!(page.server.asked("/models/tiny/lora/restoration.safetensors"), 0);
    let damaged = "const cache = await caches.open('ace /');
         for (const request of await cache.keys()) await cache.delete(request);";
    page.value(damaged);
    page.server.damage("/models/tiny/t5.safetensors");
    page.again();
    let answer = page.run("const { open } = await import('./engine.js'); await open();");
    assert!(answer["error"].as_str().is_some_and(|text| text.contains("did not arrive whole")), "{answer}");
}

#[test]
fn the_painting_page_edits_with_it() {
    let Some(page) = Page::open("web-painting") else { return };
    page.visit.go(&format!("{}/index.html", page.server.address()));
    let done = page.value(
        "const until = async (what) => { while (!what()) await new Promise((next) => setTimeout(next, 100)); };
         document.getElementById('run').click();
         const live = document.getElementById('live');
         await until(() => live.innerText.startsWith('Done'));
         return live.innerText;",
    );
    assert_eq!(done, "Done, one picture");
}
