//! What the outside world calls the networks: keys of every dialect, the marks by which a file is known, sizes read off
//! shapes, and `config.json` both ways. Everything about one network is in its own file; [`Network`], [`Sizes`] and the
//! list of facts below are all that a new one touches besides.

pub mod annotators;
pub mod autoencoder;
pub mod clip;
pub mod flux;
mod redux;
pub mod sam;
mod shapes;
pub mod t5;
pub mod vit;

use crate::{
    Error, Result, WeightFile,
    load::{Origins, Without},
    names::KeyMap,
};
use ace_nn::{
    autoencoder::{AutoEncoder, AutoEncoderConfig},
    clip::{Clip, ClipConfig},
    flux::{Flux, FluxConfig},
    lora::Linears,
    t5::{T5, T5Config},
};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use serde::de::DeserializeOwned;
use serde_json::Value;
use shapes::Shapes;
use std::{fs, path::Path};

/// A network of the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Network {
    /// FLUX's transformer.
    Flux,
    /// FLUX's autoencoder.
    AutoEncoder,
    /// T5's encoder.
    T5,
    /// CLIP's text tower.
    Clip,
}

/// What there is to know about a network; each network's file has its own.
struct Facts {
    /// What people call it.
    title: &'static str,
    /// Its word in cards, recipes and options.
    word: &'static str,
    /// What diffusers calls its weight file.
    stem: &'static str,
    /// A key that every file of one dialect has.
    marks: &'static [(Names, &'static str)],
    /// The names of its weights; the number is that of the autoencoder's levels.
    keys: fn(Names, usize) -> KeyMap,
    /// Its sizes, read off the shapes of its weights.
    measure: fn(&Shapes) -> Result<Sizes>,
}

/// Whose names a file has for a network's weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Names {
    /// Black Forest Labs', which ComfyUI has too.
    Bfl,
    /// diffusers'.
    Diffusers,
    /// transformers'.
    Transformers,
    /// transformers' since version 5, where a tower's own name is left out.
    Transformers5,
    /// llama.cpp's.
    LlamaCpp,
}

/// A network in a file.
#[derive(Debug, Clone)]
pub struct Found {
    /// Which.
    pub network: Network,
    /// Its names there.
    pub names: Names,
    /// What stands before them: nothing, or a path that ends with a dot.
    pub prefix: String,
    /// The names themselves.
    pub keys: KeyMap,
}

impl Network {
    /// All of them, as an edit needs them.
    pub const ALL: [Self; 4] = [Self::Flux, Self::AutoEncoder, Self::T5, Self::Clip];

    const fn facts(self) -> &'static Facts {
        match self {
            Self::Flux => &flux::FACTS,
            Self::AutoEncoder => &autoencoder::FACTS,
            Self::T5 => &t5::FACTS,
            Self::Clip => &clip::FACTS,
        }
    }

    /// What people call it.
    pub const fn title(self) -> &'static str {
        self.facts().title
    }

    /// Its word in cards, recipes and options.
    pub const fn word(self) -> &'static str {
        self.facts().word
    }

    /// The network of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|network| network.word() == word)
    }

    /// What diffusers and transformers call its weight file, without ending.
    pub(crate) const fn stem(self) -> &'static str {
        self.facts().stem
    }

    /// The names of its weights in a dialect; `levels` are the autoencoder's.
    pub(crate) fn keys(self, names: Names, levels: usize) -> KeyMap {
        (self.facts().keys)(names, levels)
    }

    /// The names that this project writes: BFL's for transformer and autoencoder, transformers' for text encoders.
    pub fn own_keys(self) -> KeyMap {
        match self {
            Self::Flux | Self::AutoEncoder => self.keys(Names::Bfl, 0),
            Self::T5 | Self::Clip => self.keys(Names::Transformers, 0),
        }
    }
}

/// Sizes of a network.
#[derive(Debug, Clone, PartialEq)]
pub enum Sizes {
    /// Of a transformer.
    Flux(FluxConfig),
    /// Of an autoencoder.
    AutoEncoder(AutoEncoderConfig),
    /// Of a sequence encoder.
    T5(T5Config),
    /// Of a pooled encoder.
    Clip(ClipConfig),
}

impl Sizes {
    /// Sizes of a network in a file. What has no shape (how a position is divided among axes, how latents are scaled, how
    /// many heads CLIP has) is as published for FLUX.1; [`Sizes::completed`] takes it from whoever knows better.
    ///
    /// # Errors
    /// If a weight that tells them is missing, or they contradict each other.
    pub fn of(file: &WeightFile, found: &Found) -> Result<Self> {
        (found.network.facts().measure)(&Shapes { file, found })
    }

