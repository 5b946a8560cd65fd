//! Search by prediction: a predictor learns accuracies from some measured subnets, then very many
//! are costed and predicted without being built.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use oncefit_export::Metadata;
use oncefit_random::{Draws, fnv1a64};
use oncefit_search::{
    Assessment, CompactObjective, Coster, EvolutionSettings, Limit, Metric, Nsga2, Nsga2Settings,
    Outcome, Region, Searcher, evolve, pareto_front,
};
use oncefit_space::{Candidate, Space, Subnet};
use oncefit_target::{
    Codes, Cost, OperatorTable, Predictor, PredictorOptions, Sample, TargetError,
};
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
    /// Limits, also on the latency where there is a table and on the file where `metadata` is given.
    pub limits: Vec<Limit>,
    /// Times of operators.
    pub table: Option<OperatorTable>,
    /// Whether networks with operators that the table lacks are left out, instead of an error.
    pub leaves_out: bool,
    /// What files say about themselves, where their sizes count.
    pub metadata: Option<Metadata>,
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
    fn new(space: &Space, budget: &Budget) -> Result<Self> {
        let mut metrics = vec![Metric::Macs, Metric::Parameters, Metric::PeakMemory];
        metrics.extend(budget.table.as_ref().map(|_| Metric::Latency));
        metrics.extend(budget.metadata.as_ref().map(|_| Metric::FileSize));
        Ok(Self {
            coster: Mutex::new(budget.coster(space)?),
            metrics,
        })
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
    budget: &'p Budget,
    codes: Codes,
}

impl<'p> Predictions<'p> {
    fn new(space: &Space, predictor: &'p Predictor, budget: &'p Budget) -> Result<Self> {
        Ok(Self {
            coster: budget.coster(space)?,
            predictor,
            budget,
            codes: Codes::default(),
        })
    }

