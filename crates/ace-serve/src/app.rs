//! What all routes share, and the routes.

use crate::{
    desk::Desk, error::Refusal, guard, masks, masks::Masks, metrics::Metrics, native, openai, page, studio::Served,
};
use ace_plus::describe::Description;
use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    http::{StatusCode, header},
    middleware,
    response::IntoResponse,
    routing::{get, post},
};
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use tower_http::{catch_panic::CatchPanicLayer, timeout::RequestBodyTimeoutLayer};

/// Longest silence within a body that is being sent.
const SILENCE: Duration = Duration::from_secs(30);
/// Bytes of a body where no pictures are expected.
const SMALL_BODY: usize = 64 << 10;

/// How much is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pixels of one picture.
    pub max_pixels: u64,
    /// Bytes of one request.
    pub max_body: usize,
    /// How long one job may take, if not for ever.
    pub max_time: Option<Duration>,
}

/// The edit that the page begins with.
#[derive(Debug, Clone)]
pub struct Example {
    /// A picture's file.
    pub image: Vec<u8>,
    /// What to repaint of it.
    pub mask: Vec<u8>,
    /// The words.
    pub instruction: String,
    /// Kind of edit.
    pub task: String,
}

/// Whether the server goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// It does.
    Serving,
    /// It finishes what it has begun.
    Leaving,
    /// It does nothing any more.
    Gone,
}

/// What all routes share.
#[derive(Debug)]
pub struct App {
    /// Where jobs are handed in.
    pub desk: Desk,
    /// Models, the default first.
    pub served: Arc<[Served]>,
    /// As clients see them.
    pub descriptions: Vec<Description>,
    /// How much is taken.
    pub limits: Limits,
    /// Who knows none of these may do nothing, if there are any.
    pub tokens: Vec<String>,
    /// What the server is called, if that matters.
    pub hosts: Option<Vec<String>>,
    /// The edit that the page begins with.
    pub example: Option<Example>,
    /// What makes masks of clicks, if anything does.
    pub masks: Option<Arc<Masks>>,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether the server goes on.
    pub phase: watch::Sender<Phase>,
    /// When it began, in seconds since 1970.
    pub started: u64,
}

/// All routes.
pub fn router(app: Arc<App>) -> Router {
    let edits = Router::new()
        .route("/v1/images/edits", post(openai::edits))
        .route("/v1/images/generations", post(openai::generations))
        .route("/ace/v1/jobs", get(native::list).post(native::submit))
        .route("/ace/v1/mask", post(masks::mask))
        .route("/ace/v1/provenance", post(native::provenance))
        .layer(DefaultBodyLimit::max(app.limits.max_body));
    Router::new()
        .route("/v1/models", get(openai::models))
        .route("/v1/models/{id}", get(openai::model))
        .route("/ace/v1/models", get(native::models))
        .route("/ace/v1/example", get(native::example))
        .route("/ace/v1/jobs/{id}", get(native::status).delete(native::cancel))
        .route("/ace/v1/jobs/{id}/events", get(native::events))
        .route("/ace/v1/jobs/{id}/pictures/{nth}", get(native::picture))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .layer(DefaultBodyLimit::max(SMALL_BODY))
        .merge(edits)
        .merge(page::routes())
        .fallback(|| async {
            Refusal::missing("there is nothing at this address").hint("GET /openapi.json lists what is")
        })
        .method_not_allowed_fallback(|| async {
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take this method")
        })
        .layer(CatchPanicLayer::custom(|_| bug().into_response()))
        .layer(RequestBodyTimeoutLayer::new(SILENCE))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::admit))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard::log))
        .with_state(app)
}

fn bug() -> Refusal {
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server has a bug")
        .hint("report what was asked, and what the server wrote down")
}

/// Whether a job sent now would be made.
async fn ready(State(app): State<Arc<App>>) -> Result<String, Refusal> {
    app.desk.ready()
}

async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text(app.desk.counts()))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../openapi.json"))
}
