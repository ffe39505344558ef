//! Multi-head attention: heads in, heads out; the operations themselves are [`ace_kernels::attention`].

pub use ace_kernels::attention::{Stream, apart, biased, causal, full, join_heads, joint, split_heads};
