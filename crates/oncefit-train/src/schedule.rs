//! Schedules: which networks run at a step, with which weight, against which target.
//!
//! A schedule is a value; what happens at a step is a function of the schedule, the step and the
//! seed. Once-for-All's relatives differ only in this value:
//!
//! - [`Schedule::Plain`] trains one network;
//! - [`Schedule::Delayed`] with a delay is DepS: the largest network alone until
//!   `delay − ramp` epochs, then the largest, the smallest and random ones, the weight of the
//!   small ones rising over the ramp;
//! - [`Schedule::Delayed`] without delay and ramp is BigNAS' sandwich rule.
//!
//! DepS' ramp (brief `delayed-shrinking` §4.2): with `η` the learning rate, `t` in epochs,
//!
//! ```text
//! ε(t) = m · η(delay) · (t − (delay − ramp)) / ramp      on the ramp,  m · η(t) after it
//! β(t) = ε(t) / η(t)                                      the weight of a small network's loss
//! ```

use oncefit_random::Draws;
use oncefit_space::{DecisionSlot, Space, SpaceError, Subnet, Value};
use serde::{Deserialize, Serialize};

/// The learning rate over time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct LearningRate {
    /// The highest value.
    pub base: f64,
    /// The lowest value of the cosine.
    pub floor: f64,
    /// Epochs of linear warm-up from `base / 10`.
    pub warm_up_epochs: f64,
    /// Epochs until the cosine ends, warm-up included.
    pub epochs: f64,
}

impl LearningRate {
    /// The learning rate at `epoch` (fractional).
    pub fn at(&self, epoch: f64) -> f64 {
        if epoch < self.warm_up_epochs {
            return self.base * (0.1 + 0.9 * epoch / self.warm_up_epochs);
        }
        let span = self.epochs - self.warm_up_epochs;
        let progress = ((epoch - self.warm_up_epochs) / span).clamp(0.0, 1.0);
        let cosine = 0.5 * self.base * (1.0 + (std::f64::consts::PI * progress).cos());
        cosine.max(self.floor)
    }
}

/// Which networks a training step runs.
#[derive(Clone, PartialEq, Debug)]
pub enum Schedule {
    /// One network, always the same.
    Plain {
        /// Its compact text, `largest` or `smallest`.
        subnet: String,
    },
    /// The largest network; from `delay − ramp` epochs on also the smallest and random ones.
    Delayed(Delayed),
}

/// The settings of DepS and of the sandwich rule.
#[derive(Clone, PartialEq, Debug)]
pub struct Delayed {
    /// Networks in a step once shrinking has begun (n): the largest, the smallest, n − 2 random.
    pub networks: usize,
    /// Epoch at which the small networks have their full weight (T_w).
    pub delay: f64,
    /// Epochs over which their weight rises (S).
    pub ramp: f64,
    /// Their final weight (m).
    pub multiplier: f64,
    /// Softmax temperature of the in-place distillation (τ).
    pub temperature: f32,
    /// Whether channels are sorted by importance when shrinking begins.
    pub sorts_channels: bool,
}

/// What a network of a step learns from.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Teacher {
    /// The labels, smoothed.
    Labels,
    /// The soft labels of the step's first network, at this temperature.
    Largest {
        /// τ
        temperature: f32,
    },
}

/// A network of a step.
#[derive(Clone, Debug)]
pub struct StepNetwork {
    /// Which.
    pub subnet: Subnet,
    /// Weight of its loss.
    pub weight: f64,
    /// What it learns from.
    pub teacher: Teacher,
    /// Whether its dropout is on.
    pub dropout: bool,
}

/// Name of the shared decision that sets the input size.
pub const RESOLUTION: &str = "resolution";

/// A space as a schedule draws from it: all networks of a step read the same batch, so they share
/// one resolution.
#[derive(Clone, Debug)]
pub struct StepSpace {
    space: Space,
    /// The values of [`RESOLUTION`]; one `None` where the space has no such decision.
    resolutions: Vec<Option<Value>>,
    /// Largest and smallest member at each resolution.
    ends: Vec<(Subnet, Subnet)>,
}

