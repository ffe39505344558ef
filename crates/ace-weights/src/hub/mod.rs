//! Files from the Hugging Face Hub: found in its ordinary cache, or fetched into it.
//!
//! A file that other programs have fetched is used where it lies. One that has to be fetched is written under a
//! temporary name, goes on where a broken transfer stopped, and is taken for whole only when its size and its SHA-256
//! are right.
//!
//! The `hf-hub` crate would save the forty lines of `cache.rs`. Its 1.0 brings tokio, reqwest and a storage client (280
//! crates), starts a broken transfer from the beginning and checks neither size nor digest; its 0.5 over ureq is the
//! superseded line, appends whatever answers a resumed request, and checks no digest either.

mod cache;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
#[cfg(test)]
mod tests;
#[cfg(feature = "hub")]
mod transfer;

use crate::{
    Error, Result,
    digest::{is_sha256, sha256},
};
use cache::{Folder, fits};
use serde::Deserialize;
use std::{
    env, fmt, fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

/// The public Hub.
pub const ENDPOINT: &str = "https://huggingface.co";

/// One file of a repository on the Hub.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HubFile {
    /// Repository, `owner/name`.
    pub repo: String,
    /// File, its path inside the repository.
    pub file: String,
    /// Branch, tag or commit; `main` unless said.
    pub revision: Option<String>,
    /// SHA-256 of the whole file, 64 hexadecimal digits.
    pub sha256: Option<String>,
    /// Size of the whole file, bytes.
    pub size: Option<u64>,
    /// Where the licence can be read.
    pub licence_url: Option<String>,
}

/// What a fetch is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// Another process is fetching the same file.
    Waiting,
    /// `done` of `total` bytes are here, those of an earlier transfer included.
    Downloading {
        /// Bytes here.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
    /// The transfer broke and will go on after `pause`.
    Retrying {
        /// Time until then.
        pause: Duration,
    },
    /// `done` of `total` bytes went through the digest.
    Verifying {
        /// Bytes read.
        done: u64,
        /// Bytes of the whole file.
        total: u64,
    },
}

/// Where files come from and where they are kept.
#[derive(Clone)]
// Without fetching, files are only looked for.
#[cfg_attr(not(feature = "hub"), allow(dead_code))]
pub struct Hub {
    endpoint: String,
    cache: PathBuf,
    token: Option<String>,
    offline: bool,
    /// Breaks in a row that are forgiven; one that came further than all before counts as the first.
    retries: u32,
    /// Pause after the first of them; doubled for each further one.
    pause: Duration,
    #[cfg(feature = "hub")]
    agent: ureq::Agent,
}

/// [`Hub::fetch`] from the Hub that the environment names.
///
/// # Errors
/// As [`Hub::from_env`] and [`Hub::fetch`].
pub fn fetch(source: &HubFile, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
    Hub::from_env()?.fetch(source, progress)
}

