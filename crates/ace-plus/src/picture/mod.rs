//! Pictures from and to files: one reader, which refuses what would take all memory, and one writer, which leaves a whole
//! file or none.
//!
//! What is read is what a viewer shows, as 8 bits a channel: turned upright as the Exif orientation says, 16 bits rounded
//! to 8, greys and CMYK as RGB. Colour profiles are not applied, as they are not in the official code; a note says so.

mod container;
mod text;

pub use text::{read_text, text_from_bytes};

use crate::{Error, Result};
use ace_weights::replace;
use image::{
    DynamicImage, GrayImage, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits, Luma, Pixel, Rgb, RgbImage,
    RgbaImage, metadata::Orientation,
};
use std::{
    fs::File,
    io::{Cursor, ErrorKind, Read},
    path::Path,
};

/// Longest side that is read, in pixels.
pub const MAX_SIDE: u32 = 16_384;
/// Most memory that a decoded picture, or its file, may take, in bytes.
const MAX_BYTES: u64 = 512 << 20;
/// Levels by which two channels may differ and still be a grey, and two pixels of a mask and still be of one colour: soft
/// edges and compression move them.
const SAME: u8 = 16;

const FORMATS: &str = "PNG, JPEG, WebP and BMP are read";
const CUT_SHORT: &str = "it was cut short: copy or download it again";

/// What was read, with a line for the user about each thing in the file that was not used. Each line names the file.
#[derive(Debug, Clone, PartialEq)]
pub struct Noted<T> {
    /// The picture.
    pub picture: T,
    /// What was left out, or could have been understood in another way, one line each.
    pub notes: Vec<String>,
}

/// Reads a picture as RGB, upright; transparent parts are laid on white.
///
/// # Errors
/// If the file is missing, no picture or not a whole one, larger than [`MAX_SIDE`] on a side, or of more than 512 MiB.
pub fn read_rgb(path: &Path) -> Result<RgbImage> {
    Ok(read_rgb_noted(path)?.picture)
}

/// As [`read_rgb`], and notes where colours may not be what they seem: a profile other than sRGB, transparent parts.
///
/// # Errors
/// As [`read_rgb`].
pub fn read_rgb_noted(path: &Path) -> Result<Noted<RgbImage>> {
    rgb(path, read(path)?)
}

/// As [`read_rgb_noted`], of bytes in memory; `name` stands for a path in messages.
///
/// # Errors
/// As [`read_rgb`].
pub fn rgb_from_bytes(name: &Path, bytes: &[u8]) -> Result<Noted<RgbImage>> {
    rgb(name, decode(name, bytes)?)
}

fn rgb(path: &Path, Raw { picture, profile }: Raw) -> Result<Noted<RgbImage>> {
    let mut notes = Vec::new();
    if let Some(profile) = profile {
        let name = container::profile_name(&profile);
        if !name.as_ref().is_some_and(|name| name.to_lowercase().contains("srgb")) {
            let name = name.map(|name| format!(" \"{name}\"")).unwrap_or_default();
            notes.push(format!("{}: its colour profile{name} is ignored, colours are taken as sRGB", path.display()));
        }
    }
    let picture = match translucent(picture) {
        Ok(rgba) => {
            notes.push(format!("{}: its transparent parts are laid on white", path.display()));
            RgbImage::from_fn(rgba.width(), rgba.height(), |x, y| {
                let [channels @ .., alpha] = rgba.get_pixel(x, y).0;
                Rgb(channels.map(|channel| blend(255, channel, alpha)))
            })
        }
        Err(picture) => picture.into_rgb8(),
    };
    Ok(Noted { picture, notes })
}

/// Reads a mask as grey, upright: white is repainted, black is kept.
///
/// * A file without transparent parts: its brightness (ITU-R 601, as Pillow has it) is the mask.
/// * One colour on transparent, as brushes and layers leave it: what is painted is repainted, whatever the colour.
/// * Greys on transparent: the brightness, and what is transparent is kept.
///
/// # Errors
/// As [`read_rgb`], or if there are several colours and transparent parts: either could be the mask.
pub fn read_mask(path: &Path) -> Result<GrayImage> {
    Ok(read_mask_noted(path)?.picture)
}

/// As [`read_mask`], and a note which of brightness and transparency is the mask if the file has both.
///
/// # Errors
/// As [`read_mask`].
pub fn read_mask_noted(path: &Path) -> Result<Noted<GrayImage>> {
    mask(path, read(path)?)
}

/// As [`read_mask_noted`], of bytes in memory; `name` stands for a path in messages.
///
/// # Errors
/// As [`read_mask`].
pub fn mask_from_bytes(name: &Path, bytes: &[u8]) -> Result<Noted<GrayImage>> {
    mask(name, decode(name, bytes)?)
}

