//! The instance loss (the authors' `train.py`; from OCM, Guo et al. 2022).
//!
//! Of 2N rows, N images and then a view of each: `p` their projections and `q` their features, both of
//! unit length, `q'` a window of q as wide as p. With
//!
//! ```text
//! S_ij = λ (p_i·q'_j + p_i·p_j)     E_ij = exp((S_ij − max_k S_ik) / τ)
//! l_ij = −log(E_ij / (Σ_k E_ik + ε) + ε)     W_ij = [same label] / (rows of i's label + ε)
//! ```
//!
//! new images have `E_ii = 0` and `1/2N (Σ_i l_{i, view of i} + 2 Σ_ij W_ij l_ij)`, images of the memory
//! `1/2N Σ_ij W_ij l_ij`.

use oncefit_kernels::Cpu;

use crate::linear::{Rows, products, products_backward};

/// ε
const EPSILON: f64 = 1e-8;

/// Which of the two forms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InstanceKind {
    /// Of new images. The constant `l_ii = −log ε` is left out: it has no gradient.
    New,
    /// Of images of the memory.
    Memory,
}

/// The constants of the loss.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Instance {
    /// Which form.
    pub kind: InstanceKind,
    /// τ
    pub temperature: f64,
    /// λ
    pub similarity: f64,
    /// Where the window of the features begins; with its width, the projections', it fits into them.
    pub offset: usize,
}

/// Rows of unit length and what they were divided by; a row of zeros stays.
fn to_unit(rows: &[f32], width: usize) -> (Vec<f32>, Vec<f64>) {
    let mut unit = Vec::with_capacity(rows.len());
    let mut lengths = Vec::new();
    for row in rows.chunks_exact(width) {
        let square: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        let length = square.sqrt();
        let scale = if length > 0.0 { 1.0 / length } else { 0.0 };
        unit.extend(row.iter().map(|&value| (f64::from(value) * scale) as f32));
        lengths.push(length);
    }
    (unit, lengths)
}

/// Adds the gradients of the rows as given, from those of the rows of unit length.
fn add_through_unit(
    (unit, lengths): &(Vec<f32>, Vec<f64>),
    of_unit: &[f32],
    width: usize,
    gradient: &mut [f32],
) {
    let parts = unit.chunks_exact(width).zip(of_unit.chunks_exact(width));
    let parts = parts.zip(lengths).zip(gradient.chunks_exact_mut(width));
    for (((z, g), length), out) in parts.filter(|((_, length), _)| **length > 0.0) {
        let pairs = z.iter().zip(g);
        let along: f64 = pairs.map(|(z, g)| f64::from(*z) * f64::from(*g)).sum();
        for ((slot, z), g) in out.iter_mut().zip(z).zip(g) {
            *slot += ((f64::from(*g) - along * f64::from(*z)) / length) as f32;
        }
    }
}

fn add(out: &mut [f32], values: &[f32]) {
    let pairs = out.iter_mut().zip(values);
    pairs.for_each(|(out, value)| *out += value);
}

/// The loss; adds the gradients of projections and features as given.
///
/// `S_ij / λ = p_i·(q'_j + p_j)`, so all of S is one matrix product, and its gradients are two.
///
/// # Arguments
/// - `projections`: 2N × `widths.0`, images and then their views
/// - `features`: 2N × `widths.1`
/// - `labels`: N
/// - `gradients`: as projections and features
pub fn instance_loss(
    cpu: Cpu,
    settings: Instance,
    projections: &[f32],
    features: &[f32],
    labels: &[u32],
    (width, feature_width): (usize, usize),
    gradients: [&mut [f32]; 2],
) -> f64 {
    let rows = 2 * labels.len();
    let (p, q) = (
        to_unit(projections, width),
        to_unit(features, feature_width),
    );
    let window = settings.offset..settings.offset + width;
    let mut compared = p.0.clone();
    for (sum, q) in compared
        .chunks_exact_mut(width)
        .zip(q.0.chunks_exact(feature_width))
    {
        add(sum, &q[window.clone()]);
    }
    let compared = Rows {
        values: &compared,
        width,
        stride: width,
    };
    let mut matrix = products(cpu, &p.0, compared, None);
    let mut loss = 0.0;
    for (at, row) in matrix.chunks_exact_mut(rows).enumerate() {
        loss += to_slopes(settings, at, labels, row);
    }
    let mut of_compared = vec![0.0; p.0.len()];
    let mut of_p = products_backward(cpu, &p.0, compared, &matrix, &mut of_compared);
    add(&mut of_p, &of_compared);
    let mut of_q = vec![0.0; q.0.len()];
    let parts = of_q.chunks_exact_mut(feature_width);
    for (of_q, of_compared) in parts.zip(of_compared.chunks_exact(width)) {
        of_q[window.clone()].copy_from_slice(of_compared);
    }
    let [of_projections, of_features] = gradients;
    add_through_unit(&p, &of_p, width, of_projections);
    add_through_unit(&q, &of_q, feature_width, of_features);
    loss
}

