//! NSGA-II: evolution of a whole front.
//!
//! ```text
//! parents and children together → ranks of non-domination; within a rank by crowding distance,
//! the front's ends first; the best P are the next parents; binary tournaments by (rank, crowding)
//! ```
//!
//! Deb, Pratap, Agarwal and Meyarivan, IEEE Transactions on Evolutionary Computation 6 (2002),
//! §III, constraints as in §VI: a member that violates less dominates.

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::outcome::{Outcome, Trial};
use crate::proposer::Proposer;
use crate::region::Region;
use crate::searcher::Searcher;
use crate::variation::{crossover, mutate};

/// The settings of NSGA-II.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Nsga2Settings {
    /// Parents, and children of a generation (P).
    pub population: usize,
    /// Probability that a child has two parents.
    pub crossover_probability: f64,
    /// Decisions that a mutation redraws, on average.
    pub mutated_decisions: f64,
}

impl Default for Nsga2Settings {
    fn default() -> Self {
        Self {
            population: 100,
            crossover_probability: 0.9,
            mutated_decisions: 1.0,
        }
    }
}

/// A member with all its scores.
#[derive(Clone, Debug)]
struct Member {
    candidate: Candidate,
    scores: Vec<f64>,
    violation: f64,
    rank: usize,
    crowding: f64,
}

/// A front in progress.
#[derive(Clone, Debug)]
pub struct Nsga2 {
    proposer: Proposer,
    settings: Nsga2Settings,
    parents: Vec<Member>,
    children: Vec<Member>,
    /// Trials told in this generation, failures included.
    told: usize,
}

impl Nsga2 {
    /// NSGA-II in a region.
    pub fn within(region: Region, settings: Nsga2Settings, seed: u64) -> Self {
        Self {
            proposer: Proposer::new(region, "nsga-ii", seed),
            settings,
            parents: Vec::new(),
            children: Vec::new(),
            told: 0,
        }
    }

    fn select(&mut self) {
        let mut members = std::mem::take(&mut self.parents);
        members.append(&mut self.children);
        let points: Vec<(&[f64], f64)> = members
            .iter()
            .map(|member| (member.scores.as_slice(), member.violation))
            .collect();
        let fronts = non_dominated_fronts(&points);
        let mut placed = Vec::with_capacity(members.len());
        for (rank, front) in fronts.iter().enumerate() {
            let scores: Vec<&[f64]> = front.iter().map(|&index| points[index].0).collect();
            let distances = crowding_distances(&scores);
            let mut order: Vec<usize> = (0..front.len()).collect();
            order.sort_by(|&left, &right| distances[right].total_cmp(&distances[left]));
            placed.extend(
                order
                    .into_iter()
                    .map(|place| (front[place], rank, distances[place])),
            );
        }
        placed.truncate(self.settings.population.max(1));
        self.parents = placed
            .into_iter()
            .map(|(index, rank, crowding)| Member {
                rank,
                crowding,
                ..members[index].clone()
            })
            .collect();
    }

    fn propose(&mut self) -> Result<Option<Trial>> {
        if self.parents.is_empty() {
            return self.proposer.propose_any();
        }
        let settings = self.settings;
        let parents = &self.parents;
        let slots = self.proposer.space().decisions().len().max(1);
        let probability = (settings.mutated_decisions / slots as f64).min(1.0);
        let pick = |draws: &mut Draws| {
            let (one, two) = (
                &parents[draws.below(parents.len())],
                &parents[draws.below(parents.len())],
            );
            let is_first = (one.rank, -one.crowding) <= (two.rank, -two.crowding);
            if is_first {
                &one.candidate
            } else {
                &two.candidate
            }
        };
        let child = self.proposer.propose(|space, draws| {
            let first = pick(draws);
            if draws.chance(settings.crossover_probability) {
                let child = crossover(space, first, pick(draws), draws)?;
                mutate(space, &child, probability, draws)
            } else {
                mutate(space, first, probability, draws)
            }
        })?;
        match child {
            Some(trial) => Ok(Some(trial)),
            None => self.proposer.propose_any(),
        }
    }
}

impl Searcher for Nsga2 {
    fn space(&self) -> &Space {
        self.proposer.space()
    }

