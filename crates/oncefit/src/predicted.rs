//! Search by prediction: a predictor learns accuracies from some measured subnets, then very many
//! are costed and predicted without being built.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oncefit_random::{Draws, fnv1a64};
use oncefit_search::{
    Assessment, CompactObjective, EvolutionSettings, Limit, Metric, Ranked, evolve,
};
use oncefit_space::{Space, Subnet};
use oncefit_target::{Codes, Cost, Coster, OperatorTable, Predictor, PredictorOptions, Sample};
use oncefit_train::Split;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::loaded::LoadedRun;

/// What a predictor is learnt from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PredictorSettings {
    /// Subnets that are measured for it.
    pub samples: usize,
    /// When to stop measuring; at least [`oncefit_target::FEWEST_SAMPLES`] are.
    pub time_limit: Option<Duration>,
    /// Seed of the choice of subnets, and of the predictor.
    pub seed: u64,
}

/// Which weights and samples a saved predictor belongs to.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
struct Origin {
    weights_hash: String,
    samples: usize,
    seed: u64,
}

/// Name of the saved predictor in a run folder.
pub const PREDICTOR: &str = "predictor.safetensors";
const ORIGIN: &str = "predictor.json";

/// The run's predictor: the saved one if it is of these weights and settings, or a new one.
/// `observe` is told how many subnets are measured.
///
/// # Errors
/// If a subnet cannot be measured or a file not be written.
pub fn predictor(
    run: &mut LoadedRun,
    settings: PredictorSettings,
    observe: &mut dyn FnMut(usize),
) -> Result<Predictor> {
    let (path, origin_path) = (run.run.file(PREDICTOR), run.run.file(ORIGIN));
    let wanted = Origin {
        weights_hash: run.weights_hash().to_owned(),
        samples: settings.samples,
        seed: settings.seed,
    };
    let saved = std::fs::read_to_string(&origin_path).ok();
    let saved = saved.and_then(|text| serde_json::from_str::<Origin>(&text).ok());
    if saved.as_ref() == Some(&wanted)
        && let Ok(predictor) = Predictor::load(&path)
        && predictor.check_space(&run.space).is_ok()
    {
        return Ok(predictor);
    }
    let space = run.space.clone();
    let started = Instant::now();
    let mut subnets: Vec<Subnet> = Vec::new();
    let mut samples = Vec::new();
    // Drawn and measured in parts, so that a time limit can end it.
    const PART: usize = 16;
    while samples.len() < settings.samples {
        let is_late = settings
            .time_limit
            .is_some_and(|limit| started.elapsed() >= limit);
        if is_late && samples.len() >= oncefit_target::FEWEST_SAMPLES {
            break;
        }
        let mut part = Vec::new();
        while part.len() < PART.min(settings.samples - samples.len()) {
            let index = subnets.len();
            let subnet = match index {
                0 => space.largest()?,
                1 => space.smallest()?,
                _ => spread(&space, settings.seed, index as u64)?,
            };
            part.push(subnet.clone());
            subnets.push(subnet);
        }
        let rows = run.evaluate(&part, Split::Validation)?;
        let measured = part.iter().zip(rows);
        samples.extend(measured.map(|(subnet, row)| Sample::new(&space, subnet, row.accuracy)));
        observe(samples.len());
    }
    let options = PredictorOptions {
        seed: settings.seed,
        ..PredictorOptions::default()
    };
    let predictor = Predictor::train(&space, &samples, &options)?;
    predictor.save(&path)?;
    // What was stopped by the clock is learnt again by the next who has more time.
    if samples.len() == settings.samples {
        let text = serde_json::to_string_pretty(&wanted).expect("plain data");
        run.run.write(ORIGIN, &text)?;
    }
    Ok(predictor)
}

/// A random subnet: half of them with every decision uniform, half leaning towards small or large
/// values, since a search looks at small and large networks too.
fn spread(space: &Space, seed: u64, index: u64) -> Result<Subnet> {
    let mut draws = Draws::new(seed, "predictor samples", index, 0);
    let lean = match index.is_multiple_of(2) {
        true => 0.0,
        false => 2.0 * draws.unit_f64() - 1.0,
    };
    Ok(space.build(&mut |slot| {
        let values = &slot.domain.values;
        if !draws.chance(lean.abs()) {
            return draws.below(values.len());
        }
        let order = |index: &usize| &values[*index];
        let indices = 0..values.len();
        let end = match lean > 0.0 {
            true => indices.max_by_key(order),
            false => indices.min_by_key(order),
        };
        end.unwrap_or(0)
    })?)
}

/// What a network may cost, with the table that says what it costs in milliseconds.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Limits that follow from the graph.
    pub limits: Vec<Limit>,
    /// Times of operators, and the most milliseconds.
    pub latency: Option<(OperatorTable, Option<f64>)>,
}

/// A subnet that was found, with what is expected of it.
#[derive(Clone, Debug)]
pub struct Promising {
    /// Which.
    pub subnet: Subnet,
    /// Predicted accuracy on the validation split.
    pub accuracy: f64,
    /// Its costs.
    pub cost: Cost,
}

/// Costs and predicts candidates; without predictor all are equally good.
struct Predicted<'p> {
    coster: Coster,
    predictor: Option<&'p Predictor>,
    budget: &'p Budget,
    codes: Codes,
}

