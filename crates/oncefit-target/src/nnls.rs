//! Non-negative least squares.
//!
//! ```text
//! minimise  ‖A·x − b‖² + Σ_j r_j (x_j − p_j)²   subject to  x ≥ 0
//! ```
//!
//! Lawson and Hanson's active-set method on the normal equations `H = AᵀA + diag(r)`,
//! `g = Aᵀb + r∘p`, in f64. A few rounds of coordinate descent find most of the support first, so
//! that hundreds of unknowns take milliseconds.
//!
//! ```
//! use oncefit_target::LeastSquares;
//! // x = (1, −1) would fit; with x ≥ 0 the best is (1/2, 0).
//! let mut problem = LeastSquares::new(2);
//! problem.row(&[(0, 1.0)], 1.0);
//! problem.row(&[(0, 1.0), (1, 1.0)], 0.0);
//! let x = problem.solve_non_negative();
//! assert!((x[0] - 0.5).abs() < 1e-12 && x[1] == 0.0);
//! ```

/// Normal equations, row by row.
#[derive(Clone, Debug)]
pub struct LeastSquares {
    size: usize,
    /// `AᵀA + diag(r)`, row-major, both triangles.
    matrix: Vec<f64>,
    /// `Aᵀb + r∘p`.
    right: Vec<f64>,
}

impl LeastSquares {
    /// A problem of `size` unknowns without rows.
    pub fn new(size: usize) -> Self {
        Self {
            size,
            matrix: vec![0.0; size * size],
            right: vec![0.0; size],
        }
    }

    /// Adds the equation `Σ value · x[index] = target`. An index may stand several times.
    ///
    /// # Panics
    /// If an index is not below the size.
    pub fn row(&mut self, values: &[(usize, f64)], target: f64) {
        for &(row, value) in values {
            self.right[row] += value * target;
            for &(column, other) in values {
                self.matrix[row * self.size + column] += value * other;
            }
        }
    }

    /// Adds `weight · (x[index] − prior)²`.
    ///
    /// # Panics
    /// If the index is not below the size.
    pub fn pull(&mut self, index: usize, prior: f64, weight: f64) {
        self.matrix[index * self.size + index] += weight;
        self.right[index] += weight * prior;
    }

    /// The non-negative solution. Unknowns that nothing determines are 0.
    pub fn solve_non_negative(&self) -> Vec<f64> {
        let mut solution = self.descend();
        let mut passive: Vec<usize> = (0..self.size).filter(|&i| solution[i] > 0.0).collect();
        self.settle(&mut solution, &mut passive);
        // Columns that depend on those that are in, up to rounding.
        let mut dependent = vec![false; self.size];
        for _ in 0..3 * self.size + 10 {
            let best = (0..self.size)
                .filter(|index| !dependent[*index] && !passive.contains(index))
                .map(|index| (index, self.downhill(&solution, index)))
                .max_by(|left, right| left.1.total_cmp(&right.1));
            let Some((index, slope)) = best else { break };
            let scale = self.matrix[index * self.size + index].sqrt() * self.scale();
            if slope.is_nan() || slope <= 1e-11 * scale {
                break;
            }
            passive.push(index);
            self.settle(&mut solution, &mut passive);
            if passive.contains(&index) {
                dependent.fill(false);
            } else {
                dependent[index] = true;
            }
        }
        solution
    }

    /// Minus half the derivative of the objective along an unknown.
    fn downhill(&self, solution: &[f64], index: usize) -> f64 {
        let row = &self.matrix[index * self.size..][..self.size];
        let product: f64 = row.iter().zip(solution).map(|(a, x)| a * x).sum();
        self.right[index] - product
    }

    /// What the right side is in units of a column's length.
    fn scale(&self) -> f64 {
        let units = (0..self.size).map(|index| {
            let length = self.matrix[index * self.size + index].sqrt();
            if length > 0.0 {
                self.right[index].abs() / length
            } else {
                0.0
            }
        });
        units.fold(0.0, f64::max)
    }

    /// Coordinate descent from 0: near the solution, and feasible.
    fn descend(&self) -> Vec<f64> {
        const ROUNDS: usize = 200;
        let mut solution = vec![0.0f64; self.size];
        for _ in 0..ROUNDS {
            let (mut moved, mut largest) = (0.0f64, 0.0f64);
            for index in 0..self.size {
                let diagonal = self.matrix[index * self.size + index];
                if diagonal <= 0.0 {
                    continue;
                }
                let old = solution[index];
                let new = (old + self.downhill(&solution, index) / diagonal).max(0.0);
                solution[index] = new;
                moved = moved.max((new - old).abs() * diagonal.sqrt());
                largest = largest.max(new * diagonal.sqrt());
            }
            if moved <= 1e-12 * largest {
                break;
            }
        }
        solution
    }

