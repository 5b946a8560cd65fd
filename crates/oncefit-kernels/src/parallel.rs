//! Work in chunks whose borders follow from shapes alone.

use std::marker::PhantomData;
use std::ops::Range;

use rayon::prelude::*;

use crate::team;

/// Below this many floating-point operations, handing work to other threads costs more than it
/// saves.
const SERIAL_OPERATIONS: usize = 200_000;

/// Runs `work` for each chunk, on all threads if there is enough of it (`operations` in all).
pub(crate) fn for_each_chunk(chunks: usize, operations: usize, work: impl Fn(usize) + Sync) {
    if chunks <= 1 || operations < SERIAL_OPERATIONS || is_alone() {
        (0..chunks).for_each(work);
    } else if !team::share(chunks, &work) {
        (0..chunks).into_par_iter().for_each(&work);
    }
}

thread_local! {
    static ALONE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// Runs `work` with kernels that keep to this thread: for callers that have work for all threads.
pub fn on_one_thread<R>(work: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            ALONE.set(self.0);
        }
    }
    let _restore = Restore(ALONE.replace(true));
    work()
}

/// Whether kernels keep to this thread.
pub(crate) fn is_alone() -> bool {
    ALONE.get()
}

/// Runs `work` on a thread of the pool. A kernel that is called from outside waits, asleep, until a
/// thread of the pool has woken up; a sequence of kernels should pay for that once.
pub fn in_pool<R: Send>(work: impl FnOnce() -> R + Send) -> R {
    match rayon::current_thread_index() {
        Some(_) => work(),
        None => rayon::scope(|_| work()),
    }
}

/// The items of chunk `index` when `items` are cut into `chunks` nearly equal chunks.
pub(crate) fn chunk_range(items: usize, chunks: usize, index: usize) -> Range<usize> {
    items * index / chunks..items * (index + 1) / chunks
}

/// A slice that chunks write to, each its own part.
#[derive(Clone, Copy)]
pub(crate) struct Parts<'a, T> {
    pointer: *mut T,
    length: usize,
    life: PhantomData<&'a mut [T]>,
}

// SAFETY: a part is handed out under the promise that no two threads hold the same elements.
unsafe impl<T: Send> Sync for Parts<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Send> Send for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub fn new(slice: &'a mut [T]) -> Self {
        Self {
            pointer: slice.as_mut_ptr(),
            length: slice.len(),
            life: PhantomData,
        }
    }

    /// Where element `at` lies.
    pub fn pointer(&self, at: usize) -> *mut T {
        assert!(at <= self.length, "an element lies in its slice");
        self.pointer.wrapping_add(at)
    }

    /// The elements of `range`.
    ///
    /// # Safety
    /// No two parts that live at the same time may overlap.
    pub unsafe fn part(&self, range: Range<usize>) -> &'a mut [T] {
        assert!(
            range.start <= range.end && range.end <= self.length,
            "a part lies in its slice"
        );
        // SAFETY: in bounds by the assertion, not shared by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.add(range.start), range.len()) }
    }
}

/// Adds per-chunk pairs of channel sums, in chunk order.
pub(crate) fn merge_sums(partial: &[f64], sums: &mut crate::types::ChannelSums) {
    let channels = sums.first.len();
    sums.clear();
    for pair in partial.chunks_exact(2 * channels.max(1)) {
        let (first, second) = pair.split_at(channels);
        sums.first
            .iter_mut()
            .zip(first)
            .for_each(|(sum, value)| *sum += value);
        sums.second
            .iter_mut()
            .zip(second)
            .for_each(|(sum, value)| *sum += value);
    }
}
