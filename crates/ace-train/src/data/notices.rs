//! What the data has to say on the way, until the run asks for it.

use super::example::Place;
use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
};

/// Something that happened to the data and does not stop the run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// An example cannot be used and is left out.
    Skipped {
        /// Its line or file.
        place: Place,
        /// What is wrong with it.
        reason: String,
        /// Examples left out so far, this one included.
        count: usize,
    },
    /// A line for the user.
    Note(String),
}

/// A list that several parts of a run share.
#[derive(Debug, Clone, Default)]
pub struct Notices(Arc<Mutex<Vec<Notice>>>);

impl Notices {
    /// Adds one.
    pub fn push(&self, notice: Notice) {
        self.list().push(notice);
    }

    /// Adds a line.
    pub fn note(&self, line: impl Into<String>) {
        self.push(Notice::Note(line.into()));
    }

    /// All that came since it was last asked, in their order.
    pub fn take(&self) -> Vec<Notice> {
        mem::take(&mut *self.list())
    }

    fn list(&self) -> std::sync::MutexGuard<'_, Vec<Notice>> {
        // A thread that panicked between two notices has left whole ones.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
