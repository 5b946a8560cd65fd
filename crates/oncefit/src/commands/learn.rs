//! `oncefit learn`

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use oncefit_continual::{Learner, LearningRecipe, LearningRun, Outcome, Results};
use oncefit_data::LoadedData;
use oncefit_train::{Run, write_atomically};

use super::{command_line, learn_estimate, print};
use crate::cli::learning::LearnArgs;
use crate::error::{Error, Result};
use crate::format::{bytes, count, duration, percent, table};
use crate::progress::LearningProgress;
use crate::recipe_kind::RecipeKind;
use crate::{learning_report, provenance, stop};

pub fn learn(args: &LearnArgs) -> Result<()> {
    if args.dry_run {
        let recipe = recipe_of(args)?;
        let data = recipe.load_data()?;
        return oncefit_nn::in_pool(|| learn_estimate::estimate(&recipe, &data));
    }
    let run = match args.resume {
        true => {
            let folder = match (&args.out, args.recipe.is_dir()) {
                (Some(out), _) => out.clone(),
                (None, true) => args.recipe.clone(),
                (None, false) => default_folder(&load(&args.recipe)?),
            };
            let run = LearningRun::open(&folder);
            RecipeKind::Learning.expect(&folder.join("recipe.toml"), run)?
        }
        false => new_run(args)?,
    };
    let data = run.recipe().load_data()?;
    let stop = stop::stop_flag()?;
    let folder = run.folder().display();
    match learn_run(&run, &data, &stop)? {
        None => Err(Error::Stopped(format!(
            "stopped and saved; to go on: oncefit learn {folder} --resume"
        ))),
        Some(results) => {
            print(&summary(&results));
            print(&format!("report: {}", run.file("report.html").display()));
            print(&format!("run: {folder}"));
            Ok(())
        }
    }
}

fn recipe_of(args: &LearnArgs) -> Result<LearningRecipe> {
    if args.recipe.is_dir() {
        return Err(Error::Request(format!(
            "{0} is a folder; to continue the run in it: oncefit learn {0} --resume",
            args.recipe.display()
        )));
    }
    let mut recipe = load(&args.recipe)?;
    if let Some(seed) = args.seed {
        recipe.seed = seed;
    }
    Ok(recipe)
}

fn new_run(args: &LearnArgs) -> Result<LearningRun> {
    let recipe = recipe_of(args)?;
    let folder = args.out.clone().unwrap_or_else(|| default_folder(&recipe));
    // Data, stream, network and method are tried before a folder is made or removed.
    let data = recipe.load_data()?;
    recipe.build_stream(&data)?;
    recipe.build_learner(&data)?;
    if args.overwrite {
        remove(&folder)?;
    }
    Ok(LearningRun::create(&folder, &recipe)?)
}

pub(super) fn load(path: &Path) -> Result<LearningRecipe> {
    RecipeKind::Learning.expect(path, LearningRecipe::load(path))
}

/// Removes the run of a folder, of training or of learning.
pub(super) fn remove(folder: &Path) -> Result<()> {
    if Run::open_to_read(folder).is_ok() {
        Run::remove(folder)?;
    }
    Ok(LearningRun::remove(folder)?)
}

fn default_folder(recipe: &LearningRecipe) -> PathBuf {
    Path::new("runs").join(&recipe.name)
}

/// Learns a run to its end, with its report; `None` where it was stopped.
pub(super) fn learn_run(
    run: &LearningRun,
    data: &LoadedData,
    stop: &AtomicBool,
) -> Result<Option<Results>> {
    provenance::write_learning(run, data, &command_line())?;
    let mut progress =
        LearningProgress::new(&format!("{} seed {}", run.recipe().name, run.recipe().seed));
    // Steps of batches of ten take less time than a change of threads.
    let outcome = oncefit_nn::in_pool(|| {
        oncefit_continual::learn(run, data, stop, &mut |told| progress.observe(told))
    });
    progress.finish();
    let (outcome, learner) = outcome?;
    if let Outcome::Stopped { done, batches } = outcome {
        eprintln!("stopped after batch {done} of {batches}");
        return Ok(None);
    }
    let results = run.results()?.ok_or_else(|| {
        Error::Request(format!("{}: its results are gone", run.folder().display()))
    })?;
    write_report(run, &results, &learner, data)?;
    Ok(Some(results))
}

fn write_report(
    run: &LearningRun,
    results: &Results,
    learner: &Learner,
    data: &LoadedData,
) -> Result<()> {
    let page = learning_report::report(run, results, learner, data, &command_line())?;
    Ok(write_atomically(&run.file("report.html"), page.as_bytes())?)
}

/// The accuracy matrix and what follows from it.
pub(super) fn summary(results: &Results) -> String {
    let numbers: Vec<String> = (1..=results.tasks.len())
        .map(|task| task.to_string())
        .collect();
    let mut header = vec!["after"];
    header.extend(numbers.iter().map(String::as_str));
    let rows = results.finished.class_incremental.rows.iter().enumerate();
    let rows = rows.map(|(learnt, row)| {
        let cells = row
            .iter()
            .map(|accuracy| format!("{:.1}", 100.0 * accuracy));
        std::iter::once(numbers[learnt].clone())
            .chain(cells)
            .collect()
    });
    let mut lines = vec![
        "accuracy in % on each task, among all classes seen".to_owned(),
        table(&header, rows),
    ];
    let optional = |value: Option<f64>| value.map_or("–".into(), percent);
    for (name, metrics) in [
        ("class-incremental", &results.class_incremental),
        ("task-incremental", &results.task_incremental),
    ] {
        if let Some(found) = metrics {
            lines.push(format!(
                "{name}: {} at the end, {} over the stream, forgetting {}",
                percent(found.final_average_accuracy),
                percent(found.average_incremental_accuracy),
                optional(found.forgetting)
            ));
        }
    }
    if let Some(found) = results.finished.anytime_accuracy() {
        lines.push(format!(
            "anytime: {} among all classes seen, mean of {} points",
            percent(found),
            results.finished.anytime.len()
        ));
    }
    let costs = &results.costs;
    lines.push(format!(
        "{} steps, {} images, {} train-MACs\n{} ({} of steps), memory {}",
        count(costs.steps),
        count(costs.images),
        count(costs.train_macs),
        duration(costs.seconds),
        duration(costs.step_seconds),
        bytes(costs.memory_bytes as u64)
    ));
    lines.join("\n")
}
