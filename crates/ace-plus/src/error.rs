//! Everything that can go wrong between pixels, words and weights: each error names the thing and the way out.

use std::path::Path;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error that names the offending path, key or value. [`Error::hint`] says what to do about it, [`Error::kind`] whose
/// fault it is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file could not be read, written or fetched, or is not what it should be.
    #[error(transparent)]
    File(ace_weights::Error),
    /// A value of an edit cannot be used.
    #[error("{what}")]
    Input {
        /// The value and what is wrong with it.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// MagCache was asked for, and nobody has measured how this model's velocity grows.
    #[error("card {card} has no mag_ratios")]
    Uncalibrated {
        /// The card.
        card: String,
    },
    /// There is nothing of that name.
    #[error("{what}")]
    NotFound {
        /// What was looked for.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Files of a model are missing.
    #[error("{model} is not complete: {place} there is no {missing}")]
    Incomplete {
        /// The model.
        model: String,
        /// Where they were looked for.
        place: String,
        /// All that is missing.
        missing: String,
        /// Whether they can be fetched.
        is_published: bool,
        /// What to do.
        hint: String,
    },
    /// What was stored and what is here now do not agree.
    #[error("{what}")]
    Changed {
        /// What has changed.
        what: String,
        /// What to do.
        hint: Option<String>,
    },
    /// The device failed.
    #[error("the device failed: {reason}")]
    Device {
        /// What it said.
        reason: String,
    },
    /// The observer asked to stop.
    #[error("cancelled")]
    Cancelled,
}

/// Whose fault an error is, and what a server answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// What was asked cannot be done: 400.
    Input,
    /// What was named does not exist: 404.
    NotFound,
    /// What is there does not agree with what was stored or asked for: 409.
    Conflict,
    /// The caller stopped it.
    Cancelled,
    /// Files, network or device failed: 500.
    Internal,
}

impl ErrorKind {
    /// The status code of HTTP for it; a cancelled request has no answer, servers log it as 499.
    pub const fn http_status(self) -> u16 {
        match self {
            Self::Input => 400,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::Cancelled => 499,
            Self::Internal => 500,
        }
    }
}

impl From<ace_weights::Error> for Error {
    fn from(error: ace_weights::Error) -> Self {
        match error {
            ace_weights::Error::Cancelled => Self::Cancelled,
            other => Self::File(other),
        }
    }
}

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        use ace_weights::Error as File;
        match self {
            Self::Input { .. } | Self::Uncalibrated { .. } => ErrorKind::Input,
            Self::File(File::Input { .. } | File::Format { .. }) => ErrorKind::Input,
            Self::NotFound { .. } | Self::Incomplete { .. } => ErrorKind::NotFound,
            Self::File(File::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => ErrorKind::NotFound,
            Self::Changed { .. } | Self::File(File::Misfit { .. } | File::Exists { .. }) => ErrorKind::Conflict,
            Self::Cancelled => ErrorKind::Cancelled,
            Self::File(_) | Self::Device { .. } => ErrorKind::Internal,
        }
    }

    /// What the user can do about it, one line.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Input { hint, .. } | Self::NotFound { hint, .. } | Self::Changed { hint, .. } => hint.as_deref(),
            Self::Incomplete { hint, .. } => Some(hint),
            Self::Uncalibrated { .. } => {
                Some("measure them for this model, or choose a threshold such as 0.08, which needs none")
            }
            Self::File(error) => error.hint(),
            Self::Device { .. } | Self::Cancelled => None,
        }
    }

    /// A file that could not be read or written; use with `map_err`.
    pub fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let explain = ace_weights::Error::io(path);
        move |source| Self::File(explain(source))
    }

    /// An [`Error::Input`] with a hint.
    pub fn input(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Input { what: what.into(), hint: Some(hint.into()) }
    }

    /// An [`Error::NotFound`] with a hint.
    pub fn not_found(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::NotFound { what: what.into(), hint: Some(hint.into()) }
    }

    /// An [`Error::Changed`] with a hint.
    pub fn changed(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Changed { what: what.into(), hint: Some(hint.into()) }
    }

    /// A file that is not what its name or its place promises, with a hint.
    pub fn format(path: &Path, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::File(ace_weights::Error::format(path, reason, hint))
    }
}
