//! Jobs that wait, that are made, and that were made: in memory for those who watch, on disk for those who come back.
//!
//! What is accepted is on disk before it is answered. A server that was killed finds its jobs again: those that ended are
//! over, the others wait anew, but for those whose client waited in a connection that is gone with it.

mod fair;
mod store;

use crate::{
    error::Refusal,
    job::{Job, lock},
    jobs::{Ask, End, Event, Problem, State, now},
    worker::Assignment,
};
use ace_plus::Result;
use axum::http::StatusCode;
use fair::Fair;
use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use store::Store;

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Jobs that wait at most.
    pub waiting: usize,
    /// How long jobs that are over are kept.
    pub kept_for: Duration,
    /// Jobs that are over and kept, at most; the oldest go first.
    pub kept: usize,
}

/// The queue of one server.
#[derive(Debug)]
pub struct Queue {
    room: Room,
    store: Store,
    inner: Mutex<Inner>,
    /// A job waits, or the server leaves.
    woken: Condvar,
    /// Whether the server leaves: no job is begun any more.
    leaving: AtomicBool,
    /// Whether what is being made is given up and waits for the next server.
    hurried: AtomicBool,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: HashMap<String, Arc<Job>>,
    waiting: Fair,
    /// Jobs that are over, oldest first.
    over: VecDeque<Arc<Job>>,
    /// Jobs that a worker has.
    running: usize,
    /// Which job a client's key stands for.
    keys: HashMap<(String, String), String>,
    /// How long the last jobs took, to say when it is worth coming again.
    pace: Option<f64>,
}

impl Queue {
    /// The queue of a folder, with the jobs that are in it. `note` hears what there is no job.
    ///
    /// # Errors
    /// If the folder cannot be used, or another server works there.
    pub fn open(folder: &Path, room: Room, note: &mut dyn FnMut(String)) -> Result<Self> {
        let store = Store::open(folder)?;
        let mut inner = Inner::default();
        for (ask, end) in store.jobs(note)? {
            let end = match end {
                Some(end) => Some(end),
                // Its client is gone, and has no word to ask for it again.
                None if ask.attended && ask.key.is_none() => Some(End::without_work(State::Cancelled)),
                // It was killed between the last picture and the end.
                None if (0..ask.count).all(|nth| store.has_picture(&ask.id, nth)) => {
                    Some(End::without_work(State::Done))
                }
                None => None,
            };
            if let Some(key) = &ask.key {
                inner.keys.insert((ask.client.clone(), key.clone()), ask.id.clone());
            }
            let job = Arc::new(Job::new(ask, 0));
            match end {
                Some(end) => {
                    store.end(&job.ask, &end)?;
                    job.over(end);
                    inner.over.push_back(Arc::clone(&job));
                }
                None => inner.waiting.push(&job.ask.client, job.ask.id.clone()),
            }
            inner.jobs.insert(job.ask.id.clone(), job);
        }
        let queue = Self {
            room,
            store,
            inner: Mutex::new(inner),
            woken: Condvar::new(),
            leaving: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
        };
        let mut inner = lock(&queue.inner);
        queue.forget(&mut inner);
        positions(&inner);
        drop(inner);
        Ok(queue)
    }

    /// Accepts a job with its pictures: it is on disk when this returns. One that the same client asked for before, under
    /// the same key, is that one.
    ///
    /// # Errors
    /// If too many wait, the server leaves, or the disk is full.
    pub fn submit(&self, ask: Ask, files: &[(String, Vec<u8>)]) -> std::result::Result<Arc<Job>, Refusal> {
        let mut inner = lock(&self.inner);
        let key = ask.key.clone().map(|key| (ask.client.clone(), key));
        if let Some(job) = key.as_ref().and_then(|key| inner.keys.get(key)).and_then(|id| inner.jobs.get(id)) {
            return Ok(Arc::clone(job));
        }
        if self.leaving.load(Ordering::Acquire) {
            return Err(leaving());
        }
        let waiting = inner.waiting.len();
        if waiting >= self.room.waiting {
            return Err(full(waiting, inner.pace));
        }
        self.store.put(&ask, files)?;
        let job = Arc::new(Job::new(ask, waiting));
        let id = &job.ask.id;
        if let Some(key) = key {
            inner.keys.insert(key, id.clone());
        }
        inner.waiting.push(&job.ask.client, id.clone());
        inner.jobs.insert(id.clone(), Arc::clone(&job));
        self.forget(&mut inner);
        positions(&inner);
        drop(inner);
        self.woken.notify_one();
        Ok(job)
    }

