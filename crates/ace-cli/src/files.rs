//! Files out: every place is checked before the work begins, every file is written whole or not at all.

use crate::report::Failure;
use ace_plus::{Error, picture};
use image::RgbImage;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Refuses a place that cannot be written, before the work; leaves nothing behind.
///
/// # Errors
/// If it is a folder, or the nearest folder above it that exists is none or does not take files.
pub fn check_writable(path: &Path) -> anyhow::Result<()> {
    if path.is_dir() || path.file_name().is_none() {
        let what = format!("{} is a folder", path.display());
        return Err(Failure::misuse(what, "name the file to write").into());
    }
    check_folder(folder_of(path))
}

/// As [`check_writable`], for a folder in which files will be made.
///
/// # Errors
/// If the nearest folder above it that exists is none or does not take files.
pub fn check_folder(folder: &Path) -> anyhow::Result<()> {
    let refuse = |place: &Path, reason: String| {
        let what = format!("{}: {reason}", place.display());
        anyhow::Error::from(Failure::new(what, "choose another place for the output with --out"))
    };
    let existing = folder.ancestors().find(|place| place.as_os_str().is_empty() || place.exists());
    let existing = existing.filter(|place| !place.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !existing.is_dir() {
        return Err(refuse(existing, "not a folder, so nothing can be written into it".to_owned()));
    }
    let trial = existing.join(format!(".ace-trial-{}", std::process::id()));
    fs::write(&trial, []).map_err(|source| refuse(existing, format!("cannot be written into: {source}")))?;
    // What could be made can be removed; if not, an empty file is all that stays.
    let _ = fs::remove_file(&trial);
    Ok(())
}

/// Refuses names that promise another format than the one that is written.
///
/// # Errors
/// If the name ends in something else than `png`.
pub fn check_is_png(path: &Path) -> anyhow::Result<()> {
    match path.extension() {
        Some(extension) if !extension.eq_ignore_ascii_case("png") => {
            let hint = format!("name it {}", path.with_extension("png").display());
            Err(Failure::misuse(format!("{}: pictures are written as PNG", path.display()), hint).into())
        }
        _ => Ok(()),
    }
}

/// Writes a picture as PNG, into a folder that is made if need be.
///
/// # Errors
/// If the place cannot be written.
pub fn write_png(path: &Path, content: &RgbImage) -> anyhow::Result<()> {
    make_folder_of(path)?;
    Ok(picture::write_png(path, content)?)
}

/// Writes a file whole or not at all, into a folder that is made if need be.
///
/// # Errors
/// If the place cannot be written.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    make_folder_of(path)?;
    Ok(ace_weights::replace::write(path, bytes)?)
}

/// Makes the folder of a file.
///
/// # Errors
/// If it cannot be made.
pub fn make_folder_of(path: &Path) -> anyhow::Result<()> {
    let folder = folder_of(path);
    Ok(fs::create_dir_all(folder).map_err(Error::io(folder))?)
}

/// `out/sample.png` and `-seed3` to `out/sample-seed3.png`.
pub fn behind(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(suffix);
    if let Some(extension) = path.extension() {
        name.push(".");
        name.push(extension);
    }
    path.with_file_name(name)
}

/// `out/sample.png` and `sheet` to `out/sample-sheet.png`.
pub fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.file_stem().unwrap_or_default().to_owned();
    name.push(format!("-{suffix}.png"));
    path.with_file_name(name)
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_beside_a_file() {
        assert_eq!(beside(Path::new("out/a.b.png"), "sheet"), Path::new("out/a.b-sheet.png"));
        assert_eq!(beside(Path::new("a"), "sheet"), Path::new("a-sheet.png"));
    }

    #[test]
    fn other_formats_are_refused() {
        assert!(check_is_png(Path::new("o.jpg")).is_err());
        assert!(check_is_png(Path::new("o.PNG")).is_ok());
        assert!(check_is_png(Path::new("o")).is_ok());
    }

    #[test]
    fn a_place_under_a_file_cannot_be_written() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let error = check_writable(&manifest.join("deep/o.png")).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("{}: not a folder, so nothing can be written into it", manifest.display())
        );
        assert!(check_writable(Path::new("no/such/folder/o.png")).is_ok());
        assert!(check_writable(Path::new("/")).is_err());
    }
}
