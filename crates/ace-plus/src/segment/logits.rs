//! A mask as numbers, and in another size.

/// A mask as the network says it: above zero inside.
#[derive(Debug, Clone, PartialEq)]
pub struct Logits {
    /// In pixels.
    pub width: usize,
    /// In pixels.
    pub height: usize,
    /// Row after row.
    pub values: Vec<f32>,
}

/// What a place of the result reads: two places of the source, and how much of the second.
struct Tap {
    first: usize,
    second: usize,
    share: f32,
}

/// Taps along one axis as torch has them without `align_corners`: middles of pixels lie on middles, edges are repeated.
fn taps(input: usize, output: usize) -> Vec<Tap> {
    let scale = input as f32 / output as f32;
    let tap = |at: usize| {
        let place = ((at as f32 + 0.5) * scale - 0.5).max(0.0);
        let first = (place as usize).min(input - 1);
        Tap { first, second: (first + 1).min(input - 1), share: (place - first as f32).clamp(0.0, 1.0) }
    };
    (0..output).map(tap).collect()
}

impl Logits {
    /// In another width and height: torch's `interpolate` with `mode="bilinear"`, which smooths nothing when it shrinks.
    #[must_use]
    pub fn resized(&self, [width, height]: [usize; 2]) -> Self {
        let (columns, rows) = (taps(self.width, width), taps(self.height, height));
        let mut values = Vec::with_capacity(width * height);
        for down in &rows {
            let row = |index: usize| &self.values[index * self.width..][..self.width];
            let (upper, lower) = (row(down.first), row(down.second));
            values.extend(columns.iter().map(|across| {
                let along = |row: &[f32]| row[across.first] * (1.0 - across.share) + row[across.second] * across.share;
                along(upper) * (1.0 - down.share) + along(lower) * down.share
            }));
        }
        Self { width, height, values }
    }

    /// The upper left corner.
    ///
    /// # Panics
    /// If it is larger than the mask.
    #[must_use]
    pub fn cropped(&self, [width, height]: [usize; 2]) -> Self {
        assert!(width <= self.width && height <= self.height, "{width}×{height} of {}×{}", self.width, self.height);
        let rows = self.values.chunks_exact(self.width).take(height);
        Self { width, height, values: rows.flat_map(|row| &row[..width]).copied().collect() }
    }
}
