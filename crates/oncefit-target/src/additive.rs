//! The additive latency model: from measured times of networks and operators to milliseconds for
//! each operator.
//!
//! An operator alone is not what it is inside a network: caches are warm, the engine's overhead is
//! shared, memory formats are kept. So operators measured alone only say what to expect:
//!
//! ```text
//! 1. time(network) ≈ c + Σ_kind ( α·Σ alone + β·count + γ·Σ MACs + δ·Σ bytes )     all ≥ 0
//!    (α for operators that were measured alone, γ and δ for the others)
//! 2. time(network) ≈ c + Σ_operator x      x ≥ 0, pulled towards what 1. expects of it
//! ```
//!
//! Both are non-negative least squares of relative errors. How hard 2. pulls is chosen by
//! cross-validation within the networks of the fit; the stated error is that on networks which
//! neither step ever saw.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::error::{Result, TargetError};
use crate::nnls::{LeastSquares, SparseLeastSquares};
use crate::operator::{Operator, OperatorKind};
use crate::statistics::{kendall, mean_and_std, median, spearman};
use crate::table::{Estimate, WorkCost};

/// A measured network.
#[derive(Clone, PartialEq, Debug)]
pub struct NetworkTime {
    /// Its operators.
    pub operators: Vec<Operator>,
    /// Median of the repetitions, or of the fastest visit, in milliseconds.
    pub milliseconds: f64,
}

/// An operator measured alone.
#[derive(Clone, PartialEq, Debug)]
pub struct OperatorTime {
    /// The operator.
    pub operator: Operator,
    /// Repetitions.
    pub count: usize,
    /// Median of the repetitions, or of the fastest visit, in milliseconds.
    pub median_ms: f64,
    /// Mean, in milliseconds.
    pub mean_ms: f64,
    /// Standard deviation, in milliseconds.
    pub std_ms: f64,
}

/// All that was measured on a device.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Measurements {
    /// Time of a file that does next to nothing, in milliseconds.
    pub overhead_ms: f64,
    /// Whole networks, in random order.
    pub networks: Vec<NetworkTime>,
    /// Operators alone.
    pub operators: Vec<OperatorTime>,
}

/// Fitted milliseconds.
#[derive(Clone, PartialEq, Debug)]
pub struct AdditiveModel {
    /// Milliseconds of every network.
    pub intercept_ms: f64,
    /// Milliseconds of each operator that was measured, alone or in a network.
    pub operators: HashMap<Operator, f64>,
    /// For operators that were not.
    pub estimate: Estimate,
}

/// Errors of predicted latencies on networks that the fit never saw.
#[derive(Clone, Copy, PartialEq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Validation {
    /// How many networks.
    pub networks: usize,
    /// Median of |predicted − measured| / measured.
    pub median_error: f64,
    /// Mean of the same.
    pub mean_error: f64,
    /// Spearman's rank correlation.
    pub spearman: f64,
    /// Kendall's tau-b.
    pub kendall: f64,
}

/// Fewest networks that a fit accepts.
pub const FEWEST_NETWORKS: usize = 8;

/// Share of the networks that only validate.
pub const HELD_OUT: f64 = 0.25;

/// Fits the model on three quarters of the networks (the first ones; their order is random) and
/// validates it on the rest.
///
/// # Errors
/// If there are fewer than [`FEWEST_NETWORKS`] networks, or a time is not positive.
pub fn fit(measurements: &Measurements) -> Result<(AdditiveModel, Validation)> {
    check(measurements)?;
    let networks = &measurements.networks;
    let held_out = ((networks.len() as f64 * HELD_OUT).round() as usize).max(2);
    let (training, validation) = networks.split_at(networks.len() - held_out);
    let training: Vec<&NetworkTime> = training.iter().collect();
    let pull = choose_pull(measurements, &training);
    let model = fit_with(measurements, &training, pull);
    let mut predicted = Vec::new();
    let mut measured = Vec::new();
    for network in validation {
        predicted.push(model.milliseconds(&network.operators));
        measured.push(network.milliseconds);
    }
    let validation = validate(&predicted, &measured);
    Ok((model, validation))
}

