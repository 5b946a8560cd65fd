//! Mixing the images of a batch: mixup (Zhang et al. 2018) and cutmix (Yun et al. 2019).
//!
//! Each image is mixed with a partner, image i of a shuffle of the batch; λ ~ Beta(α, α) is drawn
//! once for the batch:
//!
//! ```text
//! mixup:   x ← λ·x + (1 − λ)·partner
//! cutmix:  a rectangle with 1 − λ of the area comes from the partner; λ is then what is left
//! loss:    λ·L(labels) + (1 − λ)·L(partner labels)
//! ```

use oncefit_random::Draws;

use crate::batch::Batch;

/// Mixes a batch; with both settings above 0 one of them is drawn.
pub(crate) fn mix(batch: &mut Batch, mixup: f32, cutmix: f32, mut draws: Draws) {
    let prefers_cutmix = draws.chance(0.5);
    let cuts = match (mixup > 0.0, cutmix > 0.0) {
        (false, false) => return,
        (true, true) => prefers_cutmix,
        (_, cuts) => cuts,
    };
    let alpha = f64::from(if cuts { cutmix } else { mixup });
    let share = draws.beta(alpha, alpha) as f32;
    let mut partners: Vec<usize> = (0..batch.images_count).collect();
    draws.shuffle(&mut partners);
    batch.label_share = if cuts {
        let cut = Cut::draw(batch.height, batch.width, share, &mut draws);
        let row_values = batch.width * batch.channels;
        let channels = batch.channels;
        with_partners(&mut batch.images, &partners, |image, partner| {
            for row in cut.rows.clone() {
                let columns = cut.columns.start * channels..cut.columns.end * channels;
                let range = row * row_values + columns.start..row * row_values + columns.end;
                image[range.clone()].copy_from_slice(&partner[range]);
            }
        });
        let area = cut.rows.len() * cut.columns.len();
        1.0 - area as f32 / (batch.height * batch.width) as f32
    } else {
        with_partners(&mut batch.images, &partners, |image, partner| {
            for (value, other) in image.iter_mut().zip(partner) {
                *value = share * *value + (1.0 - share) * other;
            }
        });
        share
    };
    let labels = partners.iter().map(|&partner| batch.labels[partner]);
    batch.partner_labels = labels.collect();
}

/// Changes each image given its partner as it was. The partners are a permutation: along one of its
/// cycles every image is read before it is changed, but for the first, of which a copy is kept behind
/// the images (a batch that is used again has the room already).
fn with_partners(images: &mut Vec<f32>, partners: &[usize], change: impl Fn(&mut [f32], &[f32])) {
    let end = images.len();
    let values = end / partners.len().max(1);
    images.resize(end + values, 0.0);
    let (all, first) = images.split_at_mut(end);
    let mut is_done = vec![false; partners.len()];
    let range = |image: usize| image * values..(image + 1) * values;
    for start in 0..partners.len() {
        if is_done[start] {
            continue;
        }
        first.copy_from_slice(&all[range(start)]);
        let mut at = start;
        while partners[at] != start {
            is_done[at] = true;
            let next = partners[at];
            let both = all.get_disjoint_mut([range(at), range(next)]);
            let [image, partner] = both.expect("two images");
            change(image, partner);
            at = next;
        }
        is_done[at] = true;
        change(&mut all[range(at)], first);
    }
    images.truncate(end);
}

struct Cut {
    rows: std::ops::Range<usize>,
    columns: std::ops::Range<usize>,
}

impl Cut {
    /// A rectangle of the image's aspect around a random centre, cut off at the border.
    fn draw(height: usize, width: usize, share: f32, draws: &mut Draws) -> Self {
        let scale = (1.0 - share).sqrt();
        let mut range = |extent: usize| {
            let half = (scale * extent as f32) as usize / 2;
            let centre = draws.below(extent);
            centre.saturating_sub(half)..(centre + half).min(extent)
        };
        let rows = range(height);
        Self {
            rows,
            columns: range(width),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Image i is full of i.
    fn batch() -> Batch {
        Batch {
            images: (0..4).flat_map(|image| [image as f32; 8 * 8 * 2]).collect(),
            labels: vec![0, 1, 2, 3],
            images_count: 4,
            height: 8,
            width: 8,
            channels: 2,
            ..Batch::default()
        }
    }

    fn mixed(mixup: f32, cutmix: f32, step: u64) -> Batch {
        let mut batch = batch();
        mix(&mut batch, mixup, cutmix, Draws::new(1, "test", step, 0));
        batch
    }

    #[test]
    fn shares_of_labels_are_shares_of_the_images() {
        for step in 0..50 {
            for (mixup, cutmix) in [(0.4, 0.0), (0.0, 1.0), (0.2, 1.0)] {
                let found = mixed(mixup, cutmix, step);
                assert!((0.0..=1.0).contains(&found.label_share));
                for (index, image) in found.images.chunks(128).enumerate() {
                    let mean = image.iter().sum::<f32>() / 128.0;
                    let partner = found.partner_labels[index] as f32;
                    let expected =
                        found.label_share * index as f32 + (1.0 - found.label_share) * partner;
                    assert!((mean - expected).abs() < 1e-4, "{mean} {expected}");
                }
            }
        }
    }

    #[test]
    fn every_image_meets_its_partner_as_it_was() {
        // A fixed point, a pair and a cycle of three.
        let partners = [0, 2, 1, 4, 5, 3];
        let mut images: Vec<f32> = (0..12).map(|value| value as f32).collect();
        let expected: Vec<f32> = (0..12)
            .map(|at| (at + 10 * (2 * partners[at / 2] + at % 2)) as f32)
            .collect();
        with_partners(&mut images, &partners, |image, partner| {
            let pairs = image.iter_mut().zip(partner);
            pairs.for_each(|(value, other)| *value += 10.0 * other);
        });
        assert_eq!(images, expected);
    }

    #[test]
    fn cutmix_keeps_pixels_whole_and_nothing_is_mixed_when_off() {
        let found = mixed(0.0, 1.0, 3);
        assert!(found.images.iter().all(|value| value.fract() == 0.0));
        assert_eq!(mixed(0.0, 0.0, 3), batch());
        assert!(
            mixed(1.0, 0.0, 3)
                .images
                .iter()
                .any(|value| value.fract() != 0.0)
        );
    }
}
