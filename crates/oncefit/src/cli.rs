//! What can be typed.

pub mod learning;
pub mod space;
pub mod study;
pub mod targets;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use oncefit_search::Count;

use crate::cli::learning::{CompareArgs, DataStreamArgs, LearnArgs};
use crate::cli::space::SpaceCommand;
use crate::cli::study::StudyCommand;
use crate::cli::targets::TargetsCommand;
use crate::fit::SearcherKind;
use crate::loaded::WhichCheckpoint;

/// Train one network once, fit it to every device and budget.
///
/// A supernet holds the weights of very many smaller networks. It is trained once; each budget
/// then gets its own subnet, cut out without training, as an ONNX file that has been run and
/// checked.
#[derive(Debug, Parser)]
#[command(name = "oncefit", version, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    /// Threads to use [default: one for each core]. Results do not depend on it
    #[arg(long, global = true, value_name = "N")]
    pub threads: Option<usize>,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 the request makes no sense; 130 stopped by Ctrl-C after saving.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Train on embedded images, measure this machine, fit three budgets: checked ONNX files and a report
    Quickstart(QuickstartArgs),
    /// Train a supernet (or one network) as a recipe says, into a run folder
    Train(TrainArgs),
    /// Learn a stream of tasks with one network, as a recipe says, into a run folder
    Learn(LearnArgs),
    /// Vectors of class names: build a target file with a language model, look at one
    #[command(subcommand)]
    Targets(TargetsCommand),
    /// Compare methods of continual learning over seeds: means, intervals, paired differences, a page
    Compare(CompareArgs),
    /// Calibrate and measure subnets of a run
    Evaluate(EvaluateArgs),
    /// Measure a device: what each operator of a family costs there
    Profile(ProfileArgs),
    /// Find the best subnet for a budget or device and write it as a checked ONNX file
    Fit(FitArgs),
    /// Find the best subnets for all budgets at once: accuracy against a cost
    Front(FrontArgs),
    /// Write one subnet of a run as a checked ONNX file
    Export(ExportArgs),
    /// Classify pictures with an exported file
    Predict(PredictArgs),
    /// Write the report.html of a run
    Report(ReportArgs),
    /// Show a space, a run or an exported file
    Show(ShowArgs),
    /// Check, count, sample, number, compare and draw spaces and their members
    #[command(subcommand)]
    Space(SpaceCommand),
    /// Search a space: try members, remember all, stop and go on
    #[command(subcommand)]
    Study(StudyCommand),
    /// Try the claims of the papers at small scale, with fresh seeds and intervals
    Reproduce(ReproduceArgs),
    /// Look at data
    #[command(subcommand)]
    Data(DataCommand),
    /// List and compare runs
    #[command(subcommand)]
    Runs(RunsCommand),
}

/// Which run, with which weights.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Run folder
    pub run: PathBuf,
    /// Weights to use: the last saved, or those with the best mean validation accuracy
    #[arg(long, value_enum, default_value = "newest")]
    pub checkpoint: WhichCheckpoint,
}

#[derive(Debug, Subcommand)]
pub enum RunsCommand {
    /// List the runs in a folder with their state, cost and accuracies
    List(RunsListArgs),
    /// Show where runs differ: recipes, costs, accuracies
    Compare(RunsCompareArgs),
}

