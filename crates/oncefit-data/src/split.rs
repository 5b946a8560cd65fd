//! Validation images, held out of the training images.

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::error::{DataError, Result};

/// How many training images are held out, and the seed that chooses them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ValidationSplit {
    /// Images to hold out, over all classes.
    pub size: usize,
    /// Seed of the choice.
    pub seed: u64,
}

/// The three parts of an experiment's data.
#[derive(Clone, Debug)]
pub struct Split {
    /// Trained on.
    pub train: Dataset,
    /// Held out of the training images; choices are made on it.
    pub validation: Dataset,
    /// Reported, never chosen on.
    pub test: Dataset,
}

impl Dataset {
    /// Parts the images into (what remains, what is held out), both in the order they had.
    ///
    /// Every class gives size / classes images, the first size mod classes classes one more. The
    /// images of class c are the first of a shuffle addressed by (seed, "validation", 0, c), so a
    /// larger split contains a smaller one.
    ///
    /// # Errors
    /// If `size` is less than the number of classes, or a class would have nothing left to train
    /// on.
    pub fn hold_out(&self, split: ValidationSplit) -> Result<(Self, Self)> {
        let ValidationSplit { size, seed } = split;
        let classes = self.class_names().len();
        if size < classes {
            return Err(DataError::ValidationSize { size, classes });
        }
        let mut is_held_out = vec![false; self.len()];
        for (class, mut indices) in self.indices_by_class().into_iter().enumerate() {
            let held_out = size / classes + usize::from(class < size % classes);
            if held_out >= indices.len() {
                return Err(DataError::ClassTooSmall {
                    class: self.class_names()[class].clone(),
                    dataset: self.name().into(),
                    images: indices.len(),
                    held_out,
                });
            }
            Draws::new(seed, "validation", 0, class as u64).shuffle(&mut indices);
            for &index in &indices[..held_out] {
                is_held_out[index] = true;
            }
        }
        let (held_out, kept): (Vec<usize>, Vec<usize>) =
            (0..self.len()).partition(|index| is_held_out[*index]);
        let validation = self
            .subset(&held_out)?
            .renamed(format!("{} (held out)", self.name()));
        Ok((self.subset(&kept)?, validation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageShape, LoadedData};
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    /// Images whose two bytes are their index, labels 0, 1, 2, 0, …
    fn numbered(count: usize) -> Dataset {
        let shape = ImageShape {
            height: 1,
            width: 2,
            channels: 1,
        };
        let bytes = (0..count)
            .flat_map(|index| (index as u16).to_be_bytes())
            .collect();
        let labels = (0..count).map(|index| index as u32 % 3).collect();
        let names = ["a", "b", "c"].map(String::from).to_vec();
        Dataset::new("numbered", shape, bytes, labels, names).unwrap()
    }

    fn numbers(dataset: &Dataset) -> Vec<u16> {
        let pair = |bytes: &[u8]| u16::from_be_bytes([bytes[0], bytes[1]]);
        dataset.images().chunks_exact(2).map(pair).collect()
    }

    proptest! {
        #[test]
        fn parts_are_disjoint_complete_and_balanced(size in 3usize..100, seed: u64) {
            let all = numbered(300);
            let (train, validation) = all.hold_out(ValidationSplit { size, seed }).unwrap();
            prop_assert_eq!(validation.len(), size);
            prop_assert!(numbers(&train).is_sorted() && numbers(&validation).is_sorted());
            let mut union = [numbers(&train), numbers(&validation)].concat();
            union.sort_unstable();
            prop_assert_eq!(union, numbers(&all));
            let counts: Vec<usize> = validation.indices_by_class().iter().map(Vec::len).collect();
            prop_assert!(counts.iter().all(|count| *count - size / 3 <= 1), "{:?}", counts);
            for (label, number) in validation.labels().iter().zip(numbers(&validation)) {
                prop_assert_eq!(*label, u32::from(number) % 3);
            }
        }
    }

    #[test]
    fn the_choice_follows_the_seed_and_grows_with_the_size() {
        let hold_out = |size, seed| {
            numbers(
                &numbered(300)
                    .hold_out(ValidationSplit { size, seed })
                    .unwrap()
                    .1,
            )
        };
        assert_eq!(hold_out(30, 1), hold_out(30, 1));
        assert_ne!(hold_out(30, 1), hold_out(30, 2));
        let larger = BTreeSet::from_iter(hold_out(60, 1));
        assert!(hold_out(30, 1).iter().all(|number| larger.contains(number)));
    }

    #[test]
    fn the_test_part_is_untouched() {
        let data = LoadedData::new(numbered(30), numbered(9)).unwrap();
        let split = data.split(ValidationSplit { size: 6, seed: 0 }).unwrap();
        assert_eq!((split.train.len(), split.validation.len()), (24, 6));
        assert_eq!(split.test.hash(), data.test.hash());
    }

    #[test]
    fn impossible_sizes_are_errors() {
        let error = |size| {
            numbered(9)
                .hold_out(ValidationSplit { size, seed: 0 })
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error(2),
            "a validation split of 2 images cannot hold 3 classes; expected at least 3"
        );
        assert_eq!(
            error(7),
            "class `a` of `numbered` has 3 images; holding out 3 of them leaves none to train on"
        );
        assert!(
            numbered(9)
                .hold_out(ValidationSplit { size: 6, seed: 0 })
                .is_ok()
        );
    }
}
