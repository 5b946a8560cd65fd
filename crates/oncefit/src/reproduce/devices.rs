//! What a supernet gives to devices: the predictor, the search and the tables of Once-for-All.

use std::collections::BTreeMap;

use oncefit_random::Draws;
use oncefit_search::Limit;
use oncefit_space::{Space, Subnet};
use oncefit_target::{
    Engine, Machine, OperatorTable, Predictor, PredictorOptions, ProfileOptions, Sample, Target,
    kendall,
};
use oncefit_train::Split;

use super::supernets::Measured;
use super::{Request, Tried, make_folder};
use crate::commands::measured_target;
use crate::error::{Error, Result};
use crate::finder::{Budget, Finder, Promising, Scope};
use crate::loaded::LoadedRun;

/// A way to run networks on this machine, which makes it a device of its own.
struct Device {
    name: &'static str,
    engine: Engine,
    threads: usize,
    batch: usize,
}

const DEVICES: [Device; 2] = [
    Device {
        name: "one-image",
        engine: Engine::Tract,
        threads: 1,
        batch: 1,
    },
    Device {
        name: "many-images",
        engine: Engine::Oncefit,
        threads: 2,
        batch: 32,
    },
];

/// Where between the fastest and the slowest network the limits of devices are compared. From a half on
/// the network that is predicted best of all is within the limit on either device (seed 0).
const SHARES: [f64; 3] = [0.1, 0.2, 0.3];

const CORRELATION: &str = "predictor: rank correlation";
const ERROR: &str = "predictor: error";
const LINE_ERROR: &str = "line through log-MACs: error";
const SEARCHED: &str = "searched";
const BEST_OF_RANDOM: &str = "random: 90th percentile";
const OWN: &str = "searched for the device";
const FOREIGN: &str = "searched for another device";
const OWN_PREDICTED: &str = "searched for the device: predicted";
const FOREIGN_PREDICTED: &str = "searched for another device: predicted";
const THE_SAME: &str = "searched for either device: the same, of three";

/// The times of both devices, measured once for each seed.
fn targets(request: &Request, space: &Space, seed: u64) -> Result<[Target; 2]> {
    let folder = request.folder.join("ofa.runs").join("devices");
    make_folder(&folder)?;
    let of = |device: &Device| -> Result<Target> {
        let path = folder.join(format!("{}-{seed}.toml", device.name));
        if path.exists() {
            let target = Target::load(&path)?;
            target.check_space(space)?;
            // What was measured elsewhere is measured again.
            if target.machine.processor == Machine::this().processor {
                return Ok(target);
            }
        }
        request.check()?;
        let options = ProfileOptions {
            device: device.name.into(),
            threads: device.threads,
            batch: device.batch,
            // A quarter of them only judges.
            networks: if request.is_quick { 80 } else { 160 },
            seed,
            ..ProfileOptions::default()
        };
        let target = measured_target(space, device.engine, &options)?;
        target.save(&path)?;
        Ok(target)
    };
    Ok([of(&DEVICES[0])?, of(&DEVICES[1])?])
}

/// Finds the most promising subnet within a latency.
fn best(
    finder: &mut Finder,
    table: &OperatorTable,
    at_most_ms: f64,
    seed: u64,
) -> Result<Promising> {
    let budget = Budget {
        limits: vec![Limit::latency_ms(at_most_ms)],
        table: Some(table.clone()),
        ..Budget::default()
    };
    let found = finder.find(&budget, Scope::Evolution { seed }, 1)?;
    found
        .into_iter()
        .next()
        .ok_or_else(|| Error::Request(format!("no subnet within {at_most_ms} ms was found")))
}

fn latency_ms(table: &OperatorTable, subnet: &Subnet) -> Result<f64> {
    Ok(table.latency(subnet.graph())?.milliseconds)
}

/// Subnets that a predictor is trained and judged on.
fn pairs(request: &Request) -> u64 {
    if request.is_quick { 200 } else { 1000 }
}

/// Multiply-accumulates of measuring them: forward passes of calibration and validation images.
pub(super) fn predictor_macs(request: &Request, mean_macs: f64) -> f64 {
    const IMAGES: f64 = 500.0 + 1000.0;
    pairs(request) as f64 * IMAGES * mean_macs
}

