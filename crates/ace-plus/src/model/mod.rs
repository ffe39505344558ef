//! From a model's name to its networks: where the files are, whether they are whole, and loading them.
//!
//! ```no_run
//! # fn main() -> ace_plus::Result<()> {
//! # let device = burn::tensor::Device::default();
//! use ace_plus::{Model, Placement};
//!
//! let ace = Model::find("ace-plus-portrait")?
//!     .weights("weights")
//!     .lora("style.safetensors", 0.8)
//!     .placement(Placement::OneAtATime)
//!     .load(&device)?;
//! # Ok(())
//! # }
//! ```

mod checkup;
mod files;

pub use checkup::{Finding, Problem, Reading, checkup};
pub use files::{Component, Files};

use crate::{Ace, Card, Error, Result, card::Adapter, text_cache::TextCache};
use ace_nn::weight::Packing;
use ace_weights::{
    Network, Placement, Source, WeightFile, digest,
    hub::{Hub, HubFile, Progress},
};
use burn::tensor::{Device, FloatDType};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// The model that is used when none is named.
pub const DEFAULT: &str = "tiny";

/// A model that is not loaded yet: its card, where its files are looked for, and how it is to be held.
#[derive(Debug, Clone)]
pub struct Model {
    card: Card,
    folder: PathBuf,
    hub: Option<Hub>,
    in_memory: BTreeMap<PathBuf, Cow<'static, [u8]>>,
    named: BTreeMap<Network, PathBuf>,
    loras: Vec<(Source, f64)>,
    dtype: FloatDType,
    widen: bool,
    quantize: Option<Packing>,
    placement: Placement,
    text_placement: Option<Placement>,
    text_cache: Option<PathBuf>,
}

impl Model {
    /// A model by its name: a built-in card, whose files are then looked for in [`Model::weights`] and in the cache of the
    /// Hugging Face Hub; or a folder with a `card.toml` or a `model_index.json`; or a card file. `./tiny` is always a path.
    ///
    /// # Errors
    /// If there is no such card or folder, or the card cannot be used.
    pub fn find(name: &str) -> Result<Self> {
        let is_bare = !name.contains(['/', '\\']);
        match Card::builtin(name) {
            Ok(card) if is_bare => Ok(Self::of(card, PathBuf::new())),
            Err(unknown) if is_bare && !Path::new(name).exists() => Err(unknown),
            _ => {
                let path = Path::new(name);
                let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
                Ok(Self::of(Card::load(path)?, folder.to_owned()))
            }
        }
    }

    /// A model whose files are looked for in `folder`, and in the cache of the Hugging Face Hub if its card says that they
    /// are published.
    pub fn of(card: Card, folder: impl Into<PathBuf>) -> Self {
        // Without a home folder there is no cache to look into.
        let hub = if card.repository.is_empty() { None } else { Hub::from_env().ok() };
        Self {
            card,
            folder: folder.into(),
            hub,
            in_memory: BTreeMap::new(),
            named: BTreeMap::new(),
            loras: Vec::new(),
            dtype: FloatDType::F32,
            widen: false,
            quantize: None,
            placement: Placement::default(),
            text_placement: None,
            text_cache: None,
        }
    }

    /// The folder in which files are looked for first.
    pub fn weights(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = folder.into();
        self
    }

    /// Another file or folder for a network: fp8, GGUF, diffusers' …
    pub fn network(mut self, network: Network, path: impl Into<PathBuf>) -> Self {
        self.named.insert(network, path.into());
        self
    }

    /// A file in memory, such as one built into a program, under the name that the card has for it.
    pub fn bytes(mut self, name: impl Into<PathBuf>, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        self.in_memory.insert(name.into(), bytes.into());
        self
    }

    /// The cache to look into and to fetch to; none to look nowhere but in folders.
    pub fn hub(mut self, hub: Option<Hub>) -> Self {
        self.hub = hub;
        self
    }

    /// A LoRA, in whichever trainer's spelling, `weight` times as strong as it was trained; several add up. It is a file, or
    /// bytes that stand for one.
    pub fn lora(mut self, file: impl Into<Source>, weight: f64) -> Self {
        self.loras.push((file.into(), weight));
        self
    }

    /// Numbers of transformer and text encoders, f32 unless said; the autoencoder computes in f32.
    pub fn dtype(mut self, dtype: FloatDType) -> Self {
        self.dtype = dtype;
        self
    }

