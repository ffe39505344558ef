//! How fast a checkpoint is loaded, beside reading the same file, and how much memory that takes.
//!
//! Writes a FLUX transformer of some two gigabytes in bf16, random bytes, to the folder for temporary files:
//!
//! ```text
//! cargo run --release -p ace-weights --example load --features burn/flex,burn/simd,burn/rayon [-- bf16|f32]
//! ```

#![allow(clippy::print_stdout)]

mod shapes;

use ace_kernels::Pages;
use ace_nn::flux::FluxConfig;
use ace_weights::{WeightFile, network::flux::BFL};
use burn::{module::Module, prelude::*, tensor::FloatDType};
use rand::{Rng, SeedableRng};
use shapes::shapes;
use std::{
    error::Error,
    fs::{self, File},
    io::{BufWriter, Read, Write},
    path::Path,
    time::Instant,
};

/// As in the program.
#[global_allocator]
static PAGES: Pages = Pages::new();

/// Half as wide as FLUX.1, a third as deep.
const CONFIG: FluxConfig = FluxConfig {
    in_channels: 384,
    out_channels: 64,
    hidden_size: 1536,
    num_heads: 12,
    depth: 6,
    depth_single_blocks: 12,
    axes_dim: [16, 56, 56],
    theta: 10_000.0,
    mlp_ratio: 4.0,
    context_in_dim: 4096,
    vec_in_dim: 768,
    guidance_embed: true,
    qkv_bias: true,
};

/// How often each is measured.
const ROUNDS: usize = 3;

/// Bytes that are read or written at once.
const PIECE: usize = 1 << 22;

fn main() -> Result<(), Box<dyn Error>> {
    let dtype = match std::env::args().nth(1).as_deref() {
        None | Some("bf16") => FloatDType::BF16,
        Some("f32") => FloatDType::F32,
        Some(other) => return Err(format!("{other} is neither bf16 nor f32").into()),
    };
    let device = Device::default();
    let folder = std::env::temp_dir().join(format!("ace-load-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let measured = measure(&folder.join("flux.safetensors"), dtype, &device);
    fs::remove_dir_all(&folder)?;
    measured
}

fn measure(path: &Path, dtype: FloatDType, device: &Device) -> Result<(), Box<dyn Error>> {
    write(path, device)?;
    let gigabytes = fs::metadata(path)?.len() as f64 / 1e9;
    // Once for the system's own memory of files.
    through(path)?;
    let before = peak()?;
    // In turns, because machines have moods; the least of each counts.
    let (mut streamed, mut read, mut loaded) = (f64::MAX, f64::MAX, f64::MAX);
    let (mut parameters, mut most) = (0, 0.0);
    for _ in 0..ROUNDS {
        let begin = Instant::now();
        let flux = WeightFile::open(path)?.flux(&CONFIG, Some(dtype), device)?;
        device.sync()?;
        loaded = loaded.min(begin.elapsed().as_secs_f64());
        parameters = flux.num_params();
        drop(flux);
        if most == 0.0 {
            most = peak()?;
        }
        streamed = streamed.min(through(path)?);
        let begin = Instant::now();
        let bytes = fs::read(path)?;
        read = read.min(begin.elapsed().as_secs_f64());
        assert_eq!(bytes.len() as u64, fs::metadata(path)?.len());
    }
    println!("{gigabytes:.2} GB, {parameters} parameters to {dtype:?}, least of {ROUNDS}");
    println!("read through one small buffer {streamed:.2} s, read into memory {read:.2} s");
    println!("load {loaded:.2} s: {:.2} times as long as read into memory", loaded / read);
    println!("most memory while loading {most:.2} GB, before {before:.2} GB");
    Ok(())
}

/// Reads a file from front to back into one small buffer, and says how many seconds that took.
fn through(path: &Path) -> Result<f64, Box<dyn Error>> {
    let (mut file, mut buffer) = (File::open(path)?, vec![0; PIECE]);
    let begin = Instant::now();
    while file.read(&mut buffer)? > 0 {}
    Ok(begin.elapsed().as_secs_f64())
}

/// The most memory that this process has held, in gigabytes; 0 where the system does not say.
fn peak() -> Result<f64, Box<dyn Error>> {
    let Ok(status) = fs::read_to_string("/proc/self/status") else { return Ok(0.0) };
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches("kB").trim().parse::<f64>().ok());
    Ok(kilobytes.unwrap_or(0.0) * 1024.0 / 1e9)
}

/// Writes the transformer's weights without ever holding them.
fn write(path: &Path, device: &Device) -> Result<(), Box<dyn Error>> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    for (key, shape) in shapes(&CONFIG.init(device), &BFL) {
        let begin = end;
        end += 2 * shape.iter().product::<usize>();
        header.insert(key, serde_json::json!({"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}));
    }
    let mut header = serde_json::to_vec(&header)?;
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut file = BufWriter::with_capacity(PIECE, File::create(path)?);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(&header)?;
    let (mut rng, mut buffer) = (rand_chacha::ChaCha8Rng::seed_from_u64(0), vec![0; PIECE]);
    while end > 0 {
        let len = end.min(PIECE);
        rng.fill_bytes(&mut buffer[..len]);
        file.write_all(&buffer[..len])?;
        end -= len;
    }
    Ok(file.into_inner()?.sync_all()?)
}
