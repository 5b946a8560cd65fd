//! Bilinear resizing with half-pixel centres, antialiased when it shrinks.
//!
//! For each axis, with scale s = old / new, pixel j of the result lies at c = (j + ½)·s of the
//! source and is the weighted mean of the source pixels i with weights
//!
//! `w_i = max(0, 1 − |i + ½ − c| / max(s, 1))`, divided by their sum.
//!
//! Enlarging interpolates between two neighbours; shrinking widens the triangle to s pixels on
//! both sides, so every source pixel counts. The two axes are independent and done in turn, rows
//! first. An axis that keeps its size is copied exactly.
//!
//! ```
//! use oncefit_data::{ImageShape, Resize};
//! let resize = Resize::new(ImageShape { height: 1, width: 2, channels: 1 }, 1, 4)?;
//! let mut out = [0.0; 4];
//! resize.apply(&[0, 100], &mut Vec::new(), &mut out);
//! assert_eq!(out, [0.0, 25.0, 75.0, 100.0]);
//! # Ok::<(), oncefit_data::DataError>(())
//! ```

use crate::dataset::ImageShape;
use crate::error::{Result, at_least_one};

/// The weights that take images of one shape to another size.
#[derive(Clone, Debug)]
pub struct Resize {
    shape: ImageShape,
    /// For each column of the result.
    columns: Vec<Taps>,
    /// For each row of the result.
    rows: Vec<Taps>,
}

/// Which neighbouring source pixels make one pixel, and with which weights.
#[derive(Clone, Debug)]
struct Taps {
    first: usize,
    weights: Vec<f32>,
}

impl Resize {
    /// From images of `shape` to `height` × `width`, the same channels.
    ///
    /// # Errors
    /// If `height` or `width` is 0.
    pub fn new(shape: ImageShape, height: usize, width: usize) -> Result<Self> {
        Ok(Self {
            shape,
            columns: taps(shape.width, at_least_one("resized width", width)?),
            rows: taps(shape.height, at_least_one("resized height", height)?),
        })
    }

    /// Shape of the result.
    pub fn output_shape(&self) -> ImageShape {
        ImageShape {
            height: self.rows.len(),
            width: self.columns.len(),
            channels: self.shape.channels,
        }
    }

    /// True if the size stays, so that the result is the source.
    pub fn is_identity(&self) -> bool {
        self.output_shape() == self.shape
    }

