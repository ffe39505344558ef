//! What the tests of several operations need.

use burn::{prelude::*, tensor::DType};

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

/// Whether the processor has vectors of sixteen numbers (AVX-512). Those without were seen to lose a little more in long sums.
pub fn has_wide_vectors() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("avx512f");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// `|ours − reference| / |reference|` with the Euclidean norm.
pub fn relative_error(ours: &[f64], reference: &[f64]) -> f64 {
    assert_eq!(ours.len(), reference.len());
    let (error, norm) = ours.iter().zip(reference).fold((0.0, 0.0), |(error, norm), (ours, reference)| {
        (error + (ours - reference).powi(2), norm + reference * reference)
    });
    (error / norm).sqrt()
}

/// Tensors of several ranks, each from a leaf of the graph.
pub struct Inputs {
    leaves: Vec<Tensor<1>>,
    shapes: Vec<Vec<usize>>,
}

impl Inputs {
    fn new(shapes: &[&[usize]], device: &Device, dtype: DType, learn: bool) -> Self {
        let leaf = |(i, shape): (usize, &&[usize])| {
            let leaf = random([shape.iter().product::<usize>()], i as u64 + 1).cast(dtype).into_data();
            let leaf = Tensor::from_data(leaf, (device, dtype));
            if learn { leaf.require_grad() } else { leaf }
        };
        Self {
            leaves: shapes.iter().enumerate().map(leaf).collect(),
            shapes: shapes.iter().map(|shape| shape.to_vec()).collect(),
        }
    }

    /// Input `i`, which has `N` axes.
    pub fn get<const N: usize>(&self, i: usize) -> Tensor<N> {
        let shape: [usize; N] = self.shapes[i].clone().try_into().expect("as many axes as the test says");
        self.leaves[i].clone().reshape(shape)
    }
}

/// Compares `ours` in f32 with `plain` in f64: the output, and every input's gradient of the output times random numbers.
/// Without gradients `ours` must give the same bits as with them.
pub fn compare<const N: usize>(
    name: &str,
    shapes: &[&[usize]],
    [output_bound, gradient_bound]: [f64; 2],
    ours: impl Fn(&Inputs) -> Tensor<N>,
    plain: impl Fn(&Inputs) -> Tensor<N>,
) {
    let run = |dtype: DType, f: &dyn Fn(&Inputs) -> Tensor<N>| {
        let device = device().autodiff();
        let inputs = Inputs::new(shapes, &device, dtype, true);
        let y = f(&inputs);
        let weights = Tensor::from_inner(random(y.dims(), 99).cast(dtype));
        let gradients = (y.clone() * weights).sum().backward();
        let of = |leaf: &Tensor<1>| leaf.grad(&gradients).map(values).unwrap_or_default();
        (y.inner(), inputs.leaves.iter().map(of).collect::<Vec<_>>())
    };
    let ((output, gradients), (expected, expected_gradients)) = (run(DType::F32, &ours), run(DType::F64, &plain));
    let bare = ours(&Inputs::new(shapes, &device(), DType::F32, false));
    assert_eq!(bare.into_data(), output.clone().into_data(), "{name}: without gradients");
    let error = relative_error(&values(output), &values(expected));
    assert!(error <= output_bound, "{name}: the output is off by {error:e}");
    for (i, (ours, expected)) in gradients.iter().zip(&expected_gradients).enumerate() {
        let error = relative_error(ours, expected);
        assert!(error <= gradient_bound, "{name}: the gradient of input {i} is off by {error:e}");
    }
}
