//! What can go wrong in a search.

use oncefit_space::SpaceError;

use crate::limit::Metric;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A member of the space cannot be built.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// No member of the space is within a limit.
    #[error(
        "no subnet of `{space}` has at most {limit} {metric}: the smallest ({subnet}) has {closest}; ask for {closest} or more"
    )]
    Infeasible {
        /// Name of the space.
        space: String,
        /// What is limited.
        metric: Metric,
        /// The limit.
        limit: u64,
        /// The lowest value found.
        closest: u64,
        /// The subnet that has it.
        subnet: String,
    },
    /// The objective failed or gave a number that is no score.
    #[error("cannot score subnet {subnet}: {reason}")]
    Objective {
        /// The subnet.
        subnet: String,
        /// Why.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, SearchError>;
