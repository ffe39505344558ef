//! Number by number.

use burn_cubecl::{
    cubecl::{
        self, calculate_cube_count_elemwise,
        prelude::*,
        std::tensor::layout::linear::{LinearView, LinearViewMut},
        tensor_vector_size_parallel,
    },
    ops::numeric::empty_device_dtype,
    tensor::CubeTensor,
};

use super::rows::element;

/// `x + gate·y`; the gate may have one row for all.
#[cube(launch)]
fn gate_add_kernel<S: Float, H: Float, N: Size>(
    x: LinearView<'_, Vector<S, N>>,
    gate: LinearView<'_, Vector<H, N>>,
    y: LinearView<'_, Vector<H, N>>,
    mut output: LinearViewMut<'_, Vector<S, N>>,
    #[define(S, H)] _dtypes: [ElemType; 2],
) {
    if !output.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let gate = Vector::<f32, N>::cast_from(gate.read(ABSOLUTE_POS));
    let y = Vector::<f32, N>::cast_from(y.read(ABSOLUTE_POS));
    let x = Vector::<f32, N>::cast_from(x.read(ABSOLUTE_POS));
    output.write(ABSOLUTE_POS, Vector::cast_from(x + gate * y));
}

/// `x·σ(2u)` with `u = √(2/π)·(x + 0.044715·x³)`.
#[cube(launch)]
fn gelu_tanh_kernel<F: Float, N: Size>(
    x: LinearView<'_, Vector<F, N>>,
    mut output: LinearViewMut<'_, Vector<F, N>>,
    #[define(F)] _dtype: ElemType,
) {
    if !output.is_in_bounds(ABSOLUTE_POS) {
        terminate!();
    }
    let x = Vector::<f32, N>::cast_from(x.read(ABSOLUTE_POS));
    let one = Vector::<f32, N>::new(1.0f32);
    let u = x * (x * x * Vector::new(0.071_354_816f32) + Vector::new(1.595_769_1f32));
    // An exponential that is infinite ends in zero, as it should.
    output.write(ABSOLUTE_POS, Vector::cast_from(x / (one + (-u).exp())));
}

pub fn gate_add(x: CubeTensor, gate: CubeTensor, y: CubeTensor) -> CubeTensor {
    let vector = vector_size(&[&x, &gate, &y]);
    let (output, count, dim) = launch(&x, vector);
    let dtypes = [element(&x), element(&y)];
    gate_add_kernel::launch(
        &output.client,
        count,
        dim,
        vector,
        x.into_linear_view_like(&output),
        gate.into_linear_view_like(&output),
        y.into_linear_view_like(&output),
        output.clone().into_linear_view(),
        dtypes,
    );
    output
}

pub fn gelu_tanh(x: CubeTensor) -> CubeTensor {
    let vector = vector_size(&[&x]);
    let (output, count, dim) = launch(&x, vector);
    let dtype = element(&x);
    gelu_tanh_kernel::launch(
        &output.client,
        count,
        dim,
        vector,
        x.into_linear_view_like(&output),
        output.clone().into_linear_view(),
        dtype,
    );
    output
}

/// Numbers of the last axis that all tensors can be read by at a time.
fn vector_size(tensors: &[&CubeTensor]) -> VectorSize {
    let of = |tensor: &&CubeTensor| {
        let sizes = tensor.client.io_optimized_vector_sizes(tensor.dtype.size());
        let last = tensor.meta.num_dims() - 1;
        tensor_vector_size_parallel(sizes, tensor.meta.shape(), tensor.meta.strides(), last)
    };
    tensors.iter().map(of).min().unwrap_or(1)
}

/// Room for a result like `x`, and how many units make it.
fn launch(x: &CubeTensor, vector: VectorSize) -> (CubeTensor, CubeCount, CubeDim) {
    let units = x.meta.shape().num_elements() / vector;
    let dim = CubeDim::new(&x.client, units);
    let count = calculate_cube_count_elemwise(&x.client, units, dim);
    (empty_device_dtype(x.client.clone(), x.device.clone(), x.meta.shape().clone(), x.dtype), count, dim)
}
