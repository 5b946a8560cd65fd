//! `oncefit study`: search as something that is kept, shared and resumed.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use oncefit_search::statistics::{Summary, curves, sign_test};
use oncefit_search::{Outcome, Rung, StudyRow};
use oncefit_train::write_atomically;
use serde::Serialize;

use super::profile::time_limit;
use super::{command_line, print, print_json};
use crate::cli::study::{
    StudyCommand, StudyCompareArgs, StudyResumeArgs, StudyRunArgs, StudyShowArgs,
};
use crate::error::{Error, Result};
use crate::format::{duration, table};
use crate::progress::Progress;
use crate::recipe_kind::RecipeKind;
use crate::stop;
use crate::study::{Limits, REPORT, StudyEvent, StudyFolder, network_folder, run_seed};
use crate::study_recipe::StudyRecipe;
use crate::study_report::{Curve, best_by_cost, best_so_far, comparison_page, shown, study_page};

pub fn study(command: &StudyCommand) -> Result<()> {
    match command {
        StudyCommand::Run(args) => run(args),
        StudyCommand::Resume(args) => resume(args),
        StudyCommand::Show(args) => show(args),
        StudyCommand::Compare(args) => compare(args),
    }
}

fn run(args: &StudyRunArgs) -> Result<()> {
    let recipe = RecipeKind::Study.expect(&args.study, StudyRecipe::load(&args.study))?;
    let path = match &args.out {
        Some(path) => path.clone(),
        None => Path::new("studies").join(&recipe.name),
    };
    // Space, searcher and limits are tried before a folder is made or cleared.
    let space = recipe.build_space()?;
    recipe.build_searcher(&space, recipe.seeds[0])?;
    recipe.find_program()?;
    if args.overwrite {
        StudyFolder::remove(&path)?;
    }
    go_on(&StudyFolder::create(&path, &recipe)?, args.time_limit)
}

fn resume(args: &StudyResumeArgs) -> Result<()> {
    let folder = StudyFolder::open(&args.folder)?;
    folder.recipe.find_program()?;
    go_on(&folder, args.time_limit)
}

/// Runs all seeds of a study as far as they are not done.
fn go_on(folder: &StudyFolder, seconds: Option<f64>) -> Result<()> {
    let started = Instant::now();
    let stop = stop::stop_flag()?;
    let limits = Limits {
        stop: &stop,
        until: time_limit(seconds)?.map(|limit| started + limit),
    };
    let recipe = &folder.recipe;
    let mut is_done = true;
    for &seed in &recipe.seeds {
        let rows = folder.rows(seed)?;
        let done = rows.iter().filter(|row| row.outcome.is_some()).count() as u64;
        let progress = Progress::new("trying", done, recipe.trials() as u64);
        let told = |best: Option<&StudyRow>| match best.and_then(|row| Some((row, row.score()?))) {
            None => "nothing yet".to_owned(),
            Some((best, score)) => {
                let score = shown(score, &recipe.objective.names[0]);
                let budget = best.budget.map(|budget| format!(" at budget {budget}"));
                format!("best {score}{}", budget.unwrap_or_default())
            }
        };
        // How many are done, and what the best is.
        let best = rows.iter().max_by(|one, other| one.by_merit(other));
        let state = RefCell::new((progress, done, told(best)));
        let finished = run_seed(folder, seed, &limits, &|event| {
            let (progress, known, found) = &mut *state.borrow_mut();
            match event {
                StudyEvent::Step { trial, step, steps } => progress.update(*known, || {
                    format!("seed {seed}, {found}; trial {trial}: step {step} of {steps}")
                }),
                StudyEvent::Told {
                    done,
                    best,
                    told: row,
                } => {
                    if let Some(Outcome::Failed(reason)) = &row.outcome {
                        progress.say(&format!("trial {} failed: {reason}", row.number));
                    }
                    (*known, *found) = (done as u64, told(best));
                    progress.update(*known, || format!("seed {seed}, {found}"));
                }
            }
        });
        state.into_inner().0.finish();
        is_done &= finished?;
        if !is_done {
            break;
        }
    }
    if stop.load(Ordering::Relaxed) {
        return Err(Error::Stopped(format!(
            "stopped, everything told is kept; to go on: oncefit study resume {}",
            folder.path.display()
        )));
    }
    let report = folder.path.join(REPORT);
    let page = study_page(folder, &command_line())?;
    write_atomically(&report, page.as_bytes())?;
    tell(folder, 5)?;
    print(&format!("report: {}", report.display()));
    if !is_done {
        print(&format!(
            "the time is over; to go on: oncefit study resume {}",
            folder.path.display()
        ));
    }
    print(&format!("in {}", duration(started.elapsed().as_secs_f64())));
    match is_done && !has_score(folder)? {
        true => Err(Error::Failed(format!(
            "every trial of the study in {} failed; put the reason right and begin it again by --overwrite",
            folder.path.display()
        ))),
        false => Ok(()),
    }
}

