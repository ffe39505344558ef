//! What a front knows of all jobs and workers: a mirror of what is at the server, in which those who watch look.

use super::{ALIVE, record::Record};
use crate::{
    job::Job,
    jobs::{Event, State},
    queue::Room,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Instant,
};

/// A worker's sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alive {
    /// Its name.
    pub name: String,
    /// Models of which it takes jobs.
    pub models: Vec<String>,
}

/// All jobs, and the workers that were heard of last.
#[derive(Debug, Default)]
pub struct Mirrors {
    /// Names of later jobs are larger.
    jobs: BTreeMap<String, Mirror>,
    workers: HashMap<String, (Instant, Vec<String>)>,
}

#[derive(Debug)]
struct Mirror {
    job: Arc<Job>,
    files: Vec<String>,
    version: u64,
    state: State,
    /// How long it was worked on.
    seconds: Option<f64>,
}

impl Mirrors {
    /// The job of that name.
    pub fn find(&self, id: &str) -> Option<Arc<Job>> {
        self.jobs.get(id).map(|mirror| Arc::clone(&mirror.job))
    }

    /// All jobs, newest first.
    pub fn all(&self) -> Vec<Arc<Job>> {
        self.jobs.values().rev().map(|mirror| Arc::clone(&mirror.job)).collect()
    }

    /// Names of jobs that are not over.
    pub fn open(&self) -> Vec<String> {
        let open = self.jobs.iter().filter(|(_, mirror)| !mirror.state.is_over());
        open.map(|(id, _)| id.clone()).collect()
    }

    /// Jobs that wait, and jobs that are being made.
    pub fn counts(&self) -> (usize, usize) {
        let count = |state| self.jobs.values().filter(|mirror| mirror.state == state).count();
        (count(State::Queued), count(State::Running))
    }

    /// How long the last few jobs took on average.
    pub fn pace(&self) -> Option<f64> {
        let last: Vec<f64> = self.jobs.values().rev().filter_map(|mirror| mirror.seconds).take(8).collect();
        (!last.is_empty()).then(|| last.iter().sum::<f64>() / last.len() as f64)
    }

    /// Takes over what is known of a job now; the job. What is older than what was known is nothing new.
    pub fn take(&mut self, record: Record, version: u64) -> Arc<Job> {
        let Record { ask, files, state, end, .. } = record;
        let fresh = |ask| Mirror {
            job: Arc::new(Job::new(ask, 0)),
            files: files.clone(),
            version: 0,
            state: State::Queued,
            seconds: None,
        };
        let mirror = self.jobs.entry(ask.id.clone()).or_insert_with(|| fresh(ask));
        let job = Arc::clone(&mirror.job);
        // What is over stays so.
        if version < mirror.version || mirror.state.is_over() {
            return job;
        }
        mirror.version = version;
        let before = std::mem::replace(&mut mirror.state, state);
        match (before, end) {
            (_, Some(end)) => {
                mirror.seconds = end.seconds;
                job.over(end);
            }
            // What it does comes with the worker's next word.
            (State::Queued, None) if state == State::Running && job.status().state == State::Queued => {
                job.tell(Event::Stage { stage: "load".to_owned() });
            }
            // Its worker has left it.
            (State::Running, None) if state == State::Queued => {
                job.tell(Event::Queued { position: 0, waits_for: None })
            }
            _ => {}
        }
        self.positions();
        job
    }

    /// Forgets a job.
    pub fn remove(&mut self, id: &str) {
        self.jobs.remove(id);
    }

    /// Tells those who watch a job what its worker tells.
    pub fn tell(&self, id: &str, event: Event) {
        let Some(mirror) = self.jobs.get(id).filter(|mirror| !mirror.state.is_over()) else { return };
        // It was told when the worker took it.
        let is_known = |stage: &String| mirror.job.status().stage.as_ref() == Some(stage);
        if !matches!(&event, Event::Stage { stage } if is_known(stage)) {
            mirror.job.tell(event);
        }
    }

    /// A worker lives.
    pub fn alive(&mut self, Alive { name, models }: Alive) {
        self.workers.insert(name, (Instant::now(), models));
    }

    /// Whether some worker takes jobs of a model.
    pub fn is_taken(&self, model: &str) -> bool {
        let lives = |at: &Instant| at.elapsed() < ALIVE.1;
        self.workers.values().any(|(at, models)| lives(at) && models.iter().any(|known| known == model))
    }

