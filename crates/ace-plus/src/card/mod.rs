//! A card says everything about one model that is not code: sizes of its networks, where its weights are, what is
//! concatenated with what, and how it wants to be sampled. Cards are the files `models/<name>/card.toml`; a folder in
//! diffusers' layout is its own card.
//!
//! A card may stand on another one (`base = "flux1-fill-dev"`) and say only what differs. Tables are merged field by
//! field, lists and values replace those of the base; repositories are added to the base's. `NAME+ADDITION` is a built-in card
//! with something on top that goes with many: an adapter for fewer steps, picture prompts.

mod additions;
mod diffusers;
mod places;

pub use places::{Adapter, Paths, Repository};

use crate::{
    Error, Result,
    annotate::Annotator,
    canvas::CanvasPolicy,
    domain::Domain,
    latents,
    sample::{Sampler, Schedule, Shift},
    tokenizer::Prepend,
    unit::UnitPolicy,
};
use ace_nn::{
    autoencoder::AutoEncoderConfig, clip::ClipConfig, flux::FluxConfig, redux::ReduxConfig, t5::T5Config,
    vit::VitConfig,
};
use ace_weights::{Network, Sizes, network::Described};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path};

/// Cards that are part of the library.
const BUILTIN: &[(&str, &str)] = &[
    ("tiny", include_str!("../../cards/tiny.toml")),
    ("flux1-fill-dev", include_str!("../../cards/flux1-fill-dev.toml")),
    ("ace-plus-portrait", include_str!("../../cards/ace-plus-portrait.toml")),
    ("ace-plus-subject", include_str!("../../cards/ace-plus-subject.toml")),
    ("ace-plus-local-editing", include_str!("../../cards/ace-plus-local-editing.toml")),
    ("ace-plus-fft", include_str!("../../cards/ace-plus-fft.toml")),
    ("flux1-schnell", include_str!("../../cards/flux1-schnell.toml")),
    ("flux1-dev", include_str!("../../cards/flux1-dev.toml")),
    ("flux1-krea-dev", include_str!("../../cards/flux1-krea-dev.toml")),
    ("flux1-kontext-dev", include_str!("../../cards/flux1-kontext-dev.toml")),
    ("flux1-canny-dev", include_str!("../../cards/flux1-canny-dev.toml")),
    ("flux1-depth-dev", include_str!("../../cards/flux1-depth-dev.toml")),
    ("flux1-canny-dev-lora", include_str!("../../cards/flux1-canny-dev-lora.toml")),
    ("flux1-depth-dev-lora", include_str!("../../cards/flux1-depth-dev-lora.toml")),
];

/// Cards that stand on each other: more are a mistake.
const MOST_BASES: usize = 8;

/// Everything about one model that is not code.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Card {
    /// What it is called.
    pub name: String,
    /// What it does well, one line.
    pub description: String,
    /// Under which licence its weights are.
    pub licence: String,
    /// Where its weights are, relative to the weights folder.
    pub weights: WeightPaths,
    /// Sizes of the transformer.
    pub flux: FluxConfig,
    /// Sizes of the autoencoder.
    pub autoencoder: AutoEncoderConfig,
    /// Sizes of the sequence encoder.
    pub t5: T5Config,
    /// Sizes of the pooled encoder.
    pub clip: ClipConfig,
    /// Sizes of the image encoder that reads pictures as prompts, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<VitConfig>,
    /// Tokenizers and their lengths.
    pub text: TextPolicy,
    /// Features that the published transformer takes, if fewer than this model's: those that its adapters bring are zero
    /// before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub widen_from: Option<usize>,
    /// From pixels to canvases.
    pub canvas: CanvasPolicy,
    /// From canvases to conditions.
    pub unit: UnitPolicy,
    /// How it wants to be sampled.
    pub sampling: Sampling,
    /// LoRAs that belong to it.
    #[serde(default)]
    pub adapter: Vec<Adapter>,
    /// Where its files are published.
    #[serde(default)]
    pub repository: Vec<Repository>,
    /// What pictures it knows; absent if it knows all kinds.
    #[serde(default)]
    pub domain: Option<Domain>,
    /// Kinds of edit with defaults of their own.
    #[serde(default)]
    pub task: Vec<Task>,
}

/// Files of a card, relative to the weights folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightPaths {
    /// Transformer.
    pub flux: Paths,
    /// Autoencoder.
    pub autoencoder: Paths,
    /// Sequence encoder.
    pub t5: Paths,
    /// Pooled encoder.
    pub clip: Paths,
    /// Image encoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<Paths>,
    /// The layers behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub redux: Option<Paths>,
}

