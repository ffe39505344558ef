//! Where a run starts and ends: its networks from files or from random numbers, and what they learned to files.

use super::{
    flow::TrainedNetworks,
    params,
    recipe::{NetworkName, Recipe},
};
use crate::{
    Error,
    data::encode::{Encoders, TextEncoders},
    error::RecipeProblem,
};
use ace_nn::{
    autoencoder::AutoEncoder,
    clip::{self, Clip},
    flux::{self, Flux, FluxConfig},
    keys::KeyMap,
    lora::LoraBranch,
    t5::{self, T5},
};
use ace_plus::{
    Card, adapter,
    card::{Files, Part},
    checkpoint::{self, WeightFile},
    fetch::Hub,
    pipeline::Numbers,
    text::Tokenizers,
};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use std::path::{Path, PathBuf};

/// Where a run starts: a model's card, its files, and the numbers in which frozen networks are held.
///
/// Nothing is read before one of the methods asks for it. A network that the recipe starts from random numbers needs no
/// file.
#[derive(Debug, Clone)]
pub struct Start {
    /// What is known about the model.
    pub card: Card,
    /// Where its files are: of any dialect and precision that sampling reads.
    pub files: Files,
    /// How frozen networks are held. Networks that learn are in f32, whatever their files have.
    pub numbers: Numbers,
    /// Encoders that take more memory than this, in bytes, are dropped before the first step: everything that the run will
    /// draw is then encoded ahead. Smaller ones stay, and the first step need not wait.
    pub encoder_budget: u64,
}

/// What encoders may take beside the network that is trained, in bytes: more than any miniature's, less than T5-XXL's.
const ENCODER_BUDGET: u64 = 1 << 30;

