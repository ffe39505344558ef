//! Convolutions with a batch norm behind them, and a norm over the channels of each pixel.

use crate::layers::{LayerNorm, empty};
use ace_kernels::{Convolution, conv2d};
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{module, ops::ConvOptions},
};

/// What a batch norm adds to a variance: torch's default.
const EPSILON: f64 = 1e-5;
/// What SAM's norms over channels add.
const PIXEL_EPSILON: f64 = 1e-6;

/// The weight of a convolution without bias.
#[derive(Module, Debug)]
pub struct Kernel {
    /// `[out, in / groups, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
}

impl Kernel {
    /// An empty one.
    pub fn new(shape: [usize; 4], device: &Device) -> Self {
        Self { weight: empty(shape, device) }
    }

    /// A convolution that keeps the size of a picture.
    ///
    /// # Shapes
    /// - x: `[B, in, H, W]`; output: `[B, out, H, W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn same(&self, x: Tensor<4>) -> Tensor<4> {
        let kernel = self.weight.lazy_shape()[3];
        conv2d(x, self.weight.val(), None, None, Convolution::same(kernel))
    }
}

/// What training found out about each channel, and what it is scaled to.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    /// Means, `[channels]`.
    pub running_mean: Param<Tensor<1>>,
    /// Variances, `[channels]`.
    pub running_var: Param<Tensor<1>>,
}

impl BatchNorm {
    /// An empty one.
    pub fn new(channels: usize, device: &Device) -> Self {
        let each = || empty([channels], device);
        Self { weight: each(), bias: each(), running_mean: each(), running_var: each() }
    }

    /// With what it multiplies each channel, and what it adds then.
    fn scale_and_shift(&self) -> [Tensor<1>; 2] {
        let scale = self.weight.val() / (self.running_var.val() + EPSILON).sqrt();
        let shift = self.bias.val() - self.running_mean.val() * scale.clone();
        [scale, shift]
    }
}

/// A convolution without bias, then a batch norm, as one convolution.
#[derive(Module, Debug)]
pub struct ConvNorm {
    /// The convolution.
    pub c: Kernel,
    /// The norm.
    pub bn: BatchNorm,
    stride: usize,
    groups: usize,
}

impl ConvNorm {
    /// Over all channels, with "same" padding.
    pub fn new([input, output]: [usize; 2], kernel: usize, stride: usize, device: &Device) -> Self {
        let c = Kernel::new([output, input, kernel, kernel], device);
        Self { c, bn: BatchNorm::new(output, device), stride, groups: 1 }
    }

    /// Over each channel alone, 3×3.
    pub fn depthwise(channels: usize, stride: usize, device: &Device) -> Self {
        let c = Kernel::new([channels, 1, 3, 3], device);
        Self { c, bn: BatchNorm::new(channels, device), stride, groups: channels }
    }

    /// # Shapes
    /// - x: `[B, in, H, W]`
    /// - output, plus: `[B, out, ⌈H / stride⌉, ⌈W / stride⌉]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>, plus: Option<Tensor<4>>) -> Tensor<4> {
        let [scale, shift] = self.bn.scale_and_shift();
        let weight = self.c.weight.val();
        let [output, _, kernel, _] = weight.dims();
        let weight = weight * scale.reshape([output, 1, 1, 1]);
        if self.groups == 1 {
            let how = Convolution { stride: self.stride, ..Convolution::same(kernel) };
            return conv2d(x, weight, Some(shift), plus, how);
        }
        let options = ConvOptions::new([self.stride; 2], [kernel / 2; 2], [1; 2], self.groups);
        let y = module::conv2d(x, weight, Some(shift), options);
        match plus {
            Some(plus) => plus + y,
            None => y,
        }
    }
}

/// A layer norm over the channels of each pixel.
#[derive(Module, Debug)]
pub struct PixelNorm {
    /// The norm; its names are this module's.
    pub over: LayerNorm,
}

impl PixelNorm {
    /// An empty one.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { over: LayerNorm::new(channels, PIXEL_EPSILON, device) }
    }

    /// # Shapes
    /// - x, output: `[B, channels, H, W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.over.forward(x.permute([0, 2, 3, 1])).permute([0, 3, 1, 2])
    }
}
