//! The stages of an edit, composed.

use crate::{
    Card, Edit, Error, Result,
    adapter::{self, AdapterReport},
    canvas::{Canvas, Plane},
    card::Files,
    checkpoint::WeightFile,
    denoise::{self, Event, Observer, Stage, tell},
    edit::{Prepared, SeedNoise},
    fetch::Hub,
    flow, latents,
    text::{self, TextConditioning, Tokenizers},
    tiling::Tiling,
    torch_noise,
    unit::{self, Units},
};
use ace_nn::{autoencoder::AutoEncoder, clip::Clip, flux::Flux, t5::T5};
use burn::{prelude::*, tensor::FloatDType};
use image::{GrayImage, RgbImage};
use std::path::Path;

/// A model ready to edit.
#[derive(Debug)]
pub struct Ace {
    /// What is known about the model.
    pub card: Card,
    /// The transformer.
    pub flux: Flux,
    /// Pictures to latents and back.
    pub autoencoder: AutoEncoder,
    /// The sequence encoder.
    pub t5: T5,
    /// The pooled encoder.
    pub clip: Clip,
    /// Words to numbers.
    pub tokenizers: Tokenizers,
    /// Dtype of the transformer and the text encoders; the autoencoder stays in f32.
    pub dtype: FloatDType,
    /// Where the model lives.
    pub device: Device,
}

/// In which numbers a model is held and computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Numbers {
    /// Of transformer and text encoders; the autoencoder computes in f32.
    pub dtype: FloatDType,
    /// Whether matrices that a file has in GGUF's `Q8_0` are widened once when they are read, which takes two to four
    /// times the memory, instead of whenever they are used, which takes time.
    pub widen: bool,
}

impl Default for Numbers {
    fn default() -> Self {
        Self { dtype: FloatDType::F32, widen: false }
    }
}

impl Numbers {
    /// Refuses what a device cannot compute in.
    pub(crate) fn check(self, device: &Device) -> Result<()> {
        if device.supports_dtype(self.dtype) {
            return Ok(());
        }
        Err(Error::input(format!("this device does not compute in {:?}", self.dtype), "choose f32"))
    }

    /// Opens a weight file to be read in them.
    pub(crate) fn open(self, path: &Path) -> Result<WeightFile> {
        let file = WeightFile::open(path)?;
        Ok(if self.widen { file } else { file.packed() })
    }
}

/// What an edit gave.
#[derive(Debug)]
pub struct Edited {
    /// The picture.
    pub image: RgbImage,
    /// The final latents as tokens, `[1, L, 64]`.
    pub tokens: Tensor<3>,
    /// The final latents of each unit, `[1, 16, h, w]`; the edited picture's last.
    pub latents: Vec<Tensor<4>>,
    /// Noisy tokens of all units.
    pub len: usize,
}

impl Ace {
    /// Loads every network of a card from the folder of its weights, or else from the cache of the Hugging Face Hub,
    /// in f32, with the LoRAs that belong to the card.
    ///
    /// # Errors
    /// If a file is missing or does not fit the card; every key must be accounted for.
    pub fn load(card: &Card, folder: &Path, device: &Device) -> Result<Self> {
        // Without a home folder there is no cache to look into.
        let hub = if card.repository.is_empty() { None } else { Hub::from_env().ok() };
        Self::load_files(card, &card.locate(folder, hub.as_ref())?, Numbers::default(), device)
    }

    /// As [`Ace::load`], from files that were found before, in other numbers.
    ///
    /// # Errors
    /// As [`Ace::load`], or if the device cannot compute in them.
    pub fn load_files(card: &Card, files: &Files, numbers: Numbers, device: &Device) -> Result<Self> {
        numbers.check(device)?;
        let dtype = Some(numbers.dtype);
        let mut ace = Self {
            card: card.clone(),
            flux: numbers.open(&files.flux)?.flux(&card.flux, dtype, device)?,
            autoencoder: WeightFile::open(&files.autoencoder)?.autoencoder(&card.autoencoder, device)?,
            t5: numbers.open(&files.t5)?.t5(&card.t5, dtype, device)?,
            clip: numbers.open(&files.clip)?.clip(&card.clip, dtype, device)?,
            tokenizers: Tokenizers::read(card, &files.t5_tokenizer, &files.clip_tokenizer)?,
            dtype: numbers.dtype,
            device: device.clone(),
        };
        for (path, weight) in &files.adapters {
            ace.add_lora(path, *weight)?;
        }
        Ok(ace)
    }

