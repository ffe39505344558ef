//! What a user asks for: words, pictures, and how to go about it.

use crate::{
    Error, Result,
    annotate::{self, Annotator},
    canvas::{self, Canvas, CanvasPolicy, Inputs, OfficialBytes, Plane, Region},
    card::Card,
};
use burn::tensor::TensorData;
use image::{GrayImage, RgbImage};

/// Whose way from pixels to canvas and back an edit goes, to the letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compat {
    /// diffusers' `FluxFillPipeline`: picture and mask as given, the whole decoded picture back, words uncleaned.
    Diffusers,
    /// The official ACE++ programs: 30 columns cut at the seam and the rest stretched over them, the whole decoded picture
    /// back, in the canvas's size if there is no reference; its bytes as the card says ([`OfficialBytes`]).
    Official,
}

impl Compat {
    /// Every one of them by name.
    pub const ALL: [(&'static str, Self); 2] = [("diffusers", Self::Diffusers), ("official", Self::Official)];

    /// What it is called.
    pub fn name(self) -> &'static str {
        // Every one is listed.
        Self::ALL.iter().find(|(_, compat)| *compat == self).map_or("", |(name, _)| name)
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().find_map(|(known, compat)| (*known == name).then_some(*compat))
    }
}

/// Which generator draws the noise of a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SeedNoise {
    /// ChaCha20: the same on every machine and backend.
    #[default]
    ChaCha,
    /// What torch draws on a CPU in f32 and diffusers begins with, bit for bit ([`crate::torch_noise`]).
    Torch,
}

/// What the networks are to see of an edit.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// The canvases, the edited picture's last.
    pub canvases: Vec<Canvas>,
    /// The part of the image that they show and into which what is made is stitched; nothing is stitched without one.
    pub region: Option<Region>,
    /// How bytes are made of the picture under [`Compat::Official`].
    pub official_bytes: OfficialBytes,
}

/// The policy under which a region is not cropped: one that is longer than allowed has no room to be otherwise.
fn admitting(region: Region, policy: &CanvasPolicy) -> CanvasPolicy {
    let (long, short) = (region.width.max(region.height), region.width.min(region.height));
    let ratio = long as f32 / short as f32;
    let is_allowed = ratio <= policy.max_aspect_ratio;
    CanvasPolicy { max_aspect_ratio: if is_allowed { policy.max_aspect_ratio } else { ratio.ceil() }, ..policy.clone() }
}

/// One edit, or one picture made from words alone. Build it up with the methods; what is not said, the card says.
#[derive(Debug, Clone)]
pub struct Edit {
    /// The user's words.
    pub instruction: String,
    /// The picture to edit; none to start from nothing.
    pub image: Option<RgbImage>,
    /// What to repaint of it, white; everything if absent.
    pub mask: Option<GrayImage>,
    /// Pictures to take something from.
    pub references: Vec<RgbImage>,
    /// Width and height in pixels when there is no image.
    pub size: Option<(u32, u32)>,
    /// The noise follows from it.
    pub seed: u64,
    /// How it follows.
    pub seed_noise: SeedNoise,
    /// Euler steps.
    pub num_steps: Option<usize>,
    /// Guidance that is embedded.
    pub guidance: Option<f32>,
    /// What is blanked under the mask, 0..1: 1 hides it from the network, 0 shows it.
    pub repainting_scale: f32,
    /// What is drawn of the image under the mask before the network sees it.
    pub annotator: Annotator,
    /// The user's own drawing for [`Annotator::Map`], of the size of the image.
    pub map: Option<RgbImage>,
    /// Give back the input's own pixels wherever the mask is black. Of an image that is too large for the budget, only
    /// the mask's surroundings are then edited, at native resolution.
    pub keep_outside: bool,
    /// Pixels outside the mask over which the edit fades into the image; 0 for none.
    pub feather: u32,
    /// Initial noise instead of the seed's: `[1, 16, h, w]`, or packed `[1, L, 64]`.
    pub noise: Option<TensorData>,
    /// The autoencoder works in tiles of at most so many pixels along a side; in one piece if absent.
    pub tile: Option<u32>,
    /// Another program's preparation instead of ours.
    pub compat: Option<Compat>,
}

impl Edit {
    /// An edit that so far has only words.
    pub fn new(instruction: impl Into<String>) -> Self {
        Self {
            instruction: instruction.into(),
            image: None,
            mask: None,
            references: Vec::new(),
            size: None,
            seed: 0,
            seed_noise: SeedNoise::default(),
            num_steps: None,
            guidance: None,
            repainting_scale: 1.0,
            annotator: Annotator::None,
            map: None,
            keep_outside: true,
            feather: 0,
            noise: None,
            tile: None,
            compat: None,
        }
    }

    /// The picture to edit.
    pub fn image(mut self, image: RgbImage) -> Self {
        self.image = Some(image);
        self
    }

    /// What to repaint, white; of the size of the image.
    pub fn mask(mut self, mask: GrayImage) -> Self {
        self.mask = Some(mask);
        self
    }

    /// One more picture to take something from.
    pub fn reference(mut self, reference: RgbImage) -> Self {
        self.references.push(reference);
        self
    }