/// Tokenizers of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextPolicy {
    /// `tokenizer.json` of the sequence encoder, relative to the weights folder.
    pub t5_tokenizer: Paths,
    /// Folder with the pooled encoder's tokenizer, relative to the weights folder.
    pub clip_tokenizer: Paths,
    /// Tokens that the sequence encoder sees, padding included.
    pub t5_max_length: usize,
    /// Words that stand for pictures (`{image}` …), added to the sequence encoder's tokenizer in this order.
    #[serde(default)]
    pub placeholders: Vec<String>,
    /// Whether the sequence encoder's words start with a blank everywhere or only at the beginning; as its tokenizer
    /// says if absent.
    #[serde(default)]
    pub prepend: Option<Prepend>,
    /// Tokens that the pooled encoder sees at most; all its positions if absent.
    #[serde(default)]
    pub clip_max_length: Option<usize>,
    /// Whether stray blanks are taken out of an instruction, as in ACE++'s training; diffusers leaves them.
    #[serde(default = "yes")]
    pub clean: bool,
    /// Id at which the pooled encoder's text ends, the tokenizer's end token if absent; 2, as in old configurations,
    /// means the largest id of the text.
    #[serde(default)]
    pub clip_end_id: Option<i64>,
}

/// Sampling defaults of a card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Steps from noise to latents.
    pub num_steps: usize,
    /// Guidance that is embedded.
    pub guidance: f32,
    /// Width and height of a picture that is made from nothing, in pixels.
    pub size: (u32, u32),
    /// How a step is taken.
    #[serde(default, skip_serializing_if = "is_default")]
    pub sampler: Sampler,
    /// How the times of the steps are spread.
    #[serde(default, skip_serializing_if = "is_default")]
    pub schedule: Schedule,
    /// How the schedule is shifted towards noise.
    #[serde(default)]
    pub shift: Shift,
    /// By how much what the blocks add to the tokens grows from step to step: what a cache by magnitudes knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mag_ratios: Vec<f32>,
}

/// A kind of edit with defaults of its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// What it is called, as in `--task`.
    pub name: String,
    /// What is blanked under the mask: 1 hides it from the network, 0 shows it.
    pub repainting_scale: f32,
    /// What the user gives and gets, one line.
    pub about: String,
    /// What is drawn of the image, in place of what is under the mask, before the network sees it.
    #[serde(default)]
    pub annotator: Annotator,
    /// What the user must give beside the words.
    #[serde(default)]
    pub needs: Vec<Need>,
}

/// What a task must be given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Need {
    /// A picture to edit.
    Image,
    /// What to repaint of it.
    Mask,
    /// A picture to take something from; named twice, two.
    Reference,
}

impl Need {
    /// In words.
    pub const fn words(self) -> &'static str {
        match self {
            Self::Image => "an image",
            Self::Mask => "a mask",
            Self::Reference => "a reference",
        }
    }
}

fn yes() -> bool {
    true
}

/// Whether a field need not be said: fingerprints of cards from before it was one hold.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The field that names the card under a card.
const BASE: &str = "base";
/// The list to which a card adds.
const REPOSITORY: &str = "repository";

/// A card's text with everything that it takes from the cards below.
fn merged(mut own: toml::Table, path: &Path, depth: usize) -> Result<toml::Table> {
    let Some(base) = own.remove(BASE) else { return Ok(own) };
    let wrong = |reason: String| Error::format(path, reason, "base is the name of a built-in card");
    let below = base.as_str().filter(|_| depth > 0).map(|name| built_in(name, path, depth - 1)).transpose()?;
    let Some(mut all) = below.flatten() else {
        return Err(wrong(format!("base = {base}: there is no such card")));
    };
    lay_over(&mut all, own);
    Ok(all)
}

/// The whole table of a built-in card with its additions; `None` if there is no such card.
fn built_in(name: &str, path: &Path, depth: usize) -> Result<Option<toml::Table>> {
    let mut names = name.split(additions::PLUS);
    let card = names.next().unwrap_or_default();
    let Some((_, text)) = BUILTIN.iter().find(|(known, _)| *known == card) else { return Ok(None) };
    let unread = |source: toml::de::Error| Error::format(path, source.message().to_owned(), "the base must be a card");
    let mut all = merged(toml::from_str(text).map_err(unread)?, path, depth)?;
    for addition in names {
        additions::put_on(&mut all, addition, path)?;
    }
    Ok(Some(all))
}

