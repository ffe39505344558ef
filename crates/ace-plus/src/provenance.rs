//! What made a picture, written into it as text: reading it makes the same bytes again, in every later version.
//!
//! No time stands in it, so equal runs write equal files.

use crate::{
    Error, Result, picture,
    request::{InputFile, LoraRequest, ModelRequest, RegionRequest, Request},
    sample::{Cache, Sampler, Schedule, SeedNoise},
};
use image::RgbImage;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// Under which it stands in a PNG.
const KEYWORD: &str = "ace";
/// The form that is written. Form 1 had no number and no request; it is read too.
const FORMAT: u32 = 2;

/// Everything that a picture follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Provenance {
    /// The form in which this is written.
    pub format: u32,
    /// Version of the program.
    #[serde(default)]
    pub version: String,
    /// Where it was computed.
    #[serde(default)]
    pub device: String,
    /// The card's networks and tokenizers: name and fingerprint.
    #[serde(default)]
    pub files: Vec<(String, String)>,
    /// What was asked for, with every default spelled out and every file's digest.
    #[serde(default)]
    pub request: Request,
}

impl Provenance {
    /// What is to be written into a picture.
    pub fn new(version: &str, device: String, files: Vec<(String, String)>, request: Request) -> Self {
        Self { format: FORMAT, version: version.to_owned(), device, files, request }
    }

    /// Reads what a picture was made of.
    ///
    /// # Errors
    /// If the file is no PNG, or nothing of this kind was written into it, or by a later version in a newer form.
    pub fn read(path: &Path) -> Result<Self> {
        Self::of_text(path, picture::read_text(path, KEYWORD)?)
    }

    /// As [`Provenance::read`], of bytes in memory; `name` stands for a path in messages.
    ///
    /// # Errors
    /// As [`Provenance::read`].
    pub fn from_bytes(name: &Path, bytes: &[u8]) -> Result<Self> {
        Self::of_text(name, picture::text_from_bytes(name, bytes, KEYWORD)?)
    }

    fn of_text(path: &Path, text: Option<String>) -> Result<Self> {
        let Some(text) = text else {
            let reason = "the picture does not say how it was made";
            return Err(Error::format(path, reason, "name a PNG that this program wrote, and not plain"));
        };
        Self::parse(&text).map_err(|problem| {
            let reason = format!("what made it is not understood: {problem}");
            Error::format(path, reason, "it was written by a later version, or changed by hand")
        })
    }

    /// The bytes of a PNG that says what made it.
    ///
    /// # Errors
    /// If the picture has no pixels.
    pub fn png(&self, image: &RgbImage) -> Result<Vec<u8>> {
        picture::png_with_text(Path::new("the picture"), image, KEYWORD, &self.text()?)
    }

    fn text(&self) -> Result<String> {
        serde_json::to_string(self)
            .map_err(|source| Error::input(format!("what made the picture cannot be written: {source}"), "report it"))
    }

    fn parse(text: &str) -> std::result::Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|source| source.to_string())?;
        let format = value.get("format").and_then(Value::as_u64);
        match format {
            None => serde_json::from_value::<First>(value).map(First::upgraded).map_err(|source| source.to_string()),
            Some(known) if known <= u64::from(FORMAT) => {
                serde_json::from_value(value).map_err(|source| source.to_string())
            }
            Some(newer) => Err(format!("it is in form {newer}, this version reads up to {FORMAT}")),
        }
    }

    /// Refuses other weights than those of then.
    ///
    /// # Errors
    /// [`Error::Changed`], which names the first file that is not what it was.
    pub fn check_weights(&self, files: &[(String, String)]) -> Result<()> {
        for (name, then) in &self.files {
            let now = files.iter().find_map(|(known, now)| (known == name).then_some(now));
            if now != Some(then) {
                let what = format!("{name} of the model is not what it was when the picture was made");
                return Err(Error::changed(what, "name the model of then, or take this one as it is now"));
            }
        }
        Ok(())
    }
}

/// Writes a picture, with what made it unless it is to be plain.
///
/// # Errors
/// If the place cannot be written.
pub fn write(path: &Path, image: &RgbImage, provenance: Option<&Provenance>) -> Result<()> {
    match provenance {
        Some(provenance) => picture::write_png_with_text(path, image, KEYWORD, &provenance.text()?),
        None => picture::write_png(path, image),
    }
}

