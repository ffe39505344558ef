//! A mosaic: one cubic sample for every cell of 64×64 pixels, drawn as large as the cell.

use image::{Rgb, RgbImage};

/// Pixels per cell, on each axis; `ratio` of the official `ColorAnnotator`.
const RATIO: u32 = 64;
/// OpenCV's sharpness of the cubic kernel.
const A: f64 = -0.75;

/// A picture of `(width / 64) × (height / 64)` cells, at least one, in the size of `image`.
///
/// OpenCV's `resize` down with `INTER_CUBIC`, which looks at the 4×4 pixels around the middle of a cell and at no others,
/// then up with `INTER_NEAREST`. OpenCV has two cubic resizes: the one of its packages for x86 (Intel's IPP) rounds once
/// and is what this computes; without it, weights are rounded to 11 bits, and a cell may differ by one grey level.
pub fn mosaic(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    if width == 0 || height == 0 {
        return image.clone();
    }
    let (columns, rows) = (Axis::new(width), Axis::new(height));
    let cells = RgbImage::from_fn(columns.cells, rows.cells, |x, y| {
        let (columns, rows) = (columns.taps(x), rows.taps(y));
        let mut sum = [0.0; 3];
        for (y, down) in rows {
            for (x, across) in columns {
                let pixel = image.get_pixel(x, y);
                for (sum, channel) in sum.iter_mut().zip(pixel.0) {
                    *sum += down * across * f64::from(channel);
                }
            }
        }
        Rgb(sum.map(round))
    });
    RgbImage::from_fn(width, height, |x, y| *cells.get_pixel(columns.cell_of(x), rows.cell_of(y)))
}

/// One side of the picture.
struct Axis {
    pixels: u32,
    cells: u32,
}

impl Axis {
    fn new(pixels: u32) -> Self {
        Self { pixels, cells: (pixels / RATIO).max(1) }
    }

    /// The four pixels around the middle of a cell and their weights; beyond the edge the last pixel is repeated.
    fn taps(&self, cell: u32) -> [(u32, f64); 4] {
        let scale = f64::from(self.pixels) / f64::from(self.cells);
        let middle = (f64::from(cell) + 0.5) * scale - 0.5;
        let left = middle.floor();
        let t = middle - left;
        let near = |t: f64| ((A + 2.0) * t - (A + 3.0)) * t * t + 1.0;
        let far = |t: f64| ((A * t - 5.0 * A) * t + 8.0 * A) * t - 4.0 * A;
        let weights = [far(1.0 + t), near(t), near(1.0 - t), far(2.0 - t)];
        let last = i64::from(self.pixels) - 1;
        std::array::from_fn(|i| {
            // Within the picture, so it fits.
            let pixel = (left as i64 - 1 + i as i64).clamp(0, last) as u32;
            (pixel, weights[i])
        })
    }

    /// The cell in which a pixel is drawn, by OpenCV's order of divisions.
    fn cell_of(&self, pixel: u32) -> u32 {
        let step = 1.0 / (f64::from(self.pixels) / f64::from(self.cells));
        ((f64::from(pixel) * step).floor() as u32).min(self.cells - 1)
    }
}

/// To the nearest, halves to even. Halves are frequent, because the weights of many sizes are short fractions; the sum may
/// miss one by its last bits, so it is rounded to nine decimals first.
fn round(value: f64) -> u8 {
    const FINE: f64 = 1e9;
    ((value * FINE).round() / FINE).round_ties_even().clamp(0.0, 255.0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_one_together_and_sharpen() {
        for (pixels, cell) in [(64, 0), (100, 0), (600, 3), (451, 6)] {
            let taps = Axis::new(pixels).taps(cell);
            assert!((taps.iter().map(|tap| tap.1).sum::<f64>() - 1.0).abs() < 1e-12);
            assert!(taps[0].1 < 0.0 && taps[3].1 < 0.0);
        }
        // Half-way between two pixels: -3/32, 19/32.
        assert_eq!(Axis::new(64).taps(0), [(30, -0.09375), (31, 0.59375), (32, 0.59375), (33, -0.09375)]);
    }

    #[test]
    fn small_pictures_are_one_cell() {
        let image = RgbImage::from_fn(3, 1, |x, _| Rgb([10 * x as u8; 3]));
        assert!(mosaic(&image).pixels().all(|pixel| *pixel == Rgb([10; 3])));
        assert_eq!(mosaic(&RgbImage::new(0, 5)), RgbImage::new(0, 5));
    }

    #[test]
    fn halves_go_to_the_even_side() {
        assert_eq!([0.5, 1.5, 2.5, 66.500_000_000_001, 300.0, -7.0].map(round), [0, 2, 2, 66, 255, 0]);
    }
}
