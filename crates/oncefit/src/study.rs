//! Studies: many members tried and remembered.
//!
//! ```text
//! DIR/study.toml            the study, resolved
//! DIR/inputs.json           what else it reads, as it was at the beginning
//! DIR/seed-0/study.jsonl    everything that was asked and told, appended line by line
//! DIR/seed-0/networks/      `train`: runs; the best one stays
//! DIR/report.html
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncefit_data::ValidationSplit;
use oncefit_nn::Executor;
use oncefit_search::{
    Claim, CommandObjective, Evaluate, OnSubnets, Outcome, Study, StudyLog, StudyRow, Table,
    TableKey, TableObjective, Trial,
};
use oncefit_space::{Space, Subnet};
use oncefit_train::{
    Evaluator, Event, Outcome as Training, Recipe, Run, RunData, ScheduleKind, ScheduleRecipe,
    Split, Trainer, write_atomically,
};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::study_inputs::{INPUTS, InputFiles, Inputs, difference};
use crate::study_recipe::{ObjectiveKind, StudyRecipe};

/// Name of the study in its folder.
pub const STUDY: &str = "study.toml";
/// Name of its report.
pub const REPORT: &str = "report.html";
/// Name of the log in the folder of a seed.
const LOG: &str = "study.jsonl";

/// A study's folder.
#[derive(Clone, Debug)]
pub struct StudyFolder {
    /// Where it is.
    pub path: PathBuf,
    /// The study.
    pub recipe: StudyRecipe,
}

impl StudyFolder {
    /// Makes a folder for a study, or joins the same study in it.
    ///
    /// # Errors
    /// If another study is in the folder, or it cannot be written.
    pub fn create(path: &Path, recipe: &StudyRecipe) -> Result<Self> {
        let file = path.join(STUDY);
        if file.exists() {
            let known = Self::open(path)?;
            if known.recipe == *recipe {
                return Ok(known);
            }
            // One that was refused before its first trial may be put right.
            if known.has_begun() {
                let what = difference(&known.recipe.to_toml(), &recipe.to_toml());
                return Err(Error::Request(format!(
                    "{0} holds another study, `{1}`{2}; go on with that one: oncefit study resume {0}; or choose another folder by --out, or --overwrite",
                    path.display(),
                    known.recipe.name,
                    what.map(|what| format!(" (this one has {what})"))
                        .unwrap_or_default()
                )));
            }
        }
        std::fs::create_dir_all(path).map_err(|source| Error::File {
            action: "create",
            path: path.to_owned(),
            source,
        })?;
        write_atomically(&file, recipe.to_toml().as_bytes())?;
        Ok(Self {
            path: path.to_owned(),
            recipe: recipe.clone(),
        })
    }

    /// Opens a study's folder.
    ///
    /// # Errors
    /// If it is none.
    pub fn open(path: &Path) -> Result<Self> {
        let file = path.join(STUDY);
        if !file.exists() {
            return Err(Error::Request(format!(
                "{} is no study: it has no {STUDY}; begin one with: oncefit study run FILE",
                path.display()
            )));
        }
        Ok(Self {
            path: path.to_owned(),
            recipe: StudyRecipe::load(&file)?,
        })
    }

    /// Removes what a study made, and nothing else, from a folder: seeds with their logs, inputs,
    /// report. Its `study.toml` stays, for the next study to write over.
    ///
    /// # Errors
    /// If something cannot be removed.
    pub fn remove(path: &Path) -> Result<()> {
        let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
        let is_seed = |entry: &std::fs::DirEntry| {
            let name = entry.file_name();
            let number = name.to_str().and_then(|name| name.strip_prefix("seed-"));
            number.is_some_and(|number| number.parse::<u64>().is_ok())
                && entry.path().join(LOG).exists()
        };
        let seeds: Vec<PathBuf> = entries.filter(is_seed).map(|entry| entry.path()).collect();
        let inputs = path.join(INPUTS);
        if seeds.is_empty() && !inputs.exists() {
            return Ok(());
        }
        for path in seeds.into_iter().chain([path.join(REPORT), inputs]) {
            let removed = match (path.is_dir(), path.exists()) {
                (true, _) => std::fs::remove_dir_all(&path),
                (false, true) => std::fs::remove_file(&path),
                (false, false) => Ok(()),
            };
            removed.map_err(|source| Error::File {
                action: "remove",
                path,
                source,
            })?;
        }
        Ok(())
    }

