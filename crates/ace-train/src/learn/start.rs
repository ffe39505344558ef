//! Where a run starts and ends: its networks from files or from random numbers, and what they learned to files.

use super::{
    flow::TrainedNetworks,
    params,
    recipe::{LoraRecipe, NetworkName, Recipe},
};
use crate::{
    Error,
    data::encode::{Encoders, TextEncoders, check_unit},
    error::RecipeProblem,
};
use ace_nn::{
    autoencoder::AutoEncoder,
    clip::Clip,
    flux::{Flux, FluxConfig},
    lora::{Linears, LoraBranch},
    t5::T5,
    weight::{Packing, Weight},
};
use ace_plus::{Card, Model, model::Component, text::Tokenizers};
use ace_weights::{Network, Placement, Streamed, WeightFile, adapter};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// Where a run starts: a model, and the numbers in which its frozen networks are held.
///
/// Nothing is read before one of the methods asks for it. A network that the recipe starts from random numbers needs no
/// file.
#[derive(Debug, Clone)]
pub struct Start {
    /// The model: files of any dialect and precision that sampling reads. Its numbers are those of frozen networks; networks
    /// that learn are in f32, whatever their files have.
    pub model: Model,
    /// Encoders that take more memory than this, in bytes, are dropped before the first step: everything that the run will
    /// draw is then encoded ahead. Smaller ones stay, and the first step need not wait.
    pub encoder_budget: u64,
}

/// What encoders may take beside the network that is trained, in bytes: more than any miniature's, less than T5-XXL's.
const ENCODER_BUDGET: u64 = 1 << 30;

impl Start {
    /// A model that was found elsewhere, whatever a recipe says.
    pub fn of(model: Model) -> Self {
        Self { model, encoder_budget: ENCODER_BUDGET }
    }

    /// What is known about the model.
    pub fn card(&self) -> &Card {
        self.model.card()
    }

    /// The model that the recipe at `path` names: its files are looked for in the recipe's folders, or else in the card's
    /// own folder, then in the cache of the Hugging Face Hub.
    ///
    /// # Errors
    /// If the recipe names no model, its card cannot be used, or a published model is not complete.
    pub fn of_recipe(recipe: &Recipe, path: &Path) -> Result<Self, Error> {
        let beside = path.parent().unwrap_or(Path::new(""));
        let (card, home) = match (&recipe.card, &recipe.model) {
            (Some(file), _) => load_card(&beside.join(file))?,
            // A bare name is a built-in card if there is one; `./tiny` is always a folder.
            (None, Some(name)) => match Card::builtin(name) {
                Ok(card) => (card, beside.to_owned()),
                Err(unknown) if !beside.join(name).exists() => return Err(unknown.into()),
                Err(_) => load_card(&beside.join(name))?,
            },
            (None, None) => return Err(Error::recipe(path, RecipeProblem::NoModel)),
        };
        check_unit(&card)?;
        let folders = match recipe.weights.is_empty() {
            true => vec![home.clone()],
            false => recipe.weights.iter().map(|weights| beside.join(weights)).collect(),
        };
        let mut model = find_networks(Model::of(card, home), &folders)?;
        if let Some(flux) = &recipe.flux {
            model = model.network(Network::Flux, flux.clone());
        }
        Ok(Self::of(model.dtype(recipe.frozen_dtype.into())).adjusted(recipe))
    }

    /// The same model as the recipe wants it to be learned on: within its tokens, without the card's LoRAs if it says so, its
    /// blocks packed and placed as it says.
    pub fn adjusted(self, recipe: &Recipe) -> Self {
        let model = self.model.with_card(|card| {
            card.canvas.max_seq_len = recipe.max_seq_len.unwrap_or(card.canvas.max_seq_len);
            if !recipe.with_adapters {
                card.adapter.clear();
            }
        });
        let model = model.quantize(recipe.quantize.map(Packing::from)).placement(recipe.placement.into());
        Self { model, ..self }
    }

