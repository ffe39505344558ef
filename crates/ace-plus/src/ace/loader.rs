//! A model's networks, read from the files that were found for it.

use super::StreamedFlux;
use crate::{
    Card, Error, Result,
    model::{Component, Files, Holding},
    prompt::Prompter,
};
use ace_nn::{autoencoder::AutoEncoder, clip::Clip, flux::Flux, t5::T5};
use ace_weights::{
    ModulationSource, Streamed, StreamedT5, WeightFile,
    adapter::{self, AdapterReport},
};
use burn::prelude::*;
use std::path::PathBuf;

/// Reads a model's networks.
pub(super) struct Loader<'a> {
    pub(super) card: &'a Card,
    pub(super) files: &'a Files,
    pub(super) holding: Holding,
    pub(super) device: &'a Device,
}

impl Loader<'_> {
    /// The transformer with its LoRAs.
    pub(super) fn flux(&self) -> Result<Flux> {
        self.flux_and_adapters(&mut Vec::new())
    }

    pub(super) fn flux_and_adapters(&self, adapters: &mut Vec<(PathBuf, AdapterReport)>) -> Result<Flux> {
        let config = self.card.flux_in_file();
        let mut flux = self.open(Component::Flux)?.flux(&config, Some(self.holding.dtype), self.device)?;
        flux.widen_input(self.card.flux.in_channels);
        self.adapt(&mut flux, adapters)?;
        Ok(flux)
    }

    /// The transformer with its LoRAs, its blocks in the file.
    pub(super) fn streamed(&self, adapters: &mut Vec<(PathBuf, AdapterReport)>) -> Result<StreamedFlux> {
        let (config, dtype) = (self.card.flux_in_file(), Some(self.holding.dtype));
        let file = self.open(Component::Flux)?;
        let mut flux = file.flux_without_blocks(&config, dtype, self.device)?;
        flux.widen_input(self.card.flux.in_channels);
        self.adapt(&mut flux, adapters)?;
        let blocks = Streamed::open_without_modulations(file, &config, dtype, self.device)?;
        Ok(StreamedFlux { flux, blocks })
    }

    /// The transformer without the matrices of its modulations.
    pub(super) fn flux_without_modulations(&self) -> Result<Flux> {
        let file = self.open(Component::Flux)?;
        let config = self.card.flux_in_file();
        let mut flux = file.flux_without_modulations(&config, Some(self.holding.dtype), self.device)?;
        flux.widen_input(self.card.flux.in_channels);
        Ok(flux)
    }

    /// These.
    pub(super) fn modulations(&self) -> Result<ModulationSource> {
        let file = self.open(Component::Flux)?;
        Ok(ModulationSource::open(file, &self.card.flux_in_file(), Some(self.holding.dtype), self.device)?)
    }

    /// T5, its layers and its table of words in the file.
    pub(super) fn streamed_t5(&self) -> Result<(T5, StreamedT5)> {
        let (config, dtype) = (&self.card.t5, Some(self.holding.dtype));
        let file = self.open(Component::T5)?;
        let t5 = file.t5_without_layers(config, dtype, self.device)?;
        Ok((t5, StreamedT5::open(file, config, dtype, self.device)?))
    }

    pub(super) fn adapt(&self, flux: &mut Flux, adapters: &mut Vec<(PathBuf, AdapterReport)>) -> Result<()> {
        for (source, weight) in self.files.adapters() {
            let report = adapter::attach(flux, &source.open()?, weight, self.device)?;
            adapters.push((source.path().to_owned(), report));
        }
        Ok(())
    }

    pub(super) fn autoencoder(&self) -> Result<AutoEncoder> {
        let file = self.files.of(Component::AutoEncoder).open()?;
        Ok(file.autoencoder(&self.card.autoencoder, self.device)?)
    }

    pub(super) fn t5(&self) -> Result<T5> {
        Ok(self.open(Component::T5)?.t5(&self.card.t5, Some(self.holding.dtype), self.device)?)
    }

    pub(super) fn clip(&self) -> Result<Clip> {
        Ok(self.open(Component::Clip)?.clip(&self.card.clip, Some(self.holding.dtype), self.device)?)
    }

    /// What reads pictures as words.
    ///
    /// # Errors
    /// If the card has none, or a file does not fit it.
    pub(super) fn prompter(&self) -> Result<Prompter> {
        let Some((vision, redux)) = self.card.prompter() else {
            let what = format!("card {} takes no pictures as prompts", self.card.name);
            return Err(Error::input(what, "use a model with Redux on top"));
        };
        let dtype = Some(self.holding.dtype);
        let file = |component| self.files.of(component).open();
        Ok(Prompter {
            vision: file(Component::Vision)?.vit(&vision, dtype, self.device)?,
            redux: file(Component::Redux)?.redux(&redux, dtype, self.device)?,
            side: vision.image_size as u32,
        })
    }

    pub(super) fn open(&self, component: Component) -> Result<WeightFile> {
        Ok(self.holding.of(self.files.of(component).open()?))
    }

    /// Opens every file, so that one that is broken is noticed before the work.
    pub(super) fn check(&self) -> Result<()> {
        let networks = [Component::Flux, Component::AutoEncoder, Component::T5, Component::Clip];
        let adapters = self.files.adapters().map(|(source, _)| source);
        for source in networks.map(|component| self.files.of(component)).into_iter().chain(adapters) {
            source.open()?;
        }
        Ok(())
    }
}
