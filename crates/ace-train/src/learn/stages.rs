//! Where the time of training goes.

use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

/// Time of each stage of one step or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stages {
    /// Until the examples of the step were there: reading, encoding, drawing noise, bringing all of it to the device.
    pub data: Duration,
    /// Until the loss was known.
    pub forward: Duration,
    /// Until the gradients were there; with recomputation the blocks' second run too.
    pub backward: Duration,
    /// Adding up, clipping, the optimizer and the average. A device that works ahead still computes gradients here.
    pub optimizer: Duration,
}

impl Stages {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.data + self.forward + self.backward + self.optimizer
    }

    /// Each stage's name and its part of all, 0 to 1; all 0 if no time has passed.
    pub fn shares(&self) -> [(&'static str, f64); 4] {
        let total = self.total().as_secs_f64().max(f64::MIN_POSITIVE);
        let share = |stage: Duration| stage.as_secs_f64() / total;
        [
            ("data", share(self.data)),
            ("forward", share(self.forward)),
            ("backward", share(self.backward)),
            ("optimizer", share(self.optimizer)),
        ]
    }

    /// Adds the time since `begin` in which threads together spent `forward` and `backward`: each counts as its part of
    /// it.
    pub(super) fn measured(&mut self, begin: Instant, forward: Duration, backward: Duration) {
        let passed = begin.elapsed();
        let part = forward.as_secs_f64() / (forward + backward).as_secs_f64().max(f64::MIN_POSITIVE);
        let forward = passed.mul_f64(part.clamp(0.0, 1.0));
        self.forward += forward;
        self.backward += passed.saturating_sub(forward);
    }
}

impl AddAssign for Stages {
    fn add_assign(&mut self, other: Self) {
        self.data += other.data;
        self.forward += other.forward;
        self.backward += other.backward;
        self.optimizer += other.optimizer;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_whole() {
        let seconds = Duration::from_secs;
        let mut stages = Stages { data: seconds(1), forward: seconds(2), backward: seconds(5), optimizer: seconds(2) };
        assert_eq!(stages.shares().map(|(_, share)| share), [0.1, 0.2, 0.5, 0.2]);
        stages += stages;
        assert_eq!((stages.total(), stages.shares()[2]), (seconds(20), ("backward", 0.5)));
        assert_eq!(Stages::default().shares().map(|(_, share)| share), [0.0; 4]);
    }

    #[test]
    fn threads_share_the_time_that_passes() {
        let mut stages = Stages::default();
        let begin = Instant::now().checked_sub(Duration::from_secs(8)).unwrap();
        stages.measured(begin, Duration::from_secs(4), Duration::from_secs(12));
        let shares = stages.shares();
        assert!((shares[1].1 - 0.25).abs() < 1e-9 && (shares[2].1 - 0.75).abs() < 1e-9, "{shares:?}");
        assert!(stages.total() >= Duration::from_secs(8));
    }
}