    /// Where a seed's trials are.
    pub fn seed(&self, seed: u64) -> PathBuf {
        self.path.join(format!("seed-{seed}"))
    }

    /// Whether any seed has a log.
    fn has_begun(&self) -> bool {
        let mut seeds = self.recipe.seeds.iter();
        seeds.any(|&seed| self.seed(seed).join(LOG).exists())
    }

    /// The trials of a seed, none if it has not begun.
    ///
    /// # Errors
    /// If its log is damaged.
    pub fn rows(&self, seed: u64) -> Result<Vec<StudyRow>> {
        let folder = self.seed(seed);
        if !folder.join(LOG).exists() {
            return Ok(Vec::new());
        }
        Ok(StudyLog::read(&folder)?.rows)
    }
}

/// When a study stops before its trials are done.
pub struct Limits<'a> {
    /// A request to stop.
    pub stop: &'a AtomicBool,
    /// The moment after which no trial is begun; a training in work is saved then, to go on later.
    pub until: Option<Instant>,
}

impl Limits<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// What happens while members are tried.
pub enum StudyEvent<'e> {
    /// A training went on.
    Step {
        /// Number of its trial.
        trial: u64,
        /// Steps done.
        step: u64,
        /// Steps of this trial.
        steps: u64,
    },
    /// An outcome was told.
    Told {
        /// Trials with an outcome.
        done: usize,
        /// The best of them.
        best: Option<&'e StudyRow>,
        /// The one that was told.
        told: &'e StudyRow,
    },
}

/// Tries members for one seed until its trials are done or a limit is reached; whether they are
/// done.
///
/// # Errors
/// If the log, the space or the objective cannot be used.
pub fn run_seed(
    folder: &StudyFolder,
    seed: u64,
    limits: &Limits,
    observe: &dyn Fn(StudyEvent),
) -> Result<bool> {
    let recipe = &folder.recipe;
    let space = recipe.build_space()?;
    let searcher = recipe.build_searcher(&space, seed)?;
    let names: Vec<&str> = recipe.objective.names.iter().map(String::as_str).collect();
    let constraints: Vec<&str> = recipe
        .objective
        .constraints
        .iter()
        .map(String::as_str)
        .collect();
    let path = folder.seed(seed);
    let mut objective = objective(folder, &space, seed, limits, observe)?;
    let mut study = Study::open(&path, searcher, &names, &constraints)?;
    loop {
        if limits.is_over() {
            return Ok(false);
        }
        match study.claim(recipe.objective.at_once.max(1), recipe.trials())? {
            Claim::Finished => return Ok(true),
            Claim::Wait => std::thread::sleep(Duration::from_millis(50)),
            Claim::Trials(trials) => {
                let start = Instant::now();
                let outcomes = objective.evaluate(&trials);
                // A training that was stopped has no outcome; who resumes goes on with it.
                if limits.stop.load(Ordering::Relaxed) || objective.was_stopped() {
                    return Ok(false);
                }
                let seconds = start.elapsed().as_secs_f64() / trials.len().max(1) as f64;
                for (trial, outcome) in trials.iter().zip(outcomes) {
                    study.tell(trial.number, outcome, seconds)?;
                    let done = study.rows().filter(|row| row.outcome.is_some()).count();
                    let told = study.rows().find(|row| row.number == trial.number);
                    if let Some(told) = told {
                        let best = study.best();
                        observe(StudyEvent::Told { done, best, told });
                    }
                }
                let kept = study.best().into_iter().chain(study.in_play());
                objective.keep(&kept.map(StudyRow::first).collect());
            }
        }
    }
}

/// What scores members, and may keep something of those that are needed.
trait Objective: Evaluate {
    /// Members that are the best or in play, each by the number of its first trial.
    fn keep(&mut self, _first: &BTreeSet<u64>) {}

    /// Whether an evaluation was stopped before it had an outcome.
    fn was_stopped(&self) -> bool {
        false
    }
}

impl Objective for TableObjective {}
impl Objective for CommandObjective {}

/// Scores of which some are better when they are less.
struct Signed<E> {
    inner: E,
    is_less_better: Vec<bool>,
}

impl<E: Evaluate> Evaluate for Signed<E> {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let outcomes = self.inner.evaluate(trials).into_iter();
        outcomes.map(|outcome| self.signed(outcome)).collect()
    }
}

