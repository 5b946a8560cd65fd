//! Where training and test images come from.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::archive::Listing;
use crate::cifar::{SIDE as CIFAR_SIDE, cifar, is_cifar};
use crate::dataset::Dataset;
use crate::embedded::embedded;
use crate::error::{DataError, Result};
use crate::idx::LabelledFiles;
use crate::image_folder::image_folder;
use crate::split::{Split, ValidationSplit};

/// Where the Debian package `dataset-fashion-mnist` puts its files.
pub const FASHION_MNIST_FOLDER: &str = "/usr/share/datasets/fashion-mnist";

/// Classes of Fashion-MNIST, by label (Xiao, Rasul and Vollgraf 2017, table 2).
pub const FASHION_MNIST_CLASSES: [&str; 10] = [
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
];

/// Training and test images as their source has them, of the same shape and classes.
#[derive(Clone, Debug)]
pub struct LoadedData {
    /// Images to train on; the validation split is taken from them.
    pub train: Dataset,
    /// Images that are only reported on.
    pub test: Dataset,
}

impl LoadedData {
    /// Training and test images that belong together.
    ///
    /// # Errors
    /// If their images differ in shape.
    pub fn new(train: Dataset, test: Dataset) -> Result<Self> {
        if train.shape() != test.shape() {
            return Err(DataError::Shapes {
                train: train.name().into(),
                train_shape: train.shape(),
                test: test.name().into(),
                test_shape: test.shape(),
            });
        }
        Ok(Self { train, test })
    }

    /// Holds validation images out of the training images; the test images stay as they are.
    ///
    /// # Errors
    /// As [`Dataset::hold_out`].
    pub fn split(&self, validation: ValidationSplit) -> Result<Split> {
        let (train, validation) = self.train.hold_out(validation)?;
        Ok(Split {
            train,
            validation,
            test: self.test.clone(),
        })
    }
}

/// A named source of data.
///
/// As text: `"embedded"`, `{ fashion-mnist = { path = "…" } }`, `{ idx = { train_images = "…", … } }`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DataSource {
    /// The Fashion-MNIST subset inside this library: 8,000 training and 2,000 test images.
    Embedded,
    /// The whole of Fashion-MNIST: 60,000 training and 10,000 test images.
    FashionMnist {
        /// Folder of the four files; [`FASHION_MNIST_FOLDER`] if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<PathBuf>,
    },
    /// Grey images in four IDX files, raw or gzip.
    Idx {
        /// Training images (count, height, width).
        train_images: PathBuf,
        /// Their labels.
        train_labels: PathBuf,
        /// Test images.
        test_images: PathBuf,
        /// Their labels.
        test_labels: PathBuf,
        /// Names of the classes, by label; `"0"`, `"1"`, … up to the largest label if not given.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class_names: Option<Vec<String>>,
    },
    /// PNG or JPEG images in folders named like their classes, in a folder or in a `.tar`,
    /// `.tar.gz` or `.zip` archive of it; or CIFAR-10 or -100 in their binary version, in a folder or
    /// archive.
    Images {
        /// The folder or archive.
        path: PathBuf,
        /// Rows and columns that images are brought to; not needed where all have one size.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        image_size: Option<usize>,
        /// Share of the images that becomes the test part, where there is none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        test_fraction: Option<f64>,
    },
}

impl DataSource {
    /// Reads the data.
    ///
    /// # Errors
    /// If a file is missing or malformed, or the files do not belong together.
    pub fn load(&self) -> Result<LoadedData> {
        match self {
            Self::Embedded => embedded(),
            Self::FashionMnist { path } => {
                fashion_mnist(path.as_deref().unwrap_or(Path::new(FASHION_MNIST_FOLDER)))
            }
            Self::Idx {
                train_images,
                train_labels,
                test_images,
                test_labels,
                class_names,
            } => {
                let train = LabelledFiles::read(train_images, train_labels)?;
                let test = LabelledFiles::read(test_images, test_labels)?;
                let classes = train.classes().max(test.classes());
                let names = class_names
                    .clone()
                    .unwrap_or_else(|| (0..classes).map(|class| class.to_string()).collect());
                LoadedData::new(
                    train.into_dataset("idx/train", names.clone())?,
                    test.into_dataset("idx/test", names)?,
                )
            }
            Self::Images {
                path,
                image_size,
                test_fraction,
            } => {
                let listing = Listing::open(path)?;
                match is_cifar(&listing) {
                    true => {
                        if image_size.is_some_and(|size| size != CIFAR_SIDE) {
                            return Err(not_of_cifar(
                                path,
                                "image_size",
                                "CIFAR's images have 32×32 pixels",
                            ));
                        }
                        if test_fraction.is_some() {
                            return Err(not_of_cifar(
                                path,
                                "test_fraction",
                                "CIFAR has a test part",
                            ));
                        }
                        cifar(path, &listing)
                    }
                    false => image_folder(path, &listing, *image_size, *test_fraction),
                }
            }
        }
    }
}

/// The error of a setting that CIFAR's binary files leave no room for.
fn not_of_cifar(path: &Path, setting: &str, why: &str) -> DataError {
    DataError::Archive {
        file: path.to_owned(),
        reason: format!("{why}; leave `{setting}` out"),
    }
}

