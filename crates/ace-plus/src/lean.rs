//! Edits with one network in memory at a time, for machines that do not hold them all: of a model of FLUX.1's size, T5 is
//! gone before the transformer comes. Each edit reads the weights again; the pictures are those of [`crate::Ace`].

use crate::{
    Card, Edit, Result,
    card::Files,
    denoise::{Event, Observer, Stage, tell},
    pipeline::{self, Edited, Editor, Numbers},
    text::{self, TextConditioning, Tokenizers},
    unit::Units,
};
use ace_weights::{WeightFile, adapter};
use burn::prelude::*;
use std::path::PathBuf;

/// A model whose networks are read when they are needed, and dropped.
#[derive(Debug)]
pub struct Lean {
    card: Card,
    files: Files,
    numbers: Numbers,
    device: Device,
}

impl Lean {
    /// A model from files that were found, with further LoRAs and their weights. Nothing but tokenizers and headers is
    /// read yet.
    ///
    /// # Errors
    /// If a file cannot be opened, or the device cannot compute in these numbers.
    pub fn new(
        card: &Card,
        files: &Files,
        loras: &[(PathBuf, f64)],
        numbers: Numbers,
        device: &Device,
    ) -> Result<Self> {
        numbers.check(device)?;
        let mut files = files.clone();
        files.adapters.extend_from_slice(loras);
        let adapters = files.adapters.iter().map(|(path, _)| path);
        for path in [&files.flux, &files.autoencoder, &files.t5, &files.clip].into_iter().chain(adapters) {
            WeightFile::open(path)?;
        }
        let lean = Self { card: card.clone(), files, numbers, device: device.clone() };
        lean.tokenizers()?;
        Ok(lean)
    }

    fn tokenizers(&self) -> Result<Tokenizers> {
        Tokenizers::read(&self.card, &self.files.t5_tokenizer, &self.files.clip_tokenizer)
    }

    fn encode_text(&self, instruction: &str) -> Result<TextConditioning> {
        let Self { card, files, numbers, device } = self;
        let dtype = Some(numbers.dtype);
        let t5 = numbers.open(&files.t5)?.t5(&card.t5, dtype, device)?;
        let clip = numbers.open(&files.clip)?.clip(&card.clip, dtype, device)?;
        let text = text::encode(&t5, &clip, &[self.tokenizers()?.ids(instruction)], device);
        // A device that works ahead would still hold the encoders when the transformer comes.
        drop(device.sync());
        Ok(text)
    }

    fn denoise(
        &self,
        edit: &Edit,
        units: &Units,
        text: &TextConditioning,
        observer: Observer<'_>,
    ) -> Result<Tensor<3>> {
        let Self { card, files, numbers, device } = self;
        let mut flux = numbers.open(&files.flux)?.flux(&card.flux, Some(numbers.dtype), device)?;
        for (path, weight) in &files.adapters {
            adapter::attach(&mut flux, &WeightFile::open(path)?, *weight, device)?;
        }
        let tokens = pipeline::denoised(card, &flux, edit, units, text, numbers.dtype, device, observer)?;
        drop(device.sync());
        Ok(tokens)
    }
}

impl Editor for Lean {
    fn card(&self) -> &Card {
        &self.card
    }

    fn run(&self, edit: &Edit, observer: Observer<'_>) -> Result<Edited> {
        edit.check()?;
        let prepared = edit.prepare(&self.card)?;
        let tiling = pipeline::tiling(edit, &self.card)?;
        tell(observer, Event::Stage(Stage::Text))?;
        let text = self.encode_text(&edit.instruction)?;
        tell(observer, Event::Stage(Stage::Encode))?;
        // Small enough to stay.
        let autoencoder =
            WeightFile::open(&self.files.autoencoder)?.autoencoder(&self.card.autoencoder, &self.device)?;
        let units = Units::encode(&autoencoder, &prepared.canvases, &self.card.unit, tiling, &self.device);
        tell(observer, Event::Stage(Stage::Denoise))?;
        let tokens = self.denoise(edit, &units, &text, observer)?;
        tell(observer, Event::Stage(Stage::Decode))?;
        Ok(pipeline::decoded(&autoencoder, edit, &prepared, &units, tokens, tiling))
    }
}
