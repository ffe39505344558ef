//! Where the bytes of a file come from: a path, or memory, such as a file that is built into a program.

use crate::{Error, Result, digest, store::WeightFile};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// A file, or a folder of files, or bytes that stand for a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On disk.
    File(PathBuf),
    /// In memory.
    Bytes {
        /// What stands for its path in messages.
        name: PathBuf,
        /// All of it.
        bytes: Cow<'static, [u8]>,
    },
    /// A folder in memory.
    Folder {
        /// What stands for its path in messages.
        name: PathBuf,
        /// Its files by name.
        files: BTreeMap<String, Cow<'static, [u8]>>,
    },
}

impl From<PathBuf> for Source {
    fn from(path: PathBuf) -> Self {
        Self::File(path)
    }
}

impl<P: AsRef<Path> + ?Sized> From<&P> for Source {
    fn from(path: &P) -> Self {
        Self::File(path.as_ref().to_owned())
    }
}

impl Source {
    /// Bytes under a name that stands for a path in messages.
    pub fn bytes(name: impl Into<PathBuf>, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self::Bytes { name: name.into(), bytes: bytes.into() }
    }

    /// The path, or the name that stands for it.
    pub fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Bytes { name: path, .. } | Self::Folder { name: path, .. } => path,
        }
    }

    /// Everything in a file.
    ///
    /// # Errors
    /// If it cannot be read or is a folder.
    pub fn read(&self) -> Result<Cow<'_, [u8]>> {
        match self {
            Self::File(path) => fs::read(path).map(Cow::Owned).map_err(Error::io(path)),
            Self::Bytes { bytes, .. } => Ok(Cow::Borrowed(bytes)),
            Self::Folder { name, .. } => Err(Error::format(name, "it is a folder", "name a file")),
        }
    }

    /// A file in a folder; `None` if it is not there.
    pub fn file(&self, name: &str) -> Option<Self> {
        match self {
            Self::File(folder) => Some(folder.join(name)).filter(|path| path.exists()).map(Self::File),
            Self::Bytes { .. } => None,
            Self::Folder { name: folder, files } => {
                files.get(name).map(|bytes| Self::Bytes { name: folder.join(name), bytes: bytes.clone() })
            }
        }
    }

    /// Its tensors; see [`WeightFile::open`].
    ///
    /// # Errors
    /// If it cannot be read or is no weight file.
    pub fn open(&self) -> Result<WeightFile> {
        match self {
            Self::File(path) => WeightFile::open(path),
            Self::Bytes { name, bytes } => WeightFile::from_bytes(name, bytes.clone()),
            Self::Folder { name, .. } => Err(Error::format(name, "it is a folder", "name a weight file")),
        }
    }

    /// A digest by which it is known again; see [`digest::fingerprint`].
    ///
    /// # Errors
    /// If it is a file that cannot be read.
    pub fn fingerprint(&self) -> Result<String> {
        match self {
            Self::File(path) => digest::fingerprint(path),
            Self::Bytes { bytes, .. } => Ok(digest::fingerprint_of([(None, bytes.as_ref())])),
            Self::Folder { files, .. } => {
                Ok(digest::fingerprint_of(files.iter().map(|(name, bytes)| (Some(name.as_str()), bytes.as_ref()))))
            }
        }
    }
}
