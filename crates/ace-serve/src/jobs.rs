//! What is said about a job: what was asked, how far it is, how it ended. All of it can be stored and sent.

use ace_plus::{Error, ErrorKind, Request, Stage};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::time::{SystemTime, UNIX_EPOCH};

/// What was asked for, as a queue keeps it. Pictures are files whose names stand in the request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    /// Its name; later jobs have larger ones.
    pub id: String,
    /// Who asks: jobs of different clients take turns.
    pub client: String,
    /// Under which words the same client asks for the same job again.
    #[serde(default)]
    pub key: Option<String>,
    /// Whether the client waits in an open connection: it is cancelled when that goes.
    #[serde(default)]
    pub attended: bool,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// Which model, by the name under which it is served.
    pub model: String,
    /// Adapters on top, by their names, with their weights.
    #[serde(default)]
    pub loras: Vec<(String, f64)>,
    /// What to make.
    pub request: Request,
    /// Pictures to make, of its seed and those that follow.
    pub count: u32,
    /// Jobs with equal ones can be made together, if they have any.
    #[serde(default)]
    pub shape: Option<String>,
    /// Bytes that one of its pictures is computed with.
    #[serde(default)]
    pub bytes: u64,
    /// What of the way is shown.
    #[serde(default)]
    pub shown: Shown,
    /// What of the pictures was understood otherwise than one might think.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// What of the way from noise to picture is shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// Nothing.
    #[default]
    Nothing,
    /// As often as it costs little.
    Often,
    /// So many previews, spread evenly over the steps.
    Times(u32),
}

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It waits.
    Queued,
    /// It is being made.
    Running,
    /// Its pictures are there.
    Done,
    /// It could not be made.
    Failed,
    /// Its client wanted no more.
    Cancelled,
}

impl State {
    /// Whether nothing more will happen.
    pub fn is_over(self) -> bool {
        !matches!(self, Self::Queued | Self::Running)
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// Why a job failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// One line.
    pub message: String,
    /// What to do about it.
    #[serde(default)]
    pub hint: Option<String>,
    /// What HTTP calls it.
    pub status: u16,
}

impl From<&Error> for Problem {
    fn from(error: &Error) -> Self {
        let status = match error.kind() {
            ErrorKind::Cancelled => 409,
            kind => kind.http_status(),
        };
        Self { message: error.to_string(), hint: error.hint().map(str::to_owned), status }
    }
}

/// How a job ended. Once it is stored the job is over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct End {
    /// Done, failed or cancelled.
    pub state: State,
    /// When, in seconds since 1970.
    pub finished: u64,
    /// How long its edits were computed, previews among it.
    #[serde(default)]
    pub seconds: Option<f64>,
    /// Why it failed.
    #[serde(default)]
    pub error: Option<Problem>,
    /// Tokens that were read and made.
    #[serde(default)]
    pub tokens: Tokens,
}

impl End {
    /// That of a job on which nobody worked.
    pub fn without_work(state: State) -> Self {
        Self { state, finished: now(), seconds: None, error: None, tokens: Tokens::default() }
    }
}

/// Tokens of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of the words.
    pub text: usize,
    /// Of the canvases, references among them.
    pub image: usize,
}

/// Steps that are done, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Steps that are done, of all pictures.
    pub done: usize,
    /// Steps in all.
    pub of: usize,
}

/// A job as its client sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub id: String,
    /// Where it is.
    pub state: State,
    /// Jobs that will be made before it, while it waits.
    pub position: Option<usize>,
    /// What has to come before it is made, beside those.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// What is being done.
    pub stage: Option<String>,
    /// How far the loop is.
    pub step: Option<Step>,
    /// Which model.
    pub model: String,
    /// What its noise follows from.
    pub seed: u64,
    /// When it was asked for, in seconds since 1970.
    pub created: u64,
    /// When it was over.
    pub finished: Option<u64>,
    /// Where its pictures are.
    pub pictures: Vec<String>,
    /// How long its edits were computed.
    pub seconds: Option<f64>,
    /// Why it failed.
    pub error: Option<Problem>,
    /// What of the pictures was understood otherwise than one might think.
    pub notes: Vec<String>,
    /// What was asked for, without pictures.
    pub request: Value,
    /// Tokens that were read and made.
    #[serde(skip)]
    pub tokens: Tokens,
}

