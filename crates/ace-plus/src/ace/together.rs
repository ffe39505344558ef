//! Several edits as one batch: what the transformer does for one example it does for all of them at once, which keeps a
//! device busy that one example leaves idle.

use super::{Ace, Edited, Weights};
use crate::{
    Card, Edit, Error, Result,
    pixels::{self, Tiling},
    sample::{self, Cache, Course, Denoiser, Event, Observer, Sampler, Stage, preview, tell, uncancelled},
    text::TextConditioning,
    unit::Units,
};
use ace_nn::flux::Own;
use burn::prelude::*;

/// What edits must have in common to be made together: the same work for every one of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Shape(String);

impl Shape {
    /// That of an edit; `None` if it is made alone, because it has regions, leaves steps or tokens out as its own numbers
    /// have it, or draws fresh noise on the way.
    ///
    /// # Errors
    /// If the edit's parts do not fit each other or the card.
    pub fn of(edit: &Edit, card: &Card) -> Result<Option<Self>> {
        let settings = edit.settings(card)?;
        let course = settings.course;
        let is_alone = !edit.one_by_one().is_empty()
            || edit.given_noise().is_some()
            || course.cache != Cache::Off
            || course.masked_steps.is_some()
            || course.sampler == Sampler::Lcm;
        if is_alone {
            return Ok(None);
        }
        let canvases = edit.prepare(card)?.canvases;
        let sizes: Vec<_> = canvases.iter().map(|canvas| (canvas.image.shape(), canvas.split)).collect();
        // Numbers are written so that they are read back as they were: equal texts are equal numbers.
        // Pictures among the words make them longer, however many.
        let prompted = if edit.picture_prompts().is_empty() { "" } else { " prompted" };
        Ok(Some(Self(format!("{sizes:?} {course:?} {} {:?}{prompted}", settings.guidance, settings.tile))))
    }

    /// As it can be stored: equal shapes are equal texts.
    pub fn text(&self) -> &str {
        &self.0
    }
}

impl Ace {
    /// Whether the model makes several edits at once: its networks must be on the device.
    pub fn makes_batches(&self) -> bool {
        matches!(self.weights, Weights::Resident(_))
    }

    /// Edits of one [`Shape`], made together; each gives what it gives alone, up to rounding. Of a step's preview
    /// [`sample::Preview::of`] shows one of them.
    ///
    /// # Errors
    /// As [`Ace::edit`], and if the edits have not one shape or the networks do not stay on the device.
    pub fn run_together(&self, edits: &[Edit], observer: Observer<'_>) -> Result<Vec<Edited>> {
        let Weights::Resident(networks) = &self.weights else {
            let what = "networks that are read when they are needed make one edit at a time";
            return Err(Error::input(what, "hold the model in memory"));
        };
        let Some(first) = edits.first() else { return Ok(Vec::new()) };
        let mut shapes = Vec::with_capacity(edits.len());
        for edit in edits {
            edit.check(&self.card)?;
            shapes.push(Shape::of(edit, &self.card)?);
        }
        if shapes.iter().any(|shape| shape.is_none() || *shape != shapes[0]) {
            return Err(Error::input("these edits are not of one shape", "make them one after the other"));
        }
        let settings = first.settings(&self.card)?;
        let tiling = settings.tile.map(|side| Tiling::of(side, &self.card)).transpose()?;
        let prepared = edits.iter().map(|edit| edit.prepare(&self.card)).collect::<Result<Vec<_>>>()?;
        tell(observer, Event::Stage(Stage::Text))?;
        let mut texts = Vec::with_capacity(edits.len());
        for edit in edits {
            let text = self.encode_text(edit.words(), observer)?;
            texts.push(self.with_pictures(edit, text, observer)?);
        }
        tell(observer, Event::Stage(Stage::Encode))?;
        let (mut units, mut noises) = (Vec::with_capacity(edits.len()), Vec::with_capacity(edits.len()));
        for (edit, prepared) in edits.iter().zip(&prepared) {
            let poll = &mut || observer(Event::Tick);
            let autoencoder = &networks.autoencoder;
            let unit =
                Units::encode_polled(autoencoder, &prepared.canvases, &self.card.unit, tiling, &self.device, poll);
            let unit = uncancelled(unit)?;
            noises.push(sample::noise(&self.card, edit, &unit, &self.device)?);
            units.push(unit);
        }
        tell(observer, Event::Stage(Stage::Denoise))?;
        // Fresh noise is drawn by none of them, so that the first seed stands for all.
        let course = Course::of(&settings.course, &self.card, units[0].len(), first.seed_number());
        let (text, units) = (TextConditioning::batch(texts), Units::batch(units));
        let denoiser = Denoiser {
            flux: &networks.flux,
            units: &units,
            text: &text,
            guidance: settings.guidance,
            dtype: self.dtype,
        };
        let sight = |row: usize, latents: Tensor<4>| {
            let plane = match preview::is_cheap(&self.card.autoencoder) {
                true => pixels::decode(&networks.autoencoder, &latents, tiling),
                false => preview::rough(latents, self.card.autoencoder.downscale())?,
            };
            Some(prepared.get(row)?.finish(&plane))
        };
        let watch = &mut |event: Event<'_>| observer(event.seen_by(&sight));
        let denoised = denoiser.denoise_with(&mut Own, Tensor::cat(noises, 0), &course, watch)?;
        tell(observer, Event::Stage(Stage::Decode))?;
        let mut edited = Vec::with_capacity(edits.len());
        for (row, prepared) in prepared.iter().enumerate() {
            let tokens = denoised.tokens.clone().narrow(0, row, 1);
            let latents = units.unpack(tokens.clone());
            let last = &latents[latents.len() - 1];
            let poll = &mut || observer(Event::Tick);
            let plane = uncancelled(pixels::decode_polled(&networks.autoencoder, last, tiling, poll))?;
            let (image, len, work) = (prepared.finish(&plane), units.len(), denoised.work);
            edited.push(Edited { image, tokens, latents, len, work, mag_ratios: Vec::new() });
        }
        Ok(edited)
    }
}
