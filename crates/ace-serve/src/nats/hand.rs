//! A worker's side of the queue: it takes a job, says again and again that it has it, and ends it.

use super::{
    LEASE, WORD, events_of,
    exchange::{Exchange, patiently},
    record::Record,
    worker_of,
};
use crate::{
    job::lock,
    jobs::{Ask, End, Event, State},
    worker::Assignment,
};
use ace_plus::{Error, Result};
use async_nats::jetstream::{AckKind, Message, consumer::PullConsumer, message::Acker};
use futures_util::StreamExt;
use std::{
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::{runtime::Handle, task::JoinHandle, time};

/// How long the server keeps a question for a job open; where several models are served, how long none is asked.
const OPEN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_millis(200));
/// How long what was made is held while the server is away.
const PATIENCE: Duration = Duration::from_secs(600);
/// How long pictures that came with a job are waited for.
const SHORT: Duration = Duration::from_secs(20);
/// How often, and how long, another worker is asked whether it still has a job: its connection may just be coming back.
const ASKED: (u32, Duration) = (3, Duration::from_secs(1));

/// What a worker does now, as its threads tell each other.
#[derive(Debug, Default)]
pub struct Busy {
    /// The job that it makes, and whether that goes on.
    job: Mutex<Option<(String, Arc<Fate>)>>,
    /// Whether no job is taken any more, and whether what is being made is left to another.
    leaving: AtomicBool,
    hurried: AtomicBool,
}

/// Whether a job is still to be made here.
#[derive(Debug, Default)]
struct Fate {
    cancelled: AtomicBool,
    /// Another has it, or it is over.
    lost: AtomicBool,
}

impl Busy {
    /// Whether this job is being made.
    pub fn has(&self, id: &str) -> bool {
        lock(&self.job).as_ref().is_some_and(|(known, _)| known == id)
    }

    /// Nobody wants a job any more.
    pub fn cancel(&self, id: &str) {
        if let Some((_, fate)) = lock(&self.job).as_ref().filter(|(known, _)| known == id) {
            fate.cancelled.store(true, Ordering::Release);
        }
    }

    /// No job is taken any more; what is being made is finished or, once `hurried`, left for another.
    pub fn leave(&self, hurried: bool) {
        self.leaving.store(true, Ordering::Release);
        self.hurried.fetch_or(hurried, Ordering::AcqRel);
    }
}

/// The hand that takes jobs.
#[derive(Debug)]
pub struct Hand {
    exchange: Exchange,
    name: String,
    takers: Vec<PullConsumer>,
    /// The kind that is asked first, so that none waits for the others.
    next: usize,
    busy: Arc<Busy>,
    runtime: Handle,
}

impl Hand {
    /// One that takes jobs of some models.
    ///
    /// # Errors
    /// If the server refuses.
    pub async fn open(exchange: Exchange, name: String, models: &[String], busy: Arc<Busy>) -> Result<Self> {
        let mut takers = Vec::with_capacity(models.len());
        for model in models {
            takers.push(exchange.takers(model).await?);
        }
        Ok(Self { exchange, name, takers, next: 0, busy, runtime: Handle::current() })
    }

    /// The next job, when there is one; `None` once the worker leaves. For a thread outside the runtime.
    pub fn take(&mut self) -> Option<Held> {
        let runtime = self.runtime.clone();
        while !self.busy.leaving.load(Ordering::Acquire) {
            let taken = runtime.block_on(async {
                match self.message().await {
                    Some(message) => self.begin(message).await,
                    None => Ok(None),
                }
            });
            match taken {
                Ok(Some(held)) => return Some(held),
                Ok(None) => {}
                // It comes again when the lease is over.
                Err(error) => tracing::warn!(%error, "no job could be taken"),
            }
        }
        None
    }

    /// What the server gives out next, if anything soon.
    async fn message(&mut self) -> Option<Message> {
        let alone = self.takers.len() == 1;
        for _ in 0..self.takers.len() {
            self.next = (self.next + 1) % self.takers.len();
            let taker = &self.takers[self.next];
            let asked = async {
                match alone {
                    true => taker.batch().max_messages(1).expires(OPEN.0).messages().await,
                    false => taker.fetch().max_messages(1).messages().await,
                }
            };
            // A server that has gone says nothing at all.
            let answer = time::timeout(2 * OPEN.0, async { asked.await.ok()?.next().await?.ok() }).await;
            if let Ok(Some(message)) = answer {
                return Some(message);
            }
        }
        if !alone || !self.exchange.is_there() {
            time::sleep(OPEN.1).await;
        }
        None
    }

    /// Takes a job in hand, if it is to be made here.
    async fn begin(&self, message: Message) -> Result<Option<Held>> {
        let (message, acker) = message.split();
        let Ok(asked) = serde_json::from_slice::<Record>(&message.payload) else {
            tracing::warn!("a job that is not understood is thrown away");
            reply(&acker, AckKind::Term).await;
            return Ok(None);
        };
        let id = asked.ask.id.clone();
        loop {
            let Some((mut record, version)) = self.exchange.load(&id).await? else {
                if self.exchange.is_forgotten(&id).await? {
                    reply(&acker, AckKind::Ack).await;
                    return Ok(None);
                }
                // Its front was slower, or has gone since.
                self.exchange.create(&asked).await?;
                continue;
            };
            if record.state.is_over() {
                reply(&acker, AckKind::Ack).await;
                return Ok(None);
            }
            if let Some(other) = record.worker.as_deref().filter(|other| *other != self.name)
                && self.has(other, &id).await
            {
                reply(&acker, AckKind::Nak(Some(LEASE / 2))).await;
                return Ok(None);
            }
            let is_over = !record.begin(&self.name);
            if !self.exchange.store(&record, version).await? {
                continue;
            }
            if is_over {
                tracing::info!(job = id, state = record.state.name(), "job is over");
                reply(&acker, AckKind::Ack).await;
                return Ok(None);
            }
            return Ok(Some(self.hold(record, acker)));
        }
    }

