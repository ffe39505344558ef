//! The stages of an edit, composed. This is the only place where they are.

mod loader;
mod prompts;
mod together;

pub use together::Shape;

use crate::{
    Card, Edit, Error, Prepared, Result,
    edit::Settings,
    model::{Component, Files, Holding},
    pixels::{self, Tiling},
    prompt::Prompter,
    sample::{self, Denoised, Event, Observer, Stage, Work, preview, tell, uncancelled},
    text::{self, TextConditioning, TokenIds, Tokenizers},
    text_cache::TextCache,
    unit::Units,
};
use ace_nn::{
    autoencoder::AutoEncoder,
    clip::Clip,
    flux::{Blocks, Flux, Given, Modulated, Own},
    t5::T5,
};
use ace_weights::{
    Placement, Streamed, StreamedT5, WeightFile,
    adapter::{self, AdapterReport},
};
use burn::{prelude::*, tensor::FloatDType};
use image::RgbImage;
use loader::Loader;
use std::{
    ops::Deref,
    path::{Path, PathBuf},
    slice,
    sync::Arc,
};

/// A model ready to edit. [`crate::Model::load`] makes one; it can be shared between threads.
#[derive(Debug)]
pub struct Ace {
    card: Card,
    tokenizers: Arc<Tokenizers>,
    weights: Weights,
    /// LoRAs that were added, with what came of each.
    adapters: Vec<(PathBuf, AdapterReport)>,
    /// What reads pictures as words, if the card has it and it stays.
    prompter: Option<Arc<Prompter>>,
    /// Where embeddings of instructions are kept, if they are.
    text_cache: Option<TextCache>,
    dtype: FloatDType,
    device: Device,
}

/// Where a model's networks are.
#[derive(Debug)]
enum Weights {
    Resident(Box<Networks>),
    Read(Box<Apart>),
}

/// Networks that are read when they are needed.
#[derive(Debug)]
struct Apart {
    files: Files,
    holding: Holding,
    /// The transformer, if its blocks are fetched.
    flux: Option<StreamedFlux>,
    /// T5, if its layers are fetched.
    t5: Option<(T5, StreamedT5)>,
}

/// A transformer whose blocks are fetched when they run.
#[derive(Debug)]
struct StreamedFlux {
    /// All but the matrices of its blocks.
    flux: Flux,
    /// Every edit has a walk of its own over them; without modulations, which are computed before the first step.
    blocks: Streamed,
}

/// Every network of a model.
#[derive(Debug, Clone)]
pub struct Networks {
    /// The transformer.
    pub flux: Flux,
    /// Pictures to latents and back.
    pub autoencoder: AutoEncoder,
    /// The sequence encoder.
    pub t5: T5,
    /// The pooled encoder.
    pub clip: Clip,
}

/// What an edit gave.
#[derive(Debug)]
pub struct Edited {
    /// The picture.
    pub image: RgbImage,
    /// The final latents as tokens, `[1, L, 64]`.
    pub tokens: Tensor<3>,
    /// The final latents of each unit, `[1, 16, h, w]`; the edited picture's last.
    pub latents: Vec<Tensor<4>>,
    /// Noisy tokens of all units.
    pub len: usize,
    /// What the walk from noise took; the sum over regions.
    pub work: Work,
    /// By how much what the blocks add grew from step to step, if that was [measured](sample::Cache::Measure).
    pub mag_ratios: Vec<f32>,
}

/// A network that stays, or that was read for the moment.
enum Held<'a, T> {
    Resident(&'a T),
    Read(Box<T>),
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Resident(network) => network,
            Self::Read(network) => network,
        }
    }
}

// A server shares one model between its threads.
const _: () = {
    const fn is_shared<T: Send + Sync>() {}
    is_shared::<Ace>();
};

impl Ace {
    /// A model of networks that are there already, such as those that are being trained.
    pub fn of(card: Card, networks: Networks, tokenizers: Tokenizers, dtype: FloatDType, device: &Device) -> Self {
        let weights = Weights::Resident(Box::new(networks));
        let (adapters, text_cache, tokenizers) = (Vec::new(), None, Arc::new(tokenizers));
        Self { card, tokenizers, weights, adapters, prompter: None, text_cache, dtype, device: device.clone() }
    }

