//! The page, part of the program: nothing of it comes from anywhere else.

use crate::app::App;
use axum::{
    Router,
    http::{HeaderName, header},
    response::IntoResponse,
    routing::get,
};
use std::sync::Arc;

const SCRIPT: &str = "text/javascript; charset=utf-8";

/// Files of the page with their kinds.
const FILES: [(&str, &str, &str); 9] = [
    ("/", "text/html; charset=utf-8", include_str!("../page/index.html")),
    ("/page.css", "text/css; charset=utf-8", include_str!("../page/page.css")),
    ("/files.js", SCRIPT, include_str!("../page/files.js")),
    ("/form.js", SCRIPT, include_str!("../page/form.js")),
    ("/http.js", SCRIPT, include_str!("../page/http.js")),
    ("/mask.js", SCRIPT, include_str!("../page/mask.js")),
    ("/page.js", SCRIPT, include_str!("../page/page.js")),
    ("/stage.js", SCRIPT, include_str!("../page/stage.js")),
    ("/turns.js", SCRIPT, include_str!("../page/turns.js")),
];

/// A browser asks nobody else for anything, and lets no other page show this one.
const POLICY: &str = "default-src 'self'; img-src 'self' data: blob:; frame-ancestors 'none'; base-uri 'none'";

/// A route for each file.
pub fn routes() -> Router<Arc<App>> {
    FILES.into_iter().fold(Router::new(), |router, (path, kind, text)| {
        router.route(path, get(move || async move { file(kind, text) }))
    })
}

fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    let headers: [(HeaderName, &str); 5] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        // Another version of the program has another page.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}
