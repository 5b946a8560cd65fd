//! What can go wrong in a search.

use std::path::PathBuf;

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
        "no subnet of `{space}` has at most {}: the smallest ({subnet}) has {}; ask for {} or more",
        metric.show(*limit),
        metric.show(*closest),
        metric.write(*closest)
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
    /// Each limit can be met, but no member was found that meets all of them.
    #[error(
        "no subnet of `{space}` was found within all limits at once; the closest ({subnet}) has {closest}"
    )]
    InfeasibleTogether {
        /// Name of the space.
        space: String,
        /// The costs of the closest member, with the limits.
        closest: String,
        /// The closest member.
        subnet: String,
    },
    /// Nothing here can compute a metric that is limited.
    #[error("{metric} are limited, but {coster} cannot compute them; it knows {known}")]
    UnknownMetric {
        /// The metric.
        metric: Metric,
        /// What was asked for costs.
        coster: String,
        /// What it knows.
        known: String,
    },
    /// The objective failed or gave a number that is no score.
    #[error("cannot score subnet {subnet}: {reason}")]
    Objective {
        /// The subnet.
        subnet: String,
        /// Why.
        reason: String,
    },
    /// A setting of a searcher is illegal.
    #[error("{0}")]
    Settings(String),
    /// A study's log cannot be used.
    #[error("cannot use study `{}`: {message}", folder.display())]
    Study {
        /// The folder.
        folder: PathBuf,
        /// Why.
        message: String,
    },
    /// A file cannot be read or written.
    #[error("cannot {action} `{}`: {source}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A table's content is wrong.
    #[error("cannot read table `{table}`: {message}")]
    Table {
        /// Name of the table.
        table: String,
        /// What is wrong.
        message: String,
    },
}

/// The result of this crate's functions.
pub type Result<T> = std::result::Result<T, SearchError>;
