//! How the process uses its memory: what it is asked for in, and when it goes back to the system.

use std::time::Duration;

/// How long after a change [`give_back`] has something to give: the allocator keeps pages that it
/// found free for a second (mimalloc's `purge_delay`).
pub const KEPT: Duration = Duration::from_secs(2);

/// The allocator asks for pages of 2 MiB, which the kernel fills whole for a few objects: with 5,000
/// Ingresses that is a third of all memory, for a program that is not bound by address translation.
pub fn without_huge_pages() {
    if let Err(error) = nix::sys::prctl::set_thp_disable(true) {
        tracing::debug!(%error, "can't do without huge pages; memory may be larger");
    }
}

/// Has pages that a change left free go back to the system.
///
/// The allocator does so once their time is up and it frees a page again. A daemon with little to do may
/// not free one for hours, and after 5,000 Ingresses were read half of its memory would be garbage.
pub fn give_back() {
    const PAGE: usize = 4 << 20;
    drop(std::hint::black_box(Vec::<u8>::with_capacity(PAGE)));
}
