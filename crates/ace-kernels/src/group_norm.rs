//! Group norm: `(x − mean) / √(var + eps) · weight + bias`, mean and variance over the channels of a group and all
//! pixels.
//!
//! A group of a large picture has millions of numbers, and a blank picture gives them a mean that is large beside their
//! spread. One running sum in f32 loses 1e-4 to 1e-3 of such a group. Here
//!
//! * sums are taken in two levels, over each row of pixels and then over the rows' sums;
//! * numbers are centred before they are squared;
//! * they are centred on a number *near* the mean, and the mean is that number plus the mean of what is left: f32 holds
//!   the second part as exactly as the spread asks, which it cannot do for the whole.
//!
//! What is near is the mean of the first eighth of the numbers. The mean of an eighth of some numbers, whichever they
//! are, is at most √7 spreads away from the mean of all, so that `var = mean(d²) − mean(d)²` of what is left loses at
//! most three bits.

#[cfg(feature = "flex")]
use crate::flex;
use crate::{in_f32, silu};
use burn::{prelude::*, tensor::assert_shape};

/// The first of so many parts of a group tells what is near its mean.
const PARTS: usize = 8;
/// Squares are taken of so many numbers at a time: they stay in a processor's cache, and memory is spared.
const SLAB: usize = 1 << 17;
/// Slabs are larger where there would be more of them than this.
const MOST_SLABS: usize = 64;

