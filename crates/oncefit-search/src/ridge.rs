//! Ridge regression with a free intercept, refitted row by row.
//!
//! ```text
//! min over w, b:  Σ (y_a − w·x_a − b)² + λ‖w‖²
//! dual (n ≤ p):   u = (K + λI)⁻¹ y,  v = (K + λI)⁻¹ 1,  K = X Xᵀ
//!                 b = Σu / Σv,  w = Xᵀ(u − b v)
//! primal (n > p): (Z + diag(λ, …, λ, 0)) (w, b) = Σ y_a (x_a, 1),  Z = Σ (x_a, 1)(x_a, 1)ᵀ
//! ```
//!
//! Both are one closed form. A new row borders the dual's Cholesky
//! factor or updates the primal's by one rank: O(min(n, p)²), not cubic.
//!
//! ```
//! use oncefit_search::Ridge;
//! let mut ridge = Ridge::new(2, 1.0);
//! for row in [vec![(0, 1.0)], vec![(0, 1.0), (1, 1.0)], vec![(1, 1.0)]] {
//!     ridge.push(row);
//! }
//! let model = ridge.fit(&[1.0, 2.0, 1.5]);
//! assert!((model.weights[0] - 0.0625).abs() < 1e-12);
//! assert!((model.weights[1] - 0.3125).abs() < 1e-12);
//! assert!((model.intercept - 1.25).abs() < 1e-12);
//! ```

/// Features that are not 0: (number, value).
pub type SparseRow = Vec<(usize, f64)>;

/// The rows of a regression with a factor that grows with them.
#[derive(Clone, Debug)]
pub struct Ridge {
    features: usize,
    lambda: f64,
    rows: Vec<SparseRow>,
    /// Rows of the lower Cholesky factor, dual or primal.
    factor: Vec<Vec<f64>>,
    is_primal: bool,
}

/// A linear function.
#[derive(Clone, PartialEq, Debug)]
pub struct LinearModel {
    /// One weight per feature.
    pub weights: Vec<f64>,
    /// The value where all features are 0.
    pub intercept: f64,
}

impl LinearModel {
    /// The value for a row; features beyond the model's are ignored.
    pub fn predict(&self, row: &[(usize, f64)]) -> f64 {
        let terms = row
            .iter()
            .map(|&(feature, value)| self.weights.get(feature).map_or(0.0, |w| w * value));
        self.intercept + terms.sum::<f64>()
    }
}

impl Ridge {
    /// A regression on `features` features with penalty `lambda`, which must be positive.
    pub fn new(features: usize, lambda: f64) -> Self {
        Self {
            features,
            lambda,
            rows: Vec::new(),
            factor: Vec::new(),
            is_primal: false,
        }
    }

    /// How many rows there are.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Adds a row; features are below the number given to [`Ridge::new`].
    pub fn push(&mut self, row: SparseRow) {
        if self.is_primal {
            self.update_primal(&row);
        } else {
            self.border_dual(&row);
        }
        self.rows.push(row);
        if !self.is_primal && self.rows.len() > self.features + 1 {
            self.become_primal();
        }
    }

    /// The fit to one target per row, in the order in which rows came.
    ///
    /// # Panics
    /// If there are fewer targets than rows.
    pub fn fit(&self, targets: &[f64]) -> LinearModel {
        assert!(
            targets.len() >= self.rows.len(),
            "a target for each of {} rows, there are {}",
            self.rows.len(),
            targets.len()
        );
        let mut weights = vec![0.0; self.features];
        if self.rows.is_empty() {
            return LinearModel {
                weights,
                intercept: 0.0,
            };
        }
        if self.is_primal {
            let mut right = vec![0.0; self.features + 1];
            for (row, target) in self.rows.iter().zip(targets) {
                for &(feature, value) in row {
                    right[feature] += value * target;
                }
                right[self.features] += target;
            }
            let mut solution = self.solve(&right);
            let intercept = solution.pop().unwrap_or(0.0);
            return LinearModel {
                weights: solution,
                intercept,
            };
        }
        let count = self.rows.len();
        let of_targets = self.solve(&targets[..count]);
        let of_ones = self.solve(&vec![1.0; count]);
        let intercept = of_targets.iter().sum::<f64>() / of_ones.iter().sum::<f64>();
        for ((row, one), other) in self.rows.iter().zip(&of_targets).zip(&of_ones) {
            for &(feature, value) in row {
                weights[feature] += value * (one - intercept * other);
            }
        }
        LinearModel { weights, intercept }
    }

