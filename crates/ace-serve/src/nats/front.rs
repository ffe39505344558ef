//! A front: it hands jobs in, follows all of them, and answers for each, whoever took it.

use super::{
    HELLO_SUBJECT, cancel_of,
    exchange::{self, Exchange, patiently},
    mirrors::{Alive, Mirrors, waits_for},
    record::Record,
};
use crate::{
    error::Refusal,
    job::{Job, lock},
    jobs::{Ask, Event, now},
    queue::{Room, full, leaving},
};
use ace_plus::Result;
use async_nats::jetstream::kv::Operation;
use axum::http::StatusCode;
use futures_util::{StreamExt, future::try_join_all};
use sha2::{Digest, Sha256};
use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, time};

/// How long a client is kept waiting while the server is away.
const PATIENCE: Duration = Duration::from_secs(20);
/// From one look at the workers to the next; and so many looks until jobs are looked at, too: what is told while a
/// connection is away is not heard.
const LOOK: (Duration, u32) = (Duration::from_secs(1), 4);
/// From losing the thread to taking it up again.
const AGAIN: Duration = Duration::from_millis(250);

/// A server's side of the queue.
#[derive(Debug)]
pub struct Front {
    exchange: Exchange,
    models: Vec<String>,
    room: Room,
    mirrors: Mutex<Mirrors>,
    leaving: AtomicBool,
}