    /// The job of that name.
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        lock(&self.inner).jobs.get(id).map(Arc::clone)
    }

    /// All jobs, newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        let mut jobs: Vec<_> = lock(&self.inner).jobs.values().map(Arc::clone).collect();
        jobs.sort_by(|a, b| b.ask.id.cmp(&a.ask.id));
        jobs
    }

    /// Jobs that wait, and jobs that are being made.
    pub fn counts(&self) -> (usize, usize) {
        let inner = lock(&self.inner);
        (inner.waiting.len(), inner.running)
    }

    /// Stops a job: one that waits is over at once, one that is being made within a block of its network. Whether it was
    /// not over yet.
    pub fn cancel(&self, job: &Arc<Job>) -> bool {
        let mut inner = lock(&self.inner);
        if job.state().is_over() {
            return false;
        }
        job.cancel();
        if inner.waiting.remove(&job.ask.id) {
            self.close(&mut inner, job, End::without_work(State::Cancelled));
            positions(&inner);
        }
        true
    }

    /// A picture of a job that is done.
    ///
    /// # Errors
    /// If there is none.
    pub fn picture(&self, job: &Job, nth: u32) -> Result<Vec<u8>> {
        self.store.picture(&job.ask.id, nth)
    }

    /// No job is begun any more, and none accepted. What is being made is finished, or, once `hurried`, left for the next
    /// server.
    pub fn leave(&self, hurried: bool) {
        // Under the lock, so that no worker goes to sleep in between.
        let _inner = lock(&self.inner);
        self.leaving.store(true, Ordering::Release);
        self.hurried.fetch_or(hurried, Ordering::AcqRel);
        self.woken.notify_all();
    }

    /// Whether the server leaves.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }

    /// Forgets jobs that have been over for long.
    pub fn sweep(&self) {
        self.forget(&mut lock(&self.inner));
    }

    /// The next job, when there is one, and those that can be made together with it: up to so many pictures, which are
    /// computed with so many bytes. `None` once the server leaves.
    pub fn take(self: &Arc<Self>, pictures: usize, bytes: Option<u64>) -> Option<Vec<Taken>> {
        let mut inner = lock(&self.inner);
        loop {
            if self.is_leaving() {
                return None;
            }
            if let Some(id) = inner.waiting.pop() {
                let Some(first) = inner.jobs.get(&id).map(Arc::clone) else { continue };
                let jobs = together(&mut inner, first, pictures, bytes);
                inner.running += jobs.len();
                positions(&inner);
                return Some(jobs.into_iter().map(|job| Taken { queue: Arc::clone(self), job }).collect());
            }
            inner = self.woken.wait(inner).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Writes down that a job is over, and tells.
    fn close(&self, inner: &mut Inner, job: &Arc<Job>, mut end: End) {
        if let Err(error) = self.store.end(&job.ask, &end) {
            // Whoever waits must hear of it; the next server will make the job again.
            let problem = Problem::from(&error);
            end = End { error: Some(problem), state: State::Failed, ..end };
        }
        if let Some(seconds) = end.seconds {
            inner.pace = Some(inner.pace.map_or(seconds, |pace| 0.8 * pace + 0.2 * seconds));
        }
        job.over(end);
        inner.over.push_back(Arc::clone(job));
        self.forget(inner);
    }

    fn forget(&self, inner: &mut Inner) {
        let oldest = now().saturating_sub(self.room.kept_for.as_secs());
        let is_old = |job: &Arc<Job>| job.finished().is_some_and(|finished| finished < oldest);
        while inner.over.len() > self.room.kept || inner.over.front().is_some_and(is_old) {
            let Some(job) = inner.over.pop_front() else { return };
            if let Some(key) = &job.ask.key {
                inner.keys.remove(&(job.ask.client.clone(), key.clone()));
            }
            inner.jobs.remove(&job.ask.id);
            self.store.remove(&job.ask.id);
        }
    }
}

/// A job in the hands of a worker. One that is dropped without an end waits for the next server.
#[derive(Debug)]
pub struct Taken {
    queue: Arc<Queue>,
    job: Arc<Job>,
}

impl Assignment for Taken {
    fn ask(&self) -> &Ask {
        &self.job.ask
    }

    fn file(&self, name: &Path) -> Result<Vec<u8>> {
        self.queue.store.file(&self.job.ask.id, name)
    }

    fn is_cancelled(&self) -> bool {
        self.job.is_cancelled()
    }

    fn is_left(&self) -> bool {
        self.queue.hurried.load(Ordering::Acquire)
    }

    fn tell(&self, event: Event) {
        self.job.tell(event);
    }

    fn has_picture(&self, nth: u32) -> bool {
        self.queue.store.has_picture(&self.job.ask.id, nth)
    }

    fn put_picture(&self, nth: u32, bytes: &[u8]) -> Result<()> {
        self.queue.store.put_picture(&self.job.ask, nth, bytes)
    }

    fn end(&self, end: End) {
        let mut inner = lock(&self.queue.inner);
        self.queue.close(&mut inner, &self.job, end);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        lock(&self.queue.inner).running -= 1;
    }
}

/// A job and those that wait and can be made together with it, taken out of those that wait.
fn together(inner: &mut Inner, first: Arc<Job>, pictures: usize, bytes: Option<u64>) -> Vec<Arc<Job>> {
    let fit = bytes.map_or(usize::MAX, |bytes| usize::try_from(bytes / first.ask.bytes.max(1)).unwrap_or(usize::MAX));
    let mut room = pictures.min(fit).saturating_sub(first.ask.count as usize);
    let mut jobs = vec![first];
    let waiting: Vec<String> = inner.waiting.in_order().into_iter().map(str::to_owned).collect();
    for id in waiting {
        let (first, Some(other)) = (&jobs[0].ask, inner.jobs.get(&id).map(Arc::clone)) else { continue };
        let is_alike = first.shape.is_some()
            && (&first.model, &first.loras, &first.shape) == (&other.ask.model, &other.ask.loras, &other.ask.shape);
        let count = other.ask.count as usize;
        if is_alike && count <= room && inner.waiting.remove(&id) {
            room -= count;
            jobs.push(other);
        }
    }
    jobs
}

/// Tells every job that waits how many are before it.
fn positions(inner: &Inner) {
    for (position, id) in inner.waiting.in_order().into_iter().enumerate() {
        if let Some(job) = inner.jobs.get(id)
            && job.position() != Some(position)
        {
            job.tell(Event::Queued { position, waits_for: None });
        }
    }
}

/// What a server that leaves answers.
pub fn leaving() -> Refusal {
    Refusal::later(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping", None).code("stopping")
}

/// What a client hears of whom too many wait; `pace` is how long a job takes.
pub fn full(waiting: usize, pace: Option<f64>) -> Refusal {
    let seconds = pace.map(|pace| pace.ceil().clamp(1.0, 600.0) as u64);
    let refusal = Refusal::later(StatusCode::TOO_MANY_REQUESTS, format!("{waiting} jobs are waiting"), seconds);
    refusal.code("queue_full").hint("try again when the header Retry-After says")
}
