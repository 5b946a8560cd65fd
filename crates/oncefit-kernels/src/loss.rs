//! Softmax cross-entropy against labels or soft targets.
//!
//! ```text
//! labels:  L = −Σ t·ln softmax(z),        t = (1 − s)·onehot + s/classes
//! soft:    L = −τ²·Σ p·ln softmax(z/τ)
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
}
