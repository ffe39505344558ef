//! The noise that PyTorch draws on a CPU from a seed, bit for bit, so that a picture made elsewhere can be made here.
//!
//! `torch.randn` is a Mersenne twister, 24 bits of each word as a uniform number, and Box and Muller's transform of
//! sixteen of them at a time. What makes it PyTorch's own is the last bit of `log`, `sin` and `cos`: where the CPU has
//! AVX2 (nearly every x86-64 one; AVX-512 takes the same road), PyTorch computes them with the short single precision
//! polynomials of Cephes, and its compiler fuses each product into the sum that follows. That arithmetic is written out
//! below, so every machine gives the numbers of an AVX2 machine.
//!
//! Where PyTorch itself finds no AVX2 (ARM, or `ATEN_CPU_CAPABILITY=default`) it calls the system's mathematics and
//! two values in five differ in their last bits; on a GPU it draws from another generator altogether. Neither is
//! matched.
//!
//! In bfloat16 PyTorch 2.15 rounds this same noise, if its length is a multiple of 16, as that of latents is; a longer
//! tail is drawn otherwise, and older versions computed in bfloat16.

// The numbers stand as Cephes has them, digit by digit.
#![allow(clippy::excessive_precision)]

use burn::prelude::*;
use rand_mt::Mt;
use std::f32::consts::{FRAC_1_SQRT_2, TAU};

/// Values that are transformed together: eight radii, then eight angles.
const BLOCK: usize = 16;

/// Standard normal noise as `torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))` gives it in f32.
///
/// # Shapes
/// - output: `shape`, row-major; latents are `[B, 16, H/8, W/8]`
pub fn noise(shape: [usize; 4], seed: u64, device: &Device) -> Tensor<4> {
    Tensor::from_data(TensorData::new(normal(seed, shape.iter().product()), shape), device)
}

/// The first `count` values of the generator seeded with the low 32 bits of `seed`, as PyTorch reads no others.
///
/// How many values are asked for decides what the last sixteen are; fewer than sixteen are drawn in double precision by
/// another road.
pub fn normal(seed: u64, count: usize) -> Vec<f32> {
    let mut generator = Mt::new(seed as u32);
    if count < BLOCK {
        return few(&mut generator, count);
    }
    let mut uniform = || (generator.next_u32() & 0xff_ffff) as f32 / (1 << 24) as f32;
    let mut values: Vec<f32> = (0..count).map(|_| uniform()).collect();
    let (blocks, tail) = values.as_chunks_mut();
    blocks.iter_mut().for_each(box_muller);
    if !tail.is_empty() {
        // The last sixteen are drawn once more, over what already stood there.
        let mut last = std::array::from_fn(|_| uniform());
        box_muller(&mut last);
        values[count - BLOCK..].copy_from_slice(&last);
    }
    values
}

/// Uniform numbers to normal ones: radius from `1 − u`, which is never zero, and angle from the number eight further.
fn box_muller(block: &mut [f32; BLOCK]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (radius, angle) in radii.iter_mut().zip(angles) {
        let length = (-2.0 * ln(1.0 - *radius)).sqrt();
        let (sin, cos) = sin_cos(TAU * *angle);
        // PyTorch adds the mean here, zero, which leaves no negative zero.
        (*radius, *angle) = (length * cos + 0.0, length * sin + 0.0);
    }
}

/// Cephes' `logf` for normal positive numbers: `ln(m·2^e)` with `m` in `√½..√2`, a polynomial in `m − 1`, and `ln 2` in
/// two parts.
fn ln(x: f32) -> f32 {
    const POLYNOMIAL: [f32; 9] = [
        7.0376836292e-2,
        -1.1514610310e-1,
        1.1676998740e-1,
        -1.2420140846e-1,
        1.4249322787e-1,
        -1.6668057665e-1,
        2.0000714765e-1,
        -2.4999993993e-1,
        3.3333331174e-1,
    ];
    const LN_2: [f32; 2] = [0.693359375, -2.12194440e-4];

    let bits = x.to_bits();
    let mut exponent = (bits >> 23) as f32 - 126.0;
    let mut m = f32::from_bits(bits & 0x007f_ffff | 0.5f32.to_bits());
    if m < FRAC_1_SQRT_2 {
        exponent -= 1.0;
        m = m - 1.0 + m;
    } else {
        m -= 1.0;
    }
    let square = m * m;
    let cubic = horner(&POLYNOMIAL, m) * m;
    let rest = square.mul_add(-0.5, cubic.mul_add(square, exponent * LN_2[1]));
    exponent.mul_add(LN_2[0], m + rest)
}

/// Cephes' `sinf` and `cosf` for angles from zero to a few turns: the distance from the nearest multiple of `π/2`, with
/// `π/4` in three parts, then a polynomial for each.
fn sin_cos(angle: f32) -> (f32, f32) {
    const SIN: [f32; 3] = [-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1];
    const COS: [f32; 3] = [2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2];
    const FRAC_PI_4: [f32; 3] = [0.78515625, 2.4187564849853515625e-4, 3.77489497744594108e-8];
    const FRAC_4_PI: f32 = 1.27323954473516;

    let octant = ((angle * FRAC_4_PI) as i32 + 1) & !1;
    let x = FRAC_PI_4.iter().fold(angle, |x, part| (octant as f32).mul_add(-part, x));
    let square = x * x;
    let cos = (horner(&COS, square) * square).mul_add(square, square * -0.5) + 1.0;
    let sin = (horner(&SIN, square) * square).mul_add(x, x);
    // A quarter turn makes the one the other, up to the sign.
    match octant & 7 {
        0 => (sin, cos),
        2 => (cos, -sin),
        4 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

/// `coefficients[0]·xⁿ + … + coefficients[n]`, one rounding for each product and sum.
fn horner(coefficients: &[f32], x: f32) -> f32 {
    coefficients[1..].iter().fold(coefficients[0], |sum, coefficient| sum.mul_add(x, *coefficient))
}

/// Fewer than sixteen values: pairs in double precision with 53 random bits, angle before radius.
fn few(generator: &mut Mt, count: usize) -> Vec<f32> {
    let mut uniform = || {
        let (high, low) = (u64::from(generator.next_u32()), u64::from(generator.next_u32()));
        ((high << 32 | low) & ((1 << 53) - 1)) as f64 / (1u64 << 53) as f64
    };
    let pairs = (0..count.div_ceil(2)).flat_map(|_| {
        let angle = std::f64::consts::TAU * uniform();
        let radius = (-2.0 * (-uniform()).ln_1p()).sqrt();
        [(radius * angle.cos()) as f32, (radius * angle.sin()) as f32]
    });
    pairs.take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_weights::WeightFile;
    use std::path::Path;

    #[test]
    fn every_recorded_draw_of_torch_is_drawn_bit_for_bit() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/data/noise/torch.safetensors");
        let recorded = WeightFile::open(&path).unwrap();
        let mut draws = 0;
        for key in recorded.keys() {
            let mut words = key.split('.');
            let mut number = || words.next().unwrap().parse::<u64>().unwrap();
            let (seed, count) = (number(), number() as usize);
            let ours = normal(seed, count);
            if words.next().is_some() {
                let sum: i64 = ours.iter().map(|value| i64::from(value.to_bits())).sum();
                assert_eq!(recorded.data(key).unwrap().iter::<i64>().collect::<Vec<_>>(), [sum], "{key}");
            } else {
                let theirs: Vec<f32> = recorded.data(key).unwrap().iter().collect();
                let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&ours), bits(&theirs), "{key}");
            }
            draws += 1;
        }
        assert_eq!(draws, 40);
    }
}
