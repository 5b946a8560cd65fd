//! Reused memory, so that a steady state allocates nothing large.

/// A pool of float buffers, taken best fit first.
#[derive(Default, Debug)]
pub(crate) struct BufferPool {
    /// Sorted by capacity.
    free: Vec<Vec<f32>>,
}

impl BufferPool {
    /// A buffer of `length` values; what they are is not specified.
    pub fn take(&mut self, length: usize) -> Vec<f32> {
        let at = self
            .free
            .partition_point(|buffer| buffer.capacity() < length);
        let mut buffer = if at < self.free.len() {
            self.free.remove(at)
        } else {
            Vec::with_capacity(length)
        };
        buffer.resize(length, 0.0);
        buffer
    }

    /// Takes a buffer back.
    pub fn give(&mut self, buffer: Vec<f32>) {
        let at = self
            .free
            .partition_point(|other| other.capacity() < buffer.capacity());
        self.free.insert(at, buffer);
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
