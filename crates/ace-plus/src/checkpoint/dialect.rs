//! Which networks are in a file, under which of their names, and behind which prefix.

use super::WeightFile;
use crate::Result;
use ace_nn::{
    autoencoder::{self, AutoEncoder, AutoEncoderConfig},
    clip::{self, Clip, ClipConfig},
    flux::{self, Flux, FluxConfig},
    keys::KeyMap,
    t5::{self, T5, T5Config},
};
use burn::{module::Module, prelude::*, tensor::FloatDType};

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

/// A name that every file of one dialect has.
const MARKS: [(Network, Names, &str); 10] = [
    (Network::Flux, Names::Diffusers, "transformer_blocks.0.norm1.linear.weight"),
    (Network::Flux, Names::Diffusers, "single_transformer_blocks.0.norm.linear.weight"),
    (Network::Flux, Names::Bfl, "double_blocks.0.img_mod.lin.weight"),
    (Network::Flux, Names::Bfl, "img_in.weight"),
    (Network::AutoEncoder, Names::Diffusers, "encoder.down_blocks.0.resnets.0.conv1.weight"),
    (Network::AutoEncoder, Names::Bfl, "encoder.down.0.block.0.conv1.weight"),
    (Network::T5, Names::Transformers, "encoder.block.0.layer.0.SelfAttention.q.weight"),
    (Network::T5, Names::LlamaCpp, "enc.blk.0.attn_q.weight"),
    (Network::Clip, Names::Transformers, "text_model.encoder.layers.0.self_attn.q_proj.weight"),
    (Network::Clip, Names::Transformers5, "encoder.layers.0.self_attn.q_proj.weight"),
];

impl Network {
    /// All of them, as an edit needs them.
    pub const ALL: [Self; 4] = [Self::Flux, Self::AutoEncoder, Self::T5, Self::Clip];

    /// What people call it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Flux => "FLUX transformer",
            Self::AutoEncoder => "autoencoder",
            Self::T5 => "T5 encoder",
            Self::Clip => "CLIP text tower",
        }
    }
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

    /// The names of a network's weights; `levels` are the autoencoder's.
    pub(crate) const fn keys(self, network: Network, levels: usize) -> KeyMap {
        match (network, self) {
            (Network::Flux, Self::Diffusers) => flux::keys::DIFFUSERS,
            (Network::Flux, _) => flux::keys::BFL,
            (Network::AutoEncoder, Self::Diffusers) => autoencoder::keys::diffusers(levels),
            (Network::AutoEncoder, _) => autoencoder::keys::BFL,
            (Network::T5, Self::LlamaCpp) => t5::keys::LLAMA_CPP,
            (Network::T5, _) => t5::keys::TRANSFORMERS,
            (Network::Clip, Self::Transformers5) => clip::keys::TRANSFORMERS_5,
            (Network::Clip, _) => clip::keys::TRANSFORMERS,
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

    fn network<M: Module>(&self, network: Network, module: M, dtype: Option<FloatDType>, device: &Device) -> Result<M> {
        let found = self.find(network)?;
        self.load(module, &found.keys, &found.prefix, dtype, device)
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
            let reason = format!("no {} is in this file, only {first}", network.name());
            self.misfit(reason, "it belongs to another network")
        })
    }

    fn found(&self, network: Network) -> Option<Found> {
        let marks = MARKS.iter().filter(|(marked, _, _)| *marked == network);
        let (names, prefix) = marks.into_iter().find_map(|(_, names, mark)| Some((*names, self.prefix_of(mark)?)))?;
        let level = |level: &usize| self.has(&format!("{prefix}decoder.up_blocks.{level}.resnets.0.conv1.weight"));
        let levels = (0..).take_while(level).count();
        Some(Found { network, names, prefix: prefix.to_owned(), keys: names.keys(network, levels) })
    }

    /// What stands before `mark` in the file.
    fn prefix_of(&self, mark: &str) -> Option<&str> {
        self.keys().filter_map(|key| key.strip_suffix(mark)).find(|prefix| prefix.is_empty() || prefix.ends_with('.'))
    }
}
