//! The loop that brings a searcher and an objective together, and fronts.

use oncefit_space::{Candidate, Space, Subnet};

use crate::error::{Result, SearchError};
use crate::outcome::{Outcome, Trial};
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

/// Evaluates candidates without building networks: a table, a predictor, a formula. Several
/// objectives and constraints are allowed.
pub trait Evaluate {
    /// The outcome of each trial, in order. Trials may be evaluated in parallel, but an outcome
    /// must not depend on it.
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome>;
}

/// A function of one candidate, evaluated on several threads; outcomes do not depend on their
/// number.
#[derive(Clone, Copy, Debug)]
pub struct Formula<F> {
    function: F,
    threads: usize,
}

impl<F: Fn(&Candidate) -> Outcome + Sync> Formula<F> {
    /// The function on one thread.
    pub fn new(function: F) -> Self {
        Self {
            function,
            threads: 1,
        }
    }

    /// The same on several threads: worth it where the function takes longer than starting one.
    #[must_use]
    pub fn on_threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }
}

impl<F: Fn(&Candidate) -> Outcome + Sync> Evaluate for Formula<F> {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let function = &self.function;
        let all = |trials: &[Trial]| -> Vec<Outcome> {
            let each = trials.iter();
            each.map(|trial| function(&trial.candidate)).collect()
        };
        let share = trials.len().div_ceil(self.threads.max(1)).max(1);
        if share >= trials.len() {
            return all(trials);
        }
        std::thread::scope(|scope| {
            let workers: Vec<_> = trials
                .chunks(share)
                .map(|chunk| (chunk.len(), scope.spawn(|| all(chunk))))
                .collect();
            let mut outcomes = Vec::with_capacity(trials.len());
            for (count, worker) in workers {
                outcomes.extend(worker.join().unwrap_or_else(|_| {
                    vec![Outcome::Failed("the objective panicked".into()); count]
                }));
            }
            outcomes
        })
    }
}

/// An [`Objective`] as an [`Evaluate`]: builds each subnet, and holes fail.
pub struct OnSubnets<'o> {
    space: Space,
    objective: &'o mut dyn Objective,
}

impl<'o> OnSubnets<'o> {
    /// An objective for the members of a space.
    pub fn new(space: &Space, objective: &'o mut dyn Objective) -> Self {
        Self {
            space: space.clone(),
            objective,
        }
    }
}

impl Evaluate for OnSubnets<'_> {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let built: Vec<_> = trials
            .iter()
            .map(|trial| self.space.subnet_of(&trial.candidate))
            .collect();
        let subnets: Vec<Subnet> = built.iter().flatten().cloned().collect();
        let scores = match self.objective.score(&subnets) {
            Ok(scores) if scores.len() == subnets.len() => scores.into_iter().map(Ok).collect(),
            Ok(scores) => {
                let reason = format!("{} scores for {} subnets", scores.len(), subnets.len());
                vec![Err(reason); subnets.len()]
            }
            Err(reason) => vec![Err(reason); subnets.len()],
        };
        let mut scores = scores.into_iter();
        let outcomes = built.into_iter().map(|subnet| match subnet {
            Err(hole) => Outcome::Failed(hole.reason()),
            Ok(_) => match scores.next() {
                Some(Ok(score)) => Outcome::of(score),
                Some(Err(reason)) => Outcome::Failed(reason),
                None => Outcome::Failed("no score was given".into()),
            },
        });
        outcomes.collect()
    }
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
/// best. `observe` is told after each batch how many are done and the best score so far. Holes are
/// told to the searcher and left out of the history.
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
    let space = searcher.space().clone();
    let mut history: Vec<Evaluation> = Vec::with_capacity(evaluations.min(1 << 20));
    let mut best: Option<usize> = None;
    let mut asked = 0;
    while asked < evaluations {
        let trials = searcher.ask(batch.max(1).min(evaluations - asked))?;
        if trials.is_empty() {
            break;
        }
        asked += trials.len();
        let mut subnets = Vec::with_capacity(trials.len());
        let mut built = Vec::with_capacity(trials.len());
        for trial in trials {
            match space.subnet_of(&trial.candidate) {
                Ok(subnet) => {
                    subnets.push(subnet);
                    built.push(trial);
                }
                Err(hole) => searcher.tell(&trial, &Outcome::Failed(hole.reason())),
            }
        }
        if subnets.is_empty() {
            continue;
        }
        let scores = objective
            .score(&subnets)
            .map_err(|reason| SearchError::Objective {
                subnet: subnets[0].text(),
                reason,
            })?;
        for ((trial, subnet), score) in built.iter().zip(subnets).zip(scores) {
            if score.is_nan() {
                let reason = "its score is not a number".into();
                return Err(SearchError::Objective {
                    subnet: subnet.text(),
                    reason,
                });
            }
            searcher.tell(trial, &Outcome::of(score));
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
            reason: "the searcher proposed nothing that can be scored".into(),
        }),
    }
}

/// Evaluates up to `evaluations` trials that `searcher` proposes, `batch` at a time, without
/// building networks. Returns all with their outcomes, failures included, in order.
///
/// # Errors
/// If the searcher fails, or the objective gives another number of outcomes than trials.
pub fn run(
    searcher: &mut dyn Searcher,
    evaluate: &mut dyn Evaluate,
    evaluations: usize,
    batch: usize,
) -> Result<Vec<(Trial, Outcome)>> {
    let mut history = Vec::with_capacity(evaluations.min(1 << 20));
    while history.len() < evaluations {
        let trials = searcher.ask(batch.max(1).min(evaluations - history.len()))?;
        if trials.is_empty() {
            break;
        }
        let outcomes = evaluate.evaluate(&trials);
        if outcomes.len() != trials.len() {
            return Err(SearchError::Settings(format!(
                "the objective gave {} outcomes for {} trials",
                outcomes.len(),
                trials.len()
            )));
        }
        for (trial, outcome) in trials.into_iter().zip(outcomes) {
            let outcome = outcome.checked();
            searcher.tell(&trial, &outcome);
            history.push((trial, outcome));
        }
    }
    Ok(history)
}

/// The trial with the highest score that violates nothing; the first of equals.
pub fn best(history: &[(Trial, Outcome)]) -> Option<(&Trial, f64)> {
    let scored = history
        .iter()
        .filter_map(|(trial, outcome)| Some((trial, outcome.score()?)));
    scored.reduce(|best, other| if other.1 > best.1 { other } else { best })
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
    use crate::random::RandomSearch;

    /// Prefers deep networks with small kernels: parameters less a penalty on MACs.
    struct ByGraph;

    impl Objective for ByGraph {
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

    const EVALUATIONS: usize = 160;

    fn run(searcher: &mut dyn Searcher) -> Found {
        search(searcher, &mut ByGraph, EVALUATIONS, 8, &mut |_, _| {}).unwrap()
    }

    fn evolution(seed: u64) -> Evolution {
        let space = Space::builtin("fm-nano").unwrap();
        let settings = EvolutionSettings {
            population: 20,
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
            assert_eq!(found.history.len(), EVALUATIONS);
            let different: std::collections::HashSet<_> = found
                .history
                .iter()
                .map(|evaluation| &evaluation.subnet)
                .collect();
            assert_eq!(different.len(), EVALUATIONS);
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
        let found = search(&mut searcher, &mut ByGraph, 50, 8, &mut |_, _| {}).unwrap();
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
