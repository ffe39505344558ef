//! What is kept at the NATS server, and the ways to it.

use super::{LEASE, record::Record, token};
use ace_plus::{Error, Result};
use async_nats::{
    Client, ConnectOptions, HeaderMap,
    connection::State as Connection,
    header::NATS_MESSAGE_ID,
    jetstream::{
        self, Context,
        consumer::{PullConsumer, pull},
        kv::{self, CreateErrorKind, Operation, Store, UpdateErrorKind},
        object_store::{self, GetErrorKind, InfoErrorKind, ObjectStore},
        stream::{self, RetentionPolicy, StorageType, Stream},
    },
};
use std::{env, fmt::Display, time::Duration};
use tokio::{
    io::AsyncReadExt,
    time::{self, Instant},
};

/// How long a server that does not answer is waited for at the start: a compose file starts both at once.
const PATIENCE: Duration = Duration::from_secs(20);
/// From one try to the next.
const AGAIN: Duration = Duration::from_millis(500);
/// Nothing is kept longer, even if everybody who should forget it is gone.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the server knows that it has a job already.
const KNOWN: Duration = Duration::from_secs(600);
/// Jobs in the hands of workers at most, of one model.
const HANDS: i64 = 100_000;
/// A file with the words by which one is let in.
const CREDENTIALS: &str = "NATS_CREDS";

/// The server's stores.
#[derive(Clone)]
pub struct Exchange {
    /// The connection, which comes back by itself.
    pub client: Client,
    context: Context,
    stream: Stream,
    state: Store,
    keys: Store,
    pictures: ObjectStore,
}

impl std::fmt::Debug for Exchange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exchange").finish_non_exhaustive()
    }
}

impl Exchange {
    /// Connects, and makes the stores unless they are there; those that an administrator has made are taken as they are.
    ///
    /// # Errors
    /// If no server answers, or it has no JetStream.
    pub async fn open(url: &str) -> Result<Self> {
        let client = connect(url).await?;
        let context = jetstream::new(client.clone());
        let stream = stream::Config {
            name: "ace-jobs".to_owned(),
            description: Some("edits that are to be made".to_owned()),
            subjects: vec!["ace.jobs.*".to_owned()],
            retention: RetentionPolicy::WorkQueue,
            storage: StorageType::File,
            max_age: LONGEST,
            duplicate_window: KNOWN,
            ..Default::default()
        };
        let pictures = object_store::Config {
            bucket: "ace-pictures".to_owned(),
            max_age: LONGEST,
            storage: StorageType::File,
            num_replicas: 1,
            ..Default::default()
        };
        let stream = match context.get_stream(&stream.name).await {
            Ok(stream) => stream,
            Err(_) => context.create_stream(stream).await.map_err(refused)?,
        };
        let pictures = match context.get_object_store(&pictures.bucket).await {
            Ok(pictures) => pictures,
            Err(_) => context.create_object_store(pictures).await.map_err(refused)?,
        };
        let (state, keys) = (bucket(&context, "ace-state").await?, bucket(&context, "ace-keys").await?);
        Ok(Self { client, context, stream, state, keys, pictures })
    }

    /// Whether the server is there now.
    pub fn is_there(&self) -> bool {
        self.client.connection_state() == Connection::Connected
    }

    /// Tells those who listen now; where the server is away nobody does.
    pub async fn say(&self, subject: String, bytes: Vec<u8>) {
        if self.is_there() && bytes.len() <= self.client.max_payload() {
            // The connection may go meanwhile.
            let _ = self.client.publish(subject, bytes.into()).await;
        }
    }

    /// Who takes the jobs of a model.
    pub async fn takers(&self, model: &str) -> Result<PullConsumer> {
        let name = token(model);
        let config = pull::Config {
            durable_name: Some(name.clone()),
            filter_subject: format!("ace.jobs.{name}"),
            ack_wait: LEASE,
            max_ack_pending: HANDS,
            ..Default::default()
        };
        self.stream.get_or_create_consumer(&name, config).await.map_err(refused)
    }

