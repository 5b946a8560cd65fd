//! `oncefit train`

use std::path::{Path, PathBuf};
use std::time::Instant;

use oncefit_continual::LearningRun;
use oncefit_train::{Outcome, Recipe, Run, RunData, Trainer};

use super::{command_line, print};
use crate::cli::TrainArgs;
use crate::error::{Error, Result};
use crate::format::{bytes, count, duration, percent};
use crate::progress::TrainingProgress;
use crate::recipe_kind::RecipeKind;
use crate::{provenance, stop};

pub fn train(args: &TrainArgs) -> Result<()> {
    if args.resume {
        let folder = match (&args.out, args.recipe.is_dir()) {
            (Some(out), _) => out.clone(),
            (None, true) => args.recipe.clone(),
            (None, false) => default_folder(&load(&args.recipe)?),
        };
        let run = Run::open(&folder);
        let run = RecipeKind::Training.expect(&folder.join("recipe.toml"), run)?;
        return train_run(&run, &mut TrainingProgress::default());
    }
    if args.recipe.is_dir() {
        return Err(Error::Request(format!(
            "{0} is a folder; to continue the run in it: oncefit train {0} --resume",
            args.recipe.display()
        )));
    }
    let mut recipe = load(&args.recipe)?;
    if let Some(seed) = args.seed {
        recipe.seed = seed;
    }
    if let Some(file) = &args.init {
        recipe.init.weights = Some(std::path::absolute(file).map_err(|source| Error::File {
            action: "find",
            path: file.clone(),
            source,
        })?);
    }
    // Everything is tried before a folder is made or removed.
    let data = RunData::load(&recipe)?;
    let space = recipe.build_space(data.train.channels(), data.train.class_names().len())?;
    let recipe = recipe.resolve_settings(&space)?;
    recipe.check(&space, &data)?;
    if args.dry_run {
        return dry_run(&recipe, &data);
    }
    let folder = args.out.clone().unwrap_or_else(|| default_folder(&recipe));
    if args.overwrite {
        if LearningRun::open_to_read(&folder).is_ok() {
            LearningRun::remove(&folder)?;
        }
        Run::remove(&folder)?;
    }
    train_run(
        &Run::create(&folder, &recipe)?,
        &mut TrainingProgress::default(),
    )
}

fn load(path: &Path) -> Result<Recipe> {
    RecipeKind::Training.expect(path, Recipe::load(path))
}

/// Makes the folder of a run in place of an older one, after everything that its recipe asks for was
/// tried.
pub(super) fn new_run(folder: &Path, recipe: &Recipe) -> Result<Run> {
    let data = RunData::load(recipe)?;
    let space = recipe.build_space(data.train.channels(), data.train.class_names().len())?;
    recipe.check(&space, &data)?;
    Run::remove(folder)?;
    Ok(Run::create(folder, recipe)?)
}

fn default_folder(recipe: &Recipe) -> PathBuf {
    Path::new("runs").join(&recipe.name)
}

/// Trains a run to its end and says what came of it.
pub(crate) fn train_run(run: &Run, progress: &mut TrainingProgress) -> Result<()> {
    let started = Instant::now();
    let data = RunData::load(run.recipe())?;
    let mut trainer = Trainer::new(run, &data)?;
    let space = trainer.supernet().space.clone();
    provenance::write(run, &data, &space.hash(), &command_line())?;
    eprintln!(
        "training `{}` ({} subnets) on {} images for {} steps into {}",
        space.name(),
        space.count()?,
        data.train.len(),
        trainer.steps(),
        run.folder().display()
    );
    let stop = stop::stop_flag()?;
    let outcome = trainer.train(&stop, &mut |event| progress.observe(event));
    std::mem::take(progress).finish();
    match outcome? {
        Outcome::Stopped { step } => Err(Error::Stopped(format!(
            "stopped after step {step} of {}, saved; to go on: oncefit train {} --resume",
            trainer.steps(),
            run.folder().display()
        ))),
        Outcome::Finished => {
            print(&format!(
                "trained {} steps, {} train-MACs, in {}",
                trainer.step(),
                count(trainer.train_macs()),
                duration(started.elapsed().as_secs_f64())
            ));
            let rows = run.metrics()?;
            if let Some(row) = rows.last() {
                for (name, accuracy) in &row.accuracies {
                    print(&format!("  {name}: {} on validation", percent(*accuracy)));
                }
                if row.seconds > 1.05 * started.elapsed().as_secs_f64() {
                    print(&format!(
                        "  {} of training with the parts before it was resumed",
                        duration(row.seconds)
                    ));
                }
            }
            print(&format!("run: {}", run.folder().display()));
            Ok(())
        }
    }
}

/// Says what a recipe would cost, from a few steps in a folder that is thrown away.
fn dry_run(recipe: &Recipe, data: &RunData) -> Result<()> {
    let folder = tempfile::tempdir().map_err(|source| Error::File {
        action: "create",
        path: std::env::temp_dir(),
        source,
    })?;
    let run = Run::create(&folder.path().join("run"), recipe)?;
    let trainer = Trainer::new(&run, data)?;
    let space = trainer.supernet().space.clone();
    let parameters = trainer.supernet().parameters.values();
    let estimate = trainer.estimate()?;
    print(&format!(
        "space `{}`: {} subnets, {parameters} values in the supernet",
        space.name(),
        space.count()?
    ));
    print(&format!(
        "images: {} to train on, {} validation, {} test",
        data.train.len(),
        data.validation.len(),
        data.test.len()
    ));
    print(&format!(
        "{} steps, about {} train-MACs, about {} here (without evaluations), {} for each checkpoint",
        estimate.steps,
        count(estimate.train_macs),
        duration(estimate.seconds),
        bytes(estimate.checkpoint_bytes)
    ));
    Ok(())
}
