//! Monte Carlo tree search over decisions, with upper confidence bounds.
//!
//! ```text
//! walk:    take the child with the largest  q + c·√(2 ln n(node) / n(child))   (unvisited first)
//! expand:  at a node without children create one per value and step into a random one
//! rollout: the remaining decisions uniformly at random
//! tell:    every node on the path: n += 1, S += score;   q = S/n, or normalised (S/n − lo)/(hi − lo)
//! ```
//!
//! Negrinho and Gordon, arXiv 1704.08792, with its bisection (decisions over ordered values as a
//! chain of halves) and the expansion of the 2019 version (`searchers/mcts.py` of
//! `negrinho/deep_architect`). Ours: normalised scores; exhausted subtrees are not walked again;
//! trials that are out, and failures, count as the worst score.

use std::collections::{HashMap, HashSet};

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::outcome::{Outcome, Trial};
use crate::proposer::describe;
use crate::region::Region;
use crate::searcher::Searcher;

/// Walks that are given up in favour of a repaired candidate.
const TRIES: usize = 200;

/// The settings of a tree search.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct MctsSettings {
    /// Weight of the exploration term (c).
    pub exploration: f64,
    /// Whether means are scaled by the smallest and largest score seen so far.
    pub normalise: bool,
    /// Whether a decision over ordered values is made half by half.
    pub bisect: bool,
}

impl Default for MctsSettings {
    /// Normalised, with bisection.
    fn default() -> Self {
        Self {
            exploration: 0.3,
            normalise: true,
            bisect: true,
        }
    }
}

impl MctsSettings {
    /// The paper's form: raw scores, c = 0.5, one child per value.
    pub fn paper() -> Self {
        Self {
            exploration: 0.5,
            normalise: false,
            bisect: false,
        }
    }
}

/// A node of the tree.
#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Visits, trials that are out included.
    visits: u32,
    /// Of these, how many count as the worst score: out, or failed.
    worst: u32,
    /// Sum of the scores of the others.
    sum: f64,
    /// The first child; children stand side by side.
    first_child: usize,
    children: usize,
    /// Whether every member below was proposed or cannot be.
    is_exhausted: bool,
}

/// A tree search in progress.
#[derive(Clone, Debug)]
pub struct Mcts {
    region: Region,
    settings: MctsSettings,
    seed: u64,
    nodes: Vec<Node>,
    /// Indices of the values of each decision in rising order.
    sorted: Vec<Vec<usize>>,
    seen: HashSet<Candidate>,
    /// The paths of the trials that are out.
    out: HashMap<u64, Vec<usize>>,
    trials: u64,
    lowest: f64,
    highest: f64,
}

impl Mcts {
    /// A tree search in a region.
    pub fn within(region: Region, settings: MctsSettings, seed: u64) -> Self {
        let slots = region.space().decisions().iter();
        let sorted = slots.map(|slot| {
            let mut order: Vec<usize> = (0..slot.domain.values.len()).collect();
            order.sort_by_key(|&index| &slot.domain.values[index]);
            order
        });
        Self {
            sorted: sorted.collect(),
            region,
            settings,
            seed,
            nodes: vec![Node::default()],
            seen: HashSet::new(),
            out: HashMap::new(),
            trials: 0,
            lowest: f64::INFINITY,
            highest: f64::NEG_INFINITY,
        }
    }

