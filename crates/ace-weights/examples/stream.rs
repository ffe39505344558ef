//! How fast the blocks of a transformer come from a file, forward and backward, and how much memory that takes; nothing is
//! computed with them.
//!
//! ```text
//! cargo run --release -p ace-weights --example stream --features burn/flex,burn/simd,burn/rayon -- FILE [q8_0|q4_0|nf4]
//! ```

#![allow(clippy::print_stdout)]

use ace_nn::{
    flux::{Blocks, FluxConfig},
    weight::Packing,
};
use ace_weights::{Streamed, WeightFile, network::flux::PUBLISHED};
use burn::{prelude::*, tensor::FloatDType};
use std::{error::Error, fs, path::Path, time::Instant};

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let (path, packing) = match &words[..] {
        [path] => (path, None),
        [path, packing] => (path, Packing::WRITTEN.into_iter().find(|known| known.name() == packing)),
        _ => return Err("say: FILE [q8_0|q4_0|nf4]".into()),
    };
    let open = || {
        let file = WeightFile::open(Path::new(path))?;
        Ok::<_, ace_weights::Error>(match packing {
            Some(packing) => file.packed(packing),
            None => file.quantized(),
        })
    };
    let file = open()?;
    let in_channels = file.shape("img_in.weight").and_then(|shape| shape.get(1)).copied().unwrap_or(384);
    let (config, device) = (FluxConfig { in_channels, ..PUBLISHED }, Device::default());
    let begin = Instant::now();
    let flux = file.flux_without_blocks(&config, Some(FloatDType::BF16), &device)?;
    let mut streamed = Streamed::open(open()?, &config, Some(FloatDType::BF16), &device)?;
    println!("opened in {:.2} s, {:.2} GB", begin.elapsed().as_secs_f64(), peak()?);
    let begin = Instant::now();
    for (index, own) in flux.double_blocks.iter().enumerate() {
        drop(streamed.double(index, own));
    }
    for (index, own) in flux.single_blocks.iter().enumerate() {
        drop(streamed.single(index, own));
    }
    println!("forward in {:.2} s", begin.elapsed().as_secs_f64());
    let begin = Instant::now();
    for (index, own) in flux.single_blocks.iter().enumerate().rev() {
        drop(streamed.single(index, own));
    }
    for (index, own) in flux.double_blocks.iter().enumerate().rev() {
        drop(streamed.double(index, own));
    }
    println!(
        "backward in {:.2} s, {} blocks at most, {:.2} GB",
        begin.elapsed().as_secs_f64(),
        streamed.most_held(),
        peak()?
    );
    Ok(())
}

/// The most memory that this process has held, in gigabytes; 0 where the system does not say.
fn peak() -> Result<f64, Box<dyn Error>> {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return Ok(0.0) };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    Ok(kilobytes.unwrap_or(0.0) * 1024.0 / 1e9)
}
