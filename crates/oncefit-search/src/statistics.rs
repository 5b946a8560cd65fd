//! Comparisons of searchers over seeds: curves of the best so far, means, quantiles, sign tests.

use crate::outcome::{Outcome, Trial};

/// The best score up to each evaluation; `None` before the first that was scored.
pub fn best_so_far(history: &[(Trial, Outcome)]) -> Vec<Option<f64>> {
    let mut best: Option<f64> = None;
    let outcomes = history.iter().map(|(_, outcome)| {
        best = match (best, outcome.score()) {
            (Some(best), Some(score)) => Some(best.max(score)),
            (best, score) => best.or(score),
        };
        best
    });
    outcomes.collect()
}

/// What a sample of numbers looks like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Summary {
    /// How many there are.
    pub count: usize,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1; 0 for one number.
    pub deviation: f64,
}

impl Summary {
    /// The summary of a sample, if it has numbers.
    pub fn of(values: &[f64]) -> Option<Self> {
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
        let deviation = match values.len() {
            1 => 0.0,
            _ => (squares / (count - 1.0)).sqrt(),
        };
        Some(Self {
            count: values.len(),
            mean,
            deviation,
        })
    }

    /// The standard error of the mean.
    pub fn standard_error(&self) -> f64 {
        self.deviation / (self.count as f64).sqrt()
    }
}

/// The quantile of a sample, linear between neighbours (0 the smallest, 0.5 the median, 1 the
/// largest), if it has numbers.
pub fn quantile(values: &[f64], share: f64) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let place = share.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - below as f64))
}

/// The curves of several seeds as one: summary and quartiles at each evaluation.
#[derive(Clone, PartialEq, Debug)]
pub struct CurvePoint {
    /// Evaluations so far.
    pub evaluations: usize,
    /// Mean and deviation over the seeds.
    pub summary: Summary,
    /// The lower quartile, the median and the upper quartile.
    pub quartiles: [f64; 3],
}

/// The curves of several seeds at each evaluation for which every seed has a score.
pub fn curves(seeds: &[Vec<Option<f64>>]) -> Vec<CurvePoint> {
    let shortest = seeds.iter().map(Vec::len).min().unwrap_or(0);
    let points = (0..shortest).filter_map(|index| {
        let values: Option<Vec<f64>> = seeds.iter().map(|curve| curve[index]).collect();
        let values = values?;
        Some(CurvePoint {
            evaluations: index + 1,
            summary: Summary::of(&values)?,
            quartiles: [
                quantile(&values, 0.25)?,
                quantile(&values, 0.5)?,
                quantile(&values, 0.75)?,
            ],
        })
    });
    points.collect()
}

/// Wins of one searcher over another, paired by seed.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct SignTest {
    /// Pairs that the first won.
    pub wins: usize,
    /// Pairs that it lost.
    pub losses: usize,
    /// Equal pairs, which decide nothing.
    pub ties: usize,
    /// Probability of at least as many wins if both were alike (one-sided, over decided pairs).
    pub p_value: f64,
}

/// Compares two samples, pair by pair; higher is better.
///
/// ```
/// use oncefit_search::statistics::sign_test;
/// let one: Vec<f64> = (0..100).map(|seed| f64::from(u8::from(seed < 63))).collect();
/// let other = vec![0.5; 100];
/// assert!((sign_test(&one, &other).p_value - 0.006).abs() < 1e-4);
/// ```
pub fn sign_test(one: &[f64], other: &[f64]) -> SignTest {
    let pairs = || one.iter().zip(other);
    let wins = pairs().filter(|(left, right)| left > right).count();
    let losses = pairs().filter(|(left, right)| left < right).count();
    let decided = wins + losses;
    // Binomial tail in logarithms: ln of "decided over k" is built up term by term.
    let mut log_choose = 0.0f64;
    let mut tail = 0.0;
    for k in (wins..=decided).rev() {
        if k < decided {
            log_choose += ((k + 1) as f64).ln() - ((decided - k) as f64).ln();
        }
        tail += (log_choose - decided as f64 * std::f64::consts::LN_2).exp();
    }
    SignTest {
        wins,
        losses,
        ties: pairs().count() - decided,
        p_value: tail.min(1.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summaries_and_quantiles_are_those_worked_out_by_hand() {
        let values = [2.0, 4.0, 4.0, 6.0];
        let summary = Summary::of(&values).unwrap();
        assert_eq!(summary.mean, 4.0);
        assert!((summary.deviation - (8.0f64 / 3.0).sqrt()).abs() < 1e-12);
        assert_eq!(quantile(&values, 0.25), Some(3.5));
        assert_eq!(quantile(&values, 0.0), Some(2.0));
        assert_eq!((Summary::of(&[]), quantile(&[], 0.5)), (None, None));
    }

    #[test]
    fn sign_tests_have_known_values() {
        for (wins, count, expected) in [(63, 100, 0.006), (117, 200, 0.0097), (28, 40, 0.008)] {
            let one: Vec<f64> = (0..count)
                .map(|seed| if seed < wins { 1.0 } else { 0.0 })
                .collect();
            let test = sign_test(&one, &vec![0.5; count]);
            assert!((test.p_value - expected).abs() < 5e-4, "{test:?}");
        }
        assert_eq!(sign_test(&[1.0], &[1.0]).p_value, 1.0);
    }

    #[test]
    fn curves_hold_the_best_so_far() {
        let seeds = [
            vec![None, Some(1.0), Some(3.0)],
            vec![Some(2.0), Some(2.0), Some(2.0)],
        ];
        let curve = curves(&seeds);
        assert_eq!(curve.len(), 2);
        assert_eq!((curve[0].evaluations, curve[0].summary.mean), (2, 1.5));
        assert_eq!(curve[1].quartiles[1], 2.5);
    }
}