impl<'p> Predicted<'p> {
    fn new(space: &Space, predictor: Option<&'p Predictor>, budget: &'p Budget) -> Self {
        Self {
            coster: match &budget.latency {
                Some((table, _)) => Coster::with_table(space, table),
                None => Coster::new(space),
            },
            predictor,
            budget,
            codes: Codes::default(),
        }
    }

    /// The largest excess over a limit, as a share of it.
    fn excess(&self, cost: &Cost) -> f64 {
        let above = |value: f64, limit: f64| ((value - limit) / limit.max(1e-12)).max(0.0);
        let limits = self.budget.limits.iter().map(|limit| {
            let value = match limit.metric {
                Metric::Macs => cost.macs,
                Metric::Parameters => cost.parameters,
                Metric::PeakMemory => cost.peak_activation_bytes,
            };
            above(value as f64, limit.at_most as f64)
        });
        let latency = match (&self.budget.latency, cost.latency_ms) {
            (Some((_, Some(most))), Some(milliseconds)) => above(milliseconds, *most),
            _ => 0.0,
        };
        limits.fold(latency, f64::max)
    }
}

impl CompactObjective for Predicted<'_> {
    type Error = Error;

    fn assess(&mut self, candidates: &[Vec<usize>]) -> Result<Vec<Assessment>> {
        self.codes.clear();
        let (mut assessments, mut code) = (Vec::with_capacity(candidates.len()), Vec::new());
        let mut bytes = Vec::new();
        for indices in candidates {
            let cost = self.coster.cost_and_code(indices, &mut code)?;
            self.codes.push(&code);
            bytes.clear();
            bytes.extend(code.iter().flat_map(|position| position.to_le_bytes()));
            assessments.push(Assessment {
                key: fnv1a64(&bytes),
                excess: self.excess(&cost),
                score: 0.0,
            });
        }
        let Some(predictor) = self.predictor else {
            return Ok(assessments);
        };
        let scores = predictor.predict_codes(&self.codes);
        for (assessment, score) in assessments.iter_mut().zip(scores) {
            assessment.score = score;
        }
        Ok(assessments)
    }
}

/// Generations of Once-for-All's search.
const GENERATIONS: usize = 500;

/// Fails if no subnet is within a budget; takes milliseconds, so it is asked before anything is
/// measured.
///
/// # Errors
/// With the closest values, or if the table lacks operators.
pub fn check_feasible(space: &Space, budget: &Budget) -> Result<()> {
    oncefit_search::check_feasible(space, &budget.limits)?;
    let mut objective = Predicted::new(space, None, budget);
    let smallest = objective.coster.indices(&space.smallest()?)?;
    let cost = objective.coster.cost(&smallest)?;
    if objective.excess(&cost) > 0.0 {
        // The smallest member need not be the fastest.
        evolved(space, &mut objective, GENERATIONS / 10, 1, 0)?;
    }
    Ok(())
}

/// The most promising subnets within a budget, best first, at most `keep`.
///
/// # Errors
/// If no subnet is within the budget (the message has the closest values), or the table lacks
/// operators.
pub fn find(
    space: &Space,
    predictor: &Predictor,
    budget: &Budget,
    keep: usize,
    seed: u64,
) -> Result<Vec<Promising>> {
    predictor.check_space(space)?;
    let mut objective = Predicted::new(space, Some(predictor), budget);
    evolved(space, &mut objective, GENERATIONS, keep, seed)
}

/// What an evolution finds within the objective's budget.
fn evolved(
    space: &Space,
    objective: &mut Predicted,
    generations: usize,
    keep: usize,
    seed: u64,
) -> Result<Vec<Promising>> {
    let start = [
        objective.coster.indices(&space.smallest()?)?,
        objective.coster.indices(&space.largest()?)?,
    ];
    let slots = space.decisions();
    let sizes: Vec<usize> = slots.iter().map(|slot| slot.domain.values.len()).collect();
    let settings = EvolutionSettings::default();
    let found = evolve(&sizes, &start, settings, generations, keep, seed, objective)?;
    let positions: HashMap<&str, usize> = slots
        .iter()
        .enumerate()
        .map(|(position, slot)| (slot.path.as_str(), position))
        .collect();
    let mut promising = Vec::new();
    for Ranked {
        indices,
        assessment,
    } in &found
    {
        let cost = objective.coster.cost(indices)?;
        if assessment.excess > 0.0 {
            if promising.is_empty() {
                return Err(infeasible(space, objective.budget, &cost));
            }
            break;
        }
        promising.push(Promising {
            subnet: space.build(&mut |slot| {
                let position = positions.get(slot.path.as_str());
                position.map_or(0, |&position| indices[position])
            })?,
            accuracy: assessment.score,
            cost,
        });
    }
    Ok(promising)
}

fn infeasible(space: &Space, budget: &Budget, closest: &Cost) -> Error {
    let mut parts: Vec<String> = Vec::new();
    for limit in &budget.limits {
        let value = match limit.metric {
            Metric::Macs => closest.macs,
            Metric::Parameters => closest.parameters,
            Metric::PeakMemory => closest.peak_activation_bytes,
        };
        parts.push(format!(
            "{value} {} (limit {})",
            limit.metric, limit.at_most
        ));
    }
    if let (Some((_, Some(most))), Some(milliseconds)) = (&budget.latency, closest.latency_ms) {
        parts.push(format!("{milliseconds:.4} ms (limit {most} ms)"));
    }
    Error::Request(format!(
        "no subnet of `{}` is within the limits; the closest has {}",
        space.name(),
        parts.join(", ")
    ))
}
