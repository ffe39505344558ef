//! Time that this program's threads have spent on a processor: what a shared machine says of a program, where the time on a
//! clock speaks of its neighbours too.

use std::{fs, ops::Sub};

/// Ticks of a second in what Linux tells programs, whatever the kernel's own are.
const TICKS: f64 = 100.0;

/// Seconds on a processor, of all threads together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Processor {
    /// In the program.
    pub user: f64,
    /// In the kernel on its behalf, as for memory that is touched the first time.
    pub kernel: f64,
}

impl Processor {
    /// Both.
    pub fn all(&self) -> f64 {
        self.user + self.kernel
    }
}

impl Sub for Processor {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { user: self.user - before.user, kernel: self.kernel - before.kernel }
    }
}

/// What this program has used, where the system tells.
pub fn used() -> Option<Processor> {
    parse(&fs::read_to_string("/proc/self/stat").ok()?)
}

fn parse(stat: &str) -> Option<Processor> {
    // The name of the program, in parentheses, may contain anything; behind it the first field is the third.
    let (_, fields) = stat.rsplit_once(')')?;
    let seconds = |field: usize| Some(fields.split_whitespace().nth(field - 3)?.parse::<f64>().ok()? / TICKS);
    Some(Processor { user: seconds(14)?, kernel: seconds(15)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_count_is_read() {
        let stat = "7 (a (b) c) R 1 2 3 0 -1 4194304 5 0 0 0 250 30 0 0 20 0 1 0";
        assert_eq!(parse(stat), Some(Processor { user: 2.5, kernel: 0.3 }));
        assert_eq!(parse("7 (a) R"), None);
    }
}
