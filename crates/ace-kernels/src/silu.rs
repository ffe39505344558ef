//! `silu(x) = x·σ(x)`

use burn::{prelude::*, tensor::activation::sigmoid};

/// `x·σ(x)`, element by element.
pub fn silu<const N: usize>(x: Tensor<N>) -> Tensor<N> {
    x.clone() * sigmoid(x)
}

#[cfg(test)]
mod tests {
    use super::silu;
    use crate::testing::{device, values};
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
}
