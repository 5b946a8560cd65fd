//! Random search: the control that every other searcher must beat.

use oncefit_space::Space;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::limit::Limit;
use crate::outcome::{Outcome, Trial};
use crate::proposer::Proposer;
use crate::region::Region;
use crate::searcher::Searcher;

/// How random members are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RandomKind {
    /// Every decision uniform, as in the paper: short branches are over-represented.
    #[default]
    Paths,
    /// Uniform over members.
    Leaves,
}

/// Members drawn independently, none twice.
#[derive(Clone, Debug)]
pub struct RandomSearch {
    proposer: Proposer,
    kind: RandomKind,
}

impl RandomSearch {
    /// A random search, every decision uniform, within limits on costs of the graph.
    ///
    /// # Errors
    /// If no member is within the limits.
    pub fn new(space: &Space, limits: &[Limit], seed: u64) -> Result<Self> {
        let region = Region::of_graph_limits(space, limits)?;
        Ok(Self::within(region, RandomKind::Paths, seed))
    }

    /// A random search in a region.
    pub fn within(region: Region, kind: RandomKind, seed: u64) -> Self {
        Self {
            proposer: Proposer::new(region, "random search", seed),
            kind,
        }
    }
}

impl Searcher for RandomSearch {
    fn space(&self) -> &Space {
        self.proposer.space()
    }

    fn settings(&self) -> String {
        self.proposer.describe(&self.kind)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::with_capacity(count);
        for _ in 0..count {
            let found = match self.kind {
                RandomKind::Paths => self.proposer.propose_any()?,
                RandomKind::Leaves => {
                    let drawn = self
                        .proposer
                        .propose(|space, draws| Ok(space.sample_candidate_uniform(draws)?))?;
                    match drawn {
                        Some(trial) => Some(trial),
                        None => self.proposer.propose_next()?,
                    }
                }
            };
            trials.extend(found);
        }
        Ok(trials)
    }

    fn tell(&mut self, _: &Trial, _: &Outcome) {}
}
