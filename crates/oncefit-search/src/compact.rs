//! Evolution over candidates that are lists of indices, for objectives that cost microseconds.
//!
//! A candidate has an index for every decision of a space, active or not, so that mutation and
//! crossover are copies of numbers and no graph is built. Once-for-All's evolution (the
//! authors' `evolution.py`) with two changes: a candidate above a limit is not redrawn until it is
//! within it, but ranked behind all that are, by how far it is above; and candidates that are the
//! same network count once. Where limits are tight this is some hundred times faster than
//! [`crate::Evolution`], whose draws are repeated until one is feasible and new; that one is for
//! objectives that cost seconds, where no evaluation may be spent on what is above a limit.

use std::collections::HashSet;

use oncefit_random::Draws;

use crate::evolution::EvolutionSettings;

/// What is known about a candidate.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Assessment {
    /// The same for candidates that are the same network.
    pub key: u64,
    /// How far it is above the limits, as a share of them; 0: within.
    pub excess: f64,
    /// Higher is better.
    pub score: f64,
}

impl Assessment {
    /// Whether it comes before another: within the limits, then the better score.
    fn precedes(&self, other: &Self) -> std::cmp::Ordering {
        self.excess
            .total_cmp(&other.excess)
            .then(other.score.total_cmp(&self.score))
            .then(self.key.cmp(&other.key))
    }
}

/// A candidate with what is known about it.
#[derive(Clone, PartialEq, Debug)]
pub struct Ranked {
    /// An index for every decision.
    pub indices: Vec<usize>,
    /// What is known about it.
    pub assessment: Assessment,
}

/// Assesses candidates, many at once.
pub trait CompactObjective {
    /// What goes wrong.
    type Error;

    /// An assessment of each candidate, in order.
    ///
    /// # Errors
    /// If a candidate cannot be assessed.
    fn assess(&mut self, candidates: &[Vec<usize>]) -> Result<Vec<Assessment>, Self::Error>;
}

/// Evolves for a number of generations and returns the best distinct candidates that were ever met,
/// best first.
///
/// # Arguments
/// - `sizes`: how many values each decision has
/// - `start`: candidates of the first generation, besides random ones: at least one within the
///   limits, or the answer may be none that is
/// - `keep`: how many are returned at most
///
/// # Errors
/// If a candidate cannot be assessed.
pub fn evolve<O: CompactObjective>(
    sizes: &[usize],
    start: &[Vec<usize>],
    settings: EvolutionSettings,
    generations: usize,
    keep: usize,
    seed: u64,
    objective: &mut O,
) -> Result<Vec<Ranked>, O::Error> {
    let population = settings.population.max(2);
    let parents =
        ((population as f64 * settings.parent_share).ceil() as usize).clamp(1, population);
    let mut draws = Draws::new(seed, "compact evolution", 0, 0);
    let mut children: Vec<Vec<usize>> = start.to_vec();
    while children.len() < population {
        children.push(sizes.iter().map(|&size| draws.below(size)).collect());
    }
    let mut seen: HashSet<u64> = HashSet::new();
    // The best ever met, of which the first are the parents.
    let mut best: Vec<Ranked> = Vec::new();
    let kept = keep.max(parents);
    for generation in 0..=generations {
        let assessments = objective.assess(&children)?;
        let new = children.drain(..).zip(assessments);
        best.extend(new.filter(|(_, found)| seen.insert(found.key)).map(
            |(indices, assessment)| Ranked {
                indices,
                assessment,
            },
        ));
        best.sort_by(|left, right| left.assessment.precedes(&right.assessment));
        best.truncate(kept);
        if generation == generations || best.is_empty() {
            break;
        }
        let mut draws = Draws::new(seed, "compact evolution", 1 + generation as u64, 0);
        let elite = &best[..parents.min(best.len())];
        let pick = |draws: &mut Draws| &elite[draws.below(elite.len())].indices;
        for _ in 0..population - parents.min(population - 1) {
            let first = pick(&mut draws).clone();
            let child = if draws.chance(settings.mutation_share) {
                mutated(first, sizes, settings.mutation_probability, &mut draws)
            } else {
                let second = pick(&mut draws).clone();
                let genes = first.into_iter().zip(second);
                genes
                    .map(|(left, right)| if draws.chance(0.5) { left } else { right })
                    .collect()
            };
            children.push(child);
        }
    }
    best.truncate(keep);
    Ok(best)
}

/// Redraws each index with a probability, at least one of them.
fn mutated(
    mut indices: Vec<usize>,
    sizes: &[usize],
    probability: f64,
    draws: &mut Draws,
) -> Vec<usize> {
    let certain = draws.below(indices.len().max(1));
    for (place, index) in indices.iter_mut().enumerate() {
        if place == certain || draws.chance(probability) {
            *index = draws.below(sizes[place]);
        }
    }
    indices
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Σ value · weight within a limit on Σ value: a knapsack whose best is known.
    struct Knapsack {
        limit: usize,
        assessed: usize,
    }

    impl CompactObjective for Knapsack {
        type Error = ();

        fn assess(&mut self, candidates: &[Vec<usize>]) -> Result<Vec<Assessment>, ()> {
            self.assessed += candidates.len();
            let assess = |indices: &Vec<usize>| {
                let cost: usize = indices.iter().sum();
                let score = indices.iter().enumerate();
                Assessment {
                    key: indices.iter().fold(0, |key, &index| key * 4 + index as u64),
                    excess: cost.saturating_sub(self.limit) as f64 / self.limit as f64,
                    score: score
                        .map(|(place, &index)| ((place + 1) * index) as f64)
                        .sum(),
                }
            };
            Ok(candidates.iter().map(assess).collect())
        }
    }

    fn search(limit: usize, generations: usize, seed: u64) -> (Vec<Ranked>, usize) {
        let mut objective = Knapsack { limit, assessed: 0 };
        let settings = EvolutionSettings::default();
        let start = [vec![0; 12]];
        let found = evolve(
            &[4; 12],
            &start,
            settings,
            generations,
            10,
            seed,
            &mut objective,
        );
        (found.unwrap(), objective.assessed)
    }

    #[test]
    fn the_best_within_the_limit_is_found_and_seeds_repeat() {
        for seed in 0..5 {
            let (found, assessed) = search(9, 150, seed);
            // The three dearest places at 3: 3·(12 + 11 + 10).
            assert_eq!(found[0].assessment.score, 99.0, "seed {seed}");
            assert!(found.iter().all(|one| one.assessment.excess == 0.0));
            let keys: HashSet<u64> = found.iter().map(|one| one.assessment.key).collect();
            assert_eq!(keys.len(), 10);
            assert_eq!(assessed, 100 + 150 * 75);
            assert_eq!(found, search(9, 150, seed).0);
        }
    }

    #[test]
    fn without_generations_the_best_of_the_first_is_returned() {
        let (found, assessed) = search(2, 0, 1);
        assert_eq!(assessed, 100);
        assert_eq!(found[0].assessment.excess, 0.0, "the given start is within");
        assert!(found[9].assessment.excess > 0.0);
    }
}