    /// Moves to the minimum over the passive unknowns, dropping those that would turn negative.
    fn settle(&self, solution: &mut [f64], passive: &mut Vec<usize>) {
        while !passive.is_empty() {
            let wanted = match self.solve(passive) {
                Ok(wanted) => wanted,
                Err(position) => {
                    let index = passive.remove(position);
                    solution[index] = 0.0;
                    continue;
                }
            };
            // As far towards the minimum as the first unknown that reaches 0 allows.
            let mut share = 1.0f64;
            let mut first = None;
            for (position, (&index, &wanted)) in passive.iter().zip(&wanted).enumerate() {
                if wanted <= 0.0 {
                    let possible =
                        solution[index] / (solution[index] - wanted).max(f64::MIN_POSITIVE);
                    if first.is_none() || possible < share {
                        share = possible.clamp(0.0, 1.0);
                        first = Some(position);
                    }
                }
            }
            for (&index, &wanted) in passive.iter().zip(&wanted) {
                solution[index] += share * (wanted - solution[index]);
            }
            let Some(first) = first else { return };
            let blocking = passive[first];
            solution[blocking] = 0.0;
            passive.retain(|&index| solution[index] > 0.0 && index != blocking);
            (0..self.size)
                .filter(|index| !passive.contains(index))
                .for_each(|index| solution[index] = 0.0);
        }
        solution.fill(0.0);
    }

    /// The unconstrained minimum over some unknowns, by Cholesky's decomposition.
    ///
    /// # Errors
    /// The position of an unknown that depends on those before it.
    fn solve(&self, unknowns: &[usize]) -> std::result::Result<Vec<f64>, usize> {
        let count = unknowns.len();
        let mut lower = vec![0.0f64; count * count];
        for row in 0..count {
            for column in 0..=row {
                let entry = self.matrix[unknowns[row] * self.size + unknowns[column]];
                let (above, current) = lower.split_at_mut(row * count);
                let (left, right) = if column < row {
                    (&current[..column], &above[column * count..][..column])
                } else {
                    (&current[..column], &current[..column])
                };
                let rest = entry - left.iter().zip(right).map(|(a, b)| a * b).sum::<f64>();
                if column < row {
                    current[column] = rest / above[column * count + column];
                } else if rest > 1e-11 * entry {
                    current[column] = rest.sqrt();
                } else {
                    return Err(row);
                }
            }
        }
        let mut solution: Vec<f64> = unknowns.iter().map(|&index| self.right[index]).collect();
        for row in 0..count {
            let (known, rest) = solution.split_at_mut(row);
            let sum: f64 = lower[row * count..][..row]
                .iter()
                .zip(&*known)
                .map(|(a, b)| a * b)
                .sum();
            rest[0] = (rest[0] - sum) / lower[row * count + row];
        }
        for row in (0..count).rev() {
            solution[row] /= lower[row * count + row];
            let value = solution[row];
            for column in 0..row {
                solution[column] -= lower[row * count + column] * value;
            }
        }
        Ok(solution)
    }
}

/// A problem with many unknowns, each of which few equations know, and each with a prior: solved
/// by coordinate descent on the columns, from the priors.
#[derive(Clone, Debug, Default)]
pub struct SparseLeastSquares {
    unknowns: Vec<Unknown>,
    targets: Vec<f64>,
}

#[derive(Clone, Debug)]
struct Unknown {
    /// Equation and coefficient.
    coefficients: Vec<(usize, f64)>,
    prior: f64,
    /// Of the prior.
    weight: f64,
}

impl SparseLeastSquares {
    /// A problem with the right sides of its equations, without unknowns.
    pub fn new(targets: Vec<f64>) -> Self {
        Self {
            unknowns: Vec::new(),
            targets,
        }
    }

    /// Adds an unknown with its coefficients, `(equation, coefficient)`, each equation at most
    /// once; adds `weight · (x − prior)²`, prior and weight positive or 0.
    pub fn unknown(&mut self, coefficients: Vec<(usize, f64)>, prior: f64, weight: f64) {
        self.unknowns.push(Unknown {
            coefficients,
            prior,
            weight,
        });
    }

