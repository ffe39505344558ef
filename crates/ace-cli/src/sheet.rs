//! A contact sheet: the words, and under them references, the image with its mask tinted, and the output, side by side.

use ace_plus::{Edit, canvas::MASK_THRESHOLD};
use ace_train::judge::sheet::{Row, sheet};
use image::{GrayImage, Rgb, RgbImage, imageops, imageops::FilterType};

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
    let references = edit.references().iter().map(|reference| ("reference", reference.clone()));
    let pictures = references.chain(image.map(|image| ("input", image))).chain([("output", output.clone())]);
    let zoom = LEAST_HEIGHT.div_ceil(output.height().max(1)).max(1);
    let (width, height) = (output.width() * zoom, output.height() * zoom);
    let fit = |picture: RgbImage| {
        let (width, height) = fitted(picture.dimensions(), (WIDEST * width, height));
        let enlarged = width.is_multiple_of(picture.width()) && height.is_multiple_of(picture.height());
        let filter = if enlarged { FilterType::Nearest } else { FilterType::CatmullRom };
        imageops::resize(&picture, width, height, filter)
    };
    sheet(&[pictures.fold(Row::new(edit.words()), |row, (caption, picture)| row.with(caption, fit(picture)))])
}

/// The size with the proportions of `size` that just fits into `room`.
fn fitted(size: (u32, u32), room: (u32, u32)) -> (u32, u32) {
    let [width, height] = [size.0, size.1].map(f64::from);
    let scale = (f64::from(room.0) / width).min(f64::from(room.1) / height);
    (((width * scale).round() as u32).max(1), ((height * scale).round() as u32).max(1))
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
    fn references_image_and_output_stand_in_a_row_under_the_words() {
        let edit = Edit::new("words").image(plain(64, 64, 20)).reference(plain(32, 64, 10));
        let sheet = draw(&edit, &plain(64, 64, 30));
        // Three times enlarged: 96, 192 and 192 wide, with gaps of 8 pixels; two lines of letters above.
        assert_eq!(sheet.width(), 4 * 8 + 96 + 192 + 192);
        let middle = |x| sheet.get_pixel(x, sheet.height() - 2 * 8 - 96).0[0];
        assert_eq!([middle(8), middle(2 * 8 + 96), middle(3 * 8 + 96 + 192)], [10, 20, 30]);
        assert_eq!([middle(0), middle(8 + 96)], [255, 255]);
        let ink = sheet.enumerate_pixels().filter(|(_, y, pixel)| *y < 24 && pixel.0[0] < 100).count();
        assert!(ink > 20, "{ink}");
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
