//! What can go wrong with a file: each error names it, the key or value, and the way out.

use std::path::{Path, PathBuf};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that names the offending path, key or value. [`Error::hint`] says what to do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file is not what its name or its place promises.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// A weight file does not fit the network that it is read into.
    #[error("{path}: {reason}")]
    Misfit {
        /// The weight file.
        path: PathBuf,
        /// The key and what is wrong with it.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// What is asked for cannot be done.
    #[error("{what}")]
    Input {
        /// The value and what is wrong with it.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Something is there already that would be replaced.
    #[error("{path} is there already")]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// A file could not be fetched.
    #[error("{file}: {reason}")]
    Fetch {
        /// The file, `owner/name/path`.
        file: String,
        /// What is in the way.
        reason: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}

impl Error {
    /// What the user can do about it, one line.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Format { hint, .. }
            | Self::Input { hint, .. }
            | Self::Misfit { hint, .. }
            | Self::Fetch { hint, .. } => hint.as_deref(),
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::NotFound => Some("check the path; relative paths start at the current folder"),
                std::io::ErrorKind::PermissionDenied => Some("check who may read or write there"),
                std::io::ErrorKind::StorageFull => Some("make room on that disk and try again"),
                _ => None,
            },
            Self::Exists { .. } => Some("choose another place, or allow it to be replaced"),
            Self::Cancelled => None,
        }
    }

    /// An [`Error::Io`] for `path`; use with `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// An [`Error::Input`] with a hint.
    pub fn input(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { what: what.into(), hint: Some(hint.into()) }
    }

    /// An [`Error::Format`] with a hint.
    pub fn format(path: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Format { path: path.to_owned(), reason: reason.into(), hint: Some(hint.into()) }
    }
}
