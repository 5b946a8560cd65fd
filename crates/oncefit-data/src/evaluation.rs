//! Batches that are the same at every call: for evaluation and for calibration.

use oncefit_random::Draws;

use crate::augmentation::Augmentation;
use crate::batch::{Augmenting, Batch, Rendering};
use crate::dataset::Dataset;
use crate::error::{DataError, Result, at_least_one};
use crate::normalisation::Normalisation;

/// All images of `dataset` in their order, resized to `resolution` × `resolution` pixels, without
/// augmentation; the last batch may be smaller.
///
/// # Errors
/// If `batch_size` or `resolution` is 0, or the normalisation does not fit the images.
pub fn evaluation_batches(
    dataset: &Dataset,
    batch_size: usize,
    resolution: usize,
    normalisation: &Normalisation,
) -> Result<Vec<Batch>> {
    at_least_one("batch size", batch_size)?;
    normalisation.check(dataset.channels())?;
    let rendering = Rendering::new(dataset, normalisation, resolution)?;
    let indices: Vec<usize> = (0..dataset.len()).collect();
    Ok(indices
        .chunks(batch_size)
        .map(|indices| rendering.batch(indices))
        .collect())
}

/// A fixed choice of `count` training images, for batch-norm statistics or activation ranges.
///
/// The images are the first of a shuffle addressed by (`seed`, "calibration", 0, 0); image i is
/// augmented with draws addressed by (`seed`, "calibration-augmentation", 0, i). Neither depends on
/// `batch_size` or `resolution`. The last batch may be smaller.
///
/// # Errors
/// If `count` is 0 or more than there are images, `batch_size` or `resolution` is 0, or augmentation
/// or normalisation do not fit the images.
pub fn calibration_batches(
    train: &Dataset,
    count: usize,
    batch_size: usize,
    resolution: usize,
    normalisation: &Normalisation,
    seed: u64,
    augmentation: Augmentation,
) -> Result<Vec<Batch>> {
    at_least_one("batch size", batch_size)?;
    if count == 0 || count > train.len() {
        return Err(DataError::setting(
            "number of calibration images",
            count,
            format!(
                "1 to {}, the number of images in `{}`",
                train.len(),
                train.name()
            ),
        ));
    }
    normalisation.check(train.channels())?;
    augmentation.check(train.shape())?;
    let mut indices: Vec<usize> = (0..train.len()).collect();
    Draws::new(seed, "calibration", 0, 0).shuffle(&mut indices);
    let purpose = "calibration-augmentation";
    let rendering = Rendering::new(train, normalisation, resolution)?.augmented(Augmenting::new(
        augmentation,
        normalisation,
        seed,
        purpose,
        0,
    ));
    Ok(indices[..count]
        .chunks(batch_size)
        .map(|indices| rendering.batch(indices))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;

    /// Seven images of 2 x 2 equal pixels with the value of their label.
    fn dataset() -> Dataset {
        let shape = ImageShape {
            height: 2,
            width: 2,
            channels: 1,
        };
        let images = (0..28).map(|value| value / 4).collect();
        let names = (0..7).map(|class| class.to_string()).collect();
        Dataset::new("d", shape, images, (0..7).collect(), names).unwrap()
    }

    /// Leaves bytes as they are.
    fn normalisation() -> Normalisation {
        Normalisation {
            mean: vec![0.0],
            std: vec![1.0 / 255.0],
        }
    }

    fn calibration(count: usize, batch_size: usize, seed: u64, resolution: usize) -> Vec<Batch> {
        let dataset = dataset();
        calibration_batches(
            &dataset,
            count,
            batch_size,
            resolution,
            &normalisation(),
            seed,
            Augmentation::NONE,
        )
        .unwrap()
    }

    fn labels(batches: &[Batch]) -> Vec<u32> {
        batches
            .iter()
            .flat_map(|batch| batch.labels.clone())
            .collect()
    }

    #[test]
    fn evaluation_keeps_the_order_and_pairs_images_with_labels() {
        let batches = evaluation_batches(&dataset(), 3, 5, &normalisation()).unwrap();
        assert_eq!(labels(&batches), Vec::from_iter(0..7));
        assert_eq!(
            batches
                .iter()
                .map(|batch| batch.images_count)
                .collect::<Vec<_>>(),
            [3, 3, 1]
        );
        for batch in &batches {
            for (image, label) in batch.images.chunks_exact(25).zip(&batch.labels) {
                assert!(
                    image
                        .iter()
                        .all(|value| (value - *label as f32).abs() < 1e-4)
                );
            }
        }
    }

    #[test]
    fn the_calibration_choice_follows_the_seed_alone() {
        let chosen = labels(&calibration(4, 2, 1, 2));
        assert_eq!(chosen, labels(&calibration(4, 3, 1, 6)));
        assert!((2..20).any(|seed| labels(&calibration(4, 2, seed, 2)) != chosen));
        let mut distinct = labels(&calibration(7, 2, 1, 2));
        distinct.sort_unstable();
        assert_eq!(distinct, Vec::from_iter(0..7));
    }

    #[test]
    fn calibration_images_can_be_augmented() {
        let augmentation = Augmentation {
            crop_padding: 1,
            ..Augmentation::NONE
        };
        let batches = |batch_size| {
            let normalisation = normalisation();
            calibration_batches(
                &dataset(),
                7,
                batch_size,
                2,
                &normalisation,
                1,
                augmentation,
            )
            .unwrap()
        };
        let images = |batches: &[Batch]| -> Vec<f32> {
            batches
                .iter()
                .flat_map(|batch| batch.images.clone())
                .collect()
        };
        assert_eq!(images(&batches(7)), images(&batches(2)));
        assert_ne!(images(&batches(7)), images(&calibration(7, 7, 1, 2)));
    }

    #[test]
    fn illegal_numbers_are_errors() {
        let dataset = dataset();
        for count in [0, 8] {
            let error = calibration_batches(
                &dataset,
                count,
                2,
                2,
                &normalisation(),
                0,
                Augmentation::NONE,
            )
            .unwrap_err()
            .to_string();
            assert_eq!(
                error,
                format!(
                    "number of calibration images is {count}; expected 1 to 7, the number of images in `d`"
                )
            );
        }
        assert!(evaluation_batches(&dataset, 0, 2, &normalisation()).is_err());
        assert!(evaluation_batches(&dataset, 2, 0, &normalisation()).is_err());
        let coloured = Normalisation {
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
        };
        assert!(evaluation_batches(&dataset, 2, 2, &coloured).is_err());
    }
}
