//! Picture after picture. A session is a folder that says everything about itself and can be moved:
//!
//! ```text
//! session.json     the model, the turns with the turn before each, and where it stands
//! 1.png 2.png …    pictures of the turns, each with what made it
//! 1.safetensors …  their latents
//! inputs/          pictures that came from outside, named by their digest
//! ```
//!
//! Paths that are written down are relative to the folder.

use crate::{
    Error, Result,
    canvas::MASK_THRESHOLD,
    picture,
    provenance::Overrides,
    request::{LoraRequest, ModelRequest, Request},
};
use ace_weights::{digest, replace};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

const FILE: &str = "session.json";
/// Pictures from outside.
const INPUTS: &str = "inputs";
/// Letters of a digest that tell files of one session apart.
const SHORT: usize = 16;
/// The form that is written. Form 1 had no number; it is read too.
const FORMAT: u32 = 2;

/// What `session.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    format: u32,
    /// Which model all turns are made with.
    model: ModelRequest,
    /// The turn that comes next goes on from this one; 0 is before the first.
    head: usize,
    turns: Vec<Turn>,
}

/// One turn; its number is its place, from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Turn {
    /// The turn before.
    pub parent: usize,
    /// What was said.
    pub words: String,
    /// Whether it left the picture as it was.
    #[serde(default)]
    pub nothing: bool,
}

/// A turn that is to be made.
#[derive(Debug, Clone)]
pub struct Next {
    /// Its number.
    pub number: usize,
    /// The turn before.
    pub parent: usize,
    /// What to make; paths are relative to the session's folder.
    pub request: Request,
    /// Whether nothing is to be repainted: [`Session::finish`] then repeats the picture before.
    pub nothing: bool,
}

/// A session in its folder.
#[derive(Debug, Clone)]
pub struct Session {
    folder: PathBuf,
    state: State,
}

/// Form 1 of `session.json`.
#[derive(Deserialize)]
struct First {
    model: FirstModel,
    #[serde(default)]
    loras: Vec<FirstLora>,
    head: usize,
    turns: Vec<Turn>,
}

#[derive(Deserialize)]
struct FirstModel {
    model: Option<String>,
    weights: Option<PathBuf>,
    #[serde(default)]
    overrides: Overrides,
}

#[derive(Deserialize)]
struct FirstLora {
    path: PathBuf,
    weight: f64,
}

impl First {
    fn upgraded(self) -> State {
        let lora = |lora: FirstLora| LoraRequest { file: lora.path.into(), weight: lora.weight };
        let model = ModelRequest {
            name: self.model.model,
            weights: self.model.weights,
            networks: self.model.overrides.upgraded(),
            loras: self.loras.into_iter().map(lora).collect(),
            ..ModelRequest::default()
        };
        State { format: FORMAT, model, head: self.head, turns: self.turns }
    }
}

