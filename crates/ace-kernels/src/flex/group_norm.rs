//! Group norm over pictures whose channels lie beside each other, with SiLU behind it if wanted.
//!
//! As the plain one, numbers are centred on one near their mean before they are squared, and added up in two levels: in f32
//! over a few pixels, in f64 over those sums.

use super::{
    conv::{Sizes, in_pixels, numbers, tensor_of},
    memory::{GRAIN, New, dense, each, numbers as dense_numbers},
    simd::{sigmoid, wide},
};
use burn_flex::FlexTensor;
use rayon::prelude::*;

/// The first of so many parts of a picture tells what is near its groups' means.
const PARTS: usize = 8;
/// Pixels that are added up in f32.
const FEW: usize = 64;

/// `(x − mean)/√(var + ε)·weight + bias`, and of that SiLU if `silu`.
pub fn forward(
    x: FlexTensor,
    groups: usize,
    weight: FlexTensor,
    bias: FlexTensor,
    epsilon: f64,
    silu: bool,
) -> FlexTensor {
    let (x, weight, bias) = (in_pixels(x), dense(weight), dense(bias));
    let sizes = Sizes::of(&x);
    let Sizes { batch, height, width, channels } = sizes;
    let (from, weight, bias) = (numbers(&x), dense_numbers(&weight), dense_numbers(&bias));
    let (pixels, per_group) = (height * width, channels / groups);
    let picture = pixels * channels;
    let mut out = New::of(batch * picture);
    let to = out.shared();
    for (index, from) in from.chunks_exact(picture).enumerate() {
        let over_group =
            |sums: &[f64]| -> Vec<f64> { sums.chunks_exact(per_group).map(|sums| sums.iter().sum()).collect() };
        let part = pixels.div_ceil(PARTS);
        let (sums, _) = sums_of(&from[..part * channels], channels, &vec![0.0; channels]);
        let count = (part * per_group) as f64;
        let near: Vec<f32> = over_group(&sums).into_iter().map(|sum| (sum / count) as f32).collect();
        let of_channel: Vec<f32> = (0..channels).map(|channel| near[channel / per_group]).collect();
        let (sums, squares) = sums_of(from, channels, &of_channel);
        let count = (pixels * per_group) as f64;
        let (mut scale, mut shift) = (vec![0.0; channels], vec![0.0; channels]);
        for (group, (sum, square)) in over_group(&sums).into_iter().zip(over_group(&squares)).enumerate() {
            let (rest, square) = (sum / count, square / count);
            // Rounding may leave a constant group a variance a little below zero.
            let spread = ((square - rest * rest).max(0.0) + epsilon).sqrt();
            for channel in group * per_group..(group + 1) * per_group {
                scale[channel] = (f64::from(weight[channel]) / spread) as f32;
                shift[channel] = (f64::from(bias[channel]) - rest * f64::from(weight[channel]) / spread) as f32;
            }
        }
        let together = (GRAIN / channels).max(1);
        each(pixels.div_ceil(together), picture, |task| {
            let first = task * together * channels;
            let len = (together * channels).min(picture - first);
            let to = to.part(index * picture + first, len);
            normalize(&from[first..][..len], &of_channel, &scale, &shift, silu, to);
        });
    }
    tensor_of(out, sizes)
}

/// Sums of each channel's numbers, and of their squares, after `near` was taken from them.
fn sums_of(from: &[f32], channels: usize, near: &[f32]) -> (Vec<f64>, Vec<f64>) {
    let together = (8 * GRAIN / channels).max(1) * channels;
    let parts: Vec<Vec<f64>> = from
        .par_chunks(together)
        .map(|from| {
            let mut sums = vec![0.0; 2 * channels];
            for few in from.chunks(FEW * channels) {
                add(few, near, &mut vec![0.0; 2 * channels], &mut sums);
            }
            sums
        })
        .collect();
    let mut sums = vec![0.0; 2 * channels];
    for part in parts {
        sums.iter_mut().zip(part).for_each(|(sum, part)| *sum += part);
    }
    let squares = sums.split_off(channels);
    (sums, squares)
}

wide! {
    /// Adds few pixels to sums and sums of squares; `room` is zeros.
    fn add(from: &[f32], near: &[f32], room: &mut [f32], to: &mut [f64]) {
        let channels = near.len();
        let (sums, squares) = room.split_at_mut(channels);
        let (sums, squares) = (&mut sums[..channels], &mut squares[..channels]);
        for pixel in from.chunks_exact(channels) {
            for channel in 0..channels {
                let centred = pixel[channel] - near[channel];
                sums[channel] += centred;
                squares[channel] += centred * centred;
            }
        }
        to.iter_mut().zip(room.iter()).for_each(|(to, sum)| *to += f64::from(*sum));
    }

    fn normalize(from: &[f32], near: &[f32], scale: &[f32], shift: &[f32], silu: bool, to: &mut [f32]) {
        let channels = near.len();
        let (scale, shift) = (&scale[..channels], &shift[..channels]);
        for (from, to) in from.chunks_exact(channels).zip(to.chunks_exact_mut(channels)) {
            for channel in 0..channels {
                to[channel] = (from[channel] - near[channel]) * scale[channel] + shift[channel];
            }
            if silu {
                to.iter_mut().for_each(|y| *y *= sigmoid(*y));
            }
        }
    }
}
