//! `oncefit evaluate`, `fit`, `export` and `report`: what is done with a run.

use std::path::{Path, PathBuf};
use std::time::Instant;

use oncefit_random::Draws;
use oncefit_search::{Count, Limit, Metric};
use oncefit_space::Subnet;
use oncefit_target::{Predictor, Target};
use oncefit_train::{RowLog, Run, Split, read_rows, write_atomically};

use super::profile::time_limit;
use super::train::train_run;
use super::{command_line, fitted_table, print, print_json};
use crate::cli::{EvaluateArgs, ExportArgs, FitArgs, LimitArgs, ReportArgs};
use crate::error::{Error, Result};
use crate::fit::{self, FITS, FitSettings, Fitted, PredictedFit, SearcherKind};
use crate::format::{count, duration, percent, table};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::predicted::{self, PredictorSettings};
use crate::progress::{Progress, TrainingProgress};

pub fn evaluate(args: &EvaluateArgs) -> Result<()> {
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let mut subnets: Vec<Subnet> = Vec::new();
    for text in &args.subnet {
        subnets.push(run.space.parse_subnet(text)?);
    }
    if subnets.is_empty() && args.random == 0 {
        subnets.extend([run.space.smallest()?, run.space.largest()?]);
    }
    for index in 0..args.random {
        let mut draws = Draws::new(args.seed, "evaluate", index as u64, 0);
        subnets.push(run.space.sample(&mut draws)?);
    }
    let split = if args.split == "test" {
        Split::Test
    } else {
        Split::Validation
    };
    let mut rows = Vec::with_capacity(subnets.len());
    let mut progress = Progress::new("measuring", 0, subnets.len() as u64);
    for part in subnets.chunks(8) {
        rows.extend(run.evaluate(part, split)?);
        progress.update(rows.len() as u64, String::new);
    }
    progress.finish();
    if args.json {
        print_json(&rows);
        return Ok(());
    }
    if args.classes {
        for subnet in &subnets {
            print_classes(&mut run, subnet, split)?;
        }
    }
    let cells = rows.iter().map(|row| {
        vec![
            row.subnet.clone(),
            percent(row.accuracy),
            format!("{:.4}", row.loss),
            count(row.macs),
            count(row.parameters),
        ]
    });
    print(&table(
        &["subnet", &args.split, "loss", "MACs", "parameters"],
        cells,
    ));
    let calibration = run.run.recipe().evaluation.calibration_images;
    print(&format!("each calibrated on {calibration} training images"));
    Ok(())
}

/// Prints the confusion matrix of a subnet with the accuracy of each class.
fn print_classes(run: &mut LoadedRun, subnet: &Subnet, split: Split) -> Result<()> {
    let confusion = run.confusion(subnet, split)?;
    let names = run.data.train.class_names();
    print(&format!(
        "{}\nimages of each class (row) by what they were taken for (column):",
        subnet.text()
    ));
    let mut header = vec![""];
    header.extend(names.iter().map(String::as_str));
    header.push("accuracy");
    let rows = confusion.counts.iter().zip(confusion.class_accuracies());
    let cells = rows.zip(names).map(|((row, accuracy), name)| {
        let mut cells = vec![name.clone()];
        cells.extend(row.iter().map(u32::to_string));
        cells.push(accuracy.map_or("–".into(), percent));
        cells
    });
    print(&table(&header, cells));
    Ok(())
}

impl LimitArgs {
    fn limits(&self) -> Vec<Limit> {
        [
            (Metric::Macs, self.max_macs),
            (Metric::Parameters, self.max_parameters),
            (Metric::PeakMemory, self.max_peak_memory),
        ]
        .into_iter()
        .filter_map(|(metric, limit)| {
            let Count(at_most) = limit?;
            Some(Limit { metric, at_most })
        })
        .collect()
    }
}

