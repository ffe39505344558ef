//! Annotators: what the network sees of a picture under the mask. An edit that is to keep its greys, colours or edges
//! shows those and hides the rest.
//!
//! | name | shows | so the edit is to | in the official code |
//! |---|---|---|---|
//! | `none` | the picture itself | repaint, restore | no annotator |
//! | `gray` | greys | recolour | `GrayAnnotator` |
//! | `mosaic` | cells of 64×64 pixels | keep colours, redraw shapes | `ColorAnnotator` |
//! | `canny` | white edges on black | keep edges, redraw all else | `CannyAnnotator` |
//! | `contour` | contours, white on black | keep contours, redraw all else | `InfoDrawContourAnnotator` |
//! | `depth` | depths, white is near | keep the space | `MidasDetector`; here another network |
//! | `map` | a map of the user's | keep what is drawn there | no annotator |
//!
//! They compute what OpenCV computes, because the weights were trained on its pictures: `gray` and `canny` to the byte,
//! `mosaic` to one grey level ([`mosaic`] says where). The crates of the same purpose compute something else:
//! `imageproc`'s Canny blurs first, knows one channel and sorts directions by angle; `image`'s greys have other weights,
//! and its cubic resize has another `a`.
//!
//! Contours and depths are drawn by networks with weights of their own: an [`Eye`] draws them before the edit, as its map. A user's
//! own drawing takes their place.

mod canny;
mod card;
mod eye;
mod mosaic;

pub use canny::canny;
pub use card::AnnotatorCard;
pub use eye::Eye;
pub use mosaic::mosaic;

use crate::{Error, Result, picture::blend};
use image::{GrayImage, Rgb, RgbImage};
use serde::{Deserialize, Serialize};

/// What is shown of a picture under the mask. In a card it is its [`name`](Annotator::name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Annotator {
    /// The picture itself.
    #[default]
    None,
    /// Its greys: [`gray`].
    Gray,
    /// Its colours in cells of 64×64 pixels: [`mosaic`].
    Mosaic,
    /// Its edges: [`canny`].
    Canny,
    /// Its contours, drawn by a network: [`Eye`].
    Contour,
    /// How near things are in it, drawn by a network: [`Eye`].
    Depth,
    /// A map that the user has drawn of it.
    Map,
}

impl From<Annotator> for String {
    fn from(annotator: Annotator) -> Self {
        annotator.name().to_owned()
    }
}

impl Annotator {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::None, Self::Gray, Self::Mosaic, Self::Canny, Self::Contour, Self::Depth, Self::Map];

    /// What it is called in cards and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gray => "gray",
            Self::Mosaic => "mosaic",
            Self::Canny => "canny",
            Self::Contour => "contour",
            Self::Depth => "depth",
            Self::Map => "map",
        }
    }

    /// The annotator of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn from_name(name: &str) -> Result<Self> {
        if let Some(annotator) = Self::ALL.into_iter().find(|annotator| annotator.name() == name) {
            return Ok(annotator);
        }
        let names = Self::ALL.map(Self::name).join(", ");
        Err(Error::input(format!("there is no annotator \"{name}\""), format!("known are: {names}")))
    }

    /// Whether it draws with a network.
    pub const fn is_network(self) -> bool {
        matches!(self, Self::Contour | Self::Depth)
    }

    /// What it shows of `image`, in the same size; `map` is the user's own, or what a network has drawn.
    ///
    /// # Errors
    /// If it takes a map and there is none, or there is one that it does not take.
    pub fn draw(self, image: &RgbImage, map: Option<&RgbImage>) -> Result<RgbImage> {
        Ok(match (self, map) {
            (Self::Map | Self::Contour | Self::Depth, Some(map)) => map.clone(),
            (Self::Map, None) => {
                return Err(Error::input("this task needs a drawing of your own as its map", "give one"));
            }
            (Self::Contour | Self::Depth, None) => {
                let what = format!("this task needs the {} of its image as a map", self.name());
                return Err(Error::input(
                    what,
                    "let the annotator's network draw it first, or give a drawing of your own",
                ));
            }
            (Self::None, Some(_)) => {
                let hint = "choose a task that takes one, as contour and depth do, or leave the map out";
                return Err(Error::input("there is a map, and nothing takes it", hint));
            }
            (_, Some(_)) => {
                return Err(Error::input("there is a map, and this task draws its own", "leave the map out"));
            }
            (Self::None, None) => image.clone(),
            (Self::Gray, None) => gray(image),
            (Self::Mosaic, None) => mosaic(image),
            (Self::Canny, None) => canny(image),
        })
    }
}

impl TryFrom<String> for Annotator {
    type Error = Error;

    fn try_from(name: String) -> Result<Self> {
        Self::from_name(&name)
    }
}

/// Greys with the weights of red and blue swapped: `0.114 R + 0.587 G + 0.299 B`, in OpenCV's 15-bit fixed point.
///
/// The official code hands an RGB picture to OpenCV's `BGR2GRAY`, so this is what the weights know as grey.
pub fn gray(image: &RgbImage) -> RgbImage {
    let mut gray = image.clone();
    for pixel in gray.pixels_mut() {
        let [r, g, b] = pixel.0.map(u32::from);
        // The weights add up to 2^15, so this is at most 255.
        let value = (r * 3_735 + g * 19_235 + b * 9_798 + (1 << 14)) >> 15;
        *pixel = Rgb([value as u8; 3]);
    }
    gray
}

/// What is `annotated` where the mask is white, the image where it is black, both where it is grey, rounded as Pillow's
/// `Image.composite` rounds.
///
/// # Errors
/// If the three differ in size.
pub fn apply(image: &RgbImage, mask: &GrayImage, annotated: &RgbImage) -> Result<RgbImage> {
    let (width, height) = image.dimensions();
    for (what, (other_width, other_height)) in [("mask", mask.dimensions()), ("annotation", annotated.dimensions())] {
        if (other_width, other_height) != (width, height) {
            return Err(Error::input(
                format!("{what} is {other_width}x{other_height} but image is {width}x{height}"),
                format!("the {what} must cover the image exactly"),
            ));
        }
    }
    let mut output = image.clone();
    for ((pixel, mask), annotated) in output.pixels_mut().zip(mask.pixels()).zip(annotated.pixels()) {
        *pixel = Rgb(std::array::from_fn(|i| blend(pixel.0[i], annotated.0[i], mask.0[0])));
    }
    Ok(output)
}

#[cfg(test)]
mod tests;
