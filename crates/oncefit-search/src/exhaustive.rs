//! Exhaustive search of small spaces: every member, in the order of their numbers.

use oncefit_space::{Candidate, Space};

use crate::error::{Result, SearchError};
use crate::outcome::{Outcome, Trial};
use crate::proposer::describe;
use crate::region::Region;
use crate::searcher::Searcher;

/// Proposes every feasible member once.
#[derive(Clone, Debug)]
pub struct ExhaustiveSearch {
    region: Region,
    next: Option<Candidate>,
    trials: u64,
}

impl ExhaustiveSearch {
    /// Every member of a region of a space that has at most `most_members`.
    ///
    /// # Errors
    /// If the space has more members, or cannot be counted.
    pub fn within(region: Region, most_members: u64) -> Result<Self> {
        let count = region.space().count()?;
        if count > most_members.into() {
            return Err(SearchError::Settings(format!(
                "space `{}` has {count} members, too many to try all (at most {most_members}); use another searcher",
                region.space().name()
            )));
        }
        let next = Some(region.space().candidate(|_, _| 0)?);
        Ok(Self {
            region,
            next,
            trials: 0,
        })
    }
}

impl Searcher for ExhaustiveSearch {
    fn space(&self) -> &Space {
        self.region.space()
    }

    fn settings(&self) -> String {
        describe("exhaustive", &self.region, 0, &())
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::with_capacity(count);
        while trials.len() < count {
            let Some(candidate) = self.next.take() else {
                break;
            };
            self.next = self.region.space().next_candidate(&candidate)?;
            if self.region.contains(&candidate) {
                trials.push(Trial {
                    number: self.trials,
                    candidate,
                    budget: None,
                    rung: None,
                });
                self.trials += 1;
            }
        }
        Ok(trials)
    }

    fn tell(&mut self, _: &Trial, _: &Outcome) {}
}