/// Compares predicted and measured latencies.
pub fn validate(predicted: &[f64], measured: &[f64]) -> Validation {
    let pairs = predicted.iter().zip(measured);
    let errors: Vec<f64> = pairs
        .map(|(predicted, measured)| (predicted - measured).abs() / measured)
        .collect();
    Validation {
        networks: measured.len(),
        median_error: median(&errors),
        mean_error: mean_and_std(&errors).0,
        // Of networks that do not differ, no order can be right or wrong.
        spearman: or_zero(spearman(predicted, measured)),
        kendall: or_zero(kendall(predicted, measured)),
    }
}

fn or_zero(value: f64) -> f64 {
    if value.is_nan() { 0.0 } else { value }
}

fn check(measurements: &Measurements) -> Result<()> {
    let count = measurements.networks.len();
    if count < FEWEST_NETWORKS {
        return Err(TargetError::Request(format!(
            "{count} measured networks are too few for a latency model and its validation; at least {FEWEST_NETWORKS} are needed, some 100 are better"
        )));
    }
    let times = measurements
        .networks
        .iter()
        .map(|network| network.milliseconds)
        .chain(
            measurements
                .operators
                .iter()
                .map(|operator| operator.median_ms),
        );
    for time in times {
        if !(time > 0.0 && time.is_finite()) {
            return Err(TargetError::Request(format!(
                "a measured time is {time} ms; times are positive"
            )));
        }
    }
    Ok(())
}

impl AdditiveModel {
    /// Predicted latency; operators that are neither known nor of a known kind count nothing.
    pub fn milliseconds(&self, operators: &[Operator]) -> f64 {
        let times = operators.iter().map(|operator| {
            let known = self.operators.get(operator).copied();
            known
                .or_else(|| self.estimate.milliseconds(operator))
                .unwrap_or(0.0)
        });
        self.intercept_ms + times.sum::<f64>()
    }
}

/// How hard operators are pulled to what is expected of them: infinitely, and down.
const PULLS: [f64; 6] = [f64::INFINITY, 30.0, 3.0, 0.3, 0.03, 0.003];

/// The pull with the smallest median relative error over five folds; the stronger of equals.
fn choose_pull(measurements: &Measurements, training: &[&NetworkTime]) -> f64 {
    const FOLDS: usize = 5;
    let mut errors = vec![Vec::new(); PULLS.len()];
    for fold in 0..FOLDS {
        let inside = |index: &usize| index % FOLDS == fold;
        let part = |is_inside: bool| -> Vec<&NetworkTime> {
            let chosen = (0..training.len()).filter(|index| inside(index) == is_inside);
            chosen.map(|index| training[index]).collect()
        };
        let (seen, unseen) = (part(false), part(true));
        let expected = Expectation::fit(measurements, &seen);
        for (pull, errors) in PULLS.iter().zip(&mut errors) {
            let model = expected.refine(&seen, *pull);
            errors.extend(unseen.iter().map(|network| {
                let predicted = model.milliseconds(&network.operators);
                (predicted - network.milliseconds).abs() / network.milliseconds
            }));
        }
    }
    let mut best = (f64::INFINITY, PULLS[0]);
    for (pull, errors) in PULLS.iter().zip(&errors) {
        // Mean and median both count: few gross errors are errors too.
        let error = median(errors) + mean_and_std(errors).0;
        if error < best.0 * 0.99 {
            best = (error, *pull);
        }
    }
    best.1
}

fn fit_with(measurements: &Measurements, training: &[&NetworkTime], pull: f64) -> AdditiveModel {
    Expectation::fit(measurements, training).refine(training, pull)
}

