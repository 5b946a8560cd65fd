//! What can go wrong with models, names and tables.

use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// A file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A model's folder or archive lacks a file, or one is malformed or not supported.
    #[error("{file}: {reason}")]
    Model {
        /// The file, inside its folder or archive.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A tensor is missing or of another shape or type.
    #[error("{file}: tensor `{tensor}` {reason}")]
    Tensor {
        /// The file.
        file: String,
        /// The tensor.
        tensor: String,
        /// What is wrong: `is 384×12, but must be 384×384`.
        reason: String,
    },
    /// A text that cannot be encoded.
    #[error("the text `{text}` {reason}")]
    Text {
        /// The text.
        text: String,
        /// What is wrong.
        reason: String,
    },
    /// A list of names is malformed.
    #[error("{file}: {reason}")]
    Names {
        /// The list.
        file: String,
        /// What is wrong.
        reason: String,
    },
    /// A table is malformed, changed by hand or does not fit what is asked of it.
    #[error("targets {file}: {reason}")]
    Table {
        /// The table.
        file: String,
        /// What is wrong.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, TextError>;