impl StepSpace {
    /// A space to draw from.
    ///
    /// # Errors
    /// If a member of the space cannot be built.
    pub fn new(space: &Space) -> Result<Self, SpaceError> {
        let resolutions: Vec<Option<Value>> = space
            .decisions()
            .iter()
            .find(|slot| slot.path == RESOLUTION)
            .map_or(vec![None], |slot| {
                slot.domain.values.iter().cloned().map(Some).collect()
            });
        let (largest, smallest) = (space.largest()?, space.smallest()?);
        let ends = resolutions
            .iter()
            .map(|resolution| {
                let resolution = resolution.as_ref();
                Ok((
                    at_resolution(space, &largest, resolution)?,
                    at_resolution(space, &smallest, resolution)?,
                ))
            })
            .collect::<Result<_, SpaceError>>()?;
        Ok(Self {
            space: space.clone(),
            resolutions,
            ends,
        })
    }

    /// The space.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// How many resolutions there are.
    pub fn resolutions(&self) -> usize {
        self.resolutions.len()
    }

    /// The largest member at a resolution.
    pub fn largest(&self, resolution: usize) -> &Subnet {
        &self.ends[resolution].0
    }

    /// The smallest member at a resolution.
    pub fn smallest(&self, resolution: usize) -> &Subnet {
        &self.ends[resolution].1
    }

    /// A random member at a resolution, every decision uniform (Once-for-All's sampling).
    ///
    /// # Errors
    /// If the member cannot be built.
    pub fn sample(&self, resolution: usize, draws: &mut Draws) -> Result<Subnet, SpaceError> {
        let fixed = self.resolutions[resolution].as_ref();
        self.space.build(&mut |slot| match fixed {
            Some(value) if slot.path == RESOLUTION => position(slot, value),
            _ => draws.below(slot.domain.values.len()),
        })
    }
}

/// `subnet` with another input resolution (`None`: as it is).
///
/// # Errors
/// If the member cannot be built.
pub fn at_resolution(
    space: &Space,
    subnet: &Subnet,
    resolution: Option<&Value>,
) -> Result<Subnet, SpaceError> {
    space.build(&mut |slot| {
        let value = match resolution {
            Some(value) if slot.path == RESOLUTION => Some(value),
            _ => subnet.trace().get(&slot.path),
        };
        value.map_or(0, |value| position(slot, value))
    })
}

fn position(slot: &DecisionSlot, value: &Value) -> usize {
    slot.domain
        .values
        .iter()
        .position(|other| other == value)
        .unwrap_or(0)
}

impl Schedule {
    /// Index of the resolution of `step`: uniform, the same for all networks of the step.
    pub fn resolution(&self, space: &StepSpace, seed: u64, step: u64) -> usize {
        match space.resolutions() {
            1 => 0,
            count => Draws::new(seed, "resolution", step, 0).below(count),
        }
    }

    /// Weight β of the small networks' losses at `epoch`.
    pub fn small_network_weight(&self, rate: &LearningRate, epoch: f64) -> f64 {
        match self {
            Self::Plain { .. } => 0.0,
            Self::Delayed(delayed) => delayed.weight(rate, epoch),
        }
    }

    /// The networks of a step. A network with weight 0 is left out: it is not executed.
    ///
    /// # Errors
    /// If a subnet cannot be built.
    pub fn networks(
        &self,
        space: &StepSpace,
        rate: &LearningRate,
        seed: u64,
        step: u64,
        epoch: f64,
    ) -> Result<Vec<StepNetwork>, SpaceError> {
        let resolution = self.resolution(space, seed, step);
        let labelled = |subnet| StepNetwork {
            subnet,
            weight: 1.0,
            teacher: Teacher::Labels,
            dropout: true,
        };
        match self {
            Self::Plain { subnet } => {
                let subnet = space.space().parse_subnet(subnet)?;
                let value = space.resolutions[resolution].as_ref();
                let value = if subnet_names_resolution(self) {
                    None
                } else {
                    value
                };
                Ok(vec![labelled(at_resolution(
                    space.space(),
                    &subnet,
                    value,
                )?)])
            }
            Self::Delayed(delayed) => {
                let mut networks = vec![labelled(space.largest(resolution).clone())];
                let weight = delayed.weight(rate, epoch);
                if weight == 0.0 {
                    return Ok(networks);
                }
                for index in 1..delayed.networks {
                    let subnet = match index {
                        1 => space.smallest(resolution).clone(),
                        _ => {
                            let mut draws = Draws::new(seed, "subnet", step, index as u64);
                            space.sample(resolution, &mut draws)?
                        }
                    };
                    networks.push(StepNetwork {
                        subnet,
                        weight,
                        teacher: Teacher::Largest {
                            temperature: delayed.temperature,
                        },
                        dropout: false,
                    });
                }
                Ok(networks)
            }
        }
    }

