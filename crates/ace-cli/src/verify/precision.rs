//! What f32 must not lose: no recording is needed, the formula in f64 is the reference.

use super::Findings;
use ace_nn::layers::GroupNorm;
use burn::{module::Param, prelude::*};

/// Largest relative error of a group norm in f32, on every device: there is no matrix product in it.
pub const GROUP_NORM_BOUND: f64 = 5e-6;

/// Height and width of the pictures.
const SIDE: usize = 256;
/// As in the first blocks of the published autoencoders.
const GROUPS: usize = 32;
/// Channels of a group, and what a convolution makes of a blank picture in each of them.
const LEVELS: [f32; 4] = [0.731, -0.242, 0.118, 1.377];

/// A group norm over 128 channels at 256²: sums over a quarter of a million numbers, whose mean is large beside their
/// spread where a picture is blank.
pub fn group_norm(device: &Device) -> Findings {
    let channels = GROUPS * LEVELS.len();
    let mut norm = GroupNorm::new(channels, GROUPS, device);
    norm.weight = Param::from_tensor(Tensor::ones([channels], device));
    norm.bias = Param::from_tensor(Tensor::zeros([channels], device));
    let mut state = 1u32;
    let mut noise = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
    };
    let mut blank = Vec::new();
    let mut half_blank = Vec::new();
    for level in LEVELS {
        for y in 0..SIDE {
            for x in 0..SIDE {
                // Beyond the border are zeros, so that it differs from the inside.
                let is_border = [y, x].iter().any(|place| [0, SIDE - 1].contains(place));
                let value = if is_border { 0.7 * level } else { level };
                blank.push(value);
                half_blank.push(if x < SIDE / 2 { value + noise() } else { value });
            }
        }
    }
    let flat: Vec<f32> = (0..blank.len()).map(|_| 3.0 + 0.003 * noise()).collect();
    [("blank", blank), ("half blank", half_blank), ("flat", flat)]
        .map(|(name, group)| (name.to_owned(), error(&norm, group)))
        .into()
}

/// The relative error of the first and the last of many groups that are alike.
fn error(norm: &GroupNorm, group: Vec<f32>) -> f64 {
    let count = group.len() as f64;
    let mean = group.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = group.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
    let spread = (variance + 1e-6).sqrt();
    let expected: Vec<f64> = group.iter().map(|x| (f64::from(*x) - mean) / spread).collect();

    let shape = [1, LEVELS.len(), SIDE, SIDE];
    let x = Tensor::<4>::from_data(TensorData::new(group, shape), &norm.weight.val().device());
    let normed = norm.forward(x.repeat_dim(1, GROUPS));
    let of = |first: usize| {
        let ours = normed.clone().narrow(1, first, LEVELS.len()).into_data_as::<f64>();
        let (error, norm) = ours.iter::<f64>().zip(&expected).fold((0.0, 0.0), |(error, norm), (ours, expected)| {
            (error + (ours - expected).powi(2), norm + expected * expected)
        });
        (error / norm).sqrt()
    };
    of(0).max(of((GROUPS - 1) * LEVELS.len()))
}
