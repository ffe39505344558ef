//! How fast a training goes, where its time goes, and what memory it takes.

use crate::{memory, progress::duration, report::bytes};
use ace_train::Stages;
use std::time::{Duration, Instant};

/// How much a new step counts in the speed that is shown.
const SMOOTHING: f64 = 0.1;

/// Speed of a training.
pub struct Pace {
    /// Examples of a step.
    batch: usize,
    begin: Instant,
    steps: u64,
    /// Of all steps so far.
    stages: Stages,
    /// Seconds of a step, smoothed.
    step: Option<f64>,
}

impl Pace {
    /// Nothing is done yet.
    pub fn new(batch: usize) -> Self {
        Self { batch, begin: Instant::now(), steps: 0, stages: Stages::default(), step: None }
    }

    /// Takes a step in.
    pub fn take(&mut self, stages: Stages) {
        let seconds = stages.total().as_secs_f64();
        self.steps += 1;
        self.stages += stages;
        self.step = Some(self.step.map_or(seconds, |smooth| smooth + SMOOTHING * (seconds - smooth)));
    }

    /// Examples per second, lately.
    pub fn samples_per_second(&self) -> f64 {
        self.step.map_or(0.0, |seconds| self.batch as f64 / seconds.max(f64::MIN_POSITIVE))
    }

    /// Speed and memory, now.
    pub fn now(&self) -> String {
        let speed = rate(self.samples_per_second());
        match memory::resident() {
            Some(resident) => format!("{speed}, {} (peak {})", bytes(resident.now), bytes(resident.peak)),
            None => format!("{speed}, {} (peak {})", bytes(memory::allocated()), bytes(memory::peak())),
        }
    }

    /// What the whole took; `predicted` is the planner's memory.
    pub fn summary(&self, predicted: Option<u64>) -> String {
        let stages = self.stages;
        summary(self.steps, self.begin.elapsed(), self.batch, stages, memory::peak(), predicted)
    }
}

fn summary(steps: u64, wall: Duration, batch: usize, stages: Stages, peak: u64, predicted: Option<u64>) -> String {
    let [(_, waiting), ..] = stages.shares();
    let speed = (steps * batch as u64) as f64 / stages.total().as_secs_f64().max(f64::MIN_POSITIVE);
    let predicted = predicted.map_or(String::new(), |predicted| format!(" (predicted {})", bytes(predicted)));
    format!(
        "{steps} steps in {}: {}, peak memory {}{predicted}, {:.1} % of the time waiting for data",
        duration(wall),
        rate(speed),
        bytes(peak),
        100.0 * waiting
    )
}

/// `12 samples/s`, `0.35 samples/s`.
pub fn rate(samples_per_second: f64) -> String {
    match samples_per_second {
        ..0.995 => format!("{samples_per_second:.2} samples/s"),
        ..9.95 => format!("{samples_per_second:.1} samples/s"),
        _ => format!("{samples_per_second:.0} samples/s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_follows_the_steps() {
        let mut pace = Pace::new(4);
        assert_eq!(pace.samples_per_second(), 0.0);
        let step = |seconds| Stages { forward: Duration::from_secs(seconds), ..Stages::default() };
        pace.take(step(2));
        assert!((pace.samples_per_second() - 2.0).abs() < 1e-9);
        pace.take(step(12));
        assert!((pace.samples_per_second() - 4.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn the_last_line_says_what_it_took() {
        let seconds = Duration::from_secs;
        let stages = Stages { data: seconds(1), forward: seconds(30), backward: seconds(60), optimizer: seconds(9) };
        let said = summary(50, seconds(185), 2, stages, 1_500_000_000, Some(1_400_000_000));
        let memory = "peak memory 1.5 GB (predicted 1.4 GB)";
        assert_eq!(said, format!("50 steps in 3 min 5 s: 1.0 samples/s, {memory}, 1.0 % of the time waiting for data"));
        assert_eq!(rate(0.012), "0.01 samples/s");
    }
}
