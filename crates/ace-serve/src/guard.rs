//! What stands before every route: who asks, whether they may, and a line in the log on each request.

use crate::{app::App, error::Refusal};
use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use std::{net::SocketAddr, sync::Arc, time::Instant};
use subtle::ConstantTimeEq;
use uuid::Uuid;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Letters of a request's id that a client may choose.
const LONGEST_ID: usize = 64;
/// Bytes of a digest that tell clients apart.
const SHORT: usize = 6;

/// Who asks: jobs of different clients take turns, and where there are tokens nobody sees another's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client(pub String);

/// Gives a request an id, lets it through, and writes down what came of it.
pub async fn log(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let begin = Instant::now();
    let given = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let is_sane =
        |id: &&str| !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|byte| byte.is_ascii_graphic());
    let id = given.filter(is_sane).map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // What is in the header is what is logged.
    let value = HeaderValue::from_str(&id).ok();
    if let Some(value) = value.clone() {
        request.headers_mut().insert(REQUEST_ID, value);
    }
    let mut response = next.run(request).await;
    if let Some(value) = value {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    let status = response.status().as_u16();
    let ms = begin.elapsed().as_secs_f64() * 1e3;
    app.metrics.answered(status);
    tracing::info!(request_id = id, %method, path, status, ms, "answered");
    response
}

/// Lets through who names this server by its own name, comes from no other page, and knows a token where there are any.
pub async fn admit(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let headers = request.headers();
    let refused =
        check_host(&app, headers).and_then(|()| check_origin(headers)).and_then(|()| check_length(&app, headers));
    let token = bearer(headers).map(str::to_owned);
    let is_open = is_open(request.method(), request.uri().path());
    let admitted = refused.and_then(|()| match is_open {
        true => Ok(()),
        false => check_token(&app.tokens, token.as_deref()),
    });
    if let Err(refusal) = admitted {
        return refusal.into_response();
    }
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip().to_string());
    let client = client(&app.tokens, token.as_deref(), address.as_deref().unwrap_or_default());
    request.extensions_mut().insert(client);
    next.run(request).await
}

/// What anyone may see: whether the server is there, the page, and how it is spoken to.
fn is_open(method: &Method, path: &str) -> bool {
    let is_api = path.starts_with("/v1/") || path.starts_with("/ace/") || path == "/metrics";
    method == Method::GET && !is_api
}

/// A page elsewhere can make a browser believe that a name of its own is this machine; it cannot make the browser say
/// another name.
fn check_host(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(hosts) = &app.hosts else { return Ok(()) };
    let said = headers.get(header::HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let name = without_port(said);
    match hosts.iter().any(|host| host.eq_ignore_ascii_case(name)) {
        true => Ok(()),
        false => {
            let refusal = Refusal::new(StatusCode::FORBIDDEN, format!("this server is not called {name:?}"));
            Err(refusal.code("unknown_host").hint("call it by the name of its machine; whoever runs it can add names"))
        }
    }
}

fn without_port(host: &str) -> &str {
    match (host.strip_prefix('['), host.rsplit_once(':')) {
        (Some(inside), _) => inside.split(']').next().unwrap_or(inside),
        (None, Some((name, _))) => name,
        (None, None) => host,
    }
}

/// A browser says which page sends a request; one of another place has no business here.
fn check_origin(headers: &HeaderMap) -> Result<(), Refusal> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let (Some(origin), Some(host)) = (text(header::ORIGIN), text(header::HOST)) else { return Ok(()) };
    match origin.split_once("://").is_some_and(|(_, from)| from.eq_ignore_ascii_case(host)) {
        true => Ok(()),
        false => {
            let refusal = Refusal::new(StatusCode::FORBIDDEN, format!("the page {origin} may not ask this server"));
            Err(refusal.code("foreign_origin").hint("open the server's own page, or ask from a program"))
        }
    }
}