impl<E> Signed<E> {
    fn signed(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Scored {
                mut scores,
                constraints,
            } => {
                if scores.len() != self.is_less_better.len() {
                    return Outcome::Failed(format!(
                        "it gave {} scores; `objective.names` has {}",
                        scores.len(),
                        self.is_less_better.len()
                    ));
                }
                for (score, less) in scores.iter_mut().zip(&self.is_less_better) {
                    if *less {
                        *score = -*score;
                    }
                }
                Outcome::with_constraints(scores, constraints)
            }
            failed => failed,
        }
    }
}

impl<E: Objective> Objective for Signed<E> {
    fn keep(&mut self, first: &BTreeSet<u64>) {
        self.inner.keep(first);
    }

    fn was_stopped(&self) -> bool {
        self.inner.was_stopped()
    }
}

fn objective<'a>(
    folder: &StudyFolder,
    space: &Space,
    seed: u64,
    limits: &'a Limits<'a>,
    observe: &'a dyn Fn(StudyEvent),
) -> Result<Box<dyn Objective + 'a>> {
    let recipe = &folder.recipe;
    let objective = &recipe.objective;
    let is_less_better = objective
        .names
        .iter()
        .map(|name| name.starts_with('-'))
        .collect();
    let plain: Vec<&str> = objective
        .names
        .iter()
        .map(|name| name.trim_start_matches('-'))
        .collect();
    let check_inputs = |scores: String, file: &Path| {
        let named = &recipe.space;
        let space_file = named.file.as_ref().map(|file| file.display().to_string());
        let files = InputFiles {
            space: space_file
                .as_deref()
                .or(named.family.as_deref())
                .unwrap_or(space.name()),
            objective: file,
        };
        Inputs::new(space, scores).check(&folder.path, &files, folder.has_begun())
    };
    Ok(match objective.kind {
        ObjectiveKind::Table => {
            let file = &objective.table;
            let text = std::fs::read_to_string(file).map_err(|source| Error::File {
                action: "read",
                path: file.clone(),
                source,
            })?;
            let name = file.display().to_string();
            let is_csv = file.extension().is_some_and(|extension| extension == "csv");
            let budgets = recipe.table_budgets()?;
            let curves = budgets.iter().flat_map(|(_, columns)| columns.iter());
            let columns: Vec<&str> = match budgets.is_empty() {
                true => plain,
                false => curves.map(String::as_str).collect(),
            };
            let table = match is_csv {
                true => Table::from_csv(&text, &name, &columns)?,
                false => Table::from_json(&text, &name, &columns)?,
            };
            check_inputs(Inputs::of_table(&text), file)?;
            let key = match objective.keys.as_str() {
                "digits" => TableKey::Digits,
                _ => TableKey::Text,
            };
            let mut inner = TableObjective::new(space, table, key);
            if !budgets.is_empty() {
                let budgets: Vec<u64> = budgets.iter().map(|(budget, _)| *budget).collect();
                inner = inner.with_budgets(&budgets, objective.names.len())?;
            }
            Box::new(Signed {
                inner,
                is_less_better,
            })
        }
        ObjectiveKind::Command => {
            check_inputs(String::new(), Path::new(&objective.program))?;
            let arguments: Vec<&str> = objective.arguments.iter().map(String::as_str).collect();
            let command =
                CommandObjective::new(space, &objective.program, &arguments, recipe.timeout());
            Box::new(Signed {
                inner: command.at_once(objective.at_once),
                is_less_better,
            })
        }
        ObjectiveKind::Run => {
            let run = LoadedRun::open(&objective.run, WhichCheckpoint::Newest)?;
            check_inputs(Inputs::of_weights(run.weights_hash()), &objective.run)?;
            let classes = run.data.validation.class_names().len() as u64;
            let brackets = recipe.brackets()?;
            let smallest = brackets.iter().flatten().map(|(_, budget)| *budget).min();
            if let Some(smallest) = smallest.filter(|smallest| *smallest < classes) {
                return Err(Error::Request(format!(
                    "study `{}`: a budget is a number of validation images here, at least one of each of the {classes} classes; the smallest is {smallest}",
                    recipe.name
                )));
            }
            Box::new(Signed {
                inner: Measured {
                    names: known_names(&plain)?,
                    space: space.clone(),
                    run,
                    parts: BTreeMap::new(),
                },
                is_less_better,
            })
        }
        ObjectiveKind::Train => {
            let mut base = Recipe::load(&objective.recipe)?;
            check_inputs(base.to_toml(), &objective.recipe)?;
            if recipe.space.family.is_some() || recipe.space.file.is_some() {
                base.space = recipe.space.clone();
            }
            if objective.epochs > 0 {
                base.schedule.epochs = objective.epochs;
            }
            base.seed = seed;
            let largest_budget = recipe.largest_budget()?;
            Box::new(Signed {
                inner: Trained {
                    names: known_names(&plain)?,
                    space: space.clone(),
                    data: RunData::load(&base)?,
                    recipe: base,
                    folder: folder.seed(seed).join("networks"),
                    largest_budget,
                    limits,
                    observe,
                    was_stopped: false,
                },
                is_less_better,
            })
        }
    })
}

