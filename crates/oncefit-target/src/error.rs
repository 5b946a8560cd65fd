//! What can go wrong around targets and predictors.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A file cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file does not hold what it should.
    #[error("{path}: {reason}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong with it, and where.
        reason: String,
    },
    /// A text that is no operator.
    #[error("`{key}` describes no operator: {reason}")]
    Key {
        /// The text.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A table lacks operators of a network.
    #[error(
        "the table of {device} has no time for {missing} of the operators of this network: {list}; {hint}"
    )]
    MissingOperators {
        /// The device.
        device: String,
        /// How many.
        missing: usize,
        /// The first of them.
        list: String,
        /// What can be done.
        hint: &'static str,
    },
    /// A target, probes or a predictor of another space.
    #[error("{what} was made for space `{found}`, not for `{wanted}`; {hint}")]
    OtherSpace {
        /// What it is.
        what: String,
        /// The space it was made for.
        found: String,
        /// The space at hand.
        wanted: String,
        /// What can be done.
        hint: &'static str,
    },
    /// Something that was asked for is impossible.
    #[error("{0}")]
    Request(String),
    /// A network cannot be built.
    #[error(transparent)]
    Space(#[from] oncefit_space::SpaceError),
    /// A network cannot be executed.
    #[error(transparent)]
    Network(#[from] oncefit_nn::NnError),
    /// A network cannot be exported or run as a file.
    #[error(transparent)]
    Export(#[from] oncefit_export::ExportError),
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, TargetError>;
