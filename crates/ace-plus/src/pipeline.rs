//! The stages of an edit, composed.

use crate::{
    Card, Edit, Error, Result,
    adapter::{self, AdapterReport},
    canvas,
    canvas::{Canvas, Plane},
    checkpoint::WeightFile,
    denoise::{self, Event, Observer, Stage, tell},
    edit::SeedNoise,
    flow, latents,
    text::{self, TextConditioning, Tokenizers},
    torch_noise,
    unit::{self, Units},
};
use ace_nn::{autoencoder::AutoEncoder, clip::Clip, flux::Flux, t5::T5};
use burn::{prelude::*, tensor::FloatDType};
use image::RgbImage;
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
    /// Loads every network of a card from the folder of its weights, in f32.
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
        if !device.supports_dtype(dtype) {
            return Err(Error::input(format!("this device does not compute in {dtype:?}"), "choose f32"));
        }
        let open = |name: &Path| WeightFile::open(&folder.join(name));
        let dtype_asked = Some(dtype);
        Ok(Self {
            card: card.clone(),
            flux: open(&card.weights.flux)?.flux(&card.flux, dtype_asked, device)?,
            autoencoder: open(&card.weights.autoencoder)?.autoencoder(&card.autoencoder, device)?,
            t5: open(&card.weights.t5)?.t5(&card.t5, dtype_asked, device)?,
            clip: open(&card.weights.clip)?.clip(&card.clip, dtype_asked, device)?,
            tokenizers: Tokenizers::load(card, folder)?,
            dtype,
            device: device.clone(),
        })
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
    pub fn encode_units(&self, canvases: &[Canvas]) -> Units {
        Units::encode(&self.autoencoder, canvases, &self.card.unit, &self.device)
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
        let canvases = edit.canvases(&self.card)?;

        tell(observer, Event::Stage(Stage::Text))?;
        let text = self.encode_text(&edit.instruction);
        tell(observer, Event::Stage(Stage::Encode))?;
        let units = self.encode_units(&canvases);

        tell(observer, Event::Stage(Stage::Denoise))?;
        let noise = self.noise(edit, &units)?;
        let sampling = &self.card.sampling;
        let times = flow::schedule(edit.num_steps.unwrap_or(sampling.num_steps), units.len(), &sampling.shift);
        let guidance = edit.guidance.unwrap_or(sampling.guidance);
        let tokens = denoise::denoise(&self.flux, noise, &units, &text, &times, guidance, self.dtype, observer)?;

        tell(observer, Event::Stage(Stage::Decode))?;
        let latents = units.unpack(tokens.clone());
        let image = self.decode(&latents, &canvases, edit);
        Ok(Edited { image, tokens, latents, len: units.len() })
    }

    /// The picture of the last unit, in the size of the image.
    fn decode(&self, latents: &[Tensor<4>], canvases: &[Canvas], edit: &Edit) -> RgbImage {
        let last = latents.len() - 1;
        let decoded: Plane = unit::download(self.autoencoder.decode(latents[last].clone()));
        let image = canvas::crop_back(&decoded, &canvases[last], &self.card.canvas);
        match (&edit.image, &edit.mask) {
            (Some(input), Some(mask)) if edit.keep_outside && edit.compat.is_none() => {
                canvas::keep_outside(&image, input, mask)
            }
            _ => image,
        }
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
