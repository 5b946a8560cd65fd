//! Changes of place: crops, mirrors, erased rectangles, shears, shifts and turns.

use oncefit_random::Draws;

use crate::dataset::ImageShape;
use crate::resize::Resize;

/// What lies outside an image.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outside {
    /// Black.
    Zero,
    /// The image mirrored at its border, the border pixel once.
    Reflected,
}

/// Crops at (`top`, `left`) of the image with `padding` pixels around it.
pub(super) fn crop(
    image: &[u8],
    shape: ImageShape,
    padding: usize,
    outside: Outside,
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
    if outside == Outside::Reflected {
        for row in 0..height {
            let source_row = reflected(row + top, padding, height);
            for column in 0..width {
                let source = source_row * width + reflected(column + left, padding, width);
                out[(row * width + column) * channels..][..channels]
                    .copy_from_slice(&image[source * channels..][..channels]);
            }
        }
        return;
    }
    let (from_row, to_row) = overlap(height, padding, top);
    let (from_column, to_column) = overlap(width, padding, left);
    let bytes = (to_column - from_column) * channels;
    for row in from_row..to_row {
        let source = (row + top - padding) * width + from_column + left - padding;
        let target = row * width + from_column;
        out[target * channels..][..bytes].copy_from_slice(&image[source * channels..][..bytes]);
    }
}

/// The pixel that is at `place` of an axis with `padding` mirrored pixels on each side.
fn reflected(place: usize, padding: usize, extent: usize) -> usize {
    let place = place.abs_diff(padding);
    match place < extent {
        true => place,
        false => 2 * (extent - 1) - place,
    }
}

/// The range of an axis of the crop that lies on the image.
fn overlap(extent: usize, padding: usize, start: usize) -> (usize, usize) {
    (
        padding.saturating_sub(start),
        extent.min(extent + padding - start),
    )
}

