//! `oncefit fit` and `export`: networks of a run as files.

use std::path::{Path, PathBuf};
use std::time::Instant;

use oncefit_export::Metadata;
use oncefit_search::{Count, Limit, Metric};
use oncefit_space::Subnet;
use oncefit_target::{Predictor, Target};
use oncefit_train::RowLog;

use super::profile::time_limit;
use super::train::{new_run, train_run};
use super::{check_folder, command_line, fitted_table, print, print_json};
use crate::cli::{ExportArgs, FitArgs, LimitArgs};
use crate::error::{Error, Result};
use crate::finder::{Finder, Scope};
use crate::fit::{self, FITS, FitSettings, Fitted, PredictedFit, SearcherKind};
use crate::format::{duration, percent};
use crate::loaded::{LoadedRun, WhichCheckpoint};
use crate::predicted::{self, PredictorSettings};
use crate::progress::{Progress, TrainingProgress};

impl LimitArgs {
    pub(super) fn limits(&self) -> Vec<Limit> {
        [
            (Metric::Macs, self.max_macs),
            (Metric::Parameters, self.max_parameters),
            (Metric::PeakMemory, self.max_peak_memory),
            (Metric::FileSize, self.max_file_size),
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
            "a budget is needed: --max-macs 600k, --max-parameters, --max-peak-memory, --max-file-size, or --target FILE --max-latency 2ms".into(),
        ));
    }
    let targets = args
        .target
        .iter()
        .map(|path| Ok(Target::load(path)?))
        .collect::<Result<Vec<_>>>()?;
    let outputs = outputs(args)?;
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    run.check_choice()?;
    if run.chooses_on_test {
        return Err(Error::Request(
            "the stream was learnt without held-out images, and networks are not chosen on test images: learn it with `data.validation` above 0, or name a subnet to `oncefit export`".into(),
        ));
    }
    let fitted = match args.searcher {
        SearcherKind::Predictor | SearcherKind::Exhaustive | SearcherKind::Exact => {
            fit_predicted(args, &mut run, &targets, &outputs, &limits)?
        }
        _ if !targets.is_empty() => {
            return Err(Error::Request(
                "--target needs `--searcher predictor`, `exhaustive` or `exact`; the others measure accuracies only".into(),
            ));
        }
        _ => vec![fit_measured(args, &mut run, limits)?],
    };
    if args.json {
        record(&run, &fitted)?;
        print_json(&fitted);
        return Ok(());
    }
    tell(&run, &fitted)?;
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
    let metadata = metadata_for(run, limits)?;
    let scope = match args.searcher {
        SearcherKind::Exhaustive => Scope::All,
        SearcherKind::Exact => Scope::Sums { seed: args.seed },
        _ => Scope::Evolution { seed: args.seed },
    };
    let requests: Vec<PredictedFit> = targets
        .iter()
        .map(|target| PredictedFit {
            limits: limits.to_vec(),
            target: target.map(|target| (target, args.max_latency.map(|most| most.0))),
            allow_estimates: args.allow_estimates,
            metadata: metadata.clone(),
            scope,
            verify: args.verify,
        })
        .collect();
    // What cannot be is said before anything is measured.
    scope.check(&run.space)?;
    for request in &requests {
        request.budget(&run.space)?.region(&run.space)?;
    }
    let predictor = learn(run, settings)?;
    let mut finder = Finder::new(&run.space, &predictor)?;
    let mut fitted = Vec::new();
    for ((target, request), output) in targets.iter().zip(&requests).zip(outputs) {
        let promising = fit::find_predicted(run, &mut finder, request)?;
        let expected = fit::expected(run, &promising, *target)?;
        let mut one = finish(args, run, &promising[0].subnet, output)?;
        check_file_size(&one, limits)?;
        one.expected = Some(expected);
        fitted.push(one);
    }
    Ok(fitted)
}

/// What files say about themselves, if their sizes are limited.
pub(super) fn metadata_for(run: &LoadedRun, limits: &[Limit]) -> Result<Option<Metadata>> {
    let is_limited = limits.iter().any(|limit| limit.metric == Metric::FileSize);
    is_limited.then(|| fit::file_metadata(run)).transpose()
}

/// Sizes are counted before a file exists, with as long a description as any; should one be longer
/// still, that is said.
fn check_file_size(fitted: &Fitted, limits: &[Limit]) -> Result<()> {
    let mut sizes = limits
        .iter()
        .filter(|limit| limit.metric == Metric::FileSize);
    match sizes.find(|limit| fitted.file_bytes > limit.at_most) {
        None => Ok(()),
        Some(limit) => Err(Error::Request(format!(
            "{} has {} bytes, of at most {}; ask for a little less",
            fitted.file.display(),
            fitted.file_bytes,
            limit.at_most
        ))),
    }
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
        metadata: metadata_for(run, &limits)?,
        limits: limits.clone(),
        searcher: args.searcher,
        evaluations: args.evaluations,
        seed: args.seed,
    };
    let mut progress = Progress::new("searching", 0, args.evaluations as u64);
    let (subnet, _) = fit::find(run, &settings, &mut |done, best| {
        progress.update(done as u64, || format!("best {}", percent(best)));
    })?;
    progress.finish();
    let fitted = finish(args, run, &subnet, &args.out)?;
    check_file_size(&fitted, &limits)?;
    Ok(fitted)
}

/// Trains a chosen network further, if asked to, and writes it.
fn finish(args: &FitArgs, run: &mut LoadedRun, subnet: &Subnet, file: &Path) -> Result<Fitted> {
    let Some(epochs) = args.finetune else {
        return fit::export(run, subnet, file);
    };
    let folder = file.with_extension("finetune");
    let recipe = fit::finetune_recipe(run, subnet, epochs, &folder)?;
    train_run(
        &new_run(&folder, &recipe)?,
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
    tell(&run, &[fitted])
}

/// Notes networks in the run's log, from which its report is made.
fn record(run: &LoadedRun, fitted: &[Fitted]) -> Result<()> {
    let mut log = RowLog::append(&run.run.file(FITS))?;
    for one in fitted {
        log.push(one)?;
    }
    Ok(())
}

/// Records networks and prints what they are and what their weights cost.
fn tell(run: &LoadedRun, fitted: &[Fitted]) -> Result<()> {
    record(run, fitted)?;
    print(&fitted_table(fitted));
    for one in fitted {
        print(&format!("{}: {}", one.file.display(), one.subnet));
    }
    print(&run.origin()?);
    Ok(())
}
