//! An allocator that notes how much is asked for: for tests of what a step allocates.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

/// The system's allocator, noting the sizes of requests of all threads.
///
/// ```
/// use oncefit_kernels::NotingAllocator;
///
/// #[global_allocator]
/// static ALLOCATOR: NotingAllocator = NotingAllocator::new();
///
/// let kept = vec![1u8; 100];
/// ALLOCATOR.reset();
/// let more = vec![1u8; 5000];
/// assert!(ALLOCATOR.largest() >= 5000 && ALLOCATOR.bytes() >= 5000);
/// # drop((kept, more));
/// ```
#[derive(Debug, Default)]
pub struct NotingAllocator {
    largest: AtomicUsize,
    bytes: AtomicUsize,
}

impl NotingAllocator {
    /// One that has noted nothing.
    pub const fn new() -> Self {
        Self {
            largest: AtomicUsize::new(0),
            bytes: AtomicUsize::new(0),
        }
    }

    /// Forgets what was noted.
    pub fn reset(&self) {
        self.largest.store(0, Ordering::SeqCst);
        self.bytes.store(0, Ordering::SeqCst);
    }

    /// Bytes of the largest request since it was reset.
    pub fn largest(&self) -> usize {
        self.largest.load(Ordering::SeqCst)
    }

    /// Bytes of all requests since it was reset.
    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }

    fn note(&self, bytes: usize) {
        self.largest.fetch_max(bytes, Ordering::SeqCst);
        self.bytes.fetch_add(bytes, Ordering::SeqCst);
    }
}

// SAFETY: every request goes to the system's allocator as it came; counting does not allocate.
unsafe impl GlobalAlloc for NotingAllocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        self.note(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.note(layout.size());
        // SAFETY: the caller's.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        self.note(size);
        // SAFETY: the caller's.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(pointer, layout) }
    }
}
