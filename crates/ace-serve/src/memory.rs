//! How much memory there is for another picture.

use std::fs;

/// Share of what is free that pictures which are made together may take, one part of so many.
const PART: u64 = 2;

/// Bytes for what pictures are computed with, as far as the system says what is free: on the processor that is what
/// matters, of a card nothing is known here and the number of pictures alone decides.
pub fn to_spare() -> Option<u64> {
    let said = fs::read_to_string("/proc/meminfo").ok()?;
    let line = said.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kib * 1024 / PART)
}