    /// Resizes one image (H, W, C) into `out`, in units of bytes (0 to 255), not rounded.
    ///
    /// `scratch` is overwritten; passing the same vector again saves its allocation.
    ///
    /// # Panics
    /// If `image` or `out` has another size than the shapes say.
    pub fn apply(&self, image: &[u8], scratch: &mut Vec<f32>, out: &mut [f32]) {
        assert_eq!(
            image.len(),
            self.shape.bytes(),
            "bytes of the image to resize"
        );
        assert_eq!(
            out.len(),
            self.output_shape().bytes(),
            "values of the resized image"
        );
        if self.is_identity() {
            for (out, value) in out.iter_mut().zip(image) {
                *out = f32::from(*value);
            }
            return;
        }
        let channels = self.shape.channels;
        let out_row = self.columns.len() * channels;
        scratch.clear();
        scratch.resize(self.shape.height * out_row, 0.0);
        let in_rows = image.chunks_exact(self.shape.width * channels);
        for (narrow, row) in scratch.chunks_exact_mut(out_row).zip(in_rows) {
            for (pixel, taps) in narrow.chunks_exact_mut(channels).zip(&self.columns) {
                let sources = row[taps.first * channels..].chunks_exact(channels);
                for (source, weight) in sources.zip(&taps.weights) {
                    for (sum, value) in pixel.iter_mut().zip(source) {
                        *sum += weight * f32::from(*value);
                    }
                }
            }
        }
        out.fill(0.0);
        for (row, taps) in out.chunks_exact_mut(out_row).zip(&self.rows) {
            let sources = scratch[taps.first * out_row..].chunks_exact(out_row);
            for (source, weight) in sources.zip(&taps.weights) {
                for (sum, value) in row.iter_mut().zip(source) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// The taps of each of `new` pixels along an axis of `old` pixels.
fn taps(old: usize, new: usize) -> Vec<Taps> {
    if old == new {
        return (0..new)
            .map(|first| Taps {
                first,
                weights: vec![1.0],
            })
            .collect();
    }
    let scale = old as f64 / new as f64;
    let reach = scale.max(1.0);
    (0..new)
        .map(|pixel| {
            let centre = (pixel as f64 + 0.5) * scale;
            let weight = |source: usize| 1.0 - (source as f64 + 0.5 - centre).abs() / reach;
            let from = (centre - reach - 0.5).floor().max(0.0) as usize;
            let to = ((centre + reach + 0.5).ceil() as usize).min(old);
            let mut inside = (from..to).filter(|source| weight(*source) > 0.0).peekable();
            let first = inside.peek().copied().unwrap_or(from);
            let raw: Vec<f64> = inside.map(weight).collect();
            let sum: f64 = raw.iter().sum();
            Taps {
                first,
                weights: raw.iter().map(|weight| (weight / sum) as f32).collect(),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn resize(shape: (usize, usize, usize), size: (usize, usize), image: &[u8]) -> Vec<f32> {
        let (height, width, channels) = shape;
        let resize = Resize::new(
            ImageShape {
                height,
                width,
                channels,
            },
            size.0,
            size.1,
        )
        .unwrap();
        let mut out = vec![f32::NAN; size.0 * size.1 * channels];
        resize.apply(image, &mut Vec::new(), &mut out);
        out
    }

    fn assert_close(found: &[f32], expected: &[f32]) {
        assert_eq!(found.len(), expected.len());
        for (found_value, value) in found.iter().zip(expected) {
            assert!(
                (found_value - value).abs() < 1e-4,
                "{found:?} instead of {expected:?}"
            );
        }
    }

    #[test]
    fn halving_has_its_hand_computed_values() {
        // Scale 2: pixel 0 lies at 1; the centres ½, 1½, 2½ weigh ¾, ¾, ¼ before the division.
        let expected = [
            (3.0 * 10.0 + 3.0 * 20.0 + 40.0) / 7.0,
            (20.0 + 3.0 * 40.0 + 3.0 * 80.0) / 7.0,
        ];
        assert_close(&resize((1, 4, 1), (1, 2), &[10, 20, 40, 80]), &expected);
        assert_close(&resize((4, 1, 1), (2, 1), &[10, 20, 40, 80]), &expected);
    }

    #[test]
    fn a_scale_that_is_no_integer_has_its_hand_computed_values() {
        // 3 to 2, scale 3/2: pixel 0 lies at ¾; the centres ½, 1½, 2½ are ¼, ¾, 1¾ away, which
        // weighs 5/6, 1/2 and nothing.
        let expected = [
            (5.0 * 30.0 + 3.0 * 60.0) / 8.0,
            (3.0 * 60.0 + 5.0 * 200.0) / 8.0,
        ];
        assert_close(&resize((1, 3, 1), (1, 2), &[30, 60, 200]), &expected);
    }

    #[test]
    fn axes_are_independent_and_channels_apart() {
        // 2 x 2 x 2 to 4 x 2: only the rows are interpolated.
        let image = [0, 100, 40, 200, 80, 0, 120, 100];
        let expected = [
            0.0, 100.0, 40.0, 200.0, //
            20.0, 75.0, 60.0, 175.0, //
            60.0, 25.0, 100.0, 125.0, //
            80.0, 0.0, 120.0, 100.0,
        ];
        assert_close(&resize((2, 2, 2), (4, 2), &image), &expected);
    }

    #[test]
    fn one_pixel_is_the_weighted_mean_and_fills_what_it_enlarges_to() {
        assert_close(&resize((1, 2, 1), (1, 1), &[10, 30]), &[20.0]);
        assert_close(&resize((1, 1, 1), (2, 3), &[77]), &[77.0; 6]);
    }

    #[test]
    fn a_size_of_zero_is_an_error() {
        let shape = ImageShape {
            height: 2,
            width: 2,
            channels: 1,
        };
        assert_eq!(
            Resize::new(shape, 0, 2).unwrap_err().to_string(),
            "resized height is 0; expected at least 1"
        );
    }

    proptest! {
        #[test]
        fn the_same_size_is_the_identity(image in prop::collection::vec(any::<u8>(), 30)) {
            let exact: Vec<f32> = image.iter().map(|value| f32::from(*value)).collect();
            prop_assert_eq!(resize((5, 3, 2), (5, 3), &image), exact);
        }

        #[test]
        fn results_stay_within_the_values_and_mirror_with_the_image(
            image in prop::collection::vec(any::<u8>(), 1..40),
            width in 1usize..60,
        ) {
            let out = resize((1, image.len(), 1), (1, width), &image);
            let (low, high) = (image.iter().min().unwrap(), image.iter().max().unwrap());
            for value in &out {
                prop_assert!(*value > f32::from(*low) - 1e-3 && *value < f32::from(*high) + 1e-3);
            }
            let mirrored: Vec<u8> = image.iter().rev().copied().collect();
            let mut back = resize((1, image.len(), 1), (1, width), &mirrored);
            back.reverse();
            for (a, b) in out.iter().zip(&back) {
                prop_assert!((a - b).abs() < 1e-3);
            }
        }
    }
}
