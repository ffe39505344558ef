//! An allocator for programs that compute with large tensors.
//!
//! Every operation on tensors makes new ones, of the same few sizes again and again. The system's allocator gives large
//! blocks back at once and asks for them anew, and then each page of 4 KiB costs a fault when it is first written: a
//! tenth of the time of an edit. Here blocks of some megabytes lie in huge pages where the system has them, which makes
//! one fault of 512, and some of those that were freed wait for the next of their size.
//!
//! A program says `#[global_allocator] static A: Pages = Pages::new();`. Smaller blocks, and other systems than Linux, are
//! the system allocator's.

use std::alloc::{GlobalAlloc, Layout, System};

/// The allocator.
#[derive(Debug, Default)]
pub struct Pages {
    #[cfg(target_os = "linux")]
    kept: std::sync::Mutex<large::Kept>,
}

impl Pages {
    /// With nothing kept yet.
    pub const fn new() -> Self {
        Self {
            #[cfg(target_os = "linux")]
            kept: std::sync::Mutex::new(large::Kept::NONE),
        }
    }
}

#[cfg(not(target_os = "linux"))]
// SAFETY: it is the system's.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Pages {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as this function's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as this function's.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as this function's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as this function's.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[cfg(target_os = "linux")]
mod large {
    use super::{GlobalAlloc, Layout, Pages, System};
    use std::ptr;

    /// A huge page.
    const HUGE: usize = 2 << 20;
    /// A page.
    const PAGE: usize = 4 << 10;
    /// Blocks from here on are large.
    const LARGE: usize = 2 * HUGE;
    /// Bytes of blocks that wait at most.
    const MOST: usize = 256 << 20;
    /// Blocks that wait at most.
    const SLOTS: usize = 64;

    /// Blocks that were freed: address and bytes, the oldest first.
    #[derive(Debug)]
    pub struct Kept {
        blocks: [(usize, usize); SLOTS],
        count: usize,
        bytes: usize,
    }

    impl Default for Kept {
        fn default() -> Self {
            Self::NONE
        }
    }

    impl Kept {
        pub const NONE: Self = Self { blocks: [(0, 0); SLOTS], count: 0, bytes: 0 };

        fn remove(&mut self, at: usize) -> (usize, usize) {
            let block = self.blocks[at];
            self.blocks.copy_within(at + 1..self.count, at);
            self.count -= 1;
            self.bytes -= block.1;
            block
        }

        /// The youngest block of exactly that size: what is left of it in the caches is warm.
        fn take(&mut self, bytes: usize) -> Option<usize> {
            let at = self.blocks[..self.count].iter().rposition(|block| block.1 == bytes)?;
            Some(self.remove(at).0)
        }

        /// Keeps a block, and gives back the oldest ones as long as there are too many.
        fn put(&mut self, address: usize, bytes: usize) {
            while self.count > 0 && (self.count == SLOTS || self.bytes + bytes > MOST) {
                let (address, bytes) = self.remove(0);
                unmap(address, bytes);
            }
            if bytes > MOST {
                return unmap(address, bytes);
            }
            self.blocks[self.count] = (address, bytes);
            self.count += 1;
            self.bytes += bytes;
        }
    }

