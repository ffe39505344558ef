//! What a model makes of examples, as one picture: a row per example, its inputs, the output, the exact answer.

use crate::{Error, data::example::Example};
use ace_plus::{Ace, Edit};
use image::{RgbImage, imageops};

/// Inputs, output and answer of one example, by the very edit that `sample` makes.
pub fn row(ace: &Ace, example: &Example) -> Result<Vec<RgbImage>, Error> {
    let output = ace.edit(&edit_of(example), &mut |_| true)?;
    let mut row = example.references.clone();
    row.extend(example.image.clone());
    row.extend([output, example.target.clone()]);
    Ok(row)
}

/// An example as a user would ask for it; nothing is pasted back, so that the network alone is seen.
pub fn edit_of(example: &Example) -> Edit {
    let (width, height) = example.target.dimensions();
    let mut edit = Edit::new(&example.instruction).size(width, height).repainting_scale(example.repainting_scale);
    edit.image = example.image.clone();
    edit.mask = example.mask.clone();
    edit.references = example.references.clone();
    edit.keep_outside = false;
    edit
}

/// Rows of pictures, aligned right so that outputs and answers stand below each other.
pub fn sheet(rows: &[Vec<RgbImage>]) -> RgbImage {
    const GAP: u32 = 4;
    let row_width = |row: &Vec<RgbImage>| row.iter().map(|picture| picture.width() + GAP).sum::<u32>();
    let row_height = |row: &Vec<RgbImage>| row.iter().map(|picture| picture.height() + GAP).max().unwrap_or(0);
    let width = rows.iter().map(row_width).max().unwrap_or(GAP);
    let mut sheet = RgbImage::from_pixel(width, rows.iter().map(row_height).sum::<u32>().max(1), image::Rgb([255; 3]));
    let mut top = 0;
    for row in rows {
        let mut left = width - row_width(row);
        for picture in row {
            imageops::replace(&mut sheet, picture, i64::from(left), i64::from(top));
            left += picture.width() + GAP;
        }
        top += row_height(row);
    }
    sheet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sheet_aligns_rows_right() {
        let picture = |grey| RgbImage::from_pixel(2, 2, image::Rgb([grey; 3]));
        let sheet = sheet(&[vec![picture(10)], vec![picture(20), picture(30)]]);
        assert_eq!(sheet.dimensions(), (12, 12));
        assert_eq!(sheet.get_pixel(6, 0).0, [10; 3]);
        assert_eq!(sheet.get_pixel(0, 6).0, [20; 3]);
    }
}
