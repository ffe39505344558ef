//! A queue for several machines, in NATS JetStream: any number of fronts that speak HTTP, any number of workers.
//!
//! ```text
//! stream  ace-jobs        ace.jobs.MODEL   what was asked, until a worker says that it is over; a job is accepted when it is here
//! KV      ace-state       ID               what was asked, how far it is, how it ended: only ever changed from what it was
//! KV      ace-keys        a digest         which job a client's key stands for
//! objects ace-pictures    ID/image, ID/0   pictures that came, pictures that were made
//! core    ace.events.ID   stages, steps, previews          ace.cancel.ID   its client wants no more
//!         ace.alive, ace.hello            which workers there are        ace.worker.NAME   whether that one makes a job
//! ```
//!
//! Everything but the last two lines is on the server's disk. A worker that has a job says so every few seconds; when it
//! is silent for [`LEASE`] the job goes to another, which first asks whether the one before is really gone. Whoever ends
//! a job first has ended it, so that a client sees one result even if two workers came to make it.

mod exchange;
mod front;
mod hand;
mod mirrors;
mod record;
mod worker;

pub use front::Front;
pub use worker::Worker;

use std::time::Duration;

/// How long a worker may be silent before its job goes to another.
const LEASE: Duration = Duration::from_secs(12);
/// From one word of a worker to the next.
const WORD: Duration = Duration::from_secs(3);
/// From one sign of life of a worker without a job to the next, and how long it counts.
const ALIVE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(7));
/// How often a job is begun at most: one that ends its workers must not end them for ever.
const MOST_BEGUN: u32 = 5;

/// Where everybody hears which workers there are.
const ALIVE_SUBJECT: &str = "ace.alive";
/// Who asks here is told.
const HELLO_SUBJECT: &str = "ace.hello";

/// Where what happens to a job is told.
fn events_of(id: &str) -> String {
    format!("ace.events.{id}")
}

/// Where it is said that nobody wants a job any more.
fn cancel_of(id: &str) -> String {
    format!("ace.cancel.{id}")
}

/// Where a worker answers.
fn worker_of(name: &str) -> String {
    format!("ace.worker.{name}")
}

/// A model's name as a part of a subject, and as the name of those who take its jobs.
fn token(model: &str) -> String {
    let mut token = String::new();
    for byte in model.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' => token.push(byte.into()),
            other => token += &format!("_{other:02x}"),
        }
    }
    token
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_models_are_parts_of_subjects() {
        assert_eq!(token("ace-plus-fft"), "ace-plus-fft");
        assert_eq!(token("my model.v2*"), "my_20model_2ev2_2a");
        assert_ne!(token("a_2e"), token("a."));
    }
}
