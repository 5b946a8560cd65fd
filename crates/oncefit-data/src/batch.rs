//! Normalised images as a network reads them.

use rayon::prelude::*;

use crate::augmentation::{Address, Augmentation};
use crate::dataset::{Dataset, ImageShape};
use crate::error::Result;
use crate::normalisation::Normalisation;
use crate::resize::Resize;

/// Images of one step, normalised, with their labels.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Batch {
    /// Pixels (N, H, W, C): (v / 255 − mean) / std.
    pub images: Vec<f32>,
    /// Class of each image, N values.
    pub labels: Vec<u32>,
    /// Classes of what was mixed into each image, N values; empty where nothing was mixed.
    pub partner_labels: Vec<u32>,
    /// Share of `labels` in the targets, the rest being that of `partner_labels`.
    pub label_share: f32,
    /// N, the number of images.
    pub images_count: usize,
    /// H, rows of an image.
    pub height: usize,
    /// W, columns of an image.
    pub width: usize,
    /// C, values per pixel.
    pub channels: usize,
}

/// Values that are worth a task of their own; images smaller than this share one.
const VALUES_PER_TASK: usize = 16 * 1024;

/// How images of a data set become batches: augmented, resized, normalised.
///
/// The settings are checked by whoever makes it; only the resolution is checked here.
pub(crate) struct Rendering<'a> {
    dataset: &'a Dataset,
    affine: Vec<(f32, f32)>,
    resize: Resize,
    augmenting: Option<Augmenting>,
}

/// An augmentation, what it fills erased rectangles with, and the address of its draws.
pub(crate) struct Augmenting {
    augmentation: Augmentation,
    fill: Vec<u8>,
    seed: u64,
    purpose: &'static str,
    epoch: u64,
}

impl Augmenting {
    /// Draws addressed by (`seed`, `purpose`, `epoch`, index of the image).
    pub(crate) fn new(
        augmentation: Augmentation,
        normalisation: &Normalisation,
        seed: u64,
        purpose: &'static str,
        epoch: u64,
    ) -> Self {
        Self {
            augmentation,
            fill: normalisation.mean_bytes(),
            seed,
            purpose,
            epoch,
        }
    }
}

impl<'a> Rendering<'a> {
    /// To `resolution` × `resolution` pixels, without augmentation.
    pub(crate) fn new(
        dataset: &'a Dataset,
        normalisation: &Normalisation,
        resolution: usize,
    ) -> Result<Self> {
        let resize = Resize::new(dataset.shape(), resolution, resolution)?;
        Ok(Self {
            dataset,
            affine: normalisation.affine(),
            resize,
            augmenting: None,
        })
    }

    /// With augmentation, unless it changes nothing.
    pub(crate) fn augmented(self, augmenting: Augmenting) -> Self {
        let augmenting = Some(augmenting).filter(|value| !value.augmentation.is_none());
        Self { augmenting, ..self }
    }

    /// Makes `batch` the images at `indices`, reusing its memory.
    pub(crate) fn fill(&self, indices: &[usize], batch: &mut Batch) {
        let ImageShape {
            height,
            width,
            channels,
        } = self.resize.output_shape();
        let values = height * width * channels;
        batch.images.resize(indices.len() * values, 0.0);
        batch.labels.clear();
        batch
            .labels
            .extend(indices.iter().map(|&index| self.dataset.labels()[index]));
        batch.partner_labels.clear();
        batch.label_share = 1.0;
        batch.images_count = indices.len();
        (batch.height, batch.width, batch.channels) = (height, width, channels);
        batch
            .images
            .par_chunks_exact_mut(values)
            .zip(indices)
            .with_min_len(VALUES_PER_TASK.div_ceil(values))
            .for_each_init(Default::default, |(bytes, scratch), (out, &index)| {
                self.render(index, bytes, scratch, out);
            });
    }

    /// The images at `indices`.
    pub(crate) fn batch(&self, indices: &[usize]) -> Batch {
        let mut batch = Batch::default();
        self.fill(indices, &mut batch);
        batch
    }

    fn render(&self, index: usize, bytes: &mut Vec<u8>, scratch: &mut Vec<f32>, out: &mut [f32]) {
        let mut image = self.dataset.image(index);
        if let Some(Augmenting {
            augmentation,
            fill,
            seed,
            purpose,
            epoch,
        }) = &self.augmenting
        {
            let address = Address {
                seed: *seed,
                purpose,
                epoch: *epoch,
                index: index as u64,
            };
            augmentation.apply(image, self.dataset.shape(), fill, address, bytes);
            image = bytes;
        }
        self.resize.apply(image, scratch, out);
        for pixel in out.chunks_exact_mut(self.affine.len()) {
            for (value, (scale, shift)) in pixel.iter_mut().zip(&self.affine) {
                *value = *value * scale + shift;
            }
        }
    }
}
