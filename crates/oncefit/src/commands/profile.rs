//! `oncefit profile`

use std::path::Path;
use std::time::{Duration, Instant};

use oncefit_space::Space;
use oncefit_target::{
    Engine, ImportOptions, ProbeOptions, ProfileOptions, Target, emit_probes, import_timings,
    profile as measure,
};

use super::{check_folder, print, space_of};
use crate::cli::ProfileArgs;
use crate::error::{Error, Result};
use crate::format::{duration, percent};
use crate::progress::Progress;

pub fn profile(args: &ProfileArgs) -> Result<()> {
    let started = Instant::now();
    if let (Some(timings), Some(folder)) = (&args.import, &args.probes) {
        let options = ImportOptions {
            device: args.device.clone(),
            engine_version: "unknown".into(),
            threads: args.engine_threads,
            allow_incomplete: args.allow_incomplete,
        };
        let target = import_timings(&folder.join("manifest.json"), timings, &options)?;
        return finish(&target, &args.out, started);
    }
    let space = space_of(args.space.as_deref().unwrap_or_default())?;
    if let Some(folder) = &args.emit_probes {
        return emit(args, &space, folder);
    }
    let engine = match args.engine.as_str() {
        "oncefit" => Engine::Oncefit,
        "onnxruntime" => Engine::Onnxruntime,
        _ => Engine::Tract,
    };
    check_folder(&args.out)?;
    let target = measure_here(&space, engine, args)?;
    finish(&target, &args.out, started)
}

fn measure_here(space: &Space, engine: Engine, args: &ProfileArgs) -> Result<Target> {
    let options = ProfileOptions {
        device: args.device.clone(),
        threads: args.engine_threads,
        batch: args.batch,
        networks: args.networks,
        time_limit: time_limit(args.time_limit)?,
        seed: args.seed,
        ..ProfileOptions::default()
    };
    measured(space, engine, &options)
}

/// Measures this machine, with progress.
pub(crate) fn measured(space: &Space, engine: Engine, options: &ProfileOptions) -> Result<Target> {
    let mut progress: Option<(&str, Progress)> = None;
    let target = measure(space, engine, options, &mut |found| {
        if progress
            .as_ref()
            .is_none_or(|(stage, _)| *stage != found.stage)
        {
            if let Some((_, old)) = progress.take() {
                old.finish();
            }
            let bar = Progress::new("measuring", found.done as u64, found.total as u64);
            progress = Some((found.stage, bar));
        }
        if let Some((stage, bar)) = &mut progress {
            bar.update(found.done as u64, || (*stage).to_owned());
        }
    })?;
    if let Some((_, bar)) = progress {
        bar.finish();
    }
    Ok(target)
}

fn emit(args: &ProfileArgs, space: &Space, folder: &Path) -> Result<()> {
    let options = ProbeOptions {
        batch: args.batch,
        networks: args.networks,
        seed: args.seed,
        ..ProbeOptions::default()
    };
    let mut progress = Progress::new("writing", 0, 1);
    let manifest = emit_probes(space, folder, &options, &mut |found| {
        progress.update(found.done as u64, || {
            format!("{} of {}", found.done, found.total)
        });
    })?;
    progress.finish();
    print(&format!(
        "{} files to be timed are in {}; on the device, run them (tools/probes/run_probes.py does so with onnxruntime), then: oncefit profile --import timings.csv --probes {} --device NAME",
        manifest.probes.len(),
        folder.display(),
        folder.display()
    ));
    Ok(())
}

fn finish(target: &Target, out: &Path, started: Instant) -> Result<()> {
    target.save(out)?;
    print(&summary(target));
    print(&format!(
        "target: {} ({}); fit to it with: oncefit fit RUN --target {} --max-latency 2ms",
        out.display(),
        duration(started.elapsed().as_secs_f64()),
        out.display()
    ));
    Ok(())
}

/// What a target is, and how far its sums of operators can be trusted.
pub(super) fn summary(target: &Target) -> String {
    format!(
        "{}: {} ({}), {} thread(s), batch {}, family {}: {} operators; on {} networks that the fit never saw the median error is {} and the rank correlation {:.3}; repeated runs spread by {}",
        target.device,
        target.engine.name(),
        target.engine_version,
        target.threads,
        target.batch,
        target.space,
        target.operators.len(),
        target.validation.networks,
        percent(target.validation.median_error),
        target.validation.spearman,
        percent(target.measured.spread)
    )
}

/// Seconds as they are typed.
pub(super) fn time_limit(seconds: Option<f64>) -> Result<Option<Duration>> {
    match seconds {
        None => Ok(None),
        Some(seconds) => Duration::try_from_secs_f64(seconds).map(Some).map_err(|_| {
            Error::Request(format!(
                "--time-limit is {seconds}, but must be 0 or more seconds"
            ))
        }),
    }
}
