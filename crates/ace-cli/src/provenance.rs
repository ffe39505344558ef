//! What made a picture, written into it: `ace sample --from out.png` reads it and makes the same bytes again.
//!
//! No time and no place stands in it, so equal runs write equal files.

use crate::{
    args::{self, RegionWords, SampleArgs},
    model::{Lora, Overrides},
    report::Failure,
};
use ace_plus::{Compat, Error, SeedNoise, digest, picture};
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// Under which it stands in a PNG.
const KEYWORD: &str = "ace";

/// Everything that a picture follows from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Version of the program.
    pub version: String,
    /// Where it was computed.
    pub device: String,
    /// Card or folder, as asked for.
    pub model: Option<String>,
    /// Folder of the weights, if it was named.
    pub weights: Option<PathBuf>,
    /// Files in other places than the card's.
    pub overrides: Overrides,
    /// Numbers of transformer and text encoders.
    pub dtype: String,
    /// Whether packed weights were widened when they were read.
    pub widen: bool,
    /// The card's networks and tokenizers: name and fingerprint.
    pub files: Vec<(String, String)>,
    /// Adapters in their order.
    pub loras: Vec<Adapter>,
    /// The words.
    pub prompt: String,
    pub task: Option<String>,
    pub image: Option<Input>,
    pub mask: Option<Input>,
    pub references: Vec<Input>,
    pub map: Option<Input>,
    /// Places with words of their own.
    pub regions: Vec<(Input, String)>,
    pub size: Option<(u32, u32)>,
    pub seed: u64,
    /// Whether torch's generator drew the noise.
    pub seed_torch: bool,
    pub noise: Option<Input>,
    pub steps: usize,
    pub guidance: f32,
    pub repainting_scale: f32,
    pub keep_outside: bool,
    pub feather: u32,
    pub tile: Option<u32>,
    pub compat: Option<String>,
}

/// A file that went in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    pub path: PathBuf,
    pub sha256: String,
}

/// An adapter and how strongly it counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Adapter {
    pub file: Input,
    pub weight: f64,
}

impl Input {
    /// # Errors
    /// If the file cannot be read.
    pub fn of(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), sha256: digest::sha256(path, &mut |_| ())? })
    }

    /// Refuses a file that is not what it was; `flag` names another.
    fn check(&self, flag: &str) -> Result<()> {
        let found = digest::sha256(&self.path, &mut |_| ()).map_err(|error| {
            let what = format!("what the picture was made from cannot be read: {error}");
            Failure::new(what, format!("start where it was made, or name the file with {flag}"))
        })?;
        if found == self.sha256 {
            return Ok(());
        }
        let what = format!("{} has changed since the picture was made from it", self.path.display());
        Err(Failure::new(what, format!("name the old file, or this one to take it as it is now, with {flag}")).into())
    }
}

impl Provenance {
    /// The words of a picture that this writes.
    ///
    /// # Errors
    /// None for what this program makes; JSON has no place for numbers that are none.
    pub fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string(self)?)
    }

    /// Reads what a picture was made of.
    ///
    /// # Errors
    /// If the file is no PNG, or has not been written by this program, or by another version of it in another way.
    pub fn read(path: &Path) -> Result<Self> {
        let Some(text) = picture::read_text(path, KEYWORD)? else {
            let reason = "the picture does not say how it was made";
            return Err(Error::format(path, reason, "name a PNG that ace sample wrote, without --plain").into());
        };
        let read = serde_json::from_str(&text);
        Ok(read.map_err(|source| {
            Error::format(path, format!("what made it is not understood: {source}"), "it is of another version of ace")
        })?)
    }

    /// What was asked for then, where `args` say nothing else now.
    ///
    /// # Errors
    /// If a file that it takes from then is missing or has changed.
    pub fn under(self, args: &SampleArgs) -> Result<SampleArgs> {
        let mut now = args.clone();
        if now.model.model.is_none() && now.model.weights.is_none() && now.model.overrides == Overrides::default() {
            now.model.model = self.model;
            now.model.weights = self.weights;
            now.model.overrides = self.overrides;
        }
        now.widen |= self.widen;
        now.dtype = now.dtype.or(args::dtype(&self.dtype).ok());
        if now.lora.is_empty() {
            for Adapter { file, weight } in self.loras {
                file.check("--lora")?;
                now.lora.push(Lora { path: file.path, weight });
            }
        }
        // A picture of its own takes the mask of then away with the picture of then.
        if now.image.is_none() && now.width.is_none() {
            now.mask = taken(now.mask, self.mask, "--mask")?;
            now.map = taken(now.map, self.map, "--map")?;
            if now.regions.is_empty() {
                for (mask, words) in self.regions {
                    mask.check("--region")?;
                    now.regions.push(RegionWords { mask: mask.path, words });
                }
            }
            now.image = taken(None, self.image, "--image")?;
            (now.width, now.height) = self.size.unzip();
        }
        if now.references.is_empty() {
            for reference in self.references {
                reference.check("--reference")?;
                now.references.push(reference.path);
            }
        }
        // Words, seeds and noise of now replace those of then.
        if now.noise.is_none() && now.seed.is_empty() && now.prompts.is_none() {
            now.noise = taken(None, self.noise, "--noise")?;
        }
        if now.seed.is_empty() {
            now.seed = vec![self.seed];
        }
        if now.prompt.is_none() && now.prompts.is_none() && now.regions.is_empty() {
            now.prompt = Some(self.prompt);
        }
        // Another task brings its own share of what is shown.
        if now.task.is_none() {
            now.repainting_scale = now.repainting_scale.or(Some(self.repainting_scale));
        }
        now.task = now.task.or(self.task);
        now.seed_compat = now.seed_compat.or(self.seed_torch.then_some(SeedNoise::Torch));
        now.steps = now.steps.or(Some(self.steps));
        now.guidance = now.guidance.or(Some(self.guidance));
        now.no_keep_outside |= !self.keep_outside;
        now.tile = now.tile.or(self.tile);
        now.feather = now.feather.or(Some(self.feather));
        now.compat = now.compat.or(self.compat.as_deref().and_then(Compat::from_name));
        Ok(now)
    }

    /// Refuses other weights than those of then.
    ///
    /// # Errors
    /// Names the first file that is not what it was.
    pub fn check_files(&self, files: &[(String, String)]) -> Result<()> {
        for (name, then) in &self.files {
            let now = files.iter().find_map(|(known, now)| (known == name).then_some(now));
            if now != Some(then) {
                let what = format!("{name} of the model is not what it was when the picture was made");
                let hint = "name the model of then with --model, or this one, to take it as it is now";
                return Err(Failure::new(what, hint).into());
            }
        }
        Ok(())
    }
}

/// The file of now, or that of then if it is unchanged.
fn taken(now: Option<PathBuf>, then: Option<Input>, flag: &str) -> Result<Option<PathBuf>> {
    let (None, Some(then)) = (&now, then) else { return Ok(now) };
    then.check(flag)?;
    Ok(Some(then.path))
}

/// Writes a picture, with what made it unless it is to be plain.
///
/// # Errors
/// If the place cannot be written.
pub fn write(path: &Path, image: &image::RgbImage, provenance: Option<&Provenance>) -> Result<()> {
    crate::files::make_folder_of(path)?;
    match provenance {
        Some(provenance) => picture::write_png_with_text(path, image, KEYWORD, &provenance.to_text()?)?,
        None => picture::write_png(path, image)?,
    }
    Ok(())
}
