//! Which channels of a supernet's tensors a subnet has.
//!
//! The first `n` of them, as long as nothing is concatenated. Behind a concatenation the channels
//! of each part keep the places that they have in the widest network:
//!
//! ```text
//! stored   a0 a1 a2 a3 b0 b1 b2
//! a subnet a0 a1       b0 b1        ranges 0..2, 4..6
//! ```
//!
//! Weights on such channels are gathered into a tensor of the subnet's own before they are used,
//! and their gradients scattered back. An extracted network's weights have no room between the
//! parts: they are read as they stand.

use std::ops::Range;

/// Ranges of stored channels, rising.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Channels {
    ranges: Vec<Range<usize>>,
}

impl Channels {
    /// The first `count`.
    pub fn first(count: usize) -> Self {
        Self {
            ranges: std::iter::once(0..count).collect(),
        }
    }

    /// These, then those of `right` from channel `offset` on.
    pub fn followed_by(&self, right: &Self, offset: usize) -> Self {
        let mut ranges = self.ranges.clone();
        for range in &right.ranges {
            let moved = range.start + offset..range.end + offset;
            match ranges.last_mut() {
                Some(last) if last.end == moved.start => last.end = moved.end,
                _ => ranges.push(moved),
            }
        }
        Self { ranges }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.ranges.iter().map(Range::len).sum()
    }

    /// How many channels must be stored to hold them.
    pub fn end(&self) -> usize {
        self.ranges.last().map_or(0, |range| range.end)
    }

    /// The places to read in a tensor of `stored` channels: these, or all if it has just as many.
    pub fn within(&self, stored: usize) -> Self {
        match stored == self.count() {
            true => Self::first(stored),
            false => self.clone(),
        }
    }

    /// Whether they are the first ones.
    pub fn are_first(&self) -> bool {
        self.ranges.len() == 1 && self.ranges[0].start == 0
    }

    /// The ranges.
    pub fn ranges(&self) -> &[Range<usize>] {
        &self.ranges
    }

    /// These channels of every row of `stride` values, for the first `rows` rows.
    pub fn gather(&self, from: &[f32], rows: usize, stride: usize) -> Vec<f32> {
        let mut to = Vec::with_capacity(rows * self.count());
        for row in from.chunks(stride).take(rows) {
            for range in &self.ranges {
                to.extend_from_slice(&row[range.clone()]);
            }
        }
        to
    }

    /// Adds gathered rows to where they were gathered from.
    pub fn scatter_add(&self, from: &[f32], to: &mut [f32], stride: usize) {
        for (source, target) in from.chunks_exact(self.count()).zip(to.chunks_mut(stride)) {
            let mut source = source.iter();
            for range in &self.ranges {
                for (value, addend) in target[range.clone()].iter_mut().zip(&mut source) {
                    *value += addend;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_their_places_and_scattering_is_the_transpose_of_gathering() {
        let channels = Channels::first(2).followed_by(&Channels::first(2), 4);
        assert_eq!(channels.ranges(), [0..2, 4..6]);
        assert_eq!((channels.count(), channels.end()), (4, 6));
        assert!(!channels.are_first() && channels.within(4).are_first());
        assert_eq!(channels.within(7), channels);
        let whole = Channels::first(4).followed_by(&Channels::first(3), 4);
        assert_eq!(whole, Channels::first(7));
        let stored: Vec<f32> = (0..14).map(|value| value as f32).collect();
        let gathered = channels.gather(&stored, 2, 7);
        assert_eq!(gathered, [0.0, 1.0, 4.0, 5.0, 7.0, 8.0, 11.0, 12.0]);
        let mut back = vec![0.0; 14];
        channels.scatter_add(&gathered, &mut back, 7);
        for (channel, value) in back.iter().enumerate() {
            let is_there = [0, 1, 4, 5].contains(&(channel % 7));
            assert_eq!(*value, if is_there { channel as f32 } else { 0.0 });
        }
    }
}
