//! Where jobs are handed in, asked after and fetched, wherever their queue is.

#[cfg(feature = "nats")]
use crate::nats::Front;
use crate::{
    error::Refusal,
    job::Job,
    jobs::Ask,
    queue::{Queue, leaving},
};
use axum::http::StatusCode;
use std::sync::Arc;
use tokio::task;

/// The one place at which the routes meet the queue.
#[derive(Debug, Clone)]
pub enum Desk {
    /// A folder of this machine; its worker is in this process.
    Local(Arc<Queue>),
    /// NATS; workers are other processes.
    #[cfg(feature = "nats")]
    Nats(Arc<Front>),
}

impl Desk {
    /// Accepts a job with its pictures: it survives a kill when this returns. One that the same client asked for before,
    /// under the same key, is that one.
    ///
    /// # Errors
    /// If too many wait, the server leaves, or the queue cannot keep it.
    pub async fn submit(&self, ask: Ask, files: Vec<(String, Vec<u8>)>) -> Result<Arc<Job>, Refusal> {
        match self {
            Self::Local(queue) => {
                let queue = Arc::clone(queue);
                away(move || queue.submit(ask, &files)).await
            }
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.submit(ask, files).await,
        }
    }

    /// The job of that name.
    ///
    /// # Errors
    /// If the queue does not answer.
    pub async fn find(&self, id: &str) -> Result<Option<Arc<Job>>, Refusal> {
        match self {
            Self::Local(queue) => Ok(queue.find(id)),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.find(id).await,
        }
    }

    /// All jobs, newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        match self {
            Self::Local(queue) => queue.all(),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.all(),
        }
    }

    /// Jobs that wait, and jobs that are being made.
    pub fn counts(&self) -> (usize, usize) {
        match self {
            Self::Local(queue) => queue.counts(),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.counts(),
        }
    }

    /// Stops a job: one that waits is over at once, one that is being made within a block of its network. Whether it was
    /// not over yet.
    ///
    /// # Errors
    /// If the queue does not answer.
    pub async fn cancel(&self, job: &Arc<Job>) -> Result<bool, Refusal> {
        match self {
            Self::Local(queue) => Ok(queue.cancel(job)),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.cancel(job).await,
        }
    }

    /// Stops a job whose client has gone, and waits for nothing.
    pub fn forsake(&self, job: &Arc<Job>) {
        match self {
            Self::Local(queue) => {
                queue.cancel(job);
            }
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.forsake(job),
        }
    }

    /// A picture of a job that is done.
    ///
    /// # Errors
    /// If there is none.
    pub async fn picture(&self, job: &Arc<Job>, nth: u32) -> Result<Vec<u8>, Refusal> {
        match self {
            Self::Local(queue) => {
                let (queue, job) = (Arc::clone(queue), Arc::clone(job));
                away(move || Ok(queue.picture(&job, nth)?)).await
            }
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.picture(job, nth).await,
        }
    }

    /// No job is accepted any more; where the worker is in this process none is begun, and once `hurried` what is being
    /// made is left for the next server.
    pub fn leave(&self, hurried: bool) {
        match self {
            Self::Local(queue) => queue.leave(hurried),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.leave(),
        }
    }

    /// Whether a job sent now would be accepted, and what it would wait for.
    ///
    /// # Errors
    /// If it would not.
    pub fn ready(&self) -> Result<String, Refusal> {
        match self {
            Self::Local(queue) if queue.is_leaving() => Err(leaving()),
            Self::Local(_) => Ok("ready\n".to_owned()),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.ready(),
        }
    }

    /// Forgets jobs that have been over for long.
    pub async fn sweep(&self) {
        match self {
            Self::Local(queue) => queue.sweep(),
            #[cfg(feature = "nats")]
            Self::Nats(front) => front.sweep().await,
        }
    }
}

/// Waits for a disk without keeping connections waiting.
async fn away<T: Send + 'static>(what: impl FnOnce() -> Result<T, Refusal> + Send + 'static) -> Result<T, Refusal> {
    let done = task::spawn_blocking(what).await;
    done.unwrap_or_else(|_| Err(Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "the server has a bug")))
}
