//! Products of bytes with AVX-512's `vpdpbusd`, which adds four products to each of sixteen sums.

use super::integer::{LANES, Panel, Tile};
use std::arch::x86_64::{
    __m512, __m512i, _mm512_cvtepi32_ps, _mm512_dpbusd_epi32, _mm512_fmadd_ps, _mm512_fnmadd_ps, _mm512_loadu_ps,
    _mm512_loadu_si512, _mm512_mul_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_storeu_ps,
};

/// Whether the processor has it.
pub fn is_there() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vnni")
}

/// Adds the products of `R` rows of activations and [`LANES`] rows of weights to `y`. `STEPS`, times four, is how many
/// numbers share a scale; with `MINIMUM`, weights have one.
///
/// Every sum stays in a register from the first column to the last. Of four columns, two registers of weights are read and
/// `R` words of activations, and 2·R times 64 products are made of them.
#[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw,avx512vnni")]
pub fn multiply<const R: usize, const STEPS: usize, const MINIMUM: bool>(
    x: &Tile<'_>,
    weights: &Panel<'_>,
    y: &mut [[f32; LANES]; R],
) {
    let mut sums = [[_mm512_set1_ps(0.0); 2]; R];
    for (sums, y) in sums.iter_mut().zip(y.iter()) {
        *sums = load(y);
    }
    let (x_codes, w_codes) = (x.codes.as_chunks::<R>().0, weights.codes.as_chunks::<{ 4 * LANES }>().0);
    let groups = x_codes.as_chunks::<STEPS>().0.iter().zip(w_codes.as_chunks::<STEPS>().0);
    let starts = x.starts.as_chunks::<R>().0;
    let scales = weights.scales.as_chunks::<LANES>().0.iter();
    for (group, (((x_codes, w_codes), start), scale)) in groups.zip(starts).zip(scales).enumerate() {
        let mut dots = [[_mm512_set1_epi32(0); 2]; R];
        for (dots, start) in dots.iter_mut().zip(start) {
            *dots = [_mm512_set1_epi32(*start); 2];
        }
        for (x, w) in x_codes.iter().zip(w_codes) {
            let [low, high] = load_bytes(w);
            for (dots, x) in dots.iter_mut().zip(x) {
                let x = _mm512_set1_epi32(*x);
                dots[0] = _mm512_dpbusd_epi32(dots[0], low, x);
                dots[1] = _mm512_dpbusd_epi32(dots[1], high, x);
            }
        }
        let x_scales = &x.scales.as_chunks::<R>().0[group * STEPS / 8];
        let [low, high] = load(scale);
        for ((sums, dots), x_scale) in sums.iter_mut().zip(dots).zip(x_scales) {
            let x_scale = _mm512_set1_ps(*x_scale);
            let dot = dots.map(|dot| _mm512_mul_ps(_mm512_cvtepi32_ps(dot), x_scale));
            *sums = [_mm512_fmadd_ps(dot[0], low, sums[0]), _mm512_fmadd_ps(dot[1], high, sums[1])];
        }
        if MINIMUM {
            let [low, high] = load(&weights.minima.as_chunks::<LANES>().0[group]);
            for (sums, share) in sums.iter_mut().zip(&x.shares.as_chunks::<R>().0[group]) {
                let share = _mm512_set1_ps(*share);
                *sums = [_mm512_fnmadd_ps(share, low, sums[0]), _mm512_fnmadd_ps(share, high, sums[1])];
            }
        }
    }
    for (sums, y) in sums.into_iter().zip(y) {
        store(sums, y);
    }
}

/// Two registers of floats.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(from: &[f32; LANES]) -> [__m512; 2] {
    // SAFETY: the array has exactly the 32 numbers that two registers take, and nothing is asked of its address.
    #[allow(unsafe_code)]
    unsafe {
        [_mm512_loadu_ps(from.as_ptr()), _mm512_loadu_ps(from.as_ptr().add(LANES / 2))]
    }
}

/// Two registers of bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn load_bytes(from: &[u8; 4 * LANES]) -> [__m512i; 2] {
    // SAFETY: the array has exactly the 128 bytes that two registers take, and nothing is asked of its address.
    #[allow(unsafe_code)]
    unsafe {
        [_mm512_loadu_si512(from.as_ptr().cast()), _mm512_loadu_si512(from.as_ptr().add(2 * LANES).cast())]
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store([low, high]: [__m512; 2], to: &mut [f32; LANES]) {
    // SAFETY: as in [`load`]; the array is borrowed alone.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_ps(to.as_mut_ptr(), low);
        _mm512_storeu_ps(to.as_mut_ptr().add(LANES / 2), high);
    }
}