    /// The costs, if the network is one for this target; `code` receives its encoding.
    fn cost(&mut self, indices: &[usize], code: &mut Vec<u32>) -> Result<Option<Cost>> {
        match self.coster.cost_and_code(indices, code) {
            Ok(cost) => Ok(Some(cost)),
            Err(TargetError::MissingOperators { .. }) if self.budget.leaves_out => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn promising(&mut self, space: &Space, indices: &[usize], accuracy: f64) -> Result<Promising> {
        let candidate = space.candidate(|slot, _| indices[slot])?;
        Ok(Promising {
            subnet: space.subnet_of(&candidate)?,
            accuracy,
            cost: self.coster.cost(indices)?,
        })
    }
}

impl CompactObjective for Predictions<'_> {
    type Error = Error;

    fn assess(&mut self, candidates: &[Vec<usize>]) -> Result<Vec<Assessment>> {
        self.codes.clear();
        let (mut assessments, mut code) = (Vec::with_capacity(candidates.len()), Vec::new());
        let mut bytes = Vec::new();
        for indices in candidates {
            let cost = self.cost(indices, &mut code)?;
            self.codes.push(&code);
            bytes.clear();
            bytes.extend(code.iter().flat_map(|position| position.to_le_bytes()));
            assessments.push(Assessment {
                key: fnv1a64(&bytes),
                excess: cost.map_or(f64::INFINITY, |cost| self.budget.excess(&cost)),
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
        let costs = RememberedCosts::new(space, self)?;
        // What is wrong with a table is better said by itself than as a member without costs.
        let smallest = space.candidate_of(space.smallest()?.trace())?;
        let known = costs.cost(&smallest);
        if !self.leaves_out {
            known?;
            return Ok(Region::new(space, &self.limits, Arc::new(costs))?);
        }
        // Any latency will do, but there must be one.
        let any = Limit {
            metric: Metric::Latency,
            at_most: u64::MAX,
        };
        let costs = Arc::new(costs);
        if let (Err(_), Err(missing)) = (Region::new(space, &[any], costs.clone()), known) {
            return Err(missing);
        }
        let limits = [&self.limits[..], &[any]].concat();
        Ok(Region::new(space, &limits, costs)?)
    }

    fn coster(&self, space: &Space) -> Result<oncefit_target::Coster> {
        let mut coster = oncefit_target::Coster::new(space);
        if let Some(metadata) = &self.metadata {
            coster.count_file_bytes(metadata)?;
        }
        if let Some(table) = &self.table {
            coster.set_table(table);
        }
        Ok(coster)
    }

    /// How far costs are above the limits at most, as a share; 0 within them.
    fn excess(&self, cost: &Cost) -> f64 {
        let above = self.limits.iter().map(|limit| {
            let value = value_of(cost, limit.metric).unwrap_or(u64::MAX);
            value.saturating_sub(limit.at_most) as f64 / limit.at_most.max(1) as f64
        });
        above.fold(0.0, f64::max)
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
    let mut objective = Predictions::new(space, predictor, budget)?;
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
        .map(|one| objective.promising(space, &one.indices, one.assessment.score))
        .collect()
}

/// More members than these are not all predicted.
const MOST_PREDICTED: u64 = 2_000_000;

/// Checks that a space is small enough for [`find_among_all`].
///
/// # Errors
/// If it is not.
pub fn check_small(space: &Space) -> Result<()> {
    let count = space.count()?;
    if count <= MOST_PREDICTED.into() {
        return Ok(());
    }
    Err(Error::Request(format!(
        "space `{}` has {count} subnets, too many to predict all (at most {MOST_PREDICTED}); use --searcher predictor",
        space.name()
    )))
}

/// As [`find`], by predicting every member of a space that has at most two million.
///
/// # Errors
/// As [`find`], or if the space has more members.
pub fn find_among_all(
    space: &Space,
    predictor: &Predictor,
    budget: &Budget,
    keep: usize,
) -> Result<Vec<Promising>> {
    const PART: usize = 1000;
    predictor.check_space(space)?;
    check_small(space)?;
    budget.region(space)?;
    let mut objective = Predictions::new(space, predictor, budget)?;
    let mut best: Vec<(Vec<usize>, Assessment)> = Vec::new();
    let mut next = Some(space.candidate(|_, _| 0)?);
    while next.is_some() {
        let mut part = Vec::with_capacity(PART);
        while let (Some(candidate), true) = (&next, part.len() < PART) {
            part.push(indices_of(candidate));
            next = space.next_candidate(candidate)?;
        }
        let assessments = objective.assess(&part)?;
        let within = part.into_iter().zip(assessments);
        best.extend(within.filter(|(_, found)| found.excess == 0.0));
        // Members that are the same network have the same score and key.
        best.sort_by(|(_, one), (_, other)| {
            other
                .score
                .total_cmp(&one.score)
                .then(one.key.cmp(&other.key))
        });
        best.dedup_by_key(|(_, found)| found.key);
        best.truncate(keep);
    }
    let found = best.into_iter();
    found
        .map(|(indices, assessment)| objective.promising(space, &indices, assessment.score))
        .collect()
}

/// The subnets within a budget that no other is predicted to beat both in accuracy and in a cost,
/// by rising cost.
///
/// # Errors
/// As [`find`], or if that cost is not known here.
pub fn front(
    space: &Space,
    predictor: &Predictor,
    budget: &Budget,
    metric: Metric,
    seed: u64,
) -> Result<Vec<Promising>> {
    const GENERATIONS: usize = 200;
    predictor.check_space(space)?;
    let anchor = budget.region(space)?.anchor().clone();
    let mut objective = Predictions::new(space, predictor, budget)?;
    let settings = Nsga2Settings::default();
    // Limits are constraints of the outcome rather than of the region: a generation is assessed at
    // once, and what is above a limit still says where to go.
    let mut searcher = Nsga2::within(Region::whole(space)?, settings, seed);
    let costed = |objective: &mut Predictions, candidates: &[Candidate]| {
        let (mut code, mut costs) = (Vec::new(), Vec::new());
        objective.codes.clear();
        for candidate in candidates {
            costs.push(objective.cost(&indices_of(candidate), &mut code)?);
            objective.codes.push(&code);
        }
        let scores = objective.predictor.predict_codes(&objective.codes);
        Ok::<_, Error>(scores.into_iter().zip(costs).collect::<Vec<_>>())
    };
    let mut met: Vec<(Candidate, f64, u64)> = Vec::new();
    let mut keep = |candidate: &Candidate, accuracy: f64, cost: &Cost| {
        let value = value_of(cost, metric).ok_or_else(|| {
            Error::Request(format!("{metric} are not known here; a target is needed"))
        })?;
        if budget.excess(cost) == 0.0 {
            met.push((candidate.clone(), accuracy, value));
        }
        Ok::<_, Error>(value)
    };
    for (accuracy, cost) in costed(&mut objective, std::slice::from_ref(&anchor))? {
        cost.map(|cost| keep(&anchor, accuracy, &cost))
            .transpose()?;
    }
    for _ in 0..GENERATIONS {
        let trials = searcher.ask(settings.population)?;
        if trials.is_empty() {
            break;
        }
        let candidates: Vec<Candidate> =
            trials.iter().map(|trial| trial.candidate.clone()).collect();
        let costs = costed(&mut objective, &candidates)?;
        for (trial, (accuracy, cost)) in trials.iter().zip(costs) {
            let outcome = match cost {
                None => Outcome::Failed("the target lacks its operators".into()),
                Some(cost) => {
                    let value = keep(&trial.candidate, accuracy, &cost)?;
                    let scores = vec![accuracy, -(value as f64)];
                    Outcome::with_constraints(scores, vec![budget.excess(&cost)])
                }
            };
            searcher.tell(trial, &outcome);
        }
    }
    let points: Vec<(f64, f64)> = met
        .iter()
        .map(|(_, accuracy, cost)| (*cost as f64, *accuracy))
        .collect();
    pareto_front(&points)
        .into_iter()
        .map(|index| {
            let (candidate, accuracy, _) = &met[index];
            objective.promising(space, &indices_of(candidate), *accuracy)
        })
        .collect()
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
pub fn value_of(cost: &Cost, metric: Metric) -> Option<u64> {
    match metric {
        Metric::Macs => Some(cost.macs),
        Metric::Parameters => Some(cost.parameters),
        Metric::PeakMemory => Some(cost.peak_activation_bytes),
        Metric::Latency => cost.latency_ms.map(|ms| (ms * 1e6).round() as u64),
        Metric::FileSize => cost.file_bytes,
    }
}