    /// Width and height in pixels when there is no image.
    pub fn size(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    /// The noise follows from it: the same on every backend.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Euler steps.
    pub fn num_steps(mut self, num_steps: usize) -> Self {
        self.num_steps = Some(num_steps);
        self
    }

    /// Your own drawing of the image (contours, depths), for tasks that want one.
    pub fn map(mut self, map: RgbImage) -> Self {
        self.map = Some(map);
        self
    }

    /// What is blanked under the mask, 0..1.
    pub fn repainting_scale(mut self, scale: f32) -> Self {
        self.repainting_scale = scale;
        self
    }

    /// The defaults of one of the card's tasks.
    ///
    /// # Errors
    /// If the card has no such task.
    pub fn task(mut self, card: &Card, name: &str) -> Result<Self> {
        let task = card.find_task(name)?;
        self.repainting_scale = task.repainting_scale;
        self.annotator = task.annotator;
        Ok(self)
    }

    /// The pictures, with the card's size where none is given.
    pub fn inputs(&self, card: &Card) -> Inputs<'_> {
        Inputs {
            image: self.image.as_ref(),
            mask: self.mask.as_ref(),
            references: &self.references,
            size: self.size.unwrap_or(card.sampling.size),
            repainting_scale: self.repainting_scale,
        }
    }

    /// What the networks are to see of the edit.
    ///
    /// # Errors
    /// If its pictures do not fit each other or the card.
    pub fn prepare(&self, card: &Card) -> Result<Prepared> {
        let annotated = self.annotated()?;
        let inputs = Inputs { image: annotated.as_ref().or(self.image.as_ref()), ..self.inputs(card) };
        let official_bytes = card.canvas.official_bytes;
        let all_of = |canvases| Prepared { canvases, region: None, official_bytes };
        match self.compat {
            Some(Compat::Diffusers) => Ok(all_of(vec![canvas::compose_plain(&inputs, &card.canvas)?])),
            Some(Compat::Official) => Ok(all_of(vec![canvas::compose_official(&inputs, &card.canvas)?])),
            None => match (Region::around_mask(&inputs, &card.canvas), inputs.image, inputs.mask) {
                (Some(region), Some(image), Some(mask)) if self.keep_outside => {
                    let (image, mask) = (region.of_rgb(image), region.of_mask(mask));
                    let inputs = Inputs { image: Some(&image), mask: Some(&mask), ..inputs };
                    let canvases = canvas::compose(&inputs, &admitting(region, &card.canvas))?;
                    Ok(Prepared { canvases, region: Some(region), official_bytes })
                }
                (None, Some(image), Some(_)) if self.keep_outside && card.canvas.match_colours => {
                    let canvases = canvas::compose(&inputs, &card.canvas)?;
                    let (width, height) = image.dimensions();
                    let region = Some(Region { left: 0, top: 0, width, height });
                    Ok(Prepared { canvases, region, official_bytes })
                }
                _ => Ok(all_of(canvas::compose(&inputs, &card.canvas)?)),
            },
        }
    }

    /// The image with what its annotator draws under the mask, if one does.
    fn annotated(&self) -> Result<Option<RgbImage>> {
        if self.annotator == Annotator::None && self.map.is_none() {
            return Ok(None);
        }
        let Some(image) = &self.image else {
            return Err(Error::input("this task draws over an image, and there is none", "give --image"));
        };
        let drawn = self.annotator.draw(image, self.map.as_ref())?;
        let everything = || GrayImage::from_pixel(image.width(), image.height(), image::Luma([255]));
        match &self.mask {
            Some(mask) => annotate::apply(image, mask, &drawn).map(Some),
            None => annotate::apply(image, &everything(), &drawn).map(Some),
        }
    }

    /// The picture out of the decoded canvas of the edited unit, `[3, H, W]`.
    ///
    /// # Panics
    /// If `decoded` has not the shape of the last canvas, or `prepared` is of another edit.
    pub fn finish(&self, decoded: &Plane, prepared: &Prepared) -> RgbImage {
        let Some(last) = prepared.canvases.last() else { return RgbImage::new(0, 0) };
        if self.compat == Some(Compat::Official) {
            return canvas::crop_back_official(decoded, last, prepared.official_bytes);
        }
        let made = canvas::crop_back(decoded, last);
        match (&self.image, &self.mask) {
            (Some(input), Some(mask)) if self.keep_outside && self.compat.is_none() => {
                let (width, height) = input.dimensions();
                match prepared.region {
                    Some(region) => canvas::stitch(&made, region, input, mask, self.feather),
                    None if self.feather > 0 && made.dimensions() == (width, height) => {
                        let whole = Region { left: 0, top: 0, width, height };
                        canvas::stitch(&made, whole, input, mask, self.feather)
                    }
                    None => canvas::keep_outside(&made, input, mask),
                }
            }
            _ => made,
        }
    }

    /// Refuses what cannot be asked, before any work is done; pictures are checked where they are composed.
    pub(crate) fn check(&self) -> Result<()> {
        if self.instruction.trim().is_empty() {
            return Err(Error::input("the instruction is empty", "say what should be seen or changed"));
        }
        if self.num_steps == Some(0) {
            return Err(Error::input("num_steps is 0", "choose 1 or more"));
        }
        Ok(())
    }
}
