//! What a user asks for, in a form that can be stored: the command line, a session, the text inside a PNG, a server and a
//! library all speak it. Whatever is not said is left to the task and the card.
//!
//! Stored requests stay readable: fields are only ever added, each with a default, and what was written before there
//! were requests is brought into this form ([`crate::provenance`]).

use crate::{
    Card, Compat, Edit, Error, Model, Placement, Result, SeedNoise,
    picture::{self, Noted},
    prompt::PicturePrompt,
    sample::{Cache, Sampler, Schedule},
};
use ace_nn::weight::Packing;
use ace_weights::{Network, WeightFile, digest};
use burn::tensor::FloatDType;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What a user asks for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Request {
    /// Which model, and how it is held.
    pub model: ModelRequest,
    /// The words.
    pub instruction: Option<String>,
    /// Kind of edit.
    pub task: Option<String>,
    /// Picture to edit.
    pub image: Option<InputFile>,
    /// What to repaint of it.
    pub mask: Option<InputFile>,
    /// Pictures to take something from.
    pub references: Vec<InputFile>,
    /// Pictures that are read as words are.
    pub picture_prompts: Vec<PicturePromptRequest>,
    /// The user's own drawing of the image.
    pub map: Option<InputFile>,
    /// Places of the image with words of their own, instead of mask and words of the whole.
    pub regions: Vec<RegionRequest>,
    /// Width and height of a picture that is made from nothing, in pixels.
    pub size: Option<(u32, u32)>,
    /// What the noise follows from.
    pub seed: Option<u64>,
    /// Which generator draws it.
    pub seed_noise: Option<SeedNoise>,
    /// Initial noise instead of the seed's: safetensors with `noise`.
    pub noise: Option<InputFile>,
    /// Steps from noise to latents.
    pub num_steps: Option<usize>,
    /// How a step is taken.
    pub sampler: Option<Sampler>,
    /// How the times of the steps are spread.
    pub schedule: Option<Schedule>,
    /// How far they are shifted towards noise, whatever the size; as the card says unless said.
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
}

/// Which model, and how it is held.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ModelRequest {
    /// Card or folder.
    pub name: Option<String>,
    /// Folder of the weights.
    pub weights: Option<PathBuf>,
    /// Files in other places than the card's, by the network's word.
    pub networks: BTreeMap<String, PathBuf>,
    /// LoRAs in their order.
    pub loras: Vec<LoraRequest>,
    /// Numbers of transformer and text encoders: `f32`, `bf16` or `f16`.
    pub dtype: Option<String>,
    /// Whether packed weights are widened when they are read.
    pub widen: Option<bool>,
    /// Bits to which matrices of blocks are packed when they are read: `q8_0`, `q4_0` or `nf4`.
    pub quantize: Option<String>,
    /// Where the weights are while it works.
    pub placement: Option<Placement>,
}

/// A file that goes in. Its digest is known once something was made of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InputFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of what it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
}

/// A LoRA and how strongly it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoraRequest {
    /// The file.
    pub file: InputFile,
    /// 1 as it was trained, 0 not at all.
    pub weight: f64,
}

/// A picture that is read as words are, and how strongly it counts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PicturePromptRequest {
    /// The picture.
    pub picture: InputFile,
    /// How often its tokens, and the words beside them, are counted.
    pub scale: f32,
    /// How often the summary of the words is counted for it.
    pub pooled_scale: f32,
}

impl Default for PicturePromptRequest {
    fn default() -> Self {
        Self { picture: InputFile::default(), scale: 1.0, pooled_scale: 1.0 }
    }
}

/// A place of the image and what should be there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegionRequest {
    /// What to repaint.
    pub mask: InputFile,
    /// What should be seen there.
    pub instruction: String,
}

impl<P: Into<PathBuf>> From<P> for InputFile {
    fn from(path: P) -> Self {
        Self { path: path.into(), sha256: None }
    }
}

/// The names of numbers.
pub const DTYPES: [(&str, FloatDType); 3] =
    [("f32", FloatDType::F32), ("bf16", FloatDType::BF16), ("f16", FloatDType::F16)];

impl ModelRequest {
    /// Whether it says nothing on which model.
    fn names_none(&self) -> bool {
        self.name.is_none() && self.weights.is_none() && self.networks.is_empty()
    }

