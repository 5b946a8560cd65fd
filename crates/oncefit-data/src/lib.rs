//! Image data sets, augmentation and deterministic loaders.
//!
//! Images are bytes, channels-last (N, H, W, C), until they become a [`Batch`]:
//!
//! `bytes → augmentation → resize → (v / 255 − mean) / std`
//!
//! A batch is a function of (data, seed, step, resolution). Every random draw is addressed by
//! (seed, purpose, step, index), so neither the number of threads, nor making batches ahead, nor
//! resuming in the middle can change a byte.
//!
//! ```
//! use oncefit_data::{Augmentation, DataSource, Loader, Normalisation};
//! let data = DataSource::Embedded.load()?;
//! let normalisation = Normalisation::of(&data.train)?;
//! let loader = Loader::new(data.train, 64, 7, Augmentation::default(), normalisation, true)?;
//! assert_eq!(loader.steps_per_epoch(), 125);
//! let batch = loader.batch(1000, 24)?;
//! assert_eq!((batch.images_count, batch.height, batch.width, batch.channels), (64, 24, 24, 1));
//! assert_eq!(batch, loader.batch(1000, 24)?);
//! # Ok::<(), oncefit_data::DataError>(())
//! ```

mod archive;
mod augmentation;
mod batch;
mod cifar;
mod dataset;
mod embedded;
mod error;
mod evaluation;
mod idx;
mod image_folder;
mod loader;
mod normalisation;
mod prefetch;
mod resize;
mod sheet;
mod source;
mod split;
mod summary;

pub use augmentation::{Augmentation, AutoAugmentPolicy, mirror};
pub use batch::Batch;
pub use dataset::{Dataset, ImageShape};
pub use embedded::{EMBEDDED_TEST_PER_CLASS, EMBEDDED_TRAIN_PER_CLASS, embedded, first_per_class};
pub use error::{DataError, Result};
pub use evaluation::{calibration_batches, evaluation_batches};
pub use idx::{IdxArray, parse_idx, read_idx};
pub use image_folder::read_image;
pub use loader::Loader;
pub use normalisation::Normalisation;
pub use prefetch::Prefetch;
pub use resize::Resize;
pub use sheet::{ContactSheet, contact_sheet};
pub use source::{
    DataSource, FASHION_MNIST_CLASSES, FASHION_MNIST_FOLDER, LoadedData, fashion_mnist,
};
pub use split::{Split, ValidationSplit};
pub use summary::{ClassCount, DatasetSummary};
