//! How many bytes a program holds: what its allocator gave, and bytes of files that its tensors borrow.
//!
//! A program says `#[global_allocator] static A: Counted<Pages> = Counted::new(Pages::new());`. Where none says so, only what is
//! borrowed is counted.

use std::{
    alloc::{GlobalAlloc, Layout},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

static NOW: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Bytes that are held now.
pub fn held() -> u64 {
    NOW.load(Relaxed) as u64
}

/// The most bytes that were ever held at once.
pub fn most_held() -> u64 {
    MOST.load(Relaxed) as u64
}

fn add(bytes: usize) {
    let now = NOW.fetch_add(bytes, Relaxed) + bytes;
    // Nearly always below: then nobody waits for a line that all cores write.
    if now > MOST.load(Relaxed) {
        MOST.fetch_max(now, Relaxed);
    }
}

fn remove(bytes: usize) {
    NOW.fetch_sub(bytes, Relaxed);
}

/// Bytes of a file that are used where they lie, for as long as this lives.
#[derive(Debug)]
pub struct Borrowed(usize);

impl Borrowed {
    /// Counts so many.
    pub fn new(bytes: usize) -> Self {
        add(bytes);
        Self(bytes)
    }
}

impl Drop for Borrowed {
    fn drop(&mut self) {
        remove(self.0);
    }
}

/// An allocator whose blocks are counted: an atomic addition each, next to nothing beside a tensor.
#[derive(Debug, Default)]
pub struct Counted<A>(A);

impl<A> Counted<A> {
    /// Counts what `allocator` gives.
    pub const fn new(allocator: A) -> Self {
        Self(allocator)
    }
}

// SAFETY: every block is the inner allocator's, asked for and given back with the same layout; counting allocates nothing.
#[allow(unsafe_code)]
unsafe impl<A: GlobalAlloc> GlobalAlloc for Counted<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as this function's.
        let block = unsafe { self.0.alloc(layout) };
        if !block.is_null() {
            add(layout.size());
        }
        block
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as this function's.
        let block = unsafe { self.0.alloc_zeroed(layout) };
        if !block.is_null() {
            add(layout.size());
        }
        block
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as this function's.
        unsafe { self.0.dealloc(block, layout) };
        remove(layout.size());
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as this function's.
        let moved = unsafe { self.0.realloc(block, layout, size) };
        if !moved.is_null() {
            remove(layout.size());
            add(size);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::alloc::System;

    #[test]
    #[allow(unsafe_code)]
    fn blocks_and_borrowed_bytes_are_counted_until_they_are_given_back() {
        // No allocator of this test is counted, so nothing else moves the numbers.
        let (counted, layout) = (Counted::new(System), Layout::from_size_align(1000, 8).unwrap());
        let before = held();
        // SAFETY: each block is given back with the layout that it has.
        unsafe {
            let block = counted.alloc(layout);
            assert_eq!(held() - before, 1000);
            let block = counted.realloc(block, layout, 3000);
            assert_eq!(held() - before, 3000);
            counted.dealloc(block, Layout::from_size_align(3000, 8).unwrap());
        }
        let borrowed = Borrowed::new(5000);
        assert_eq!(held() - before, 5000);
        drop(borrowed);
        assert_eq!(held(), before);
        assert!(most_held() >= before + 5000);
    }
}
