//! `oncefit runs list` and `oncefit runs compare`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oncefit_continual::LearningRun;
use oncefit_train::{MetricsRow, Run, SpaceRecipe, write_atomically};
use serde::Serialize;

use super::{command_line, print, print_json};
use crate::cli::{RunsCompareArgs, RunsListArgs};
use crate::error::{Error, Result};
use crate::format::{count, duration, percent, table};
use crate::report::comparison;

/// What is said about a run without opening its data.
#[derive(Clone, Debug, Serialize)]
pub struct RunSummary {
    /// Folder.
    pub folder: PathBuf,
    /// Name.
    pub name: String,
    /// Family or file of its space; of a run of continual learning without one, the kind of network.
    pub space: String,
    /// Kind of schedule, or method of continual learning.
    pub schedule: String,
    /// Seed.
    pub seed: u64,
    /// What `done` counts: epochs, or tasks of continual learning.
    pub unit: &'static str,
    /// Epochs or tasks done.
    pub done: f64,
    /// Epochs or tasks wanted; 0 tasks: not known before the first has ended.
    pub of: usize,
    /// Multiply-accumulates spent.
    pub train_macs: u64,
    /// Seconds of training.
    pub seconds: f64,
    /// Last validation accuracies, by network; of continual learning the mean over the tasks so far.
    pub accuracies: Vec<(String, f64)>,
    /// Best mean of them, and its epoch.
    pub best: Option<(f64, f64)>,
    #[serde(skip)]
    pub(crate) metrics: Vec<MetricsRow>,
    #[serde(skip)]
    settings: BTreeMap<String, String>,
}

impl RunSummary {
    /// Reads a run's recipe and metrics.
    ///
    /// # Errors
    /// If it is no run folder or its files are damaged.
    pub fn read(folder: &Path) -> Result<Self> {
        match LearningRun::open_to_read(folder) {
            Ok(run) => Self::of_learning(&run),
            Err(_) => Self::of_training(&Run::open_to_read(folder)?),
        }
    }

    fn of_learning(run: &LearningRun) -> Result<Self> {
        let recipe = run.recipe();
        let results = run.results()?;
        let settings = settings(&recipe.to_toml());
        let kind = settings.get("network.kind").cloned().unwrap_or_default();
        let space = recipe.network.space.as_ref().map(space_name);
        let rows = results
            .iter()
            .flat_map(|results| &results.finished.class_incremental.rows);
        let accuracies = rows.clone().last().map(|row| {
            let learnt = &row[..rows.clone().count().min(row.len())];
            let mean = learnt.iter().sum::<f64>() / learnt.len() as f64;
            ("class-incremental".to_owned(), mean)
        });
        Ok(Self {
            folder: run.folder().to_owned(),
            name: recipe.name.clone(),
            space: space.unwrap_or_else(|| kind.trim_matches('"').to_owned()),
            schedule: recipe.method.name.clone(),
            seed: recipe.seed,
            unit: "tasks",
            done: rows.count() as f64,
            of: results.as_ref().map_or(0, |results| results.tasks.len()),
            train_macs: results
                .as_ref()
                .map_or(0, |results| results.costs.train_macs),
            seconds: results
                .as_ref()
                .map_or(0.0, |results| results.costs.seconds),
            accuracies: accuracies.into_iter().collect(),
            best: None,
            metrics: Vec::new(),
            settings,
        })
    }

    fn of_training(run: &Run) -> Result<Self> {
        let recipe = run.recipe();
        let metrics = run.metrics()?;
        let last = metrics.last();
        let measured = metrics.iter().filter(|row| !row.accuracies.is_empty());
        let mean = |row: &MetricsRow| {
            let sum: f64 = row.accuracies.iter().map(|(_, found)| found).sum();
            sum / row.accuracies.len() as f64
        };
        let settings = settings(&recipe.to_toml());
        let kind = settings.get("schedule.kind").cloned().unwrap_or_default();
        Ok(Self {
            folder: run.folder().to_owned(),
            name: recipe.name.clone(),
            space: space_name(&recipe.space),
            schedule: kind.trim_matches('"').to_owned(),
            seed: recipe.seed,
            unit: "epochs",
            done: last.map_or(0.0, |row| row.epoch),
            of: recipe.schedule.epochs as usize,
            train_macs: last.map_or(0, |row| row.train_macs),
            seconds: last.map_or(0.0, |row| row.seconds),
            accuracies: measured
                .clone()
                .next_back()
                .map(|row| row.accuracies.clone())
                .unwrap_or_default(),
            best: measured
                .max_by(|left, right| mean(left).total_cmp(&mean(right)))
                .map(|row| (mean(row), row.epoch)),
            metrics,
            settings,
        })
    }

    fn state(&self) -> String {
        match self.done >= self.of as f64 {
            true => format!("{} {}", self.of, self.unit),
            false => format!("{:.0} of {} {}", self.done.floor(), self.of, self.unit),
        }
    }

