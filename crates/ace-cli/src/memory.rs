//! Memory of this program: what it holds, counted at every allocation, and what the system counts.

use ace_kernels::{Counted, Pages, counted};
use std::fs;

/// Blocks that [`Pages`] keeps for the next of their size, 256 MiB at most, are not counted.
#[global_allocator]
static ALLOCATOR: Counted<Pages> = Counted::new(Pages::new());

/// Bytes that are held now: allocated, or weights that are used where they lie in their file.
pub fn allocated() -> u64 {
    counted::held()
}

/// The most bytes that were ever held at once.
pub fn peak() -> u64 {
    counted::most_held()
}

/// What the system counts of this program: also its code, mapped files that were read, and what the allocator holds back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resident {
    /// Bytes now.
    pub now: u64,
    /// The most bytes so far.
    pub peak: u64,
}

/// What the system counts, where it tells.
pub fn resident() -> Option<Resident> {
    parse(&fs::read_to_string("/proc/self/status").ok()?)
}

fn parse(status: &str) -> Option<Resident> {
    let kilobytes = |field: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(field))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    Some(Resident { now: kilobytes("VmRSS:")? * 1024, peak: kilobytes("VmHWM:")? * 1024 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allocated_is_counted() {
        const MANY: u64 = 100 << 20;
        let (before, block) = (peak(), vec![1u8; MANY as usize]);
        // Tests beside this one allocate too, but nothing of that size.
        assert!(allocated() >= MANY && peak() >= before.max(MANY));
        drop(block);
        assert!(allocated() < peak());
    }

    #[test]
    fn the_systems_count_is_read() {
        let status = "Name:\tace\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(parse(status), Some(Resident { now: 1 << 20, peak: 2 << 20 }));
        assert_eq!(parse("Name:\tace\n"), None);
    }
}
