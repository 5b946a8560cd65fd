//! Scores and costs that are sums over small groups of decisions.
//!
//! ```text
//! score(x) = s₀ + Σ over terms t that are active in x of s_t(values of t's decisions);   costs alike
//! ```
//!
//! A term is active where all of its decisions are. A table of latencies by block has one term for
//! each block, over its kernel, its expansion and the resolution.

use oncefit_space::{Candidate, Space};

use crate::error::{Result, SearchError};
use crate::limit::Metric;

/// What one combination of values adds.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Share {
    /// To the score.
    pub score: f64,
    /// To the cost in each metric of the model.
    pub costs: Vec<u64>,
}

/// A term: a table over the values of a few decisions.
#[derive(Clone, PartialEq, Debug)]
pub struct Term {
    /// Numbers of the decisions in [`Space::decisions`].
    pub slots: Vec<usize>,
    /// One share for each combination of their values, the last decision running fastest.
    pub shares: Vec<Share>,
}

/// A sum of terms.
#[derive(Clone, PartialEq, Debug)]
pub struct AdditiveModel {
    space: Space,
    metrics: Vec<Metric>,
    constant: Share,
    terms: Vec<Term>,
}

impl AdditiveModel {
    /// A model without terms: every member has score and costs 0.
    pub fn new(space: &Space, metrics: &[Metric]) -> Self {
        Self {
            space: space.clone(),
            metrics: metrics.to_vec(),
            constant: Share {
                score: 0.0,
                costs: vec![0; metrics.len()],
            },
            terms: Vec::new(),
        }
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The metrics that costs are in.
    pub fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    /// The terms.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// What every member has.
    pub fn constant(&self) -> &Share {
        &self.constant
    }

    /// Adds to every member.
    ///
    /// # Errors
    /// If the share has another number of costs than the model has metrics, or a score that is no
    /// number.
    pub fn add_constant(&mut self, share: &Share) -> Result<()> {
        self.check(share)?;
        add(&mut self.constant, share);
        Ok(())
    }

    /// Adds a term.
    ///
    /// # Errors
    /// If a decision is unknown or stands twice, or the table has another size than there are
    /// combinations of values, or a share does not fit.
    pub fn add_term(&mut self, term: Term) -> Result<()> {
        let slots = self.space.decisions();
        let is_known = term
            .slots
            .iter()
            .enumerate()
            .all(|(place, slot)| *slot < slots.len() && !term.slots[..place].contains(slot));
        if !is_known || term.slots.is_empty() {
            return Err(SearchError::Settings(format!(
                "a term names each of its decisions once, by a number below {}; this one names {:?}",
                slots.len(),
                term.slots
            )));
        }
        let sizes = term
            .slots
            .iter()
            .map(|&slot| slots[slot].domain.values.len());
        let size: usize = sizes.product();
        if term.shares.len() != size {
            return Err(SearchError::Settings(format!(
                "a term over decisions {:?} has {size} combinations of values, not {}",
                term.slots,
                term.shares.len()
            )));
        }
        for share in &term.shares {
            self.check(share)?;
        }
        self.terms.push(term);
        Ok(())
    }

    /// Score and costs of a candidate.
    pub fn of(&self, candidate: &Candidate) -> Share {
        let mut sum = self.constant.clone();
        for term in &self.terms {
            if let Some(place) = self.place(term, &|slot| candidate.get(slot)) {
                add(&mut sum, &term.shares[place]);
            }
        }
        sum
    }

    /// The place in a term's table, if all of its decisions have values.
    pub(crate) fn place(
        &self,
        term: &Term,
        value: &dyn Fn(usize) -> Option<usize>,
    ) -> Option<usize> {
        term.slots.iter().try_fold(0, |place, &slot| {
            Some(place * self.space.decisions()[slot].domain.values.len() + value(slot)?)
        })
    }

    fn check(&self, share: &Share) -> Result<()> {
        if share.costs.len() == self.metrics.len() && share.score.is_finite() {
            return Ok(());
        }
        Err(SearchError::Settings(format!(
            "a share needs a finite score and {} costs, this has {} and {}",
            self.metrics.len(),
            share.score,
            share.costs.len()
        )))
    }
}

fn add(sum: &mut Share, share: &Share) {
    sum.score += share.score;
    for (sum, cost) in sum.costs.iter_mut().zip(&share.costs) {
        *sum = sum.saturating_add(*cost);
    }
}
