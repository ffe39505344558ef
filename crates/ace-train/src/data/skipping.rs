//! A dataset without its bad examples, for those who ask for examples one by one.

use super::{
    example::{Dataset, Example, ExampleError, Place},
    notices::{Notice, Notices},
};
use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

/// In the place of an example that cannot be used stands the next that can. Each bad one is said once.
pub struct Skipping {
    data: Box<dyn Dataset>,
    notices: Notices,
    bad: Mutex<BTreeSet<u64>>,
}

impl Skipping {
    /// `data` without what cannot be used, which `notices` hear of.
    pub fn new(data: Box<dyn Dataset>, notices: Notices) -> Self {
        Self { data, notices, bad: Mutex::default() }
    }

    fn skip(&self, index: u64, place: Place, reason: String) {
        let mut bad = self.bad.lock().unwrap_or_else(PoisonError::into_inner);
        if bad.insert(index) {
            self.notices.push(Notice::Skipped { place, reason, count: bad.len() });
        }
    }
}

impl Dataset for Skipping {
    fn len(&self) -> Option<usize> {
        self.data.len()
    }

    fn example(&self, index: u64) -> Result<Example, ExampleError> {
        let len = self.data.len().map_or(u64::MAX, |len| len as u64);
        let mut first = None;
        for offset in 0..len {
            let index = index.wrapping_add(offset) % len;
            match self.data.example(index) {
                Err(ExampleError::Bad { place, reason }) => {
                    self.skip(index, place.clone(), reason.clone());
                    first.get_or_insert(ExampleError::Bad { place, reason });
                }
                other => return other,
            }
        }
        let first = first.unwrap_or_else(|| Place::index(index).bad("there is nothing"));
        Err(ExampleError::AllBad { first: Box::new(first) })
    }

    fn place(&self, index: u64) -> Place {
        self.data.place(index)
    }

    fn tasks(&self) -> Vec<String> {
        self.data.tasks()
    }
}