    /// Which network they are of.
    pub const fn network(&self) -> Network {
        match self {
            Self::Flux(_) => Network::Flux,
            Self::AutoEncoder(_) => Network::AutoEncoder,
            Self::T5(_) => Network::T5,
            Self::Clip(_) => Network::Clip,
        }
    }

    /// These sizes with what shapes do not tell as `known` has it; `None` if it is of a network of other sizes.
    pub fn completed(&self, known: &Self) -> Option<Self> {
        let completed = match (self, known) {
            (Self::Flux(measured), Self::Flux(known)) => Self::Flux(flux::completed(measured, known)),
            (Self::AutoEncoder(measured), Self::AutoEncoder(known)) => {
                Self::AutoEncoder(autoencoder::completed(measured, known))
            }
            (Self::T5(measured), Self::T5(known)) => Self::T5(t5::completed(measured, known)),
            (Self::Clip(measured), Self::Clip(known)) => Self::Clip(clip::completed(measured, known)),
            _ => return None,
        };
        (completed == *known).then_some(completed)
    }

    /// Where each parameter of such a network is in a file; nothing is read.
    ///
    /// # Errors
    /// If the file does not hold exactly its weights.
    pub(crate) fn origins(&self, file: &WeightFile, found: &Found, device: &Device) -> Result<Origins> {
        let Found { keys, prefix, .. } = found;
        match self {
            Self::Flux(config) => file.origins(&config.init(device), keys, prefix),
            Self::AutoEncoder(config) => file.origins(&config.init(device), keys, prefix),
            Self::T5(config) => file.origins(&config.init(device), keys, prefix),
            Self::Clip(config) => file.origins(&config.init(device), keys, prefix),
        }
    }

    /// Whether a file holds exactly the weights of such a network; nothing is read.
    ///
    /// # Errors
    /// If it does not; the first weight that is wrong is named.
    pub fn check(&self, file: &WeightFile, found: &Found, device: &Device) -> Result<()> {
        self.origins(file, found, device).map(drop)
    }

    /// What diffusers and transformers want to know beside the weights; `known` says what these do not.
    ///
    /// # Errors
    /// If it takes a description to know and there is none, it is of other sizes, or diffusers has no word for something.
    pub(crate) fn config_json(&self, file: &WeightFile, known: Option<&Described>) -> Result<Value> {
        let sizes = match known {
            Some(known) => {
                let completed = known.sizes.iter().find_map(|sizes| self.completed(sizes));
                completed.ok_or_else(|| {
                    let reason = format!("the card {:?} is of a network of other sizes", known.name);
                    file.misfit(reason, "name the card of this model")
                })?
            }
            None => self.clone(),
        };
        let untold = match &sizes {
            Self::Flux(config) => flux::untold(config),
            Self::AutoEncoder(config) => autoencoder::untold(config),
            Self::T5(_) => None,
            Self::Clip(config) => clip::untold(config),
        };
        if let (Some(what), None) = (untold, known) {
            let reason = format!("these are not FLUX.1's sizes, and a weight file does not say {what}");
            return Err(file.misfit(reason, "name the model's card, or choose another format"));
        }
        let end = known.and_then(|known| known.clip_end_id).unwrap_or(clip::OLD_END);
        match &sizes {
            Self::Flux(config) => flux::to_config(config),
            Self::AutoEncoder(config) => Ok(autoencoder::to_config(config)),
            Self::T5(config) => Ok(t5::to_config(config)),
            Self::Clip(config) => Ok(clip::to_config(config, end)),
        }
    }
}

/// What a model's description says and its weight files do not.
#[derive(Debug, Clone, PartialEq)]
pub struct Described {
    /// What the model is called.
    pub name: String,
    /// Sizes of its networks.
    pub sizes: Vec<Sizes>,
    /// Id at which CLIP's text ends.
    pub clip_end_id: Option<i64>,
}

/// What to do about a configuration that is not understood.
const CONFIG_HINT: &str = "FLUX.1 and FLUX.1-Fill folders are read, in the layout that diffusers writes";

/// Reads a `config.json`, or another file of a diffusers folder.
///
/// # Errors
/// If it cannot be read or a field that is needed is missing.
pub fn read_config<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).map_err(Error::io(path))?;
    serde_json::from_slice(&text).map_err(|source| Error::format(path, source.to_string(), CONFIG_HINT))
}

impl Names {
    /// Whose they are.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bfl => "BFL",
            Self::Diffusers => "diffusers",
            Self::Transformers => "transformers",
            Self::Transformers5 => "transformers 5",
            Self::LlamaCpp => "llama.cpp",
        }
    }
}

