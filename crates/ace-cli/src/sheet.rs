//! A contact sheet: references, the image with its mask tinted, and the output, side by side.

use ace_plus::{Edit, canvas::MASK_THRESHOLD};
use image::{GrayImage, Rgb, RgbImage, imageops, imageops::FilterType};

/// Pixels between pictures.
const GAP: u32 = 8;
/// Colour between pictures.
const PAPER: Rgb<u8> = Rgb([255; 3]);
/// What the masked part is tinted with, half and half.
const TINT: Rgb<u8> = Rgb([255, 0, 128]);
/// Least height of a sheet: pictures of a few pixels are enlarged, each pixel to a square.
const LEAST_HEIGHT: u32 = 192;
/// A reference gets at most this many times the output's width: a panorama would fill the sheet.
const WIDEST: u32 = 2;

/// Draws what went in and what came out.
pub fn draw(edit: &Edit, output: &RgbImage) -> RgbImage {
    let image = edit.input().map(|image| match edit.masked() {
        Some(mask) => tinted(image, mask),
        None => image.clone(),
    });
    let pictures: Vec<RgbImage> = edit.references().iter().cloned().chain(image).chain([output.clone()]).collect();
    let zoom = LEAST_HEIGHT.div_ceil(output.height().max(1)).max(1);
    let (width, height) = (output.width() * zoom, output.height() * zoom);
    let pictures: Vec<RgbImage> = pictures
        .iter()
        .map(|picture| {
            let (width, height) = fitted(picture.dimensions(), (WIDEST * width, height));
            let enlarged = width.is_multiple_of(picture.width()) && height.is_multiple_of(picture.height());
            let filter = if enlarged { FilterType::Nearest } else { FilterType::CatmullRom };
            imageops::resize(picture, width, height, filter)
        })
        .collect();
    beside(&pictures, height)
}

/// The size with the proportions of `size` that just fits into `room`.
fn fitted(size: (u32, u32), room: (u32, u32)) -> (u32, u32) {
    let [width, height] = [size.0, size.1].map(f64::from);
    let scale = (f64::from(room.0) / width).min(f64::from(room.1) / height);
    (((width * scale).round() as u32).max(1), ((height * scale).round() as u32).max(1))
}

/// Pictures in a row, centred in `height`, on paper.
fn beside(pictures: &[RgbImage], height: u32) -> RgbImage {
    let width = pictures.iter().map(|picture| picture.width() + GAP).sum::<u32>() + GAP;
    let mut sheet = RgbImage::from_pixel(width, height + 2 * GAP, PAPER);
    let mut left = GAP;
    for picture in pictures {
        let top = GAP + height.saturating_sub(picture.height()) / 2;
        imageops::replace(&mut sheet, picture, left.into(), top.into());
        left += picture.width() + GAP;
    }
    sheet
}

fn tinted(image: &RgbImage, mask: &GrayImage) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let own = image.get_pixel(x, y);
        match mask.get_pixel_checked(x, y) {
            Some(grey) if grey.0[0] > MASK_THRESHOLD => Rgb(std::array::from_fn(|c| own.0[c] / 2 + TINT.0[c] / 2)),
            _ => *own,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::Luma;

    fn plain(width: u32, height: u32, grey: u8) -> RgbImage {
        RgbImage::from_pixel(width, height, Rgb([grey; 3]))
    }

    #[test]
    fn references_image_and_output_stand_in_a_row() {
        let edit = Edit::new("words").image(plain(64, 64, 20)).reference(plain(32, 64, 10));
        let sheet = draw(&edit, &plain(64, 64, 30));
        // Three times enlarged: 96, 192 and 192 wide.
        assert_eq!(sheet.dimensions(), (4 * GAP + 96 + 192 + 192, 192 + 2 * GAP));
        let middle = |x| sheet.get_pixel(x, GAP + 96).0[0];
        assert_eq!([middle(GAP), middle(2 * GAP + 96), middle(3 * GAP + 96 + 192)], [10, 20, 30]);
        assert_eq!([middle(0), middle(GAP + 96)], [255, 255]);
    }

    #[test]
    fn only_the_masked_part_is_tinted() {
        let mask = GrayImage::from_fn(2, 1, |x, _| Luma([if x == 0 { 255 } else { 0 }]));
        let tinted = tinted(&plain(2, 1, 100), &mask);
        assert_eq!((tinted.get_pixel(0, 0), tinted.get_pixel(1, 0)), (&Rgb([177, 50, 114]), &Rgb([100; 3])));
    }

    #[test]
    fn a_panorama_is_shrunk_into_its_room() {
        assert_eq!(fitted((400, 100), (200, 100)), (200, 50));
        assert_eq!(fitted((10, 1000), (200, 100)), (1, 100));
    }
}
