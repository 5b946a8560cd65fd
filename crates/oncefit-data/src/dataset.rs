//! Labelled images in memory.

use std::fmt;
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};

use crate::error::{DataError, Result};

/// Shape of one image, channels-last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ImageShape {
    /// Rows.
    pub height: usize,
    /// Columns.
    pub width: usize,
    /// Values per pixel: 1 for grey, 3 for red, green and blue.
    pub channels: usize,
}

impl ImageShape {
    /// Bytes of one image: height × width × channels.
    pub fn bytes(&self) -> usize {
        self.height * self.width * self.channels
    }
}

impl fmt::Display for ImageShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}", self.height, self.width, self.channels)
    }
}

/// Labelled images: bytes (N, H, W, C), one label per image, a name for every class.
///
/// A data set has at least one image and is immutable; a clone shares its bytes.
#[derive(Clone)]
pub struct Dataset {
    name: Arc<str>,
    content: Arc<Content>,
}

struct Content {
    images: Vec<u8>,
    labels: Vec<u32>,
    shape: ImageShape,
    class_names: Arc<[String]>,
    hash: OnceLock<blake3::Hash>,
}

impl Dataset {
    /// A data set of `labels.len()` images.
    ///
    /// # Arguments
    /// - `images`: all pixels, (N, H, W, C)
    /// - `labels`: class of each image, N values below `class_names.len()`
    ///
    /// # Errors
    /// If there is no image or no pixel, the sizes disagree, or a label has no class.
    pub fn new(
        name: impl Into<String>,
        shape: ImageShape,
        images: Vec<u8>,
        labels: Vec<u32>,
        class_names: Vec<String>,
    ) -> Result<Self> {
        Self::with_classes(name.into(), shape, images, labels, class_names.into())
    }

    fn with_classes(
        dataset: String,
        shape: ImageShape,
        images: Vec<u8>,
        labels: Vec<u32>,
        class_names: Arc<[String]>,
    ) -> Result<Self> {
        let extents = [labels.len(), shape.height, shape.width, shape.channels];
        if extents.contains(&0) {
            return Err(DataError::Empty {
                dataset,
                images: labels.len(),
                shape,
            });
        }
        let expected = extents
            .iter()
            .fold(1u128, |all, extent| all.saturating_mul(*extent as u128));
        if expected != images.len() as u128 {
            return Err(DataError::ImageBytes {
                dataset,
                labels: labels.len(),
                shape,
                expected,
                found: images.len(),
            });
        }
        let classes = class_names.len();
        if let Some(index) = labels.iter().position(|label| *label as usize >= classes) {
            return Err(DataError::Label {
                dataset,
                index,
                label: labels[index],
                classes,
            });
        }
        let hash = OnceLock::new();
        let content = Content {
            images,
            labels,
            shape,
            class_names,
            hash,
        };
        Ok(Self {
            name: dataset.into(),
            content: Arc::new(content),
        })
    }

    /// The same images under another name.
    pub fn renamed(&self, name: impl Into<String>) -> Self {
        Self {
            name: name.into().into(),
            content: self.content.clone(),
        }
    }

    /// The images at `indices`, in that order; an index may occur more than once.
    ///
    /// # Errors
    /// If `indices` is empty or one of them is not below [`Dataset::len`].
    pub fn subset(&self, indices: &[usize]) -> Result<Self> {
        let images = self.len();
        if let Some(&index) = indices.iter().find(|index| **index >= images) {
            return Err(DataError::Index {
                dataset: self.name.to_string(),
                index,
                images,
            });
        }
        let mut bytes = Vec::with_capacity(indices.len() * self.shape().bytes());
        for &index in indices {
            bytes.extend_from_slice(self.image(index));
        }
        Self::with_classes(
            self.name.to_string(),
            self.shape(),
            bytes,
            indices.iter().map(|&index| self.labels()[index]).collect(),
            self.content.class_names.clone(),
        )
    }

    /// What the data set is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// How many images.
    pub fn len(&self) -> usize {
        self.content.labels.len()
    }

    /// Always false: a data set has at least one image.
    pub fn is_empty(&self) -> bool {
        self.content.labels.is_empty()
    }

    /// Shape of every image.
    pub fn shape(&self) -> ImageShape {
        self.content.shape
    }

    /// Rows of every image.
    pub fn height(&self) -> usize {
        self.content.shape.height
    }

    /// Columns of every image.
    pub fn width(&self) -> usize {
        self.content.shape.width
    }

    /// Values per pixel.
    pub fn channels(&self) -> usize {
        self.content.shape.channels
    }

    /// All pixels, (N, H, W, C).
    pub fn images(&self) -> &[u8] {
        &self.content.images
    }

    /// The pixels of one image, (H, W, C).
    ///
    /// # Panics
    /// If `index` is not below [`Dataset::len`], as indexing a slice does.
    pub fn image(&self, index: usize) -> &[u8] {
        let bytes = self.shape().bytes();
        &self.content.images[index * bytes..][..bytes]
    }

