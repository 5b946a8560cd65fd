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

    /// The places of these channels in a map of `stored` channels, pixel by pixel: those of its
    /// `height` first rows, of each the first `width` of `stored_width` pixels.
    pub(crate) fn of_pixels(
        &self,
        (height, width): (usize, usize),
        stored_width: usize,
        stored: usize,
    ) -> Self {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for row in 0..height {
            for column in 0..width {
                let offset = (row * stored_width + column) * stored;
                for range in &self.ranges {
                    let moved = range.start + offset..range.end + offset;
                    match ranges.last_mut() {
                        Some(last) if last.end == moved.start => last.end = moved.end,
                        _ => ranges.push(moved),
                    }
                }
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

/// The part of a dense convolution's stored weight, `[out, k, k, in]`, that a subnet has: the centre
/// of the kernel, as a smaller depthwise kernel without transform is made (Once-for-All §3.3), and
/// some input channels.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct WeightPart {
    pub channels: Channels,
    pub stored_kernel: usize,
    pub kernel: usize,
}

impl WeightPart {
    /// The stored taps of one output channel, row by row.
    pub fn taps(&self) -> impl Iterator<Item = usize> + use<> {
        let (stored, kernel) = (self.stored_kernel, self.kernel);
        let border = (stored - kernel) / 2;
        let rows = border..border + kernel;
        rows.flat_map(move |row| (0..kernel).map(move |column| row * stored + border + column))
    }

    /// Where the rows of `stride` values of the first `outputs` output channels begin.
    fn rows(&self, outputs: usize, stride: usize) -> impl Iterator<Item = usize> {
        let area = self.stored_kernel * self.stored_kernel;
        (0..outputs)
            .flat_map(move |output| self.taps().map(move |tap| (output * area + tap) * stride))
    }

    /// Values of the part for `outputs` output channels.
    pub fn len(&self, outputs: usize) -> usize {
        outputs * self.kernel * self.kernel * self.channels.count()
    }

    /// Copies the part for as many output channels as `to` has room for.
    pub fn gather(&self, from: &[f32], stride: usize, to: &mut [f32]) {
        let outputs = to.len() / self.len(1);
        let rows = to.chunks_exact_mut(self.channels.count());
        for (to, start) in rows.zip(self.rows(outputs, stride)) {
            let mut at = 0;
            for range in self.channels.ranges() {
                let values = &from[start + range.start..start + range.end];
                to[at..at + values.len()].copy_from_slice(values);
                at += values.len();
            }
        }
    }

    /// Adds a part to where it was gathered from.
    pub fn scatter_add(&self, from: &[f32], to: &mut [f32], stride: usize) {
        let row = self.channels.count();
        let outputs = from.len() / (self.kernel * self.kernel * row);
        for (source, start) in from.chunks_exact(row).zip(self.rows(outputs, stride)) {
            let target = &mut to[start..];
            self.channels.scatter_add(source, target, stride);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_weights_are_centres_of_kernels() {
        let part = WeightPart {
            channels: Channels::first(1).followed_by(&Channels::first(1), 2),
            stored_kernel: 3,
            kernel: 1,
        };
        assert_eq!(part.taps().collect::<Vec<_>>(), [4]);
        // Two output channels, 3×3 taps, three stored input channels.
        let stored: Vec<f32> = (0..54).map(|value| value as f32).collect();
        let mut own = vec![0.0; part.len(2)];
        part.gather(&stored, 3, &mut own);
        assert_eq!(own, [12.0, 14.0, 39.0, 41.0]);
        let mut back = vec![0.0; 54];
        part.scatter_add(&[1.0, 2.0, 3.0, 4.0], &mut back, 3);
        let written = back.iter().enumerate().filter(|(_, value)| **value != 0.0);
        assert_eq!(
            written.map(|(at, value)| (at, *value)).collect::<Vec<_>>(),
            [(12, 1.0), (14, 2.0), (39, 3.0), (41, 4.0)]
        );
    }

    #[test]
    fn channels_of_pixels_are_those_of_the_leading_pixels() {
        let channels = Channels::first(1).followed_by(&Channels::first(1), 2);
        // A 2×2 part of a map three pixels wide, of three channels.
        assert_eq!(
            channels.of_pixels((2, 2), 3, 3).ranges(),
            [0..1, 2..4, 5..6, 9..10, 11..13, 14..15]
        );
        let whole = Channels::first(3).of_pixels((2, 3), 3, 3);
        assert_eq!(whole, Channels::first(18));
    }

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
