//! Studies: many members tried and remembered.
//!
//! ```text
//! DIR/study.toml            the study, resolved
//! DIR/seed-0/study.jsonl    everything that was asked and told, appended line by line
//! DIR/seed-0/networks/      `train`: runs; the best one stays
//! DIR/report.html
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oncefit_search::{
    Claim, CommandObjective, Evaluate, OnSubnets, Outcome, Study, StudyLog, StudyRow, Table,
    TableKey, TableObjective, Trial,
};
use oncefit_space::{Space, Subnet};
use oncefit_train::{
    Outcome as Training, Recipe, Run, RunData, ScheduleKind, ScheduleRecipe, Split, Trainer,
    write_atomically,
};

use crate::error::{Error, Result};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::study_recipe::{ObjectiveKind, StudyRecipe};

/// Name of the study in its folder.
pub const STUDY: &str = "study.toml";

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
            if known.recipe != *recipe {
                return Err(Error::Request(format!(
                    "{0} holds another study, `{1}`; go on with that one: oncefit study resume {0}; or choose another folder by --out, or --overwrite",
                    path.display(),
                    known.recipe.name
                )));
            }
            return Ok(known);
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

    /// Where a seed's trials are.
    pub fn seed(&self, seed: u64) -> PathBuf {
        self.path.join(format!("seed-{seed}"))
    }

    /// The trials of a seed, none if it has not begun.
    ///
    /// # Errors
    /// If its log is damaged.
    pub fn rows(&self, seed: u64) -> Result<Vec<StudyRow>> {
        let folder = self.seed(seed);
        if !folder.join("study.jsonl").exists() {
            return Ok(Vec::new());
        }
        Ok(StudyLog::read(&folder)?.rows)
    }
}

/// When a study stops before its trials are done.
pub struct Limits<'a> {
    /// A request to stop.
    pub stop: &'a AtomicBool,
    /// The moment after which no trial is begun.
    pub until: Option<Instant>,
}

impl Limits<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed) || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Tries members for one seed until its trials are done or a limit is reached; whether they are
/// done. `observe` is told after each outcome how many trials there are with one, and the best.
///
/// # Errors
/// If the log, the space or the objective cannot be used.
pub fn run_seed(
    folder: &StudyFolder,
    seed: u64,
    limits: &Limits,
    observe: &mut dyn FnMut(usize, Option<&StudyRow>, &StudyRow),
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
    let mut objective = objective(folder, &space, seed, limits)?;
    let mut study = Study::open(&path, searcher, &names, &constraints)?;
    loop {
        if limits.is_over() {
            return Ok(false);
        }
        match study.claim(recipe.objective.at_once.max(1), recipe.trials)? {
            Claim::Finished => return Ok(true),
            Claim::Wait => std::thread::sleep(Duration::from_millis(50)),
            Claim::Trials(trials) => {
                let start = Instant::now();
                let outcomes = objective.evaluate(&trials);
                // A training that was stopped has no outcome; who resumes does it again.
                if limits.stop.load(Ordering::Relaxed) {
                    return Ok(false);
                }
                let seconds = start.elapsed().as_secs_f64() / trials.len().max(1) as f64;
                for (trial, outcome) in trials.iter().zip(outcomes) {
                    study.tell(trial.number, outcome, seconds)?;
                    let done = study.rows().filter(|row| row.outcome.is_some()).count();
                    let told = study.rows().find(|row| row.number == trial.number);
                    if let Some(told) = told {
                        observe(done, study.best(), told);
                    }
                }
                objective.keep(study.best().map(|row| row.number));
            }
        }
    }
}

/// What scores members, and may keep something of the best.
trait KeepBest: Evaluate {
    fn keep(&mut self, _best: Option<u64>) {}
}

impl KeepBest for TableObjective {}
impl KeepBest for CommandObjective {}

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

impl<E: KeepBest> KeepBest for Signed<E> {
    fn keep(&mut self, best: Option<u64>) {
        self.inner.keep(best);
    }
}