    /// Whether channels are sorted just before `step`, the first whose small networks may run.
    pub fn sorts_channels_before(&self, step: u64, steps_per_epoch: u64) -> bool {
        match self {
            Self::Plain { .. } => false,
            Self::Delayed(delayed) => {
                let begin = (delayed.delay - delayed.ramp).max(0.0) * steps_per_epoch as f64;
                delayed.sorts_channels && step == begin.ceil() as u64
            }
        }
    }
}

/// A plain schedule whose text is a whole trace trains at the resolution it names.
fn subnet_names_resolution(schedule: &Schedule) -> bool {
    matches!(schedule, Schedule::Plain { subnet } if subnet.contains(RESOLUTION))
}

impl Delayed {
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

    const IMAGENET: LearningRate = LearningRate {
        base: 2.6,
        floor: 2.5e-3,
        warm_up_epochs: 0.0,
        epochs: 270.0,
    };

    fn deps() -> Delayed {
        Delayed {
            networks: 4,
            delay: 150.0,
            ramp: 5.0,
            multiplier: 1.0,
            temperature: 1.0,
            sorts_channels: true,
        }
    }

    #[test]
    fn ramp_has_the_closed_form_values_of_the_brief() {
        for (epoch, eta, beta) in [
            (145.0, 1.1490792, 0.0),
            (146.0, 1.1340659, 0.1894524),
            (147.5, 1.1115886, 0.4832082),
            (149.0, 1.0891687, 0.7890476),
            (150.0, 1.0742574, 1.0),
            (200.0, IMAGENET.at(200.0), 1.0),
        ] {
            assert!((IMAGENET.at(epoch) - eta).abs() < 5e-8, "η({epoch})");
            assert!(
                (deps().weight(&IMAGENET, epoch) - beta).abs() < 5e-8,
                "β({epoch})"
            );
        }
        assert_eq!(IMAGENET.at(270.0), 2.5e-3);
        assert_eq!(deps().weight(&IMAGENET, 10.0), 0.0);
    }

    #[test]
    fn warm_up_is_linear_and_meets_the_cosine() {
        let rate = LearningRate {
            warm_up_epochs: 5.0,
            ..IMAGENET
        };
        assert!((rate.at(0.0) - 0.26).abs() < 1e-12);
        assert!((rate.at(2.5) - 1.43).abs() < 1e-12);
        assert!((rate.at(5.0) - 2.6).abs() < 1e-12);
    }

    #[test]
    fn steps_hold_largest_smallest_and_random_networks_at_one_resolution() {
        let space = StepSpace::new(&Space::builtin("fm-nano").unwrap()).unwrap();
        let rate = LearningRate {
            base: 0.1,
            floor: 0.0,
            warm_up_epochs: 0.0,
            epochs: 20.0,
        };
        let schedule = Schedule::Delayed(Delayed {
            delay: 10.0,
            ramp: 1.0,
            ..deps()
        });
        let at = |step, epoch| schedule.networks(&space, &rate, 3, step, epoch).unwrap();
        assert_eq!(at(0, 8.9).len(), 1);
        assert_eq!(at(0, 9.0).len(), 1, "weight 0 is not executed");
        let networks = at(7, 12.0);
        assert_eq!(networks.len(), 4);
        let resolution =
            |network: &StepNetwork| network.subnet.trace().get(RESOLUTION).cloned().unwrap();
        assert!(
            networks
                .iter()
                .all(|network| resolution(network) == resolution(&networks[0]))
        );
        assert!(networks[1].subnet.graph().macs() < networks[2].subnet.graph().macs());
        assert_eq!(
            networks
                .iter()
                .map(|network| network.dropout)
                .collect::<Vec<_>>(),
            [true, false, false, false]
        );
        assert_eq!(
            at(7, 12.0)[2].subnet,
            networks[2].subnet,
            "a function of seed and step"
        );
        assert_ne!(at(8, 12.0)[2].subnet, networks[2].subnet);
        let sorted: Vec<u64> = (0..2000)
            .filter(|&step| schedule.sorts_channels_before(step, 100))
            .collect();
        assert_eq!(sorted, [900]);
    }
}
