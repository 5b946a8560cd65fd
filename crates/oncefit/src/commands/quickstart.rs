//! `oncefit quickstart`: the main job on embedded images.

use std::time::{Duration, Instant};

use oncefit_search::{Limit, Metric};
use oncefit_target::{Engine, ProfileOptions};
use oncefit_train::{Recipe, write_atomically};

use super::fit::learn;
use super::profile::{measured, summary};
use super::report::write_report;
use super::train::{new_run, train_run};
use super::{command_line, fitted_table, print};
use crate::cli::QuickstartArgs;
use crate::error::Result;
use crate::finder::{Finder, Scope};
use crate::fit::{self, Fitted, PredictedFit};
use crate::format::{count, duration, percent};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::predicted::PredictorSettings;
use crate::progress::TrainingProgress;

/// Budgets in MACs for one image.
const BUDGETS: [(&str, u64); 3] = [
    ("small", 400_000),
    ("medium", 800_000),
    ("large", 1_600_000),
];

/// How long this machine is measured.
const PROFILE_TIME: Duration = Duration::from_secs(20);
/// How many of the most promising subnets are measured for each budget.
const VERIFIED: usize = 12;

pub fn quickstart(args: &QuickstartArgs) -> Result<()> {
    let started = Instant::now();
    let mut recipe = Recipe::parse(
        include_str!("../../../../recipes/quickstart.toml"),
        "quickstart.toml",
    )?;
    recipe.seed = args.seed;
    if let Some(epochs) = args.epochs {
        recipe.schedule.epochs = epochs;
    }
    let folder = args.out.join("run");
    let run = new_run(&folder, &recipe)?;
    eprintln!("1. train a once-for-all supernet with DepS on the embedded Fashion-MNIST images");
    train_run(&run, &mut TrainingProgress::default())?;
    drop(run);

    let mut run = LoadedRun::open(&folder, WhichCheckpoint::Newest)?;
    eprintln!("2. measure this machine: what each operator of these networks costs in tract");
    let options = ProfileOptions {
        time_limit: Some(PROFILE_TIME),
        seed: args.seed,
        ..ProfileOptions::default()
    };
    let target = measured(&run.space, Engine::Tract, &options)?;
    let target_path = args.out.join("this-machine.toml");
    target.save(&target_path)?;
    eprintln!("   {}", summary(&target));

    eprintln!(
        "3. learn to predict accuracies from {} measured subnets",
        args.evaluations
    );
    let settings = PredictorSettings {
        samples: args.evaluations,
        time_limit: None,
        seed: args.seed,
    };
    let predictor = learn(&mut run, settings)?;

    eprintln!(
        "4. find the best subnet for three budgets, write it as an ONNX file, run the file, and compare"
    );
    let mut finder = Finder::new(&run.space, &predictor)?;
    let mut fitted: Vec<Fitted> = Vec::new();
    for (name, budget) in BUDGETS {
        let request = PredictedFit {
            limits: vec![Limit {
                metric: Metric::Macs,
                at_most: budget,
            }],
            target: Some((&target, None)),
            allow_estimates: false,
            metadata: None,
            scope: Scope::Evolution { seed: args.seed },
            verify: VERIFIED,
        };
        let promising = fit::find_predicted(&mut run, &mut finder, &request)?;
        let expected = fit::expected(&mut run, &promising, Some(&target))?;
        let file = args.out.join(format!("{name}.onnx"));
        let mut one = fit::export(&mut run, &promising[0].subnet, &file)?;
        one.expected = Some(expected);
        eprintln!(
            "   {name}, at most {} MACs: {} on validation, predicted {}",
            count(budget),
            percent(one.validation_accuracy),
            percent(promising[0].accuracy)
        );
        fitted.push(one);
    }
    let summary = serde_json::to_string_pretty(&fitted).expect("results are plain data");
    write_atomically(&args.out.join("fitted.json"), summary.as_bytes())?;
    let report = write_report(&run, &fitted, &command_line())?;
    print(&fitted_table(&fitted));
    print(&format!("report: {report}"));
    print(&format!(
        "done in {}; another budget: oncefit fit {} --target {} --max-latency 150us",
        duration(started.elapsed().as_secs_f64()),
        folder.display(),
        target_path.display()
    ));
    Ok(())
}
