//! What can go wrong beyond the graph and its weights.

use oncefit_nn::NnError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum BurnError {
    /// A graph, its weights or a batch are not what they must be.
    #[error(transparent)]
    Network(#[from] NnError),
    /// A device cannot be used.
    #[error("cannot use the device `{name}`: {reason}")]
    Device {
        /// The name that was asked for.
        name: String,
        /// Why not, and which names there are.
        reason: String,
    },
    /// The device failed.
    #[error("the device failed while {doing}: {reason}")]
    Execution {
        /// What was being done.
        doing: &'static str,
        /// What the tensor library says.
        reason: String,
    },
    /// The gradients given to a backward pass or an optimiser do not fit.
    #[error("{what} has {found} values, but {needed} were expected")]
    Length {
        /// The buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length expected.
        needed: usize,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, BurnError>;