pub fn fit(args: &FitArgs) -> Result<()> {
    let started = Instant::now();
    let limits = args.limits.limits();
    if limits.is_empty() && args.max_latency.is_none() {
        return Err(Error::Request(
            "a budget is needed: --max-macs 600k, --max-parameters, --max-peak-memory, or --target FILE --max-latency 2ms".into(),
        ));
    }
    let targets = args
        .target
        .iter()
        .map(|path| Ok(Target::load(path)?))
        .collect::<Result<Vec<_>>>()?;
    let outputs = outputs(args)?;
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let fitted = match args.searcher {
        SearcherKind::Predictor => fit_predicted(args, &mut run, &targets, &outputs, &limits)?,
        _ if !targets.is_empty() => {
            return Err(Error::Request(
                "--target needs `--searcher predictor`; the others measure accuracies only".into(),
            ));
        }
        _ => vec![fit_measured(args, &mut run, limits)?],
    };
    let mut log = RowLog::append(&run.run.file(FITS))?;
    for one in &fitted {
        log.push(one)?;
    }
    if args.json {
        print_json(&fitted);
        return Ok(());
    }
    print(&fitted_table(&fitted));
    for one in &fitted {
        print(&format!("{}: {}", one.file.display(), one.subnet));
    }
    let seconds = duration(started.elapsed().as_secs_f64());
    print(&format!(
        "found and checked in {seconds}; again: {}",
        command_line()
    ));
    Ok(())
}

/// A file for each target, or one.
fn outputs(args: &FitArgs) -> Result<Vec<PathBuf>> {
    if args.target.len() < 2 {
        check_folder(&args.out)?;
        return Ok(vec![args.out.clone()]);
    }
    let folder = match args.out.extension() {
        Some(_) => args.out.parent().unwrap_or(Path::new("")).to_owned(),
        None => args.out.clone(),
    };
    if !folder.as_os_str().is_empty() {
        std::fs::create_dir_all(&folder).map_err(|source| Error::File {
            action: "create",
            path: folder.clone(),
            source,
        })?;
    }
    let files: Vec<PathBuf> = args
        .target
        .iter()
        .map(|target| {
            folder.join(
                target
                    .with_extension("onnx")
                    .file_name()
                    .unwrap_or_default(),
            )
        })
        .collect();
    for (index, file) in files.iter().enumerate() {
        if files[..index].contains(file) {
            return Err(Error::Request(format!(
                "two targets would be written to {}; give their files different names",
                file.display()
            )));
        }
    }
    Ok(files)
}

/// Searches by prediction, once for each target.
fn fit_predicted(
    args: &FitArgs,
    run: &mut LoadedRun,
    targets: &[Target],
    outputs: &[PathBuf],
    limits: &[Limit],
) -> Result<Vec<Fitted>> {
    let settings = PredictorSettings {
        samples: args.evaluations,
        time_limit: time_limit(args.time_limit)?,
        seed: args.seed,
    };
    let targets: Vec<Option<&Target>> = match targets.is_empty() {
        true => vec![None],
        false => targets.iter().map(Some).collect(),
    };
    let requests: Vec<PredictedFit> = targets
        .iter()
        .map(|target| PredictedFit {
            limits: limits.to_vec(),
            target: target.map(|target| (target, args.max_latency.map(|most| most.0))),
            allow_estimates: args.allow_estimates,
            verify: args.verify,
            seed: args.seed,
        })
        .collect();
    // What cannot be is said before anything is measured.
    for request in &requests {
        request.budget(&run.space)?.region(&run.space)?;
    }
    let predictor = learn(run, settings)?;
    let mut fitted = Vec::new();
    for ((target, request), output) in targets.iter().zip(&requests).zip(outputs) {
        let promising = fit::find_predicted(run, &predictor, request)?;
        let expected = fit::expected(run, &promising, *target)?;
        let mut one = finish(args, run, &promising[0].subnet, output)?;
        one.expected = Some(expected);
        fitted.push(one);
    }
    Ok(fitted)
}

