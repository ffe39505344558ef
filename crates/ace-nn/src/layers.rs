//! The small layers that every network here is made of, with the parameter names and layouts of the checkpoints.
//!
//! burn's own layers store linear weights as `[in, out]` and call a norm's scale `gamma`; these keep the published
//! layout instead, so that a 24 GB file is mapped to the device without being transposed or renamed.

use burn::{
    module::{Module, Param, ParamId},
    prelude::*,
    tensor::{
        DType, activation,
        module::{conv2d, layer_norm},
        ops::ConvOptions,
    },
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

/// Runs `f` in f32 and returns to the dtype of `x`: norms and activations lose too much in 16 bits.
fn in_f32<const N: usize>(x: Tensor<N>, f: impl FnOnce(Tensor<N>) -> Tensor<N>) -> Tensor<N> {
    match x.dtype() {
        DType::F32 | DType::F64 => f(x),
        dtype => f(x.cast(DType::F32)).cast(dtype),
    }
}

/// `gelu(x) = x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`, the tanh approximation that FLUX and T5 use.
pub fn gelu_tanh<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    // √(2/π); the cube is written as products because burn's own goes through a slow `powf`. The sigmoid form
    // x·σ(2u) equals x/2·(1 + tanh u) and needs two passes over the data fewer.
    const TWO_SQRT_2_OVER_PI: f64 = 2.0 * 0.797_884_560_802_865_4;
    let square = x.clone() * x.clone();
    let u = x.clone() * (square * (0.044_715 * TWO_SQRT_2_OVER_PI) + TWO_SQRT_2_OVER_PI);
    x * activation::sigmoid(u)
}

/// `x·σ(1.702·x)`, CLIP's activation.
pub fn quick_gelu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    x.clone() * activation::sigmoid(x * 1.702)
}

/// `x·Φ(x)`, with the error function itself.
pub fn gelu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    activation::gelu(x)
}

/// `x·σ(x)`.
pub fn silu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    x.clone() * activation::sigmoid(x)
}

/// Layer norm without scale and shift, eps 1e-6: `(x − mean) / √(var + eps)` over the last axis, in f32.
pub fn plain_layer_norm<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    let width = x.dims()[N - 1];
    in_f32(x, |x| {
        let ones = Tensor::ones([width], &x.device());
        layer_norm(x, ones, None, 1e-6)
    })
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

    /// # Shapes
    /// - x, output: `[.., width]`
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        let normed = in_f32(x, |x| {
            let mean_square = (x.clone() * x.clone()).mean_dim(N - 1);
            x / (mean_square + self.epsilon).sqrt()
        });
        normed * self.scale.val().unsqueeze()
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
    pub fn forward<const N: usize>(&self, x: Tensor<N>) -> Tensor<N> {
        in_f32(x, |x| {
            let (weight, bias) = (self.weight.val().cast(x.dtype()), self.bias.val().cast(x.dtype()));
            layer_norm(x, weight, Some(bias), self.epsilon)
        })
    }
}

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
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let group = channels / self.num_groups * height * width;
        in_f32(x, |x| {
            // One row per group: the fused layer norm does the statistics.
            let rows = x.reshape([batch * self.num_groups, group]);
            let ones = Tensor::ones([group], &rows.device());
            let normed = layer_norm(rows, ones, None, 1e-6).reshape([batch, channels, height, width]);
            let weight = self.weight.val().cast(normed.dtype()).reshape([1, channels, 1, 1]);
            let bias = self.bias.val().cast(normed.dtype()).reshape([1, channels, 1, 1]);
            normed * weight + bias
        })
    }
}

/// A 2-D convolution with bias; padding is given per side as `(before, after)` for both axes.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `[out, in, kernel, kernel]`
    pub weight: Param<Tensor<4>>,
    /// `[out]`
    pub bias: Param<Tensor<1>>,
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
    pub fn new(
        [input, output]: [usize; 2],
        kernel: usize,
        stride: usize,
        padding: (usize, usize),
        device: &Device,
    ) -> Self {
        Self {
            weight: empty([output, input, kernel, kernel], device),
            bias: empty([output], device),
            stride,
            padding_before: padding.0,
            padding_after: padding.1,
        }
    }

    /// # Shapes
    /// - x: `[B, in, H, W]`
    /// - output: `[B, out, H', W']`
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut options = ConvOptions::new([self.stride; 2], [0; 2], [1; 2], 1);
        options.padding = [(self.padding_before, self.padding_after); 2];
        conv2d(x, self.weight.val(), Some(self.bias.val()), options)
    }
}
