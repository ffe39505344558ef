//! Resizing of 8-bit pictures to the byte as Pillow does it: bicubic, which the official programs end with, and bilinear,
//! which SAM begins with.
//!
//! Facts of Pillow's `Image.resize` (`Resampling.BICUBIC`, `BILINEAR`): Keys' kernel with `a = −½`, or a triangle, widened
//! when shrinking; weights in fixed point with 22 bits; columns first, rounded to bytes, then rows. The `image` crate has
//! the same kernels and computes in floats, which differs by a level here and there.

use image::RgbImage;

/// Bits behind the point of a weight.
const BITS: u32 = 22;

/// A kernel, and how far it reaches in source pixels.
type Kernel = (fn(f64) -> f64, f64);

/// `image` in another size, with Keys' kernel.
pub fn bicubic(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(image, width, height, (keys, 2.0))
}

/// `image` in another size, with a triangle.
pub fn bilinear(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    resize(image, width, height, (|x| (1.0 - x.abs()).max(0.0), 1.0))
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
fn taps(input: u32, output: u32, (weight, support): Kernel) -> Vec<(u32, Vec<i64>)> {
    let scale = f64::from(input) / f64::from(output);
    let widened = scale.max(1.0);
    let reach = support * widened;
    let tap = |at: u32| {
        let center = (f64::from(at) + 0.5) * scale;
        let first = (center - reach + 0.5).max(0.0) as u32;
        let end = ((center + reach + 0.5) as u32).min(input);
        let raw: Vec<f64> = (first..end).map(|at| weight((f64::from(at) - center + 0.5) / widened)).collect();
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
    } else if x < 2.0 {
        ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    } else {
        0.0
    }
}
