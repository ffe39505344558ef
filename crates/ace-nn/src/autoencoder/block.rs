//! The parts of encoder and decoder: residual block, attention of the middle, and the change of resolution.

use crate::{
    attention,
    layers::{Conv2d, GroupNorm},
    poll::Poll,
};
use burn::{module::Module, prelude::*};
use std::ops::ControlFlow;

/// `x + conv2(silu(norm2(conv1(silu(norm1(x))))))`, with a 1×1 convolution on the way past when channels change.
#[derive(Module, Debug)]
pub struct ResBlock {
    /// Over the input.
    pub norm1: GroupNorm,
    /// 3×3.
    pub conv1: Conv2d,
    /// Between the convolutions.
    pub norm2: GroupNorm,
    /// 3×3.
    pub conv2: Conv2d,
    /// 1×1, where input and output differ in channels.
    pub nin_shortcut: Option<Conv2d>,
}

impl ResBlock {
    /// From `input` to `output` channels.
    pub fn new([input, output]: [usize; 2], groups: usize, device: &Device) -> Self {
        Self {
            norm1: GroupNorm::new(input, groups, device),
            conv1: Conv2d::same([input, output], 3, device),
            norm2: GroupNorm::new(output, groups, device),
            conv2: Conv2d::same([output, output], 3, device),
            nin_shortcut: (input != output).then(|| Conv2d::same([input, output], 1, device)),
        }
    }

    /// # Shapes
    /// - x: `[B, in, H, W]`
    /// - output: `[B, out, H, W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let h = self.conv1.forward(self.norm1.silu(x.clone()));
        let h = self.norm2.silu(h);
        let x = match &self.nin_shortcut {
            Some(shortcut) => shortcut.forward(x),
            None => x,
        };
        self.conv2.forward_plus(h, x)
    }
}

/// `x + proj_out(attention(q, k, v))` over all positions, one head.
#[derive(Module, Debug)]
pub struct Attention {
    /// Over the input.
    pub norm: GroupNorm,
    /// 1×1.
    pub q: Conv2d,
    /// 1×1.
    pub k: Conv2d,
    /// 1×1.
    pub v: Conv2d,
    /// 1×1.
    pub proj_out: Conv2d,
}

impl Attention {
    /// Over `channels`.
    pub fn new(channels: usize, groups: usize, device: &Device) -> Self {
        let conv = || Conv2d::same([channels, channels], 1, device);
        Self { norm: GroupNorm::new(channels, groups, device), q: conv(), k: conv(), v: conv(), proj_out: conv() }
    }

    /// # Shapes
    /// - x, output: `[B, C, H, W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [batch, channels, height, width] = x.dims();
        let normed = self.norm.forward(x.clone());
        // The channels of a pixel beside each other: on the CPU they lie so already.
        let tokens = |conv: &Conv2d| {
            conv.forward(normed.clone()).permute([0, 2, 3, 1]).reshape([batch, 1, height * width, channels])
        };
        let attended = attention::full(tokens(&self.q), tokens(&self.k), tokens(&self.v));
        let attended = attended.reshape([batch, height, width, channels]).permute([0, 3, 1, 2]);
        self.proj_out.forward_plus(attended, x)
    }
}

/// The middle of encoder and decoder.
#[derive(Module, Debug)]
pub struct Middle {
    /// Before the attention.
    pub block_1: ResBlock,
    /// Over all positions.
    pub attn_1: Attention,
    /// After the attention.
    pub block_2: ResBlock,
}

impl Middle {
    /// Over `channels`.
    pub fn new(channels: usize, groups: usize, device: &Device) -> Self {
        Self {
            block_1: ResBlock::new([channels; 2], groups, device),
            attn_1: Attention::new(channels, groups, device),
            block_2: ResBlock::new([channels; 2], groups, device),
        }
    }

    /// `poll` is asked before every part.
    ///
    /// # Shapes
    /// - x, output: `[B, C, H, W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward_polled(&self, x: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<4>> {
        poll()?;
        let x = self.block_1.forward(x);
        poll()?;
        let x = self.attn_1.forward(x);
        poll()?;
        ControlFlow::Continue(self.block_2.forward(x))
    }
}

/// Halves the resolution: one row and column of zeros right and below only, then 3×3 with stride 2.
#[derive(Module, Debug)]
pub struct Downsample {
    /// 3×3, stride 2.
    pub conv: Conv2d,
}

impl Downsample {
    /// Over `channels`.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::new([channels; 2], 3, 2, (0, 1), device) }
    }

    /// # Shapes
    /// - x: `[B, C, H, W]`
    /// - output: `[B, C, H/2, W/2]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward(x)
    }
}

/// Doubles the resolution: every pixel four times, then 3×3.
#[derive(Module, Debug)]
pub struct Upsample {
    /// 3×3.
    pub conv: Conv2d,
}

impl Upsample {
    /// Over `channels`.
    pub fn new(channels: usize, device: &Device) -> Self {
        Self { conv: Conv2d::same([channels; 2], 3, device) }
    }

    /// # Shapes
    /// - x: `[B, C, H, W]`
    /// - output: `[B, C, 2H, 2W]`
    ///
    /// # Panics
    /// If `x` has another number of channels.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.conv.forward_doubled(x)
    }
}
