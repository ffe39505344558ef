//! Where 16 bits are too few.

use burn::{prelude::*, tensor::DType};

/// Runs `f` in f32 if `x` is in f16, whose numbers end at 65504: a square, a power or an exponential may be more.
pub(crate) fn widely<const N: usize>(x: Tensor<N>, f: impl FnOnce(Tensor<N>) -> Tensor<N>) -> Tensor<N> {
    if x.dtype() == DType::F16 { in_f32(x, f) } else { f(x) }
}

/// Runs `f` in f32 and returns to the dtype of `x`; f32 and f64 stay as they are.
///
/// Norms need it: sums of squares lose too much in 16 bits.
pub fn in_f32<const N: usize>(x: Tensor<N>, f: impl FnOnce(Tensor<N>) -> Tensor<N>) -> Tensor<N> {
    match x.dtype() {
        DType::F32 | DType::F64 => f(x),
        dtype => f(x.cast(DType::F32)).cast(dtype),
    }
}
