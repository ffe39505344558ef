//! A Hub on this machine that redirects, refuses, breaks off and lies.

use super::*;
use hub::{Answer, COMMIT, GIT, Server};
use std::{net::TcpListener, process, thread};

/// As in [`transfer`].
const CHUNK: usize = 1 << 20;

#[path = "../../../../tests/support/hub.rs"]
mod hub;

/// A cache of one test.
struct Cache(PathBuf);

impl Cache {
    fn new(test: &str) -> Self {
        let path = env::temp_dir().join(format!("ace-fetch-{}-{test}", process::id()));
        let _ = fs::remove_dir_all(&path);
        Self(path)
    }

    fn hub(&self, server: &Server) -> Hub {
        let hub = Hub::new(&self.0).endpoint(&server.address);
        Hub { retries: 3, pause: Duration::from_millis(1), ..hub }
    }

    fn in_repo(&self, path: &str) -> PathBuf {
        self.0.join("models--owner--name").join(path)
    }

    /// Files in `blobs`, sorted.
    fn blobs(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.in_repo("blobs")) else { return Vec::new() };
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn source(file: &str) -> HubFile {
    HubFile {
        repo: "owner/name".into(),
        file: file.into(),
        revision: None,
        sha256: None,
        size: None,
        licence_url: None,
    }
}

/// Three chunks and a bit, and their digest.
fn weights() -> (Vec<u8>, String) {
    let bytes: Vec<u8> = (0..3 * CHUNK + 7).map(|i| (i * i / 251) as u8).collect();
    let path = env::temp_dir().join(format!("ace-fetch-{}-{:?}", process::id(), thread::current().id()));
    fs::write(&path, &bytes).unwrap();
    let digest = sha256(&path, &mut |_| ()).unwrap();
    fs::remove_file(path).unwrap();
    (bytes, digest)
}

fn fetch(hub: &Hub, source: &HubFile) -> Result<PathBuf> {
    hub.fetch(source, &mut |_| ())
}

fn message(result: Result<PathBuf>) -> (String, String) {
    let error = result.unwrap_err();
    (error.to_string(), error.hint().unwrap_or_default().to_owned())
}

#[test]
fn the_digest_is_sha256() {
    let cache = Cache::new("digest");
    fs::create_dir_all(&cache.0).unwrap();
    let path = cache.0.join("abc");
    fs::write(&path, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sha256(&path, &mut |_| ()).unwrap(), abc);
}

#[test]
fn a_file_is_fetched_once_into_the_ordinary_cache() {
    let (bytes, digest) = weights();
    let (server, cache) = (Server::of(&bytes, &digest), Cache::new("once"));
    let source = HubFile {
        sha256: Some(digest.to_uppercase()),
        size: Some(bytes.len() as u64),
        ..source("vae/a b.safetensors")
    };
    let mut heard = Vec::new();
    let path = cache.hub(&server).fetch(&source, &mut |progress| heard.push(progress)).unwrap();

    assert_eq!(path, cache.in_repo(&format!("snapshots/{COMMIT}/vae/a b.safetensors")));
    assert_eq!(fs::read(&path).unwrap(), bytes);
    assert_eq!(fs::read_to_string(cache.in_repo("refs/main")).unwrap(), COMMIT);
    assert_eq!(cache.blobs(), [digest.as_str()]);
    #[cfg(unix)]
    assert_eq!(fs::read_link(&path).unwrap(), Path::new(&format!("../../../blobs/{digest}")));

    let total = bytes.len() as u64;
    assert_eq!(heard.first(), Some(&Progress::Downloading { done: 0, total }));
    assert!(heard.contains(&Progress::Downloading { done: total, total }));
    assert_eq!(heard.last(), Some(&Progress::Verifying { done: total, total }));
    assert_eq!(server.log.lock().unwrap()[0].path, "/owner/name/resolve/main/vae/a%20b.safetensors");

    assert_eq!(fetch(&cache.hub(&server), &source).unwrap(), path);
    assert_eq!(cache.hub(&server).offline().cached(&source).unwrap(), Some(path));
    assert_eq!(server.asked(), ["HEAD", "GET"]);
}

#[test]
fn what_other_tools_fetched_is_used() {
    let cache = Cache::new("others");
    let server = Server::refusing(500, &[]);
    let pinned = HubFile { revision: Some(COMMIT.into()), ..source("config.json") };
    let pointer = cache.in_repo(&format!("snapshots/{COMMIT}/config.json"));
    fs::create_dir_all(pointer.parent().unwrap()).unwrap();
    fs::write(&pointer, "abc").unwrap();
    // They write no ref for a commit.
    assert_eq!(cache.hub(&server).cached(&source("config.json")).unwrap(), None);
    assert_eq!(fetch(&cache.hub(&server), &pinned).unwrap(), pointer);
    fs::create_dir_all(cache.in_repo("refs/refs/pr")).unwrap();
    fs::write(cache.in_repo("refs/refs/pr/1"), COMMIT).unwrap();
    let branch = HubFile { revision: Some("refs/pr/1".into()), ..source("config.json") };
    assert_eq!(fetch(&cache.hub(&server), &branch).unwrap(), pointer);
    assert!(server.asked().is_empty());
}

#[test]
fn a_broken_transfer_goes_on_by_itself() {
    let (bytes, digest) = weights();
    let (half, cache) = (bytes.len() / 2, Cache::new("break"));
    let served = (bytes.clone(), digest.clone());
    let server = Server::start(move |request| {
        let answer = Answer::file(request, &served.0, &served.1);
        if request.start.is_none() { answer.cut(half) } else { answer }
    });
    let mut retries = 0;
    let count = &mut |progress| retries += usize::from(matches!(progress, Progress::Retrying { .. }));
    let path = cache.hub(&server).fetch(&source("a"), count).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert_eq!(server.asked(), ["HEAD", "GET", &format!("GET {half}")]);
    assert_eq!(retries, 1);
}

#[test]
fn the_next_call_goes_on_where_the_last_one_gave_up() {
    let (bytes, digest) = weights();
    let (half, cache) = (bytes.len() / 2, Cache::new("resume"));
    let served = (bytes.clone(), digest.clone());
    let server = Server::start(move |request| {
        let answer = Answer::file(request, &served.0, &served.1);
        if request.start.is_none() { answer.cut(half) } else { answer }
    });
    let impatient = Hub { retries: 0, ..cache.hub(&server) };
    let (said, hint) = message(fetch(&impatient, &source("a")));
    assert!(said.starts_with(&format!("owner/name/a: the transfer broke at {half} of {}", bytes.len())), "{said}");
    assert!(hint.contains("what has arrived is kept"), "{hint}");
    assert_eq!(cache.blobs(), [format!("{digest}.incomplete")]);
    assert_eq!(impatient.cached(&source("a")).unwrap(), None);

    let mut first = None;
    let path = impatient.fetch(&source("a"), &mut |progress| first = first.or(Some(progress))).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert_eq!(cache.blobs(), [digest.as_str()]);
    assert_eq!(first, Some(Progress::Downloading { done: half as u64, total: bytes.len() as u64 }));
    assert_eq!(server.asked(), ["HEAD", "GET", "HEAD", &format!("GET {half}")]);
}

#[test]
fn a_server_without_ranges_sends_all_again() {
    let (bytes, digest) = weights();
    for status in [200, 206, 416] {
        let cache = Cache::new(&format!("ranges-{status}"));
        let served = (bytes.clone(), digest.clone());
        let server = Server::start(move |request| match request.start {
            // The whole in place of the rest, another range than the one asked for, or a refusal of ranges.
            Some(_) => Answer::new(status, &[("content-range", "bytes 0-1/2")], &served.0),
            None => Answer::file(request, &served.0, &served.1),
        });
        fs::create_dir_all(cache.in_repo("blobs")).unwrap();
        fs::write(cache.in_repo(&format!("blobs/{digest}.incomplete")), b"rubbish").unwrap();
        let path = fetch(&cache.hub(&server), &source("a")).unwrap();
        assert_eq!(fs::read(path).unwrap(), bytes);
    }
}

#[test]
fn a_server_that_always_breaks_is_given_up() {
    let (bytes, digest) = weights();
    for etag in [digest.as_str(), GIT] {
        let cache = Cache::new(&format!("hopeless-{}", etag.len()));
        let (served, name) = (bytes.clone(), etag.to_owned());
        let server = Server::start(move |request| {
            let mut whole = request.clone();
            whole.start = None;
            Answer::file(&whole, &served, &name).cut(1000)
        });
        let (said, _) = message(fetch(&cache.hub(&server), &source("a")));
        assert!(said.contains("broke at 1000 of"), "{said}");
        // The first counts as progress; three more are forgiven, the next is not.
        assert_eq!(server.asked().len(), 1 + 4, "{:?}", server.asked());
    }
}

#[test]
fn a_wrong_digest_leaves_nothing() {
    let (mut bytes, digest) = weights();
    bytes[12345] ^= 1;
    let (server, cache) = (Server::of(&bytes, &digest), Cache::new("digest-wrong"));
    let (said, _) = message(fetch(&cache.hub(&server), &source("a")));
    assert!(said.contains(&format!("expected {digest}; the file was removed")), "{said}");
    assert!(cache.blobs().is_empty());
    assert_eq!(cache.hub(&server).cached(&source("a")).unwrap(), None);
    assert!(!cache.in_repo("refs/main").exists());
}

#[test]
fn another_file_than_the_expected_one_is_not_even_begun() {
    let (bytes, digest) = weights();
    let (server, cache) = (Server::of(&bytes, &digest), Cache::new("changed"));
    let other = HubFile { sha256: Some("ab".repeat(32)), ..source("a") };
    let (said, hint) = message(fetch(&cache.hub(&server), &other));
    assert!(said.contains(&format!("the published file has SHA-256 {digest}, expected abab")), "{said}");
    assert!(hint.contains("revision"), "{hint}");
    let longer = HubFile { size: Some(5), ..source("a") };
    let (said, _) = message(fetch(&cache.hub(&server), &longer));
    assert!(said.contains(&format!("the published file has {} bytes, expected 5", bytes.len())), "{said}");
    assert_eq!(server.asked(), ["HEAD", "HEAD"]);
}

#[test]
fn a_cached_file_that_moved_on_or_was_damaged_is_fetched_anew() {
    let (bytes, digest) = weights();
    let cache = Cache::new("anew");
    let old = Server::of(b"old", &"cd".repeat(32));
    // Nobody checks a digest that nobody knows: the etag lies here, as the name of an old blob would not.
    let folder = Folder::new(&cache.0, "owner/name");
    drop(folder.lock(&"cd".repeat(32), || ()).unwrap());
    fs::write(folder.blob(&"cd".repeat(32)), b"old").unwrap();
    assert_eq!(fs::read(fetch(&cache.hub(&old), &source("a")).unwrap()).unwrap(), b"old");
    assert_eq!(old.asked(), ["HEAD"]);

    let server = Server::of(&bytes, &digest);
    let new = HubFile { sha256: Some(digest.clone()), ..source("a") };
    assert_eq!(fs::read(fetch(&cache.hub(&server), &new).unwrap()).unwrap(), bytes);
    fs::write(cache.in_repo(&format!("blobs/{digest}")), b"damaged").unwrap();
    let sized = HubFile { size: Some(bytes.len() as u64), ..new };
    assert_eq!(fs::read(fetch(&cache.hub(&server), &sized).unwrap()).unwrap(), bytes);
    assert_eq!(server.asked(), ["HEAD", "GET", "HEAD", "GET"]);
}

#[test]
fn a_small_file_is_checked_by_the_digest_that_was_asked_for() {
    let (bytes, digest) = weights();
    let (server, cache) = (Server::of(&bytes, GIT), Cache::new("small"));
    let good = HubFile { sha256: Some(digest), ..source("a") };
    let path = fetch(&cache.hub(&server), &good).unwrap();
    assert_eq!(cache.blobs(), [GIT]);
    let mut damaged = bytes.clone();
    damaged[0] ^= 1;
    fs::write(cache.in_repo(&format!("blobs/{GIT}")), damaged).unwrap();
    assert_eq!(cache.hub(&server).cached(&good).unwrap(), None);
    assert_eq!(fetch(&cache.hub(&server), &good).unwrap(), path);
    assert_eq!(fs::read(path).unwrap(), bytes);
    let bad = HubFile { sha256: Some("ab".repeat(32)), ..source("a") };
    let (said, _) = message(fetch(&cache.hub(&server), &bad));
    assert!(said.contains("expected abab"), "{said}");
}

#[test]
fn the_token_is_shown_to_the_hub_and_nobody_else() {
    let (bytes, digest) = weights();
    let cache = Cache::new("token");
    let served = bytes.clone();
    let store = Server::start(move |request| Answer::file(request, &served, "the name that the store has for it"));
    let (away, size, etag) = (format!("{}/signed?x=1", store.address), bytes.len().to_string(), digest.clone());
    let server = Server::start(move |request| match request.path.starts_with("/new/") {
        false => Answer::new(307, &[("location", &format!("/new{}", request.path))], b""),
        true => {
            let headers = [("x-linked-etag", &*etag), ("x-linked-size", &size), ("location", &away)];
            Answer::new(302, &[&headers[..], &[("x-repo-commit", COMMIT)]].concat(), b"see there")
        }
    });
    let path = fetch(&cache.hub(&server).token(Some("secret".into())), &source("a")).unwrap();
    assert_eq!(fs::read(path).unwrap(), bytes);
    assert_eq!(cache.blobs(), [digest.as_str()]);
    assert_eq!(server.asked(), ["HEAD", "HEAD", "GET", "GET"]);
    assert_eq!(store.asked(), ["GET"]);
    assert!(server.log.lock().unwrap().iter().all(|request| request.authorization.as_deref() == Some("Bearer secret")));
    assert!(store.log.lock().unwrap().iter().all(|request| request.authorization.is_none()));
}

#[test]
fn a_refusal_says_what_to_do() {
    /// Status, headers, reason and hint.
    type Refusal = (u16, &'static [(&'static str, &'static str)], &'static str, &'static str);
    let cases: &[Refusal] = &[
        (
            401,
            &[("x-error-code", "GatedRepo")],
            "owner/name/a: the repository is gated",
            "accept the licence at https://huggingface.co/owner/name and set HF_TOKEN",
        ),
        (403, &[], "owner/name/a: the repository is gated", "huggingface.co/owner/name and set HF_TOKEN"),
        (
            401,
            &[("x-error-code", "RepoNotFound")],
            "there is no repository owner/name, or it is private",
            "set HF_TOKEN",
        ),
        (
            401,
            &[("x-error-message", "Invalid credentials in Authorization header")],
            "the token is refused",
            "settings/tokens",
        ),
        (404, &[("x-error-code", "EntryNotFound")], "there is no such file at revision main", "owner/name"),
        (404, &[("x-error-code", "RevisionNotFound")], "there is no revision main", "owner/name"),
        (503, &[], "answers 503", "try again"),
        (200, &[("etag", "x")], "the server does not say its commit", "a mirror of one?"),
        (200, &[("etag", "../x"), ("x-repo-commit", COMMIT)], "the server does not say its etag", "a mirror of one?"),
        (302, &[("location", "/again")], "in circles", "HF_ENDPOINT"),
    ];
    for (index, (status, headers, expected, way_out)) in cases.iter().enumerate() {
        let (server, cache) = (Server::refusing(*status, headers), Cache::new(&format!("refusal-{index}")));
        let (said, hint) = message(fetch(&cache.hub(&server), &source("a")));
        assert!(said.contains(expected), "{said}");
        assert!(hint.contains(way_out), "{hint}");
        assert!(!said.contains('\n') && !cache.0.exists(), "{said}");
    }
    let (server, cache) = (Server::refusing(403, &[("x-error-code", "GatedRepo")]), Cache::new("refusal-token"));
    let licensed = HubFile { licence_url: Some("https://licence".into()), ..source("a") };
    let (_, hint) = message(fetch(&cache.hub(&server).token(Some("secret".into())), &licensed));
    assert_eq!(
        hint,
        "accept the licence (https://licence) at https://huggingface.co/owner/name and use a token of the account that did"
    );
}

#[test]
fn a_refusal_in_the_middle_is_final_and_a_hiccup_is_not() {
    let (bytes, digest) = weights();
    for (status, asked) in [(403, 2), (503, 5)] {
        let cache = Cache::new(&format!("middle-{status}"));
        let served = (bytes.clone(), digest.clone());
        let server = Server::start(move |request| match request.method.as_str() {
            "HEAD" => Answer::file(request, &served.0, &served.1),
            _ => Answer::new(status, &[], b"no"),
        });
        let (said, _) = message(fetch(&cache.hub(&server), &source("a")));
        assert!(said.contains(if status == 403 { "gated" } else { "answers 503" }), "{said}");
        assert_eq!(server.asked().len(), asked);
    }
}

#[test]
fn without_a_network_there_is_one_clear_line() {
    let cache = Cache::new("offline");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub = Hub::new(&cache.0).endpoint(format!("http://{port}/"));
    let (said, hint) = message(fetch(&hub, &source("a")));
    assert!(said.starts_with(&format!("owner/name/a: cannot reach {port}: ")) && !said.contains('\n'), "{said}");
    assert!(hint.contains("check the connection"), "{hint}");
    let (said, hint) = message(fetch(&hub.offline(), &source("a")));
    assert_eq!((&*said, &*hint), ("owner/name/a: it is not in the cache", "unset HF_HUB_OFFLINE to fetch it"));
    let unknown = ureq::Error::HostNotFound;
    assert_eq!(http::unreached("https://huggingface.co/x", &unknown), "there is no host huggingface.co, or no network");
}

#[test]
fn two_at_once_fetch_once() {
    let (bytes, digest) = weights();
    let cache = Cache::new("two");
    let served = bytes.clone();
    let server = Server::of(&served, &digest);
    let hub = cache.hub(&server);
    let paths: Vec<_> = thread::scope(|scope| {
        let both = [(), ()].map(|()| scope.spawn(|| fetch(&hub, &source("a")).unwrap()));
        both.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert_eq!(paths[0], paths[1]);
    assert_eq!(fs::read(&paths[0]).unwrap(), bytes);
    assert_eq!(server.asked().iter().filter(|asked| asked.starts_with("GET")).count(), 1);
}

#[test]
fn an_empty_file_is_a_file() {
    let (server, cache) = (Server::of(b"", GIT), Cache::new("empty"));
    assert_eq!(fs::read(fetch(&cache.hub(&server), &source("a")).unwrap()).unwrap(), b"");
}

#[test]
fn no_name_leads_out_of_the_cache() {
    let (server, cache) = (Server::refusing(500, &[]), Cache::new("names"));
    let bad = [
        HubFile { repo: "../name".into(), ..source("a") },
        HubFile { repo: "a/b/c".into(), ..source("a") },
        source("../../../a"),
        source("/a"),
        source("a\\b"),
        HubFile { revision: Some("..".into()), ..source("a") },
        HubFile { sha256: Some("abc".into()), ..source("a") },
    ];
    for source in bad {
        assert!(matches!(fetch(&cache.hub(&server), &source), Err(Error::Input { .. })), "{source:?}");
    }
    assert!(server.asked().is_empty());
}

#[test]
fn the_environment_is_read_as_by_the_hubs_own_tools() {
    let cache = Cache::new("environment");
    fs::create_dir_all(&cache.0).unwrap();
    fs::write(cache.0.join("token"), " from file\n").unwrap();
    let home = cache.0.to_str().unwrap();
    let read = |set: &[(&str, &str)]| {
        let variable = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        Hub::from_variables(&variable, Some("/user".into())).unwrap()
    };
    let bare = read(&[("HF_HOME", ""), ("HF_TOKEN", " ")]);
    assert_eq!(bare.cache, Path::new("/user/.cache/huggingface/hub"));
    assert_eq!((bare.endpoint.as_str(), bare.token, bare.offline), (ENDPOINT, None, false));
    assert_eq!(read(&[("XDG_CACHE_HOME", "/c")]).cache, Path::new("/c/huggingface/hub"));
    let full = read(&[("HF_HOME", home), ("HF_ENDPOINT", "https://mirror/"), ("HF_HUB_OFFLINE", "1")]);
    assert_eq!(full.cache, cache.0.join("hub"));
    assert_eq!(
        (full.endpoint.as_str(), full.token.as_deref(), full.offline),
        ("https://mirror", Some("from file"), true)
    );
    let named = read(&[("HF_HOME", home), ("HF_HUB_CACHE", "/hub"), ("HF_TOKEN", "from variable")]);
    assert_eq!((named.cache.as_path(), named.token.as_deref()), (Path::new("/hub"), Some("from variable")));
    assert!(Hub::from_variables(&|_| None, None).is_err());
}

#[test]
fn a_card_can_hold_a_source() {
    let read: HubFile = toml::from_str("repo = 'owner/name'\nfile = 'a'").unwrap();
    assert_eq!(read, source("a"));
    assert!(toml::from_str::<HubFile>("repo = 'owner/name'\nfile = 'a'\nsha = 'x'").is_err());
}
