//! AutoAugment (Cubuk et al. 2019): learnt policies of 25 pairs of operations.
//!
//! For each image one pair is drawn; each of its two operations is done with its probability, at
//! its magnitude of 0 to 9 on a scale between the operation's ends, with a random sign where the
//! operation has directions. Pixels from outside the image are grey (128), the nearest pixel is
//! taken.

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use super::colour;
use super::geometry::affine;
use crate::dataset::ImageShape;

/// A learnt policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AutoAugmentPolicy {
    /// Learnt on ImageNet (table 9 of the paper).
    Imagenet,
    /// Learnt on CIFAR-10 (table 7).
    Cifar10,
    /// Learnt on SVHN (table 8).
    Svhn,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Operation {
    ShearX,
    ShearY,
    TranslateX,
    TranslateY,
    Rotate,
    Brightness,
    Color,
    Contrast,
    Sharpness,
    Posterize,
    Solarize,
    AutoContrast,
    Equalize,
    Invert,
}

use Operation::{
    AutoContrast, Brightness, Color, Contrast, Equalize, Invert, Posterize, Rotate, Sharpness,
    ShearX, ShearY, Solarize, TranslateX, TranslateY,
};

/// An operation with its probability in tenths and its magnitude.
type Chance = (Operation, u8, u8);

const IMAGENET: [[Chance; 2]; 25] = [
    [(Posterize, 4, 8), (Rotate, 6, 9)],
    [(Solarize, 6, 5), (AutoContrast, 6, 5)],
    [(Equalize, 8, 8), (Equalize, 6, 3)],
    [(Posterize, 6, 7), (Posterize, 6, 6)],
    [(Equalize, 4, 7), (Solarize, 2, 4)],
    [(Equalize, 4, 4), (Rotate, 8, 8)],
    [(Solarize, 6, 3), (Equalize, 6, 7)],
    [(Posterize, 8, 5), (Equalize, 10, 2)],
    [(Rotate, 2, 3), (Solarize, 6, 8)],
    [(Equalize, 6, 8), (Posterize, 4, 6)],
    [(Rotate, 8, 8), (Color, 4, 0)],
    [(Rotate, 4, 9), (Equalize, 6, 2)],
    [(Equalize, 0, 7), (Equalize, 8, 8)],
    [(Invert, 6, 4), (Equalize, 10, 8)],
    [(Color, 6, 4), (Contrast, 10, 8)],
    [(Rotate, 8, 8), (Color, 10, 2)],
    [(Color, 8, 8), (Solarize, 8, 7)],
    [(Sharpness, 4, 7), (Invert, 6, 8)],
    [(ShearX, 6, 5), (Equalize, 10, 9)],
    [(Color, 4, 0), (Equalize, 6, 3)],
    [(Equalize, 4, 7), (Solarize, 2, 4)],
    [(Solarize, 6, 5), (AutoContrast, 6, 5)],
    [(Invert, 6, 4), (Equalize, 10, 8)],
    [(Color, 6, 4), (Contrast, 10, 8)],
    [(Equalize, 8, 8), (Equalize, 6, 3)],
];

const CIFAR10: [[Chance; 2]; 25] = [
    [(Invert, 1, 7), (Contrast, 2, 6)],
    [(Rotate, 7, 2), (TranslateX, 3, 9)],
    [(Sharpness, 8, 1), (Sharpness, 9, 3)],
    [(ShearY, 5, 8), (TranslateY, 7, 9)],
    [(AutoContrast, 5, 8), (Equalize, 9, 2)],
    [(ShearY, 2, 7), (Posterize, 3, 7)],
    [(Color, 4, 3), (Brightness, 6, 7)],
    [(Sharpness, 3, 9), (Brightness, 7, 9)],
    [(Equalize, 6, 5), (Equalize, 5, 1)],
    [(Contrast, 6, 7), (Sharpness, 6, 5)],
    [(Color, 7, 7), (TranslateX, 5, 8)],
    [(Equalize, 3, 7), (AutoContrast, 4, 8)],
    [(TranslateY, 4, 3), (Sharpness, 2, 6)],
    [(Brightness, 9, 6), (Color, 2, 8)],
    [(Solarize, 5, 2), (Invert, 0, 3)],
    [(Equalize, 2, 0), (AutoContrast, 6, 0)],
    [(Equalize, 2, 8), (Equalize, 6, 4)],
    [(Color, 9, 9), (Equalize, 6, 6)],
    [(AutoContrast, 8, 4), (Solarize, 2, 8)],
    [(Brightness, 1, 3), (Color, 7, 0)],
    [(Solarize, 4, 5), (AutoContrast, 9, 3)],
    [(TranslateY, 9, 9), (TranslateY, 7, 9)],
    [(AutoContrast, 9, 2), (Solarize, 8, 3)],
    [(Equalize, 8, 8), (Invert, 1, 3)],
    [(TranslateY, 7, 9), (AutoContrast, 9, 1)],
];

