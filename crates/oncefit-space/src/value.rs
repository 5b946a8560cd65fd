//! Values of decisions and expressions, and the domains they are chosen from.

use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};

/// A value.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A real number.
    Real(f64),
    /// A word: the name of an activation or of a branch.
    Text(String),
}

impl Value {
    /// The number, if it is one.
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Int(value) => Some(*value as f64),
            Self::Real(value) => Some(*value),
            Self::Bool(_) | Self::Text(_) => None,
        }
    }

    /// What kind of value it is, for messages.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "a truth value",
            Self::Int(_) => "an integer",
            Self::Real(_) => "a real number",
            Self::Text(_) => "a word",
        }
    }

    /// A value as it is written in a trace.
    pub(crate) fn parse(text: &str) -> Self {
        match (text, text.parse::<i64>(), text.parse::<f64>()) {
            ("true", ..) => Self::Bool(true),
            ("false", ..) => Self::Bool(false),
            (_, Ok(value), _) => Self::Int(value),
            (_, _, Ok(value)) if value.is_finite() => Self::Real(value),
            _ => Self::Text(text.to_owned()),
        }
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => left == right,
            (Self::Int(left), Self::Int(right)) => left == right,
            (Self::Real(left), Self::Real(right)) => left.to_bits() == right.to_bits(),
            (Self::Text(left), Self::Text(right)) => left == right,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match self {
            Self::Bool(value) => (0, value).hash(state),
            Self::Int(value) => (1, value).hash(state),
            Self::Real(value) => (2, value.to_bits()).hash(state),
            Self::Text(value) => (3, value).hash(state),
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Bool(value) => write!(formatter, "{value}"),
            Self::Int(value) => write!(formatter, "{value}"),
            Self::Real(value) => write!(formatter, "{value:?}"),
            Self::Text(value) => formatter.write_str(value),
        }
    }
}

/// The values that a decision may take.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Domain {
    /// In the order in which they are written.
    pub values: Vec<Value>,
    /// Whether neighbours are alike: numbers and truth values, unless declared otherwise.
    pub ordered: bool,
}

impl Domain {
    /// The index of a value.
    pub fn position(&self, value: &Value) -> Option<usize> {
        self.values.iter().position(|other| other == value)
    }

    /// The index of the smallest value of an ordered domain.
    pub(crate) fn smallest(&self) -> usize {
        self.extreme(|left, right| left < right)
    }

    /// The index of the largest value of an ordered domain.
    pub(crate) fn largest(&self) -> usize {
        self.extreme(|left, right| left > right)
    }

    fn extreme(&self, better: fn(f64, f64) -> bool) -> usize {
        let number = |index: usize| match &self.values[index] {
            Value::Bool(value) => f64::from(u8::from(*value)),
            value => value.as_f64().unwrap_or(0.0),
        };
        (1..self.values.len()).fold(0, |best, index| {
            if better(number(index), number(best)) {
                index
            } else {
                best
            }
        })
    }

    pub(crate) fn list(&self) -> String {
        self.values
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(", ")
    }
}

/// A decision of a space.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DecisionSlot {
    /// Where it is: `unit2[0].kernel`.
    pub path: String,
    /// Its name there: `kernel`.
    pub name: String,
    /// Its values.
    pub domain: Domain,
}
