//! Rectified flow: `x_t = (1−t)·latents + t·noise`, the network predicts `noise − latents`, Euler walks from 1 to 0.
//!
//! This file alone knows which way time runs: **1 is noise, 0 is image**, as in BFL's code for FLUX.1.

use burn::prelude::*;

/// One Euler step: `x + (t_next − t)·velocity`.
pub fn euler<const D: usize>(x: Tensor<D>, velocity: Tensor<D>, t: f32, t_next: f32) -> Tensor<D> {
    x + velocity * (t_next - t)
}

/// `(1−t)·latents + t·noise`, one `t` per sample.
///
/// # Shapes
/// - latents, noise, output: `[B, L, C]`; t: `[B]`
pub fn interpolate(latents: Tensor<3>, noise: Tensor<3>, t: Tensor<1>) -> Tensor<3> {
    let t: Tensor<3> = t.reshape([-1, 1, 1]);
    latents * (t.clone() * -1.0 + 1.0) + noise * t
}

/// What the network should predict: `noise − latents`.
pub fn velocity<const D: usize>(latents: Tensor<D>, noise: Tensor<D>) -> Tensor<D> {
    noise - latents
}
