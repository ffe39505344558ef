//! Requests to the Hub: what a file is, its bytes from a point on, and refusals in words.

use super::{ENDPOINT, Hub, HubFile, cache::is_name, is_sha256};
use crate::{Error, Result};
use std::time::Duration;
use ureq::{
    Agent, Body, BodyReader, Proxy, RequestBuilder,
    http::{HeaderMap, Response, StatusCode},
    typestate::WithoutBody,
};

/// Redirects of one request that are followed.
const REDIRECTS: usize = 10;
/// How long a server may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the Hub says about a file.
pub(super) struct Remote {
    /// Commit that the revision is at.
    pub(super) commit: String,
    /// Name of the blob: the SHA-256 of a large file, git's digest of a small one.
    pub(super) etag: String,
    /// Bytes.
    pub(super) size: u64,
}

/// Why a transfer stopped.
pub(super) enum Fault {
    /// Worth another try.
    Break(String),
    /// Not.
    Final(Error),
}

/// A client that leaves redirects and refusals to us, and gives up on a silent server.
pub(super) fn agent(proxy: Option<Proxy>) -> Agent {
    Agent::config_builder()
        .proxy(proxy)
        .max_redirects(0)
        .http_status_as_error(false)
        .timeout_connect(Some(PATIENCE / 2))
        .timeout_recv_response(Some(PATIENCE))
        .timeout_per_read(Some(PATIENCE))
        .user_agent(concat!("ace/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

impl Hub {
    /// Asks what the file is.
    ///
    /// The Hub answers with a redirect to another host for a large file: what it says itself counts, not what the store
    /// behind it says.
    pub(super) fn ask(&self, source: &HubFile) -> Result<Remote> {
        let mut url = self.url(source);
        let (mut commit, mut etag, mut size) = (None, None, None);
        for _ in 0..REDIRECTS {
            let response = self.call(self.agent.head(&url), &url).map_err(|error| {
                source.error(
                    unreached(&url, &error),
                    "check the connection; files that were fetched before are found without one",
                )
            })?;
            let headers = response.headers();
            commit = commit.or_else(|| header(headers, "x-repo-commit"));
            etag = etag.or_else(|| header(headers, "x-linked-etag"));
            size = size.or_else(|| header(headers, "x-linked-size"));
            match redirect(&response, &url) {
                Some(next) if self.is_home(&next) => {
                    url = next;
                    continue;
                }
                Some(_) => {}
                None if response.status().is_success() => {
                    size = size.or_else(|| header(headers, "content-length"));
                }
                None => return Err(self.refusal(source, &response)),
            }
            etag = etag.or_else(|| header(headers, "etag"));
            let missing = |what| {
                let hint = format!("is {} a Hugging Face Hub or a mirror of one?", self.endpoint);
                move || source.error(format!("the server does not say its {what}"), hint)
            };
            let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
            return Ok(Remote {
                commit: commit.filter(|commit| is_name(commit)).ok_or_else(missing("commit"))?,
                etag: etag.filter(|etag| is_name(etag)).ok_or_else(missing("etag"))?,
                size: size.and_then(|size| size.parse().ok()).or(source.size).ok_or_else(missing("size"))?,
            });
        }
        Err(source.error("the server sends in circles", format!("check HF_ENDPOINT, {}", self.endpoint)))
    }

    /// Bytes of the file from `start` on; `start` becomes zero if the server sends all of them.
    pub(super) fn get(
        &self,
        source: &HubFile,
        total: u64,
        start: &mut u64,
    ) -> std::result::Result<BodyReader<'static>, Fault> {
        let mut url = self.url(source);
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&url);
            if *start > 0 {
                request = request.header("range", format!("bytes={start}-"));
            }
            let response = self.call(request, &url).map_err(|error| Fault::Break(unreached(&url, &error)))?;
            if let Some(next) = redirect(&response, &url) {
                url = next;
                continue;
            }
            let range = format!("bytes {start}-{}/{total}", total.saturating_sub(1));
            return match response.status() {
                StatusCode::OK => {
                    *start = 0;
                    Ok(response.into_body().into_reader())
                }
                StatusCode::PARTIAL_CONTENT if header(response.headers(), "content-range") == Some(range) => {
                    Ok(response.into_body().into_reader())
                }
                // Not the rest that was asked for: the whole, then.
                StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE if *start > 0 => {
                    (*start, url) = (0, self.url(source));
                    continue;
                }
                status if self.is_home(&url) && status.is_client_error() && !is_passing(status) => {
                    Err(Fault::Final(self.refusal(source, &response)))
                }
                // The address of a store is signed for a while; asking the Hub again brings a fresh one.
                status => Err(Fault::Break(format!("{} answers {status}", host(&url)))),
            };
        }
        Err(Fault::Break("the server sends in circles".into()))
    }

    fn url(&self, source: &HubFile) -> String {
        let (repo, file) = (escape(&source.repo), escape(&source.file));
        // A branch like `refs/pr/1` is one step of the path.
        let revision = escape(source.revision()).replace('/', "%2F");
        format!("{}/{repo}/resolve/{revision}/{file}", self.endpoint)
    }

    fn call(
        &self,
        request: RequestBuilder<WithoutBody>,
        url: &str,
    ) -> std::result::Result<Response<Body>, ureq::Error> {
        // The size of a compressed answer would not be that of the file.
        let request = request.header("accept-encoding", "identity");
        match &self.token {
            Some(token) if self.is_home(url) => request.header("authorization", format!("Bearer {token}")).call(),
            _ => request.call(),
        }
    }

    fn is_home(&self, url: &str) -> bool {
        origin(url) == origin(&self.endpoint)
    }

    /// What the Hub's status and error code mean to a user.
    /// HubFile: `hf_raise_for_status` of huggingface_hub 2.4.
    fn refusal(&self, source: &HubFile, response: &Response<Body>) -> Error {
        let (status, headers) = (response.status(), response.headers());
        let code = header(headers, "x-error-code");
        let message = header(headers, "x-error-message").unwrap_or_default();
        let page = format!("{ENDPOINT}/{}", source.repo);
        match (status.as_u16(), code.as_deref()) {
            (401..=404, Some("RepoNotFound")) => source.error(
                format!("there is no repository {}, or it is private", source.repo),
                "check the name; for a private repository set HF_TOKEN",
            ),
            (401, _) if message.starts_with("Invalid credentials") => {
                source.error("the token is refused", format!("make a new one at {ENDPOINT}/settings/tokens"))
            }
            (401 | 403, _) => {
                let read = source.licence_url.as_ref().map_or_else(String::new, |url| format!(" ({url})"));
                let token = if self.token.is_some() { "use a token of the account that did" } else { "set HF_TOKEN" };
                source.error("the repository is gated", format!("accept the licence{read} at {page} and {token}"))
            }
            (404, Some("RevisionNotFound")) => {
                source.error(format!("there is no revision {}", source.revision()), format!("see {page}"))
            }
            (404, _) => {
                source.error(format!("there is no such file at revision {}", source.revision()), format!("see {page}"))
            }
            _ => source.error(format!("{} answers {status}", host(&self.endpoint)), "try again in a while"),
        }
    }
}

