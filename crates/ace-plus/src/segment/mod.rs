//! A click or a box becomes a mask, with MobileSAM.
//!
//! A picture is looked at once ([`Segmenter::embed`]); each question about it ([`Segmenter::mask`]) then takes a small part
//! of that. Sizes, rounding and order are those of SAM's own `SamPredictor`: the picture's longest side becomes that of the
//! network's square (Pillow's bilinear filter), the rest of which is empty, and a mask comes back the same way.

mod logits;

use crate::{Error, Result, canvas::bilinear};
use ace_nn::sam::{Masks, Role, Sam, SamConfig};
use ace_weights::WeightFile;
use burn::prelude::*;
use image::{GrayImage, Luma, RgbImage};
use serde::Deserialize;
use std::{path::Path, sync::LazyLock};

pub use logits::Logits;

/// Means of red, green and blue, and their deviations, as SAM was trained with them.
const MEAN: [f32; 3] = [123.675, 116.28, 103.53];
const DEVIATION: [f32; 3] = [58.395, 57.12, 57.375];

/// Where the network comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its word in file names.
    pub name: String,
    /// What it does.
    pub title: String,
    /// Where it is described.
    pub paper: String,
    /// Its authors' page.
    pub source: String,
    /// Under which its weights may be used, by SPDX.
    pub license: String,
    /// The file that its authors publish.
    pub file: String,
    /// Where that file is.
    pub url: String,
    /// Its size.
    pub megabytes: u32,
}

/// Where MobileSAM comes from: `models/annotators/mobile-sam.toml`.
pub static MOBILE_SAM: LazyLock<Source> = LazyLock::new(|| {
    toml::from_str(include_str!("../../cards/mobile-sam.toml")).expect("a card that is part of the program, and tested")
});

/// A place in a picture, in its pixels from the upper left corner, that is or is not part of what is meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Click {
    /// From the left.
    pub x: f32,
    /// From above.
    pub y: f32,
    /// Whether it is on what is meant.
    pub is_inside: bool,
}

/// What is meant is within these pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    /// Left edge.
    pub left: f32,
    /// Upper edge.
    pub top: f32,
    /// Right edge.
    pub right: f32,
    /// Lower edge.
    pub bottom: f32,
}

/// What the network saw in a picture.
#[derive(Debug, Clone)]
pub struct Embedding {
    features: Tensor<4>,
    /// Width and height of the picture.
    size: [u32; 2],
    /// Width and height that it had in the network's square.
    inner: [u32; 2],
}

impl Embedding {
    /// Width and height of the picture, in pixels.
    pub const fn size(&self) -> (u32, u32) {
        let [width, height] = self.size;
        (width, height)
    }

    /// Waits until the device has finished it.
    pub fn wait(&self) {
        drop(self.features.clone().slice([0..1, 0..1, 0..1, 0..1]).into_data());
    }

    /// Bytes that it takes on its device.
    pub fn bytes(&self) -> usize {
        self.features.dims().iter().product::<usize>() * size_of::<f32>()
    }
}

/// What was found.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Of the picture's size: 255 inside, 0 outside.
    pub mask: GrayImage,
    /// The same as numbers: above zero inside.
    pub logits: Logits,
    /// How well the network thinks that it covers what is meant, as intersection over union.
    pub score: f32,
}

/// MobileSAM on a device.
#[derive(Debug)]
pub struct Segmenter {
    sam: Sam,
    /// Where the cells of an embedding are, which is the same for every picture.
    positions: Tensor<4>,
    side: u32,
    device: Device,
}

impl Segmenter {
    /// Reads the network from a file: `mobile_sam` with its own names, whatever the container.
    ///
    /// # Errors
    /// If the file cannot be read, or does not hold exactly the network's weights.
    pub fn load(path: &Path, device: &Device) -> Result<Self> {
        let file = WeightFile::open(path)?;
        let config = file.sam_config()?;
        Ok(Self::new(file.sam(&config, device)?, &config, device))
    }

    /// A network whose weights are on `device`.
    ///
    /// # Panics
    /// If its square has more than 2³² pixels along a side.
    pub fn new(sam: Sam, config: &SamConfig, device: &Device) -> Self {
        let side = u32::try_from(config.encoder.img_size).expect("a square of the network fits into memory");
        let positions = sam.prompt_encoder.grid(config.grid(), config.grid());
        Self { sam, positions, side, device: device.clone() }
    }

    /// Looks at a picture.
    ///
    /// # Errors
    /// If the picture has no pixels.
    pub fn embed(&self, picture: &RgbImage) -> Result<Embedding> {
        let size @ [width, height] = [picture.width(), picture.height()];
        if width == 0 || height == 0 {
            return Err(Error::input(format!("a picture of {width}×{height} pixels"), "there is nothing in it"));
        }
        let inner = inner_size(size, self.side);
        let square = square(&bilinear(picture, inner[0], inner[1]), self.side);
        let side = self.side as usize;
        let image = Tensor::<4>::from_data(TensorData::new(square, [1, 3, side, side]), &self.device);
        // No mask is ever a prompt here.
        let features = self.sam.image_encoder.forward(image) + self.sam.prompt_encoder.no_mask();
        Ok(Embedding { features, size, inner })
    }