impl Session {
    /// Whether there is a session in a folder.
    pub fn is_in(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    /// The session in a folder; a new one, of which nothing is written yet, if there is none. `model` is the one to begin
    /// with, its paths independent of the current folder.
    ///
    /// # Errors
    /// If the session was begun with another model, or its file was changed by hand.
    pub fn open(folder: &Path, model: &ModelRequest) -> Result<Self> {
        let file = folder.join(FILE);
        if !file.exists() {
            let state = State { format: FORMAT, model: model.clone(), head: 0, turns: Vec::new() };
            return Ok(Self { folder: folder.to_owned(), state });
        }
        let text = fs::read(&file).map_err(Error::io(&file))?;
        let state = parse(&text).map_err(|problem| {
            Error::format(&file, problem, "it was written by a later version, or changed by hand")
        })?;
        let which = |model: &ModelRequest| (model.name.clone(), model.weights.clone(), model.networks.clone());
        let is_other = (which(model) != which(&ModelRequest::default()) && which(model) != which(&state.model))
            || (!model.loras.is_empty() && model.loras != state.model.loras);
        if is_other {
            let what = "this session was begun with another model or other LoRAs";
            return Err(Error::changed(what, "leave them out, or begin another session"));
        }
        if state.head > state.turns.len() || state.turns.iter().enumerate().any(|(at, turn)| turn.parent > at) {
            return Err(Error::format(&file, "its turns are not in order", "the file was changed by hand"));
        }
        Ok(Self { folder: folder.to_owned(), state })
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The model of all turns.
    pub fn model(&self) -> &ModelRequest {
        &self.state.model
    }

    /// Its turns; the first is number 1.
    pub fn turns(&self) -> &[Turn] {
        &self.state.turns
    }

    /// The turn that the next one goes on from; 0 is before the first.
    pub fn head(&self) -> usize {
        self.state.head
    }

    /// The picture of a turn, in the session's folder.
    pub fn picture(turn: usize) -> PathBuf {
        format!("{turn}.png").into()
    }

    /// The latents of a turn, in the session's folder.
    pub fn latents(turn: usize) -> PathBuf {
        format!("{turn}.safetensors").into()
    }

    /// Goes back to the turn before.
    ///
    /// # Errors
    /// If there is none, or the session cannot be written.
    pub fn undo(&mut self) -> Result<()> {
        match self.state.head.checked_sub(1) {
            Some(at) => self.go(self.state.turns[at].parent),
            None => Err(Error::not_found("there is no turn to undo", "the session stands before its first turn")),
        }
    }

    /// Goes on from a turn; 0 is before the first.
    ///
    /// # Errors
    /// If there is no such turn, or the session cannot be written.
    pub fn go(&mut self, turn: usize) -> Result<()> {
        if turn > self.state.turns.len() {
            let hint = format!("turns are 1 to {}, 0 is before the first", self.state.turns.len());
            return Err(Error::not_found(format!("there is no turn {turn}"), hint));
        }
        self.state.head = turn;
        self.save()
    }

    /// Prepares one more turn: it edits the picture of the turn before unless it brings its own or is to begin anew;
    /// `{image1}` in its words is the picture of turn 1, as a reference. Pictures from outside are copied into the folder.
    /// Paths of `asked` are independent of the current folder; `placeholders` are the words that the model itself knows.
    ///
    /// # Errors
    /// If the words name a turn that there is not, or a picture cannot be read or copied.
    pub fn begin(&self, mut asked: Request, is_new: bool, placeholders: &[String]) -> Result<Next> {
        let (parent, number) = (self.state.head, self.state.turns.len() + 1);
        if parent > 0 && asked.image.is_none() && asked.size.is_none() && !is_new {
            asked.image = Some(Self::picture(parent).into());
        }
        self.name_pictures(&mut asked, placeholders)?;
        self.adopt(&mut asked)?;
        let held = ModelRequest { name: None, weights: None, networks: Default::default(), ..asked.model };
        asked.model = ModelRequest { loras: self.state.model.loras.clone(), ..held }.over(self.state.model.clone());
        let nothing = self.leaves_all(&asked, parent)?;
        Ok(Next { number, parent, request: asked, nothing })
    }

    /// Writes down that a turn was made: its picture and latents are in the folder.
    ///
    /// # Errors
    /// If the session cannot be written.
    pub fn finish(&mut self, next: Next) -> Result<()> {
        if next.nothing {
            for name in [Self::picture, Self::latents] {
                let from = self.folder.join(name(next.parent));
                let bytes = fs::read(&from).map_err(Error::io(&from))?;
                replace::write(&self.folder.join(name(next.number)), &bytes)?;
            }
        }
        let words = next.request.instruction.unwrap_or_default();
        self.state.turns.push(Turn { parent: next.parent, words, nothing: next.nothing });
        self.state.head = next.number;
        self.save()
    }

    fn save(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.state)
            .map_err(|source| Error::input(format!("the session cannot be written: {source}"), "report it"))?;
        fs::create_dir_all(&self.folder).map_err(Error::io(&self.folder))?;
        Ok(replace::write(&self.folder.join(FILE), text.as_bytes())?)
    }

    /// Whether a turn on the last picture has a mask without any white.
    fn leaves_all(&self, asked: &Request, parent: usize) -> Result<bool> {
        let Some(mask) = &asked.mask else { return Ok(false) };
        if parent == 0 || asked.image != Some(Self::picture(parent).into()) {
            return Ok(false);
        }
        let mask = picture::read_mask(&self.folder.join(&mask.path))?;
        Ok(mask.as_raw().iter().all(|grey| *grey <= MASK_THRESHOLD))
    }

    /// Adds the pictures that the words name as references.
    fn name_pictures(&self, asked: &mut Request, placeholders: &[String]) -> Result<()> {
        let Some(words) = &mut asked.instruction else { return Ok(()) };
        for turn in (1..=self.state.turns.len() + 1).rev() {
            let name = format!("{{image{turn}}}");
            if !words.contains(&name) {
                continue;
            }
            if turn > self.state.turns.len() {
                let what = format!("{name}: there is no turn {turn}");
                return Err(Error::not_found(what, format!("there are {} turns", self.state.turns.len())));
            }
            asked.references.insert(0, Self::picture(turn).into());
            // A model that has no such word would read braces and digits.
            if !placeholders.contains(&name) {
                *words = words.replace(&name, " ").split_whitespace().collect::<Vec<_>>().join(" ");
            }
        }
        Ok(())
    }

    /// Copies what comes from outside into the session.
    fn adopt(&self, asked: &mut Request) -> Result<()> {
        let loras = std::mem::take(&mut asked.model.loras);
        for file in asked.files_mut().filter(|file| file.path.is_absolute()) {
            let mut name = digest::sha256(&file.path, &mut |_| ())?;
            name.truncate(SHORT);
            if let Some(extension) = file.path.extension() {
                name = format!("{name}.{}", extension.to_string_lossy());
            }
            let inside = Path::new(INPUTS).join(name);
            let place = self.folder.join(&inside);
            if !place.exists() {
                let bytes = fs::read(&file.path).map_err(Error::io(&file.path))?;
                replace::make_parent(&place)?;
                replace::write(&place, &bytes)?;
            }
            file.path = inside;
        }
        asked.model.loras = loras;
        Ok(())
    }
}

fn parse(text: &[u8]) -> std::result::Result<State, String> {
    let value: Value = serde_json::from_slice(text).map_err(|source| source.to_string())?;
    match value.get("format").and_then(Value::as_u64) {
        None => serde_json::from_value::<First>(value).map(First::upgraded).map_err(|source| source.to_string()),
        Some(known) if known <= u64::from(FORMAT) => serde_json::from_value(value).map_err(|source| source.to_string()),
        Some(newer) => Err(format!("it is in form {newer}, this version reads up to {FORMAT}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_form_is_read() {
        let first = r#"{"model":{"model":"tiny","weights":null,"overrides":{"flux":null,"autoencoder":null,"t5":null,
            "clip":"c"}},"loras":[{"path":"l","weight":0.5}],"head":1,"turns":[{"parent":0,"words":"a star"}]}"#;
        let state = parse(first.as_bytes()).unwrap();
        assert_eq!((state.head, state.turns[0].words.as_str()), (1, "a star"));
        assert_eq!(state.model.name.as_deref(), Some("tiny"));
        assert_eq!(state.model.networks["clip"], Path::new("c"));
        assert_eq!(state.model.loras[0].weight, 0.5);
        assert!(parse(br#"{"format": 3}"#).is_err());
    }
}
