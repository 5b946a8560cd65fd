//! LUCIR's terms on the angles of a cosine head (Hou et al. 2019, equations 5 to 8).
//!
//! ```text
//! less forget      λ · mean over images of (1 − ⟨u, u*⟩),   u, u* unit features now and after the
//!                  previous task;  λ = λ_base · √(old classes / new classes)
//! margin ranking   mean over images of old classes and their K largest cosines of new classes of
//!                  max(0, margin − s_true + s_new)
//! ```

use serde::{Deserialize, Serialize};

/// How λ follows the numbers of old and new classes. The paper's text and its authors' code are
/// said to disagree.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Growth {
    /// λ_base
    Constant,
    /// λ_base · √(old / new): more to keep, more weight (FACIL).
    OldOverNew,
    /// λ_base · √(new / old)
    NewOverOld,
}

impl Growth {
    /// What λ_base is multiplied by; 0 in the first task.
    pub fn factor(self, old: usize, new: usize) -> f64 {
        let (old, new) = (old as f64, new.max(1) as f64);
        match self {
            _ if old == 0.0 => 0.0,
            Self::Constant => 1.0,
            Self::OldOverNew => (old / new).sqrt(),
            Self::NewOverOld => (new / old).sqrt(),
        }
    }
}

/// Weights of the terms; one of weight 0 is not executed.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Angles {
    /// λ_base of "less forget", on new and replayed images.
    pub less_forget: f64,
    /// How it follows the numbers of classes.
    pub growth: Growth,
    /// Weight of the margin ranking.
    pub ranking: f64,
    /// Its margin.
    pub margin: f64,
    /// K
    pub hardest: usize,
}

/// Mean over rows of `1 − ⟨u, u*⟩`; adds `weight` times its gradient with respect to u. Both are
/// rows × `width`.
pub(crate) fn less_forget(
    unit: &[f32],
    previous: &[f32],
    width: usize,
    weight: f64,
    gradient: &mut [f32],
) -> f64 {
    let rows = (unit.len() / width) as f64;
    let mut total = 0.0;
    for ((u, old), gradient) in unit.iter().zip(previous).zip(gradient) {
        total += f64::from(*u) * f64::from(*old);
        *gradient -= (weight / rows * f64::from(*old)) as f32;
    }
    1.0 - total / rows
}

/// The margin ranking of the rows whose label is among `old`; adds `weight` times its gradient with
/// respect to the cosines, rows × `classes`. 0 without such a row or without a class in `new`.
pub(crate) fn margin_ranking(
    cosines: &[f32],
    labels: &[u32],
    classes: usize,
    (old, new): (&[u32], &[u32]),
    (angles, weight): (&Angles, f64),
    gradient: &mut [f32],
) -> f64 {
    let is_ranked = |label: &&u32| old.contains(label);
    let hardest = angles.hardest.min(new.len());
    let pairs = labels.iter().filter(is_ranked).count() * hardest;
    let mut total = 0.0;
    for (row, label) in labels
        .iter()
        .enumerate()
        .filter(|(_, label)| is_ranked(label))
    {
        let start = row * classes;
        let at = |class: u32| start + class as usize;
        let mut ranked = new.to_vec();
        // Stable: of equal cosines the class that came first.
        ranked.sort_by(|&a, &b| cosines[at(b)].total_cmp(&cosines[at(a)]));
        for &class in &ranked[..hardest] {
            let distance = f64::from(cosines[at(*label)]) - f64::from(cosines[at(class)]);
            let violated = angles.margin - distance;
            if violated > 0.0 {
                total += violated;
                let part = (weight / pairs as f64) as f32;
                gradient[at(*label)] -= part;
                gradient[at(class)] += part;
            }
        }
    }
    total / pairs.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_of_classes_goes_both_ways() {
        assert_eq!(Growth::OldOverNew.factor(8, 2), 2.0);
        assert_eq!(Growth::NewOverOld.factor(8, 2), 0.5);
        assert_eq!(Growth::Constant.factor(8, 2), 1.0);
        for growth in [Growth::OldOverNew, Growth::NewOverOld, Growth::Constant] {
            assert_eq!(growth.factor(0, 2), 0.0);
        }
    }

    #[test]
    fn margin_ranking_by_hand() {
        let angles = Angles {
            less_forget: 0.0,
            growth: Growth::Constant,
            ranking: 1.0,
            margin: 0.5,
            hardest: 2,
        };
        // Rows: an old class beside three new ones, and an image of a new class, which has no part.
        let cosines = [0.6, 0.3, 0.0, 0.4, 0.1, 0.9, 0.2, 0.3];
        let mut gradient = [0.0; 8];
        let (old, new) = (&[0][..], &[1, 2, 3][..]);
        let found = margin_ranking(
            &cosines,
            &[0, 1],
            4,
            (old, new),
            (&angles, 1.0),
            &mut gradient,
        );
        // 0.5 − 0.6 + 0.4 and 0.5 − 0.6 + 0.3, a mean of two.
        assert!((found - 0.25).abs() < 1e-6);
        assert_eq!(gradient, [-1.0, 0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]);
    }
}
