//! The ask/tell interface, and random search.

use std::collections::HashSet;

use oncefit_random::Draws;
use oncefit_space::{Space, Subnet};

use crate::error::Result;
use crate::limit::{Limit, check_feasible};

/// An algorithm that proposes subnets and learns their scores. Higher is better.
pub trait Searcher {
    /// Up to `count` subnets that were not proposed before; fewer, or none, when the space within
    /// the limits is exhausted or new members are too hard to find.
    ///
    /// # Errors
    /// If a member cannot be built.
    fn ask(&mut self, count: usize) -> Result<Vec<Subnet>>;

    /// The score of a proposed subnet.
    fn tell(&mut self, subnet: &Subnet, score: f64);
}

/// Proposes feasible members that are new.
#[derive(Clone, Debug)]
pub(crate) struct Proposer {
    pub space: Space,
    limits: Vec<Limit>,
    smallest: Subnet,
    seen: HashSet<Subnet>,
    purpose: &'static str,
    seed: u64,
    proposals: u64,
}

/// How often a draw is repeated before it is given up.
const TRIES: usize = 100;

impl Proposer {
    pub fn new(space: &Space, limits: &[Limit], purpose: &'static str, seed: u64) -> Result<Self> {
        Ok(Self {
            smallest: check_feasible(space, limits)?,
            space: space.clone(),
            limits: limits.to_vec(),
            seen: HashSet::new(),
            purpose,
            seed,
            proposals: 0,
        })
    }

    /// A new feasible member out of those that `draw` makes, if one is found. A draw above a
    /// limit is repeated; the last resort is to pull it towards the smallest member, decision by
    /// decision, until it is feasible.
    pub fn propose(
        &mut self,
        mut draw: impl FnMut(&Space, &mut Draws) -> Result<Subnet>,
    ) -> Result<Option<Subnet>> {
        let mut draws = Draws::new(self.seed, self.purpose, self.proposals, 0);
        self.proposals += 1;
        let mut last = None;
        for _ in 0..TRIES {
            let subnet = draw(&self.space, &mut draws)?;
            if self.is_feasible(&subnet) {
                if self.seen.insert(subnet.clone()) {
                    return Ok(Some(subnet));
                }
            } else {
                last = Some(subnet);
            }
        }
        if let Some(subnet) = last {
            let subnet = self.pull_to_smallest(subnet, &mut draws)?;
            if self.seen.insert(subnet.clone()) {
                return Ok(Some(subnet));
            }
        }
        Ok(None)
    }

    fn is_feasible(&self, subnet: &Subnet) -> bool {
        self.limits.iter().all(|limit| limit.holds(subnet.graph()))
    }

    fn pull_to_smallest(&self, mut subnet: Subnet, draws: &mut Draws) -> Result<Subnet> {
        let mut paths: Vec<String> = self
            .space
            .decisions()
            .iter()
            .map(|slot| slot.path.clone())
            .collect();
        draws.shuffle(&mut paths);
        for path in paths {
            if self.is_feasible(&subnet) {
                return Ok(subnet);
            }
            let pulled = self.space.build(&mut |slot| {
                let trace = if slot.path == path {
                    &self.smallest
                } else {
                    &subnet
                }
                .trace();
                let value = trace
                    .get(&slot.path)
                    .or_else(|| self.smallest.trace().get(&slot.path));
                let is_chosen = |other: &&_| Some(*other) == value;
                slot.domain
                    .values
                    .iter()
                    .position(|other| is_chosen(&other))
                    .unwrap_or(0)
            })?;
            subnet = pulled;
        }
        Ok(if self.is_feasible(&subnet) {
            subnet
        } else {
            self.smallest.clone()
        })
    }
}

/// Members drawn independently, every decision uniform.
#[derive(Clone, Debug)]
pub struct RandomSearch {
    proposer: Proposer,
}

impl RandomSearch {
    /// A random search within limits.
    ///
    /// # Errors
    /// If no member is within the limits.
    pub fn new(space: &Space, limits: &[Limit], seed: u64) -> Result<Self> {
        Ok(Self {
            proposer: Proposer::new(space, limits, "random search", seed)?,
        })
    }
}

impl Searcher for RandomSearch {
    fn ask(&mut self, count: usize) -> Result<Vec<Subnet>> {
        let mut subnets = Vec::with_capacity(count);
        for _ in 0..count {
            let found = self
                .proposer
                .propose(|space, draws| Ok(space.sample(draws)?))?;
            subnets.extend(found);
        }
        Ok(subnets)
    }

    fn tell(&mut self, _: &Subnet, _: f64) {}
}
