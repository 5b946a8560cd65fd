//! Evolution as Once-for-All uses it, without its known faults.
//!
//! ```text
//! population ← P random feasible members
//! repeat: parents ← the best share of the population
//!         half of the children: a parent, each decision redrawn with the mutation probability
//!         half: crossover of two parents, decision by decision
//!         population ← parents + children
//! ```
//!
//! Children keep the parents' values wherever a decision still exists; the whole population is
//! kept, members are not evaluated twice, and a limit that cannot be met is an error before the
//! search begins (brief `once-for-all` §5.3, §7).

use oncefit_random::Draws;
use oncefit_space::{Space, Subnet};

use crate::error::Result;
use crate::limit::Limit;
use crate::searcher::{Proposer, Searcher};

/// The settings of an evolution.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct EvolutionSettings {
    /// Members of the first, random generation (P).
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
    /// Parents and scored children of the running generation, best first; equal scores in order
    /// of arrival.
    population: Vec<(Subnet, f64)>,
    /// Whether the first generation is complete, so that there are parents.
    has_parents: bool,
}

impl Evolution {
    /// An evolution within limits.
    ///
    /// # Errors
    /// If no member is within the limits.
    pub fn new(
        space: &Space,
        limits: &[Limit],
        settings: EvolutionSettings,
        seed: u64,
    ) -> Result<Self> {
        Ok(Self {
            proposer: Proposer::new(space, limits, "evolution", seed)?,
            settings,
            population: Vec::new(),
            has_parents: false,
        })
    }

    fn parents(&self) -> usize {
        let wanted = (self.settings.population as f64 * self.settings.parent_share).ceil() as usize;
        wanted.clamp(1, self.population.len())
    }

    /// Once as many members are scored as the first generation has, only the parents go on.
    fn close_generation(&mut self) {
        if self.population.len() >= self.settings.population {
            let parents = self.parents();
            self.population.truncate(parents);
            self.has_parents = true;
        }
    }

    fn propose(&mut self) -> Result<Option<Subnet>> {
        if !self.has_parents {
            return self
                .proposer
                .propose(|space, draws| Ok(space.sample(draws)?));
        }
        let settings = self.settings;
        let parents = &self.population[..self.parents()];
        let pick = |draws: &mut Draws| &parents[draws.below(parents.len())].0;
        self.proposer.propose(|space, draws| {
            let first = pick(draws);
            Ok(if draws.chance(settings.mutation_share) {
                space.mutate(first, settings.mutation_probability, draws)?
            } else {
                space.crossover(first, pick(draws), draws)?
            })
        })
    }
}

impl Searcher for Evolution {
    fn ask(&mut self, count: usize) -> Result<Vec<Subnet>> {
        self.close_generation();
        let mut subnets = Vec::with_capacity(count);
        for _ in 0..count {
            match self.propose()? {
                Some(subnet) => subnets.push(subnet),
                None => {
                    // Children of a converged population are all known: fresh blood.
                    let fresh = self
                        .proposer
                        .propose(|space, draws| Ok(space.sample(draws)?))?;
                    subnets.extend(fresh);
                }
            }
        }
        Ok(subnets)
    }

    fn tell(&mut self, subnet: &Subnet, score: f64) {
        let at = self
            .population
            .partition_point(|(_, other)| *other >= score);
        self.population.insert(at, (subnet.clone(), score));
    }
}
