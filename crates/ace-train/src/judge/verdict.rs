//! Says whether an edit succeeded: did it change what it should, as it should, and did the rest stay?
//!
//! A pixel *should change* if the answer differs visibly from the image, otherwise it *should stay*. Either way it is
//! *within* if the output is near the answer. So this is only of use where there is one right answer.

use std::collections::BTreeMap;

use ace_plus::canvas::MASK_THRESHOLD;
use image::{Rgb, RgbImage};
use serde::Serialize;

use crate::data::{example::Example, shapes::CELL};

/// Grey levels (mean over the channels) by which image and answer must differ for a pixel to count as changed. Smaller
/// differences are invisible.
pub const CHANGED_LEVELS: f32 = 8.0;
/// Grey levels (mean over the channels) by which the output may miss the answer and still be within: an eighth of the
/// range, less than lies between any two colours of the world, more than an autoencoder's blur on flat parts.
pub const WITHIN_LEVELS: f32 = 32.0;
/// Share of the changed pixels that must be within: soft edges may fail, a wrong shape or colour may not.
pub const CHANGED_SHARE: f32 = 0.80;
/// Share of the kept pixels that must be within: an edit must not disturb what it was not asked about.
pub const KEPT_SHARE: f32 = 0.95;
/// Share of each figure that must be within.
pub const FIGURE_SHARE: f32 = CHANGED_SHARE;
/// Highest PSNR reported, in dB: that of a perfect copy is infinite, and so would every mean be.
pub const PSNR_LIMIT: f32 = 60.0;

/// How one output compares with its answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Verdict {
    /// Enough of the pixels that should change are within, enough of those that should stay, and enough of every figure.
    ///
    /// Figures are looked at one by one because they are small: one that is missing is a small share of the kept pixels,
    /// and where there is no image, a picture of nothing but background has most pixels right.
    pub success: bool,
    /// Share within, among the pixels that should change; 1 if none should.
    pub changed_within: f32,
    /// Share within, among the pixels that should stay; 1 if none should.
    pub kept_within: f32,
    /// The lowest share within among the figures of the answer; 1 if there are none. A figure is what stands out from the
    /// background in one place of the world, and a row's leftmost pixel is always background.
    pub worst_figure_within: f32,
    /// PSNR over the pixels that should change, in dB; `None` when none should.
    pub psnr_changed: Option<f32>,
    /// PSNR over the pixels that should stay, in dB; `None` when none should.
    pub psnr_kept: Option<f32>,
    /// PSNR where the mask keeps, in dB; `None` without a mask.
    pub psnr_outside_mask: Option<f32>,
}

/// Compares an output with the answer of its example. Without an image everything should change.
///
/// # Panics
/// When the output, or the image or mask of the example, is not as large as the answer.
pub fn judge(example: &Example, output: &RgbImage) -> Verdict {
    let Example { image, mask, target, .. } = example;
    let sizes =
        [Some(output.dimensions()), image.as_ref().map(|i| i.dimensions()), mask.as_ref().map(|m| m.dimensions())];
    for size in sizes.into_iter().flatten() {
        assert_eq!(size, target.dimensions(), "judge: pictures differ in size");
    }

    let (mut changed, mut kept, mut outside) = (PixelCount::default(), PixelCount::default(), PixelCount::default());
    let mut figures: BTreeMap<(u32, u32), PixelCount> = BTreeMap::new();
    for (x, y, answer) in target.enumerate_pixels() {
        let given = output.get_pixel(x, y);
        let changes = image.as_ref().is_none_or(|image| levels(image.get_pixel(x, y), answer) > CHANGED_LEVELS);
        if changes { &mut changed } else { &mut kept }.add(given, answer);
        if mask.as_ref().is_some_and(|mask| mask.get_pixel(x, y)[0] <= MASK_THRESHOLD) {
            outside.add(given, answer);
        }
        if levels(target.get_pixel(0, y), answer) > CHANGED_LEVELS {
            figures.entry((x / CELL, y / CELL)).or_default().add(given, answer);
        }
    }

    let (changed_within, kept_within) = (changed.share_within(), kept.share_within());
    let worst_figure_within = figures.values().map(PixelCount::share_within).fold(1.0, f32::min);
    Verdict {
        success: changed_within >= CHANGED_SHARE && kept_within >= KEPT_SHARE && worst_figure_within >= FIGURE_SHARE,
        changed_within,
        kept_within,
        worst_figure_within,
        psnr_changed: changed.psnr(),
        psnr_kept: kept.psnr(),
        psnr_outside_mask: outside.psnr(),
    }
}

