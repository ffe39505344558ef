//! Shapes of a file's tensors, by the paths of the modules that they belong to.

use super::Found;
use crate::{Error, Result, WeightFile};

/// Shapes by the paths of modules.
pub(super) struct Shapes<'a> {
    pub file: &'a WeightFile,
    pub found: &'a Found,
}

impl Shapes<'_> {
    pub fn find<const D: usize>(&self, path: &str) -> Result<Option<[usize; D]>> {
        let Found { keys, prefix, .. } = self.found;
        let mut names = Vec::new();
        for key in keys.rows(path).keys {
            match keys.names(&key).map(|key| format!("{prefix}{key}")).find(|key| self.file.has(key)) {
                Some(name) => names.push(name),
                None => return Ok(None),
            }
        }
        let shape = self.file.joined_shape(&names.iter().map(String::as_str).collect::<Vec<_>>())?;
        match <[usize; D]>::try_from(shape) {
            Ok(shape) if !shape.contains(&0) => Ok(Some(shape)),
            Ok(shape) => Err(self.strange(&names[0], &shape)),
            Err(shape) => Err(self.strange(&names[0], &shape)),
        }
    }

    pub fn of<const D: usize>(&self, path: &str) -> Result<[usize; D]> {
        self.find(path)?.ok_or_else(|| {
            let key = &self.found.keys.rows(path).keys[0];
            let reason = format!("{}{key} is missing", self.found.prefix);
            self.file.misfit(reason, "this file belongs to another network or is incomplete")
        })
    }

    /// How many of `path(0)`, `path(1)` … there are.
    pub fn count(&self, path: impl Fn(usize) -> String) -> usize {
        let has = |index: &usize| {
            let keys = self.found.keys.rows(&path(*index)).keys;
            keys.iter().all(|key| self.file.has(&format!("{}{key}", self.found.prefix)))
        };
        (0..).take_while(has).count()
    }

    fn strange(&self, key: &str, shape: &[usize]) -> Error {
        self.file.misfit(format!("{key} has shape {shape:?}"), "this file belongs to another network")
    }

    pub fn contradiction(&self, problem: String) -> Error {
        self.file.misfit(problem, "the shapes of this file do not make a network")
    }
}
