//! A convolution as products: for each row of the output, the strips of input pixels under each weight times the weights.

use super::{
    super::{
        memory::{New, Shared, each},
        tile::{PANEL, Plus, Strips, multiply},
    },
    Source, Target,
};
use crate::conv::Convolution;
use rayon::prelude::*;

pub fn forward(
    source: Source<'_>,
    weight: &[f32],
    kernel: usize,
    how: Convolution,
    target: &Target<'_>,
    out: &mut New,
) {
    let (input, sizes) = (source.sizes.channels, target.sizes);
    let taps = kernel * kernel;
    let panels = panels(weight, sizes.channels, input, taps);
    let panels = Panels { numbers: &panels, len: taps * input * PANEL, columns: sizes.channels };
    let out = out.shared();
    if kernel == 1 && how.stride == 1 && how.padding == (0, 0) && !source.doubled {
        // Every pixel for itself: no strips need be cut out.
        const TOGETHER: usize = 96;
        let pixels = sizes.pixels();
        each(pixels.div_ceil(TOGETHER), pixels * sizes.channels * input, |task| {
            let first = task * TOGETHER;
            let count = TOGETHER.min(pixels - first);
            let numbers = &source.numbers[first * input..];
            panels.times(Strips { numbers, step: input, count, offsets: &[0], depth: input }, first, target, out);
        });
        return;
    }
    let padded = (sizes.width - 1) * how.stride + kernel;
    let offsets: Vec<usize> = (0..taps).map(|tap| (tap / kernel * padded + tap % kernel) * input).collect();
    (0..sizes.batch * sizes.height).into_par_iter().for_each_init(
        || New::of(kernel * padded * input),
        |strip, row| {
            let (picture, y) = (row / sizes.height, row % sizes.height);
            let strip = strip.all();
            for (at, to) in strip.chunks_exact_mut(input).enumerate() {
                let before = how.padding.0 as isize;
                let (dy, x) = ((at / padded) as isize, (at % padded) as isize - before);
                match source.pixel(picture, (y * how.stride) as isize + dy - before, x) {
                    Some(pixel) => to.copy_from_slice(pixel),
                    None => to.fill(0.0),
                }
            }
            let strips = Strips {
                numbers: strip,
                step: how.stride * input,
                count: sizes.width,
                offsets: &offsets,
                depth: input,
            };
            panels.times(strips, row * sizes.width, target, out);
        },
    );
}

/// The weights, for 32 channels of the output at a time.
struct Panels<'a> {
    numbers: &'a [f32],
    len: usize,
    columns: usize,
}

impl Panels<'_> {
    /// The output's pixels from `first` on.
    fn times(&self, strips: Strips<'_>, first: usize, target: &Target<'_>, out: Shared<'_>) {
        let channels = self.columns;
        let out = out.part(first * channels, strips.count * channels);
        for (index, panel) in self.numbers.chunks_exact(self.len).enumerate() {
            let at = index * PANEL;
            let plus = Plus {
                bias: target.bias.map(|bias| &bias[at..]),
                rows: target.plus.map(|plus| &plus[first * channels + at..]),
            };
            multiply(strips, panel, &mut out[at..], channels, PANEL.min(channels - at), plus);
        }
    }
}

/// Weights `[output, input, taps]` as panels `[taps, input, 32]`; beyond the last channel there are zeros.
fn panels(weight: &[f32], output: usize, input: usize, taps: usize) -> Vec<f32> {
    let len = taps * input * PANEL;
    let mut panels = vec![0.0; output.div_ceil(PANEL) * len];
    let turn = |(index, panel): (usize, &mut [f32])| {
        for column in 0..PANEL.min(output - index * PANEL) {
            let row = &weight[(index * PANEL + column) * input * taps..][..input * taps];
            for (at, number) in row.iter().enumerate() {
                panel[(at % taps * input + at / taps) * PANEL + column] = *number;
            }
        }
    };
    panels.par_chunks_mut(len.max(1)).enumerate().for_each(turn);
    panels
}
