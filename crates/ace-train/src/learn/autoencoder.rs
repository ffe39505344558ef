//! How the autoencoder learns: mean squared error of the decoded picture and a little KL divergence, on pictures, or random
//! crops of them, of every kind that sampling encodes.

use super::{
    recipe::{AutoEncoderRecipe, Recipe},
    trainer::{Loss, Objective},
};
use crate::{Error, data::example::Dataset, error::RecipeProblem};
use ace_nn::autoencoder::AutoEncoder;
use ace_plus::{
    Card,
    canvas::{CanvasPolicy, Plane},
    latents::DOWNSCALE,
    sample,
};
use burn::prelude::*;
use rand::RngExt;
use rand_chacha::ChaCha20Rng;
use std::path::Path;

/// Pictures, or random crops of them, through the autoencoder and back.
pub struct AutoEncoderObjective<'a> {
    data: &'a dyn Dataset,
    policy: &'a CanvasPolicy,
    section: AutoEncoderRecipe,
    batch: usize,
    parts: usize,
    latent_channels: usize,
    seed: u64,
    device: Device,
}

impl<'a> AutoEncoderObjective<'a> {
    /// Learns from `data`, whose pictures are laid out as the card says.
    ///
    /// # Errors
    /// If the recipe has no section for the autoencoder.
    pub fn new(recipe: &Recipe, data: &'a dyn Dataset, card: &'a Card, device: &Device) -> Result<Self, Error> {
        let section = recipe
            .autoencoder
            .as_ref()
            .ok_or_else(|| Error::recipe(Path::new(&recipe.name), RecipeProblem::AutoEncoderSection))?;
        Ok(Self {
            data,
            policy: &card.canvas,
            section: section.clone(),
            batch: recipe.optimizer.batch,
            parts: recipe.optimizer.accumulate,
            latent_channels: card.autoencoder.latent_channels,
            seed: recipe.seed,
            device: device.clone(),
        })
    }
}

/// Pictures of one size and noise: a part of a step.
pub struct Crops {
    images: Tensor<4>,
    /// For the posterior's sample, in the shape of the latents.
    noise: Tensor<4>,
    weight: f64,
}

impl AutoEncoderObjective<'_> {
    /// A picture of a random example, cropped if the recipe says so.
    fn plane(&self, rng: &mut ChaCha20Rng) -> Result<Plane, Error> {
        let index = rng.random_range(0..self.data.len().map_or(u64::MAX / 2, |len| len as u64));
        let mut planes = self.data.example(index)?.planes(self.policy)?;
        // Answers matter most: they are what is decoded, and all that a decoder has to learn.
        let answer = self.section.decoder_only || rng.random_bool(0.5);
        let chosen = if answer { 0 } else { rng.random_range(0..planes.len()) };
        let plane = planes.swap_remove(chosen);
        let Some(crop) = self.section.crop else { return Ok(plane) };
        // Crops keep the grid of latent cells that whole pictures have.
        let mut corner = |side: usize| rng.random_range(0..=side.saturating_sub(crop) / DOWNSCALE) * DOWNSCALE;
        let (top, left) = (corner(plane.height), corner(plane.width));
        Ok(plane.crop(top, left, crop, crop))
    }

    /// `count` pictures of one size, that of the first one drawn.
    fn part(&self, count: usize, rng: &mut ChaCha20Rng) -> Result<Crops, Error> {
        let mut pixels = Vec::new();
        let mut size = None;
        let mut missing = count;
        while missing > 0 {
            let plane = self.plane(rng)?;
            if *size.get_or_insert((plane.height, plane.width)) == (plane.height, plane.width) {
                pixels.extend(plane.data);
                missing -= 1;
            }
        }
        let (height, width) = size.unwrap_or_default();
        let cells = [count, self.latent_channels, height / DOWNSCALE, width / DOWNSCALE];
        Ok(Crops {
            images: Tensor::from_data(TensorData::new(pixels, [count, 3, height, width]), &self.device),
            noise: sample::gaussian(cells, rng, &self.device),
            weight: count as f64 / self.batch as f64,
        })
    }
}

impl Objective for AutoEncoderObjective<'_> {
    type Model = AutoEncoder;
    type MicroBatch = Crops;

    fn micro_batches(&mut self, step: u64) -> Result<Vec<Crops>, Error> {
        let mut rng = sample::rng(self.seed, step);
        (0..self.parts).map(|_| self.part(self.batch / self.parts, &mut rng)).collect()
    }

    fn loss(&self, model: &AutoEncoder, Crops { images, noise, weight }: Crops) -> Loss {
        let (mean, logvar) = model.encode_posterior(images.clone());
        let logvar = logvar.clamp(-30.0, 20.0);
        let sampled = mean.clone() + (logvar.clone() * 0.5).exp() * noise.clone();
        let decoded = model.decode(model.normalize(sampled) + noise * self.section.latent_noise);
        let error = decoded - images;
        let mse = (error.clone() * error).mean();
        let kl = (mean.clone() * mean + logvar.clone().exp() - logvar - 1.0).mean() * 0.5;
        let mse_value = mse.clone().inner().into_scalar::<f32>();
        let figures = vec![
            // Pictures span 2, so the peak of the PSNR is 2.
            ("psnr", 10.0 * (4.0 / mse_value.max(1e-12)).log10(), 1.0),
            ("kl", kl.clone().inner().into_scalar::<f32>(), 1.0),
        ];
        Loss { value: mse + kl * self.section.kl_weight, weight, figures }
    }
}
