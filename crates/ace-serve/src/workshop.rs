//! Where pictures are made: one thread that owns the models and takes job after job, from whichever queue.

use crate::{
    jobs::State,
    studio::{Served, Studio},
    worker::{self, Assignment},
};
use ace_plus::{Error, Result};
use burn::tensor::Device;
use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tokio::{sync::oneshot, time};

/// What pictures are made with.
#[derive(Debug)]
pub struct Workshop {
    /// Where models compute.
    pub device: Device,
    /// That, in words.
    pub device_name: String,
    /// Models that are kept in memory, at most.
    pub kept_models: usize,
    /// Pictures of one shape that are made together, at most.
    pub batch: usize,
}

impl Workshop {
    /// Models, none of which is loaded.
    pub(crate) fn studio(self, served: Arc<[Served]>) -> Studio {
        Studio::new(served, self.device, self.device_name, [self.kept_models, self.batch])
    }
}

/// The thread that owns the models: it takes jobs until there is none, several that can be made together with so many
/// pictures at most, and tells `ended` of each that is over. What is sent is that it has ended.
///
/// # Errors
/// If the system gives no thread.
pub fn work<J: Assignment>(
    mut studio: Studio,
    limit: Option<Duration>,
    mut take: impl FnMut(usize) -> Option<Vec<J>> + Send + 'static,
    ended: impl Fn(State, f64) + Send + 'static,
) -> Result<oneshot::Receiver<()>> {
    let (done, waiting) = oneshot::channel();
    let run = move || {
        while let Some(jobs) = take(studio.batch()) {
            let begin = Instant::now();
            let states = worker::work(&mut studio, &jobs, limit);
            let (seconds, together) = (begin.elapsed().as_secs_f64(), jobs.len());
            for (job, state) in jobs.iter().zip(states) {
                let id = &job.ask().id;
                match state {
                    Some(state) => {
                        ended(state, seconds);
                        tracing::info!(job = id, state = state.name(), seconds, together, "job is over");
                    }
                    None => tracing::info!(job = id, "job is left for another"),
                }
            }
        }
        // Nobody waits if the server has failed.
        let _ = done.send(());
    };
    let spawned = thread::Builder::new().name("worker".to_owned()).spawn(run);
    spawned.map_err(|error| Error::Device { reason: format!("no thread for the models: {error}") })?;
    Ok(waiting)
}

/// Waits for the thread as long as it has; gives it back if that was not enough.
///
/// # Errors
/// With the thread.
pub async fn finished(
    mut worker: oneshot::Receiver<()>,
    grace: Duration,
) -> std::result::Result<(), oneshot::Receiver<()>> {
    match time::timeout(grace, &mut worker).await {
        Ok(_) => Ok(()),
        Err(_) => Err(worker),
    }
}
