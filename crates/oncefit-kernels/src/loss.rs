//! Softmax cross-entropy against labels or soft targets.
//!
//! ```text
//! labels:  L = −Σ t·ln softmax(z),        t = (1 − s)·onehot + s/classes
//! soft:    L = −τ²·Σ p·ln softmax(z/τ)
//! alpha:   D = Σ q·((p/q)^α − 1) / (α·(α − 1)),     q = softmax(z)
//! ```
//!
//! Sums and exponentials are taken in f64; a batch of logits is small.

/// What logits are compared with.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A label for each row, smoothed.
    Labels {
        /// Class of each row.
        labels: &'a [u32],
        /// Share of the target that is spread evenly over the classes.
        smoothing: f32,
    },
    /// Probabilities for each row.
    Soft {
        /// `rows × classes`.
        probabilities: &'a [f32],
        /// τ
        temperature: f32,
    },
}

/// Mean loss over the rows of `logits` (`rows × classes`); `gradient` receives `weight` times its
/// derivative with respect to the logits.
pub fn softmax_cross_entropy(
    logits: &[f32],
    classes: usize,
    target: Target,
    gradient: &mut [f32],
    weight: f32,
) -> f64 {
    let rows = logits.len() / classes;
    assert!(
        classes > 0 && rows * classes == logits.len() && gradient.len() == logits.len(),
        "softmax_cross_entropy: rows × {classes} logits"
    );
    let temperature = match target {
        Target::Labels { labels, .. } => {
            assert_eq!(labels.len(), rows, "softmax_cross_entropy: labels");
            1.0
        }
        Target::Soft {
            probabilities,
            temperature,
        } => {
            assert_eq!(
                probabilities.len(),
                logits.len(),
                "softmax_cross_entropy: probabilities"
            );
            f64::from(temperature)
        }
    };
    let mut total = 0.0;
    let mut row_probabilities = vec![0.0f64; classes];
    for row in 0..rows {
        let range = row * classes..(row + 1) * classes;
        let logits = &logits[range.clone()];
        let log_sum = softmax_row(logits, temperature, &mut row_probabilities);
        let aim = |class: usize| match target {
            Target::Labels { labels, smoothing } => {
                let hit = if labels[row] as usize == class {
                    1.0
                } else {
                    0.0
                };
                (1.0 - f64::from(smoothing)) * hit + f64::from(smoothing) / classes as f64
            }
            Target::Soft { probabilities, .. } => f64::from(probabilities[row * classes + class]),
        };
        let mut mass = 0.0;
        for (class, logit) in logits.iter().enumerate() {
            let aim = aim(class);
            mass += aim;
            total += aim * (log_sum - f64::from(*logit) / temperature);
        }
        let factor = f64::from(weight) * temperature / rows as f64;
        for (class, value) in gradient[range].iter_mut().enumerate() {
            *value = (factor * (mass * row_probabilities[class] - aim(class))) as f32;
        }
    }
    total * temperature * temperature / rows as f64
}

/// Settings of the adaptive alpha-divergence (AlphaNet, Wang et al. 2021).
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AlphaDivergence {
    /// The two values of α; of each row the one with the larger divergence is used.
    pub alphas: [f64; 2],
    /// Upper bound of `(p/q)^α` in the gradient.
    pub clip: f64,
}

impl Default for AlphaDivergence {
    /// α = −1 and 1, clipped at 5, as AlphaNet's authors train.
    fn default() -> Self {
        Self {
            alphas: [-1.0, 1.0],
            clip: 5.0,
        }
    }
}

