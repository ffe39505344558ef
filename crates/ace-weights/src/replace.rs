//! Files and folders that are written whole or not at all: under a temporary name beside their place first, then
//! renamed. What is left of a writer that failed, or panicked, is removed.

use crate::{Error, Result};
use std::{
    fs::{self, File},
    hash::{BuildHasher, Hasher, RandomState},
    io::Write,
    path::{Path, PathBuf},
};

/// Writes a file.
///
/// # Errors
/// If the folder is missing or not writable; the file is then as it was.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    file(path, &mut |file| file.write_all(bytes).map_err(Error::io(path)))
}

/// As [`write()`], but without waiting for the disk: a process that dies leaves the whole file or none, a power failure may
/// leave an empty one. For what is made again then.
///
/// # Errors
/// As [`write()`].
pub fn write_quick(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = Temporary(beside(path, "part"));
    fs::write(&temporary.0, bytes).map_err(Error::io(path))?;
    fs::rename(&temporary.0, path).map_err(Error::io(path))
}

/// Puts what `write` writes into the place of a file, once it is whole.
///
/// # Errors
/// If the folder is missing or not writable, or `write` fails; the file is then as it was.
pub fn file(path: &Path, write: &mut dyn FnMut(&mut File) -> Result<()>) -> Result<()> {
    let temporary = Temporary(beside(path, "part"));
    let mut file = File::create(&temporary.0).map_err(Error::io(path))?;
    write(&mut file)?;
    file.sync_all().map_err(Error::io(path))?;
    drop(file);
    fs::rename(&temporary.0, path).map_err(Error::io(path))
}

/// Puts what `write` makes in a new folder into the place of `path`, a folder or a file, once it is whole.
///
/// # Errors
/// If the place is not writable, or `write` fails; what was there is then as it was.
pub fn folder(path: &Path, write: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    let (part, old) = (Temporary(beside(path, "part")), beside(path, "old"));
    make_parent(path)?;
    fs::create_dir(&part.0).map_err(Error::io(&part.0))?;
    write(&part.0)?;
    let is_there = path.exists();
    if is_there {
        fs::rename(path, &old).map_err(Error::io(path))?;
    }
    if let Err(error) = fs::rename(&part.0, path) {
        if is_there {
            // The error that matters is the first one.
            let _ = fs::rename(&old, path);
        }
        return Err(Error::io(path)(error));
    }
    drop(Temporary(old));
    Ok(())
}

/// Makes the folder that a file goes into.
///
/// # Errors
/// If it cannot be made.
pub fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => fs::create_dir_all(parent).map_err(Error::io(parent)),
        _ => Ok(()),
    }
}

/// A name beside `path` that no other writer uses: a thread, a process, or one on another machine with the same number.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    // Seeded by the system in every process, and another one at every call.
    let random = RandomState::new().build_hasher().finish();
    name.push(format!(".{}-{random:x}.{ending}", std::process::id()));
    path.with_file_name(name)
}

/// A file or folder that is removed when it is dropped, if it is still there under that name: whether it got another one,
/// or an error or a panic came in between.
#[derive(Debug)]
pub struct Temporary(pub PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // One that was renamed or never created cannot be removed.
        let _ = if self.0.is_dir() { fs::remove_dir_all(&self.0) } else { fs::remove_file(&self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_writer_that_fails_or_panics_leaves_what_was_there() {
        let dir = std::env::temp_dir().join(format!("ace-replace-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("file");
        write(&path, b"old").unwrap();
        let fails = file(&path, &mut |file| {
            file.write_all(b"ne").map_err(Error::io(&path))?;
            Err(Error::Cancelled)
        });
        assert!(matches!(fails, Err(Error::Cancelled)));
        let panics = catch_unwind(AssertUnwindSafe(|| file(&path, &mut |_| panic!("on purpose"))));
        assert!(panics.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["file"]);
        folder(&path, &mut |folder| write(&folder.join("inside"), b"new")).unwrap();
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"new");
        fs::remove_dir_all(&dir).unwrap();
    }
}
