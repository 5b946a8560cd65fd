//! Bregman divergences of network outputs, `D_F(p, q) = F(p) − F(q) − ⟨∇F(q), p − q⟩`, and their
//! gradients with respect to the logits.
//!
//! | F | D_F(p, q) |
//! |---|---|
//! | ‖v‖² | ‖p − q‖² |
//! | Σ p log p on the simplex | KL(p ‖ q) |
//! | Σ p log p + (1−p) log(1−p) | Σ binary KL |
//!
//! (Unified framework, section 2; which side the model is on is part of the name.)

use serde::{Deserialize, Serialize};

/// A divergence between a model's logits h and a reference r, both restricted to some classes.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Divergence {
    /// `‖h − r‖²`, the sum over classes; r are logits, NaN where the class had none.
    SquaredDistance,
    /// `KL(softmax(r/τ) ‖ softmax(h/τ))`, the model second; without the factor τ².
    KullbackLeibler {
        /// τ
        temperature: f32,
    },
    /// `KL(softmax(h) ‖ uniform) = log K − H(softmax h)`, the model first (CPR).
    ToUniform,
    /// `Σ_c KL_binary(sigmoid(r) ‖ sigmoid(h))` (iCaRL's distillation).
    BinaryKullbackLeibler,
}

/// Mean over rows of the divergence, restricted to `range`; adds `weight` times its gradient with
/// respect to the logits to `gradient`. All are rows × `classes`.
pub fn output_divergence(
    divergence: Divergence,
    logits: &[f32],
    reference: &[f32],
    classes: usize,
    range: &[u32],
    weight: f64,
    gradient: &mut [f32],
) -> f64 {
    let rows = logits.len() / classes;
    let mut total = 0.0;
    let mut h = vec![0.0; range.len()];
    let mut r = vec![0.0; range.len()];
    let factor = weight / rows as f64;
    for row in 0..rows {
        let start = row * classes;
        for (place, &class) in range.iter().enumerate() {
            h[place] = f64::from(logits[start + class as usize]);
            if divergence != Divergence::ToUniform {
                r[place] = f64::from(reference[start + class as usize]);
            }
        }
        let mut add = |place: usize, value: f64| {
            gradient[start + range[place] as usize] += (factor * value) as f32;
        };
        match divergence {
            Divergence::SquaredDistance => {
                for place in 0..range.len() {
                    let difference = h[place] - r[place];
                    if r[place].is_nan() {
                        continue;
                    }
                    total += difference * difference;
                    add(place, 2.0 * difference);
                }
            }
            Divergence::KullbackLeibler { temperature } => {
                let temperature = f64::from(temperature);
                let (p, q) = (log_softmax(&r, temperature), log_softmax(&h, temperature));
                for (place, (p, q)) in p.into_iter().zip(q).enumerate() {
                    let aim = p.exp();
                    total += aim * (p - q);
                    add(place, (q.exp() - aim) / temperature);
                }
            }
            Divergence::ToUniform => {
                let p = log_softmax(&h, 1.0);
                let minus_entropy: f64 = p.iter().map(|log| log.exp() * log).sum();
                total += (range.len() as f64).ln() + minus_entropy;
                for (place, log) in p.into_iter().enumerate() {
                    add(place, log.exp() * (log - minus_entropy));
                }
            }
            Divergence::BinaryKullbackLeibler => {
                for place in 0..range.len() {
                    let (log_p, log_not_p) = (log_sigmoid(r[place]), log_sigmoid(-r[place]));
                    let (log_q, log_not_q) = (log_sigmoid(h[place]), log_sigmoid(-h[place]));
                    let p = log_p.exp();
                    total += p * (log_p - log_q) + (1.0 - p) * (log_not_p - log_not_q);
                    add(place, log_q.exp() - p);
                }
            }
        }
    }
    total / rows as f64
}