    /// One walk: a candidate and the nodes on its path in the tree. `guide` prescribes the values,
    /// and then the tree grows along all of them.
    fn walk(
        &mut self,
        draws: &mut Draws,
        guide: Option<&Candidate>,
    ) -> Result<(Candidate, Vec<usize>)> {
        let region = self.region.clone();
        let bisect = self.settings.bisect;
        let mut path = vec![0];
        // Where the walk stands in the tree; `None` in the rollout.
        let mut at = Some(0);
        let candidate = region.space().candidate(|slot, values| {
            let given = guide.and_then(|guide| guide.get(slot));
            let is_ordered = region.space().decisions()[slot].domain.ordered;
            if !(bisect && is_ordered) {
                return self.child(&mut at, values, given, draws, &mut path);
            }
            let given = given.and_then(|index| {
                let mut places = self.sorted[slot].iter();
                places.position(|&other| other == index)
            });
            let (mut low, mut high) = (0, values);
            while high - low > 1 {
                let middle = (low + high) / 2;
                let half = given.map(|place| usize::from(place >= middle));
                if at.is_none() && half.is_none() {
                    // A rollout draws values, not halves: the halves may differ in size.
                    low += draws.below(high - low);
                    high = low + 1;
                } else if self.child(&mut at, 2, half, draws, &mut path) == 0 {
                    high = middle;
                } else {
                    low = middle;
                }
            }
            self.sorted[slot][low]
        })?;
        Ok((candidate, path))
    }

    /// The next child of the node the walk stands at: its number among `count`.
    fn child(
        &mut self,
        at: &mut Option<usize>,
        count: usize,
        given: Option<usize>,
        draws: &mut Draws,
        path: &mut Vec<usize>,
    ) -> usize {
        let Some(node) = *at else {
            return given.unwrap_or_else(|| draws.below(count));
        };
        let is_new = self.nodes[node].children == 0;
        if is_new {
            self.nodes[node].first_child = self.nodes.len();
            self.nodes[node].children = count;
            self.nodes
                .extend(std::iter::repeat_n(Node::default(), count));
        }
        let child = match given {
            Some(child) => child,
            None if is_new => draws.below(count),
            None => self.most_promising(node, draws),
        };
        path.push(self.nodes[node].first_child + child);
        // A rollout follows the first new child, unless the whole path is prescribed.
        *at = (given.is_some() || !is_new).then(|| path[path.len() - 1]);
        child
    }

    fn most_promising(&self, node: usize, draws: &mut Draws) -> usize {
        let parent = self.nodes[node];
        let log_visits = f64::from(parent.visits.max(1)).ln();
        let mut best = f64::NEG_INFINITY;
        let (mut chosen, mut equals) = (0, 0);
        for child in 0..parent.children {
            let other = self.nodes[parent.first_child + child];
            if other.is_exhausted {
                continue;
            }
            let value = match other.visits {
                0 => f64::INFINITY,
                visits => {
                    self.mean(&other)
                        + upper_confidence(self.settings.exploration, log_visits, visits)
                }
            };
            if value > best || equals == 0 {
                (best, chosen, equals) = (value, child, 1);
            } else if value == best {
                equals += 1;
                if draws.below(equals) == 0 {
                    chosen = child;
                }
            }
        }
        chosen
    }

    /// The mean score of a visited node.
    fn mean(&self, node: &Node) -> f64 {
        if self.lowest > self.highest {
            return 0.0;
        }
        let sum = node.sum + f64::from(node.worst) * self.lowest;
        let mean = sum / f64::from(node.visits);
        if self.settings.normalise {
            (mean - self.lowest) / (self.highest - self.lowest + 1e-9)
        } else {
            mean
        }
    }

    /// Marks the member at the end of a path, and what is thereby exhausted above it.
    fn exhaust(&mut self, path: &[usize]) {
        for (place, &node) in path.iter().enumerate().rev() {
            let Node {
                first_child,
                children,
                ..
            } = self.nodes[node];
            let is_last = place + 1 == path.len();
            let below = &self.nodes[first_child..first_child + children];
            self.nodes[node].is_exhausted = is_last || below.iter().all(|child| child.is_exhausted);
            if !self.nodes[node].is_exhausted {
                return;
            }
        }
    }

    /// Grows the tree along a member and marks it.
    fn settle(&mut self, candidate: &Candidate, draws: &mut Draws) -> Result<()> {
        let (_, path) = self.walk(draws, Some(candidate))?;
        self.exhaust(&path);
        Ok(())
    }