    /// Adds a LoRA file to the transformer, in whichever trainer's spelling; several add up. See [`adapter::attach`].
    ///
    /// # Errors
    /// If the file does not fit the transformer.
    pub fn add_lora(&mut self, path: &Path, weight: f64) -> Result<AdapterReport> {
        adapter::attach(&mut self.flux, &WeightFile::open(path)?, weight, &self.device)
    }

    /// Words to embeddings.
    pub fn encode_text(&self, instruction: &str) -> TextConditioning {
        text::encode(&self.t5, &self.clip, &[self.tokenizers.ids(instruction)], &self.device)
    }

    /// Canvases to conditions.
    pub fn encode_units(&self, canvases: &[Canvas], tiling: Option<Tiling>) -> Units {
        Units::encode(&self.autoencoder, canvases, &self.card.unit, tiling, &self.device)
    }

    /// One edit; the result has the size of the image.
    ///
    /// # Errors
    /// If the edit's parts do not fit each other or the card, or the observer cancels.
    pub fn edit(&self, edit: &Edit, observer: Observer<'_>) -> Result<RgbImage> {
        Ok(self.run(edit, observer)?.image)
    }

    /// As [`Ace::edit`], with the latents.
    ///
    /// # Errors
    /// As [`Ace::edit`].
    pub fn run(&self, edit: &Edit, observer: Observer<'_>) -> Result<Edited> {
        edit.check()?;
        let prepared = edit.prepare(&self.card)?;
        let tiling = tiling(edit, &self.card)?;
        tell(observer, Event::Stage(Stage::Text))?;
        let text = self.encode_text(&edit.instruction);
        tell(observer, Event::Stage(Stage::Encode))?;
        let units = self.encode_units(&prepared.canvases, tiling);
        tell(observer, Event::Stage(Stage::Denoise))?;
        let tokens = denoised(&self.card, &self.flux, edit, &units, &text, self.dtype, &self.device, observer)?;
        tell(observer, Event::Stage(Stage::Decode))?;
        Ok(decoded(&self.autoencoder, edit, &prepared, &units, tokens, tiling))
    }
}

/// What makes pictures of edits: [`Ace`] with every network in memory, [`crate::lean::Lean`] with one at a time.
pub trait Editor {
    /// What is known about the model.
    fn card(&self) -> &Card;

    /// One edit.
    ///
    /// # Errors
    /// If the edit's parts do not fit each other or the card, a file cannot be read, or the observer cancels.
    fn run(&self, edit: &Edit, observer: Observer<'_>) -> Result<Edited>;

    /// One edit for each place of the image, one after the other: each has its mask and its words, and sees what those
    /// before it have made. Without places it is [`Editor::run`].
    ///
    /// # Errors
    /// As [`Editor::run`].
    fn run_regions(&self, edit: &Edit, regions: &[(GrayImage, String)], observer: Observer<'_>) -> Result<Edited> {
        let Some(((mask, words), rest)) = regions.split_first() else { return self.run(edit, observer) };
        let mut edit = Edit { mask: Some(mask.clone()), instruction: words.clone(), ..edit.clone() };
        let mut edited = self.run(&edit, observer)?;
        for (mask, words) in rest {
            edit.image = Some(edited.image);
            edit.mask = Some(mask.clone());
            edit.instruction.clone_from(words);
            edited = self.run(&edit, observer)?;
        }
        Ok(edited)
    }
}

impl Editor for Ace {
    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&self, edit: &Edit, observer: Observer<'_>) -> Result<Edited> {
        Self::run(self, edit, observer)
    }
}

