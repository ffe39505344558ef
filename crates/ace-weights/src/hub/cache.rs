//! The folder that every Hugging Face tool keeps its files in.
//!
//! ```text
//! models--<owner>--<name>/
//!     refs/<revision>               the commit that a branch or tag was last seen at
//!     snapshots/<commit>/<file>     a link to
//!     blobs/<etag>                  the file; the etag of a large one is its SHA-256
//! .locks/models--<owner>--<name>/<etag>.lock
//! ```
//!
//! HubFile: <https://huggingface.co/docs/huggingface_hub/guides/manage-cache>.

// Without fetching, files are only looked for.
#![cfg_attr(not(feature = "hub"), allow(dead_code))]

use crate::{
    Error, Result,
    digest::{is_sha256, sha256},
    replace,
};
use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    process,
};

/// Folders of one repository.
pub(super) struct Folder {
    root: PathBuf,
    locks: PathBuf,
}

impl Folder {
    pub(super) fn new(cache: &Path, repo: &str) -> Self {
        let name = format!("models--{}", repo.replace('/', "--"));
        Self { root: cache.join(&name), locks: cache.join(".locks").join(name) }
    }

    /// The commit that `revision` names here: itself, or what its ref says.
    pub(super) fn commit(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let commit = fs::read_to_string(self.root.join("refs").join(revision)).ok()?.trim().to_owned();
        is_name(&commit).then_some(commit)
    }

    pub(super) fn pointer(&self, commit: &str, file: &str) -> PathBuf {
        self.root.join("snapshots").join(commit).join(file)
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// Makes the folder of blobs and locks one of them; `wait` is called if another process holds it.
    pub(super) fn lock(&self, etag: &str, wait: impl FnOnce()) -> Result<File> {
        for folder in [&self.locks, &self.root.join("blobs")] {
            fs::create_dir_all(folder).map_err(Error::io(folder))?;
        }
        let path = self.locks.join(format!("{etag}.lock"));
        let file = File::create(&path).map_err(Error::io(&path))?;
        let locked = match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                wait();
                file.lock()
            }
            Err(TryLockError::Error(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match locked {
            // Some network file systems have no locks. Two writers would then spoil a file, and its digest tells.
            Err(error) if error.kind() != ErrorKind::Unsupported => Err(Error::io(&path)(error)),
            _ => Ok(file),
        }
    }

    /// Puts the blob into a snapshot, in place of what stood there.
    pub(super) fn link(&self, etag: &str, commit: &str, file: &str) -> Result<PathBuf> {
        let pointer = self.pointer(commit, file);
        let parent = pointer.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        // Relative, so that the cache can be moved.
        let target = format!("{}../../blobs/{etag}", "../".repeat(file.matches('/').count()));
        let temporary = pointer.with_added_extension(format!("{}.tmp", process::id()));
        symlink(Path::new(&target), &temporary)
            // Without links (Windows, some disks) the file itself stands in the snapshot, as with the Hub's own tools.
            .or_else(|_| fs::rename(self.blob(etag), &temporary))
            .and_then(|()| fs::rename(&temporary, &pointer))
            .map_err(Error::io(&pointer))?;
        Ok(pointer)
    }

    /// Writes down at which commit `revision` was seen.
    pub(super) fn point(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        let parent = path.parent().unwrap_or(&self.root);
        fs::create_dir_all(parent).map_err(Error::io(parent))?;
        replace::write(&path, commit.as_bytes())
    }
}

/// Whether `path` is a file of this size and digest, as far as they are known.
///
/// A blob with the name of a digest is believed, because nobody names it so before it is whole: reading 24 GB takes a
/// while. Anything else is read.
pub(super) fn fits(path: &Path, size: Option<u64>, digest: Option<&str>) -> Result<bool> {
    let Ok(blob) = fs::canonicalize(path) else { return Ok(false) };
    let found = fs::metadata(&blob).map_err(Error::io(&blob))?;
    if !found.is_file() || size.is_some_and(|size| size != found.len()) {
        return Ok(false);
    }
    let Some(digest) = digest else { return Ok(true) };
    match blob.file_name().and_then(|name| name.to_str()) {
        Some(name) if is_sha256(name) => Ok(name == digest),
        _ => Ok(sha256(&blob, &mut |_| ())? == digest),
    }
}

/// Whether a revision is a commit, which is found without a ref.
fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Whether a word from a server or a file can be a file name and nothing more.
pub(super) fn is_name(word: &str) -> bool {
    !word.is_empty()
        && !word.starts_with('.')
        && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(unix)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

#[cfg(windows)]
fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_file(target, link)
}

#[cfg(not(any(unix, windows)))]
fn symlink(_target: &Path, _link: &Path) -> io::Result<()> {
    Err(ErrorKind::Unsupported.into())
}
