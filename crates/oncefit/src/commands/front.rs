//! `oncefit front`: the best subnets for all budgets at once.

use oncefit_search::Metric;
use oncefit_target::Target;
use oncefit_train::{Split, write_atomically};

use super::fit::{learn, metadata_for};
use super::profile::time_limit;
use super::{command_line, print, print_json};
use crate::cli::{CostKind, FrontArgs};
use crate::error::{Error, Result};
use crate::finder::{Finder, Promising, Scope, value_of};
use crate::fit::{PredictedFit, file_metadata};
use crate::format::{bytes, count, percent, table};
use crate::loaded::LoadedRun;
use crate::predicted::PredictorSettings;
use crate::report::{FrontPoint, front_page};

pub fn front(args: &FrontArgs) -> Result<()> {
    let metric = metric_of(args)?;
    if args.points == 0 {
        return Err(Error::Request("--points must be at least 1".into()));
    }
    let target = args.target.as_deref().map(Target::load).transpose()?;
    let mut run = LoadedRun::open(&args.run.run, args.run.checkpoint)?;
    run.check_choice()?;
    let limits = args.limits.limits();
    let mut request = PredictedFit {
        metadata: metadata_for(&run, &limits)?,
        limits,
        target: target
            .as_ref()
            .map(|target| (target, args.max_latency.map(|most| most.0))),
        allow_estimates: args.allow_estimates,
        scope: Scope::Evolution { seed: args.seed },
        verify: args.points,
    };
    if metric == Metric::FileSize && request.metadata.is_none() {
        request.metadata = Some(file_metadata(&run)?);
    }
    let space = run.space.clone();
    let budget = request.budget(&space)?;
    // What cannot be is said before anything is measured.
    budget.region(&space)?;
    let settings = PredictorSettings {
        samples: args.evaluations,
        time_limit: time_limit(args.time_limit)?,
        seed: args.seed,
    };
    let predictor = learn(&mut run, settings)?;
    let found = Finder::new(&space, &predictor)?.front(&budget, metric, args.seed)?;
    let predicted_points = found.len();
    let chosen = spread_out(found, args.points);
    let subnets: Vec<_> = chosen.iter().map(|one| one.subnet.clone()).collect();
    let rows = run.evaluate(&subnets, Split::Validation)?;
    let points: Vec<FrontPoint> = chosen
        .iter()
        .zip(&rows)
        .map(|(one, row)| FrontPoint {
            subnet: one.subnet.text(),
            macs: one.cost.macs,
            parameters: one.cost.parameters,
            peak_activation_bytes: one.cost.peak_activation_bytes,
            file_bytes: one.cost.file_bytes,
            latency_ms: one.cost.latency_ms,
            cost: value_of(&one.cost, metric).unwrap_or(0),
            predicted_accuracy: one.accuracy,
            validation_accuracy: row.accuracy,
        })
        .collect();
    if let Some(file) = &args.html {
        let page = front_page(&run, &points, metric, &command_line())?;
        write_atomically(file, page.as_bytes())?;
    }
    if args.json {
        print_json(&points);
        return Ok(());
    }
    print(&table(
        &[
            "subnet",
            "predicted",
            "validation",
            metric_name(metric),
            "MACs",
            "parameters",
        ],
        points.iter().map(|point| {
            vec![
                point.subnet.clone(),
                percent(point.predicted_accuracy),
                percent(point.validation_accuracy),
                shown(metric, point.cost),
                count(point.macs),
                count(point.parameters),
            ]
        }),
    ));
    let drawn = match &args.html {
        Some(file) => format!("; drawn in {}", file.display()),
        None => String::new(),
    };
    print(&format!(
        "{} of {predicted_points} subnets on the predicted front, measured{drawn}; a file of one: oncefit export {} --subnet TEXT",
        points.len(),
        args.run.run.display()
    ));
    print(&run.origin()?);
    Ok(())
}

fn metric_of(args: &FrontArgs) -> Result<Metric> {
    match args.over {
        CostKind::Macs => Ok(Metric::Macs),
        CostKind::Parameters => Ok(Metric::Parameters),
        CostKind::PeakMemory => Ok(Metric::PeakMemory),
        CostKind::FileSize => Ok(Metric::FileSize),
        CostKind::Latency if args.target.is_some() => Ok(Metric::Latency),
        CostKind::Latency => Err(Error::Request(
            "--over latency needs the device: --target FILE, from `oncefit profile`".into(),
        )),
    }
}

/// What a column or an axis of this cost is called.
pub(crate) fn metric_name(metric: Metric) -> &'static str {
    match metric {
        Metric::Macs => "MACs",
        Metric::Parameters => "parameters",
        Metric::PeakMemory => "peak activations",
        Metric::Latency => "latency",
        Metric::FileSize => "file size",
    }
}

/// A cost as people read it.
pub(crate) fn shown(metric: Metric, value: u64) -> String {
    match metric {
        Metric::Macs | Metric::Parameters => count(value),
        Metric::PeakMemory | Metric::FileSize => bytes(value),
        Metric::Latency => format!("{:.3} ms", value as f64 / 1e6),
    }
}

/// At most `count` of some things, both ends among them, in equal steps.
fn spread_out(all: Vec<Promising>, count: usize) -> Vec<Promising> {
    if all.len() <= count {
        return all;
    }
    let last = all.len() - 1;
    let chosen: Vec<usize> = match count {
        1 => vec![last],
        _ => (0..count).map(|step| step * last / (count - 1)).collect(),
    };
    let places = all.into_iter().enumerate();
    places
        .filter_map(|(place, one)| chosen.contains(&place).then_some(one))
        .collect()
}