/// What `train` and `run` can score.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Accuracy,
    Macs,
    Parameters,
    PeakMemory,
}

fn known_names(names: &[&str]) -> Result<Vec<Known>> {
    let known = |name: &&str| match *name {
        "accuracy" => Ok(Known::Accuracy),
        "macs" => Ok(Known::Macs),
        "parameters" => Ok(Known::Parameters),
        "peak_memory" => Ok(Known::PeakMemory),
        other => Err(Error::Request(format!(
            "`objective.names`: `{other}` is none of accuracy, macs, parameters, peak_memory"
        ))),
    };
    names.iter().map(known).collect()
}

impl Known {
    fn of(self, subnet: &Subnet, accuracy: f64) -> f64 {
        let graph = subnet.graph();
        match self {
            Self::Accuracy => accuracy,
            Self::Macs => graph.macs() as f64,
            Self::Parameters => graph.parameters() as f64,
            Self::PeakMemory => graph.peak_activation_bytes() as f64,
        }
    }
}

/// Scores subnets of a supernet's run; a budget is a number of validation images.
struct Measured {
    names: Vec<Known>,
    space: Space,
    run: LoadedRun,
    /// Evaluators of parts of the validation images, by their number.
    parts: BTreeMap<u64, Evaluator>,
}

impl Measured {
    /// The accuracy of a member, on as many validation images as its trial may spend.
    fn accuracies(&mut self, trials: &[Trial]) -> Result<Vec<Outcome>> {
        let images = self.run.data.validation.len() as u64;
        let budget = trials.iter().find_map(|trial| trial.budget);
        let Some(budget) = budget.filter(|budget| *budget < images) else {
            return Ok(OnSubnets::new(&self.space, &mut self.run).evaluate(trials));
        };
        // The trials of one claim are of one round, but for its end.
        if trials.iter().any(|trial| trial.budget != Some(budget)) {
            let each = trials.chunks(1).map(|trial| self.accuracies(trial));
            return Ok(each.collect::<Result<Vec<_>>>()?.concat());
        }
        let subnets: Vec<_> = trials
            .iter()
            .map(|trial| self.space.subnet_of(&trial.candidate))
            .collect();
        let recipe = self.run.run.recipe();
        let part = match self.parts.remove(&budget) {
            Some(part) => part,
            None => {
                let data = &self.run.data;
                // Of each class as many; a larger part holds the smaller ones.
                let (_, part) = data.validation.hold_out(ValidationSplit {
                    size: budget as usize,
                    seed: recipe.data.validation_seed,
                })?;
                Evaluator::new(recipe, &data.train, &part, &data.test, &data.normalisation)
            }
        };
        let part = self.parts.entry(budget).or_insert(part);
        for subnet in subnets.iter().flatten() {
            part.prepare(Split::Validation, subnet.graph().input_shape().height)?;
        }
        let (part, supernet) = (&*part, &self.run.supernet);
        let measure = |executor: &mut Executor, subnet: &oncefit_space::Result<Subnet>| match subnet
        {
            Ok(subnet) => match part.measure(executor, supernet, subnet, Split::Validation) {
                Ok((found, _)) => Outcome::of(found.accuracy),
                Err(error) => Outcome::Failed(error.to_string()),
            },
            Err(hole) => Outcome::Failed(hole.reason()),
        };
        let outcomes = subnets.par_iter().map_init(Executor::default, measure);
        Ok(outcomes.collect())
    }
}

impl Evaluate for Measured {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let accuracies = self.accuracies(trials).unwrap_or_else(|error| {
            let failed = Outcome::Failed(error.to_string());
            vec![failed; trials.len()]
        });
        let each = trials.iter().zip(accuracies);
        each.map(|(trial, outcome)| match outcome.score() {
            None => outcome,
            Some(accuracy) => match self.space.subnet_of(&trial.candidate) {
                Ok(subnet) => {
                    let scores = self.names.iter().map(|name| name.of(&subnet, accuracy));
                    Outcome::of_all(scores.collect())
                }
                Err(hole) => Outcome::Failed(hole.reason()),
            },
        })
        .collect()
    }
}

