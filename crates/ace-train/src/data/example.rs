//! An example is an instruction, what it is given with, and the answer; a dataset is many of them.
//!
//! Examples come from files through a [`Manifest`](super::files::Manifest), or are drawn by the
//! [`World`](super::shapes::World) of shapes.

use ace_plus::canvas::{self, CanvasPolicy, Inputs, Plane};
use image::{GrayImage, RgbImage};
use std::{
    fmt,
    path::{Path, PathBuf},
};

/// One thing to learn or to be judged on.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// What kind of edit it is; scores are kept per task.
    pub task: String,
    /// The user's words.
    pub instruction: String,
    /// The picture to edit; as large as `target`.
    pub image: Option<RgbImage>,
    /// Where to edit: above [`MASK_THRESHOLD`](ace_plus::canvas::MASK_THRESHOLD) is repainted, the rest is kept. As large
    /// as `image`; without it everything may change.
    pub mask: Option<GrayImage>,
    /// Pictures to take something from.
    pub references: Vec<RgbImage>,
    /// The answer.
    pub target: RgbImage,
    /// 1 blanks what the mask covers; 0 keeps it visible to the network, in the change image.
    pub repainting_scale: f32,
}

impl Example {
    /// Its pictures without the answer, as an edit would have them.
    pub fn inputs(&self) -> Inputs<'_> {
        Inputs {
            image: self.image.as_ref(),
            mask: self.mask.as_ref(),
            references: &self.references,
            size: self.target.dimensions(),
            repainting_scale: self.repainting_scale,
        }
    }

    /// Every picture that sampling would encode: first the answers (one for each canvas), then canvases and change images.
    ///
    /// # Errors
    /// If the pictures do not fit each other or the policy.
    pub fn planes(&self, policy: &CanvasPolicy) -> ace_plus::Result<Vec<Plane>> {
        let inputs = self.inputs();
        let mut planes = canvas::compose_target(&self.target, &inputs, policy)?;
        if self.image.is_some() || !self.references.is_empty() {
            for canvas in canvas::compose(&inputs, policy)? {
                planes.push(canvas.image);
                planes.extend(canvas.change);
            }
        }
        Ok(planes)
    }
}

/// Examples by index.
pub trait Dataset: Send + Sync {
    /// How many examples there are; `None` when there is no end to them.
    fn len(&self) -> Option<usize>;

    /// Whether there is nothing to learn from.
    fn is_empty(&self) -> bool {
        self.len() == Some(0)
    }

    /// The example at `index`: the same one each time. Indices past the end start over.
    ///
    /// # Errors
    /// When its pictures cannot be read.
    fn example(&self, index: u64) -> Result<Example, ExampleError>;

    /// Where the example at `index` comes from, for messages.
    fn place(&self, index: u64) -> Place {
        Place::index(index)
    }

    /// Names of the tasks that occur.
    fn tasks(&self) -> Vec<String>;
}

/// Where an example comes from: a line of a file, a file, or a number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place(String);

impl Place {
    /// A line, counted from 1.
    pub fn line(path: &Path, line: usize) -> Self {
        Self(format!("{}:{line}", path.display()))
    }

    /// A file or folder.
    pub fn file(path: &Path) -> Self {
        Self(path.display().to_string())
    }

    /// An example that is drawn, by its index.
    pub fn index(index: u64) -> Self {
        Self(format!("example {index}"))
    }

    /// An [`ExampleError::Bad`] here.
    pub fn bad(&self, reason: impl Into<String>) -> ExampleError {
        let reason = reason.into();
        // A file that is its own place is named once.
        let reason = reason.strip_prefix(&format!("{self}: ")).map(ToOwned::to_owned).unwrap_or(reason);
        ExampleError::Bad { place: self.clone(), reason }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why there is no example.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExampleError {
    /// A list or folder of examples could not be read.
    #[error("{path}: {source}")]
    Io {
        /// The list or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An example cannot be used.
    #[error("{place}: {reason}")]
    Bad {
        /// Its line or file.
        place: Place,
        /// What is wrong with it.
        reason: String,
    },
    /// There is nothing in a list or folder.
    #[error("{path}: no examples")]
    Empty {
        /// The list or folder.
        path: PathBuf,
    },
    /// Not one example can be used.
    #[error("none of the examples can be used; the first: {first}")]
    AllBad {
        /// What is wrong with the first.
        first: Box<ExampleError>,
    },
    /// The world of shapes cannot be made as asked.
    #[error("shapes: {reason}")]
    World {
        /// What is wrong.
        reason: String,
    },
}

impl ExampleError {
    /// An [`ExampleError::Io`] for `path`; use with `map_err`.
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    /// What the user can do about it, one line.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Io { .. } => Some("check the path of the data"),
            Self::Bad { .. } | Self::AllBad { .. } => {
                Some("check all of the data before training; on_bad_example = \"skip\" leaves out what cannot be used")
            }
            Self::Empty { .. } => Some(
                "data is JSON lines, a folder of pictures with .txt captions, a folder with before/ and after/, or an ACE++ list",
            ),
            Self::World { .. } => Some("choose 64 or 96 pixels and at least one task"),
        }
    }
}
