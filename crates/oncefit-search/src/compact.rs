//! Evolution over candidates that are lists of indices, for objectives that cost microseconds.
//!
//! A candidate has an index for every decision of a space, active or not, so that mutation and
//! crossover are copies of numbers and no graph is built. Once-for-All's evolution (the
//! authors' `evolution.py`) with three changes: a candidate above a limit is not redrawn until it is
//! within it, but ranked behind all that are, by how far it is above; candidates that are the
//! same network count once; and a population that finds nothing better for many generations gives
//! way to a new one for the generations that are left. Where limits are tight this is some hundred
//! times faster than
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

/// The best distinct candidates that were met, best first.
struct Ranking {
    best: Vec<Ranked>,
    most: usize,
    seen: HashSet<u64>,
}

impl Ranking {
    fn new(most: usize) -> Self {
        Self {
            best: Vec::new(),
            most,
            seen: HashSet::new(),
        }
    }

    /// Takes in what was assessed; whether there is a new first.
    fn add(&mut self, found: &[Ranked]) -> bool {
        let first = self.first();
        let new = found
            .iter()
            .filter(|one| self.seen.insert(one.assessment.key));
        self.best.extend(new.cloned());
        self.best
            .sort_by(|left, right| left.assessment.precedes(&right.assessment));
        self.best.truncate(self.most);
        self.first() != first
    }

    fn first(&self) -> Option<u64> {
        self.best.first().map(|one| one.assessment.key)
    }
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

/// Generations without a better candidate after which a new population begins: of 10, 20, 30, 50 and
/// never the one with which most searches of fm-nano ended at the best that any of them found.
const PATIENCE: usize = 50;

/// Evolves for a number of generations and returns the best distinct candidates that were ever met,
/// best first.
///
/// # Arguments
/// - `sizes`: how many values each decision has
/// - `start`: candidates of the first generation of each population, besides random ones: at least
///   one within the limits, or the answer may be none that is
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
    let (mut all, mut elite) = (Ranking::new(keep), Ranking::new(parents));
    let mut without_better = 0;
    for generation in 0..=generations {
        let mut draws = Draws::new(seed, "compact evolution", generation as u64, 0);
        if without_better == PATIENCE {
            elite = Ranking::new(parents);
            without_better = 0;
        }
        let children = match elite.best.as_slice() {
            [] => {
                let missing = population.saturating_sub(start.len());
                let random = |_| sizes.iter().map(|&size| draws.below(size)).collect();
                let random: Vec<Vec<usize>> = (0..missing).map(random).collect();
                [start, &random].concat()
            }
            parents => (0..(population - parents.len()).max(1))
                .map(|_| child(parents, sizes, settings, &mut draws))
                .collect(),
        };
        let assessments = objective.assess(&children)?;
        let pairs = children.into_iter().zip(assessments);
        let found: Vec<Ranked> = pairs
            .map(|(indices, assessment)| Ranked {
                indices,
                assessment,
            })
            .collect();
        all.add(&found);
        match elite.add(&found) {
            true => without_better = 0,
            false => without_better += 1,
        }
    }
    Ok(all.best)
}

/// A mutated parent, or two crossed.
fn child(
    parents: &[Ranked],
    sizes: &[usize],
    settings: EvolutionSettings,
    draws: &mut Draws,
) -> Vec<usize> {
    let pick = |draws: &mut Draws| parents[draws.below(parents.len())].indices.clone();
    let first = pick(draws);
    if draws.chance(settings.mutation_share) {
        return mutated(first, sizes, settings.mutation_probability, draws);
    }
    let genes = first.into_iter().zip(pick(draws));
    genes
        .map(|(left, right)| if draws.chance(0.5) { left } else { right })
        .collect()
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
            let (found, assessed) = search(9, 250, seed);
            // The three dearest places at 3: 3·(12 + 11 + 10).
            assert_eq!(found[0].assessment.score, 99.0, "seed {seed}");
            assert!(found.iter().all(|one| one.assessment.excess == 0.0));
            let keys: HashSet<u64> = found.iter().map(|one| one.assessment.key).collect();
            assert_eq!(keys.len(), 10);
            // Later generations keep their parents, but for the first of each new population.
            assert!(
                (100 + 250 * 75..=251 * 100).contains(&assessed),
                "{assessed}"
            );
            assert_eq!(found, search(9, 250, seed).0);
        }
    }

    /// Where all candidates are the same network nothing better can be found.
    #[test]
    fn a_population_that_finds_nothing_better_gives_way_to_a_new_one() {
        struct Same(Vec<usize>);
        impl CompactObjective for Same {
            type Error = ();

            fn assess(&mut self, candidates: &[Vec<usize>]) -> Result<Vec<Assessment>, ()> {
                self.0.push(candidates.len());
                let one = Assessment {
                    key: 1,
                    excess: 0.0,
                    score: 1.0,
                };
                Ok(vec![one; candidates.len()])
            }
        }
        let mut objective = Same(Vec::new());
        let settings = EvolutionSettings::default();
        let found = evolve(&[4; 12], &[], settings, 110, 10, 0, &mut objective).unwrap();
        assert_eq!(found.len(), 1);
        let generations = objective.0.iter().enumerate();
        let whole: Vec<usize> = generations
            .filter(|(_, size)| **size == settings.population)
            .map(|(generation, _)| generation)
            .collect();
        assert_eq!(whole, [0, PATIENCE + 1, 2 * (PATIENCE + 1)]);
    }

    #[test]
    fn without_generations_the_best_of_the_first_is_returned() {
        let (found, assessed) = search(2, 0, 1);
        assert_eq!(assessed, 100);
        assert_eq!(found[0].assessment.excess, 0.0, "the given start is within");
        assert!(found[9].assessment.excess > 0.0);
    }
}
