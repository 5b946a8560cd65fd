//! Supernets trained by several recipes and seeds, each once: what was measured is kept.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use oncefit_random::fnv1a64;
use oncefit_space::{DecisionSlot, Space, Subnet, Value};
use oncefit_train::{Recipe, Run, Split, write_atomically};
use serde::{Deserialize, Serialize};

use super::{Request, Tried, kept, make_folder};
use crate::commands::train_run;
use crate::error::{Error, Result};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::progress::TrainingProgress;
use crate::provenance::Origin;

/// One recipe of a paper's comparisons.
#[derive(Clone, Debug)]
pub struct Arm {
    /// Its name in files.
    pub name: String,
    /// The recipe, without name and seed; files are relative to where the program is.
    pub recipe: String,
}

impl Arm {
    /// The recipe of a seed's training.
    ///
    /// # Errors
    /// If it is not legal.
    pub fn with_seed(&self, seed: u64) -> Result<Recipe> {
        let mut recipe = Recipe::parse(&self.recipe, &self.name)?;
        if let Some(file) = &mut recipe.space.file {
            *file = std::path::absolute(&*file).map_err(|source| Error::File {
                action: "find",
                path: file.clone(),
                source,
            })?;
        }
        recipe.name = format!("{}-{seed}", self.name);
        recipe.seed = seed;
        Ok(recipe)
    }
}

/// What one training gave.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Multiply-accumulates of the training.
    pub train_macs: u64,
    /// How long training and measuring took; of a training that was interrupted, its last part.
    #[serde(default)]
    pub seconds: f64,
    /// Version, machine and time.
    #[serde(default)]
    pub origin: Origin,
    /// Values by name: test accuracies in per cent, by subnet, and what else was asked for.
    pub values: BTreeMap<String, f64>,
}

impl Measured {
    /// A value by name.
    ///
    /// # Errors
    /// If it is not there, as in a file of another version.
    pub fn get(&self, name: &str) -> Result<f64> {
        let found = self.values.get(name).copied();
        found.ok_or_else(|| {
            Error::Request(format!(
                "a kept measurement lacks `{name}`; remove its file to measure again"
            ))
        })
    }

    /// The mean of some values.
    ///
    /// # Errors
    /// As [`Measured::get`].
    pub fn mean(&self, names: &[&str]) -> Result<f64> {
        let mut sum = 0.0;
        for name in names {
            sum += self.get(name)?;
        }
        Ok(sum / names.len() as f64)
    }
}

/// Where an arm's measurements are kept, by seed, and its trainings while they run. Another recipe has
/// other files.
struct Files {
    /// The recipe, to read.
    recipe: PathBuf,
    kept: PathBuf,
    run: PathBuf,
}

fn files(request: &Request, paper: &str, arm: &Arm, seed: u64) -> Files {
    let folder = request.folder.join(format!("{paper}.runs"));
    let name = format!("{}-{:016x}", arm.name, fnv1a64(arm.recipe.as_bytes()));
    Files {
        recipe: folder.join(format!("{name}.toml")),
        kept: folder.join(format!("{name}.json")),
        run: folder.join("unfinished").join(format!("{name}-{seed}")),
    }
}

/// Trains, or goes on with a training that was interrupted.
///
/// # Errors
/// If the recipe is not legal, or a file cannot be read or written.
pub fn trained(folder: &Path, recipe: &Recipe) -> Result<LoadedRun> {
    let run = match folder.join("recipe.toml").exists() {
        true => Run::open(folder)?,
        false => Run::create(folder, recipe)?,
    };
    train_run(&run, &mut TrainingProgress::default())?;
    drop(run);
    LoadedRun::open(folder, WhichCheckpoint::Newest)
}

