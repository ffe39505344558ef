//! A process that only makes pictures: jobs come from NATS, and nobody speaks HTTP to it.

use super::{
    ALIVE, ALIVE_SUBJECT, HELLO_SUBJECT,
    exchange::Exchange,
    hand::{Busy, Hand},
    mirrors::Alive,
    worker_of,
};
use crate::{
    studio::{Served, Studio},
    workshop::{self, Workshop},
};
use ace_plus::Result;
use futures_util::StreamExt;
use std::{sync::Arc, time::Duration};
use tokio::time;
use uuid::Uuid;

/// A worker, which takes no job yet.
#[derive(Debug)]
pub struct Worker {
    exchange: Exchange,
    name: String,
    models: Vec<String>,
    studio: Studio,
}

impl Worker {
    /// Connects to the queue at `nats://HOST:PORT`. Jobs of these models are taken, with whichever of their adapters.
    ///
    /// # Errors
    /// If no server answers.
    pub async fn open(url: &str, served: Vec<Served>, workshop: Workshop) -> Result<Self> {
        let (exchange, name) = (Exchange::open(url).await?, Uuid::now_v7().simple().to_string());
        let models = served.iter().map(|served| served.id.clone()).collect();
        Ok(Self { exchange, name, models, studio: workshop.studio(served.into()) })
    }

    /// Loads the first model, so that what is missing is known before a job is taken.
    ///
    /// # Errors
    /// If it cannot be loaded.
    pub fn warm(&mut self) -> Result<()> {
        self.models.first().map_or(Ok(()), |id| self.studio.get(id, &[]).map(drop))
    }

    /// Takes job after job until `stop` is there. Then the one in work is finished, or left to another if that takes
    /// longer than `grace`. `limit` is how long one may take.
    ///
    /// # Errors
    /// If the server refuses, or the system gives no thread.
    pub async fn run(self, limit: Option<Duration>, grace: Duration, stop: impl Future<Output = ()>) -> Result<()> {
        let Self { exchange, name, models, studio } = self;
        let busy = Arc::new(Busy::default());
        let mut hand = Hand::open(exchange.clone(), name.clone(), &models, Arc::clone(&busy)).await?;
        tracing::info!(worker = name, "taking jobs");
        let listener = tokio::spawn(listen(exchange, Alive { name, models }, Arc::clone(&busy)));
        let worker = workshop::work(studio, limit, move |_| hand.take().map(|job| vec![job]), |_, _| ())?;
        stop.await;
        tracing::info!("stopping: no job is taken any more");
        busy.leave(false);
        if let Err(worker) = workshop::finished(worker, grace).await {
            busy.leave(true);
            // A block of the network, and it is back.
            let _ = worker.await;
        }
        listener.abort();
        Ok(())
    }
}

/// Says that this worker lives, answers whoever asks for it, and hears what is not wanted any more.
async fn listen(exchange: Exchange, alive: Alive, busy: Arc<Busy>) {
    let sign = serde_json::to_vec(&alive).unwrap_or_default();
    let client = &exchange.client;
    loop {
        let heard = tokio::join!(
            client.subscribe(HELLO_SUBJECT),
            client.subscribe(worker_of(&alive.name)),
            client.subscribe("ace.cancel.*")
        );
        if let (Ok(mut hello), Ok(mut asked), Ok(mut cancelled)) = heard {
            let mut pulse = time::interval(ALIVE.0);
            loop {
                tokio::select! {
                    _ = pulse.tick() => exchange.say(ALIVE_SUBJECT.to_owned(), sign.clone()).await,
                    Some(_) = hello.next() => exchange.say(ALIVE_SUBJECT.to_owned(), sign.clone()).await,
                    Some(message) = asked.next() => {
                        let has = std::str::from_utf8(&message.payload).is_ok_and(|id| busy.has(id));
                        if let Some(reply) = message.reply {
                            exchange.say(reply.to_string(), if has { b"yes".to_vec() } else { b"no".to_vec() }).await;
                        }
                    }
                    Some(message) = cancelled.next() => {
                        busy.cancel(message.subject.rsplit('.').next().unwrap_or_default());
                    }
                    else => break,
                }
            }
        }
        time::sleep(ALIVE.0).await;
    }
}
