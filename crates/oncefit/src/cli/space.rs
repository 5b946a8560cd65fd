//! What can be typed after `oncefit space`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use num_bigint::BigUint;

const RANK: &str = "Examples:
  oncefit space rank fm-nano largest
  oncefit space rank own.space 'width=8:blocks=1,2:window=small,large,small'

A number is exact however large; machines can share a space by ranges of numbers.";
const UNRANK: &str = "Example: oncefit space unrank fm-nano 123456789";
const DIFF: &str = "Examples:
  oncefit space diff fm-nano cifar-nano
  oncefit space diff fm-nano --subnet smallest --subnet largest";
const DRAW: &str = "Examples:
  oncefit space draw own.space --seed 3 --out net.svg
  oncefit space draw fm-nano --subnet largest";

#[derive(Debug, Subcommand)]
pub enum SpaceCommand {
    /// Read a space, count it, and try members: duplicates, members that cannot be built
    Check(SpaceCheckArgs),
    /// Print a space with its counts and costs, or one member layer by layer
    Show(SpaceMemberArgs),
    /// Print the exact number of members
    Count(SpaceCountArgs),
    /// Draw members at random
    Sample(SpaceSampleArgs),
    /// List members in the order of their numbers
    Enumerate(SpaceEnumerateArgs),
    /// Print the number of a member, from 0 in the order of `enumerate`
    #[command(after_help = RANK)]
    Rank(SpaceRankArgs),
    /// Print the member of a number: the inverse of `rank`
    #[command(after_help = UNRANK)]
    Unrank(SpaceUnrankArgs),
    /// Show where two spaces, or two members of one, differ: decisions, costs, layers
    #[command(after_help = DIFF)]
    Diff(SpaceDiffArgs),
    /// Draw a member as an SVG picture, layer by layer
    #[command(after_help = DRAW)]
    Draw(SpaceDrawArgs),
}

#[derive(Debug, Args)]
pub struct SpaceCheckArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Members to try: all of a space that has no more, else so many random ones
    #[arg(long, default_value_t = 2000, value_name = "N")]
    pub limit: usize,
    /// Seed of the random members
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SpaceMemberArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Show this member: its text, `largest` or `smallest`
    #[arg(long, value_name = "TEXT")]
    pub subnet: Option<String>,
}

#[derive(Debug, Args)]
pub struct SpaceCountArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SpaceSampleArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Members to draw
    #[arg(long, short = 'n', default_value_t = 1, value_name = "N")]
    pub count: usize,
    /// Seed
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Uniform over members; otherwise every decision is uniform
    #[arg(long)]
    pub uniform: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SpaceEnumerateArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Number of the first member
    #[arg(long, default_value = "0", value_name = "NUMBER")]
    pub from: BigUint,
    /// Most members to list
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub limit: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct SpaceRankArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// The member: its text, `largest` or `smallest`
    pub subnet: String,
}

#[derive(Debug, Args)]
pub struct SpaceUnrankArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Its number, from 0
    pub number: BigUint,
}

#[derive(Debug, Args)]
pub struct SpaceDiffArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// Another space to compare with, or two members by --subnet
    #[arg(conflicts_with = "subnet")]
    pub other: Option<String>,
    /// Members of the space to compare; given twice
    #[arg(long, value_name = "TEXT")]
    pub subnet: Vec<String>,
}

#[derive(Debug, Args)]
pub struct SpaceDrawArgs {
    /// A .space file, a family or a run folder
    pub space: String,
    /// The member: its text, `largest` or `smallest` [default: a random one]
    #[arg(long, value_name = "TEXT")]
    pub subnet: Option<String>,
    /// Seed of the random member
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// File to write
    #[arg(long, default_value = "subnet.svg", value_name = "FILE")]
    pub out: PathBuf,
}
