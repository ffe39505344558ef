//! Latents to pictures: the encoder's levels in reverse, each twice as large as the one before.

use super::{AutoEncoderConfig, Middle, ResBlock, Upsample};
use crate::{
    layers::{Conv2d, GroupNorm},
    poll::{Poll, to_the_end},
};
use burn::{module::Module, prelude::*};
use std::ops::ControlFlow;

/// One resolution of the decoder.
#[derive(Module, Debug)]
pub struct UpLevel {
    /// Residual blocks, one more than in the encoder.
    pub block: Vec<ResBlock>,
    /// Absent at level 0, the full resolution.
    pub upsample: Option<Upsample>,
}

/// Raw latents `[B, latent_channels, h, w]` to pictures `[B, 3, 8h, 8w]`.
#[derive(Module, Debug)]
pub struct Decoder {
    /// 3×3.
    pub conv_in: Conv2d,
    /// At the lowest resolution.
    pub mid: Middle,
    /// Indexed as in the encoder, full resolution first; the decoder walks it backwards.
    pub up: Vec<UpLevel>,
    /// Before the last convolution.
    pub norm_out: GroupNorm,
    /// 3×3.
    pub conv_out: Conv2d,
}

impl Decoder {
    pub(super) fn new(config: &AutoEncoderConfig, device: &Device) -> Self {
        let channels = &config.block_out_channels;
        let groups = config.norm_num_groups;
        let (first, last) = (channels[0], channels[channels.len() - 1]);
        let level = |i: usize| UpLevel {
            block: (0..=config.layers_per_block)
                .map(|j| {
                    let input = if j == 0 { channels[(i + 1).min(channels.len() - 1)] } else { channels[i] };
                    ResBlock::new([input, channels[i]], groups, device)
                })
                .collect(),
            upsample: (i > 0).then(|| Upsample::new(channels[i], device)),
        };
        Self {
            conv_in: Conv2d::same([config.latent_channels, last], 3, device),
            mid: Middle::new(last, groups, device),
            up: (0..channels.len()).map(level).collect(),
            norm_out: GroupNorm::new(first, groups, device),
            conv_out: Conv2d::same([first, 3], 3, device),
        }
    }

    /// # Shapes
    /// - raw: `[B, latent_channels, h, w]`, not normalized
    /// - output: `[B, 3, 8h, 8w]`
    ///
    /// # Panics
    /// If `raw` has another number of channels.
    pub fn forward(&self, raw: Tensor<4>) -> Tensor<4> {
        to_the_end(|poll| self.forward_polled(raw, poll))
    }

    /// [`Decoder::forward`], left where `poll` breaks; it is asked before every block.
    ///
    /// # Panics
    /// As [`Decoder::forward`].
    pub fn forward_polled(&self, raw: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<4>> {
        let mut x = self.mid.forward_polled(self.conv_in.forward(raw), poll)?;
        for level in self.up.iter().rev() {
            for block in &level.block {
                poll()?;
                x = block.forward(x);
            }
            if let Some(upsample) = &level.upsample {
                x = upsample.forward(x);
            }
        }
        poll()?;
        ControlFlow::Continue(self.conv_out.forward(self.norm_out.silu(x)))
    }
}
