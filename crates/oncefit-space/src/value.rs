//! Values of decisions and expressions, and the domains they are chosen from.

use std::cmp::Ordering;
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

    /// Whether it is this word.
    pub(crate) fn is_text(&self, word: &str) -> bool {
        matches!(self, Self::Text(text) if text == word)
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

    /// Whether two values are the same value or the same number.
    pub(crate) fn is_equal_to(&self, other: &Self) -> bool {
        match (self.as_f64(), other.as_f64()) {
            (Some(left), Some(right)) => left == right,
            _ => self == other,
        }
    }

    /// A value as it is written in a trace.
    fn parse(text: &str) -> Self {
        match (text, text.parse::<i64>(), text.parse::<f64>()) {
            ("true", ..) => Self::Bool(true),
            ("false", ..) => Self::Bool(false),
            (_, Ok(value), _) => Self::Int(value),
            (_, _, Ok(value)) if value.is_finite() => Self::Real(value),
            _ => Self::Text(text.to_owned()),
        }
    }
}

/// Values of Rust's numbers, truth values and words.
macro_rules! conversions {
    ($($kind:ty => $variant:ident),*) => {$(
        impl From<$kind> for Value {
            fn from(value: $kind) -> Self {
                Self::$variant(value.into())
            }
        }
    )*};
}

conversions!(bool => Bool, i32 => Int, i64 => Int, f64 => Real, &str => Text);

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

/// Truth values, then numbers by size, then words.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        let rank = |value: &Self| match value {
            Self::Bool(_) => 0,
            Self::Int(_) | Self::Real(_) => 1,
            Self::Text(_) => 2,
        };
        match (self, other) {
            (Self::Bool(left), Self::Bool(right)) => left.cmp(right),
            (Self::Int(left), Self::Int(right)) => left.cmp(right),
            (Self::Real(left), Self::Real(right)) => left.total_cmp(right),
            // Equal numbers of different kinds differ as values: the integer comes first.
            (Self::Int(left), Self::Real(right)) => {
                (*left as f64).total_cmp(right).then(Ordering::Less)
            }
            (Self::Real(left), Self::Int(right)) => {
                left.total_cmp(&(*right as f64)).then(Ordering::Greater)
            }
            (Self::Text(left), Self::Text(right)) => left.cmp(right),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
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

    /// The index of the value that is written as `text`; `1` stands for `1.0` too.
    pub(crate) fn read(&self, text: &str) -> Option<usize> {
        let exact = self
            .values
            .iter()
            .position(|value| value.to_string() == text);
        exact.or_else(|| {
            let read = Value::parse(text);
            self.values
                .iter()
                .position(|value| value.is_equal_to(&read))
        })
    }

    /// The index of the smallest value.
    pub(crate) fn smallest(&self) -> usize {
        let indices = 0..self.values.len();
        indices
            .min_by_key(|&index| &self.values[index])
            .unwrap_or(0)
    }

    /// The index of the largest value.
    pub(crate) fn largest(&self) -> usize {
        let indices = 0..self.values.len();
        indices
            .max_by_key(|&index| &self.values[index])
            .unwrap_or(0)
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
    /// Whether it is a training setting, which changes nothing in the network.
    pub is_setting: bool,
}