    /// The autoencoder, in f32.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn autoencoder(&self, recipe: &Recipe, device: &Device) -> Result<AutoEncoder, Error> {
        let config = &self.card().autoencoder;
        if recipe.is_fresh(NetworkName::AutoEncoder) {
            return Ok(params::initialize(config.init(device), "autoencoder", recipe.seed, device));
        }
        Ok(self.model.open(Network::AutoEncoder)?.autoencoder(config, device)?)
    }

    /// T5: frozen unless the recipe trains it.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn t5(&self, recipe: &Recipe, device: &Device) -> Result<T5, Error> {
        let config = &self.card().t5;
        let learns = recipe.trains(NetworkName::T5);
        let network = if recipe.is_fresh(NetworkName::T5) {
            params::initialize(config.init(device), "t5", recipe.seed, device)
        } else {
            let (file, dtype) = self.open(Network::T5, !learns)?;
            file.t5(config, Some(dtype), device)?
        };
        Ok(if learns { network } else { network.no_grad() })
    }

    /// CLIP: frozen unless the recipe trains it.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn clip(&self, recipe: &Recipe, device: &Device) -> Result<Clip, Error> {
        let config = &self.card().clip;
        let learns = recipe.trains(NetworkName::Clip);
        let network = if recipe.is_fresh(NetworkName::Clip) {
            params::initialize(config.init(device), "clip", recipe.seed, device)
        } else {
            let (file, dtype) = self.open(Network::Clip, !learns)?;
            file.clip(config, Some(dtype), device)?
        };
        Ok(if learns { network } else { network.no_grad() })
    }

    /// The networks that encode examples, on `device` without gradients; the text encoders only if both are frozen.
    ///
    /// # Errors
    /// If a file is missing or does not fit the card, or the device does not compute in the frozen numbers.
    pub fn encoders(&self, recipe: &Recipe, device: &Device) -> Result<Encoders, Error> {
        self.check_dtype(device)?;
        let text = match trains_text(recipe) {
            true => None,
            false => Some(TextEncoders { t5: self.t5(recipe, device)?, clip: self.clip(recipe, device)? }),
        };
        Ok(Encoders {
            card: self.card().clone(),
            autoencoder: self.autoencoder(recipe, device)?,
            tokenizers: self.tokenizers()?,
            text,
            device: device.clone(),
        })
    }

    /// From words to numbers.
    ///
    /// # Errors
    /// If a file is missing, or does not fit the card.
    pub fn tokenizers(&self) -> Result<Tokenizers, Error> {
        let find = |component| self.model.require(component);
        Ok(Tokenizers::read(self.card(), &find(Component::T5Tokenizer)?, &find(Component::ClipTokenizer)?)?)
    }

    /// The transformer, and the text encoders if one of them learns, on `device` with gradients.
    ///
    /// # Errors
    /// As [`Start::flux`].
    pub fn trained(&self, recipe: &Recipe, device: &Device) -> Result<TrainedNetworks, Error> {
        let text = trains_text(recipe);
        Ok(TrainedNetworks {
            flux: self.flux(recipe, device)?,
            t5: text.then(|| whole("the T5 encoder", self.t5(recipe, device)?)).transpose()?,
            clip: text.then(|| whole("the CLIP encoder", self.clip(recipe, device)?)).transpose()?,
        })
    }

    /// The transformer, widened and with fresh branches as the recipe says.
    ///
    /// Under fresh branches, everything else is frozen: held in the frozen numbers, packed, or absent where blocks are streamed. The card's own LoRAs
    /// are frozen too, so that the new one is learned on what sampling has without it.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card, the columns of a widened one have no known place, or the device
    /// does not compute in the frozen numbers.
    pub fn flux(&self, recipe: &Recipe, device: &Device) -> Result<Flux, Error> {
        self.check_dtype(device)?;
        let config = FluxConfig {
            in_channels: recipe.widen_from.unwrap_or(self.card().flux.in_channels),
            ..self.card().flux.clone()
        };
        let is_frozen = !self.learns_whole(recipe);
        let mut flux = if recipe.is_fresh(NetworkName::Flux) {
            params::initialize(config.init(device), "flux", recipe.seed, device)
        } else {
            // Columns cannot be added to a packed matrix, but only blocks are packed here.
            let stays_wide = recipe.widen_from.is_none() || self.model.packs_to().is_some();
            let (file, dtype) = self.open(Network::Flux, is_frozen && stays_wide)?;
            match self.streams(recipe) {
                true => file.flux_without_blocks(&config, Some(dtype), device)?,
                false => file.flux(&config, Some(dtype), device)?,
            }
        };
        if !is_frozen {
            flux = whole("the transformer", flux)?;
        }
        if recipe.widen_from.is_some() {
            flux = widen(flux, &config, &self.card().flux)?;
        }
        if !recipe.is_fresh(NetworkName::Flux) {
            for (source, weight) in self.model.adapters()? {
                adapter::attach(&mut flux, &source.open()?, weight, device)?;
            }
        }
        if let Some(from) = recipe.lora.as_ref().filter(|lora| lora.fuse).and_then(|lora| lora.from.as_ref()) {
            // As a frozen branch: the sum is the same, and a packed base stays packed.
            adapter::attach(&mut flux, &WeightFile::open(from)?, 1.0, device)?;
        }
        if is_frozen {
            flux = flux.no_grad();
        } else {
            flux.for_each_linear(&mut |_, linear| linear.lora = std::mem::take(&mut linear.lora).no_grad());
        }
        if let Some(lora) = &recipe.lora {
            branch_out(&mut flux, lora, recipe.seed, device)?;
        }
        Ok(flux)
    }

    /// The transformer's blocks, on `device` without gradients, if they are fetched when they run: [`Start::flux`] has none
    /// of their matrices then.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn blocks(&self, recipe: &Recipe, device: &Device) -> Result<Option<Streamed>, Error> {
        if !self.streams(recipe) {
            return Ok(None);
        }
        let (file, dtype) = self.open(Network::Flux, true)?;
        Ok(Some(Streamed::open(file, &self.card().flux, Some(dtype), device)?))
    }

    /// Whether the transformer's blocks are fetched when they run.
    fn streams(&self, recipe: &Recipe) -> bool {
        let is_frozen = !self.learns_whole(recipe) && recipe.widen_from.is_none();
        is_frozen && !recipe.is_fresh(NetworkName::Flux) && self.model.placed() == Placement::Streamed
    }

    /// Whether the recipe's branches fit the card's transformer, before anything large is read.
    ///
    /// # Errors
    /// If a pattern is of no layer, or the LoRA to start from cannot be read or does not fit.
    pub fn check_lora(&self, recipe: &Recipe, path: &Path, device: &Device) -> Result<(), Error> {
        let Some(lora) = &recipe.lora else { return Ok(()) };
        // Nothing is allocated before a parameter is asked for.
        let mut flux = self.card().flux.init(device);
        let mut layers = Vec::new();
        flux.for_each_linear(&mut |path, _| layers.push(path.to_owned()));
        lora.check_names(&layers).map_err(|problem| Error::recipe(path, problem))?;
        match &lora.from {
            Some(from) if lora.fuse => Ok(adapter::check(&mut flux, &WeightFile::open(from)?)?),
            Some(from) => go_on_from(&mut flux, lora, from, device),
            None => Ok(()),
        }
    }

    /// The numbers in which the transformer computes.
    pub fn flux_dtype(&self, recipe: &Recipe) -> FloatDType {
        if self.learns_whole(recipe) || recipe.is_fresh(NetworkName::Flux) {
            FloatDType::F32
        } else {
            self.model.holds_in()
        }
    }

    /// Whether the transformer itself learns, not only branches of it.
    fn learns_whole(&self, recipe: &Recipe) -> bool {
        recipe.trains(NetworkName::Flux) && recipe.lora.is_none()
    }

    pub(super) fn check_dtype(&self, device: &Device) -> Result<(), Error> {
        let dtype = self.model.holds_in();
        if device.supports_dtype(dtype) { Ok(()) } else { Err(Error::Dtype { dtype }) }
    }

    /// A network's weight file, and the numbers in which it is to be read.
    fn open(&self, network: Network, is_frozen: bool) -> Result<(WeightFile, FloatDType), Error> {
        Ok(match is_frozen {
            // Blocks run without a graph first, then with one: both must give the same numbers.
            true => (self.model.open(network)?.exact(), self.model.holds_in()),
            false => (self.model.require(Component::of(network))?.open()?, FloatDType::F32),
        })
    }
}