    /// This request where it says something, `then` elsewhere.
    pub fn over(self, then: Self) -> Self {
        let (name, weights, networks) = match self.names_none() {
            true => (then.name, then.weights, then.networks),
            false => (self.name, self.weights, self.networks),
        };
        Self {
            name,
            weights,
            networks,
            loras: if self.loras.is_empty() { then.loras } else { self.loras },
            dtype: self.dtype.or(then.dtype),
            widen: self.widen.or(then.widen),
            quantize: self.quantize.or(then.quantize),
            placement: self.placement.or(then.placement),
        }
    }

    /// The numbers of transformer and text encoders; f32 unless said.
    ///
    /// # Errors
    /// If there are no such numbers.
    pub fn float_dtype(&self) -> Result<FloatDType> {
        let Some(name) = &self.dtype else { return Ok(FloatDType::F32) };
        let found = DTYPES.iter().find_map(|(known, dtype)| (known == name).then_some(*dtype));
        found.ok_or_else(|| {
            let known = DTYPES.map(|(known, _)| known).join(", ");
            Error::input(format!("there are no numbers {name:?}"), format!("known are: {known}"))
        })
    }

    /// How matrices of blocks are packed, if they are to be.
    ///
    /// # Errors
    /// If there is no such packing.
    pub fn packing(&self) -> Result<Option<Packing>> {
        let Some(name) = &self.quantize else { return Ok(None) };
        let found = Packing::WRITTEN.into_iter().find(|packing| packing.name() == name);
        found.map(Some).ok_or_else(|| {
            let known = Packing::WRITTEN.map(Packing::name).join(", ");
            Error::input(format!("nothing is packed as {name:?}"), format!("known are: {known}"))
        })
    }

    /// Tells a model how it is to be held and what comes on top; relative paths begin at `base`.
    ///
    /// # Errors
    /// If there are no such numbers or networks.
    pub fn apply(&self, mut model: Model, base: &Path) -> Result<Model> {
        if let Some(folder) = &self.weights {
            model = model.weights(base.join(folder));
        }
        for (word, path) in &self.networks {
            let network = Network::from_word(word).ok_or_else(|| {
                Error::input(format!("there is no network {word:?}"), "flux, autoencoder, t5 or clip")
            })?;
            model = model.network(network, base.join(path));
        }
        for lora in &self.loras {
            model = model.lora(base.join(&lora.file.path), lora.weight);
        }
        Ok(model
            .dtype(self.float_dtype()?)
            .widen(self.widen.unwrap_or_default())
            .quantize(self.packing()?)
            .placement(self.placement.unwrap_or_default()))
    }
}

impl Request {
    /// This request where it says something, `then` elsewhere. What belongs together goes together: a picture of its own
    /// takes mask, map and regions of then away, words or a seed of its own the noise of then, another task the share
    /// that was shown then.
    pub fn over(self, then: Self) -> Self {
        let has_picture = self.image.is_some() || self.size.is_some();
        let has_noise = self.noise.is_some() || self.seed.is_some();
        let is_same_task = self.task.is_none();
        let regions = match self.regions.is_empty() && !has_picture {
            true => then.regions,
            false => self.regions,
        };
        Self {
            model: self.model.over(then.model),
            instruction: if regions.is_empty() { self.instruction.or(then.instruction) } else { self.instruction },
            task: self.task.or(then.task),
            image: if has_picture { self.image } else { then.image },
            mask: if has_picture { self.mask } else { self.mask.or(then.mask) },
            map: if has_picture { self.map } else { self.map.or(then.map) },
            size: if has_picture { self.size } else { then.size },
            regions,
            references: if self.references.is_empty() { then.references } else { self.references },
            picture_prompts: match self.picture_prompts.is_empty() {
                true => then.picture_prompts,
                false => self.picture_prompts,
            },
            noise: if has_noise { self.noise } else { then.noise },
            seed: self.seed.or(then.seed),
            seed_noise: self.seed_noise.or(then.seed_noise),
            num_steps: self.num_steps.or(then.num_steps),
            sampler: self.sampler.or(then.sampler),
            schedule: self.schedule.or(then.schedule),
            shift: self.shift.or(then.shift),
            cache: self.cache.or(then.cache),
            masked_steps: self.masked_steps.or(then.masked_steps),
            guidance: self.guidance.or(then.guidance),
            repainting_scale: self.repainting_scale.or(then.repainting_scale.filter(|_| is_same_task)),
            keep_outside: self.keep_outside.or(then.keep_outside),
            feather: self.feather.or(then.feather),
            tile: self.tile.or(then.tile),
            compat: self.compat.or(then.compat),
        }
    }

