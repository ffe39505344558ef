//! Masks of what clicks mean: a picture is looked at once and kept as the network saw it; each question about it is then
//! answered within a connection, beside the queue.

use crate::{app::App, error::Refusal, submit};
use ace_plus::{
    message::Picture,
    picture,
    segment::{Click, Embedding, Frame, Segment, Segmenter},
};
use axum::{Json, body::Bytes, extract::State, http::StatusCode};
use image::codecs::png;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};
use uuid::Uuid;

/// Pictures that are kept as the network saw them, the last ones that were asked about: 4 MiB each.
const KEPT: usize = 16;
/// Clicks of one question at most.
const MOST_CLICKS: usize = 64;

/// What makes masks, and what it has seen.
#[derive(Debug)]
pub struct Masks {
    segmenter: Segmenter,
    /// The last one that was asked about is the last.
    seen: Mutex<VecDeque<(String, Embedding)>>,
    /// Held while the network works: more at a time would only share the processor.
    at_work: Mutex<()>,
}

/// A picture, or the name of one that was sent before, and what is asked about it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    #[serde(default)]
    image: Option<Picture>,
    #[serde(default)]
    embedding: Option<String>,
    #[serde(default)]
    clicks: Vec<Place>,
    #[serde(default, rename = "box")]
    frame: Option<[f32; 4]>,
}

/// A click.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct Place {
    x: f32,
    y: f32,
    #[serde(default = "yes")]
    inside: bool,
}

const fn yes() -> bool {
    true
}

impl Masks {
    /// With a network that has seen nothing yet.
    pub fn new(segmenter: Segmenter) -> Self {
        Self { segmenter, seen: Mutex::default(), at_work: Mutex::new(()) }
    }

    /// What was seen under a name, which is the last to be forgotten from now on.
    fn recall(&self, id: &str) -> Option<Embedding> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let place = seen.iter().position(|(known, _)| known == id)?;
        let entry = seen.remove(place)?;
        let embedding = entry.1.clone();
        seen.push_back(entry);
        Some(embedding)
    }

    fn remember(&self, embedding: Embedding) -> String {
        let id = Uuid::now_v7().simple().to_string();
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        while seen.len() >= KEPT {
            seen.pop_front();
        }
        seen.push_back((id.clone(), embedding));
        id
    }

    fn answer(&self, question: Question, max_pixels: u64) -> Result<Value, Refusal> {
        if question.clicks.len() > MOST_CLICKS {
            let refusal = Refusal::bad(format!("there are {} clicks", question.clicks.len())).param("clicks");
            return Err(refusal.hint(format!("send at most {MOST_CLICKS}")));
        }
        let clicks: Vec<Click> =
            question.clicks.iter().map(|&Place { x, y, inside }| Click { x, y, is_inside: inside }).collect();
        let frame = question.frame.map(|[left, top, right, bottom]| Frame { left, top, right, bottom });
        let (id, embedding) = match (question.image, question.embedding) {
            (Some(Picture(bytes)), None) => {
                let name = Path::new("image");
                let (width, height) = picture::size_from_bytes(name, &bytes)?;
                submit::check_pixels(max_pixels, "image", width, height)?;
                let picture = picture::rgb_from_bytes(name, &bytes)?.picture;
                let embedding = self.at_work(|| self.segmenter.embed(&picture))?;
                (self.remember(embedding.clone()), embedding)
            }
            (None, Some(id)) => {
                let embedding = self.recall(&id).ok_or_else(|| {
                    let refusal = Refusal::missing("this picture is not kept any more").param("embedding");
                    refusal.hint("send the picture as image again")
                })?;
                (id, embedding)
            }
            _ => {
                let refusal = Refusal::bad("either image or embedding is needed").param("image");
                return Err(refusal.hint("send a picture once, and then the name that the answer gives it"));
            }
        };
        let (width, height) = embedding.size();
        let mut answer = json!({ "embedding": id, "width": width, "height": height });
        if !clicks.is_empty() || frame.is_some() {
            let Segment { mask, score, .. } = self.at_work(|| self.segmenter.mask(&embedding, &clicks, frame))?;
            let mut bytes = Vec::new();
            let encoder = png::PngEncoder::new(&mut bytes);
            mask.write_with_encoder(encoder).map_err(|error| {
                Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the mask cannot be written: {error}"))
            })?;
            answer["mask"] = String::from(Picture(bytes)).into();
            answer["score"] = score.into();
        }
        Ok(answer)
    }

    fn at_work<T>(&self, work: impl FnOnce() -> ace_plus::Result<T>) -> ace_plus::Result<T> {
        let _held = self.at_work.lock().unwrap_or_else(PoisonError::into_inner);
        work()
    }
}

/// A mask of what clicks and a box mean, and the name under which the picture is known now.
pub async fn mask(State(app): State<Arc<App>>, bytes: Bytes) -> Result<Json<Value>, Refusal> {
    let Some(masks) = app.masks.clone() else {
        let refusal = Refusal::missing("this server makes no masks");
        return Err(refusal.hint("it needs the weights of MobileSAM when it is started"));
    };
    let question: Question =
        serde_json::from_slice(&bytes).map_err(|error| Refusal::bad(format!("the body: {error}")))?;
    let most = app.limits.max_pixels;
    let answered = tokio::task::spawn_blocking(move || masks.answer(question, most)).await;
    let bug = |_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server has a bug"));
    answered.unwrap_or_else(bug).map(Json)
}
