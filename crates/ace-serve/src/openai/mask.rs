//! A mask as OpenAI's clients send it: what is fully transparent is edited. Ours is white where the edit goes.

use crate::error::Refusal;
use ace_plus::{
    image::{self, DynamicImage, GrayImage},
    picture,
};
use std::{io::Cursor, path::Path};

/// How a mask was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Convention {
    /// Transparent is edited: OpenAI's.
    Alpha,
    /// White is edited: everybody else's, and a picture without transparent parts can mean nothing else.
    White,
}

impl Convention {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alpha => "alpha",
            Self::White => "white",
        }
    }

    /// The one of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Alpha, Self::White].into_iter().find(|convention| convention.name() == name)
    }
}

/// Reads a mask, by the convention that is asked for or else the one that it shows, and writes it as ours.
///
/// # Errors
/// If it is no picture, or has no transparent parts where these are asked for.
pub fn read(bytes: &[u8], asked: Option<Convention>) -> Result<(Vec<u8>, Convention), Refusal> {
    let name = Path::new("mask");
    // Limits are checked there, before anything is decoded.
    picture::size_from_bytes(name, bytes).map_err(|error| Refusal::from(error).param("mask"))?;
    let decoded = image::load_from_memory(bytes);
    let decoded =
        decoded.map_err(|error| Refusal::bad(format!("mask: not a readable picture: {error}")).param("mask"))?;
    let alpha = transparency(&decoded);
    let convention = asked.unwrap_or(if alpha.is_some() { Convention::Alpha } else { Convention::White });
    match (convention, alpha) {
        (Convention::White, _) => Ok((bytes.to_vec(), convention)),
        (Convention::Alpha, Some(mask)) => {
            let mut png = Cursor::new(Vec::new());
            let written = mask.write_to(&mut png, image::ImageFormat::Png);
            written.map_err(|error| Refusal::bad(format!("mask: {error}")).param("mask"))?;
            Ok((png.into_inner(), convention))
        }
        (Convention::Alpha, None) => {
            let refusal = Refusal::bad("the mask has no transparent parts, so nothing would be edited").param("mask");
            Err(refusal.hint("make transparent what is to be edited, or send white there with mask_convention=white"))
        }
    }
}

/// White where the picture is transparent, if it is anywhere.
fn transparency(picture: &DynamicImage) -> Option<GrayImage> {
    if !picture.color().has_alpha() {
        return None;
    }
    let rgba = picture.to_rgba8();
    let mask = GrayImage::from_fn(rgba.width(), rgba.height(), |x, y| image::Luma([255 - rgba.get_pixel(x, y).0[3]]));
    mask.pixels().any(|pixel| pixel.0[0] > 0).then_some(mask)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ace_plus::image::{ImageFormat, RgbImage, Rgba, RgbaImage};

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn transparent_is_edited() {
        // Black and opaque but for one pixel, which has a colour of its own.
        let mut mask = RgbaImage::from_pixel(4, 2, Rgba([0, 0, 0, 255]));
        mask.put_pixel(1, 1, Rgba([9, 9, 9, 0]));
        let (read, convention) = read(&png(&mask.into()), None).unwrap();
        assert_eq!(convention, Convention::Alpha);
        let grey = picture::mask_from_bytes(Path::new("m"), &read).unwrap().picture;
        let white: Vec<_> =
            grey.enumerate_pixels().filter(|(.., pixel)| pixel.0[0] == 255).map(|(x, y, _)| (x, y)).collect();
        assert_eq!(white, [(1, 1)]);
    }

    #[test]
    fn without_transparent_parts_white_is_edited_unless_it_must_not_be() {
        let opaque = png(&RgbaImage::from_pixel(2, 2, Rgba([255, 255, 255, 255])).into());
        let plain = png(&RgbImage::new(2, 2).into());
        for bytes in [&opaque, &plain] {
            assert_eq!(read(bytes, None).unwrap(), (bytes.clone(), Convention::White));
            assert_eq!(read(bytes, Some(Convention::Alpha)).unwrap_err().param.as_deref(), Some("mask"));
        }
        assert!(read(b"no picture", None).is_err());
    }
}
