//! What the tests of several networks need: a device, numbers that look random, small networks with random weights.

use crate::{
    autoencoder::{AutoEncoder, AutoEncoderConfig},
    clip::{Activation, Clip, ClipConfig},
    flux::{Flux, FluxConfig, FluxInput},
    t5::{T5, T5Config},
};
use burn::{
    module::{Module, ModuleMapper, Param},
    prelude::*,
    tensor::DType,
};

/// Where the tests compute.
pub fn device() -> Device {
    Device::default()
}

/// Numbers in −1..1 that look random, the same for the same seed, on `device`.
pub fn random_on<const N: usize>(shape: [usize; N], seed: u64, device: &Device) -> Tensor<N> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f32> = (0..shape.iter().product())
        .map(|_: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

/// [`random_on`] the device of the tests.
pub fn random<const N: usize>(shape: [usize; N], seed: u64) -> Tensor<N> {
    random_on(shape, seed, &device())
}

/// A tensor's values on the host, in f64.
pub fn values<const N: usize>(tensor: Tensor<N>) -> Vec<f64> {
    tensor.into_data_as::<f64>().iter::<f64>().collect()
}

/// `|ours − reference| / |reference|` with the Euclidean norm.
pub fn relative_error(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let (error, norm) = ours.iter().zip(reference).fold((0.0, 0.0), |(error, norm), (ours, reference)| {
        (error + (ours - reference).powi(2), norm + reference * reference)
    });
    (error / norm).sqrt()
}

/// Random values for every parameter: matrices keep about the variance of their input, vectors are spread around one
/// half.
pub fn randomize<M: Module>(module: M, seed: u64, device: &Device) -> M {
    struct Walk<'a> {
        seed: u64,
        device: &'a Device,
    }
    impl ModuleMapper for Walk<'_> {
        fn map_float<const N: usize>(&mut self, param: Param<Tensor<N>>) -> Param<Tensor<N>> {
            let shape: [usize; N] = param.lazy_shape().dims();
            self.seed += 1;
            let noise = random_on(shape, self.seed, self.device);
            let filled = match N {
                1 => noise * 0.5 + 0.5,
                _ => noise * (3.0 / shape[1..].iter().product::<usize>() as f64).sqrt(),
            };
            let mut filled = Param::from_tensor(filled);
            filled.id = param.id;
            filled
        }
    }
    module.map(&mut Walk { seed: 1000 * seed, device })
}

/// The same network in f64.
pub fn widen<M: Module>(module: M) -> M {
    struct Walk;
    impl ModuleMapper for Walk {
        fn map_float<const N: usize>(&mut self, param: Param<Tensor<N>>) -> Param<Tensor<N>> {
            param.map(|value| value.cast(DType::F64))
        }
    }
    module.map(&mut Walk)
}

/// Sizes of a transformer of two double and three single blocks.
pub fn flux_config() -> FluxConfig {
    FluxConfig {
        in_channels: 12,
        out_channels: 8,
        hidden_size: 32,
        num_heads: 2,
        depth: 2,
        depth_single_blocks: 3,
        axes_dim: [4, 6, 6],
        theta: 10_000.0,
        mlp_ratio: 4.0,
        context_in_dim: 24,
        vec_in_dim: 20,
        guidance_embed: true,
        qkv_bias: true,
    }
}

/// That transformer.
pub fn flux(device: &Device) -> Flux {
    randomize(flux_config().init(device), 1, device)
}

/// What [`flux`] may be asked: six image tokens, five of text, a batch of two.
pub fn flux_input(flux: &Flux, device: &Device) -> FluxInput {
    let ids: Vec<[f32; 3]> = (0..6).map(|i| [0.0, (i / 3) as f32, (i % 3) as f32]).collect();
    FluxInput {
        tokens: random_on([2, 6, 12], 11, device),
        rope: flux.rope(5, &ids, device),
        prompt_embeds: random_on([2, 5, 24], 12, device),
        pooled_prompt_embeds: random_on([2, 20], 13, device),
        timesteps: Tensor::from_data([0.7, 0.2], device),
        guidance: Tensor::from_data([4.0, 4.0], device),
    }
}

/// An autoencoder of three levels.
pub fn autoencoder() -> AutoEncoder {
    let config = AutoEncoderConfig {
        block_out_channels: vec![4, 8, 8],
        layers_per_block: 1,
        latent_channels: 4,
        norm_num_groups: 2,
        scaling_factor: 0.3611,
        shift_factor: 0.1159,
    };
    randomize(config.init(&device()), 2, &device())
}

/// A sequence encoder of two layers.
pub fn t5() -> T5 {
    let config = T5Config {
        vocab_size: 9,
        d_model: 12,
        d_kv: 4,
        d_ff: 20,
        num_layers: 2,
        num_heads: 2,
        relative_attention_num_buckets: 32,
        relative_attention_max_distance: 128,
        layer_norm_epsilon: 1e-6,
    };
    randomize(config.init(&device()), 3, &device())
}

/// A text tower of two layers for texts of up to seven tokens.
pub fn clip() -> Clip {
    let config = ClipConfig {
        vocab_size: 9,
        hidden_size: 12,
        intermediate_size: 20,
        num_layers: 2,
        num_heads: 2,
        max_position_embeddings: 7,
        hidden_act: Activation::QuickGelu,
        layer_norm_eps: 1e-5,
    };
    randomize(config.init(&device()), 4, &device())
}

/// Two texts of five tokens.
pub fn token_ids() -> Tensor<2, Int> {
    Tensor::from_data([[1, 2, 3, 4, 8], [5, 6, 7, 8, 0]], &device())
}
