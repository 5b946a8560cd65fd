//! Search by prediction: a predictor learns accuracies from some measured subnets, then very many
//! are costed and predicted without being built.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oncefit_random::{Draws, fnv1a64};
use oncefit_search::{
    Assessment, CompactObjective, Coster, EvolutionSettings, Limit, Metric, Region, evolve,
};
use oncefit_space::{Candidate, Space, Subnet};
use oncefit_target::{Codes, Cost, OperatorTable, Predictor, PredictorOptions, Sample};
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
    // Without its origin a predictor is not used again: so none is there while it is replaced.
    if origin_path.exists() {
        std::fs::remove_file(&origin_path).map_err(|source| Error::File {
            action: "remove",
            path: origin_path.clone(),
            source,
        })?;
    }
    predictor.save(&path)?;
    // One that the clock stopped early is learnt again by whoever asks for more samples.
    let origin = Origin {
        samples: samples.len(),
        ..wanted
    };
    let text = serde_json::to_string_pretty(&origin).expect("plain data");
    run.run.write(ORIGIN, &text)?;
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

/// What a network may cost.
#[derive(Clone, Debug, Default)]
pub struct Budget {
    /// Limits, also on the latency where there is a table.
    pub limits: Vec<Limit>,
    /// Times of operators.
    pub table: Option<OperatorTable>,
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

/// Costs of candidates from what is remembered of parts of networks.
struct RememberedCosts {
    coster: Mutex<oncefit_target::Coster>,
    metrics: Vec<Metric>,
}

impl RememberedCosts {
    fn new(space: &Space, table: Option<&OperatorTable>) -> Self {
        let mut metrics = vec![Metric::Macs, Metric::Parameters, Metric::PeakMemory];
        metrics.extend(table.map(|_| Metric::Latency));
        Self {
            coster: Mutex::new(coster(space, table)),
            metrics,
        }
    }

    fn cost(&self, candidate: &Candidate) -> Result<Cost> {
        let mut coster = self.coster.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(coster.cost(&indices_of(candidate))?)
    }
}

impl Coster for RememberedCosts {
    fn metrics(&self) -> &[Metric] {
        &self.metrics
    }

    fn costs(
        &self,
        candidate: &Candidate,
        metrics: &[Metric],
        costs: &mut Vec<u64>,
    ) -> std::result::Result<(), String> {
        let cost = self.cost(candidate).map_err(|error| error.to_string())?;
        for metric in metrics {
            let value = value_of(&cost, *metric);
            costs.push(value.ok_or_else(|| format!("{metric} are not known here"))?);
        }
        Ok(())
    }
}

/// Costs and predicts candidates.
struct Predictions<'p> {
    coster: oncefit_target::Coster,
    predictor: &'p Predictor,
    limits: &'p [Limit],
    codes: Codes,
}

impl CompactObjective for Predictions<'_> {
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
            let above = self.limits.iter().map(|limit| {
                let value = value_of(&cost, limit.metric).unwrap_or(u64::MAX);
                value.saturating_sub(limit.at_most) as f64 / limit.at_most.max(1) as f64
            });
            assessments.push(Assessment {
                key: fnv1a64(&bytes),
                excess: above.fold(0.0, f64::max),
                score: 0.0,
            });
        }
        let scores = self.predictor.predict_codes(&self.codes);
        for (assessment, score) in assessments.iter_mut().zip(scores) {
            assessment.score = score;
        }
        Ok(assessments)
    }
}

/// Generations of Once-for-All's search.
const GENERATIONS: usize = 500;

impl Budget {
    /// The subnets within it.
    ///
    /// # Errors
    /// At once, with the closest value, if there is none; or if the table lacks operators.
    pub fn region(&self, space: &Space) -> Result<Region> {
        let costs = RememberedCosts::new(space, self.table.as_ref());
        // What is wrong with a table is better said by itself than as a member without costs.
        let smallest = space.candidate_of(space.smallest()?.trace())?;
        costs.cost(&smallest)?;
        Ok(Region::new(space, &self.limits, Arc::new(costs))?)
    }
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
    let region = budget.region(space)?;
    let start = indices_of(region.anchor());
    let slots = space.decisions().iter();
    let sizes: Vec<usize> = slots.map(|slot| slot.domain.values.len()).collect();
    let mut objective = Predictions {
        coster: coster(space, budget.table.as_ref()),
        predictor,
        limits: &budget.limits,
        codes: Codes::default(),
    };
    let settings = EvolutionSettings::default();
    let found = evolve(
        &sizes,
        &[start],
        settings,
        GENERATIONS,
        keep,
        seed,
        &mut objective,
    )?;
    found
        .into_iter()
        .filter(|one| one.assessment.excess == 0.0)
        .map(|one| {
            let candidate = space.candidate(|slot, _| one.indices[slot])?;
            Ok(Promising {
                subnet: space.subnet_of(&candidate)?,
                accuracy: one.assessment.score,
                cost: objective.coster.cost(&one.indices)?,
            })
        })
        .collect()
}

fn coster(space: &Space, table: Option<&OperatorTable>) -> oncefit_target::Coster {
    match table {
        Some(table) => oncefit_target::Coster::with_table(space, table),
        None => oncefit_target::Coster::new(space),
    }
}

/// An index for each decision; those that the candidate does not have do not matter.
fn indices_of(candidate: &Candidate) -> Vec<usize> {
    let positions = candidate.positions().iter();
    positions
        .map(|&position| match position {
            Candidate::INACTIVE => 0,
            position => position as usize,
        })
        .collect()
}

/// A cost as searches count it, where it is known.
fn value_of(cost: &Cost, metric: Metric) -> Option<u64> {
    match metric {
        Metric::Macs => Some(cost.macs),
        Metric::Parameters => Some(cost.parameters),
        Metric::PeakMemory => Some(cost.peak_activation_bytes),
        Metric::Latency => cost.latency_ms.map(|ms| (ms * 1e6).round() as u64),
        Metric::FileSize => None,
    }
}
