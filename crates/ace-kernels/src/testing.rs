//! What the tests of several operations need.

use burn::prelude::*;

/// Where the tests compute.
pub fn device() -> Device {
    Device::default()
}

/// A tensor's values on the host, in f64.
pub fn values<const N: usize>(tensor: Tensor<N>) -> Vec<f64> {
    tensor.into_data_as::<f64>().iter::<f64>().collect()
}

/// Numbers in −1..1 that look random, the same for the same seed.
pub fn noise(seed: u64) -> impl FnMut() -> f32 {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

/// [`noise`] in the given shape.
pub fn random<const N: usize>(shape: [usize; N], seed: u64) -> Tensor<N> {
    let mut next = noise(seed);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_: usize| next()).collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

/// `|ours − reference| / |reference|` with the Euclidean norm.
pub fn relative_error(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let (error, norm) = ours.iter().zip(reference).fold((0.0, 0.0), |(error, norm), (ours, reference)| {
        (error + (ours - reference).powi(2), norm + reference * reference)
    });
    (error / norm).sqrt()
}