impl WeightFile {
    /// The transformer, in BFL's or diffusers' names, whatever stands before them.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn flux(&self, config: &FluxConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Flux> {
        self.network(Network::Flux, config.init(device), dtype, device)
    }

    /// The transformer without the matrices of its blocks, for [`Streamed`](crate::Streamed) to fetch; all else is there.
    ///
    /// # Errors
    /// As [`WeightFile::flux`].
    pub fn flux_without_blocks(&self, config: &FluxConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Flux> {
        let (module, found) = (config.init(device), self.find(Network::Flux)?);
        let origins = self.origins(&module, &found.keys, &found.prefix)?;
        self.load_network(module, &origins, dtype, Without::Blocks, device)
    }

    /// The transformer without the matrices of the modulations of its blocks, for [`ModulationSource`](crate::ModulationSource)
    /// to fetch; all else is there.
    ///
    /// # Errors
    /// As [`WeightFile::flux`].
    pub fn flux_without_modulations(
        &self,
        config: &FluxConfig,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<Flux> {
        let (module, found) = (config.init(device), self.find(Network::Flux)?);
        let origins = self.origins(&module, &found.keys, &found.prefix)?;
        self.load_network(module, &origins, dtype, Without::Modulations, device)
    }

    /// The sequence encoder without its table of words and the matrices of its layers, for
    /// [`StreamedT5`](crate::StreamedT5) to fetch; all else is there.
    ///
    /// # Errors
    /// As [`WeightFile::flux`].
    pub fn t5_without_layers(&self, config: &T5Config, dtype: Option<FloatDType>, device: &Device) -> Result<T5> {
        let (module, found) = (config.init(device), self.find(Network::T5)?);
        let origins = self.origins(&module, &found.keys, &found.prefix)?;
        self.load_network(module, &origins, dtype, Without::Blocks, device)
    }

    /// The autoencoder, in BFL's or diffusers' names, in f32: its activations outgrow 16 bits.
    ///
    /// # Errors
    /// As [`WeightFile::flux`].
    pub fn autoencoder(&self, config: &AutoEncoderConfig, device: &Device) -> Result<AutoEncoder> {
        self.network(Network::AutoEncoder, config.init(device), Some(FloatDType::F32), device)
    }

    /// The sequence encoder, in transformers' or llama.cpp's names.
    ///
    /// # Errors
    /// As [`WeightFile::flux`].
    pub fn t5(&self, config: &T5Config, dtype: Option<FloatDType>, device: &Device) -> Result<T5> {
        self.network(Network::T5, config.init(device), dtype, device)
    }

    /// The pooled encoder, in transformers' names.
    ///
    /// # Errors
    /// As [`WeightFile::flux`].
    pub fn clip(&self, config: &ClipConfig, dtype: Option<FloatDType>, device: &Device) -> Result<Clip> {
        self.network(Network::Clip, config.init(device), dtype, device)
    }

    fn network<M: Module + Linears>(
        &self,
        network: Network,
        module: M,
        dtype: Option<FloatDType>,
        device: &Device,
    ) -> Result<M> {
        let found = self.find(network)?;
        let origins = self.origins(&module, &found.keys, &found.prefix)?;
        self.load_network(module, &origins, dtype, Without::Nothing, device)
    }

    /// Every network of which there is something in the file.
    pub fn networks(&self) -> Vec<Found> {
        Network::ALL.into_iter().filter_map(|network| self.found(network)).collect()
    }

    /// A network in the file.
    ///
    /// # Errors
    /// If there is nothing of it.
    pub fn find(&self, network: Network) -> Result<Found> {
        self.found(network).ok_or_else(|| {
            let first = self.keys().next().map_or("nothing".to_owned(), |key| format!("{key} and others"));
            let reason = format!("no {} is in this file, only {first}", network.title());
            self.misfit(reason, "it belongs to another network")
        })
    }

    fn found(&self, network: Network) -> Option<Found> {
        let marks = network.facts().marks;
        let (names, prefix) = marks.iter().find_map(|(names, mark)| Some((*names, self.prefix_of(mark)?)))?;
        let level = |level: &usize| self.has(&format!("{prefix}decoder.up_blocks.{level}.resnets.0.conv1.weight"));
        let levels = (0..).take_while(level).count();
        Some(Found { network, names, prefix: prefix.to_owned(), keys: network.keys(names, levels) })
    }

    /// What stands before `mark` in the file.
    fn prefix_of(&self, mark: &str) -> Option<&str> {
        self.keys().filter_map(|key| key.strip_suffix(mark)).find(|prefix| prefix.is_empty() || prefix.ends_with('.'))
    }
}
