//! What a client of OpenAI's API is answered: pictures in JSON, or events as they come.

use super::mask::Convention;
use crate::{
    error::Refusal,
    job::Job,
    jobs::{Event, State, now},
    watch::{Attended, Speak, Watch},
};
use ace_plus::image::{self, ImageFormat, codecs::jpeg::JpegEncoder};
use axum::{
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode},
    response::sse,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{collections::VecDeque, io::Cursor};

/// Quality of a JPEG unless it is asked for.
const QUALITY: u8 = 95;

/// Which of their routes it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A picture of words.
    Generation,
    /// A picture of pictures and words.
    Edit,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::Generation => "image_generation",
            Self::Edit => "image_edit",
        }
    }
}

/// As which kind of file a picture is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// As it was made, with what made it inside.
    Png,
    /// So good, 1 to 100.
    Jpeg(u8),
    /// Without loss.
    WebP,
}

impl Format {
    /// The one that is asked for.
    ///
    /// # Errors
    /// If there is no such format, or no such quality.
    pub fn of(name: Option<String>, compression: Option<u8>) -> Result<Self, Refusal> {
        if compression.is_some_and(|quality| quality > 100) {
            let refusal = Refusal::bad("output_compression is above 100").param("output_compression");
            return Err(refusal.hint("100 is best"));
        }
        match name.as_deref() {
            None | Some("png") => Ok(Self::Png),
            Some("jpeg" | "jpg") => Ok(Self::Jpeg(compression.unwrap_or(QUALITY).max(1))),
            Some("webp") => Ok(Self::WebP),
            Some(other) => {
                let refusal = Refusal::bad(format!("output_format is {other:?}")).param("output_format");
                Err(refusal.hint("choose png, jpeg or webp"))
            }
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Png => "png",
            Self::Jpeg(_) => "jpeg",
            Self::WebP => "webp",
        }
    }

    /// The bytes of a PNG in this format.
    fn of_png(self, png: Vec<u8>) -> Result<Vec<u8>, Refusal> {
        let broken = |error: image::ImageError| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
        if self == Self::Png {
            return Ok(png);
        }
        let picture = image::load_from_memory(&png).map_err(broken)?.into_rgb8();
        let mut bytes = Cursor::new(Vec::new());
        match self {
            Self::Jpeg(quality) => picture.write_with_encoder(JpegEncoder::new_with_quality(&mut bytes, quality)),
            _ => picture.write_to(&mut bytes, ImageFormat::WebP),
        }
        .map_err(broken)?;
        Ok(bytes.into_inner())
    }
}

/// How a request wants to be answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Which route was asked.
    pub kind: Kind,
    /// Kind of file.
    pub format: Format,
    /// Addresses instead of bytes.
    pub as_url: bool,
    /// Events instead of one answer.
    pub streams: bool,
    /// How the mask was read.
    pub convention: Option<Convention>,
    /// Fields that were not understood.
    pub ignored: Vec<String>,
}

