//! Adaptive prototypical feedback: replayed images as mixtures of images, with more of the classes whose
//! centres are near each other (the authors' `modules/APF.py`).

use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use super::{Centres, OnPro};
use crate::memory::Memory;
use crate::stream::Examples;

/// The label of an image that is `1 − share` of one and `share` of another.
///
/// Equal mixtures are equal values: what is one class in truth is written as such.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct MixedLabel {
    /// The class of the one.
    pub first: u32,
    /// The class of the other.
    pub second: u32,
    /// λ, from 0 to 1.
    pub share: f32,
}

impl MixedLabel {
    /// Of one class alone.
    pub fn plain(class: u32) -> Self {
        Self {
            first: class,
            second: class,
            share: 0.0,
        }
    }

    /// Of two.
    pub fn new(first: u32, second: u32, share: f32) -> Self {
        match share {
            0.0 => Self::plain(first),
            1.0 => Self::plain(second),
            _ if first == second => Self::plain(first),
            share => Self {
                first,
                second,
                share,
            },
        }
    }

    /// What equal labels have equal, and no others.
    pub fn key(self) -> (u32, u32, u32) {
        (self.first, self.second, self.share.to_bits())
    }
}

/// Images and their labels, one after the other.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Mixtures {
    /// N images.
    pub images: Vec<u8>,
    /// N.
    pub labels: Vec<MixedLabel>,
}

impl Mixtures {
    /// Images as they are.
    pub fn plain(examples: Examples) -> Self {
        Self {
            labels: examples.labels.into_iter().map(MixedLabel::plain).collect(),
            images: examples.images,
        }
    }

    /// Adds `(1 − share) · one + share · other`, rounded to bytes.
    fn mix(&mut self, one: (&[u8], u32), other: (&[u8], u32), share: f32) {
        let pixels = one.0.iter().zip(other.0).map(|(&one, &other)| {
            ((1.0 - share) * f32::from(one) + share * f32::from(other)).round() as u8
        });
        self.images.extend(pixels);
        self.labels.push(MixedLabel::new(one.1, other.1, share));
    }
}

/// Largest λ of the mixtures inside the sampled batch, and α of those of two classes (the authors'
/// defaults).
const LARGEST_SHARE: f32 = 0.6;
const ALPHA: f64 = 0.4;

/// The images to be replayed in the place of `batch`, a random sample of the memory: ⌊ρ·m⌋ of them mixed
/// among each other, and pairs of classes for the others. `batch` itself before there are two centres.
pub fn feedback(
    settings: &OnPro,
    memory: &Memory,
    batch: &Examples,
    centres: &Centres,
    draws: &mut Draws,
) -> Mixtures {
    let (pairs, distances): (Vec<_>, Vec<_>) = centres.distances().into_iter().unzip();
    if pairs.is_empty() {
        return Mixtures::plain(batch.clone());
    }
    let mut found = Mixtures::default();
    let size = batch.images.len() / batch.len().max(1);
    let image = |at: usize| &batch.images[at * size..(at + 1) * size];
    let base = (settings.base_share * batch.len() as f64) as usize;
    let mut partners: Vec<usize> = (0..base).collect();
    draws.shuffle(&mut partners);
    let is_mixed = draws.chance(settings.mixing);
    for (at, partner) in partners.into_iter().enumerate() {
        let share = draws.uniform_f32(0.0, LARGEST_SHARE);
        // The library that the authors mix with draws for each image once more.
        let share = match draws.chance(settings.mixing) && is_mixed {
            true => share,
            false => 0.0,
        };
        let other = (image(partner), batch.labels[partner]);
        found.mix((image(at), batch.labels[at]), other, share);
    }
    let shares = match settings.pairs {
        PairChoice::NearCentres => {
            let (temperature, floor) = (settings.pair_temperature, settings.distance_floor);
            pair_shares(&distances, temperature, floor)
        }
        PairChoice::Uniform => vec![1.0 / pairs.len() as f64; pairs.len()],
    };
    let counts = allocate_pairs(&shares, batch.len() - base, settings.allocation, draws);
    let stored = memory.labels();
    for ((one, other), count) in pairs
        .into_iter()
        .zip(counts)
        .filter(|(_, count)| *count > 0)
    {
        let is_mixed = draws.chance(settings.mixing);
        for _ in 0..count {
            let mut draw_of = |class: u32| {
                let mut places: Vec<usize> = (0..stored.len())
                    .filter(|at| stored[*at] == class)
                    .collect();
                if places.is_empty() {
                    // The class has left the memory: a random one stands in.
                    let class = draws.choose(stored).copied();
                    places = (0..stored.len())
                        .filter(|at| Some(stored[*at]) == class)
                        .collect();
                }
                let place = places[draws.below(places.len())];
                memory.examples(&[place])
            };
            let (one, other) = (draw_of(one), draw_of(other));
            let share = match is_mixed {
                true => draws.beta(ALPHA, ALPHA) as f32,
                false => 0.0,
            };
            found.mix(
                (&one.images, one.labels[0]),
                (&other.images, other.labels[0]),
                share,
            );
        }
    }
    found
}

/// How replayed images are shared among pairs of classes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairAllocation {
    /// A draw from the pairs' probabilities for each image.
    #[default]
    Multinomial,
    /// Rounded shares, repaired at random (the authors' code). With many classes all shares round to
    /// 0 and the repair makes it uniform.
    Rounded,
}

