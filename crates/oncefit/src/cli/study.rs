//! What can be typed after `oncefit study`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum StudyCommand {
    /// Begin a study from its file, or join it from another terminal
    Run(StudyRunArgs),
    /// Go on with a study that was stopped or killed
    Resume(StudyResumeArgs),
    /// Show a study: its state, its best members, its curves
    Show(StudyShowArgs),
    /// Compare studies of one objective, seed by seed
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
    /// Seconds after which no trial is begun
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
}

#[derive(Debug, Args)]
pub struct StudyResumeArgs {
    /// Folder of the study
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// Seconds after which no trial is begun
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
    /// Also draw the curves
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}
