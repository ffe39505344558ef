//! `ace verify --published-size`: blocks as wide as the published ones, with random weights, on this device and on the CPU;
//! and the largest piece of memory that the device gave for them.
//!
//! A double and a single block of FLUX between the published ends, and T5's table of words before one of its layers, are
//! written to a file and read from it in f32, so that everything passes that a model passes on such a device: matrices that
//! come in parts, rows that are found in one of them. Once more everything is divided as if the device took [`FEW`] bytes, so that
//! layers take some tokens at a time without the 1600 tokens that 128 MiB hold of `linear1`'s rows.
//!
//! A device that has a limit gives no tensor beyond it, an error ends the run; and all of its pools say the largest request
//! that they served ([`largest_allocation`]).

use super::{ACCELERATOR_BOUND, CPU_BOUND, Case};
use ace_nn::{
    flux::{Flux, FluxConfig, FluxInput, Resident, Shared},
    limit::{largest_allocation, most_bytes, within},
    poll::to_the_end,
    t5::{T5, T5Config},
    weight::Packing,
};
use ace_plus::Card;
use ace_weights::{WeightFile, collect, names::KeyMap, network, write};
use anyhow::{Context, Result};
use burn::{
    module::{Module, ModuleMapper, Param},
    prelude::*,
    tensor::{DType, Distribution, FloatDType},
};
use std::{fs, path::PathBuf};

/// Largest relative error in f16: eleven bits, through a few layers.
const HALVES_BOUND: f64 = 1e-2;
/// Less than the rows of `linear1` take for the fewest tokens.
const FEW: usize = 4 << 20;
/// Text tokens of the transformer.
const TEXT: usize = 32;

/// Networks of a card's sizes, but with one block of each kind and one layer.
pub struct Sizes {
    flux: FluxConfig,
    t5: T5Config,
}

impl Sizes {
    /// Those of a card.
    pub fn of(card: &Card) -> Self {
        Self {
            flux: FluxConfig { depth: 1, depth_single_blocks: 1, ..card.flux.clone() },
            t5: T5Config { num_layers: 1, ..card.t5.clone() },
        }
    }
}

/// Compares `device` with `cpu` on so many image tokens.
///
/// # Errors
/// If the temporary file cannot be written.
pub fn run(sizes: &Sizes, tokens: usize, device: &Device, cpu: &Device) -> Result<Vec<Case>> {
    let bound = if device == cpu { CPU_BOUND } else { ACCELERATOR_BOUND };
    let mut cases = Vec::new();
    let mut add = |name, what: &str, error, bound| cases.push(Case { name, what: what.into(), error, bound });
    cpu.seed(1);

    let file = Temporary::of(&sizes.flux.init(cpu), &network::flux::BFL, "flux", cpu)?;
    let flux = |dtype, packing: Option<Packing>, device: &Device| -> Result<_> {
        let file = packing.into_iter().fold(file.open()?, WeightFile::packed).exact();
        Ok(answers(&file.flux(&sizes.flux, Some(dtype), device)?, tokens, dtype, device))
    };
    let expected = flux(FloatDType::F32, None, cpu)?;
    for (dtype, bound) in [(FloatDType::F32, bound), (FloatDType::F16, HALVES_BOUND)] {
        if device.supports_dtype(dtype) {
            let ours = flux(dtype, None, device)?;
            let name = if dtype == FloatDType::F32 { "flux" } else { "flux in f16" };
            add(name, "stream after both blocks", error(&ours[0], &expected[0]), bound);
            add(name, "velocity", error(&ours[1], &expected[1]), bound);
        }
    }
    let ours = within(FEW, || flux(FloatDType::F32, None, device))?;
    add("flux in 4 MiB", "stream after both blocks", error(&ours[0], &expected[0]), bound);
    add("flux in 4 MiB", "velocity", error(&ours[1], &expected[1]), bound);
    let packing = Some(Packing::Q8_0);
    let (ours, expected) = (flux(FloatDType::F32, packing, device)?, flux(FloatDType::F32, packing, cpu)?);
    add("flux in Q8_0", "velocity", error(&ours[1], &expected[1]), bound);
    drop(file);

    let file = Temporary::of(&sizes.t5.init(cpu), &network::t5::TRANSFORMERS, "t5", cpu)?;
    let t5 = |dtype, device: &Device| -> Result<_> {
        Ok(hidden(&file.open()?.t5(&sizes.t5, Some(dtype), device)?, sizes.t5.vocab_size, device))
    };
    let expected = t5(FloatDType::F32, cpu)?;
    add("t5", "words and a layer", error(&t5(FloatDType::F32, device)?, &expected), bound);
    if device.supports_dtype(FloatDType::F16) {
        add("t5 in f16", "words and a layer", error(&t5(FloatDType::F16, device)?, &expected), HALVES_BOUND);
    }
    if let (Some(most), Some(largest)) = (most_bytes(device), largest_allocation(device)) {
        let what = format!("largest piece, {:.1} of {:.1} MiB", mebibytes(largest as f64), mebibytes(most as f64));
        add("memory", &what, largest as f64 / most as f64, 1.0);
    }
    Ok(cases)
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / f64::from(1 << 20)
}

