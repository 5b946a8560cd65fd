//! Schedules: which networks run at a step, with which weight, against which target.
//!
//! A schedule is a value: a list of [`Phase`]s. What happens at a step is a function of the
//! schedule, the step and the seed. The papers differ only in this value:
//!
//! - plain training: one phase, one fixed network;
//! - Once-for-All's progressive shrinking: the largest network; then phases that open kernel sizes,
//!   depths and widths, each with a few random networks a step, which learn the labels and the
//!   largest network as it was at the end of the first phase;
//! - CompOFA: the same with networks whose width follows their depth;
//! - BigNAS: one phase; largest, smallest and random networks, the small ones learning the soft
//!   labels of the largest (the sandwich rule with in-place distillation);
//! - AttentiveNAS: the same, the random networks being the best or worst of several candidates;
//!   AlphaNet: the same with another divergence;
//! - DepS: the same, but the small networks join late, and their weight rises over a ramp.
//!
//! DepS' ramp (`adjust_beta_value` of the authors' `deps.py`): with `η` the learning rate, `t` in epochs,
//!
//! ```text
//! ε(t) = m · η(delay) · (t − (delay − ramp)) / ramp      on the ramp,  m · η(t) after it
//! β(t) = ε(t) / η(t)                                      the weight of a small network's loss
//! ```

use std::sync::Arc;

use oncefit_nn::AlphaDivergence;
use oncefit_random::Draws;
use oncefit_space::{Space, SpaceError, Subnet};
use serde::{Deserialize, Serialize};

use crate::learning_rate::LearningRate;
use crate::sampler::StepSpace;

/// Phases, one after the other.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// At least one.
    pub phases: Vec<Arc<Phase>>,
    /// How the gradients of a step's networks become one.
    pub aggregation: Aggregation,
}

/// A part of a training. The optimiser starts anew with each.
#[derive(Clone, Debug)]
pub struct Phase {
    /// What is said about it.
    pub name: String,
    /// Passes over the training images.
    pub epochs: u32,
    /// The learning rate over its epochs.
    pub learning_rate: LearningRate,
    /// The networks that it draws from.
    pub space: StepSpace,
    /// Which of them run.
    pub networks: Networks,
    /// What networks learn, other than the largest of a sandwich, which learns the labels.
    pub lesson: Lesson,
    /// Whether those networks' dropout is on.
    pub dropout: bool,
    /// Whether channels are sorted by importance when small networks first run.
    pub sort: ChannelSort,
}

/// Which networks run at a step.
#[derive(Clone, PartialEq, Debug)]
pub enum Networks {
    /// Always the one with this text, `largest` or `smallest`.
    One(String),
    /// So many random ones.
    Random(usize),
    /// The largest, the smallest and random ones.
    Sandwich(Sandwich),
}

/// The sandwich rule, with DepS' delay.
#[derive(Clone, PartialEq, Debug)]
pub struct Sandwich {
    /// Networks in a step once shrinking has begun (n): the largest, the smallest, n − 2 random.
    pub networks: usize,
    /// Whether the smallest is always among them; without it there is one more random network.
    pub smallest: bool,
    /// Epoch at which the small networks have their full weight (T_w).
    pub delay: f64,
    /// Epochs over which their weight rises (S).
    pub ramp: f64,
    /// Their final weight (m).
    pub multiplier: f64,
}

/// What a network learns from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Lesson {
    /// The labels, smoothed.
    Labels,
    /// The soft labels of the step's largest network (in-place distillation).
    Largest(Distance),
    /// The labels and, with a weight, the soft labels of the largest network as it was before the
    /// first phase with such a lesson.
    Teacher {
        /// Weight of the soft labels (`kd_ratio`).
        weight: f64,
        /// τ
        temperature: f32,
    },
}

/// How far soft labels are from a prediction.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distance {
    /// τ² times the cross-entropy of the softmaxes at temperature τ.
    CrossEntropy {
        /// τ
        temperature: f32,
    },
    /// The adaptive alpha-divergence (AlphaNet).
    Alpha(AlphaDivergence),
}

/// How the gradients of a step's networks become one (the modes of DepS' `deps.py`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// Added up.
    #[default]
    Sum,
    /// Each value divided by the weights of the networks that hold it.
    Avg,
    /// Divided by the root of that.
    AvgSqrt,
}

/// Whether and how channels are sorted by importance when a phase begins to shrink them.
#[derive(Clone, Debug)]
pub enum ChannelSort {
    /// They are not.
    No,
    /// All of them.
    Global,
    /// Only between neighbouring widths of this space, whose networks are trained already.
    Tiered(Space),
}

/// A network of a step.
#[derive(Clone, Debug)]
pub struct StepNetwork {
    /// Which; where there are several, the one that the phase's space picks by its loss.
    pub candidates: Vec<Subnet>,
    /// Weight of its loss.
    pub weight: f64,
    /// What it learns from.
    pub lesson: Lesson,
    /// Whether its dropout is on.
    pub dropout: bool,
}

