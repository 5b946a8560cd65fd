//! Evolution as Once-for-All uses it, without its known faults.
//!
//! ```text
//! population ← P random feasible members
//! repeat: parents ← the best share of the population
//!         half of the P children: a parent, each decision redrawn with the mutation probability
//!         half: crossover of two parents, decision by decision
//!         population ← parents + children
//! ```
//!
//! Children keep the parents' values wherever a decision still exists (the resolution is a decision
//! like others); the whole first generation is kept, members are not evaluated twice, draws are
//! repeated a limited number of times, and a limit that cannot be met is an error before the search
//! begins.

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::limit::Limit;
use crate::outcome::{Outcome, Trial};
use crate::proposer::Proposer;
use crate::region::Region;
use crate::searcher::Searcher;
use crate::variation::{crossover, mutate};

/// The settings of an evolution.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct EvolutionSettings {
    /// Members of the first, random generation, and children of each later one (P).
    pub population: usize,
    /// Share of a generation that become parents.
    pub parent_share: f64,
    /// Share of the children made by mutation; the others by crossover.
    pub mutation_share: f64,
    /// Probability that a mutation redraws a decision.
    pub mutation_probability: f64,
}

impl Default for EvolutionSettings {
    /// The values of Once-for-All.
    fn default() -> Self {
        Self {
            population: 100,
            parent_share: 0.25,
            mutation_share: 0.5,
            mutation_probability: 0.1,
        }
    }
}

/// An evolution in progress.
#[derive(Clone, Debug)]
pub struct Evolution {
    proposer: Proposer,
    settings: EvolutionSettings,
    /// The best members told so far, at most as many as there are parents, best first; equal
    /// scores in order of arrival.
    best: Vec<(Candidate, f64)>,
    /// Those that the running generation descends from.
    parents: Vec<Candidate>,
    /// Trials told in the running generation, failures included.
    told: usize,
}

impl Evolution {
    /// An evolution within limits on costs of the graph.
    ///
    /// # Errors
    /// If no member is within the limits.
    pub fn new(
        space: &Space,
        limits: &[Limit],
        settings: EvolutionSettings,
        seed: u64,
    ) -> Result<Self> {
        let region = Region::of_graph_limits(space, limits)?;
        Ok(Self::within(region, settings, seed))
    }

    /// An evolution in a region.
    pub fn within(region: Region, settings: EvolutionSettings, seed: u64) -> Self {
        Self {
            proposer: Proposer::new(region, "evolution", seed),
            settings,
            best: Vec::new(),
            parents: Vec::new(),
            told: 0,
        }
    }

    fn parent_count(&self) -> usize {
        let wanted = self.settings.population as f64 * self.settings.parent_share;
        (wanted.ceil() as usize).max(1)
    }

    fn propose(&mut self) -> Result<Option<Trial>> {
        if self.parents.is_empty() {
            return self.proposer.propose_any();
        }
        let settings = self.settings;
        let parents = &self.parents;
        let pick = |draws: &mut Draws| &parents[draws.below(parents.len())];
        let child = self.proposer.propose(|space, draws| {
            let first = pick(draws);
            if draws.chance(settings.mutation_share) {
                mutate(space, first, settings.mutation_probability, draws)
            } else {
                crossover(space, first, pick(draws), draws)
            }
        })?;
        match child {
            Some(trial) => Ok(Some(trial)),
            // Children of a converged population are all known: fresh blood.
            None => self.proposer.propose_any(),
        }
    }
}

impl Searcher for Evolution {
    fn space(&self) -> &Space {
        self.proposer.space()
    }

    fn settings(&self) -> String {
        self.proposer.describe(&self.settings)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        if self.told >= self.settings.population && !self.best.is_empty() {
            self.parents = self
                .best
                .iter()
                .map(|(candidate, _)| candidate.clone())
                .collect();
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
        let Some(score) = outcome.score() else {
            return;
        };
        let at = self.best.partition_point(|(_, other)| *other >= score);
        let most = self.parent_count();
        if at < most {
            self.best.insert(at, (trial.candidate.clone(), score));
            self.best.truncate(most);
        }
    }
}