fn objective<'a>(
    folder: &StudyFolder,
    space: &Space,
    seed: u64,
    limits: &'a Limits,
) -> Result<Box<dyn KeepBest + 'a>> {
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
            let table = match is_csv {
                true => Table::from_csv(&text, &name, &plain)?,
                false => Table::from_json(&text, &name, &plain)?,
            };
            let key = match objective.keys.as_str() {
                "digits" => TableKey::Digits,
                _ => TableKey::Text,
            };
            Box::new(Signed {
                inner: TableObjective::new(space, table, key),
                is_less_better,
            })
        }
        ObjectiveKind::Command => {
            let arguments: Vec<&str> = objective.arguments.iter().map(String::as_str).collect();
            let command =
                CommandObjective::new(space, &objective.program, &arguments, recipe.timeout());
            Box::new(Signed {
                inner: command.at_once(objective.at_once),
                is_less_better,
            })
        }
        ObjectiveKind::Run => Box::new(Signed {
            inner: Measured {
                names: known_names(&plain)?,
                space: space.clone(),
                run: LoadedRun::open(&objective.run, WhichCheckpoint::Newest)?,
            },
            is_less_better,
        }),
        ObjectiveKind::Train => {
            let mut base = Recipe::load(&objective.recipe)?;
            if recipe.space.family.is_some() || recipe.space.file.is_some() {
                base.space = recipe.space.clone();
            }
            if objective.epochs > 0 {
                base.schedule.epochs = objective.epochs;
            }
            base.seed = seed;
            Box::new(Signed {
                inner: Trained {
                    names: known_names(&plain)?,
                    space: space.clone(),
                    data: RunData::load(&base)?,
                    recipe: base,
                    folder: folder.seed(seed).join("networks"),
                    stop: limits.stop,
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

/// Scores subnets of a supernet's run.
struct Measured {
    names: Vec<Known>,
    space: Space,
    run: LoadedRun,
}

impl Evaluate for Measured {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let accuracies = OnSubnets::new(&self.space, &mut self.run).evaluate(trials);
        let each = trials.iter().zip(accuracies);
        each.map(|(trial, outcome)| match outcome.score() {
            None => outcome,
            Some(accuracy) => match self.space.subnet_of(&trial.candidate) {
                Ok(subnet) => {
                    let scores = self.names.iter().map(|name| name.of(&subnet, accuracy));
                    Outcome::of_all(scores.collect())
                }
                Err(hole) => Outcome::Failed(hole.to_string()),
            },
        })
        .collect()
    }
}

impl KeepBest for Measured {}

/// Trains members from scratch, each in a run folder of its own.
struct Trained<'a> {
    names: Vec<Known>,
    space: Space,
    recipe: Recipe,
    data: RunData,
    folder: PathBuf,
    stop: &'a AtomicBool,
}

impl Trained<'_> {
    fn train(&self, trial: &Trial) -> Result<Outcome> {
        let subnet = match self.space.subnet_of(&trial.candidate) {
            Ok(subnet) => subnet,
            Err(hole) => return Ok(Outcome::Failed(hole.to_string())),
        };
        let mut recipe = self.recipe.clone();
        recipe.name = format!("trial-{}", trial.number);
        recipe.schedule = ScheduleRecipe {
            kind: ScheduleKind::Plain,
            epochs: self.recipe.schedule.epochs,
            subnet: subnet.text(),
            ..ScheduleRecipe::default()
        };
        let folder = self.network(trial.number);
        // One that a stopped study had begun goes on where it was.
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
        match trainer.train(self.stop, &mut |_| {}) {
            Ok(Training::Finished) => {}
            Ok(Training::Stopped { .. }) => return Ok(Outcome::Failed("stopped".into())),
            // It diverged: the searcher should know.
            Err(error) => return Ok(Outcome::Failed(error.to_string())),
        }
        drop(trainer);
        drop(run);
        let mut trained = LoadedRun::open(&folder, WhichCheckpoint::Newest)?;
        let rows = trained.evaluate(std::slice::from_ref(&subnet), Split::Validation)?;
        let scores = self
            .names
            .iter()
            .map(|name| name.of(&subnet, rows[0].accuracy));
        Ok(Outcome::of_all(scores.collect()))
    }

    fn network(&self, number: u64) -> PathBuf {
        self.folder.join(format!("trial-{number}"))
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

impl KeepBest for Trained<'_> {
    /// Removes runs but the best; those that other processes are at work on are locked.
    fn keep(&mut self, best: Option<u64>) {
        let best = best.map(|number| self.network(number));
        let entries = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten();
        for path in entries.map(|entry| entry.path()) {
            if Some(&path) == best.as_ref() {
                continue;
            }
            if let Ok(_locked) = Run::open(&path) {
                // What cannot be removed now is removed after the next trial.
                let _ = std::fs::remove_dir_all(&path);
            }
        }
    }
}

/// The folder of the trained network of a trial, if it is kept.
pub fn network_folder(folder: &StudyFolder, seed: u64, number: u64) -> Option<PathBuf> {
    let path = folder
        .seed(seed)
        .join("networks")
        .join(format!("trial-{number}"));
    path.exists().then_some(path)
}