impl Front {
    /// Connects, and follows what happens from now on.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn open(url: &str, models: Vec<String>, room: Room) -> Result<Arc<Self>> {
        let exchange = Exchange::open(url).await?;
        let (mirrors, leaving) = (Mutex::default(), AtomicBool::new(false));
        let front = Arc::new(Self { exchange, models, room, mirrors, leaving });
        tokio::spawn(Arc::clone(&front).follow());
        tokio::spawn(Arc::clone(&front).listen());
        tokio::spawn(Arc::clone(&front).look());
        Ok(front)
    }

    /// Accepts a job: it is on the server's disk when this returns.
    ///
    /// # Errors
    /// If too many wait, this front leaves, or the server is away for long.
    pub async fn submit(&self, mut ask: Ask, files: Vec<(String, Vec<u8>)>) -> std::result::Result<Arc<Job>, Refusal> {
        if self.leaving.load(Ordering::Acquire) {
            return Err(leaving());
        }
        if let Some(key) = ask.key.as_deref().map(|key| digest(&ask.client, key)) {
            let known = patiently(PATIENCE, || self.exchange.claim(&key, &ask.id)).await.map_err(away)?;
            if let Some(job) = self.find(&known).await? {
                return Ok(job);
            }
            // Another front died before it had handed it in, or is just about to: it is the same job.
            ask.id = known;
        }
        let (waiting, pace) = {
            let mirrors = lock(&self.mirrors);
            (mirrors.counts().0, mirrors.pace())
        };
        if waiting >= self.room.waiting {
            return Err(full(waiting, pace));
        }
        let record = Record::new(ask, files.iter().map(|(name, _)| name.clone()).collect());
        if record.bytes().len() > self.exchange.client.max_payload() {
            let refusal = Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "the words are longer than the queue takes");
            return Err(refusal.param("instruction"));
        }
        let id = record.ask.id.as_str();
        let put = |(name, bytes): &(String, Vec<u8>)| {
            let (name, bytes) = (name.clone(), bytes.clone());
            async move { patiently(PATIENCE, || self.exchange.put(id, &name, &bytes)).await }
        };
        try_join_all(files.iter().map(put)).await.map_err(away)?;
        // First the mirror: a worker may be faster than the server's answer.
        let job = lock(&self.mirrors).take(record.clone(), 0);
        if let Err(error) = patiently(PATIENCE, || self.exchange.hand_in(&record)).await {
            lock(&self.mirrors).remove(id);
            return Err(away(error));
        }
        // From here on it will be made. A worker that takes it writes this down, too.
        if let Err(error) = patiently(PATIENCE, || self.exchange.create(&record)).await {
            tracing::warn!(job = id, %error, "not written down by this front");
        }
        Ok(job)
    }

    /// The job of that name, whoever accepted it.
    ///
    /// # Errors
    /// If it is not known here and the server is away.
    pub async fn find(&self, id: &str) -> std::result::Result<Option<Arc<Job>>, Refusal> {
        if let Some(job) = lock(&self.mirrors).find(id) {
            return Ok(Some(job));
        }
        // What no job can be called is not asked for.
        if id.is_empty() || !id.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Ok(None);
        }
        let found = patiently(PATIENCE, || self.exchange.load(id)).await.map_err(away)?;
        Ok(found.map(|(record, version)| lock(&self.mirrors).take(record, version)))
    }

    /// All jobs, newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        lock(&self.mirrors).all()
    }

    /// Jobs that wait, and jobs that are being made.
    pub fn counts(&self) -> (usize, usize) {
        lock(&self.mirrors).counts()
    }

    /// Stops a job, wherever it is made. Whether it was not over yet.
    ///
    /// # Errors
    /// If the server is away.
    pub async fn cancel(&self, job: &Arc<Job>) -> std::result::Result<bool, Refusal> {
        let id = job.ask.id.as_str();
        let mut was_open = false;
        let mut cancel = |record: &mut Record| {
            was_open = record.cancel();
            was_open
        };
        self.exchange.change(id, &mut cancel).await.map_err(away)?;
        self.exchange.say(cancel_of(id), Vec::new()).await;
        self.refresh(id).await;
        Ok(was_open)
    }

    /// Stops a job whose client has gone.
    pub fn forsake(self: &Arc<Self>, job: &Arc<Job>) {
        if job.status().state.is_over() {
            return;
        }
        // Without a runtime the process ends, and another front's client may still want it.
        let Ok(runtime) = Handle::try_current() else { return };
        let (front, job) = (Arc::clone(self), Arc::clone(job));
        runtime.spawn(async move {
            if let Err(refusal) = front.cancel(&job).await {
                tracing::warn!(job = job.ask.id, reason = refusal.message, "not cancelled");
            }
        });
    }

    /// A picture of a job that is done.
    ///
    /// # Errors
    /// If there is none, or the server is away.
    pub async fn picture(&self, job: &Job, nth: u32) -> std::result::Result<Vec<u8>, Refusal> {
        let name = nth.to_string();
        let found = patiently(PATIENCE, || self.exchange.get(&job.ask.id, &name)).await.map_err(away)?;
        found.ok_or_else(|| Refusal::missing(format!("there is no picture {nth} of this job")))
    }

    /// No job is accepted any more.
    pub fn leave(&self) {
        self.leaving.store(true, Ordering::Release);
    }

    /// Whether a job sent now would be accepted, and whether anybody would take it.
    ///
    /// # Errors
    /// If it would not.
    pub fn ready(&self) -> std::result::Result<String, Refusal> {
        if self.leaving.load(Ordering::Acquire) {
            return Err(leaving());
        }
        if !self.exchange.is_there() {
            return Err(away("no connection"));
        }
        let mirrors = lock(&self.mirrors);
        let lacking: Vec<_> = self.models.iter().filter(|model| !mirrors.is_taken(model)).collect();
        Ok(match lacking.is_empty() {
            true => "ready\n".to_owned(),
            false => lacking.into_iter().map(|model| format!("ready, but {}: they wait\n", waits_for(model))).collect(),
        })
    }

    /// Forgets jobs that have been over for long.
    pub async fn sweep(&self) {
        let old = lock(&self.mirrors).old(self.room, now());
        for (job, pictures) in old {
            let Ask { id, client, key, .. } = &job.ask;
            let key = key.as_deref().map(|key| digest(client, key));
            match self.exchange.forget(id, &pictures, key.as_deref()).await {
                Ok(()) => lock(&self.mirrors).remove(id),
                Err(error) => return tracing::warn!(%error, "old jobs are kept for now"),
            }
        }
    }

    /// Takes over what the server knows of a job now.
    async fn refresh(&self, id: &str) {
        if let Ok(Some((record, version))) = self.exchange.load(id).await {
            lock(&self.mirrors).take(record, version);
        }
    }

    /// Takes over every change of every job.
    async fn follow(self: Arc<Self>) {
        loop {
            match self.exchange.follow().await {
                Ok(mut changes) => {
                    while let Some(Ok(entry)) = changes.next().await {
                        if entry.operation != Operation::Put {
                            lock(&self.mirrors).remove(&entry.key);
                        } else if let Some((record, version)) = exchange::read(&entry) {
                            lock(&self.mirrors).take(record, version);
                        }
                    }
                }
                Err(error) => tracing::debug!(%error, "jobs are not followed"),
            }
            time::sleep(AGAIN).await;
        }
    }

    /// Hears what workers tell.
    async fn listen(self: Arc<Self>) {
        loop {
            let client = &self.exchange.client;
            let (events, alive) =
                (client.subscribe("ace.events.*").await, client.subscribe(super::ALIVE_SUBJECT).await);
            if let (Ok(mut events), Ok(mut alive)) = (events, alive) {
                self.exchange.say(HELLO_SUBJECT.to_owned(), Vec::new()).await;
                loop {
                    tokio::select! {
                        Some(message) = events.next() => {
                            let id = message.subject.rsplit('.').next().unwrap_or_default();
                            // Another version may tell more.
                            if let Ok(event) = serde_json::from_slice::<Event>(&message.payload) {
                                lock(&self.mirrors).tell(id, event);
                            }
                        }
                        Some(message) = alive.next() => {
                            if let Ok(alive) = serde_json::from_slice::<Alive>(&message.payload) {
                                let mut mirrors = lock(&self.mirrors);
                                mirrors.alive(alive);
                                mirrors.positions();
                            }
                        }
                        else => break,
                    }
                }
            }
            time::sleep(AGAIN).await;
        }
    }

    /// Notices which workers have gone, and what was not heard.
    async fn look(self: Arc<Self>) {
        for nth in 0_u32.. {
            time::sleep(LOOK.0).await;
            lock(&self.mirrors).positions();
            if nth % LOOK.1 == 0 && self.exchange.is_there() {
                let open = lock(&self.mirrors).open();
                for id in open {
                    self.refresh(&id).await;
                }
            }
        }
    }
}

/// What a client's key is called: it may hold anything.
fn digest(client: &str, key: &str) -> String {
    let digest = Sha256::new().chain_update(client).chain_update([0]).chain_update(key).finalize();
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn away(error: impl std::fmt::Display) -> Refusal {
    tracing::warn!(%error, "the queue does not answer");
    let refusal = Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "the queue does not answer now", None);
    refusal.code("queue_away").hint("try again: what was accepted is kept; an Idempotency-Key makes it safe")
}
