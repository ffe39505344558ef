//! Multi-head attention over burn's `attention`: heads in, heads out.

use burn::{
    prelude::*,
    tensor::{module::attention, ops::AttentionModuleOptions},
};

/// Splits the last axis into heads: `[B, L, heads·d]` to `[B, heads, L, d]`.
pub fn split_heads(x: Tensor<3>, num_heads: usize) -> Tensor<4> {
    let [batch, len, width] = x.dims();
    x.reshape([batch, len, num_heads, width / num_heads]).swap_dims(1, 2)
}

/// Joins heads again: `[B, heads, L, d]` to `[B, L, heads·d]`.
pub fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, len, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, len, heads * width])
}

/// `softmax(q·kᵀ/√d)·v`, every position sees every other. No scale is passed on: burn's fused kernels are used only
/// with their own default, which is the same 1/√d.
///
/// # Shapes
/// - q, k, v, output: `[B, heads, L, d]`
pub fn full(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    attention(q, k, v, None, None, AttentionModuleOptions::default())
}

/// As [`full`], with each position seeing only itself and what came before.
pub fn causal(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>) -> Tensor<4> {
    attention(q, k, v, None, None, AttentionModuleOptions { is_causal: true, ..Default::default() })
}

/// `softmax(q·kᵀ + bias)·v`: T5's attention, without the 1/√d.
///
/// # Shapes
/// - bias: `[B, heads, L, L]`
pub fn biased(q: Tensor<4>, k: Tensor<4>, v: Tensor<4>, bias: Tensor<4>) -> Tensor<4> {
    attention(q, k, v, None, Some(bias), AttentionModuleOptions { scale: Some(1.0), ..Default::default() })
}
