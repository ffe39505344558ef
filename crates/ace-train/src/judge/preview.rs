//! What a model makes of examples, as one picture: a row per example, its inputs, the output, the exact answer.

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
use image::{RgbImage, imageops};
use std::ops::ControlFlow;

/// Inputs, output and answer of one example, by the very edit that `sample` makes.
///
/// # Errors
/// If the pictures of the example do not fit each other or the card.
pub fn row(ace: &Ace, example: &Example) -> Result<Vec<RgbImage>, Error> {
    let output = ace.edit(&edit_of(example), &mut |_| ControlFlow::Continue(()))?;
    Ok(beside_answer(example, output))
}

fn beside_answer(example: &Example, output: RgbImage) -> Vec<RgbImage> {
    let mut row = example.references.clone();
    row.extend(example.image.clone());
    row.extend([output, example.target.clone()]);
    row
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
        Ok(Self { card: card.clone(), autoencoder: autoencoder.clone(), device: device.clone(), edits })
    }

    /// A sheet with one row per example. The transformer has no gradients and computes in `dtype`, with the matrices that
    /// `blocks` gives; `trained` are the text encoders, if they are trained too.
    ///
    /// # Errors
    /// If an edit fails.
    pub fn draw(
        &self,
        flux: &Flux,
        blocks: &mut dyn Blocks,
        trained: Option<(&T5, &Clip)>,
        dtype: FloatDType,
    ) -> Result<RgbImage, Error> {
        let card = &self.card;
        let row = |EncodedEdit { example, edit, units, text }: &EncodedEdit| {
            let text = &EncodedText::conditioning(std::slice::from_ref(text), trained, &self.device);
            let settings = edit.settings(card)?;
            let noise = sample::noise(card, edit, units, &self.device)?;
            let course = sample::Course::of(&settings.course, card, units.len(), edit.seed_number());
            let denoiser = sample::Denoiser { flux, units, text, guidance: settings.guidance, dtype };
            let go_on = &mut |_: ace_plus::Event<'_>| ControlFlow::Continue(());
            let tokens = denoiser.denoise_with(blocks, noise, &course, go_on)?.tokens;
            // Every edit has a unit of its own.
            let output = match units.unpack(tokens).pop() {
                Some(latents) => edit.prepare(card)?.finish(&pixels::decode(&self.autoencoder, &latents, None)),
                None => RgbImage::new(0, 0),
            };
            Ok(beside_answer(example, output))
        };
        Ok(sheet(&self.edits.iter().map(row).collect::<Result<Vec<_>, Error>>()?))
    }
}

/// Rows of pictures, aligned right so that outputs and answers stand below each other.
pub fn sheet(rows: &[Vec<RgbImage>]) -> RgbImage {
    const GAP: u32 = 4;
    let row_width = |row: &Vec<RgbImage>| row.iter().map(|picture| picture.width() + GAP).sum::<u32>();
    let row_height = |row: &Vec<RgbImage>| row.iter().map(|picture| picture.height() + GAP).max().unwrap_or(0);
    let width = rows.iter().map(row_width).max().unwrap_or(GAP);
    let mut sheet = RgbImage::from_pixel(width, rows.iter().map(row_height).sum::<u32>().max(1), image::Rgb([255; 3]));
    let mut top = 0;
    for row in rows {
        let mut left = width - row_width(row);
        for picture in row {
            imageops::replace(&mut sheet, picture, i64::from(left), i64::from(top));
            left += picture.width() + GAP;
        }
        top += row_height(row);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_aligns_rows_right() {
        let picture = |grey| RgbImage::from_pixel(2, 2, image::Rgb([grey; 3]));
        let sheet = sheet(&[vec![picture(10)], vec![picture(20), picture(30)]]);
        assert_eq!(sheet.dimensions(), (12, 12));
        assert_eq!(sheet.get_pixel(6, 0).0, [10; 3]);
        assert_eq!(sheet.get_pixel(0, 6).0, [20; 3]);
    }
}
