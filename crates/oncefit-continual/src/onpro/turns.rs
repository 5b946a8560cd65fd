//! Turned copies of an image (the authors' `utils/rotation_transform.py`).

use oncefit_data::ImageShape;
use serde::{Deserialize, Serialize};

use crate::error::{Result, setting};

/// Which turned copies of an image count as other classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turns {
    /// The halves turned by 180° in place (none, left, both, right), and each of the four turned as a
    /// whole by 0°, 180°, 90° and 270° counter-clockwise; copy 4·turn + halves (the authors' code).
    #[default]
    Sixteen,
    /// The image as a whole by 0°, 180°, 90° and 270° (the lite profile).
    Four,
}

impl Turns {
    /// How many copies.
    pub fn count(self) -> usize {
        match self {
            Self::Sixteen => 16,
            Self::Four => 4,
        }
    }

    /// Succeeds if images of `shape` can be turned.
    ///
    /// # Errors
    /// If they are not square, or for sixteen copies their width is odd.
    pub fn check(self, shape: ImageShape) -> Result<()> {
        let halves = self == Self::Sixteen;
        let is_square = shape.height == shape.width && shape.width > 0;
        match is_square && (!halves || shape.width.is_multiple_of(2)) {
            true => Ok(()),
            false => {
                let legal = match halves {
                    true => "square, of even width; or `turns = \"four\"` for odd widths",
                    false => "square",
                };
                Err(setting("the images to be turned", shape, legal))
            }
        }
    }
}

/// The turned copies of a square image (H, W, C), the image itself first.
///
/// # Errors
/// If [`Turns::check`] fails or `image` has another size.
pub fn turned_copies(image: &[u8], shape: ImageShape, copies: Turns) -> Result<Vec<Vec<u8>>> {
    copies.check(shape)?;
    if image.len() != shape.bytes() {
        let bytes = format!("{}, as {shape} says", shape.bytes());
        return Err(setting("the bytes of an image", image.len(), bytes));
    }
    let side = shape.width;
    let pick = |image: &[u8], from: &dyn Fn(usize, usize) -> (usize, usize)| -> Vec<u8> {
        let mut out = Vec::with_capacity(image.len());
        for place in 0..side * side {
            let (y, x) = from(place / side, place % side);
            let start = (y * side + x) * shape.channels;
            out.extend_from_slice(&image[start..start + shape.channels]);
        }
        out
    };
    let last = side - 1;
    let half = side / 2;
    let halves: &[(bool, bool)] = match copies {
        Turns::Sixteen => &[(false, false), (true, false), (true, true), (false, true)],
        Turns::Four => &[(false, false)],
    };
    let variants: Vec<Vec<u8>> = halves
        .iter()
        .map(|&(left, right)| {
            pick(image, &|y, x| match (x < half, left, right) {
                (true, true, _) => (last - y, half - 1 - x),
                (false, _, true) => (last - y, half + last - x),
                _ => (y, x),
            })
        })
        .collect();
    let turns: [&dyn Fn(usize, usize) -> (usize, usize); 4] = [
        &|y: usize, x: usize| (y, x),
        &|y: usize, x: usize| (last - y, last - x),
        &|y: usize, x: usize| (x, last - y),
        &|y: usize, x: usize| (last - x, y),
    ];
    let copies = turns
        .into_iter()
        .flat_map(|turn| variants.iter().map(move |variant| pick(variant, turn)));
    Ok(copies.collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_16_turns_are_distinct_and_in_the_stated_order() {
        let shape = ImageShape {
            height: 4,
            width: 4,
            channels: 2,
        };
        let image: Vec<u8> = (0..32).collect();
        let copies = turned_copies(&image, shape, Turns::Sixteen).unwrap();
        assert_eq!(copies.iter().collect::<BTreeSet<_>>().len(), 16);
        assert_eq!(copies[0], image);
        let quarter = |image: &[u8]| -> Vec<u8> {
            // Counter-clockwise: the last column becomes the first row.
            let pixels = (0..16).map(|at| (at % 4) * 4 + 3 - at / 4);
            pixels
                .flat_map(|at| image[2 * at..2 * at + 2].to_vec())
                .collect()
        };
        for at in 0..4 {
            assert_eq!(copies[8 + at], quarter(&copies[at]));
            assert_eq!(copies[4 + at], quarter(&copies[8 + at]));
            assert_eq!(copies[12 + at], quarter(&copies[4 + at]));
        }
        // The left half of the second copy is the first's, turned; the right half is as it was.
        assert_eq!((copies[1][0], copies[1][4], copies[1][2]), (26, 4, 24));
        // Turning both halves in place is not turning the whole.
        assert_eq!((copies[2][0], copies[2][4]), (26, 30));
        let odd = ImageShape {
            height: 3,
            width: 3,
            channels: 1,
        };
        let plain = turned_copies(&image, shape, Turns::Four).unwrap();
        assert!(plain.iter().eq(copies.iter().step_by(4)));
        assert!(turned_copies(&[0; 9], odd, Turns::Four).is_ok());
        assert!(
            turned_copies(&[0; 9], odd, Turns::Sixteen)
                .unwrap_err()
                .to_string()
                .contains("even")
        );
    }
}