    /// Adds the row and column of a new row to the factor of K + λI.
    fn border_dual(&mut self, row: &[(usize, f64)]) {
        let mut dense = vec![0.0; self.features];
        for &(feature, value) in row {
            dense[feature] += value;
        }
        let dot = |other: &SparseRow| -> f64 {
            other
                .iter()
                .map(|&(feature, value)| dense[feature] * value)
                .sum()
        };
        let own: f64 = dense.iter().map(|value| value * value).sum();
        let mut border: Vec<f64> = self.rows.iter().map(dot).collect();
        for index in 0..border.len() {
            let above = dot_product(&self.factor[index][..index], &border[..index]);
            border[index] = (border[index] - above) / self.factor[index][index];
        }
        let rest = own + self.lambda - dot_product(&border, &border);
        border.push(rest.max(self.lambda * 1e-12).sqrt());
        self.factor.push(border);
    }

    fn become_primal(&mut self) {
        let size = self.features + 1;
        let mut sums = vec![vec![0.0; size]; size];
        for row in &self.rows {
            let extended = row.iter().copied().chain([(self.features, 1.0)]);
            let extended: SparseRow = extended.collect();
            for &(feature, value) in &extended {
                for &(other, factor) in &extended {
                    sums[feature][other] += value * factor;
                }
            }
        }
        for (feature, row) in sums.iter_mut().enumerate().take(self.features) {
            row[feature] += self.lambda;
        }
        let mut factor: Vec<Vec<f64>> = Vec::with_capacity(size);
        for (index, sums) in sums.iter().enumerate() {
            let mut row = vec![0.0; index + 1];
            for column in 0..index {
                let above = dot_product(&row[..column], &factor[column][..column]);
                row[column] = (sums[column] - above) / factor[column][column];
            }
            let rest = sums[index] - dot_product(&row[..index], &row[..index]);
            row[index] = rest.max(self.lambda * 1e-12).sqrt();
            factor.push(row);
        }
        self.factor = factor;
        self.is_primal = true;
    }

    /// A rank-one update of the primal factor.
    fn update_primal(&mut self, row: &[(usize, f64)]) {
        let mut vector = vec![0.0; self.features + 1];
        for &(feature, value) in row {
            vector[feature] += value;
        }
        vector[self.features] = 1.0;
        for column in 0..vector.len() {
            let old = self.factor[column][column];
            let value = vector[column];
            if value == 0.0 {
                continue;
            }
            let new = old.hypot(value);
            let (cosine, sine) = (new / old, value / old);
            self.factor[column][column] = new;
            for (below, entry) in vector.iter_mut().enumerate().skip(column + 1) {
                let updated = (self.factor[below][column] + sine * *entry) / cosine;
                *entry = cosine * *entry - sine * updated;
                self.factor[below][column] = updated;
            }
        }
    }

    /// Solves L Lᵀ x = right.
    fn solve(&self, right: &[f64]) -> Vec<f64> {
        let mut solution = right.to_vec();
        for index in 0..solution.len() {
            let above = dot_product(&self.factor[index][..index], &solution[..index]);
            solution[index] = (solution[index] - above) / self.factor[index][index];
        }
        for index in (0..solution.len()).rev() {
            solution[index] /= self.factor[index][index];
            let value = solution[index];
            for (other, factor) in solution.iter_mut().zip(&self.factor[index][..index]) {
                *other -= factor * value;
            }
        }
        solution
    }
}

fn dot_product(left: &[f64], right: &[f64]) -> f64 {
    left.iter().zip(right).map(|(one, other)| one * other).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_random::Draws;

    /// The gradient of the loss is 0 at the fit: holds for dual and primal alike.
    #[test]
    fn fits_are_stationary_before_and_after_the_change_of_form() {
        let mut draws = Draws::new(1, "ridge", 0, 0);
        let (features, lambda) = (6, 0.3);
        let mut ridge = Ridge::new(features, lambda);
        let mut rows: Vec<SparseRow> = Vec::new();
        let mut targets = Vec::new();
        for count in 1..40 {
            let row: SparseRow = (0..features)
                .filter(|feature| (feature + count) % 3 != 0)
                .map(|feature| (feature, draws.normal()))
                .collect();
            ridge.push(row.clone());
            rows.push(row);
            targets.push(draws.normal() + 5.0);
            let model = ridge.fit(&targets);
            let mut gradient = vec![0.0; features + 1];
            for (row, target) in rows.iter().zip(&targets) {
                let error = model.predict(row) - target;
                row.iter()
                    .for_each(|&(feature, value)| gradient[feature] += error * value);
                gradient[features] += error;
            }
            for (feature, weight) in model.weights.iter().enumerate() {
                gradient[feature] += lambda * weight;
            }
            assert!(
                gradient.iter().all(|slope| slope.abs() < 1e-8),
                "{count} rows: {gradient:?}"
            );
        }
        assert!(ridge.is_primal);
    }
}
