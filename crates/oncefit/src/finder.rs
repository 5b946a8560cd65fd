//! Search by prediction: very many subnets are costed and predicted without being built.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use oncefit_export::Metadata;
use oncefit_random::{Draws, fnv1a64};
use oncefit_search::{
    Assessment, CompactObjective, Coster, EvolutionSettings, Limit, Metric, Nsga2, Nsga2Settings,
    Outcome, Region, Ridge, Searcher, evolve, pareto_front,
};
use oncefit_space::{Candidate, Space, Subnet};
use oncefit_target::{Bounds, Codes, Cost, OperatorTable, Predictor, SumScore, TargetError};

use crate::error::{Error, Result};

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
    fn new(budget: &Budget, coster: oncefit_target::Coster) -> Self {
        let mut metrics = vec![Metric::Macs, Metric::Parameters, Metric::PeakMemory];
        metrics.extend(budget.table.as_ref().map(|_| Metric::Latency));
        metrics.extend(budget.metadata.as_ref().map(|_| Metric::FileSize));
        Self {
            coster: Mutex::new(coster),
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

impl Budget {
    /// The subnets within it.
    ///
    /// # Errors
    /// At once, with the closest value, if there is none; or if the table lacks operators.
    pub fn region(&self, space: &Space) -> Result<Region> {
        self.region_with(space, self.coster(space)?)
    }

    fn region_with(&self, space: &Space, coster: oncefit_target::Coster) -> Result<Region> {
        let costs = RememberedCosts::new(self, coster);
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
        self.prepare(&mut coster)?;
        Ok(coster)
    }

    /// Makes a coster count what this budget is about; what it knows of the space is kept.
    fn prepare(&self, coster: &mut oncefit_target::Coster) -> Result<()> {
        if let (Some(metadata), false) = (&self.metadata, coster.counts_file_bytes()) {
            coster.count_file_bytes(metadata)?;
        }
        coster.set_table(self.table.as_ref());
        Ok(())
    }

    /// The same limits as the exact solver takes them.
    fn bounds(&self) -> Bounds {
        let most = |metric: Metric| {
            let of_metric = self.limits.iter().filter(|limit| limit.metric == metric);
            of_metric.map(|limit| limit.at_most).min()
        };
        Bounds {
            macs: most(Metric::Macs),
            parameters: most(Metric::Parameters),
            peak_activation_bytes: most(Metric::PeakMemory),
            latency_ms: most(Metric::Latency).map(|nanoseconds| nanoseconds as f64 / 1e6),
            file_bytes: most(Metric::FileSize),
            leaves_out: self.leaves_out,
        }
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

/// Which candidates a search looks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Those that Once-for-All's evolution comes by.
    Evolution {
        /// Seed of its draws.
        seed: u64,
    },
    /// All, of a space that has at most two million.
    All,
    /// All, by dynamic programming: accuracies are taken for sums over decisions, which are fitted
    /// to the predictor's answers; of the members with the best sums
    /// ([`oncefit_target::Coster::best_sums`]) those that are predicted best.
    Sums {
        /// Seed of the members that the sums are fitted on.
        seed: u64,
    },
}

impl Scope {
    /// Checks that a space is small enough, where all of it is looked at.
    ///
    /// # Errors
    /// If it is not.
    pub fn check(self, space: &Space) -> Result<()> {
        const MOST: u64 = 2_000_000;
        if self != Self::All {
            return Ok(());
        }
        let count = space.count()?;
        if count <= MOST.into() {
            return Ok(());
        }
        Err(Error::Request(format!(
            "space `{}` has {count} subnets, too many to predict all (at most {MOST}); use --searcher predictor",
            space.name()
        )))
    }
}

/// Finds promising subnets for one budget after the other, and remembers what it has learnt about
/// the space: costs of its pieces, and predicted accuracies, which no target changes.
#[derive(Debug)]
pub struct Finder<'p> {
    space: Space,
    predictor: &'p Predictor,
    coster: oncefit_target::Coster,
    /// By the hash of the encoding.
    accuracies: HashMap<u64, f64>,
}

impl<'p> Finder<'p> {
    /// A finder for a space and its predictor.
    ///
    /// # Errors
    /// If the predictor is of another space.
    pub fn new(space: &Space, predictor: &'p Predictor) -> Result<Self> {
        predictor.check_space(space)?;
        Ok(Self {
            space: space.clone(),
            predictor,
            coster: oncefit_target::Coster::new(space),
            accuracies: HashMap::new(),
        })
    }

    /// The most promising subnets within a budget, best first, at most `keep`.
    ///
    /// # Errors
    /// If no subnet is within the budget (the message has the closest values), the table lacks
    /// operators, or the space is too large for its scope.
    pub fn find(&mut self, budget: &Budget, scope: Scope, keep: usize) -> Result<Vec<Promising>> {
        scope.check(&self.space)?;
        let start = indices_of(self.open(budget)?.anchor());
        let mut objective = WithinBudget {
            finder: self,
            budget,
        };
        let found = match scope {
            Scope::Evolution { seed } => objective.evolved(start, keep, seed)?,
            Scope::All => objective.best_of_all(keep)?,
            Scope::Sums { seed } => return self.best_sums(budget, keep, seed),
        };
        found
            .into_iter()
            .filter(|(_, assessment)| assessment.excess == 0.0)
            .map(|(indices, assessment)| self.promising(&indices, assessment.score))
            .collect()
    }

    fn best_sums(&mut self, budget: &Budget, keep: usize, seed: u64) -> Result<Vec<Promising>> {
        /// Members that the sums are fitted on.
        const FITTED_ON: u64 = 2000;
        const PENALTY: f64 = 1e-2;
        const MOST_CASES: usize = 2_000_000;
        /// Best sums among which the predictor chooses.
        const BEST: usize = 1000;
        let sizes: Vec<usize> = self.sizes();
        let (mut codes, mut code) = (Codes::default(), Vec::new());
        let positions = sizes.iter().sum();
        let mut ridge = Ridge::new(positions, PENALTY);
        for index in 0..FITTED_ON {
            let mut draws = Draws::new(seed, "members of sums", index, 0);
            let indices: Vec<usize> = sizes.iter().map(|&size| draws.below(size)).collect();
            match self.coster.cost_and_code(&indices, &mut code) {
                Ok(_) => {}
                Err(TargetError::MissingOperators { .. }) if budget.leaves_out => continue,
                Err(error) => return Err(error.into()),
            }
            codes.push(&code);
            ridge.push(code.iter().map(|&one| (one as usize, 1.0)).collect());
        }
        let model = ridge.fit(&self.predictor.predict_codes(&codes));
        let score = SumScore {
            weights: model.weights,
            intercept: model.intercept,
        };
        let found = self
            .coster
            .best_sums(&score, &budget.bounds(), keep.max(BEST), MOST_CASES)?;
        let indices: Vec<Vec<usize>> = found.into_iter().map(|(indices, _)| indices).collect();
        let assessed = self.assess(&indices, budget)?;
        let mut ranked: Vec<_> = indices.into_iter().zip(assessed).collect();
        ranked.sort_by(|(_, one), (_, other)| other.1.total_cmp(&one.1));
        ranked.truncate(keep);
        let each = ranked.iter();
        each.map(|(indices, (_, accuracy, _))| self.promising(indices, *accuracy))
            .collect()
    }

    /// How many values each decision has.
    fn sizes(&self) -> Vec<usize> {
        let slots = self.space.decisions().iter();
        slots.map(|slot| slot.domain.values.len()).collect()
    }

    /// The subnets within a budget that no other is predicted to beat both in accuracy and in a
    /// cost, by rising cost.
    ///
    /// # Errors
    /// As [`Finder::find`], or if that cost is not known here.
    pub fn front(&mut self, budget: &Budget, metric: Metric, seed: u64) -> Result<Vec<Promising>> {
        const GENERATIONS: usize = 200;
        let anchor = indices_of(self.open(budget)?.anchor());
        let settings = Nsga2Settings::default();
        // Limits are constraints of the outcome rather than of the region: a generation is assessed
        // at once, and what is above a limit still says where to go.
        let mut searcher = Nsga2::within(Region::whole(&self.space)?, settings, seed);
        let mut met: Vec<(Vec<usize>, f64, u64)> = Vec::new();
        let mut assess = |finder: &mut Self, candidates: Vec<Vec<usize>>| -> Result<Vec<Outcome>> {
            let assessed = finder.assess(&candidates, budget)?;
            let pairs = candidates.into_iter().zip(assessed);
            let outcomes = pairs.map(|(indices, (_, accuracy, cost))| {
                let Some(cost) = cost else {
                    return Ok(Outcome::Failed("the target lacks its operators".into()));
                };
                let value = value_of(&cost, metric).ok_or_else(|| {
                    Error::Request(format!("{metric} are not known here; a target is needed"))
                })?;
                let excess = budget.excess(&cost);
                if excess == 0.0 {
                    met.push((indices, accuracy, value));
                }
                let scores = vec![accuracy, -(value as f64)];
                Ok(Outcome::with_constraints(scores, vec![excess]))
            });
            outcomes.collect()
        };
        assess(self, vec![anchor])?;
        for _ in 0..GENERATIONS {
            let trials = searcher.ask(settings.population)?;
            if trials.is_empty() {
                break;
            }
            let candidates = trials.iter().map(|trial| indices_of(&trial.candidate));
            let outcomes = assess(self, candidates.collect())?;
            for (trial, outcome) in trials.iter().zip(outcomes) {
                searcher.tell(trial, &outcome);
            }
        }
        let points: Vec<(f64, f64)> = met
            .iter()
            .map(|(_, accuracy, cost)| (*cost as f64, *accuracy))
            .collect();
        pareto_front(&points)
            .into_iter()
            .map(|index| self.promising(&met[index].0, met[index].1))
            .collect()
    }

    /// Turns to a budget: its region.
    fn open(&mut self, budget: &Budget) -> Result<Region> {
        budget.prepare(&mut self.coster)?;
        budget.region_with(&self.space, self.coster.clone())
    }

    /// Of each candidate a key that is the same for the same network, its predicted accuracy, and
    /// its costs if it is one for this budget's target.
    fn assess(
        &mut self,
        candidates: &[Vec<usize>],
        budget: &Budget,
    ) -> Result<Vec<(u64, f64, Option<Cost>)>> {
        let mut assessed = Vec::with_capacity(candidates.len());
        let (mut code, mut bytes) = (Vec::new(), Vec::new());
        let (mut unknown, mut codes) = (Vec::new(), Codes::default());
        for indices in candidates {
            let cost = match self.coster.cost_and_code(indices, &mut code) {
                Ok(cost) => Some(cost),
                Err(TargetError::MissingOperators { .. }) if budget.leaves_out => None,
                Err(error) => return Err(error.into()),
            };
            bytes.clear();
            bytes.extend(code.iter().flat_map(|position| position.to_le_bytes()));
            let key = fnv1a64(&bytes);
            let known = self.accuracies.get(&key).copied();
            if known.is_none() {
                unknown.push(assessed.len());
                codes.push(&code);
            }
            assessed.push((key, known.unwrap_or(0.0), cost));
        }
        for (place, accuracy) in unknown
            .into_iter()
            .zip(self.predictor.predict_codes(&codes))
        {
            assessed[place].1 = accuracy;
            self.accuracies.insert(assessed[place].0, accuracy);
        }
        Ok(assessed)
    }

    fn promising(&mut self, indices: &[usize], accuracy: f64) -> Result<Promising> {
        let candidate = self.space.candidate(|slot, _| indices[slot])?;
        Ok(Promising {
            subnet: self.space.subnet_of(&candidate)?,
            accuracy,
            cost: self.coster.cost(indices)?,
        })
    }
}

/// A finder at work for a budget.
struct WithinBudget<'f, 'p> {
    finder: &'f mut Finder<'p>,
    budget: &'f Budget,
}

impl CompactObjective for WithinBudget<'_, '_> {
    type Error = Error;

    fn assess(&mut self, candidates: &[Vec<usize>]) -> Result<Vec<Assessment>> {
        let assessed = self.finder.assess(candidates, self.budget)?.into_iter();
        let each = assessed.map(|(key, score, cost)| Assessment {
            key,
            excess: cost.map_or(f64::INFINITY, |cost| self.budget.excess(&cost)),
            score,
        });
        Ok(each.collect())
    }
}

impl WithinBudget<'_, '_> {
    fn evolved(
        &mut self,
        start: Vec<usize>,
        keep: usize,
        seed: u64,
    ) -> Result<Vec<(Vec<usize>, Assessment)>> {
        /// As in Once-for-All.
        const GENERATIONS: usize = 500;
        let sizes = self.finder.sizes();
        let settings = EvolutionSettings::default();
        let found = evolve(&sizes, &[start], settings, GENERATIONS, keep, seed, self)?;
        let pairs = found.into_iter().map(|one| (one.indices, one.assessment));
        Ok(pairs.collect())
    }

    fn best_of_all(&mut self, keep: usize) -> Result<Vec<(Vec<usize>, Assessment)>> {
        const PART: usize = 1000;
        let space = self.finder.space.clone();
        let mut best: Vec<(Vec<usize>, Assessment)> = Vec::new();
        let mut next = Some(space.candidate(|_, _| 0)?);
        while next.is_some() {
            let mut part = Vec::with_capacity(PART);
            while let (Some(candidate), true) = (&next, part.len() < PART) {
                part.push(indices_of(candidate));
                next = space.next_candidate(candidate)?;
            }
            let assessments = self.assess(&part)?;
            let within = part.into_iter().zip(assessments);
            best.extend(within.filter(|(_, found)| found.excess == 0.0));
            best.sort_by(|(_, one), (_, other)| {
                let score = other.score.total_cmp(&one.score);
                score.then(one.key.cmp(&other.key))
            });
            // Members that are the same network have the same score and key.
            best.dedup_by_key(|(_, found)| found.key);
            best.truncate(keep);
        }
        Ok(best)
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
pub fn value_of(cost: &Cost, metric: Metric) -> Option<u64> {
    match metric {
        Metric::Macs => Some(cost.macs),
        Metric::Parameters => Some(cost.parameters),
        Metric::PeakMemory => Some(cost.peak_activation_bytes),
        Metric::Latency => cost.latency_ms.map(|ms| (ms * 1e6).round() as u64),
        Metric::FileSize => cost.file_bytes,
    }
}
