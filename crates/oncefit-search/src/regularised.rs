//! Regularised evolution: tournaments and ageing.
//!
//! ```text
//! P random members; then: S members drawn from the population, the best of them is the parent,
//! one decision changed; the child joins, the oldest (or the worst) leaves
//! ```
//!
//! DeepArchitect's (`searchers/regularized_evolution.py`, 2019) with repairs: the population keeps
//! its size, the tail of a changed member keeps the parent's values wherever a decision still exists.

use std::collections::VecDeque;

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::outcome::{Outcome, Trial};
use crate::proposer::Proposer;
use crate::region::Region;
use crate::searcher::Searcher;
use crate::variation::mutate_one;

/// Who leaves a full population.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Removal {
    /// Who was told first: a member stays only through its descendants.
    #[default]
    Oldest,
    /// Who has the lowest score.
    Worst,
}

/// The settings of a regularised evolution.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct RegularisedSettings {
    /// Members (P).
    pub population: usize,
    /// Members of a tournament (S).
    pub tournament: usize,
    /// Who leaves.
    pub removal: Removal,
}

impl Default for RegularisedSettings {
    /// Values for some hundred evaluations; the papers' are 100 and 25.
    fn default() -> Self {
        Self {
            population: 20,
            tournament: 5,
            removal: Removal::Oldest,
        }
    }
}

/// A regularised evolution in progress.
#[derive(Clone, Debug)]
pub struct RegularisedEvolution {
    proposer: Proposer,
    settings: RegularisedSettings,
    /// In order of arrival.
    population: VecDeque<(Candidate, f64)>,
    /// Random trials asked so far.
    started: usize,
}

impl RegularisedEvolution {
    /// A regularised evolution in a region.
    pub fn within(region: Region, settings: RegularisedSettings, seed: u64) -> Self {
        Self {
            proposer: Proposer::new(region, "regularised evolution", seed),
            settings,
            population: VecDeque::new(),
            started: 0,
        }
    }

    fn propose(&mut self) -> Result<Option<Trial>> {
        if self.started < self.settings.population || self.population.is_empty() {
            self.started += 1;
            return self.proposer.propose_any();
        }
        let population = &self.population;
        let tournament = self.settings.tournament.max(1);
        let child = self.proposer.propose(|space, draws: &mut Draws| {
            let mut best = draws.below(population.len());
            for _ in 1..tournament {
                let other = draws.below(population.len());
                if population[other].1 > population[best].1 {
                    best = other;
                }
            }
            mutate_one(space, &population[best].0, draws)
        })?;
        match child {
            Some(trial) => Ok(Some(trial)),
            None => self.proposer.propose_any(),
        }
    }
}

impl Searcher for RegularisedEvolution {
    fn space(&self) -> &Space {
        self.proposer.space()
    }

    fn settings(&self) -> String {
        self.proposer.describe(&self.settings)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::with_capacity(count);
        for _ in 0..count {
            trials.extend(self.propose()?);
        }
        Ok(trials)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        let Some(score) = outcome.score() else {
            return;
        };
        self.population.push_back((trial.candidate.clone(), score));
        if self.population.len() <= self.settings.population.max(1) {
            return;
        }
        match self.settings.removal {
            Removal::Oldest => {
                self.population.pop_front();
            }
            Removal::Worst => {
                let members = self.population.iter().enumerate();
                let worst = members.min_by(|left, right| left.1.1.total_cmp(&right.1.1));
                if let Some(worst) = worst.map(|(index, _)| index) {
                    self.population.remove(worst);
                }
            }
        }
    }
}
