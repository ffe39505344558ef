//! PNG with words inside: an `iTXt` chunk before the pixels, which viewers ignore.

use crate::{Error, Result};
use image::RgbImage;
use png::{BitDepth, ColorType, Decoder, Encoder, EncodingError};
use std::{
    fs::File,
    io::{BufRead, BufReader, Cursor, Seek},
    path::Path,
};

/// The bytes of a PNG, with words under a keyword.
///
/// # Errors
/// If the picture has no pixels, or the keyword is not 1 to 79 Latin-1 letters.
pub(super) fn png(picture: &RgbImage, text: Option<(&str, &str)>) -> std::result::Result<Vec<u8>, EncodingError> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    if let Some((keyword, words)) = text {
        encoder.add_itxt_chunk(keyword.to_owned(), words.to_owned())?;
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(picture.as_raw())?;
    writer.finish()?;
    Ok(bytes)
}

/// The words under `keyword` in a PNG; `None` if it has none.
///
/// # Errors
/// If the file cannot be read or is no PNG.
pub fn read_text(path: &Path, keyword: &str) -> Result<Option<String>> {
    let file = File::open(path).map_err(Error::io(path))?;
    text_of(path, BufReader::new(file), keyword)
}

/// As [`read_text`], of bytes in memory; `name` stands for a path in messages.
///
/// # Errors
/// If they are no PNG.
pub fn text_from_bytes(name: &Path, bytes: &[u8], keyword: &str) -> Result<Option<String>> {
    text_of(name, Cursor::new(bytes), keyword)
}

fn text_of(path: &Path, file: impl BufRead + Seek, keyword: &str) -> Result<Option<String>> {
    let unreadable =
        |reason: String| Error::format(path, format!("not a readable PNG: {reason}"), "name a PNG that ace wrote");
    let reader = Decoder::new(file).read_info().map_err(|source| unreadable(source.to_string()))?;
    let chunk = reader.info().utf8_text.iter().find(|chunk| chunk.keyword == keyword);
    chunk.map(|chunk| chunk.get_text().map_err(|source| unreadable(source.to_string()))).transpose()
}
