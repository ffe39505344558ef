//! Pictures to posterior: levels of residual blocks, each half as large as the one before.

use super::{AutoEncoderConfig, Downsample, Middle, ResBlock};
use crate::{
    layers::{Conv2d, GroupNorm},
    poll::{Poll, to_the_end},
};
use burn::{module::Module, prelude::*};
use std::ops::ControlFlow;

/// One resolution of the encoder.
#[derive(Module, Debug)]
pub struct DownLevel {
    /// Residual blocks.
    pub block: Vec<ResBlock>,
    /// Absent at the last level.
    pub downsample: Option<Downsample>,
}

/// Pictures `[B, 3, H, W]` to moments `[B, 2·latent_channels, H/8, W/8]`: means, then log-variances.
#[derive(Module, Debug)]
pub struct Encoder {
    /// 3×3.
    pub conv_in: Conv2d,
    /// Full resolution first.
    pub down: Vec<DownLevel>,
    /// At the lowest resolution.
    pub mid: Middle,
    /// Before the last convolution.
    pub norm_out: GroupNorm,
    /// 3×3.
    pub conv_out: Conv2d,
}

impl Encoder {
    pub(super) fn new(config: &AutoEncoderConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let groups = config.norm_num_groups;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let level = |i: usize| DownLevel {
            block: (0..config.layers_per_block)
                .map(|j| {
                    let input = if j == 0 { channels[i.saturating_sub(1)] } else { channels[i] };
                    ResBlock::new([input, channels[i]], groups, device)
                })
                .collect(),
            downsample: (i + 1 < channels.len()).then(|| Downsample::new(channels[i], device)),
        };
        Self {
            conv_in: Conv2d::same([3, first], 3, device),
            down: (0..channels.len()).map(level).collect(),
            mid: Middle::new(last, groups, device),
            norm_out: GroupNorm::new(last, groups, device),
            conv_out: Conv2d::same([last, 2 * config.latent_channels], 3, device),
        }
    }

    /// # Shapes
    /// - image: `[B, 3, H, W]`
    /// - output: `[B, 2·latent_channels, H/8, W/8]`
    ///
    /// # Panics
    /// If `image` has not three channels.
    pub fn forward(&self, image: Tensor<4>) -> Tensor<4> {
        to_the_end(|poll| self.forward_polled(image, poll))
    }

    /// [`Encoder::forward`], left where `poll` breaks; it is asked before every block.
    ///
    /// # Panics
    /// As [`Encoder::forward`].
    pub fn forward_polled(&self, image: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<4>> {
        let mut x = self.conv_in.forward(image);
        for level in &self.down {
            for block in &level.block {
                poll()?;
                x = block.forward(x);
            }
            if let Some(downsample) = &level.downsample {
                x = downsample.forward(x);
            }
        }
        let x = self.mid.forward_polled(x, poll)?;
        ControlFlow::Continue(self.conv_out.forward(self.norm_out.silu(x)))
    }
}
