//! What tells the network when it is and how hard to listen: the sinusoid of a scalar and the MLP over it.

use crate::lora::Linear;
use ace_kernels::silu;
use burn::{module::Module, prelude::*, tensor::assert_shape};

/// Width of the sinusoid that timesteps and guidance pass through.
pub const SINUSOID_DIM: usize = 256;

/// Half of the sinusoid: cosines, then as many sines.
const HALF: usize = SINUSOID_DIM / 2;

/// Where the reference's vectorized `exp` rounds up a value that lies just below the middle of two f32s.
const ROUNDED_UP: [usize; 2] = [12, 106];

/// `f_k = 10000^(−k/128)`, bit for bit the f32 numbers of the reference on a CPU.
///
/// Guidance 50 is an angle of `50000·f`, where the last bit of `f` moves the cosine by 0.002. The reference's numbers
/// are therefore reproduced instead of better ones: exponents in f32, `exp` rounded to f32.
fn frequencies() -> Vec<f32> {
    let minus_ln = -(10_000f64.ln()) as f32;
    (0..HALF)
        .map(|k| {
            let exponent = minus_ln * k as f32 / HALF as f32;
            let frequency = f64::from(exponent).exp() as f32;
            if ROUNDED_UP.contains(&k) { frequency.next_up() } else { frequency }
        })
        .collect()
}

/// `[cos(1000·s·f), sin(1000·s·f)]` with `f_k = 10000^(−k/128)`: cosines first. The factor 1000 belongs to the
/// embedding, for timesteps (0..1) and guidance alike.
///
/// # Shapes
/// - scalars: `[B]`, f32
/// - output: `[B, 256]`, f32
pub fn sinusoid(scalars: Tensor<1>) -> Tensor<2> {
    let frequencies = Tensor::<2>::from_data(TensorData::new(frequencies(), [1, HALF]), &scalars.device());
    // The scalar is scaled before it meets the frequencies, as in the reference: the products round differently.
    let angles = (scalars * 1000.0).unsqueeze_dim::<2>(1) * frequencies;
    Tensor::cat(vec![angles.clone().cos(), angles.sin()], 1)
}

/// `out_layer(silu(in_layer(x)))`.
#[derive(Module, Debug)]
pub struct MlpEmbedder {
    /// `[D, in]`
    pub in_layer: Linear,
    /// `[D, D]`
    pub out_layer: Linear,
}

impl MlpEmbedder {
    /// From `input` features to `hidden_size`.
    pub fn new(input: usize, hidden_size: usize, device: &Device) -> Self {
        Self {
            in_layer: Linear::new(input, hidden_size, device),
            out_layer: Linear::new(hidden_size, hidden_size, device),
        }
    }

    /// # Shapes
    /// - x: `[B, in]`
    /// - output: `[B, D]`
    ///
    /// # Panics
    /// If `x` has another number of features.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        let [input, _] = self.in_layer.features();
        assert_shape!(x, [_, input]);
        self.out_layer.forward(silu(self.in_layer.forward(x)))
    }
}
