//! Reused, aligned working memory of a thread.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

#[repr(align(64))]
#[derive(Clone, Copy)]
struct Line(#[allow(dead_code, reason = "read through a cast")] [f32; 16]);

/// Times that a buffer may be larger than what it is taken for.
const LARGER: usize = 4;
/// Lines that are never too many.
const SMALL: usize = 1024;
/// Buffers that a thread keeps; the smallest go first.
const MOST_FREE: usize = 64;

thread_local! {
    /// Sorted by size.
    static FREE: RefCell<Vec<Vec<Line>>> = const { RefCell::new(Vec::new()) };
}

/// Values of f32, aligned to 64 bytes.
#[derive(Clone)]
pub(crate) struct Panels {
    lines: Vec<Line>,
    length: usize,
}

impl Panels {
    pub fn zeros(length: usize) -> Self {
        Self {
            lines: vec![Line([0.0; 16]); length.div_ceil(16)],
            length,
        }
    }
}

impl PartialEq for Panels {
    fn eq(&self, other: &Self) -> bool {
        self[..] == other[..]
    }
}

impl std::fmt::Debug for Panels {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(formatter, "Panels({})", self.length)
    }
}

impl Deref for Panels {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        // SAFETY: the lines are at least `length` initialised values of f32.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.length) }
    }
}

impl DerefMut for Panels {
    fn deref_mut(&mut self) -> &mut [f32] {
        let pointer = self.lines.as_mut_ptr().cast();
        // SAFETY: the lines are at least `length` initialised values of f32, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(pointer, self.length) }
    }
}

/// A buffer of f32, aligned to 64 bytes, that goes back to its thread when dropped.
pub(crate) struct Scratch {
    panels: Panels,
}

impl Scratch {
    /// A buffer of `length` values; what they are is not specified.
    pub fn take(length: usize) -> Self {
        let needed = length.div_ceil(16);
        let known = FREE.with_borrow_mut(|free| {
            let at = free.partition_point(|lines| lines.len() < needed);
            let most = (LARGER * needed).max(SMALL);
            (free.get(at)?.len() <= most).then(|| free.remove(at))
        });
        let lines = known.unwrap_or_else(|| vec![Line([0.0; 16]); needed]);
        Self {
            panels: Panels { lines, length },
        }
    }

    /// Its memory as bytes.
    pub fn as_bytes_mut(&mut self) -> &mut [u8] {
        let values: &mut [f32] = self;
        // SAFETY: every pattern of bytes is an f32 and a row of bytes, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
    }

    /// A buffer of `length` zeros.
    pub fn zeros(length: usize) -> Self {
        let mut scratch = Self::take(length);
        scratch.fill(0.0);
        scratch
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut self.panels.lines);
        // A thread that is going away has no list to return to.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            let at = free.partition_point(|other| other.len() < lines.len());
            free.insert(at, lines);
            if free.len() > MOST_FREE {
                free.remove(0);
            }
        });
    }
}

/// Sums in f64, in such a buffer.
pub(crate) struct ScratchSums {
    scratch: Scratch,
}

impl ScratchSums {
    /// `length` zeros.
    pub fn zeros(length: usize) -> Self {
        Self {
            scratch: Scratch::zeros(2 * length),
        }
    }
}

impl Deref for ScratchSums {
    type Target = [f64];

    fn deref(&self) -> &[f64] {
        let values: &[f32] = &self.scratch;
        // SAFETY: aligned to 64 bytes; every pattern of bytes is an f64, two f32 long.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), values.len() / 2) }
    }
}

impl DerefMut for ScratchSums {
    fn deref_mut(&mut self) -> &mut [f64] {
        let values: &mut [f32] = &mut self.scratch;
        // SAFETY: as above, borrowed mutably.
        unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len() / 2) }
    }
}

impl Deref for Scratch {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.panels
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.panels
    }
}