    fn propose(&mut self) -> Result<Option<Trial>> {
        let mut draws = Draws::new(self.seed, "tree search", self.trials, 0);
        let mut infeasible = 0;
        while !self.nodes[0].is_exhausted {
            let (mut candidate, mut path) = self.walk(&mut draws, None)?;
            let is_feasible = self.region.contains(&candidate);
            if !is_feasible {
                infeasible += 1;
                if infeasible < TRIES {
                    self.settle(&candidate, &mut draws)?;
                    continue;
                }
                // A tight limit: pulled to a feasible member, the visit counts where the tree
                // knows its decisions.
                candidate = self.region.repair(candidate, &mut draws)?;
                if self.seen.contains(&candidate) {
                    return Ok(None);
                }
                path = self.walk(&mut draws, Some(&candidate))?.1;
            }
            if !self.seen.insert(candidate.clone()) {
                self.settle(&candidate, &mut draws)?;
                continue;
            }
            for &node in &path {
                self.nodes[node].visits += 1;
                self.nodes[node].worst += 1;
            }
            self.out.insert(self.trials, path);
            self.trials += 1;
            return Ok(Some(Trial {
                number: self.trials - 1,
                candidate,
                budget: None,
                rung: None,
            }));
        }
        Ok(None)
    }
}

/// The exploration term c·√(2 ln n / n_i), from ln n.
fn upper_confidence(exploration: f64, log_visits: f64, child_visits: u32) -> f64 {
    exploration * (2.0 * log_visits / f64::from(child_visits)).sqrt()
}

impl Searcher for Mcts {
    fn space(&self) -> &Space {
        self.region.space()
    }

    fn settings(&self) -> String {
        describe("tree search", &self.region, self.seed, &self.settings)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::with_capacity(count);
        for _ in 0..count {
            trials.extend(self.propose()?);
        }
        Ok(trials)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        let Some(path) = self.out.remove(&trial.number) else {
            return;
        };
        // A failure goes on counting as the worst score.
        let Some(score) = outcome.score() else {
            return;
        };
        self.lowest = self.lowest.min(score);
        self.highest = self.highest.max(score);
        for node in path {
            self.nodes[node].worst -= 1;
            self.nodes[node].sum += score;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_confidence_has_known_values() {
        // N = 10; (mean .9, n = 3, c = .5), (.7, 6, .5), (.8, 1, .5).
        for (mean, visits, expected) in [
            (0.9, 3, 1.519_487),
            (0.7, 6, 1.138_044),
            (0.8, 1, 1.872_983),
        ] {
            let value = mean + upper_confidence(0.5, 10f64.ln(), visits);
            assert!((value - expected).abs() < 1e-6, "{value} {expected}");
        }
    }

    #[test]
    fn bisection_codes_of_five_and_six_values() {
        for (values, expected) in [
            (5, vec!["00", "01", "10", "110", "111"]),
            (6, vec!["00", "010", "011", "10", "110", "111"]),
        ] {
            let text = format!(
                "space one\ndecide a in 1..={values} step 1\ninput(2, 2, a)\nglobal_average_pool\nlinear(2)\n"
            );
            let space = Space::parse(&text, "one").unwrap();
            let region = Region::whole(&space).unwrap();
            let mut searcher = Mcts::within(region, MctsSettings::default(), 1);
            let mut draws = Draws::new(1, "test", 0, 0);
            for (value, code) in expected.iter().enumerate() {
                let candidate = space.candidate(|_, _| value).unwrap();
                let (_, path) = searcher.walk(&mut draws, Some(&candidate)).unwrap();
                let turns: String = path
                    .windows(2)
                    .map(|pair| {
                        let first = searcher.nodes[pair[0]].first_child;
                        (pair[1] - first).to_string()
                    })
                    .collect();
                assert_eq!(&turns, code);
            }
        }
    }
}
