//! What can go wrong in continual learning.

/// An error of this crate: what was being done, to which thing, with which values.
#[derive(Debug, thiserror::Error)]
pub enum ContinualError {
    /// The data could not be read or does not fit.
    #[error(transparent)]
    Data(#[from] oncefit_data::DataError),
    /// The network could not be executed.
    #[error(transparent)]
    Network(#[from] oncefit_nn::NnError),
    /// The space of the network is not legal.
    #[error(transparent)]
    Space(#[from] oncefit_space::SpaceError),
    /// The targets of a head.
    #[error(transparent)]
    Text(#[from] oncefit_text::TextError),
    /// A recipe or a run folder.
    #[error(transparent)]
    Run(#[from] oncefit_train::TrainError),
    /// A setting that is not legal.
    #[error("{what} is {found}; expected {expected}")]
    Setting {
        /// The setting.
        what: &'static str,
        /// Its value.
        found: String,
        /// The legal values.
        expected: String,
    },
    /// A task of a stream has no images.
    #[error("task {} of the stream has no {part} images (classes {classes:?})", .task + 1)]
    EmptyTask {
        /// The task, from 0.
        task: usize,
        /// Training or test.
        part: &'static str,
        /// Its classes.
        classes: Vec<u32>,
    },
    /// A label that the network's head has no output for.
    #[error("the stream brings class {label}, but the network has {classes} outputs")]
    UnknownClass {
        /// The label.
        label: u32,
        /// Outputs of the head.
        classes: usize,
    },
    /// A value that is not finite; the learner is left as it was before the step.
    #[error("{what} is not finite at step {step}: {detail}; the learner is unchanged")]
    NotFinite {
        /// What it is.
        what: &'static str,
        /// The training step.
        step: u64,
        /// Where.
        detail: String,
    },
    /// A state that cannot be restored.
    #[error("cannot restore the learner: {reason}; it is unchanged")]
    State {
        /// Why not.
        reason: String,
    },
    /// What is not there yet.
    #[error("{what} is not available: {reason}")]
    NotAvailable {
        /// The method or option.
        what: String,
        /// Why not.
        reason: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, ContinualError>;

pub(crate) fn setting(
    what: &'static str,
    found: impl ToString,
    expected: impl Into<String>,
) -> ContinualError {
    ContinualError::Setting {
        what,
        found: found.to_string(),
        expected: expected.into(),
    }
}
