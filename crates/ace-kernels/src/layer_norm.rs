//! Layer norm: `(x − mean) / √(var + eps)` over the last axis.
//!
//! Rows are a few thousand numbers long at most (a network's width), so that running sums in f32 are good to a few
//! roundings; [`group_norm`](crate::group_norm), whose groups have millions, sums in two levels.

use crate::in_f32;
use burn::{
    prelude::*,
    tensor::{assert_shape, module},
};

/// Layer norm without scale and shift, at least in f32.
///
/// # Shapes
/// - x, output: `[.., width]`
pub fn layer_norm<const N: usize>(x: Tensor<N>, epsilon: f64) -> Tensor<N> {
    let width = x.dims()[N - 1];
    in_f32(x, |x| {
        let ones = Tensor::ones([width], (&x.device(), x.dtype()));
        module::layer_norm(x, ones, None, epsilon)
    })
}

/// Layer norm, times `weight`, plus `bias`, at least in f32.
///
/// # Shapes
/// - x, output: `[.., width]`
/// - weight, bias: `[width]`
///
/// # Panics
/// If `weight` or `bias` has another width than `x`.
pub fn scaled_layer_norm<const N: usize>(x: Tensor<N>, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<N> {
    let width = x.dims()[N - 1];
    assert_shape!(weight, [width]);
    assert_shape!(bias, [width]);
    in_f32(x, |x| {
        let dtype = x.dtype();
        module::layer_norm(x, weight.cast(dtype), Some(bias.cast(dtype)), epsilon)
    })
}

#[cfg(test)]
mod tests {
    use super::{layer_norm, scaled_layer_norm};
    use crate::testing::{device, random, relative_error, values};
    use burn::{prelude::*, tensor::DType};

    /// The formula in f64.
    fn reference(x: Tensor<2>, epsilon: f64) -> Vec<f64> {
        let [_, width] = x.dims();
        let rows = values(x);
        let normed = rows.chunks(width).flat_map(|row| {
            let mean = row.iter().sum::<f64>() / width as f64;
            let variance = row.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / width as f64;
            row.iter().map(move |x| (x - mean) / (variance + epsilon).sqrt())
        });
        normed.collect()
    }

    #[test]
    fn a_row_of_a_large_network_loses_nothing_to_its_mean() {
        // FLUX's streams are 3072 wide, T5's 4096. What is left is the rounding of the mean itself: f32 holds one that is
        // seventeen times the spread to seventeen times 6e-8 of the spread.
        for (width, mean, bound) in [(3072, 0.0, 2e-7), (3072, 10.0, 2e-6), (4096, 10.0, 2e-6)] {
            let x = random([16, width], 1) + mean;
            let error = relative_error(&values(layer_norm(x.clone(), 1e-6)), &reference(x, 1e-6));
            assert!(error <= bound, "width {width}, mean {mean}: {error:e}");
        }
    }

    #[test]
    fn scale_and_shift_follow_the_norm() {
        let (x, weight, bias) = (random([3, 40], 1), random([40], 2), random([40], 3));
        let ours = values(scaled_layer_norm(x.clone(), weight.clone(), bias.clone(), 1e-5));
        let (weight, bias) = (values(weight), values(bias));
        let expected: Vec<f64> =
            reference(x, 1e-5).iter().enumerate().map(|(i, x)| x * weight[i % 40] + bias[i % 40]).collect();
        assert!(relative_error(&ours, &expected) <= 1e-6);
    }

    #[test]
    fn sixteen_bits_are_normed_in_f32_and_come_back_as_they_were() {
        let x = random([2, 64], 1).cast(DType::BF16);
        let normed = layer_norm(x.clone(), 1e-6);
        assert_eq!(normed.dtype(), DType::BF16);
        let expected = layer_norm(x.cast(DType::F32), 1e-6).cast(DType::BF16);
        assert_eq!(normed.into_data(), expected.into_data());
    }

    #[test]
    #[should_panic(expected = "assert_shape!(weight, [width]): axis 0 expected 8, got 7 (dims [7])")]
    fn another_width_is_a_mistake() {
        let one = |width: usize| Tensor::<1>::ones([width], &device());
        scaled_layer_norm(random([2, 8], 1), one(7), one(8), 1e-6);
    }
}