impl Objective for Measured {}

/// Trains members from scratch, each in a run folder of its own that later rounds of a screening go
/// on with. A budget is a share of the training: as many of its steps as it is of the largest.
struct Trained<'a> {
    names: Vec<Known>,
    space: Space,
    recipe: Recipe,
    data: RunData,
    folder: PathBuf,
    largest_budget: Option<u64>,
    limits: &'a Limits<'a>,
    observe: &'a dyn Fn(StudyEvent),
    was_stopped: bool,
}

impl Trained<'_> {
    fn train(&mut self, trial: &Trial) -> Result<Outcome> {
        let subnet = match self.space.subnet_of(&trial.candidate) {
            Ok(subnet) => subnet,
            Err(hole) => return Ok(Outcome::Failed(hole.reason())),
        };
        let first = trial.rung.map_or(trial.number, |rung| rung.first);
        let mut recipe = self.recipe.for_member(&subnet)?;
        recipe.name = network_name(first);
        recipe.schedule = ScheduleRecipe {
            kind: ScheduleKind::Plain,
            epochs: recipe.schedule.epochs,
            subnet: subnet.text(),
            ..ScheduleRecipe::default()
        };
        let folder = self.folder.join(network_name(first));
        // One that a stopped study or an earlier round had begun goes on where it was.
        let run = match Run::open(&folder) {
            Ok(run) if *run.recipe() == recipe => run,
            _ => {
                Run::remove(&folder)?;
                Run::create(&folder, &recipe)?
            }
        };
        let mut trainer = match Trainer::new(&run, &self.data) {
            Ok(trainer) => trainer,
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        };
        let last = match (trial.budget, self.largest_budget) {
            (Some(budget), Some(largest)) => {
                let share = u128::from(trainer.steps()) * u128::from(budget);
                share.div_ceil(u128::from(largest)) as u64
            }
            _ => trainer.steps(),
        };
        let stop = AtomicBool::new(false);
        let mut watch = |event: Event| {
            if let Event::Step { report, .. } = event {
                (self.observe)(StudyEvent::Step {
                    trial: trial.number,
                    step: report.step,
                    steps: last,
                });
            }
            if self.limits.is_over() {
                stop.store(true, Ordering::Relaxed);
            }
        };
        match trainer.train_until(last, &stop, &mut watch) {
            Ok(Training::Finished) => {}
            Ok(Training::Stopped { .. }) => {
                self.was_stopped = true;
                return Ok(Outcome::Failed("stopped".into()));
            }
            // It diverged: the searcher should know.
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        }
        let accuracy = trainer.evaluate(&subnet, Split::Validation)?.accuracy;
        let scores = self.names.iter().map(|name| name.of(&subnet, accuracy));
        Ok(Outcome::of_all(scores.collect()))
    }
}

impl Evaluate for Trained<'_> {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let each = trials.iter();
        each.map(|trial| {
            self.train(trial)
                .unwrap_or_else(|error| Outcome::Failed(error.to_string()))
        })
        .collect()
    }
}

impl Objective for Trained<'_> {
    /// Removes other runs; those that other processes are at work on are locked.
    fn keep(&mut self, first: &BTreeSet<u64>) {
        let kept: Vec<PathBuf> = first
            .iter()
            .map(|number| self.folder.join(network_name(*number)))
            .collect();
        let entries = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten();
        for path in entries.map(|entry| entry.path()) {
            if kept.contains(&path) {
                continue;
            }
            if let Ok(_locked) = Run::open(&path) {
                // What cannot be removed now is removed after the next trial.
                let _ = std::fs::remove_dir_all(&path);
            }
        }
    }

    fn was_stopped(&self) -> bool {
        self.was_stopped
    }
}

fn network_name(first: u64) -> String {
    format!("trial-{first}")
}

/// The folder of the trained network of a trial, if it is kept.
pub fn network_folder(folder: &StudyFolder, seed: u64, row: &StudyRow) -> Option<PathBuf> {
    let networks = folder.seed(seed).join("networks");
    let path = networks.join(network_name(row.first()));
    path.exists().then_some(path)
}
