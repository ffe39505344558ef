//! ACE++ over HTTP: many clients, one model at work, nothing lost.
//!
//! ```text
//! openai/ ─┐                        ┌─ queue/ (on disk) ───────────── workshop.rs  a thread: job after job
//! native.rs├─▶ submit.rs ─▶ desk.rs ┤                                   ├─ worker.rs   one job, wherever its queue is
//! page.rs ─┘       ▲                └─ nats/ (feature `nats`) ─ … ──────┴─ studio.rs   models in memory
//!                  │                      or in processes of their own, on other machines
//!     guard.rs: who asks, and whether they may          watch.rs: everybody who wants to know how far a job is
//! ```
//!
//! [`Server::open`] finds the jobs of before; [`Server::run`] answers until it is told to stop. With its queue in NATS a
//! server makes nothing itself: workers do (`Worker`, with the feature).

mod app;
mod desk;
mod error;
mod guard;
mod job;
mod jobs;
mod masks;
mod memory;
mod metrics;
#[cfg(feature = "nats")]
mod nats;
mod native;
mod openai;
mod page;
mod queue;
mod studio;
mod submit;
mod watch;
mod worker;
mod workshop;

pub use app::{Example, Limits};
#[cfg(feature = "nats")]
pub use nats::Worker;
pub use queue::Room;
pub use studio::{Served, ServedLora};
pub use workshop::Workshop;

use ace_plus::{Error, Result, Segmenter, describe::Description};
use app::{App, Phase};
use desk::Desk;
use metrics::Metrics;
use queue::Queue;
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use studio::Studio;
use tokio::{net::TcpListener, time};

/// How long open connections have after the last job.
const FAREWELL: Duration = Duration::from_secs(5);
/// From one look for old jobs to the next.
const SWEEP: Duration = Duration::from_secs(60);
/// From one look whether anybody still waits to the next.
const GLANCE: Duration = Duration::from_millis(100);

/// Where the queue is, and with it who makes the pictures.
#[derive(Debug)]
pub enum Place {
    /// A folder: this process makes them.
    Folder(PathBuf, Workshop),
    /// A NATS server, as `nats://HOST:PORT`: workers make them, wherever they are.
    #[cfg(feature = "nats")]
    Nats(String),
}

/// How a server is to be.
#[derive(Debug)]
pub struct Config {
    /// Models, the default first; at least one.
    pub served: Vec<Served>,
    /// Where the queue is.
    pub place: Place,
    /// How much of it is kept.
    pub room: Room,
    /// How much is taken.
    pub limits: Limits,
    /// Who knows none of these may do nothing, if there are any.
    pub tokens: Vec<String>,
    /// What the server is called, if that matters: where there are no tokens it does.
    pub hosts: Option<Vec<String>>,
    /// The edit that the page begins with.
    pub example: Option<Example>,
    /// What makes masks of clicks, if anything does.
    pub segmenter: Option<Segmenter>,
    /// How long a job that is being made has when the server is to stop.
    pub grace: Duration,
}

/// A server with its queue, which does not answer yet.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    /// Models, where this process makes the pictures.
    studio: Option<Studio>,
    grace: Duration,
}

impl Server {
    /// Finds the jobs of before. `note` hears what in the folder is no job.
    ///
    /// # Errors
    /// If the folder cannot be used, another server works there, or NATS does not answer.
    pub async fn open(config: Config, note: &mut dyn FnMut(String)) -> Result<Self> {
        let served: Arc<[Served]> = config.served.into();
        let describe = |served: &Served| {
            Description::of(&served.id, served.model.card(), served.loras.iter().map(|lora| lora.name.as_str()))
        };
        let (desk, studio) = match config.place {
            Place::Folder(folder, workshop) => {
                let queue = Queue::open(&folder, config.room, note)?;
                (Desk::Local(Arc::new(queue)), Some(workshop.studio(Arc::clone(&served))))
            }
            #[cfg(feature = "nats")]
            Place::Nats(url) => {
                let models = served.iter().map(|served| served.id.clone()).collect();
                (Desk::Nats(nats::Front::open(&url, models, config.room).await?), None)
            }
        };
        let app = Arc::new(App {
            desk,
            descriptions: served.iter().map(describe).collect(),
            served,
            limits: config.limits,
            tokens: config.tokens,
            hosts: config.hosts,
            example: config.example,
            masks: config.segmenter.map(|segmenter| Arc::new(masks::Masks::new(segmenter))),
            metrics: Metrics::default(),
            phase: tokio::sync::watch::channel(Phase::Serving).0,
            started: jobs::now(),
        });
        Ok(Self { app, studio, grace: config.grace })
    }

    /// Loads the first model, so that what is missing is known before anybody asks. Where workers make the pictures there
    /// is nothing to load.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn warm(&mut self) -> Result<()> {
        let first = self.app.served.first().map(|served| served.id.clone());
        first.zip(self.studio.as_mut()).map_or(Ok(()), |(id, studio)| studio.get(&id, &[]).map(drop))
    }

    /// Answers until `stop` is there. Then the job that is being made is finished, or waits for the next server if that
    /// takes too long; those that wait stay in the queue.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn run(self, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { app, studio, grace } = self;
        let worker = match (&app.desk, studio) {
            (Desk::Local(queue), Some(studio)) => {
                let (queue, counting) = (Arc::clone(queue), Arc::clone(&app));
                let ended = move |state, seconds| counting.metrics.ended(state, seconds);
                Some(workshop::work(
                    studio,
                    app.limits.max_time,
                    move |pictures| queue.take(pictures, memory::to_spare()),
                    ended,
                )?)
            }
            _ => None,
        };
        let sweeper = tokio::spawn(sweep(app.desk.clone()));
        let mut phase = app.phase.subscribe();
        let farewell = async move {
            // The sender is in the app, which lives as long as this.
            let _ = phase.wait_for(|phase| *phase == Phase::Gone).await;
        };
        let service = app::router(Arc::clone(&app)).into_make_service_with_connect_info::<SocketAddr>();
        let answering = tokio::spawn(async { axum::serve(listener, service).with_graceful_shutdown(farewell).await });
        stop.await;
        tracing::info!("stopping: no job is begun any more");
        app.desk.leave(false);
        app.phase.send_replace(Phase::Leaving);
        match worker {
            Some(worker) => {
                if let Err(worker) = workshop::finished(worker, grace).await {
                    app.desk.leave(true);
                    // A block of the network, and it is back.
                    let _ = worker.await;
                }
            }
            // Workers go on; whoever follows a job that is being made hears its end, if that comes soon.
            None => drop(time::timeout(grace, alone(&app)).await),
        }
        app.phase.send_replace(Phase::Gone);
        sweeper.abort();
        match time::timeout(FAREWELL, answering).await {
            Ok(Ok(answered)) => answered.map_err(|error| Error::Device { reason: format!("the listener: {error}") }),
            // A connection that is kept open by its client, or a panic that was written down.
            _ => Ok(()),
        }
    }
}

/// Waits until nobody follows a job any more: what follows one, and the listener, hear of the phase.
async fn alone(app: &App) {
    while app.phase.receiver_count() > 1 {
        time::sleep(GLANCE).await;
    }
}

async fn sweep(desk: Desk) {
    loop {
        time::sleep(SWEEP).await;
        desk.sweep().await;
    }
}
