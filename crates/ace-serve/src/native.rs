//! Our own routes: jobs that are asked for, watched, fetched and cancelled.

use crate::{
    app::App,
    error::Refusal,
    guard::Client,
    job::Job,
    jobs::{Shown, Status},
    submit::{self, MOST_REFERENCES, Order},
    watch::{self, Watch},
};
use ace_plus::{Message, message::Picture, provenance::Provenance};
use axum::{
    Extension, Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response, sse},
};
use serde_json::{Value, json};
use std::{path::Path as FilePath, sync::Arc};

/// Models with their tasks, and what is taken.
pub async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let limits = json!({
        "max_pixels": app.limits.max_pixels,
        "max_body_bytes": app.limits.max_body,
        "max_references": MOST_REFERENCES,
    });
    Json(json!({ "models": app.descriptions, "limits": limits, "masks": app.masks.is_some() }))
}

/// The edit that the page begins with.
pub async fn example(State(app): State<Arc<App>>) -> Result<Json<Value>, Refusal> {
    let Some(example) = &app.example else { return Err(Refusal::missing("this model has no example")) };
    let url = |bytes: &[u8]| String::from(Picture(bytes.to_vec()));
    Ok(Json(json!({
        "image": url(&example.image),
        "mask": url(&example.mask),
        "instruction": example.instruction,
        "task": example.task,
    })))
}

/// What made a picture.
pub async fn provenance(bytes: Bytes) -> Result<Json<Provenance>, Refusal> {
    match Provenance::from_bytes(FilePath::new("the picture"), &bytes) {
        Ok(provenance) => Ok(Json(provenance)),
        Err(error) => Err(Refusal { status: StatusCode::NOT_FOUND, ..error.into() }),
    }
}

/// A job is asked for.
pub async fn submit(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Refusal> {
    let message: Message = serde_json::from_slice(&body).map_err(|error| Refusal::bad(format!("the body: {error}")))?;
    let shown = if message.previews { Shown::Often } else { Shown::Nothing };
    let order = Order { message, shown, attended: false, key: key(&headers), client };
    let job = submit::submit(&app, order).await?;
    let place = format!("/ace/v1/jobs/{}", job.ask.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(job.status())).into_response())
}

/// Under which words a client would ask for the same job again.
pub fn key(headers: &HeaderMap) -> Option<String> {
    headers.get("idempotency-key")?.to_str().ok().map(str::to_owned)
}

/// Jobs of the client, newest first.
pub async fn list(State(app): State<Arc<App>>, Extension(client): Extension<Client>) -> Json<Value> {
    let jobs = app.desk.all();
    let own: Vec<Status> = jobs.iter().filter(|job| is_of(&app, job, &client)).map(|job| job.status()).collect();
    Json(json!({ "jobs": own }))
}

/// How far a job is.
pub async fn status(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Status>, Refusal> {
    Ok(Json(find(&app, &id, &client).await?.status()))
}

/// A job is not wanted any more.
pub async fn cancel(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<Json<Status>, Refusal> {
    let job = find(&app, &id, &client).await?;
    let mut watch = Watch::new(&app, Arc::clone(&job));
    if !app.desk.cancel(&job).await? {
        let state = job.status().state.name();
        let refusal = Refusal::new(StatusCode::CONFLICT, format!("the job is {state} already"));
        return Err(refusal.code("job_is_over"));
    }
    // It is over within a block of its network; the answer says so.
    while let Some(event) = watch.next().await {
        event?;
    }
    Ok(Json(job.status()))
}

/// What happens to a job, until it is over.
pub async fn events(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path(id): Path<String>,
) -> Result<impl IntoResponse, Refusal> {
    let job = find(&app, &id, &client).await?;
    Ok(watch::sse(Told(Watch::new(&app, job))))
}

/// Events as they are.
struct Told(Watch);

impl watch::Speak for Told {
    async fn next(&mut self) -> Option<sse::Event> {
        Some(match self.0.next().await? {
            Ok(event) => sse::Event::default().event(event.name()).data(event.data().to_string()),
            Err(refusal) => sse::Event::default().event("stopping").data(refusal.body().to_string()),
        })
    }
}

/// A picture that was made.
pub async fn picture(
    State(app): State<Arc<App>>,
    Extension(client): Extension<Client>,
    Path((id, nth)): Path<(String, u32)>,
) -> Result<Response, Refusal> {
    let job = find(&app, &id, &client).await?;
    let missing = || Refusal::missing(format!("there is no picture {nth} of this job"));
    if nth >= job.ask.count {
        return Err(missing());
    }
    let bytes = app.desk.picture(&job, nth).await.map_err(|_| missing())?;
    let name = format!("inline; filename=\"ace-{}-{nth}.png\"", job.ask.request.seed.unwrap_or_default());
    Ok(([(header::CONTENT_TYPE, "image/png"), (header::CONTENT_DISPOSITION, name.as_str())], bytes).into_response())
}

async fn find(app: &App, id: &str, client: &Client) -> Result<Arc<Job>, Refusal> {
    let found = app.desk.find(id).await?.filter(|job| is_of(app, job, client));
    found.ok_or_else(|| Refusal::missing("there is no such job").hint("jobs that are over are kept for a while only"))
}

/// Whether a client may see a job: its own, or any that it can name where there are no tokens.
fn is_of(app: &App, job: &Job, client: &Client) -> bool {
    app.tokens.is_empty() || job.ask.client == client.0
}
