//! Numbers on what the server does, for Prometheus.

use crate::jobs::State;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

/// Upper ends of the classes of a job's seconds.
const SECONDS: [f64; 12] = [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 180.0, 600.0, 1800.0];

/// What is counted.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<Answer, Counter>,
    jobs: Family<Ended, Counter>,
    seconds: Histogram,
    waiting: Gauge,
    running: Gauge,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Answer {
    status: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    state: &'static str,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("ace");
        let (requests, jobs) = (Family::default(), Family::default());
        let seconds = Histogram::new(SECONDS);
        let (waiting, running) = (Gauge::default(), Gauge::default());
        registry.register("http_requests", "Requests that were answered", Family::clone(&requests));
        registry.register("jobs", "Jobs that ended", Family::clone(&jobs));
        registry.register_with_unit("job", "How long jobs were worked on", Unit::Seconds, seconds.clone());
        registry.register("jobs_waiting", "Jobs that wait", Gauge::clone(&waiting));
        registry.register("jobs_running", "Jobs that are being made", Gauge::clone(&running));
        Self { registry, requests, jobs, seconds, waiting, running }
    }
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, status: u16) {
        self.requests.get_or_create(&Answer { status: status.into() }).inc();
    }

    /// A job ended after so many seconds of work.
    pub fn ended(&self, state: State, seconds: f64) {
        self.jobs.get_or_create(&Ended { state: state.name() }).inc();
        self.seconds.observe(seconds);
    }

    /// All of it, as Prometheus reads it, with how many jobs wait and are being made.
    pub fn text(&self, (waiting, running): (usize, usize)) -> String {
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
        self.running.set(i64::try_from(running).unwrap_or(i64::MAX));
        let mut text = String::new();
        // Writing into a text cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
