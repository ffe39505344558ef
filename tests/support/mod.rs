//! What several test modules need: a device, numbers that look random or count up, small networks, folders and the
//! program.

pub mod browser;
pub mod group;
pub mod hub;
pub mod server;

use ace_nn::{
    autoencoder::{AutoEncoder, AutoEncoderConfig},
    flux::{Flux, FluxConfig},
};
use ace_plus::{sample, text::TextConditioning};
use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    prelude::*,
};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// Where tests compute: the backend that the program was built with.
pub fn device() -> Device {
    Device::default()
}

/// `0, 1, 2, …` in the given shape.
pub fn ramp<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    let values: Vec<f32> = (0..shape.iter().product()).map(|i: usize| i as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// Standard normal numbers in the given shape, the same for the same seed.
pub fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    sample::gaussian(shape, &mut sample::rng(seed, 0), &device())
}

/// A tensor's values on the host.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data_as::<f32>().iter::<f32>().collect()
}

/// L2 norm of the difference over that of `expected`.
pub fn relative_error(ours: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(ours.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|value| value * value).sum::<f64>().sqrt();
    let mut difference = ours.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b));
    norm(&mut difference) / norm(&mut expected.iter().map(|value| f64::from(*value)))
}

/// The largest absolute difference of two tensors of the same shape.
pub fn distance<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    // `f32::max` would swallow a NaN.
    values(a)
        .into_iter()
        .zip(values(b))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, |m, d| if d.is_nan() || d > m { d } else { m })
}

/// Random values for every parameter, none of them zero or one by default, so that no missing one goes unnoticed:
/// matrices keep the variance of their input, vectors are spread around one half.
pub fn randomize<M: Module>(module: M, seed: u64) -> M {
    struct Walk {
        seed: u64,
        stream: u64,
    }
    impl ModuleMapper for Walk {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            let shape: [usize; D] = param.lazy_shape().dims();
            self.stream += 1;
            let noise = sample::gaussian(shape, &mut sample::rng(self.seed, self.stream), &device());
            let filled = match shape.len() {
                1 => noise * 0.3 + 0.5,
                _ => noise / (shape[1..].iter().product::<usize>() as f32).sqrt(),
            };
            let mut filled = Param::from_tensor(filled);
            filled.id = param.id;
            filled
        }
    }
    module.map(&mut Walk { seed, stream: 0 })
}

/// Paths and shapes of a module's parameters; nothing is allocated.
pub fn shapes<M: Module>(module: &M) -> BTreeMap<String, Vec<usize>> {
    struct Walk {
        path: Vec<String>,
        shapes: BTreeMap<String, Vec<usize>>,
    }
    impl ModuleVisitor for Walk {
        fn enter_module(&mut self, name: &str, _container: &str) {
            self.path.push(name.to_owned());
        }

        fn exit_module(&mut self, _name: &str, _container: &str) {
            self.path.pop();
        }

        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            self.shapes.insert(self.path.join("."), param.lazy_shape().to_vec());
        }
    }
    let mut walk = Walk { path: Vec::new(), shapes: BTreeMap::new() };
    module.visit(&mut walk);
    walk.shapes
}

/// Sizes of a transformer that is small but has everything.
pub fn flux_config(in_channels: usize) -> FluxConfig {
    FluxConfig {
        in_channels,
        out_channels: 64,
        hidden_size: 32,
        num_heads: 2,
        depth: 2,
        depth_single_blocks: 2,
        axes_dim: [4, 6, 6],
        theta: 10_000.0,
        mlp_ratio: 4.0,
        context_in_dim: 24,
        vec_in_dim: 20,
        guidance_embed: true,
        qkv_bias: true,
    }
}

/// A small transformer with random weights.
pub fn flux(in_channels: usize) -> Flux {
    randomize(flux_config(in_channels).init(&device()), 1)
}

/// A small autoencoder with random weights.
pub fn autoencoder() -> AutoEncoder {
    let config = AutoEncoderConfig {
        block_out_channels: vec![4, 8, 8, 8],
        layers_per_block: 1,
        latent_channels: 16,
        norm_num_groups: 2,
        scaling_factor: 0.3611,
        shift_factor: 0.1159,
    };
    randomize(config.init(&device()), 2)
}

/// Random words for [`flux`].
pub fn words() -> TextConditioning {
    TextConditioning { prompt_embeds: random([1, 5, 24], 3), pooled_prompt_embeds: random([1, 20], 4) }
}

/// A folder of its own for one test, removed with everything in it.
pub struct TestDir(PathBuf);

impl TestDir {
    /// A new, empty folder; `name` tells tests of one process apart.
    pub fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("ace-test-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("the temporary folder is writable");
        Self(path)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Names of what is in it, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).expect("the folder exists");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // A folder that cannot be removed is no reason to fail a test that has proved its point.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program, freshly built.
pub fn ace() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ace"))
}

/// The recorded data of a kind, such as `parity`.
pub fn data(kind: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data").join(kind)
}