/// The tiling of an edit, if it asks for one.
pub(crate) fn tiling(edit: &Edit, card: &Card) -> Result<Option<Tiling>> {
    let Some(pixels) = edit.tile else { return Ok(None) };
    let cell = card.autoencoder.downscale();
    let tiling = Tiling::new(pixels as usize, cell);
    tiling.map(Some).ok_or_else(|| {
        Error::input(format!("tiles of {pixels} pixels are too small"), format!("choose {} or more", 4 * cell))
    })
}

/// The tokens of an edit's picture, `[1, L, 64]`, from what the encoders gave.
///
/// # Errors
/// If the edit's own noise has another shape, or the observer cancels.
#[allow(clippy::too_many_arguments)] // two networks' outputs, two inputs, and where and how: none belong together
pub fn denoised(
    card: &Card,
    flux: &Flux,
    edit: &Edit,
    units: &Units,
    text: &TextConditioning,
    dtype: FloatDType,
    device: &Device,
    observer: Observer<'_>,
) -> Result<Tensor<3>> {
    let noise = noise(card, edit, units, device)?;
    let sampling = &card.sampling;
    let times = flow::schedule(edit.num_steps.unwrap_or(sampling.num_steps), units.len(), &sampling.shift);
    let guidance = edit.guidance.unwrap_or(sampling.guidance);
    denoise::denoise(flux, noise, units, text, &times, guidance, dtype, observer)
}

/// The picture of the last unit, in the size of the image, and what it came from.
pub fn decoded(
    autoencoder: &AutoEncoder,
    edit: &Edit,
    prepared: &Prepared,
    units: &Units,
    tokens: Tensor<3>,
    tiling: Option<Tiling>,
) -> Edited {
    let latents = units.unpack(tokens.clone());
    let last = &latents[latents.len() - 1];
    let plane: Plane = match tiling {
        Some(tiling) => tiling.decode(autoencoder, last),
        None => unit::download(autoencoder.decode(last.clone())),
    };
    Edited { image: edit.finish(&plane, prepared), tokens, latents, len: units.len() }
}

/// The seed's noise.
fn drawn_noise(edit: &Edit, units: &Units, channels: usize, device: &Device) -> Result<Tensor<3>> {
    match (edit.seed_noise, &units.grids[..]) {
        (SeedNoise::ChaCha, grids) => {
            let mut rng = latents::rng(edit.seed, 0);
            let drawn = grids.iter().map(|[h, w]| latents::noise([1, channels, *h, *w], &mut rng, device));
            Ok(units.pack(drawn.collect()))
        }
        (SeedNoise::Torch, [[h, w]]) => Ok(latents::pack(torch_noise::noise([1, channels, *h, *w], edit.seed, device))),
        (SeedNoise::Torch, grids) => Err(Error::input(
            format!("this edit draws noise for {} pictures, torch's programs for one", grids.len()),
            "leave out --seed-compat, or use a card whose layout is a canvas",
        )),
    }
}

/// The edit's own noise, or the seed's.
fn noise(card: &Card, edit: &Edit, units: &Units, device: &Device) -> Result<Tensor<3>> {
    let channels = card.autoencoder.latent_channels;
    let Some(noise) = &edit.noise else {
        return drawn_noise(edit, units, channels, device);
    };
    let noise = noise.clone().convert::<f32>();
    let packed = [1, units.len(), card.flux.out_channels];
    let shape = noise.shape().to_vec();
    if shape == packed {
        return Ok(Tensor::from_data(noise, device));
    }
    if let [[h, w]] = units.grids[..]
        && shape == [1, channels, h, w]
    {
        return Ok(latents::pack(Tensor::from_data(noise, device)));
    }
    let unpacked = units.grids.iter().map(|[h, w]| format!("[1, {channels}, {h}, {w}]")).collect::<Vec<_>>();
    Err(Error::input(
        format!("the noise has shape {shape:?}, expected {packed:?} or {}", unpacked.join(" + ")),
        "the shape follows from the canvas: references and image side by side, an eighth of its pixels",
    ))
}