    /// Pages from a huge page's border on, filled with zeros; null if there are none. What is left behind the last whole huge
    /// page stays small pages, so that nothing is wasted.
    fn map(bytes: usize) -> *mut u8 {
        // One more, of which what is before the first border and behind the last goes back.
        let Some(room) = bytes.checked_add(HUGE) else { return ptr::null_mut() };
        // SAFETY: a new mapping touches nothing that exists.
        #[allow(unsafe_code)]
        let start = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), room, access, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return ptr::null_mut();
        }
        let start = start as usize;
        let first = start.next_multiple_of(HUGE);
        if first > start {
            unmap(start, first - start);
        }
        if start + room > first + bytes {
            unmap(first + bytes, start + room - first - bytes);
        }
        // SAFETY: advice on the new mapping; a system that does not know it keeps small pages.
        #[allow(unsafe_code)]
        unsafe {
            libc::madvise(first as *mut libc::c_void, bytes, libc::MADV_HUGEPAGE);
        }
        first as *mut u8
    }

    fn unmap(address: usize, bytes: usize) {
        // SAFETY: callers have mapped these pages and use them no more.
        #[allow(unsafe_code)]
        let failed = unsafe { libc::munmap(address as *mut libc::c_void, bytes) };
        debug_assert_eq!(failed, 0, "pages of {bytes} bytes are not given back");
    }

    fn is_large(layout: Layout) -> bool {
        layout.size() >= LARGE && layout.align() <= HUGE
    }

    /// Bytes of the pages of a block.
    fn rounded(layout: Layout) -> usize {
        layout.size().next_multiple_of(PAGE)
    }

    impl Pages {
        /// A kept block and whether it is one, or a new one.
        fn large(&self, layout: Layout) -> (*mut u8, bool) {
            let bytes = rounded(layout);
            // A thread cannot panic while it holds the lock; if one did, its list would still be whole.
            let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            match kept.take(bytes) {
                Some(address) => (address as *mut u8, true),
                None => {
                    drop(kept);
                    (map(bytes), false)
                }
            }
        }
    }

    // SAFETY: large blocks are pages of their own, aligned to more than what was asked for, and given back to nobody but
    // the system or the next who asks; all others are the system allocator's.
    #[allow(unsafe_code)]
    unsafe impl GlobalAlloc for Pages {
        unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
            if is_large(layout) {
                return self.large(layout).0;
            }
            // SAFETY: as this function's.
            unsafe { System.alloc(layout) }
        }

        unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
            if is_large(layout) {
                let (block, used) = self.large(layout);
                if used && !block.is_null() {
                    // SAFETY: a block of at least that size, nobody else's.
                    unsafe { block.write_bytes(0, layout.size()) };
                }
                return block;
            }
            // SAFETY: as this function's.
            unsafe { System.alloc_zeroed(layout) }
        }

        unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
            if is_large(layout) {
                let mut kept = self.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                return kept.put(block as usize, rounded(layout));
            }
            // SAFETY: a block of the system allocator's, as it is not large.
            unsafe { System.dealloc(block, layout) }
        }

        unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
            // SAFETY: the same alignment, and callers have seen to the size.
            let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
            match (is_large(layout), is_large(new)) {
                // SAFETY: a block of the system allocator's stays one.
                (false, false) => unsafe { System.realloc(block, layout, size) },
                (true, true) if rounded(layout) == rounded(new) => block,
                _ => {
                    // SAFETY: a new block, the smaller size copied, the old one freed.
                    unsafe {
                        let to = self.alloc(new);
                        if !to.is_null() {
                            ptr::copy_nonoverlapping(block, to, size.min(layout.size()));
                            self.dealloc(block, layout);
                        }
                        to
                    }
                }
            }
        }
    }

    #[cfg(test)]
    mod tests {
        use super::{HUGE, Kept, LARGE, MOST, Pages, SLOTS, map, unmap};
        use std::alloc::{GlobalAlloc, Layout};

        #[test]
        fn large_blocks_are_aligned_writable_and_found_again() {
            let pages = Pages::new();
            let layout = Layout::from_size_align(LARGE + 5, 64).expect("a layout");
            // SAFETY: each block is used within its size, and freed once.
            #[allow(unsafe_code)]
            unsafe {
                let block = pages.alloc(layout);
                assert!(!block.is_null() && (block as usize).is_multiple_of(HUGE));
                block.write_bytes(7, layout.size());
                pages.dealloc(block, layout);
                let zeros = pages.alloc_zeroed(layout);
                assert_eq!(zeros, block, "the same pages again");
                assert!((0..layout.size()).all(|i| *zeros.add(i) == 0));
                // It grows within its pages, and then into others.
                zeros.write(9);
                let grown = pages.realloc(zeros, layout, LARGE + 6);
                assert_eq!(grown, zeros);
                let layout = Layout::from_size_align(LARGE + 6, 64).expect("a layout");
                let moved = pages.realloc(grown, layout, 3 * LARGE);
                assert_eq!((*moved, *moved.add(1)), (9, 0));
                // And back to a small one.
                let layout = Layout::from_size_align(3 * LARGE, 64).expect("a layout");
                let small = pages.realloc(moved, layout, 100);
                assert_eq!(*small, 9);
                pages.dealloc(small, Layout::from_size_align(100, 64).expect("a layout"));
            }
        }

        #[test]
        fn what_waits_is_bounded() {
            let mut kept = Kept::NONE;
            let fill = |kept: &mut Kept, bytes| kept.put(map(bytes) as usize, bytes);
            (0..SLOTS + 3).for_each(|_| fill(&mut kept, LARGE));
            assert!(kept.count <= SLOTS && kept.bytes <= MOST && kept.count * LARGE == kept.bytes);
            fill(&mut kept, MOST);
            assert_eq!((kept.count, kept.bytes), (1, MOST), "the oldest have gone");
            assert!(kept.take(LARGE).is_none());
            let last = kept.take(MOST).expect("it was kept");
            unmap(last, MOST);
            fill(&mut kept, MOST + HUGE);
            assert_eq!(kept.count, 0, "one that is too large is not kept");
        }
    }
}