/// Which pairs of classes are replayed together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairChoice {
    /// Those with near centres more often.
    #[default]
    NearCentres,
    /// All alike: the control of claim O6.
    Uniform,
}

/// The probabilities of pairs: the softmax of 1 / (temperature · max(distance, floor)) (`modules/APF.py`;
/// the authors have no temperature, so 1, and no floor). Both are above 0.
pub fn pair_shares(distances: &[f64], temperature: f64, floor: f64) -> Vec<f64> {
    let closeness: Vec<f64> = distances
        .iter()
        .map(|distance| 1.0 / (temperature * distance.max(floor)))
        .collect();
    let most = closeness.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = closeness.iter().map(|value| (value - most).exp()).collect();
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|weight| weight / sum).collect()
}

/// How many of `images` each pair of classes gets, by their shares, which sum up to 1. Empty without
/// pairs.
pub fn allocate_pairs(
    shares: &[f64],
    images: usize,
    allocation: PairAllocation,
    draws: &mut Draws,
) -> Vec<usize> {
    let mut counts = vec![0; shares.len()];
    if counts.is_empty() {
        return counts;
    }
    match allocation {
        PairAllocation::Multinomial => {
            for _ in 0..images {
                let mut left = draws.unit_f64();
                let found = shares.iter().position(|share| {
                    left -= share;
                    left < 0.0
                });
                counts[found.unwrap_or(shares.len() - 1)] += 1;
            }
        }
        PairAllocation::Rounded => {
            for (count, share) in counts.iter_mut().zip(shares) {
                *count = (share * images as f64).round_ties_even() as usize;
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
    use crate::memory::MemoryPolicy;

    fn memory() -> Memory {
        let mut memory = Memory::new(MemoryPolicy::Reservoir, 40, 4, 10, false, 1).unwrap();
        let labels: Vec<u32> = (0..40).map(|at| at % 4).collect();
        // The class is the brightness, times 60.
        let images = labels.iter().flat_map(|label| [*label as u8 * 60; 4]);
        let examples = Examples {
            images: images.collect(),
            labels,
        };
        memory.offer(&examples, 0, &[]);
        memory
    }

    #[test]
    fn a_mixture_of_a_class_with_itself_is_that_class() {
        for share in [0.0, 0.1, 1.0 / 3.0, 0.7, 1.0] {
            assert_eq!(MixedLabel::new(7, 7, share), MixedLabel::plain(7));
        }
        assert_eq!(MixedLabel::new(7, 3, 1.0), MixedLabel::plain(3));
        assert_ne!(
            MixedLabel::new(7, 3, 0.2).key(),
            MixedLabel::new(7, 3, 0.3).key()
        );
    }

    #[test]
    fn as_many_images_are_replayed_as_were_sampled_mixed_as_their_labels_say() {
        let memory = memory();
        let centres = Centres {
            classes: vec![0, 1, 3, 9],
            rows: vec![0.0, 0.1, 0.9, 0.5],
        };
        for (step, size) in [1, 7, 32].into_iter().enumerate() {
            let batch = memory.examples(&memory.draw(size, step as u64, 0));
            for mixing in [0.0, 0.6, 1.0] {
                let settings = OnPro {
                    mixing,
                    ..OnPro::lite()
                };
                let mut draws = Draws::new(2, "feedback", step as u64, 0);
                let found = feedback(&settings, &memory, &batch, &centres, &mut draws);
                assert_eq!((found.labels.len(), found.images.len()), (size, 4 * size));
                for (image, label) in found.images.chunks(4).zip(&found.labels) {
                    let one = (1.0 - label.share) * label.first as f32;
                    let aim = 60.0 * (one + label.share * label.second as f32);
                    assert!((f32::from(image[0]) - aim).abs() <= 0.5 + 1e-3);
                    assert!(mixing > 0.0 || label.share == 0.0);
                    assert!(label.first < 4 && label.second < 4);
                }
            }
        }
        let none = feedback(
            &OnPro::lite(),
            &memory,
            &memory.examples(&[0, 1]),
            &Centres::default(),
            &mut Draws::new(2, "feedback", 0, 0),
        );
        assert_eq!(none, Mixtures::plain(memory.examples(&[0, 1])));
    }

    #[test]
    fn allocations_sum_up_and_close_pairs_get_more() {
        let distances = [0.2, 1.0, 1.0, 0.0];
        for allocation in [PairAllocation::Multinomial, PairAllocation::Rounded] {
            for images in [0, 1, 7, 16, 500] {
                let mut draws = Draws::new(1, "pairs", images as u64, 0);
                let shares = pair_shares(&distances, 1.0, 0.3);
                let counts = allocate_pairs(&shares, images, allocation, &mut draws);
                assert_eq!(counts.iter().sum::<usize>(), images, "{allocation:?}");
                if images == 500 {
                    assert!(
                        counts[0] > 2 * counts[1] && counts[3] > 2 * counts[2],
                        "{counts:?}"
                    );
                }
                let shares = pair_shares(&[1.0; 4950], 1.0, 1e-3);
                let many = allocate_pairs(&shares, images, allocation, &mut draws);
                assert_eq!(many.iter().sum::<usize>(), images);
            }
            let mut draws = Draws::new(1, "pairs", 0, 0);
            assert!(allocate_pairs(&[], 5, allocation, &mut draws).is_empty());
        }
    }
}
