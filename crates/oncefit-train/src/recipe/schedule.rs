//! `[schedule]` and `[[schedule.phases]]`: their keys, with defaults and legal values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Problem;
use crate::schedule::Aggregation;

/// The kinds of schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// One network.
    Plain,
    /// Largest, smallest and random networks from the start (BigNAS, AttentiveNAS, AlphaNet).
    Sandwich,
    /// Delayed shrinking: the sandwich begins when the largest network is half trained (DepS).
    Deps,
    /// Progressive shrinking: the largest network, then phases that open kernels, depths and
    /// widths (Once-for-All).
    Progressive,
    /// The largest network, then phases of networks whose width follows their depth.
    Compofa,
}

/// The ways random networks are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SamplerKind {
    /// Every decision uniform.
    Uniform,
    /// The decisions of `compound` follow the depth.
    Compound,
    /// Of `candidates` networks the one with the lowest loss on the batch.
    BestOf,
    /// The one with the highest.
    WorstOf,
}

/// What is learnt in place from the largest network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistillationKind {
    /// Its soft labels, by cross-entropy.
    CrossEntropy,
    /// Its soft labels, by the adaptive alpha-divergence (AlphaNet).
    Alpha,
    /// Nothing: small networks learn the labels.
    None,
}

/// How channels are sorted when shrinking begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SortKind {
    /// They are not.
    No,
    /// All together.
    Global,
    /// Only between neighbouring widths.
    Tiered,
}

/// `[schedule]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleRecipe {
    /// Kind of schedule.
    pub kind: ScheduleKind,
    /// Passes over the training images; with `phases` their sum, whatever is written.
    pub epochs: u32,
    /// `plain`: the network to train: `largest`, `smallest` or a subnet's text.
    pub subnet: String,
    /// `sandwich`, `deps`: networks in a step.
    pub networks: usize,
    /// `sandwich`, `deps`: whether the smallest network is in every step.
    pub smallest: bool,
    /// `deps`: share of the epochs before the small networks have their full weight.
    pub delay: f64,
    /// `deps`: epochs over which their weight rises from 0.
    pub ramp_epochs: f64,
    /// `sandwich`, `deps`: weight of a small network's loss.
    pub multiplier: f64,
    /// `sandwich`, `deps`: what small networks learn from the largest.
    pub distillation: DistillationKind,
    /// Temperature of soft labels.
    pub temperature: f32,
    /// `progressive`, `compofa`: weight of the teacher's soft labels, beside the labels' 1.
    pub teacher_weight: f64,
    /// How random networks are drawn; `compofa` draws `compound`.
    pub sampler: SamplerKind,
    /// `best-of`, `worst-of`: of how many.
    pub candidates: usize,
    /// `compound`: the decisions that follow the depth.
    pub compound: Vec<String>,
    /// How the gradients of a step's networks become one.
    pub aggregation: Aggregation,
    /// Whether channels are sorted by importance when shrinking begins; between phases always
    /// tiered.
    pub sort_channels: SortKind,
    /// `progressive`: decisions in the order in which they become elastic.
    pub order: Vec<String>,
    /// `progressive`: the phases, instead of Once-for-All's six in its proportions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub phases: Vec<PhaseRecipe>,
}

impl Default for ScheduleRecipe {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Deps,
            epochs: 20,
            subnet: "largest".into(),
            networks: 4,
            smallest: true,
            delay: 0.5,
            ramp_epochs: 1.0,
            multiplier: 1.0,
            distillation: DistillationKind::CrossEntropy,
            temperature: 1.0,
            teacher_weight: 1.0,
            sampler: SamplerKind::Uniform,
            candidates: 3,
            compound: vec!["expand".into()],
            aggregation: Aggregation::Sum,
            sort_channels: SortKind::Global,
            order: ["kernel", "depth", "expand"].map(String::from).to_vec(),
            phases: Vec::new(),
        }
    }
}

/// `[[schedule.phases]]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct PhaseRecipe {
    /// What is said about it.
    pub name: String,
    /// Passes over the training images.
    pub epochs: u32,
    /// The values that decisions may take, by name: `{ kernel = [3, 5, 7], depth = "all" }`. Other
    /// decisions have their largest value, but for `resolution`, which is open.
    pub open: BTreeMap<String, toml::Value>,
    /// Random networks in a step.
    pub networks: usize,
    /// Learning rate, as a share of `optimiser.learning_rate`.
    pub learning_rate: f64,
    /// Epochs of linear warm-up.
    pub warm_up_epochs: f64,
    /// Whether the networks also learn from the largest network as it was before the first phase
    /// that does; by default every phase but the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub teacher: Option<bool>,
    /// Whether dropout is on.
    pub dropout: bool,
}

impl Default for PhaseRecipe {
    fn default() -> Self {
        Self {
            name: String::new(),
            epochs: 1,
            open: BTreeMap::new(),
            networks: 1,
            learning_rate: 1.0,
            warm_up_epochs: 0.0,
            teacher: None,
            dropout: true,
        }
    }
}

impl ScheduleRecipe {
    pub(super) fn validate(&self) -> std::result::Result<(), Problem> {
        let fails = |key: &str, value: &dyn std::fmt::Display, legal: &str| {
            Err(Problem::new("schedule", key, value, legal))
        };
        for phase in &self.phases {
            let fails = |key: &str, value: &dyn std::fmt::Display, legal: &str| {
                Err(Problem::new("schedule.phases", key, value, legal))
            };
            if phase.epochs == 0 {
                return fails("epochs", &0, "at least 1; leave the phase out instead");
            }
            if phase.networks == 0 {
                return fails("networks", &0, "at least 1");
            }
            if !(phase.learning_rate > 0.0 && phase.learning_rate.is_finite()) {
                return fails("learning_rate", &phase.learning_rate, "above 0");
            }
            if !(phase.warm_up_epochs >= 0.0 && phase.warm_up_epochs.is_finite()) {
                return fails("warm_up_epochs", &phase.warm_up_epochs, "0 or more");
            }
        }
        if self.epochs == 0 {
            return fails("epochs", &0, "at least 1");
        }
        if self.networks < 2 {
            return fails(
                "networks",
                &self.networks,
                "at least 2 (largest and smallest)",
            );
        }
        if self.candidates < 2 {
            return fails("candidates", &self.candidates, "at least 2");
        }
        if !(0.0..=1.0).contains(&self.delay) {
            return fails("delay", &self.delay, "a share of the epochs, 0 to 1");
        }
        for (key, value) in [
            ("ramp_epochs", self.ramp_epochs),
            ("multiplier", self.multiplier),
            ("teacher_weight", self.teacher_weight),
        ] {
            if !(value >= 0.0 && value.is_finite()) {
                return fails(key, &value, "0 or more");
            }
        }
        if self.kind == ScheduleKind::Deps && self.ramp_epochs > f64::from(self.epochs) {
            let legal = format!("at most `epochs`, {}", self.epochs);
            return fails("ramp_epochs", &self.ramp_epochs, &legal);
        }
        if !(self.temperature > 0.0 && self.temperature.is_finite()) {
            return fails("temperature", &self.temperature, "above 0");
        }
        if !self.phases.is_empty() && self.kind != ScheduleKind::Progressive {
            return fails(
                "phases",
                &"given",
                "left out, or `kind = \"progressive\"` set",
            );
        }
        Ok(())
    }
}