impl Start {
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
        let folders = match recipe.weights.is_empty() {
            true => vec![home.clone()],
            false => recipe.weights.iter().map(|weights| beside.join(weights)).collect(),
        };
        let files = find_files(&card, recipe, &home, &folders)?;
        let numbers = Numbers { dtype: recipe.frozen_dtype.into(), ..Numbers::default() };
        Ok(Self { card, files, numbers, encoder_budget: ENCODER_BUDGET })
    }

    /// The autoencoder, in f32.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn autoencoder(&self, recipe: &Recipe, device: &Device) -> Result<AutoEncoder, Error> {
        let config = &self.card.autoencoder;
        if recipe.is_fresh(NetworkName::AutoEncoder) {
            return Ok(params::initialize(config.init(device), "autoencoder", recipe.seed, device));
        }
        Ok(WeightFile::open(&self.files.autoencoder)?.autoencoder(config, device)?)
    }

    /// T5: frozen unless the recipe trains it.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn t5(&self, recipe: &Recipe, device: &Device) -> Result<T5, Error> {
        let config = &self.card.t5;
        let learns = recipe.trains(NetworkName::T5);
        let network = if recipe.is_fresh(NetworkName::T5) {
            params::initialize(config.init(device), "t5", recipe.seed, device)
        } else {
            let (file, dtype) = self.open(&self.files.t5, !learns)?;
            file.t5(config, Some(dtype), device)?
        };
        Ok(if learns { network } else { network.no_grad() })
    }

    /// CLIP: frozen unless the recipe trains it.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card.
    pub fn clip(&self, recipe: &Recipe, device: &Device) -> Result<Clip, Error> {
        let config = &self.card.clip;
        let learns = recipe.trains(NetworkName::Clip);
        let network = if recipe.is_fresh(NetworkName::Clip) {
            params::initialize(config.init(device), "clip", recipe.seed, device)
        } else {
            let (file, dtype) = self.open(&self.files.clip, !learns)?;
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
            card: self.card.clone(),
            autoencoder: self.autoencoder(recipe, device)?,
            tokenizers: Tokenizers::read(&self.card, &self.files.t5_tokenizer, &self.files.clip_tokenizer)?,
            text,
            device: device.clone(),
        })
    }

    /// The transformer, and the text encoders if one of them learns, on `device` with gradients.
    ///
    /// # Errors
    /// As [`Start::flux`].
    pub fn trained(&self, recipe: &Recipe, device: &Device) -> Result<TrainedNetworks, Error> {
        let text = trains_text(recipe);
        Ok(TrainedNetworks {
            flux: self.flux(recipe, device)?,
            t5: text.then(|| self.t5(recipe, device)).transpose()?,
            clip: text.then(|| self.clip(recipe, device)).transpose()?,
        })
    }

    /// The transformer, widened and with fresh branches as the recipe says.
    ///
    /// Under fresh branches, everything else is frozen: held in the frozen numbers, `Q8_0` packed. The card's own LoRAs
    /// are frozen too, so that the new one is learned on what sampling has without it.
    ///
    /// # Errors
    /// If its file is missing or does not fit the card, the columns of a widened one have no known place, or the device
    /// does not compute in the frozen numbers.
    pub fn flux(&self, recipe: &Recipe, device: &Device) -> Result<Flux, Error> {
        self.check_dtype(device)?;
        let config = FluxConfig {
            in_channels: recipe.widen_from.unwrap_or(self.card.flux.in_channels),
            ..self.card.flux.clone()
        };
        let is_frozen = !self.learns_whole(recipe);
        let mut flux = if recipe.is_fresh(NetworkName::Flux) {
            params::initialize(config.init(device), "flux", recipe.seed, device)
        } else {
            // Columns cannot be added to a packed matrix.
            let (file, dtype) = self.open(&self.files.flux, is_frozen && recipe.widen_from.is_none())?;
            file.flux(&config, Some(dtype), device)?
        };
        if recipe.widen_from.is_some() {
            flux = widen(flux, &config, &self.card.flux)?;
        }
        if !recipe.is_fresh(NetworkName::Flux) {
            for (path, weight) in &self.files.adapters {
                adapter::attach(&mut flux, &WeightFile::open(path)?, *weight, device)?;
            }
        }
        if is_frozen {
            flux = flux.no_grad();
        } else {
            flux.for_each_linear(&mut |_, linear| linear.lora = std::mem::take(&mut linear.lora).no_grad());
        }
        if let Some(lora) = &recipe.lora {
            let scale = lora.alpha / lora.rank as f64;
            flux.for_each_linear(&mut |path, linear| {
                if is_adapted(path) {
                    let branch = LoraBranch::new(linear.features(), lora.rank, scale, device);
                    linear.lora.push(params::initialize(branch, &format!("lora.{path}"), recipe.seed, device));
                }
            });
        }
        Ok(flux)
    }

    /// The numbers in which the transformer computes.
    pub fn flux_dtype(&self, recipe: &Recipe) -> FloatDType {
        if self.learns_whole(recipe) || recipe.is_fresh(NetworkName::Flux) {
            FloatDType::F32
        } else {
            self.numbers.dtype
        }
    }

    /// Whether the transformer itself learns, not only branches of it.
    fn learns_whole(&self, recipe: &Recipe) -> bool {
        recipe.trains(NetworkName::Flux) && recipe.lora.is_none()
    }

    fn check_dtype(&self, device: &Device) -> Result<(), Error> {
        let dtype = self.numbers.dtype;
        if device.supports_dtype(dtype) { Ok(()) } else { Err(Error::Dtype { dtype }) }
    }

    /// A weight file, and the numbers in which it is to be read.
    fn open(&self, path: &Path, is_frozen: bool) -> Result<(WeightFile, FloatDType), Error> {
        let file = WeightFile::open(path)?;
        Ok(match is_frozen {
            true if self.numbers.widen => (file, self.numbers.dtype),
            true => (file.packed(), self.numbers.dtype),
            false => (file, FloatDType::F32),
        })
    }
}

/// Whether a text encoder learns: then both belong to the networks that are trained.
fn trains_text(recipe: &Recipe) -> bool {
    recipe.trains(NetworkName::T5) || recipe.trains(NetworkName::Clip)
}

/// Whether a layer gets a branch. The released adapters have one for every linear layer of the blocks.
fn is_adapted(path: &str) -> bool {
    path.contains("_blocks.")
}

/// A card and its folder.
fn load_card(path: &Path) -> Result<(Card, PathBuf), Error> {
    let home = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    Ok((Card::load(path)?, home.to_owned()))
}

