//! Our own operations on burn's GPU backends, one launch each, in CubeCL: the same source runs on CUDA, ROCm, Metal, Vulkan and
//! WebGPU.
//!
//! They have no backward passes; what learns goes the plain way. Sums and functions are in f32, whatever the tensors hold. In a
//! build that fuses (feature `fusion`) an operation of ours is a step of its own among fused ones: the norms, which burn makes
//! of several launches, stay ours there, while chains of element-wise operations are left to burn, which fuses them with their
//! neighbours.

mod call;
mod elements;
mod rows;

pub use call::{gate_add, gelu_tanh, modulate, norm_turn};

use burn::backend::{Backend, backend_extension, tensor::FloatTensor};
use burn_cubecl::{CubeBackend, tensor::CubeTensor};

/// The operations. Callers have checked shapes, and [`call`] devices.
#[backend_extension(Cube, Fusion: cfg(feature = "fusion"))]
pub trait OwnCube: Backend {
    /// `layer_norm(x)·(1 + scale) + shift` of rows `[B, L, W]`, in the dtype of `shift`.
    #[cfg_attr(feature = "fusion", fusion(dtype = shift, shape = x))]
    fn cube_modulate(
        x: FloatTensor<Self>,
        shift: FloatTensor<Self>,
        scale: FloatTensor<Self>,
        epsilon: f32,
    ) -> FloatTensor<Self>;

    /// Heads of rows, `[B, L, ..]` from a column on, normed and turned: `[B, heads, L, d]`, `heads·d` columns.
    #[cfg_attr(feature = "fusion", fusion(dtype = rows, shape = heads_of(rows, cos, *heads)))]
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
    #[cfg_attr(feature = "fusion", fusion(dtype = x, shape = x))]
    fn cube_gate_add(x: FloatTensor<Self>, gate: FloatTensor<Self>, y: FloatTensor<Self>) -> FloatTensor<Self>;

    /// GELU's approximation with tanh.
    #[cfg_attr(feature = "fusion", fusion(dtype = x, shape = x))]
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
