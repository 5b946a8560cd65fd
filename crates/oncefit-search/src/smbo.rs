//! Search by a linear surrogate (sequential model-based optimisation).
//!
//! ```text
//! refit a ridge regression to all scores
//! draw m random members that are new; take the best predicted,
//! or, with probability ε, a random one
//! ```
//!
//! DeepArchitect's, of 2017 (`darch/searchers.py`) and 2019 (`searchers/smbo_random.py`); the
//! features by default are ours. The order of predictions does not change when scores are
//! standardised, so they are not. A failure counts as the lowest score so far.

use std::collections::HashMap;

use oncefit_random::Draws;
use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::features::{
    Features, FixedFeatures, hashed_row, modules, n_gram_row, n_grams, vocabulary,
};
use crate::outcome::{Outcome, Trial};
use crate::proposer::Proposer;
use crate::region::Region;
use crate::ridge::{LinearModel, Ridge, SparseRow};
use crate::searcher::Searcher;

/// The settings of a surrogate search.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct SmboSettings {
    /// What the surrogate sees.
    pub features: Features,
    /// Penalty of the ridge regression (λ).
    pub lambda: f64,
    /// Random members that are predicted for each trial (m).
    pub candidates: usize,
    /// Probability that a trial is random (ε).
    pub random_share: f64,
    /// Random trials before the first prediction.
    pub initial: usize,
    /// Tells between refits.
    pub refit_every: usize,
}

impl Default for SmboSettings {
    /// Positional and ordinal features, λ = 1, 512 candidates, ε = 0.1, 8 random trials first.
    fn default() -> Self {
        Self {
            features: Features::Automatic,
            lambda: 1.0,
            candidates: 512,
            random_share: 0.1,
            initial: 8,
            refit_every: 1,
        }
    }
}

impl SmboSettings {
    /// The form of 2017: sequences of up to four operations, λ = 1000, 50 candidates, ε = 0.25.
    pub fn paper_2017() -> Self {
        Self {
            features: Features::NGrams {
                longest: 4,
                of_decisions: false,
            },
            lambda: 1000.0,
            candidates: 50,
            random_share: 0.25,
            initial: 1,
            refit_every: 1,
        }
    }

    /// The form of 2019: 2,048 hashed features, λ = 1e-5, 256 candidates, ε = 0.1.
    pub fn paper_2019() -> Self {
        Self {
            features: Features::Hashed { buckets: 2048 },
            lambda: 1e-5,
            candidates: 256,
            random_share: 0.1,
            initial: 1,
            refit_every: 1,
        }
    }
}

/// A surrogate search in progress.
#[derive(Clone, Debug)]
pub struct Smbo {
    proposer: Proposer,
    settings: SmboSettings,
    surrogate: Surrogate,
    /// The score of each row; `None` for a failure.
    scores: Vec<Option<f64>>,
    /// Tells since the last fit.
    since_fit: usize,
    model: Option<Fitted>,
}

/// What the rows are made of.
#[derive(Clone, Debug)]
enum Surrogate {
    Fixed {
        features: FixedFeatures,
        ridge: Ridge,
    },
    Hashed {
        buckets: usize,
        ridge: Ridge,
    },
    NGrams {
        longest: usize,
        of_decisions: bool,
        /// Number of modules and their sequences, for each told member.
        members: Vec<(usize, HashMap<u64, f64>)>,
    },
}

#[derive(Clone, Debug)]
struct Fitted {
    model: LinearModel,
    vocabulary: HashMap<u64, usize>,
}

impl Smbo {
    /// A surrogate search in a region.
    pub fn within(region: Region, settings: SmboSettings, seed: u64) -> Self {
        let surrogate = match settings.features {
            Features::NGrams {
                longest,
                of_decisions,
            } => Surrogate::NGrams {
                longest,
                of_decisions,
                members: Vec::new(),
            },
            Features::Hashed { buckets } => Surrogate::Hashed {
                buckets,
                ridge: Ridge::new(buckets.max(1), settings.lambda),
            },
            fixed => {
                let features = FixedFeatures::new(region.space(), fixed);
                Surrogate::Fixed {
                    ridge: Ridge::new(features.length(), settings.lambda),
                    features,
                }
            }
        };
        Self {
            proposer: Proposer::new(region, "surrogate search", seed),
            settings,
            surrogate,
            scores: Vec::new(),
            since_fit: 0,
            model: None,
        }
    }

