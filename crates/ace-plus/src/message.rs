//! What a user asks as one message, with its pictures inside: what goes over a wire, where there are no files. Its fields
//! are those of a [`Request`], which it becomes once its pictures have names.
//!
//! ```
//! let text = r#"{"instruction": "make the circle green", "task": "recolor", "image": "data:image/png;base64,iVBORw0=", "seed": 7}"#;
//! let message: ace_plus::Message = serde_json::from_str(text).unwrap();
//! assert_eq!((message.seed, message.image.unwrap().0.len()), (Some(7), 5));
//! ```

use crate::{
    Compat, Result, SeedNoise,
    request::{InputFile, PicturePromptRequest, RegionRequest, Request},
    sample::{Cache, Sampler, Schedule},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use data_url::DataUrl;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a user asks, pictures inside. What is not said, the task says, and then the card.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// Which model; the first that is served unless said.
    pub model: Option<String>,
    /// The words.
    pub instruction: Option<String>,
    /// Kind of edit.
    pub task: Option<String>,
    /// Picture to edit.
    pub image: Option<Picture>,
    /// What to repaint of it: white, in a picture of the same size.
    pub mask: Option<Picture>,
    /// Pictures to take something from.
    pub references: Vec<Picture>,
    /// Pictures that are read as words are, by models with Redux on top.
    pub picture_prompts: Vec<PictureWord>,
    /// The user's own drawing of the image.
    pub map: Option<Picture>,
    /// Places of the image with words of their own, instead of mask and words of the whole.
    pub regions: Vec<Region>,
    /// Adapters that count, by their names.
    pub loras: Vec<NamedLora>,
    /// Width and height of a picture that is made from nothing, in pixels.
    pub size: Option<(u32, u32)>,
    /// What the noise follows from.
    pub seed: Option<u64>,
    /// Which generator draws it.
    pub seed_noise: Option<SeedNoise>,
    /// Steps from noise to latents.
    pub num_steps: Option<usize>,
    /// How a step is taken.
    pub sampler: Option<Sampler>,
    /// How the times of the steps are spread.
    pub schedule: Option<Schedule>,
    /// How far they are shifted towards noise.
    pub shift: Option<f64>,
    /// Which steps need not be computed.
    pub cache: Option<Cache>,
    /// From one step that asks for the tokens outside the mask to the next.
    pub masked_steps: Option<usize>,
    /// Guidance that is embedded.
    pub guidance: Option<f32>,
    /// What is blanked under the mask.
    pub repainting_scale: Option<f32>,
    /// Whether the image's own pixels are given back where the mask is black.
    pub keep_outside: Option<bool>,
    /// Pixels outside the mask over which the edit fades into the image.
    pub feather: Option<u32>,
    /// Side of the autoencoder's tiles, in pixels.
    pub tile: Option<u32>,
    /// Another program's preparation.
    pub compat: Option<Compat>,
    /// Pictures to make, of this seed and those that follow; 1 unless said.
    pub n: Option<u32>,
    /// Whether to show on the way what becomes of the noise.
    pub previews: bool,
}

/// The bytes of a picture's file; in JSON a `data:` URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Picture(pub Vec<u8>);

/// A place of the image and what should be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Region {
    /// What to repaint.
    pub mask: Picture,
    /// What should be seen there.
    pub instruction: String,
}

/// A picture that is read as words are, and how strongly it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PictureWord {
    /// The picture.
    pub picture: Picture,
    /// How often its tokens, and the words beside them, are counted.
    #[serde(default = "once")]
    pub scale: f32,
    /// How often the summary of the words is counted for it.
    #[serde(default = "once")]
    pub pooled_scale: f32,
}

fn once() -> f32 {
    1.0
}

/// An adapter by its name, and how strongly it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NamedLora {
    /// What it is called where it is served.
    pub name: String,
    /// 1 as it was trained, 0 not at all; as it is served unless said.
    #[serde(default)]
    pub weight: Option<f64>,
}

impl std::fmt::Debug for Picture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Picture({} bytes)", self.0.len())
    }
}

impl TryFrom<String> for Picture {
    type Error = String;

    fn try_from(text: String) -> std::result::Result<Self, String> {
        if !text.starts_with("data:") {
            return Err("a picture is a data: URL with its bytes; other addresses are never fetched".to_owned());
        }
        let url = DataUrl::process(&text).map_err(|problem| format!("not a readable data: URL: {problem}"))?;
        let (bytes, _) = url.decode_to_vec().map_err(|problem| format!("not a readable data: URL: {problem}"))?;
        Ok(Self(bytes))
    }
}

impl From<Picture> for String {
    fn from(Picture(bytes): Picture) -> Self {
        let kind = match image::guess_format(&bytes) {
            Ok(format) => format.to_mime_type(),
            Err(_) => "application/octet-stream",
        };
        format!("data:{kind};base64,{}", STANDARD.encode(bytes))
    }
}

/// Who gives a picture a place: it is told what the picture is of the edit, such as `image` or `reference-1`.
pub type Keep<'a> = &'a mut dyn FnMut(&str, Vec<u8>) -> Result<PathBuf>;

