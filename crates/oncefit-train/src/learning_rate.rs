//! The learning rate over time: a linear warm-up, then a decay.

use std::f64::consts::PI;

use serde::{Deserialize, Serialize};

/// How the learning rate falls after the warm-up.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub enum Decay {
    /// `½·base·(1 + cos(π·progress))`, from the end of the warm-up to the last epoch.
    Cosine,
    /// Multiplied by `factor` at each of the milestones, which are epochs.
    Step {
        /// Epochs, ascending.
        milestones: Vec<f64>,
        /// 0.1 in most papers.
        factor: f64,
    },
    /// `base · factor^(epoch / every)`, with whole powers (BigNAS).
    Exponential {
        /// Below 1.
        factor: f64,
        /// Epochs between two multiplications.
        every: f64,
    },
    /// No decay.
    Constant,
}

/// The learning rate as a function of the epoch.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LearningRate {
    /// The highest value.
    pub base: f64,
    /// The lowest value of the decay.
    pub floor: f64,
    /// Epochs of linear warm-up.
    pub warm_up_epochs: f64,
    /// What the warm-up begins with, as a share of `base`.
    pub warm_up_factor: f64,
    /// Epochs until the cosine ends, warm-up included.
    pub epochs: f64,
    /// How it falls.
    pub decay: Decay,
}

impl LearningRate {
    /// A cosine from `base` to 0 over `epochs`, without warm-up.
    pub fn cosine(base: f64, epochs: f64) -> Self {
        Self {
            base,
            floor: 0.0,
            warm_up_epochs: 0.0,
            warm_up_factor: 0.1,
            epochs,
            decay: Decay::Cosine,
        }
    }

    /// The learning rate at `epoch` (fractional).
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warm_up_epochs {
            let progress = epoch / self.warm_up_epochs;
            return self.base * (self.warm_up_factor + (1.0 - self.warm_up_factor) * progress);
        }
        let value = match &self.decay {
            Decay::Cosine => {
                let span = self.epochs - self.warm_up_epochs;
                let progress = ((epoch - self.warm_up_epochs) / span).clamp(0.0, 1.0);
                0.5 * self.base * (1.0 + (PI * progress).cos())
            }
            Decay::Step { milestones, factor } => {
                let passed = milestones.iter().filter(|at| epoch >= **at).count();
                self.base * factor.powi(passed as i32)
            }
            Decay::Exponential { factor, every } => {
                self.base * factor.powf((epoch / every).floor())
            }
            Decay::Constant => self.base,
        };
        value.max(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warm_up_is_linear_and_meets_the_cosine() {
        let rate = LearningRate {
            warm_up_epochs: 5.0,
            floor: 2.5e-3,
            ..LearningRate::cosine(2.6, 270.0)
        };
        assert!((rate.at(0.0) - 0.26).abs() < 1e-12);
        assert!((rate.at(2.5) - 1.43).abs() < 1e-12);
        assert!((rate.at(5.0) - 2.6).abs() < 1e-12);
        assert_eq!(rate.at(270.0), 2.5e-3);
    }

    #[test]
    fn steps_and_powers_fall_to_the_floor() {
        let at = |decay: Decay, epoch| {
            let rate = LearningRate {
                decay,
                floor: 0.05,
                ..LearningRate::cosine(1.0, 10.0)
            };
            rate.at(epoch)
        };
        let step = Decay::Step {
            milestones: vec![3.0, 6.0],
            factor: 0.1,
        };
        assert_eq!(at(step.clone(), 2.9), 1.0);
        assert_eq!(at(step.clone(), 3.0), 0.1);
        assert_eq!(at(step, 6.0), 0.05);
        let power = Decay::Exponential {
            factor: 0.5,
            every: 2.0,
        };
        assert_eq!(at(power.clone(), 1.9), 1.0);
        assert_eq!(at(power, 4.0), 0.25);
        assert_eq!(at(Decay::Constant, 9.0), 1.0);
    }
}
