//! A model whose files lie in memory, and what can be asked of it.

use ace_plus::{
    Ace, Error, Event, Message, Model, Request, Result, Stage,
    describe::Description,
    image::{ImageFormat, RgbImage},
    jobs::jobs,
    message::{NamedLora, Picture},
    model::DEFAULT,
    picture,
    provenance::Provenance,
    request::{InputFile, LoraRequest, ModelRequest},
};
use ace_weights::{Source, digest};
use burn::tensor::{DType, Device};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    io::Cursor,
    ops::ControlFlow,
    path::{Path, PathBuf},
};

/// Pixels of a picture that is sent, at most: several of them must fit into what a page may allocate.
const MAX_PIXELS: u64 = 4 << 20;
/// References of one edit at most.
const MAX_REFERENCES: usize = 16;
/// Previews of a picture at most: each is decoded, which takes as long as some steps.
const PREVIEWS: usize = 4;
/// Folder of the adapters among the files.
const ADAPTERS: &str = "lora/";
/// What the pictures say of where they were made.
const DEVICE: &str = "flex (a browser)";

/// Files of the model by their names in its folder.
#[derive(Debug, Default)]
pub struct Files(BTreeMap<String, &'static [u8]>);

impl Files {
    /// Adds a file. It stays in memory until the worker ends, so that the model is loaded again without copying it.
    pub fn add(&mut self, name: &str, bytes: Vec<u8>) {
        self.0.insert(name.to_owned(), bytes.leak());
    }
}

/// What is told of an edit while it is made.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// A stage begins.
    Stage(&'static str),
    /// A step is done: of how many, and what the picture would become from here, as PNG, if that is asked for.
    Step {
        /// Steps done.
        done: usize,
        /// Steps of all pictures.
        of: usize,
        /// What the picture would become.
        preview: Option<Vec<u8>>,
    },
}

impl Progress {
    /// The events that the HTTP server sends of it: names and JSON.
    pub fn events(self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Stage(stage) => vec![("stage", json!({ "stage": stage }))],
            Self::Step { done, of, preview } => {
                let step = ("step", json!({ "done": done, "of": of }));
                let shown = preview
                    .map(|png| ("preview", json!({ "done": done, "of": of, "picture": String::from(Picture(png)) })));
                [step].into_iter().chain(shown).collect()
            }
        }
    }
}

/// What came of a message.
#[derive(Debug, Clone, PartialEq)]
pub struct Made {
    /// PNG, each with what made it inside.
    pub pictures: Vec<Vec<u8>>,
    /// What each was decoded from, `[16, h, w]`.
    pub latents: Vec<Vec<f32>>,
    /// What the first one's noise followed from.
    pub seed: u64,
    /// What of the pictures that were sent was not taken as it is, one line each.
    pub notes: Vec<String>,
}

/// A model in memory.
#[derive(Debug)]
pub struct Engine {
    /// The model without adapters.
    model: Model,
    ace: Ace,
    /// Names and weights of the adapters that `ace` has.
    worn: Vec<(String, f64)>,
    /// Adapters that are known, and their bytes if they were fetched.
    adapters: BTreeMap<String, Option<&'static [u8]>>,
    /// Name and fingerprint of the model's files.
    fingerprints: Vec<(String, String)>,
    example: Option<Value>,
    device: Device,
}

impl Engine {
    /// Loads the miniature. `adapters` are those that can be asked for, whether their files are there yet or not.
    ///
    /// # Errors
    /// If a file is missing or does not fit.
    pub fn open(files: Files, adapters: &[String], device: &Device) -> Result<Self> {
        let mut model = Model::find(DEFAULT)?;
        for (name, bytes) in &files.0 {
            model = model.bytes(name, *bytes);
        }
        let ace = model.load(device)?;
        let fingerprints = model.fingerprints()?;
        let adapters = adapters.iter().map(|name| (name.clone(), files.adapter(name))).collect();
        let (worn, example, device) = (Vec::new(), files.example(), device.clone());
        Ok(Self { model, ace, worn, adapters, fingerprints, example, device })
    }

