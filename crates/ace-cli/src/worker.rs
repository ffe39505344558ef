//! `ace worker`: pictures that servers elsewhere have accepted, made here.

use crate::{args::WorkerArgs, report::Failure};
use std::process::ExitCode;

/// Takes jobs until it is told to stop.
///
/// # Errors
/// If a model cannot be found or loaded, or the queue does not answer.
#[cfg(feature = "nats")]
pub fn run(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    use crate::{report, serve};
    use anyhow::Context;
    use std::time::Duration;

    let WorkerArgs { queue, models, making } = args;
    check(queue)?;
    serve::listen_to_log(making.log_json);
    let served = serve::served(models, making, serve::Files::Here)?;
    let workshop = serve::workshop(making)?;
    let ids: Vec<_> = served.iter().map(|served| served.id.clone()).collect();
    let (ids, device) = (ids.join(", "), workshop.device_name.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime
        .context("no threads for connections")?
        .block_on(async {
            let mut worker =
                ace_serve::Worker::open(queue, served, workshop).await.with_context(|| without_words(queue))?;
            worker.warm()?;
            let place = without_words(queue);
            report::print(&format!("making {ids} on {device}, jobs from {place}; Ctrl-C stops"));
            let (limit, grace) = (making.max_seconds.map(Duration::from_secs), Duration::from_secs(making.grace));
            Ok(worker.run(limit, grace, serve::stop()).await?)
        })
        .map(|()| ExitCode::SUCCESS)
}

/// Says that this build cannot.
///
/// # Errors
/// Always.
#[cfg(not(feature = "nats"))]
pub fn run(args: &WorkerArgs) -> anyhow::Result<ExitCode> {
    // What it would be told is understood all the same.
    let WorkerArgs { queue, models: _, making: _ } = args;
    check(queue)?;
    Err(without().into())
}

/// Refuses what is no address of NATS.
///
/// # Errors
/// With what is.
pub fn check(url: &str) -> Result<(), Failure> {
    match ["nats://", "tls://", "ws://", "wss://"].iter().any(|scheme| url.starts_with(scheme)) {
        true => Ok(()),
        false => Err(Failure::misuse(format!("{url} is no address of a queue"), "say nats://HOST:PORT")),
    }
}

/// What a build without NATS says.
#[cfg(not(feature = "nats"))]
pub fn without() -> Failure {
    let hint = "build it with: cargo build --release -p ace-cli --features nats";
    Failure::misuse("this build has no nats", hint)
}

/// An address without the words by which one is let in.
pub fn without_words(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_told_without_its_password() {
        assert_eq!(without_words("nats://me:secret@host:4222"), "nats://host:4222");
        assert_eq!(without_words("nats://host:4222"), "nats://host:4222");
        assert!(check("nats://host:4222").is_ok() && check("host:4222").is_err());
    }
}