/// `|ours − theirs| / |theirs|`, with the Euclidean norm; not a number if there are not as many.
fn error(ours: &[f32], theirs: &[f32]) -> f64 {
    if ours.len() != theirs.len() {
        return f64::NAN;
    }
    let (error, norm) = ours.iter().zip(theirs).fold((0.0, 0.0), |(error, norm), (ours, theirs)| {
        (error + f64::from(ours - theirs).powi(2), norm + f64::from(*theirs).powi(2))
    });
    (error / norm).sqrt()
}

/// Numbers of −1..1 that are the same on every device.
fn noise<const N: usize>(shape: [usize; N], seed: u32, dtype: FloatDType, device: &Device) -> Tensor<N> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..shape.iter().product::<usize>()).map(|_| next()).collect();
    Tensor::<N>::from_data(TensorData::new(values, shape), device).cast(dtype)
}

/// What the blocks make of the stream, and the velocity.
fn answers(flux: &Flux, tokens: usize, dtype: FloatDType, device: &Device) -> [Vec<f32>; 2] {
    let side = tokens.isqrt().max(1);
    let ids: Vec<[f32; 3]> = (0..tokens).map(|i| [0.0, (i / side) as f32, (i % side) as f32]).collect();
    let input = FluxInput {
        tokens: noise([1, tokens, flux.img_in.features()[0]], 1, dtype, device),
        rope: flux.rope(TEXT, &ids, device),
        prompt_embeds: noise([1, TEXT, flux.txt_in.features()[0]], 2, dtype, device),
        pooled_prompt_embeds: noise([1, flux.vector_in.in_layer.features()[0]], 3, dtype, device),
        timesteps: Tensor::from_data([0.5f32], device),
        guidance: Tensor::from_data([1.0f32], device),
    };
    let rope = input.rope.clone();
    let streams = flux.embed(input);
    let shared = Shared { vec: streams.vec.clone(), rope };
    let stream = to_the_end(|poll| flux.run(&mut Resident::new(poll), streams.clone(), &shared));
    let velocity = flux.project(stream.clone().narrow(1, TEXT, tokens), shared.vec);
    [floats(stream), floats(velocity)]
}

/// T5's answer to words of the whole table.
fn hidden(t5: &T5, words: usize, device: &Device) -> Vec<f32> {
    let ids: Vec<i32> = (0..32).map(|i| (i * (words - 1) / 31) as i32).collect();
    floats(t5.forward(Tensor::<1, Int>::from_data(&ids[..], device).unsqueeze()))
}

fn floats<const N: usize>(tensor: Tensor<N>) -> Vec<f32> {
    tensor.cast(DType::F32).into_data().iter::<f32>().collect()
}

/// A network of random numbers in a file, which goes when it is no longer needed.
struct Temporary(PathBuf);

impl Temporary {
    fn of<M: Module>(module: &M, keys: &KeyMap, name: &str, cpu: &Device) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("ace-verify-{name}-{}.safetensors", std::process::id()));
        let module = module.clone().map(&mut Randomize(cpu));
        // In bf16, which f32 holds exactly: the file is half as large.
        let tensors = collect(&module, keys, "", Some(FloatDType::BF16));
        drop(module);
        write(&path, &tensors, &[]).with_context(|| format!("{} takes a random network", path.display()))?;
        Ok(Self(path))
    }

    fn open(&self) -> Result<WeightFile> {
        Ok(WeightFile::open(&self.0)?)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // What stays behind is in the folder for what may be deleted.
        drop(fs::remove_file(&self.0));
    }
}

/// Numbers that leave what passes through them as large as it was.
struct Randomize<'a>(&'a Device);

impl ModuleMapper for Randomize<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape: [usize; D] = param.lazy_shape().dims();
        let range = match D {
            1 => Distribution::Uniform(0.5, 1.5),
            _ => {
                let most = (3.0 / shape[1..].iter().product::<usize>().max(1) as f64).sqrt();
                Distribution::Uniform(-most, most)
            }
        };
        Param::from_tensor(Tensor::random(shape, range, self.0))
    }
}

#[cfg(all(test, feature = "flex"))]
mod tests {
    use super::{Sizes, run};
    use ace_nn::limit::within;
    use ace_plus::Card;

    #[test]
    fn small_blocks_pass_whole_and_in_parts() {
        let sizes = Sizes::of(&Card::builtin("tiny").unwrap());
        let device = crate::device::open(Some("flex")).unwrap();
        // In f32, f16, parts and Q8_0; whether memory is counted is the device's affair.
        for cases in [run(&sizes, 20, &device, &device), within(20_000, || run(&sizes, 20, &device, &device))] {
            let cases = cases.unwrap();
            assert_eq!(cases.len(), 9);
            assert!(cases.iter().all(super::Case::passed), "{cases:?}");
        }
    }
}
