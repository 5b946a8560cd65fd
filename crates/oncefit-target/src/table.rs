//! Tables of operator times, and the latency that they give a network.
//!
//! ```text
//! latency(network) = intercept + Σ over its operators of ms(key)
//! ```
//!
//! Sums are taken in whole picoseconds, so they do not depend on the order of the operators.

use std::collections::HashMap;

use oncefit_space::Graph;
use serde::{Deserialize, Serialize};

use crate::error::{Result, TargetError};
use crate::fusion::{Granularity, operators};
use crate::ofa_table;
use crate::operator::Operator;

/// How a table names its operators.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum KeyStyle {
    /// As [`Operator`] writes them.
    #[default]
    Oncefit,
    /// As the tables of the Once-for-All authors do.
    OnceForAll,
}

/// Times of operators on one device.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct OperatorTable {
    device: String,
    style: KeyStyle,
    intercept: u64,
    entries: HashMap<String, u64>,
    estimate: Option<Estimate>,
}

/// A latency by table.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Latency {
    /// Milliseconds for one batch.
    pub milliseconds: f64,
    /// Whether operators were estimated from their work, since the table has no time for them.
    pub is_estimated: bool,
}

/// The time of one operator, in picoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Price {
    pub picoseconds: u64,
    pub is_estimated: bool,
}

/// What operators of one kind cost, by their work.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkCost {
    /// Milliseconds for each operator.
    pub ms: f64,
    /// Milliseconds for a million multiply-accumulates.
    pub ms_per_million_macs: f64,
    /// Milliseconds for a million bytes of input, output and weights.
    pub ms_per_million_bytes: f64,
}

/// Times of operators that were never measured, from their work.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Estimate {
    /// By kind ([`crate::OperatorKind::name`]).
    pub kinds: std::collections::BTreeMap<String, WorkCost>,
}

impl Estimate {
    /// Milliseconds of an operator; none if its kind was never measured.
    pub fn milliseconds(&self, operator: &Operator) -> Option<f64> {
        let cost = self.kinds.get(operator.kind.name())?;
        Some(
            cost.ms
                + cost.ms_per_million_macs * operator.macs() as f64 / 1e6
                + cost.ms_per_million_bytes * operator.bytes() as f64 / 1e6,
        )
    }
}

/// Longest time of anything, in milliseconds: beyond it a number is taken for a mistake.
pub(crate) const LONGEST_MS: f64 = 3.6e6;

const PICOSECONDS: f64 = 1e9;

pub(crate) fn to_picoseconds(milliseconds: f64) -> u64 {
    (milliseconds.clamp(0.0, LONGEST_MS) * PICOSECONDS).round() as u64
}

pub(crate) fn to_milliseconds(picoseconds: u64) -> f64 {
    picoseconds as f64 / PICOSECONDS
}

/// Whether a number is a time: finite, not negative, below an hour.
pub(crate) fn check_time(what: &str, milliseconds: f64) -> std::result::Result<(), String> {
    match milliseconds {
        time if time.is_nan() => Err(format!("{what} is not a number")),
        time if time < 0.0 => Err(format!("{what} is negative: {time} ms")),
        time if time > LONGEST_MS => Err(format!("{what} is {time} ms, more than an hour")),
        _ => Ok(()),
    }
}

impl OperatorTable {
    /// A table of `(key, milliseconds)`.
    ///
    /// # Errors
    /// If a time is negative or not finite, or a key stands twice.
    pub fn new(
        device: &str,
        style: KeyStyle,
        intercept_ms: f64,
        entries: impl IntoIterator<Item = (String, f64)>,
    ) -> Result<Self> {
        let check = |what: &str, time: f64| {
            let message = |reason| TargetError::Request(format!("table of {device}: {reason}"));
            check_time(what, time).map_err(message)
        };
        check("the intercept", intercept_ms)?;
        let mut table = HashMap::new();
        for (key, time) in entries {
            check(&key, time)?;
            if table.insert(key.clone(), to_picoseconds(time)).is_some() {
                return Err(TargetError::Request(format!(
                    "table of {device}: `{key}` stands twice"
                )));
            }
        }
        Ok(Self {
            device: device.to_owned(),
            style,
            intercept: to_picoseconds(intercept_ms),
            entries: table,
            estimate: None,
        })
    }

    /// The same table; operators that it lacks are estimated from their work, and the answers are
    /// marked.
    pub fn with_estimates(mut self, estimate: Estimate) -> Self {
        self.estimate = Some(estimate);
        self
    }

    /// The device.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// How finely it cuts networks.
    pub fn granularity(&self) -> Granularity {
        match self.style {
            KeyStyle::Oncefit => Granularity::Operator,
            KeyStyle::OnceForAll => Granularity::Block,
        }
    }

    /// Number of operators.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it has no operators.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is added to every network, in picoseconds.
    pub(crate) fn intercept(&self) -> u64 {
        self.intercept
    }

    /// The name of an operator in this table.
    pub fn key(&self, operator: &Operator) -> String {
        match self.style {
            KeyStyle::Oncefit => operator.to_string(),
            KeyStyle::OnceForAll => ofa_table::key(operator),
        }
    }

    pub(crate) fn price(&self, operator: &Operator) -> Option<Price> {
        let key = self.key(operator);
        if let Some(&picoseconds) = self.entries.get(&key) {
            return Some(Price {
                picoseconds,
                is_estimated: false,
            });
        }
        if self.style == KeyStyle::OnceForAll && ofa_table::is_free(operator) {
            return Some(Price {
                picoseconds: 0,
                is_estimated: false,
            });
        }
        let milliseconds = self.estimate.as_ref()?.milliseconds(operator)?;
        Some(Price {
            picoseconds: to_picoseconds(milliseconds),
            is_estimated: true,
        })
    }

    /// Latency of a network.
    ///
    /// # Errors
    /// Naming the operators that the table lacks, if they may not be estimated.
    pub fn latency(&self, graph: &Graph) -> Result<Latency> {
        let operators = operators(graph, self.granularity());
        let mut sum = self.intercept;
        let mut is_estimated = false;
        let mut missing = Vec::new();
        for operator in &operators {
            match self.price(operator) {
                Some(price) => {
                    sum += price.picoseconds;
                    is_estimated |= price.is_estimated;
                }
                None => missing.push(*operator),
            }
        }
        if !missing.is_empty() {
            return Err(self.missing(&missing));
        }
        Ok(Latency {
            milliseconds: to_milliseconds(sum),
            is_estimated,
        })
    }

    /// The error that names operators which the table lacks.
    pub(crate) fn missing(&self, operators: &[Operator]) -> TargetError {
        const NAMED: usize = 5;
        let mut keys: Vec<String> = operators
            .iter()
            .map(|operator| self.key(operator))
            .collect();
        keys.sort();
        keys.dedup();
        let missing = keys.len();
        keys.truncate(NAMED);
        let mut list = keys.join(", ");
        if missing > NAMED {
            list.push_str(", …");
        }
        TargetError::MissingOperators {
            device: self.device.clone(),
            missing,
            list,
            hint: match self.style {
                KeyStyle::Oncefit => {
                    "profile the device again with this space and these resolutions, or allow estimates by --allow-estimates"
                }
                KeyStyle::OnceForAll => {
                    "take the table of this width, input size and family, or profile the device"
                }
            },
        }
    }
}
