//! What becomes of the noise, seen on the way: where the velocity of a step leads if it never changes.

use crate::{canvas::Plane, flow, unit::Units};
use ace_nn::autoencoder::AutoEncoderConfig;
use burn::prelude::*;
use image::RgbImage;
use std::fmt;

/// The picture as it looks from a step of the loop; computed when it is asked for.
#[derive(Clone, Copy)]
pub struct Preview<'a> {
    pub(super) tokens: &'a Tensor<3>,
    pub(super) velocity: &'a Tensor<3>,
    pub(super) t: f32,
    pub(super) units: &'a Units,
    /// Which of a batch.
    pub(super) row: usize,
    pub(super) sight: Option<Sight<'a>>,
}

/// Who makes a picture of latents, `[1, 16, h, w]`, which are the so many-th of a batch.
pub(crate) type Sight<'a> = &'a dyn Fn(usize, Tensor<4>) -> Option<RgbImage>;

impl Preview<'_> {
    /// That of another edit of the batch; the first has number 0.
    ///
    /// # Panics
    /// If there are not so many.
    pub fn of(&self, row: usize) -> Self {
        assert!(row < self.tokens.dims()[0], "preview: the batch has {} edits", self.tokens.dims()[0]);
        Self { row, ..*self }
    }

    /// Latents of the edited picture, `[1, 16, h, w]`.
    pub fn latents(&self) -> Option<Tensor<4>> {
        let one = |tokens: &Tensor<3>| tokens.clone().narrow(0, self.row, 1);
        self.units.unpack(flow::euler(one(self.tokens), one(self.velocity), self.t, 0.0)).pop()
    }

    /// The picture, in its size and with what is kept of the image: decoded where the autoencoder is small, or else a
    /// rough one of eight pixels a cell. `None` where latents of this kind are not known.
    pub fn picture(&self) -> Option<RgbImage> {
        (self.sight?)(self.row, self.latents()?)
    }
}

impl fmt::Debug for Preview<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Preview").field("t", &self.t).finish_non_exhaustive()
    }
}

/// Channels up to which an autoencoder is small: it decodes a picture while the transformer makes a step.
const SMALL: usize = 64;

/// Whether latents are better decoded than guessed at.
pub(crate) fn is_cheap(config: &AutoEncoderConfig) -> bool {
    config.block_out_channels.iter().all(|channels| *channels <= SMALL)
}

/// What a channel of FLUX.1's latents adds to red, green and blue in −1..1: a linear fit, as stable-diffusion.cpp publishes
/// it (`latent-preview.h`).
const FLUX_RGB: [[f32; 3]; 16] = [
    [-0.041168, 0.019917, 0.097253],
    [0.028096, 0.026730, 0.129576],
    [0.065618, -0.067950, -0.014651],
    [-0.012998, -0.014762, 0.081251],
    [0.078567, 0.059296, -0.024687],
    [-0.015987, -0.003697, 0.005012],
    [0.033605, 0.138999, 0.068517],
    [-0.024450, -0.063567, -0.030101],
    [-0.040194, -0.016710, 0.127185],
    [0.112681, 0.088764, -0.041940],
    [-0.023498, 0.093664, 0.025543],
    [0.082899, 0.048320, 0.007491],
    [0.075712, 0.074139, 0.081965],
    [-0.143501, 0.018263, -0.136138],
    [-0.025767, -0.082035, -0.040023],
    [-0.111849, -0.055589, -0.032361],
];
/// What they stand on.
const FLUX_RGB_BIAS: [f32; 3] = [0.024600, -0.006937, -0.008089];

/// A rough picture of latents in −1..1, `[3, cell · h, cell · w]`; `None` if they are not of FLUX.1's kind.
pub(crate) fn rough(latents: Tensor<4>, cell: usize) -> Option<Plane> {
    let [_, channels, height, width] = latents.dims();
    if channels != FLUX_RGB.len() {
        return None;
    }
    let numbers: Vec<f32> = latents.into_data_as::<f32>().iter::<f32>().collect();
    let mut plane = Plane::zeros([3, cell * height, cell * width]);
    for (colour, bias) in FLUX_RGB_BIAS.into_iter().enumerate() {
        for y in 0..cell * height {
            for x in 0..cell * width {
                let at = y / cell * width + x / cell;
                let sum = (FLUX_RGB.iter().enumerate())
                    .fold(bias, |sum, (channel, rgb)| sum + rgb[colour] * numbers[channel * height * width + at]);
                plane.data[(colour * cell * height + y) * cell * width + x] = sum;
            }
        }
    }
    Some(plane)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;

    #[test]
    fn a_rough_picture_has_eight_pixels_a_cell_and_the_colours_of_the_fit() {
        let mut numbers = vec![0.0f32; 16 * 2 * 3];
        numbers[5] = 2.0; // channel 0, row 1, column 2
        let latents = Tensor::from_data(TensorData::new(numbers, [1, 16, 2, 3]), &Device::flex());
        let plane = rough(latents, 8).unwrap();
        assert_eq!(plane.shape(), [3, 16, 24]);
        let at = |colour: usize, y: usize, x: usize| plane.data[(colour * 16 + y) * 24 + x];
        assert_eq!((at(0, 0, 0), at(1, 15, 15)), (FLUX_RGB_BIAS[0], FLUX_RGB_BIAS[1]));
        assert!((at(2, 8, 16) - (FLUX_RGB_BIAS[2] + 2.0 * 0.097253)).abs() < 1e-6);
        let others = Tensor::zeros([1, 4, 2, 2], &Device::flex());
        assert!(rough(others, 8).is_none());
    }

    #[test]
    fn the_miniature_decodes_and_the_published_autoencoder_is_guessed_at() {
        let cheap = |name: &str| is_cheap(&Card::builtin(name).unwrap().autoencoder);
        assert!(cheap("tiny"));
        assert!(!cheap("flux1-fill-dev"));
    }
}
