//! What a card needs, and where each of it was found.

use crate::{Card, Result, card::Paths};
use ace_weights::{
    Network, Source,
    hub::{Hub, HubFile},
};
use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
};

/// What a card needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Component {
    /// The transformer.
    Flux,
    /// The autoencoder.
    AutoEncoder,
    /// The sequence encoder.
    T5,
    /// The pooled encoder.
    Clip,
    /// The sequence encoder's tokenizer.
    T5Tokenizer,
    /// The pooled encoder's tokenizer: its folder, or its vocabulary in memory.
    ClipTokenizer,
    /// The encoder of pictures that are prompts.
    Vision,
    /// The layers behind it.
    Redux,
    /// The card's LoRA of this number.
    Adapter(usize),
}

impl Component {
    /// The component that a network is.
    pub const fn of(network: Network) -> Self {
        match network {
            Network::Flux => Self::Flux,
            Network::AutoEncoder => Self::AutoEncoder,
            Network::T5 => Self::T5,
            Network::Clip => Self::Clip,
        }
    }

    /// The network that it is, if it is one.
    pub const fn network(self) -> Option<Network> {
        match self {
            Self::Flux => Some(Network::Flux),
            Self::AutoEncoder => Some(Network::AutoEncoder),
            Self::T5 => Some(Network::T5),
            Self::Clip => Some(Network::Clip),
            Self::T5Tokenizer | Self::ClipTokenizer | Self::Vision | Self::Redux | Self::Adapter(_) => None,
        }
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.network()) {
            (_, Some(network)) => f.write_str(network.word()),
            (Self::T5Tokenizer, _) => f.write_str("t5_tokenizer"),
            (Self::ClipTokenizer, _) => f.write_str("clip_tokenizer"),
            (Self::Vision, _) => f.write_str("vision"),
            (Self::Redux, _) => f.write_str("redux"),
            (Self::Adapter(0), _) => f.write_str("adapter"),
            (Self::Adapter(at), _) => write!(f, "adapter {}", at + 1),
            (_, None) => Ok(()),
        }
    }
}

/// Where everything of a model was found.
#[derive(Debug, Clone)]
pub struct Files {
    all: BTreeMap<Component, Source>,
    /// Every LoRA with its weight, the card's own first.
    adapters: Vec<(Source, f64)>,
}

impl Files {
    /// `all` has every component; `weights` are those of the card's adapters, `loras` come on top.
    pub(super) fn new(all: BTreeMap<Component, Source>, weights: Vec<f64>, loras: Vec<(Source, f64)>) -> Self {
        let own = weights.into_iter().enumerate();
        let own = own.filter_map(|(at, weight)| Some((all.get(&Component::Adapter(at))?.clone(), weight)));
        let adapters = own.chain(loras).collect();
        Self { all, adapters }
    }

    /// Where a component is.
    ///
    /// # Panics
    /// If it is an adapter that the card does not have.
    pub fn of(&self, component: Component) -> &Source {
        &self.all[&component]
    }

    /// Every component with its place.
    pub fn iter(&self) -> impl Iterator<Item = (Component, &Source)> {
        self.all.iter().map(|(component, source)| (*component, source))
    }

    /// Every LoRA with its weight: the card's own, then those on top.
    pub fn adapters(&self) -> impl Iterator<Item = (&Source, f64)> {
        self.adapters.iter().map(|(source, weight)| (source, *weight))
    }
}

impl Card {
    /// Everything that it needs.
    pub fn components(&self) -> impl Iterator<Item = Component> + use<> {
        use Component::{Adapter, AutoEncoder, Clip, ClipTokenizer, Flux, Redux, T5, T5Tokenizer, Vision};
        let prompter: &'static [Component] = if self.vision.is_some() { &[Vision, Redux] } else { &[] };
        let adapters = (0..self.adapter.len()).map(Adapter);
        let always = [Flux, AutoEncoder, T5, Clip, T5Tokenizer, ClipTokenizer];
        always.into_iter().chain(prompter.iter().copied()).chain(adapters)
    }

    /// Names under which a component may be found.
    ///
    /// # Panics
    /// If the card does not have it.
    pub fn paths(&self, component: Component) -> &Paths {
        match component {
            Component::Flux => &self.weights.flux,
            Component::AutoEncoder => &self.weights.autoencoder,
            Component::T5 => &self.weights.t5,
            Component::Clip => &self.weights.clip,
            Component::T5Tokenizer => &self.text.t5_tokenizer,
            Component::ClipTokenizer => &self.text.clip_tokenizer,
            // As documented.
            Component::Vision => self.weights.vision.as_ref().expect("the card has an image encoder"),
            Component::Redux => self.weights.redux.as_ref().expect("the card has an image encoder"),
            Component::Adapter(at) => &self.adapter[at].file,
        }
    }

    /// The files on the Hub of which a component consists; empty if it is not published there.
    pub fn hub_files(&self, component: Component) -> Vec<HubFile> {
        let mut places = self.paths(component).iter();
        places.find_map(|place| Some(self.published(place)).filter(|sources| !sources.is_empty())).unwrap_or_default()
    }

    /// The files on the Hub that are this file, or in this folder.
    fn published(&self, place: &Path) -> Vec<HubFile> {
        let files = self.repository.iter().flat_map(|repository| repository.files.iter().map(move |f| (repository, f)));
        files
            .filter(|(_, file)| Path::new(file).starts_with(place))
            .map(|(repository, file)| HubFile {
                repo: repository.repo.clone(),
                file: file.clone(),
                revision: repository.revision.clone(),
                sha256: repository.sha256.get(file).cloned(),
                size: None,
                licence_url: repository.licence_url.clone(),
            })
            .collect()
    }

    pub(super) fn find_cached(&self, component: Component, hub: &Hub) -> Result<Option<PathBuf>> {
        for place in self.paths(component).iter() {
            let mut found = None;
            for source in self.published(place) {
                let Some(path) = hub.cached(&source)? else {
                    found = None;
                    break;
                };
                found = Some(folder_in(&path, place, &source));
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

/// The path of `place` in a snapshot, given that of one of its files.
fn folder_in(path: &Path, place: &Path, source: &HubFile) -> PathBuf {
    let deeper = Path::new(&source.file).components().count() - place.components().count();
    path.ancestors().nth(deeper).unwrap_or(path).to_owned()
}