impl Reply {
    /// What is said beside the answer.
    pub fn headers(&self, job: &Job) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, text: &str| {
            // A header is one line of ASCII.
            let text: String =
                text.chars().map(|letter| if letter.is_ascii_graphic() { letter } else { ' ' }).collect();
            if let Ok(value) = HeaderValue::from_str(&text) {
                headers.append(HeaderName::from_static(name), value);
            }
        };
        put("x-ace-job", &job.ask.id);
        put("x-ace-seed", &job.ask.request.seed.unwrap_or_default().to_string());
        if let Some(convention) = self.convention {
            put("x-ace-mask", convention.name());
        }
        if !self.ignored.is_empty() {
            put("x-ace-ignored", &self.ignored.join(", "));
        }
        job.ask.notes.iter().for_each(|note| put("x-ace-note", note));
        headers
    }

    /// The whole answer.
    ///
    /// # Errors
    /// If a picture is not there any more.
    pub async fn body(&self, attended: &Attended) -> Result<Value, Refusal> {
        let status = attended.job.status();
        if status.state != State::Done {
            let refusal = Refusal::new(StatusCode::CONFLICT, format!("the job was {}", status.state.name()));
            return Err(refusal.code("job_is_over"));
        }
        let mut data = Vec::new();
        let mut size = None;
        for nth in 0..attended.job.ask.count {
            let picture = self.picture(attended, nth).await?;
            size = Some(picture.size);
            data.push(match self.as_url {
                true => json!({ "url": status.pictures.get(nth as usize) }),
                false => json!({ "b64_json": picture.base64 }),
            });
        }
        let mut body = self.about(&attended.job, size);
        body["created"] = now().into();
        body["data"] = data.into();
        Ok(body)
    }

    /// What all answers say of the pictures.
    fn about(&self, job: &Job, size: Option<(u32, u32)>) -> Value {
        let tokens = job.status().tokens;
        let of_image = if self.kind == Kind::Edit { tokens.image } else { 0 };
        json!({
            "background": "opaque",
            "output_format": self.format.name(),
            "quality": "high",
            "size": size.map(|(width, height)| format!("{width}x{height}")),
            "usage": {
                "input_tokens": tokens.text + of_image,
                "input_tokens_details": { "text_tokens": tokens.text, "image_tokens": of_image },
                "output_tokens": tokens.image,
                "total_tokens": tokens.text + of_image + tokens.image,
            },
        })
    }

    async fn picture(&self, attended: &Attended, nth: u32) -> Result<Sent, Refusal> {
        let (png, format) = (attended.picture(nth).await?, self.format);
        let sent = tokio::task::spawn_blocking(move || {
            let size = ace_plus::picture::size_from_bytes(std::path::Path::new("the picture"), &png)?;
            Ok(Sent { size, base64: STANDARD.encode(format.of_png(png)?) })
        });
        sent.await.unwrap_or_else(|_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server has a bug")))
    }

    /// The event that shows what becomes of the noise.
    fn partial(&self, picture: &str, index: u32) -> Value {
        let base64 = picture.split_once(',').map_or(picture, |(_, bytes)| bytes);
        let format = if picture.starts_with("data:image/jpeg") { "jpeg" } else { "png" };
        json!({
            "type": format!("{}.partial_image", self.kind.word()),
            "b64_json": base64,
            "partial_image_index": index,
            "created_at": now(),
            "background": "opaque",
            "output_format": format,
            "quality": "high",
            "size": "auto",
        })
    }

    /// The event that has a picture.
    async fn completed(&self, attended: &Attended, nth: u32) -> Result<Value, Refusal> {
        let picture = self.picture(attended, nth).await?;
        let mut event = self.about(&attended.job, Some(picture.size));
        event["type"] = format!("{}.completed", self.kind.word()).into();
        event["b64_json"] = picture.base64.into();
        event["created_at"] = now().into();
        Ok(event)
    }
}

/// A picture on its way.
struct Sent {
    size: (u32, u32),
    base64: String,
}

/// Events of a stream.
pub struct Told {
    reply: Reply,
    attended: Attended,
    watch: Watch,
    partials: u32,
    /// What is to be said before anything else happens.
    ready: VecDeque<Value>,
}

impl Told {
    /// Those of a job.
    pub fn new(reply: Reply, attended: Attended, watch: Watch) -> Self {
        Self { reply, attended, watch, partials: 0, ready: VecDeque::new() }
    }

    async fn end(&mut self) {
        let status = self.attended.job.status();
        if let Some(problem) = status.error {
            self.ready.push_back(Refusal::from(problem).body());
            return;
        }
        for nth in 0..self.attended.job.ask.count {
            let event = match status.state {
                State::Done => self.reply.completed(&self.attended, nth).await,
                state => Err(Refusal::new(StatusCode::CONFLICT, format!("the job was {}", state.name()))),
            };
            self.ready.push_back(event.unwrap_or_else(|refusal| refusal.body()));
        }
    }
}

impl Speak for Told {
    async fn next(&mut self) -> Option<sse::Event> {
        loop {
            if let Some(value) = self.ready.pop_front() {
                let event = sse::Event::default().data(value.to_string());
                return Some(match value["type"].as_str() {
                    Some(kind) => event.event(kind),
                    None => event,
                });
            }
            match self.watch.next().await? {
                Ok(Event::Preview { picture, .. }) => {
                    self.ready.push_back(self.reply.partial(&picture, self.partials));
                    self.partials += 1;
                }
                Ok(Event::Over(_)) => self.end().await,
                Ok(_) => {}
                Err(refusal) => self.ready.push_back(refusal.body()),
            }
        }
    }
}