/// Row `at` of S / λ becomes the row of the loss's slopes by it; returns the row's part of the loss.
fn to_slopes(settings: Instance, at: usize, labels: &[u32], row: &mut [f32]) -> f64 {
    let (images, rows) = (labels.len(), row.len());
    let label = |at: usize| labels[at % images];
    let is_new = settings.kind == InstanceKind::New;
    let same = labels.iter().filter(|other| **other == label(at)).count();
    let share = 1.0 / ((2 * same) as f64 + EPSILON);
    let weight = |other: usize| {
        let by_label = match label(other) == label(at) {
            true => share,
            false => 0.0,
        };
        let aim = match is_new {
            false => by_label,
            true if other == at => 0.0,
            true => 2.0 * by_label + f64::from(u8::from(other == (at + images) % rows)),
        };
        aim / rows as f64
    };
    let most = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let scale = settings.similarity / settings.temperature;
    let exponential = |value: f32| (scale * (f64::from(value) - f64::from(most))).exp();
    let mut exponentials: Vec<f64> = row.iter().map(|value| exponential(*value)).collect();
    if is_new {
        exponentials[at] = 0.0;
    }
    let sum = exponentials.iter().sum::<f64>() + EPSILON;
    // ∂loss/∂S_ik = (r_ik Σ_j u_ij − u_ik) / τ with u = weight · r / (r + ε), r = E / Σ.
    let (mut loss, mut all) = (0.0, 0.0);
    let mut aims = vec![0.0; rows];
    for (other, aim) in aims.iter_mut().enumerate() {
        let weight = weight(other);
        if weight > 0.0 {
            let share = exponentials[other] / sum;
            loss -= weight * (share + EPSILON).ln();
            *aim = weight * share / (share + EPSILON);
            all += *aim;
        }
    }
    for ((slope, exponential), aim) in row.iter_mut().zip(exponentials).zip(aims) {
        *slope = (scale * (exponential / sum * all - aim)) as f32;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_random::Draws;

    const WIDTHS: (usize, usize) = (3, 5);
    const LABELS: [u32; 4] = [2, 0, 2, 7];

    fn dot(one: &[f64], other: &[f64]) -> f64 {
        one.iter().zip(other).map(|(one, other)| one * other).sum()
    }

    fn unit(row: &[f64]) -> Vec<f64> {
        let length = dot(row, row).sqrt();
        row.iter().map(|value| value / length).collect()
    }

    /// The loss by its formula; `with_self` keeps l_ii in the form of new images.
    fn written_out(settings: Instance, values: &[f64], with_self: bool) -> f64 {
        let n = LABELS.len();
        let (projections, features) = values.split_at(2 * n * WIDTHS.0);
        let p: Vec<_> = projections.chunks(WIDTHS.0).map(unit).collect();
        let q: Vec<_> = features.chunks(WIDTHS.1).map(unit).collect();
        let end = settings.offset + WIDTHS.0;
        let s = |i: usize, j: usize| {
            settings.similarity * (dot(&p[i], &q[j][settings.offset..end]) + dot(&p[i], &p[j]))
        };
        let is_new = settings.kind == InstanceKind::New;
        let l = |i: usize, j: usize| {
            let most = (0..2 * n).map(|k| s(i, k)).fold(f64::MIN, f64::max);
            let e = |k: usize| match is_new && k == i {
                true => 0.0,
                false => ((s(i, k) - most) / settings.temperature).exp(),
            };
            let sum: f64 = (0..2 * n).map(e).sum();
            -(e(j) / (sum + EPSILON) + EPSILON).ln()
        };
        let same = |i: usize, j: usize| f64::from(u8::from(LABELS[i % n] == LABELS[j % n]));
        let mut loss = 0.0;
        for i in 0..2 * n {
            let count: f64 = (0..2 * n).map(|k| same(i, k)).sum();
            for j in (0..2 * n).filter(|j| with_self || !is_new || *j != i) {
                let w = same(i, j) / (count + EPSILON);
                loss += match is_new {
                    true => 2.0 * w * l(i, j),
                    false => w * l(i, j),
                };
            }
            if is_new {
                loss += l(i, (i + n) % (2 * n));
            }
        }
        loss / (2 * n) as f64
    }

    #[test]
    fn loss_and_gradients_are_those_written_out_with_and_without_the_constant() {
        let n = LABELS.len();
        let mut draws = Draws::new(3, "instance rows", 0, 0);
        let count = 2 * n * (WIDTHS.0 + WIDTHS.1);
        let values: Vec<f32> = (0..count).map(|_| draws.normal() as f32).collect();
        let exact: Vec<f64> = values.iter().map(|value| f64::from(*value)).collect();
        let (projections, features) = values.split_at(2 * n * WIDTHS.0);
        for kind in [InstanceKind::New, InstanceKind::Memory] {
            let settings = Instance {
                kind,
                temperature: 0.3,
                similarity: 0.5,
                offset: 1,
            };
            let mut of_p = vec![0.0; projections.len()];
            let mut of_q = vec![0.0; features.len()];
            let gradients = [&mut of_p[..], &mut of_q[..]];
            let cpu = Cpu::detect();
            let loss = instance_loss(
                cpu,
                settings,
                projections,
                features,
                &LABELS,
                WIDTHS,
                gradients,
            );
            let written = written_out(settings, &exact, false);
            assert!((loss - written).abs() < 1e-5, "{loss} {written}");
            if kind == InstanceKind::New {
                // −2 log ε of the 2 rows of a class's one image, half of it of the others'.
                let constant = written_out(settings, &exact, true) - loss;
                assert!(constant > 10.0, "{constant}");
            }
            for (at, gradient) in of_p.iter().chain(&of_q).enumerate() {
                for with_self in [false, true] {
                    let moved = |by: f64| {
                        let mut values = exact.clone();
                        values[at] += by;
                        written_out(settings, &values, with_self)
                    };
                    let numeric = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                    assert!(
                        (f64::from(*gradient) - numeric).abs() < 1e-5,
                        "{kind:?} {at}: {gradient} {numeric}"
                    );
                }
            }
        }
    }
}
