//! Measuring this machine.
//!
//! Whole random networks come first, then operators alone. Each session is visited several times,
//! with visits to others between: what slows the machine for a while meets it in one of them, and the
//! fastest visit counts. Each visit begins with untimed runs. One network is visited from beginning to
//! end: how much its times wander is the drift of the machine.

use std::time::{Duration, Instant};

use oncefit_space::Space;

use crate::additive::{FEWEST_NETWORKS, Measurements, NetworkTime, OperatorTime, fit};
use crate::engine::{Bench, Session};
use crate::error::{Result, TargetError};
use crate::fusion::{Granularity, operators};
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

/// Timed runs of a visit.
const VISIT: usize = 3;

/// Sessions between two visits of one, at most.
const MOST_APART: usize = 40;

/// Parameters of all sessions that are loaded at once, about.
const LOADED_PARAMETERS: u64 = 100_000_000;

/// Sessions from one visit of the companions to the next, and timed runs of it: its median stands alone.
const COMPANIONS_EVERY: usize = 12;
const COMPANIONS_VISIT: usize = 9;

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
    let mut subnets = Vec::new();
    while subnets.len() < wanted {
        match prober.next_subnet()? {
            Some(subnet) => subnets.push(subnet),
            None => break,
        }
    }
    let mut alone = prober.operators()?;
    alone.truncate(options.operators);
    let Some(first) = subnets.first() else {
        return Err(TargetError::Request(format!(
            "{} has no network that could be measured",
            space.name()
        )));
    };
    let nothing = operator_network(&overhead()).expect("an activation is an operator");
    let visits = options.repetitions.max(1).div_ceil(VISIT);
    let parameters = space.largest()?.graph().parameters().max(1);
    let mut measuring = Measuring {
        options,
        start: Instant::now(),
        apart: ((LOADED_PARAMETERS / parameters) as usize / visits).clamp(1, MOST_APART),
        companions: [bench.load(&prober.network(first)?)?, bench.load(&nothing)?],
        of_companions: Default::default(),
        observe,
    };
    let stage = Stage {
        name: "networks",
        fewest: FEWEST_NETWORKS,
        until: 0.6,
    };
    let of_networks = measuring.measure(&stage, &subnets, &mut |subnet| {
        bench.load(&prober.network(subnet)?).map(Some)
    })?;
    let stage = Stage {
        name: "operators",
        fewest: 0,
        until: 1.0,
    };
    // What an engine cannot run alone is left to the fit over whole networks.
    let of_operators = measuring.measure(&stage, &alone, &mut |operator| {
        Ok(operator_network(operator).and_then(|network| bench.load(&network).ok()))
    })?;
    let [references, overheads] = measuring.of_companions;

    let measurements = Measurements {
        overhead_ms: median(&overheads),
        networks: subnets
            .iter()
            .zip(&of_networks)
            .map(|(subnet, visits)| NetworkTime {
                operators: operators(subnet.graph(), Granularity::Operator),
                milliseconds: visits.fastest(),
            })
            .collect(),
        operators: alone
            .iter()
            .zip(&of_operators)
            .filter(|(_, visits)| !visits.times.is_empty())
            .map(|(operator, visits)| {
                let (mean_ms, std_ms) = mean_and_std(&visits.times);
                OperatorTime {
                    operator: *operator,
                    count: visits.times.len(),
                    median_ms: visits.fastest().max(1e-6),
                    mean_ms,
                    std_ms,
                }
            })
            .collect(),
    };
    let spreads: Vec<f64> = of_networks
        .iter()
        .map(|visits| mean_and_std(&visits.times).1 / median(&visits.times))
        .collect();
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

/// The timed runs of one session, visit by visit.
#[derive(Clone, Default)]
struct Visits {
    times: Vec<f64>,
}

impl Visits {
    /// The median of the fastest visit.
    fn fastest(&self) -> f64 {
        let medians = self.times.chunks(VISIT).map(median);
        medians.fold(f64::INFINITY, f64::min)
    }
}

/// What is measured one after the other.
struct Stage {
    name: &'static str,
    /// How many are measured however long it takes.
    fewest: usize,
    /// Share of the time limit after which nothing new is begun.
    until: f64,
}

