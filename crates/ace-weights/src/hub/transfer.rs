//! A file over the wire: resumed where it broke, taken for whole only when size and digest are right.

use super::{
    Hub, HubFile, Progress,
    cache::{Folder, fits},
    http::{Fault, Remote},
    length, remove,
};
use crate::{Error, Result, digest::sha256};
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    thread,
};

/// Bytes between two looks at the progress.
const CHUNK: usize = 1 << 20;

impl Hub {
    /// Fetches a file into the cache, unless another process does so meanwhile.
    pub(super) fn get_whole(&self, source: &HubFile, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        let remote = self.ask(source)?;
        let digest = remote.agreed_digest(source)?;
        let folder = Folder::new(&self.cache, &source.repo);
        let blob = folder.blob(&remote.etag);
        let _lock = folder.lock(&remote.etag, || progress(Progress::Waiting))?;
        if !fits(&blob, Some(remote.size), digest.as_deref())? {
            self.download(source, &remote, digest.as_deref(), &blob, progress)?;
        }
        let pointer = folder.link(&remote.etag, &remote.commit, &source.file)?;
        folder.point(source.revision(), &remote.commit)?;
        Ok(pointer)
    }

    /// Downloads to a temporary name beside `blob`, checks, and renames.
    fn download(
        &self,
        source: &HubFile,
        remote: &Remote,
        digest: Option<&str>,
        blob: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<()> {
        let part = blob.with_file_name(format!("{}.incomplete", remote.etag));
        let (mut breaks, mut furthest) = (0, length(&part));
        loop {
            // Without a digest nobody would notice that the two halves of a resumed file do not belong together.
            if digest.is_none() {
                remove(&part)?;
            }
            let reason = match self.transfer(source, remote, &part, progress) {
                Ok(()) => break,
                Err(Fault::Final(error)) => return Err(error),
                Err(Fault::Break(reason)) => reason,
            };
            let reached = length(&part);
            breaks = if reached > furthest { 1 } else { breaks + 1 };
            furthest = furthest.max(reached);
            if breaks > self.retries {
                return Err(
                    source.error(reason, "check the connection; what has arrived is kept, fetch again to go on")
                );
            }
            let pause = self.pause * 2u32.pow(breaks - 1);
            progress(Progress::Retrying { pause });
            thread::sleep(pause);
        }
        if let Some(expected) = digest {
            // Read back from the disk: it is the file that must be right, not what came over the wire.
            let found = sha256(&part, &mut |done| progress(Progress::Verifying { done, total: remote.size }))?;
            if found != expected {
                remove(&part)?;
                return Err(source.error(
                    format!("the SHA-256 is {found}, expected {expected}; the file was removed"),
                    "fetch it again; if that does not help, the server or something on the way changes the file",
                ));
            }
        }
        fs::rename(&part, blob).map_err(Error::io(blob))
    }

    /// One transfer of what is missing in `part`.
    fn transfer(
        &self,
        source: &HubFile,
        remote: &Remote,
        part: &Path,
        progress: &mut dyn FnMut(Progress),
    ) -> std::result::Result<(), Fault> {
        let total = remote.size;
        let mut done = length(part);
        if done == total && part.exists() {
            return Ok(());
        }
        if done > total {
            done = 0;
        }
        let mut body = self.get(source, total, &mut done)?;
        let io = |error| Fault::Final(Error::io(part)(error));
        let mut file = OpenOptions::new().create(true).truncate(false).write(true).open(part).map_err(io)?;
        // The server may have answered with the whole file.
        file.set_len(done).map_err(io)?;
        file.seek(SeekFrom::Start(done)).map_err(io)?;
        let mut buffer = vec![0; CHUNK];
        progress(Progress::Downloading { done, total });
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => {
                    return Err(Fault::Break(format!("the transfer broke at {done} of {total} bytes: {error}")));
                }
            };
            file.write_all(&buffer[..count]).map_err(io)?;
            done += count as u64;
            progress(Progress::Downloading { done, total });
        }
        file.sync_all().map_err(io)?;
        match done.cmp(&total) {
            std::cmp::Ordering::Less => Err(Fault::Break(format!("the transfer ended at {done} of {total} bytes"))),
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => {
                remove(part).map_err(Fault::Final)?;
                Err(Fault::Break(format!("the server sent {done} bytes instead of {total}")))
            }
        }
    }
}
