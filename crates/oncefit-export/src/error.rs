//! What can go wrong while a file is written, read or checked.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The network holds something that ONNX cannot say or that is not there.
    #[error("cannot export `{path}`: {reason}")]
    Network {
        /// The graph node.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
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
    /// A file is no model that can be run here.
    #[error("{path} is no usable ONNX file: {reason}")]
    Model {
        /// The file.
        path: PathBuf,
        /// What the engine said.
        reason: String,
    },
    /// The images given do not fit the model.
    #[error("{path} takes {needed} values ({detail}), these are {found}")]
    Input {
        /// The file.
        path: PathBuf,
        /// Values given.
        found: usize,
        /// Values needed.
        needed: usize,
        /// How the number comes about.
        detail: String,
    },
    /// The file does not compute what the network computes.
    #[error(
        "{path} gives other logits than the network in {engine}: they differ by up to {difference:e} where the largest is {largest:e}"
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// The engine that ran it.
        engine: &'static str,
        /// Largest difference.
        difference: f32,
        /// Largest absolute logit.
        largest: f32,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, ExportError>;
