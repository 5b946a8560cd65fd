//! Parts of OnPro (Wei et al., ICCV 2023), as the authors' code computes them: the turned copies of
//! an image, the prototype-equilibrium loss and the choice of class pairs for mixed replay.

use oncefit_data::ImageShape;
use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::contrastive::supervised_contrastive;
use crate::error::{Result, setting};

/// The 16 turned copies of a square image (H, W, C) of even width (OnPro brief, section 2.2): its
/// halves turned by 180° in place (none, left, both, right), each of the four turned as a whole by 0°,
/// 180°, 90° and 270° counter-clockwise; copy 4·turn + halves.
///
/// # Errors
/// If the image is not square, its width is odd, or `image` has another size.
pub fn turned_copies(image: &[u8], shape: ImageShape) -> Result<Vec<Vec<u8>>> {
    let side = shape.width;
    if shape.height != side || !side.is_multiple_of(2) || side == 0 || image.len() != shape.bytes()
    {
        return Err(setting(
            "the image to be turned",
            format!("{} x {}, {} bytes", shape.height, side, image.len()),
            "a whole square image of even width",
        ));
    }
    let pick = |image: &[u8], from: &dyn Fn(usize, usize) -> (usize, usize)| -> Vec<u8> {
        let mut out = Vec::with_capacity(image.len());
        for place in 0..side * side {
            let (y, x) = from(place / side, place % side);
            let start = (y * side + x) * shape.channels;
            out.extend_from_slice(&image[start..start + shape.channels]);
        }
        out
    };
    let last = side - 1;
    let half = side / 2;
    let halves = [(false, false), (true, false), (true, true), (false, true)];
    let variants: Vec<Vec<u8>> = halves
        .into_iter()
        .map(|(left, right)| {
            pick(image, &|y, x| match (x < half, left, right) {
                (true, true, _) => (last - y, half - 1 - x),
                (false, _, true) => (last - y, half + last - x),
                _ => (y, x),
            })
        })
        .collect();
    let turns: [&dyn Fn(usize, usize) -> (usize, usize); 4] = [
        &|y: usize, x: usize| (y, x),
        &|y: usize, x: usize| (last - y, last - x),
        &|y: usize, x: usize| (x, last - y),
        &|y: usize, x: usize| (last - x, y),
    ];
    let copies = turns
        .into_iter()
        .flat_map(|turn| variants.iter().map(move |variant| pick(variant, turn)));
    Ok(copies.collect())
}

