//! What pictures a model knows, and whether one is plainly none of them.
//!
//! A network makes something of any picture; of one that is unlike all it has learned from, it makes a smear. The card
//! says what can be measured about what it has learned from. The measures are coarse on purpose: a picture that might be
//! known is never called foreign.

use image::RgbImage;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Sides up to so many times the largest that a model knows are not plainly outside.
const LARGER: u32 = 2;
/// Neighbouring pixels are of one colour if no channel differs by more levels: what an autoencoder has drawn is not quite
/// flat, and is edited again.
const SAME: u8 = 12;

/// What pictures a model knows: a section of the card.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Domain {
    /// In words, as in "this model knows …".
    pub about: String,
    /// Longest side of what it has learned from, in pixels.
    #[serde(default)]
    pub max_side: Option<u32>,
    /// The least share of neighbouring pixels of one colour, 0..1, as [`flatness`] measures it.
    #[serde(default)]
    pub min_flatness: Option<f64>,
}

/// Why a picture is plainly outside a domain. Says what it is, as in "the picture …".
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outside {
    /// Its sides are far larger.
    Larger {
        /// Its width and height in pixels.
        size: (u32, u32),
        /// The longest side that the model knows.
        max_side: u32,
    },
    /// It has few flat areas: a photograph, or noise.
    Uneven {
        /// Its [`flatness`].
        flatness: f64,
        /// The least that the model knows.
        least: f64,
    },
}

impl fmt::Display for Outside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Larger { size: (width, height), max_side } => {
                write!(f, "is {width}x{height}, the largest known side is {max_side}")
            }
            Self::Uneven { flatness, least } => {
                let percent = |share: f64| (share * 100.0).round();
                write!(f, "is {}% flat, the least known is {}%", percent(*flatness), percent(*least))
            }
        }
    }
}

impl Domain {
    /// Whether a picture is plainly none of those that the model knows.
    pub fn outside(&self, picture: &RgbImage) -> Option<Outside> {
        let size @ (width, height) = picture.dimensions();
        if let Some(max_side) = self.max_side.filter(|side| width.max(height) > side.saturating_mul(LARGER)) {
            return Some(Outside::Larger { size, max_side });
        }
        let least = self.min_flatness?;
        let flatness = flatness(picture);
        (flatness < least).then_some(Outside::Uneven { flatness, least })
    }
}

/// The share of neighbouring pixels, beside and below each other, that are of one colour but for twelve levels of 255: 1
/// for a flat picture, 0.8 and more for a drawing of a few shapes, 0.4 to 0.8 for a photograph of 64 pixels.
pub fn flatness(picture: &RgbImage) -> f64 {
    let (width, height) = picture.dimensions();
    let (mut same, mut all) = (0u64, 0u64);
    for (x, y, pixel) in picture.enumerate_pixels() {
        for (x, y) in [(x + 1, y), (x, y + 1)] {
            if x < width && y < height {
                let other = picture.get_pixel(x, y);
                let is_same = pixel.0.iter().zip(other.0).all(|(own, other)| own.abs_diff(other) <= SAME);
                (same, all) = (same + u64::from(is_same), all + 1);
            }
        }
    }
    if all == 0 { 1.0 } else { same as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;
    use image::Rgb;

    fn tiny() -> Domain {
        Card::builtin("tiny").unwrap().domain.unwrap()
    }

    /// Light on a rough wall, the same every time.
    fn photograph(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let rough =
                (x.wrapping_mul(2_654_435_761) ^ y.wrapping_mul(2_246_822_519)).wrapping_mul(3_266_489_917) >> 27;
            let light = 90.0 + 60.0 * (x as f32 / 9.0).sin() + 40.0 * (y as f32 / 13.0).cos();
            Rgb([0u8, 10, 25].map(|tint| (light as u8).saturating_add(tint).saturating_add((rough * 2) as u8)))
        })
    }

    #[test]
    fn flatness_counts_neighbours_of_one_colour() {
        let of = |levels: &[u8]| {
            flatness(&RgbImage::from_fn(levels.len() as u32, 1, |x, _| Rgb([200, 7, levels[x as usize]])))
        };
        assert_eq!(of(&[9]), 1.0);
        assert_eq!(of(&[0, 12, 25, 25, 200]), 0.5);
        let rows = RgbImage::from_fn(3, 3, |_, y| Rgb([y as u8 * 100; 3]));
        assert_eq!(flatness(&rows), 0.5);
    }

    #[test]
    fn a_photograph_and_a_large_picture_are_outside_the_miniatures_domain() {
        let small = tiny().outside(&photograph(64, 48)).unwrap();
        assert!(matches!(small, Outside::Uneven { .. }), "{small:?}");
        assert!(small.to_string().starts_with("is ") && small.to_string().contains("% flat"), "{small}");
        let large = tiny().outside(&photograph(640, 480)).unwrap();
        assert_eq!(large, Outside::Larger { size: (640, 480), max_side: 64 });
        assert_eq!(large.to_string(), "is 640x480, the largest known side is 64");
        assert!(tiny().outside(&RgbImage::new(500, 20)).is_some());
        assert_eq!(tiny().outside(&RgbImage::new(128, 128)), None);
        assert_eq!(tiny().outside(&RgbImage::new(1, 1)), None);
    }

    #[test]
    fn a_domain_that_says_nothing_measurable_has_no_outside() {
        let domain = Domain { about: "anything".into(), max_side: None, min_flatness: None };
        assert_eq!(domain.outside(&photograph(2000, 10)), None);
    }

    #[test]
    fn models_for_photographs_name_no_domain() {
        let with = Card::builtins().filter(|name| Card::builtin(name).unwrap().domain.is_some());
        assert_eq!(with.collect::<Vec<_>>(), ["tiny"]);
    }
}