/// Trains an arm with each seed, unless that was done, and measures it by `measure`.
///
/// # Errors
/// If it was asked to stop, a recipe is not legal, or a file cannot be read or written.
pub fn measure(
    request: &Request,
    paper: &str,
    arm: &Arm,
    measure: &dyn Fn(&mut LoadedRun) -> Result<BTreeMap<String, f64>>,
) -> Result<Vec<Measured>> {
    let mut all = Vec::new();
    for seed in request.seeds() {
        request.check()?;
        let files = files(request, paper, arm, seed);
        let mut known: BTreeMap<u64, Measured> = kept(&files.kept)?.unwrap_or_default();
        let is_known = known.contains_key(&seed);
        if !is_known {
            eprintln!("{paper}: {}, seed {seed}", arm.name);
            let started = Instant::now();
            make_folder(files.recipe.parent().unwrap_or(request.folder))?;
            write_atomically(&files.recipe, arm.recipe.as_bytes())?;
            let mut trained = trained(&files.run, &arm.with_seed(seed)?)?;
            request.check()?;
            let (train_macs, values) = (trained.train_macs, measure(&mut trained)?);
            let found = Measured {
                train_macs,
                seconds: started.elapsed().as_secs_f64(),
                origin: Origin::now(),
                values,
            };
            known.insert(seed, found);
            let text = serde_json::to_string_pretty(&known).expect("names and numbers");
            write_atomically(&files.kept, text.as_bytes())?;
        }
        // Also what a call left that was killed here.
        if files.run.exists() {
            Run::remove(&files.run)?;
            // Removing a run leaves its folder, which may hold other things.
            let _ = std::fs::remove_dir(&files.run);
        }
        if let Some(found) = known.remove(&seed) {
            request.count(found.train_macs, found.seconds);
            all.push(found);
        }
    }
    Ok(all)
}

/// Test accuracies of subnets by their names, in per cent.
///
/// # Errors
/// If one is no member of the run's space.
pub fn test_accuracies(
    run: &mut LoadedRun,
    subnets: &[(&str, Subnet)],
) -> Result<BTreeMap<String, f64>> {
    let each: Vec<Subnet> = subnets.iter().map(|(_, subnet)| subnet.clone()).collect();
    let rows = run.evaluate(&each, Split::Test)?;
    let named = subnets.iter().zip(rows);
    Ok(named
        .map(|((name, _), row)| ((*name).to_owned(), 100.0 * row.accuracy))
        .collect())
}

/// The network whose decisions take the values that `value` gives by slot; where a decision has no
/// such value, its first.
///
/// # Errors
/// If its shapes do not meet.
pub fn network_with(space: &Space, value: impl Fn(&DecisionSlot) -> i64) -> Result<Subnet> {
    Ok(space.build(&mut |slot| {
        let value = Value::Int(value(slot));
        slot.domain.position(&value).unwrap_or(0)
    })?)
}

/// Each measurement with the value `from` alone, under the name `to`.
///
/// # Errors
/// As [`Measured::get`].
pub fn renamed(all: &[Measured], from: &str, to: &str) -> Result<Vec<Measured>> {
    let each = all.iter().map(|one| {
        Ok(Measured {
            train_macs: one.train_macs,
            seconds: one.seconds,
            origin: one.origin.clone(),
            values: BTreeMap::from([(to.to_owned(), one.get(from)?)]),
        })
    });
    each.collect()
}

/// Mean train-MACs.
pub fn mean_cost(all: &[Measured]) -> f64 {
    let sum: f64 = all.iter().map(|one| one.train_macs as f64).sum();
    sum / all.len().max(1) as f64
}

/// Whether the mean accuracy over some networks is better by more than `threshold` points.
///
/// # Errors
/// As [`Measured::get`].
pub fn difference(
    what: &str,
    one: &[Measured],
    other: &[Measured],
    threshold: f64,
    names: &[&str],
) -> Result<Tried> {
    let means = |arm: &[Measured], less: f64| -> Result<Vec<f64>> {
        arm.iter().map(|run| Ok(run.mean(names)? - less)).collect()
    };
    let what = match threshold {
        0.0 => format!("{what}, points"),
        _ => format!("{what} − ({threshold:+}), points"),
    };
    Tried::compared(
        vec![(what, means(one, threshold)?, means(other, 0.0)?)],
        Vec::new(),
    )
}

/// The difference of each network alone, as notes.
///
/// # Errors
/// As [`Measured::get`].
pub fn differences_by_network(
    one: &[Measured],
    other: &[Measured],
    names: &[&str],
) -> Result<Vec<String>> {
    let each = names.iter().map(|name| {
        let tried = difference(name, one, other, 0.0, &[name])?;
        let found = &tried.comparisons[0];
        Ok(format!(
            "{name}: {:+.2} ± {:.2}",
            found.mean, found.half_width
        ))
    });
    each.collect()
}
