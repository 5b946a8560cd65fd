//! `oncefit compare`

use std::path::Path;
use std::sync::atomic::AtomicBool;

use oncefit_continual::{
    AccuracyMatrix, Interval, LearningRecipe, LearningRun, MetricConvention, Results, interval,
    paired_difference,
};
use oncefit_data::LoadedData;
use oncefit_train::{DataRecipe, write_atomically};
use serde::Serialize;

use super::learn::{learn_run, load, remove};
use super::{command_line, print, print_json};
use crate::cli::learning::CompareArgs;
use crate::error::{Error, Result};
use crate::format::{count, duration, percent, table};
use crate::{learning_report, stop};

/// A method over seeds.
#[derive(Clone, Debug, Serialize)]
pub struct ComparedMethod {
    /// Name of its recipe.
    pub name: String,
    /// Name of the method.
    pub method: String,
    /// Final accuracy of each seed, among all classes seen.
    pub final_accuracies: Vec<f64>,
    /// Their mean and interval.
    pub class_incremental: Interval,
    /// The same among the task's classes.
    pub task_incremental: Interval,
    /// Average incremental accuracy.
    pub average_incremental: Interval,
    /// Forgetting, by the convention asked for; none for one task.
    pub forgetting: Option<Interval>,
    /// Anytime accuracy, where the recipe measures it.
    pub anytime: Option<Interval>,
    /// Final accuracy minus that of the first recipe, seed by seed.
    pub difference: Option<Interval>,
    /// Mean train-MACs.
    pub train_macs: f64,
    /// Mean seconds of training steps.
    pub step_seconds: f64,
    /// Mean bytes of the memory.
    pub memory_bytes: f64,
    /// Class-incremental accuracies of each seed.
    pub matrices: Vec<AccuracyMatrix>,
}

/// What a comparison found.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The seeds.
    pub seeds: Vec<u64>,
    /// Whose definition of forgetting.
    pub convention: MetricConvention,
    #[serde(skip)]
    pub convention_name: &'static str,
    /// The methods, in the order of the recipes.
    pub methods: Vec<ComparedMethod>,
}

pub fn compare(args: &CompareArgs) -> Result<()> {
    let recipes = args.recipes.iter().map(|path| load(path));
    let recipes: Vec<LearningRecipe> = recipes.collect::<Result<_>>()?;
    for (index, recipe) in recipes.iter().enumerate() {
        if recipes[..index]
            .iter()
            .any(|other| other.name == recipe.name)
        {
            return Err(Error::Request(format!(
                "two recipes are named `{}`; give one of them another `name`",
                recipe.name
            )));
        }
    }
    // Every recipe is tried, and no run of another recipe is in the way, before the first one runs.
    let mut loaded: Vec<(DataRecipe, LoadedData)> = Vec::new();
    for recipe in &recipes {
        let data = data_of(recipe, &mut loaded)?;
        recipe.build_stream(&data)?;
        recipe.build_learner(&data)?;
    }
    let folder = |recipe: &LearningRecipe, seed: u64| {
        args.out.join(&recipe.name).join(format!("seed-{seed}"))
    };
    let seeds = &args.seeds.0;
    for &seed in seeds {
        for recipe in &recipes {
            check_place(&folder(recipe, seed), &seeded(recipe, seed), args.overwrite)?;
        }
    }
    let stop = stop::stop_flag()?;
    let total = seeds.len() * recipes.len();
    let mut found: Vec<Vec<Results>> = recipes.iter().map(|_| Vec::new()).collect();
    let mut done = 0;
    for &seed in seeds {
        for (recipe, found) in recipes.iter().zip(&mut found) {
            let data = data_of(recipe, &mut loaded)?;
            let folder = folder(recipe, seed);
            let Some(results) = run_one(&folder, &seeded(recipe, seed), &data, &stop)? else {
                return Err(Error::Stopped(format!(
                    "stopped and saved, {done} of {total} runs are done; the same command goes on"
                )));
            };
            done += 1;
            eprintln!(
                "{done}/{total}  {} seed {seed}: {}",
                recipe.name,
                results
                    .class_incremental
                    .map_or("–".into(), |metrics| percent(
                        metrics.final_average_accuracy
                    ))
            );
            found.push(results);
        }
    }
    let compared = summarise(args, &found)?;
    let (header, rows) = rows(&compared);
    let text = serde_json::to_string_pretty(&compared).expect("a comparison is plain data");
    write_atomically(&args.out.join("comparison.json"), text.as_bytes())?;
    let page = learning_report::comparison(&compared, &header, &rows, &command_line());
    let path = args.out.join("comparison.html");
    write_atomically(&path, page.as_bytes())?;
    if args.json {
        print_json(&compared);
        return Ok(());
    }
    // Accuracies and costs apart, so that a row fits a terminal.
    let parts: [&[usize]; 2] = [&[0, 1, 2, 3, 4, 5], &[0, 6, 7]];
    for part in parts {
        let header: Vec<&str> = part.iter().map(|&column| header[column]).collect();
        let rows = rows.iter();
        let cells = rows.map(|row| part.iter().map(|&column| row[column].clone()).collect());
        print(&table(&header, cells));
    }
    print(&format!(
        "mean ± half of the 95 % interval (standard deviation) over {} seeds; the difference is paired",
        seeds.len()
    ));
    print(&format!("page: {}", path.display()));
    Ok(())
}

fn seeded(recipe: &LearningRecipe, seed: u64) -> LearningRecipe {
    LearningRecipe {
        seed,
        ..recipe.clone()
    }
}

