//! How a matrix of weights is held, and `x·Wᵀ` with it.
//!
//! A matrix is `[out, in]`, as in the published files. It is *dense* (f32, bf16 or f16, as its file has it) or
//! *quantized* (burn's `QFloat`: fewer bits and a scale per block). A quantized matrix stays as small as it is; every
//! use widens it anew, and the wide copy lives as long as the product takes. Callers need not know which they have.

use burn::{
    module::Param,
    prelude::*,
    tensor::{DType, module::linear},
};

/// `x·Wᵀ + bias`
///
/// # Shapes
/// - x: `[.., in]`
/// - weight: `[out, in]`; bias: `[out]`
/// - output: `[.., out]`
pub fn multiply<const N: usize>(x: Tensor<N>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<N> {
    let weight = widened(weight, x.dtype());
    linear(x, weight.transpose(), bias)
}

/// A weight as floats: itself if it is dense, or in `dtype` if it is quantized.
pub fn widened<const N: usize>(weight: Tensor<N>, dtype: DType) -> Tensor<N> {
    match weight.dtype() {
        DType::QFloat(_) => weight.dequantize().cast(dtype),
        _ => weight,
    }
}

/// Changes a parameter in f32 and returns to its dtype; one that was quantized stays in f32, for nobody can say which
/// scales the new numbers need.
pub fn change_in_f32<const N: usize>(
    param: Param<Tensor<N>>,
    change: impl FnOnce(Tensor<N>) -> Tensor<N>,
) -> Param<Tensor<N>> {
    param.map(|value| match value.dtype() {
        DType::QFloat(_) => change(widened(value, DType::F32)),
        dtype => change(value.cast(DType::F32)).cast(dtype),
    })
}