    /// Loads a model from files that were found before.
    pub(crate) fn open(card: &Card, files: Files, holding: Holding, device: &Device) -> Result<Self> {
        let Holding { dtype, placement, text_placement, .. } = holding;
        if !device.supports_dtype(dtype) {
            let hint = if device.supports_dtype(FloatDType::F16) { "choose f16 or f32" } else { "choose f32" };
            return Err(Error::input(format!("this device does not compute in {dtype:?}"), hint));
        }
        let tokenizers = Tokenizers::read(card, files.of(Component::T5Tokenizer), files.of(Component::ClipTokenizer))?;
        let loader = Loader { card, files: &files, holding, device };
        let mut adapters = Vec::new();
        let prompter = match (placement, card.vision.is_some()) {
            (Placement::OneAtATime | Placement::Streamed, _) | (_, false) => None,
            (_, true) => Some(Arc::new(loader.prompter()?)),
        };
        let weights = match placement {
            Placement::OneAtATime | Placement::Streamed => {
                loader.check()?;
                let is_streamed = |placement| placement == Placement::Streamed;
                let flux = is_streamed(placement).then(|| loader.streamed(&mut adapters)).transpose()?;
                let t5 = is_streamed(text_placement).then(|| loader.streamed_t5()).transpose()?;
                Weights::Read(Box::new(Apart { files, holding, flux, t5 }))
            }
            _ => Weights::Resident(Box::new(Networks {
                flux: loader.flux_and_adapters(&mut adapters)?,
                autoencoder: loader.autoencoder()?,
                t5: loader.t5()?,
                clip: loader.clip()?,
            })),
        };
        let (card, device, text_cache, tokenizers) = (card.clone(), device.clone(), None, Arc::new(tokenizers));
        Ok(Self { card, tokenizers, weights, adapters, prompter, text_cache, dtype, device })
    }

    /// Keeps embeddings of instructions in a folder, by what tells the encoders from others.
    pub(crate) fn keeping_text(mut self, cache: Option<TextCache>) -> Self {
        self.text_cache = cache;
        self
    }

    /// What is known about the model.
    pub fn card(&self) -> &Card {
        &self.card
    }

    /// Words to numbers.
    pub fn tokenizers(&self) -> &Tokenizers {
        &self.tokenizers
    }

    /// Where the model computes.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// Numbers of transformer and text encoders.
    pub fn dtype(&self) -> FloatDType {
        self.dtype
    }

    /// Its networks, if all of them are on the device.
    pub fn networks(&self) -> Option<&Networks> {
        match &self.weights {
            Weights::Resident(networks) => Some(networks),
            Weights::Read(_) => None,
        }
    }

    /// Its networks to be changed, if all of them are on the device.
    pub fn networks_mut(&mut self) -> Option<&mut Networks> {
        match &mut self.weights {
            Weights::Resident(networks) => Some(networks),
            Weights::Read(_) => None,
        }
    }

    /// LoRAs that were added when the networks were loaded, with what came of each.
    pub fn adapters(&self) -> &[(PathBuf, AdapterReport)] {
        &self.adapters
    }

    /// Adds a LoRA file to the transformer, in whichever trainer's spelling; several add up. See [`adapter::attach`].
    ///
    /// # Errors
    /// If the file does not fit the transformer, or the networks do not stay on the device: [`crate::Model::lora`] is for
    /// these.
    pub fn add_lora(&mut self, path: &Path, weight: f64) -> Result<AdapterReport> {
        let file = WeightFile::open(path)?;
        let device = self.device.clone();
        let Some(networks) = self.networks_mut() else {
            let what = "a LoRA cannot be added to a transformer that is not there";
            return Err(Error::input(what, "name it before the model is loaded"));
        };
        let report = adapter::attach(&mut networks.flux, &file, weight, &device)?;
        self.adapters.push((path.to_owned(), report.clone()));
        Ok(report)
    }

    /// The same model with LoRAs on top, which shares its numbers.
    ///
    /// # Errors
    /// As [`Ace::add_lora`].
    pub fn with_loras(&self, loras: &[(PathBuf, f64)]) -> Result<Self> {
        let weights = match &self.weights {
            Weights::Resident(networks) => Weights::Resident(networks.clone()),
            Weights::Read(_) => {
                let what = "LoRAs cannot be added to a transformer that is not there";
                return Err(Error::input(what, "name them before the model is loaded"));
            }
        };
        let mut model = Self {
            card: self.card.clone(),
            tokenizers: Arc::clone(&self.tokenizers),
            weights,
            adapters: self.adapters.clone(),
            prompter: self.prompter.clone(),
            text_cache: self.text_cache.clone(),
            dtype: self.dtype,
            device: self.device.clone(),
        };
        for (path, weight) in loras {
            model.add_lora(path, *weight)?;
        }
        Ok(model)
    }

