//! Following a job from wherever it is to its end.

use crate::{
    app::{App, Phase},
    desk::Desk,
    error::Refusal,
    job::Job,
    jobs::{Event, State},
    queue::leaving,
};
use axum::response::sse;
use futures_util::stream::{self, Stream};
use std::{collections::VecDeque, convert::Infallible, sync::Arc};
use tokio::sync::{broadcast, watch};

/// The events of a job, the last of which is that it is over.
#[derive(Debug)]
pub struct Watch {
    past: VecDeque<Event>,
    events: broadcast::Receiver<Event>,
    phase: watch::Receiver<Phase>,
    job: Arc<Job>,
    is_over: bool,
}

impl Watch {
    /// Those of a job, from how far it is.
    pub fn new(app: &App, job: Arc<Job>) -> Self {
        let (past, events) = job.watch();
        Self { past: past.into(), events, phase: app.phase.subscribe(), job, is_over: false }
    }

    /// What happens next; `None` once it is over.
    ///
    /// # Errors
    /// If the server stops before.
    pub async fn next(&mut self) -> Option<Result<Event, Refusal>> {
        while !self.is_over {
            if let Some(event) = self.past.pop_front() {
                return Some(Ok(self.seen(event)));
            }
            let phase = *self.phase.borrow_and_update();
            let waits = self.job.state() == State::Queued;
            if phase == Phase::Gone || (phase == Phase::Leaving && waits) {
                self.is_over = true;
                return Some(Err(leaving()));
            }
            tokio::select! {
                event = self.events.recv() => match event {
                    Ok(event) => return Some(Ok(self.seen(event))),
                    // A slow reader goes on from where the job is now.
                    Err(broadcast::error::RecvError::Lagged(_)) => {
                        let (past, events) = self.job.watch();
                        (self.past, self.events) = (past.into(), events);
                    }
                    Err(broadcast::error::RecvError::Closed) => self.is_over = true,
                },
                _ = self.phase.changed() => {}
            }
        }
        None
    }

    fn seen(&mut self, event: Event) -> Event {
        self.is_over = matches!(event, Event::Over(_));
        event
    }
}

/// A job whose client waits in an open connection: when that goes before the job is over, nobody wants it any more.
#[derive(Debug)]
pub struct Attended {
    desk: Desk,
    /// The job.
    pub job: Arc<Job>,
}

impl Attended {
    /// Waits for a job.
    pub fn new(desk: Desk, job: Arc<Job>) -> Self {
        Self { desk, job }
    }

    /// A picture of it.
    ///
    /// # Errors
    /// If there is none.
    pub async fn picture(&self, nth: u32) -> Result<Vec<u8>, Refusal> {
        self.desk.picture(&self.job, nth).await
    }
}

impl Drop for Attended {
    fn drop(&mut self) {
        self.desk.forsake(&self.job);
    }
}

/// What makes the events of one connection: nothing more after `None`.
pub trait Speak: Send + 'static {
    /// The next lines.
    fn next(&mut self) -> impl Future<Output = Option<sse::Event>> + Send;
}

/// A stream of server-sent events; lines without meaning keep it open where proxies close what is silent.
pub fn sse(speaker: impl Speak) -> sse::Sse<impl Stream<Item = Result<sse::Event, Infallible>>> {
    let events = stream::unfold(speaker, |mut speaker| async {
        let event = speaker.next().await?;
        Some((Ok(event), speaker))
    });
    sse::Sse::new(events).keep_alive(sse::KeepAlive::default())
}
