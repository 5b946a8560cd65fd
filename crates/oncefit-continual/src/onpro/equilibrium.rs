//! Online prototypes and the loss that keeps them apart (the authors' `modules/OPE.py`).

use crate::contrastive::supervised_contrastive;

fn length(row: &[f32]) -> f64 {
    let square: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
    square.sqrt()
}

/// The classes there are, in order, and the means of their unit-length rows: of the first view, then
/// of the second (2K × `width`).
fn means_of_classes(views: [&[f32]; 2], labels: &[u32], width: usize) -> (Vec<u32>, Vec<f32>) {
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    let mut means = vec![0.0f32; 2 * classes.len() * width];
    for (view, rows) in views.into_iter().enumerate() {
        for (row, &label) in rows.chunks_exact(width).zip(labels) {
            let place = classes.partition_point(|class| *class < label);
            let count = labels.iter().filter(|other| **other == label).count();
            let scale = length(row) * count as f64;
            let start = (view * classes.len() + place) * width;
            let mean = means[start..start + width].iter_mut();
            if scale > 0.0 {
                mean.zip(row)
                    .for_each(|(sum, value)| *sum += (f64::from(*value) / scale) as f32);
            }
        }
    }
    (classes, means)
}

/// A centre for each class of a memory batch: the mean of its two views' prototypes, not scaled to
/// unit length.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Centres {
    /// In order.
    pub classes: Vec<u32>,
    /// K × width.
    pub rows: Vec<f32>,
}

impl Centres {
    /// Of N × `width` rows in two views.
    pub fn of(views: [&[f32]; 2], labels: &[u32], width: usize) -> Self {
        let (classes, means) = means_of_classes(views, labels, width);
        let (first, second) = means.split_at(means.len() / 2);
        let pairs = first.iter().zip(second);
        Self {
            classes,
            rows: pairs.map(|(one, other)| (one + other) / 2.0).collect(),
        }
    }

    /// Every pair of classes and its distance.
    pub fn distances(&self) -> Vec<((u32, u32), f64)> {
        let width = self.rows.len() / self.classes.len().max(1);
        let row = |at: usize| &self.rows[at * width..(at + 1) * width];
        let mut found = Vec::new();
        for (at, &one) in self.classes.iter().enumerate() {
            for (further, &other) in self.classes.iter().enumerate().skip(at + 1) {
                let pairs = row(at).iter().zip(row(further));
                let square: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
                found.push(((one, other), square.sqrt()));
            }
        }
        found
    }
}

