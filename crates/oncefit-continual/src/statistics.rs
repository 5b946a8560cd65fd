//! Means, deviations and Student-t intervals over seeds.

use serde::{Deserialize, Serialize};

use crate::error::{Result, setting};

/// A mean over seeds with its 95 % interval.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Interval {
    /// How many values.
    pub count: usize,
    /// Mean.
    pub mean: f64,
    /// Standard deviation (divisor n − 1); 0 for one value.
    pub deviation: f64,
    /// Half width of the 95 % interval of the mean, `t · deviation / √n`; infinite for one value.
    pub half_width: f64,
}

impl Interval {
    /// Lower end.
    pub fn low(&self) -> f64 {
        self.mean - self.half_width
    }

    /// Upper end.
    pub fn high(&self) -> f64 {
        self.mean + self.half_width
    }
}

/// Mean, deviation and 95 % interval of `values`.
///
/// ```
/// let found = oncefit_continual::interval(&[1.0, 2.0, 3.0])?;
/// assert_eq!((found.mean, found.deviation), (2.0, 1.0));
/// assert!((found.half_width - 4.303 / 3f64.sqrt()).abs() < 1e-12);
/// # Ok::<(), oncefit_continual::ContinualError>(())
/// ```
///
/// # Errors
/// If there is no value.
pub fn interval(values: &[f64]) -> Result<Interval> {
    let count = values.len();
    if count == 0 {
        return Err(setting("the number of values", 0, "1 or more"));
    }
    let mean = values.iter().sum::<f64>() / count as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let (deviation, half_width) = match count {
        1 => (0.0, f64::INFINITY),
        _ => {
            let deviation = (squares / (count - 1) as f64).sqrt();
            let half_width = student_t_975(count - 1) * deviation / (count as f64).sqrt();
            (deviation, half_width)
        }
    };
    Ok(Interval {
        count,
        mean,
        deviation,
        half_width,
    })
}

/// The interval of `left − right`, seed by seed: for runs that share all but the method.
///
/// # Errors
/// If the lengths differ or are 0.
pub fn paired_difference(left: &[f64], right: &[f64]) -> Result<Interval> {
    if left.len() != right.len() {
        return Err(setting(
            "the number of paired values",
            right.len(),
            format!("{}, as many as on the left", left.len()),
        ));
    }
    let differences: Vec<f64> = left.iter().zip(right).map(|(l, r)| l - r).collect();
    interval(&differences)
}

/// The 97.5 % quantile of Student's t: tabulated to 30 degrees of freedom (3 decimals), beyond by
/// Cornish and Fisher's expansion.
fn student_t_975(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    if freedom <= TABLE.len() {
        return TABLE[freedom - 1];
    }
    let (z, n) = (1.959_963_985f64, freedom as f64);
    z + (z.powi(3) + z) / (4.0 * n)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_continue_the_table() {
        assert!((student_t_975(31) - 2.0395).abs() < 1e-3);
        assert!((student_t_975(120) - 1.9799).abs() < 1e-3);
    }

    #[test]
    fn a_paired_difference_ignores_what_pairs_share() {
        let left = [10.0, 20.0, 31.0];
        let right = [9.0, 19.0, 30.0];
        let found = paired_difference(&left, &right).unwrap();
        assert_eq!((found.mean, found.deviation), (1.0, 0.0));
        assert!(paired_difference(&left, &right[..2]).is_err());
        assert!(interval(&[]).is_err());
        assert!(interval(&[1.0]).unwrap().half_width.is_infinite());
    }
}
