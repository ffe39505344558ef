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
    status: Mutex<Status>,
    events: broadcast::Sender<Event>,
    cancelled: AtomicBool,
}

impl Job {
    /// One that waits.
    pub fn new(ask: Ask, position: usize) -> Self {
        let status = Mutex::new(Status::waiting(&ask, position));
        Self { ask, status, events: broadcast::channel(BEHIND).0, cancelled: AtomicBool::new(false) }
    }

    /// How far it is.
    pub fn status(&self) -> Status {
        lock(&self.status).clone()
    }

    /// Everything that will happen to it, after what tells how far it is.
    pub fn watch(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let status = lock(&self.status);
        let events = self.events.subscribe();
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
        let mut status = lock(&self.status);
        status.follow(&event);
        // Nobody may be watching.
        let _ = self.events.send(event);
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
