//! Depth Anything V2: a picture to how near each pixel is, `[B, 3, H, W]` to `[B, H, W]`, without a unit and near is large.
//!
//! A [`Vit`] (DINOv2) looks at the picture; what it has after four of its layers is laid out as pictures of four sizes (4, 2, 1
//! and ½ pixels per patch), and these are joined from the smallest to the largest (DPT).
//!
//! Source: transformers' `DepthAnythingForDepthEstimation`, for relative depth.

use crate::{
    layers::Conv2d,
    poll::{Poll, to_the_end},
    transposed::ConvTranspose2d,
    vit::{Vit, VitConfig},
};
use burn::{
    module::Module,
    prelude::*,
    tensor::{
        activation::relu,
        assert_shape, module,
        ops::{InterpolateMode, InterpolateOptions},
    },
};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Sizes of a [`Depth`], with transformers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DepthConfig {
    /// Of the network that looks at the picture.
    pub backbone: VitConfig,
    /// After which of its layers it is asked.
    pub out_layers: [usize; 4],
    /// Channels of the pictures of four sizes, the largest first.
    pub neck_hidden_sizes: [usize; 4],
    /// Channels in which they are joined.
    pub fusion_hidden_size: usize,
    /// Channels before the last convolution.
    pub head_hidden_size: usize,
}

impl DepthConfig {
    /// Depth Anything V2 Small.
    pub const SMALL: Self = Self {
        backbone: VitConfig::DINOV2_SMALL,
        out_layers: [3, 6, 9, 12],
        neck_hidden_sizes: [48, 96, 192, 384],
        fusion_hidden_size: 64,
        head_hidden_size: 32,
    };

    /// A network with empty weights.
    pub fn init(&self, device: &Device) -> Depth {
        let (width, fused) = (self.backbone.hidden_size, self.fusion_hidden_size);
        let same = |channels, kernel| Conv2d::same(channels, kernel, device);
        let residual = || Residual { convolution1: same([fused; 2], 3), convolution2: same([fused; 2], 3) };
        let reassemble = |(index, channels): (usize, usize)| Reassemble {
            projection: same([width, channels], 1),
            up: [Some(4), Some(2), None, None][index]
                .map(|factor| ConvTranspose2d::tiling([channels; 2], factor, device)),
            down: (index == 3).then(|| Conv2d::new([channels; 2], 3, 2, (1, 1), device)),
        };
        let sizes = self.neck_hidden_sizes;
        Depth {
            backbone: self.backbone.init(device),
            reassemble: sizes.into_iter().enumerate().map(reassemble).collect(),
            convs: sizes.map(|channels| Conv2d::without_bias([channels, fused], 3, 1, (1, 1), device)).into(),
            fusion: sizes
                .map(|_| Fusion {
                    projection: same([fused; 2], 1),
                    residual_layer1: residual(),
                    residual_layer2: residual(),
                })
                .into(),
            head: Head {
                conv1: same([fused, fused / 2], 3),
                conv2: same([fused / 2, self.head_hidden_size], 3),
                conv3: same([self.head_hidden_size, 1], 1),
            },
            out_layers: self.out_layers.to_vec(),
        }
    }
}

/// From a sequence to a picture of another size.
#[derive(Module, Debug)]
pub struct Reassemble {
    /// 1×1, to as many channels.
    pub projection: Conv2d,
    /// To several pixels per patch.
    pub up: Option<ConvTranspose2d>,
    /// To one pixel for four patches.
    pub down: Option<Conv2d>,
}

/// Two convolutions whose result is added.
#[derive(Module, Debug)]
pub struct Residual {
    /// First.
    pub convolution1: Conv2d,
    /// Second.
    pub convolution2: Conv2d,
}

impl Residual {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let inner = self.convolution1.forward(relu(x.clone()));
        self.convolution2.forward_plus(relu(inner), x)
    }
}

/// Joins a picture with what there is of smaller ones.
#[derive(Module, Debug)]
pub struct Fusion {
    /// 1×1, at the end.
    pub projection: Conv2d,
    /// Of the picture that is joined; files have one for the smallest too, which joins none.
    pub residual_layer1: Residual,
    /// Of the sum.
    pub residual_layer2: Residual,
}

/// From features to depth.
#[derive(Module, Debug)]
pub struct Head {
    /// Before the full size.
    pub conv1: Conv2d,
    /// At full size.
    pub conv2: Conv2d,
    /// 1×1, to depth.
    pub conv3: Conv2d,
}

