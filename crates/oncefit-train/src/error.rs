//! What can go wrong while a recipe is read, a network trained or a run folder written.

use std::path::{Path, PathBuf};

use oncefit_data::DataError;
use oncefit_nn::NnError;
use oncefit_space::SpaceError;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The space or a subnet is not legal.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// A network cannot be executed.
    #[error(transparent)]
    Network(#[from] NnError),
    /// The data cannot be read or used.
    #[error(transparent)]
    Data(#[from] DataError),
    /// A recipe is not legal; the text shows the place.
    #[error("{0}")]
    Recipe(String),
    /// A file or folder of a run cannot be read or written.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A run folder is not in the state that the command needs.
    #[error("{path}: {reason}")]
    Run {
        /// The run folder or the file in it.
        path: PathBuf,
        /// What is wrong, and what helps.
        reason: String,
    },
    /// A checkpoint is cut short or belongs to something else.
    #[error("checkpoint {path} cannot be used: {reason}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Training went wrong numerically and was stopped.
    #[error(
        "training diverged at step {step}, subnet {subnet}: {reason}; the checkpoint of step {checkpoint_step} is kept. A smaller learning rate is the usual cure"
    )]
    Diverged {
        /// The step.
        step: u64,
        /// The subnet whose loss or gradient it was.
        subnet: String,
        /// The number and the layer.
        reason: String,
        /// The last good checkpoint.
        checkpoint_step: u64,
    },
}

impl TrainError {
    /// Makes the error of a file from the system's.
    pub fn file(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File {
            action,
            path,
            source,
        }
    }
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, TrainError>;
