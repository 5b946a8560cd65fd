//! How other code bases weigh the same terms (unified framework, section 2.3).

use serde::{Deserialize, Serialize};

/// How other code bases weigh the same terms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Convention {
    /// That of this crate.
    Oncefit,
    /// Mammoth's and avalanche's: DER's squared distance is a mean over classes too, EWC's and SI's
    /// penalty has no ½.
    Mammoth,
}

impl Convention {
    /// α of a squared distance of logits over `classes`.
    pub fn squared_distance(self, weight: f64, classes: usize) -> f64 {
        match self {
            Self::Oncefit => weight,
            Self::Mammoth => weight / classes as f64,
        }
    }

    /// β of a quadratic penalty.
    pub fn penalty(self, weight: f64) -> f64 {
        match self {
            Self::Oncefit => weight,
            Self::Mammoth => 2.0 * weight,
        }
    }
}
