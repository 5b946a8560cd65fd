//! The feasible region of a search: a space and limits on costs.
//!
//! Before a search begins the cheapest member is looked for, so that limits that nobody can meet
//! are answered at once: exactly in small spaces, otherwise by descent from the smallest values and
//! from random members, one decision at a time.

use std::fmt;
use std::sync::Arc;

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};

use crate::coster::{Coster, GraphCoster};
use crate::error::{Result, SearchError};
use crate::limit::{Limit, Metric};

/// Spaces with at most as many members are searched for the cheapest one exhaustively.
const EXACT_MEMBERS: u32 = 2000;
/// Random starts of the descent in larger spaces.
const STARTS: u64 = 4;

/// A space within limits that at least one known member meets.
#[derive(Clone)]
pub struct Region {
    space: Space,
    limits: Vec<Limit>,
    metrics: Vec<Metric>,
    coster: Arc<dyn Coster>,
    anchor: Candidate,
}

impl fmt::Debug for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Region({:?}, {:?})", self.space, self.limits)
    }
}

impl Region {
    /// A whole space.
    ///
    /// # Errors
    /// Never in practice; a `Result`, as all that walks a space is.
    pub fn whole(space: &Space) -> Result<Self> {
        Ok(Self {
            space: space.clone(),
            limits: Vec::new(),
            metrics: Vec::new(),
            coster: Arc::new(GraphCoster::new(space)),
            anchor: smallest_values(space)?,
        })
    }

    /// The members within limits.
    ///
    /// # Errors
    /// If a metric is unknown to the coster; [`SearchError::Infeasible`] with the closest feasible
    /// value if a limit cannot be met, [`SearchError::InfeasibleTogether`] if only all of them
    /// together cannot.
    pub fn new(space: &Space, limits: &[Limit], coster: Arc<dyn Coster>) -> Result<Self> {
        let mut region = Self {
            limits: limits.to_vec(),
            metrics: limits.iter().map(|limit| limit.metric).collect(),
            coster,
            ..Self::whole(space)?
        };
        let known = region.coster.metrics();
        if let Some(limit) = limits.iter().find(|limit| !known.contains(&limit.metric)) {
            let known: Vec<String> = known.iter().map(Metric::to_string).collect();
            return Err(SearchError::UnknownMetric {
                metric: limit.metric,
                coster: format!("the coster of space `{}`", space.name()),
                known: known.join(", "),
            });
        }
        if limits.is_empty() {
            return Ok(region);
        }
        // The excess over all limits at once; 0 for a feasible member.
        let (excess, closest) = region.lowest(&|costs| region.excess(costs))?;
        if excess == 0.0 {
            region.anchor = closest;
            return Ok(region);
        }
        for (index, limit) in limits.iter().enumerate() {
            let (cost, cheapest) = region.lowest(&|costs| costs[index] as f64)?;
            if cost > limit.at_most as f64 {
                return Err(SearchError::Infeasible {
                    space: space.name().to_owned(),
                    metric: limit.metric,
                    limit: limit.at_most,
                    closest: cost as u64,
                    subnet: space.trace_of(&cheapest).text(),
                });
            }
        }
        let costs = region.costs(&closest).unwrap_or_default();
        let shown = limits.iter().zip(costs).map(|(limit, cost)| {
            let Limit { metric, at_most } = *limit;
            format!("{} of at most {at_most}", metric.show(cost))
        });
        Err(SearchError::InfeasibleTogether {
            space: space.name().to_owned(),
            closest: shown.collect::<Vec<_>>().join(", "),
            subnet: space.trace_of(&closest).text(),
        })
    }

