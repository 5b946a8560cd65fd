//! What a data set holds, in numbers.

use serde::Serialize;

use crate::dataset::{Dataset, ImageShape};
use crate::normalisation::{Normalisation, channel_statistics};

/// A class and how many images it has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ClassCount {
    /// Name of the class.
    pub name: String,
    /// Images with its label.
    pub images: usize,
}

/// A data set in numbers.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DatasetSummary {
    /// Name of the data set.
    pub name: String,
    /// How many images.
    pub images: usize,
    /// Shape of an image.
    pub shape: ImageShape,
    /// Every class, by label.
    pub classes: Vec<ClassCount>,
    /// Mean of each channel, in [0, 1] units.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in [0, 1] units; 0 if a channel is constant.
    pub std: Vec<f32>,
    /// BLAKE3 of the content, hexadecimal; see [`Dataset::hash`].
    pub hash: String,
}

impl DatasetSummary {
    /// The numbers of `dataset`.
    pub fn of(dataset: &Dataset) -> Self {
        let Normalisation { mean, std } = channel_statistics(dataset);
        let classes = dataset.class_names().iter().zip(dataset.indices_by_class());
        Self {
            name: dataset.name().into(),
            images: dataset.len(),
            shape: dataset.shape(),
            classes: classes
                .map(|(name, indices)| ClassCount {
                    name: name.clone(),
                    images: indices.len(),
                })
                .collect(),
            mean,
            std,
            hash: dataset.hash().to_hex().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_is_counted() {
        let shape = ImageShape {
            height: 1,
            width: 1,
            channels: 1,
        };
        let names = ["a", "b", "c"].map(String::from).to_vec();
        let dataset = Dataset::new("d", shape, vec![255; 3], vec![2, 0, 2], names).unwrap();
        let summary = DatasetSummary::of(&dataset);
        assert_eq!(
            (summary.name.as_str(), summary.images, summary.shape),
            ("d", 3, shape)
        );
        let counts: Vec<_> = summary
            .classes
            .iter()
            .map(|class| (class.name.as_str(), class.images))
            .collect();
        assert_eq!(counts, [("a", 1), ("b", 0), ("c", 2)]);
        assert_eq!((summary.mean, summary.std), (vec![1.0], vec![0.0]));
        assert_eq!(summary.hash, dataset.hash().to_hex().to_string());
    }
}