/// What step 1 makes of operators.
struct Expectation {
    intercept_ms: f64,
    /// By kind: factor of the time alone, milliseconds for each.
    alone: BTreeMap<OperatorKind, (f64, f64)>,
    work: Estimate,
    /// Times alone, without the overhead.
    times: HashMap<Operator, f64>,
}

impl Expectation {
    fn fit(measurements: &Measurements, training: &[&NetworkTime]) -> Self {
        let times: HashMap<Operator, f64> = measurements
            .operators
            .iter()
            .map(|time| {
                let rest = time.median_ms - measurements.overhead_ms;
                (time.operator, rest.max(0.01 * time.median_ms))
            })
            .collect();
        let kinds: BTreeSet<OperatorKind> = training
            .iter()
            .flat_map(|network| network.operators.iter().map(|operator| operator.kind))
            .collect();
        let kinds: Vec<OperatorKind> = kinds.into_iter().collect();
        // Unknown 0 is the intercept; each kind has α, β for operators measured alone, and β, γ, δ
        // for others.
        const FEATURES: usize = 5;
        let features = |operators: &[Operator]| {
            let mut sums = vec![0.0; 1 + FEATURES * kinds.len()];
            sums[0] = 1.0;
            for operator in operators {
                let kind = kinds.binary_search(&operator.kind);
                let Ok(kind) = kind else { continue };
                let sums = &mut sums[1 + FEATURES * kind..][..FEATURES];
                match times.get(operator) {
                    Some(time) => {
                        sums[0] += time;
                        sums[1] += 1.0;
                    }
                    None => {
                        sums[2] += 1.0;
                        sums[3] += operator.macs() as f64 / 1e6;
                        sums[4] += operator.bytes() as f64 / 1e6;
                    }
                }
            }
            sums
        };
        let rows: Vec<Vec<f64>> = training
            .iter()
            .map(|network| {
                let sums = features(&network.operators);
                sums.iter().map(|sum| sum / network.milliseconds).collect()
            })
            .collect();
        let size = 1 + FEATURES * kinds.len();
        // Columns in units of their length, so that one small pull suits all.
        let lengths: Vec<f64> = (0..size)
            .map(|column| {
                let squares: f64 = rows.iter().map(|row| row[column].powi(2)).sum();
                squares.sqrt()
            })
            .collect();
        let mut problem = LeastSquares::new(size);
        for row in &rows {
            let values: Vec<(usize, f64)> = (0..size)
                .filter(|&column| lengths[column] > 0.0)
                .map(|column| (column, row[column] / lengths[column]))
                .collect();
            problem.row(&values, 1.0);
        }
        for (column, length) in lengths.iter().enumerate() {
            // An operator takes about as long inside a network as alone: within a factor of some
            // 1 ± 1/2, where networks scatter by some 5 %.
            let is_factor = column > 0 && (column - 1) % FEATURES == 0;
            match (is_factor, *length > 0.0) {
                (true, true) => {
                    problem.pull(
                        column,
                        *length,
                        (0.05f64 / (0.5 * length)).powi(2).max(1e-3),
                    );
                }
                _ => problem.pull(column, 0.0, 1e-3),
            }
        }
        let found = problem.solve_non_negative();
        let coefficient = |column: usize| match lengths[column] {
            0.0 => 0.0,
            length => found[column] / length,
        };
        let mut alone = BTreeMap::new();
        let mut work = Estimate::default();
        for (index, kind) in kinds.iter().enumerate() {
            let at = 1 + FEATURES * index;
            alone.insert(*kind, (coefficient(at), coefficient(at + 1)));
            let cost = WorkCost {
                ms: coefficient(at + 2),
                ms_per_million_macs: coefficient(at + 3),
                ms_per_million_bytes: coefficient(at + 4),
            };
            if lengths[at + 2] > 0.0 {
                work.kinds.insert(kind.name().to_owned(), cost);
            }
        }
        Self {
            intercept_ms: coefficient(0),
            alone,
            work,
            times,
        }
    }

