//! `oncefit quickstart`: the main job on embedded images.

use std::time::Instant;

use oncefit_search::{Limit, Metric};
use oncefit_space::Subnet;
use oncefit_train::{Recipe, Run, write_atomically};

use super::runs::write_report;
use super::train::train_run;
use super::{command_line, fitted_table, print};
use crate::cli::QuickstartArgs;
use crate::error::{Error, Result};
use crate::fit::{self, FitSettings, Fitted, SearcherKind};
use crate::format::{count, duration, percent};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::progress::{Progress, TrainingProgress};

/// Budgets in MACs for one image.
const BUDGETS: [(&str, u64); 3] = [
    ("small", 400_000),
    ("medium", 800_000),
    ("large", 1_600_000),
];

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
    std::fs::create_dir_all(&args.out).map_err(|source| Error::File {
        action: "create",
        path: args.out.clone(),
        source,
    })?;
    eprintln!("1. train a once-for-all supernet with DepS on the embedded Fashion-MNIST images");
    Run::remove(&folder)?;
    train_run(
        &Run::create(&folder, &recipe)?,
        &mut TrainingProgress::default(),
    )?;

    eprintln!("2. find the best subnet for three budgets, by calibrated validation accuracy");
    let mut run = LoadedRun::open(&folder, WhichCheckpoint::Newest)?;
    let total = (BUDGETS.len() * 2 * args.evaluations) as u64;
    let mut progress = Progress::new("searching", 0, total);
    let mut done = 0;
    let mut chosen = Vec::new();
    for (name, budget) in BUDGETS {
        let limits = vec![Limit {
            metric: Metric::Macs,
            at_most: budget,
        }];
        let mut found = Vec::new();
        for searcher in [SearcherKind::Evolution, SearcherKind::Random] {
            let settings = FitSettings {
                limits: limits.clone(),
                searcher,
                evaluations: args.evaluations,
                seed: args.seed,
            };
            let (subnet, accuracy) = fit::find(&mut run, &settings, &mut |measured, best| {
                let position = done + measured as u64;
                progress.update(position, || {
                    format!("{name}, {searcher:?}: best {}", percent(best))
                });
            })?;
            done += args.evaluations as u64;
            found.push((subnet, accuracy));
        }
        progress.say(&format!(
            "   {name}: at most {} MACs: evolution {}, random {} on validation",
            count(budget),
            percent(found[0].1),
            percent(found[1].1)
        ));
        // The more accurate of the two; of equals the cheaper.
        found.sort_by(|left, right| {
            let macs = |found: &(Subnet, f64)| found.0.graph().macs();
            right
                .1
                .total_cmp(&left.1)
                .then(macs(left).cmp(&macs(right)))
        });
        chosen.push((name, found.swap_remove(0).0));
    }
    progress.finish();

    eprintln!("3. write each as an ONNX file, run the file, and compare");
    let mut fitted: Vec<Fitted> = Vec::new();
    for (name, subnet) in chosen {
        fitted.push(fit::export(
            &mut run,
            &subnet,
            &args.out.join(format!("{name}.onnx")),
        )?);
    }
    let summary = serde_json::to_string_pretty(&fitted).expect("results are plain data");
    write_atomically(&args.out.join("fitted.json"), summary.as_bytes())?;
    let report = write_report(&run, &fitted, &command_line())?;
    print(&fitted_table(&fitted));
    print(&format!("report: {report}"));
    print(&format!(
        "done in {}; more budgets: oncefit fit {} --max-macs 600k --out model.onnx",
        duration(started.elapsed().as_secs_f64()),
        folder.display()
    ));
    Ok(())
}