/// Form 1, as the first versions wrote it.
#[derive(Deserialize)]
struct First {
    version: String,
    device: String,
    model: Option<String>,
    weights: Option<PathBuf>,
    #[serde(default)]
    overrides: Overrides,
    dtype: String,
    #[serde(default)]
    widen: bool,
    files: Vec<(String, String)>,
    #[serde(default)]
    loras: Vec<LoraRequest>,
    prompt: String,
    task: Option<String>,
    image: Option<InputFile>,
    mask: Option<InputFile>,
    #[serde(default)]
    references: Vec<InputFile>,
    map: Option<InputFile>,
    #[serde(default)]
    regions: Vec<(InputFile, String)>,
    size: Option<(u32, u32)>,
    seed: u64,
    #[serde(default)]
    seed_torch: bool,
    noise: Option<InputFile>,
    steps: usize,
    guidance: f32,
    repainting_scale: f32,
    keep_outside: bool,
    #[serde(default)]
    feather: u32,
    tile: Option<u32>,
    compat: Option<String>,
}

/// Files in other places than the card's, in form 1.
#[derive(Default, Deserialize)]
pub(crate) struct Overrides {
    flux: Option<PathBuf>,
    autoencoder: Option<PathBuf>,
    t5: Option<PathBuf>,
    clip: Option<PathBuf>,
}

impl Overrides {
    pub(crate) fn upgraded(self) -> std::collections::BTreeMap<String, PathBuf> {
        let all = [("flux", self.flux), ("autoencoder", self.autoencoder), ("t5", self.t5), ("clip", self.clip)];
        all.into_iter().filter_map(|(word, path)| Some((word.to_owned(), path?))).collect()
    }
}

impl First {
    fn upgraded(self) -> Provenance {
        let model = ModelRequest {
            name: self.model,
            weights: self.weights,
            networks: self.overrides.upgraded(),
            loras: self.loras,
            dtype: Some(self.dtype),
            widen: Some(self.widen),
            quantize: None,
            placement: None,
        };
        let region = |(mask, instruction)| RegionRequest { mask, instruction };
        let request = Request {
            model,
            instruction: Some(self.prompt).filter(|_| self.regions.is_empty()),
            task: self.task,
            image: self.image,
            mask: self.mask,
            references: self.references,
            picture_prompts: Vec::new(),
            map: self.map,
            regions: self.regions.into_iter().map(region).collect(),
            size: self.size,
            seed: Some(self.seed),
            seed_noise: Some(if self.seed_torch { SeedNoise::Torch } else { SeedNoise::ChaCha }),
            noise: self.noise,
            num_steps: Some(self.steps),
            // There was nothing else.
            sampler: Some(Sampler::Euler),
            schedule: Some(Schedule::Flux),
            shift: None,
            cache: Some(Cache::Off),
            masked_steps: None,
            guidance: Some(self.guidance),
            repainting_scale: Some(self.repainting_scale),
            keep_outside: Some(self.keep_outside),
            feather: Some(self.feather),
            tile: self.tile,
            compat: self.compat.as_deref().and_then(crate::Compat::from_name),
        };
        // The card's fingerprint was of text that is not written any more.
        let files = self.files.into_iter().filter(|(name, _)| name != "card").collect();
        Provenance { format: FORMAT, version: self.version, device: self.device, files, request }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What version 0.1.0 wrote before there were requests.
    const FIRST: &str = r#"{"version":"0.1.0","device":"flex (a processor, 2 threads)","model":null,"weights":null,
        "overrides":{"flux":"other.gguf","autoencoder":null,"t5":null,"clip":null},"dtype":"f32","widen":false,
        "files":[["card","0f"],["flux","1f"]],"loras":[{"file":{"path":"l.safetensors","sha256":"2f"},"weight":0.5}],
        "prompt":"make the circle green","task":"recolor","image":{"path":"i.png","sha256":"3f"},
        "mask":{"path":"m.png","sha256":"4f"},"references":[],"map":null,"regions":[],"size":null,"seed":3,
        "seed_torch":false,"noise":null,"steps":8,"guidance":3.5,"repainting_scale":0.0,"keep_outside":true,
        "feather":0,"tile":null,"compat":null}"#;

    #[test]
    fn the_first_form_is_read() {
        let read = Provenance::parse(FIRST).unwrap();
        assert_eq!(read.files, [("flux".to_owned(), "1f".to_owned())]);
        let request = &read.request;
        assert_eq!(request.model.networks["flux"], Path::new("other.gguf"));
        assert_eq!(request.model.loras[0].weight, 0.5);
        assert_eq!(request.image.as_ref().unwrap().sha256.as_deref(), Some("3f"));
        assert_eq!((request.seed, request.num_steps, request.guidance), (Some(3), Some(8), Some(3.5)));
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(Provenance::parse(&text).unwrap(), read);
    }

    #[test]
    fn a_newer_form_is_named() {
        let problem = Provenance::parse(r#"{"format": 99}"#).unwrap_err();
        assert_eq!(problem, "it is in form 99, this version reads up to 2");
        assert!(Provenance::parse(r#"{"format": 2, "later": 1}"#).is_ok());
    }
}
