//! Edits at native resolution: of a picture that is too large for the budget, only the surroundings of the mask go
//! through the networks, and what they make of them is put back in its place.

use super::{CanvasPolicy, Inputs, Layout, MASK_THRESHOLD, budget_scale, fitted, in_aspect};
use image::{GrayImage, Rgb, RgbImage, imageops};

/// How much around the mask the network sees at least: pixels, or a share of the mask's longer side if that is more.
const CONTEXT: (u32, f64) = (64, 0.5);
/// How far outside the mask colours are compared, in pixels.
const RING: u32 = 16;

/// A rectangle of a picture, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Columns left of it.
    pub left: u32,
    /// Rows above it.
    pub top: u32,
    /// Columns of it.
    pub width: u32,
    /// Rows of it.
    pub height: u32,
}

impl Region {
    /// The part of an edit's image that should go through the networks: the mask with something around it, as much as
    /// the budget takes at native resolution. `None` if that is all of it, or there is nothing to cut.
    pub fn around_mask(inputs: &Inputs, policy: &CanvasPolicy) -> Option<Self> {
        let (image, mask) = (inputs.image?, inputs.mask?);
        let whole = Self { left: 0, top: 0, width: image.width(), height: image.height() };
        if mask.dimensions() != image.dimensions() || whole.fits(inputs, policy) {
            return None;
        }
        let painted = painted(mask)?;
        let around = (f64::from(painted.width.max(painted.height)) * CONTEXT.1) as u32;
        let least = painted.grown(around.max(CONTEXT.0), whole).in_aspect(whole, policy);
        // As large as the budget takes, between the least and the whole.
        let between = |share: f64| least.towards(whole, share, policy);
        let (mut small, mut large) = (0.0, 1.0);
        for _ in 0..20 {
            let middle = f64::midpoint(small, large);
            if between(middle).fits(inputs, policy) { small = middle } else { large = middle }
        }
        let region = between(small);
        // A picture that is too long would be cropped, so it needs a region even if that is all of it.
        let sides = (whole.height as usize, whole.width as usize);
        (region != whole || in_aspect(sides, policy) != sides).then_some(region)
    }

    /// Whether this part, with the references beside it, goes through the networks without being shrunk or cropped.
    fn fits(self, inputs: &Inputs, policy: &CanvasPolicy) -> bool {
        let (width, height) = (self.width as usize, self.height as usize);
        let size = |image: &RgbImage| in_aspect((image.height() as usize, image.width() as usize), policy);
        let sizes = inputs.references.iter().map(size);
        let sizes = match policy.layout {
            Layout::Canvas => {
                let beside: usize = sizes.map(|reference| fitted(reference, height, policy).1).sum();
                vec![(height, width + beside)]
            }
            Layout::Sequence => sizes.chain([(height, width)]).collect(),
        };
        in_aspect((height, width), policy) == (height, width) && budget_scale(&sizes, policy) >= 1.0
    }

    /// This region with `margin` more pixels on every side, as far as `whole` goes.
    fn grown(self, margin: u32, whole: Self) -> Self {
        let (left, top) = (self.left.saturating_sub(margin), self.top.saturating_sub(margin));
        let right = (self.left + self.width).saturating_add(margin).min(whole.width);
        let bottom = (self.top + self.height).saturating_add(margin).min(whole.height);
        Self { left, top, width: right - left, height: bottom - top }
    }

    /// This region, its shorter side made longer until the policy allows the ratio of the sides, if there is room.
    fn in_aspect(self, whole: Self, policy: &CanvasPolicy) -> Self {
        let least = |side: u32| (f64::from(side) / f64::from(policy.max_aspect_ratio)).ceil() as u32;
        let (width, height) = (self.width.max(least(self.height)), self.height.max(least(self.width)));
        let (left, width) = widened((self.left, self.width), width, whole.width);
        let (top, height) = widened((self.top, self.height), height, whole.height);
        Self { left, top, width, height }
    }

    /// A region between this one (`share` 0) and `whole` (1), its sides multiples of the token where there is room.
    fn towards(self, whole: Self, share: f64, policy: &CanvasPolicy) -> Self {
        let (left, width) = between((self.left, self.width), whole.width, share, policy);
        let (top, height) = between((self.top, self.height), whole.height, share, policy);
        Self { left, top, width, height }
    }

    /// This part of a picture.
    pub fn of_rgb(self, image: &RgbImage) -> RgbImage {
        imageops::crop_imm(image, self.left, self.top, self.width, self.height).to_image()
    }

    /// This part of a mask.
    pub fn of_mask(self, mask: &GrayImage) -> GrayImage {
        imageops::crop_imm(mask, self.left, self.top, self.width, self.height).to_image()
    }
}

/// One axis of [`Region::towards`].
fn between((start, len): (u32, u32), whole: u32, share: f64, policy: &CanvasPolicy) -> (u32, u32) {
    let wanted = len + (f64::from(whole - len) * share) as u32;
    // A multiple of the token is not resampled.
    let tokens = wanted.next_multiple_of(policy.token as u32);
    widened((start, len), if tokens <= whole { tokens } else { whole }, whole)
}

/// A stretch of an axis with more on both sides, as evenly as there is room.
fn widened((start, len): (u32, u32), wanted: u32, whole: u32) -> (u32, u32) {
    let wanted = wanted.clamp(len, whole);
    (start.saturating_sub((wanted - len) / 2).min(whole - wanted), wanted)
}

