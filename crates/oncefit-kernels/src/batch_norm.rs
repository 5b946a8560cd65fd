//! Batch-norm as per-channel numbers: `z = γ·(y − mean)/√(var + ε) + β = scale·y + shift`.
//!
//! The backward pass through the batch statistics, with `x̂ = (y − mean)/σ` and `m` samples, is
//!
//! ```text
//! dβ = Σdz        dγ = Σdz·x̂ = (Σdz·y − mean·Σdz)/σ
//! dy = γ/σ · (dz − dβ/m − x̂·dγ/m) = a·dz + b·y + c
//! ```

use crate::types::ChannelSums;

/// Mean and biased variance of each channel, from Σy and Σy² over `count` samples.
pub fn batch_norm_statistics(sums: &ChannelSums, count: usize) -> (Vec<f32>, Vec<f32>) {
    let count = count as f64;
    sums.first
        .iter()
        .zip(&sums.second)
        .map(|(first, second)| {
            let mean = first / count;
            (mean as f32, (second / count - mean * mean).max(0.0) as f32)
        })
        .unzip()
}

/// Scale and shift of each channel.
pub fn batch_norm_affine(
    mean: &[f32],
    variance: &[f32],
    gamma: &[f32],
    beta: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let channels = mean.len();
    assert!(
        variance.len() == channels && gamma.len() == channels && beta.len() == channels,
        "batch_norm_affine: {channels} channels"
    );
    (0..channels)
        .map(|channel| {
            let deviation = (f64::from(variance[channel]) + f64::from(epsilon)).sqrt();
            let scale = f64::from(gamma[channel]) / deviation;
            let shift = f64::from(beta[channel]) - f64::from(mean[channel]) * scale;
            (scale as f32, shift as f32)
        })
        .unzip()
}

/// The backward pass of batch-norm.
#[derive(Clone, PartialEq, Debug)]
pub struct BatchNormBackward {
    /// Factor of dz.
    pub a: Vec<f32>,
    /// Factor of y.
    pub b: Vec<f32>,
    /// Addend.
    pub c: Vec<f32>,
    /// Gradient of the scale γ.
    pub dgamma: Vec<f32>,
    /// Gradient of the shift β.
    pub dbeta: Vec<f32>,
}

/// `dy = a·dz + b·y + c` and the gradients of γ and β, from Σdz and Σdz·y over `count` samples.
pub fn batch_norm_backward(
    sums: &ChannelSums,
    count: usize,
    mean: &[f32],
    variance: &[f32],
    gamma: &[f32],
    epsilon: f32,
) -> BatchNormBackward {
    let channels = mean.len();
    let mut found = BatchNormBackward {
        a: vec![0.0; channels],
        b: vec![0.0; channels],
        c: vec![0.0; channels],
        dgamma: vec![0.0; channels],
        dbeta: vec![0.0; channels],
    };
    for channel in 0..channels {
        let mean = f64::from(mean[channel]);
        let deviation = (f64::from(variance[channel]) + f64::from(epsilon)).sqrt();
        let dbeta = sums.first[channel];
        let dgamma = (sums.second[channel] - mean * dbeta) / deviation;
        let a = f64::from(gamma[channel]) / deviation;
        let b = -a * dgamma / (count as f64 * deviation);
        found.a[channel] = a as f32;
        found.b[channel] = b as f32;
        found.c[channel] = (-a * dbeta / count as f64 - b * mean) as f32;
        found.dgamma[channel] = dgamma as f32;
        found.dbeta[channel] = dbeta as f32;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loss `Σ w·z` of batch-norm over samples of one channel, in f64.
    fn loss(y: &[f64], weights: &[f64], gamma: f64, beta: f64, epsilon: f64) -> f64 {
        let mean = y.iter().sum::<f64>() / y.len() as f64;
        let variance = y.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / y.len() as f64;
        let z = |y: f64| gamma * (y - mean) / (variance + epsilon).sqrt() + beta;
        y.iter()
            .zip(weights)
            .map(|(&y, weight)| weight * z(y))
            .sum()
    }

    #[test]
    fn backward_is_the_derivative_through_the_statistics() {
        let y = [0.3, -1.2, 2.5, 0.7, -0.4];
        let dz = [1.0, -0.5, 0.25, 2.0, -1.5];
        let (gamma, beta, epsilon) = (1.3, -0.2, 1e-3);
        let sums = |second: &dyn Fn(usize) -> f64, first: &[f64]| ChannelSums {
            first: vec![first.iter().sum()],
            second: vec![(0..y.len()).map(second).sum()],
        };
        let statistics = batch_norm_statistics(&sums(&|i| y[i] * y[i], &y), y.len());
        let (mean, variance) = (&statistics.0, &statistics.1);
        let found = batch_norm_backward(
            &sums(&|i| dz[i] * y[i], &dz),
            y.len(),
            mean,
            variance,
            &[gamma as f32],
            epsilon as f32,
        );
        let step = 1e-5;
        for index in 0..y.len() {
            let moved = |by: f64| {
                let mut moved = y;
                moved[index] += by;
                loss(&moved, &dz, gamma, beta, epsilon)
            };
            let expected = (moved(step) - moved(-step)) / (2.0 * step);
            let dy = f64::from(found.a[0]) * dz[index]
                + f64::from(found.b[0]) * y[index]
                + f64::from(found.c[0]);
            assert!((dy - expected).abs() < 1e-5, "{dy} {expected}");
        }
        let at = |gamma: f64, beta: f64| loss(&y, &dz, gamma, beta, epsilon);
        let dgamma = (at(gamma + step, beta) - at(gamma - step, beta)) / (2.0 * step);
        let dbeta = (at(gamma, beta + step) - at(gamma, beta - step)) / (2.0 * step);
        assert!((f64::from(found.dgamma[0]) - dgamma).abs() < 1e-5);
        assert!((f64::from(found.dbeta[0]) - dbeta).abs() < 1e-5);
    }
}