/// Whether any trial of any seed has a score.
fn has_score(folder: &StudyFolder) -> Result<bool> {
    for &seed in &folder.recipe.seeds {
        if folder.rows(seed)?.iter().any(|row| row.score().is_some()) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn show(args: &StudyShowArgs) -> Result<()> {
    let folder = StudyFolder::open(&args.folder)?;
    if !args.json {
        return tell(&folder, args.top);
    }
    #[derive(Serialize)]
    struct Row {
        seed: u64,
        number: u64,
        subnet: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        budget: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        rung: Option<Rung>,
        outcome: Option<Outcome>,
        seconds: f64,
    }
    let mut all = Vec::new();
    for &seed in &folder.recipe.seeds {
        all.extend(folder.rows(seed)?.into_iter().map(|row| Row {
            seed,
            number: row.number,
            subnet: row.subnet,
            budget: row.budget,
            rung: row.rung,
            outcome: row.outcome,
            seconds: row.seconds,
        }));
    }
    print_json(&all);
    Ok(())
}

/// Prints the state of a study and its best members.
fn tell(folder: &StudyFolder, top: usize) -> Result<()> {
    let recipe = &folder.recipe;
    let mut states = Vec::new();
    let mut best: Vec<(u64, StudyRow)> = Vec::new();
    for &seed in &recipe.seeds {
        let rows = folder.rows(seed)?;
        let is = |wanted: fn(&Outcome) -> bool| {
            rows.iter()
                .filter(|row| row.outcome.as_ref().is_some_and(wanted))
                .count()
        };
        let told = is(|_| true);
        let failed = is(|outcome| matches!(outcome, Outcome::Failed(_)));
        let seconds: f64 = rows.iter().map(|row| row.seconds).sum();
        let found = best_so_far(&rows).last().copied().flatten();
        states.push(vec![
            seed.to_string(),
            format!("{told} of {}", recipe.trials()),
            failed.to_string(),
            (rows.len() - told).to_string(),
            found.map_or("–".into(), |score| {
                shown(score, &recipe.objective.names[0])
            }),
            duration(seconds),
        ]);
        best.extend(rows.into_iter().map(|row| (seed, row)));
    }
    print(&table(
        &["seed", "tried", "failed", "open", "best", "time of trials"],
        states,
    ));
    best.retain(|(_, row)| row.score().is_some());
    best.sort_by(|(_, one), (_, other)| other.by_merit(one));
    // Of the rounds of a screening the last one of each member.
    let mut shown_members = BTreeSet::new();
    best.retain(|(seed, row)| shown_members.insert((*seed, row.first())));
    best.truncate(top);
    if best.is_empty() {
        print("no trial has a score yet");
        return Ok(());
    }
    let mut header = vec!["seed", "trial"];
    let has_budgets = recipe.searcher.kind.has_budgets();
    header.extend(has_budgets.then_some("budget"));
    let names = recipe.objective.names.iter();
    header.extend(names.map(|name| name.trim_start_matches('-')));
    header.push("subnet");
    let rows = best.iter().map(|(seed, row)| {
        let mut cells = vec![seed.to_string(), row.number.to_string()];
        cells.extend(row.budget.map(|budget| budget.to_string()));
        let scores = row
            .outcome
            .as_ref()
            .map(Outcome::scores)
            .unwrap_or_default();
        let named = scores.iter().zip(&recipe.objective.names);
        cells.extend(named.map(|(score, name)| shown(*score, name)));
        cells.push(row.subnet.clone());
        cells
    });
    print(&table(&header, rows));
    if let Some((seed, row)) = best.first()
        && let Some(run) = network_folder(folder, *seed, row)
    {
        print(&format!(
            "the best is trained; as a file: oncefit export {} --subnet '{}' --out best.onnx",
            run.display(),
            row.subnet
        ));
    }
    Ok(())
}

fn compare(args: &StudyCompareArgs) -> Result<()> {
    let folders = args
        .folders
        .iter()
        .map(|path| StudyFolder::open(path))
        .collect::<Result<Vec<_>>>()?;
    let first = &folders[0];
    for other in &folders[1..] {
        if other.recipe.objective.names[0] != first.recipe.objective.names[0] {
            return Err(Error::Request(format!(
                "{} scores `{}`, {} scores `{}`: they cannot be compared",
                first.path.display(),
                first.recipe.objective.names[0],
                other.path.display(),
                other.recipe.objective.names[0]
            )));
        }
    }
    // Seeds that all of them have, so that differences are paired.
    let common = |seed: &&u64| {
        folders
            .iter()
            .all(|folder| folder.recipe.seeds.contains(seed))
    };
    let seeds: Vec<u64> = first.recipe.seeds.iter().filter(common).copied().collect();
    if seeds.is_empty() {
        return Err(Error::Request(
            "these studies have no seed in common".into(),
        ));
    }
    let mut found: Vec<(PathBuf, Curve, Vec<f64>)> = Vec::new();
    for folder in &folders {
        let mut each = Vec::new();
        for &seed in &seeds {
            let best = best_by_cost(&folder.recipe, &folder.rows(seed)?)?;
            if best.last().copied().flatten().is_none() {
                return Err(Error::Request(format!(
                    "{} has no score for seed {seed} yet",
                    folder.path.display()
                )));
            }
            each.push(best);
        }
        let last = each.iter().filter_map(|curve| *curve.last()?).collect();
        found.push((folder.path.clone(), curves(&each), last));
    }
    let rows = found.iter().map(|(path, curve, last)| {
        let at = |share: f64| {
            let place = ((curve.len() as f64 * share).ceil() as usize).clamp(1, curve.len().max(1));
            curve.get(place - 1).map_or("–".into(), |point| {
                format!("{:.5} @{}", point.summary.mean, point.evaluations)
            })
        };
        let summary = Summary::of(last);
        let test = sign_test(last, &found[0].2);
        vec![
            path.display().to_string(),
            at(0.25),
            at(0.5),
            at(1.0),
            summary.map_or("–".into(), |summary| format!("{:.5}", summary.deviation)),
            match *path == found[0].0 {
                true => String::new(),
                false => format!(
                    "{}/{}/{}, p {:.3}",
                    test.wins, test.losses, test.ties, test.p_value
                ),
            },
        ]
    });
    print(&table(
        &[
            "study",
            "a quarter",
            "half",
            "all",
            "deviation",
            "wins, losses, ties",
        ],
        rows.collect::<Vec<_>>(),
    ));
    print(&format!(
        "mean of the best so far over {} seed(s), after so many full evaluations{}; wins over {} by seed, one-sided sign test",
        seeds.len(),
        match folders
            .iter()
            .any(|folder| folder.recipe.searcher.kind.has_budgets())
        {
            true => " or as much in smaller budgets",
            false => "",
        },
        first.path.display()
    ));
    if let Some(file) = &args.html {
        let drawn: Vec<(String, Curve)> = found
            .into_iter()
            .map(|(path, curve, _)| (path.display().to_string(), curve))
            .collect();
        let page = comparison_page(&drawn, &first.recipe.objective.names[0], &command_line());
        write_atomically(file, page.as_bytes())?;
        print(&format!("drawn in {}", file.display()));
    }
    Ok(())
}
