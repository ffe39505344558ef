//! Noise, drawn on the host: the same seed gives the same noise on every backend.

use super::torch_noise;
use crate::{Card, Edit, Error, Result, latents, unit::Units};
use burn::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use rand_distr::{Distribution, StandardNormal};
use serde::{Deserialize, Serialize};

/// Which generator draws the noise of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SeedNoise {
    /// ChaCha20: the same on every machine and backend.
    #[default]
    ChaCha,
    /// What torch draws on a CPU in f32 and diffusers begins with, bit for bit ([`torch_noise`]).
    Torch,
}

/// A host generator for `seed`; `stream` keeps draws for different purposes apart.
pub fn rng(seed: u64, stream: u64) -> ChaCha20Rng {
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    rng.set_stream(stream);
    rng
}

/// Standard normal noise, drawn on the host: the same seed gives the same noise on every backend.
pub fn gaussian<const D: usize>(shape: [usize; D], rng: &mut ChaCha20Rng, device: &Device) -> Tensor<D> {
    let values: Vec<f32> = StandardNormal.sample_iter(rng).take(shape.iter().product()).collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// The seed's noise.
fn drawn_noise(edit: &Edit, units: &Units, channels: usize, device: &Device) -> Result<Tensor<3>> {
    match (edit.generator(), &units.grids[..]) {
        (SeedNoise::ChaCha, grids) => {
            let mut rng = rng(edit.seed_number(), 0);
            let drawn = grids.iter().map(|[h, w]| gaussian([1, channels, *h, *w], &mut rng, device));
            Ok(units.pack(drawn.collect()))
        }
        (SeedNoise::Torch, [[h, w]]) => {
            Ok(latents::pack(torch_noise::noise([1, channels, *h, *w], edit.seed_number(), device)))
        }
        (SeedNoise::Torch, grids) => Err(Error::input(
            format!("this edit draws noise for {} pictures, torch's programs for one", grids.len()),
            "draw it as this project does, or use a card whose layout is a canvas",
        )),
    }
}

/// The edit's own noise, or the seed's, for all units: `[1, L, 64]`.
///
/// # Errors
/// If the noise that is given has another shape, or torch's is asked for several units.
pub fn noise(card: &Card, edit: &Edit, units: &Units, device: &Device) -> Result<Tensor<3>> {
    let channels = card.autoencoder.latent_channels;
    let Some(noise) = edit.given_noise() else {
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
