//! The two resizes that the published weights saw: nearest-exact for canvases, antialiased bilinear for references.
//!
//! Both put pixel centres at half integers: destination `i` looks at source `(i + ½) · in / out`.

use super::plane::Plane;

/// Picks the source pixel whose area covers the centre of each destination pixel: `⌊(i + ½) · in / out⌋`.
///
/// # Shapes
/// - plane: `[C, H, W]`
/// - output: `[C, height, width]`
pub fn nearest_exact(plane: &Plane, height: usize, width: usize) -> Plane {
    if (plane.height, plane.width) == (height, width) {
        return plane.clone();
    }
    let columns: Vec<usize> = (0..width).map(|x| (2 * x + 1) * plane.width / (2 * width)).collect();
    let mut data = Vec::with_capacity(plane.channels * height * width);
    for channel in 0..plane.channels {
        for y in 0..height {
            let row = channel * plane.height + (2 * y + 1) * plane.height / (2 * height);
            let row = &plane.data[row * plane.width..(row + 1) * plane.width];
            data.extend(columns.iter().map(|&x| row[x]));
        }
    }
    Plane { channels: plane.channels, height, width, data }
}

/// Bilinear with antialiasing: a triangle of radius 1 source pixel, widened to `in / out` when shrinking, its weights
/// normalized to one at the edges. The semantics of PyTorch's `interpolate(mode="bilinear", antialias=True)`.
///
/// # Shapes
/// - plane: `[C, H, W]`
/// - output: `[C, height, width]`
pub fn bilinear_antialias(plane: &Plane, height: usize, width: usize) -> Plane {
    if (plane.height, plane.width) == (height, width) {
        return plane.clone();
    }
    let rows = plane.channels * plane.height;
    let horizontal = taps(plane.width, width);
    let mut wide = Vec::with_capacity(rows * width);
    for row in plane.data.chunks(plane.width) {
        wide.extend(horizontal.iter().map(|tap| {
            let source = &row[tap.first..tap.first + tap.weights.len()];
            source.iter().zip(&tap.weights).map(|(value, weight)| value * weight).sum::<f32>()
        }));
    }

    let vertical = taps(plane.height, height);
    let mut data = vec![0.0; plane.channels * height * width];
    for (at, out) in data.chunks_mut(width).enumerate() {
        let (channel, y) = (at / height, at % height);
        let first = channel * plane.height + vertical[y].first;
        // Row by row, so that memory is read in order.
        for (row, weight) in (first..).zip(&vertical[y].weights) {
            let source = &wide[row * width..(row + 1) * width];
            out.iter_mut().zip(source).for_each(|(out, value)| *out += value * weight);
        }
    }
    Plane { channels: plane.channels, height, width, data }
}

/// What one destination pixel reads along one axis: `weights` of the source pixels from `first` on.
struct Tap {
    first: usize,
    weights: Vec<f32>,
}

fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = input as f64 / output as f64;
    let support = scale.max(1.0);
    let tap = |at: usize| {
        let center = scale * (at as f64 + 0.5);
        let first = (center - support + 0.5).max(0.0) as usize;
        let end = ((center + support + 0.5) as usize).min(input);
        let triangle = |at: usize| (1.0 - ((at as f64 + 0.5 - center) / support).abs()).max(0.0);
        let total: f64 = (first..end).map(triangle).sum();
        Tap { first, weights: (first..end).map(|at| (triangle(at) / total) as f32).collect() }
    };
    (0..output).map(tap).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(data: &[f32]) -> Plane {
        Plane { channels: 1, height: 1, width: data.len(), data: data.to_vec() }
    }

    fn close(left: &[f32], right: &[f32]) {
        assert_eq!(left.len(), right.len());
        assert!(left.iter().zip(right).all(|(a, b)| (a - b).abs() < 1e-6), "{left:?} is not {right:?}");
    }

    #[test]
    fn nearest_exact_reads_the_pixel_under_the_centre() {
        let five = row(&[0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(nearest_exact(&five, 1, 3).data, [0.0, 2.0, 4.0]);
        assert_eq!(nearest_exact(&five, 1, 2).data, [1.0, 3.0]);
        assert_eq!(nearest_exact(&row(&[5.0, 6.0]), 1, 4).data, [5.0, 5.0, 6.0, 6.0]);
    }

    #[test]
    fn halving_weighs_four_pixels_and_renormalizes_at_the_edges() {
        // Inside: 1/8 3/8 3/8 1/8; at the left edge 3/7 3/7 1/7.
        let halved = bilinear_antialias(&row(&[0.0, 0.0, 1.0, 0.0, 0.0, 0.0]), 1, 3);
        close(&halved.data, &[1.0 / 7.0, 3.0 / 8.0, 0.0]);
    }

    #[test]
    fn doubling_interpolates_between_centres() {
        close(&bilinear_antialias(&row(&[0.0, 1.0]), 1, 4).data, &[0.0, 0.25, 0.75, 1.0]);
    }

    #[test]
    fn rows_are_resized_as_columns_are() {
        let column = Plane { channels: 2, height: 2, width: 1, data: vec![0.0, 1.0, 4.0, 8.0] };
        close(&bilinear_antialias(&column, 4, 1).data, &[0.0, 0.25, 0.75, 1.0, 4.0, 5.0, 7.0, 8.0]);
    }

    #[test]
    fn a_flat_plane_stays_flat() {
        let flat = Plane::filled([3, 37, 53], -0.3);
        for (height, width) in [(16, 16), (37, 20), (100, 91), (1, 1)] {
            let resized = bilinear_antialias(&flat, height, width);
            assert_eq!(resized.shape(), [3, height, width]);
            close(&resized.data, &vec![-0.3; 3 * height * width]);
            assert_eq!(nearest_exact(&flat, height, width).data, vec![-0.3; 3 * height * width]);
        }
    }
}
