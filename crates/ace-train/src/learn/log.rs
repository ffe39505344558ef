//! The log of a run.

use crate::Error;
use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

/// JSON lines, one per logged step ([`StepReport`](super::StepReport)) or measurement ([`ValidationReport`](super::ValidationReport)). A resumed run removes the lines of
/// steps after its checkpoint.
pub(super) struct Log {
    path: PathBuf,
    file: fs::File,
    /// Bytes of whole lines.
    len: u64,
}

impl Log {
    pub(super) fn open(path: &Path, step: u64) -> Result<Self, Error> {
        let io = || ace_plus::Error::io(path);
        let kept: String = match fs::read_to_string(path) {
            Ok(text) if step > 0 => {
                let is_past = |line: &&str| {
                    let line = serde_json::from_str::<serde_json::Value>(line);
                    line.is_ok_and(|line| line["step"].as_u64().is_some_and(|line| line <= step))
                };
                text.lines().filter(is_past).flat_map(|line| [line, "\n"]).collect()
            }
            _ => String::new(),
        };
        ace_weights::replace::write(path, kept.as_bytes())?;
        let file = fs::OpenOptions::new().append(true).open(path).map_err(io())?;
        Ok(Self { path: path.to_owned(), file, len: kept.len() as u64 })
    }

    pub(super) fn write(&mut self, report: &impl serde::Serialize) -> Result<(), Error> {
        let line = serde_json::to_string(report).unwrap_or_default() + "\n"; // plain numbers always serialize
        match self.file.write_all(line.as_bytes()) {
            Ok(()) => self.len += line.len() as u64,
            Err(source) => {
                // Half a line says nothing. If that cannot be undone either, the first error is the one that matters.
                let _ = self.file.set_len(self.len);
                return Err(ace_plus::Error::io(&self.path)(source).into());
            }
        }
        Ok(())
    }
}