/// Mirrors images of a shape from left to right, one after the other.
pub fn mirror(shape: ImageShape, image: &mut [u8]) {
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
pub(super) struct Rectangle {
    pub top: usize,
    pub left: usize,
    pub height: usize,
    pub width: usize,
}

/// A rectangle is drawn until it fits, which may never happen on images of a few pixels.
const ATTEMPTS: usize = 10;

impl Rectangle {
    /// A rectangle at a random place, of an area (as a share of the image) and an aspect (height by
    /// width) that `draw` draws; none if none fitted.
    pub fn draw(
        shape: ImageShape,
        draws: &mut Draws,
        draw: impl Fn(&mut Draws) -> (f64, f64),
    ) -> Option<Self> {
        let pixels = (shape.height * shape.width) as f64;
        let (height, width) = (0..ATTEMPTS)
            .map(|_| {
                let (share, aspect) = draw(draws);
                let area = pixels * share;
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

    pub fn fill(&self, shape: ImageShape, value: &[u8], image: &mut [u8]) {
        for row in self.top..self.top + self.height {
            let start = (row * shape.width + self.left) * shape.channels;
            let pixels = &mut image[start..][..self.width * shape.channels];
            for pixel in pixels.chunks_exact_mut(shape.channels) {
                pixel.copy_from_slice(value);
            }
        }
    }

    /// The part of the image under the rectangle, resized to the whole.
    pub fn enlarged(&self, image: &[u8], shape: ImageShape, out: &mut Vec<u8>) {
        let part_shape = ImageShape {
            height: self.height,
            width: self.width,
            channels: shape.channels,
        };
        let mut part = Vec::with_capacity(part_shape.bytes());
        for row in self.top..self.top + self.height {
            let start = (row * shape.width + self.left) * shape.channels;
            part.extend_from_slice(&image[start..][..self.width * shape.channels]);
        }
        let mut values = vec![0.0; shape.bytes()];
        // The sizes are those of images, so they are above 0.
        if let Ok(resize) = Resize::new(part_shape, shape.height, shape.width) {
            resize.apply(&part, &mut Vec::new(), &mut values);
        }
        out.clear();
        out.extend(values.iter().map(|value| value.round() as u8));
    }
}

/// Moves pixels by an affine map: the pixel at (x, y) from the centre comes from
/// (a·x + b·y + c, d·x + e·y + f), the nearest one; what comes from outside is `fill`.
pub(super) fn affine(image: &mut Vec<u8>, shape: ImageShape, map: [f32; 6], fill: u8) {
    let ImageShape {
        height,
        width,
        channels,
    } = shape;
    let [a, b, c, d, e, f] = map;
    let (centre_x, centre_y) = ((width as f32 - 1.0) / 2.0, (height as f32 - 1.0) / 2.0);
    let old = std::mem::take(image);
    image.resize(old.len(), fill);
    for row in 0..height {
        for column in 0..width {
            let (x, y) = (column as f32 - centre_x, row as f32 - centre_y);
            let source_x = (a * x + b * y + c + centre_x).round();
            let source_y = (d * x + e * y + f + centre_y).round();
            let is_inside =
                (0.0..width as f32).contains(&source_x) && (0.0..height as f32).contains(&source_y);
            if is_inside {
                let source = (source_y as usize * width + source_x as usize) * channels;
                image[(row * width + column) * channels..][..channels]
                    .copy_from_slice(&old[source..][..channels]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape {
        height: 3,
        width: 3,
        channels: 1,
    };
    const IMAGE: [u8; 9] = [1, 2, 3, 4, 5, 6, 7, 8, 9];

    fn cropped(outside: Outside, padding: usize, top: usize, left: usize) -> Vec<u8> {
        let mut out = Vec::new();
        crop(&IMAGE, SHAPE, padding, outside, (top, left), &mut out);
        out
    }

    #[test]
    fn crops_move_the_image_and_pad_with_zero() {
        let cropped = |top, left| cropped(Outside::Zero, 1, top, left);
        assert_eq!(cropped(1, 1), IMAGE);
        assert_eq!(cropped(0, 0), [0, 0, 0, 0, 1, 2, 0, 4, 5]);
        assert_eq!(cropped(2, 2), [5, 6, 0, 8, 9, 0, 0, 0, 0]);
        assert_eq!(cropped(2, 0), [0, 4, 5, 0, 7, 8, 0, 0, 0]);
    }

    #[test]
    fn reflected_padding_repeats_no_border() {
        let cropped = |top, left| cropped(Outside::Reflected, 2, top, left);
        assert_eq!(cropped(2, 2), IMAGE);
        assert_eq!(cropped(0, 2), [7, 8, 9, 4, 5, 6, 1, 2, 3]);
        assert_eq!(cropped(2, 4), [3, 2, 1, 6, 5, 4, 9, 8, 7]);
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
    fn affine_maps_shift_turn_and_keep() {
        let moved = |map| {
            let mut image = IMAGE.to_vec();
            affine(&mut image, SHAPE, map, 0);
            image
        };
        assert_eq!(moved([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]), IMAGE);
        assert_eq!(
            moved([1.0, 0.0, 1.0, 0.0, 1.0, 0.0]),
            [2, 3, 0, 5, 6, 0, 8, 9, 0]
        );
        assert_eq!(
            moved([0.0, 1.0, 0.0, -1.0, 0.0, 0.0]),
            [7, 4, 1, 8, 5, 2, 9, 6, 3]
        );
    }

    #[test]
    fn a_rectangle_as_large_as_the_image_is_the_image() {
        let whole = Rectangle {
            top: 0,
            left: 0,
            height: 3,
            width: 3,
        };
        let mut out = Vec::new();
        whole.enlarged(&IMAGE, SHAPE, &mut out);
        assert_eq!(out, IMAGE);
        let one = Rectangle {
            top: 1,
            left: 2,
            height: 1,
            width: 1,
        };
        one.enlarged(&IMAGE, SHAPE, &mut out);
        assert_eq!(out, [6; 9]);
    }

    #[test]
    fn drawn_rectangles_have_legal_area_and_place() {
        let shape = ImageShape {
            height: 20,
            width: 30,
            channels: 1,
        };
        let range =
            |draws: &mut Draws| (0.02 + 0.38 * draws.unit_f64(), 0.3 + 3.0 * draws.unit_f64());
        let mut areas = Vec::new();
        for index in 0..500 {
            let mut draws = Draws::new(3, "test", 0, index);
            let found = Rectangle::draw(shape, &mut draws, range).unwrap();
            assert!(
                found.top + found.height <= 20 && found.left + found.width <= 30,
                "{found:?}"
            );
            areas.push((found.height * found.width) as f64 / 600.0);
        }
        // Rounding the sides moves the area a little beyond the drawn range.
        assert!(areas.iter().all(|area| (0.01..0.43).contains(area)));
        let mean = areas.iter().sum::<f64>() / areas.len() as f64;
        assert!((0.15..0.25).contains(&mean), "{mean}");
    }
}
