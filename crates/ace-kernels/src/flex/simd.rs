//! Loops as vector instructions.
//!
//! The program is compiled for every x86-64 processor, which has vectors of four numbers only. A loop written in
//! [`wide!`] is compiled three times, and the widest version that the processor knows is run. No version fuses a
//! multiplication with an addition, so that all of them give the same numbers.

/// Functions whose loops are compiled for the vectors of newer processors too.
macro_rules! wide {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident$(<$($param:ident: $bound:path),+>)?($($arg:ident: $ty:ty),* $(,)?) $(-> $out:ty)? $body:block)+) => {$(
        $(#[$meta])*
        #[allow(clippy::too_many_arguments)]
        $vis fn $name$(<$($param: $bound),+>)?($($arg: $ty),*) $(-> $out)? {
            #[inline(always)]
            #[allow(clippy::too_many_arguments)]
            fn body$(<$($param: $bound),+>)?($($arg: $ty),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512dq,avx512bw")]
                #[allow(clippy::too_many_arguments)]
                fn sixteen$(<$($param: $bound),+>)?($($arg: $ty),*) $(-> $out)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2")]
                #[allow(clippy::too_many_arguments)]
                fn eight$(<$($param: $bound),+>)?($($arg: $ty),*) $(-> $out)? {
                    body($($arg),*)
                }
                match $crate::flex::simd::width() {
                    // SAFETY: the processor was asked for these instructions.
                    #[allow(unsafe_code)]
                    16 => return unsafe { sixteen($($arg),*) },
                    // SAFETY: as above.
                    #[allow(unsafe_code)]
                    8 => return unsafe { eight($($arg),*) },
                    _ => {}
                }
            }
            body($($arg),*)
        }
    )+};
}
pub(crate) use wide;

/// Numbers in the widest vector that [`wide!`] may use here.
#[cfg(target_arch = "x86_64")]
pub fn width() -> usize {
    let sixteen = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512bw");
    match (sixteen, is_x86_feature_detected!("avx2")) {
        (true, _) => 16,
        (false, true) => 8,
        (false, false) => 4,
    }
}

/// Running sums side by side: what a vector of sixteen holds.
const LANES: usize = 16;

/// `Σ f(aᵢ)` in sixteen running sums.
#[inline(always)]
pub fn sum(a: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut sums = [0.0; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (sum, a) in sums.iter_mut().zip(chunk) {
            *sum += f(*a);
        }
    }
    fold(sums, |a, b| a + b) + rest.iter().map(|a| f(*a)).sum::<f32>()
}

/// `Σ f(aᵢ, bᵢ)` in sixteen running sums.
#[inline(always)]
pub fn sum2(a: &[f32], b: &[f32], f: impl Fn(f32, f32) -> f32) -> f32 {
    let b = &b[..a.len()];
    let mut sums = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += f(*a, *b);
        }
    }
    fold(sums, |a, b| a + b) + rest.map(|(a, b)| f(*a, *b)).sum::<f32>()
}

/// The largest number; −∞ of none.
#[inline(always)]
pub fn largest(a: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut most = [f32::NEG_INFINITY; LANES];
    let chunks = a.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (most, a) in most.iter_mut().zip(chunk) {
            *most = larger(*most, *a);
        }
    }
    rest.iter().copied().fold(fold(most, larger), larger)
}

#[inline(always)]
fn fold(mut lanes: [f32; LANES], f: impl Fn(f32, f32) -> f32) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for i in 0..half {
            lanes[i] = f(lanes[i], lanes[i + half]);
        }
        half /= 2;
    }
    lanes[0]
}

/// `eˣ` without a branch, to two units of the last place; below −87 it is `e⁻⁸⁷`, above 88 it is `e⁸⁸`. Not a number
/// stays that.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    // ln 2 in two parts: the first has few enough digits that its multiples are exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = -2.121_944_4e-4;
    // Adding it leaves the nearest integer in the last digits.
    const ROUND: f32 = 12_582_912.0;
    let x = if x < -87.0 { -87.0 } else { x };
    let x = if x > 88.0 { 88.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    // eʳ on ±ln 2 / 2, as in Cephes' `expf`.
    let p = 1.987_569_1e-4;
    let p = p * r + 1.398_199_9e-3;
    let p = p * r + 8.333_452e-3;
    let p = p * r + 4.166_579_6e-2;
    let p = p * r + 0.166_666_65;
    let p = p * r + 0.5;
    let p = p * (r * r) + r + 1.0;
    // Times 2ⁿ: n is added to the exponent.
    f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23))
}

