//! How the autoencoder learns: mean squared error of the decoded picture and a little KL divergence, on random crops of
//! every kind of picture that sampling encodes.

use super::{
    recipe::Recipe,
    trainer::{Loss, Objective},
};
use crate::{Error, data::example::Dataset, error::RecipeProblem};
use ace_nn::autoencoder::AutoEncoder;
use ace_plus::{Card, canvas::CanvasPolicy, latents::DOWNSCALE, sample};
use burn::prelude::*;
use rand::RngExt;
use std::path::Path;

/// Random crops through the autoencoder and back.
pub struct AutoEncoderObjective<'a> {
    data: &'a dyn Dataset,
    policy: &'a CanvasPolicy,
    crop: usize,
    kl_weight: f64,
    batch: usize,
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
            crop: section.crop,
            kl_weight: section.kl_weight,
            batch: recipe.optimizer.batch,
            latent_channels: card.autoencoder.latent_channels,
            seed: recipe.seed,
            device: device.clone(),
        })
    }
}

/// Crops and noise of one step.
pub struct Crops {
    images: Tensor<4>,
    /// For the posterior's sample, in the shape of the latents.
    noise: Tensor<4>,
}

impl Objective for AutoEncoderObjective<'_> {
    type Model = AutoEncoder;
    type MicroBatch = Crops;

    fn micro_batches(&mut self, step: u64) -> Result<Vec<Crops>, Error> {
        let mut rng = sample::rng(self.seed, step);
        let crop = self.crop;
        let mut pixels = Vec::with_capacity(self.batch * 3 * crop * crop);
        for _ in 0..self.batch {
            let index = rng.random_range(0..self.data.len().map_or(u64::MAX / 2, |len| len as u64));
            let planes = self.data.example(index)?.planes(self.policy)?;
            // Half of the crops are of answers, because answers are what is decoded.
            let plane = if rng.random_bool(0.5) { &planes[0] } else { &planes[rng.random_range(0..planes.len())] };
            // Crops begin at a latent cell of the whole picture.
            let mut corner = |side: usize| rng.random_range(0..=side.saturating_sub(crop) / DOWNSCALE) * DOWNSCALE;
            let (top, left) = (corner(plane.height), corner(plane.width));
            pixels.extend(plane.crop(top, left, crop, crop).data);
        }
        let cells = crop / DOWNSCALE;
        Ok(vec![Crops {
            images: Tensor::from_data(TensorData::new(pixels, [self.batch, 3, crop, crop]), &self.device),
            noise: sample::gaussian([self.batch, self.latent_channels, cells, cells], &mut rng, &self.device),
        }])
    }

    fn loss(&self, model: &AutoEncoder, Crops { images, noise }: Crops) -> Loss {
        let (mean, logvar) = model.encode_posterior(images.clone());
        let logvar = logvar.clamp(-30.0, 20.0);
        let sampled = mean.clone() + (logvar.clone() * 0.5).exp() * noise;
        let decoded = model.decode(model.normalize(sampled));
        let error = decoded - images;
        let mse = (error.clone() * error).mean();
        let kl = (mean.clone() * mean + logvar.clone().exp() - logvar - 1.0).mean() * 0.5;
        let mse_value = mse.clone().inner().into_scalar::<f32>();
        let figures = vec![
            // Pictures span 2, so the peak of the PSNR is 2.
            ("psnr", 10.0 * (4.0 / mse_value.max(1e-12)).log10(), 1.0),
            ("kl", kl.clone().inner().into_scalar::<f32>(), 1.0),
        ];
        Loss { value: mse + kl * self.kl_weight, weight: 1.0, figures }
    }
}
