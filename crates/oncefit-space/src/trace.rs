//! Traces: the values chosen, and their compact text.
//!
//! ```text
//! resolution=28:depth=2,1,3:kernel=3,5,3,5,7,7:expand=3,4,6,3,3,4
//! ```
//!
//! Values are grouped by the name of the decision, in the order in which the decisions are met. A
//! single value stands for all decisions of its name. Decisions that the other values make
//! inactive, and decisions with one value, have no place in a trace: equal networks have equal
//! traces.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::graph::Graph;
use crate::value::Value;

/// A decision and its value.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Choice {
    /// Path of the decision.
    pub path: String,
    /// Its name.
    pub name: String,
    /// The value.
    pub value: Value,
}

/// The values of a member's decisions, in the order in which they are met.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Trace {
    /// The choices.
    pub choices: Vec<Choice>,
}

impl Trace {
    /// The value of the decision at `path`, if it is active.
    pub fn get(&self, path: &str) -> Option<&Value> {
        self.choices
            .iter()
            .find(|choice| choice.path == path)
            .map(|choice| &choice.value)
    }

    /// The values by path, for those who look up many.
    pub(crate) fn by_path(&self) -> HashMap<&str, &Value> {
        let choices = self.choices.iter();
        choices
            .map(|choice| (choice.path.as_str(), &choice.value))
            .collect()
    }

    /// The compact text.
    pub fn text(&self) -> String {
        let mut groups: Vec<(&str, Vec<String>)> = Vec::new();
        for choice in &self.choices {
            let value = choice.value.to_string();
            match groups.iter_mut().find(|(name, _)| *name == choice.name) {
                Some((_, values)) => values.push(value),
                None => groups.push((&choice.name, vec![value])),
            }
        }
        let groups: Vec<String> = groups
            .iter()
            .map(|(name, values)| format!("{name}={}", values.join(",")))
            .collect();
        groups.join(":")
    }
}

/// A complete, validated trace of a space, with its graph.
#[derive(Clone, Debug)]
pub struct Subnet {
    trace: Trace,
    graph: Arc<Graph>,
    settings: Arc<[(String, Value)]>,
}

impl Subnet {
    pub(crate) fn new(trace: Trace, graph: Graph, settings: Vec<(String, Value)>) -> Self {
        Self {
            trace,
            graph: Arc::new(graph),
            settings: settings.into(),
        }
    }

    /// The values chosen.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// The network.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// How it is to be trained: the settings that its space decides or computes, by name.
    pub fn settings(&self) -> &[(String, Value)] {
        &self.settings
    }

    /// The compact text of the trace.
    pub fn text(&self) -> String {
        self.trace.text()
    }

    /// A short content hash of the trace.
    pub fn id(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for choice in &self.trace.choices {
            hasher.update(format!("{}={};", choice.path, choice.value).as_bytes());
        }
        hasher.finalize().to_hex()[..12].to_owned()
    }
}

impl PartialEq for Subnet {
    fn eq(&self, other: &Self) -> bool {
        self.trace == other.trace && self.graph == other.graph
    }
}

impl Eq for Subnet {}

impl Hash for Subnet {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.trace.hash(state);
    }
}