    /// One edit; the result has the size of the image.
    ///
    /// # Errors
    /// If the edit's parts do not fit each other or the card, a file cannot be read, or the observer cancels.
    pub fn edit(&self, edit: &Edit, observer: Observer<'_>) -> Result<RgbImage> {
        Ok(self.run(edit, observer)?.image)
    }

    /// As [`Ace::edit`], with the latents. An edit of several regions is made one region after the other: each has its mask
    /// and its words, and sees what those before it have made.
    ///
    /// # Errors
    /// As [`Ace::edit`].
    pub fn run(&self, edit: &Edit, observer: Observer<'_>) -> Result<Edited> {
        edit.check(&self.card)?;
        let mut edits = edit.one_by_one().into_iter();
        let Some(first) = edits.next() else { return self.run_one(edit, observer) };
        let mut edited = self.run_one(&first, observer)?;
        for edit in edits {
            let before = edited.work;
            edited = self.run_one(&edit.image(edited.image), observer)?;
            edited.work += before;
        }
        Ok(edited)
    }

    fn run_one(&self, edit: &Edit, observer: Observer<'_>) -> Result<Edited> {
        // What cannot be prepared is refused before words are encoded.
        let prepared = edit.prepare(&self.card)?;
        tell(observer, Event::Stage(Stage::Text))?;
        let text = self.encode_text(edit.words(), observer)?;
        let text = self.with_pictures(edit, text, observer)?;
        self.run_prepared(edit, &prepared, &text, observer)
    }

    /// As [`Ace::run`], of one region and with words that are embedded already, as [`Ace::encode_text`] does, and pictures
    /// among them, as [`Ace::with_pictures`] does.
    ///
    /// # Errors
    /// As [`Ace::edit`].
    pub fn run_on(&self, edit: &Edit, text: &TextConditioning, observer: Observer<'_>) -> Result<Edited> {
        edit.check(&self.card)?;
        self.run_prepared(edit, &edit.prepare(&self.card)?, text, observer)
    }

    fn run_prepared(
        &self,
        edit: &Edit,
        prepared: &Prepared<'_>,
        text: &TextConditioning,
        observer: Observer<'_>,
    ) -> Result<Edited> {
        let settings = edit.settings(&self.card)?;
        let tiling = settings.tile.map(|side| Tiling::of(side, &self.card)).transpose()?;
        tell(observer, Event::Stage(Stage::Encode))?;
        let autoencoder = self.autoencoder()?;
        let units = uncancelled(Units::encode_polled(
            &autoencoder,
            &prepared.canvases,
            &self.card.unit,
            tiling,
            &self.device,
            &mut || observer(Event::Tick),
        ))?;
        // What was read for the moment makes room for the transformer.
        self.settle(matches!(autoencoder, Held::Read(_)))?;
        drop(autoencoder);
        tell(observer, Event::Stage(Stage::Denoise))?;
        let sight = |_, latents: Tensor<4>| {
            let plane = match self.networks().filter(|_| preview::is_cheap(&self.card.autoencoder)) {
                Some(networks) => pixels::decode(&networks.autoencoder, &latents, tiling),
                None => preview::rough(latents, self.card.autoencoder.downscale())?,
            };
            Some(prepared.finish(&plane))
        };
        let watch = &mut |event: Event<'_>| observer(event.seen_by(&sight));
        let Denoised { tokens, work, mag_ratios } = self.denoise(edit, &settings, &units, text, watch)?;
        tell(observer, Event::Stage(Stage::Decode))?;
        let latents = units.unpack(tokens.clone());
        let autoencoder = self.autoencoder()?;
        let plane = uncancelled(pixels::decode_polled(&autoencoder, &latents[latents.len() - 1], tiling, &mut || {
            observer(Event::Tick)
        }))?;
        Ok(Edited { image: prepared.finish(&plane), tokens, latents, len: units.len(), work, mag_ratios })
    }