/// Reads the four files of Fashion-MNIST, as distributed, gzip or raw.
///
/// # Errors
/// If `folder` or one of the files is missing, or a file is malformed.
pub fn fashion_mnist(folder: &Path) -> Result<LoadedData> {
    if !folder.is_dir() {
        return Err(DataError::NoFashionMnist {
            folder: folder.to_owned(),
        });
    }
    let find = |name: &'static str| {
        [folder.join(format!("{name}.gz")), folder.join(name)]
            .into_iter()
            .find(|file| file.exists())
            .ok_or_else(|| DataError::NoFashionMnistFile {
                folder: folder.to_owned(),
                name,
            })
    };
    let train = (
        find("train-images-idx3-ubyte")?,
        find("train-labels-idx1-ubyte")?,
    );
    let test = (
        find("t10k-images-idx3-ubyte")?,
        find("t10k-labels-idx1-ubyte")?,
    );
    let read = |name, (images, labels): (PathBuf, PathBuf)| {
        LabelledFiles::read(&images, &labels)?.into_dataset(name, fashion_mnist_classes())
    };
    LoadedData::new(
        read("fashion-mnist/train", train)?,
        read("fashion-mnist/test", test)?,
    )
}

pub(crate) fn fashion_mnist_classes() -> Vec<String> {
    FASHION_MNIST_CLASSES.map(String::from).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs;

    use serde::de::value::{Error, MapAccessDeserializer, MapDeserializer, StrDeserializer};

    /// Writes `count` images of 2 x 2 pixels with labels 0, 1, 2, 0, … and returns both files.
    fn write_pair(folder: &Path, images: &str, labels: &str, count: u8) -> (PathBuf, PathBuf) {
        let (images, labels) = (folder.join(images), folder.join(labels));
        let mut file = vec![0, 0, 8, 3, 0, 0, 0, count, 0, 0, 0, 2, 0, 0, 0, 2];
        file.extend(0..4 * count);
        fs::write(&images, file).unwrap();
        let mut file = vec![0, 0, 8, 1, 0, 0, 0, count];
        file.extend((0..count).map(|index| index % 3));
        fs::write(&labels, file).unwrap();
        (images, labels)
    }

    #[test]
    fn idx_files_become_data_with_default_class_names() {
        let folder = tempfile::tempdir().unwrap();
        let (train_images, train_labels) = write_pair(folder.path(), "a", "b", 2);
        let (test_images, test_labels) = write_pair(folder.path(), "c", "d", 5);
        let source = |class_names| DataSource::Idx {
            train_images: train_images.clone(),
            train_labels: train_labels.clone(),
            test_images: test_images.clone(),
            test_labels: test_labels.clone(),
            class_names,
        };
        let data = source(None).load().unwrap();
        assert_eq!((data.train.len(), data.test.len()), (2, 5));
        assert_eq!(data.train.class_names(), ["0", "1", "2"]);
        assert_eq!(data.test.image(1), [4, 5, 6, 7]);
        let error = source(Some(vec!["x".into(), "y".into()]))
            .load()
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("label 2 at index 2 of data set `idx/test`"),
            "{error}"
        );
    }

    #[test]
    fn fashion_mnist_is_found_raw_and_missing_parts_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (_, labels) = write_pair(
            folder.path(),
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            6,
        );
        write_pair(
            folder.path(),
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
            3,
        );
        let data = fashion_mnist(folder.path()).unwrap();
        assert_eq!((data.train.len(), data.test.len()), (6, 3));
        assert_eq!(data.train.class_names()[9], "Ankle boot");

        fs::remove_file(labels).unwrap();
        let error = fashion_mnist(folder.path()).unwrap_err().to_string();
        assert!(
            error.contains("neither `train-labels-idx1-ubyte.gz` nor"),
            "{error}"
        );

        let path = folder.path().join("missing");
        let source = DataSource::FashionMnist {
            path: Some(path.clone()),
        };
        let error = source.load().unwrap_err().to_string();
        for part in ["dataset-fashion-mnist", "`path`", path.to_str().unwrap()] {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn shapes_must_agree() {
        let of = |name: &str, width| {
            let shape = crate::ImageShape {
                height: 1,
                width,
                channels: 1,
            };
            Dataset::new(name, shape, vec![0; width], vec![0], vec!["x".into()]).unwrap()
        };
        let error = LoadedData::new(of("a", 2), of("b", 3))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`a` has images of 1x2x1 but `b` of 1x3x1"),
            "{error}"
        );
    }

    #[test]
    fn sources_have_their_names_in_text() {
        let embedded = DataSource::deserialize(StrDeserializer::<Error>::new("embedded")).unwrap();
        assert_eq!(embedded, DataSource::Embedded);
        let files = ["train_images", "train_labels", "test_images", "test_labels"];
        let files = BTreeMap::from(files.map(|name| (name, name)));
        let map = MapDeserializer::<_, Error>::new([("idx", files)].into_iter());
        let idx = DataSource::deserialize(MapAccessDeserializer::new(map)).unwrap();
        let expected = DataSource::Idx {
            train_images: "train_images".into(),
            train_labels: "train_labels".into(),
            test_images: "test_images".into(),
            test_labels: "test_labels".into(),
            class_names: None,
        };
        assert_eq!(idx, expected);
        let map = MapDeserializer::<_, Error>::new(
            [("fashion-mnist", BTreeMap::<&str, &str>::new())].into_iter(),
        );
        let whole = DataSource::deserialize(MapAccessDeserializer::new(map)).unwrap();
        assert_eq!(whole, DataSource::FashionMnist { path: None });
    }
}
