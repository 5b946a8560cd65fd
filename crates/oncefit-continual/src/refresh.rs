//! Refresh learning: a step first unlearns its batch a little, then learns it ("A Unified and General
//! Framework for Continual Learning", ICLR 2024).
//!
//! ```text
//! paper:     θ ← θ + γ (F + d)⁻¹ ∇L + √(2γ (F + d)⁻¹ τ) · N(0, 1)
//! released:  w ← w + δ (‖w‖ ∇L / ‖∇L‖ + ν · N(0, 1)) / (1 + φ F_w)      for each tensor w
//! ```
//!
//! F is the diagonal of the Fisher information at the ends of earlier tasks, 0 in the first. Only
//! weights move: the host's optimiser, memory and random draws are those of the host alone. To
//! first order L(θ + γ F⁻¹∇L) = L(θ) + γ ∇Lᵀ F⁻¹ ∇L, so descending from there also lowers the norm of
//! the gradient.

use oncefit_nn::{Gradients, Parameters};
use oncefit_random::Draws;
use serde::{Deserialize, Serialize};

use crate::error::{Result, setting};
use crate::importance::FisherEstimator;

/// Refresh learning for a host method.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Refresh {
    /// How weights move.
    pub rule: RefreshRule,
    /// Every how many steps.
    pub every: u64,
    /// What is unlearnt.
    pub loss: UnlearntLoss,
    /// In which direction.
    pub direction: Direction,
    /// How the Fisher information is estimated.
    pub fisher: FisherEstimator,
    /// Training images of a task it is estimated on, at most; all where there is no limit.
    pub fisher_images: Option<usize>,
    /// F ← τ F + F_task; the mean over tasks where there is none.
    pub fisher_decay: Option<f64>,
    /// What batch-norm does when images go through the network one by one.
    pub fisher_norms: FisherNorms,
}

/// How weights move.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefreshRule {
    /// As the paper has it (its body was not at hand: from memory).
    Paper {
        /// γ; at 0 nothing is unlearnt.
        rate: f64,
        /// Unlearning steps in a row.
        steps: usize,
        /// d, added to F: where F is 0, as in a head's rows of unseen classes, its inverse is infinite.
        damping: f64,
        /// τ of the noise; the paper's is 1, which destroys networks where F is small.
        temperature: f64,
        /// Norm of a tensor's step, as a share of the norm of the tensor, at most.
        largest_step: Option<f64>,
    },
    /// As the authors' code has it (`models/derpp.py`).
    Released {
        /// δ; at 0 nothing is unlearnt.
        displacement: f64,
        /// ν
        noise: f64,
        /// φ
        fisher_weight: f64,
    },
}

/// What is unlearnt.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnlearntLoss {
    /// The host's objective, with this step's replayed images and penalties (paper).
    Host,
    /// The new images' cross-entropy over all classes (released code).
    Batch,
}

/// In which direction weights move.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// Up the loss.
    Gradient,
    /// Any, with the gradient's norm in each tensor: the control that tells whether the direction
    /// matters.
    Random,
}

/// What batch-norm does when images go through the network one by one, for the Fisher information.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FisherNorms {
    /// It uses statistics calibrated on memory and recent images, as at evaluation.
    Calibrated,
    /// It normalises each image by its own statistics, as the released code does.
    SingleImage,
}

/// The ascent step whose length cancels but for the addend below (released code).
const PROBE_RATE: f64 = 0.01;
/// Added to that step's norm (released code).
const PROBE_EPSILON: f64 = 1e-20;

impl Refresh {
    /// The paper's form with γ = 0.03, one unlearning step, at every second step (its study of
    /// CIFAR-100, from memory). Damping, temperature and limit are this crate's.
    pub fn paper() -> Self {
        Self {
            rule: RefreshRule::Paper {
                rate: 0.03,
                steps: 1,
                damping: 1.0,
                temperature: 1e-6,
                largest_step: Some(1e-3),
            },
            every: 2,
            loss: UnlearntLoss::Host,
            direction: Direction::Gradient,
            fisher: FisherEstimator::Exact,
            fisher_images: Some(1000),
            fisher_decay: None,
            fisher_norms: FisherNorms::Calibrated,
        }
    }

    /// The authors' code with its constants (`models/derpp.py` at 7c90da5), but for
    /// [`FisherNorms`], which is a trap there.
    pub fn released() -> Self {
        Self {
            rule: RefreshRule::Released {
                displacement: 1e-5,
                noise: 1e-3,
                fisher_weight: 1e-3,
            },
            every: 1,
            loss: UnlearntLoss::Batch,
            direction: Direction::Gradient,
            fisher: FisherEstimator::WeightedLabel,
            fisher_images: None,
            fisher_decay: Some(1e-5),
            fisher_norms: FisherNorms::Calibrated,
        }
    }

    /// Whether weights move at all.
    pub fn is_active(&self) -> bool {
        match self.rule {
            RefreshRule::Paper { rate, steps, .. } => rate != 0.0 && steps > 0,
            RefreshRule::Released { displacement, .. } => displacement != 0.0,
        }
    }