impl Hub {
    /// The public Hub, no token, no proxy, files in `cache`: nothing is read from the environment.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            endpoint: ENDPOINT.into(),
            cache: cache.into(),
            token: None,
            offline: false,
            retries: 5,
            pause: Duration::from_secs(1),
            #[cfg(feature = "hub")]
            agent: http::agent(None),
        }
    }

    /// The Hub as its own tools find it, and a proxy as others do.
    ///
    /// `HF_ENDPOINT` is the address; `HF_HUB_CACHE`, `HF_HOME` and `XDG_CACHE_HOME` say where the cache is,
    /// `~/.cache/huggingface/hub` otherwise; `HF_TOKEN`, or the file `HF_TOKEN_PATH` or `token` in `HF_HOME` that
    /// `hf auth login` writes, is the token; `HF_HUB_OFFLINE` forbids requests. `HTTPS_PROXY`, `ALL_PROXY` and
    /// `NO_PROXY` are followed.
    ///
    /// # Errors
    /// If neither a variable nor a home folder says where the cache is.
    pub fn from_env() -> Result<Self> {
        let variable = |name: &str| env::var(name).ok();
        let hub = Self::from_variables(&variable, env::home_dir())?;
        #[cfg(feature = "hub")]
        let hub = Self { agent: http::agent(ureq::Proxy::try_from_env()), ..hub };
        Ok(hub)
    }

    fn from_variables(variable: &dyn Fn(&str) -> Option<String>, user: Option<PathBuf>) -> Result<Self> {
        // An empty variable is how a shell unsets one for a single command.
        let variable = |name| variable(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
        let folder = |name| variable(name).map(PathBuf::from);
        let home = folder("HF_HOME").or_else(|| {
            let caches = folder("XDG_CACHE_HOME").or_else(|| user.map(|user| user.join(".cache")));
            caches.map(|caches| caches.join("huggingface"))
        });
        let cache = folder("HF_HUB_CACHE").or_else(|| home.as_ref().map(|home| home.join("hub")));
        let cache =
            cache.ok_or_else(|| Error::input("there is no home folder to keep fetched files in", "set HF_HOME"))?;
        let token = variable("HF_TOKEN").or_else(|| {
            let path = folder("HF_TOKEN_PATH").or_else(|| home.map(|home| home.join("token")))?;
            let token = fs::read_to_string(path).ok()?.trim().to_owned();
            (!token.is_empty()).then_some(token)
        });
        let yes = |value: String| matches!(value.to_ascii_lowercase().as_str(), "1" | "on" | "yes" | "true");
        let mut hub =
            Self::new(cache).endpoint(variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into())).token(token);
        hub.offline = variable("HF_HUB_OFFLINE").is_some_and(yes);
        Ok(hub)
    }

    /// Asks `endpoint` instead, a mirror of the Hub.
    pub fn endpoint(mut self, endpoint: impl Into<String>) -> Self {
        self.endpoint = endpoint.into().trim_end_matches('/').to_owned();
        self
    }

    /// Shows `token` to the endpoint, and to no other address.
    pub fn token(mut self, token: Option<String>) -> Self {
        self.token = token;
        self
    }

    /// Where files are kept.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// Makes no request: what is not in the cache is an error.
    pub fn offline(mut self) -> Self {
        self.offline = true;
        self
    }

    /// The file in the cache, whoever put it there; no request is made.
    ///
    /// Its size is compared with the one asked for, and so is its digest: by the name of the blob, which is the digest
    /// of a large file, or by reading the file.
    ///
    /// # Errors
    /// If `source` names no file of a repository, or the file cannot be read.
    pub fn cached(&self, source: &HubFile) -> Result<Option<PathBuf>> {
        source.check()?;
        let folder = Folder::new(&self.cache, &source.repo);
        let Some(commit) = folder.commit(source.revision()) else { return Ok(None) };
        let pointer = folder.pointer(&commit, &source.file);
        Ok(fits(&pointer, source.size, source.sha256().as_deref())?.then_some(pointer))
    }

    /// Reads the file in the cache, and takes it out if it is not what was published: the next [`Hub::fetch`] then gets
    /// it again. Says whether it stayed; a file whose digest nobody knows does.
    ///
    /// # Errors
    /// As [`Hub::cached`], or if it cannot be removed.
    pub fn verify(&self, source: &HubFile, progress: &mut dyn FnMut(Progress)) -> Result<bool> {
        let Some(pointer) = self.cached(source)? else { return Ok(false) };
        let blob = fs::canonicalize(&pointer).map_err(Error::io(&pointer))?;
        let named = blob.file_name().and_then(|name| name.to_str()).filter(|name| is_sha256(name));
        let Some(expected) = source.sha256().or(named.map(str::to_owned)) else { return Ok(true) };
        let total = length(&blob);
        let found = sha256(&blob, &mut |done| progress(Progress::Verifying { done, total }))?;
        if found == expected {
            return Ok(true);
        }
        remove(&pointer)?;
        remove(&blob)?;
        Ok(false)
    }

    /// Finds the file in the cache or fetches it there, and returns where it is.
    ///
    /// A break is waited out a few times; after that, the next call goes on from what has arrived. Several processes may
    /// ask for the same file: one fetches it.
    ///
    /// # Errors
    /// [`Error::Fetch`] if the Hub cannot be reached, refuses (a gated repository) or has no such file, and if size or
    /// digest are not those asked for: then nothing of the file is kept. [`Error::Io`] if the cache cannot be written.
    pub fn fetch(&self, source: &HubFile, progress: &mut dyn FnMut(Progress)) -> Result<PathBuf> {
        if let Some(path) = self.cached(source)? {
            return Ok(path);
        }
        if self.offline {
            return Err(source.error("it is not in the cache", "unset HF_HUB_OFFLINE to fetch it"));
        }
        #[cfg(feature = "hub")]
        return self.get_whole(source, progress);
        #[cfg(not(feature = "hub"))]
        {
            let _ = progress;
            Err(source.error("it is not in the cache, and this build cannot fetch", "build it with the feature hub"))
        }
    }
}

impl fmt::Debug for Hub {
    /// Without the token: logs are shown to others.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, cache, offline, .. } = self;
        f.debug_struct("Hub")
            .field("endpoint", endpoint)
            .field("cache", cache)
            .field("offline", offline)
            .finish_non_exhaustive()
    }
}

impl HubFile {
    /// The revision asked for.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or("main")
    }

    fn sha256(&self) -> Option<String> {
        self.sha256.as_deref().map(str::to_ascii_lowercase)
    }

    /// Cards come from strangers: no name may lead out of the cache.
    fn check(&self) -> Result<()> {
        let plain =
            |path: &str| path.split('/').all(|name| !matches!(name, "" | "." | "..") && !name.contains(['\\', ':']));
        let bad = |what: &str, value: &str, hint: &str| Err(Error::input(format!("{what} is {value:?}"), hint));
        if !plain(&self.repo) || self.repo.split('/').count() > 2 {
            return bad("repo", &self.repo, "a repository is owner/name");
        }
        if !plain(&self.file) {
            return bad("file", &self.file, "a file is a path inside the repository");
        }
        if !plain(self.revision()) {
            return bad("revision", self.revision(), "a revision is a branch, a tag or a commit");
        }
        match &self.sha256 {
            Some(digest) if !is_sha256(digest) => bad("sha256", digest, "a SHA-256 has 64 hexadecimal digits"),
            _ => Ok(()),
        }
    }

    fn error(&self, reason: impl Into<String>, hint: impl Into<String>) -> Error {
        Error::Fetch { file: format!("{}/{}", self.repo, self.file), reason: reason.into(), hint: Some(hint.into()) }
    }
}

/// Bytes of a file; none if there is none.
fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io(path)(error)),
        _ => Ok(()),
    }
}