/// The prototype-equilibrium loss L_pro: the means of each class's unit-length
/// rows in two views, scaled to unit length, are contrasted with the other view's mean of the class.
/// 0 without gradient for one class. Adds the gradient of the rows as given.
///
/// # Arguments
/// - `views`: two times N × `width`
/// - `labels`: N
/// - `temperature`: 0.5 in the authors' code
/// - `gradients`: as `views`
pub fn prototype_equilibrium(
    views: [&[f32]; 2],
    labels: &[u32],
    width: usize,
    temperature: f64,
    gradients: [&mut [f32]; 2],
) -> f64 {
    let (classes, means) = means_of_classes(views, labels, width);
    let place = |label: u32| classes.partition_point(|class| *class < label);
    let counts = |class: u32| labels.iter().filter(|label| **label == class).count();
    let of_means = classes.repeat(2);
    let mut slopes = vec![0.0; means.len()];
    let loss = supervised_contrastive(&means, &of_means, width, temperature, &mut slopes);
    for (view, (rows, gradient)) in views.into_iter().zip(gradients).enumerate() {
        let parts = rows.chunks_exact(width).zip(labels);
        for ((row, &label), out) in parts.zip(gradient.chunks_exact_mut(width)) {
            let (norm, count) = (length(row), counts(label) as f64);
            if norm > 0.0 {
                let start = (view * classes.len() + place(label)) * width;
                let slope = &slopes[start..start + width];
                let along: f64 = row
                    .iter()
                    .zip(slope)
                    .map(|(value, slope)| f64::from(*value) * f64::from(*slope))
                    .sum::<f64>()
                    / (norm * norm);
                for ((out, value), slope) in out.iter_mut().zip(row).zip(slope) {
                    let inside = f64::from(*slope) - along * f64::from(*value);
                    *out += (inside / (norm * count)) as f32;
                }
            }
        }
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_random::Draws;
    use std::collections::BTreeSet;

    fn rows(count: usize) -> Vec<f32> {
        let mut draws = Draws::new(5, "rows", 0, 0);
        (0..count).map(|_| draws.normal() as f32).collect()
    }

    fn loss(first: &[f32], second: &[f32], labels: &[u32]) -> (f64, Vec<f32>, Vec<f32>) {
        let (mut one, mut two) = (vec![0.0; first.len()], vec![0.0; second.len()]);
        let gradients = [&mut one[..], &mut two[..]];
        let loss = prototype_equilibrium([first, second], labels, 3, 0.5, gradients);
        (loss, one, two)
    }

    #[test]
    fn equilibrium_of_one_class_is_nothing_and_the_classes_names_do_not_matter() {
        let all = rows(30);
        let (first, second) = all.split_at(15);
        let (found, one, two) = loss(first, second, &[7; 5]);
        assert!(found.abs() < 1e-12 && one.iter().chain(&two).all(|value| value.abs() < 1e-6));
        let (found, ..) = loss(first, second, &[0, 1, 2, 1, 0]);
        let (renamed, ..) = loss(first, second, &[9, 4, 0, 4, 9]);
        assert!((found - renamed).abs() < 1e-6 && found > 0.0);
    }

    /// L_pro from its definition, in f64.
    fn written_out(first: &[f64], second: &[f64], labels: &[u32]) -> f64 {
        let unit = |row: &[f64]| -> Vec<f64> {
            let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
            row.iter().map(|value| value / norm).collect()
        };
        let classes: BTreeSet<u32> = labels.iter().copied().collect();
        let mut prototypes = Vec::new();
        for view in [first, second] {
            for class in &classes {
                let mut mean = vec![0.0; 3];
                for (row, _) in view
                    .chunks(3)
                    .zip(labels)
                    .filter(|(_, label)| *label == class)
                {
                    mean.iter_mut()
                        .zip(unit(row))
                        .for_each(|(sum, value)| *sum += value);
                }
                prototypes.push(unit(&mean));
            }
        }
        let (all, k) = (prototypes.len(), classes.len());
        let e = |i: usize, j: usize| {
            let pairs = prototypes[i].iter().zip(&prototypes[j]);
            (pairs.map(|(a, b)| a * b).sum::<f64>() / 0.5).exp()
        };
        let term = |i: usize| {
            let others: f64 = (0..all).filter(|j| *j != i).map(|j| e(i, j)).sum();
            -(e(i, (i + k) % all) / others).ln()
        };
        (0..all).map(term).sum::<f64>() / all as f64
    }

    #[test]
    fn equilibrium_and_its_gradient_are_those_written_out() {
        let labels = [3, 1, 3, 8, 1];
        let all = rows(30);
        let (first, second) = all.split_at(15);
        let (found, one, two) = loss(first, second, &labels);
        let exact: Vec<f64> = all.iter().map(|value| f64::from(*value)).collect();
        let value = |rows: &[f64]| written_out(&rows[..15], &rows[15..], &labels);
        assert!((found - value(&exact)).abs() < 1e-6);
        for (at, gradient) in one.iter().chain(&two).enumerate() {
            let moved = |by: f64| {
                let mut rows = exact.clone();
                rows[at] += by;
                value(&rows)
            };
            let numeric = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!(
                (f64::from(*gradient) - numeric).abs() < 1e-5,
                "{at}: {gradient} {numeric}"
            );
        }
    }
}
