//! RMS norm: `x / √(mean(x²) + eps) · scale` over the last axis.
//!
//! The squares of a row are a few thousand positive numbers: their running sum in f32 is good to a few roundings.

#[cfg(feature = "flex")]
use crate::flex;
use crate::in_f32;
use burn::{
    prelude::*,
    tensor::{DType, assert_shape},
};

/// RMS norm; the mean at least in f32, the product with `scale` in the dtype of `x`.
///
/// # Shapes
/// - x, output: `[.., width]`
/// - scale: `[width]`
///
/// # Panics
/// If `scale` has another width than `x`.
pub fn rms_norm<const N: usize>(x: Tensor<N>, scale: Tensor<1>, epsilon: f64) -> Tensor<N> {
    let width = x.dims()[N - 1];
    assert_shape!(scale, [width]);
    #[cfg(feature = "flex")]
    if let Some(y) = flex::root_norm(&x, &scale, epsilon) {
        return y;
    }
    let scale = if x.dtype() == DType::F32 { scale.cast(DType::F32) } else { scale };
    plain(x, scale, epsilon)
}

fn plain<const N: usize>(x: Tensor<N>, scale: Tensor<1>, epsilon: f64) -> Tensor<N> {
    let normed = in_f32(x, |x| {
        let mean_square = (x.clone() * x.clone()).mean_dim(N - 1);
        x / (mean_square + epsilon).sqrt()
    });
    normed * scale.unsqueeze()
}

#[cfg(test)]
mod tests {
    use super::{plain, rms_norm};
    use crate::testing::{compare, device, random, relative_error, values};
    use burn::prelude::*;

    #[test]
    fn a_row_of_a_large_network_follows_the_formula() {
        // A head of FLUX is 128 wide, T5's stream 4096.
        for (width, mean) in [(128, 0.0), (4096, 0.0), (4096, 30.0)] {
            let (x, scale) = (random([16, width], 1) + mean, random([width], 2));
            let (rows, scales) = (values(x.clone()), values(scale.clone()));
            let expected: Vec<f64> = rows
                .chunks(width)
                .flat_map(|row| {
                    let square = row.iter().map(|x| x * x).sum::<f64>() / width as f64;
                    row.iter().zip(&scales).map(move |(x, scale)| x / (square + 1e-6).sqrt() * scale)
                })
                .collect();
            let error = relative_error(&values(rms_norm(x, scale, 1e-6)), &expected);
            assert!(error <= 5e-7, "width {width}, mean {mean}: {error:e}");
        }
    }

    #[test]
    #[should_panic(expected = "assert_shape!(scale, [width]): axis 0 expected 8, got 7 (dims [7])")]
    fn another_width_is_a_mistake() {
        rms_norm(random([2, 8], 1), Tensor::ones([7], &device()), 1e-6);
    }

    #[test]
    fn gradients_follow_the_plain_formula() {
        for [rows, heads, width] in [[70, 3, 128], [1, 1, 5], [9, 2, 33]] {
            let shapes: [&[usize]; 2] = [&[rows, heads, width], &[width]];
            compare(
                "heads before rows",
                &shapes,
                [1e-6, 2e-6],
                |i| rms_norm(i.get::<3>(0).swap_dims(0, 1), i.get(1), 1e-6),
                |i| plain(i.get::<3>(0).swap_dims(0, 1), i.get(1), 1e-6),
            );
        }
    }
}
