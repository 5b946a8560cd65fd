//! What can be typed for continual learning.
#![allow(missing_docs, reason = "the help texts are the documentation")]

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use oncefit_continual::MetricConvention;

#[derive(Debug, Args)]
pub struct LearnArgs {
    /// Recipe file, or with --resume a run folder
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Run folder [default: runs/<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue a run that was stopped or killed, with its memory, from the last saved state
    #[arg(long, conflicts_with_all = ["overwrite", "seed"])]
    pub resume: bool,
    /// Remove a run that is in the folder already
    #[arg(long)]
    pub overwrite: bool,
    /// Seed, instead of the recipe's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Say what it would cost, from a few steps, and write nothing
    #[arg(long, conflicts_with_all = ["resume", "overwrite"])]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct CompareArgs {
    /// Recipe files; differences are to the first
    #[arg(required = true, value_name = "RECIPE")]
    pub recipes: Vec<PathBuf>,
    /// Seeds that every recipe runs with: 0..4 are five, 0 to 4; or a list, 0,3,7
    #[arg(long, default_value = "0..4")]
    pub seeds: Seeds,
    /// Folder for the runs and the page; runs that are finished there are kept, others go on
    #[arg(long, default_value = "comparison", value_name = "DIR")]
    pub out: PathBuf,
    /// Whose definition of forgetting is shown
    #[arg(long, value_enum, default_value = "oncefit")]
    pub convention: ConventionArg,
    /// Remove runs of other recipes that are in the way
    #[arg(long)]
    pub overwrite: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DataStreamArgs {
    /// Recipe file of continual learning
    pub recipe: PathBuf,
    /// Seed, instead of the recipe's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write a contact sheet, a row for each task, as PNG
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Images of each task on the sheet
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub per_task: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum ConventionArg {
    /// From the best row before the last one; may be negative
    #[value(name = "oncefit", alias = "ours")]
    Ours,
    /// From the best row, the last one too; never negative
    Mammoth,
    /// From the row right after the task was learnt
    Avalanche,
    /// As oncefit, over all tasks instead of all but the last (OnPro, RaptorMai)
    Online,
}

impl From<ConventionArg> for MetricConvention {
    fn from(convention: ConventionArg) -> Self {
        match convention {
            ConventionArg::Ours => Self::Ours,
            ConventionArg::Mammoth => Self::Mammoth,
            ConventionArg::Avalanche => Self::Avalanche,
            ConventionArg::Online => Self::Online,
        }
    }
}

/// Seeds as they are typed: `0..4` (both ends), `0,3,7` or `5`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seeds(pub Vec<u64>);

impl std::str::FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` are no seeds; write 0..4 (both ends) or 0,3,7");
        let number = |part: &str| part.trim().parse::<u64>().map_err(|_| wrong());
        let seeds: Vec<u64> = match text.split_once("..") {
            Some((first, last)) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first || last - first >= 10_000 {
                    return Err(wrong());
                }
                (first..=last).collect()
            }
            None => text.split(',').map(number).collect::<Result<_, _>>()?,
        };
        let mut sorted = seeds.clone();
        sorted.sort_unstable();
        sorted.dedup();
        match sorted.len() == seeds.len() {
            true => Ok(Self(seeds)),
            false => Err(format!("`{text}` has a seed twice")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_ranges_with_both_ends_or_lists() {
        let seeds = |text: &str| text.parse::<Seeds>().map(|seeds| seeds.0);
        assert_eq!(seeds("0..4").unwrap(), [0, 1, 2, 3, 4]);
        assert_eq!(seeds("7").unwrap(), [7]);
        assert_eq!(seeds("3, 1").unwrap(), [3, 1]);
        for wrong in ["", "4..0", "a", "1,1", "0..", "-1"] {
            assert!(seeds(wrong).is_err(), "{wrong}");
        }
    }
}
