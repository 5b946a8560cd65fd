//! New feasible candidates for searchers that draw them.

use std::collections::HashSet;

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};
use serde::Serialize;

use crate::error::Result;
use crate::outcome::Trial;
use crate::region::Region;

/// How often a draw is repeated before it is given up.
const TRIES: usize = 100;
/// How many infeasible members are looked through for a feasible one when draws find none.
const SCAN: usize = 2_000;

/// Proposes feasible members that were not proposed before.
#[derive(Clone, Debug)]
pub(crate) struct Proposer {
    region: Region,
    seen: HashSet<Candidate>,
    purpose: &'static str,
    seed: u64,
    trials: u64,
    draws: u64,
    /// Where the last scan for new members ended; everything before is known.
    scan: Option<Candidate>,
    is_exhausted: bool,
}

impl Proposer {
    pub fn new(region: Region, purpose: &'static str, seed: u64) -> Self {
        Self {
            region,
            seen: HashSet::new(),
            purpose,
            seed,
            trials: 0,
            draws: 0,
            scan: None,
            is_exhausted: false,
        }
    }

    pub fn space(&self) -> &Space {
        self.region.space()
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    /// The settings of the searcher that owns this, as JSON.
    pub fn describe(&self, settings: &impl Serialize) -> String {
        describe(self.purpose, &self.region, self.seed, settings)
    }

    /// Fresh draws, in the order in which they are asked for.
    pub fn next_draws(&mut self) -> Draws {
        self.draws += 1;
        Draws::new(self.seed, self.purpose, self.draws - 1, 0)
    }

    /// Whether a candidate was proposed.
    pub fn is_known(&self, candidate: &Candidate) -> bool {
        self.seen.contains(candidate)
    }

    /// A trial of a candidate, if it is feasible and new.
    pub fn accept(&mut self, candidate: Candidate) -> Option<Trial> {
        if self.seen.contains(&candidate) || !self.region.contains(&candidate) {
            return None;
        }
        Some(self.take(candidate))
    }

    /// A new feasible member out of those that `draw` makes, if one is found. A draw above a limit
    /// is repeated; the last resort is to pull it towards a feasible member.
    pub fn propose(
        &mut self,
        mut draw: impl FnMut(&Space, &mut Draws) -> Result<Candidate>,
    ) -> Result<Option<Trial>> {
        let mut draws = self.next_draws();
        let mut last = None;
        for _ in 0..TRIES {
            let candidate = draw(self.region.space(), &mut draws)?;
            // Costs are dearer than a look at what is known.
            if self.seen.contains(&candidate) {
                continue;
            }
            if self.region.contains(&candidate) {
                return Ok(Some(self.take(candidate)));
            }
            last = Some(candidate);
        }
        match last {
            None => Ok(None),
            Some(candidate) => {
                let repaired = self.region.repair(candidate, &mut draws)?;
                Ok(self.accept(repaired))
            }
        }
    }

    /// A trial of a candidate that is feasible and new.
    fn take(&mut self, candidate: Candidate) -> Trial {
        self.seen.insert(candidate.clone());
        self.trials += 1;
        Trial {
            number: self.trials - 1,
            candidate,
            budget: None,
            rung: None,
        }
    }

    /// A new member: a random one or, if those are all known, the first that is new; `None` if
    /// every member was proposed or a long look found none.
    pub fn propose_any(&mut self) -> Result<Option<Trial>> {
        if self.is_exhausted {
            return Ok(None);
        }
        match self.propose(|space, draws| Ok(space.sample_candidate(draws)?))? {
            Some(trial) => Ok(Some(trial)),
            None => self.propose_next(),
        }
    }

    /// The first member that is new and feasible.
    pub fn propose_next(&mut self) -> Result<Option<Trial>> {
        let mut candidate = match self.scan.take() {
            Some(candidate) => candidate,
            None => self.space().candidate(|_, _| 0)?,
        };
        let mut infeasible = 0;
        while infeasible < SCAN && !self.is_exhausted {
            let is_known = self.seen.contains(&candidate);
            let trial = self.accept(candidate.clone());
            infeasible += usize::from(trial.is_none() && !is_known);
            match self.space().next_candidate(&candidate)? {
                Some(next) => candidate = next,
                None => self.is_exhausted = true,
            }
            if trial.is_some() {
                self.scan = Some(candidate);
                return Ok(trial);
            }
        }
        self.scan = Some(candidate);
        Ok(None)
    }
}

/// The settings of a searcher, as JSON.
pub(crate) fn describe(
    kind: &str,
    region: &Region,
    seed: u64,
    settings: &impl Serialize,
) -> String {
    let value = serde_json::json!({
        "searcher": kind,
        "settings": settings,
        "limits": region.limits(),
        "seed": seed,
    });
    value.to_string()
}