    fn of(&self, operator: &Operator) -> f64 {
        let alone = self.times.get(operator).and_then(|time| {
            let (factor, each) = self.alone.get(&operator.kind)?;
            Some(factor * time + each)
        });
        alone
            .or_else(|| self.work.milliseconds(operator))
            .or_else(|| self.times.get(operator).copied())
            .unwrap_or(0.0)
    }

    fn refine(&self, training: &[&NetworkTime], pull: f64) -> AdditiveModel {
        let mut known: Vec<Operator> = training
            .iter()
            .flat_map(|network| network.operators.iter().copied())
            .collect();
        known.sort_by_cached_key(Operator::to_string);
        known.dedup();
        let mut fitted: HashMap<Operator, f64> = self
            .times
            .keys()
            .map(|operator| (*operator, self.of(operator)))
            .collect();
        let mut intercept_ms = self.intercept_ms;
        let expected: Vec<f64> = known.iter().map(|operator| self.of(operator)).collect();
        let mut times = expected.clone();
        if pull.is_finite() && !known.is_empty() {
            let mean = mean_and_std(&expected).0;
            let numbers: HashMap<&Operator, usize> = known.iter().zip(0..).collect();
            let mut columns = vec![Vec::new(); known.len()];
            let mut constant = Vec::new();
            for (row, network) in training.iter().enumerate() {
                let weight = 1.0 / network.milliseconds;
                let mut counts: BTreeMap<usize, f64> = BTreeMap::new();
                for operator in &network.operators {
                    *counts.entry(numbers[operator]).or_default() += weight;
                }
                for (number, value) in counts {
                    columns[number].push((row, value));
                }
                constant.push((row, weight));
            }
            let mut problem = SparseLeastSquares::new(vec![1.0; training.len()]);
            // An error of all of a network's time weighs as much as operators that are off by
            // their own size, `pull` times.
            for (column, &expected) in columns.into_iter().zip(&expected) {
                let size = expected + 0.1 * mean;
                let weight = if size > 0.0 {
                    pull / (size * size)
                } else {
                    1.0
                };
                problem.unknown(column, expected, weight / known.len() as f64);
            }
            let size = intercept_ms + mean;
            problem.unknown(constant, intercept_ms, pull / (size * size).max(1e-18));
            let mut found = problem.solve_non_negative();
            intercept_ms = found.pop().unwrap_or(intercept_ms);
            times = found;
        }
        fitted.extend(known.into_iter().zip(times));
        let estimate = estimate(&fitted);
        AdditiveModel {
            intercept_ms,
            operators: fitted,
            estimate,
        }
    }
}