impl AlphaDivergence {
    /// Mean divergence between `probabilities` p (`rows × classes`) and the softmax q of `logits`;
    /// `gradient` receives `weight` times its derivative with respect to the logits.
    ///
    /// The gradient is that of `−Σ q·ρ·ln q` with q and ρ held where they stand before the
    /// logarithm: ρ = `min((p/q)^α, clip)/α + 1/(α(α − 1))`, and `p/q` for α = 1. Unclipped it is the
    /// derivative of the divergence.
    pub fn loss(
        &self,
        logits: &[f32],
        classes: usize,
        probabilities: &[f32],
        gradient: &mut [f32],
        weight: f32,
    ) -> f64 {
        let rows = logits.len() / classes;
        assert!(
            rows * classes == logits.len()
                && gradient.len() == logits.len()
                && probabilities.len() == logits.len(),
            "AlphaDivergence: rows × {classes} logits"
        );
        let mut predicted = vec![0.0f64; classes];
        let mut total = 0.0;
        for row in 0..rows {
            let range = row * classes..(row + 1) * classes;
            let teacher = &probabilities[range.clone()];
            softmax_row(&logits[range.clone()], 1.0, &mut predicted);
            let [first, second] = self
                .alphas
                .map(|alpha| alpha_divergence(alpha, teacher, &predicted));
            let (alpha, divergence) = match second > first {
                true => (self.alphas[1], second),
                false => (self.alphas[0], first),
            };
            total += divergence;
            let factor = |class: usize| {
                let ratio = probability_ratio(teacher[class], predicted[class]);
                if alpha == 1.0 {
                    ratio
                } else {
                    ratio.powf(alpha).min(self.clip) / alpha + 1.0 / (alpha * (alpha - 1.0))
                }
            };
            let mass: f64 = (0..classes)
                .map(|class| predicted[class] * factor(class))
                .sum();
            let scale = f64::from(weight) / rows as f64;
            for (class, value) in gradient[range].iter_mut().enumerate() {
                *value = (scale * predicted[class] * (mass - factor(class))) as f32;
            }
        }
        total / rows as f64
    }
}

/// `p/q`, kept away from 0 so that negative powers stay finite.
fn probability_ratio(teacher: f32, predicted: f64) -> f64 {
    f64::from(teacher).max(1e-12) / predicted.max(1e-12)
}

/// D_α(p ‖ q); at α = 1 its limit, the Kullback-Leibler divergence.
fn alpha_divergence(alpha: f64, teacher: &[f32], predicted: &[f64]) -> f64 {
    let terms = teacher.iter().zip(predicted).map(|(teacher, predicted)| {
        let ratio = probability_ratio(*teacher, *predicted);
        match alpha == 1.0 {
            true => f64::from(*teacher) * ratio.ln(),
            false => predicted * (ratio.powf(alpha) - 1.0) / (alpha * (alpha - 1.0)),
        }
    });
    terms.sum()
}

/// `out = softmax(logits / temperature)`, row by row.
pub fn softmax(logits: &[f32], classes: usize, temperature: f32, out: &mut [f32]) {
    assert_eq!(out.len(), logits.len(), "softmax: out");
    let mut row = vec![0.0f64; classes];
    for (logits, out) in logits
        .chunks_exact(classes)
        .zip(out.chunks_exact_mut(classes))
    {
        softmax_row(logits, f64::from(temperature), &mut row);
        for (value, probability) in out.iter_mut().zip(&row) {
            *value = *probability as f32;
        }
    }
}

