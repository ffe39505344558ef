//! The Gaussian error linear unit `x·Φ(x)`, and the two approximations that published networks were trained with.

#[cfg(feature = "cube")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex::{Activation, activate};
use crate::precision::widely;
use burn::{
    prelude::*,
    tensor::activation::{self, sigmoid},
};

/// `x·Φ(x)`, with the error function itself.
pub fn gelu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    #[cfg(feature = "flex")]
    if let Some(y) = activate(&x, Activation::Gelu) {
        return y;
    }
    plain_gelu(x)
}

fn plain_gelu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    activation::gelu(x)
}

/// `gelu(x) ≈ x/2 · (1 + tanh(√(2/π)·(x + 0.044715·x³)))`, the approximation that FLUX and T5 use.
pub fn gelu_tanh<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    #[cfg(feature = "flex")]
    if let Some(y) = activate(&x, Activation::GeluTanh) {
        return y;
    }
    #[cfg(feature = "cube")]
    if let Some(y) = cube::gelu_tanh(&x) {
        return y;
    }
    widely(x, plain_gelu_tanh)
}

fn plain_gelu_tanh<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    // √(2/π); the cube is written as products because burn's own goes through a slow `powf`. The sigmoid form
    // x·σ(2u) equals x/2·(1 + tanh u) and needs two passes over the data fewer.
    const TWO_SQRT_2_OVER_PI: f64 = 2.0 * 0.797_884_560_802_865_4;
    let square = x.clone() * x.clone();
    let u = x.clone() * (square * (0.044_715 * TWO_SQRT_2_OVER_PI) + TWO_SQRT_2_OVER_PI);
    x * sigmoid(u)
}

/// `x·σ(1.702·x)`, the approximation of OpenAI's CLIP.
pub fn quick_gelu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    #[cfg(feature = "flex")]
    if let Some(y) = activate(&x, Activation::QuickGelu) {
        return y;
    }
    plain_quick_gelu(x)
}

fn plain_quick_gelu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    x.clone() * sigmoid(x * 1.702)
}

#[cfg(test)]
mod tests {
    use super::{gelu, gelu_tanh, plain_gelu, plain_gelu_tanh, plain_quick_gelu, quick_gelu};
    use crate::testing::{compare, device, values};
    use burn::prelude::*;

    const POINTS: [f64; 6] = [-3.0, -1.0, -0.25, 0.0, 0.5, 2.0];

    fn check(name: &str, f: fn(Tensor<1>) -> Tensor<1>, expected: [f64; 6]) {
        let ours = values(f(Tensor::from_data(POINTS, &device())));
        for ((x, ours), expected) in POINTS.into_iter().zip(ours).zip(expected) {
            assert!((ours - expected).abs() <= 5e-7, "{name}({x}) is {ours}, not {expected}");
        }
    }

    #[test]
    fn values_follow_the_formulas() {
        // The formulas in f64.
        check("gelu", gelu, [-0.004049694, -0.158655254, -0.100323419, 0.0, 0.345731231, 1.954499736]);
        check("gelu_tanh", gelu_tanh, [-0.003637392, -0.158808009, -0.100324649, 0.0, 0.345714010, 1.954597694]);
        check("quick_gelu", quick_gelu, [-0.018071310, -0.154204234, -0.098800350, 0.0, 0.350388437, 1.935658623]);
    }

    #[test]
    fn gradients_follow_the_plain_formulas() {
        for len in [1, 17, 1000, 40_003] {
            // To ±8, in an order that is not the memory's.
            let x = |inputs: &crate::testing::Inputs| inputs.get::<2>(0).transpose() * 8.0;
            let bounds = [5e-7, 1e-6];
            compare("gelu", &[&[len, 3]], bounds, |i| gelu(x(i)), |i| plain_gelu(x(i)));
            compare("gelu_tanh", &[&[len, 3]], bounds, |i| gelu_tanh(x(i)), |i| plain_gelu_tanh(x(i)));
            compare("quick_gelu", &[&[len, 3]], bounds, |i| quick_gelu(x(i)), |i| plain_quick_gelu(x(i)));
        }
    }
}