    /// Words to embeddings.
    ///
    /// # Errors
    /// If a file cannot be read, or the observer cancels.
    pub fn encode_text(&self, instruction: &str, observer: Observer<'_>) -> Result<TextConditioning> {
        let ids = self.tokenizers.ids(instruction);
        let widths = [self.card.t5.d_model, self.card.clip.hidden_size];
        let kept = self.text_cache.as_ref().and_then(|cache| cache.find(&ids, widths, &self.device));
        if let Some(kept) = kept {
            return Ok(kept);
        }
        let text = match &self.weights {
            Weights::Resident(networks) => {
                let Networks { t5, clip, .. } = &**networks;
                let ids = slice::from_ref(&ids);
                uncancelled(text::encode_polled(t5, clip, ids, &self.device, &mut || observer(Event::Tick)))?
            }
            Weights::Read(apart) => self.encode_text_apart(apart, &ids, observer)?,
        };
        if let Some(cache) = &self.text_cache {
            cache.keep(&ids, &text);
        }
        Ok(text)
    }

    /// Words to embeddings with encoders that are read one after the other.
    fn encode_text_apart(&self, apart: &Apart, ids: &TokenIds, observer: Observer<'_>) -> Result<TextConditioning> {
        let loader = self.loader(&apart.files, apart.holding);
        let poll = &mut || observer(Event::Tick);
        let prompt_embeds = match &apart.t5 {
            Some((t5, layers)) => t5.forward_with(slice::from_ref(&ids.t5), &mut layers.clone(), poll),
            None => text::sequence_polled(&loader.t5()?, slice::from_ref(ids), &self.device, poll),
        };
        let prompt_embeds = uncancelled(prompt_embeds)?;
        self.settle(true)?;
        let pooled = text::summary_polled(&loader.clip()?, slice::from_ref(ids), &self.device, poll);
        let text = TextConditioning { prompt_embeds, pooled_prompt_embeds: uncancelled(pooled)? };
        self.settle(true)?;
        Ok(text)
    }

    fn denoise(
        &self,
        edit: &Edit,
        settings: &Settings<'_>,
        units: &Units,
        text: &TextConditioning,
        observer: Observer<'_>,
    ) -> Result<Denoised> {
        let noise = sample::noise(&self.card, edit, units, &self.device)?;
        let course = sample::Course::of(&settings.course, &self.card, units.len(), edit.seed_number());
        let denoise = |flux: &Flux, blocks: &mut dyn Blocks, observer: Observer<'_>| {
            let denoiser = sample::Denoiser { flux, units, text, guidance: settings.guidance, dtype: self.dtype };
            denoiser.denoise_with(blocks, noise, &course, observer)
        };
        let apart = match &self.weights {
            Weights::Resident(networks) => return denoise(&networks.flux, &mut Own, observer),
            Weights::Read(apart) => apart,
        };
        let loader = self.loader(&apart.files, apart.holding);
        let pooled = text.pooled_prompt_embeds.clone().cast(self.dtype);
        let given = Given { guidance: settings.guidance, pooled };
        // Nothing is asked at the last time, where the picture is.
        let asked = &course.times[..course.times.len().saturating_sub(1)];
        let denoised = match &apart.flux {
            Some(StreamedFlux { flux, blocks }) => {
                let (mut blocks, modulations) = (blocks.clone(), blocks.modulations());
                let fetch = |path: &str| modulations.fetch(path);
                denoise(flux, &mut Modulated::new(&mut blocks, flux, given, asked, &fetch), observer)?
            }
            // What an adapter changes must be there when it is added.
            None if apart.files.adapters().next().is_some() => denoise(&loader.flux()?, &mut Own, observer)?,
            None => {
                let (flux, modulations) = (loader.flux_without_modulations()?, loader.modulations()?);
                let fetch = |path: &str| modulations.fetch(path);
                denoise(&flux, &mut Modulated::new(&mut Own, &flux, given, asked, &fetch), observer)?
            }
        };
        self.settle(true)?;
        Ok(denoised)
    }

    fn autoencoder(&self) -> Result<Held<'_, AutoEncoder>> {
        Ok(match &self.weights {
            Weights::Resident(networks) => Held::Resident(&networks.autoencoder),
            Weights::Read(apart) => Held::Read(Box::new(self.loader(&apart.files, apart.holding).autoencoder()?)),
        })
    }

    fn loader<'a>(&'a self, files: &'a Files, holding: Holding) -> Loader<'a> {
        Loader { card: &self.card, files, holding, device: &self.device }
    }

    /// Waits for a device that works ahead: it would still hold one network when the next comes.
    fn settle(&self, is_needed: bool) -> Result<()> {
        if is_needed {
            self.device.sync().map_err(|error| Error::Device { reason: format!("{error:?}") })?;
        }
        Ok(())
    }
}
