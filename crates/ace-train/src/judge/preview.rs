//! What a model makes of examples, as one picture: a row per example, its inputs, the output, the exact answer; while an
//! adapter learns, what its base makes of them, too.

use super::{
    sheet::{self, Row},
    verdict::{Score, judge},
};
use crate::{
    Error,
    data::{
        encode::{Encoded, EncodedText, Encoders},
        example::Example,
    },
};
use ace_nn::{
    autoencoder::AutoEncoder,
    clip::Clip,
    flux::{Blocks, Flux},
    t5::T5,
};
use ace_plus::{Ace, Card, Edit, canvas, pixels, sample, unit::Units};
use burn::{prelude::*, tensor::FloatDType};
use image::RgbImage;
use std::ops::ControlFlow;

/// Inputs, output and answer of one example, by the very edit that `sample` makes.
///
/// # Errors
/// If the pictures of the example do not fit each other or the card.
pub fn row(ace: &Ace, example: &Example) -> Result<Row, Error> {
    let output = ace.edit(&edit_of(example), &mut |_| ControlFlow::Continue(()))?;
    Ok(beside_answer(example, [("output", output)]))
}

/// What goes in, some outputs, and the answer.
fn beside_answer<const N: usize>(example: &Example, outputs: [(&str, RgbImage); N]) -> Row {
    let several = example.references.len() > 1;
    let mut row = Row::new(format!("{}: {}", example.task, example.instruction));
    for (index, reference) in example.references.iter().enumerate() {
        let caption = if several { format!("reference {}", index + 1) } else { "reference".to_owned() };
        row = row.with(caption, reference.clone());
    }
    row = example.image.iter().fold(row, |row, image| row.with("input", image.clone()));
    row = outputs.into_iter().fold(row, |row, (caption, output)| row.with(caption, output));
    row.with("answer", example.target.clone())
}

/// An example as a user would ask for it. Nothing is pasted back, so the picture is the network's alone.
pub fn edit_of(example: &Example) -> Edit {
    let (width, height) = example.target.dimensions();
    let edit = Edit::new(&example.instruction).size(width, height).repainting_scale(example.repainting_scale);
    let edit = example.references.iter().cloned().fold(edit.keep_outside(false), Edit::reference);
    let edit = example.image.iter().cloned().fold(edit, Edit::image);
    example.mask.iter().cloned().fold(edit, Edit::mask)
}

/// Examples that a run draws again and again with what its transformer has learned so far.
///
/// What the encoders give is computed once, so that they can be dropped. The autoencoder stays, to decode.
#[derive(Debug)]
pub struct Previews {
    card: Card,
    autoencoder: AutoEncoder,
    device: Device,
    edits: Vec<EncodedEdit>,
    /// What the model made of each before it learned.
    base: Vec<RgbImage>,
}

/// One example with everything that the transformer needs for its edit.
#[derive(Debug)]
struct EncodedEdit {
    example: Example,
    edit: Edit,
    units: Units,
    text: EncodedText,
}

impl Previews {
    /// Encodes the examples.
    ///
    /// # Errors
    /// If the pictures of an example do not fit each other or the card.
    pub fn new(encoders: &Encoders, examples: Vec<Example>) -> Result<Self, Error> {
        let Encoders { card, autoencoder, device, .. } = encoders;
        let encode = |example: Example| {
            let edit = edit_of(&example);
            let units = Units::encode(autoencoder, &edit.prepare(card)?.canvases, &card.unit, None, device);
            Ok(EncodedEdit { text: encoders.encode_text(edit.words()), example, edit, units })
        };
        Ok(Self {
            card: card.clone(),
            autoencoder: autoencoder.clone(),
            device: device.clone(),
            edits: examples.into_iter().map(encode).collect::<Result<_, Error>>()?,
            base: Vec::new(),
        })
    }

    /// Examples that are encoded already. Where the edit sees other canvases than training does, it is encoded anew.
    ///
    /// # Errors
    /// As [`Previews::new`].
    pub fn of(
        card: &Card,
        autoencoder: &AutoEncoder,
        device: &Device,
        examples: Vec<(Example, Encoded)>,
    ) -> Result<Self, Error> {
        let edit = |(example, encoded): (Example, Encoded)| {
            let edit = edit_of(&example);
            let canvases = edit.prepare(card)?.canvases;
            let units = match canvases == canvas::compose(&example.inputs(), &card.canvas)? {
                true => encoded.units(device),
                false => Units::encode(autoencoder, &canvases, &card.unit, None, device),
            };
            Ok(EncodedEdit { text: encoded.text().clone(), example, edit, units })
        };
        let edits = examples.into_iter().map(edit).collect::<Result<_, Error>>()?;
        Ok(Self {
            card: card.clone(),
            autoencoder: autoencoder.clone(),
            device: device.clone(),
            edits,
            base: Vec::new(),
        })
    }

    /// What the transformer makes of each example now. It has no gradients and computes in `dtype`, with the matrices that
    /// `blocks` gives; `trained` are the text encoders, if they are trained too.
    ///
    /// # Errors
    /// If an edit fails.
    pub fn outputs(
        &self,
        flux: &Flux,
        blocks: &mut dyn Blocks,
        trained: Option<(&T5, &Clip)>,
        dtype: FloatDType,
    ) -> Result<Vec<RgbImage>, Error> {
        let card = &self.card;
        let output = |EncodedEdit { edit, units, text, .. }: &EncodedEdit| {
            let text = &EncodedText::conditioning(std::slice::from_ref(text), trained, &self.device);
            let settings = edit.settings(card)?;
            let noise = sample::noise(card, edit, units, &self.device)?;
            let course = sample::Course::of(&settings.course, card, units.len(), edit.seed_number());
            let denoiser = sample::Denoiser { flux, units, text, guidance: settings.guidance, dtype };
            let go_on = &mut |_: ace_plus::Event<'_>| ControlFlow::Continue(());
            let tokens = denoiser.denoise_with(blocks, noise, &course, go_on)?.tokens;
            // Every edit has a unit of its own.
            Ok(match units.unpack(tokens).pop() {
                Some(latents) => edit.prepare(card)?.finish(&pixels::decode(&self.autoencoder, &latents, None)),
                None => RgbImage::new(0, 0),
            })
        };
        self.edits.iter().map(output).collect()
    }

    /// Shows these outputs beside all later ones: what the model made before it learned.
    pub fn beside(self, base: Vec<RgbImage>) -> Self {
        Self { base, ..self }
    }

    /// A sheet of outputs, one row per example.
    pub fn sheet(&self, outputs: Vec<RgbImage>) -> RgbImage {
        let row = |(index, (edit, output)): (usize, (&EncodedEdit, RgbImage))| match self.base.get(index) {
            Some(base) => beside_answer(&edit.example, [("before", base.clone()), ("now", output)]),
            None => beside_answer(&edit.example, [("output", output)]),
        };
        sheet::sheet(&self.edits.iter().zip(outputs).enumerate().map(row).collect::<Vec<_>>())
    }

    /// How right outputs are.
    pub fn score(&self, outputs: &[RgbImage]) -> Score {
        let verdicts = self.edits.iter().zip(outputs).map(|(edit, output)| judge(&edit.example, output));
        Score::of(&verdicts.collect::<Vec<_>>())
    }
}