fn data_of(
    recipe: &LearningRecipe,
    loaded: &mut Vec<(DataRecipe, LoadedData)>,
) -> Result<LoadedData> {
    if let Some((_, data)) = loaded.iter().find(|(known, _)| *known == recipe.data) {
        return Ok(data.clone());
    }
    let data = recipe.load_data()?;
    loaded.push((recipe.data.clone(), data.clone()));
    Ok(data)
}

/// Succeeds if a folder is free or has a run of this recipe.
fn check_place(folder: &Path, recipe: &LearningRecipe, overwrite: bool) -> Result<()> {
    if !folder.join("recipe.toml").exists() {
        return Ok(());
    }
    let is_same = LearningRun::open_to_read(folder)
        .is_ok_and(|run| run.recipe().to_toml() == recipe.to_toml());
    match (is_same, overwrite) {
        (true, _) => Ok(()),
        (false, true) => remove(folder),
        (false, false) => Err(Error::Request(format!(
            "{} has a run of another recipe; `--overwrite` removes it, or give another --out",
            folder.display()
        ))),
    }
}

/// A finished run is kept, an unfinished one goes on; `None` where it was stopped.
fn run_one(
    folder: &Path,
    recipe: &LearningRecipe,
    data: &LoadedData,
    stop: &AtomicBool,
) -> Result<Option<Results>> {
    let run = match folder.join("recipe.toml").exists() {
        true => LearningRun::open(folder)?,
        false => LearningRun::create(folder, recipe)?,
    };
    match run.results()?.filter(Results::is_finished) {
        Some(results) => Ok(Some(results)),
        None => learn_run(&run, data, stop),
    }
}

fn summarise(args: &CompareArgs, found: &[Vec<Results>]) -> Result<Compared> {
    let convention = MetricConvention::from(args.convention);
    let mut methods: Vec<ComparedMethod> = Vec::new();
    for runs in found {
        let metrics = runs
            .iter()
            .map(|run| run.finished.class_incremental.metrics());
        let metrics: Vec<_> = metrics.collect::<std::result::Result<_, _>>()?;
        let by_task = runs
            .iter()
            .map(|run| run.finished.task_incremental.metrics());
        let by_task: Vec<_> = by_task.collect::<std::result::Result<_, _>>()?;
        let matrices: Vec<AccuracyMatrix> = runs
            .iter()
            .map(|run| run.finished.class_incremental.clone())
            .collect();
        let forgetting = matrices.iter().map(|matrix| convention.forgetting(matrix));
        let forgetting: Option<Vec<f64>> = forgetting
            .collect::<std::result::Result<Vec<_>, _>>()?
            .into_iter()
            .collect();
        let anytime = runs.iter().map(|run| run.finished.anytime_accuracy());
        let anytime: Option<Vec<f64>> = anytime.collect();
        let finals: Vec<f64> = metrics
            .iter()
            .map(|found| found.final_average_accuracy)
            .collect();
        let tasks: Vec<f64> = by_task
            .iter()
            .map(|found| found.final_average_accuracy)
            .collect();
        let averages: Vec<f64> = metrics
            .iter()
            .map(|found| found.average_incremental_accuracy)
            .collect();
        let difference = match methods.first() {
            Some(first) => Some(paired_difference(&finals, &first.final_accuracies)?),
            None => None,
        };
        let mean = |value: &dyn Fn(&Results) -> f64| {
            runs.iter().map(value).sum::<f64>() / runs.len() as f64
        };
        methods.push(ComparedMethod {
            name: runs[0].name.clone(),
            method: runs[0].method.name.clone(),
            class_incremental: interval(&finals)?,
            task_incremental: interval(&tasks)?,
            average_incremental: interval(&averages)?,
            forgetting: forgetting.as_deref().map(interval).transpose()?,
            anytime: anytime.as_deref().map(interval).transpose()?,
            difference,
            train_macs: mean(&|run| run.costs.train_macs as f64),
            step_seconds: mean(&|run| run.costs.step_seconds),
            memory_bytes: mean(&|run| run.costs.memory_bytes as f64),
            final_accuracies: finals,
            matrices,
        });
    }
    Ok(Compared {
        seeds: args.seeds.0.clone(),
        convention,
        convention_name: match convention {
            MetricConvention::Ours => "Oncefit",
            MetricConvention::Mammoth => "mammoth",
            MetricConvention::Avalanche => "avalanche",
            MetricConvention::Online => "OnPro's code",
        },
        methods,
    })
}

fn rows(compared: &Compared) -> (Vec<&'static str>, Vec<Vec<String>>) {
    let header = vec![
        "recipe",
        "final accuracy",
        "difference to first",
        "task-incremental",
        "over the stream",
        "forgetting",
        "train-MACs",
        "steps",
    ];
    let points = |share: f64| format!("{:.2}", 100.0 * share);
    let width = |found: &Interval| match found.half_width.is_finite() {
        true => format!(
            " ± {} ({})",
            points(found.half_width),
            points(found.deviation)
        ),
        false => String::new(),
    };
    let cell = |found: &Interval| format!("{}{}", points(found.mean), width(found));
    let rows = compared.methods.iter().map(|method| {
        vec![
            method.name.clone(),
            cell(&method.class_incremental),
            method.difference.as_ref().map_or("–".into(), |found| {
                let sign = if found.mean > 0.0 { "+" } else { "" };
                format!("{sign}{}", cell(found))
            }),
            cell(&method.task_incremental),
            cell(&method.average_incremental),
            method.forgetting.as_ref().map_or("–".into(), cell),
            count(method.train_macs as u64),
            duration(method.step_seconds),
        ]
    });
    (header, rows.collect())
}