impl Remote {
    /// The digest that the file must have; an error if what is published is not what was asked for.
    pub(super) fn agreed_digest(&self, source: &HubFile) -> Result<Option<String>> {
        let published = is_sha256(&self.etag).then(|| self.etag.clone());
        let hint = "the publisher has changed the file; name the commit that had the expected one as revision";
        match source.size {
            Some(size) if size != self.size => {
                return Err(source.error(format!("the published file has {} bytes, expected {size}", self.size), hint));
            }
            _ => {}
        }
        match (source.sha256(), published) {
            (Some(expected), Some(published)) if expected != published => {
                Err(source.error(format!("the published file has SHA-256 {published}, expected {expected}"), hint))
            }
            (expected, published) => Ok(expected.or(published)),
        }
    }
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.trim().to_owned())
}

/// Whether a refusal is about the moment, not about the file.
fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429)
}

/// Where a redirect leads.
fn redirect(response: &Response<Body>, url: &str) -> Option<String> {
    let next = response.status().is_redirection().then(|| header(response.headers(), "location"))??;
    Some(if next.starts_with('/') { format!("{}{next}", origin(url)) } else { next })
}

/// `scheme://host:port` of an address.
fn origin(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    url[authority..].find('/').map_or(url, |end| &url[..authority + end])
}

fn host(url: &str) -> &str {
    let origin = origin(url);
    origin.split_once("://").map_or(origin, |(_, host)| host)
}

/// One line on why there was no answer.
pub(super) fn unreached(url: &str, error: &ureq::Error) -> String {
    let host = host(url);
    match error {
        ureq::Error::HostNotFound => format!("there is no host {host}, or no network"),
        ureq::Error::Timeout(_) => format!("{host} does not answer"),
        ureq::Error::Io(error) => format!("cannot reach {host}: {error}"),
        other => format!("cannot reach {host}: {other}"),
    }
}

/// Percent-encodes what may not stand in a path.
fn escape(path: &str) -> String {
    let mut escaped = String::new();
    for byte in path.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}
