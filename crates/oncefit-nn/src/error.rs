//! What can go wrong between a space, its weights and an execution.

use oncefit_space::SpaceError;

/// An error of this crate: what was being done, to which thing, with which values.
#[derive(Debug, thiserror::Error)]
pub enum NnError {
    /// A graph, space or subnet was not legal.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A graph holds a combination of operations that cannot be executed.
    #[error("cannot execute `{path}`: {reason}")]
    Unsupported {
        /// The graph node.
        path: String,
        /// What is not supported, and what would be.
        reason: String,
    },
    /// A graph asks for a parameter that the weights do not hold.
    #[error("parameter `{name}` is missing from the weights")]
    MissingParameter {
        /// Name of the parameter.
        name: String,
    },
    /// A parameter does not have the shape that the graph needs.
    #[error("parameter `{name}` has shape {found:?}, but {needed}")]
    ParameterShape {
        /// Name of the parameter.
        name: String,
        /// Shape in the weights.
        found: Vec<usize>,
        /// What the graph needs.
        needed: String,
    },
    /// A file of weights or a name map cannot be used; the text names it.
    #[error("{0}")]
    Weights(String),
    /// A batch does not fit the graph's input.
    #[error("{what} has {found} values, but {needed} were expected ({detail})")]
    BatchSize {
        /// The buffer.
        what: &'static str,
        /// Its length.
        found: usize,
        /// The length expected.
        needed: usize,
        /// How the expected length comes about.
        detail: String,
    },
    /// Numbers that are to be rounded to integers are none.
    #[error("{what} holds {value}, which no range of integers can stand for")]
    NotFinite {
        /// The image or parameter.
        what: String,
        /// The value.
        value: f32,
    },
    /// An evaluation was asked for with batch-norm statistics of another network.
    #[error(
        "the network is not calibrated: {reason}; calibrate this subnet before it is evaluated, extracted or exported"
    )]
    NotCalibrated {
        /// What is missing or does not agree.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, NnError>;
