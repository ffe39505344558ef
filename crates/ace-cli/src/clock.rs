//! How long the stages of an edit take.

use crate::progress::duration;
use ace_plus::Stage;
use std::time::{Duration, Instant};

/// How long each stage takes.
pub struct Clock {
    done: Vec<(&'static str, Duration)>,
    running: Option<(&'static str, Instant)>,
}

impl Clock {
    /// A clock that has already counted the loading.
    pub fn new(load: Duration) -> Self {
        Self { done: vec![("load", load)], running: None }
    }

    /// A stage begins, and the one before ends.
    pub fn begin(&mut self, stage: Stage) {
        self.end();
        self.running = Some((word(stage), Instant::now()));
    }

    /// The last stage ends.
    pub fn end(&mut self) {
        if let Some((name, begin)) = self.running.take() {
            self.done.push((name, begin.elapsed()));
        }
    }

    /// `load 0.05 s, text 0.02 s, …`
    pub fn times(&self) -> String {
        let times = self.done.iter().map(|(name, time)| format!("{name} {}", duration(*time)));
        times.collect::<Vec<_>>().join(", ")
    }
}

/// What a stage is called.
pub fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Text => "text",
        Stage::Encode => "encode",
        Stage::Denoise => "denoise",
        Stage::Decode => "decode",
    }
}