/// A network that is to learn, if its device takes every matrix as one tensor.
fn whole<M: Linears>(network: &'static str, mut module: M) -> Result<M, Error> {
    let mut is_split = false;
    module.each_weight(&mut |weight| is_split |= matches!(weight, Weight::Split(_)));
    if is_split { Err(Error::Divided { network }) } else { Ok(module) }
}

/// Whether a text encoder learns: then both belong to the networks that are trained.
pub(super) fn trains_text(recipe: &Recipe) -> bool {
    recipe.trains(NetworkName::T5) || recipe.trains(NetworkName::Clip)
}

/// Gives layers the branches that learn: those of the LoRA to start from, fresh ones elsewhere.
fn branch_out(flux: &mut Flux, lora: &LoraRecipe, seed: u64, device: &Device) -> Result<(), Error> {
    let frozen = count_branches(flux);
    if let Some(from) = lora.from.as_ref().filter(|_| !lora.fuse) {
        go_on_from(flux, lora, from, device)?;
    }
    flux.for_each_linear(&mut |path, linear| {
        let Some((rank, scale)) = lora.branch(path) else { return };
        if linear.lora.len() == frozen[path] {
            let branch = LoraBranch::new(linear.features(), rank, scale, device);
            linear.lora.push(params::initialize(branch, &format!("lora.{path}"), seed, device));
        }
    });
    Ok(())
}

