//! The Fashion-MNIST subset that is part of this library, so that nothing need be downloaded.
//!
//! The first 800 training and the first 200 test images of each class, in file order. The files
//! are written by `tools/embedded-data/build.py`; their licence is beside them.

use std::path::Path;
use std::sync::OnceLock;

use crate::dataset::Dataset;
use crate::error::Result;
use crate::idx::{LabelledFiles, parse_idx};
use crate::source::{LoadedData, fashion_mnist_classes};

/// Training images of each class in the embedded data.
pub const EMBEDDED_TRAIN_PER_CLASS: usize = 800;
/// Test images of each class in the embedded data.
pub const EMBEDDED_TEST_PER_CLASS: usize = 200;

macro_rules! embedded_file {
    ($name:literal) => {
        (
            concat!("embedded/", $name),
            include_bytes!(concat!("../embedded/", $name)).as_slice(),
        )
    };
}

type EmbeddedFile = (&'static str, &'static [u8]);
const TRAIN_IMAGES: EmbeddedFile = embedded_file!("train-images-idx3-ubyte.gz");
const TRAIN_LABELS: EmbeddedFile = embedded_file!("train-labels-idx1-ubyte.gz");
const TEST_IMAGES: EmbeddedFile = embedded_file!("t10k-images-idx3-ubyte.gz");
const TEST_LABELS: EmbeddedFile = embedded_file!("t10k-labels-idx1-ubyte.gz");

/// The embedded data: 8,000 training and 2,000 test images of 28 × 28 × 1, ten classes.
///
/// Decompressed at the first call; later calls share the images.
///
/// # Errors
/// If the embedded files are malformed, which a build from an intact repository cannot be.
pub fn embedded() -> Result<LoadedData> {
    static LOADED: OnceLock<LoadedData> = OnceLock::new();
    if let Some(data) = LOADED.get() {
        return Ok(data.clone());
    }
    let read = |name, images: EmbeddedFile, labels: EmbeddedFile| {
        let parse = |(file, bytes), dimensions| parse_idx(Path::new(file), bytes, dimensions);
        LabelledFiles::new(parse(images, 3)?, parse(labels, 1)?)?
            .into_dataset(name, fashion_mnist_classes())
    };
    let data = LoadedData::new(
        read("embedded/train", TRAIN_IMAGES, TRAIN_LABELS)?,
        read("embedded/test", TEST_IMAGES, TEST_LABELS)?,
    )?;
    Ok(LOADED.get_or_init(|| data).clone())
}

/// The first `count` images of each class, in the order they have; all of a class with fewer.
///
/// # Errors
/// If `count` is 0.
pub fn first_per_class(dataset: &Dataset, count: usize) -> Result<Dataset> {
    let mut seen = vec![0; dataset.class_names().len()];
    let indices: Vec<usize> = (0..dataset.len())
        .filter(|&index| {
            let seen = &mut seen[dataset.labels()[index] as usize];
            *seen += 1;
            *seen <= count
        })
        .collect();
    dataset.subset(&indices)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{FASHION_MNIST_FOLDER, fashion_mnist};

    const TRAIN_HASH: &str = "09ad0435d030f3c4de5999757bb167a0fd199db9e861c73a9e5138e0041210f8";
    const TEST_HASH: &str = "0e45a2b707b43cb25f566c9013a23cde16d452f83d467e2c971ac59dfb472af9";

    #[test]
    fn the_decompressed_data_has_its_hash() {
        let data = embedded().unwrap();
        assert_eq!(data.train.hash().to_hex().as_str(), TRAIN_HASH);
        assert_eq!(data.test.hash().to_hex().as_str(), TEST_HASH);
    }

    #[test]
    fn classes_are_balanced() {
        let data = embedded().unwrap();
        for (dataset, per_class) in [
            (&data.train, EMBEDDED_TRAIN_PER_CLASS),
            (&data.test, EMBEDDED_TEST_PER_CLASS),
        ] {
            let counts: Vec<usize> = dataset.indices_by_class().iter().map(Vec::len).collect();
            assert_eq!(counts, [per_class; 10]);
        }
    }

    #[test]
    fn it_is_the_start_of_the_whole_data_set() {
        let folder = Path::new(FASHION_MNIST_FOLDER);
        if !folder.is_dir() {
            println!(
                "skipped: {FASHION_MNIST_FOLDER} is absent (Debian package dataset-fashion-mnist)"
            );
            return;
        }
        let whole = fashion_mnist(folder).unwrap();
        let data = embedded().unwrap();
        for (whole, dataset, per_class) in [
            (whole.train, data.train, EMBEDDED_TRAIN_PER_CLASS),
            (whole.test, data.test, EMBEDDED_TEST_PER_CLASS),
        ] {
            let rebuilt = first_per_class(&whole, per_class).unwrap();
            assert!(rebuilt.images() == dataset.images() && rebuilt.labels() == dataset.labels());
            assert_eq!(rebuilt.hash(), dataset.hash());
        }
    }
}
