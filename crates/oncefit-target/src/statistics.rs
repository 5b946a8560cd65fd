//! Medians, rank correlations and errors.

/// Median; the mean of the two middle values of an even number, NaN of none.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
    }
}

/// Mean and standard deviation (of the sample; 0 of fewer than two values).
pub fn mean_and_std(values: &[f64]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count.max(1.0);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    let variance = if values.len() > 1 {
        squares / (count - 1.0)
    } else {
        0.0
    };
    (mean, variance.sqrt())
}

/// Root of the mean squared difference.
pub fn root_mean_square_error(predicted: &[f64], measured: &[f64]) -> f64 {
    let pairs = predicted.iter().zip(measured);
    let squares: f64 = pairs.map(|(one, other)| (one - other).powi(2)).sum();
    (squares / predicted.len() as f64).sqrt()
}

/// Pearson's correlation; NaN if one side does not vary.
fn correlation(left: &[f64], right: &[f64]) -> f64 {
    let (mean_left, _) = mean_and_std(left);
    let (mean_right, _) = mean_and_std(right);
    let (mut products, mut squares_left, mut squares_right) = (0.0, 0.0, 0.0);
    for (one, other) in left.iter().zip(right) {
        let (one, other) = (one - mean_left, other - mean_right);
        products += one * other;
        squares_left += one * one;
        squares_right += other * other;
    }
    products / (squares_left * squares_right).sqrt()
}

/// Ranks from 1; equal values share the mean of theirs.
fn ranks(values: &[f64]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|&left, &right| values[left].total_cmp(&values[right]));
    let mut ranks = vec![0.0; values.len()];
    let mut start = 0;
    while start < order.len() {
        let same = order[start..]
            .iter()
            .take_while(|&&index| values[index] == values[order[start]])
            .count();
        for &index in &order[start..start + same] {
            ranks[index] = start as f64 + (same as f64 + 1.0) / 2.0;
        }
        start += same;
    }
    ranks
}

/// Spearman's rank correlation; NaN if one side does not vary.
pub fn spearman(left: &[f64], right: &[f64]) -> f64 {
    correlation(&ranks(left), &ranks(right))
}

/// Kendall's tau-b; NaN if one side does not vary.
pub fn kendall(left: &[f64], right: &[f64]) -> f64 {
    let (mut balance, mut pairs_left, mut pairs_right) = (0i64, 0i64, 0i64);
    for first in 0..left.len() {
        for second in first + 1..left.len() {
            let one = left[first].total_cmp(&left[second]) as i64;
            let other = right[first].total_cmp(&right[second]) as i64;
            balance += one * other;
            pairs_left += one.abs();
            pairs_right += other.abs();
        }
    }
    balance as f64 / ((pairs_left as f64) * (pairs_right as f64)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_values_worked_out_by_hand() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
        assert_eq!(mean_and_std(&[1.0, 3.0]), (2.0, 2f64.sqrt()));
        assert_eq!(ranks(&[10.0, 30.0, 10.0, 20.0]), [1.5, 4.0, 1.5, 3.0]);
        let (left, right) = ([1.0, 2.0, 3.0, 4.0], [1.0, 3.0, 2.0, 4.0]);
        assert!((spearman(&left, &right) - 0.8).abs() < 1e-12);
        assert!((kendall(&left, &right) - 4.0 / 6.0).abs() < 1e-12);
        // One tie on the left: 5 untied pairs there, 6 on the right.
        let tied = [1.0, 1.0, 3.0, 4.0];
        assert!((kendall(&tied, &left) - 5.0 / 30f64.sqrt()).abs() < 1e-12);
        assert!(kendall(&[1.0, 1.0], &[1.0, 2.0]).is_nan());
        assert_eq!(
            root_mean_square_error(&[1.0, 1.0], &[1.0, 3.0]),
            2f64.sqrt()
        );
    }
}
