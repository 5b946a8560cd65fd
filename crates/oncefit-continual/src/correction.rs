//! BiC's bias correction (Wu et al. 2019, section 3.3): logits z of the newest task's classes become
//! `scale · z + shift`, with two scalars fitted on held-out images, as many of each class.

use serde::{Deserialize, Serialize};

use crate::divergence::log_softmax;

/// The correction of a task's logits.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Correction {
    /// Classes of the task.
    pub classes: Vec<u32>,
    /// Factor of their logits.
    pub scale: f64,
    /// Added to them.
    pub shift: f64,
}

/// Weight of `½ ((scale − 1)² + shift²)`: few held-out images may be told apart by any scale.
const RIDGE: f64 = 0.01;
const MOST_STEPS: usize = 100;

impl Correction {
    /// The correction with the least cross-entropy, over the classes in `range`, on logits
    /// (N × `outputs`). The problem is convex in the two scalars; Newton's method with halved steps.
    pub fn fit(
        logits: &[f32],
        labels: &[u32],
        outputs: usize,
        range: &[u32],
        classes: &[u32],
    ) -> Self {
        let mut found = Self {
            classes: classes.to_vec(),
            scale: 1.0,
            shift: 0.0,
        };
        let mut loss = found.loss(logits, labels, outputs, range).0;
        for _ in 0..MOST_STEPS {
            let (_, [ga, gb], [haa, hab, hbb]) = found.loss(logits, labels, outputs, range);
            let determinant = haa * hbb - hab * hab;
            let direction = (
                (hbb * ga - hab * gb) / determinant,
                (haa * gb - hab * ga) / determinant,
            );
            let mut length = 1.0;
            let better = loop {
                let next = Self {
                    scale: found.scale - length * direction.0,
                    shift: found.shift - length * direction.1,
                    classes: found.classes.clone(),
                };
                let reached = next.loss(logits, labels, outputs, range).0;
                if reached < loss {
                    break Some((next, reached));
                }
                length /= 2.0;
                if length < 1e-6 {
                    break None;
                }
            };
            let Some((next, reached)) = better else { break };
            let gained = loss - reached;
            (found, loss) = (next, reached);
            if gained < 1e-12 {
                break;
            }
        }
        found
    }

    /// Mean cross-entropy and ridge, gradient and Hessian (aa, ab, bb) in (scale, shift).
    fn loss(
        &self,
        logits: &[f32],
        labels: &[u32],
        outputs: usize,
        range: &[u32],
    ) -> (f64, [f64; 2], [f64; 3]) {
        let away = self.scale - 1.0;
        let mut loss = RIDGE / 2.0 * (away * away + self.shift * self.shift);
        let mut gradient = [RIDGE * away, RIDGE * self.shift];
        let mut hessian = [RIDGE, 0.0, RIDGE];
        let share = 1.0 / labels.len().max(1) as f64;
        for (row, &label) in logits.chunks_exact(outputs).zip(labels) {
            // d z_c / d (scale, shift): (z, 1) for the corrected classes, 0 for the others.
            let slope = |class: u32| match self.classes.contains(&class) {
                true => (f64::from(row[class as usize]), 1.0),
                false => (0.0, 0.0),
            };
            let corrected: Vec<f64> = range.iter().map(|&class| self.of(row, class)).collect();
            let mut means = [0.0; 2];
            let mut squares = [0.0; 3];
            for (&class, log) in range.iter().zip(log_softmax(&corrected, 1.0)) {
                let (p, (a, b)) = (log.exp(), slope(class));
                means = [means[0] + p * a, means[1] + p * b];
                squares = [
                    squares[0] + p * a * a,
                    squares[1] + p * a * b,
                    squares[2] + p * b * b,
                ];
                if class == label {
                    loss -= share * log;
                    gradient[0] -= share * a;
                    gradient[1] -= share * b;
                }
            }
            gradient[0] += share * means[0];
            gradient[1] += share * means[1];
            hessian[0] += share * (squares[0] - means[0] * means[0]);
            hessian[1] += share * (squares[1] - means[0] * means[1]);
            hessian[2] += share * (squares[2] - means[1] * means[1]);
        }
        (loss, gradient, hessian)
    }

    fn of(&self, row: &[f32], class: u32) -> f64 {
        let logit = f64::from(row[class as usize]);
        match self.classes.contains(&class) {
            true => self.scale * logit + self.shift,
            false => logit,
        }
    }

    /// Corrects logits, N × `outputs`.
    pub fn apply(&self, logits: &mut [f32], outputs: usize) {
        for row in logits.chunks_exact_mut(outputs) {
            for &class in &self.classes {
                row[class as usize] = self.of(row, class) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fit is a minimum: gradient and Hessian are finite differences of the loss, and the
    /// gradient is 0 there.
    #[test]
    fn the_fit_is_the_minimum_and_takes_a_bias_back() {
        let mut draws = oncefit_random::Draws::new(3, "test", 0, 0);
        let mut logits = Vec::new();
        let mut labels = Vec::new();
        for image in 0..400 {
            let label = image % 4;
            for class in 0..4 {
                let hit = if class == label { 1.5 } else { 0.0 };
                // Classes 2 and 3 are favoured.
                let bias = if class >= 2 { 2.0 } else { 0.0 };
                logits.push((hit + bias + draws.normal()) as f32);
            }
            labels.push(label as u32);
        }
        let range = [0, 1, 2, 3];
        let found = Correction::fit(&logits, &labels, 4, &range, &[2, 3]);
        let at = |scale: f64, shift: f64| {
            let tried = Correction {
                scale,
                shift,
                classes: vec![2, 3],
            };
            tried.loss(&logits, &labels, 4, &range)
        };
        let (_, gradient, _) = at(found.scale, found.shift);
        assert!(gradient.iter().all(|g| g.abs() < 1e-5), "{gradient:?}");
        let (_, gradient, hessian) = at(0.7, 0.4);
        let by = 1e-4;
        let slope = |up: f64, down: f64| (up - down) / (2.0 * by);
        let numeric = slope(at(0.7 + by, 0.4).0, at(0.7 - by, 0.4).0);
        assert!((gradient[0] - numeric).abs() < 1e-6);
        let numeric = slope(at(0.7, 0.4 + by).0, at(0.7, 0.4 - by).0);
        assert!((gradient[1] - numeric).abs() < 1e-6);
        let numeric = slope(at(0.7, 0.4 + by).1[0], at(0.7, 0.4 - by).1[0]);
        assert!((hessian[1] - numeric).abs() < 1e-6);
        let right = |logits: &[f32]| {
            let rows = logits.chunks_exact(4).zip(&labels);
            rows.filter(|(row, label)| (0..4).all(|class| row[class] <= row[**label as usize]))
                .count()
        };
        let mut corrected = logits.clone();
        found.apply(&mut corrected, 4);
        assert!(found.shift < -0.5 && right(&corrected) > right(&logits) + 20);
    }
}