/// What a set of pixels adds up to.
#[derive(Default)]
struct PixelCount {
    pixels: u32,
    within: u32,
    squares: f64,
}

impl PixelCount {
    fn add(&mut self, given: &Rgb<u8>, answer: &Rgb<u8>) {
        self.pixels += 1;
        self.within += u32::from(levels(given, answer) <= WITHIN_LEVELS);
        self.squares += (0..3).map(|c| (f64::from(given[c]) - f64::from(answer[c])).powi(2)).sum::<f64>();
    }

    fn share_within(&self) -> f32 {
        if self.pixels == 0 { 1.0 } else { self.within as f32 / self.pixels as f32 }
    }

    /// `10 · log10(255² / mean squared error)`.
    fn psnr(&self) -> Option<f32> {
        let mean = self.squares / (3.0 * f64::from(self.pixels));
        // No error divides by zero: the limit catches the infinity.
        (self.pixels > 0).then(|| ((10.0 * (255.0f64.powi(2) / mean).log10()) as f32).min(PSNR_LIMIT))
    }
}

/// Mean absolute difference over the channels.
fn levels(a: &Rgb<u8>, b: &Rgb<u8>) -> f32 {
    (0..3).map(|c| f32::from(a[c].abs_diff(b[c]))).sum::<f32>() / 3.0
}

/// The mean of many verdicts; a PSNR counts where it was defined.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Score {
    /// How many verdicts.
    pub count: usize,
    /// Share of them that succeeded.
    pub success_rate: f32,
    /// Mean share within, where pixels should change.
    pub changed_within: f32,
    /// Mean share within, where pixels should stay.
    pub kept_within: f32,
    /// Mean PSNR where pixels should change, in dB.
    pub psnr_changed: Option<f32>,
    /// Mean PSNR where pixels should stay, in dB.
    pub psnr_kept: Option<f32>,
    /// Mean PSNR where the mask keeps, in dB.
    pub psnr_outside_mask: Option<f32>,
}

impl Score {
    /// The score of `verdicts`; all zero when there are none.
    pub fn of(verdicts: &[Verdict]) -> Self {
        let over = |value: fn(&Verdict) -> Option<f32>| mean(verdicts.iter().filter_map(value));
        Self {
            count: verdicts.len(),
            success_rate: over(|v| Some(f32::from(u8::from(v.success)))).unwrap_or(0.0),
            changed_within: over(|v| Some(v.changed_within)).unwrap_or(0.0),
            kept_within: over(|v| Some(v.kept_within)).unwrap_or(0.0),
            psnr_changed: over(|v| v.psnr_changed),
            psnr_kept: over(|v| v.psnr_kept),
            psnr_outside_mask: over(|v| v.psnr_outside_mask),
        }
    }

    /// A score for each task, from verdicts with the name of their task.
    pub fn by_task(verdicts: impl IntoIterator<Item = (String, Verdict)>) -> BTreeMap<String, Self> {
        let mut tasks: BTreeMap<String, Vec<Verdict>> = BTreeMap::new();
        for (task, verdict) in verdicts {
            tasks.entry(task).or_default().push(verdict);
        }
        tasks.into_iter().map(|(task, verdicts)| (task, Self::of(&verdicts))).collect()
    }
}

fn mean(values: impl Iterator<Item = f32>) -> Option<f32> {
    let (count, sum) = values.fold((0u32, 0.0f64), |(count, sum), value| (count + 1, sum + f64::from(value)));
    (count > 0).then(|| (sum / f64::from(count)) as f32)
}

#[cfg(test)]
mod tests {
    use image::{GrayImage, Luma};

    use super::*;