    /// The file of an adapter that a message asks for; it stays in memory as the others do.
    pub fn add_adapter(&mut self, name: &str, bytes: Vec<u8>) {
        self.adapters.entry(name.to_owned()).or_default().get_or_insert_with(|| bytes.leak());
    }

    /// What it can do, as `GET /ace/v1/models` says it.
    pub fn models(&self) -> Value {
        let adapters = self.adapters.keys().map(String::as_str);
        json!({
            "models": [Description::of(DEFAULT, self.model.card(), adapters)],
            "limits": { "max_pixels": MAX_PIXELS, "max_references": MAX_REFERENCES },
        })
    }

    /// A first edit, as `GET /ace/v1/example` says it, if its files are there.
    pub fn example(&self) -> Option<&Value> {
        self.example.as_ref()
    }

    /// What made a picture, as `POST /ace/v1/provenance` says it.
    ///
    /// # Errors
    /// If it is no PNG, or does not say how it was made.
    pub fn provenance(bytes: &[u8]) -> Result<Value> {
        let Provenance { format, version, device, request, .. } =
            Provenance::from_bytes(Path::new("the picture"), bytes)?;
        Ok(json!({ "format": format, "version": version, "device": device, "request": request }))
    }

    /// Makes what a message asks for.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn run(&mut self, message: Message, tell: &mut dyn FnMut(Progress)) -> Result<Made> {
        if let Some(other) = message.model.as_deref().filter(|name| *name != DEFAULT) {
            return Err(Error::not_found(
                format!("there is no model {other:?} in this page"),
                format!("use {DEFAULT}"),
            ));
        }
        let (count, previews, loras) = (message.n.unwrap_or(1), message.previews, message.loras.clone());
        let (request, pictures) = with_names(message)?;
        let mut notes = Vec::new();
        let edit = request.edit_from(&mut |path| Ok(pictures.get(path).cloned().unwrap_or_default()), &mut |note| {
            notes.push(note.to_owned())
        })?;
        edit.check(self.model.card())?;
        let loras = self.wear(&loras, tell)?;
        let mut request = with_digests(request, &pictures);
        request.model = ModelRequest { name: Some(DEFAULT.to_owned()), loras, ..ModelRequest::default() };
        let seed = request.seed.unwrap_or_default();
        let all = jobs(None, &[seed], u64::from(count))?;
        let mut made = Made { pictures: Vec::new(), latents: Vec::new(), seed, notes };
        for (before, job) in all.iter().enumerate() {
            let (edit, mut shown) = (edit.clone().seed(job.seed), 0);
            let edited = self.ace.run(&edit, &mut |event| {
                match event {
                    Event::Stage(stage) => tell(Progress::Stage(word(stage))),
                    Event::Step { done, of, preview } => {
                        // Where the steps are cut into one part more; the last one's is the picture itself.
                        let is_shown = shown < PREVIEWS && done < of && done * (PREVIEWS + 1) >= of * (shown + 1);
                        let preview = if previews && is_shown { preview.picture() } else { None };
                        shown += usize::from(preview.is_some());
                        let preview = preview.and_then(|picture| png(&picture));
                        tell(Progress::Step { done: before * of + done, of: all.len() * of, preview });
                    }
                    _ => {}
                }
                // Who wants no more of it ends the worker.
                ControlFlow::Continue(())
            })?;
            let latents = edited.latents.last().cloned().map(|last| last.cast(DType::F32).into_data());
            made.latents.push(latents.map(|data| data.iter::<f32>().collect()).unwrap_or_default());
            let request = request.spelled_out(&edit, self.model.card())?;
            let version = env!("CARGO_PKG_VERSION");
            let provenance = Provenance::new(version, DEVICE.to_owned(), self.fingerprints.clone(), request);
            made.pictures.push(provenance.png(&edited.image)?);
        }
        Ok(made)
    }

    /// Takes these adapters up, if it has others.
    fn wear(&mut self, asked: &[NamedLora], tell: &mut dyn FnMut(Progress)) -> Result<Vec<LoraRequest>> {
        let (mut requests, mut worn, mut model) = (Vec::new(), Vec::new(), self.model.clone());
        for NamedLora { name, weight } in asked {
            let Some(bytes) = self.adapters.get(name) else {
                let known = self.adapters.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
                return Err(Error::not_found(format!("there is no adapter {name:?}"), format!("there are: {known}")));
            };
            let Some(bytes) = *bytes else {
                return Err(Error::not_found(format!("the file of adapter {name} was not fetched"), "try it again"));
            };
            let (path, weight) = (adapter_path(name), weight.unwrap_or(1.0));
            model = model.lora(Source::bytes(path.clone(), bytes), weight);
            let sha256 = Some(digest::of_bytes(bytes));
            requests.push(LoraRequest { file: InputFile { path: path.into(), sha256 }, weight });
            worn.push((name.clone(), weight));
        }
        if worn != self.worn {
            tell(Progress::Stage("load"));
            self.ace = model.load(&self.device)?;
            self.worn = worn;
        }
        Ok(requests)
    }
}

