//! What a task does to the pixels of its images.

use oncefit_data::ImageShape;

/// What a task does to pixels.
#[derive(Clone, PartialEq, Debug)]
pub enum PixelChange {
    /// Nothing.
    None,
    /// Pixel i of the result is pixel `order[i]` of the image.
    Permutation(Vec<u32>),
    /// Turned around the centre by degrees, bilinear, black outside.
    Rotation(f32),
}

impl PixelChange {
    /// Appends the changed image to `out`.
    pub(crate) fn append(&self, image: &[u8], shape: ImageShape, out: &mut Vec<u8>) {
        match self {
            Self::None => out.extend_from_slice(image),
            Self::Permutation(order) => {
                for &pixel in order {
                    let at = pixel as usize * shape.channels;
                    out.extend_from_slice(&image[at..at + shape.channels]);
                }
            }
            Self::Rotation(degrees) => rotate(image, shape, *degrees, out),
        }
    }
}

fn rotate(image: &[u8], shape: ImageShape, degrees: f32, out: &mut Vec<u8>) {
    let (sine, cosine) = f64::from(degrees).to_radians().sin_cos();
    let middle = |size: usize| (size as f64 - 1.0) / 2.0;
    let (row_middle, column_middle) = (middle(shape.height), middle(shape.width));
    let value = |row: f64, column: f64, channel: usize| {
        let is_inside =
            row >= 0.0 && column >= 0.0 && row < shape.height as f64 && column < shape.width as f64;
        match is_inside {
            true => {
                let pixel = row as usize * shape.width + column as usize;
                f64::from(image[pixel * shape.channels + channel])
            }
            false => 0.0,
        }
    };
    for row in 0..shape.height {
        for column in 0..shape.width {
            let (y, x) = (row as f64 - row_middle, column as f64 - column_middle);
            let from_row = cosine * y + sine * x + row_middle;
            let from_column = cosine * x - sine * y + column_middle;
            let (top, left) = (from_row.floor(), from_column.floor());
            let (down, right) = (from_row - top, from_column - left);
            for channel in 0..shape.channels {
                let mixed = (1.0 - down)
                    * ((1.0 - right) * value(top, left, channel)
                        + right * value(top, left + 1.0, channel))
                    + down
                        * ((1.0 - right) * value(top + 1.0, left, channel)
                            + right * value(top + 1.0, left + 1.0, channel));
                out.push(mixed.round() as u8);
            }
        }
    }
}
