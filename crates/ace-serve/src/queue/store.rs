//! The queue on disk. A job is a folder that appears whole and says everything about itself:
//!
//! ```text
//! ID/job.json     what was asked
//! ID/image …      pictures that came with it, named by what they are of the edit
//! ID/0.png …      what was made
//! ID/end.json     how it ended; without it the job is still to be made
//! ```
//!
//! Every file is written beside its place and renamed, so that a process which dies leaves a job asked for or not, ended
//! or not.

use crate::jobs::{Ask, End};
use ace_plus::{Error, Result};
use ace_weights::replace;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

const ASKED: &str = "job.json";
const ENDED: &str = "end.json";
/// Held while a server works here.
const LOCK: &str = "lock";

/// A folder of jobs.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    /// The system lets go of it when the process ends, however it does.
    _lock: File,
}

impl Store {
    /// Takes a folder for this process alone.
    ///
    /// # Errors
    /// If it cannot be made, or another server works there.
    pub fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(Error::io(folder))?;
        let path = folder.join(LOCK);
        let lock = File::create(&path).map_err(Error::io(&path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                let what = format!("{}: another server works there", folder.display());
                Err(Error::input(what, "stop it, or name another folder for this one"))
            }
            Err(TryLockError::Error(error)) => Err(Error::io(&path)(error)),
        }
    }

    /// Stores what was asked, pictures first.
    ///
    /// # Errors
    /// If the folder is not writable; nothing is then stored.
    pub fn put(&self, ask: &Ask, files: &[(String, Vec<u8>)]) -> Result<()> {
        let write = writer(ask);
        replace::folder(&self.of(&ask.id), &mut |part| {
            for (name, bytes) in files {
                write(&part.join(name), bytes)?;
            }
            write(&part.join(ASKED), &json(ask))
        })?;
        Ok(())
    }

    /// Every job, oldest first, with how it ended if it did. What is no job, or cannot be read, is told to `note`.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn jobs(&self, note: &mut dyn FnMut(String)) -> Result<Vec<(Ask, Option<End>)>> {
        let mut jobs = Vec::new();
        for entry in fs::read_dir(&self.folder).map_err(Error::io(&self.folder))? {
            let path = entry.map_err(Error::io(&self.folder))?.path();
            if !path.is_dir() {
                continue;
            }
            // What a writer that was killed has left.
            if path.extension().is_some_and(|ending| ending == "part" || ending == "old") {
                let _ = fs::remove_dir_all(&path);
                continue;
            }
            match read::<Ask>(&path.join(ASKED)) {
                Ok(ask) => jobs.push((ask, read(&path.join(ENDED)).ok())),
                Err(problem) => note(format!("{}: not a job, left alone: {problem}", path.display())),
            }
        }
        jobs.sort_by(|(a, _), (b, _)| a.id.cmp(&b.id));
        Ok(jobs)
    }

    /// A picture that came with a job.
    ///
    /// # Errors
    /// If there is none of that name.
    pub fn file(&self, id: &str, name: &Path) -> Result<Vec<u8>> {
        let path = self.of(id).join(name);
        fs::read(&path).map_err(Error::io(&path))
    }

    /// Whether a job's picture is made.
    pub fn has_picture(&self, id: &str, nth: u32) -> bool {
        self.picture_at(id, nth).exists()
    }

    /// A picture that was made.
    ///
    /// # Errors
    /// If there is none.
    pub fn picture(&self, id: &str, nth: u32) -> Result<Vec<u8>> {
        let path = self.picture_at(id, nth);
        fs::read(&path).map_err(Error::io(&path))
    }

    /// Stores a picture that was made.
    ///
    /// # Errors
    /// If the folder is not writable.
    pub fn put_picture(&self, ask: &Ask, nth: u32, bytes: &[u8]) -> Result<()> {
        Ok(writer(ask)(&self.picture_at(&ask.id, nth), bytes)?)
    }

    /// Stores how a job ended.
    ///
    /// # Errors
    /// If the folder is not writable.
    pub fn end(&self, ask: &Ask, end: &End) -> Result<()> {
        Ok(writer(ask)(&self.of(&ask.id).join(ENDED), &json(end))?)
    }

    /// Forgets a job.
    pub fn remove(&self, id: &str) {
        // What cannot be removed is found again at the next start.
        let _ = fs::remove_dir_all(self.of(id));
    }

    fn of(&self, id: &str) -> PathBuf {
        self.folder.join(id)
    }

    fn picture_at(&self, id: &str, nth: u32) -> PathBuf {
        self.of(id).join(format!("{nth}.png"))
    }
}

/// How files of a job are written. One whose client waits is asked for anew after a power failure, so that nobody has to
/// wait for the disk.
fn writer(ask: &Ask) -> fn(&Path, &[u8]) -> ace_weights::Result<()> {
    if ask.attended { replace::write_quick } else { replace::write }
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // Neither has keys that are no text, or numbers that JSON cannot say.
    serde_json::to_vec_pretty(value).unwrap_or_default()
}

fn read<T: DeserializeOwned>(path: &Path) -> std::result::Result<T, String> {
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    serde_json::from_slice(&bytes).map_err(|error| error.to_string())
}