/// A body that says it is too large is refused before it is sent.
fn check_length(app: &App, headers: &HeaderMap) -> Result<(), Refusal> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    match length.is_some_and(|length| length > app.limits.max_body) {
        true => {
            let most = app.limits.max_body >> 20;
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the request is larger than {most} MB"));
            Err(refusal.code("body_too_large").hint("scale the pictures down"))
        }
        false => Ok(()),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ").map(str::trim)
}

fn check_token(tokens: &[String], given: Option<&str>) -> Result<(), Refusal> {
    if tokens.is_empty() {
        return Ok(());
    }
    let Some(given) = given else {
        let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "a token is needed");
        return Err(refusal.code("missing_api_key").hint("send it as: Authorization: Bearer TOKEN"));
    };
    match nth(tokens, given) {
        Some(_) => Ok(()),
        None => {
            let refusal = Refusal::new(StatusCode::UNAUTHORIZED, "this token is not known");
            Err(refusal.code("invalid_api_key").hint("ask whoever runs the server for one"))
        }
    }
}

/// Which token it is. Every one is compared whole, so that the time taken says nothing.
fn nth(tokens: &[String], given: &str) -> Option<usize> {
    let mut found = None;
    for (nth, token) in tokens.iter().enumerate() {
        if bool::from(token.as_bytes().ct_eq(given.as_bytes())) {
            found = Some(nth);
        }
    }
    found
}

/// With tokens a client is its token; without, its address and whatever key it sends all the same.
fn client(tokens: &[String], given: Option<&str>, address: &str) -> Client {
    match given {
        Some(given) if !tokens.is_empty() => match nth(tokens, given) {
            Some(nth) => Client(format!("token-{}", nth + 1)),
            None => Client(address.to_owned()),
        },
        Some(given) => {
            let digest = Sha256::digest(given.as_bytes());
            let short: String = digest.iter().take(SHORT).map(|byte| format!("{byte:02x}")).collect();
            Client(format!("{address} {short}"))
        }
        None => Client(address.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_compared_without_its_port() {
        assert_eq!(without_port("localhost:8080"), "localhost");
        assert_eq!(without_port("[::1]:8080"), "::1");
        assert_eq!(without_port("example.org"), "example.org");
    }

    #[test]
    fn a_page_elsewhere_is_refused_and_a_program_is_not() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::from_iter([(header::HOST, HeaderValue::from_static("localhost:8080"))]);
            origin.map(|origin| headers.insert(header::ORIGIN, HeaderValue::from_static(origin)));
            headers
        };
        assert!(check_origin(&headers(None)).is_ok());
        assert!(check_origin(&headers(Some("http://localhost:8080"))).is_ok());
        assert!(check_origin(&headers(Some("http://evil.example"))).is_err());
        assert!(check_origin(&headers(Some("null"))).is_err());
    }

    #[test]
    fn a_client_is_its_token_or_where_it_asks_from() {
        let tokens = ["first".to_owned(), "second".to_owned()];
        assert_eq!(client(&tokens, Some("second"), "10.0.0.1"), Client("token-2".into()));
        assert!(check_token(&tokens, Some("secon")).is_err());
        assert!(check_token(&tokens, None).is_err());
        assert!(check_token(&[], None).is_ok());
        let (one, other) = (client(&[], Some("a"), "10.0.0.1"), client(&[], Some("b"), "10.0.0.1"));
        assert_ne!(one, other);
        assert!(!one.0.contains("a "), "a key is not written down: {}", one.0);
    }

    #[test]
    fn the_page_is_open_and_what_computes_is_not() {
        assert!(is_open(&Method::GET, "/"));
        assert!(is_open(&Method::GET, "/healthz"));
        assert!(!is_open(&Method::GET, "/ace/v1/models"));
        assert!(!is_open(&Method::GET, "/metrics"));
        assert!(!is_open(&Method::POST, "/"));
    }
}
