//! Random changes to training images.
//!
//! ```text
//! random resized crop or padded crop → mirror → AutoAugment → colour jitter → grey → erased rectangle
//! ```
//!
//! and, on the finished batch, mixup or cutmix. An image's draws are addressed by (seed, purpose,
//! epoch, index in the data set), so they do not depend on the batch it is in. Every part draws
//! whether it is on or off, or has draws of its own, so that switching one on leaves what the other
//! parts draw as it was.

mod auto_augment;
mod colour;
mod geometry;
mod mix;

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

pub use self::auto_augment::AutoAugmentPolicy;
use self::colour::Jitter;
pub use self::geometry::mirror;
use self::geometry::{Outside, Rectangle, crop};
pub(crate) use self::mix::mix;
use crate::dataset::ImageShape;
use crate::error::{DataError, Result};

/// Which changes are made; the default is none.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Augmentation {
    /// Pixels added on each side before a crop of the old size at a random place; 0 is off.
    pub crop_padding: usize,
    /// Whether those pixels are the image mirrored at its border, instead of black.
    pub reflect_padding: bool,
    /// Smallest share of the area that a random resized crop (Szegedy et al. 2015) leaves, 0.08 in
    /// the papers: a crop of this to all of the area, of an aspect between ¾ and 4/3, is enlarged to
    /// the size of the image; 0 is off.
    pub resized_crop: f32,
    /// Whether an image is mirrored with probability ½.
    pub horizontal_flip: bool,
    /// A learnt policy of changes (Cubuk et al. 2019).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub auto_augment: Option<AutoAugmentPolicy>,
    /// Largest change of brightness: a factor of 1 − this to 1 + this; 0 is off.
    pub brightness: f32,
    /// Largest change of contrast, alike.
    pub contrast: f32,
    /// Largest change of saturation, alike.
    pub saturation: f32,
    /// Largest turn of the hue, as a share of the colour circle, up to ½; 0 is off.
    pub hue: f32,
    /// Probability that an image becomes grey; its channels stay three.
    #[serde(skip_serializing_if = "is_zero")]
    pub grayscale: f32,
    /// Probability that a rectangle is erased (Zhong et al. 2020, algorithm 1, with their 2 to 40 %
    /// of the area and aspect 0.3 to 1/0.3), filled with each channel's mean; 0 is off.
    pub random_erasing: f32,
    /// α of mixup (Zhang et al. 2018); 0 is off.
    pub mixup: f32,
    /// α of cutmix (Yun et al. 2019); 0 is off. With both, each batch draws one of them.
    pub cutmix: f32,
}

const ERASED_AREA: (f64, f64) = (0.02, 0.4);
const ERASED_ASPECT: (f64, f64) = (0.3, 1.0 / 0.3);
const CROP_ASPECT: (f64, f64) = (3.0 / 4.0, 4.0 / 3.0);

/// Where an image's draws are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Address {
    pub seed: u64,
    pub purpose: &'static str,
    pub epoch: u64,
    pub index: u64,
}

impl Address {
    fn draws(&self) -> Draws {
        Draws::new(self.seed, self.purpose, self.epoch, self.index)
    }

    /// Draws of a part's own.
    fn draws_of(&self, part: &str) -> Draws {
        let purpose = format!("{}, {part}", self.purpose);
        Draws::new(self.seed, &purpose, self.epoch, self.index)
    }
}

fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

impl Default for Augmentation {
    fn default() -> Self {
        Self::NONE
    }
}

impl Augmentation {
    /// No change.
    pub const NONE: Self = Self {
        crop_padding: 0,
        reflect_padding: false,
        resized_crop: 0.0,
        horizontal_flip: false,
        auto_augment: None,
        brightness: 0.0,
        contrast: 0.0,
        saturation: 0.0,
        hue: 0.0,
        grayscale: 0.0,
        random_erasing: 0.0,
        mixup: 0.0,
        cutmix: 0.0,
    };

    /// True if images stay as they are (but for mixing, which belongs to batches).
    pub fn is_none(&self) -> bool {
        Self {
            mixup: 0.0,
            cutmix: 0.0,
            ..*self
        } == Self::default()
    }

    /// Succeeds if the settings are legal for images of `shape`.
    ///
    /// # Errors
    /// If the padding is not smaller than the image, so that a crop could miss it, or a setting is
    /// outside its range.
    pub fn check(&self, shape: ImageShape) -> Result<()> {
        let side = shape.height.min(shape.width);
        if self.crop_padding >= side {
            return Err(DataError::setting(
                "augmentation `crop_padding`",
                self.crop_padding,
                format!("less than {side}, the shorter side of the images"),
            ));
        }
        self.check_ranges()
    }

