//! Our own operations on burn's GPU backends, one launch each, in CubeCL: the same source runs on CUDA, ROCm, Metal, Vulkan and
//! WebGPU.
//!
//! They have no backward passes; what learns goes the plain way. Sums and functions are in f32, whatever the tensors hold. A
//! build that fuses makes few launches of the plain ones itself and goes without these.

mod call;
mod elements;
mod rows;

pub use call::{gate_add, gelu_tanh, modulate, norm_turn};

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// The operations. Callers have checked shapes, and [`call`] devices.
#[backend_extension(Cube)]
pub trait OwnCube: Backend {
    /// `layer_norm(x)·(1 + scale) + shift` of rows `[B, L, W]`, in the dtype of `shift`.
    fn cube_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    /// Heads of rows, `[B, L, ..]` from a column on, normed and turned: `[B, heads, L, d]`, `heads·d` columns.
    fn cube_norm_turn(
        rows: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
        column: u32,
        heads: u32,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    /// `x + gate·y`, in the dtype of `x`.
    fn cube_gate_add(x: FloatTensor<Self>, gate: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// GELU's approximation with tanh.
    fn cube_gelu_tanh(x: FloatTensor<Self>) -> FloatTensor<Self>;
}

/// `[B, heads, L, d]` of rows `[B, L, ..]` and tables `[1, 1, L, d/2]`.
fn heads_of(rows: &burn::tensor::Shape, cos: &burn::tensor::Shape, heads: u32) -> burn::tensor::Shape {
    burn::tensor::Shape::new([rows[0], heads as usize, rows[1], 2 * cos[3]])
}

impl OwnCube for CubeBackend {
    fn cube_modulate(x: CubeTensor, shift: CubeTensor, scale: CubeTensor, epsilon: f32) -> CubeTensor {
        rows::modulate(x, shift, scale, epsilon)
    }

    fn cube_norm_turn(
        rows: CubeTensor,
        scale: CubeTensor,
        cos: CubeTensor,
        sin: CubeTensor,
        column: u32,
        heads: u32,
        epsilon: f32,
    ) -> CubeTensor {
        let shape = heads_of(rows.meta.shape(), cos.meta.shape(), heads);
        rows::norm_turn(rows, scale, [cos, sin], column, shape, epsilon)
    }

    fn cube_gate_add(x: CubeTensor, gate: CubeTensor, y: CubeTensor) -> CubeTensor {
        elements::gate_add(x, gate, y)
    }

    fn cube_gelu_tanh(x: CubeTensor) -> CubeTensor {
        elements::gelu_tanh(x)
    }
}