/// What the claims of this file ask of a trained supernet.
pub(super) fn values(request: &Request, run: &mut LoadedRun) -> Result<BTreeMap<String, f64>> {
    let drawn = if request.is_quick { 20 } else { 50 };
    let (seed, space) = (run.run.recipe().seed, run.space.clone());
    let draw = |purpose: &str, index: u64| space.sample(&mut Draws::new(seed, purpose, index, 0));
    let mut found = BTreeMap::new();

    let subnets = (0..pairs(request))
        .map(|index| Ok(draw("predictor pairs", index)?))
        .collect::<Result<Vec<Subnet>>>()?;
    let rows = run.evaluate(&subnets, Split::Validation)?;
    let samples: Vec<Sample> = subnets
        .iter()
        .zip(&rows)
        .map(|(subnet, row)| Sample::new(&space, subnet, row.accuracy))
        .collect();
    let predictor = Predictor::train(&space, &samples, &PredictorOptions::default())?;
    let quality = predictor.quality();
    found.insert(CORRELATION.into(), quality.predictor.kendall);
    found.insert(ERROR.into(), 100.0 * quality.predictor.rmse);
    found.insert(LINE_ERROR.into(), 100.0 * quality.log_macs.rmse);

    let targets = targets(request, &space, seed)?;
    let tables = [targets[0].table()?, targets[1].table()?];
    let fastest = latency_ms(&tables[0], &space.smallest()?)?;
    let slowest = latency_ms(&tables[0], &space.largest()?)?;
    let limit = |share: f64| fastest + share * (slowest - fastest);
    let mut finder = Finder::new(&space, &predictor)?;

    let mut rivals = vec![best(&mut finder, &tables[0], limit(0.5), seed)?.subnet];
    for index in 0.. {
        if rivals.len() > drawn {
            break;
        }
        let subnet = draw("random within the limit", index)?;
        if latency_ms(&tables[0], &subnet)? <= limit(0.5) {
            rivals.push(subnet);
        }
    }
    let rows = run.evaluate(&rivals, Split::Test)?;
    found.insert(SEARCHED.into(), 100.0 * rows[0].accuracy);
    let mut random: Vec<f64> = rows[1..].iter().map(|row| row.accuracy).collect();
    random.sort_by(f64::total_cmp);
    let ninetieth = random[(random.len() * 9).div_ceil(10) - 1];
    found.insert(BEST_OF_RANDOM.into(), 100.0 * ninetieth);

    let (mut own, mut foreign) = (Vec::new(), Vec::new());
    for share in SHARES {
        let moved = best(&mut finder, &tables[0], limit(share), seed)?;
        let there = latency_ms(&tables[1], &moved.subnet)?;
        own.push(best(&mut finder, &tables[1], there, seed)?);
        foreign.push(moved);
    }
    let pairs = own.iter().zip(&foreign);
    let the_same = pairs.filter(|(own, foreign)| own.subnet.text() == foreign.subnet.text());
    found.insert(THE_SAME.into(), the_same.count() as f64);
    for (measured, predicted, promising) in [
        (OWN, OWN_PREDICTED, own),
        (FOREIGN, FOREIGN_PREDICTED, foreign),
    ] {
        let mut insert = |name: &str, accuracies: Vec<f64>| {
            let sum: f64 = accuracies.iter().sum();
            found.insert(name.into(), 100.0 * sum / accuracies.len() as f64);
        };
        insert(
            predicted,
            promising.iter().map(|one| one.accuracy).collect(),
        );
        let subnets: Vec<Subnet> = promising.into_iter().map(|one| one.subnet).collect();
        let rows = run.evaluate(&subnets, Split::Test)?;
        insert(measured, rows.iter().map(|row| row.accuracy).collect());
    }
    Ok(found)
}

