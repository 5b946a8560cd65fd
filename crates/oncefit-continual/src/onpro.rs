//! OnPro, online prototype learning (Wei et al., ICCV 2023), as the authors' code computes it
//! (`weilllllls/OnPro`; the paper's text was not at hand).
//!
//! ```text
//! first classes:  CE(views of new) + L_n(turned new) + L_pro(new) + L_pro(memory batch B)
//! later:          CE(views of replay) + L_n(turned new) + L_uni(turned replay) + L_pro(new) + L_pro(B)
//! ```
//!
//! with replay = B in the first step of a task and mixtures of the memory ([`feedback`]) in the others.

mod equilibrium;
mod feedback;
mod instance;
mod turns;

use serde::{Deserialize, Serialize};

pub use self::equilibrium::{Centres, prototype_equilibrium};
pub use self::feedback::{
    MixedLabel, Mixtures, PairAllocation, PairChoice, allocate_pairs, feedback, pair_shares,
};
pub use self::instance::{Instance, InstanceKind, instance_loss};
pub use self::turns::{Turns, turned_copies};
use crate::error::{Result, setting};

/// The constants of OnPro; the defaults are the authors' for CIFAR-10.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct OnPro {
    /// Images of a draw from the memory, at most.
    pub replay: usize,
    /// Images of a draw for each class seen.
    pub replay_of_class: usize,
    /// Turned copies of an image, each a class of its own in the instance loss.
    pub turns: Turns,
    /// Outputs of the projection, one linear layer on the features.
    pub projection: usize,
    /// Weight of the instance loss; 0 switches it off.
    pub instance: f64,
    /// τ of the instance loss.
    pub instance_temperature: f64,
    /// λ of the instance loss once there are earlier tasks; 1 in the first (the authors': ½ on
    /// CIFAR-10, 1 on CIFAR-100 and Tiny-ImageNet).
    pub similarity: f64,
    /// Weight of the prototype-equilibrium loss; 0 switches it off.
    pub equilibrium: f64,
    /// τ of the prototype-equilibrium loss.
    pub equilibrium_temperature: f64,
    /// ρ, the share of the replayed images that are mixed among each other; the others are mixtures of
    /// pairs of classes. 1 switches these off.
    pub base_share: f64,
    /// P, the probability that a group of images is mixed.
    pub mixing: f64,
    /// Which pairs of classes are mixed.
    pub pairs: PairChoice,
    /// How images are shared among them.
    pub allocation: PairAllocation,
    /// What divides 1 / distance of two centres; 1 in the authors' code.
    pub pair_temperature: f64,
    /// Smallest distance; not in the authors' code, where equal centres give infinity.
    pub distance_floor: f64,
    /// Whether the new images' labels are learnt in later tasks too; in the authors' code only in the
    /// first.
    pub learns_new_labels: bool,
}

impl Default for OnPro {
    fn default() -> Self {
        Self {
            replay: 64,
            replay_of_class: 7,
            turns: Turns::Sixteen,
            projection: 128,
            instance: 1.0,
            instance_temperature: 0.07,
            similarity: 0.5,
            equilibrium: 1.0,
            equilibrium_temperature: 0.5,
            base_share: 0.75,
            mixing: 0.6,
            pairs: PairChoice::NearCentres,
            allocation: PairAllocation::Multinomial,
            pair_temperature: 1.0,
            distance_floor: 1e-3,
            learns_new_labels: false,
        }
    }
}

impl OnPro {
    /// The profile for two cores, ours: four turns, half the replay, 32 projections.
    pub fn lite() -> Self {
        Self {
            replay: 32,
            turns: Turns::Four,
            projection: 32,
            ..Self::default()
        }
    }

    /// These constants with those in `given` instead.
    ///
    /// # Errors
    /// If a key is unknown or a value of another type.
    pub fn changed(&self, given: &toml::Table) -> Result<Self> {
        let mut all = toml::Table::try_from(self).expect("plain numbers and words");
        for (key, value) in given {
            // A number may be written without a point.
            let value = match (all.get(key), value) {
                (Some(toml::Value::Float(_)), toml::Value::Integer(whole)) => {
                    toml::Value::Float(*whole as f64)
                }
                _ => value.clone(),
            };
            all.insert(key.clone(), value);
        }
        all.try_into().map_err(|error: toml::de::Error| {
            setting(
                "section `onpro`",
                error.message(),
                "numbers and words as documented",
            )
        })
    }

    /// Images of a draw when so many classes were seen.
    pub fn draw(&self, classes: usize) -> usize {
        self.replay.min(self.replay_of_class * classes)
    }

    /// Succeeds if the constants are legal and the projection fits to features of `width`.
    ///
    /// # Errors
    /// Naming the constant and its legal values.
    pub fn check(&self, width: usize) -> Result<()> {
        let counts = [
            ("`onpro.replay`", self.replay),
            ("`onpro.replay_of_class`", self.replay_of_class),
            ("`onpro.projection`", self.projection),
        ];
        for (what, count) in counts {
            if count == 0 {
                return Err(setting(what, 0, "at least 1"));
            }
        }
        if self.projection > width {
            let legal = format!("at most {width}, the width of the smallest network's features");
            return Err(setting("`onpro.projection`", self.projection, legal));
        }
        let above = [
            ("`onpro.instance_temperature`", self.instance_temperature),
            ("`onpro.similarity`", self.similarity),
            (
                "`onpro.equilibrium_temperature`",
                self.equilibrium_temperature,
            ),
            ("`onpro.pair_temperature`", self.pair_temperature),
            ("`onpro.distance_floor`", self.distance_floor),
        ];
        for (what, value) in above {
            if !(value > 0.0 && value.is_finite()) {
                return Err(setting(what, value, "above 0"));
            }
        }
        let weights = [
            ("`onpro.instance`", self.instance),
            ("`onpro.equilibrium`", self.equilibrium),
        ];
        for (what, value) in weights {
            if !(value >= 0.0 && value.is_finite()) {
                return Err(setting(what, value, "0 (off) or more"));
            }
        }
        let shares = [
            ("`onpro.base_share`", self.base_share),
            ("`onpro.mixing`", self.mixing),
        ];
        for (what, value) in shares {
            if !(0.0..=1.0).contains(&value) {
                return Err(setting(what, value, "from 0 to 1"));
            }
        }
        Ok(())
    }
}