    /// Succeeds if the settings are legal, whatever the images.
    ///
    /// # Errors
    /// If a setting is outside its range.
    pub fn check_ranges(&self) -> Result<()> {
        let settings = [
            (
                "augmentation `random_erasing`",
                self.random_erasing,
                1.0,
                "a probability from 0 to 1",
            ),
            (
                "augmentation `grayscale`",
                self.grayscale,
                1.0,
                "a probability from 0 to 1",
            ),
            (
                "augmentation `resized_crop`",
                self.resized_crop,
                1.0,
                "a share of the area, 0 (off) to 1",
            ),
            (
                "augmentation `brightness`",
                self.brightness,
                f32::MAX,
                "0 (off) or more",
            ),
            (
                "augmentation `contrast`",
                self.contrast,
                f32::MAX,
                "0 (off) or more",
            ),
            (
                "augmentation `saturation`",
                self.saturation,
                f32::MAX,
                "0 (off) or more",
            ),
            ("augmentation `hue`", self.hue, 0.5, "0 (off) to 0.5"),
            ("augmentation `mixup`", self.mixup, 100.0, "0 (off) to 100"),
            (
                "augmentation `cutmix`",
                self.cutmix,
                100.0,
                "0 (off) to 100",
            ),
        ];
        for (what, value, most, legal) in settings {
            if !(0.0..=most).contains(&value) {
                return Err(DataError::setting(what, value, legal));
            }
        }
        if self.crop_padding > 0 && self.resized_crop > 0.0 {
            return Err(DataError::setting(
                "augmentation `resized_crop`",
                self.resized_crop,
                "0 beside `crop_padding`: an image is cropped in one way",
            ));
        }
        Ok(())
    }

    /// Changed copies of images (N, H, W, C), for those who have no [`Loader`](crate::Loader): image
    /// n draws from (`seed`, `purpose`; `step`, n). Mixing is for loaders.
    pub fn images(
        &self,
        images: &[u8],
        shape: ImageShape,
        fill: &[u8],
        (seed, purpose, step): (u64, &'static str, u64),
    ) -> Vec<u8> {
        let mut changed = Vec::with_capacity(images.len());
        let mut out = Vec::new();
        for (index, image) in images.chunks_exact(shape.bytes()).enumerate() {
            let address = Address {
                seed,
                purpose,
                epoch: step,
                index: index as u64,
            };
            self.apply(image, shape, fill, address, &mut out);
            changed.extend_from_slice(&out);
        }
        changed
    }

    /// Writes the changed `image` (H, W, C) into `out`; an erased rectangle gets `fill` (C).
    pub(crate) fn apply(
        &self,
        image: &[u8],
        shape: ImageShape,
        fill: &[u8],
        address: Address,
        out: &mut Vec<u8>,
    ) {
        let mut draws = address.draws();
        let places = 2 * self.crop_padding + 1;
        let place = (draws.below(places), draws.below(places));
        let is_mirrored = draws.chance(0.5) && self.horizontal_flip;
        let is_erased = draws.chance(f64::from(self.random_erasing));
        if self.resized_crop > 0.0 {
            self.crop_and_enlarge(image, shape, address, out);
        } else {
            let outside = match self.reflect_padding {
                true => Outside::Reflected,
                false => Outside::Zero,
            };
            crop(image, shape, self.crop_padding, outside, place, out);
        }
        if is_mirrored {
            mirror(shape, out);
        }
        if let Some(policy) = self.auto_augment {
            policy.apply(out, shape, address.draws_of("AutoAugment"));
        }
        let jitter = Jitter {
            brightness: self.brightness,
            contrast: self.contrast,
            saturation: self.saturation,
            hue: self.hue,
        };
        if self.brightness + self.contrast + self.saturation + self.hue > 0.0 {
            jitter.apply(out, shape.channels, address.draws_of("colour jitter"));
        }
        let turns_grey = self.grayscale > 0.0
            && address
                .draws_of("grayscale")
                .chance(f64::from(self.grayscale));
        if turns_grey {
            colour::saturation(out, shape.channels, 0.0);
        }
        if is_erased && let Some(rectangle) = Rectangle::draw(shape, &mut draws, erased) {
            rectangle.fill(shape, fill, out);
        }
    }

    fn crop_and_enlarge(
        &self,
        image: &[u8],
        shape: ImageShape,
        address: Address,
        out: &mut Vec<u8>,
    ) {
        let least = f64::from(self.resized_crop);
        let draw = |draws: &mut Draws| {
            let area = least + (1.0 - least) * draws.unit_f64();
            let (low, high) = (CROP_ASPECT.0.ln(), CROP_ASPECT.1.ln());
            (area, (low + (high - low) * draws.unit_f64()).exp())
        };
        let mut draws = address.draws_of("resized crop");
        let rectangle = Rectangle::draw(shape, &mut draws, draw).unwrap_or(Rectangle {
            top: 0,
            left: 0,
            height: shape.height,
            width: shape.width,
        });
        rectangle.enlarged(image, shape, out);
    }
}

/// Area and aspect of an erased rectangle.
fn erased(draws: &mut Draws) -> (f64, f64) {
    let mut uniform = |(low, high): (f64, f64)| low + (high - low) * draws.unit_f64();
    (uniform(ERASED_AREA), uniform(ERASED_ASPECT))
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
        crop(&IMAGE, SHAPE, 1, Outside::Zero, (top, left), &mut out);
        out
    }