impl Message {
    /// The request that the message is, once `keep` has given each of its pictures a place. Model and adapters are not in
    /// it: they are names of whoever serves them.
    ///
    /// # Errors
    /// Those of `keep`.
    pub fn into_request(self, keep: Keep<'_>) -> Result<Request> {
        let mut file = |what: &str, Picture(bytes)| -> Result<InputFile> { Ok(keep(what, bytes)?.into()) };
        let image = self.image.map(|picture| file("image", picture)).transpose()?;
        let mask = self.mask.map(|picture| file("mask", picture)).transpose()?;
        let map = self.map.map(|picture| file("map", picture)).transpose()?;
        let mut references = Vec::with_capacity(self.references.len());
        for (picture, number) in self.references.into_iter().zip(1..) {
            references.push(file(&format!("reference-{number}"), picture)?);
        }
        let mut picture_prompts = Vec::with_capacity(self.picture_prompts.len());
        for (PictureWord { picture, scale, pooled_scale }, number) in self.picture_prompts.into_iter().zip(1..) {
            let picture = file(&format!("prompt-{number}"), picture)?;
            picture_prompts.push(PicturePromptRequest { picture, scale, pooled_scale });
        }
        let mut regions = Vec::with_capacity(self.regions.len());
        for (Region { mask, instruction }, number) in self.regions.into_iter().zip(1..) {
            regions.push(RegionRequest { mask: file(&format!("region-{number}"), mask)?, instruction });
        }
        Ok(Request {
            instruction: self.instruction,
            task: self.task,
            image,
            mask,
            references,
            picture_prompts,
            map,
            regions,
            size: self.size,
            seed: self.seed,
            seed_noise: self.seed_noise,
            num_steps: self.num_steps,
            sampler: self.sampler,
            schedule: self.schedule,
            shift: self.shift,
            cache: self.cache,
            masked_steps: self.masked_steps,
            guidance: self.guidance,
            repainting_scale: self.repainting_scale,
            keep_outside: self.keep_outside,
            feather: self.feather,
            tile: self.tile,
            compat: self.compat,
            ..Request::default()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::collections::BTreeSet;

    /// Names of the fields of what is written.
    fn fields(value: &impl Serialize) -> BTreeSet<String> {
        serde_json::to_value(value).unwrap().as_object().unwrap().keys().cloned().collect()
    }

    #[test]
    fn a_message_can_say_what_a_request_can() {
        let (message, request) = (fields(&Message::default()), fields(&Request::default()));
        // Noise in a file is nothing to send; adapters are named where the request has them in its model.
        let missing: Vec<_> = request.difference(&message).map(String::as_str).collect();
        let more: Vec<_> = message.difference(&request).map(String::as_str).collect();
        assert_eq!((missing, more), (vec!["noise"], vec!["loras", "n", "previews"]));
    }

    #[test]
    fn every_field_arrives_in_the_request() {
        let picture = "data:image/png;base64,AAAA";
        let text = json!({
            "instruction": "w", "task": "t", "image": picture, "mask": picture, "references": [picture], "map": picture,
            "picture_prompts": [{"picture": picture, "scale": 0.5}],
            "regions": [{"mask": picture, "instruction": "r"}], "size": [64, 32], "seed": 1, "seed_noise": "torch",
            "num_steps": 2, "sampler": "heun", "schedule": "karras", "shift": 3.0, "cache": "0.1", "masked_steps": 2,
            "guidance": 4.0, "repainting_scale": 0.5, "keep_outside": false, "feather": 3, "tile": 64,
            "compat": "official",
        });
        let message: Message = serde_json::from_value(text).unwrap();
        let mut kept = Vec::new();
        let request = message.into_request(&mut |what, bytes| {
            kept.push(format!("{what} {}", bytes.len()));
            Ok(what.into())
        });
        let request = serde_json::to_value(request.unwrap()).unwrap();
        let empty = |value: &Value| value.is_null() || value == &json!([]);
        let unsaid: Vec<_> = request.as_object().unwrap().iter().filter(|(_, value)| empty(value)).collect();
        assert_eq!(unsaid, [(&"noise".to_owned(), &Value::Null)]);
        assert_eq!(kept, ["image 3", "mask 3", "map 3", "reference-1 3", "prompt-1 3", "region-1 3"]);
    }

    #[test]
    fn other_addresses_are_refused_and_a_picture_says_its_kind() {
        let refused = serde_json::from_value::<Message>(json!({"image": "https://example.org/a.png"})).unwrap_err();
        assert!(refused.to_string().contains("never fetched"), "{refused}");
        assert!(serde_json::from_value::<Message>(json!({"image": "data:image/png;base64,@"})).is_err());
        let png = Picture(b"\x89PNG\r\n\x1a\n".to_vec());
        let text = String::from(png.clone());
        assert!(text.starts_with("data:image/png;base64,iVBORw0KGgo"), "{text}");
        assert_eq!(Picture::try_from(text), Ok(png));
    }
}