impl Status {
    /// That of a job which waits.
    pub fn waiting(ask: &Ask, position: usize) -> Self {
        Self {
            id: ask.id.clone(),
            state: State::Queued,
            position: Some(position),
            waits_for: None,
            stage: None,
            step: None,
            model: ask.model.clone(),
            seed: ask.request.seed.unwrap_or_default(),
            created: ask.created,
            finished: None,
            pictures: Vec::new(),
            seconds: None,
            error: None,
            notes: ask.notes.clone(),
            request: without_pictures(ask),
            tokens: Tokens::default(),
        }
    }

    /// Takes note of how it ended.
    pub fn end(&mut self, end: End, count: u32) {
        let End { state, finished, seconds, error, tokens } = end;
        (self.state, self.finished, self.seconds, self.error, self.tokens) =
            (state, Some(finished), seconds, error, tokens);
        (self.position, self.stage, self.waits_for) = (None, None, None);
        if state == State::Done {
            self.pictures = (0..count).map(|nth| format!("/ace/v1/jobs/{}/pictures/{nth}", self.id)).collect();
        }
    }

    /// Takes note of an event.
    pub fn follow(&mut self, event: &Event) {
        match event {
            Event::Queued { position, waits_for } => {
                (self.state, self.position, self.stage) = (State::Queued, Some(*position), None);
                self.waits_for.clone_from(waits_for);
            }
            Event::Stage { stage } => {
                (self.state, self.position, self.stage) = (State::Running, None, Some(stage.clone()));
                self.waits_for = None;
            }
            Event::Step(step) => self.step = Some(*step),
            Event::Preview { .. } => {}
            Event::Over(status) => *self = (**status).clone(),
        }
    }
}

/// The request with adapters by their names, and without files, whose names say nothing to a client.
fn without_pictures(ask: &Ask) -> Value {
    let request = serde_json::to_value(&ask.request).unwrap_or_default();
    let hidden = ["model", "image", "mask", "references", "picture_prompts", "map", "regions", "noise"];
    let mut kept: Map<String, Value> = match request {
        Value::Object(fields) => fields.into_iter().filter(|(name, _)| !hidden.contains(&name.as_str())).collect(),
        _ => Map::new(),
    };
    kept.insert("model".into(), ask.model.clone().into());
    let lora = |(name, weight): &(String, f64)| serde_json::json!({ "name": name, "weight": weight });
    kept.insert("loras".into(), ask.loras.iter().map(lora).collect());
    kept.insert("n".into(), ask.count.into());
    Value::Object(kept)
}

/// What happens to a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Event {
    /// So many are before it.
    Queued {
        /// Jobs before it.
        position: usize,
        /// What has to come before any of them is made, if there is something.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        waits_for: Option<String>,
    },
    /// Something begins.
    Stage {
        /// `load`, `text`, `encode`, `denoise` or `decode`.
        stage: String,
    },
    /// A step of the loop is done.
    Step(Step),
    /// What becomes of the noise.
    Preview {
        /// Steps that are done.
        done: usize,
        /// Steps in all.
        of: usize,
        /// A `data:` URL.
        picture: String,
    },
    /// It is over.
    Over(Box<Status>),
}

impl Event {
    /// What it is called on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Stage { .. } => "stage",
            Self::Step(_) => "step",
            Self::Preview { .. } => "preview",
            Self::Over(status) => status.state.name(),
        }
    }

    /// What it says on the wire.
    pub fn data(&self) -> Value {
        match self {
            Self::Queued { position, waits_for: None } => serde_json::json!({ "position": position }),
            Self::Queued { position, waits_for } => {
                serde_json::json!({ "position": position, "waits_for": waits_for })
            }
            Self::Stage { stage } => serde_json::json!({ "stage": stage }),
            Self::Step(step) => serde_json::json!(step),
            Self::Preview { done, of, picture } => serde_json::json!({ "done": done, "of": of, "picture": picture }),
            Self::Over(status) => serde_json::json!(status),
        }
    }
}

/// What a stage is called.
pub fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::Text => "text",
        Stage::Encode => "encode",
        Stage::Denoise => "denoise",
        Stage::Decode => "decode",
    }
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