    /// Hands a job in: it is on the server's disk when this returns, once however often it is handed in.
    pub async fn hand_in(&self, record: &Record) -> Result<()> {
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, record.ask.id.as_str());
        let (subject, bytes) = (format!("ace.jobs.{}", token(&record.ask.model)), record.bytes());
        let sent = self.context.publish_with_headers(subject, headers, bytes.into()).await.map_err(away)?;
        sent.await.map(drop).map_err(away)
    }

    /// Writes down what is known of a new job; whether it was new.
    pub async fn create(&self, record: &Record) -> Result<bool> {
        match self.state.create(&record.ask.id, record.bytes().into()).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(away(error)),
        }
    }

    /// What is known of a job, and which version of it that is.
    pub async fn load(&self, id: &str) -> Result<Option<(Record, u64)>> {
        let entry = self.state.entry(id).await.map_err(away)?;
        Ok(entry.and_then(|entry| (entry.operation == Operation::Put).then(|| read(&entry))?))
    }

    /// Whether a job was known, and is not any more.
    pub async fn is_forgotten(&self, id: &str) -> Result<bool> {
        let entry = self.state.entry(id).await.map_err(away)?;
        Ok(entry.is_some_and(|entry| entry.operation != Operation::Put))
    }

    /// Changes what is known of a job, if nobody has changed that version; whether so.
    pub async fn store(&self, record: &Record, version: u64) -> Result<bool> {
        match self.state.update(&record.ask.id, record.bytes().into(), version).await {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
            Err(error) => Err(away(error)),
        }
    }

    /// Changes what is known of a job to what `change` makes of it, as often as others come before; `change` says whether
    /// there is anything to change. What is known then, if there is such a job.
    pub async fn change(
        &self,
        id: &str,
        change: &mut (dyn FnMut(&mut Record) -> bool + Send),
    ) -> Result<Option<Record>> {
        loop {
            let Some((mut record, version)) = self.load(id).await? else { return Ok(None) };
            if !change(&mut record) || self.store(&record, version).await? {
                return Ok(Some(record));
            }
        }
    }

    /// Everything that is known now, and every change from now on.
    pub async fn follow(&self) -> Result<kv::Watch> {
        self.state.watch_with_history(">").await.map_err(away)
    }

    /// The job that a client's key stands for: this one, if it stood for none.
    pub async fn claim(&self, key: &str, id: &str) -> Result<String> {
        match self.keys.create(key, id.to_owned().into()).await {
            Ok(_) => return Ok(id.to_owned()),
            Err(error) if error.kind() == CreateErrorKind::AlreadyExists => {}
            Err(error) => return Err(away(error)),
        }
        let known = self.keys.get(key).await.map_err(away)?;
        Ok(known.map_or_else(|| id.to_owned(), |bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Stores a picture.
    pub async fn put(&self, id: &str, name: &str, mut bytes: &[u8]) -> Result<()> {
        self.pictures.put(place(id, name).as_str(), &mut bytes).await.map(drop).map_err(away)
    }

    /// Whether a picture is there.
    pub async fn has(&self, id: &str, name: &str) -> Result<bool> {
        match self.pictures.info(place(id, name)).await {
            Ok(info) => Ok(!info.deleted),
            Err(error) if error.kind() == InfoErrorKind::NotFound => Ok(false),
            Err(error) => Err(away(error)),
        }
    }

    /// A picture, if it is there.
    pub async fn get(&self, id: &str, name: &str) -> Result<Option<Vec<u8>>> {
        let mut object = match self.pictures.get(place(id, name)).await {
            Ok(object) => object,
            Err(error) if error.kind() == GetErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(away(error)),
        };
        let mut bytes = Vec::with_capacity(object.info().size);
        object.read_to_end(&mut bytes).await.map_err(away)?;
        Ok(Some(bytes))
    }

    /// Forgets a job, its pictures and its key.
    pub async fn forget(&self, id: &str, pictures: &[String], key: Option<&str>) -> Result<()> {
        for name in pictures {
            match self.pictures.delete(place(id, name)).await {
                Ok(()) => {}
                // Another front was faster, or it was never made.
                Err(error) => tracing::debug!(job = id, name, %error, "not deleted"),
            }
        }
        if let Some(key) = key {
            self.keys.purge(key).await.map_err(away)?;
        }
        self.state.purge(id).await.map_err(away)
    }
}

/// What a store's entry says of a job; what is not understood was written by another version, and is told.
pub fn read(entry: &kv::Entry) -> Option<(Record, u64)> {
    match serde_json::from_slice(&entry.value) {
        Ok(record) => Some((record, entry.revision)),
        Err(error) => {
            tracing::warn!(job = entry.key, %error, "not understood");
            None
        }
    }
}

/// Tries again for so long while the server is away.
///
/// # Errors
/// The last one.
pub async fn patiently<T, F: Future<Output = Result<T>>>(patience: Duration, mut what: impl FnMut() -> F) -> Result<T> {
    let end = Instant::now() + patience;
    loop {
        match what().await {
            Err(error) if Instant::now() < end => {
                tracing::debug!(%error, "trying again");
                time::sleep(AGAIN).await;
            }
            result => return result,
        }
    }
}

async fn connect(url: &str) -> Result<Client> {
    let mut options = ConnectOptions::new()
        .name("ace")
        .max_reconnects(None)
        .reconnect_delay_callback(|tries| AGAIN.min(Duration::from_millis(50 * tries as u64)))
        .event_callback(|event| async move { tracing::info!(%event, "NATS") });
    if let Ok(path) = env::var(CREDENTIALS) {
        let refused =
            |error| Error::input(format!("{CREDENTIALS}={path}: {error}"), "name a file that nsc has written");
        options = options.credentials_file(&path).await.map_err(refused)?;
    }
    let end = Instant::now() + PATIENCE;
    loop {
        match options.clone().connect(url).await {
            Ok(client) => return Ok(client),
            Err(_) if Instant::now() < end => time::sleep(AGAIN).await,
            Err(error) => {
                let what = format!("no NATS server answers: {error}");
                return Err(Error::input(what, "start one with: nats-server -js -sd DIR"));
            }
        }
    }
}

async fn bucket(context: &Context, name: &str) -> Result<Store> {
    if let Ok(store) = context.get_key_value(name).await {
        return Ok(store);
    }
    let (bucket, storage) = (name.to_owned(), StorageType::File);
    let config = kv::Config { bucket, history: 1, max_age: LONGEST, storage, num_replicas: 1, ..Default::default() };
    context.create_key_value(config).await.map_err(refused)
}

fn place(id: &str, name: &str) -> String {
    format!("{id}/{name}")
}

fn refused(error: impl Display) -> Error {
    Error::input(format!("the NATS server refuses: {error}"), "start it with JetStream: nats-server -js -sd DIR")
}

fn away(error: impl Display) -> Error {
    Error::Device { reason: format!("the queue in NATS: {error}") }
}