    fn refit(&mut self) {
        let lowest = self.scores.iter().flatten().copied().reduce(f64::min);
        let Some(lowest) = lowest else {
            return;
        };
        if self.model.is_some() && self.since_fit < self.settings.refit_every.max(1) {
            return;
        }
        self.since_fit = 0;
        let scores = self.scores.iter();
        let targets: Vec<f64> = scores.map(|score| score.unwrap_or(lowest)).collect();
        self.model = Some(match &self.surrogate {
            Surrogate::Fixed { ridge, .. } | Surrogate::Hashed { ridge, .. } => Fitted {
                model: ridge.fit(&targets),
                vocabulary: HashMap::new(),
            },
            Surrogate::NGrams { members, .. } => {
                let grams: Vec<HashMap<u64, f64>> =
                    members.iter().map(|(_, grams)| grams.clone()).collect();
                let vocabulary = vocabulary(&grams);
                let mut ridge = Ridge::new(vocabulary.len() + 1, self.settings.lambda);
                for (modules, grams) in members {
                    ridge.push(n_gram_row(*modules, grams, &vocabulary));
                }
                Fitted {
                    model: ridge.fit(&targets),
                    vocabulary,
                }
            }
        });
    }

    /// The predicted score of a candidate; the lowest for a hole.
    fn predict(&self, fitted: &Fitted, candidate: &Candidate, row: &mut SparseRow) -> f64 {
        let space = self.proposer.space();
        match &self.surrogate {
            Surrogate::Fixed { features, .. } => {
                features.row_into(candidate, row);
                fitted.model.predict(row)
            }
            Surrogate::Hashed { buckets, .. } => hashed_row(space, candidate, *buckets)
                .map_or(f64::NEG_INFINITY, |row| fitted.model.predict(&row)),
            Surrogate::NGrams {
                longest,
                of_decisions,
                ..
            } => modules(space, candidate, *of_decisions).map_or(f64::NEG_INFINITY, |modules| {
                let grams = n_grams(&modules, *longest);
                let row = n_gram_row(modules.len(), &grams, &fitted.vocabulary);
                fitted.model.predict(&row)
            }),
        }
    }

    /// The best predicted of the random candidates, if one of them is new and feasible.
    fn propose(&mut self, fitted: &Fitted) -> Result<Option<Trial>> {
        let mut draws: Draws = self.proposer.next_draws();
        if draws.chance(self.settings.random_share) {
            return self.proposer.propose_any();
        }
        let mut row = SparseRow::new();
        let mut best: Option<(f64, Candidate)> = None;
        for _ in 0..self.settings.candidates {
            let mut candidate = self.proposer.space().sample_candidate(&mut draws)?;
            if !self.proposer.region().contains(&candidate) {
                candidate = self.proposer.region().repair(candidate, &mut draws)?;
            }
            let predicted = self.predict(fitted, &candidate, &mut row);
            let is_better = best.as_ref().is_none_or(|(best, _)| predicted > *best);
            if is_better && !self.proposer.is_known(&candidate) {
                best = Some((predicted, candidate));
            }
        }
        match best.and_then(|(_, candidate)| self.proposer.accept(candidate)) {
            Some(trial) => Ok(Some(trial)),
            None => self.proposer.propose_any(),
        }
    }
}

impl Searcher for Smbo {
    fn space(&self) -> &Space {
        self.proposer.space()
    }

    fn settings(&self) -> String {
        self.proposer.describe(&self.settings)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::with_capacity(count);
        if self.scores.len() >= self.settings.initial {
            self.refit();
        }
        let model = self.model.take();
        for _ in 0..count {
            let found = match &model {
                None => self.proposer.propose_any()?,
                Some(fitted) => self.propose(fitted)?,
            };
            trials.extend(found);
        }
        self.model = model;
        Ok(trials)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        let space = self.proposer.space();
        // A hole has no network to learn from.
        match &mut self.surrogate {
            Surrogate::Fixed { features, ridge } => ridge.push(features.row(&trial.candidate)),
            Surrogate::Hashed { buckets, ridge } => {
                let Ok(row) = hashed_row(space, &trial.candidate, *buckets) else {
                    return;
                };
                ridge.push(row);
            }
            Surrogate::NGrams {
                longest,
                of_decisions,
                members,
            } => {
                let Ok(modules) = modules(space, &trial.candidate, *of_decisions) else {
                    return;
                };
                members.push((modules.len(), n_grams(&modules, *longest)));
            }
        }
        self.scores.push(outcome.score());
        self.since_fit += 1;
    }
}
