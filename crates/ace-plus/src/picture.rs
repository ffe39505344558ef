//! Pictures from and to files: one reader that refuses what would take all memory, one writer that leaves no half.

use crate::{Error, Result, checkpoint};
use image::{DynamicImage, GrayImage, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use std::{io::Cursor, path::Path};

/// Longest side that is read, in pixels.
pub const MAX_SIDE: u32 = 16_384;

/// Reads a picture as RGB; what is transparent becomes white, 16 bits become 8.
///
/// # Errors
/// If the file is missing, no picture, or larger than [`MAX_SIDE`] on a side.
pub fn read_rgb(path: &Path) -> Result<RgbImage> {
    let picture = read(path)?;
    if !picture.color().has_alpha() {
        return Ok(picture.to_rgb8());
    }
    let rgba = picture.to_rgba8();
    Ok(RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
        let [r, g, b, alpha] = rgba.get_pixel(x, y).0.map(u16::from);
        let over_white = |channel: u16| ((channel * alpha + 255 * (255 - alpha) + 127) / 255) as u8;
        Rgb([over_white(r), over_white(g), over_white(b)])
    }))
}

/// Reads a mask as grey.
///
/// # Errors
/// As [`read_rgb`].
pub fn read_mask(path: &Path) -> Result<GrayImage> {
    Ok(read(path)?.to_luma8())
}

fn read(path: &Path) -> Result<DynamicImage> {
    let open = || {
        let reader = ImageReader::open(path).map_err(Error::io(path))?;
        reader.with_guessed_format().map_err(Error::io(path))
    };
    let unreadable = |source: image::ImageError| {
        Error::format(path, format!("not a readable picture: {source}"), "PNG, JPEG, WebP and BMP are read")
    };
    // The header says the size before anything is decoded: a small file can claim a huge picture.
    let (width, height) = open()?.into_dimensions().map_err(unreadable)?;
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::format(
            path,
            format!("the picture is {width}x{height}"),
            format!("scale it down to at most {MAX_SIDE} pixels a side"),
        ));
    }
    let mut reader = open()?;
    let mut limits = Limits::default();
    (limits.max_image_width, limits.max_image_height) = (Some(MAX_SIDE), Some(MAX_SIDE));
    reader.limits(limits);
    reader.decode().map_err(unreadable)
}

/// Writes a PNG whole or not at all.
///
/// # Errors
/// If the folder is missing or not writable.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<()> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .write_to(&mut bytes, ImageFormat::Png)
        .map_err(|source| Error::format(path, source.to_string(), "the picture cannot be written as PNG"))?;
    checkpoint::write_atomically(path, bytes.get_ref())
}
