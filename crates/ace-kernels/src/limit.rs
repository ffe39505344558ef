//! What a device allows one tensor to take.
//!
//! WebGPU promises 128 MiB per binding and many drivers give no more; a tensor beyond that cannot be made there. Who makes
//! large ones asks here first and makes several. burn's CPU backend has no such limit.

use burn::prelude::*;
use std::{cell::Cell, ops::Range};

thread_local! {
    /// What [`within`] says.
    static SAID: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The most bytes that one tensor may take on a device, if there is such a limit.
pub fn most_bytes(device: &Device) -> Option<usize> {
    SAID.get().or_else(|| own(device))
}

/// Runs `f` as if no device took tensors of more than so many bytes. It holds on this thread alone, and makes no larger
/// tensor an error: it is what a test has that wants to see small tensors divided.
pub fn within<T>(bytes: usize, f: impl FnOnce() -> T) -> T {
    /// Puts back what was said before, even if `f` panics.
    struct Before(Option<usize>);
    impl Drop for Before {
        fn drop(&mut self) {
            SAID.set(self.0);
        }
    }
    let _before = Before(SAID.replace(Some(bytes)));
    f()
}

/// Divides `count` things that take `bytes` each into as few runs as a device's limit allows, about equally long: all in one
/// where there is none.
pub fn runs(count: usize, bytes: usize, device: &Device) -> Vec<Range<usize>> {
    runs_within(count, bytes, most_bytes(device))
}

/// As [`runs`], within a limit of the caller's.
pub fn runs_within(count: usize, bytes: usize, most: Option<usize>) -> Vec<Range<usize>> {
    let at_once = most.map_or(count, |most| most / bytes.max(1)).max(1);
    let parts = count.div_ceil(at_once).max(1);
    let each = count.div_ceil(parts).max(1);
    (0..parts)
        .map(|part| (part * each).min(count)..((part + 1) * each).min(count))
        .filter(|run| !run.is_empty())
        .collect()
}

/// Tensors along an axis behind each other again.
pub fn join<const N: usize>(mut parts: Vec<Tensor<N>>, axis: usize) -> Tensor<N> {
    if parts.len() == 1 { parts.remove(0) } else { Tensor::cat(parts, axis) }
}

#[cfg(feature = "limit")]
fn own(device: &Device) -> Option<usize> {
    cube(device).map(|client| usize::try_from(client.properties().memory.max_page_size).unwrap_or(usize::MAX))
}

#[cfg(not(feature = "limit"))]
fn own(_device: &Device) -> Option<usize> {
    None
}

/// The largest piece of memory that a device gave so far, in bytes, where the device counts.
///
/// Every pool of the device says the largest request that it ever served, also those whose memory is gone.
#[cfg(feature = "limit")]
pub fn largest_allocation(device: &Device) -> Option<u64> {
    let report = cube(device)?.memory_report(cubecl::MemoryScope::Device);
    let pools = report.streams.iter().flat_map(|stream| {
        let auxiliary = stream.auxiliary.iter().map(|memory| &memory.pools);
        auxiliary
            .chain([&stream.pools])
            .flat_map(|pools| pools.dynamic.iter().chain([&pools.persistent, &pools.dedicated]))
    });
    pools.map(|pool| pool.largest_alloc).max()
}

/// The largest piece of memory that a device gave so far: this build has no device that counts.
#[cfg(not(feature = "limit"))]
pub fn largest_allocation(_device: &Device) -> Option<u64> {
    None
}

#[cfg(feature = "limit")]
fn cube(device: &Device) -> Option<cubecl::client::Client> {
    use burn::backend::DispatchDevice;
    match device.clone().inner().as_dispatch() {
        DispatchDevice::Cube(device) => Some(device.client()),
        #[allow(unreachable_patterns, reason = "whether there are others depends on what burn was built with")]
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::{most_bytes, runs_within, within};
    use crate::testing::device;

    #[test]
    #[allow(clippy::single_range_in_vec_init, reason = "a run is a range")]
    fn runs_are_as_few_as_the_limit_allows_and_leave_nothing_out() {
        for (count, bytes, most, expected) in [
            (10, 4, None, vec![0..10]),
            (10, 4, Some(40), vec![0..10]),
            (10, 4, Some(39), vec![0..5, 5..10]),
            (7, 4, Some(12), vec![0..3, 3..6, 6..7]),
            // What no limit can divide stays whole.
            (2, 100, Some(1), vec![0..1, 1..2]),
            (0, 4, Some(1), vec![]),
            // T5's table in f32, in bindings of 128 MiB.
            (32128, 4 * 4096, Some(128 << 20), vec![0..8032, 8032..16064, 16064..24096, 24096..32128]),
        ] {
            assert_eq!(runs_within(count, bytes, most), expected, "{count} of {bytes} bytes in {most:?}");
        }
    }

    #[test]
    fn a_limit_that_was_said_ends_with_what_it_was_said_for() {
        let before = most_bytes(&device());
        within(100, || {
            assert_eq!(most_bytes(&device()), Some(100));
            within(50, || assert_eq!(most_bytes(&device()), Some(50)));
            assert_eq!(most_bytes(&device()), Some(100));
        });
        assert_eq!(most_bytes(&device()), before);
    }
}