/// Where a step is in a schedule.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Place {
    /// Index of the phase.
    pub phase: usize,
    /// Epochs since its beginning.
    pub epoch: f64,
    /// Whether the step is the phase's first.
    pub is_first: bool,
}

impl Schedule {
    /// Epochs of all phases.
    pub fn epochs(&self) -> u64 {
        self.phases
            .iter()
            .map(|phase| u64::from(phase.epochs))
            .sum()
    }

    /// Where `step` is. A step after the end is in the last phase.
    pub fn place(&self, step: u64, steps_per_epoch: u64) -> Place {
        let mut first = 0;
        let last = self.phases.len() - 1;
        for (index, phase) in self.phases.iter().enumerate() {
            let end = first + u64::from(phase.epochs) * steps_per_epoch;
            if step < end || index == last {
                return Place {
                    phase: index,
                    epoch: (step - first) as f64 / steps_per_epoch as f64,
                    is_first: step == first,
                };
            }
            first = end;
        }
        unreachable!("the last phase takes what is left")
    }

    /// The first phase whose networks learn from a teacher: its weights are taken before it.
    pub fn teacher_phase(&self) -> Option<usize> {
        let learns = |phase: &Arc<Phase>| matches!(phase.lesson, Lesson::Teacher { .. });
        self.phases.iter().position(learns)
    }
}

impl Phase {
    /// Index of the resolution of `step`: uniform, the same for all networks of the step.
    pub fn resolution(&self, seed: u64, step: u64) -> usize {
        match self.space.resolutions() {
            1 => 0,
            count => Draws::new(seed, "resolution", step, 0).below(count),
        }
    }

    /// Weight β of the small networks' losses at `epoch` of the phase.
    pub fn small_network_weight(&self, epoch: f64) -> f64 {
        match &self.networks {
            Networks::One(_) => 0.0,
            Networks::Random(_) => 1.0,
            Networks::Sandwich(sandwich) => sandwich.weight(&self.learning_rate, epoch),
        }
    }

    /// The networks of a step. A network with weight 0 is left out: it is not executed.
    ///
    /// # Errors
    /// If a subnet cannot be built.
    pub fn step_networks(
        &self,
        seed: u64,
        step: u64,
        epoch: f64,
    ) -> Result<Vec<StepNetwork>, SpaceError> {
        let resolution = self.resolution(seed, step);
        let labelled = |subnet| StepNetwork {
            candidates: vec![subnet],
            weight: 1.0,
            lesson: Lesson::Labels,
            dropout: self.dropout,
        };
        let random = |index: usize, weight| -> Result<StepNetwork, SpaceError> {
            let mut draws = Draws::new(seed, "subnet", step, index as u64);
            Ok(StepNetwork {
                candidates: self.space.sample(resolution, &mut draws)?,
                weight,
                lesson: self.lesson,
                dropout: self.dropout,
            })
        };
        match &self.networks {
            Networks::One(text) => {
                let subnet = self.space.space().parse_subnet(text)?;
                let subnet = self.space.at_resolution(&subnet, resolution)?;
                Ok(vec![labelled(subnet)])
            }
            Networks::Random(count) => (0..*count).map(|index| random(index, 1.0)).collect(),
            Networks::Sandwich(sandwich) => {
                let largest = self.space.largest(resolution).clone();
                let mut networks = vec![StepNetwork {
                    dropout: true,
                    ..labelled(largest)
                }];
                let weight = sandwich.weight(&self.learning_rate, epoch);
                if weight == 0.0 {
                    return Ok(networks);
                }
                for index in 1..sandwich.networks {
                    networks.push(match index {
                        1 if sandwich.smallest => StepNetwork {
                            candidates: vec![self.space.smallest(resolution).clone()],
                            weight,
                            lesson: self.lesson,
                            dropout: self.dropout,
                        },
                        _ => random(index, weight)?,
                    });
                }
                Ok(networks)
            }
        }
    }

    /// What a step costs for each image, in train-MACs; of several candidates the first counts as
    /// the one that is trained.
    ///
    /// # Errors
    /// If a subnet cannot be built.
    pub fn step_macs(&self, seed: u64, step: u64, epoch: f64) -> Result<u64, SpaceError> {
        let networks = self.step_networks(seed, step, epoch)?;
        let macs = |subnet: &Subnet| subnet.graph().macs();
        let trained = |network: &StepNetwork| {
            let tried = match network.candidates.len() {
                1 => 0,
                _ => network.candidates.iter().map(macs).sum(),
            };
            tried + 3 * macs(&network.candidates[0])
        };
        let learns = |network: &StepNetwork| matches!(network.lesson, Lesson::Teacher { .. });
        let teacher = match networks.iter().any(learns) {
            true => macs(self.space.whole_largest(self.resolution(seed, step))),
            false => 0,
        };
        Ok(teacher + networks.iter().map(trained).sum::<u64>())
    }

