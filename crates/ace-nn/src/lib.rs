//! The networks of ACE++ on FLUX.1: tensors in, tensors out.
//!
//! This crate knows no files, no pictures, no words, no randomness and no clock: the same tensors give the same
//! tensors, on every burn device. Module fields carry the names of the published checkpoints, and weights have their
//! layout (a linear weight is `[out, in]`), so that reading a file needs no transposition.
//!
//! Shape legend: `B` batch, `L` image tokens, `T` text tokens, `D` hidden size, `H`/`W` pixels, `h`/`w` latent cells.
//!
//! Operations that take time are in `ace-kernels`; here are the layers that have parameters, and the networks. Every
//! public `forward` checks the shapes it is given and panics with the axis that is wrong: another shape is a mistake of
//! the caller's code, not of a user. Each network also has a form that can be left between its blocks ([`poll`]).
//!
//! Networks are created with every weight zero and not yet allocated; whoever owns a checkpoint (or a seed) fills
//! them through burn's `ModuleMapper`, parameter by parameter.

pub mod attention;
mod halves;
pub mod layers;
pub mod lora;
pub mod poll;
pub mod rope;
pub mod segments;
pub mod transposed;
pub mod weight;

pub mod autoencoder;
pub mod clip;
pub mod contour;
pub mod depth;
pub mod flux;
pub mod redux;
pub mod sam;
pub mod t5;
pub mod vit;

pub use ace_kernels::limit;

#[cfg(test)]
mod shapes;
#[cfg(test)]
mod testing;