const SVHN: [[Chance; 2]; 25] = [
    [(ShearX, 9, 4), (Invert, 2, 3)],
    [(ShearY, 9, 8), (Invert, 7, 5)],
    [(Equalize, 6, 5), (Solarize, 6, 6)],
    [(Invert, 9, 3), (Equalize, 6, 3)],
    [(Equalize, 6, 1), (Rotate, 9, 3)],
    [(ShearX, 9, 4), (AutoContrast, 8, 3)],
    [(ShearY, 9, 8), (Invert, 4, 5)],
    [(ShearY, 9, 5), (Solarize, 2, 6)],
    [(Invert, 9, 6), (AutoContrast, 8, 1)],
    [(Equalize, 6, 3), (Rotate, 9, 3)],
    [(ShearX, 9, 4), (Solarize, 3, 3)],
    [(ShearY, 8, 8), (Invert, 7, 4)],
    [(Equalize, 9, 5), (TranslateY, 6, 6)],
    [(Invert, 9, 4), (Equalize, 6, 7)],
    [(Contrast, 3, 3), (Rotate, 8, 4)],
    [(Invert, 8, 5), (TranslateY, 0, 2)],
    [(ShearY, 7, 6), (Solarize, 4, 8)],
    [(Invert, 6, 4), (Rotate, 8, 4)],
    [(ShearY, 3, 7), (TranslateX, 9, 3)],
    [(ShearX, 1, 6), (Invert, 6, 5)],
    [(Solarize, 7, 2), (TranslateY, 6, 7)],
    [(ShearY, 8, 4), (Invert, 8, 8)],
    [(ShearX, 7, 9), (TranslateY, 8, 3)],
    [(ShearY, 8, 5), (AutoContrast, 7, 3)],
    [(ShearX, 7, 2), (Invert, 1, 5)],
];

const OUTSIDE: u8 = 128;

impl AutoAugmentPolicy {
    /// Changes an image.
    pub(super) fn apply(self, image: &mut Vec<u8>, shape: ImageShape, mut draws: Draws) {
        let policy = match self {
            Self::Imagenet => &IMAGENET,
            Self::Cifar10 => &CIFAR10,
            Self::Svhn => &SVHN,
        };
        for (operation, tenths, magnitude) in policy[draws.below(policy.len())] {
            // Drawn in any case, so that the second does not depend on the first.
            let (happens, is_negative) =
                (draws.chance(f64::from(tenths) / 10.0), draws.chance(0.5));
            if happens {
                operation.apply(image, shape, f32::from(magnitude) / 9.0, is_negative);
            }
        }
    }
}

