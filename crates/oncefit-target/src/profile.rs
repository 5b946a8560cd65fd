//! Measuring this machine.
//!
//! Whole random networks come first, then operators alone. Sessions are loaded in blocks and
//! measured in rounds, so that what else the machine does falls on all of them alike; each visit
//! begins with untimed runs. One network is part of every block: how much its times wander is the
//! drift of the machine.

use std::time::{Duration, Instant};

use oncefit_nn::Network;
use oncefit_space::Space;

use crate::additive::{FEWEST_NETWORKS, Measurements, NetworkTime, OperatorTime, fit};
use crate::engine::{Bench, Session};
use crate::error::{Result, TargetError};
use crate::fusion::{Granularity, operators};
use crate::operator::Operator;
use crate::probes::{Prober, operator_network, overhead};
use crate::statistics::{mean_and_std, median};
use crate::target::{Engine, Identity, Machine, Measured, Target};

/// How to measure.
#[derive(Clone, PartialEq, Debug)]
pub struct ProfileOptions {
    /// What the device is called.
    pub device: String,
    /// Threads of the engine.
    pub threads: usize,
    /// Images at once.
    pub batch: usize,
    /// Whole networks to measure; a quarter of them only validates.
    pub networks: usize,
    /// Operators to measure alone, at most.
    pub operators: usize,
    /// Timed runs of each.
    pub repetitions: usize,
    /// Untimed runs before the timed ones of a visit.
    pub warm_up: usize,
    /// When to stop: three fifths of it go to networks, the rest to operators. What was begun is
    /// finished.
    pub time_limit: Option<Duration>,
    /// Seed of the random networks.
    pub seed: u64,
}

impl Default for ProfileOptions {
    fn default() -> Self {
        Self {
            device: "this machine".into(),
            threads: 1,
            batch: 1,
            networks: 120,
            operators: 2000,
            repetitions: 15,
            warm_up: 1,
            time_limit: None,
            seed: 0,
        }
    }
}

/// What is being measured, for those who show it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Progress {
    /// `networks` or `operators`.
    pub stage: &'static str,
    /// How many are done.
    pub done: usize,
    /// How many there are at most.
    pub total: usize,
}

/// Networks that are loaded at once.
const BLOCK: usize = 12;

/// Operators that are loaded at once.
const OPERATOR_BLOCK: usize = 32;

/// Timed runs of a visit.
const VISIT: usize = 3;

