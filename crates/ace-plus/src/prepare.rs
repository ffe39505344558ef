//! From the pictures of an edit to what the networks see, and from what they made back to a picture. The way is decided
//! once: what is prepared knows how it is finished.

use crate::{
    Compat, Edit, Error, Result,
    annotate::{self, Annotator},
    canvas::{self, Canvas, CanvasPolicy, Fitting, Inputs, OfficialBytes, Plane, Region},
    card::Card,
    unit::Shown,
};
use image::{GrayImage, RgbImage};

/// What the networks are to see of an edit, and how what they make becomes its picture.
#[derive(Debug, Clone)]
pub struct Prepared<'a> {
    /// The canvases, the edited picture's last.
    pub canvases: Vec<Canvas>,
    finish: Finish<'a>,
}

/// How the decoded canvas becomes the picture.
#[derive(Debug, Clone)]
enum Finish<'a> {
    /// The part that is not reference, as it is.
    Whole,
    /// The same as the official programs cut and stretch it.
    Official(OfficialBytes),
    /// Pixels under the mask, into the image.
    Keep { image: &'a RgbImage, mask: &'a GrayImage },
    /// Pixels under the mask, their colours matched around it, into a region of the image.
    Stitch { region: Region, image: &'a RgbImage, mask: &'a GrayImage, feather: u32 },
}

impl Prepared<'_> {
    /// The part of the image that the canvases show and into which what is made is stitched, if it is.
    pub fn region(&self) -> Option<Region> {
        match self.finish {
            Finish::Stitch { region, .. } => Some(region),
            _ => None,
        }
    }

    /// The picture out of the decoded canvas of the edited unit, `[3, H, W]`.
    ///
    /// # Panics
    /// If `decoded` has not the shape of the last canvas.
    pub fn finish(&self, decoded: &Plane) -> RgbImage {
        // Every way of preparing makes a canvas.
        let Some(last) = self.canvases.last() else { return RgbImage::new(0, 0) };
        match self.finish {
            Finish::Whole => canvas::crop_back(decoded, last),
            Finish::Official(bytes) => canvas::crop_back_official(decoded, last, bytes),
            Finish::Keep { image, mask } => canvas::keep_outside(&canvas::crop_back(decoded, last), image, mask),
            Finish::Stitch { region, image, mask, feather } => {
                canvas::stitch(&canvas::crop_back(decoded, last), region, image, mask, feather)
            }
        }
    }
}

/// The policy under which a region is not cropped: one that is longer than allowed has no room to be otherwise.
fn admitting(region: Region, policy: &CanvasPolicy) -> CanvasPolicy {
    let (long, short) = (region.width.max(region.height), region.width.min(region.height));
    let ratio = long as f32 / short as f32;
    let is_allowed = ratio <= policy.max_aspect_ratio;
    CanvasPolicy { max_aspect_ratio: if is_allowed { policy.max_aspect_ratio } else { ratio.ceil() }, ..policy.clone() }
}

impl Edit {
    /// What the networks are to see of the edit; of one with regions, of none of them.
    ///
    /// # Errors
    /// If its pictures do not fit each other or the card.
    pub fn prepare(&self, card: &Card) -> Result<Prepared<'_>> {
        let annotated = self.annotated(card)?;
        let given = self.inputs(card)?;
        let inputs = Inputs { image: annotated.as_ref().or(given.image), ..given };
        let shown = card.unit.shown();
        let as_it_is = |shown, inputs: &Inputs, policy: &CanvasPolicy, fitting| {
            canvas::compose_shown(inputs, self.asked_size(), shown, policy, fitting)
        };
        match self.compatible_with() {
            Some(Compat::Diffusers) => {
                let (width, height) = card.sampling.size;
                let fitting = Fitting::Diffusers { area: u64::from(width) * u64::from(height) };
                let canvases = match shown {
                    Some(shown) => as_it_is(shown, &inputs, &card.canvas, fitting)?,
                    None => vec![canvas::compose_plain(&inputs, &card.canvas)?],
                };
                return Ok(Prepared { canvases, finish: Finish::Whole });
            }
            Some(Compat::Official) if shown.is_some() => {
                let what = format!("card {} is none of ACE++'s, whose official programs these are", card.name);
                return Err(Error::input(what, "prepare it as this project does"));
            }
            Some(Compat::Official) => {
                let canvases = vec![canvas::compose_official(&inputs, &card.canvas)?];
                return Ok(Prepared { canvases, finish: Finish::Official(card.canvas.official_bytes) });
            }
            None => {}
        }
        let compose = |inputs: &Inputs, policy: &CanvasPolicy| match shown {
            Some(shown) => as_it_is(shown, inputs, policy, Fitting::Ours),
            None => canvas::compose(inputs, policy),
        };
        let (Some(image), Some(mask), true) = (given.image, given.mask, self.keeps_outside()) else {
            return Ok(Prepared { canvases: compose(&inputs, &card.canvas)?, finish: Finish::Whole });
        };
        let feather = self.fade();
        // Pictures of a context take nothing from the budget of what is made.
        let alone =
            Inputs { references: if shown == Some(Shown::Context) { &[] } else { inputs.references }, ..inputs };
        if let (Some(region), Some(whole)) = (Region::around_mask(&alone, &card.canvas), inputs.image) {
            let (part, mask_part) = (region.of_rgb(whole), region.of_mask(mask));
            let inputs = Inputs { image: Some(&part), mask: Some(&mask_part), ..inputs };
            let canvases = compose(&inputs, &admitting(region, &card.canvas))?;
            return Ok(Prepared { canvases, finish: Finish::Stitch { region, image, mask, feather } });
        }
        let canvases = compose(&inputs, &card.canvas)?;
        let (width, height) = image.dimensions();
        let region = Region { left: 0, top: 0, width, height };
        // Without a match of colours there is nothing to stitch but the fading, which needs all of the image.
        let has_all = canvases.last().is_some_and(|canvas| canvas.output_size == (width, height));
        let finish = match card.canvas.match_colours || (feather > 0 && has_all) {
            true => Finish::Stitch { region, image, mask, feather },
            false => Finish::Keep { image, mask },
        };
        Ok(Prepared { canvases, finish })
    }

    /// The annotator whose network is to draw the edit's map before it is prepared, if there is no map yet; an
    /// [`Eye`](annotate::Eye) draws it, and [`Edit::map`] takes it.
    ///
    /// # Errors
    /// If the card has no such task.
    pub fn undrawn(&self, card: &Card) -> Result<Option<Annotator>> {
        let annotator = self.settings(card)?.task.map_or(Annotator::None, |task| task.annotator);
        let is_wanted = annotator.is_network() && self.drawing().is_none() && self.input().is_some();
        Ok(is_wanted.then_some(annotator))
    }

    /// The image with what its annotator draws under the mask, if one does.
    fn annotated(&self, card: &Card) -> Result<Option<RgbImage>> {
        let annotator = self.settings(card)?.task.map_or(Annotator::None, |task| task.annotator);
        if annotator == Annotator::None && self.drawing().is_none() {
            return Ok(None);
        }
        let Some(image) = self.input() else {
            return Err(Error::input("this task draws over an image, and there is none", "give an image"));
        };
        let drawn = annotator.draw(image, self.drawing())?;
        let everything = || GrayImage::from_pixel(image.width(), image.height(), image::Luma([255]));
        match self.masked() {
            Some(mask) => annotate::apply(image, mask, &drawn).map(Some),
            None => annotate::apply(image, &everything(), &drawn).map(Some),
        }
    }
}
