//! Training batches as a function of the step.

use std::sync::{Arc, Mutex, PoisonError};

use oncefit_random::Draws;

use crate::augmentation::{Augmentation, mix};
use crate::batch::{Augmenting, Batch, Rendering};
use crate::dataset::Dataset;
use crate::error::{DataError, Result, at_least_one};
use crate::normalisation::Normalisation;

/// Gives the batch of any step of a training, in any order.
///
/// Step s is batch s mod n of epoch s / n, where n is [`Loader::steps_per_epoch`]. An epoch visits
/// the images in the order of a shuffle addressed by (seed, "order", epoch, 0); image i is augmented
/// with draws addressed by (seed, "augmentation", epoch, i), a batch is mixed with draws addressed
/// by (seed, "mix", step, 0). A clone gives the same batches.
#[derive(Clone, Debug)]
pub struct Loader {
    dataset: Dataset,
    batch_size: usize,
    seed: u64,
    augmentation: Augmentation,
    normalisation: Normalisation,
    drop_last: bool,
    /// The epoch asked for last, with its order: a cache that cannot change a result.
    last_order: Arc<Mutex<Option<EpochOrder>>>,
}

#[derive(Clone, Debug)]
struct EpochOrder {
    epoch: u64,
    indices: Arc<[usize]>,
}

impl Loader {
    /// A loader of `dataset`.
    ///
    /// # Arguments
    /// - `batch_size`: images per step
    /// - `drop_last`: leave out the images at the end of an epoch that do not fill a batch, instead
    ///   of giving a smaller one
    ///
    /// # Errors
    /// If `batch_size` is 0, or more than there are images and the last batch is dropped; if
    /// augmentation or normalisation do not fit the images.
    pub fn new(
        dataset: Dataset,
        batch_size: usize,
        seed: u64,
        augmentation: Augmentation,
        normalisation: Normalisation,
        drop_last: bool,
    ) -> Result<Self> {
        at_least_one("batch size", batch_size)?;
        if drop_last && batch_size > dataset.len() {
            return Err(DataError::setting(
                "batch size",
                batch_size,
                format!(
                    "at most {}, the number of images in `{}`",
                    dataset.len(),
                    dataset.name()
                ),
            ));
        }
        augmentation.check(dataset.shape())?;
        normalisation.check(dataset.channels())?;
        let last_order = Arc::default();
        Ok(Self {
            dataset,
            batch_size,
            seed,
            augmentation,
            normalisation,
            drop_last,
            last_order,
        })
    }

    /// The images it loads.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// Steps in an epoch.
    pub fn steps_per_epoch(&self) -> u64 {
        let (images, batch_size) = (self.dataset.len(), self.batch_size);
        let steps = if self.drop_last {
            images / batch_size
        } else {
            images.div_ceil(batch_size)
        };
        steps as u64
    }

    /// Indices of all images, in the order in which `epoch` visits them.
    pub fn epoch_order(&self, epoch: u64) -> Arc<[usize]> {
        let mut last = self
            .last_order
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(order) = last.as_ref().filter(|order| order.epoch == epoch) {
            return order.indices.clone();
        }
        let mut indices: Vec<usize> = (0..self.dataset.len()).collect();
        Draws::new(self.seed, "order", epoch, 0).shuffle(&mut indices);
        let indices: Arc<[usize]> = indices.into();
        *last = Some(EpochOrder {
            epoch,
            indices: indices.clone(),
        });
        indices
    }

    /// The batch of `step`, its images resized to `resolution` × `resolution` pixels.
    ///
    /// # Errors
    /// If `resolution` is 0.
    pub fn batch(&self, step: u64, resolution: usize) -> Result<Batch> {
        let mut batch = Batch::default();
        self.fill(step, resolution, &mut batch)?;
        Ok(batch)
    }

