//! Scales and minima of ggml's blocks of 256, searched for so that the squares of the errors have a small sum.
//!
//! A group of numbers is rounded to codes under several scales; for the codes of each, the best scale (and minimum) follows by
//! least squares; the best of all is kept. Then the groups' scales become small integers times the block's, and the codes
//! are made anew under those. ggml's `make_qx_quants` and `make_qkx2_quants` have the same idea; they weigh errors
//! by magnitude, here all count the same.

use super::pack::{inverse, put};
use burn::tensor::f16;

/// Adding it to a number, and taking it away, leaves the nearest integer.
const ROUND: f32 = 12_582_912.0;

/// The nearest integer to `value`, within bounds.
#[inline(always)]
fn nearest(value: f32, least: f32, most: f32) -> f32 {
    (value + ROUND - ROUND).max(least).min(most)
}

/// As a file has it.
fn in_f16(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

/// Packs 256 numbers as `Q4_K` (`MOST` is 15) or `Q5_K` (31): 12 bytes of scales and minima, 32 of fifth bits, 128 of the others.
pub(super) fn above_minima<const MOST: u8>(values: &[f32], words: &mut [i32], floats: &mut [f32]) {
    let (groups, mut found) = (values.as_chunks::<32>().0, [(0.0, 0.0); 8]);
    for (group, found) in groups.iter().zip(&mut found) {
        *found = scale_and_minimum(group, f32::from(MOST));
    }
    let most =
        found.iter().fold((0.0_f32, 0.0_f32), |most, (scale, minimum)| (most.0.max(*scale), most.1.max(*minimum)));
    let (d, m) = (in_f16(most.0 / 63.0), in_f16(most.1 / 63.0));
    (floats[0], floats[1]) = (d, m);
    let fifths = if MOST > 15 { 32 } else { 0 };
    for (at, (group, (scale, minimum))) in groups.iter().zip(found).enumerate() {
        let s = nearest(scale * inverse(d), 0.0, 63.0) as u8;
        let t = nearest(minimum * inverse(m), 0.0, 63.0) as u8;
        let j = at % 4;
        if at < 4 {
            put(words, j, s);
            put(words, 4 + j, t);
        } else {
            put(words, 8 + j, s & 15 | t << 4);
            put(words, j, s >> 4 << 6);
            put(words, 4 + j, t >> 4 << 6);
        }
        let (scale, minimum) = (d * f32::from(s), m * f32::from(t));
        let inverse = inverse(scale);
        for (i, value) in group.iter().enumerate() {
            let code = nearest((value + minimum) * inverse, 0.0, f32::from(MOST)) as u8;
            put(words, 12 + fifths + at / 2 * 32 + i, (code & 15) << (at % 2 * 4));
            if MOST > 15 {
                put(words, 12 + i, code >> 4 << at);
            }
        }
    }
}

/// Scale and minimum for codes from 0 to `most`; the minimum is what is taken off, and not negative.
fn scale_and_minimum(values: &[f32; 32], most: f32) -> (f32, f32) {
    let least = values.iter().fold(0.0_f32, |least, value| least.min(*value));
    let largest = values.iter().fold(least, |largest, value| largest.max(*value));
    if !(largest - least).is_normal() {
        return (0.0, -least);
    }
    let count = values.len() as f32;
    let all: f32 = values.iter().sum();
    let error = |codes: &[f32; 32], scale: f32, offset: f32| {
        codes.iter().zip(values).map(|(code, value)| (scale * code + offset - value).powi(2)).sum::<f32>()
    };
    // The numbers' own range, which is the best where all of them are alike.
    let scale = (largest - least) / most;
    let codes = values.map(|value| nearest((value - least) / scale, 0.0, most));
    let mut best = (error(&codes, scale, least), (scale, -least));
    // From a range that is a tenth wider than the numbers' to one that cuts the outermost.
    for step in -10..=10_i16 {
        let factor = (most + 0.1 * f32::from(step)) / (largest - least);
        let codes = values.map(|value| nearest((value - least) * factor, 0.0, most));
        let sum: f32 = codes.iter().sum();
        let squares: f32 = codes.iter().map(|code| code * code).sum();
        let products: f32 = codes.iter().zip(values).map(|(code, value)| code * value).sum();
        let determinant = count * squares - sum * sum;
        if determinant <= 0.0 {
            continue;
        }
        let (mut scale, mut offset) =
            ((count * products - all * sum) / determinant, (squares * all - sum * products) / determinant);
        if offset > 0.0 {
            (scale, offset) = (products / squares, 0.0);
        }
        let error = error(&codes, scale, offset);
        if scale > 0.0 && error < best.0 {
            best = (error, (scale, -offset));
        }
    }
    best.1
}

/// Packs 256 numbers as `Q6_K`: 128 bytes of low halves, 64 of high quarters, 16 of scales.
pub(super) fn six_bits(values: &[f32], words: &mut [i32], floats: &mut [f32]) {
    let (groups, mut found) = (values.as_chunks::<16>().0, [0.0; 16]);
    for (group, found) in groups.iter().zip(&mut found) {
        *found = scale_of(group);
    }
    let largest = found.iter().fold(0.0_f32, |most, scale| if scale.abs() > most.abs() { *scale } else { most });
    // The largest becomes −128, which has one step more than 127.
    floats[0] = in_f16(largest / -128.0);
    for (at, (group, scale)) in groups.iter().zip(found).enumerate() {
        let s = nearest(scale * inverse(floats[0]), -128.0, 127.0) as i8;
        put(words, 192 + at, s.cast_unsigned());
        let inverse = inverse(floats[0] * f32::from(s));
        for (i, value) in group.iter().enumerate() {
            let code = (nearest(value * inverse, -32.0, 31.0) + 32.0) as u8;
            let (run, within) = (at / 8, at % 8);
            put(words, run * 64 + within % 4 * 16 + i, (code & 15) << (within / 4 * 4));
            put(words, 128 + run * 32 + within % 2 * 16 + i, code >> 4 << (within / 2 * 2));
        }
    }
}

/// The scale for codes from −32 to 31.
fn scale_of(values: &[f32; 16]) -> f32 {
    let largest = values.iter().fold(0.0_f32, |most, value| if value.abs() > most.abs() { *value } else { most });
    if !largest.is_normal() {
        return 0.0;
    }
    let mut best = (0.0, 0.0);
    for step in -9..=9_i16 {
        let factor = -(32.0 + 0.1 * f32::from(step)) / largest;
        let codes = values.map(|value| nearest(value * factor, -32.0, 31.0));
        let products: f32 = codes.iter().zip(values).map(|(code, value)| code * value).sum();
        let squares: f32 = codes.iter().map(|code| code * code).sum();
        // What the best scale for these codes takes off the sum of the squared numbers.
        if squares > 0.0 && products * products > best.0 * squares {
            best = (products * products / squares, products / squares);
        }
    }
    best.1
}
