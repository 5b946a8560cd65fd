//! Supervised contrastive learning on two views of a batch: the loss, and the projection of features
//! it is taken on.

use oncefit_kernels::Cpu;
use oncefit_nn::{Gradients, Parameters};
use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::error::{Result, setting};
use crate::linear::{Linear, add_linear};

/// A supervised contrastive loss (Khosla et al. 2020) on new and replayed images and one changed
/// view of each, instead of a cross-entropy: supervised contrastive replay (SCR, Mai et al. 2021; the
/// reference is `RaptorMai/online-continual-learning`).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Contrastive {
    /// Images drawn from the memory; 100 in the reference.
    pub replay: usize,
    /// τ, which divides cosines; 0.07 in the reference.
    pub temperature: f64,
    /// Outputs of the projection; 128 in the reference.
    pub width: usize,
}

impl Contrastive {
    pub(crate) fn check(&self) -> Result<()> {
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return Err(setting("`temperature`", self.temperature, "above 0"));
        }
        match self.width {
            0 => Err(setting("the width of the projection", 0, "at least 1")),
            _ => Ok(()),
        }
    }
}

/// Mean over rows that have another row of their class of
/// `−1/|P| Σ_{p ∈ P} log( exp(z_i·z_p/τ) / Σ_{a ≠ i} exp(z_i·z_a/τ) )`, with z the rows scaled to unit
/// length and P the other rows of i's class. The gradient is that of the rows as given; a row of
/// zeros gets none.
///
/// # Arguments
/// - `rows`: N × `width`
/// - `labels`: N
/// - `gradient`: N × `width`, added to
pub fn supervised_contrastive(
    rows: &[f32],
    labels: &[u32],
    width: usize,
    temperature: f64,
    gradient: &mut [f32],
) -> f64 {
    let count = labels.len();
    let mut norms = Vec::with_capacity(count);
    let mut unit = Vec::with_capacity(rows.len());
    for row in rows.chunks_exact(width) {
        let square: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        let norm = square.sqrt();
        let scale = if norm > 0.0 { 1.0 / norm } else { 0.0 };
        unit.extend(row.iter().map(|&value| f64::from(value) * scale));
        norms.push(norm);
    }
    let row = |at: usize| &unit[at * width..(at + 1) * width];
    let positives_of = |at: usize| {
        let same = labels.iter().filter(|label| **label == labels[at]);
        same.count() - 1
    };
    let positives: Vec<usize> = (0..count).map(positives_of).collect();
    let anchors = positives.iter().filter(|count| **count > 0).count();
    if anchors == 0 {
        return 0.0;
    }
    let mut total = 0.0;
    let mut of_unit = vec![0.0; unit.len()];
    let mut similarities = vec![0.0; count];
    for at in (0..count).filter(|at| positives[*at] > 0) {
        let mut most = f64::NEG_INFINITY;
        for other in (0..count).filter(|other| *other != at) {
            let pairs = row(at).iter().zip(row(other));
            similarities[other] = pairs.map(|(a, b)| a * b).sum::<f64>() / temperature;
            most = most.max(similarities[other]);
        }
        let others = (0..count).filter(|other| *other != at);
        let sum: f64 = others.map(|other| (similarities[other] - most).exp()).sum();
        let log_sum = most + sum.ln();
        let share = 1.0 / positives[at] as f64;
        let factor = 1.0 / (anchors as f64 * temperature);
        for other in (0..count).filter(|other| *other != at) {
            let aim = if labels[other] == labels[at] {
                share
            } else {
                0.0
            };
            total -= aim * (similarities[other] - log_sum);
            let slope = factor * ((similarities[other] - log_sum).exp() - aim);
            for column in 0..width {
                of_unit[at * width + column] += slope * unit[other * width + column];
                of_unit[other * width + column] += slope * unit[at * width + column];
            }
        }
    }
    for (at, norm) in norms.iter().enumerate().filter(|(_, norm)| **norm > 0.0) {
        let range = at * width..(at + 1) * width;
        let (z, g) = (&unit[range.clone()], &of_unit[range.clone()]);
        let along: f64 = z.iter().zip(g).map(|(z, g)| z * g).sum();
        for ((slot, z), g) in gradient[range].iter_mut().zip(z).zip(g) {
            *slot += ((g - along * z) / norm) as f32;
        }
    }
    total / anchors as f64
}

const LAYERS: [&str; 2] = [
    "contrastive-projection/hidden",
    "contrastive-projection/out",
];

/// Adds the projection features → features, ReLU → `width`, drawn from "contrastive-projection" (seed;
/// layer, 0).
pub(crate) fn add_projection(
    parameters: &mut Parameters,
    features: usize,
    width: usize,
    seed: u64,
) {
    for (layer, (name, outputs)) in LAYERS.into_iter().zip([features, width]).enumerate() {
        let draws = Draws::new(seed, "contrastive-projection", layer as u64, 0);
        add_linear(parameters, name, (features, outputs), draws);
    }
}

/// The projection's layers: the first reads features.
pub(crate) fn projection_layers(parameters: &Parameters) -> [Linear; 2] {
    LAYERS.map(|name| Linear::of(parameters, name))
}

