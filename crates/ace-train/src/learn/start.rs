//! Getting a run's networks into the state in which it starts, and its results into files.

use super::{
    params,
    recipe::{NetworkName, Recipe},
};
use crate::Error;
use ace_nn::{
    autoencoder::{self, AutoEncoder},
    clip::{self, Clip},
    flux::{self, Flux, FluxConfig},
    keys::KeyMap,
    lora::LoraBranch,
    t5::{self, T5},
};
use ace_plus::{
    Card, adapter,
    checkpoint::{self, WeightFile},
};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use std::path::{Path, PathBuf};

/// Where a run starts.
pub struct Start<'a> {
    /// The recipe.
    pub recipe: &'a Recipe,
    /// The card that the recipe names.
    pub card: &'a Card,
    /// Folders of the weights to start from; the first that has a network's file gives it.
    pub weights: &'a [PathBuf],
}

impl Start<'_> {
    fn network<M: Module>(
        &self,
        network: NetworkName,
        name: &str,
        file: &Path,
        keys: &KeyMap,
        module: M,
        device: &Device,
    ) -> Result<M, Error> {
        if self.recipe.is_fresh(network) {
            return Ok(params::initialize(module, name, self.recipe.seed, device));
        }
        let candidates = || self.weights.iter().map(|folder| folder.join(file));
        let path = candidates().find(|path| path.exists()).or_else(|| candidates().next()).unwrap_or(file.to_owned());
        Ok(WeightFile::open(&path)?.load(module, keys, "", Some(FloatDType::F32), device)?)
    }

    /// The autoencoder.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn autoencoder(&self, device: &Device) -> Result<AutoEncoder, Error> {
        let module = self.card.autoencoder.init(device);
        let file = self.card.weights.autoencoder.first();
        self.network(NetworkName::AutoEncoder, "autoencoder", file, &autoencoder::keys::BFL, module, device)
    }

    /// The text encoders.
    ///
    /// # Errors
    /// If a file is missing or does not fit the card.
    pub fn text(&self, device: &Device) -> Result<(T5, Clip), Error> {
        let (t5, clip) = (self.card.t5.init(device), self.card.clip.init(device));
        let files = &self.card.weights;
        Ok((
            self.network(NetworkName::T5, "t5", files.t5.first(), &t5::keys::TRANSFORMERS, t5, device)?,
            self.network(NetworkName::Clip, "clip", files.clip.first(), &clip::keys::TRANSFORMERS, clip, device)?,
        ))
    }

    /// The transformer, widened and with fresh branches as the recipe says.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn flux(&self, device: &Device) -> Result<Flux, Error> {
        let config = FluxConfig {
            in_channels: self.recipe.widen_from.unwrap_or(self.card.flux.in_channels),
            ..self.card.flux.clone()
        };
        let module = config.init(device);
        let flux =
            self.network(NetworkName::Flux, "flux", self.card.weights.flux.first(), &flux::keys::BFL, module, device)?;
        let mut flux = match self.recipe.widen_from {
            Some(_) => widen(flux, &config, &self.card.flux)?,
            None => flux,
        };
        if let Some(lora) = &self.recipe.lora {
            let seed = self.recipe.seed;
            let scale = lora.alpha / lora.rank as f64;
            flux = flux.no_grad();
            flux.for_each_linear(&mut |path, linear| {
                // The module set of the released adapters: every linear layer of the blocks.
                if path.contains("_blocks.") {
                    let branch = LoraBranch::new(linear.features(), lora.rank, scale, device);
                    linear.lora = vec![params::initialize(branch, &format!("lora.{path}"), seed, device)];
                }
            });
        }
        Ok(flux)
    }
}

/// Widens the input layer with zero columns, so that the network starts as the one it was.
///
/// Noise stays where it is; a Fill-type network's mask columns move behind the change image's, which is where the
/// official loader's padding on the right goes wrong (spec §1.4).
///
/// # Errors
/// If there is no known place for the new columns.
pub fn widen(mut flux: Flux, from: &FluxConfig, to: &FluxConfig) -> Result<Flux, Error> {
    let (old, new) = (from.in_channels, to.in_channels);
    let latent = to.out_channels;
    // Columns before the gap: only a network that already has masks has something to move.
    let keep = match old {
        _ if old == latent => latent,
        _ if new == old + latent => 2 * latent,
        _ => {
            return Err(Error::recipe("".as_ref(), format!("widen_from {old} to {new} columns: no known place")));
        }
    };
    let weight = flux.img_in.weight.val();
    let is_autodiff = weight.device().is_autodiff();
    // A parameter is a leaf: the columns are put together outside the graph.
    let weight = if is_autodiff { weight.inner() } else { weight };
    let [rows, columns] = weight.dims();
    let gap = Tensor::zeros([rows, new - old], &weight.device());
    let head = weight.clone().narrow(1, 0, keep);
    let parts = match columns - keep {
        0 => vec![head, gap],
        rest => vec![head, gap, weight.narrow(1, keep, rest)],
    };
    flux.img_in.weight = params::learned_param(flux.img_in.weight.id, Tensor::cat(parts, 1), is_autodiff);
    Ok(flux)
}

/// Writes a network's file under the name that the card has for it.
///
/// # Errors
/// If the folder cannot be written.
pub fn write<M: Module>(folder: &Path, file: &Path, module: &M, keys: &KeyMap, note: &str) -> Result<PathBuf, Error> {
    let path = folder.join(file);
    let tensors = checkpoint::collect(module, keys, "", None);
    checkpoint::write(&path, &tensors, &[("made_by", note)])?;
    Ok(path)
}

/// Writes the learned branches in the release's spelling.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_lora(folder: &Path, name: &str, flux: &Flux, alpha: f64, note: &str) -> Result<PathBuf, Error> {
    let path = folder.join(format!("{name}.safetensors"));
    adapter::write(&path, flux, alpha, &[("made_by", note)])?;
    Ok(path)
}
