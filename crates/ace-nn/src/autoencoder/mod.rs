//! FLUX's autoencoder: pictures to latents an eighth as wide and high, and back.
//!
//! `encode`: `z = (mean − shift)·scale`, the posterior's mode; [`AutoEncoder::encode_posterior`] gives mean and
//! log-variance to those who sample. `decode` undoes it. Pictures live in −1..1.

mod block;
mod decoder;
mod encoder;

pub use block::{Attention, Downsample, Middle, ResBlock, Upsample};
pub use decoder::Decoder;
pub use encoder::Encoder;

use crate::{
    lora::{Linear, Linears},
    poll::{Poll, to_the_end},
};
use burn::{module::Module, prelude::*, tensor::assert_shape};
use serde::{Deserialize, Serialize};
use std::ops::ControlFlow;

/// Sizes of an [`AutoEncoder`], with diffusers' names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoEncoderConfig {
    /// Channels of each level, full resolution first; each level but the last halves the picture.
    pub block_out_channels: Vec<usize>,
    /// Residual blocks per level of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// Channels of the latents, 16.
    pub latent_channels: usize,
    /// Groups of the group norms.
    pub norm_num_groups: usize,
    /// Latents are multiplied by this after encoding.
    pub scaling_factor: f64,
    /// Latents are moved by this before scaling.
    pub shift_factor: f64,
}

impl AutoEncoderConfig {
    /// An autoencoder with empty weights.
    ///
    /// # Panics
    /// If a level's channels are not a multiple of the groups; [`AutoEncoderConfig::check`] says so politely.
    pub fn init(&self, device: &Device) -> AutoEncoder {
        if let Err(problem) = self.check() {
            panic!("{problem}");
        }
        AutoEncoder {
            encoder: Encoder::new(self, device),
            decoder: Decoder::new(self, device),
            scaling_factor: self.scaling_factor,
            shift_factor: self.shift_factor,
        }
    }

    /// What is contradictory in these sizes, if anything.
    ///
    /// # Errors
    /// A sentence that names the fields.
    pub fn check(&self) -> Result<(), String> {
        let groups = self.norm_num_groups;
        if self.block_out_channels.is_empty() {
            return Err("block_out_channels is empty".into());
        }
        match self.block_out_channels.iter().find(|channels| groups == 0 || !channels.is_multiple_of(groups)) {
            Some(channels) => {
                Err(format!("block_out_channels {channels} is not a multiple of norm_num_groups {groups}"))
            }
            None => Ok(()),
        }
    }

    /// Pixels per latent cell along a side, 8 with four levels.
    pub fn downscale(&self) -> usize {
        1 << (self.block_out_channels.len() - 1)
    }
}

/// The autoencoder.
#[derive(Module, Debug)]
pub struct AutoEncoder {
    /// Pictures to posterior.
    pub encoder: Encoder,
    /// Latents to pictures.
    pub decoder: Decoder,
    scaling_factor: f64,
    shift_factor: f64,
}

impl Linears for AutoEncoder {
    /// There are none: it is made of convolutions.
    fn each_linear(&mut self, _f: &mut dyn FnMut(&mut Linear)) {}
}

impl AutoEncoder {
    /// The mode of the posterior, normalized.
    ///
    /// # Shapes
    /// - image: `[B, 3, H, W]` in −1..1, sides multiples of 8
    /// - output: `[B, latent_channels, H/8, W/8]`
    ///
    /// # Panics
    /// If `image` has not three channels.
    pub fn encode(&self, image: Tensor<4>) -> Tensor<4> {
        to_the_end(|poll| self.encode_polled(image, poll))
    }