    fn applied(augmentation: Augmentation, index: u64) -> Vec<u8> {
        let mut out = vec![99];
        augmentation.apply(
            &IMAGE,
            SHAPE,
            &[50],
            Address {
                seed: 1,
                purpose: "test",
                epoch: 0,
                index,
            },
            &mut out,
        );
        out
    }

    #[test]
    fn every_crop_and_both_mirrors_occur_and_nothing_else() {
        let augmentation = Augmentation {
            crop_padding: 1,
            horizontal_flip: true,
            ..Augmentation::default()
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
    fn images_turn_grey_as_often_as_asked_and_the_rest_stays_as_drawn() {
        let shape = ImageShape {
            height: 2,
            width: 2,
            channels: 3,
        };
        let image: Vec<u8> = (0..12).map(|value| value * 20).collect();
        let changed = |grayscale: f32| -> Vec<u8> {
            let settings = Augmentation {
                grayscale,
                horizontal_flip: true,
                ..Default::default()
            };
            settings.images(&image.repeat(400), shape, &[0; 3], (1, "grey", 0))
        };
        let (never, sometimes) = (changed(0.0), changed(0.25));
        let mut grey = 0;
        for (before, after) in never.chunks(12).zip(sometimes.chunks(12)) {
            let is_grey = after
                .chunks(3)
                .all(|pixel| pixel[0] == pixel[1] && pixel[1] == pixel[2]);
            assert!(is_grey || before == after);
            grey += usize::from(is_grey);
        }
        assert!((70..130).contains(&grey), "{grey}");
    }

    #[test]
    fn illegal_settings_are_errors() {
        let both = Augmentation {
            crop_padding: 1,
            resized_crop: 0.5,
            ..Default::default()
        };
        assert!(
            both.check(SHAPE)
                .unwrap_err()
                .to_string()
                .contains("one way")
        );
        let hue = Augmentation {
            hue: 0.6,
            ..Default::default()
        };
        assert!(hue.check_ranges().unwrap_err().to_string().contains("0.5"));
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

    #[test]
    fn every_part_changes_images_and_leaves_the_draws_of_the_others() {
        let shape = ImageShape {
            height: 24,
            width: 24,
            channels: 3,
        };
        let image: Vec<u8> = (0..shape.bytes())
            .map(|index| (index * 7 % 256) as u8)
            .collect();
        let changed = |augmentation: Augmentation, index| {
            let address = Address {
                seed: 1,
                purpose: "test",
                epoch: 0,
                index,
            };
            let mut out = Vec::new();
            augmentation.apply(&image, shape, &[1, 2, 3], address, &mut out);
            out
        };
        let none = Augmentation::default();
        let parts = [
            Augmentation {
                resized_crop: 0.3,
                ..none
            },
            Augmentation {
                auto_augment: Some(AutoAugmentPolicy::Cifar10),
                ..none
            },
            Augmentation {
                brightness: 0.4,
                ..none
            },
            Augmentation {
                contrast: 0.4,
                ..none
            },
            Augmentation {
                saturation: 0.4,
                ..none
            },
            Augmentation { hue: 0.2, ..none },
            Augmentation {
                crop_padding: 2,
                reflect_padding: true,
                ..none
            },
        ];
        for part in parts {
            let moved = (0..40)
                .filter(|index| changed(part, *index) != image)
                .count();
            assert!(moved > 20, "{part:?} {moved}");
            // The erased rectangle is where it is without the part.
            let erasing = Augmentation {
                random_erasing: 1.0,
                ..part
            };
            let alone = Augmentation {
                random_erasing: 1.0,
                ..none
            };
            for index in 0..10 {
                let places = |image: &[u8]| -> Vec<usize> {
                    let pixels = image.chunks_exact(3).enumerate();
                    pixels
                        .filter(|(_, pixel)| *pixel == [1, 2, 3])
                        .map(|(place, _)| place)
                        .collect()
                };
                if part.crop_padding == 0 {
                    assert_eq!(
                        places(&changed(erasing, index)),
                        places(&changed(alone, index))
                    );
                }
            }
        }
    }
}