    /// The class of each image.
    pub fn labels(&self) -> &[u32] {
        &self.content.labels
    }

    /// Names of the classes, by label.
    pub fn class_names(&self) -> &[String] {
        &self.content.class_names
    }

    /// Indices of the images of each class, ascending.
    pub fn indices_by_class(&self) -> Vec<Vec<usize>> {
        let mut by_class = vec![Vec::new(); self.class_names().len()];
        for (index, label) in self.labels().iter().enumerate() {
            by_class[*label as usize].push(index);
        }
        by_class
    }

    /// BLAKE3 of the content: extents, class names, images and labels, not the data set's name.
    ///
    /// The bytes hashed are N, H, W, C and the number of classes, each class name after its
    /// length in bytes, all pixels, all labels; numbers are 64-bit little-endian, labels 32-bit.
    /// Computed once and kept.
    pub fn hash(&self) -> blake3::Hash {
        *self.content.hash.get_or_init(|| {
            let mut hasher = blake3::Hasher::new();
            let number = |hasher: &mut blake3::Hasher, value: usize| {
                hasher.update(&(value as u64).to_le_bytes());
            };
            let ImageShape {
                height,
                width,
                channels,
            } = self.shape();
            for value in [
                self.len(),
                height,
                width,
                channels,
                self.class_names().len(),
            ] {
                number(&mut hasher, value);
            }
            for name in self.class_names() {
                number(&mut hasher, name.len());
                hasher.update(name.as_bytes());
            }
            hasher.update(self.images());
            for label in self.labels() {
                hasher.update(&label.to_le_bytes());
            }
            hasher.finalize()
        })
    }
}

impl fmt::Debug for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dataset")
            .field("name", &self.name)
            .field("images", &self.len())
            .field("shape", &self.shape())
            .field("classes", &self.class_names().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: ImageShape = ImageShape {
        height: 1,
        width: 2,
        channels: 1,
    };

    fn names(classes: usize) -> Vec<String> {
        (0..classes).map(|class| class.to_string()).collect()
    }

    fn small() -> Dataset {
        Dataset::new(
            "small",
            SHAPE,
            vec![1, 2, 3, 4, 5, 6],
            vec![1, 0, 1],
            names(2),
        )
        .unwrap()
    }

    #[test]
    fn sizes_and_labels_are_checked() {
        let error = |images: usize, labels: Vec<u32>, classes| {
            Dataset::new("d", SHAPE, vec![0; images], labels, names(classes))
                .unwrap_err()
                .to_string()
        };
        assert_eq!(
            error(5, vec![0, 0], 1),
            "data set `d`: 2 labels and images of 1x2x1 need 4 bytes, found 5"
        );
        assert_eq!(
            error(4, vec![0, 3], 3),
            "label 3 at index 1 of data set `d`: expected a label below 3, the number of classes"
        );
        assert!(error(0, vec![], 3).contains("has 0 images of 1x2x1"));
        let huge = ImageShape {
            height: usize::MAX,
            width: usize::MAX,
            channels: usize::MAX,
        };
        assert!(matches!(
            Dataset::new("d", huge, vec![0], vec![0], names(1)),
            Err(DataError::ImageBytes { .. })
        ));
    }

    #[test]
    fn subset_takes_images_with_their_labels() {
        let subset = small().subset(&[2, 0]).unwrap();
        assert_eq!(
            (subset.images(), subset.labels()),
            (&[5, 6, 1, 2][..], &[1, 1][..])
        );
        assert_eq!(subset.class_names(), small().class_names());
        assert_eq!(small().indices_by_class(), [vec![1], vec![0, 2]]);
        assert!(matches!(
            small().subset(&[3]),
            Err(DataError::Index {
                index: 3,
                images: 3,
                ..
            })
        ));
        assert!(matches!(small().subset(&[]), Err(DataError::Empty { .. })));
    }

    #[test]
    fn hash_depends_on_content_and_not_on_name() {
        let hash = small().hash();
        assert_eq!(hash, small().renamed("other").hash());
        assert_eq!(hash, small().subset(&[0, 1, 2]).unwrap().hash());
        let of = |shape, images: &[u8], labels: &[u32], classes: &[&str]| {
            let classes = classes.iter().map(|name| name.to_string()).collect();
            Dataset::new("small", shape, images.to_vec(), labels.to_vec(), classes)
                .unwrap()
                .hash()
        };
        let turned = ImageShape {
            height: 2,
            width: 1,
            channels: 1,
        };
        let images = [1, 2, 3, 4, 5, 6];
        assert_eq!(hash, of(SHAPE, &images, &[1, 0, 1], &["0", "1"]));
        for other in [
            of(turned, &images, &[1, 0, 1], &["0", "1"]),
            of(SHAPE, &[1, 2, 3, 4, 5, 7], &[1, 0, 1], &["0", "1"]),
            of(SHAPE, &images, &[1, 1, 1], &["0", "1"]),
            of(SHAPE, &images, &[1, 0, 1], &["0", "2"]),
        ] {
            assert_ne!(hash, other);
        }
    }
}