/// Measures the operators of a space on this machine and fits a latency model.
///
/// # Errors
/// If the engine cannot run here, a network has no exported form, or the time limit leaves too few
/// networks.
pub fn profile(
    space: &Space,
    engine: Engine,
    options: &ProfileOptions,
    observe: &mut dyn FnMut(Progress),
) -> Result<Target> {
    let wanted = options.networks;
    if wanted < FEWEST_NETWORKS {
        return Err(TargetError::Request(format!(
            "{wanted} networks are too few for a latency model and its validation; at least {FEWEST_NETWORKS} are measured, some 100 are better"
        )));
    }
    let bench = Bench::new(engine, options.threads, options.batch)?;
    let mut prober = Prober::new(space, options.seed)?;
    let mut measurements = Measurements::default();
    let start = Instant::now();
    let is_over = |share: f64| {
        let limit = options.time_limit;
        limit.is_some_and(|limit| start.elapsed() > limit.mul_f64(share))
    };
    let nothing = operator_network(&overhead()).expect("an activation is an operator");
    let mut spreads = Vec::new();
    let mut references = Vec::new();
    let mut reference: Option<Network> = None;
    while measurements.networks.len() < wanted {
        let is_enough = measurements.networks.len() >= FEWEST_NETWORKS;
        if is_enough && is_over(0.6) {
            break;
        }
        let mut drawn = Vec::new();
        for _ in 0..BLOCK.min(wanted - measurements.networks.len()) {
            let Some(subnet) = prober.next_subnet()? else {
                break;
            };
            let network = prober.network(&subnet)?;
            drawn.push((subnet, network));
        }
        if drawn.is_empty() {
            break;
        }
        let reference = &*reference.get_or_insert_with(|| drawn[0].1.clone());
        let networks = drawn.iter().map(|(_, network)| network);
        let mut sessions = load(&bench, networks.chain([reference, &nothing]))?;
        let mut times = measure(&mut sessions, options)?;
        let overhead = times.pop().map_or(0.0, |times| median(&times));
        references.extend(times.pop().map(|times| median(&times)));
        measurements.overhead_ms += overhead;
        for ((subnet, _), times) in drawn.iter().zip(&times) {
            let milliseconds = median(times);
            spreads.push(mean_and_std(times).1 / milliseconds);
            measurements.networks.push(NetworkTime {
                operators: operators(subnet.graph(), Granularity::Operator),
                milliseconds,
            });
        }
        observe(Progress {
            stage: "networks",
            done: measurements.networks.len(),
            total: wanted,
        });
    }
    measurements.overhead_ms /= references.len().max(1) as f64;
    let mut alone = prober.operators()?;
    alone.truncate(options.operators);
    for block in alone.chunks(OPERATOR_BLOCK) {
        if is_over(1.0) {
            break;
        }
        measure_operators(&bench, block, options, &mut measurements)?;
        observe(Progress {
            stage: "operators",
            done: measurements.operators.len(),
            total: alone.len(),
        });
    }
    let (model, validation) = fit(&measurements)?;
    let (mean, deviation) = mean_and_std(&references);
    let measured = Measured {
        networks: measurements.networks.len(),
        operators: measurements.operators.len(),
        repetitions: options.repetitions,
        overhead_ms: measurements.overhead_ms,
        spread: median(&spreads),
        drift: deviation / mean,
    };
    let identity = Identity {
        device: options.device.clone(),
        engine,
        engine_version: bench.version(),
        threads: options.threads,
        batch: options.batch,
        space: space.name().to_owned(),
        space_hash: space.hash(),
        machine: Machine::this(),
    };
    Ok(Target::new(
        identity,
        &measurements,
        measured,
        model,
        validation,
    ))
}

fn load<'n>(bench: &Bench, networks: impl Iterator<Item = &'n Network>) -> Result<Vec<Session>> {
    networks.map(|network| bench.load(network)).collect()
}

/// Times of each session, measured in rounds.
fn measure(sessions: &mut [Session], options: &ProfileOptions) -> Result<Vec<Vec<f64>>> {
    let repetitions = options.repetitions.max(1);
    let mut times = vec![Vec::with_capacity(repetitions); sessions.len()];
    let mut done = 0;
    while done < repetitions {
        let count = VISIT.min(repetitions - done);
        for (session, times) in sessions.iter_mut().zip(&mut times) {
            for _ in 0..options.warm_up {
                session.run()?;
            }
            for _ in 0..count {
                times.push(session.run()?);
            }
        }
        done += count;
    }
    Ok(times)
}

fn measure_operators(
    bench: &Bench,
    block: &[Operator],
    options: &ProfileOptions,
    measurements: &mut Measurements,
) -> Result<()> {
    // What an engine cannot run alone is left to the fit over whole networks.
    let (built, mut sessions): (Vec<Operator>, Vec<Session>) = block
        .iter()
        .filter_map(|operator| {
            let session = bench.load(&operator_network(operator)?).ok()?;
            Some((*operator, session))
        })
        .unzip();
    for (operator, times) in built.iter().zip(measure(&mut sessions, options)?) {
        let (mean_ms, std_ms) = mean_and_std(&times);
        measurements.operators.push(OperatorTime {
            operator: *operator,
            count: times.len(),
            median_ms: median(&times).max(1e-6),
            mean_ms,
            std_ms,
        });
    }
    Ok(())
}
