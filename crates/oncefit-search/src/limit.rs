//! What networks cost, and limits on it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use oncefit_space::{Graph, Space, Subnet};
use serde::{Deserialize, Serialize};

use crate::coster::GraphCoster;
use crate::error::Result;
use crate::region::Region;

/// What a network costs. Every cost is an integer, so that limits are exact.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Multiply-accumulates for one image.
    Macs,
    /// Weights.
    Parameters,
    /// Bytes of live activations, batch 1, f32.
    PeakMemory,
    /// Nanoseconds for one image on a target.
    Latency,
    /// Bytes of the exported file.
    FileSize,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Self; 5] = [
        Self::Macs,
        Self::Parameters,
        Self::PeakMemory,
        Self::Latency,
        Self::FileSize,
    ];

    /// The cost of a graph, if it follows from the graph alone.
    pub fn of(self, graph: &Graph) -> Option<u64> {
        match self {
            Self::Macs => Some(graph.macs()),
            Self::Parameters => Some(graph.parameters()),
            Self::PeakMemory => Some(graph.peak_activation_bytes()),
            Self::Latency | Self::FileSize => None,
        }
    }

    /// A value with what it counts: `1200000 MACs`, `1.5 ms of latency`.
    pub fn show(self, value: u64) -> String {
        match self {
            Self::Latency => format!("{} ms of latency", value as f64 / 1e6),
            _ => format!("{value} {self}"),
        }
    }

    /// A value as limits are written: `1200000`, `1.5ms`.
    pub(crate) fn write(self, value: u64) -> String {
        match self {
            Self::Latency => format!("{}ms", value as f64 / 1e6),
            _ => value.to_string(),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Macs => "MACs",
            Self::Parameters => "parameters",
            Self::PeakMemory => "bytes of peak activation memory",
            Self::Latency => "nanoseconds of latency",
            Self::FileSize => "bytes of file",
        })
    }
}

/// An upper bound on a cost.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub metric: Metric,
    /// The largest legal value.
    pub at_most: u64,
}

impl Limit {
    /// A bound on the latency, in milliseconds.
    pub fn latency_ms(milliseconds: f64) -> Self {
        Self {
            metric: Metric::Latency,
            at_most: (milliseconds * 1e6).round() as u64,
        }
    }

    /// Whether a graph is within the limit; a limit on a cost that does not follow from the graph
    /// holds for none.
    pub fn holds(&self, graph: &Graph) -> bool {
        self.metric
            .of(graph)
            .is_some_and(|cost| cost <= self.at_most)
    }
}

/// Fails at once if no member is within the limits, which are on costs of the graph; otherwise
/// returns a member that is.
///
/// # Errors
/// [`SearchError::Infeasible`](crate::SearchError::Infeasible) with the closest feasible value.
pub fn check_feasible(space: &Space, limits: &[Limit]) -> Result<Subnet> {
    let region = Region::new(space, limits, Arc::new(GraphCoster::new(space)))?;
    Ok(space.subnet_of(region.anchor())?)
}

/// A count with an optional suffix: `1200000`, `1.2M`, `800k`, `2G`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Count(pub u64);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let text = text.trim();
        let (number, factor) = match text.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&text[..at], 1e3),
            Some((at, 'm' | 'M')) => (&text[..at], 1e6),
            Some((at, 'g' | 'G')) => (&text[..at], 1e9),
            _ => (text, 1.0),
        };
        match number.parse::<f64>() {
            Ok(value) if value.is_finite() && value >= 0.0 && value * factor <= 9e15 => {
                Ok(Self((value * factor).round() as u64))
            }
            _ => Err(format!(
                "`{text}` is no count; write for example 800k, 1.2M or 1200000"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_take_suffixes() {
        for (text, count) in [
            ("1200000", 1_200_000),
            ("1.2M", 1_200_000),
            ("800k", 800_000),
            ("2G", 2_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Count(count)));
        }
        for text in ["", "M", "-3", "nan", "1.2.3", "1e400", "5 apples"] {
            assert!(text.parse::<Count>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_infeasible_limit_is_answered_with_the_closest_feasible_value() {
        let space = Space::builtin("fm-nano").unwrap();
        let limit = Limit {
            metric: Metric::Macs,
            at_most: 1000,
        };
        let error = check_feasible(&space, &[limit]).unwrap_err().to_string();
        let closest = space.smallest().unwrap().graph().macs();
        assert!(
            error.contains(&format!("ask for {closest} or more")),
            "{error}"
        );
        let limit = Limit {
            metric: Metric::Macs,
            at_most: closest,
        };
        assert_eq!(
            check_feasible(&space, &[limit]).unwrap().graph().macs(),
            closest
        );
    }
}
