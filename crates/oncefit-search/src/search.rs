//! The loop that brings a searcher and an objective together, and fronts.

use oncefit_space::Subnet;

use crate::error::{Result, SearchError};
use crate::searcher::Searcher;

/// Scores subnets; higher is better.
pub trait Objective {
    /// The score of each subnet, in order. Subnets may be scored in parallel, but a score must not
    /// depend on it.
    ///
    /// # Errors
    /// If a subnet cannot be scored; the message says why.
    fn score(&mut self, subnets: &[Subnet]) -> std::result::Result<Vec<f64>, String>;
}

/// A scored subnet.
#[derive(Clone, PartialEq, Debug)]
pub struct Evaluation {
    /// The subnet.
    pub subnet: Subnet,
    /// Its score.
    pub score: f64,
}

/// What a search found.
#[derive(Clone, PartialEq, Debug)]
pub struct Found {
    /// The best; the first of equals.
    pub best: Evaluation,
    /// All, in order.
    pub history: Vec<Evaluation>,
}

/// Scores up to `evaluations` subnets that `searcher` proposes, `batch` at a time, and returns the
/// best. `observe` is told after each batch how many are done and the best score so far.
///
/// # Errors
/// If the searcher or the objective fails, or a score is NaN.
pub fn search(
    searcher: &mut dyn Searcher,
    objective: &mut dyn Objective,
    evaluations: usize,
    batch: usize,
    observe: &mut dyn FnMut(usize, f64),
) -> Result<Found> {
    let mut history: Vec<Evaluation> = Vec::with_capacity(evaluations);
    let mut best: Option<usize> = None;
    while history.len() < evaluations {
        let subnets = searcher.ask(batch.max(1).min(evaluations - history.len()))?;
        if subnets.is_empty() {
            break;
        }
        let scores = objective
            .score(&subnets)
            .map_err(|reason| SearchError::Objective {
                subnet: subnets[0].text(),
                reason,
            })?;
        for (subnet, score) in subnets.into_iter().zip(scores) {
            if score.is_nan() {
                let reason = "its score is not a number".into();
                return Err(SearchError::Objective {
                    subnet: subnet.text(),
                    reason,
                });
            }
            searcher.tell(&subnet, score);
            if best.is_none_or(|best| score > history[best].score) {
                best = Some(history.len());
            }
            history.push(Evaluation { subnet, score });
        }
        let best_score = best.map_or(f64::NEG_INFINITY, |best| history[best].score);
        observe(history.len(), best_score);
    }
    match best {
        Some(best) => Ok(Found {
            best: history[best].clone(),
            history,
        }),
        None => Err(SearchError::Objective {
            subnet: String::from("(none)"),
            reason: "the searcher proposed nothing".into(),
        }),
    }
}

/// The points that no other point beats: sorted by rising cost, each with a higher score than all
/// cheaper ones. Returns indices into `points`, which are (cost, score).
pub fn pareto_front(points: &[(f64, f64)]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&left, &right| {
        let ((left_cost, left_score), (right_cost, right_score)) = (points[left], points[right]);
        left_cost
            .total_cmp(&right_cost)
            .then(right_score.total_cmp(&left_score))
    });
    let mut front: Vec<usize> = Vec::new();
    for index in order {
        if front
            .last()
            .is_none_or(|&last| points[index].1 > points[last].1)
        {
            front.push(index);
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evolution::{Evolution, EvolutionSettings};
    use crate::limit::{Limit, Metric};
    use crate::searcher::RandomSearch;
    use oncefit_space::Space;

    /// Prefers deep networks with small kernels: parameters less a penalty on MACs.
    struct Formula;

    impl Objective for Formula {
        fn score(&mut self, subnets: &[Subnet]) -> std::result::Result<Vec<f64>, String> {
            let score = |subnet: &Subnet| {
                let graph = subnet.graph();
                (graph.parameters() as f64).ln() - 3e-7 * graph.macs() as f64
            };
            Ok(subnets.iter().map(score).collect())
        }
    }

    fn limits() -> Vec<Limit> {
        vec![Limit {
            metric: Metric::Macs,
            at_most: 1_200_000,
        }]
    }

    fn run(searcher: &mut dyn Searcher) -> Found {
        search(searcher, &mut Formula, 120, 8, &mut |_, _| {}).unwrap()
    }

    fn evolution(seed: u64) -> Evolution {
        let space = Space::builtin("fm-nano").unwrap();
        let settings = EvolutionSettings {
            population: 24,
            ..Default::default()
        };
        Evolution::new(&space, &limits(), settings, seed).unwrap()
    }

    #[test]
    fn searches_are_functions_of_the_seed_and_never_repeat_or_exceed() {
        let space = Space::builtin("fm-nano").unwrap();
        let found = [
            run(&mut evolution(1)),
            run(&mut evolution(1)),
            run(&mut RandomSearch::new(&space, &limits(), 1).unwrap()),
            run(&mut RandomSearch::new(&space, &limits(), 1).unwrap()),
        ];
        assert_eq!(found[0], found[1]);
        assert_eq!(found[2], found[3]);
        for found in found {
            assert_eq!(found.history.len(), 120);
            let different: std::collections::HashSet<_> = found
                .history
                .iter()
                .map(|evaluation| &evaluation.subnet)
                .collect();
            assert_eq!(different.len(), 120);
            assert!(
                found
                    .history
                    .iter()
                    .all(|found| limits()[0].holds(found.subnet.graph()))
            );
        }
    }

    #[test]
    fn evolution_beats_random_search_with_the_same_budget() {
        let space = Space::builtin("fm-nano").unwrap();
        let wins = (0..10)
            .filter(|&seed| {
                let random = run(&mut RandomSearch::new(&space, &limits(), seed).unwrap());
                run(&mut evolution(seed)).best.score > random.best.score
            })
            .count();
        assert!(wins >= 9, "{wins} of 10");
    }

    #[test]
    fn the_tightest_feasible_limit_finds_the_smallest_member() {
        let space = Space::builtin("fm-nano").unwrap();
        let smallest = space.smallest().unwrap();
        let limit = Limit {
            metric: Metric::Macs,
            at_most: smallest.graph().macs(),
        };
        let mut searcher = RandomSearch::new(&space, &[limit], 3).unwrap();
        let found = search(&mut searcher, &mut Formula, 50, 8, &mut |_, _| {}).unwrap();
        assert_eq!(found.best.subnet, smallest);
    }

    #[test]
    fn a_score_that_is_no_number_is_an_error() {
        struct Broken;
        impl Objective for Broken {
            fn score(&mut self, subnets: &[Subnet]) -> std::result::Result<Vec<f64>, String> {
                Ok(vec![f64::NAN; subnets.len()])
            }
        }
        let error = search(&mut evolution(1), &mut Broken, 5, 1, &mut |_, _| {}).unwrap_err();
        assert!(error.to_string().contains("not a number"), "{error}");
    }

    #[test]
    fn fronts_hold_what_nothing_beats() {
        let points = [(3.0, 0.7), (1.0, 0.5), (2.0, 0.4), (3.0, 0.8), (4.0, 0.8)];
        assert_eq!(pareto_front(&points), [1, 3]);
    }
}