    /// Unlearning steps before the given step.
    pub(crate) fn passes(&self, step: u64) -> usize {
        match self.rule {
            _ if !self.is_active() || !step.is_multiple_of(self.every) => 0,
            RefreshRule::Paper { steps, .. } => steps,
            RefreshRule::Released { .. } => 1,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        let least = |what, value: f64, above: bool| {
            let (is_legal, legal) = match above {
                true => (value > 0.0, "above 0"),
                false => (value >= 0.0, "0 or more"),
            };
            match is_legal && value.is_finite() {
                true => Ok(()),
                false => Err(setting(what, value, legal)),
            }
        };
        if self.every == 0 {
            return Err(setting("`refresh.every`", 0, "at least 1"));
        }
        if self.fisher_images == Some(0) {
            return Err(setting("`refresh.fisher_images`", 0, "at least 1"));
        }
        least(
            "`refresh.fisher_decay`",
            self.fisher_decay.unwrap_or(0.0),
            false,
        )?;
        match self.rule {
            RefreshRule::Paper {
                rate,
                damping,
                temperature,
                largest_step,
                ..
            } => {
                least("`refresh.rate`", rate, false)?;
                least("`refresh.damping`", damping, true)?;
                least("`refresh.temperature`", temperature, false)?;
                least("`refresh.largest_step`", largest_step.unwrap_or(1.0), true)
            }
            RefreshRule::Released {
                displacement,
                noise,
                fisher_weight,
            } => {
                least("`refresh.displacement`", displacement, false)?;
                least("`refresh.noise`", noise, false)?;
                least("`refresh.fisher_weight`", fisher_weight, false)
            }
        }
    }

    /// Moves `parameters` up the loss whose gradients are given. Random numbers are those of (seed,
    /// step, pass).
    pub fn displace(
        &self,
        parameters: &mut Parameters,
        gradients: &Gradients,
        fisher: Option<&Parameters>,
        (seed, step, pass): (u64, u64, usize),
    ) {
        for (position, tensor) in parameters.iter_mut().enumerate() {
            let index = (pass as u64) << 32 | position as u64;
            let normals = |purpose| Normals::new(Draws::new(seed, purpose, step, index));
            let mut gradient: Vec<f64> = values(gradients.at(position)).collect();
            if self.direction == Direction::Random {
                let wanted = norm(gradient.iter().copied());
                let mut draws = normals("refresh direction");
                gradient.fill_with(|| draws.draw());
                let found = norm(gradient.iter().copied()).max(f64::MIN_POSITIVE);
                gradient
                    .iter_mut()
                    .for_each(|value| *value *= wanted / found);
            }
            let importance =
                |at: usize| fisher.map_or(0.0, |fisher| f64::from(fisher.at(position).data[at]));
            let size = norm(values(&tensor.data));
            let mut draws = normals("refresh noise");
            match self.rule {
                RefreshRule::Paper {
                    rate,
                    damping,
                    temperature,
                    largest_step,
                    ..
                } => {
                    let mut moves = gradient;
                    for (at, value) in moves.iter_mut().enumerate() {
                        let inverse = 1.0 / (importance(at) + damping);
                        *value *= rate * inverse;
                        if temperature > 0.0 {
                            *value += (2.0 * rate * inverse * temperature).sqrt() * draws.draw();
                        }
                    }
                    let length = norm(moves.iter().copied());
                    let most = largest_step.map_or(f64::INFINITY, |share| share * size);
                    let factor = if length > most { most / length } else { 1.0 };
                    for (value, by) in tensor.data.iter_mut().zip(moves) {
                        *value += (factor * by) as f32;
                    }
                }
                RefreshRule::Released {
                    displacement,
                    noise,
                    fisher_weight,
                } => {
                    let probe = PROBE_RATE * norm(gradient.iter().copied()) + PROBE_EPSILON;
                    let factor = PROBE_RATE * size / probe;
                    for (at, value) in tensor.data.iter_mut().enumerate() {
                        let mut by = factor * gradient[at];
                        if noise > 0.0 {
                            by += noise * draws.draw();
                        }
                        *value +=
                            (displacement * by / (1.0 + fisher_weight * importance(at))) as f32;
                    }
                }
            }
        }
    }

    /// F after a task whose own is `found`; `tasks` ended before it.
    pub(crate) fn joined(
        &self,
        before: Option<&Parameters>,
        mut found: Parameters,
        tasks: usize,
    ) -> Parameters {
        let Some(before) = before else { return found };
        let new_share = 1.0 / (tasks as f32 + 1.0);
        let (old_share, new_share) = match self.fisher_decay {
            Some(decay) => (decay as f32, 1.0),
            None => (1.0 - new_share, new_share),
        };
        for (new, old) in found.iter_mut().zip(before.iter()) {
            for (new, old) in new.data.iter_mut().zip(&old.data) {
                *new = old_share * old + new_share * *new;
            }
        }
        found
    }
}

fn values(data: &[f32]) -> impl Iterator<Item = f64> + '_ {
    data.iter().map(|value| f64::from(*value))
}

fn norm(values: impl Iterator<Item = f64>) -> f64 {
    values.map(|value| value * value).sum::<f64>().sqrt()
}

/// Normal numbers, both that a Box–Muller transform gives: refreshing draws one for each weight.
struct Normals {
    draws: Draws,
    other: Option<f64>,
}

impl Normals {
    fn new(draws: Draws) -> Self {
        Self { draws, other: None }
    }

    fn draw(&mut self) -> f64 {
        if let Some(other) = self.other.take() {
            return other;
        }
        let radius = (-2.0 * f64::from(1.0 - self.draws.unit_f32()).ln()).sqrt();
        let (sine, cosine) = (std::f64::consts::TAU * f64::from(self.draws.unit_f32())).sin_cos();
        self.other = Some(radius * sine);
        radius * cosine
    }
}
