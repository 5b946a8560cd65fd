//! Random changes to training images: padded crop, mirror, erased rectangle.
//!
//! An image's draws are addressed by (seed, purpose, epoch, index in the data set), so they do not
//! depend on the batch it is in. Every part draws whether it is on or off, so that switching one
//! on leaves what the parts before it draw as it was.

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::dataset::ImageShape;
use crate::error::{DataError, Result};

/// Which changes are made; the default is none.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Augmentation {
    /// Zero (black) pixels added on each side before a crop of the old size at a random place; 0
    /// is off.
    pub crop_padding: usize,
    /// Whether an image is mirrored with probability ½.
    pub horizontal_flip: bool,
    /// Probability that a rectangle is erased (Zhong et al. 2020, algorithm 1, with their 2 to 40 %
    /// of the area and aspect 0.3 to 1/0.3), filled with each channel's mean; 0 is off.
    pub random_erasing: f32,
}

const ERASED_AREA: (f64, f64) = (0.02, 0.4);
const ERASED_ASPECT: (f64, f64) = (0.3, 1.0 / 0.3);
/// The paper tries until a rectangle fits, which may never end on images of a few pixels.
const ERASING_ATTEMPTS: usize = 10;

impl Augmentation {
    /// True if images stay as they are.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Succeeds if the settings are legal for images of `shape`.
    ///
    /// # Errors
    /// If the padding is not smaller than the image, so that a crop could miss it, or the
    /// probability is outside 0 to 1.
    pub fn check(&self, shape: ImageShape) -> Result<()> {
        let side = shape.height.min(shape.width);
        if self.crop_padding >= side {
            return Err(DataError::setting(
                "augmentation `crop_padding`",
                self.crop_padding,
                format!("less than {side}, the shorter side of the images"),
            ));
        }
        if !(0.0..=1.0).contains(&self.random_erasing) {
            return Err(DataError::setting(
                "augmentation `random_erasing`",
                self.random_erasing,
                "a probability from 0 to 1",
            ));
        }
        Ok(())
    }

    /// Writes the changed `image` (H, W, C) into `out`; an erased rectangle gets `fill` (C).
    pub(crate) fn apply(
        &self,
        image: &[u8],
        shape: ImageShape,
        fill: &[u8],
        mut draws: Draws,
        out: &mut Vec<u8>,
    ) {
        let places = 2 * self.crop_padding + 1;
        let (top, left) = (draws.below(places), draws.below(places));
        let is_mirrored = draws.chance(0.5) && self.horizontal_flip;
        let is_erased = draws.chance(f64::from(self.random_erasing));
        crop(image, shape, self.crop_padding, (top, left), out);
        if is_mirrored {
            mirror(shape, out);
        }
        if is_erased && let Some(rectangle) = Rectangle::draw(shape, &mut draws) {
            rectangle.fill(shape, fill, out);
        }
    }
}

/// Crops at (`top`, `left`) of the image with `padding` zero pixels around it.
fn crop(
    image: &[u8],
    shape: ImageShape,
    padding: usize,
    (top, left): (usize, usize),
    out: &mut Vec<u8>,
) {
    out.clear();
    out.resize(image.len(), 0);
    let ImageShape {
        height,
        width,
        channels,
    } = shape;
    let (from_row, to_row) = overlap(height, padding, top);
    let (from_column, to_column) = overlap(width, padding, left);
    let bytes = (to_column - from_column) * channels;
    for row in from_row..to_row {
        let source = (row + top - padding) * width + from_column + left - padding;
        let target = row * width + from_column;
        out[target * channels..][..bytes].copy_from_slice(&image[source * channels..][..bytes]);
    }
}

/// The range of an axis of the crop that lies on the image.
fn overlap(extent: usize, padding: usize, start: usize) -> (usize, usize) {
    (
        padding.saturating_sub(start),
        extent.min(extent + padding - start),
    )
}

