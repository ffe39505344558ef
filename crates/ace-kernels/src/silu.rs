//! `silu(x) = x·σ(x)`

#[cfg(feature = "flex")]
use crate::flex::{Activation, activate};
use crate::precision::widely;
use burn::{prelude::*, tensor::activation::sigmoid};

/// `x·σ(x)`, element by element.
pub fn silu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    #[cfg(feature = "flex")]
    if let Some(y) = activate(&x, Activation::Silu) {
        return y;
    }
    widely(x, plain)
}

fn plain<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    x.clone() * sigmoid(x)
}

#[cfg(test)]
mod tests {
    use super::{plain, silu};
    use crate::testing::{compare, device, values};
    use burn::prelude::*;

    #[test]
    fn values_follow_the_formula() {
        let points = [-30.0f64, -1.5, -0.1, 0.0, 0.7, 4.0, 30.0];
        let ours = values(silu(Tensor::<1>::from_data(points, &device())));
        for (x, ours) in points.into_iter().zip(ours) {
            let expected = x / (1.0 + (-x).exp());
            assert!((ours - expected).abs() <= 1e-6 * x.abs().max(1e-6), "silu({x}) is {ours}, not {expected}");
        }
    }

    #[test]
    fn gradients_follow_the_plain_formula() {
        for shape in [[1, 1], [3, 7], [129, 301]] {
            let bounds = [5e-7, 1e-6];
            compare("silu", &[&shape], bounds, |i| silu(i.get::<2>(0) * 9.0), |i| plain(i.get::<2>(0) * 9.0));
        }
    }
}
