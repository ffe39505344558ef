//! How far the work is: a bar on a terminal, now and then a plain line where there is none.

use indicatif::{ProgressBar, ProgressStyle};
use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

/// Time between plain lines.
const PAUSE: Duration = Duration::from_secs(15);

/// Progress of one piece of work.
pub struct Progress {
    bar: ProgressBar,
    what: &'static str,
    of: u64,
    /// When it began, and from where: a resumed run has done nothing yet.
    begin: (Instant, u64),
    spoke: Instant,
}

impl Progress {
    /// `done` of `of` parts of `what` are done.
    pub fn new(what: &'static str, done: u64, of: u64) -> Self {
        let bar = if stderr().is_terminal() { ProgressBar::new(of) } else { ProgressBar::hidden() };
        let template = "{prefix} {wide_bar:.cyan/dim} {pos}/{len} {msg} {eta} left";
        // The template is a constant; if it did not parse, the default style would do as well.
        bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what);
        bar.set_position(done);
        bar.reset_eta();
        let now = Instant::now();
        Self { bar, what, of, begin: (now, done), spoke: now }
    }

    /// `done` parts are done; `message` says more about them.
    pub fn at(&mut self, done: u64, message: impl Into<String>) {
        let message = message.into();
        if stderr().is_terminal() {
            self.bar.set_message(if message.is_empty() { message } else { message + "," });
            self.bar.set_position(done);
        } else if self.spoke.elapsed() >= PAUSE {
            self.spoke = Instant::now();
            let left = left(self.begin.0.elapsed(), done.saturating_sub(self.begin.1), self.of.saturating_sub(done));
            let parts = [format!("{} {done}/{}", self.what, self.of), message, format!("{} left", duration(left))];
            eprintln!("{}", parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "));
        }
    }

    /// Names the part that is being worked on; only the bar shows it.
    pub fn name(&self, what: &'static str) {
        self.bar.set_prefix(what);
        self.bar.tick();
    }

    /// A line that stays, above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// How long `left` parts take if `done` took `elapsed`.
fn left(elapsed: Duration, done: u64, left: u64) -> Duration {
    elapsed.mul_f64(left as f64 / done.max(1) as f64)
}

/// `0.05 s`, `12 s`, `3 min 5 s`, `2 h 1 min`.
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    let whole = seconds.round() as u64;
    match seconds {
        ..9.95 if seconds < 0.0995 => format!("{seconds:.2} s"),
        ..9.95 => format!("{seconds:.1} s"),
        ..59.5 => format!("{whole} s"),
        ..3599.5 => format!("{} min {} s", whole / 60, whole % 60),
        _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_figures_worth_reading() {
        let said = |seconds| duration(Duration::from_secs_f64(seconds));
        assert_eq!([said(0.0123), said(0.64), said(9.99), said(59.4)], ["0.01 s", "0.6 s", "10 s", "59 s"]);
        assert_eq!([said(59.7), said(185.0), said(7300.0)], ["1 min 0 s", "3 min 5 s", "2 h 1 min"]);
    }

    #[test]
    fn what_is_left_follows_from_what_is_done() {
        assert_eq!(left(Duration::from_secs(10), 5, 20), Duration::from_secs(40));
        assert_eq!(left(Duration::from_secs(10), 0, 2), Duration::from_secs(20));
    }
}