    /// A 10×10 picture, black but for its first `rows` rows.
    fn rows(rows: u32, level: u8) -> RgbImage {
        RgbImage::from_fn(10, 10, |_, y| Rgb([if y < rows { level } else { 0 }; 3]))
    }

    /// Paint the upper half of a black picture.
    fn example() -> Example {
        Example {
            task: "fill".to_owned(),
            instruction: "paint the upper half".to_owned(),
            image: Some(rows(0, 0)),
            mask: Some(GrayImage::from_fn(10, 10, |_, y| Luma([if y < 5 { 255 } else { 0 }]))),
            references: Vec::new(),
            target: rows(5, 200),
            repainting_scale: 1.0,
        }
    }

    #[test]
    fn the_answer_itself_is_perfect() {
        let verdict = judge(&example(), &rows(5, 200));
        assert!(verdict.success);
        assert_eq!((verdict.changed_within, verdict.kept_within), (1.0, 1.0));
        assert_eq!([verdict.psnr_changed, verdict.psnr_kept, verdict.psnr_outside_mask], [Some(PSNR_LIMIT); 3]);
    }

    #[test]
    fn doing_nothing_fails_though_everything_is_kept() {
        let verdict = judge(&example(), &rows(0, 0));
        assert!(!verdict.success);
        assert_eq!((verdict.changed_within, verdict.kept_within), (0.0, 1.0));
    }

    #[test]
    fn four_fifths_of_the_change_are_enough() {
        assert!(judge(&example(), &rows(4, 200)).success);
        assert!(!judge(&example(), &rows(3, 200)).success);
    }

    #[test]
    fn a_disturbed_background_fails() {
        let verdict = judge(&example(), &rows(6, 200));
        assert_eq!((verdict.success, verdict.changed_within, verdict.kept_within), (false, 1.0, 0.8));
    }

    #[test]
    fn within_ends_at_its_limit() {
        assert_eq!(judge(&example(), &rows(5, 168)).changed_within, 1.0);
        assert_eq!(judge(&example(), &rows(5, 167)).changed_within, 0.0);
        let psnr = judge(&example(), &rows(5, 168)).psnr_changed.unwrap();
        assert!((psnr - 18.0275).abs() < 1e-3, "20 log10(255 / 32) = 18.0275, not {psnr}");
    }

    #[test]
    fn without_an_image_everything_changes() {
        let verdict = judge(&Example { image: None, mask: None, ..example() }, &rows(5, 200));
        assert_eq!((verdict.kept_within, verdict.psnr_kept, verdict.psnr_outside_mask), (1.0, None, None));
        assert!(verdict.success && verdict.psnr_changed.is_some());
    }

    #[test]
    fn when_nothing_changes_the_change_is_complete() {
        let verdict = judge(&Example { target: rows(0, 0), ..example() }, &rows(0, 0));
        assert_eq!((verdict.success, verdict.changed_within, verdict.psnr_changed), (true, 1.0, None));
    }

    #[test]
    fn a_bare_background_is_no_success() {
        // One figure of 8×8 in a picture without image: most pixels are background.
        let figure = |level: u8| {
            RgbImage::from_fn(32, 32, |x, y| Rgb([if x.max(y) < 12 && x.min(y) >= 4 { level } else { 0 }; 3]))
        };
        let example = Example { image: None, mask: None, target: figure(200), ..example() };
        let bare = judge(&example, &figure(0));
        assert_eq!((bare.success, bare.worst_figure_within), (false, 0.0));
        assert!(judge(&example, &figure(190)).success);
    }

    #[test]
    fn scores_are_means_per_task() {
        let (good, bad) = (judge(&example(), &rows(5, 200)), judge(&example(), &rows(0, 0)));
        let scores = Score::by_task([("a", good), ("a", bad), ("b", good)].map(|(task, v)| (task.to_owned(), v)));
        assert_eq!((scores["a"].count, scores["a"].success_rate, scores["a"].changed_within), (2, 0.5, 0.5));
        assert_eq!((scores["b"].count, scores["b"].success_rate), (1, 1.0));
        assert_eq!(Score::of(&[]).count, 0);
    }
}