    /// Whether matrices that a file has in GGUF's `Q8_0` or `Q4_0` are widened once when they are read, which takes two to
    /// seven times the memory, instead of whenever they are used, which takes time.
    pub fn widen(mut self, widen: bool) -> Self {
        self.widen = widen;
        self
    }

    /// Packs the matrices of the blocks of transformer and text encoders when they are read, whatever their files have.
    pub fn quantize(mut self, packing: Option<Packing>) -> Self {
        self.quantize = packing;
        self
    }

    /// To what matrices of blocks are packed, if they are.
    pub fn packs_to(&self) -> Option<Packing> {
        self.quantize
    }

    /// Where the weights are while it works.
    pub fn placed(&self) -> Placement {
        self.placement
    }

    /// Where the weights are while it works.
    pub fn placement(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    /// Where the text encoders are while it works, if elsewhere than the transformer; without effect where all networks stay
    /// on the device.
    pub fn text_placement(mut self, placement: Placement) -> Self {
        self.text_placement = Some(placement);
        self
    }

    /// A folder in which embeddings of instructions are kept: for the same words the encoders are then not read again. It
    /// is worth its files where the encoders are large.
    pub fn text_cache(mut self, folder: Option<PathBuf>) -> Self {
        self.text_cache = folder;
        self
    }

    /// The same files under a card with something changed.
    pub fn with_card(mut self, change: impl FnOnce(&mut Card)) -> Self {
        change(&mut self.card);
        self
    }

    /// Everything about the model that is not code.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// The folder in which files are looked for first.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The cache in which they are looked for then.
    pub fn cache(&self) -> Option<&Hub> {
        self.hub.as_ref()
    }

    /// Where everything is.
    ///
    /// # Errors
    /// If something is nowhere: all that is missing is named.
    pub fn files(&self) -> Result<Files> {
        let mut missing = Vec::new();
        let mut all = BTreeMap::new();
        for component in self.card.components() {
            match self.find_component(component)? {
                Some(source) => drop(all.insert(component, source)),
                None => missing.push(format!("{component} ({})", self.card.paths(component).first().display())),
            }
        }
        if missing.is_empty() {
            let adapters = self.card.adapter.iter().map(|adapter| adapter.weight).collect();
            return Ok(Files::new(all, adapters, self.loras.clone()));
        }
        Err(self.incomplete(&missing.join(", ")))
    }

    fn incomplete(&self, missing: &str) -> Error {
        let folder = if self.folder.as_os_str().is_empty() { Path::new(".") } else { self.folder.as_path() };
        let (name, folder_is) = (&self.card.name, folder.is_dir() && !self.folder.as_os_str().is_empty());
        let place = match (self.card.repository.is_empty(), folder_is) {
            (true, _) => format!("in {}", folder.display()),
            (false, true) => format!("in {} or the Hugging Face cache", folder.display()),
            (false, false) => "in the Hugging Face cache".to_owned(),
        };
        let is_published = !self.card.repository.is_empty();
        let hint = match is_published {
            true => format!("fetch {name}, or name the folder of the weights"),
            false => "put the files there, or name the folder of the weights".to_owned(),
        };
        Error::Incomplete { model: name.clone(), place, missing: missing.to_owned(), is_published, hint }
    }

    /// Where a component is: named, in memory, in the folder under any of its names, or else whole in the cache.
    ///
    /// # Errors
    /// If the cache cannot be read.
    pub fn find_component(&self, component: Component) -> Result<Option<Source>> {
        if let Some(path) = component.network().and_then(|network| self.named.get(&network)) {
            // If it is not there, opening it says so.
            return Ok(Some(Source::File(path.clone())));
        }
        if let Some(source) = self.card.paths(component).iter().find_map(|name| self.find_in_memory(name)) {
            return Ok(Some(source));
        }
        let in_folder =
            self.card.paths(component).iter().map(|place| self.folder.join(place)).find(|path| path.exists());
        Ok(match (in_folder, &self.hub) {
            (None, Some(hub)) => self.card.find_cached(component, hub)?,
            (found, _) => found,
        }
        .map(Source::File))
    }

    /// A file in memory, or a folder of files.
    fn find_in_memory(&self, place: &Path) -> Option<Source> {
        if let Some((name, bytes)) = self.in_memory.get_key_value(place) {
            return Some(Source::Bytes { name: name.clone(), bytes: bytes.clone() });
        }
        let inside = self
            .in_memory
            .iter()
            .filter_map(|(name, bytes)| Some((name.strip_prefix(place).ok()?.to_str()?.to_owned(), bytes.clone())));
        let files: BTreeMap<_, _> = inside.collect();
        (!files.is_empty()).then(|| Source::Folder { name: place.to_owned(), files })
    }

    /// Where a component is.
    ///
    /// # Errors
    /// If it is nowhere, or the cache cannot be read.
    pub fn require(&self, component: Component) -> Result<Source> {
        let missing = || self.incomplete(&format!("{component} ({})", self.card.paths(component).first().display()));
        self.find_component(component)?.ok_or_else(missing)
    }

    /// Every LoRA with its weight: the card's own, then those on top.
    ///
    /// # Errors
    /// If one of the card's is nowhere, or the cache cannot be read.
    pub fn adapters(&self) -> Result<Vec<(Source, f64)>> {
        let own = |(at, adapter): (usize, &Adapter)| Ok((self.require(Component::Adapter(at))?, adapter.weight));
        let mut all = self.card.adapter.iter().enumerate().map(own).collect::<Result<Vec<_>>>()?;
        all.extend(self.loras.iter().cloned());
        Ok(all)
    }

    /// Numbers of transformer and text encoders.
    pub fn holds_in(&self) -> FloatDType {
        self.dtype
    }

    /// Opens the weights of a network, packed where they may stay so.
    ///
    /// # Errors
    /// If there is no such file, or it is none.
    pub fn open(&self, network: Network) -> Result<WeightFile> {
        Ok(self.holding().of(self.require(Component::of(network))?.open()?))
    }

    /// Fetches into the cache what is neither in the folder nor there.
    ///
    /// # Errors
    /// As [`Hub::fetch`], and if something is missing that is not published.
    pub fn fetch(&self, progress: &mut dyn FnMut(&HubFile, Progress)) -> Result<()> {
        let Some(hub) = &self.hub else { return self.files().map(drop) };
        for component in self.card.components() {
            if self.find_component(component)?.is_none() {
                for file in self.card.hub_files(component) {
                    hub.fetch(&file, &mut |event| progress(&file, event))?;
                }
            }
        }
        self.files().map(drop)
    }

    /// Name and fingerprint of everything that the model consists of: its card, networks and tokenizers. LoRAs are not
    /// among them. Where files lie is no property of a model.
    ///
    /// # Errors
    /// If a file is missing or cannot be read.
    pub fn fingerprints(&self) -> Result<Vec<(String, String)>> {
        let mut found = vec![("card".to_owned(), digest::of_bytes(&self.card.canonical()))];
        for (component, source) in self.files()?.iter() {
            found.push((component.to_string(), source.fingerprint()?));
        }
        Ok(found)
    }

    /// Loads it.
    ///
    /// # Errors
    /// If a file is missing, does not fit the card (every key must be accounted for), or the device does not compute in
    /// the numbers asked for.
    pub fn load(&self, device: &Device) -> Result<Ace> {
        let files = self.files()?;
        let cache = self.text_cache.as_ref().map(|folder| self.open_text_cache(folder, &files)).transpose()?;
        Ok(Ace::open(&self.card, files, self.holding(), device)?.keeping_text(cache))
    }

    /// The cache of embeddings by all that they depend on besides words.
    fn open_text_cache(&self, folder: &Path, files: &Files) -> Result<TextCache> {
        let [t5, clip] = [Component::T5, Component::Clip].map(|component| files.of(component).fingerprint());
        let Self { dtype, widen, quantize, .. } = self;
        // Sizes are written in the order of their fields, so equal ones are the same text.
        let sizes = format!("{:?} {:?}", self.card.t5, self.card.clip);
        let encoders = format!("{} {} {sizes} {dtype:?} {widen} {quantize:?}", t5?, clip?);
        Ok(TextCache::new(folder, digest::of_bytes(encoders.as_bytes())))
    }

    /// How its weights are to be held.
    pub(crate) fn holding(&self) -> Holding {
        let &Self { dtype, widen, quantize, placement, .. } = self;
        Holding { dtype, widen, quantize, placement, text_placement: self.text_placement.unwrap_or(placement) }
    }
}

/// How weights are held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Holding {
    pub dtype: FloatDType,
    pub widen: bool,
    pub quantize: Option<Packing>,
    pub placement: Placement,
    pub text_placement: Placement,
}

impl Holding {
    /// A file whose matrices become what is wanted.
    pub fn of(self, file: WeightFile) -> WeightFile {
        match self.quantize {
            Some(packing) => file.packed(packing),
            None if self.widen => file,
            None => file.quantized(),
        }
    }
}