fn mirror(shape: ImageShape, image: &mut [u8]) {
    let ImageShape {
        width, channels, ..
    } = shape;
    for row in image.chunks_exact_mut(width * channels) {
        for left in 0..width / 2 {
            let right = width - 1 - left;
            for channel in 0..channels {
                row.swap(left * channels + channel, right * channels + channel);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Rectangle {
    top: usize,
    left: usize,
    height: usize,
    width: usize,
}

impl Rectangle {
    /// A rectangle of random area and aspect at a random place, or none if none fitted.
    fn draw(shape: ImageShape, draws: &mut Draws) -> Option<Self> {
        let pixels = (shape.height * shape.width) as f64;
        let mut uniform = |(low, high): (f64, f64)| low + (high - low) * draws.unit_f64();
        let (height, width) = (0..ERASING_ATTEMPTS)
            .map(|_| {
                let (area, aspect) = (pixels * uniform(ERASED_AREA), uniform(ERASED_ASPECT));
                (
                    (area * aspect).sqrt().round() as usize,
                    (area / aspect).sqrt().round() as usize,
                )
            })
            .find(|(height, width)| {
                (1..=shape.height).contains(height) && (1..=shape.width).contains(width)
            })?;
        Some(Self {
            top: draws.below(shape.height - height + 1),
            left: draws.below(shape.width - width + 1),
            height,
            width,
        })
    }

    fn fill(&self, shape: ImageShape, value: &[u8], image: &mut [u8]) {
        for row in self.top..self.top + self.height {
            let start = (row * shape.width + self.left) * shape.channels;
            let pixels = &mut image[start..][..self.width * shape.channels];
            for pixel in pixels.chunks_exact_mut(shape.channels) {
                pixel.copy_from_slice(value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHAPE: ImageShape = ImageShape {
        height: 3,
        width: 3,
        channels: 1,
    };
    const IMAGE: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

    fn cropped(top: usize, left: usize) -> Vec<u8> {
        let mut out = Vec::new();
        crop(&IMAGE, SHAPE, 1, (top, left), &mut out);
        out
    }

    fn applied(augmentation: Augmentation, index: u64) -> Vec<u8> {
        let mut out = vec![99];
        augmentation.apply(
            &IMAGE,
            SHAPE,
            &[50],
            Draws::new(1, "test", 0, index),
            &mut out,
        );
        out
    }

    #[test]
    fn crops_move_the_image_and_pad_with_zero() {
        assert_eq!(cropped(1, 1), IMAGE);
        assert_eq!(cropped(0, 0), [0, 0, 0, 0, 1, 2, 0, 4, 5]);
        assert_eq!(cropped(2, 2), [5, 6, 0, 8, 9, 0, 0, 0, 0]);
        assert_eq!(cropped(2, 0), [0, 4, 5, 0, 7, 8, 0, 0, 0]);
    }

    #[test]
    fn mirroring_keeps_the_channels_of_a_pixel_in_order() {
        let shape = ImageShape {
            height: 2,
            width: 3,
            channels: 2,
        };
        let mut image: Vec<u8> = (0..12).collect();
        mirror(shape, &mut image);
        assert_eq!(image, [4, 5, 2, 3, 0, 1, 10, 11, 8, 9, 6, 7]);
    }

    #[test]
    fn every_crop_and_both_mirrors_occur_and_nothing_else() {
        let augmentation = Augmentation {
            crop_padding: 1,
            horizontal_flip: true,
            random_erasing: 0.0,
        };
        let found: BTreeSet<Vec<u8>> = (0..400).map(|index| applied(augmentation, index)).collect();
        let mut expected = BTreeSet::new();
        for place in 0..9 {
            let mut image = cropped(place / 3, place % 3);
            expected.insert(image.clone());
            mirror(SHAPE, &mut image);
            expected.insert(image);
        }
        assert_eq!(found, expected);
    }

    #[test]
    fn no_augmentation_changes_nothing_and_parts_do_not_disturb_each_other() {
        assert!(Augmentation::default().is_none());
        let crop = Augmentation {
            crop_padding: 1,
            ..Augmentation::default()
        };
        let both = Augmentation {
            horizontal_flip: true,
            ..crop
        };
        for index in 0..50 {
            assert_eq!(applied(Augmentation::default(), index), IMAGE);
            let mut mirrored = applied(crop, index);
            mirror(SHAPE, &mut mirrored);
            assert!([applied(crop, index), mirrored].contains(&applied(both, index)));
            let is_erased = |augmentation: Augmentation| {
                let erasing = Augmentation {
                    random_erasing: 0.5,
                    ..augmentation
                };
                applied(erasing, index).contains(&50)
            };
            assert_eq!(is_erased(Augmentation::default()), is_erased(both));
        }
    }

    #[test]
    fn erased_rectangles_have_legal_area_and_place() {
        let shape = ImageShape {
            height: 20,
            width: 30,
            channels: 1,
        };
        let mut areas = Vec::new();
        for index in 0..500 {
            let rectangle = Rectangle::draw(shape, &mut Draws::new(3, "test", 0, index)).unwrap();
            let Rectangle {
                top,
                left,
                height,
                width,
            } = rectangle;
            assert!(top + height <= 20 && left + width <= 30, "{rectangle:?}");
            areas.push((height * width) as f64 / 600.0);
        }
        // Rounding the sides moves the area a little beyond the drawn range.
        assert!(areas.iter().all(|area| (0.01..0.43).contains(area)));
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((0.15..0.25).contains(&mean), "{mean}");
    }

    #[test]
    fn erasing_fills_with_the_given_value_as_often_as_asked() {
        let erasing = |probability| Augmentation {
            random_erasing: probability,
            ..Default::default()
        };
        let changed = |probability| {
            let images = (0..1000).map(|index| applied(erasing(probability), index));
            images.filter(|image| image.contains(&50)).count()
        };
        assert_eq!(
            (changed(0.0), applied(erasing(0.0), 1)),
            (0, IMAGE.to_vec())
        );
        assert!((200..300).contains(&changed(0.25)), "{}", changed(0.25));
        let image = applied(erasing(1.0), 5);
        let differing = image
            .iter()
            .zip(IMAGE)
            .filter(|(found, old)| **found != *old);
        assert!(differing.clone().count() > 0 && differing.clone().all(|(found, _)| *found == 50));
    }

    #[test]
    fn illegal_settings_are_errors() {
        let error = |augmentation: Augmentation| augmentation.check(SHAPE).unwrap_err().to_string();
        assert_eq!(
            error(Augmentation {
                crop_padding: 3,
                ..Default::default()
            }),
            "augmentation `crop_padding` is 3; expected less than 3, the shorter side of the images"
        );
        for random_erasing in [-0.1, 1.5, f32::NAN] {
            let text = error(Augmentation {
                random_erasing,
                ..Default::default()
            });
            assert!(text.contains("a probability from 0 to 1"), "{text}");
        }
    }
}
