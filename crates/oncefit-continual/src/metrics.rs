//! The accuracy matrix and what is derived from it.
//!
//! `R[i][j]` is the accuracy on the test images of task j after training task i. Every number here
//! is a function of R; the definitions of other libraries are converters, not other matrices.

use serde::{Deserialize, Serialize};

use crate::error::{Result, setting};

/// Accuracies in [0, 1] on every task after every task.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct AccuracyMatrix {
    /// One row for each task trained; each has a value for every task of the stream.
    pub rows: Vec<Vec<f64>>,
    /// Accuracies before any training.
    pub untrained: Vec<f64>,
}

/// Numbers of a finished matrix of T tasks; `None` where one task has none.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Metrics {
    /// `1/T Σ_j R[T−1][j]`
    pub final_average_accuracy: f64,
    /// Mean over i of `1/(i+1) Σ_{j≤i} R[i][j]`.
    pub average_incremental_accuracy: f64,
    /// `1/(T−1) Σ_{j<T−1} (max_{j≤i<T−1} R[i][j] − R[T−1][j])`; may be negative.
    pub forgetting: Option<f64>,
    /// `1/(T−1) Σ_{j<T−1} (R[T−1][j] − R[j][j])`
    pub backward_transfer: Option<f64>,
    /// `1/(T−1) Σ_{j≥1} (R[j−1][j] − r_j)`, r the untrained accuracies.
    pub forward_transfer: Option<f64>,
    /// `1/T Σ_j R[j][j]`
    pub learning_accuracy: f64,
}

impl AccuracyMatrix {
    fn checked(&self) -> Result<usize> {
        let tasks = self.rows.len();
        let is_square = tasks > 0 && self.rows.iter().all(|row| row.len() == tasks);
        if !is_square {
            let widths: Vec<usize> = self.rows.iter().map(Vec::len).collect();
            return Err(setting(
                "the accuracy matrix",
                format!("{tasks} rows of {widths:?} values"),
                "one row for every task; metrics exist after the last task",
            ));
        }
        Ok(tasks)
    }

    fn over_earlier(&self, tasks: usize, value: impl Fn(usize) -> f64) -> Option<f64> {
        (tasks > 1).then(|| (0..tasks - 1).map(value).sum::<f64>() / (tasks - 1) as f64)
    }

    fn best(&self, column: usize, rows: std::ops::Range<usize>) -> f64 {
        rows.map(|row| self.rows[row][column])
            .fold(f64::NEG_INFINITY, f64::max)
    }

    /// The metrics by the definitions of [`Metrics`].
    ///
    /// # Errors
    /// If the matrix is not square: the stream is not finished.
    pub fn metrics(&self) -> Result<Metrics> {
        let tasks = self.checked()?;
        let last = &self.rows[tasks - 1];
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
        let incremental: Vec<f64> = (0..tasks).map(|i| mean(&self.rows[i][..=i])).collect();
        let diagonal: Vec<f64> = (0..tasks).map(|i| self.rows[i][i]).collect();
        let has_untrained = self.untrained.len() == tasks;
        Ok(Metrics {
            final_average_accuracy: mean(last),
            average_incremental_accuracy: mean(&incremental),
            forgetting: self.over_earlier(tasks, |j| self.best(j, j..tasks - 1) - last[j]),
            backward_transfer: self.over_earlier(tasks, |j| last[j] - self.rows[j][j]),
            forward_transfer: has_untrained
                .then(|| self.over_earlier(tasks, |j| self.rows[j][j + 1] - self.untrained[j + 1]))
                .flatten(),
            learning_accuracy: mean(&diagonal),
        })
    }

    /// Forgetting as mammoth defines it (`utils/metrics.py`): the maximum is over all rows, the
    /// last one too, so it is never negative; entries above the diagonal count as 0.
    ///
    /// # Errors
    /// If the matrix is not square.
    pub fn mammoth_forgetting(&self) -> Result<Option<f64>> {
        let tasks = self.checked()?;
        let last = &self.rows[tasks - 1];
        Ok(self.over_earlier(tasks, |j| self.best(j, j..tasks).max(0.0) - last[j]))
    }