/// Probabilities of a row; returns ln Σ exp(z/τ).
fn softmax_row(logits: &[f32], temperature: f64, probabilities: &mut [f64]) -> f64 {
    let scaled = |logit: &f32| f64::from(*logit) / temperature;
    let largest = logits.iter().map(scaled).fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for (probability, logit) in probabilities.iter_mut().zip(logits) {
        *probability = (scaled(logit) - largest).exp();
        sum += *probability;
    }
    probabilities
        .iter_mut()
        .for_each(|probability| *probability /= sum);
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 6] = [1.0, -0.5, 2.0, 0.1, 0.2, -3.0];

    fn check_gradient(target: Target) {
        let mut gradient = [0.0; 6];
        let weight = 0.7;
        softmax_cross_entropy(&LOGITS, 3, target, &mut gradient, weight);
        let step = 1e-2f32;
        for index in 0..6 {
            let at = |by: f32| {
                let mut moved = LOGITS;
                moved[index] += by;
                softmax_cross_entropy(&moved, 3, target, &mut [0.0; 6], weight)
            };
            let expected = f64::from(weight) * (at(step) - at(-step)) / (2.0 * f64::from(step));
            assert!(
                (f64::from(gradient[index]) - expected).abs() < 2e-5,
                "{target:?} {index}"
            );
        }
    }

    #[test]
    fn gradients_are_finite_differences() {
        check_gradient(Target::Labels {
            labels: &[2, 0],
            smoothing: 0.0,
        });
        check_gradient(Target::Labels {
            labels: &[2, 1],
            smoothing: 0.1,
        });
        let probabilities = [0.2, 0.3, 0.5, 0.9, 0.05, 0.05];
        check_gradient(Target::Soft {
            probabilities: &probabilities,
            temperature: 1.0,
        });
        check_gradient(Target::Soft {
            probabilities: &probabilities,
            temperature: 3.0,
        });
    }

    #[test]
    fn a_certain_and_a_uniform_prediction_have_known_losses() {
        let loss = |logits: &[f32]| {
            let target = Target::Labels {
                labels: &[0],
                smoothing: 0.0,
            };
            softmax_cross_entropy(logits, 4, target, &mut [0.0; 4], 1.0)
        };
        assert!((loss(&[0.0; 4]) - 4f64.ln()).abs() < 1e-12);
        assert!(loss(&[100.0, 0.0, 0.0, 0.0]) < 1e-12);
        assert!(loss(&[f32::NAN, 0.0, 0.0, 0.0]).is_nan());
    }

    #[test]
    fn a_target_equal_to_the_prediction_has_no_gradient() {
        let mut probabilities = [0.0; 6];
        softmax(&LOGITS, 3, 2.0, &mut probabilities);
        let target = Target::Soft {
            probabilities: &probabilities,
            temperature: 2.0,
        };
        let mut gradient = [1.0; 6];
        softmax_cross_entropy(&LOGITS, 3, target, &mut gradient, 1.0);
        assert!(
            gradient.iter().all(|value| value.abs() < 1e-7),
            "{gradient:?}"
        );
    }

    /// Without clipping, the gradient is the derivative of the divergence, at every α.
    #[test]
    fn alpha_divergence_has_its_derivative() {
        let probabilities = [0.2, 0.3, 0.5, 0.9, 0.05, 0.05];
        for alpha in [-1.0, 0.5, 1.0, 2.0] {
            let divergence = AlphaDivergence {
                alphas: [alpha; 2],
                clip: f64::INFINITY,
            };
            let mut gradient = [0.0; 6];
            divergence.loss(&LOGITS, 3, &probabilities, &mut gradient, 0.7);
            let step = 1e-2f32;
            for index in 0..6 {
                let at = |by: f32| {
                    let mut moved = LOGITS;
                    moved[index] += by;
                    divergence.loss(&moved, 3, &probabilities, &mut [0.0; 6], 0.7)
                };
                let expected = 0.7 * (at(step) - at(-step)) / (2.0 * f64::from(step));
                let found = f64::from(gradient[index]);
                assert!(
                    (found - expected).abs() < 1e-3 * expected.abs().max(0.1),
                    "α {alpha}, logit {index}: {found} {expected}"
                );
            }
        }
    }

    #[test]
    fn alpha_divergence_takes_the_larger_of_two_and_clips() {
        let teacher = [0.98, 0.01, 0.01];
        let logits = [-2.0, 1.0, 1.0];
        let loss = |alphas, clip, gradient: &mut [f32]| {
            AlphaDivergence { alphas, clip }.loss(&logits, 3, &teacher, gradient, 1.0)
        };
        let (mut both, mut one) = ([0.0; 3], [0.0; 3]);
        let largest = loss([-1.0, 1.0], 5.0, &mut both);
        let single = [-1.0, 1.0].map(|alpha| loss([alpha; 2], 5.0, &mut one));
        assert_eq!(largest, single[0].max(single[1]));
        let bound = loss([-1.0; 2], 5.0, &mut both);
        let free = loss([-1.0; 2], f64::INFINITY, &mut one);
        assert_eq!(bound, free, "the value is not clipped");
        assert_ne!(both, one, "the gradient is");
        assert!(
            AlphaDivergence::default().loss(&[0.0; 3], 3, &[1.0 / 3.0; 3], &mut one, 1.0) < 1e-7
        );
    }
}
