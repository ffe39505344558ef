//! Resizing of 8-bit pictures to the byte as Pillow does it: bicubic, with which the official programs end, Lanczos,
//! with which diffusers fits pictures, and bilinear, with which SAM begins.
//!
//! Facts of Pillow's `Image.resize`: the kernel is widened when shrinking; weights in fixed point with 22 bits; columns
//! first, rounded to bytes, then rows (Pillow 13 goes over the rows first for some pairs of sizes, by a rule that is not known
//! here; bytes then differ where the first pass clips or rounds). `BICUBIC` is Keys' kernel with `a = −½`, `LANCZOS` a sinc under a sinc three times
//! as wide, `BILINEAR` a triangle. The `image` crate has the same kernels and computes in floats, which differs by a level here and there.

use image::RgbImage;
use std::f64::consts::PI;

/// Bits behind the point of a weight.
const BITS: u32 = 22;

/// How much a source pixel counts, by its distance.
#[derive(Clone, Copy)]
struct Kernel {
    /// How far it reaches, in source pixels.
    support: f64,
    weight: fn(f64) -> f64,
}

const BICUBIC: Kernel = Kernel { support: 2.0, weight: keys };
const LANCZOS: Kernel = Kernel { support: 3.0, weight: windowed_sinc };
const BILINEAR: Kernel = Kernel { support: 1.0, weight: |x| (1.0 - x.abs()).max(0.0) };

/// `image` in another size, bicubic.
pub fn bicubic(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(image, width, height, BICUBIC)
}

/// `image` in another size, by Lanczos' kernel of three lobes.
pub fn lanczos(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(image, width, height, LANCZOS)
}

/// `image` in another size, bilinear.
pub fn bilinear(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(image, width, height, BILINEAR)
}

fn resize(image: &RgbImage, width: u32, height: u32, kernel: Kernel) -> RgbImage {
    let wide = match image.width() == width {
        true => image.clone(),
        false => {
            let taps = taps(image.width(), width, kernel);
            RgbImage::from_fn(width, image.height(), |x, y| {
                let (first, weights) = &taps[x as usize];
                weighted(weights, |at| image.get_pixel(first + at, y).0)
            })
        }
    };
    if wide.height() == height {
        return wide;
    }
    let taps = taps(wide.height(), height, kernel);
    RgbImage::from_fn(width, height, |x, y| {
        let (first, weights) = &taps[y as usize];
        weighted(weights, |at| wide.get_pixel(x, first + at).0)
    })
}

fn weighted(weights: &[i64], pixel: impl Fn(u32) -> [u8; 3]) -> image::Rgb<u8> {
    let mut sums = [1 << (BITS - 1); 3];
    for (at, weight) in (0..).zip(weights) {
        for (sum, value) in sums.iter_mut().zip(pixel(at)) {
            *sum += weight * i64::from(value);
        }
    }
    image::Rgb(sums.map(|sum: i64| (sum >> BITS).clamp(0, 255) as u8))
}

/// For each pixel of the result, the first source pixel that it reads and the weights from there on.
fn taps(input: u32, output: u32, kernel: Kernel) -> Vec<(u32, Vec<i64>)> {
    let scale = f64::from(input) / f64::from(output);
    let widened = scale.max(1.0);
    let reach = kernel.support * widened;
    let tap = |at: u32| {
        let center = (f64::from(at) + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as u32;
        let end = ((center + reach + 0.5) as u32).min(input);
        let weight = |at: u32| (kernel.weight)((f64::from(at) - center + 0.5) / widened);
        let raw: Vec<f64> = (first..end).map(weight).collect();
        let share = 1.0 / raw.iter().sum::<f64>();
        let fixed = |weight: f64| (weight * share * f64::from(1 << BITS)).round() as i64;
        (first, raw.into_iter().map(fixed).collect())
    };
    (0..output).map(tap).collect()
}

/// Keys' cubic convolution kernel with `a = −½`.
fn keys(x: f64) -> f64 {
    let x = x.abs();
    if x < 1.0 {
        (1.5 * x - 2.5) * x * x + 1.0
    } else if x < BICUBIC.support {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}

/// Lanczos' kernel of three lobes.
fn windowed_sinc(x: f64) -> f64 {
    let sinc = |x: f64| if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) };
    if x.abs() < LANCZOS.support { sinc(x) * sinc(x / LANCZOS.support) } else { 0.0 }
}