/// Mean over rows of the cross-entropy of the labels, the softmax restricted to `range` (the other
/// logits are −∞); adds `weight` times its gradient.
pub(crate) fn cross_entropy(
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    range: &[u32],
    weight: f64,
    gradient: &mut [f32],
) -> f64 {
    let factor = weight / labels.len() as f64;
    let mut total = 0.0;
    let mut h = vec![0.0; range.len()];
    for (row, &label) in labels.iter().enumerate() {
        let start = row * classes;
        for (place, &class) in range.iter().enumerate() {
            h[place] = f64::from(logits[start + class as usize]);
        }
        for (place, log) in log_softmax(&h, 1.0).into_iter().enumerate() {
            let hit = if range[place] == label { 1.0 } else { 0.0 };
            if hit == 1.0 {
                total -= log;
            }
            gradient[start + range[place] as usize] += (factor * (log.exp() - hit)) as f32;
        }
    }
    total / labels.len() as f64
}

/// Mean over rows of the binary cross-entropy of the one-hot label, summed over `range`; adds
/// `weight` times its gradient. A row whose label is outside of `range` is to have none of its classes.
pub(crate) fn binary_cross_entropy(
    logits: &[f32],
    labels: &[u32],
    classes: usize,
    range: &[u32],
    weight: f64,
    gradient: &mut [f32],
) -> f64 {
    let factor = weight / labels.len() as f64;
    let mut total = 0.0;
    for (row, &label) in labels.iter().enumerate() {
        for &class in range {
            let at = row * classes + class as usize;
            let h = f64::from(logits[at]);
            let hit = if class == label { 1.0 } else { 0.0 };
            total -= log_sigmoid(if class == label { h } else { -h });
            gradient[at] += (factor * (log_sigmoid(h).exp() - hit)) as f32;
        }
    }
    total / labels.len() as f64
}

pub(crate) fn log_softmax(values: &[f64], temperature: f64) -> Vec<f64> {
    let scaled: Vec<f64> = values.iter().map(|value| value / temperature).collect();
    let largest = scaled.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = scaled.iter().map(|value| (value - largest).exp()).sum();
    let log_sum = largest + sum.ln();
    scaled.into_iter().map(|value| value - log_sum).collect()
}

