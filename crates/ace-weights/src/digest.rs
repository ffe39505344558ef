//! What tells one file from another: a SHA-256 of the whole, or of samples where the whole takes minutes.

use crate::{Error, Result};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, ErrorKind, Read, Seek, SeekFrom},
    path::Path,
};

/// Bytes that are read at once.
const CHUNK: usize = 1 << 20;
/// Blocks of [`CHUNK`] that stand for a large file.
const SAMPLES: u64 = 16;

/// SHA-256 of a file, 64 lower-case hexadecimal digits; `progress` hears how many bytes are through.
///
/// # Errors
/// If the file cannot be read.
pub fn sha256(path: &Path, progress: &mut dyn FnMut(u64)) -> Result<String> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let (mut digest, mut buffer, mut done) = (Sha256::new(), vec![0; CHUNK], 0);
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hexadecimal(digest)),
            Ok(count) => {
                digest.update(&buffer[..count]);
                done += count as u64;
                progress(done);
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io(path)(error)),
        }
    }
}

/// SHA-256 of some bytes, 64 lower-case hexadecimal digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    hexadecimal(Sha256::new_with_prefix(bytes))
}

/// What tells a weight file, or a folder of them, from another in a moment, whatever its size: SHA-256 over length and
/// sixteen evenly spaced mebibytes, the first (a header) and the last among them; of a folder, over its files by name.
/// Two files that differ between those samples alone have the same fingerprint.
///
/// # Errors
/// If a file cannot be read.
pub fn fingerprint(path: &Path) -> Result<String> {
    let mut digest = Sha256::new();
    add(&mut digest, path)?;
    Ok(hexadecimal(digest))
}

fn add(digest: &mut Sha256, path: &Path) -> Result<()> {
    let explain = || Error::io(path);
    if path.is_dir() {
        let entries = fs::read_dir(path).map_err(explain())?;
        let files: io::Result<Vec<_>> = entries.map(|entry| entry.map(|entry| entry.path())).collect();
        let mut files = files.map_err(explain())?;
        files.sort();
        for file in files {
            digest.update(file.file_name().unwrap_or_default().as_encoded_bytes());
            add(digest, &file)?;
        }
        return Ok(());
    }
    let mut file = File::open(path).map_err(explain())?;
    let length = file.metadata().map_err(explain())?.len();
    digest.update(length.to_le_bytes());
    let chunk = CHUNK as u64;
    let last = length.saturating_sub(chunk);
    // A file of less than the samples' length is read whole.
    let count = length.div_ceil(chunk).min(SAMPLES);
    for sample in 0..count {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(last * sample / (count - 1).max(1))).map_err(explain())?;
        (&mut file).take(chunk).read_to_end(&mut bytes).map_err(explain())?;
        digest.update(&bytes);
    }
    Ok(())
}

/// The fingerprint that a file of these bytes has, or a folder of several with their names.
pub fn fingerprint_of<'a>(files: impl IntoIterator<Item = (Option<&'a str>, &'a [u8])>) -> String {
    let mut digest = Sha256::new();
    for (name, bytes) in files {
        digest.update(name.unwrap_or_default());
        digest.update((bytes.len() as u64).to_le_bytes());
        let last = bytes.len().saturating_sub(CHUNK);
        let count = bytes.len().div_ceil(CHUNK).min(SAMPLES as usize);
        for sample in 0..count {
            let at = last * sample / (count - 1).max(1);
            digest.update(&bytes[at..bytes.len().min(at + CHUNK)]);
        }
    }
    hexadecimal(digest)
}

fn hexadecimal(digest: Sha256) -> String {
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a text can be a SHA-256: 64 hexadecimal digits.
pub fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_the_published_ones() {
        // FIPS 180-2, appendix B.1.
        let published = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), published);
        let path = std::env::temp_dir().join(format!("ace-digest-{}", std::process::id()));
        fs::write(&path, b"abc").unwrap();
        let mut through = 0;
        assert_eq!(sha256(&path, &mut |bytes| through = bytes).unwrap(), published);
        assert_eq!(through, 3);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_fingerprint_sees_length_beginning_and_end() {
        let path = std::env::temp_dir().join(format!("ace-fingerprint-{}", std::process::id()));
        let of = |bytes: &[u8]| {
            fs::write(&path, bytes).unwrap();
            let found = fingerprint(&path).unwrap();
            assert_eq!(found, fingerprint_of([(None, bytes)]));
            found
        };
        let whole = vec![7; 3 * CHUNK + 5];
        let [mut first, mut last] = [whole.clone(), whole.clone()];
        first[0] = 8;
        *last.last_mut().unwrap() = 8;
        let all = [of(&whole), of(&first), of(&last), of(&whole[1..]), of(&[])];
        assert_eq!(of(&whole), all[0]);
        for (i, one) in all.iter().enumerate() {
            assert!(!all[i + 1..].contains(one), "{i}");
        }
        fs::remove_file(&path).unwrap();
    }
}
