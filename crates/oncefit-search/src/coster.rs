//! Where costs of candidates come from.

use oncefit_space::{Candidate, Space};

use crate::limit::Metric;

/// Computes costs of candidates of one space. A table of latencies or MACs answers in a
/// microsecond; [`GraphCoster`] builds the graph.
pub trait Coster: Send + Sync {
    /// The metrics that it knows.
    fn metrics(&self) -> &[Metric];

    /// Appends the cost of each of `metrics` to `costs`.
    ///
    /// # Errors
    /// Why the candidate has no costs: its shapes do not meet (a hole), or a metric is unknown.
    fn costs(
        &self,
        candidate: &Candidate,
        metrics: &[Metric],
        costs: &mut Vec<u64>,
    ) -> Result<(), String>;
}

/// The costs that follow from the graph alone, by building it: exact, tens of microseconds.
#[derive(Clone, Debug)]
pub struct GraphCoster {
    space: Space,
}

impl GraphCoster {
    /// The costs of a space's members.
    pub fn new(space: &Space) -> Self {
        Self {
            space: space.clone(),
        }
    }
}

impl Coster for GraphCoster {
    fn metrics(&self) -> &[Metric] {
        &[Metric::Macs, Metric::Parameters, Metric::PeakMemory]
    }

    fn costs(
        &self,
        candidate: &Candidate,
        metrics: &[Metric],
        costs: &mut Vec<u64>,
    ) -> Result<(), String> {
        let subnet = self.space.subnet_of(candidate);
        let subnet = subnet.map_err(|error| error.to_string())?;
        for metric in metrics {
            let cost = metric.of(subnet.graph());
            costs.push(cost.ok_or_else(|| format!("{metric} do not follow from the graph"))?);
        }
        Ok(())
    }
}