/// Group norm, at least in f32.
///
/// # Shapes
/// - x, output: `[B, channels, H, W]`
/// - weight, bias: `[channels]`
///
/// # Panics
/// If `weight` or `bias` has not one number per channel, or channels are not a multiple of `num_groups`.
pub fn group_norm(x: Tensor<4>, num_groups: usize, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<4> {
    check(&x, num_groups, [&weight, &bias]);
    #[cfg(feature = "flex")]
    if let Some(y) = flex::norm_groups(&x, num_groups, [&weight, &bias], epsilon, false) {
        return y;
    }
    plain(x, num_groups, weight, bias, epsilon)
}

/// SiLU of [`group_norm`].
///
/// # Shapes
/// As [`group_norm`].
///
/// # Panics
/// As [`group_norm`].
pub fn group_norm_silu(x: Tensor<4>, num_groups: usize, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<4> {
    check(&x, num_groups, [&weight, &bias]);
    #[cfg(feature = "flex")]
    if let Some(y) = flex::norm_groups(&x, num_groups, [&weight, &bias], epsilon, true) {
        return y;
    }
    silu(plain(x, num_groups, weight, bias, epsilon))
}

fn check(x: &Tensor<4>, num_groups: usize, [weight, bias]: [&Tensor<1>; 2]) {
    let [_, channels, _, _] = x.dims();
    assert_shape!(weight, [channels]);
    assert_shape!(bias, [channels]);
    assert!(channels.is_multiple_of(num_groups), "{channels} channels are not a multiple of {num_groups} groups");
}

fn plain(x: Tensor<4>, num_groups: usize, weight: Tensor<1>, bias: Tensor<1>, epsilon: f64) -> Tensor<4> {
    let [batch, channels, height, width] = x.dims();
    let per_group = channels / num_groups;
    let (groups, rows) = (batch * num_groups, per_group * height);

    in_f32(x, |x| {
        let dtype = x.dtype();
        let x = x.reshape([groups, rows, width]);
        // No gradient flows through `near`: mean and variance are the same whatever it is.
        let near = near_mean(x.clone().detach());
        let centred = (x - near).reshape([groups * rows, width]);
        let (sums, squares) = row_sums(centred.clone());
        // The second level: `[groups·rows, 1]` to `[groups, 1]`.
        let mean = |sums: Tensor<2>| sums.reshape([groups, rows]).sum_dim(1) / (rows * width) as f64;
        let rest = mean(sums);
        let variance = mean(squares) - rest.clone() * rest.clone();
        // Rounding may leave a constant group a variance a little below zero.
        let spread = (variance.clamp_min(0.0) + epsilon).sqrt();

        // One factor and one summand per channel.
        let per_channel = |group: Tensor<2>| {
            let group = group.reshape([batch, num_groups, 1]).expand([batch, num_groups, per_group]);
            group.reshape([batch, channels, 1, 1])
        };
        let weight = weight.cast(dtype).reshape([1, channels, 1, 1]);
        let bias = bias.cast(dtype).reshape([1, channels, 1, 1]);
        let scale = weight / per_channel(spread);
        let shift = bias - per_channel(rest) * scale.clone();
        centred.reshape([batch, channels, height, width]) * scale + shift
    })
}

/// The mean of the first part of each group's numbers: `[groups, rows, width]` to `[groups, 1, 1]`.
fn near_mean(x: Tensor<3>) -> Tensor<3> {
    let [groups, rows, width] = x.dims();
    let part = (rows * width).div_ceil(PARTS);
    let sums = x.reshape([groups, rows * width]).narrow(1, 0, part).sum_dim(1);
    (sums / part as f64).reshape([groups, 1, 1])
}

/// Sums of each row's numbers and of their squares: `[rows, width]` to `[rows, 1]` twice.
fn row_sums(x: Tensor<2>) -> (Tensor<2>, Tensor<2>) {
    let [rows, width] = x.dims();
    let sums = |x: Tensor<2>| (x.clone().sum_dim(1), (x.clone() * x).sum_dim(1));
    let slab = (SLAB / width).max(rows.div_ceil(MOST_SLABS)).max(1);
    // A graph would keep every slab, and give each a gradient as large as all of `x`.
    if slab >= rows || x.is_autodiff() {
        return sums(x);
    }
    let slabs = (0..rows).step_by(slab).map(|start| sums(x.clone().narrow(0, start, slab.min(rows - start))));
    let (sums, squares) = slabs.unzip();
    (Tensor::cat(sums, 0), Tensor::cat(squares, 0))
}

#[cfg(test)]
mod tests {
    use super::group_norm;
    use crate::testing::{device, has_wide_vectors, noise, random, relative_error, values};
    use burn::prelude::*;

    const EPSILON: f64 = 1e-6;

    /// The formula in f64.
    fn reference(x: Tensor<4>, groups: usize, weight: Tensor<1>, bias: Tensor<1>) -> Vec<f64> {
        let [_, channels, height, width] = x.dims();
        let (x, weight, bias) = (values(x), values(weight), values(bias));
        let pixels = height * width;
        let mut output = Vec::with_capacity(x.len());
        for group in x.chunks(channels / groups * pixels) {
            let count = group.len() as f64;
            let mean = group.iter().sum::<f64>() / count;
            let variance = group.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / count;
            let factor = (variance + EPSILON).sqrt().recip();
            for x in group {
                let channel = output.len() / pixels % channels;
                output.push((x - mean) * factor * weight[channel] + bias[channel]);
            }
        }
        output
    }

    /// One group of four channels at 256², as an autoencoder's first blocks see it.
    fn pictures() -> [(&'static str, Vec<f32>); 5] {
        const SIDE: usize = 256;
        let picture = |mut pixel: Box<dyn FnMut(usize, usize, usize) -> f32>| {
            let mut all = Vec::with_capacity(4 * SIDE * SIDE);
            for channel in 0..4 {
                for y in 0..SIDE {
                    all.extend((0..SIDE).map(|x| pixel(channel, y, x)));
                }
            }
            all
        };
        // What a convolution makes of a blank picture: one number per channel, others along the border.
        const LEVELS: [f32; 4] = [0.731, -0.242, 0.118, 1.377];
        let border = |y: usize, x: usize| [0, SIDE - 1].contains(&y) || [0, SIDE - 1].contains(&x);
        let blank = move |channel: usize, y, x| LEVELS[channel] * if border(y, x) { 0.7 } else { 1.0 };
        let (mut a, mut b, mut c, mut d) = (noise(1), noise(2), noise(3), noise(4));
        [
            ("blank", picture(Box::new(blank))),
            ("blank, one level", picture(Box::new(move |_, y, x| blank(3, y, x)))),
            ("flat", picture(Box::new(move |_, _, _| 3.0 + 0.003 * a()))),
            (
                "half blank",
                picture(Box::new(move |channel, y, x| {
                    blank(channel, y, x) + if x < SIDE / 2 { b() } else { 0.01 * c() }
                })),
            ),
            ("noise", picture(Box::new(move |_, _, _| d()))),
        ]
    }

    #[test]
    fn large_groups_lose_nothing_to_their_mean() {
        let (ones, zeros) = (Tensor::ones([128], &device()), Tensor::zeros([128], &device()));
        for (name, group) in pictures() {
            let group = Tensor::<4>::from_data(TensorData::new(group, [1, 4, 256, 256]), &device());
            // Alike groups: one is enough to compare, and the reference is the slow part.
            let ours = group_norm(group.clone().repeat_dim(1, 32), 32, ones.clone(), zeros.clone(), EPSILON);
            let (one, none) = (ones.clone().narrow(0, 0, 4), zeros.clone().narrow(0, 0, 4));
            let expected = reference(group, 1, one, none);
            for first in [0, 124] {
                let error = relative_error(&values(ours.clone().narrow(1, first, 4)), &expected);
                assert!(error <= 5e-6, "{name}, channels from {first}: {error:e}");
            }
        }
    }

    #[test]
    fn groups_scale_and_shift_follow_the_formula() {
        for (shape, groups) in [([2, 6, 5, 7], 3), ([1, 4, 1, 1], 2), ([3, 8, 2, 130], 8), ([1, 6, 9, 4], 1)] {
            let channels: usize = shape[1];
            let (x, weight, bias) = (random(shape, 1), random([channels], 2), random([channels], 3));
            let ours = group_norm(x.clone(), groups, weight.clone(), bias.clone(), EPSILON);
            assert_eq!(ours.dims(), shape);
            let error = relative_error(&values(ours), &reference(x, groups, weight, bias));
            assert!(error <= 1e-6, "{shape:?} in {groups} groups: {error:e}");
        }
    }

    #[test]
    fn silu_follows_where_it_is_wanted() {
        let (x, weight, bias) = (random([2, 6, 5, 7], 1), random([6], 2), random([6], 3));
        let ours = super::group_norm_silu(x.clone(), 3, weight.clone(), bias.clone(), EPSILON);
        let expected: Vec<f64> = reference(x, 3, weight, bias).into_iter().map(|y| y / (1.0 + (-y).exp())).collect();
        assert!(relative_error(&values(ours), &expected) <= 1e-6);
    }

    #[test]
    fn a_constant_group_becomes_its_bias() {
        for level in [0.0, 0.1, -7.3, 1e4] {
            let x = Tensor::<4>::full([1, 4, 64, 48], level, &device());
            let bias = random([4], 1);
            let ours = values(group_norm(x, 2, Tensor::ones([4], &device()), bias.clone(), EPSILON));
            for (channel, expected) in values(bias).into_iter().enumerate() {
                let worst =
                    ours[channel * 64 * 48..][..64 * 48].iter().map(|x| (x - expected).abs()).fold(0.0, f64::max);
                assert!(worst <= 1e-6, "level {level}: {worst}");
            }
        }
    }

    /// `dL/dx` of `L = Σ y·g`, in f64: `(ĝ − mean(ĝ) − x̂·mean(ĝ·x̂))/√(var + eps)` with `ĝ = g·weight`.
    fn reference_gradient(x: &[f64], g: &[f64]) -> Vec<f64> {
        let count = x.len() as f64;
        let mean = x.iter().sum::<f64>() / count;
        let variance = x.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        let factor = (variance + EPSILON).sqrt().recip();
        let mean_g = g.iter().sum::<f64>() / count;
        let mean_gx = g.iter().zip(x).map(|(g, x)| g * (x - mean) * factor).sum::<f64>() / count;
        g.iter().zip(x).map(|(g, x)| (g - mean_g - (x - mean) * factor * mean_gx) * factor).collect()
    }

    #[test]
    fn gradients_of_large_groups_are_exact_too() {
        let device = device().autodiff();
        for (name, group) in pictures() {
            let data = TensorData::new(group, [1, 4, 256, 256]);
            let x = Tensor::<4>::from_data(data.clone(), &device).require_grad();
            let weight = Tensor::<1>::ones([4], &device).require_grad();
            let bias = Tensor::<1>::zeros([4], &device).require_grad();
            // A gradient with a mean: what a blank picture's loss sends back.
            let g = random([1, 4, 256, 256], 9) * 0.5 + 0.3;
            let y = group_norm(x.clone(), 1, weight.clone(), bias.clone(), EPSILON);
            let gradients = (y * Tensor::from_inner(g.clone())).sum().backward();
            let (x_values, g) = (values(x.clone().inner()), values(g));
            let dx = values(x.grad(&gradients).expect("x is a leaf"));
            let error = relative_error(&dx, &reference_gradient(&x_values, &g));
            assert!(error <= 5e-6, "{name}: {error:e}");

            let normed = reference(x.inner(), 1, weight.clone().inner(), bias.clone().inner());
            let per_channel = |of: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..4).map(|channel| (channel * 65536..(channel + 1) * 65536).map(of).sum()).collect()
            };
            let dweight = values(weight.grad(&gradients).expect("the weight is a leaf"));
            let dbias = values(bias.grad(&gradients).expect("the bias is a leaf"));
            let error = relative_error(&dweight, &per_channel(&|i| g[i] * normed[i]));
            let bound = if has_wide_vectors() { 5e-6 } else { 6e-6 };
            assert!(error <= bound, "{name}, weight: {error:e}");
            let error = relative_error(&dbias, &per_channel(&|i| g[i]));
            assert!(error <= 5e-6, "{name}, bias: {error:e}");
        }
    }

    #[test]
    #[should_panic(expected = "6 channels are not a multiple of 4 groups")]
    fn channels_that_do_not_divide_are_a_mistake() {
        let one = || Tensor::<1>::ones([6], &device());
        group_norm(random([1, 6, 2, 2], 1), 4, one(), one(), EPSILON);
    }
}
