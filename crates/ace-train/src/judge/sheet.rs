//! Edits to look at, as one picture: a row for each, its words over its pictures, and over each picture what it is.

use super::letters;
use image::{Rgb, RgbImage, imageops, imageops::FilterType};

/// Pixels between pictures, and around all.
const GAP: u32 = 8;
/// Lower pictures are enlarged until they have as many pixels of height, each of them a square.
const LEAST_HEIGHT: u32 = 128;
const PAPER: Rgb<u8> = Rgb([255; 3]);
const WORDS: [u8; 3] = [20, 20, 20];
const CAPTIONS: [u8; 3] = [110, 110, 110];

/// One edit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row {
    /// What was asked for; nothing is written where there are none.
    pub words: String,
    /// What each picture is, and the picture.
    pub pictures: Vec<(String, RgbImage)>,
}

impl Row {
    /// A row without pictures yet.
    pub fn new(words: impl Into<String>) -> Self {
        Self { words: words.into(), pictures: Vec::new() }
    }

    /// One more picture to the right.
    pub fn with(mut self, caption: impl Into<String>, picture: RgbImage) -> Self {
        self.pictures.push((caption.into(), picture));
        self
    }

    fn zoom(&self) -> u32 {
        let heights = self.pictures.iter().map(|(_, picture)| picture.height().max(1));
        LEAST_HEIGHT.div_ceil(heights.min().unwrap_or(LEAST_HEIGHT)).max(1)
    }

    /// Its pictures as they are drawn.
    fn drawn(&self) -> Vec<RgbImage> {
        let zoom = self.zoom();
        let enlarge = |picture: &RgbImage| {
            imageops::resize(picture, picture.width() * zoom, picture.height() * zoom, FilterType::Nearest)
        };
        self.pictures.iter().map(|(_, picture)| enlarge(picture)).collect()
    }
}

/// Rows below each other, aligned right so that outputs and answers stand in columns.
pub fn sheet(rows: &[Row]) -> RgbImage {
    let drawn: Vec<Vec<RgbImage>> = rows.iter().map(Row::drawn).collect();
    let width_of = |pictures: &[RgbImage]| pictures.iter().map(|picture| picture.width() + GAP).sum::<u32>();
    let width = drawn.iter().map(|pictures| width_of(pictures)).max().unwrap_or(0) + GAP;
    // Words stand over their own pictures.
    let words = rows.iter().zip(&drawn).map(|(row, pictures)| letters::lines(&row.words, width_of(pictures)));
    let words: Vec<_> = words.collect();
    let height_of = |(lines, pictures): (&Vec<String>, &Vec<RgbImage>)| {
        let pictures = pictures.iter().map(RgbImage::height).max().unwrap_or(0);
        (lines.len() as u32 + 1) * letters::HEIGHT + pictures + 2 * GAP
    };
    let height = words.iter().zip(&drawn).map(height_of).sum::<u32>() + GAP;
    let mut sheet = RgbImage::from_pixel(width, height, PAPER);
    let mut top = GAP;
    for ((row, pictures), words) in rows.iter().zip(&drawn).zip(&words) {
        let bottom = top + height_of((words, pictures));
        let first = width - width_of(pictures);
        for line in words {
            letters::write(&mut sheet, (first.into(), top.into()), WORDS, line);
            top += letters::HEIGHT;
        }
        let mut left = first;
        for ((caption, _), picture) in row.pictures.iter().zip(pictures) {
            letters::write(&mut sheet, (left.into(), top.into()), CAPTIONS, caption);
            imageops::replace(&mut sheet, picture, left.into(), (top + letters::HEIGHT).into());
            left += picture.width() + GAP;
        }
        top = bottom;
    }
    sheet
}

/// Sheets side by side.
pub fn beside(sheets: &[RgbImage]) -> RgbImage {
    let height = sheets.iter().map(RgbImage::height).max().unwrap_or(1);
    let mut all = RgbImage::from_pixel(sheets.iter().map(RgbImage::width).sum::<u32>().max(1), height, PAPER);
    let mut left = 0;
    for sheet in sheets {
        imageops::replace(&mut all, sheet, left, 0);
        left += i64::from(sheet.width());
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_aligns_rows_right() {
        let picture = |grey| RgbImage::from_pixel(LEAST_HEIGHT, LEAST_HEIGHT, Rgb([grey; 3]));
        let rows =
            [Row::new("").with("output", picture(10)), Row::new("").with("input", picture(20)).with("", picture(30))];
        let sheet = sheet(&rows);
        assert_eq!(sheet.width(), 2 * LEAST_HEIGHT + 3 * GAP);
        let row = letters::HEIGHT + LEAST_HEIGHT + 2 * GAP;
        assert_eq!(sheet.height(), 2 * row + GAP);
        let middle = |column: u32, line: u32| {
            let x = GAP + column * (LEAST_HEIGHT + GAP) + LEAST_HEIGHT / 2;
            sheet.get_pixel(x, GAP + line * row + letters::HEIGHT + LEAST_HEIGHT / 2).0[0]
        };
        assert_eq!([middle(0, 0), middle(1, 0), middle(0, 1), middle(1, 1)], [255, 10, 20, 30]);
    }

    #[test]
    fn small_pictures_are_enlarged_and_words_are_seen() {
        let row = Row::new("make the circle green").with("input", RgbImage::new(64, 64));
        let with = sheet(std::slice::from_ref(&row));
        assert_eq!(with.width(), 128 + 2 * GAP);
        let without = sheet(&[Row { words: String::new(), ..row }]);
        // Two lines of words.
        assert_eq!(with.height(), without.height() + 2 * letters::HEIGHT);
        let ink = |sheet: &RgbImage| sheet.pixels().filter(|pixel| pixel.0[0] < 128 && pixel.0[0] > 0).count();
        assert!(ink(&with) > ink(&without) + 100);
    }

    #[test]
    fn nothing_is_a_sheet_too() {
        assert_eq!(sheet(&[]).dimensions(), (GAP, GAP));
        assert_eq!(beside(&[]).dimensions(), (1, 1));
    }
}
