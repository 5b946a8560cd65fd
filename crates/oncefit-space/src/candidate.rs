//! Candidates: members as positions, without a graph.
//!
//! A [`Candidate`] holds one number per decision of [`Space::decisions`]. Searchers handle
//! thousands of them a millisecond and build a [`Subnet`] only for what is reported.
//!
//! ```
//! use oncefit_space::Space;
//! let space = Space::builtin("fm-nano")?;
//! let smallest = space.candidate(|_, _| 0)?;
//! assert_eq!(space.candidate_of(space.subnet_of(&smallest)?.trace())?, smallest);
//! # Ok::<(), oncefit_space::SpaceError>(())
//! ```

use num_bigint::BigUint;
use oncefit_random::Draws;

use crate::count;
use crate::decisions::{Condition, DecisionNode};
use crate::error::{Result, SpaceError};
use crate::sampling::below;
use crate::space::Space;
use crate::trace::{Choice, Subnet, Trace};

/// A member as positions: for each decision of its space the index of its value, or
/// [`Candidate::INACTIVE`]. Equal members have equal candidates.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Candidate {
    positions: Box<[u32]>,
}

impl Candidate {
    /// Stands where the other values make a decision inactive.
    pub const INACTIVE: u32 = u32::MAX;

    /// The index of the value of the decision with this number, if it is active.
    pub fn get(&self, slot: usize) -> Option<usize> {
        match self.positions.get(slot) {
            None | Some(&Self::INACTIVE) => None,
            Some(&index) => Some(index as usize),
        }
    }

    /// The index of each decision's value, [`Candidate::INACTIVE`] where it has none.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// The numbers of the active decisions with the indices of their values.
    pub fn active(&self) -> impl Iterator<Item = (usize, usize)> + '_ {
        let positions = self.positions.iter().enumerate();
        positions
            .filter(|(_, index)| **index != Self::INACTIVE)
            .map(|(slot, index)| (slot, *index as usize))
    }
}

impl Space {
    /// A candidate: `choose` gets the number of each decision, in the order in which they are met,
    /// and how many values it has, and gives the index of one.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn candidate<F: FnMut(usize, usize) -> usize>(&self, choose: F) -> Result<Candidate> {
        let tree = self.decision_tree();
        let positions = tree.walk(self.decisions(), Candidate::INACTIVE, choose)?;
        Ok(Candidate { positions })
    }

    /// What is decided, as a tree.
    pub fn decision_nodes(&self) -> &[DecisionNode] {
        &self.decision_tree().nodes
    }

    /// Whether a condition of [`Space::decision_nodes`] holds: `value_of` gives the index of a
    /// decision's value. `None` if it reads a decision that has none.
    pub fn condition_holds(
        &self,
        condition: &Condition,
        value_of: &dyn Fn(usize) -> Option<usize>,
    ) -> Option<bool> {
        self.decision_tree()
            .holds(self.decisions(), condition, value_of)
    }

    /// The candidate that a trace of this space describes.
    ///
    /// # Errors
    /// As [`Space::subnet`].
    pub fn candidate_of(&self, trace: &Trace) -> Result<Candidate> {
        let mut positions = vec![Candidate::INACTIVE; self.decisions().len()];
        self.follow(trace, &mut |slot, index| positions[slot] = index as u32)?;
        Ok(Candidate {
            positions: positions.into(),
        })
    }

    /// The network of a candidate.
    ///
    /// # Errors
    /// If its shapes do not meet, or it is a candidate of another space.
    pub fn subnet_of(&self, candidate: &Candidate) -> Result<Subnet> {
        self.build_slots(&mut |slot, _| candidate.get(slot).unwrap_or(usize::MAX))
    }

    /// The trace of a candidate, in the order of [`Space::decisions`].
    pub fn trace_of(&self, candidate: &Candidate) -> Trace {
        let choices = candidate.active().filter_map(|(slot, index)| {
            let slot = self.decisions().get(slot)?;
            Some(Choice {
                path: slot.path.clone(),
                name: slot.name.clone(),
                value: slot.domain.values.get(index)?.clone(),
            })
        });
        Trace {
            choices: choices.collect(),
        }
    }

    /// A random candidate, every decision uniform: uniform over paths, as [`Space::sample`].
    ///
    /// # Errors
    /// Never in practice; a `Result`, as all that walks a space is.
    pub fn sample_candidate(&self, draws: &mut Draws) -> Result<Candidate> {
        self.candidate(|_, values| draws.below(values))
    }

    /// The candidate of a number below [`Space::count`], as [`Space::unrank`].
    ///
    /// # Errors
    /// If there is no such member or the space cannot be counted.
    pub fn unrank_candidate(&self, rank: &BigUint) -> Result<Candidate> {
        let count = self.count()?;
        if *rank >= count {
            return Err(SpaceError::Illegal(format!(
                "space `{}` has {count} members, numbered from 0; there is no member {rank}",
                self.name()
            )));
        }
        let chosen = count::unrank(self.program(), rank.clone())?;
        self.candidate(|slot, _| chosen[slot].unwrap_or(usize::MAX))
    }

    /// The number of a candidate: the inverse of [`Space::unrank_candidate`]; its shapes need not meet.
    ///
    /// # Errors
    /// If it is a candidate of another space, or the space cannot be counted.
    pub fn rank_candidate(&self, candidate: &Candidate) -> Result<BigUint> {
        // Walked once, so that what is missing is found.
        let own = self.candidate(|slot, _| candidate.get(slot).unwrap_or(usize::MAX))?;
        let slots = 0..self.decisions().len();
        let chosen: Vec<Option<usize>> = slots.map(|slot| own.get(slot)).collect();
        count::rank(self.program(), &chosen)
    }

    /// A random candidate, uniform over members, as [`Space::sample_uniform`].
    ///
    /// # Errors
    /// If the space cannot be counted.
    pub fn sample_candidate_uniform(&self, draws: &mut Draws) -> Result<Candidate> {
        let rank = below(&self.count()?, draws);
        let chosen = count::unrank(self.program(), rank)?;
        self.candidate(|slot, _| chosen[slot].unwrap_or(usize::MAX))
    }

    /// The candidate after `candidate` when the last decision runs fastest, or `None` after the
    /// last one. From `space.candidate(|_, _| 0)` on this enumerates every member once.
    ///
    /// # Errors
    /// If it is a candidate of another space.
    pub fn next_candidate(&self, candidate: &Candidate) -> Result<Option<Candidate>> {
        let mut met: Vec<(usize, usize, usize)> = Vec::with_capacity(self.decisions().len());
        self.candidate(|slot, values| {
            let index = candidate.get(slot).unwrap_or(usize::MAX);
            met.push((slot, index, values));
            index
        })?;
        let Some(last) = met
            .iter()
            .rposition(|&(_, index, values)| index + 1 < values)
        else {
            return Ok(None);
        };
        let mut at = 0;
        let next = self.candidate(|_, _| {
            let index = match at.cmp(&last) {
                std::cmp::Ordering::Less => met[at].1,
                std::cmp::Ordering::Equal => met[at].1 + 1,
                std::cmp::Ordering::Greater => 0,
            };
            at += 1;
            index
        })?;
        Ok(Some(next))
    }
}