    /// [`AutoEncoder::encode`], left where `poll` breaks; it is asked before every block.
    ///
    /// # Panics
    /// As [`AutoEncoder::encode`].
    pub fn encode_polled(&self, image: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<4>> {
        let (mean, _) = self.encode_posterior_polled(image, poll)?;
        ControlFlow::Continue(self.normalize(mean))
    }

    /// Mean and log-variance of the posterior, as the encoder gives them (not normalized, not clamped).
    ///
    /// # Shapes
    /// - image and each output: as [`AutoEncoder::encode`]
    ///
    /// # Panics
    /// If `image` has not three channels.
    pub fn encode_posterior(&self, image: Tensor<4>) -> (Tensor<4>, Tensor<4>) {
        to_the_end(|poll| self.encode_posterior_polled(image, poll))
    }

    /// [`AutoEncoder::encode_posterior`], left where `poll` breaks; it is asked before every block.
    ///
    /// # Panics
    /// As [`AutoEncoder::encode_posterior`].
    pub fn encode_posterior_polled(&self, image: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), (Tensor<4>, Tensor<4>)> {
        assert_shape!(image, [_, 3, _, _]);
        let moments = self.encoder.forward_polled(image, poll)?;
        let channels = moments.dims()[1] / 2;
        ControlFlow::Continue((moments.clone().narrow(1, 0, channels), moments.narrow(1, channels, channels)))
    }

    /// Pictures in −1..1 (not clamped) from normalized latents.
    ///
    /// # Shapes
    /// - latents: `[B, latent_channels, h, w]`
    /// - output: `[B, 3, 8h, 8w]`
    ///
    /// # Panics
    /// If `latents` have another number of channels.
    pub fn decode(&self, latents: Tensor<4>) -> Tensor<4> {
        to_the_end(|poll| self.decode_polled(latents, poll))
    }

    /// [`AutoEncoder::decode`], left where `poll` breaks; it is asked before every block.
    ///
    /// # Panics
    /// As [`AutoEncoder::decode`].
    pub fn decode_polled(&self, latents: Tensor<4>, poll: Poll<'_>) -> ControlFlow<(), Tensor<4>> {
        let latent_channels = self.decoder.conv_in.weight.lazy_shape()[1];
        assert_shape!(latents, [_, latent_channels, _, _]);
        self.decoder.forward_polled(latents / self.scaling_factor + self.shift_factor, poll)
    }

    /// Pixels per latent cell along a side.
    pub fn downscale(&self) -> usize {
        1 << (self.encoder.down.len() - 1)
    }

    /// The most numbers that a pixel becomes on its way: the largest picture inside has so many times its pixels.
    pub fn numbers_of_a_pixel(&self) -> usize {
        // The first block of a level takes what the next smaller level was enlarged to.
        let channels = |level: &decoder::UpLevel| {
            let weight = level.block.first().map(|block| block.conv1.weight.lazy_shape());
            weight.map_or(0, |shape| shape[0].max(shape[1]))
        };
        let levels = self.decoder.up.iter().enumerate();
        levels.map(|(level, up)| channels(up).div_ceil(1 << (2 * level))).max().unwrap_or(0)
    }

    /// `(z − shift)·scale`
    pub fn normalize(&self, raw: Tensor<4>) -> Tensor<4> {
        (raw - self.shift_factor) * self.scaling_factor
    }
}

#[cfg(test)]
mod tests {
    use super::AutoEncoderConfig;
    use crate::testing::{device, random, randomize, relative_error, values, widen};
    use burn::{prelude::*, tensor::DType};

    #[test]
    fn blank_pictures_lose_nothing() {
        // Four channels a group as in the published networks, and the size where running sums show.
        let config = AutoEncoderConfig {
            block_out_channels: vec![8, 8, 8, 8],
            layers_per_block: 1,
            latent_channels: 16,
            norm_num_groups: 2,
            scaling_factor: 0.3611,
            shift_factor: 0.1159,
        };
        let autoencoder = randomize(config.init(&device()), 5, &device());
        let exact = widen(autoencoder.clone());
        let picture = random([1, 3, 256, 256], 6);
        let blank = Tensor::zeros([1, 3, 256, 256], &device());
        let half_blank = Tensor::cat(vec![picture.narrow(3, 0, 128), blank.clone().narrow(3, 0, 128)], 3);
        for (name, image) in [("blank", blank), ("half blank", half_blank)] {
            let latents = autoencoder.encode(image.clone());
            let expected = exact.encode(image.cast(DType::F64));
            assert_eq!(expected.dtype(), DType::F64);
            let error = relative_error(&values(latents.clone()), &values(expected));
            assert!(error <= 5e-6, "{name}, encoded: {error:e}");
            let decoded = autoencoder.decode(latents.clone());
            let error = relative_error(&values(decoded), &values(exact.decode(latents.cast(DType::F64))));
            assert!(error <= 5e-6, "{name}, decoded: {error:e}");
        }
    }
}
