//! What can be typed after `oncefit study`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

const COMPARE: &str = "Prints, for the seeds that all studies have, the mean of the best score after a quarter, half and all \
of the full evaluations, its standard deviation over seeds, and how many seeds are won and lost against \
the first study, with the p-value of a one-sided sign test. A screening's small budgets count as parts of \
a full evaluation.

Example: oncefit study compare studies/random studies/surrogate --html compare.html";

#[derive(Debug, Subcommand)]
pub enum StudyCommand {
    /// Begin a study from its file, or join it from another terminal
    Run(StudyRunArgs),
    /// Go on with a study that was stopped or killed
    Resume(StudyResumeArgs),
    /// Show a study: its state and its best members
    Show(StudyShowArgs),
    /// Compare searchers: studies of one objective, seed by seed
    #[command(after_help = COMPARE)]
    Compare(StudyCompareArgs),
}

#[derive(Debug, Args)]
pub struct StudyRunArgs {
    /// Study file
    #[arg(value_name = "STUDY.toml")]
    pub study: PathBuf,
    /// Folder [default: studies/<name of the study>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Remove a study that is in the folder already
    #[arg(long)]
    pub overwrite: bool,
    /// Seconds after which no trial is begun; a training in work is saved and goes on later
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
}

#[derive(Debug, Args)]
pub struct StudyResumeArgs {
    /// Folder of the study
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Seconds after which no trial is begun; a training in work is saved and goes on later
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
}

#[derive(Debug, Args)]
pub struct StudyShowArgs {
    /// Folder of the study
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// How many of the best members are shown
    #[arg(long, default_value_t = 10, value_name = "N")]
    pub top: usize,
    /// Print JSON: every trial
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct StudyCompareArgs {
    /// Folders of studies, two or more; the others are compared with the first
    #[arg(required = true, num_args = 2.., value_name = "DIR")]
    pub folders: Vec<PathBuf>,
    /// Also draw the curves of the best so far, on one page
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
