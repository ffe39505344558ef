//! What the networks of a file will take in memory, from its header alone.

use crate::{
    Result, WeightFile,
    load::{Origins, TABLE, is_modulation_at},
    network::Network,
    quantize::is_in_block,
};
use ace_nn::{autoencoder::AutoEncoderConfig, clip::ClipConfig, flux::FluxConfig, t5::T5Config};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use std::collections::BTreeMap;

/// Bytes of a network's weights as they will be held.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Matrices of each block, double ones first; those of modulations apart.
    pub blocks: Vec<u64>,
    /// Matrices of the modulations of all blocks.
    pub modulations: u64,
    /// T5's table of words.
    pub table: u64,
    /// Everything else: what is outside of the blocks, and biases and norms inside.
    pub rest: u64,
    /// Matrices of blocks that are packed when the file is opened, because it has them wider: streamed, they are kept on the
    /// host all the same.
    pub repacked: u64,
}

impl Footprint {
    /// All of it.
    pub fn all(&self) -> u64 {
        self.without_modulations() + self.modulations
    }

    /// All but the matrices of modulations.
    pub fn without_modulations(&self) -> u64 {
        self.blocks.iter().sum::<u64>() + self.table + self.rest
    }

    /// What is there at most while blocks come and go: two of them that follow each other.
    pub fn streamed(&self) -> u64 {
        let pairs = self.blocks.windows(2).map(|pair| pair[0] + pair[1]);
        let two = pairs.max().or(self.blocks.first().copied()).unwrap_or_default();
        two + self.rest + self.repacked
    }
}

impl WeightFile {
    /// What the transformer in this file will take.
    ///
    /// # Errors
    /// If the file has no such network, or not exactly its weights.
    pub fn flux_footprint(&self, config: &FluxConfig, dtype: FloatDType) -> Result<Footprint> {
        self.footprint(Network::Flux, &config.init(&Device::default()), dtype)
    }

    /// What the sequence encoder in this file will take.
    ///
    /// # Errors
    /// As [`WeightFile::flux_footprint`].
    pub fn t5_footprint(&self, config: &T5Config, dtype: FloatDType) -> Result<Footprint> {
        self.footprint(Network::T5, &config.init(&Device::default()), dtype)
    }

    /// What the pooled encoder in this file will take.
    ///
    /// # Errors
    /// As [`WeightFile::flux_footprint`].
    pub fn clip_footprint(&self, config: &ClipConfig, dtype: FloatDType) -> Result<Footprint> {
        self.footprint(Network::Clip, &config.init(&Device::default()), dtype)
    }

    /// What the autoencoder in this file will take, in f32.
    ///
    /// # Errors
    /// As [`WeightFile::flux_footprint`].
    pub fn autoencoder_footprint(&self, config: &AutoEncoderConfig) -> Result<Footprint> {
        self.footprint(Network::AutoEncoder, &config.init(&Device::default()), FloatDType::F32)
    }

    fn footprint<M: Module>(&self, network: Network, module: &M, dtype: FloatDType) -> Result<Footprint> {
        let found = self.find(network)?;
        self.footprint_of(&self.origins(module, &found.keys, &found.prefix)?, dtype)
    }

    fn footprint_of(&self, origins: &Origins, dtype: FloatDType) -> Result<Footprint> {
        let mut blocks: BTreeMap<(String, usize), u64> = BTreeMap::new();
        let mut footprint = Footprint::default();
        for (path, origin) in origins {
            let elements: usize = origin.shape.iter().product();
            let wide = (elements * burn::tensor::DType::from(dtype).size()) as u64;
            let parts: Vec<String> = path.split('.').map(str::to_owned).collect();
            // Matrices of linear layers have two axes and this name; nothing else has both.
            let (&[rows, columns], true) = (&origin.shape[..], path.ends_with(".weight")) else {
                let place = if path == TABLE { &mut footprint.table } else { &mut footprint.rest };
                *place += wide;
                continue;
            };
            let keys: Vec<&str> = origin.keys.iter().map(String::as_str).collect();
            let (stored, wanted) = self.packings(&keys, [rows, columns], self.matrices(), &parts)?;
            let packing = wanted.filter(|_| !origin.swapped);
            let bytes = packing.map_or(wide, |packing| packing.bytes(elements) as u64);
            match parts.get(1).and_then(|index| index.parse().ok()) {
                _ if !is_in_block(&parts) => footprint.rest += bytes,
                _ if is_modulation_at(&parts) => footprint.modulations += bytes,
                Some(index) => {
                    *blocks.entry((parts[0].clone(), index)).or_default() += bytes;
                    footprint.repacked += if packing.is_some() && stored != packing { bytes } else { 0 };
                }
                None => footprint.rest += bytes,
            }
        }
        // "double_blocks" comes before "single_blocks".
        footprint.blocks = blocks.into_values().collect();
        Ok(footprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_nn::weight::{Packing, Weight};
    use std::path::Path;

    /// A small transformer in a file of bf16, and what becomes of it.
    fn open(name: &str) -> (WeightFile, FluxConfig) {
        let config = FluxConfig {
            in_channels: 24,
            out_channels: 8,
            hidden_size: 64,
            num_heads: 2,
            depth: 2,
            depth_single_blocks: 3,
            axes_dim: [8, 12, 12],
            theta: 10_000.0,
            mlp_ratio: 4.0,
            context_in_dim: 32,
            vec_in_dim: 16,
            guidance_embed: true,
            qkv_bias: true,
        };
        let path = std::env::temp_dir().join(format!("ace-footprint-{name}-{}.safetensors", std::process::id()));
        let tensors =
            crate::collect(&config.init(&Device::default()), &crate::network::flux::BFL, "", Some(FloatDType::BF16));
        crate::write(&path, &tensors, &[]).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        (WeightFile::from_bytes(Path::new("flux.safetensors"), bytes).unwrap(), config)
    }

    #[test]
    fn a_footprint_is_what_the_network_then_takes() {
        let device = Device::default();
        for packing in [None, Some(Packing::Q8_0), Some(Packing::Q4_0)] {
            let (file, config) = open("held");
            let file = packing.into_iter().fold(file, WeightFile::packed);
            let footprint = file.flux_footprint(&config, FloatDType::F32).unwrap();
            let mut flux = file.flux(&config, Some(FloatDType::F32), &device).unwrap();
            let mut packed = 0;
            flux.for_each_linear(&mut |_, linear| {
                if let Weight::Packed(matrix) = &linear.weight {
                    packed += matrix.bytes() as u64;
                }
            });
            assert_eq!(footprint.all(), packed + 4 * flux.num_params() as u64, "{packing:?}");
            assert_eq!(footprint.blocks.len(), 5);
            let blocks: u64 = footprint.blocks.iter().sum();
            assert_eq!(footprint.repacked, if packing.is_some() { blocks } else { 0 });
            assert!(footprint.modulations > blocks / 4 && footprint.streamed() >= footprint.repacked);
        }
    }
}
