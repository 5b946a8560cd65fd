//! Train one network once, fit it to every device and budget.
//!
//! The library behind the program: opening runs ([`LoadedRun`]), fitting them to budgets
//! ([`fit`]), reports ([`report`]). What is typed is in [`Cli`].

mod blocks;
mod chart;
#[allow(missing_docs, reason = "the help texts are the documentation")]
mod cli;
mod commands;
mod drawing;
mod error;
pub mod finder;
pub mod fit;
mod format;
mod heat_map;
mod learning_report;
mod learnt;
mod loaded;
mod page;
pub mod predicted;
mod progress;
mod provenance;
mod recipe_kind;
pub mod report;
pub mod reproduce;
mod stop;
mod study;
mod study_inputs;
mod study_recipe;
mod study_report;

pub use cli::Cli;
pub use error::{Error, Result};
pub use loaded::{EvaluationRow, LoadedRun, WhichCheckpoint};

use cli::{Command, DataCommand, RunsCommand};

/// Carries out what was typed.
///
/// # Errors
/// With the failure and its exit code.
pub fn run(cli: Cli) -> Result<()> {
    stop::ignore_file_size_signal()?;
    if let Some(threads) = cli.threads {
        if threads == 0 {
            return Err(Error::Request("--threads must be at least 1".into()));
        }
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build_global()
            .map_err(|error| Error::Request(format!("--threads {threads}: {error}")))?;
    }
    match cli.command {
        Command::Quickstart(args) => commands::quickstart(&args),
        Command::Train(args) => commands::train(&args),
        Command::Learn(args) => commands::learn(&args),
        Command::Targets(command) => commands::targets(&command),
        Command::Compare(args) => commands::compare(&args),
        Command::Evaluate(args) => commands::evaluate(&args),
        Command::Fit(args) => commands::fit(&args),
        Command::Front(args) => commands::front(&args),
        Command::Export(args) => commands::export(&args),
        Command::Report(args) => commands::report(&args),
        Command::Reproduce(args) => commands::reproduce(&args),
        Command::Study(command) => commands::study(&command),
        Command::Space(command) => commands::space(&command),
        Command::Show(args) => commands::show(&args),
        Command::Data(DataCommand::Show(args)) => commands::data_show(&args),
        Command::Data(DataCommand::Stream(args)) => commands::data_stream(&args),
        Command::Profile(args) => commands::profile(&args),
        Command::Predict(args) => commands::predict(&args),
        Command::Runs(RunsCommand::List(args)) => commands::runs_list(&args),
        Command::Runs(RunsCommand::Compare(args)) => commands::runs_compare(&args),
    }
}