    /// Every file that goes in, LoRAs among them; files of the model itself are not.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut InputFile> {
        let single = [&mut self.image, &mut self.mask, &mut self.map, &mut self.noise];
        let masks = self.regions.iter_mut().map(|region| &mut region.mask);
        let loras = self.model.loras.iter_mut().map(|lora| &mut lora.file);
        let prompts = self.picture_prompts.iter_mut().map(|prompt| &mut prompt.picture);
        single.into_iter().flatten().chain(&mut self.references).chain(prompts).chain(masks).chain(loras)
    }

    /// Makes every path independent of the current folder, which is `base`.
    pub fn absolute(&mut self, base: &Path) {
        for file in self.files_mut() {
            file.path = base.join(&file.path);
        }
        let places = self.model.weights.iter_mut().chain(self.model.networks.values_mut());
        places.for_each(|place| *place = base.join(&*place));
    }

    /// Notes the digest of every file that has none; relative paths begin at `base`.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn stamp(&mut self, base: &Path) -> Result<()> {
        for file in self.files_mut().filter(|file| file.sha256.is_none()) {
            file.sha256 = Some(digest::sha256(&base.join(&file.path), &mut |_| ())?);
        }
        Ok(())
    }

    /// Refuses files that are not what they were when their digests were noted. The digests are then forgotten: what is
    /// made now is made of the files of now.
    ///
    /// # Errors
    /// [`Error::Changed`] or [`Error::NotFound`], which name the first such file.
    pub fn check_files(&mut self, base: &Path) -> Result<()> {
        for file in self.files_mut() {
            let Some(then) = file.sha256.take() else { continue };
            let path = base.join(&file.path);
            let now = digest::sha256(&path, &mut |_| ()).map_err(|error| {
                let what = format!("what the picture was made from cannot be read: {error}");
                Error::not_found(what, "start where it was made, or name the file")
            })?;
            if now != then {
                let what = format!("{} has changed since the picture was made from it", file.path.display());
                return Err(Error::changed(what, "name the old file, or this one to take it as it is now"));
            }
        }
        Ok(())
    }

    /// The request with every default spelled out, as `edit` was made of it: later versions may have others.
    ///
    /// # Errors
    /// If the edit does not fit the card.
    pub fn spelled_out(&self, edit: &Edit, card: &Card) -> Result<Self> {
        let settings = edit.settings(card)?;
        let mut request = self.clone();
        request.seed = Some(edit.seed_number());
        request.seed_noise.get_or_insert(SeedNoise::default());
        request.num_steps = Some(settings.course.num_steps);
        request.sampler = Some(settings.course.sampler);
        request.schedule = Some(settings.course.schedule);
        request.cache = Some(settings.course.cache);
        request.guidance = Some(settings.guidance);
        request.repainting_scale = Some(settings.repainting_scale);
        request.keep_outside.get_or_insert(true);
        request.feather.get_or_insert(0);
        request.model.dtype.get_or_insert("f32".to_owned());
        if request.image.is_none() {
            request.size = Some(settings.size);
        }
        Ok(request)
    }

    /// `edit` with the way from noise to latents that is asked for.
    pub fn over_course(&self, mut edit: Edit) -> Edit {
        if let Some(steps) = self.num_steps {
            edit = edit.steps(steps);
        }
        if let Some(sampler) = self.sampler {
            edit = edit.sampler(sampler);
        }
        if let Some(schedule) = self.schedule {
            edit = edit.schedule(schedule);
        }
        if let Some(shift) = self.shift {
            edit = edit.shift(shift);
        }
        if let Some(cache) = self.cache {
            edit = edit.cache(cache);
        }
        if let Some(every) = self.masked_steps {
            edit = edit.masked_steps(every);
        }
        edit
    }

    /// The edit that is asked for, with its pictures read; relative paths begin at `base`. `note` hears what of a file was
    /// not taken as it is.
    ///
    /// # Errors
    /// If a file cannot be read.
    pub fn edit(&self, base: &Path, note: &mut dyn FnMut(&str)) -> Result<Edit> {
        let mut here = self.clone();
        here.absolute(base);
        here.edit_from(&mut picture::read_bytes, note)
    }

    /// As [`Request::edit`], with files that `read` gives: where there is no file system, or names are not paths.
    ///
    /// # Errors
    /// As [`Request::edit`].
    pub fn edit_from(
        &self,
        read: &mut dyn FnMut(&Path) -> Result<Vec<u8>>,
        note: &mut dyn FnMut(&str),
    ) -> Result<Edit> {
        fn noted<T>(read: Noted<T>, note: &mut dyn FnMut(&str)) -> T {
            read.notes.iter().for_each(|line| note(line));
            read.picture
        }
        let mut edit = Edit::new(self.instruction.clone().unwrap_or_default());
        let mut rgb = |file: &InputFile| -> Result<_> {
            Ok(noted(picture::rgb_from_bytes(&file.path, &read(&file.path)?)?, note))
        };
        if let Some(file) = &self.image {
            edit = edit.image(rgb(file)?);
        }
        for file in &self.references {
            edit = edit.reference(rgb(file)?);
        }
        for PicturePromptRequest { picture, scale, pooled_scale } in &self.picture_prompts {
            let (scale, pooled_scale) = (*scale, *pooled_scale);
            edit = edit.prompted_by(PicturePrompt { picture: rgb(picture)?, scale, pooled_scale });
        }
        if let Some(file) = &self.map {
            edit = edit.map(rgb(file)?);
        }
        let mut grey = |file: &InputFile| -> Result<_> {
            Ok(noted(picture::mask_from_bytes(&file.path, &read(&file.path)?)?, note))
        };
        if let Some(file) = &self.mask {
            edit = edit.mask(grey(file)?);
        }
        for region in &self.regions {
            edit = edit.region(grey(&region.mask)?, &region.instruction);
        }
        if let (Some(first), None) = (self.regions.first(), &self.instruction) {
            // The name of the whole; each place has its own.
            edit = edit.instruction(&first.instruction);
        }
        if let Some(file) = &self.noise {
            edit = edit.noise(WeightFile::from_bytes(&file.path, read(&file.path)?)?.data("noise")?);
        }
        if let Some(task) = &self.task {
            edit = edit.task(task);
        }
        if let Some((width, height)) = self.size {
            edit = edit.size(width, height);
        }
        edit = self.over_course(edit);
        if let Some(guidance) = self.guidance {
            edit = edit.guidance(guidance);
        }
        if let Some(scale) = self.repainting_scale {
            edit = edit.repainting_scale(scale);
        }
        if let Some(pixels) = self.tile {
            edit = edit.tile(pixels);
        }
        if let Some(compat) = self.compat {
            edit = edit.compat(compat);
        }
        Ok(edit
            .seed(self.seed.unwrap_or_default())
            .seed_noise(self.seed_noise.unwrap_or_default())
            .keep_outside(self.keep_outside.unwrap_or(true))
            .feather(self.feather.unwrap_or_default()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_of_nothing_is_read_and_fields_of_later_are_no_obstacle() {
        assert_eq!(serde_json::from_str::<Request>("{}").unwrap(), Request::default());
        let later = r#"{"instruction": "a cat", "colour_of_the_future": 7, "model": {"name": "tiny", "spin": true}}"#;
        let read: Request = serde_json::from_str(later).unwrap();
        assert_eq!((read.instruction.as_deref(), read.model.name.as_deref()), (Some("a cat"), Some("tiny")));
        let text = serde_json::to_string(&read).unwrap();
        assert_eq!(serde_json::from_str::<Request>(&text).unwrap(), read);
    }

    #[test]
    fn what_is_said_now_replaces_what_belongs_to_it() {
        let then = Request {
            image: Some("then.png".into()),
            mask: Some("mask.png".into()),
            noise: Some("noise".into()),
            seed: Some(3),
            task: Some("recolor".into()),
            repainting_scale: Some(0.5),
            ..Request::default()
        };
        assert_eq!(Request::default().over(then.clone()), then);
        let picture = Request { image: Some("now.png".into()), ..Request::default() }.over(then.clone());
        assert_eq!((picture.mask, picture.seed), (None, Some(3)));
        let seed = Request { seed: Some(4), ..Request::default() }.over(then.clone());
        assert_eq!((seed.noise, seed.image), (None, Some("then.png".into())));
        let task = Request { task: Some("fill".into()), ..Request::default() }.over(then);
        assert_eq!((task.repainting_scale, task.mask), (None, Some("mask.png".into())));
    }
}
