//! The autoencoder: its convolutions, with the size that each works at.

use ace_nn::autoencoder::AutoEncoderConfig;

/// One convolution, or the attention of the middle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Channels in.
    pub input: usize,
    /// Channels out.
    pub output: usize,
    /// Side of the kernel.
    pub kernel: usize,
    /// Rows and columns of what it makes.
    pub size: [usize; 2],
}

impl Convolution {
    /// Numbers of its kernel and bias.
    pub fn numbers(&self) -> u64 {
        (self.output * (self.input * self.kernel * self.kernel + 1)) as u64
    }

    fn operations(&self) -> f64 {
        2.0 * (self.size[0] * self.size[1]) as f64 * (self.input * self.output * self.kernel * self.kernel) as f64
    }
}

/// Half of an autoencoder on pictures of one size.
#[derive(Debug, Clone, PartialEq)]
pub struct Half {
    /// Its convolutions, in order.
    pub convolutions: Vec<Convolution>,
    /// Channels of its norms.
    pub norms: Vec<usize>,
    /// Positions and channels of the attention in its middle.
    pub attention: [usize; 2],
}

impl Half {
    /// Numbers of its weights.
    pub fn numbers(&self) -> u64 {
        let norms: usize = self.norms.iter().sum();
        self.convolutions.iter().map(Convolution::numbers).sum::<u64>() + 2 * norms as u64
    }

    /// Operations on one picture.
    pub fn operations(&self) -> f64 {
        let [positions, channels] = self.attention;
        let attention = 4.0 * (positions * positions) as f64 * channels as f64;
        self.convolutions.iter().map(Convolution::operations).sum::<f64>() + attention
    }

    fn convolution(&mut self, [input, output]: [usize; 2], kernel: usize, size: [usize; 2]) {
        self.convolutions.push(Convolution { input, output, kernel, size });
    }

    fn block(&mut self, [input, output]: [usize; 2], size: [usize; 2]) {
        self.norms.extend([input, output]);
        self.convolution([input, output], 3, size);
        self.convolution([output, output], 3, size);
        if input != output {
            self.convolution([input, output], 1, size);
        }
    }

    fn middle(&mut self, channels: usize, size: [usize; 2]) {
        self.block([channels; 2], size);
        self.norms.push(channels);
        (0..4).for_each(|_| self.convolution([channels; 2], 1, size));
        self.attention = [size[0] * size[1], channels];
        self.block([channels; 2], size);
    }
}

/// The encoder on a picture of `size`, rows and columns.
pub fn encoder(config: &AutoEncoderConfig, size: [usize; 2]) -> Half {
    let mut half = Half { convolutions: Vec::new(), norms: Vec::new(), attention: [0; 2] };
    let (channels, mut size) = (&config.block_out_channels, size);
    let mut width = channels[0];
    half.convolution([3, width], 3, size);
    for (level, output) in channels.iter().enumerate() {
        for _ in 0..config.layers_per_block {
            half.block([width, *output], size);
            width = *output;
        }
        if level + 1 < channels.len() {
            size = size.map(|side| side / 2);
            half.convolution([width, width], 3, size);
        }
    }
    half.middle(width, size);
    half.norms.push(width);
    half.convolution([width, 2 * config.latent_channels], 3, size);
    half
}

/// The decoder to a picture of `size`, rows and columns.
pub fn decoder(config: &AutoEncoderConfig, size: [usize; 2]) -> Half {
    let mut half = Half { convolutions: Vec::new(), norms: Vec::new(), attention: [0; 2] };
    let channels = &config.block_out_channels;
    let mut size = size.map(|side| side / config.downscale());
    let mut width = channels[channels.len() - 1];
    half.convolution([config.latent_channels, width], 3, size);
    half.middle(width, size);
    for (level, output) in channels.iter().enumerate().rev() {
        for _ in 0..=config.layers_per_block {
            half.block([width, *output], size);
            width = *output;
        }
        if level > 0 {
            size = size.map(|side| 2 * side);
            half.convolution([width, width], 3, size);
        }
    }
    half.norms.push(width);
    half.convolution([width, 3], 3, size);
    half
}

/// Numbers of both halves.
pub fn numbers(config: &AutoEncoderConfig) -> u64 {
    let size = [config.downscale(); 2];
    encoder(config, size).numbers() + decoder(config, size).numbers()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Card;
    use burn::{module::Module, tensor::Device};

    #[test]
    fn numbers_are_those_of_the_network() {
        for card in ["tiny", "flux1-fill-dev"].map(|name| Card::builtin(name).unwrap()) {
            let network = card.autoencoder.init(&Device::default());
            assert_eq!(numbers(&card.autoencoder), network.num_params() as u64, "{}", card.name);
        }
    }

    #[test]
    fn the_published_one_takes_what_torch_counts() {
        // torch's FlopCounterMode on diffusers' AutoencoderKL of the published sizes, 512 × 512.
        let config = Card::builtin("flux1-fill-dev").unwrap().autoencoder;
        let half = [encoder(&config, [512, 512]), decoder(&config, [512, 512])];
        assert_eq!(half.map(|half| half.operations()), [1_117_563_912_192.0, 2_514_971_787_264.0]);
    }
}