/// Costs by work that agree with fitted times, relatively.
fn estimate(fitted: &HashMap<Operator, f64>) -> Estimate {
    let mut by_kind: BTreeMap<OperatorKind, Vec<(Operator, f64)>> = BTreeMap::new();
    for (operator, &time) in fitted {
        by_kind
            .entry(operator.kind)
            .or_default()
            .push((*operator, time));
    }
    let mut estimate = Estimate::default();
    for (kind, mut operators) in by_kind {
        operators.sort_by_cached_key(|(operator, _)| operator.to_string());
        let times: Vec<f64> = operators.iter().map(|(_, time)| *time).collect();
        let floor = 0.1 * mean_and_std(&times).0 + 1e-9;
        let mut problem = LeastSquares::new(3);
        for (operator, time) in &operators {
            let weight = 1.0 / (time + floor);
            let work = [
                1.0,
                operator.macs() as f64 / 1e6,
                operator.bytes() as f64 / 1e6,
            ];
            let row: Vec<(usize, f64)> =
                work.iter().map(|work| work * weight).enumerate().collect();
            problem.row(&row, time * weight);
        }
        let [ms, ms_per_million_macs, ms_per_million_bytes] = problem.solve_non_negative()[..]
        else {
            continue;
        };
        let cost = WorkCost {
            ms,
            ms_per_million_macs,
            ms_per_million_bytes,
        };
        estimate.kinds.insert(kind.name().to_owned(), cost);
    }
    estimate
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fusion::{Granularity, operators};
    use oncefit_random::Draws;
    use oncefit_space::Space;

    /// A device whose operators take longer inside networks, by kind, with noise.
    fn measurements(noise: f64, probed: f64, count: usize) -> Measurements {
        let space = Space::builtin("fm-nano").unwrap();
        let mut draws = Draws::new(7, "device", 0, 0);
        let alone = |operator: &Operator| {
            0.002 + operator.macs() as f64 * 2e-7 + operator.bytes() as f64 * 1e-7
        };
        let inside = |operator: &Operator| match operator.kind {
            OperatorKind::Depthwise => 1.7 * alone(operator) + 0.003,
            OperatorKind::Add => 0.2 * alone(operator),
            _ => 0.9 * alone(operator),
        };
        let mut found = Measurements {
            overhead_ms: 0.01,
            ..Default::default()
        };
        let mut seen = BTreeSet::new();
        for _ in 0..count {
            let subnet = space.sample(&mut draws).unwrap();
            let operators = operators(subnet.graph(), Granularity::Operator);
            let exact: f64 = 0.02 + operators.iter().map(inside).sum::<f64>();
            for operator in &operators {
                if seen.insert(operator.to_string()) && draws.chance(probed) {
                    let time = 0.01 + alone(operator);
                    found.operators.push(OperatorTime {
                        operator: *operator,
                        count: 10,
                        median_ms: time,
                        mean_ms: time,
                        std_ms: 0.0,
                    });
                }
            }
            found.networks.push(NetworkTime {
                operators,
                milliseconds: exact * (1.0 + noise * draws.normal()),
            });
        }
        found
    }

    #[test]
    fn a_device_without_noise_is_predicted_almost_exactly() {
        for probed in [1.0, 0.5, 0.0] {
            let (model, validation) = fit(&measurements(0.0, probed, 100)).unwrap();
            assert!(validation.median_error < 0.01, "{probed}: {validation:?}");
            assert!(validation.spearman > 0.99, "{probed}: {validation:?}");
            assert!(model.operators.values().all(|time| *time >= 0.0));
        }
    }

    #[test]
    fn noise_of_five_percent_does_not_hide_the_order() {
        let (_, validation) = fit(&measurements(0.05, 0.8, 120)).unwrap();
        assert!(validation.median_error < 0.06, "{validation:?}");
        assert!(validation.spearman > 0.95, "{validation:?}");
    }

    #[test]
    fn estimates_come_near_for_operators_never_seen() {
        let mut known = measurements(0.0, 1.0, 100);
        let is_known = |operator: &Operator| operator.kernel != 5;
        known.operators.retain(|time| is_known(&time.operator));
        let unseen: Vec<NetworkTime> = known
            .networks
            .extract_if(.., |network| !network.operators.iter().all(is_known))
            .collect();
        assert!(known.networks.len() >= FEWEST_NETWORKS && unseen.len() > 10);
        let (model, _) = fit(&known).unwrap();
        let errors: Vec<f64> = unseen
            .iter()
            .map(|network| model.milliseconds(&network.operators) / network.milliseconds - 1.0)
            .map(f64::abs)
            .collect();
        assert!(median(&errors) < 0.1, "{}", median(&errors));
    }

    #[test]
    fn too_few_networks_and_bad_times_are_errors() {
        let mut few = measurements(0.0, 1.0, 5);
        assert!(fit(&few).unwrap_err().to_string().contains("too few"));
        few = measurements(0.0, 1.0, 20);
        for time in [0.0, -1.0, f64::NAN] {
            few.networks[3].milliseconds = time;
            assert!(fit(&few).unwrap_err().to_string().contains("positive"));
        }
    }
}
