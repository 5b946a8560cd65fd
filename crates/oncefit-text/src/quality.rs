//! What can be said of targets before anything is trained: how alike they are, which lie near
//! which.

use serde::{Deserialize, Serialize};

/// Classes that must lie nearer to each other than to others.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Group {
    /// What they are.
    pub name: String,
    /// Two or more.
    pub members: Vec<String>,
    /// Classes on the other side; all others where it is empty.
    pub others: Vec<String>,
}

/// How unit rows lie.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Quality {
    /// Mean cosine of two rows; logits of a cosine head with scale η span (1 − this)·η.
    pub mean_cosine: f64,
    /// The smallest angle between two rows, in degrees.
    pub smallest_angle: f64,
    /// The two rows.
    pub nearest_pair: (usize, usize),
    /// For each row the other rows, nearest first, with their cosine.
    pub neighbours: Vec<Vec<(usize, f64)>>,
}

/// The cosine of two rows of unit length.
pub(crate) fn cosine(left: &[f32], right: &[f32]) -> f64 {
    let pairs = left.iter().zip(right);
    pairs.map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
}

impl Quality {
    /// Of unit rows, two or more; `None` for fewer.
    pub fn of(rows: &[Vec<f32>]) -> Option<Self> {
        let mut neighbours = vec![Vec::new(); rows.len()];
        let mut nearest = (f64::NEG_INFINITY, (0, 0));
        let (mut sum, mut pairs) = (0.0, 0);
        for left in 0..rows.len() {
            for right in left + 1..rows.len() {
                let found = cosine(&rows[left], &rows[right]);
                neighbours[left].push((right, found));
                neighbours[right].push((left, found));
                sum += found;
                pairs += 1;
                if found > nearest.0 {
                    nearest = (found, (left, right));
                }
            }
        }
        for row in &mut neighbours {
            row.sort_by(|left, right| right.1.total_cmp(&left.1));
        }
        (pairs > 0).then(|| Self {
            mean_cosine: sum / pairs as f64,
            smallest_angle: nearest.0.clamp(-1.0, 1.0).acos().to_degrees(),
            nearest_pair: nearest.1,
            neighbours,
        })
    }
}

impl Group {
    /// A sentence for each member whose mean cosine to its own side is not above that to the
    /// other.
    pub(crate) fn violations(&self, names: &[&str], rows: &[Vec<f32>]) -> Vec<String> {
        let is_in = |list: &[String], class: usize| list.iter().any(|name| name == names[class]);
        let all = || 0..names.len();
        let members: Vec<usize> = all().filter(|&class| is_in(&self.members, class)).collect();
        let others: Vec<usize> = all()
            .filter(|&class| match self.others.is_empty() {
                true => !is_in(&self.members, class),
                false => is_in(&self.others, class),
            })
            .collect();
        let mean = |class: usize, to: &[usize]| {
            let to = to.iter().filter(|&&other| other != class);
            let cosines: Vec<f64> = to.map(|&to| cosine(&rows[class], &rows[to])).collect();
            cosines.iter().sum::<f64>() / cosines.len() as f64
        };
        let wrong = members.iter().filter_map(|&class| {
            let (own, other) = (mean(class, &members), mean(class, &others));
            let is_wrong = !others.is_empty() && own <= other;
            is_wrong.then(|| {
                format!(
                    "`{}` has a mean cosine of {own:.3} to `{}`, but {other:.3} to the other side",
                    names[class], self.name
                )
            })
        });
        wrong.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_rows_by_hand() {
        let rows = [vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, 1.0]];
        let found = Quality::of(&rows).unwrap();
        assert!((found.mean_cosine - 1.4 / 3.0).abs() < 1e-7);
        assert_eq!(found.nearest_pair, (1, 2));
        assert!((found.smallest_angle - 0.8f64.acos().to_degrees()).abs() < 1e-5);
        assert_eq!(found.neighbours[1][0].0, 2);
        assert!(Quality::of(&rows[..1]).is_none());
        let group = |members: [&str; 2]| Group {
            name: "g".into(),
            members: members.map(str::to_owned).to_vec(),
            others: vec![],
        };
        let names = ["a", "b", "c"];
        assert!(group(["b", "c"]).violations(&names, &rows).is_empty());
        let found = group(["a", "b"]).violations(&names, &rows);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("`b` has a mean cosine of 0.600"),
            "{found:?}"
        );
    }
}
