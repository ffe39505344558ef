//! Writes networks of FLUX.1's size with random weights, without ever holding them: for measuring memory and time of models
//! that are not at hand.
//!
//! ```text
//! cargo run --release -p ace-weights --example fake -- flux-fill q4_0 OUT.gguf
//! ```
//!
//! The first word is `flux-dev`, `flux-fill`, `ace-plus-fft`, `t5`, `clip`, `autoencoder`, or the file of a card that says all
//! sizes of its transformer (`CARD.toml:t5` of another network of it); the second `q4_0`, `q4_k`, `q6_k`, `q8_0` or `bf16`. As in
//! the GGUF files that people share, matrices of blocks (and T5's table) are packed and all else is in f32.

#![allow(clippy::print_stdout)]

mod shapes;

use ace_nn::{autoencoder::AutoEncoderConfig, clip::ClipConfig, flux::FluxConfig, t5::T5Config};
use ace_weights::network;
use burn::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shapes::{Shapes, shapes};
use std::{
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write},
};

/// Bytes that are written at once, or a little less: a whole number of blocks.
const PIECE: usize = 1 << 19;

/// Tensors begin at multiples of this.
const ALIGNMENT: usize = 32;

/// Weights are about a hundredth: activations neither vanish nor explode.
const SMALL: f32 = 0.002;

/// How a tensor's numbers are stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    F32,
    Bf16,
    Q4,
    Q4K,
    Q6K,
    Q8,
}

impl Kind {
    /// GGUF's number, numbers of a block and bytes of a block.
    fn row(self) -> (u32, usize, usize) {
        match self {
            Self::F32 => (0, 1, 4),
            Self::Q4 => (2, 32, 18),
            Self::Q8 => (8, 32, 34),
            Self::Q4K => (12, 256, 144),
            Self::Q6K => (14, 256, 210),
            Self::Bf16 => (30, 1, 2),
        }
    }

    fn bytes(self, elements: usize) -> usize {
        let (_, len, bytes) = self.row();
        elements / len * bytes
    }