    /// Whether channels are sorted just before the step at `place`, the first whose small networks
    /// may run.
    pub fn sorts_before(&self, place: Place, steps_per_epoch: u64) -> bool {
        let begin = match &self.networks {
            Networks::Sandwich(sandwich) => (sandwich.delay - sandwich.ramp).max(0.0),
            _ => 0.0,
        };
        let step = (place.epoch * steps_per_epoch as f64).round() as u64;
        let first = (begin * steps_per_epoch as f64).ceil() as u64;
        !matches!(self.sort, ChannelSort::No) && step == first
    }
}

impl Sandwich {
    /// β(epoch).
    pub fn weight(&self, rate: &LearningRate, epoch: f64) -> f64 {
        let begin = self.delay - self.ramp;
        if epoch >= self.delay {
            self.multiplier
        } else if epoch <= begin || self.ramp <= 0.0 {
            0.0
        } else {
            let epsilon = self.multiplier * rate.at(self.delay) * (epoch - begin) / self.ramp;
            epsilon / rate.at(epoch)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sampler::RESOLUTION;

    fn imagenet() -> LearningRate {
        LearningRate {
            floor: 2.5e-3,
            ..LearningRate::cosine(2.6, 270.0)
        }
    }

    fn deps() -> Sandwich {
        Sandwich {
            networks: 4,
            smallest: true,
            delay: 150.0,
            ramp: 5.0,
            multiplier: 1.0,
        }
    }

    fn phase(networks: Networks, epochs: u32) -> Phase {
        Phase {
            name: "test".into(),
            epochs,
            learning_rate: LearningRate::cosine(0.1, f64::from(epochs)),
            space: StepSpace::whole(&Space::builtin("fm-nano").unwrap()).unwrap(),
            networks,
            lesson: Lesson::Largest(Distance::CrossEntropy { temperature: 1.0 }),
            dropout: false,
            sort: ChannelSort::Global,
        }
    }

    #[test]
    fn ramp_has_the_values_of_its_closed_form() {
        let rate = imagenet();
        for (epoch, eta, beta) in [
            (145.0, 1.1490792, 0.0),
            (146.0, 1.1340659, 0.1894524),
            (147.5, 1.1115886, 0.4832082),
            (149.0, 1.0891687, 0.7890476),
            (150.0, 1.0742574, 1.0),
            (200.0, rate.at(200.0), 1.0),
        ] {
            assert!((rate.at(epoch) - eta).abs() < 5e-8, "η({epoch})");
            assert!(
                (deps().weight(&rate, epoch) - beta).abs() < 5e-8,
                "β({epoch})"
            );
        }
        assert_eq!(deps().weight(&rate, 10.0), 0.0);
    }

    #[test]
    fn steps_hold_largest_smallest_and_random_networks_at_one_resolution() {
        let sandwich = Sandwich {
            delay: 10.0,
            ramp: 1.0,
            ..deps()
        };
        let phase = phase(Networks::Sandwich(sandwich), 20);
        let at = |step, epoch| phase.step_networks(3, step, epoch).unwrap();
        assert_eq!(at(0, 8.9).len(), 1);
        assert_eq!(at(0, 9.0).len(), 1, "weight 0 is not executed");
        let networks = at(7, 12.0);
        assert_eq!(networks.len(), 4);
        let subnet = |index: usize| &networks[index].candidates[0];
        let resolution = |index: usize| subnet(index).trace().get(RESOLUTION).cloned().unwrap();
        assert!((1..4).all(|index| resolution(index) == resolution(0)));
        assert!(subnet(1).graph().macs() < subnet(2).graph().macs());
        let dropouts: Vec<bool> = networks.iter().map(|network| network.dropout).collect();
        assert_eq!(dropouts, [true, false, false, false]);
        assert_eq!(
            &at(7, 12.0)[2].candidates[0],
            subnet(2),
            "a function of seed and step"
        );
        assert_ne!(&at(8, 12.0)[2].candidates[0], subnet(2));
    }

    #[test]
    fn phases_follow_each_other_and_sort_once() {
        let sandwich = Sandwich {
            delay: 3.0,
            ramp: 1.0,
            ..deps()
        };
        let schedule = Schedule {
            phases: vec![
                Arc::new(phase(Networks::Random(1), 2)),
                Arc::new(phase(Networks::Sandwich(sandwich), 4)),
            ],
            aggregation: Aggregation::Sum,
        };
        assert_eq!(schedule.epochs(), 6);
        let place = |step| schedule.place(step, 100);
        let expected = |phase, epoch, is_first| Place {
            phase,
            epoch,
            is_first,
        };
        assert_eq!(place(0), expected(0, 0.0, true));
        assert_eq!(place(150), expected(0, 1.5, false));
        assert_eq!(place(200), expected(1, 0.0, true));
        assert_eq!(place(599), expected(1, 3.99, false));
        assert_eq!(place(600), expected(1, 4.0, false));
        let sorted: Vec<u64> = (0..600)
            .filter(|&step| {
                let place = place(step);
                schedule.phases[place.phase].sorts_before(place, 100)
            })
            .collect();
        assert_eq!(sorted, [0, 400]);
    }
}
