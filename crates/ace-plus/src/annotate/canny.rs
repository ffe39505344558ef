//! Edges as OpenCV's `Canny` finds them: thinned ridges of the gradient, kept if strong or tied to strong ones.

use image::{Rgb, RgbImage};

/// A pixel whose gradient `|dx| + |dy|` is not above this is no edge; `low_threshold` of the official `CannyAnnotator`.
const LOW: u16 = 100;
/// A ridge whose gradient is above this is an edge by itself; `high_threshold` there.
const HIGH: u16 = 200;

/// White edges on black, in the size of `image`: `cv2.Canny(image, 100, 200)` of a picture of three channels.
///
/// 3×3 Sobel filter with the border repeated; of each pixel the channel with the greatest `|dx| + |dy|`, the first of
/// equals; ridges thinned across the gradient, whose direction is one of four; weaker ridges kept where they touch a
/// strong one in any of eight directions, or another weaker one that is kept.
pub fn canny(image: &RgbImage) -> RgbImage {
    let gradients = Gradients::of(image);
    let (width, height) = (gradients.width, gradients.height);
    let mut edges = vec![Edge::None; gradients.strength.len()];
    let mut strong = Vec::new();
    for at in (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| gradients.index(x, y)) {
        if gradients.strength[at] > LOW && gradients.is_ridge(at) {
            edges[at] = Edge::Weak;
            if gradients.strength[at] > HIGH {
                edges[at] = Edge::Strong;
                strong.push(at);
            }
        }
    }
    while let Some(at) = strong.pop() {
        for neighbour in gradients.neighbours(at) {
            if edges[neighbour] == Edge::Weak {
                edges[neighbour] = Edge::Strong;
                strong.push(neighbour);
            }
        }
    }
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let is_edge = edges[gradients.index(x as usize, y as usize)] == Edge::Strong;
        Rgb([if is_edge { 255 } else { 0 }; 3])
    })
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Edge {
    None,
    Weak,
    Strong,
}

/// Slope of every pixel, with a frame of zeros one pixel wide, so that each has eight neighbours.
struct Gradients {
    width: usize,
    height: usize,
    /// `(dx, dy)` in -1020..=1020.
    slope: Vec<(i16, i16)>,
    /// `|dx| + |dy|`.
    strength: Vec<u16>,
}

impl Gradients {
    fn of(image: &RgbImage) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let framed = (width + 2) * (height + 2);
        let mut gradients = Self { width, height, slope: vec![(0, 0); framed], strength: vec![0; framed] };
        for (x, y, _) in image.enumerate_pixels() {
            let columns = [x.saturating_sub(1), x, (x + 1).min(image.width() - 1)];
            let rows = [y.saturating_sub(1), y, (y + 1).min(image.height() - 1)];
            let around = rows.map(|y| columns.map(|x| image.get_pixel(x, y).0.map(i16::from)));
            let at = gradients.index(x as usize, y as usize);
            for channel in 0..3 {
                let [above, beside, below] = around.map(|row| row.map(|pixel| pixel[channel]));
                let dx = above[2] - above[0] + 2 * (beside[2] - beside[0]) + below[2] - below[0];
                let dy = below[0] - above[0] + 2 * (below[1] - above[1]) + below[2] - above[2];
                let strength = dx.unsigned_abs() + dy.unsigned_abs();
                if strength > gradients.strength[at] {
                    (gradients.slope[at], gradients.strength[at]) = ((dx, dy), strength);
                }
            }
        }
        gradients
    }

    fn index(&self, x: usize, y: usize) -> usize {
        (y + 1) * (self.width + 2) + x + 1
    }

    fn neighbours(&self, at: usize) -> [usize; 8] {
        let (above, below) = (at - self.width - 2, at + self.width + 2);
        [above - 1, above, above + 1, at - 1, at + 1, below - 1, below, below + 1]
    }

    /// Whether no pixel across the edge is stronger. Of equals side by side or one above the other the first is taken;
    /// on a diagonal, none.
    fn is_ridge(&self, at: usize) -> bool {
        /// tan(22.5°) in 15-bit fixed point.
        const TAN_22: i32 = 13_573;
        let [upper_left, above, upper_right, left, right, lower_left, below, lower_right] =
            self.neighbours(at).map(|neighbour| self.strength[neighbour]);
        let strength = self.strength[at];
        let (dx, dy) = self.slope[at];
        let (across, down) = (i32::from(dx.unsigned_abs()), i32::from(dy.unsigned_abs()) << 15);
        // tan(67.5°) = tan(22.5°) + 2
        let (flat, steep) = (across * TAN_22, across * TAN_22 + (across << 16));
        if down < flat {
            strength > left && strength >= right
        } else if down > steep {
            strength > above && strength >= below
        } else if (dx < 0) != (dy < 0) {
            strength > upper_right && strength > lower_left
        } else {
            strength > upper_left && strength > lower_right
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows of an edge picture: `#` is an edge.
    fn drawn(image: &RgbImage) -> Vec<String> {
        let edges = canny(image);
        edges.rows().map(|row| row.map(|pixel| if pixel.0[0] == 255 { '#' } else { '.' }).collect()).collect()
    }

    #[test]
    fn a_step_is_one_line() {
        let image = RgbImage::from_fn(6, 3, |x, _| Rgb([0, if x < 3 { 0 } else { 90 }, 0]));
        assert_eq!(drawn(&image), ["..#...", "..#...", "..#..."]);
        let image = RgbImage::from_fn(3, 4, |_, y| Rgb([if y < 2 { 200 } else { 50 }; 3]));
        assert_eq!(drawn(&image), ["...", "###", "...", "..."]);
    }

    #[test]
    fn weak_edges_live_by_strong_ones() {
        // A step that grows downwards: only the last rows are strong, the others hang on them.
        let heights = [20, 30, 30, 34, 40, 46, 52, 60];
        let growing = RgbImage::from_fn(6, 8, |x, y| Rgb([if x < 3 { 0 } else { heights[y as usize] }; 3]));
        assert!(drawn(&growing).iter().all(|row| row == "...#.."));
        let weak = RgbImage::from_fn(6, 8, |x, _| Rgb([if x < 3 { 0 } else { 40 }; 3]));
        assert!(drawn(&weak).iter().all(|row| row == "......"));
    }

    #[test]
    fn small_and_empty_pictures_have_no_edges() {
        for (width, height) in [(0, 0), (0, 3), (1, 1), (2, 1)] {
            assert_eq!(canny(&RgbImage::new(width, height)), RgbImage::new(width, height));
        }
    }
}
