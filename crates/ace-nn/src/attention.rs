//! Multi-head attention: heads in, heads out; the operations themselves are [`ace_kernels::attention`].

pub use ace_kernels::attention::{biased, causal, full};

use burn::prelude::*;

/// Splits the last axis into heads: `[B, L, heads·d]` to `[B, heads, L, d]`.
///
/// # Panics
/// If the width is not a multiple of `num_heads`.
pub fn split_heads(x: Tensor<3>, num_heads: usize) -> Tensor<4> {
    let [batch, len, width] = x.dims();
    assert!(width.is_multiple_of(num_heads), "{width} features are not a multiple of {num_heads} heads");
    x.reshape([batch, len, num_heads, width / num_heads]).swap_dims(1, 2)
}

/// Joins heads again: `[B, heads, L, d]` to `[B, L, heads·d]`.
pub fn join_heads(x: Tensor<4>) -> Tensor<3> {
    let [batch, heads, len, width] = x.dims();
    x.swap_dims(1, 2).reshape([batch, len, heads * width])
}