    /// Tells every job that waits how many of its model are before it, and whether anybody is there to make it.
    pub fn positions(&mut self) {
        self.workers.retain(|_, (at, _)| at.elapsed() < ALIVE.1);
        let mut before: HashMap<&str, usize> = HashMap::new();
        for mirror in self.jobs.values().filter(|mirror| mirror.state == State::Queued) {
            let model = mirror.job.ask.model.as_str();
            let count = before.entry(model).or_default();
            let (position, waits_for) = (*count, (!self.is_taken(model)).then(|| waits_for(model)));
            *count += 1;
            let status = mirror.job.status();
            if status.state == State::Queued && (status.position, &status.waits_for) != (Some(position), &waits_for) {
                mirror.job.tell(Event::Queued { position, waits_for });
            }
        }
    }

    /// Jobs that have been over for long, or of which there are too many, with the names of all their pictures.
    pub fn old(&self, room: Room, now: u64) -> Vec<(Arc<Job>, Vec<String>)> {
        let over: Vec<_> = self.jobs.values().filter(|mirror| mirror.state.is_over()).collect();
        let too_many = over.len().saturating_sub(room.kept);
        let oldest = now.saturating_sub(room.kept_for.as_secs());
        let is_old = |job: &Job| job.status().finished.is_some_and(|finished| finished < oldest);
        let old = over.into_iter().enumerate().filter(|(nth, mirror)| *nth < too_many || is_old(&mirror.job));
        old.map(|(_, mirror)| {
            let made = (0..mirror.job.ask.count).map(|nth| nth.to_string());
            (Arc::clone(&mirror.job), mirror.files.iter().cloned().chain(made).collect())
        })
        .collect()
    }
}

/// What a job waits for beside those before it.
pub fn waits_for(model: &str) -> String {
    format!("no worker takes jobs of {model} now")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jobs::{Ask, End};

    fn record(id: &str) -> Record {
        let ask = serde_json::json!({
            "id": id, "client": "c", "created": 1, "model": "tiny", "request": {"instruction": "i"}, "count": 1
        });
        Record::new(serde_json::from_value::<Ask>(ask).unwrap(), vec!["image".to_owned()])
    }

    #[test]
    fn a_job_that_waits_knows_its_place_and_whether_anybody_is_there() {
        let mut mirrors = Mirrors::default();
        let (first, second) = (mirrors.take(record("1"), 1), mirrors.take(record("2"), 2));
        assert_eq!((first.status().position, second.status().position), (Some(0), Some(1)));
        assert_eq!(second.status().waits_for.as_deref(), Some("no worker takes jobs of tiny now"));
        mirrors.alive(Alive { name: "w".into(), models: vec!["tiny".into()] });
        mirrors.positions();
        assert_eq!(second.status().waits_for, None);
        let mut running = record("1");
        (running.state, running.begun) = (State::Running, 1);
        mirrors.take(running.clone(), 3);
        assert_eq!((first.status().state, second.status().position), (State::Running, Some(0)));
        // Left by its worker, it waits again, before those that came later.
        running.leave();
        mirrors.take(running, 4);
        assert_eq!((first.status().state, second.status().position), (State::Queued, Some(1)));
        assert_eq!(mirrors.counts(), (2, 0));
    }

    #[test]
    fn what_is_over_stays_so() {
        let mut mirrors = Mirrors::default();
        let job = mirrors.take(record("1"), 1);
        let mut done = record("1");
        done.finish(End::without_work(State::Done));
        mirrors.take(done.clone(), 3);
        assert_eq!(job.status().pictures, ["/ace/v1/jobs/1/pictures/0"]);
        // A late word of a worker that was thought dead, an older version, another end.
        mirrors.tell("1", Event::Stage { stage: "text".into() });
        mirrors.take(record("1"), 2);
        done.finish(End::without_work(State::Failed));
        mirrors.take(done, 4);
        assert_eq!(job.status().state, State::Done);
        let room = Room { waiting: 1, kept_for: std::time::Duration::from_secs(60), kept: 10 };
        assert!(mirrors.old(room, crate::jobs::now()).is_empty());
        let old = mirrors.old(Room { kept: 0, ..room }, crate::jobs::now());
        assert_eq!(old[0].1, ["image", "0"]);
    }
}