    fn settings(&self) -> String {
        self.proposer.describe(&self.settings)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        if self.told >= self.settings.population.max(1) {
            self.select();
            self.told = 0;
        }
        let mut trials = Vec::with_capacity(count);
        for _ in 0..count {
            trials.extend(self.propose()?);
        }
        Ok(trials)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        self.told += 1;
        if !outcome.scores().is_empty() && outcome.violation().is_finite() {
            self.children.push(Member {
                candidate: trial.candidate.clone(),
                scores: outcome.scores().to_vec(),
                violation: outcome.violation(),
                rank: 0,
                crowding: 0.0,
            });
        }
    }
}

/// Whether one point dominates another: it violates less, or, where both violate equally, is nowhere
/// worse and somewhere better. Points are (scores, violation); higher scores are better.
fn dominates(one: &(&[f64], f64), other: &(&[f64], f64)) -> bool {
    if one.1 != other.1 {
        return one.1 < other.1;
    }
    let mut is_better = false;
    for (left, right) in one.0.iter().zip(other.0) {
        if left < right {
            return false;
        }
        is_better |= left > right;
    }
    is_better
}

/// The points sorted into fronts: nothing dominates those of the first, only those of the first
/// dominate those of the second, and so on. Points are (scores, violation); returns indices.
pub fn non_dominated_fronts(points: &[(&[f64], f64)]) -> Vec<Vec<usize>> {
    let mut dominated: Vec<Vec<usize>> = vec![Vec::new(); points.len()];
    let mut dominators = vec![0usize; points.len()];
    for left in 0..points.len() {
        for right in left + 1..points.len() {
            let pair = if dominates(&points[left], &points[right]) {
                Some((left, right))
            } else if dominates(&points[right], &points[left]) {
                Some((right, left))
            } else {
                None
            };
            if let Some((above, below)) = pair {
                dominated[above].push(below);
                dominators[below] += 1;
            }
        }
    }
    let mut front: Vec<usize> = (0..points.len())
        .filter(|&index| dominators[index] == 0)
        .collect();
    let mut fronts = Vec::new();
    while !front.is_empty() {
        let mut next = Vec::new();
        for &above in &front {
            for &below in &dominated[above] {
                dominators[below] -= 1;
                if dominators[below] == 0 {
                    next.push(below);
                }
            }
        }
        next.sort_unstable();
        fronts.push(std::mem::replace(&mut front, next));
    }
    fronts
}

/// How far each point of a front is from its neighbours, summed over the scores, each scaled by its
/// range; infinite at the ends.
pub fn crowding_distances(front: &[&[f64]]) -> Vec<f64> {
    let mut distances = vec![0.0; front.len()];
    let objectives = front.first().map_or(0, |scores| scores.len());
    for objective in 0..objectives {
        let value = |index: usize| front[index].get(objective).copied().unwrap_or(0.0);
        let mut order: Vec<usize> = (0..front.len()).collect();
        order.sort_by(|&left, &right| value(left).total_cmp(&value(right)));
        let (first, last) = (order[0], order[order.len() - 1]);
        let range = value(last) - value(first);
        distances[first] = f64::INFINITY;
        distances[last] = f64::INFINITY;
        if range > 0.0 {
            for neighbours in order.windows(3) {
                distances[neighbours[1]] += (value(neighbours[2]) - value(neighbours[0])) / range;
            }
        }
    }
    distances
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fronts_and_distances_are_those_worked_out_by_hand() {
        let scores = [[1.0, 5.0], [2.0, 4.0], [4.0, 1.0], [1.0, 4.0], [0.0, 0.0]];
        let mut points: Vec<(&[f64], f64)> = scores.iter().map(|point| (&point[..], 0.0)).collect();
        assert_eq!(
            non_dominated_fronts(&points),
            [vec![0, 1, 2], vec![3], vec![4]]
        );
        points[0].1 = 1.0;
        assert_eq!(
            non_dominated_fronts(&points),
            [vec![1, 2], vec![3], vec![4], vec![0]]
        );
        let front: Vec<&[f64]> = scores[..3].iter().map(|point| &point[..]).collect();
        let distances = crowding_distances(&front);
        assert_eq!(distances[0], f64::INFINITY);
        assert_eq!(distances[1], 3.0 / 3.0 + 4.0 / 4.0);
    }
}
