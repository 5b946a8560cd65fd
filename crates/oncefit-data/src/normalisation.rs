//! Means and standard deviations of channels: x = (v / 255 − mean) / std.

use serde::{Deserialize, Serialize};

use crate::dataset::Dataset;
use crate::error::{DataError, Result};

/// What is taken from, and what divides, each channel of an image scaled to [0, 1].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Normalisation {
    /// Mean of each channel, in [0, 1] units.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, in [0, 1] units, above 0.
    pub std: Vec<f32>,
}

impl Normalisation {
    /// Mean and standard deviation (of the population) of each channel of `dataset`.
    ///
    /// Computed from exact integer sums, so the order of the images does not matter.
    ///
    /// # Errors
    /// If a channel has the same value everywhere.
    pub fn of(dataset: &Dataset) -> Result<Self> {
        let statistics = channel_statistics(dataset);
        if let Some(channel) = statistics.std.iter().position(|std| *std == 0.0) {
            return Err(DataError::ConstantChannel {
                dataset: dataset.name().into(),
                channel,
                value: dataset.images()[channel],
            });
        }
        Ok(statistics)
    }

    /// Succeeds if the normalisation is legal for images of `channels` channels.
    ///
    /// # Errors
    /// If there are not `channels` finite means and `channels` finite, positive standard
    /// deviations.
    pub fn check(&self, channels: usize) -> Result<()> {
        let Self { mean, std } = self;
        let is_legal = mean.len() == channels
            && std.len() == channels
            && mean.iter().all(|mean| mean.is_finite())
            && std.iter().all(|std| std.is_normal() && *std > 0.0);
        if !is_legal {
            return Err(DataError::Normalisation {
                mean: mean.clone(),
                std: std.clone(),
                channels,
            });
        }
        Ok(())
    }

    /// For each channel the (scale, shift) with which a byte value v becomes v·scale + shift.
    pub(crate) fn affine(&self) -> Vec<(f32, f32)> {
        let pair = |(mean, std): (&f32, &f32)| {
            let (mean, std) = (f64::from(*mean), f64::from(*std));
            ((1.0 / (255.0 * std)) as f32, (-mean / std) as f32)
        };
        self.mean.iter().zip(&self.std).map(pair).collect()
    }

    /// The byte value nearest to each channel's mean.
    pub(crate) fn mean_bytes(&self) -> Vec<u8> {
        self.mean
            .iter()
            .map(|mean| (mean * 255.0).round() as u8)
            .collect()
    }
}

/// Mean and standard deviation of each channel; 0 is possible for the latter.
pub(crate) fn channel_statistics(dataset: &Dataset) -> Normalisation {
    let channels = dataset.channels();
    // Sums of so many bytes and their squares stay in 32 bits, where the loop becomes vector instructions.
    const PIXELS: usize = 1 << 14;
    let add = |(sum, squares): (u32, u32), value: &u8| {
        let value = u32::from(*value);
        (sum + value, squares + value * value)
    };
    let mut sums = vec![(0u64, 0u64); channels];
    for part in dataset.images().chunks(PIXELS * channels) {
        for (channel, (sum, squares)) in sums.iter_mut().enumerate() {
            let (more, more_squares) = match channels {
                1 => part.iter().fold((0, 0), add),
                _ => part[channel..].iter().step_by(channels).fold((0, 0), add),
            };
            *sum += u64::from(more);
            *squares += u64::from(more_squares);
        }
    }
    let count = (dataset.images().len() / channels) as u64;
    let mean = |sum: u64| (sum as f64 / (255.0 * count as f64)) as f32;
    let std = |sum: u64, squares: u64| {
        // count²·variance, an integer: no cancellation.
        let scaled = u128::from(count) * u128::from(squares) - u128::from(sum) * u128::from(sum);
        ((scaled as f64).sqrt() / (255.0 * count as f64)) as f32
    };
    Normalisation {
        mean: sums.iter().map(|(sum, _)| mean(*sum)).collect(),
        std: sums
            .iter()
            .map(|(sum, squares)| std(*sum, *squares))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ImageShape;

    fn two_channels(bytes: &[u8]) -> Dataset {
        let shape = ImageShape {
            height: 1,
            width: 2,
            channels: 2,
        };
        let labels = vec![0; bytes.len() / 4];
        Dataset::new("d", shape, bytes.to_vec(), labels, vec!["x".into()]).unwrap()
    }

    #[test]
    fn statistics_are_per_channel_and_of_the_population() {
        // Channel 0 holds 0, 255, 0, 255; channel 1 holds 51, 51, 51, 255.
        let found = Normalisation::of(&two_channels(&[0, 51, 255, 51, 0, 51, 255, 255])).unwrap();
        assert_eq!(found.mean, [0.5, 0.4]);
        assert_eq!(found.std, [0.5, 0.12f32.sqrt()]);
        assert_eq!(found.mean_bytes(), [128, 102]);
        let affine = found.affine();
        assert_eq!(affine[0], (1.0 / 127.5, -1.0));
    }

    #[test]
    fn a_constant_channel_has_no_normalisation() {
        let error = Normalisation::of(&two_channels(&[1, 7, 2, 7]))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("channel 1 of `d` has the value 7/255 everywhere"),
            "{error}"
        );
    }

    #[test]
    fn illegal_numbers_are_errors() {
        let check = |mean: &[f32], std: &[f32]| {
            Normalisation {
                mean: mean.to_vec(),
                std: std.to_vec(),
            }
            .check(1)
            .is_ok()
        };
        assert!(check(&[0.5], &[0.2]));
        assert!(!check(&[0.5, 0.5], &[0.2]));
        assert!(!check(&[0.5], &[]));
        assert!(!check(&[f32::NAN], &[0.2]));
        assert!(!check(&[0.5], &[0.0]));
        assert!(!check(&[0.5], &[-0.2]));
        assert!(!check(&[0.5], &[f32::INFINITY]));
    }
}