    /// The members within limits on costs of the graph.
    ///
    /// # Errors
    /// As [`Region::new`].
    pub fn of_graph_limits(space: &Space, limits: &[Limit]) -> Result<Self> {
        Self::new(space, limits, Arc::new(GraphCoster::new(space)))
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// The limits.
    pub fn limits(&self) -> &[Limit] {
        &self.limits
    }

    /// A feasible member, as far as limits tell: a whole space may have a hole there.
    pub fn anchor(&self) -> &Candidate {
        &self.anchor
    }

    /// Whether a candidate is within the limits; holes are not, where there are limits.
    pub fn contains(&self, candidate: &Candidate) -> bool {
        self.limits.is_empty()
            || self.costs(candidate).is_ok_and(|costs| {
                let mut bounds = costs.iter().zip(&self.limits);
                bounds.all(|(cost, limit)| *cost <= limit.at_most)
            })
    }

    /// The cost of a candidate in each limited metric.
    ///
    /// # Errors
    /// Why it has none.
    pub fn costs(&self, candidate: &Candidate) -> std::result::Result<Vec<u64>, String> {
        let mut costs = Vec::with_capacity(self.metrics.len());
        self.coster.costs(candidate, &self.metrics, &mut costs)?;
        Ok(costs)
    }

    /// `candidate` pulled towards the anchor, one decision after the other in random order, until
    /// it is feasible.
    ///
    /// # Errors
    /// Never in practice; a `Result`, as all that walks a space is.
    pub fn repair(&self, candidate: Candidate, draws: &mut Draws) -> Result<Candidate> {
        let mut order: Vec<usize> = (0..self.space.decisions().len()).collect();
        draws.shuffle(&mut order);
        let mut current = candidate;
        for slot in order {
            if self.contains(&current) {
                return Ok(current);
            }
            if let Some(index) = self.anchor.get(slot) {
                current = self.with(&current, slot, index)?;
            }
        }
        Ok(if self.contains(&current) {
            current
        } else {
            self.anchor.clone()
        })
    }

    /// `candidate` with one decision changed; decisions that become active are as in the anchor or
    /// at their first value.
    fn with(&self, candidate: &Candidate, slot: usize, index: usize) -> Result<Candidate> {
        Ok(self.space.candidate(|other, _| {
            if other == slot {
                return index;
            }
            let inherited = candidate.get(other).or_else(|| self.anchor.get(other));
            inherited.unwrap_or(0)
        })?)
    }

    /// Σ max(0, cost/limit − 1).
    fn excess(&self, costs: &[u64]) -> f64 {
        let each = costs.iter().zip(&self.limits).map(|(cost, limit)| {
            let over = cost.saturating_sub(limit.at_most);
            over as f64 / limit.at_most.max(1) as f64
        });
        each.sum()
    }

    /// The lowest value of a function of the costs, with a member that has it.
    fn lowest(&self, of: &dyn Fn(&[u64]) -> f64) -> Result<(f64, Candidate)> {
        let value = |candidate: &Candidate| {
            self.costs(candidate)
                .map_or(f64::INFINITY, |costs| of(&costs))
        };
        let is_small = self
            .space
            .count()
            .is_ok_and(|count| count <= EXACT_MEMBERS.into());
        let first = self.space.candidate(|_, _| 0)?;
        if is_small {
            let mut best = (value(&first), first.clone());
            let mut next = self.space.next_candidate(&first)?;
            while let Some(candidate) = next {
                let found = value(&candidate);
                next = self.space.next_candidate(&candidate)?;
                if found < best.0 {
                    best = (found, candidate);
                }
            }
            return Ok(best);
        }
        let mut best = self.descend(self.anchor.clone(), &value)?;
        for start in 0..STARTS {
            if best.0 == 0.0 {
                break;
            }
            let mut draws = Draws::new(start, "cheapest member", 0, 0);
            let other = self.descend(self.space.sample_candidate(&mut draws)?, &value)?;
            if other.0 < best.0 {
                best = other;
            }
        }
        Ok(best)
    }

    /// Changes one decision at a time as long as that lowers the value.
    fn descend(
        &self,
        start: Candidate,
        value: &dyn Fn(&Candidate) -> f64,
    ) -> Result<(f64, Candidate)> {
        let mut best = (value(&start), start);
        loop {
            let before = best.0;
            for (slot, decision) in self.space.decisions().iter().enumerate() {
                for index in 0..decision.domain.values.len() {
                    if best.1.get(slot).is_none_or(|own| own == index) {
                        continue;
                    }
                    let other = self.with(&best.1, slot, index)?;
                    let found = value(&other);
                    if found < best.0 {
                        best = (found, other);
                    }
                }
            }
            if best.0 >= before || best.0 == 0.0 {
                return Ok(best);
            }
        }
    }
}

/// Ordered decisions at their smallest value, others at their first.
fn smallest_values(space: &Space) -> Result<Candidate> {
    let slots = space.decisions();
    Ok(space.candidate(|slot, values| {
        let domain = &slots[slot].domain;
        let smallest = (0..values).min_by_key(|&index| &domain.values[index]);
        if domain.ordered {
            smallest.unwrap_or(0)
        } else {
            0
        }
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(metric: Metric, at_most: u64) -> Limit {
        Limit { metric, at_most }
    }

    #[test]
    fn limits_that_only_fail_together_are_named_with_the_closest_member() {
        let text = "space trade\ninput(9, 9, 4)\nchoice kind {\n  small: { conv(40, kernel = 9, stride = 9) }\n  cheap: { conv(4, kernel = 1) }\n}\nglobal_average_pool\nlinear(2)\n";
        let space = Space::parse(text, "trade").unwrap();
        let costs = |index| {
            let subnet = space
                .subnet_of(&space.candidate(|_, _| index).unwrap())
                .unwrap();
            (
                subnet.graph().macs(),
                subnet.graph().peak_activation_bytes(),
            )
        };
        let (first, second) = (costs(0), costs(1));
        let limits = [
            limit(Metric::Macs, first.0.min(second.0)),
            limit(Metric::PeakMemory, first.1.min(second.1)),
        ];
        assert!(first != second && (first.0 > second.0) == (first.1 < second.1));
        let error = Region::of_graph_limits(&space, &limits).unwrap_err();
        assert!(
            matches!(error, SearchError::InfeasibleTogether { .. }),
            "{error}"
        );
    }

    #[test]
    fn a_limit_on_an_unknown_metric_is_an_error() {
        let space = Space::builtin("fm-nano").unwrap();
        let error = Region::of_graph_limits(&space, &[Limit::latency_ms(1.0)]).unwrap_err();
        assert!(error.to_string().contains("it knows MACs"), "{error}");
    }

    #[test]
    fn repaired_candidates_are_feasible_and_keep_what_they_can() {
        let space = Space::builtin("fm-nano").unwrap();
        let limits = [limit(Metric::Macs, 500_000)];
        let region = Region::of_graph_limits(&space, &limits).unwrap();
        let mut draws = Draws::new(1, "test", 0, 0);
        let mut different = std::collections::HashSet::new();
        for _ in 0..50 {
            let candidate = space.sample_candidate(&mut draws).unwrap();
            let repaired = region.repair(candidate, &mut draws).unwrap();
            assert!(region.contains(&repaired));
            different.insert(repaired);
        }
        assert!(different.len() > 20, "{}", different.len());
    }
}
