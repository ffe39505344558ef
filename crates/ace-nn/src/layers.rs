//! The small layers that every network here is made of, with the parameter names and layouts of the checkpoints.
//!
//! burn's own layers store linear weights as `[in, out]` and call a norm's scale `gamma`; these keep the published
//! layout instead, so that a 24 GB file is mapped to the device without being transposed or renamed. What they compute
//! is in `ace-kernels`.

use ace_kernels::Convolution;
use burn::{
    module::{Module, Param, ParamId},
    prelude::*,
    tensor::assert_shape,
};

/// A parameter that is zero until a checkpoint or an initializer fills it; nothing is allocated before.
pub fn empty<const N: usize>(shape: [usize; N], device: &Device) -> Param<Tensor<N>> {
    Param::uninitialized(
        ParamId::new(),
        move |device: &Device, require_grad: bool| {
            let zeros = Tensor::zeros(shape, device);
            if require_grad { zeros.require_grad() } else { zeros }
        },
        device.clone(),
        true,
        Shape::from(shape),
    )
}

/// How many numbers a vector of weights has; nothing is allocated.
fn size(param: &Param<Tensor<1>>) -> usize {
    param.lazy_shape()[0]
}

/// `x / √(mean(x²) + eps) · scale` over the last axis, the mean in f32.
#[derive(Module, Debug)]
pub struct RmsNorm {
    /// `[width]`; FLUX's files call it `scale`, T5's `weight`.
    pub scale: Param<Tensor<1>>,
    epsilon: f64,
}

impl RmsNorm {
    /// A norm over `width` features with the eps of every published network, 1e-6.
    pub fn new(width: usize, device: &Device) -> Self {
        Self::with_epsilon(width, 1e-6, device)
    }

    /// A norm over `width` features.
    pub fn with_epsilon(width: usize, epsilon: f64, device: &Device) -> Self {
        Self { scale: empty([width], device), epsilon }
    }

    /// What is added to the mean square.
    pub fn epsilon(&self) -> f64 {
        self.epsilon
    }

    /// # Shapes
    /// - x, output: `[.., width]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let width = size(&self.scale);
        assert_shape!(x, [.., width]);
        ace_kernels::rms_norm(x, self.scale.val(), self.epsilon)
    }

    /// [`RmsNorm::forward`] of a stream that is wider than the network's numbers, back in these.
    ///
    /// # Panics
    /// As [`RmsNorm::forward`].
    pub fn forward_narrow<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        self.forward(x).cast(self.scale.val().dtype())
    }
}

/// Layer norm with scale and shift.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`
    pub weight: Param<Tensor<1>>,
    /// `[width]`
    pub bias: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    /// A norm over `width` features.
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self { weight: empty([width], device), bias: empty([width], device), epsilon }
    }

    /// # Shapes
    /// - x, output: `[.., width]`
    ///
    /// # Panics
    /// If `x` has another width.
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let width = size(&self.weight);
        assert_shape!(x, [.., width]);
        ace_kernels::scaled_layer_norm(x, self.weight.val(), self.bias.val(), self.epsilon)
    }
}

/// What the published autoencoders add to a group's variance.
const GROUP_NORM_EPSILON: f64 = 1e-6;

/// Group norm with scale and shift, eps 1e-6, statistics in f32.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// `[channels]`
    pub weight: Param<Tensor<1>>,
    /// `[channels]`
    pub bias: Param<Tensor<1>>,
    num_groups: usize,
}

impl GroupNorm {
    /// A norm over `channels / num_groups` channels at a time.
    pub fn new(channels: usize, num_groups: usize, device: &Device) -> Self {
        Self { weight: empty([channels], device), bias: empty([channels], device), num_groups }
    }

    /// # Shapes
    /// - x, output: `[B, channels, H, W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = size(&self.weight);
        assert_shape!(x, [_, channels, _, _]);
        ace_kernels::group_norm(x, self.num_groups, self.weight.val(), self.bias.val(), GROUP_NORM_EPSILON)
    }

    /// SiLU of [`GroupNorm::forward`].
    ///
    /// # Panics
    /// As [`GroupNorm::forward`].
    pub fn silu(&self, x: Tensor<4>) -> Tensor<4> {
        let channels = size(&self.weight);
        assert_shape!(x, [_, channels, _, _]);
        ace_kernels::group_norm_silu(x, self.num_groups, self.weight.val(), self.bias.val(), GROUP_NORM_EPSILON)
    }
}

/// A 2-D convolution; padding is given per side as `(before, after)` for both axes.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Option<Param<Tensor<1>>>,
    stride: usize,
    padding_before: usize,
    padding_after: usize,
}

impl Conv2d {
    /// A convolution with a square kernel, stride 1 and "same" padding.
    pub fn same(channels: [usize; 2], kernel: usize, device: &Device) -> Self {
        Self::new(channels, kernel, 1, (kernel / 2, kernel / 2), device)
    }

    /// A convolution with a square kernel.
    pub fn new(channels: [usize; 2], kernel: usize, stride: usize, padding: (usize, usize), device: &Device) -> Self {
        let bias = Some(empty([channels[1]], device));
        Self { bias, ..Self::without_bias(channels, kernel, stride, padding, device) }
    }

    /// A convolution with a square kernel and no bias.
    pub fn without_bias(
        [input, output]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: (usize, usize),
        device: &Device,
    ) -> Self {
        Self {
            weight: empty([output, input, kernel, kernel], device),
            bias: None,
            stride,
            padding_before: padding.0,
            padding_after: padding.1,
        }
    }

    /// # Shapes
    /// - x: `[B, in, H, W]`
    /// - output: `[B, out, H', W']`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, None, self.how())
    }

    /// Plus another picture of the output's shape.
    ///
    /// # Panics
    /// As [`Conv2d::forward`].
    pub fn forward_plus(&self, x: Tensor<4>, plus: Tensor<4>) -> Tensor<4> {
        self.run(x, Some(plus), self.how())
    }

    /// Of `x` in twice its size, every pixel four times.
    ///
    /// # Shapes
    /// - x: `[B, in, H, W]`
    /// - output: as [`Conv2d::forward`] of `[B, in, 2H, 2W]`
    ///
    /// # Panics
    /// As [`Conv2d::forward`].
    pub fn forward_doubled(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, None, Convolution { doubled: true, ..self.how() })
    }

    fn how(&self) -> Convolution {
        Convolution { stride: self.stride, padding: (self.padding_before, self.padding_after), doubled: false }
    }

    fn run(&self, x: Tensor<4>, plus: Option<Tensor<4>>, how: Convolution) -> Tensor<4> {
        let input = self.weight.lazy_shape()[1];
        assert_shape!(x, [_, input, _, _]);
        ace_kernels::conv2d(x, self.weight.val(), self.bias.as_ref().map(Param::val), plus, how)
    }
}