/// The prototype-equilibrium loss L_pro (brief, section 2.4): the means of each class's unit-length
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
    let mut classes = labels.to_vec();
    classes.sort_unstable();
    classes.dedup();
    let place = |label: u32| classes.partition_point(|class| *class < label);
    let counts = |class: u32| labels.iter().filter(|label| **label == class).count();
    let norm_of = |row: &[f32]| {
        let square: f64 = row.iter().map(|&value| f64::from(value).powi(2)).sum();
        square.sqrt()
    };
    let mut means = vec![0.0f32; 2 * classes.len() * width];
    for (view, rows) in views.into_iter().enumerate() {
        for (row, &label) in rows.chunks_exact(width).zip(labels) {
            let scale = norm_of(row) * counts(label) as f64;
            let start = (view * classes.len() + place(label)) * width;
            let mean = means[start..start + width].iter_mut();
            if scale > 0.0 {
                mean.zip(row)
                    .for_each(|(sum, value)| *sum += (f64::from(*value) / scale) as f32);
            }
        }
    }
    let of_means = classes.repeat(2);
    let mut slopes = vec![0.0; means.len()];
    let loss = supervised_contrastive(&means, &of_means, width, temperature, &mut slopes);
    for (view, (rows, gradient)) in views.into_iter().zip(gradients).enumerate() {
        let parts = rows.chunks_exact(width).zip(labels);
        for ((row, &label), out) in parts.zip(gradient.chunks_exact_mut(width)) {
            let (norm, count) = (norm_of(row), counts(label) as f64);
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

/// How replayed images are shared among pairs of classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairAllocation {
    /// A draw from the pairs' probabilities for each image.
    #[default]
    Multinomial,
    /// Rounded shares, repaired at random (the authors' code). With many classes all shares round to
    /// 0 and the repair makes it uniform (brief, section 6, 1).
    Rounded,
}

/// How many of `images` each pair of classes gets: shares are the softmax of
/// 1 / (temperature · max(distance, floor)) over pairs (brief, section 2.5; the authors have no
/// temperature, so 1, and no floor). Both are above 0. Empty without pairs.
pub fn allocate_pairs(
    distances: &[f64],
    images: usize,
    allocation: PairAllocation,
    (temperature, floor): (f64, f64),
    draws: &mut Draws,
) -> Vec<usize> {
    let closeness: Vec<f64> = distances
        .iter()
        .map(|distance| 1.0 / (temperature * distance.max(floor)))
        .collect();
    let most = closeness.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = closeness.iter().map(|value| (value - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut counts = vec![0; distances.len()];
    if counts.is_empty() {
        return counts;
    }
    match allocation {
        PairAllocation::Multinomial => {
            for _ in 0..images {
                let mut left = draws.unit_f64() * sum;
                let found = weights.iter().position(|weight| {
                    left -= weight;
                    left < 0.0
                });
                counts[found.unwrap_or(distances.len() - 1)] += 1;
            }
        }
        PairAllocation::Rounded => {
            for (count, weight) in counts.iter_mut().zip(&weights) {
                *count = (weight / sum * images as f64).round_ties_even() as usize;
            }
            loop {
                let given: usize = counts.iter().sum();
                let (missing, surplus) =
                    (images.saturating_sub(given), given.saturating_sub(images));
                let mut places: Vec<usize> = (0..counts.len())
                    .filter(|&at| missing > 0 || counts[at] > 0)
                    .collect();
                draws.shuffle(&mut places);
                match (missing, surplus) {
                    (0, 0) => break,
                    (_, 0) => places.iter().take(missing).for_each(|&at| counts[at] += 1),
                    _ => places.iter().take(surplus).for_each(|&at| counts[at] -= 1),
                }
            }
        }
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_16_turns_are_distinct_and_in_the_stated_order() {
        let shape = ImageShape {
            height: 4,
            width: 4,
            channels: 2,
        };
        let image: Vec<u8> = (0..32).collect();
        let copies = turned_copies(&image, shape).unwrap();
        assert_eq!(copies.iter().collect::<BTreeSet<_>>().len(), 16);
        assert_eq!(copies[0], image);
        let quarter = |image: &[u8]| -> Vec<u8> {
            // Counter-clockwise: the last column becomes the first row.
            let pixels = (0..16).map(|at| (at % 4) * 4 + 3 - at / 4);
            pixels
                .flat_map(|at| image[2 * at..2 * at + 2].to_vec())
                .collect()
        };
        for at in 0..4 {
            assert_eq!(copies[8 + at], quarter(&copies[at]));
            assert_eq!(copies[4 + at], quarter(&copies[8 + at]));
            assert_eq!(copies[12 + at], quarter(&copies[4 + at]));
        }
        // The left half of the second copy is the first's, turned; the right half is as it was.
        assert_eq!((copies[1][0], copies[1][4], copies[1][2]), (26, 4, 24));
        // Turning both halves in place is not turning the whole.
        assert_eq!((copies[2][0], copies[2][4]), (26, 30));
        let odd = ImageShape {
            height: 3,
            width: 3,
            channels: 1,
        };
        assert!(
            turned_copies(&[0; 9], odd)
                .unwrap_err()
                .to_string()
                .contains("even")
        );
    }

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

    #[test]
    fn allocations_sum_up_and_close_pairs_get_more() {
        let distances = [0.2, 1.0, 1.0, 0.0];
        for allocation in [PairAllocation::Multinomial, PairAllocation::Rounded] {
            for images in [0, 1, 7, 16, 500] {
                let mut draws = Draws::new(1, "pairs", images as u64, 0);
                let counts = allocate_pairs(&distances, images, allocation, (1.0, 0.3), &mut draws);
                assert_eq!(counts.iter().sum::<usize>(), images, "{allocation:?}");
                if images == 500 {
                    assert!(
                        counts[0] > 2 * counts[1] && counts[3] > 2 * counts[2],
                        "{counts:?}"
                    );
                }
                let many =
                    allocate_pairs(&[1.0; 4950], images, allocation, (1.0, 1e-3), &mut draws);
                assert_eq!(many.iter().sum::<usize>(), images);
            }
            let mut draws = Draws::new(1, "pairs", 0, 0);
            assert!(allocate_pairs(&[], 5, allocation, (1.0, 1e-3), &mut draws).is_empty());
        }
    }
}