/// The loss on projected features (N × `width`); adds the gradients of the projection and returns
/// that of the features.
pub(crate) fn projected_loss(
    cpu: Cpu,
    settings: &Contrastive,
    parameters: &Parameters,
    (features, width): (&[f32], usize),
    labels: &[u32],
    into: &mut Gradients,
) -> (f64, Vec<f32>) {
    let [hidden_layer, out] = projection_layers(parameters);
    let hidden: Vec<f32> = hidden_layer
        .forward(cpu, parameters, features, width)
        .into_iter()
        .map(|value| value.max(0.0))
        .collect();
    let rows = out.forward(cpu, parameters, &hidden, out.inputs);
    let mut of_rows = vec![0.0; rows.len()];
    let (projected, temperature) = (settings.width, settings.temperature);
    let loss = supervised_contrastive(&rows, labels, projected, temperature, &mut of_rows);
    let mut of_hidden = out.backward(cpu, parameters, (&hidden, out.inputs), &of_rows, into);
    for (slope, value) in of_hidden.iter_mut().zip(&hidden) {
        if *value <= 0.0 {
            *slope = 0.0;
        }
    }
    (
        loss,
        hidden_layer.backward(cpu, parameters, (features, width), &of_hidden, into),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The loss written out from its definition, without the shift of the exponents.
    fn written_out(rows: &[f64], labels: &[u32], width: usize, temperature: f64) -> f64 {
        let unit: Vec<Vec<f64>> = rows
            .chunks(width)
            .map(|row| {
                let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
                row.iter().map(|value| value / norm).collect()
            })
            .collect();
        let e = |i: usize, j: usize| {
            let dot: f64 = unit[i].iter().zip(&unit[j]).map(|(a, b)| a * b).sum();
            (dot / temperature).exp()
        };
        let mut losses = Vec::new();
        for i in 0..labels.len() {
            let others: Vec<usize> = (0..labels.len()).filter(|j| *j != i).collect();
            let all: f64 = others.iter().map(|&a| e(i, a)).sum();
            let same = others.iter().filter(|&&p| labels[p] == labels[i]);
            let terms: Vec<f64> = same.map(|&p| -(e(i, p) / all).ln()).collect();
            if !terms.is_empty() {
                losses.push(terms.iter().sum::<f64>() / terms.len() as f64);
            }
        }
        losses.iter().sum::<f64>() / losses.len() as f64
    }

    fn rows(count: usize) -> Vec<f32> {
        let mut draws = Draws::new(3, "rows", 0, 0);
        (0..count).map(|_| draws.normal() as f32).collect()
    }

    #[test]
    fn the_loss_and_its_gradient_are_those_written_out() {
        // The class 9 has one row: it is a negative and no anchor.
        let (labels, width, temperature) = ([0, 1, 0, 9, 1, 0], 4, 0.3);
        let rows = rows(labels.len() * width);
        let mut gradient = vec![0.0; rows.len()];
        let loss = supervised_contrastive(&rows, &labels, width, temperature, &mut gradient);
        let exact: Vec<f64> = rows.iter().map(|value| f64::from(*value)).collect();
        assert!((loss - written_out(&exact, &labels, width, temperature)).abs() < 1e-9);
        for at in 0..rows.len() {
            let moved = |by: f64| {
                let mut rows = exact.clone();
                rows[at] += by;
                written_out(&rows, &labels, width, temperature)
            };
            let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            let found = f64::from(gradient[at]);
            assert!((found - numeric).abs() < 1e-6, "{at}: {found} {numeric}");
        }
    }

    #[test]
    fn two_rows_of_one_class_and_rows_without_partners_have_no_loss() {
        for labels in [[4, 4], [4, 5]] {
            let rows = rows(6);
            let mut gradient = vec![0.0; 6];
            let loss = supervised_contrastive(&rows, &labels, 3, 0.07, &mut gradient);
            assert!(loss.abs() < 1e-12 && gradient.iter().all(|value| value.abs() < 1e-6));
        }
    }

    #[test]
    fn the_projection_passes_gradients_of_features_and_weights() {
        let settings = Contrastive {
            replay: 1,
            temperature: 0.5,
            width: 3,
        };
        let labels = [0, 1, 0, 1];
        let mut parameters = Parameters::default();
        add_projection(&mut parameters, 5, 3, 1);
        let features = rows(20);
        let loss = |parameters: &Parameters, features: &[f32]| {
            let mut unused = Gradients::zeros(parameters);
            projected_loss(
                Cpu::detect(),
                &settings,
                parameters,
                (features, 5),
                &labels,
                &mut unused,
            )
            .0
        };
        let mut gradients = Gradients::zeros(&parameters);
        let (_, of_features) = projected_loss(
            Cpu::detect(),
            &settings,
            &parameters,
            (&features, 5),
            &labels,
            &mut gradients,
        );
        let step = 1e-3;
        let close = |found: f32, numeric: f64, what: &str| {
            let found = f64::from(found);
            assert!(
                (found - numeric).abs() < 2e-3 + 1e-2 * numeric.abs(),
                "{what}: {found} {numeric}"
            );
        };
        for at in 0..features.len() {
            let moved = |by: f32| {
                let mut features = features.clone();
                features[at] += by;
                loss(&parameters, &features)
            };
            let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
            close(of_features[at], numeric, "feature");
        }
        for position in 0..parameters.len() {
            for at in 0..parameters.at(position).data.len() {
                let moved = |by: f32| {
                    let mut parameters = parameters.clone();
                    parameters.at_mut(position).data[at] += by;
                    loss(&parameters, &features)
                };
                let numeric = (moved(step) - moved(-step)) / f64::from(2.0 * step);
                close(
                    gradients.at(position)[at],
                    numeric,
                    &parameters.at(position).name,
                );
            }
        }
    }
}
