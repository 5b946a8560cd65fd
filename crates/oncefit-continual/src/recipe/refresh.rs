//! `[refresh]`: refresh learning for the method of the recipe.

use serde::{Deserialize, Serialize};

use super::{FisherKind, LearningRecipe};
use crate::error::{Result, setting};
use crate::refresh::{Direction, FisherNorms, Refresh, RefreshRule, UnlearntLoss};

/// Whose form of refresh learning.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RefreshMode {
    /// The paper's.
    Paper,
    /// That of the authors' released code.
    #[default]
    Repo,
}

/// `[refresh]`; what is left out is the mode's.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RefreshRecipe {
    /// Whose form.
    pub mode: RefreshMode,
    /// Every how many steps: 2 (paper), 1 (repo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every: Option<u64>,
    /// What is unlearnt: `host` (paper), `batch` (repo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<UnlearntLoss>,
    /// `gradient`, or `random` as a control.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direction: Option<Direction>,
    /// `paper`: γ, 0.03.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    /// `paper`: unlearning steps in a row, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub steps: Option<usize>,
    /// `paper`: added to F, 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damping: Option<f64>,
    /// `paper`: temperature of the noise, 1e-6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f64>,
    /// `paper`: a tensor's step as a share of its norm, at most, 1e-3; 0 is no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub largest_step: Option<f64>,
    /// `repo`: δ, 1e-5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displacement: Option<f64>,
    /// `repo`: weight of the noise, 1e-3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub noise: Option<f64>,
    /// `repo`: weight of F, 1e-3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fisher_weight: Option<f64>,
    /// Estimator of F: `exact` (paper), `weighted-label` (repo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fisher: Option<FisherKind>,
    /// Training images of a task that F is estimated on: 1000 (paper), 0 for all (repo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fisher_images: Option<usize>,
    /// τ of F ← τ F + F_task: none, that is the mean over tasks (paper); 1e-5 (repo).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fisher_decay: Option<f64>,
    /// Statistics of batch-norm for F: `calibrated`, or `single-image` as in the released code.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fisher_norms: Option<FisherNorms>,
}

impl RefreshRecipe {
    /// Refresh learning with the mode's values where none are given.
    pub(super) fn build(&self, recipe: &LearningRecipe) -> Result<Refresh> {
        let wrong = |key: &str, mode: &str| {
            let found = format!("`{key}`, which belongs to `mode = \"{mode}\"`");
            let legal = "the options of the recipe's mode";
            Err(setting("an option of `[refresh]`", found, legal))
        };
        let of_paper = [
            ("rate", self.rate.is_some()),
            ("steps", self.steps.is_some()),
            ("damping", self.damping.is_some()),
            ("temperature", self.temperature.is_some()),
            ("largest_step", self.largest_step.is_some()),
        ];
        let of_repo = [
            ("displacement", self.displacement.is_some()),
            ("noise", self.noise.is_some()),
            ("fisher_weight", self.fisher_weight.is_some()),
        ];
        let mut refresh = match self.mode {
            RefreshMode::Paper => {
                if let Some((key, _)) = of_repo.iter().find(|(_, is_given)| *is_given) {
                    return wrong(key, "repo");
                }
                Refresh::paper()
            }
            RefreshMode::Repo => {
                if let Some((key, _)) = of_paper.iter().find(|(_, is_given)| *is_given) {
                    return wrong(key, "paper");
                }
                Refresh::released()
            }
        };
        match &mut refresh.rule {
            RefreshRule::Paper {
                rate,
                steps,
                damping,
                temperature,
                largest_step,
            } => {
                *rate = self.rate.unwrap_or(*rate);
                *steps = self.steps.unwrap_or(*steps);
                *damping = self.damping.unwrap_or(*damping);
                *temperature = self.temperature.unwrap_or(*temperature);
                if let Some(given) = self.largest_step {
                    *largest_step = (given != 0.0).then_some(given);
                }
            }
            RefreshRule::Released {
                displacement,
                noise,
                fisher_weight,
            } => {
                *displacement = self.displacement.unwrap_or(*displacement);
                *noise = self.noise.unwrap_or(*noise);
                *fisher_weight = self.fisher_weight.unwrap_or(*fisher_weight);
            }
        }
        refresh.every = self.every.unwrap_or(refresh.every);
        refresh.loss = self.loss.unwrap_or(refresh.loss);
        refresh.direction = self.direction.unwrap_or(refresh.direction);
        if let Some(kind) = self.fisher {
            refresh.fisher = recipe.estimator(kind);
        }
        if let Some(given) = self.fisher_images {
            refresh.fisher_images = (given > 0).then_some(given);
        }
        refresh.fisher_decay = self.fisher_decay.or(refresh.fisher_decay);
        refresh.fisher_norms = self.fisher_norms.unwrap_or(refresh.fisher_norms);
        refresh.check()?;
        Ok(refresh)
    }
}
