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
        Self::load_in(card, folder, FloatDType::F32, device)
    }

    /// As [`Ace::load`], with transformer and text encoders in `dtype`.
    ///
    /// # Errors
    /// As [`Ace::load`], or if the device cannot compute in `dtype`.
    pub fn load_in(card: &Card, folder: &Path, dtype: FloatDType, device: &Device) -> Result<Self> {
        // Without a home folder there is no cache to look into.
        let hub = if card.repository.is_empty() { None } else { Hub::from_env().ok() };
        Self::load_files(card, &card.locate(folder, hub.as_ref())?, dtype, device)
    }

    /// As [`Ace::load_in`], from files that were found before.
    ///
    /// # Errors
    /// As [`Ace::load_in`].
    pub fn load_files(card: &Card, files: &Files, dtype: FloatDType, device: &Device) -> Result<Self> {
        if !device.supports_dtype(dtype) {
            return Err(Error::input(format!("this device does not compute in {dtype:?}"), "choose f32"));
        }
        let dtype_asked = Some(dtype);
        let mut ace = Self {
            card: card.clone(),
            flux: WeightFile::open(&files.flux)?.flux(&card.flux, dtype_asked, device)?,
            autoencoder: WeightFile::open(&files.autoencoder)?.autoencoder(&card.autoencoder, device)?,
            t5: WeightFile::open(&files.t5)?.t5(&card.t5, dtype_asked, device)?,
            clip: WeightFile::open(&files.clip)?.clip(&card.clip, dtype_asked, device)?,
            tokenizers: Tokenizers::read(card, &files.t5_tokenizer, &files.clip_tokenizer)?,
            dtype,
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

    /// The tiling of an edit, if it asks for one.
    fn tiling(&self, edit: &Edit) -> Result<Option<Tiling>> {
        let Some(pixels) = edit.tile else { return Ok(None) };
        let tiling = Tiling::new(pixels as usize, self.autoencoder.downscale());
        tiling.map(Some).ok_or_else(|| {
            let least = 4 * self.autoencoder.downscale();
            Error::input(format!("tiles of {pixels} pixels are too small"), format!("choose {least} or more"))
        })
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
        let tiling = self.tiling(edit)?;

        tell(observer, Event::Stage(Stage::Text))?;
        let text = self.encode_text(&edit.instruction);
        tell(observer, Event::Stage(Stage::Encode))?;
        let units = self.encode_units(&prepared.canvases, tiling);

        tell(observer, Event::Stage(Stage::Denoise))?;
        let noise = self.noise(edit, &units)?;
        let sampling = &self.card.sampling;
        let times = flow::schedule(edit.num_steps.unwrap_or(sampling.num_steps), units.len(), &sampling.shift);
        let guidance = edit.guidance.unwrap_or(sampling.guidance);
        let tokens = denoise::denoise(&self.flux, noise, &units, &text, &times, guidance, self.dtype, observer)?;

        tell(observer, Event::Stage(Stage::Decode))?;
        let latents = units.unpack(tokens.clone());
        let image = self.decode(&latents, &prepared, edit, tiling);
        Ok(Edited { image, tokens, latents, len: units.len() })
    }

    /// One edit for each place of the image, one after the other: each has its mask and its words, and sees what those
    /// before it have made. Without places it is [`Ace::run`].
    ///
    /// # Errors
    /// As [`Ace::edit`].
    pub fn run_regions(&self, edit: &Edit, regions: &[(GrayImage, String)], observer: Observer<'_>) -> Result<Edited> {
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

    /// The picture of the last unit, in the size of the image.
    fn decode(&self, latents: &[Tensor<4>], prepared: &Prepared, edit: &Edit, tiling: Option<Tiling>) -> RgbImage {
        let last = &latents[latents.len() - 1];
        let decoded: Plane = match tiling {
            Some(tiling) => tiling.decode(&self.autoencoder, last),
            None => unit::download(self.autoencoder.decode(last.clone())),
        };
        edit.finish(&decoded, prepared)
    }

    /// The seed's noise.
    fn drawn_noise(&self, edit: &Edit, units: &Units, channels: usize) -> Result<Tensor<3>> {
        match (edit.seed_noise, &units.grids[..]) {
            (SeedNoise::ChaCha, grids) => {
                let mut rng = latents::rng(edit.seed, 0);
                let drawn = grids.iter().map(|[h, w]| latents::noise([1, channels, *h, *w], &mut rng, &self.device));
                Ok(units.pack(drawn.collect()))
            }
            (SeedNoise::Torch, [[h, w]]) => {
                Ok(latents::pack(torch_noise::noise([1, channels, *h, *w], edit.seed, &self.device)))
            }
            (SeedNoise::Torch, grids) => Err(Error::input(
                format!("this edit draws noise for {} pictures, torch's programs for one", grids.len()),
                "leave out --seed-compat, or use a card whose layout is a canvas",
            )),
        }
    }

    /// The edit's own noise, or the seed's.
    fn noise(&self, edit: &Edit, units: &Units) -> Result<Tensor<3>> {
        let channels = self.card.autoencoder.latent_channels;
        let Some(noise) = &edit.noise else {
            return self.drawn_noise(edit, units, channels);
        };
        let noise = noise.clone().convert::<f32>();
        let packed = [1, units.len(), self.card.flux.out_channels];
        let shape = noise.shape().to_vec();
        if shape == packed {
            return Ok(Tensor::from_data(noise, &self.device));
        }
        if let [[h, w]] = units.grids[..]
            && shape == [1, channels, h, w]
        {
            return Ok(latents::pack(Tensor::from_data(noise, &self.device)));
        }
        let unpacked = units.grids.iter().map(|[h, w]| format!("[1, {channels}, {h}, {w}]")).collect::<Vec<_>>();
        Err(Error::input(
            format!("the noise has shape {shape:?}, expected {packed:?} or {}", unpacked.join(" + ")),
            "the shape follows from the canvas: references and image side by side, an eighth of its pixels",
        ))
    }
}