/// `1/(1 + e⁻ˣ)`
#[inline(always)]
pub fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// `Φ(x)`, the normal distribution's integral, to some units of the last place (far below zero, x² times as many): half
/// the complementary error function of `−x/√2`, in the Chebyshev form of W. H. Press et al., *Numerical Recipes*, §6.2.
#[inline(always)]
pub fn normal(x: f32) -> f32 {
    let z = x.abs() * std::f32::consts::FRAC_1_SQRT_2;
    let t = 1.0 / (1.0 + 0.5 * z);
    let p = 0.170_872_77;
    let p = p * t - 0.822_152_23;
    let p = p * t + 1.488_515_9;
    let p = p * t - 1.135_204;
    let p = p * t + 0.278_868_07;
    let p = p * t - 0.186_288_06;
    let p = p * t + 0.096_784_18;
    let p = p * t + 0.374_091_96;
    let p = p * t + 1.000_023_7;
    let p = p * t - 1.265_512_2;
    let tail = 0.5 * t * exp(p - z * z);
    if x < 0.0 { tail } else { 1.0 - tail }
}

#[cfg(test)]
mod tests {
    use super::{exp, largest, normal, sigmoid, sum, sum2};

    /// From −90 to 90, denser near zero.
    fn points() -> impl Iterator<Item = f32> {
        (-3000..=3000).map(|i| {
            let x = i as f32 / 3000.0;
            90.0 * x * x.abs()
        })
    }

    #[test]
    fn exp_is_good_to_two_units_of_the_last_place() {
        for x in points().filter(|x| (-87.0..=88.0).contains(x)) {
            let (ours, expected) = (f64::from(exp(x)), f64::from(x).exp());
            assert!((ours / expected - 1.0).abs() <= 2.5e-7, "e^{x} is {ours:e}, not {expected:e}");
        }
        assert!(exp(f32::NAN).is_nan());
        assert_eq!(exp(-1e30), exp(-87.0));
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn sigmoid_follows_the_formula() {
        for x in points().filter(|x| x.abs() <= 87.0) {
            let (ours, expected) = (f64::from(sigmoid(x)), 1.0 / (1.0 + (-f64::from(x)).exp()));
            assert!((ours / expected - 1.0).abs() <= 5e-7, "σ({x}) is {ours:e}, not {expected:e}");
        }
    }

    #[test]
    fn the_normal_integral_follows_its_table() {
        // Φ in f64, from Python's `statistics.NormalDist().cdf`.
        for (x, expected) in [
            (-8.0f64, 6.220960574271786e-16),
            (-3.0, 0.0013498980316300946),
            (-1.0, 0.15865525393145705),
            (-0.1, 0.460172162722971),
            (0.0, 0.5),
            (0.5, 0.6914624612740131),
            (2.0, 0.9772498680518208),
            (6.0, 0.9999999990134123),
        ] {
            let ours = f64::from(normal(x as f32));
            assert!((ours / expected - 1.0).abs() <= 1e-7 * (4.0 + x * x), "Φ({x}) is {ours:e}, not {expected:e}");
        }
    }

    #[test]
    fn sums_and_the_largest_take_every_number_once() {
        for len in [0, 1, 15, 16, 17, 100] {
            let a: Vec<f32> = (0..len).map(|i| i as f32 - 7.0).collect();
            assert_eq!(sum(&a, |a| a), a.iter().sum::<f32>());
            assert_eq!(sum2(&a, &a, |a, b| a * b), a.iter().map(|a| a * a).sum::<f32>());
            assert_eq!(largest(&a), a.iter().copied().fold(f32::NEG_INFINITY, f32::max));
        }
    }
}
