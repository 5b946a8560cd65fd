//! What can go wrong while data is read or batches are asked for.

use std::io;
use std::path::PathBuf;

use crate::dataset::ImageShape;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A file cannot be opened or read.
    #[error("cannot read {file}: {source}")]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder of Fashion-MNIST is not there.
    #[error(
        "there is no Fashion-MNIST folder {folder}: install the Debian package `dataset-fashion-mnist`, \
         set the data source's `path` to a folder with its four IDX files, or use the `embedded` data"
    )]
    NoFashionMnist {
        /// The folder.
        folder: PathBuf,
    },
    /// A file of Fashion-MNIST is not there.
    #[error("{folder} has neither `{name}.gz` nor `{name}`")]
    NoFashionMnistFile {
        /// The folder that was searched.
        folder: PathBuf,
        /// The file, without `.gz`.
        name: &'static str,
    },
    /// The first four bytes are not those of the IDX file that was asked for.
    #[error(
        "{file} is not an IDX file of unsigned bytes with {dimensions} dimension(s): \
         expected it to begin with {expected:#010x}, found {found:#010x}"
    )]
    Magic {
        /// The file.
        file: PathBuf,
        /// Dimensions that were asked for: 3 for images, 1 for labels.
        dimensions: u8,
        /// The magic number of such a file.
        expected: u32,
        /// What it begins with.
        found: u32,
    },
    /// An IDX header with an extent of 0, or with a product that no machine can hold.
    #[error(
        "{file}: the header gives the extents {extents:?}; expected each to be at least 1 and their product to fit in memory"
    )]
    Extents {
        /// The file.
        file: PathBuf,
        /// The extents found.
        extents: Vec<u32>,
    },
    /// An IDX file that ends before its content does.
    #[error("{file} is cut short: expected {expected} bytes (decompressed), found {found}")]
    Truncated {
        /// The file.
        file: PathBuf,
        /// Bytes that the header promises, header included.
        expected: u64,
        /// Bytes there are.
        found: u64,
    },
    /// A gzip stream that is damaged or ends early.
    #[error(
        "{file}: the gzip stream is damaged or cut short: expected {expected} bytes (decompressed), \
         found {found} before the fault ({source})"
    )]
    Gzip {
        /// The file.
        file: PathBuf,
        /// Bytes that the header promises, header included.
        expected: u64,
        /// Bytes that could be decompressed.
        found: u64,
        /// What the decoder said.
        source: io::Error,
    },
    /// An IDX file that goes on after its content.
    #[error("{file}: expected {expected} bytes (decompressed), found more")]
    TrailingBytes {
        /// The file.
        file: PathBuf,
        /// Bytes that the header promises, header included.
        expected: u64,
    },
    /// An image file and its label file have different lengths.
    #[error(
        "{images_file} has {images} images but {labels_file} has {labels} labels; expected as many labels as images"
    )]
    Counts {
        /// The file of images.
        images_file: PathBuf,
        /// How many images.
        images: usize,
        /// The file of labels.
        labels_file: PathBuf,
        /// How many labels.
        labels: usize,
    },
    /// An archive that cannot be used.
    #[error("{file}: {reason}")]
    Archive {
        /// The archive, or a file in it.
        file: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A folder or archive of images that is not laid out as one.
    #[error("{folder}: {reason}")]
    ImageFolder {
        /// The folder or archive.
        folder: PathBuf,
        /// What is wrong, and what was expected.
        reason: String,
    },
    /// A file that is no image.
    #[error("{file} is no PNG or JPEG image that can be read: {reason}")]
    Image {
        /// The file, with its path inside the archive.
        file: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// What was read from a file is no data set.
    #[error("{file}: {source}")]
    InFile {
        /// The file.
        file: PathBuf,
        /// What is wrong with its content.
        source: Box<DataError>,
    },
    /// Training and test images differ in shape.
    #[error(
        "`{train}` has images of {train_shape} but `{test}` of {test_shape}; expected the same shape"
    )]
    Shapes {
        /// Name of the training set.
        train: String,
        /// Its shape.
        train_shape: ImageShape,
        /// Name of the test set.
        test: String,
        /// Its shape.
        test_shape: ImageShape,
    },
    /// The number of bytes does not follow from labels and shape.
    #[error(
        "data set `{dataset}`: {labels} labels and images of {shape} need {expected} bytes, found {found}"
    )]
    ImageBytes {
        /// Name of the data set.
        dataset: String,
        /// How many labels.
        labels: usize,
        /// Shape of an image.
        shape: ImageShape,
        /// Bytes needed.
        expected: u128,
        /// Bytes given.
        found: usize,
    },
    /// A data set without images, or images without pixels.
    #[error(
        "data set `{dataset}` has {images} images of {shape}; expected each number to be at least 1"
    )]
    Empty {
        /// Name of the data set.
        dataset: String,
        /// How many images.
        images: usize,
        /// Shape of an image.
        shape: ImageShape,
    },
    /// A label beyond the classes.
    #[error(
        "label {label} at index {index} of data set `{dataset}`: expected a label below {classes}, the number of classes"
    )]
    Label {
        /// Name of the data set.
        dataset: String,
        /// Index of the image.
        index: usize,
        /// The label.
        label: u32,
        /// How many classes there are.
        classes: usize,
    },
    /// An image that is not there.
    #[error("data set `{dataset}` has no image {index}; expected an index below {images}")]
    Index {
        /// Name of the data set.
        dataset: String,
        /// The index asked for.
        index: usize,
        /// How many images there are.
        images: usize,
    },
    /// A validation split that takes nothing from some class.
    #[error(
        "a validation split of {size} images cannot hold {classes} classes; expected at least {classes}"
    )]
    ValidationSize {
        /// The size asked for.
        size: usize,
        /// How many classes there are.
        classes: usize,
    },
    /// A class with too few images to hold some out and keep some.
    #[error(
        "class `{class}` of `{dataset}` has {images} images; holding out {held_out} of them leaves none to train on"
    )]
    ClassTooSmall {
        /// Name of the class.
        class: String,
        /// Name of the data set.
        dataset: String,
        /// Images of the class.
        images: usize,
        /// How many the split takes.
        held_out: usize,
    },
    /// A channel with the same value everywhere.
    #[error(
        "channel {channel} of `{dataset}` has the value {value}/255 everywhere, so no standard deviation to divide by; \
         give a normalisation instead of computing it"
    )]
    ConstantChannel {
        /// Name of the data set.
        dataset: String,
        /// The channel.
        channel: usize,
        /// Its value.
        value: u8,
    },
    /// A normalisation that does not fit the images.
    #[error(
        "normalisation with mean {mean:?} and std {std:?}: expected {channels} finite number(s) each, std above 0"
    )]
    Normalisation {
        /// The means.
        mean: Vec<f32>,
        /// The standard deviations.
        std: Vec<f32>,
        /// Channels of the images.
        channels: usize,
    },
    /// A number that is outside its legal range.
    #[error("{what} is {value}; expected {legal}")]
    Setting {
        /// Which number.
        what: &'static str,
        /// Its value.
        value: String,
        /// The legal values.
        legal: String,
    },
}

impl DataError {
    /// The error of a number outside its legal range.
    pub(crate) fn setting(
        what: &'static str,
        value: impl ToString,
        legal: impl Into<String>,
    ) -> Self {
        Self::Setting {
            what,
            value: value.to_string(),
            legal: legal.into(),
        }
    }
}

/// `value`, or an error if it is 0.
pub(crate) fn at_least_one(what: &'static str, value: usize) -> Result<usize> {
    if value == 0 {
        return Err(DataError::setting(what, value, "at least 1"));
    }
    Ok(value)
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, DataError>;
