//! Costs that follow from a graph alone, and limits on them.

use std::fmt;
use std::str::FromStr;

use oncefit_space::{Graph, Space, Subnet};
use serde::{Deserialize, Serialize};

use crate::error::{Result, SearchError};

/// A cost that is a function of the graph.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Multiply-accumulates for one image.
    Macs,
    /// Weights.
    Parameters,
    /// Bytes of live activations, batch 1, f32.
    PeakMemory,
}

impl Metric {
    /// The cost of a graph.
    pub fn of(self, graph: &Graph) -> u64 {
        match self {
            Self::Macs => graph.macs(),
            Self::Parameters => graph.parameters(),
            Self::PeakMemory => graph.peak_activation_bytes(),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(match self {
            Self::Macs => "MACs",
            Self::Parameters => "parameters",
            Self::PeakMemory => "bytes of peak activation memory",
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
    /// Whether a graph is within the limit.
    pub fn holds(&self, graph: &Graph) -> bool {
        self.metric.of(graph) <= self.at_most
    }
}

/// Fails if the smallest member is above a limit: then no member is expected to be within it.
///
/// # Errors
/// [`SearchError::Infeasible`] with the closest feasible value.
pub fn check_feasible(space: &Space, limits: &[Limit]) -> Result<Subnet> {
    let smallest = space.smallest()?;
    for limit in limits {
        let closest = limit.metric.of(smallest.graph());
        if closest > limit.at_most {
            return Err(SearchError::Infeasible {
                space: space.name().to_owned(),
                metric: limit.metric,
                limit: limit.at_most,
                closest,
                subnet: smallest.text(),
            });
        }
    }
    Ok(smallest)
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