fn lay_over(below: &mut toml::Table, own: toml::Table) {
    for (field, value) in own {
        match (below.get_mut(&field), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(own)) => lay_over(below, own),
            (Some(toml::Value::Array(below)), toml::Value::Array(own)) if field == REPOSITORY => below.extend(own),
            (_, value) => {
                below.insert(field, value);
            }
        }
    }
}

impl Card {
    /// Names of the cards that are part of the library.
    pub fn builtins() -> impl Iterator<Item = &'static str> {
        BUILTIN.iter().map(|(name, _)| *name)
    }

    /// Names of what can be put on top of them, with what each does in a few words.
    pub fn additions() -> impl Iterator<Item = (&'static str, String)> {
        additions::names()
    }

    /// A card that is part of the library, `NAME` or `NAME+ADDITION`.
    ///
    /// # Errors
    /// If there is none of that name; the message lists them.
    pub fn builtin(name: &str) -> Result<Self> {
        if name.contains(additions::PLUS) && !name.contains(['/', '\\']) {
            let path = Path::new(name);
            if let Some(table) = built_in(name, path, MOST_BASES)? {
                return Self::of_table(table, path);
            }
        }
        let Some((_, text)) = BUILTIN.iter().find(|(known, _)| *known == name) else {
            let known: Vec<_> = BUILTIN.iter().map(|(name, _)| *name).collect();
            let additions = || Self::additions().map(|(name, _)| format!("+{name}")).collect::<Vec<_>>().join(", ");
            return Err(Error::not_found(
                format!("there is no built-in card {name:?}"),
                format!(
                    "built in are: {}; on top go {}; or give a folder with a card.toml",
                    known.join(", "),
                    additions()
                ),
            ));
        };
        Self::parse(text, Path::new(&format!("models/{name}/card.toml")))
    }

    /// The card of a model folder (`card.toml` in it), or a card file itself; of a folder that diffusers wrote, what its
    /// own configurations say.
    ///
    /// # Errors
    /// If it cannot be read, has an unknown or missing field, or contradicts itself.
    pub fn load(path: &Path) -> Result<Self> {
        if path.join(diffusers::INDEX).exists() && !path.join("card.toml").exists() {
            let card = diffusers::card(path)?;
            card.check().map_err(|problem| Error::format(path, problem, "its configurations contradict each other"))?;
            return Ok(card);
        }
        let file = if path.is_dir() { path.join("card.toml") } else { path.to_owned() };
        if path.is_dir() && !file.exists() {
            let hint = "a model folder has a card.toml, or a model_index.json as diffusers writes it";
            return Err(Error::format(path, "no model is in this folder", hint));
        }
        let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
        Self::parse(&text, &file)
    }

    /// The built-in card of that name, or else what is in that folder or file.
    ///
    /// # Errors
    /// As [`Card::builtin`] and [`Card::load`].
    pub fn find(name: &Path) -> Result<Self> {
        match name.to_str().map(Self::builtin) {
            Some(Ok(card)) => Ok(card),
            Some(Err(unknown)) if !name.exists() => Err(unknown),
            _ => Self::load(name),
        }
    }

    /// What a picture depends on of the card, as JSON with its keys in order: not its name and description, nor where files
    /// lie. A field that is added later is left out while it has its default, so that fingerprints of old pictures hold.
    pub(crate) fn canonical(&self) -> Vec<u8> {
        let mut all = serde_json::to_value(self).unwrap_or_default();
        if let Some(fields) = all.as_object_mut() {
            for unseen in ["name", "description", "licence", "weights", "repository", "task", "domain"] {
                fields.remove(unseen);
            }
        }
        all.to_string().into_bytes()
    }

    /// Sizes of what reads pictures as prompts: the image encoder and the layers behind it.
    pub fn prompter(&self) -> Option<(VitConfig, ReduxConfig)> {
        let vision = self.vision.clone()?;
        let redux = ReduxConfig { redux_dim: vision.hidden_size, txt_in_features: self.t5.d_model };
        Some((vision, redux))
    }

    /// Tokens that pictures among the words are, however many.
    pub fn prompt_tokens(&self) -> usize {
        self.vision.as_ref().map_or(0, |vision| vision.grid().pow(2) + usize::from(vision.class_token))
    }

    /// Sizes of the transformer as its file has it, before it is [widened](Card::widen_from).
    pub fn flux_in_file(&self) -> FluxConfig {
        FluxConfig { in_channels: self.widen_from.unwrap_or(self.flux.in_channels), ..self.flux.clone() }
    }

    /// Sizes of a network as its file has it.
    pub fn sizes(&self, network: Network) -> Sizes {
        match network {
            Network::Flux => Sizes::Flux(self.flux_in_file()),
            Network::AutoEncoder => Sizes::AutoEncoder(self.autoencoder.clone()),
            Network::T5 => Sizes::T5(self.t5.clone()),
            Network::Clip => Sizes::Clip(self.clip.clone()),
        }
    }

    /// What weight files do not say of the model.
    pub fn described(&self) -> Described {
        Described {
            name: self.name.clone(),
            sizes: Network::ALL.map(|network| self.sizes(network)).to_vec(),
            clip_end_id: self.text.clip_end_id,
        }
    }

    /// The defaults of a task.
    ///
    /// # Errors
    /// If the card has no task of that name; the message lists them.
    pub fn find_task(&self, name: &str) -> Result<&Task> {
        self.task.iter().find(|task| task.name == name).ok_or_else(|| {
            let known: Vec<_> = self.task.iter().map(|task| task.name.as_str()).collect();
            Error::input(
                format!("card {} has no task {name:?}", self.name),
                format!("its tasks are: {}", known.join(", ")),
            )
        })
    }

    fn parse(text: &str, path: &Path) -> Result<Self> {
        let refused = |source: toml::de::Error| {
            // toml's own text spans several lines and draws the place; the first line with the place is what helps.
            let place = source.span().map_or(String::new(), |span| {
                format!("line {}: ", text[..span.start.min(text.len())].lines().count().max(1))
            });
            Error::format(path, format!("{place}{}", source.message()), "models/README.md describes every field")
        };
        let own: toml::Table = toml::from_str(text).map_err(refused)?;
        if own.contains_key(BASE) {
            return Self::of_table(merged(own, path, MOST_BASES)?, path);
        }
        toml::from_str::<Self>(text).map_err(refused)?.checked(path)
    }

    /// Merged tables have no lines any more.
    fn of_table(table: toml::Table, path: &Path) -> Result<Self> {
        let refused = |source: toml::de::Error| {
            Error::format(path, source.message().to_owned(), "models/README.md describes every field")
        };
        table.try_into::<Self>().map_err(refused)?.checked(path)
    }

    fn checked(self, path: &Path) -> Result<Self> {
        self.check().map_err(|problem| Error::format(path, problem, "the sections of the card must fit each other"))?;
        Ok(self)
    }

    fn check(&self) -> std::result::Result<(), String> {
        self.flux.check()?;
        self.autoencoder.check()?;
        self.unit.check()?;
        let cell = self.autoencoder.downscale();
        if self.canvas.token != cell * latents::PATCH {
            return Err(format!(
                "canvas.token is {}, the autoencoder's is {}",
                self.canvas.token,
                cell * latents::PATCH
            ));
        }
        let latent_features = 4 * self.autoencoder.latent_channels;
        if self.flux.out_channels != latent_features {
            return Err(format!("flux.out_channels {} must be {latent_features}", self.flux.out_channels));
        }
        let needed = self.unit.in_channels(latent_features, cell);
        if self.flux.in_channels != needed {
            return Err(format!("flux.in_channels is {}, the unit gives {needed}", self.flux.in_channels));
        }
        if self.flux.context_in_dim != self.t5.d_model {
            return Err(format!(
                "flux.context_in_dim {} is not t5.d_model {}",
                self.flux.context_in_dim, self.t5.d_model
            ));
        }
        if self.flux.vec_in_dim != self.clip.hidden_size {
            return Err(format!(
                "flux.vec_in_dim {} is not clip.hidden_size {}",
                self.flux.vec_in_dim, self.clip.hidden_size
            ));
        }
        let parts = [self.vision.is_some(), self.weights.vision.is_some(), self.weights.redux.is_some()];
        if parts != [self.vision.is_some(); 3] {
            return Err("vision, weights.vision and weights.redux belong together".into());
        }
        // Conditions come behind the latents: only a network that has none of them gets zeros at its right end.
        if self.widen_from.is_some_and(|from| from != latent_features || from >= self.flux.in_channels) {
            return Err(format!("widen_from must be {latent_features}, and less than flux.in_channels"));
        }
        if self.unit.wants_change_image() != self.canvas.change_image {
            return Err("unit.conditions and canvas.change_image disagree about the change image".into());
        }
        Ok(())
    }
}