impl Operation {
    /// `level` of 0 to 1 between the operation's ends; table 6 of the paper gives the ends.
    fn apply(self, image: &mut Vec<u8>, shape: ImageShape, level: f32, is_negative: bool) {
        let sign = if is_negative { -1.0 } else { 1.0 };
        let channels = shape.channels;
        let factor = 1.0 + sign * 0.9 * level;
        match self {
            ShearX => affine(
                image,
                shape,
                [1.0, sign * 0.3 * level, 0.0, 0.0, 1.0, 0.0],
                OUTSIDE,
            ),
            ShearY => affine(
                image,
                shape,
                [1.0, 0.0, 0.0, sign * 0.3 * level, 1.0, 0.0],
                OUTSIDE,
            ),
            TranslateX => {
                let by = (sign * level * 150.0 / 331.0 * shape.width as f32).round();
                affine(image, shape, [1.0, 0.0, by, 0.0, 1.0, 0.0], OUTSIDE);
            }
            TranslateY => {
                let by = (sign * level * 150.0 / 331.0 * shape.height as f32).round();
                affine(image, shape, [1.0, 0.0, 0.0, 0.0, 1.0, by], OUTSIDE);
            }
            Rotate => {
                let (sine, cosine) = (sign * level * 30f32.to_radians()).sin_cos();
                affine(
                    image,
                    shape,
                    [cosine, sine, 0.0, -sine, cosine, 0.0],
                    OUTSIDE,
                );
            }
            Brightness => colour::brightness(image, factor),
            Color => colour::saturation(image, channels, factor),
            Contrast => colour::contrast(image, channels, factor),
            Sharpness => colour::sharpness(image, shape, factor),
            Posterize => colour::posterize(image, 8 - (4.0 * level).round() as u32),
            Solarize => colour::solarize(image, 256.0 * (1.0 - level)),
            AutoContrast => colour::auto_contrast(image, channels),
            Equalize => colour::equalize(image, channels),
            Invert => colour::invert(image),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape {
        height: 9,
        width: 9,
        channels: 3,
    };

    fn image() -> Vec<u8> {
        (0..SHAPE.bytes())
            .map(|index| (index * 37 % 251) as u8)
            .collect()
    }

    fn applied(operation: Operation, level: f32) -> Vec<u8> {
        let mut image = image();
        operation.apply(&mut image, SHAPE, level, false);
        image
    }

    #[test]
    fn operations_with_a_neutral_end_begin_there_and_all_do_something() {
        for operation in [
            ShearX, ShearY, TranslateX, TranslateY, Rotate, Brightness, Color, Contrast, Sharpness,
            Posterize, Solarize,
        ] {
            assert_eq!(applied(operation, 0.0), image(), "{operation:?}");
            assert_ne!(applied(operation, 1.0), image(), "{operation:?}");
        }
        for operation in [AutoContrast, Invert] {
            assert_ne!(applied(operation, 0.5), image(), "{operation:?}");
        }
    }

    #[test]
    fn policies_use_their_pairs_as_often_as_they_say() {
        let mut inverted = 0;
        for index in 0..4000 {
            let mut image = vec![200u8; 3];
            let shape = ImageShape {
                height: 1,
                width: 1,
                channels: 3,
            };
            AutoAugmentPolicy::Cifar10.apply(&mut image, shape, Draws::new(1, "test", 0, index));
            inverted += usize::from(image == [55; 3]);
        }
        // Inverting in pairs 1 and 24, solarising from at most 200 in pairs 15, 19, 21 and 23.
        let expected = 4000.0 / 25.0 * (0.1 + 0.1 + 0.5 + 0.2 + 0.4 + 0.8);
        assert!(
            (f64::from(inverted as u32) - expected).abs() < 60.0,
            "{inverted} {expected}"
        );
    }

    #[test]
    fn the_policy_of_svhn_is_done_as_often_as_it_says() {
        let count = |wanted: Operation| {
            let operations = SVHN.iter().flatten();
            operations.filter(|(found, ..)| *found == wanted).count()
        };
        assert_eq!((count(Invert), count(ShearX), count(ShearY)), (12, 6, 8));
        assert_eq!(
            (count(Color), count(Posterize), count(Sharpness)),
            (0, 0, 0)
        );
        // On so small an image equalising has no step and the weakest shear moves no pixel.
        let keeps = |(operation, tenths, magnitude): Chance| match (operation, magnitude) {
            (Equalize, _) | (ShearX, 2) => 1.0,
            _ => 1.0 - f64::from(tenths) / 10.0,
        };
        let kept: f64 = SVHN.iter().map(|[a, b]| keeps(*a) * keeps(*b)).sum();
        let expected = 4000.0 * (1.0 - kept / 25.0);
        let mut changed = 0;
        for index in 0..4000 {
            let mut image = image();
            AutoAugmentPolicy::Svhn.apply(&mut image, SHAPE, Draws::new(1, "test", 0, index));
            changed += u32::from(image != self::image());
        }
        // Four standard deviations of so many images.
        let bound = 4.0 * (4000.0 * (kept / 25.0) * (1.0 - kept / 25.0)).sqrt();
        assert!(
            (f64::from(changed) - expected).abs() < bound,
            "{changed} {expected}"
        );
    }

    #[test]
    fn grey_images_are_changed_too() {
        let shape = ImageShape {
            height: 32,
            width: 32,
            channels: 1,
        };
        let mut changed = 0;
        for index in 0..100 {
            let mut image: Vec<u8> = (0..1024).map(|value| (20 + value / 6) as u8).collect();
            let old = image.clone();
            AutoAugmentPolicy::Imagenet.apply(&mut image, shape, Draws::new(1, "test", 0, index));
            assert_eq!(image.len(), old.len());
            changed += usize::from(image != old);
        }
        assert!(changed > 70, "{changed}");
    }
}
