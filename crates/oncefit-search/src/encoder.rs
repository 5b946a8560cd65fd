//! Members as rows of numbers, for predictors of one's own.
//!
//! ```
//! use oncefit_search::{Encoder, Features};
//! use oncefit_space::Space;
//! let space = Space::builtin("fm-nano")?;
//! let (small, large) = (space.candidate(|_, _| 0)?, space.candidate(|_, values| values - 1)?);
//! let ordinal = Encoder::new(&space, Features::Ordinal, &[])?;
//! // The resolution, 20 of up to 28: x, x² and ln x.
//! let x: f64 = 20.0 / 28.0;
//! assert_eq!(ordinal.encode(&small)?[..3], [(0, x), (1, x * x), (2, x.ln())]);
//! let sequences = Features::NGrams { longest: 2, of_decisions: true };
//! let sequences = Encoder::new(&space, sequences, &[small.clone(), large.clone()])?;
//! // The number of decisions that a member takes is the first number.
//! assert_eq!(sequences.encode(&large)?[0], (0, 22.0));
//! # Ok::<(), oncefit_search::SearchError>(())
//! ```

use std::collections::HashMap;

use oncefit_space::{Candidate, Space};

use crate::error::Result;
use crate::features::{
    Features, FixedFeatures, hashed_row, modules, n_gram_row, n_grams, vocabulary,
};
use crate::ridge::SparseRow;

/// Turns members of a space into rows of one length ([`Features`]).
#[derive(Clone, Debug)]
pub struct Encoder {
    space: Space,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Fixed(FixedFeatures),
    Hashed {
        buckets: usize,
    },
    NGrams {
        longest: usize,
        of_decisions: bool,
        vocabulary: HashMap<u64, usize>,
    },
}

impl Encoder {
    /// An encoder. Sequences are those that occur at least three times among `members`; other
    /// features do not depend on them.
    ///
    /// # Errors
    /// If a member's shapes do not meet.
    pub fn new(space: &Space, features: Features, members: &[Candidate]) -> Result<Self> {
        let kind = match features {
            Features::Automatic | Features::Positional | Features::Ordinal => {
                Kind::Fixed(FixedFeatures::new(space, features))
            }
            Features::Hashed { buckets } => Kind::Hashed {
                buckets: buckets.max(1),
            },
            Features::NGrams {
                longest,
                of_decisions,
            } => {
                let mut counted = Vec::with_capacity(members.len());
                for member in members {
                    counted.push(n_grams(&modules(space, member, of_decisions)?, longest));
                }
                Kind::NGrams {
                    longest,
                    of_decisions,
                    vocabulary: vocabulary(&counted),
                }
            }
        };
        Ok(Self {
            space: space.clone(),
            kind,
        })
    }

    /// How many numbers a row has.
    pub fn length(&self) -> usize {
        match &self.kind {
            Kind::Fixed(features) => features.length(),
            Kind::Hashed { buckets } => *buckets,
            Kind::NGrams { vocabulary, .. } => 1 + vocabulary.len(),
        }
    }

    /// The row of a member: places with their numbers, zeros left out.
    ///
    /// # Errors
    /// If its shapes do not meet, where the features are those of its network.
    pub fn encode(&self, member: &Candidate) -> Result<SparseRow> {
        Ok(match &self.kind {
            Kind::Fixed(features) => features.row(member),
            Kind::Hashed { buckets } => hashed_row(&self.space, member, *buckets)?,
            Kind::NGrams {
                longest,
                of_decisions,
                vocabulary,
            } => {
                let modules = modules(&self.space, member, *of_decisions)?;
                n_gram_row(modules.len(), &n_grams(&modules, *longest), vocabulary)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_random::Draws;

    #[test]
    fn rows_fit_their_length_and_equal_members_have_equal_rows() {
        let space = Space::builtin("densenet-nano").unwrap();
        let mut draws = Draws::new(1, "members", 0, 0);
        let members: Vec<Candidate> = (0..20)
            .map(|_| space.sample_candidate(&mut draws).unwrap())
            .collect();
        for features in [
            Features::Automatic,
            Features::Positional,
            Features::Ordinal,
            Features::Hashed { buckets: 32 },
            Features::NGrams {
                longest: 3,
                of_decisions: false,
            },
            Features::NGrams {
                longest: 3,
                of_decisions: true,
            },
        ] {
            let encoder = Encoder::new(&space, features, &members).unwrap();
            let mut rows = std::collections::HashSet::new();
            for member in &members {
                let row = encoder.encode(member).unwrap();
                assert!(row.iter().all(|(place, _)| *place < encoder.length()));
                assert_eq!(row, encoder.encode(&member.clone()).unwrap());
                rows.insert(format!("{row:?}"));
            }
            assert!(rows.len() > 10, "{features:?}");
        }
    }
}