/// How many branches every layer has.
fn count_branches(flux: &mut Flux) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    flux.for_each_linear(&mut |path, linear| {
        counts.insert(path.to_owned(), linear.lora.len());
    });
    counts
}

/// Adds the branches of a LoRA file, which are to go on learning.
///
/// # Errors
/// If it has a branch where the recipe wants none, one of another rank, or more than branches.
fn go_on_from(flux: &mut Flux, lora: &LoraRecipe, from: &Path, device: &Device) -> Result<(), Error> {
    let before = count_branches(flux);
    let report = adapter::attach(flux, &WeightFile::open(from)?, 1.0, device)?;
    let mut problem = (report.parameters > 0).then(|| {
        format!(
            "it also changes {} weights, biases or norms, which do not learn; fuse = true takes it",
            report.parameters
        )
    });
    flux.for_each_linear(&mut |path, linear| {
        let Some(branch) = linear.lora.get(before[path]) else { return };
        let [rank, _] = branch.lora_a.dims();
        // Queries, keys and values of other spellings stand below each other.
        let is_fused = path.ends_with("qkv") || path.ends_with("linear1");
        let found = match lora.branch(path) {
            None => Some(format!("it has a branch for {path}, which gets none here")),
            Some((wanted, _)) if rank == wanted || is_fused && rank.is_multiple_of(wanted) => None,
            Some((wanted, _)) => Some(format!("its branch for {path} has rank {rank}, not {wanted}")),
        };
        problem = problem.take().or(found);
    });
    match problem {
        Some(reason) => Err(Error::recipe(from, RecipeProblem::OtherLora { reason })),
        None => Ok(()),
    }
}

/// A card and its folder.
fn load_card(path: &Path) -> Result<(Card, PathBuf), Error> {
    let home = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    Ok((Card::load(path)?, home.to_owned()))
}

