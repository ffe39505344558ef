//! A job, how far it is, and those who watch it.

use crate::jobs::{Ask, End, Event, State, Status};
use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};
use tokio::sync::broadcast;

/// Events that a slow watcher may fall behind before it misses some.
const BEHIND: usize = 64;

/// A job and those who watch it.
#[derive(Debug)]
pub struct Job {
    /// What was asked.
    pub ask: Ask,
    live: Mutex<Live>,
    cancelled: AtomicBool,
}

/// What of a job changes.
#[derive(Debug)]
struct Live {
    status: Status,
    /// Who watches; nobody is told anything once it is over.
    events: Option<broadcast::Sender<Event>>,
}

impl Job {
    /// One that waits.
    pub fn new(ask: Ask, position: usize) -> Self {
        let (status, events) = (Status::waiting(&ask, position), Some(broadcast::channel(BEHIND).0));
        Self { ask, live: Mutex::new(Live { status, events }), cancelled: AtomicBool::new(false) }
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        lock(&self.live).status.clone()
    }

    /// Where it is.
    pub fn state(&self) -> State {
        lock(&self.live).status.state
    }

    /// Jobs that will be made before it, while it waits.
    pub fn position(&self) -> Option<usize> {
        lock(&self.live).status.position
    }

    /// When it was over, in seconds since 1970.
    pub fn finished(&self) -> Option<u64> {
        lock(&self.live).status.finished
    }

    /// Everything that will happen to it, after what tells how far it is.
    pub fn watch(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let live = lock(&self.live);
        let status = &live.status;
        // That of a job which is over says nothing but that there is no more.
        let events = live.events.as_ref().map_or_else(|| broadcast::channel(1).1, broadcast::Sender::subscribe);
        let past = match (status.state, status.position, &status.stage) {
            (state, ..) if state.is_over() => vec![Event::Over(Box::new(status.clone()))],
            (State::Queued, position, _) => {
                let (position, waits_for) = (position.unwrap_or_default(), status.waits_for.clone());
                vec![Event::Queued { position, waits_for }]
            }
            (_, _, stage) => {
                let stage = stage.clone().map(|stage| Event::Stage { stage });
                stage.into_iter().chain(status.step.map(Event::Step)).collect()
            }
        };
        (past, events)
    }

    /// Tells those who watch.
    pub fn tell(&self, event: Event) {
        let mut live = lock(&self.live);
        live.status.follow(&event);
        if let Some(events) = &live.events {
            // Nobody may be watching.
            let _ = events.send(event);
        }
        if live.status.state.is_over() {
            // Room for events is more than all else that is kept of a job.
            live.events = None;
        }
    }

    /// It is over.
    pub fn over(&self, end: End) {
        let mut status = self.status();
        status.end(end, self.ask.count);
        self.tell(Event::Over(Box::new(status)));
    }

    /// Its client wants no more.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Release);
    }

    /// Whether its client wants no more.
    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }
}

/// What is behind a lock: nothing that panics holds one half-changed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