impl Files {
    fn adapter(&self, name: &str) -> Option<&'static [u8]> {
        self.0.get(&adapter_path(name)).copied()
    }

    fn example(&self) -> Option<Value> {
        let file = |name: &str| self.0.get(&format!("examples/{name}")).copied();
        let url = |name: &str| Some(String::from(Picture(file(name)?.to_vec())));
        let instruction = std::str::from_utf8(file("instruction.txt")?).ok()?.trim();
        Some(json!({
            "image": url("image.png")?, "mask": url("mask.png")?, "instruction": instruction, "task": "recolor",
        }))
    }
}

fn adapter_path(name: &str) -> String {
    format!("{ADAPTERS}{name}.safetensors")
}

/// The request of a message, and its pictures by the names that they have in it.
fn with_names(message: Message) -> Result<(Request, BTreeMap<PathBuf, Vec<u8>>)> {
    if let Some((width, height)) = message.size.filter(|(width, height)| is_huge(*width, *height)) {
        let what = format!("size is {width}x{height}");
        return Err(Error::input(what, format!("choose one of at most {MAX_PIXELS} pixels")));
    }
    let many = message.references.len().max(message.picture_prompts.len());
    if many > MAX_REFERENCES {
        let what = format!("there are {many} references or picture prompts");
        return Err(Error::input(what, format!("give {MAX_REFERENCES} at most")));
    }
    let mut pictures = BTreeMap::new();
    let request = message.into_request(&mut |what, bytes| {
        let path = PathBuf::from(what);
        let (width, height) = picture::size_from_bytes(&path, &bytes)?;
        if is_huge(width, height) {
            let reason = format!("the picture is {width}x{height}");
            return Err(Error::format(&path, reason, format!("scale it down to at most {MAX_PIXELS} pixels")));
        }
        pictures.insert(path.clone(), bytes);
        Ok(path)
    })?;
    Ok((request, pictures))
}

fn is_huge(width: u32, height: u32) -> bool {
    u64::from(width) * u64::from(height) > MAX_PIXELS
}

/// The request with the digests of its pictures.
fn with_digests(mut request: Request, pictures: &BTreeMap<PathBuf, Vec<u8>>) -> Request {
    for file in request.files_mut() {
        file.sha256 = pictures.get(&file.path).map(|bytes| digest::of_bytes(bytes));
    }
    request
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Text => "text",
        Stage::Encode => "encode",
        Stage::Denoise => "denoise",
        Stage::Decode => "decode",
    }
}

fn png(picture: &RgbImage) -> Option<Vec<u8>> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).ok()?;
    Some(bytes.into_inner())
}