/// What is to be compared with zero.
type Margins = (&'static str, Vec<f64>, Vec<f64>);

fn margins(what: &'static str, values: Vec<f64>) -> Margins {
    let zeros = vec![0.0; values.len()];
    (what, values, zeros)
}

fn by_seed(all: &[Measured], value: impl Fn(&Measured) -> Result<f64>) -> Result<Vec<f64>> {
    all.iter().map(value).collect()
}

/// The predictor on a fifth of the measured subnets that it was not trained on.
pub(super) fn predictor(all: &[Measured]) -> Result<Tried> {
    let correlation = by_seed(all, |run| Ok(run.get(CORRELATION)? - 0.8))?;
    let error = by_seed(all, |run| Ok(0.6 * run.get(LINE_ERROR)? - run.get(ERROR)?))?;
    Tried::compared(
        vec![
            margins("Kendall's tau − 0.80", correlation),
            margins(
                "0.6 × error of a line through log-MACs − error of the predictor, points",
                error,
            ),
        ],
        vec![format!(
            "errors in points, by seed: predictor {}, line {}",
            listed(&by_seed(all, |run| run.get(ERROR))?),
            listed(&by_seed(all, |run| run.get(LINE_ERROR))?)
        )],
    )
}

fn listed(values: &[f64]) -> String {
    let each: Vec<String> = values.iter().map(|value| format!("{value:.2}")).collect();
    each.join(", ")
}

/// The searched subnet beside random ones within the same latency.
pub(super) fn search(all: &[Measured]) -> Result<Tried> {
    gains(
        "searched − 90th percentile of random, points",
        by_seed(all, |run| Ok(run.get(SEARCHED)? - run.get(BEST_OF_RANDOM)?))?,
    )
}

/// A subnet searched for a device beside one searched for another, at the latency that the other has
/// there; and how much there is to gain: what was predicted, and how alike the devices are.
pub(super) fn own_device(request: &Request, space: &Space, all: &[Measured]) -> Result<Tried> {
    const RANKED: u64 = 1000;
    let mut tried = gains(
        "own − another device's, mean of three limits, points",
        by_seed(all, |run| Ok(run.get(OWN)? - run.get(FOREIGN)?))?,
    )?;
    let the_same: f64 = by_seed(all, |run| run.get(THE_SAME))?.iter().sum();
    tried.notes.push(format!(
        "the same network for both devices at {the_same} of {} limits",
        SHARES.len() * all.len()
    ));
    let (mut predicted, mut alike) = (Vec::new(), Vec::new());
    for (run, seed) in all.iter().zip(request.seeds()) {
        predicted.push(run.get(OWN_PREDICTED)? - run.get(FOREIGN_PREDICTED)?);
        let [one, other] = targets(request, space, seed)?;
        let (one, other) = (one.table()?, other.table()?);
        let mut latencies = (Vec::new(), Vec::new());
        for index in 0..RANKED {
            let subnet = space.sample(&mut Draws::new(seed, "ranked by latency", index, 0))?;
            latencies.0.push(latency_ms(&one, &subnet)?);
            latencies.1.push(latency_ms(&other, &subnet)?);
        }
        alike.push(kendall(&latencies.0, &latencies.1));
    }
    tried.notes.push(format!(
        "predicted: own − another device's, points, by seed: {}",
        listed(&predicted)
    ));
    tried.notes.push(format!(
        "latencies of {RANKED} random subnets on one device and on the other, Kendall's tau, by seed: {}",
        listed(&alike)
    ));
    Ok(tried)
}

fn gains(what: &'static str, values: Vec<f64>) -> Result<Tried> {
    let better = values.iter().filter(|gain| **gain >= 0.0).count();
    let notes = vec![format!(
        "at least as good with {better} of {}",
        values.len()
    )];
    Tried::compared(vec![margins(what, values)], notes)
}

/// Sums of operators beside measured networks.
pub(super) fn additive(request: &Request, space: &Space) -> Result<Tried> {
    let mut found = Vec::new();
    for seed in request.seeds() {
        found.push(targets(request, space, seed)?);
    }
    let about = |device: usize| {
        let of = |value: fn(&Target) -> f64| {
            let sum: f64 = found.iter().map(|two| value(&two[device])).sum();
            100.0 * sum / found.len() as f64
        };
        format!(
            "{}: mean error {:.1} %; one network, timed again and again, varied by {:.1} %",
            DEVICES[device].name,
            of(|target| target.validation.mean_error),
            of(|target| target.measured.drift)
        )
    };
    let notes = vec![
        about(0),
        about(1),
        format!(
            "{} networks that the fit never saw",
            found[0][0].validation.networks
        ),
        found[0][0].machine.processor.clone(),
    ];
    let of_first = |value: fn(&Target) -> f64| found.iter().map(|two| value(&two[0])).collect();
    let error = of_first(|target| 0.15 - target.validation.mean_error);
    let correlation = of_first(|target| target.validation.spearman - 0.95);
    Tried::compared(
        vec![
            margins("0.15 − mean relative error, one image", error),
            margins("rank correlation − 0.95, one image", correlation),
        ],
        notes,
    )
}
