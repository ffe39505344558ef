//! ACE++ over HTTP: many clients, one model at work, nothing lost.
//!
//! ```text
//! openai/ ─┐                                   ┌─ worker.rs   one thread: job after job
//! native.rs├─▶ submit.rs ─▶ queue/ (on disk) ──┤                 └─ studio.rs   models in memory
//! page.rs ─┘       ▲                           └─ watch.rs    everybody who wants to know how far it is
//!     guard.rs: who asks, and whether they may
//! ```
//!
//! [`Server::open`] finds the jobs of before; [`Server::run`] answers until it is told to stop.

mod app;
mod error;
mod guard;
mod jobs;
mod memory;
mod metrics;
mod native;
mod openai;
mod page;
mod queue;
mod studio;
mod submit;
mod watch;
mod worker;

pub use app::{Example, Limits};
pub use queue::Room;
pub use studio::{Served, ServedLora};

use ace_plus::{Error, Result, describe::Description};
use app::{App, Phase};
use burn::tensor::Device;
use metrics::Metrics;
use queue::Queue;
use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use studio::Studio;
use tokio::{net::TcpListener, sync::oneshot, time};
use worker::Assignment;

/// How long open connections have after the last job.
const FAREWELL: Duration = Duration::from_secs(5);
/// From one look for old jobs to the next.
const SWEEP: Duration = Duration::from_secs(60);

/// How a server is to be.
#[derive(Debug)]
pub struct Config {
    /// Models, the default first; at least one.
    pub served: Vec<Served>,
    /// Where they compute.
    pub device: Device,
    /// That, in words.
    pub device_name: String,
    /// Models that are kept in memory, at most.
    pub kept_models: usize,
    /// Pictures of one shape that are made together, at most.
    pub batch: usize,
    /// The folder of the queue.
    pub folder: PathBuf,
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
    /// How long a job that is being made has when the server is to stop.
    pub grace: Duration,
}

/// A server with its queue, which does not answer yet.
#[derive(Debug)]
pub struct Server {
    app: Arc<App>,
    studio: Studio,
    grace: Duration,
}

impl Server {
    /// Finds the jobs of before. `note` hears what in the folder is no job.
    ///
    /// # Errors
    /// If the folder cannot be used, or another server works there.
    pub fn open(config: Config, note: &mut dyn FnMut(String)) -> Result<Self> {
        let served: Arc<[Served]> = config.served.into();
        let describe = |served: &Served| {
            Description::of(&served.id, served.model.card(), served.loras.iter().map(|lora| lora.name.as_str()))
        };
        let app = Arc::new(App {
            queue: Arc::new(Queue::open(&config.folder, config.room, note)?),
            descriptions: served.iter().map(describe).collect(),
            served: Arc::clone(&served),
            limits: config.limits,
            tokens: config.tokens,
            hosts: config.hosts,
            example: config.example,
            metrics: Metrics::default(),
            phase: tokio::sync::watch::channel(Phase::Serving).0,
            started: jobs::now(),
        });
        let studio = Studio::new(served, config.device, config.device_name, [config.kept_models, config.batch]);
        Ok(Self { app, studio, grace: config.grace })
    }

    /// Loads the first model, so that what is missing is known before anybody asks.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn warm(&mut self) -> Result<()> {
        let first = self.app.served.first().map(|served| served.id.clone());
        first.map_or(Ok(()), |id| self.studio.get(&id, &[]).map(drop))
    }

    /// Answers until `stop` is there. Then the job that is being made is finished, or waits for the next server if that
    /// takes too long; those that wait stay in the queue.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn run(self, listener: TcpListener, stop: impl Future<Output = ()> + Send + 'static) -> Result<()> {
        let Self { app, studio, grace } = self;
        let worker = work(Arc::clone(&app), studio)?;
        let sweeper = tokio::spawn(sweep(Arc::clone(&app.queue)));
        let mut phase = app.phase.subscribe();
        let farewell = async move {
            // The sender is in the app, which lives as long as this.
            let _ = phase.wait_for(|phase| *phase == Phase::Gone).await;
        };
        let service = app::router(Arc::clone(&app)).into_make_service_with_connect_info::<SocketAddr>();
        let answering = tokio::spawn(async { axum::serve(listener, service).with_graceful_shutdown(farewell).await });
        stop.await;
        tracing::info!("stopping: no job is begun any more");
        app.queue.leave(false);
        app.phase.send_replace(Phase::Leaving);
        if let Err(worker) = finished(worker, grace).await {
            app.queue.leave(true);
            // A block of the network, and it is back.
            let _ = worker.await;
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

/// The thread that owns the models. What it sends is that it has ended.
fn work(app: Arc<App>, mut studio: Studio) -> Result<oneshot::Receiver<()>> {
    let (done, ended) = oneshot::channel();
    let run = move || {
        while let Some(jobs) = app.queue.take(studio.batch(), memory::to_spare()) {
            let begin = Instant::now();
            let states = worker::work(&mut studio, &jobs, app.limits.max_time);
            let (seconds, together) = (begin.elapsed().as_secs_f64(), jobs.len());
            for (job, state) in jobs.iter().zip(states) {
                let id = &job.ask().id;
                match state {
                    Some(state) => {
                        app.metrics.ended(state, seconds);
                        tracing::info!(job = id, state = state.name(), seconds, together, "job is over");
                    }
                    None => tracing::info!(job = id, "job waits for the next server"),
                }
            }
        }
        // Nobody waits if the server has failed.
        let _ = done.send(());
    };
    let spawned = thread::Builder::new().name("worker".to_owned()).spawn(run);
    spawned.map_err(|error| Error::Device { reason: format!("no thread for the models: {error}") })?;
    Ok(ended)
}

/// Waits for the worker as long as it has; gives it back if that was not enough.
async fn finished(
    mut worker: oneshot::Receiver<()>,
    grace: Duration,
) -> std::result::Result<(), oneshot::Receiver<()>> {
    match time::timeout(grace, &mut worker).await {
        Ok(_) => Ok(()),
        Err(_) => Err(worker),
    }
}

async fn sweep(queue: Arc<Queue>) {
    loop {
        time::sleep(SWEEP).await;
        queue.sweep();
    }
}
