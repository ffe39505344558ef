//! What a picture file says beside its pixels: whether it is whole, how it is turned, what its colours are called.

use image::ImageFormat;

/// Longest name of a profile that is repeated to the user, in characters.
const NAME_LENGTH: usize = 60;

/// Whether a file was not cut short. Of a JPEG that was, the decoder makes a picture that is grey below, and a WebP is
/// read although its header promises more than there is; the decoders of the other formats notice by themselves.
pub(super) fn is_whole(format: ImageFormat, bytes: &[u8]) -> bool {
    match format {
        ImageFormat::Jpeg => ends_jpeg(bytes),
        ImageFormat::WebP => ends_webp(bytes),
        _ => true,
    }
}

/// Every segment says how long it is, except the data of a scan: they go on to the next marker that is neither a restart
/// (`D0`–`D7`) nor an escaped `FF`.
fn ends_jpeg(bytes: &[u8]) -> bool {
    const END: u8 = 0xD9;
    let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0x00 | 0x01 | 0xD0..=0xD8 | 0xFF);
    let mut rest = bytes;
    while let Some(at) = rest.windows(2).position(is_marker) {
        if rest[at + 1] == END {
            return true;
        }
        rest = &rest[at + 2..];
        let Some(&[high, low]) = rest.first_chunk() else { return false };
        let Some(behind) = rest.get(usize::from(u16::from_be_bytes([high, low]))..) else { return false };
        rest = behind;
    }
    false
}

/// Every chunk of the RIFF lies within the file.
fn ends_webp(bytes: &[u8]) -> bool {
    let Some(length) = bytes.get(4..).and_then(little_endian) else { return false };
    let Some(mut rest) = bytes.get(8..).and_then(|rest| rest.get(..length)).and_then(|riff| riff.get(4..)) else {
        return false;
    };
    // Chunks are padded to even lengths, but not all writers pad the last.
    while let Some(length) = rest.get(4..).and_then(little_endian) {
        let Some(behind) = rest[8..].get(length..) else { return false };
        rest = behind.get(length % 2..).unwrap_or_default();
    }
    true
}

/// The Exif of a PNG, wherever it stands: the decoder sees only what comes before the pixels.
pub(super) fn png_exif(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.get(8..)?;
    loop {
        let length = big_endian(rest)?;
        let content = rest.get(8..)?.get(..length)?;
        if rest[4..].starts_with(b"eXIf") {
            return Some(content);
        }
        // The content is followed by its checksum.
        rest = rest[8 + length..].get(4..)?;
    }
}

/// What an ICC profile calls itself: its `desc` tag, which is text in version 2 and UTF-16 in version 4.
pub(super) fn profile_name(profile: &[u8]) -> Option<String> {
    let mut tags = profile.get(132..)?.chunks_exact(12).take(big_endian(profile.get(128..)?)?);
    let tag = tags.find(|tag| tag.starts_with(b"desc"))?;
    let content = profile.get(big_endian(&tag[4..])?..)?;
    let part = |from: usize, length: usize| content.get(from..)?.get(..length);
    let number = |at: usize| content.get(at..).and_then(big_endian);
    let name = match content.get(..4)? {
        b"desc" => String::from_utf8_lossy(part(12, number(8)?)?).into_owned(),
        b"mluc" => {
            let letters = part(number(24)?, number(20)?)?.chunks_exact(2);
            let letters: Vec<_> = letters.map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
            String::from_utf16_lossy(&letters)
        }
        _ => return None,
    };
    // A file may hold anything; a terminal should not be told to do anything.
    let name: String = name.chars().filter(|letter| !letter.is_control()).take(NAME_LENGTH).collect();
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

fn big_endian(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_be_bytes(*bytes.first_chunk()?)).ok()
}

fn little_endian(bytes: &[u8]) -> Option<usize> {
    usize::try_from(u32::from_le_bytes(*bytes.first_chunk()?)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_ends_with_its_own_end_and_not_with_that_of_its_thumbnail() {
        let segment = [0xFF, 0xE1, 0, 6, 0xFF, 0xD9, 1, 1];
        let scan = [0xFF, 0xDA, 0, 2, 7, 0xFF, 0x00, 0xFF, 0xD3, 7];
        let jpeg = [&[0xFF, 0xD8][..], &segment, &scan, &[0xFF, 0xD9], b"behind"].concat();
        assert!(ends_jpeg(&jpeg));
        let end = jpeg.len() - b"behind".len();
        assert!((0..end).all(|length| !ends_jpeg(&jpeg[..length])));
    }

    #[test]
    fn a_webp_holds_all_of_its_chunks() {
        let webp = b"RIFF\x0F\0\0\0WEBPVP8L\x03\0\0\0abc";
        assert!(ends_webp(webp));
        assert!((0..webp.len()).all(|length| !ends_webp(&webp[..length])));
        assert!(!ends_webp(b"RIFF\x0F\0\0\0WEBPICCP\xFF\xFF\xFF\xFFabc"));
    }

    #[test]
    fn profiles_of_both_versions_have_names() {
        let profile = |content: &[u8]| {
            let tag = [&b"desc"[..], &144u32.to_be_bytes(), &[0; 4]].concat();
            [&[0; 128][..], &1u32.to_be_bytes(), &tag, content].concat()
        };
        let text = profile(b"desc\0\0\0\0\0\0\0\x0BAdobe\x1b RGB\0");
        assert_eq!(profile_name(&text).as_deref(), Some("Adobe RGB"));
        let mut utf16 = b"mluc\0\0\0\0\0\0\0\x01\0\0\0\x0CenUS\0\0\0\x04\0\0\0\x1C".to_vec();
        utf16.extend(b"\0P\x003");
        assert_eq!(profile_name(&profile(&utf16)).as_deref(), Some("P3"));
        assert!((0..text.len()).all(|length| profile_name(&text[..length]).is_none()));
        assert_eq!(profile_name(&profile(b"desc\0\0\0\0\xFF\xFF\xFF\xFFAdobe")), None);
    }
}
