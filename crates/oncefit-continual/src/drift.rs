//! How far an encoder's view of the same images turns while it learns on (LingoCL, eq. 4).
//!
//! ```text
//! drift_k = 1 − (1/k) · ‖V_tᵀ V_t'‖²_F
//! ```
//!
//! V_t: the k principal directions, width × k, of the features of a task's test images after task t;
//! 0 is no drift, 1 that the two subspaces share no direction. Features are scaled to unit length and
//! centred here, so that networks with different heads compare.

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

/// Directions found beyond those asked for, so that those converge fast.
const SPARE: usize = 8;
const MOST_ROUNDS: usize = 300;

/// Orthonormal directions, the first with the most variance.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Directions {
    /// k × width.
    rows: Vec<Vec<f64>>,
}

impl Directions {
    /// The first `count` principal directions of features, N × `width`; fewer where `width` is less.
    pub fn of(features: &[f32], width: usize, count: usize) -> Self {
        let covariance = covariance(features, width);
        let wanted = count.min(width);
        let mut rows: Vec<Vec<f64>> = (0..(wanted + SPARE).min(width))
            .map(|row| {
                let mut draws = Draws::new(0, "principal-directions", row as u64, 0);
                (0..width).map(|_| draws.normal()).collect()
            })
            .collect();
        orthonormalise(&mut rows);
        // Subspace iteration: the span tends to that of the largest eigenvectors.
        for _ in 0..MOST_ROUNDS {
            let mut next: Vec<Vec<f64>> = rows.iter().map(|row| times(&covariance, row)).collect();
            orthonormalise(&mut next);
            let kept = shared(&rows[..wanted], &next[..wanted]);
            rows = next;
            if (wanted as f64 - kept).abs() < 1e-13 {
                break;
            }
        }
        rows.truncate(wanted);
        Self { rows }
    }

    /// The drift from these directions to others of as many; rounding aside between 0 and 1.
    pub fn drift_to(&self, other: &Self) -> f64 {
        (1.0 - shared(&self.rows, &other.rows) / self.rows.len() as f64).clamp(0.0, 1.0)
    }
}

/// width × width, not divided by the number of features: directions do not depend on that.
fn covariance(features: &[f32], width: usize) -> Vec<Vec<f64>> {
    let count = (features.len() / width).max(1) as f64;
    let mut mean = vec![0.0; width];
    for row in features.chunks_exact(width) {
        let pairs = mean.iter_mut().zip(row);
        pairs.for_each(|(sum, &value)| *sum += f64::from(value) / count);
    }
    let mut sums = vec![vec![0.0; width]; width];
    for row in features.chunks_exact(width) {
        let pairs = row.iter().zip(&mean);
        let centred: Vec<f64> = pairs
            .map(|(&value, mean)| f64::from(value) - mean)
            .collect();
        for (sums, &left) in sums.iter_mut().zip(&centred) {
            let pairs = sums.iter_mut().zip(&centred);
            pairs.for_each(|(sum, right)| *sum += left * right);
        }
    }
    sums
}

fn times(matrix: &[Vec<f64>], vector: &[f64]) -> Vec<f64> {
    matrix.iter().map(|row| dot(row, vector)).collect()
}

fn dot(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(a, b)| a * b).sum()
}

/// `‖A Bᵀ‖²_F` of rows.
fn shared(left: &[Vec<f64>], right: &[Vec<f64>]) -> f64 {
    let pairs = left
        .iter()
        .flat_map(|a| right.iter().map(move |b| dot(a, b).powi(2)));
    pairs.sum()
}

/// Gram–Schmidt, twice over; a row of which nothing is left becomes 0.
fn orthonormalise(rows: &mut [Vec<f64>]) {
    for at in 0..rows.len() {
        let (before, rest) = rows.split_at_mut(at);
        let row = &mut rest[0];
        let original = dot(row, row).sqrt();
        for _ in 0..2 {
            for known in before.iter() {
                let along = dot(row, known);
                let pairs = row.iter_mut().zip(known);
                pairs.for_each(|(value, known)| *value -= along * known);
            }
        }
        let length = dot(row, row).sqrt();
        let factor = match length > 1e-12 * original && length > 0.0 {
            true => 1.0 / length,
            false => 0.0,
        };
        row.iter_mut().for_each(|value| *value *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Features whose variance lies along given axes.
    fn along(axes: &[usize], width: usize) -> Vec<f32> {
        let mut features = Vec::new();
        for (rank, &axis) in axes.iter().enumerate() {
            for sign in [-1.0, 1.0] {
                let mut row = vec![0.5; width];
                row[axis] += sign * (axes.len() - rank) as f32;
                features.extend(row);
            }
        }
        features
    }

    #[test]
    fn directions_and_drift_by_hand() {
        let first = Directions::of(&along(&[3, 1, 4], 6), 6, 2);
        for (row, axis) in first.rows.iter().zip([3, 1]) {
            // Single directions are found less exactly than the space that they span.
            assert!((row[axis].abs() - 1.0).abs() < 1e-7, "{row:?}");
        }
        let drift = |axes: &[usize]| first.drift_to(&Directions::of(&along(axes, 6), 6, 2));
        assert!(drift(&[1, 3, 0]) < 1e-9);
        assert!((drift(&[3, 0, 1]) - 0.5).abs() < 1e-9);
        assert!((drift(&[0, 2, 1]) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_rotation_within_the_plane_is_no_drift() {
        let (sin, cos) = 0.7f32.sin_cos();
        let features = along(&[0, 1, 2], 4);
        let turned: Vec<f32> = features
            .chunks_exact(4)
            .flat_map(|row| {
                [
                    cos * row[0] - sin * row[1],
                    sin * row[0] + cos * row[1],
                    row[2],
                    row[3],
                ]
            })
            .collect();
        let (one, two) = (
            Directions::of(&features, 4, 2),
            Directions::of(&turned, 4, 2),
        );
        assert!(one.drift_to(&two) < 1e-9);
        let tilted: Vec<f32> = features
            .chunks_exact(4)
            .flat_map(|row| {
                [
                    row[0],
                    cos * row[1] - sin * row[3],
                    row[2],
                    sin * row[1] + cos * row[3],
                ]
            })
            .collect();
        let found = one.drift_to(&Directions::of(&tilted, 4, 2));
        assert!(
            (found - f64::from(sin).powi(2) / 2.0).abs() < 1e-6,
            "{found}"
        );
    }
}