fn log_sigmoid(value: f64) -> f64 {
    -((-value.abs()).exp().ln_1p()) + value.min(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 8] = [1.0, -0.5, 2.0, 0.1, 0.2, -3.0, 0.7, 0.4];
    const REFERENCE: [f32; 8] = [0.3, 0.5, -1.0, 0.9, -0.2, 1.0, 0.0, 2.0];
    const ALL: [Divergence; 4] = [
        Divergence::SquaredDistance,
        Divergence::KullbackLeibler { temperature: 2.0 },
        Divergence::ToUniform,
        Divergence::BinaryKullbackLeibler,
    ];

    #[test]
    fn gradients_are_finite_differences() {
        for divergence in ALL {
            for range in [&[0, 1, 2, 3][..], &[1, 3][..]] {
                let value = |logits: &[f32]| {
                    output_divergence(divergence, logits, &REFERENCE, 4, range, 1.0, &mut [0.0; 8])
                };
                let mut gradient = [0.0; 8];
                output_divergence(
                    divergence,
                    &LOGITS,
                    &REFERENCE,
                    4,
                    range,
                    0.7,
                    &mut gradient,
                );
                for index in 0..8 {
                    let at = |by: f32| {
                        let mut moved = LOGITS;
                        moved[index] += by;
                        value(&moved)
                    };
                    let expected = 0.7 * (at(1e-2) - at(-1e-2)) / 2e-2;
                    let found = f64::from(gradient[index]);
                    assert!((found - expected).abs() < 5e-5, "{divergence:?} {index}");
                }
            }
        }
    }

    #[test]
    fn divergences_are_not_negative_and_0_at_the_reference() {
        let range = [0, 1, 2, 3];
        for divergence in ALL {
            let value = |logits: &[f32], reference: &[f32]| {
                output_divergence(divergence, logits, reference, 4, &range, 1.0, &mut [0.0; 8])
            };
            assert!(value(&LOGITS, &REFERENCE) > 0.0);
            if divergence != Divergence::ToUniform {
                assert!(value(&LOGITS, &LOGITS).abs() < 1e-12);
            }
        }
        let flat = [0.3; 8];
        let found = output_divergence(
            Divergence::ToUniform,
            &flat,
            &[],
            4,
            &range,
            1.0,
            &mut [0.0; 8],
        );
        assert!(found.abs() < 1e-12);
    }

    /// In the argument that the definition has first, `D(t·a + (1−t)·b, q) ≤ t·D(a, q) + (1−t)·D(b, q)`,
    /// and gradients are linear in the weight, that is in Φ.
    #[test]
    fn divergences_are_convex_in_their_first_argument_and_linear_in_the_weight() {
        let range = [0, 1, 2, 3];
        let value = |divergence, logits: &[f32], reference: &[f32]| {
            output_divergence(divergence, logits, reference, 4, &range, 1.0, &mut [0.0; 4])
        };
        let mut draws = oncefit_random::Draws::new(1, "divergence test", 0, 0);
        let mut row = || -> Vec<f32> { (0..4).map(|_| draws.uniform_f32(-2.0, 2.0)).collect() };
        for _ in 0..200 {
            let (a, b, q) = (row(), row(), row());
            // The squared distance compares logits, the KL softmaxes with the reference first, the
            // binary one sigmoids likewise.
            let softmax = |h: &[f32]| -> Vec<f64> {
                let h: Vec<f64> = h.iter().map(|value| f64::from(*value)).collect();
                log_softmax(&h, 1.0).into_iter().map(f64::exp).collect()
            };
            let mixed = |of: &dyn Fn(&[f32]) -> Vec<f64>, back: &dyn Fn(f64) -> f64| {
                let pairs = of(&a).into_iter().zip(of(&b));
                let mixed = pairs.map(|(a, b)| back(0.3 * a + 0.7 * b) as f32);
                mixed.collect::<Vec<f32>>()
            };
            let plain = |h: &[f32]| h.iter().map(|value| f64::from(*value)).collect();
            let sigmoid = |h: &[f32]| {
                let values = h
                    .iter()
                    .map(|value| 1.0 / (1.0 + (-f64::from(*value)).exp()));
                values.collect()
            };
            let kl = Divergence::KullbackLeibler { temperature: 1.0 };
            let cases = [
                (Divergence::SquaredDistance, mixed(&plain, &|value| value)),
                (kl, mixed(&softmax, &f64::ln)),
                (
                    Divergence::BinaryKullbackLeibler,
                    mixed(&sigmoid, &|p| (p / (1.0 - p)).ln()),
                ),
            ];
            for (divergence, middle) in cases {
                let at = |first: &[f32]| value(divergence, &q, first);
                let bound = 0.3 * at(&a) + 0.7 * at(&b);
                assert!(at(&middle) <= bound + 1e-6, "{divergence:?}");
            }
            for divergence in ALL {
                let gradient = |weight: f64| {
                    let mut found = [0.0; 4];
                    output_divergence(divergence, &a, &b, 4, &range, weight, &mut found);
                    found
                };
                let (sum, one, other) = (gradient(1.2), gradient(0.4), gradient(0.8));
                let parts = sum.iter().zip(one).zip(other);
                for ((sum, one), other) in parts {
                    assert!((sum - one - other).abs() < 1e-5, "{divergence:?}");
                }
            }
        }
    }

    #[test]
    fn cross_entropy_is_the_kernels_and_masks_classes() {
        let labels = [2, 0];
        let (mut ours, mut theirs) = ([0.0; 8], [0.0; 8]);
        let loss = cross_entropy(&LOGITS, &labels, 4, &[0, 1, 2, 3], 1.0, &mut ours);
        let target = oncefit_nn::Target::Labels {
            labels: &labels,
            smoothing: 0.0,
        };
        let other = oncefit_nn::softmax_cross_entropy(&LOGITS, 4, target, &mut theirs, 1.0);
        assert!((loss - other).abs() < 1e-12);
        assert!(ours.iter().zip(theirs).all(|(a, b)| (a - b).abs() < 1e-7));
        let mut masked = [0.0; 8];
        cross_entropy(&LOGITS, &labels, 4, &[0, 2], 1.0, &mut masked);
        assert_eq!([masked[1], masked[3], masked[5], masked[7]], [0.0; 4]);
    }
}