fn mask(path: &Path, raw: Raw) -> Result<Noted<GrayImage>> {
    let rgba = match translucent(raw.picture) {
        Ok(rgba) => rgba,
        Err(picture) if picture.color().has_color() => {
            let rgb = picture.into_rgb8();
            let grey = GrayImage::from_fn(rgb.width(), rgb.height(), |x, y| Luma([brightness(*rgb.get_pixel(x, y))]));
            return Ok(Noted { picture: grey, notes: Vec::new() });
        }
        Err(picture) => return Ok(Noted { picture: picture.into_luma8(), notes: Vec::new() }),
    };
    let grey = |value: fn(Rgb<u8>, u8) -> u8| {
        GrayImage::from_fn(rgba.width(), rgba.height(), |x, y| {
            let pixel = rgba.get_pixel(x, y);
            Luma([value(pixel.to_rgb(), pixel.0[3])])
        })
    };
    let note = |what: &str| vec![format!("{}: {what}", path.display())];
    match Paint::of(&rgba) {
        Paint::OneColour => Ok(Noted {
            picture: grey(|_, alpha| alpha),
            notes: note("what is painted on transparent is the mask, whatever its colour"),
        }),
        Paint::Greys => Ok(Noted {
            picture: grey(|rgb, alpha| blend(0, brightness(rgb), alpha)),
            notes: note("what is bright is the mask, its transparent parts are kept"),
        }),
        Paint::Colours => Err(Error::format(
            path,
            "the mask has several colours and transparent parts",
            "give one in black and white (white is repainted), or one colour painted on transparent",
        )),
    }
}

/// What the pixels of a mask show that are at least half opaque.
enum Paint {
    OneColour,
    Greys,
    Colours,
}

impl Paint {
    fn of(rgba: &RgbaImage) -> Self {
        let (mut low, mut high, mut grey) = ([255; 3], [0; 3], true);
        // The colour of a nearly transparent pixel is mostly rounding.
        for pixel in rgba.pixels().filter(|pixel| pixel.0[3] >= 128) {
            let [channels @ .., _] = pixel.0;
            low = std::array::from_fn(|i| channels[i].min(low[i]));
            high = std::array::from_fn(|i| channels[i].max(high[i]));
            let [r, g, b] = channels;
            grey &= r.max(g).max(b) - r.min(g).min(b) <= SAME;
        }
        let is_one = low.iter().zip(high).all(|(&low, high)| high.saturating_sub(low) <= SAME);
        match (is_one, grey) {
            (true, _) => Self::OneColour,
            (false, true) => Self::Greys,
            (false, false) => Self::Colours,
        }
    }
}

/// `below` where `alpha` is 0, `above` where it is 255, rounded to the nearest between.
pub(crate) fn blend(below: u8, above: u8, alpha: u8) -> u8 {
    let [below, above, alpha] = [below, above, alpha].map(u32::from);
    // At most 255.
    ((below * (255 - alpha) + above * alpha + 127) / 255) as u8
}

/// Pillow's `convert("L")`: 0.299 R + 0.587 G + 0.114 B in 16-bit fixed point.
fn brightness(Rgb(rgb): Rgb<u8>) -> u8 {
    let [r, g, b] = rgb.map(u32::from);
    ((r * 19_595 + g * 38_470 + b * 7_471 + 0x8000) >> 16) as u8
}

/// The picture with its alpha if any of it is transparent; otherwise, as the error, the picture.
fn translucent(picture: DynamicImage) -> std::result::Result<RgbaImage, DynamicImage> {
    if !picture.color().has_alpha() {
        return Err(picture);
    }
    let rgba = picture.into_rgba8();
    if rgba.pixels().all(|pixel| pixel.0[3] == 255) { Err(DynamicImage::ImageRgba8(rgba)) } else { Ok(rgba) }
}

/// Width and height of the picture that [`read_rgb`] or [`read_mask`] gives, upright. Its pixels are not decoded.
///
/// # Errors
/// As [`read_rgb`], except for damage that only decoding shows.
pub fn read_size(path: &Path) -> Result<(u32, u32)> {
    size_from_bytes(path, &read_bytes(path)?)
}

/// As [`read_size`], of bytes in memory; `name` stands for a path in messages.
///
/// # Errors
/// As [`read_size`].
pub fn size_from_bytes(name: &Path, bytes: &[u8]) -> Result<(u32, u32)> {
    let Opened { decoder, orientation, .. } = open(name, bytes)?;
    let (width, height) = decoder.dimensions();
    Ok(match orientation {
        Orientation::Rotate90 | Orientation::Rotate270 | Orientation::Rotate90FlipH | Orientation::Rotate270FlipH => {
            (height, width)
        }
        _ => (width, height),
    })
}

/// A picture as its file has it, but upright.
struct Raw {
    picture: DynamicImage,
    profile: Option<Vec<u8>>,
}

/// A picture whose header was read and found good.
struct Opened<D> {
    decoder: D,
    orientation: Orientation,
    profile: Option<Vec<u8>>,
}

fn read(path: &Path) -> Result<Raw> {
    decode(path, &read_bytes(path)?)
}