    /// As [`Loader::batch`], into the memory of an old batch.
    ///
    /// # Errors
    /// If `resolution` is 0.
    pub fn fill(&self, step: u64, resolution: usize, batch: &mut Batch) -> Result<()> {
        let steps = self.steps_per_epoch();
        let (epoch, place) = (step / steps, (step % steps) as usize * self.batch_size);
        let order = self.epoch_order(epoch);
        let end = order.len().min(place + self.batch_size);
        let augmenting = Augmenting::new(
            self.augmentation,
            &self.normalisation,
            self.seed,
            "augmentation",
            epoch,
        );
        Rendering::new(&self.dataset, &self.normalisation, resolution)?
            .augmented(augmenting)
            .fill(&order[place..end], batch);
        let Augmentation { mixup, cutmix, .. } = self.augmentation;
        mix(batch, mixup, cutmix, Draws::new(self.seed, "mix", step, 0));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;

    const ALL: Augmentation = Augmentation {
        crop_padding: 1,
        horizontal_flip: true,
        random_erasing: 0.5,
        ..Augmentation::NONE
    };

    /// `count` images of 4 x 4 random pixels, labelled by their index.
    fn dataset(count: usize) -> Dataset {
        let shape = ImageShape {
            height: 4,
            width: 4,
            channels: 1,
        };
        let mut draws = Draws::new(0, "test-images", 0, 0);
        let images = (0..16 * count).map(|_| draws.below(256) as u8).collect();
        let names = (0..count).map(|class| class.to_string()).collect();
        Dataset::new("d", shape, images, (0..count as u32).collect(), names).unwrap()
    }

    fn normalisation() -> Normalisation {
        Normalisation {
            mean: vec![0.5],
            std: vec![0.25],
        }
    }

    fn loader(batch_size: usize, augmentation: Augmentation, drop_last: bool) -> Loader {
        Loader::new(
            dataset(10),
            batch_size,
            7,
            augmentation,
            normalisation(),
            drop_last,
        )
        .unwrap()
    }

    fn epoch_labels(loader: &Loader, epoch: u64) -> Vec<u32> {
        let steps = loader.steps_per_epoch();
        (epoch * steps..(epoch + 1) * steps)
            .flat_map(|step| loader.batch(step, 4).unwrap().labels)
            .collect()
    }

    #[test]
    fn an_epoch_visits_every_image_once_in_an_order_of_its_own() {
        let loader = loader(3, ALL, false);
        assert_eq!(loader.steps_per_epoch(), 4);
        assert_eq!(loader.batch(3, 4).unwrap().images_count, 1);
        for epoch in 0..3 {
            let mut labels = epoch_labels(&loader, epoch);
            assert_ne!(labels, epoch_labels(&loader, epoch + 1));
            labels.sort_unstable();
            assert_eq!(labels, Vec::from_iter(0..10));
        }
    }

    #[test]
    fn dropping_the_last_batch_shortens_the_epoch() {
        let (all, whole) = (loader(3, ALL, false), loader(3, ALL, true));
        assert_eq!(whole.steps_per_epoch(), 3);
        assert_eq!(epoch_labels(&whole, 1), epoch_labels(&all, 1)[..9]);
    }

    #[test]
    fn an_unchanged_image_is_normalised_exactly() {
        let loader = loader(10, Augmentation::default(), true);
        let batch = loader.batch(0, 4).unwrap();
        assert_eq!((batch.height, batch.width, batch.channels), (4, 4, 1));
        for (image, label) in batch.images.chunks_exact(16).zip(&batch.labels) {
            for (value, byte) in image.iter().zip(loader.dataset().image(*label as usize)) {
                let exact = (f64::from(*byte) / 255.0 - 0.5) / 0.25;
                assert!(
                    (f64::from(*value) - exact).abs() < 1e-6,
                    "{value} instead of {exact}"
                );
            }
        }
    }

    #[test]
    fn augmentation_does_not_depend_on_the_batch_but_on_epoch_and_seed() {
        let image_of_label_5 = |loader: &Loader, epoch: u64| {
            let steps = loader.steps_per_epoch();
            (epoch * steps..(epoch + 1) * steps)
                .map(|step| loader.batch(step, 4).unwrap())
                .find_map(|batch| {
                    let place = batch.labels.iter().position(|label| *label == 5)?;
                    Some(batch.images[16 * place..][..16].to_vec())
                })
                .unwrap()
        };
        let (small, large) = (loader(2, ALL, false), loader(5, ALL, false));
        let images: Vec<_> = (0..8)
            .map(|epoch| image_of_label_5(&small, epoch))
            .collect();
        for (epoch, image) in images.iter().enumerate() {
            assert_eq!(*image, image_of_label_5(&large, epoch as u64));
        }
        assert!(images.windows(2).any(|pair| pair[0] != pair[1]));
        let other = Loader::new(dataset(10), 2, 8, ALL, normalisation(), false).unwrap();
        assert!((0..8).any(|epoch| image_of_label_5(&other, epoch) != images[epoch as usize]));
    }

    #[test]
    fn each_image_of_an_epoch_has_draws_of_its_own() {
        let same = dataset(10).subset(&[3; 10]).unwrap();
        let loader = Loader::new(same, 10, 7, ALL, normalisation(), true).unwrap();
        let images = loader.batch(0, 4).unwrap().images;
        assert!(images.chunks_exact(16).any(|image| image != &images[..16]));
    }

    #[test]
    fn steps_can_be_asked_for_in_any_order_and_into_old_memory() {
        let loader = loader(3, ALL, false);
        let forwards: Vec<Batch> = (0..12).map(|step| loader.batch(step, 3).unwrap()).collect();
        let mut reused = loader.batch(2, 9).unwrap();
        for step in (0..12).rev() {
            loader.clone().fill(step as u64, 3, &mut reused).unwrap();
            assert_eq!(reused, forwards[step]);
        }
    }

    #[test]
    fn illegal_settings_are_errors() {
        let error = |batch_size, augmentation, normalisation| {
            Loader::new(
                dataset(10),
                batch_size,
                0,
                augmentation,
                normalisation,
                true,
            )
            .unwrap_err()
            .to_string()
        };
        let none = Augmentation::default();
        assert_eq!(
            error(0, none, normalisation()),
            "batch size is 0; expected at least 1"
        );
        assert_eq!(
            error(11, none, normalisation()),
            "batch size is 11; expected at most 10, the number of images in `d`"
        );
        let wide = Augmentation {
            crop_padding: 4,
            ..none
        };
        assert!(error(2, wide, normalisation()).contains("`crop_padding` is 4"));
        let coloured = Normalisation {
            mean: vec![0.5; 3],
            std: vec![0.5; 3],
        };
        assert!(error(2, none, coloured).contains("expected 1 finite number(s) each"));
        assert_eq!(
            loader(2, none, true).batch(0, 0).unwrap_err().to_string(),
            "resized width is 0; expected at least 1"
        );
    }
}