    /// Makes small numbers of random bits.
    fn tame(self, bytes: &mut [u8]) {
        let (_, _, size) = self.row();
        for block in bytes.chunks_exact_mut(size) {
            match self {
                Self::F32 => {
                    let value = f32::from(i16::from_le_bytes([block[0], block[1]])) / 32_768.0;
                    block.copy_from_slice(&(value * 0.02).to_le_bytes());
                }
                Self::Bf16 => {
                    let value = f32::from(block[0].cast_signed()) / 128.0;
                    block.copy_from_slice(&half::bf16::from_f32(value * 0.02).to_le_bytes());
                }
                Self::Q4 => block[..2].copy_from_slice(&half::f16::from_f32(SMALL).to_le_bytes()),
                // Scales and minima are integers below 64 themselves; a code is 7.5 on average.
                Self::Q4K => {
                    block[..2].copy_from_slice(&half::f16::from_f32(SMALL / 32.0).to_le_bytes());
                    block[2..4].copy_from_slice(&half::f16::from_f32(SMALL / 32.0 * 7.5).to_le_bytes());
                }
                // Its small scales are some seventy.
                Self::Q6K => block[208..].copy_from_slice(&half::f16::from_f32(SMALL / 256.0).to_le_bytes()),
                Self::Q8 => block[..2].copy_from_slice(&half::f16::from_f32(SMALL / 16.0).to_le_bytes()),
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [card, kind, path] = &words[..] else { return Err("say: CARD q4_0|q4_k|q6_k|q8_0|bf16 OUT.gguf".into()) };
    let kind = match kind.as_str() {
        "q4_0" => Kind::Q4,
        "q4_k" => Kind::Q4K,
        "q6_k" => Kind::Q6K,
        "q8_0" => Kind::Q8,
        "bf16" => Kind::Bf16,
        other => return Err(format!("{other} is not q4_0, q4_k, q6_k, q8_0 or bf16").into()),
    };
    let published = network::flux::PUBLISHED;
    let flux = |in_channels| flux_shapes(&FluxConfig { in_channels, ..published.clone() });
    let shapes = match card.as_str() {
        "flux-dev" => flux(64),
        "flux-fill" => flux(384),
        "ace-plus-fft" => flux(448),
        "t5" | "clip" | "autoencoder" => of_card(include_str!("../../../models/flux1-fill-dev/card.toml"), card)?,
        file => {
            let (file, network) = file
                .split_once(".toml:")
                .map_or((file.to_owned(), "flux"), |(file, network)| (format!("{file}.toml"), network));
            of_card(&fs::read_to_string(file)?, network)?
        }
    };
    write(path, kind, &shapes)?;
    println!("{path}: {:.2} GB", fs::metadata(path)?.len() as f64 / 1e9);
    Ok(())
}

/// Whether a matrix is one of those that files have in few bits.
fn is_packed(key: &str) -> bool {
    let is_layer = key.contains("_blocks.") || key.contains("enc.blk.") && key.ends_with(".weight");
    (is_layer && !key.contains("attn_rel_b")) || key == "token_embd.weight"
}

fn flux_shapes(config: &FluxConfig) -> Shapes {
    shapes(&config.init(&Device::default()), &network::flux::BFL)
}

/// Keys and shapes of a network of a card.
fn of_card(card: &str, network: &str) -> Result<Shapes, Box<dyn Error>> {
    let card: toml::Table = card.parse()?;
    let section = card.get(network).ok_or_else(|| format!("the card has no [{network}]"))?.clone();
    let device = Device::default();
    Ok(match network {
        "t5" => shapes(&section.try_into::<T5Config>()?.init(&device), &network::t5::LLAMA_CPP),
        "clip" => shapes(&section.try_into::<ClipConfig>()?.init(&device), &network::clip::TRANSFORMERS),
        "autoencoder" => shapes(&section.try_into::<AutoEncoderConfig>()?.init(&device), &network::autoencoder::BFL),
        _ => flux_shapes(&section.try_into()?),
    })
}

fn write(path: &str, kind: Kind, shapes: &[(String, Vec<usize>)]) -> Result<(), Box<dyn Error>> {
    let kind_of = |key: &str, shape: &[usize]| match shape {
        [_, columns] if is_packed(key) && columns.is_multiple_of(kind.row().1) => kind,
        _ => Kind::F32,
    };
    let string = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut header = b"GGUF".to_vec();
    header.extend(3_u32.to_le_bytes());
    header.extend((shapes.len() as u64).to_le_bytes());
    header.extend(1_u64.to_le_bytes());
    header.extend(string("general.architecture"));
    header.extend(8_u32.to_le_bytes());
    header.extend(string("flux"));
    let mut offset = 0;
    for (key, shape) in shapes {
        let kind = kind_of(key, shape);
        header.extend(string(key));
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|side| header.extend((*side as u64).to_le_bytes()));
        header.extend(kind.row().0.to_le_bytes());
        header.extend((offset as u64).to_le_bytes());
        offset += kind.bytes(shape.iter().product()).next_multiple_of(ALIGNMENT);
    }
    header.resize(header.len().next_multiple_of(ALIGNMENT), 0);

    let mut file = BufWriter::with_capacity(PIECE, File::create(path)?);
    file.write_all(&header)?;
    let (mut rng, mut buffer) = (ChaCha8Rng::seed_from_u64(0), vec![0; PIECE]);
    for (key, shape) in shapes {
        let kind = kind_of(key, shape);
        let bytes = kind.bytes(shape.iter().product());
        let mut left = bytes;
        while left > 0 {
            let size = kind.row().2;
            let piece = &mut buffer[..left.min(PIECE / size * size)];
            rng.fill_bytes(piece);
            kind.tame(piece);
            file.write_all(piece)?;
            left -= piece.len();
        }
        file.write_all(&vec![0; bytes.next_multiple_of(ALIGNMENT) - bytes])?;
    }
    Ok(file.into_inner()?.sync_all()?)
}