    fn hold(&self, record: Record, acker: Acker) -> Held {
        let (acker, fate) = (Arc::new(acker), Arc::new(Fate::default()));
        *lock(&self.busy.job) = Some((record.ask.id.clone(), Arc::clone(&fate)));
        let keeping =
            keep(self.exchange.clone(), self.name.clone(), record.clone(), Arc::clone(&acker), Arc::clone(&fate));
        Held {
            exchange: self.exchange.clone(),
            record,
            acker,
            fate,
            busy: Arc::clone(&self.busy),
            keeper: self.runtime.spawn(keeping),
            runtime: self.runtime.clone(),
            is_over: AtomicBool::new(false),
        }
    }

    /// Whether another worker is there and has this job.
    async fn has(&self, other: &str, id: &str) -> bool {
        for nth in 0..ASKED.0 {
            if nth > 0 {
                time::sleep(ASKED.1).await;
            }
            let asked = self.exchange.client.request(worker_of(other), id.to_owned().into());
            if let Ok(Ok(answer)) = time::timeout(ASKED.1, asked).await {
                return answer.payload.as_ref() == b"yes";
            }
        }
        false
    }
}

/// Says every few seconds that the job is in work, and hears what came of it meanwhile.
async fn keep(exchange: Exchange, name: String, record: Record, acker: Arc<Acker>, fate: Arc<Fate>) {
    loop {
        time::sleep(WORD).await;
        reply(&acker, AckKind::Progress).await;
        if let Ok(Some((now, _))) = exchange.load(&record.ask.id).await {
            fate.cancelled.fetch_or(now.cancelled, Ordering::AcqRel);
            let is_mine = now.worker.as_deref() == Some(&name) && !now.state.is_over();
            fate.lost.fetch_or(!is_mine, Ordering::AcqRel);
        }
    }
}

async fn reply(acker: &Acker, kind: AckKind) {
    if let Err(error) = acker.ack_with(kind).await {
        tracing::debug!(%error, "the server was not told");
    }
}

/// A job in the hands of a worker. One that is dropped without an end is left for another.
pub struct Held {
    exchange: Exchange,
    record: Record,
    acker: Arc<Acker>,
    fate: Arc<Fate>,
    busy: Arc<Busy>,
    keeper: JoinHandle<()>,
    runtime: Handle,
    is_over: AtomicBool,
}

impl Held {
    fn id(&self) -> &str {
        &self.record.ask.id
    }
}

impl Assignment for Held {
    fn ask(&self) -> &Ask {
        &self.record.ask
    }

    fn file(&self, name: &Path) -> Result<Vec<u8>> {
        let name = name.to_string_lossy();
        let found = self.runtime.block_on(patiently(SHORT, || self.exchange.get(self.id(), &name)))?;
        found.ok_or_else(|| Error::not_found(format!("{name} is not in the queue any more"), "ask for the edit again"))
    }

    fn is_cancelled(&self) -> bool {
        self.fate.cancelled.load(Ordering::Acquire)
    }

    fn is_left(&self) -> bool {
        self.busy.hurried.load(Ordering::Acquire) || self.fate.lost.load(Ordering::Acquire)
    }

    fn tell(&self, event: Event) {
        let bytes = serde_json::to_vec(&event).unwrap_or_default();
        self.runtime.block_on(self.exchange.say(events_of(self.id()), bytes));
    }

    fn has_picture(&self, nth: u32) -> bool {
        // The first to begin it knows that there is none.
        let name = nth.to_string();
        self.record.begun > 1
            && self.runtime.block_on(patiently(SHORT, || self.exchange.has(self.id(), &name))).unwrap_or(false)
    }

    fn put_picture(&self, nth: u32, bytes: &[u8]) -> Result<()> {
        let name = nth.to_string();
        let put = || async {
            // Another may have been faster while this one was thought gone: what a client may have seen stays.
            match self.fate.lost.load(Ordering::Acquire) && self.exchange.has(self.id(), &name).await? {
                true => Ok(()),
                false => self.exchange.put(self.id(), &name, bytes).await,
            }
        };
        self.runtime.block_on(patiently(PATIENCE, put))
    }

    fn end(&self, end: End) {
        let ended = || async {
            let finish = &mut |record: &mut Record| {
                let is_open = !record.state.is_over();
                if is_open {
                    record.finish(end.clone());
                }
                is_open
            };
            self.exchange.change(self.id(), finish).await
        };
        match self.runtime.block_on(patiently(PATIENCE, ended)) {
            Ok(_) => {
                self.is_over.store(true, Ordering::Release);
                self.runtime.block_on(reply(&self.acker, AckKind::Ack));
            }
            Err(error) => tracing::error!(job = self.id(), %error, "the end could not be written down"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keeper.abort();
        *lock(&self.busy.job) = None;
        if self.is_over.load(Ordering::Acquire) || self.fate.lost.load(Ordering::Acquire) {
            return;
        }
        let name = self.record.worker.clone();
        let leave = &mut |record: &mut Record| {
            let is_mine = record.worker == name && record.state == State::Running;
            if is_mine {
                record.leave();
            }
            is_mine
        };
        self.runtime.block_on(async {
            // Otherwise it goes to another when the lease is over.
            if self.exchange.change(&self.record.ask.id, leave).await.is_ok() {
                reply(&self.acker, AckKind::Nak(None)).await;
                let _ = self.exchange.client.flush().await;
            }
        });
    }
}