    fn accuracy_text(&self) -> String {
        let parts = self.accuracies.iter();
        let parts: Vec<String> = parts
            .map(|(name, accuracy)| format!("{name} {}", percent(*accuracy)))
            .collect();
        parts.join(", ")
    }
}

fn space_name(recipe: &SpaceRecipe) -> String {
    match (&recipe.family, &recipe.file) {
        (Some(family), _) => family.clone(),
        (None, Some(file)) => file.display().to_string(),
        (None, None) => String::new(),
    }
}

/// Every key of a recipe with its value as text.
fn settings(recipe: &str) -> BTreeMap<String, String> {
    let document = recipe.parse().expect("a recipe is written as TOML");
    let mut settings = BTreeMap::new();
    flatten("", &toml::Value::Table(document), &mut settings);
    settings
}

fn flatten(prefix: &str, value: &toml::Value, into: &mut BTreeMap<String, String>) {
    match value {
        toml::Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                let dot = if prefix.is_empty() { "" } else { "." };
                flatten(&format!("{prefix}{dot}{key}"), value, into);
            }
        }
        other => _ = into.insert(prefix.to_owned(), other.to_string()),
    }
}

pub fn runs_list(args: &RunsListArgs) -> Result<()> {
    let entries = std::fs::read_dir(&args.folder).map_err(|source| Error::File {
        action: "read",
        path: args.folder.clone(),
        source,
    })?;
    let mut folders: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("recipe.toml").exists())
        .collect();
    folders.sort();
    let mut runs = Vec::new();
    for folder in &folders {
        match RunSummary::read(folder) {
            Ok(run) => runs.push(run),
            // One damaged run does not hide the others.
            Err(error) => eprintln!("{}: {error}", folder.display()),
        }
    }
    if args.json {
        print_json(&runs);
        return Ok(());
    }
    if runs.is_empty() {
        print(&format!("there are no runs in {}", args.folder.display()));
        return Ok(());
    }
    let cells = runs.iter().map(|run| {
        vec![
            run.folder.display().to_string(),
            run.space.clone(),
            run.schedule.clone(),
            run.seed.to_string(),
            run.state(),
            count(run.train_macs),
            duration(run.seconds),
            run.accuracy_text(),
        ]
    });
    print(&table(
        &[
            "run",
            "space",
            "schedule or method",
            "seed",
            "state",
            "train-MACs",
            "time",
            "accuracy",
        ],
        cells,
    ));
    Ok(())
}

pub fn runs_compare(args: &RunsCompareArgs) -> Result<()> {
    let runs = args
        .runs
        .iter()
        .map(|folder| RunSummary::read(folder))
        .collect::<Result<Vec<_>>>()?;
    if args.json {
        print_json(&runs);
        return Ok(());
    }
    let differing = differences(&runs);
    let mut header = vec![String::new()];
    header.extend(runs.iter().map(|run| run.folder.display().to_string()));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    print(&table(&header, results(&runs)));
    if differing.is_empty() {
        print("their recipes are the same");
    } else {
        print("where their recipes differ:");
        print(&table(&header, differing.clone()));
    }
    if let Some(path) = &args.html {
        let page = comparison(&runs, &results(&runs), &differing, &command_line());
        write_atomically(path, page.as_bytes())?;
        print(&format!("page: {}", path.display()));
    }
    Ok(())
}

/// What came of each run, one row for each quantity.
fn results(runs: &[RunSummary]) -> Vec<Vec<String>> {
    let row = |name: &str, value: &dyn Fn(&RunSummary) -> String| {
        let mut row = vec![name.to_owned()];
        row.extend(runs.iter().map(value));
        row
    };
    let mut rows = vec![
        row("state", &RunSummary::state),
        row("train-MACs", &|run| count(run.train_macs)),
        row("time", &|run| duration(run.seconds)),
    ];
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in runs.iter().flat_map(|run| &run.accuracies) {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    for name in names {
        rows.push(row(&format!("{name}, accuracy"), &|run| {
            let found = run.accuracies.iter().find(|(other, _)| other == name);
            found.map_or("–".into(), |(_, accuracy)| percent(*accuracy))
        }));
    }
    rows.push(row("best mean, epoch", &|run| {
        run.best.map_or("–".into(), |(mean, epoch)| {
            format!("{}, {epoch:.0}", percent(mean))
        })
    }));
    rows
}

/// The keys whose values are not the same in all recipes.
fn differences(runs: &[RunSummary]) -> Vec<Vec<String>> {
    let mut keys: Vec<&String> = runs.iter().flat_map(|run| run.settings.keys()).collect();
    keys.sort();
    keys.dedup();
    keys.into_iter()
        .map(|key| {
            let mut row = vec![key.clone()];
            row.extend(
                runs.iter()
                    .map(|run| run.settings.get(key).cloned().unwrap_or("–".into())),
            );
            row
        })
        .filter(|row| row[1..].iter().any(|value| *value != row[1]))
        .collect()
}
