//! `[optimiser]`: how weights follow gradients.

use oncefit_nn::UpdateRule;
use oncefit_train::{Decay, OptimiserKind};
use serde::{Deserialize, Serialize};

use super::illegal;

/// How the learning rate falls in each task.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RateDecayKind {
    /// Not.
    #[default]
    Constant,
    /// Multiplied by `factor` at each of the `milestones`.
    Step,
    /// To 0 at the end of the task's last epoch.
    Cosine,
}

/// `[optimiser]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct UpdateRecipe {
    /// The rule.
    pub kind: OptimiserKind,
    /// Learning rate.
    pub learning_rate: f32,
    /// `sgd`, `rmsprop`: momentum.
    pub momentum: f32,
    /// `adam`, `adamw`: decay of the mean of gradients, 0.9 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta1: Option<f32>,
    /// `adam`, `adamw`, `rmsprop`: decay of the mean of squared gradients, 0.999 (`rmsprop`: 0.9) where
    /// it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub beta2: Option<f32>,
    /// Weight decay; not applied to biases and batch-norm.
    pub weight_decay: f32,
    /// How the learning rate falls in each task.
    pub decay: RateDecayKind,
    /// `step`: epochs of a task at which the rate falls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub milestones: Vec<f64>,
    /// `step`: what the rate is multiplied by there, 0.1 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub factor: Option<f64>,
}

impl Default for UpdateRecipe {
    fn default() -> Self {
        Self {
            kind: OptimiserKind::Sgd,
            learning_rate: 0.03,
            momentum: 0.0,
            beta1: None,
            beta2: None,
            weight_decay: 0.0,
            decay: RateDecayKind::Constant,
            milestones: Vec::new(),
            factor: None,
        }
    }
}

impl UpdateRecipe {
    /// The rule with its constants.
    pub(super) fn rule(&self) -> UpdateRule {
        match self.kind {
            OptimiserKind::Sgd => UpdateRule::sgd(self.momentum),
            OptimiserKind::Adam | OptimiserKind::AdamW => UpdateRule::Adam {
                beta1: self.beta1.unwrap_or(0.9),
                beta2: self.beta2.unwrap_or(0.999),
                epsilon: 1e-8,
                decoupled: self.kind == OptimiserKind::AdamW,
            },
            OptimiserKind::RmsProp => UpdateRule::RmsProp {
                smoothing: self.beta2.unwrap_or(0.9),
                epsilon: 1e-8,
                momentum: self.momentum,
            },
        }
    }

    /// How the rate falls.
    pub(super) fn decay(&self) -> Decay {
        match self.decay {
            RateDecayKind::Constant => Decay::Constant,
            RateDecayKind::Cosine => Decay::Cosine,
            RateDecayKind::Step => Decay::Step {
                milestones: self.milestones.clone(),
                factor: self.factor.unwrap_or(0.1),
            },
        }
    }

    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        let (rate, momentum, decay) = (self.learning_rate, self.momentum, self.weight_decay);
        if !(rate > 0.0 && rate.is_finite()) {
            return illegal("optimiser.learning_rate", rate.to_string(), "above 0");
        }
        if !(0.0..1.0).contains(&momentum) {
            let legal = "0 or more and below 1";
            return illegal("optimiser.momentum", momentum.to_string(), legal);
        }
        if !(decay >= 0.0 && decay.is_finite()) {
            return illegal("optimiser.weight_decay", decay.to_string(), "0 or more");
        }
        self.validate_rule()?;
        let falls = self.decay == RateDecayKind::Step;
        if falls == self.milestones.is_empty() || (self.factor.is_some() && !falls) {
            return Err("`optimiser.milestones` and `optimiser.factor` belong to `decay = \"step\"`, which needs milestones".into());
        }
        let is_rising = self.milestones.is_sorted() && self.milestones.iter().all(|at| *at >= 0.0);
        if !is_rising {
            let found = format!("{:?}", self.milestones);
            return illegal("optimiser.milestones", found, "epochs from 0 on, in order");
        }
        let factor = self.factor.unwrap_or(0.1);
        if !(factor > 0.0 && factor.is_finite()) {
            return illegal("optimiser.factor", factor.to_string(), "above 0");
        }
        Ok(())
    }

    /// The options that belong to other rules.
    fn validate_rule(&self) -> std::result::Result<(), String> {
        let is_adam = matches!(self.kind, OptimiserKind::Adam | OptimiserKind::AdamW);
        let foreign = [
            (
                "momentum",
                is_adam && self.momentum != 0.0,
                "sgd` and `rmsprop",
            ),
            (
                "beta1",
                !is_adam && self.beta1.is_some(),
                "adam` and `adamw",
            ),
            (
                "beta2",
                self.kind == OptimiserKind::Sgd && self.beta2.is_some(),
                "adam`, `adamw` and `rmsprop",
            ),
        ];
        if let Some((key, _, owners)) = foreign.iter().find(|(_, is_foreign, _)| *is_foreign) {
            return Err(format!("`optimiser.{key}` belongs to kinds `{owners}`"));
        }
        for (key, value) in [("beta1", self.beta1), ("beta2", self.beta2)] {
            if value.is_some_and(|value| !(0.0..1.0).contains(&value)) {
                let legal = "0 or more and below 1";
                return Err(format!(
                    "`optimiser.{key}` is {}, but must be {legal}",
                    value.unwrap_or_default()
                ));
            }
        }
        Ok(())
    }
}
