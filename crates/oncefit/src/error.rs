//! What a command can fail with, and the exit code of each failure.

use std::path::PathBuf;

use oncefit_continual::ContinualError;
use oncefit_data::DataError;
use oncefit_export::ExportError;
use oncefit_nn::NnError;
use oncefit_search::SearchError;
use oncefit_space::SpaceError;
use oncefit_target::TargetError;
use oncefit_text::TextError;
use oncefit_train::TrainError;

/// An error of a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// From the space.
    #[error(transparent)]
    Space(#[from] SpaceError),
    /// From the network.
    #[error(transparent)]
    Network(#[from] NnError),
    /// From the data.
    #[error(transparent)]
    Data(#[from] DataError),
    /// From training or the run folder.
    #[error(transparent)]
    Train(#[from] TrainError),
    /// From continual learning.
    #[error(transparent)]
    Learning(#[from] ContinualError),
    /// From the search.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// From an exported file.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// From a target or a predictor.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// From texts and their vectors.
    #[error(transparent)]
    Text(#[from] TextError),
    /// A file of the command itself.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was being done.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The request makes no sense; the message says what would.
    #[error("{0}")]
    Request(String),
    /// The command did what it could, and it was not enough.
    #[error("{0}")]
    Failed(String),
    /// The command was asked to stop and has saved its state.
    #[error("{0}")]
    Stopped(String),
}

impl Error {
    /// The exit code: 1 for failures, 2 for requests that make no sense, 130 when stopped.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Stopped(_) => 130,
            Self::Request(_)
            | Self::Space(_)
            | Self::Data(DataError::Setting { .. })
            | Self::Search(
                SearchError::Space(_)
                | SearchError::Infeasible { .. }
                | SearchError::InfeasibleTogether { .. }
                | SearchError::UnknownMetric { .. }
                | SearchError::Settings(_),
            )
            | Self::Target(TargetError::Request(_) | TargetError::Space(_)) => 2,
            Self::Train(error) => training_code(error),
            Self::Learning(ContinualError::Run(error)) => training_code(error),
            Self::Learning(
                ContinualError::Space(_)
                | ContinualError::Data(DataError::Setting { .. })
                | ContinualError::Setting { .. }
                | ContinualError::NotAvailable { .. },
            ) => 2,
            _ => 1,
        }
    }
}

fn training_code(error: &TrainError) -> u8 {
    match error {
        TrainError::Recipe(_)
        | TrainError::Space(_)
        | TrainError::Data(DataError::Setting { .. }) => 2,
        _ => 1,
    }
}

/// The result of a command.
pub type Result<T> = std::result::Result<T, Error>;