/// The whole network.
#[derive(Module, Debug)]
pub struct Depth {
    /// DINOv2.
    pub backbone: Vit,
    /// One per size.
    pub reassemble: Vec<Reassemble>,
    /// 3×3 without bias, to the channels in which they are joined.
    pub convs: Vec<Conv2d>,
    /// The smallest size's first.
    pub fusion: Vec<Fusion>,
    /// From features to depth.
    pub head: Head,
    #[module(skip)]
    out_layers: Vec<usize>,
}

impl Depth {
    /// How near each pixel is: 0 or more, to be seen beside the other pixels of the same picture only.
    ///
    /// # Shapes
    /// - pixels: `[B, 3, H, W]`, normalized by ImageNet's mean and deviation, sides multiples of the patch
    /// - output: `[B, H, W]`
    ///
    /// # Panics
    /// If `pixels` has another shape.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        to_the_end(|poll| self.forward_polled(pixels, poll))
    }

    /// [`Depth::forward`], left where `poll` breaks; it is asked before every layer and every size.
    ///
    /// # Panics
    /// As [`Depth::forward`].
    pub fn forward_polled(&self, pixels: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<3>> {
        assert_shape!(pixels, [_, 3, _, _]);
        let [batch, _, height, width] = pixels.dims();
        let patch = self.backbone.patch_size();
        assert!(height % patch == 0 && width % patch == 0, "{height}x{width} pixels are no whole patches of {patch}");
        let (rows, columns) = (height / patch, width / patch);
        let hidden = self.backbone.hidden_polled(pixels, &self.out_layers, poll)?;
        let mut pictures = Vec::with_capacity(hidden.len());
        for ((hidden, reassemble), conv) in hidden.into_iter().zip(&self.reassemble).zip(&self.convs) {
            poll()?;
            let patches = self.backbone.post_norm.forward(hidden).narrow(1, 1, rows * columns);
            let features = patches.dims()[2];
            let picture = patches.swap_dims(1, 2).reshape([batch, features, rows, columns]);
            pictures.push(conv.forward(reassemble.forward(picture)));
        }
        let mut joined: Option<Tensor<4>> = None;
        for (index, fusion) in self.fusion.iter().enumerate() {
            poll()?;
            let Some(picture) = pictures.pop() else { break };
            // As large as the picture that comes next, in the end twice as large.
            let [_, _, height, width] = pictures.last().unwrap_or(&picture).dims();
            let factor = if index + 1 == self.fusion.len() { 2 } else { 1 };
            let sum = match joined.take() {
                Some(joined) => joined + fusion.residual_layer1.forward(picture),
                None => picture,
            };
            let sum = resized(fusion.residual_layer2.forward(sum), [factor * height, factor * width]);
            joined = Some(fusion.projection.forward(sum));
        }
        poll()?;
        let Head { conv1, conv2, conv3 } = &self.head;
        let features = joined.expect("a network has four sizes");
        let features = resized(conv1.forward(features), [height, width]);
        let depth = relu(conv3.forward(relu(conv2.forward(features))));
        ControlFlow::Continue(depth.squeeze_dim::<3>(1))
    }
}

impl Reassemble {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.projection.forward(x);
        match (&self.up, &self.down) {
            (Some(up), _) => up.forward(x),
            (None, Some(down)) => down.forward(x),
            (None, None) => x,
        }
    }
}

/// In another size, linearly, corner on corner.
fn resized(x: Tensor<4>, size: [usize; 2]) -> Tensor<4> {
    let options = InterpolateOptions::new(InterpolateMode::Bilinear).with_align_corners(true).with_output_size(size);
    module::interpolate(x, options)
}

#[cfg(test)]
mod tests {
    use super::{DepthConfig, VitConfig};
    use crate::testing::{device, random, randomize, values};

    #[test]
    fn every_grid_of_patches_has_a_depth_per_pixel() {
        let backbone = VitConfig {
            image_size: 12,
            patch_size: 4,
            hidden_size: 8,
            intermediate_size: 8,
            num_layers: 4,
            num_heads: 2,
            ..VitConfig::DINOV2_SMALL
        };
        let config = DepthConfig {
            backbone,
            out_layers: [1, 2, 3, 4],
            neck_hidden_sizes: [4, 4, 6, 6],
            fusion_hidden_size: 4,
            head_hidden_size: 4,
        };
        let depth = randomize(config.init(&device()), 1, &device());
        for [height, width] in [[12, 12], [4, 4], [20, 8]] {
            let near = depth.forward(random([2, 3, height, width], 2));
            assert_eq!(near.dims(), [2, height, width]);
            assert!(values(near).iter().all(|near| *near >= 0.0));
        }
    }
}