/// Measures in visits that lie apart.
struct Measuring<'a> {
    options: &'a ProfileOptions,
    start: Instant,
    /// How many other sessions are visited between two visits of one.
    apart: usize,
    /// Sessions that are visited again and again: of the network that shows the drift, and of the one
    /// that shows the overhead.
    companions: [Session; 2],
    /// Medians of their visits.
    of_companions: [Vec<f64>; 2],
    observe: &'a mut dyn FnMut(Progress),
}

impl Measuring<'_> {
    /// Times of all things; of as many of the first ones as there is time for, and of none that
    /// `load` has no session for.
    fn measure<T>(
        &mut self,
        stage: &Stage,
        things: &[T],
        load: &mut dyn FnMut(&T) -> Result<Option<Session>>,
    ) -> Result<Vec<Visits>> {
        let repetitions = self.options.repetitions.max(1);
        let visits = repetitions.div_ceil(VISIT);
        let mut sessions = Vec::new();
        let mut found = vec![Visits::default(); things.len()];
        let mut step = 0;
        while step < found.len() + (visits - 1) * self.apart {
            if step < found.len() {
                if step >= stage.fewest && self.is_over(stage.until) {
                    found.truncate(step);
                    continue;
                }
                sessions.push(load(&things[step])?);
            }
            if step % COMPANIONS_EVERY == 0 {
                let both = self.companions.iter_mut().zip(&mut self.of_companions);
                for (session, medians) in both {
                    medians.push(median(&timed(session, COMPANIONS_VISIT, self.options)?));
                }
            }
            for visit in 0..visits {
                let Some(at) = step.checked_sub(visit * self.apart) else {
                    break;
                };
                if let Some(Some(session)) = sessions.get_mut(at) {
                    let runs = VISIT.min(repetitions - visit * VISIT);
                    found[at].times.extend(timed(session, runs, self.options)?);
                }
                if visit + 1 == visits && at < sessions.len() {
                    sessions[at] = None;
                }
            }
            step += 1;
            if step <= found.len() {
                (self.observe)(Progress {
                    stage: stage.name,
                    done: step,
                    total: found.len(),
                });
            }
        }
        Ok(found)
    }

    fn is_over(&self, share: f64) -> bool {
        let limit = self.options.time_limit;
        limit.is_some_and(|limit| self.start.elapsed() > limit.mul_f64(share))
    }
}

/// One visit.
fn timed(session: &mut Session, runs: usize, options: &ProfileOptions) -> Result<Vec<f64>> {
    for _ in 0..options.warm_up {
        session.run()?;
    }
    (0..runs).map(|_| session.run()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of each of five things, of which the fourth has no session.
    fn runs(time_limit: Option<Duration>, fewest: usize) -> Vec<usize> {
        let options = ProfileOptions {
            repetitions: 7,
            time_limit,
            ..ProfileOptions::default()
        };
        let nothing = operator_network(&overhead()).unwrap();
        let bench = Bench::new(Engine::Oncefit, 1, 1).unwrap();
        let load = || bench.load(&nothing).unwrap();
        let mut seen = Vec::new();
        let mut observe = |progress: Progress| seen.push((progress.done, progress.total));
        let mut measuring = Measuring {
            options: &options,
            start: Instant::now(),
            apart: 2,
            companions: [load(), load()],
            of_companions: Default::default(),
            observe: &mut observe,
        };
        let stage = Stage {
            name: "things",
            fewest,
            until: 1.0,
        };
        let things = [0, 1, 2, 3, 4];
        let found = measuring.measure(&stage, &things, &mut |&thing| Ok((thing != 3).then(&load)));
        let found = found.unwrap();
        assert!(!measuring.of_companions.iter().any(Vec::is_empty));
        let done = seen.iter().map(|(done, _)| *done);
        assert!(done.eq(1..=found.len()), "{seen:?}");
        found.iter().map(|visits| visits.times.len()).collect()
    }

    #[test]
    fn all_have_their_runs_or_the_first_ones_if_time_is_over() {
        assert_eq!(runs(None, 0), [7, 7, 7, 0, 7]);
        assert_eq!(runs(Some(Duration::ZERO), 2), [7, 7]);
        assert!(runs(Some(Duration::ZERO), 0).is_empty());
    }

    #[test]
    fn the_fastest_visit_counts_by_its_median() {
        let visits = Visits {
            times: vec![5.0, 5.0, 5.0, 1.0, 3.0, 9.0, 4.0],
        };
        assert_eq!(visits.fastest(), 3.0);
    }
}
