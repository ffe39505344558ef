//! Layer norm: `(x − mean) / √(var + eps)` over the last axis.
//!
//! Rows are a few thousand numbers long at most (a network's width), so that running sums in f32 are good to a few
//! roundings; [`group_norm`](crate::group_norm), whose groups have millions, sums in two levels.

#[cfg(feature = "cube")]
use crate::cube;
#[cfg(feature = "flex")]
use crate::flex;
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

/// `layer_norm(x)·(1 + scale) + shift`, at least in f32; in the dtype of `shift` and `scale`, than which `x` may be wider.
///
/// # Shapes
/// - x, output: `[B, L, width]`
/// - shift, scale: `[B, 1, width]` or `[B, L, width]`
///
/// # Panics
/// If these shapes do not agree.
pub fn modulated_layer_norm(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, epsilon: f64) -> Tensor<3> {
    let ([batch, len, width], [_, rows, _]) = (x.dims(), shift.dims());
    assert!(rows == 1 || rows == len, "shift has {rows} rows, neither 1 nor {len}");
    assert_shape!(shift, [batch, rows, width]);
    assert_shape!(scale, [batch, rows, width]);
    let dtype = shift.dtype();
    #[cfg(feature = "flex")]
    if let Some(y) = flex::modulate([&x, &shift, &scale], epsilon) {
        return y.cast(dtype);
    }
    #[cfg(feature = "cube")]
    if let Some(y) = cube::modulate([&x, &shift, &scale], epsilon) {
        return y;
    }
    if dtype == x.dtype() {
        return plain_modulated(x, shift, scale, epsilon);
    }
    let wide = x.dtype();
    plain_modulated(x, shift.cast(wide), scale.cast(wide), epsilon).cast(dtype)
}

fn plain_modulated(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>, epsilon: f64) -> Tensor<3> {
    layer_norm(x, epsilon) * (scale + 1.0) + shift
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
    use super::{layer_norm, modulated_layer_norm, plain_modulated, scaled_layer_norm};
    use crate::testing::{Inputs, compare, device, has_wide_vectors, random, relative_error, values};
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
        let widest = if has_wide_vectors() { 2e-6 } else { 3e-6 };
        for (width, mean, bound) in [(3072, 0.0, 2e-7), (3072, 10.0, 2e-6), (4096, 10.0, widest)] {
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

    #[test]
    fn modulation_follows_the_plain_formula() {
        for ([batch, len, width], rows) in [([1, 70, 64], 1), ([2, 33, 37], 1), ([3, 5, 130], 5), ([1, 1, 1024], 1)] {
            let (x, shift) = ([batch, len, width], [batch, rows, width]);
            let shapes: [&[usize]; 3] = [&x, &shift, &shift];
            compare(
                "dense",
                &shapes,
                [1e-6, 2e-6],
                |i| modulated_layer_norm(i.get(0), i.get(1), i.get(2), 1e-6),
                |i| plain_modulated(i.get(0), i.get(1), i.get(2), 1e-6),
            );
            // Parts of wider rows, as a modulation's output is cut.
            let part = |i: &Inputs, index: usize| i.get::<3>(index).narrow(2, 5, width - 7);
            compare(
                "parts",
                &shapes,
                [1e-6, 2e-6],
                |i| modulated_layer_norm(part(i, 0), part(i, 1), part(i, 2), 1e-6),
                |i| plain_modulated(part(i, 0), part(i, 1), part(i, 2), 1e-6),
            );
        }
    }

    #[test]
    fn a_wide_stream_is_modulated_in_its_own_numbers() {
        // In f16 the stream itself would be infinite.
        let (x, shift, scale) = (random([1, 5, 32], 1) * 1e6, random([1, 1, 32], 2), random([1, 1, 32], 3));
        let halves = [&shift, &scale].map(|rows: &Tensor<3>| rows.clone().cast(DType::F16));
        let [narrow_shift, narrow_scale] = halves.clone();
        let ours = modulated_layer_norm(x.clone(), narrow_shift, narrow_scale, 1e-6);
        assert_eq!(ours.dtype(), DType::F16);
        let [shift, scale] = halves.map(|rows| rows.cast(DType::F32));
        let expected = plain_modulated(x, shift, scale, 1e-6);
        assert!(relative_error(&values(ours), &values(expected)) <= 1e-3);
    }

    #[test]
    #[should_panic(expected = "shift has 2 rows, neither 1 nor 3")]
    fn a_shift_of_another_length_is_a_mistake() {
        modulated_layer_norm(random([1, 3, 4], 1), random([1, 2, 4], 2), random([1, 2, 4], 3), 1e-6);
    }
}
