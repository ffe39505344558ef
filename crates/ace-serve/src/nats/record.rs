//! What the queue knows of a job.

use super::MOST_BEGUN;
use crate::jobs::{Ask, End, Problem, State};
use serde::{Deserialize, Serialize};

/// What was asked and how far it is. The same is what a worker is handed: then nothing has happened yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// What was asked.
    pub ask: Ask,
    /// Names of the pictures that came with it.
    pub files: Vec<String>,
    /// Where it is.
    pub state: State,
    /// Whether its client wants no more.
    #[serde(default)]
    pub cancelled: bool,
    /// Who makes it.
    #[serde(default)]
    pub worker: Option<String>,
    /// How often it was begun.
    #[serde(default)]
    pub begun: u32,
    /// How it ended.
    #[serde(default)]
    pub end: Option<End>,
}

impl Record {
    /// That of a job that was just asked for.
    pub fn new(ask: Ask, files: Vec<String>) -> Self {
        Self { ask, files, state: State::Queued, cancelled: false, worker: None, begun: 0, end: None }
    }

    /// As it is sent and kept.
    pub fn bytes(&self) -> Vec<u8> {
        // No key that is no text, no number that JSON cannot say.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Takes note of how it ended.
    pub fn finish(&mut self, end: End) {
        (self.state, self.end) = (end.state, Some(end));
    }

    /// Its client wants no more: one that waits is over. Whether it was not over yet.
    pub fn cancel(&mut self) -> bool {
        if self.state.is_over() {
            return false;
        }
        self.cancelled = true;
        if self.state == State::Queued {
            self.finish(End::without_work(State::Cancelled));
        }
        true
    }

    /// A worker begins it, unless nobody wants it any more or too many have begun it before: then it is over. Whether it is
    /// to be made.
    pub fn begin(&mut self, worker: &str) -> bool {
        if self.cancelled {
            self.finish(End::without_work(State::Cancelled));
        } else if self.begun >= MOST_BEGUN {
            self.finish(End { error: Some(given_up()), ..End::without_work(State::Failed) });
        } else {
            (self.state, self.worker) = (State::Running, Some(worker.to_owned()));
            self.begun += 1;
        }
        self.end.is_none()
    }

    /// Its worker leaves it for another; that it was begun does not count.
    pub fn leave(&mut self) {
        (self.state, self.worker, self.begun) = (State::Queued, None, self.begun.saturating_sub(1));
    }
}

fn given_up() -> Problem {
    Problem {
        message: format!("the job was begun {MOST_BEGUN} times, and each time its worker was gone before it was made"),
        hint: Some("see why workers end (often memory), or ask for a smaller picture".to_owned()),
        status: 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Record {
        let ask = serde_json::json!({
            "id": "1", "client": "c", "created": 1, "model": "tiny", "request": {"instruction": "i"}, "count": 1
        });
        Record::new(serde_json::from_value(ask).unwrap(), Vec::new())
    }

    #[test]
    fn a_job_that_ends_its_workers_does_not_end_them_for_ever() {
        let mut record = asked();
        for nth in 0..MOST_BEGUN {
            assert!(record.begin(&format!("worker {nth}")));
        }
        assert!(!record.begin("one more"));
        let end = record.end.unwrap();
        assert_eq!(end.state, State::Failed);
        assert!(end.error.unwrap().message.starts_with("the job was begun 5 times"));
        // A worker that stops in good order does not count.
        let mut record = asked();
        for _ in 0..2 * MOST_BEGUN {
            assert!(record.begin("worker"));
            record.leave();
        }
    }

    #[test]
    fn what_nobody_wants_is_over_at_once_or_when_its_worker_hears_of_it() {
        let mut waiting = asked();
        assert!(waiting.cancel() && waiting.state == State::Cancelled && !waiting.cancel());
        let mut running = asked();
        running.begin("worker");
        assert!(running.cancel() && running.state == State::Running);
        // Its worker was killed before it heard.
        assert!(!running.begin("another"));
        assert_eq!(running.state, State::Cancelled);
        let read: Record = serde_json::from_slice(&running.bytes()).unwrap();
        assert_eq!(read, running);
    }
}
