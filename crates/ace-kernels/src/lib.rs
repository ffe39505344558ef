//! A few operations that networks spend their time in: activations, norms and attention.
//!
//! Each operation has one file with its plain implementation, which runs and differentiates on every burn device, and
//! its tests. Where a backend can do better than the plain implementation, its own version stands in the same file
//! behind a feature and gives the same numbers up to rounding.
//!
//! This crate knows no networks: it has no parameters and no sizes of its own.

mod precision;

pub mod attention;
mod gelu;
mod group_norm;
mod layer_norm;
pub mod packed;
mod rms_norm;
mod silu;

pub use gelu::{gelu, gelu_tanh, quick_gelu};
pub use group_norm::group_norm;
pub use layer_norm::{layer_norm, scaled_layer_norm};
pub use precision::in_f32;
pub use rms_norm::rms_norm;
pub use silu::silu;

#[cfg(test)]
mod testing;