/// Where every file is that the recipe needs: networks in `folders`, tokenizers and the card's LoRAs in `home` first.
fn find_files(card: &Card, recipe: &Recipe, home: &Path, folders: &[PathBuf]) -> Result<Files, Error> {
    let hub = if card.repository.is_empty() { None } else { Hub::from_env().ok() };
    let mut missing = false;
    let mut find = |part: Part, needed: bool| -> Result<PathBuf, Error> {
        let is_network = matches!(part, Part::Flux | Part::AutoEncoder | Part::T5 | Part::Clip);
        let first = if is_network { None } else { Some(home) };
        for folder in first.into_iter().chain(folders.iter().map(PathBuf::as_path)) {
            if let Some(found) = card.find_part(part, folder, None)? {
                return Ok(found);
            }
        }
        // A folder in which it is not: only the cache is left.
        let expected = folders.first().map_or(home, PathBuf::as_path);
        if let Some(found) = card.find_part(part, expected, hub.as_ref())? {
            return Ok(found);
        }
        missing |= needed;
        // The error of opening it will name this path.
        Ok(expected.join(card.paths(part).first()))
    };
    let needed = |network| !recipe.is_fresh(network);
    let files = Files {
        flux: find(Part::Flux, needed(NetworkName::Flux))?,
        autoencoder: find(Part::AutoEncoder, needed(NetworkName::AutoEncoder))?,
        t5: find(Part::T5, needed(NetworkName::T5))?,
        clip: find(Part::Clip, needed(NetworkName::Clip))?,
        t5_tokenizer: find(Part::T5Tokenizer, true)?,
        clip_tokenizer: find(Part::ClipTokenizer, true)?,
        adapters: (card.adapter.iter().enumerate())
            .map(|(at, adapter)| Ok((find(Part::Adapter(at), true)?, adapter.weight)))
            .collect::<Result<_, Error>>()?,
    };
    if missing && let Some(hub) = &hub {
        // A published model is fetched as a whole: the error names all that is missing of it.
        card.locate(folders.first().map_or(home, PathBuf::as_path), Some(hub))?;
    }
    Ok(files)
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
    let weight = flux.img_in.weight.val();
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
    flux.img_in.weight = params::learned_param(flux.img_in.weight.id, Tensor::cat(parts, 1), is_autodiff);
    Ok(flux)
}

/// Writes what a run on transformer and text encoders learned: the new LoRA as `<recipe's name>.safetensors`, or whole
/// networks under the names that the card has for them.
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
        let path = folder.join(format!("{}.safetensors", recipe.name));
        adapter::write(&path, &with_new_branches(&model.flux), lora.alpha, &[("made_by", note)])?;
        return Ok(vec![path]);
    }
    let files = &card.weights;
    let mut written = Vec::new();
    if recipe.trains(NetworkName::Flux) {
        let flux = without_branches(&model.flux);
        written.push(write_network(folder, files.flux.first(), &flux, &flux::keys::BFL, note)?);
    }
    if let Some(t5) = model.t5.as_ref().filter(|_| recipe.trains(NetworkName::T5)) {
        written.push(write_network(folder, files.t5.first(), t5, &t5::keys::TRANSFORMERS, note)?);
    }
    if let Some(clip) = model.clip.as_ref().filter(|_| recipe.trains(NetworkName::Clip)) {
        written.push(write_network(folder, files.clip.first(), clip, &clip::keys::TRANSFORMERS, note)?);
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
    keys: &KeyMap,
    note: &str,
) -> Result<PathBuf, Error> {
    let path = folder.join(file);
    checkpoint::write(&path, &checkpoint::collect(module, keys, "", None), &[("made_by", note)])?;
    Ok(path)
}

/// The transformer with the branches alone that were learned: the last of every layer that has one.
fn with_new_branches(flux: &Flux) -> Flux {
    let mut flux = flux.clone();
    flux.for_each_linear(&mut |path, linear| {
        let older = linear.lora.len() - usize::from(is_adapted(path) && !linear.lora.is_empty());
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
            assert_eq!(start.card.name, "tiny", "{model}");
            let files = start.files.iter().map(|(_, path)| path.canonicalize().unwrap());
            let tiny = models().join("tiny").canonicalize().unwrap();
            assert!(files.into_iter().all(|path| path.starts_with(&tiny)), "{model}");
            assert_eq!(start.numbers.dtype, FloatDType::BF16);
        }
    }

    #[test]
    fn a_model_that_is_not_there_is_named() {
        assert_eq!(start("model = \"giant\"").unwrap_err().to_string(), "there is no built-in card \"giant\"");
        let nothing = start("").unwrap_err();
        assert!(matches!(nothing, Error::Recipe { problem: RecipeProblem::NoModel, .. }), "{nothing}");
        // Other weights than the card's own are not replaced by those.
        let elsewhere = start("model = \"tiny\"\nweights = [\"lora\"]").unwrap();
        assert!(elsewhere.files.flux.ends_with("lora/flux.safetensors"));
        assert!(elsewhere.files.t5_tokenizer.is_file());
    }
}
