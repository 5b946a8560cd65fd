//! Reused memory, so that a steady state allocates nothing large.

use std::ops::{Deref, DerefMut};

/// Values in memory that is lent; there may be more memory than values, and what it holds at first is
/// not specified.
#[derive(Clone, Default, Debug)]
pub(crate) struct Buffer<T = f32> {
    memory: Vec<T>,
    length: usize,
}

impl<T> Deref for Buffer<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.memory[..self.length]
    }
}

impl<T> DerefMut for Buffer<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[..self.length]
    }
}

/// Times that a buffer may be larger than what it is taken for: a larger one would be held for
/// little, and missed by the next that needs it.
const LARGER: usize = 2;
/// Lengths that are never too large.
const SMALL: usize = 4096;

/// A pool of buffers, taken best fit first.
#[derive(Default, Debug)]
pub(crate) struct BufferPool<T = f32> {
    /// Sorted by size.
    free: Vec<Vec<T>>,
}

impl<T: Clone + Default> BufferPool<T> {
    /// A buffer of `length` values; what they are is not specified.
    pub fn take(&mut self, length: usize) -> Buffer<T> {
        let at = self.free.partition_point(|memory| memory.len() < length);
        let fits = |memory: &Vec<T>| memory.len() <= (LARGER * length).max(SMALL);
        let memory = if self.free.get(at).is_some_and(fits) {
            self.free.remove(at)
        } else {
            vec![T::default(); length]
        };
        Buffer { memory, length }
    }

    /// Bytes of the buffers that are free.
    pub fn bytes(&self) -> usize {
        self.free
            .iter()
            .map(|memory| size_of_val(&memory[..]))
            .sum()
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Buffer<T>) {
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
        let mut pool = BufferPool::<f32>::default();
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