/// The model with its networks from the first of the folders that has each, or else from the cache of the Hugging Face Hub;
/// tokenizers and the card's LoRAs are in its own folder.
fn find_networks(mut model: Model, folders: &[PathBuf]) -> Result<Model, Error> {
    for network in Network::ALL {
        let component = Component::of(network);
        let names: Vec<PathBuf> = model.card().paths(component).iter().map(Path::to_owned).collect();
        let places = folders.iter().flat_map(|folder| names.iter().map(move |name| folder.join(name)));
        let found = places.clone().find(|path| path.exists());
        let is_cached = match model.cache() {
            Some(_) => model.clone().weights(PathBuf::from("")).find_component(component)?.is_some(),
            None => false,
        };
        // Other weights than those of the recipe's folders are not taken: opening the first place says what is missing.
        if let Some(path) = found.or_else(|| places.clone().next().filter(|_| !is_cached && model.cache().is_none())) {
            model = model.network(network, path);
        }
    }
    Ok(model)
}

/// Widens the input layer with zero columns, so that the network starts as the one it was.
///
/// Noise stays where it is. A FLUX-Fill network has its mask's columns last; here the change image stands before the mask,
/// so they move to the end, behind the new columns. (Columns that are only appended on the right, as the official loader
/// does it, put the old mask weights under the change image.)
///
/// # Errors
/// If it is not known where the new columns belong.
pub fn widen(mut flux: Flux, from: &FluxConfig, to: &FluxConfig) -> Result<Flux, Error> {
    let (old, new) = (from.in_channels, to.in_channels);
    let latent = to.out_channels;
    // Columns before the gap: only a network that already has masks has something to move.
    let keep = match old {
        _ if old == latent => latent,
        _ if new == old + latent => 2 * latent,
        _ => return Err(Error::Widening { from: old, to: new }),
    };
    let (id, weight) = (flux.img_in.weight.id().unwrap_or_default(), flux.img_in.weight.val());
    let is_autodiff = weight.device().is_autodiff();
    // A parameter is a leaf: the columns are put together outside the graph.
    let weight = if is_autodiff { weight.inner() } else { weight };
    let [rows, columns] = weight.dims();
    let gap = Tensor::<2>::zeros([rows, new - old], &weight.device()).cast(weight.dtype());
    let head = weight.clone().narrow(1, 0, keep);
    let parts = match columns - keep {
        0 => vec![head, gap],
        rest => vec![head, gap, weight.narrow(1, keep, rest)],
    };
    flux.img_in.weight = params::learned_param(id, Tensor::cat(parts, 1), is_autodiff).into();
    Ok(flux)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(model: &str) -> Result<Start, Error> {
        let text = format!(
            "name = \"run\"\n{model}\ntrain = [\"flux\"]\nfrozen_dtype = \"bf16\"\n[data]\nworld = 64\n\
             [optimizer]\nsteps = 1\nbatch = 1\nlearning_rate = 1e-3\n"
        );
        Start::of_recipe(&toml::from_str(&text).unwrap(), &models().join("tiny/run.toml"))
    }

    fn models() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models")
    }

    #[test]
    fn a_model_is_a_built_in_card_beside_the_recipe_or_a_folder() {
        for model in ["model = \"tiny\"", "model = \"../tiny\"", "card = \".\"", "card = \"card.toml\""] {
            let start = start(model).unwrap();
            assert_eq!(start.card().name, "tiny", "{model}");
            let files = start.model.files().unwrap();
            let files = files.iter().map(|(_, source)| source.path().canonicalize().unwrap());
            let tiny = models().join("tiny").canonicalize().unwrap();
            assert!({ files }.all(|path| path.starts_with(&tiny)), "{model}");
            assert_eq!(start.model.holds_in(), FloatDType::BF16);
        }
    }

    #[test]
    fn a_model_that_is_not_there_is_named() {
        assert_eq!(start("model = \"giant\"").unwrap_err().to_string(), "there is no built-in card \"giant\"");
        let nothing = start("").unwrap_err();
        assert!(matches!(nothing, Error::Recipe { problem: RecipeProblem::NoModel, .. }), "{nothing}");
        // Other weights than the card's own are not replaced by those.
        let elsewhere = start("model = \"tiny\"\nweights = [\"lora\"]").unwrap();
        assert!(elsewhere.model.require(Component::Flux).unwrap().path().ends_with("lora/flux.safetensors"));
        assert!(elsewhere.model.require(Component::T5Tokenizer).unwrap().path().is_file());
    }
}
