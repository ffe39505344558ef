//! A transposed convolution: every pixel of a small picture lays its kernel into a larger one.

use crate::layers::empty;
use burn::{
    module::{Module, Param},
    prelude::*,
    tensor::{assert_shape, module, ops::ConvTransposeOptions},
};

/// A transposed 2-D convolution with bias and a square kernel.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// `[in, out, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
    stride: usize,
    padding: usize,
}

impl ConvTranspose2d {
    /// One that makes a picture `kernel` times as large: kernels lie side by side.
    pub fn tiling([input, output]: [usize; 2], kernel: usize, device: &Device) -> Self {
        let weight = empty([input, output, kernel, kernel], device);
        Self { weight, bias: empty([output], device), stride: kernel, padding: 0 }
    }

    /// One that doubles a picture with a kernel of three pixels: PyTorch's stride 2, padding 1, output padding 1.
    pub fn doubling([input, output]: [usize; 2], device: &Device) -> Self {
        Self { weight: empty([input, output, 3, 3], device), bias: empty([output], device), stride: 2, padding: 1 }
    }

    /// # Shapes
    /// - x: `[B, in, H, W]`
    /// - output: `[B, out, stride·H, stride·W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [input, _, kernel, _] = self.weight.lazy_shape().dims();
        assert_shape!(x, [_, input, _, _]);
        // What is missing of `stride` pixels per pixel.
        let more = self.stride + 2 * self.padding - kernel;
        let options = ConvTransposeOptions::new([self.stride; 2], [self.padding; 2], [more; 2], [1; 2], 1);
        module::conv_transpose2d(x, self.weight.val(), Some(self.bias.val()), options)
    }
}
