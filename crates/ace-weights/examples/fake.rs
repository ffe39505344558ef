//! Writes a transformer of FLUX.1's size with random weights, without ever holding it: for measuring memory and time of models
//! that are not at hand.
//!
//! ```text
//! cargo run --release -p ace-weights --example fake -- flux-fill q4_0 OUT.gguf
//! ```
//!
//! The first word is `flux-dev`, `flux-fill`, `ace-plus-fft`, or the file of a card that says all sizes of its transformer;
//! the second `q4_0`, `q4_k`, `q6_k`, `q8_0` or `bf16`. As in the GGUF files that people share, matrices of blocks are packed and all else is
//! in f32.

#![allow(clippy::print_stdout)]

mod shapes;

use ace_nn::flux::FluxConfig;
use ace_weights::network::flux::PUBLISHED;
use burn::{module::Module, prelude::*};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use shapes::Shapes;
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
    let config = match card.as_str() {
        "flux-dev" => FluxConfig { in_channels: 64, ..PUBLISHED },
        "flux-fill" => FluxConfig { in_channels: 384, ..PUBLISHED },
        "ace-plus-fft" => FluxConfig { in_channels: 448, ..PUBLISHED },
        file => {
            let card: toml::Table = fs::read_to_string(file)?.parse()?;
            card.get("flux").ok_or("the card has no [flux]")?.clone().try_into()?
        }
    };
    let mut shapes = Shapes::default();
    config.init(&Device::default()).visit(&mut shapes);
    write(path, kind, &shapes.all)?;
    println!("{path}: {:.2} GB", fs::metadata(path)?.len() as f64 / 1e9);
    Ok(())
}

fn write(path: &str, kind: Kind, shapes: &[(String, Vec<usize>)]) -> Result<(), Box<dyn Error>> {
    let kind_of = |key: &str, shape: &[usize]| match shape {
        [_, columns] if key.contains("_blocks.") && columns.is_multiple_of(kind.row().1) => kind,
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