/// Decodes what was read from `path`.
fn decode(path: &Path, bytes: &[u8]) -> Result<Raw> {
    let Opened { decoder, orientation, profile } = open(path, bytes)?;
    let mut picture = DynamicImage::from_decoder(decoder).map_err(|error| undecodable(path, &error))?;
    picture.apply_orientation(orientation);
    Ok(Raw { picture, profile })
}

fn unreadable(path: &Path, reason: &str, hint: &str) -> Error {
    Error::format(path, format!("not a readable picture: {reason}"), hint)
}

fn undecodable(path: &Path, error: &ImageError) -> Error {
    match error {
        ImageError::IoError(source) if source.kind() == ErrorKind::UnexpectedEof => {
            unreadable(path, "the file ends too early", CUT_SHORT)
        }
        error => unreadable(path, &error.to_string(), FORMATS),
    }
}

fn open<'a>(path: &Path, bytes: &'a [u8]) -> Result<Opened<impl ImageDecoder + use<'a>>> {
    let unreadable = |reason: &str, hint: &str| unreadable(path, reason, hint);
    if bytes.is_empty() {
        return Err(unreadable("the file is empty", FORMATS));
    }
    // The content says what it is: names are often wrong.
    let mut reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().map_err(Error::io(path))?;
    let format = match reader.format() {
        Some(format @ (ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP | ImageFormat::Bmp)) => format,
        Some(format) => return Err(unreadable(&format!("it is of the format {format:?}"), FORMATS)),
        None if bytes.get(4..8) == Some(b"ftyp") => return Err(unreadable("it is of the format HEIC", FORMATS)),
        None => return Err(unreadable("it is of no known format", FORMATS)),
    };
    if !container::is_whole(format, bytes) {
        return Err(unreadable("the file ends too early", CUT_SHORT));
    }
    // Sides are checked below, where the error can name them.
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MAX_BYTES);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|error| undecodable(path, &error))?;
    // The header says the size before anything is decoded: a small file can claim a huge picture.
    let (width, height) = decoder.dimensions();
    if width > MAX_SIDE || height > MAX_SIDE {
        return Err(Error::format(
            path,
            format!("the picture is {width}x{height}"),
            format!("scale it down to at most {MAX_SIDE} pixels a side"),
        ));
    }
    if decoder.total_bytes() > MAX_BYTES {
        let depth = decoder.color_type().bytes_per_pixel();
        return Err(Error::format(
            path,
            format!("the picture is {width}x{height} with {depth} bytes a pixel"),
            format!("scale it down: at most {} MiB are read", MAX_BYTES >> 20),
        ));
    }
    // A picture whose profile or Exif is broken is read without it.
    let profile = decoder.icc_profile().unwrap_or_default();
    let exif = decoder.exif_metadata().unwrap_or_default();
    let orientation = orientation(format, exif.as_deref(), bytes);
    Ok(Opened { decoder, orientation, profile })
}

/// The file's bytes, but no more than a picture may have: a path may name a device that never ends.
///
/// # Errors
/// If it cannot be read, or is larger.
pub fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(Error::io(path))?;
    file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(Error::io(path))?;
    if bytes.len() as u64 > MAX_BYTES {
        let reason = format!("the file is larger than {} MiB", MAX_BYTES >> 20);
        return Err(Error::format(path, reason, "scale the picture down, or compress it"));
    }
    Ok(bytes)
}

/// How the picture has to be turned. Without or with broken Exif it stays as it is.
fn orientation(format: ImageFormat, exif: Option<&[u8]>, bytes: &[u8]) -> Orientation {
    let exif = match exif {
        None if format == ImageFormat::Png => container::png_exif(bytes),
        exif => exif,
    };
    // Some writers of WebP leave the prefix that Exif has in JPEG files.
    let exif = exif.map(|exif| exif.strip_prefix(b"Exif\0\0").unwrap_or(exif));
    exif.and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms)
}

/// Writes a PNG whole or not at all.
///
/// # Errors
/// If the folder is missing or not writable.
pub fn write_png(path: &Path, picture: &RgbImage) -> Result<()> {
    Ok(replace::write(path, &text::png(picture, None).map_err(unwritable(path))?)?)
}

/// As [`write_png`], with words under a keyword (1 to 79 Latin-1 letters) that [`read_text`] reads back.
///
/// # Errors
/// As [`write_png`].
pub fn write_png_with_text(path: &Path, picture: &RgbImage, keyword: &str, words: &str) -> Result<()> {
    Ok(replace::write(path, &png_with_text(path, picture, keyword, words)?)?)
}

/// The bytes that [`write_png_with_text`] writes; `name` stands for a path in messages.
///
/// # Errors
/// If the picture has no pixels, or the keyword is none.
pub fn png_with_text(name: &Path, picture: &RgbImage, keyword: &str, words: &str) -> Result<Vec<u8>> {
    text::png(picture, Some((keyword, words))).map_err(unwritable(name))
}

fn unwritable(path: &Path) -> impl FnOnce(png::EncodingError) -> Error + use<'_> {
    |source| Error::format(path, source.to_string(), "the picture cannot be written as PNG")
}

#[cfg(test)]
mod tests;