    /// The non-negative solution, to some nine digits where the weights allow; unknowns that
    /// nothing determines keep their prior.
    ///
    /// # Panics
    /// If there is no equation of a coefficient's number.
    pub fn solve_non_negative(&self) -> Vec<f64> {
        const ROUNDS: usize = 3000;
        let mut solution: Vec<f64> = self.unknowns.iter().map(|unknown| unknown.prior).collect();
        let mut rest = self.targets.clone();
        for (unknown, value) in self.unknowns.iter().zip(&solution) {
            for &(equation, coefficient) in &unknown.coefficients {
                rest[equation] -= coefficient * value;
            }
        }
        for _ in 0..ROUNDS {
            let (mut moved, mut largest) = (0.0f64, 0.0f64);
            for (unknown, value) in self.unknowns.iter().zip(&mut solution) {
                let Unknown {
                    coefficients,
                    prior,
                    weight,
                } = unknown;
                let (mut slope, mut curve) = (weight * (prior - *value), *weight);
                for &(equation, coefficient) in coefficients {
                    slope += coefficient * rest[equation];
                    curve += coefficient * coefficient;
                }
                if curve <= 0.0 {
                    continue;
                }
                let new = (*value + slope / curve).max(0.0);
                let step = new - *value;
                *value = new;
                for &(equation, coefficient) in coefficients {
                    rest[equation] -= coefficient * step;
                }
                moved = moved.max(step.abs() * curve.sqrt());
                largest = largest.max(new * curve.sqrt());
            }
            if moved <= 1e-9 * largest {
                break;
            }
        }
        solution
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_random::Draws;
    use proptest::prelude::*;

    fn random(rows: usize, size: usize, seed: u64, ridge: f64) -> LeastSquares {
        let mut draws = Draws::new(seed, "nnls", 0, 0);
        let mut problem = LeastSquares::new(size);
        for _ in 0..rows {
            let row: Vec<(usize, f64)> = (0..size).map(|index| (index, draws.normal())).collect();
            problem.row(&row, draws.normal());
        }
        if ridge > 0.0 {
            (0..size).for_each(|index| problem.pull(index, draws.normal(), ridge));
        }
        problem
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..Default::default() })]

        /// Karush, Kuhn and Tucker: x ≥ 0, no way down inside, none along the edges.
        #[test]
        fn solutions_are_optimal(rows in 1usize..30, size in 1usize..25, seed: u64, ridged: bool) {
            let problem = random(rows, size, seed, if ridged { 0.5 } else { 0.0 });
            let solution = problem.solve_non_negative();
            for (index, &value) in solution.iter().enumerate() {
                let slope = problem.downhill(&solution, index);
                prop_assert!(value >= 0.0);
                if value > 0.0 {
                    prop_assert!(slope.abs() < 1e-7, "inside: {slope}");
                } else {
                    prop_assert!(slope < 1e-7, "edge: {slope}");
                }
            }
        }
    }

    #[test]
    fn exact_systems_are_recovered() {
        let truth = [0.5, 0.0, 2.0, 0.25];
        let mut draws = Draws::new(1, "nnls", 0, 0);
        let mut problem = LeastSquares::new(4);
        for _ in 0..20 {
            let row: Vec<(usize, f64)> =
                (0..4).map(|index| (index, draws.below(4) as f64)).collect();
            let target = row.iter().map(|(index, value)| truth[*index] * value).sum();
            problem.row(&row, target);
        }
        for (found, truth) in problem.solve_non_negative().iter().zip(truth) {
            assert!((found - truth).abs() < 1e-9, "{found} {truth}");
        }
    }

    #[test]
    fn equal_and_empty_columns_do_no_harm() {
        let mut problem = LeastSquares::new(3);
        problem.row(&[(0, 1.0), (1, 1.0)], 2.0);
        problem.row(&[(0, 2.0), (1, 2.0)], 4.0);
        let found = problem.solve_non_negative();
        assert!((found[0] + found[1] - 2.0).abs() < 1e-9);
        assert_eq!(found[2], 0.0);
        assert!(LeastSquares::new(0).solve_non_negative().is_empty());
    }

    #[test]
    fn sparse_and_dense_problems_have_the_same_solution() {
        let mut draws = Draws::new(2, "nnls", 0, 0);
        let (rows, size) = (12, 30);
        let mut dense = LeastSquares::new(size);
        let targets: Vec<f64> = (0..rows).map(|_| draws.normal()).collect();
        let mut columns = vec![Vec::new(); size];
        for (row, target) in targets.iter().enumerate() {
            let mut values = Vec::new();
            for (index, column) in columns.iter_mut().enumerate() {
                if draws.chance(0.3) {
                    let value = draws.unit_f64();
                    values.push((index, value));
                    column.push((row, value));
                }
            }
            dense.row(&values, *target);
        }
        let mut sparse = SparseLeastSquares::new(targets);
        for (index, column) in columns.into_iter().enumerate() {
            let prior = draws.unit_f64();
            dense.pull(index, prior, 0.1);
            sparse.unknown(column, prior, 0.1);
        }
        let dense = dense.solve_non_negative();
        for (sparse, dense) in sparse.solve_non_negative().iter().zip(&dense) {
            assert!((sparse - dense).abs() < 1e-7, "{sparse} {dense}");
        }
        assert!(dense.contains(&0.0));
    }

    #[test]
    fn a_strong_pull_decides() {
        let mut problem = LeastSquares::new(1);
        problem.row(&[(0, 1.0)], 1.0);
        problem.pull(0, 3.0, 1e12);
        assert!((problem.solve_non_negative()[0] - 3.0).abs() < 1e-9);
    }
}
