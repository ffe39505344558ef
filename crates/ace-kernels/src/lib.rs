//! A few operations that networks spend their time in: activations, norms, attention and convolutions.
//!
//! Each operation has one file with its plain implementation, which runs and differentiates on every burn device, and
//! its tests. Where a backend can do better than the plain implementation, its own version stands in the same file
//! behind a feature and gives the same numbers up to rounding.
//!
//! This crate knows no networks: it has no parameters and no sizes of its own.

// What only gradients use, or only the vectors of some processors, has no callers in builds without them.
#![cfg_attr(not(all(feature = "autodiff", target_arch = "x86_64")), allow(dead_code))]

#[cfg(feature = "cube")]
mod cube;
#[cfg(feature = "flex")]
mod flex;
mod precision;

pub mod attention;
mod conv;
pub mod counted;
mod gate;
mod gelu;
mod group_norm;
mod layer_norm;
pub mod limit;
mod linear;
pub mod packed;
mod pages;
mod rms_norm;
mod rope;
mod silu;

pub use conv::{Convolution, conv2d};
pub use counted::Counted;
pub use gate::gate_add;
pub use gelu::{gelu, gelu_tanh, quick_gelu};
pub use group_norm::{group_norm, group_norm_silu};
pub use layer_norm::{layer_norm, modulated_layer_norm, scaled_layer_norm};
pub use linear::{LowRank, add_low_rank, linear};
pub use pages::Pages;
pub use precision::in_f32;
pub use rms_norm::rms_norm;
pub use rope::rotate_pairs;
pub use silu::silu;

#[cfg(test)]
mod testing;