#[derive(Debug, Args)]
pub struct RunsListArgs {
    /// Folder of run folders
    #[arg(default_value = "runs", value_name = "DIR")]
    pub folder: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct RunsCompareArgs {
    /// Run folders, two or more
    #[arg(required = true, num_args = 2.., value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Also write a page with the learning curves side by side
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print JSON
    #[arg(long, conflicts_with = "html")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct QuickstartArgs {
    /// Folder to write to; a quickstart that is there already is replaced
    #[arg(long, default_value = "quickstart-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Seed of every random draw
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Epochs to train, instead of the recipe's
    #[arg(long)]
    pub epochs: Option<u32>,
    /// Subnets measured for the predictor
    #[arg(long, default_value_t = 150, value_name = "N")]
    pub evaluations: usize,
}

#[derive(Debug, Args)]
pub struct TrainArgs {
    /// Recipe file, or with --resume a run folder
    #[arg(value_name = "RECIPE")]
    pub recipe: PathBuf,
    /// Run folder [default: runs/<name of the recipe>]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Continue a run that was stopped or killed, from its newest checkpoint
    #[arg(long, conflicts_with = "overwrite")]
    pub resume: bool,
    /// Remove a run that is in the folder already
    #[arg(long)]
    pub overwrite: bool,
    /// Say what training would cost, from a few timed steps, and stop
    #[arg(long)]
    pub dry_run: bool,
    /// Seed, instead of the recipe's
    #[arg(long)]
    pub seed: Option<u64>,
    /// Safetensors file with weights to start from, instead of the recipe's
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct EvaluateArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Subnet: its text, `largest` or `smallest`; may be repeated [default: both]
    #[arg(long, value_name = "TEXT")]
    pub subnet: Vec<String>,
    /// Measure this many random subnets as well
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub random: usize,
    /// Seed of the random subnets
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Images to measure on
    #[arg(long, default_value = "validation", value_parser = ["validation", "test"])]
    pub split: String,
    /// Also show the accuracy of each class and the confusion matrix
    #[arg(long)]
    pub classes: bool,
    /// Also measure each subnet in eight bits: rounded weights, activations rounded to the ranges
    /// that training images give them
    #[arg(long)]
    pub int8: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct FitArgs {
    #[command(flatten)]
    pub run: RunArgs,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Device to fit to, from `oncefit profile`, or a .yaml table of the Once-for-All authors (or a
    /// folder of such tables); may be repeated: one network for each
    #[arg(long, value_name = "FILE")]
    pub target: Vec<PathBuf>,
    /// Most milliseconds for a batch on the target: 2ms, 350us
    #[arg(long, value_name = "TIME", requires = "target")]
    pub max_latency: Option<Milliseconds>,
    /// Estimate operators that the target's table lacks from their work
    #[arg(long, requires = "target")]
    pub allow_estimates: bool,
    /// File to write; with several targets a folder for <device>.onnx
    #[arg(long, default_value = "model.onnx", value_name = "FILE")]
    pub out: PathBuf,
    /// Search algorithm; `evolution` and `random` measure every subnet that they look at
    #[arg(long, value_enum, default_value = "predictor")]
    pub searcher: SearcherKind,
    /// Subnets to measure: for `predictor` those that it learns from, measured once for all budgets
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub evaluations: usize,
    /// `predictor`: how many of the most promising subnets are measured
    #[arg(long, default_value_t = 16, value_name = "N")]
    pub verify: usize,
    /// Seconds after which no more subnets are measured for the predictor
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
    /// Train the chosen network by itself for so many epochs before it is written
    #[arg(long, value_name = "EPOCHS")]
    pub finetune: Option<u32>,
    /// Seed of the search
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ReproduceArgs {
    /// Paper (ofa, deps, deep-architect, onpro, refresh, lingocl, elastic-continual), or `table` to
    /// write DIR/README.md and the pictures of all that was found
    pub paper: Option<String>,
    /// Only this claim: deep-architect.P1, or P1
    #[arg(long, value_name = "ID")]
    pub claim: Option<String>,
    /// List all claims with their state
    #[arg(long, conflicts_with_all = ["paper", "claim", "quick", "full", "seeds"])]
    pub list: bool,
    /// Fewer seeds and shorter trainings, kept apart in DIR/claims/quick: does it run, and roughly what
    /// comes?
    #[arg(long)]
    pub quick: bool,
    /// All seeds and whole trainings, which is the default
    #[arg(long, conflicts_with = "quick")]
    pub full: bool,
    /// Fresh seeds, 5 or more; a claim that was tried with another number is tried again and replaced,
    /// with the runs that are there
    #[arg(long, value_name = "N")]
    pub seeds: Option<usize>,
    /// Folder of NAS tables [default: the environment variable ONCEFIT_NAS]
    #[arg(long, value_name = "DIR")]
    pub nas: Option<PathBuf>,
    /// Where what was found is kept, in DIR/claims; claims and runs that are there with the same seeds
    /// are not tried again
    #[arg(long, default_value = "docs/results", value_name = "DIR")]
    pub out: PathBuf,
}

impl ReproduceArgs {
    /// The folder of findings.
    pub fn claims(&self) -> PathBuf {
        self.out.join("claims")
    }
}

#[derive(Debug, Args)]
pub struct FrontArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// The cost that accuracy is weighed against
    #[arg(long, value_enum, default_value = "macs")]
    pub over: CostKind,
    #[command(flatten)]
    pub limits: LimitArgs,
    /// Device whose latency counts, as for `oncefit fit`
    #[arg(long, value_name = "FILE")]
    pub target: Option<PathBuf>,
    /// Most milliseconds for a batch on the target: 2ms, 350us
    #[arg(long, value_name = "TIME", requires = "target")]
    pub max_latency: Option<Milliseconds>,
    /// Estimate operators that the target's table lacks from their work
    #[arg(long, requires = "target")]
    pub allow_estimates: bool,
    /// Subnets of the predicted front to measure, evenly spread over it
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub points: usize,
    /// Subnets that the predictor learns from
    #[arg(long, default_value_t = 200, value_name = "N")]
    pub evaluations: usize,
    /// Seconds after which no more subnets are measured for the predictor
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
    /// Seed of the search
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also draw the front
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A cost that a front is drawn over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum CostKind {
    /// Multiply-accumulates for one image
    Macs,
    /// Weights
    Parameters,
    /// Bytes of live activations
    PeakMemory,
    /// Latency on the target
    Latency,
    /// Bytes of the file
    FileSize,
}

/// A time with its unit, in milliseconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Milliseconds(pub f64);

impl std::str::FromStr for Milliseconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("us", 1e-3), ("µs", 1e-3), ("ms", 1.0), ("s", 1e3)];
        let found = units.iter().find_map(|(unit, factor)| {
            let number: f64 = text.strip_suffix(unit)?.trim().parse().ok()?;
            Some(number * factor)
        });
        match found {
            Some(value) if value > 0.0 && value.is_finite() => Ok(Self(value)),
            _ => Err(format!(
                "`{text}` is no time; write for example 2ms or 350us"
            )),
        }
    }
}

#[derive(Debug, Args)]
pub struct ProfileArgs {
    /// A family, a .space file or a run folder; not needed with --import
    #[arg(required_unless_present = "import")]
    pub space: Option<String>,
    /// What runs the networks
    #[arg(long, default_value = "tract", value_parser = ["tract", "oncefit", "onnxruntime"])]
    pub engine: String,
    /// Threads of the engine
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub engine_threads: usize,
    /// Images at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub batch: usize,
    /// Whole random networks to measure
    #[arg(long, default_value_t = 120, value_name = "N")]
    pub networks: usize,
    /// Seconds after which nothing new is begun
    #[arg(long, value_name = "SECONDS")]
    pub time_limit: Option<f64>,
    /// What the device is called
    #[arg(long, default_value = "this machine", value_name = "NAME")]
    pub device: String,
    /// Seed of the random networks
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// File to write
    #[arg(long, default_value = "target.toml", value_name = "FILE")]
    pub out: PathBuf,
    /// Write ONNX files to be timed on another device into this folder instead of measuring
    #[arg(long, value_name = "DIR", conflicts_with = "import")]
    pub emit_probes: Option<PathBuf>,
    /// Read the times of such files instead of measuring
    #[arg(long, value_name = "CSV", requires = "probes")]
    pub import: Option<PathBuf>,
    /// With --import: the folder that --emit-probes wrote
    #[arg(long, value_name = "DIR")]
    pub probes: Option<PathBuf>,
    /// With --import: accept times of only some of the files
    #[arg(long, requires = "import")]
    pub allow_incomplete: bool,
}

#[derive(Debug, Args)]
pub struct PredictArgs {
    /// An .onnx file that Oncefit wrote
    pub model: PathBuf,
    /// PNG or JPEG files
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Classes to show for each
    #[arg(long, default_value_t = 3, value_name = "N")]
    pub top: usize,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
#[group(multiple = true)]
pub struct LimitArgs {
    /// Most multiply-accumulates for one image: 800k, 1.2M
    #[arg(long, value_name = "COUNT")]
    pub max_macs: Option<Count>,
    /// Most weights: 50k
    #[arg(long, value_name = "COUNT")]
    pub max_parameters: Option<Count>,
    /// Most bytes of live activations, batch 1, f32: 64k
    #[arg(long, value_name = "COUNT")]
    pub max_peak_memory: Option<Count>,
    /// Most bytes of the file: 200k
    #[arg(long, value_name = "COUNT")]
    pub max_file_size: Option<Count>,
}

#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub run: RunArgs,
    /// Subnet: its text, `largest` or `smallest`
    #[arg(long, value_name = "TEXT")]
    pub subnet: String,
    /// File to write
    #[arg(long, default_value = "model.onnx", value_name = "FILE")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub struct ReportArgs {
    #[command(flatten)]
    pub run: RunArgs,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// A run folder, a .space file, a family (fm-nano …) or an .onnx file
    pub what: String,
    /// Show this subnet, layer by layer
    #[arg(long, value_name = "TEXT")]
    pub subnet: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum DataCommand {
    /// Show classes and counts of a recipe's images, and draw a contact sheet
    Show(DataShowArgs),
    /// Show the tasks of a continual-learning recipe: classes, counts, a contact sheet
    Stream(DataStreamArgs),
}

#[derive(Debug, Args)]
pub struct DataShowArgs {
    /// Recipe file [default: the embedded images]
    pub recipe: Option<PathBuf>,
    /// Write a contact sheet of the training images as PNG
    #[arg(long, value_name = "FILE")]
    pub sheet: Option<PathBuf>,
    /// Images of each class on the sheet
    #[arg(long, default_value_t = 12, value_name = "N")]
    pub per_class: usize,
}