    /// Forgetting as avalanche defines it (`forgetting_bwt.py`): the value right after learning
    /// minus the last one, that is minus backward transfer.
    ///
    /// # Errors
    /// If the matrix is not square.
    pub fn avalanche_forgetting(&self) -> Result<Option<f64>> {
        Ok(self.metrics()?.backward_transfer.map(|value| -value))
    }

    /// Forgetting as OnPro's and RaptorMai's code have it (`compute_performance`): our sum divided
    /// by T instead of T − 1.
    ///
    /// # Errors
    /// If the matrix is not square.
    pub fn online_forgetting(&self) -> Result<Option<f64>> {
        let tasks = self.checked()? as f64;
        Ok(self
            .metrics()?
            .forgetting
            .map(|value| value * (tasks - 1.0) / tasks))
    }

    /// After each task: the mean accuracy on it and those before it.
    pub fn mean_after_each_task(&self) -> Vec<f64> {
        let rows = self.rows.iter().enumerate();
        rows.map(|(last, row)| row[..=last].iter().sum::<f64>() / (last + 1) as f64)
            .collect()
    }

    /// After each task: the mean, over the tasks before it, of the best accuracy so far less the
    /// present one; 0 after the first.
    pub fn forgotten_after_each_task(&self) -> Vec<f64> {
        let lost = |learnt: usize| {
            let of_task = |task| self.best(task, task..learnt) - self.rows[learnt][task];
            (0..learnt).map(of_task).sum::<f64>() / learnt.max(1) as f64
        };
        (0..self.rows.len()).map(lost).collect()
    }

    /// The matrix as comma-separated values, one line for each task trained.
    pub fn to_csv(&self) -> String {
        self.rows
            .iter()
            .map(|row| {
                let cells: Vec<String> = row.iter().map(f64::to_string).collect();
                cells.join(",") + "\n"
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_matrix_made_by_hand_has_the_values_worked_out_by_hand() {
        let matrix = AccuracyMatrix {
            rows: vec![
                vec![0.9, 0.1, 0.2],
                vec![0.95, 0.8, 0.3],
                vec![0.5, 0.85, 0.7],
            ],
            untrained: vec![0.0, 0.05, 0.1],
        };
        let found = matrix.metrics().unwrap();
        let close = |found: f64, wanted: f64| assert!((found - wanted).abs() < 1e-12, "{found}");
        close(found.final_average_accuracy, 2.05 / 3.0);
        close(
            found.average_incremental_accuracy,
            (0.9 + 0.875 + 2.05 / 3.0) / 3.0,
        );
        close(found.forgetting.unwrap(), (0.45 - 0.05) / 2.0);
        close(found.backward_transfer.unwrap(), (-0.4 + 0.05) / 2.0);
        close(found.forward_transfer.unwrap(), (0.05 + 0.2) / 2.0);
        close(found.learning_accuracy, 2.4 / 3.0);
        close(matrix.mammoth_forgetting().unwrap().unwrap(), 0.45 / 2.0);
        close(matrix.avalanche_forgetting().unwrap().unwrap(), 0.35 / 2.0);
        close(matrix.online_forgetting().unwrap().unwrap(), 0.4 / 3.0);
        let means = matrix.mean_after_each_task();
        let lost = matrix.forgotten_after_each_task();
        for (found, wanted) in means.iter().zip([0.9, 0.875, 2.05 / 3.0]) {
            close(*found, wanted);
        }
        for (found, wanted) in lost.iter().zip([0.0, -0.05, (0.45 - 0.05) / 2.0]) {
            close(*found, wanted);
        }
    }

    #[test]
    fn an_unfinished_matrix_has_no_metrics() {
        let matrix = AccuracyMatrix {
            rows: vec![vec![0.9, 0.1]],
            untrained: vec![],
        };
        assert!(matrix.metrics().is_err());
    }
}