/// The smallest rectangle with everything that a mask repaints.
fn painted(mask: &GrayImage) -> Option<Region> {
    let (mut left, mut top, mut right, mut bottom) = (u32::MAX, u32::MAX, 0, 0);
    for (x, y, grey) in mask.enumerate_pixels() {
        if grey.0[0] > MASK_THRESHOLD {
            (left, right) = (left.min(x), right.max(x + 1));
            (top, bottom) = (top.min(y), bottom.max(y + 1));
        }
    }
    (left < right).then(|| Region { left, top, width: right - left, height: bottom - top })
}

/// Puts what came out of the networks back into the input: inside the mask what was made, outside the input's own bytes,
/// and between them a ramp of `feather` pixels outside the mask (0: none). Colours are matched first: each channel of
/// what was made is moved by the median of its differences to the input in a ring around the mask.
///
/// # Panics
/// If input and mask differ in size, or `made` is not of the region's.
pub fn stitch(made: &RgbImage, region: Region, input: &RgbImage, mask: &GrayImage, feather: u32) -> RgbImage {
    assert_eq!(input.dimensions(), mask.dimensions(), "stitch: mask");
    assert_eq!(made.dimensions(), (region.width, region.height), "stitch: made");
    let own = region.of_rgb(input);
    let distances = distances(&region.of_mask(mask));
    let shift = colour_shift(made, &own, &distances);
    let mut output = input.clone();
    for (((x, y, made), own), distance) in made.enumerate_pixels().zip(own.pixels()).zip(&distances) {
        if *distance > feather {
            continue;
        }
        let share = 1.0 - f64::from(*distance) / f64::from(feather + 1);
        let value = |channel: usize| {
            let (made, own) = (f64::from(made.0[channel]) + f64::from(shift[channel]), f64::from(own.0[channel]));
            (own + (made.clamp(0.0, 255.0) - own) * share).round() as u8
        };
        output.put_pixel(region.left + x, region.top + y, Rgb([0, 1, 2].map(value)));
    }
    output
}

/// By how many levels each channel of what was made is moved.
fn colour_shift(made: &RgbImage, own: &RgbImage, distances: &[u32]) -> [i16; 3] {
    [0, 1, 2].map(|channel| {
        let pairs = made.pixels().zip(own.pixels()).zip(distances);
        let ring = pairs.filter(|(_, distance)| (1..=RING).contains(*distance));
        let mut misses: Vec<i16> =
            ring.map(|((made, own), _)| i16::from(own.0[channel]) - i16::from(made.0[channel])).collect();
        let middle = misses.len() / 2;
        if misses.is_empty() { 0 } else { *misses.select_nth_unstable(middle).1 }
    })
}

/// For each pixel how far it is from the mask, in steps to any of the eight neighbours.
fn distances(mask: &GrayImage) -> Vec<u32> {
    let (width, height) = (mask.width() as usize, mask.height() as usize);
    let far = u32::MAX / 2;
    let mut all: Vec<u32> = mask.as_raw().iter().map(|grey| if *grey > MASK_THRESHOLD { 0 } else { far }).collect();
    // One pass from the upper left and one from the lower right are enough for this distance.
    for backwards in [false, true] {
        for step in 0..all.len() {
            let at = if backwards { all.len() - 1 - step } else { step };
            let (x, y) = (at % width, at / width);
            for row in y.saturating_sub(1)..(y + 2).min(height) {
                for column in x.saturating_sub(1)..(x + 2).min(width) {
                    all[at] = all[at].min(all[row * width + column].saturating_add(1));
                }
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    #[test]
    fn distances_are_steps_of_a_king() {
        let mask = GrayImage::from_fn(7, 5, |x, y| Luma([if (x, y) == (2, 1) { 255 } else { 0 }]));
        for (at, distance) in distances(&mask).into_iter().enumerate() {
            let (x, y) = (at as u32 % 7, at as u32 / 7);
            assert_eq!(distance, x.abs_diff(2).max(y.abs_diff(1)), "{x} {y}");
        }
    }

    #[test]
    fn colours_are_moved_by_what_they_miss_around_the_mask() {
        let input = RgbImage::from_pixel(40, 40, Rgb([100, 150, 200]));
        let made = RgbImage::from_pixel(40, 40, Rgb([90, 155, 200]));
        let mask = GrayImage::from_fn(40, 40, |x, _| Luma([if x < 20 { 255 } else { 0 }]));
        let whole = Region { left: 0, top: 0, width: 40, height: 40 };
        assert_eq!(stitch(&made, whole, &input, &mask, 3), input);
    }

    #[test]
    fn a_feather_falls_from_the_mask_outwards() {
        let input = RgbImage::from_pixel(9, 1, Rgb([0; 3]));
        // The rest of the ring agrees, so nothing is moved.
        let made = RgbImage::from_fn(9, 1, |x, _| Rgb([if x < 4 { 200 } else { 0 }; 3]));
        let mask = GrayImage::from_fn(9, 1, |x, _| Luma([if x < 1 { 255 } else { 0 }]));
        let whole = Region { left: 0, top: 0, width: 9, height: 1 };
        let reds: Vec<u8> = stitch(&made, whole, &input, &mask, 3).pixels().map(|pixel| pixel.0[0]).collect();
        assert_eq!(reds, [200, 150, 100, 50, 0, 0, 0, 0, 0]);
    }
}