    /// What clicks and a frame mean: for a single click the best of three by the network's own judgement, from part to whole,
    /// otherwise the one that it makes where there is no doubt.
    ///
    /// # Errors
    /// If there is neither a click nor a frame, or one of them is outside the picture.
    pub fn mask(&self, embedding: &Embedding, clicks: &[Click], frame: Option<Frame>) -> Result<Segment> {
        check(embedding.size, clicks, frame)?;
        let (places, roles) = prompts(embedding, clicks, frame);
        let places = Tensor::from_data(TensorData::new(places, [roles.len(), 2]), &self.device);
        let prompts = self.sam.prompt_encoder.forward(places, &roles);
        let (features, positions) = (embedding.features.clone(), self.positions.clone());
        let Masks { logits, scores } = self.sam.mask_decoder.forward(features, positions, prompts);
        let scores: Vec<f32> = scores.into_data_as::<f32>().iter::<f32>().collect();
        let is_one_click = clicks.len() == 1 && frame.is_none();
        // The first of equals, as numpy chooses.
        let better = |best: usize, other: usize| if scores[other] > scores[best] { other } else { best };
        let best = if is_one_click { (2..scores.len()).fold(1, better) } else { 0 };
        let [_, height, width] = logits.dims();
        let values = logits.narrow(0, best, 1).into_data_as::<f32>().iter::<f32>().collect();
        let low = Logits { width, height, values };
        let [inner_width, inner_height] = embedding.inner.map(|side| side as usize);
        let side = self.side as usize;
        let inner = low.resized([side, side]).cropped([inner_width, inner_height]);
        let logits = inner.resized(embedding.size.map(|side| side as usize));
        let [width, height] = embedding.size;
        let at = |x: u32, y: u32| logits.values[y as usize * logits.width + x as usize];
        let mask = GrayImage::from_fn(width, height, |x, y| Luma([if at(x, y) > 0.0 { 255 } else { 0 }]));
        Ok(Segment { mask, logits, score: scores[best] })
    }
}

/// Width and height in a square of `side` pixels: the longest side is as long, the other in proportion, rounded half up.
fn inner_size([width, height]: [u32; 2], side: u32) -> [u32; 2] {
    let scale = f64::from(side) / f64::from(width.max(height));
    [width, height].map(|length| ((f64::from(length) * scale + 0.5) as u32).max(1))
}

/// Normalized, channel by channel, with nothing to the right and below.
fn square(picture: &RgbImage, side: u32) -> Vec<f32> {
    let side = side as usize;
    let mut square = vec![0.0; 3 * side * side];
    for (x, y, pixel) in picture.enumerate_pixels() {
        for (channel, value) in pixel.0.into_iter().enumerate() {
            let place = (channel * side + y as usize) * side + x as usize;
            square[place] = (f32::from(value) - MEAN[channel]) / DEVIATION[channel];
        }
    }
    square
}

/// Places in the network's square, as (x, y) one after the other, and what each is there for.
fn prompts(embedding: &Embedding, clicks: &[Click], frame: Option<Frame>) -> (Vec<f32>, Vec<Role>) {
    let ratio = |axis: usize| f64::from(embedding.inner[axis]) / f64::from(embedding.size[axis]);
    let scaled = |x: f32, y: f32| [(f64::from(x) * ratio(0)) as f32, (f64::from(y) * ratio(1)) as f32];
    let mut prompts = Vec::new();
    for click in clicks {
        prompts.push((scaled(click.x, click.y), if click.is_inside { Role::In } else { Role::Out }));
    }
    match frame {
        Some(Frame { left, top, right, bottom }) => {
            prompts.extend([(scaled(left, top), Role::TopLeft), (scaled(right, bottom), Role::BottomRight)]);
        }
        None => prompts.push(([0.0; 2], Role::Nothing)),
    }
    (prompts.iter().flat_map(|(place, _)| *place).collect(), prompts.iter().map(|(_, role)| *role).collect())
}

/// Whether these can be asked about a picture of that width and height.
///
/// # Errors
/// As [`Segmenter::mask`].
pub fn check([width, height]: [u32; 2], clicks: &[Click], frame: Option<Frame>) -> Result<()> {
    if clicks.is_empty() && frame.is_none() {
        return Err(Error::input("neither a click nor a box", "click on what is meant, or draw a box around it"));
    }
    let (right, bottom) = (width as f32, height as f32);
    let is_there = |x: f32, y: f32| (0.0..right).contains(&x) && (0.0..bottom).contains(&y);
    if let Some(Click { x, y, .. }) = clicks.iter().find(|click| !is_there(click.x, click.y)) {
        let what = format!("the click at {x},{y} is outside of the picture, which has {width}×{height} pixels");
        let hint = format!("x goes from 0 to {}, y from 0 to {}", width - 1, height - 1);
        return Err(Error::input(what, hint));
    }
    let Some(Frame { left, top, right: to, bottom: down }) = frame else { return Ok(()) };
    let is_within = left >= 0.0 && top >= 0.0 && to <= right && down <= bottom;
    if is_within && left < to && top < down {
        return Ok(());
    }
    let what = format!("the box {left},{top},{to},{down} is not within the picture, which has {width}×{height} pixels");
    let hint = format!("left,top,right,bottom, at most 0,0,{width},{height}, with something between them");
    Err(Error::input(what, hint))
}

#[cfg(test)]
mod tests;
