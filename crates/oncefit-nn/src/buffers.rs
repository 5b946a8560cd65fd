//! Reused memory, so that a steady state allocates nothing large.

use std::ops::{Deref, DerefMut};

/// Values in memory that is lent; there may be more memory than values, and what it holds at first is
/// not specified.
#[derive(Clone, Default, Debug)]
pub(crate) struct Buffer {
    memory: Vec<f32>,
    length: usize,
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[..self.length]
    }
}

/// A pool of float buffers, taken best fit first.
#[derive(Default, Debug)]
pub(crate) struct BufferPool {
    /// Sorted by size.
    free: Vec<Vec<f32>>,
}

impl BufferPool {
    /// A buffer of `length` values; what they are is not specified.
    pub fn take(&mut self, length: usize) -> Buffer {
        let at = self.free.partition_point(|memory| memory.len() < length);
        let memory = if at < self.free.len() {
            self.free.remove(at)
        } else {
            vec![0.0; length]
        };
        Buffer { memory, length }
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Buffer) {
        let length = buffer.memory.len();
        let at = self.free.partition_point(|other| other.len() < length);
        self.free.insert(at, buffer.memory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_state_allocates_nothing() {
        let mut pool = BufferPool::default();
        let lengths = [100, 3, 50];
        let first: Vec<_> = lengths.map(|length| pool.take(length)).into();
        let mut places: Vec<_> = first.iter().map(|buffer| buffer.as_ptr()).collect();
        first.into_iter().for_each(|buffer| pool.give(buffer));
        let again = [40, 2, 99].map(|length| pool.take(length));
        assert_eq!(again.each_ref().map(|buffer| buffer.len()), [40, 2, 99]);
        let mut again: Vec<_> = again.iter().map(|buffer| buffer.as_ptr()).collect();
        places.sort();
        again.sort();
        assert_eq!(places, again);
    }
}
