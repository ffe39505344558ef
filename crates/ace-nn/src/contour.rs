//! The generator of line drawings ("informative drawings"): a picture to the contours in it, white on black,
//! `[B, 3, H, W]` to `[B, 1, H, W]`. ACE++ was trained with its drawings.
//!
//! ```text
//! 3 ─ 7×7 ─ 64 ─ ½ ─ 128 ─ ½ ─ 256 ─ three residual blocks ─ 256 ─ ×2 ─ 128 ─ ×2 ─ 64 ─ 7×7 ─ 1 ─ σ
//! ```
//!
//! Behind every convolution but the last stand an instance norm without scale and shift and a ReLU; what a block adds has no
//! ReLU. Edges are mirrored for the kernels that keep the size, and zero for those that change it.

use crate::{layers::Conv2d, transposed::ConvTranspose2d};
use ace_kernels::group_norm;
use burn::{
    module::Module,
    prelude::*,
    tensor::{
        activation::{relu, sigmoid},
        assert_shape,
        ops::PadMode,
    },
};
use serde::{Deserialize, Serialize};

/// Of every norm.
const EPSILON: f64 = 1e-5;
/// By how much a side is made smaller and larger again.
const SCALE: usize = 4;

/// Sizes of a [`Contour`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContourConfig {
    /// Channels at full size; twice and four times as many at half and a quarter.
    pub channels: usize,
    /// Residual blocks.
    pub num_blocks: usize,
}

impl ContourConfig {
    /// As published.
    pub const PUBLISHED: Self = Self { channels: 64, num_blocks: 3 };

    /// A network with empty weights.
    pub fn init(&self, device: &Device) -> Contour {
        let [full, half, quarter] = [1, 2, 4].map(|factor| factor * self.channels);
        let keeping = |channels, kernel| Conv2d::new(channels, kernel, 1, (0, 0), device);
        let halving = |channels| Conv2d::new(channels, 3, 2, (1, 1), device);
        let block = |_| Block { conv1: keeping([quarter; 2], 3), conv2: keeping([quarter; 2], 3) };
        Contour {
            stem: keeping([3, full], 7),
            down: vec![halving([full, half]), halving([half, quarter])],
            blocks: (0..self.num_blocks).map(block).collect(),
            up: [[quarter, half], [half, full]].map(|channels| ConvTranspose2d::doubling(channels, device)).into(),
            head: keeping([full, 1], 7),
        }
    }
}

/// Two convolutions whose result is added.
#[derive(Module, Debug)]
pub struct Block {
    /// First.
    pub conv1: Conv2d,
    /// Second.
    pub conv2: Conv2d,
}

/// The generator.
#[derive(Module, Debug)]
pub struct Contour {
    /// From colours to features.
    pub stem: Conv2d,
    /// To half and a quarter of the size.
    pub down: Vec<Conv2d>,
    /// At a quarter of the size.
    pub blocks: Vec<Block>,
    /// To half the size and all of it.
    pub up: Vec<ConvTranspose2d>,
    /// To contours.
    pub head: Conv2d,
}

impl Contour {
    /// The least side of a picture, in pixels: a quarter of it must be mirrored by one.
    pub const LEAST_SIDE: usize = SCALE + 1;

    /// How strong a contour is at each pixel.
    ///
    /// Sides that are no multiples of four come out a little larger, as the generator makes them, and are cut.
    ///
    /// # Shapes
    /// - pixels: `[B, 3, H, W]` in 0..1
    /// - output: `[B, 1, H, W]` in 0..1
    ///
    /// # Panics
    /// If `pixels` has not three channels or a side is below [`Contour::LEAST_SIDE`].
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        assert_shape!(pixels, [_, 3, _, _]);
        let [_, _, height, width] = pixels.dims();
        let least = Self::LEAST_SIDE;
        assert!(height >= least && width >= least, "{height}x{width} pixels, each side needs {least}");
        let mut x = relu(norm(self.stem.forward(mirror(pixels, 3))));
        for conv in &self.down {
            x = relu(norm(conv.forward(x)));
        }
        for Block { conv1, conv2 } in &self.blocks {
            let inner = relu(norm(conv1.forward(mirror(x.clone(), 1))));
            x = x + norm(conv2.forward(mirror(inner, 1)));
        }
        for conv in &self.up {
            x = relu(norm(conv.forward(x)));
        }
        let contours = sigmoid(self.head.forward(mirror(x, 3)));
        contours.narrow(2, 0, height).narrow(3, 0, width)
    }
}

/// With so many pixels more on each side, mirrored at the edge's pixels.
fn mirror(x: Tensor<4>, pixels: usize) -> Tensor<4> {
    x.pad([(pixels, pixels); 2], PadMode::Reflect)
}

/// Every channel of every picture with mean 0 and variance 1.
fn norm(x: Tensor<4>) -> Tensor<4> {
    let (channels, device) = (x.dims()[1], x.device());
    let (weight, bias) = (Tensor::ones([channels], &device), Tensor::zeros([channels], &device));
    group_norm(x, channels, weight, bias, EPSILON)
}

#[cfg(test)]
mod tests {
    use super::ContourConfig;
    use crate::testing::{device, random, randomize, values};

    #[test]
    fn contours_have_the_size_of_the_picture() {
        let contour = randomize(ContourConfig { channels: 4, num_blocks: 1 }.init(&device()), 1, &device());
        for [height, width] in [[8, 12], [5, 5], [11, 6], [13, 18]] {
            let drawn = contour.forward(random([1, 3, height, width], 2));
            assert_eq!(drawn.dims(), [1, 1, height, width]);
            assert!(values(drawn).iter().all(|value| (0.0..=1.0).contains(value)));
        }
    }

    #[test]
    #[should_panic(expected = "4x9 pixels, each side needs 5")]
    fn a_picture_that_cannot_be_mirrored_is_refused() {
        ContourConfig { channels: 4, num_blocks: 1 }.init(&device()).forward(random([1, 3, 4, 9], 3));
    }
}