/// The run's predictor, with progress and what it is worth.
pub(super) fn learn(run: &mut LoadedRun, settings: PredictorSettings) -> Result<Predictor> {
    let mut progress = Progress::new("measuring", 0, settings.samples as u64);
    let predictor = predicted::predictor(run, settings, &mut |done| {
        progress.update(done as u64, || "subnets for the predictor".into());
    })?;
    progress.finish();
    let quality = predictor.quality();
    let verdict = match quality.beats_log_macs() {
        true => "",
        false => {
            "; it does NOT beat the line: measure more subnets (--evaluations), or search by `--searcher evolution`"
        }
    };
    eprintln!(
        "predictor: error {:.2} points, Kendall tau {:.2} on {} subnets that it never saw (a line through log-MACs: {:.2} points, {:.2}){verdict}",
        100.0 * quality.predictor.rmse,
        quality.predictor.kendall,
        quality.held_out,
        100.0 * quality.log_macs.rmse,
        quality.log_macs.kendall
    );
    Ok(predictor)
}

/// Searches by measuring.
fn fit_measured(args: &FitArgs, run: &mut LoadedRun, limits: Vec<Limit>) -> Result<Fitted> {
    let settings = FitSettings {
        limits,
        searcher: args.searcher,
        evaluations: args.evaluations,
        seed: args.seed,
    };
    let mut progress = Progress::new("searching", 0, args.evaluations as u64);
    let (subnet, _) = fit::find(run, &settings, &mut |done, best| {
        progress.update(done as u64, || format!("best {}", percent(best)));
    })?;
    progress.finish();
    finish(args, run, &subnet, &args.out)
}

/// Trains a chosen network further, if asked to, and writes it.
fn finish(args: &FitArgs, run: &mut LoadedRun, subnet: &Subnet, file: &Path) -> Result<Fitted> {
    let Some(epochs) = args.finetune else {
        return fit::export(run, subnet, file);
    };
    let folder = file.with_extension("finetune");
    let recipe = fit::finetune_recipe(run, subnet, epochs, &folder)?;
    Run::remove(&folder)?;
    train_run(
        &Run::create(&folder, &recipe)?,
        &mut TrainingProgress::default(),
    )?;
    let mut tuned = LoadedRun::open(&folder, WhichCheckpoint::Newest)?;
    fit::export(&mut tuned, subnet, file)
}

pub fn export(args: &ExportArgs) -> Result<()> {
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    let subnet = run.space.parse_subnet(&args.subnet)?;
    check_folder(&args.out)?;
    let fitted = fit::export(&mut run, &subnet, &args.out)?;
    print(&fitted_table(std::slice::from_ref(&fitted)));
    Ok(())
}

pub fn report(args: &ReportArgs) -> Result<()> {
    let run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    // The last fit of each file, of these weights.
    let mut fitted: Vec<Fitted> = Vec::new();
    for row in read_rows::<Fitted>(&run.run.file(FITS))? {
        if row.weights_hash == run.weights_hash() {
            fitted.retain(|other| other.file != row.file);
            fitted.push(row);
        }
    }
    let path = write_report(&run, &fitted, &command_line())?;
    print(&format!("report: {path}"));
    Ok(())
}

/// Writes a run's `report.html`.
pub(super) fn write_report(run: &LoadedRun, fitted: &[Fitted], command: &str) -> Result<String> {
    let page = crate::report::report(run, fitted, command)?;
    let path = run.run.file("report.html");
    write_atomically(&path, page.as_bytes())?;
    Ok(path.display().to_string())
}

/// A folder that is missing is better known before a search than after it.
fn check_folder(file: &Path) -> Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.is_dir() => Err(Error::Request(
            format!("{} is no folder to write to", folder.display()),
        )),
        _ => Ok(()),
    }
}
