//! What a run learned, as files.

use super::{
    flow::TrainedNetworks,
    recipe::{LoraRecipe, NetworkName, Recipe, Spelling},
};
use crate::Error;
use ace_nn::flux::Flux;
use ace_plus::Card;
use ace_weights::{Network, adapter};
use burn::module::Module;
use std::path::{Path, PathBuf};

/// Writes what a run on transformer and text encoders learned: the new LoRA as `<recipe's name>.safetensors` and in the
/// other spellings that the recipe asks for, or whole networks under the names that the card has for them.
///
/// # Errors
/// If the folder cannot be written.
pub fn write(
    folder: &Path,
    card: &Card,
    recipe: &Recipe,
    model: &TrainedNetworks,
    note: &str,
) -> Result<Vec<PathBuf>, Error> {
    if let Some(lora) = &recipe.lora {
        let flux = with_new_branches(&model.flux, lora);
        let mut written = Vec::new();
        for spelling in lora.spellings() {
            let (ending, spelling) = match spelling {
                Spelling::Kohya => (".safetensors", adapter::Spelling::Kohya),
                Spelling::Diffusers => ("-diffusers.safetensors", adapter::Spelling::Diffusers),
                Spelling::Peft => ("-peft", adapter::Spelling::Peft),
            };
            let path = folder.join(format!("{}{ending}", recipe.name));
            adapter::write_as(&path, &flux, spelling, &[("made_by", note)])?;
            written.push(path);
        }
        return Ok(written);
    }
    let files = &card.weights;
    let mut written = Vec::new();
    if recipe.trains(NetworkName::Flux) {
        let flux = without_branches(&model.flux);
        written.push(write_network(folder, files.flux.first(), &flux, Network::Flux, note)?);
    }
    if let Some(t5) = model.t5.as_ref().filter(|_| recipe.trains(NetworkName::T5)) {
        written.push(write_network(folder, files.t5.first(), t5, Network::T5, note)?);
    }
    if let Some(clip) = model.clip.as_ref().filter(|_| recipe.trains(NetworkName::Clip)) {
        written.push(write_network(folder, files.clip.first(), clip, Network::Clip, note)?);
    }
    Ok(written)
}

/// Writes a network under the name that the card has for it.
///
/// # Errors
/// If the folder cannot be written.
pub fn write_network<M: Module>(
    folder: &Path,
    file: &Path,
    module: &M,
    network: Network,
    note: &str,
) -> Result<PathBuf, Error> {
    let path = folder.join(file);
    ace_weights::write(&path, &ace_weights::collect(module, &network.own_keys(), "", None), &[("made_by", note)])?;
    Ok(path)
}

/// The transformer with the branches alone that were learned: the last of every layer that has one.
fn with_new_branches(flux: &Flux, lora: &LoraRecipe) -> Flux {
    let mut flux = flux.clone();
    flux.for_each_linear(&mut |path, linear| {
        let older = linear.lora.len() - usize::from(lora.branch(path).is_some() && !linear.lora.is_empty());
        linear.lora.drain(..older);
    });
    flux
}

/// The transformer without the branches of the card's own LoRAs, which have files of their own.
fn without_branches(flux: &Flux) -> Flux {
    let mut flux = flux.clone();
    flux.for_each_linear(&mut |_, linear| linear.lora.clear());
    flux
}
