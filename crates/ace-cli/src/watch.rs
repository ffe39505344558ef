//! The most memory of a part of the work. The allocator knows the most of the whole program; while a part stays below that,
//! a thread looks at it every millisecond.

use crate::memory;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Looks at the program's memory until it is stopped.
pub struct Watch {
    before: u64,
    most: Arc<AtomicU64>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Begins.
    pub fn start() -> Self {
        let (most, is_over) = (Arc::new(AtomicU64::new(memory::allocated())), Arc::new(AtomicBool::new(false)));
        let (of_thread, until) = (most.clone(), is_over.clone());
        let thread = thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                of_thread.fetch_max(memory::allocated(), Ordering::Relaxed);
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self { before: memory::peak(), most, is_over, thread: Some(thread) }
    }

    /// The most since the last time that this was asked, or the beginning.
    pub fn lap(&mut self) -> u64 {
        let peak = memory::peak();
        let seen = self.most.swap(memory::allocated(), Ordering::Relaxed);
        // A new height of the whole program is exact.
        let lap = if peak > self.before { peak } else { seen };
        self.before = peak;
        lap
    }

    /// The most since then, and no more is looked at.
    pub fn stop(mut self) -> u64 {
        self.lap()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_has_a_height_of_its_own() {
        const MANY: u64 = 64 << 20;
        let mut watch = Watch::start();
        let block = vec![1u8; MANY as usize];
        thread::sleep(Duration::from_millis(50));
        drop(block);
        // Tests beside this one allocate too, but not all of the time so much.
        assert!(watch.lap() >= MANY);
        assert!(watch.stop() > 0);
    }
}
