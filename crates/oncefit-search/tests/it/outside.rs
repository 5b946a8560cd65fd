//! A searcher that is not the crate's own: what its author needs, and the conformance suite in one line.

use std::collections::HashSet;

use oncefit_random::Draws;
use oncefit_search::{Outcome, Result, Searcher, Trial, conformance, neighbours};
use oncefit_space::{Candidate, Space};

/// Climbs: proposes neighbours of the best member known, random members where there are none.
struct Climber {
    space: Space,
    seed: u64,
    trials: u64,
    seen: HashSet<Candidate>,
    best: Option<(f64, Candidate)>,
    /// Forgets what it has proposed: an error that the suite must find.
    forgets: bool,
}

impl Climber {
    fn new(seed: u64, space: &Space) -> Self {
        Self {
            space: space.clone(),
            seed,
            trials: 0,
            seen: HashSet::new(),
            best: None,
            forgets: false,
        }
    }

    fn propose(&self) -> Result<Option<Candidate>> {
        if let Some((_, best)) = &self.best {
            let mut near = neighbours(&self.space, best)?.into_iter();
            if let Some(found) = near.find(|candidate| !self.seen.contains(candidate)) {
                return Ok(Some(found));
            }
        }
        let mut draws = Draws::new(self.seed, "climber", self.trials, 0);
        let mut next = Some(self.space.sample_candidate(&mut draws)?);
        if next.as_ref().is_some_and(|found| self.seen.contains(found)) {
            next = Some(self.space.candidate(|_, _| 0)?);
        }
        while let Some(candidate) = next.take() {
            if !self.seen.contains(&candidate) {
                return Ok(Some(candidate));
            }
            next = self.space.next_candidate(&candidate)?;
        }
        Ok(None)
    }
}

impl Searcher for Climber {
    fn space(&self) -> &Space {
        &self.space
    }

    fn settings(&self) -> String {
        format!(r#"{{"searcher": "climber", "seed": {}}}"#, self.seed)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::new();
        while trials.len() < count
            && let Some(candidate) = self.propose()?
        {
            if !self.forgets {
                self.seen.insert(candidate.clone());
            }
            trials.push(Trial {
                number: self.trials,
                candidate,
                budget: None,
                rung: None,
            });
            self.trials += 1;
        }
        Ok(trials)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        if let Some(score) = outcome.score()
            && self.best.as_ref().is_none_or(|(best, _)| score > *best)
        {
            self.best = Some((score, trial.candidate.clone()));
        }
    }
}

#[test]
fn a_searcher_from_outside_conforms_in_one_line() {
    conformance::check(|seed, space| Box::new(Climber::new(seed, space)));
    conformance::check_exhausts(|seed, space| Box::new(Climber::new(seed, space)));
}

#[test]
#[should_panic(expected = "twice")]
fn one_that_repeats_itself_does_not() {
    conformance::check(|seed, space| {
        let mut climber = Climber::new(seed, space);
        climber.forgets = true;
        Box::new(climber)
    });
}
