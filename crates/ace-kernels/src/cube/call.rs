//! From tensors to [`OwnCube`] and back; `None` where the operation cannot take them.

use super::OwnCube;
use burn::{
    backend::{Dispatch, DispatchDevice},
    prelude::*,
    tensor::DType,
};

/// Cubes along an axis that every GPU launches.
const MOST_CUBES: usize = 65535;

/// `layer_norm(x)·(1 + scale) + shift`, in the dtype of `shift`.
pub fn modulate([x, shift, scale]: [&Tensor<3>; 3], epsilon: f64) -> Option<Tensor<3>> {
    let [batch, rows, _] = x.dims();
    let fits = rows <= MOST_CUBES && batch <= MOST_CUBES && shift.dtype() == scale.dtype();
    (fits && [x, shift, scale].into_iter().all(takes)).then(|| {
        let [x, shift, scale] = [x, shift, scale].map(|part| part.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::cube_modulate(x, shift, scale, epsilon as f32))
    })
}

/// `heads` heads of rows from a column on, normed and turned: `[B, heads, L, d]`.
pub fn norm_turn(
    rows: &Tensor<3>,
    scale: &Tensor<1>,
    [cos, sin]: [&Tensor<4>; 2],
    column: usize,
    heads: usize,
    epsilon: f64,
) -> Option<Tensor<4>> {
    let [batch, tokens, _] = rows.dims();
    let fits = tokens <= MOST_CUBES && batch * heads <= MOST_CUBES && scale.dtype() == rows.dtype();
    (fits && takes(rows) && takes(scale) && takes(cos) && takes(sin) && cos.dtype() == sin.dtype()).then(|| {
        Tensor::from_dispatch(Dispatch::cube_norm_turn(
            rows.clone().into_dispatch(),
            scale.clone().into_dispatch(),
            cos.clone().into_dispatch(),
            sin.clone().into_dispatch(),
            column as u32,
            heads as u32,
            epsilon as f32,
        ))
    })
}

/// `x + gate·y`, in the dtype of `x`.
pub fn gate_add([x, gate, y]: [&Tensor<3>; 3]) -> Option<Tensor<3>> {
    (gate.dtype() == y.dtype() && [x, gate, y].into_iter().all(takes)).then(|| {
        let [x, gate, y] = [x, gate, y].map(|part| part.clone().into_dispatch());
        Tensor::from_dispatch(Dispatch::cube_gate_add(x, gate, y))
    })
}

/// GELU's approximation with tanh.
pub fn gelu_tanh<const N: usize>(x: &Tensor<N>) -> Option<Tensor<N>> {
    takes(x).then(|| Tensor::from_dispatch(Dispatch::cube_gelu_tanh(x.clone().into_dispatch())))
}

/// On a GPU backend, not empty, not part of a graph.
fn takes<const N: usize>(x: &Tensor<N>) -> bool {
    let device = x.device();
    matches!(x.dtype(), DType::F32 | DType::BF16 | DType::F16)
        && !x.dims().contains(&0)
        && matches!(device.as_dispatch(), DispatchDevice::Cube(_))
}
