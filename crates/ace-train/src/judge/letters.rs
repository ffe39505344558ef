//! Words on pictures. The letters are a dependency's bitmaps: a font would be a file or a system's matter.

use image::RgbImage;
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

const RASTER: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;

/// Height of a line, in pixels.
pub const HEIGHT: u32 = RASTER.val() as u32;

/// Width of a line with so many letters, in pixels.
pub fn width(letters: usize) -> u32 {
    (get_raster_width(WEIGHT, RASTER) * letters) as u32
}

/// Writes one line; what the font lacks is a question mark, what is outside the picture is left out.
pub fn write(picture: &mut RgbImage, (left, top): (i64, i64), color: [u8; 3], text: &str) {
    for (index, character) in text.chars().enumerate() {
        let left = left + i64::from(width(index));
        let raster = get_raster(character, WEIGHT, RASTER).or_else(|| get_raster('?', WEIGHT, RASTER));
        for (row, line) in raster.iter().flat_map(|raster| raster.rows()).enumerate() {
            for (column, &cover) in line.iter().enumerate() {
                let (x, y) = (left + column as i64, top + row as i64);
                let pixel = u32::try_from(x).ok().zip(u32::try_from(y).ok());
                let Some(pixel) = pixel.and_then(|(x, y)| picture.get_pixel_mut_checked(x, y)) else { continue };
                for (paper, ink) in pixel.0.iter_mut().zip(color) {
                    let (cover, full) = (u32::from(cover), u32::from(u8::MAX));
                    *paper = ((u32::from(ink) * cover + u32::from(*paper) * (full - cover)) / full) as u8;
                }
            }
        }
    }
}

/// `text` in lines no wider than `room` pixels, broken between words; a word that is wider stands alone.
pub fn lines(text: &str, room: u32) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if width(line.chars().count() + 1 + word.chars().count()) <= room => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_broken_between_words() {
        let room = width(10);
        assert_eq!(lines("make the circle green", room), ["make the", "circle", "green"]);
        assert_eq!(lines("extraordinarily so", room), ["extraordinarily", "so"]);
        assert!(lines(" ", room).is_empty());
    }

    #[test]
    fn a_word_at_the_edge_is_cut_off() {
        let count = |picture: &RgbImage| picture.pixels().filter(|pixel| pixel.0 == [0; 3]).count();
        let mut picture = RgbImage::new(10, 10);
        write(&mut picture, (-i64::from(width(4)), -8), [255; 3], "left");
        assert_eq!(count(&picture), 100);
        write(&mut picture, (1, -3), [255; 3], "µ");
        assert!(count(&picture) < 100);
    }
}
