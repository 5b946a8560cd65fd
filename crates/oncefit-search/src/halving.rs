//! Successive halving and Hyperband: many candidates on a small budget, few on a large one.
//!
//! ```text
//! halving:   n₀ candidates at budget b₀; keep the best ⌊n/η⌋ at budget b·η; until one is left
//! Hyperband: s_max = ⌊log_η R⌋, B = (s_max + 1) R; for s = s_max … 0:
//!            n = ⌈B ηˢ / (R (s + 1))⌉, r = R η⁻ˢ; rounds i = 0 … s: n_i = ⌊n η⁻ⁱ⌋ at r_i = r ηⁱ
//! ```
//!
//! Hyperband (Li et al. 2017), and one of its brackets alone. With a weight-shared network the budget
//! is the number of validation images, so that screening needs no training.
//!
//! ```
//! use oncefit_search::HyperbandSettings;
//! let settings = HyperbandSettings { smallest_budget: 1, largest_budget: 27, factor: 3 };
//! let brackets = settings.brackets()?;
//! assert_eq!(brackets[0], [(27, 1), (9, 3), (3, 9), (1, 27)]);
//! assert_eq!(brackets[1], [(12, 3), (4, 9), (1, 27)]);
//! assert_eq!(brackets[2], [(6, 9), (2, 27)]);
//! assert_eq!(brackets[3], [(4, 27)]);
//! # Ok::<(), oncefit_search::SearchError>(())
//! ```

use oncefit_space::{Candidate, Space};
use serde::{Deserialize, Serialize};

use crate::error::{Result, SearchError};
use crate::outcome::{Outcome, Rung, Trial};
use crate::proposer::Proposer;
use crate::region::Region;
use crate::searcher::Searcher;

/// Rounds of a bracket: how many candidates at which budget.
pub type Bracket = Vec<(usize, u64)>;

/// The settings of successive halving.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HalvingSettings {
    /// Candidates of the first round (n₀).
    pub candidates: usize,
    /// Budget of the first round (b₀).
    pub budget: u64,
    /// Largest budget; rounds end there, or when one candidate is left.
    pub largest_budget: u64,
    /// What the budget is multiplied with, and the number of candidates divided by (η).
    pub factor: u64,
}

impl Default for HalvingSettings {
    /// 1,000 candidates on 256 images, 100 on 2,560, 10 on 10,000.
    fn default() -> Self {
        Self {
            candidates: 1000,
            budget: 256,
            largest_budget: 10_000,
            factor: 10,
        }
    }
}

impl HalvingSettings {
    /// The rounds: how many candidates at which budget.
    ///
    /// # Errors
    /// If a setting is 0 or the factor is below 2.
    pub fn bracket(&self) -> Result<Bracket> {
        let Self {
            candidates,
            budget,
            largest_budget,
            factor,
        } = *self;
        if candidates == 0 || budget == 0 || factor < 2 {
            return Err(SearchError::Settings(format!(
                "successive halving needs candidates, a budget and a factor of at least 2, not {candidates}, {budget} and {factor}"
            )));
        }
        let mut rounds = vec![(candidates, budget)];
        loop {
            let (count, budget) = rounds[rounds.len() - 1];
            let next = count / usize::try_from(factor).unwrap_or(usize::MAX);
            if next == 0 || budget >= largest_budget {
                return Ok(rounds);
            }
            rounds.push((next, budget.saturating_mul(factor).min(largest_budget)));
        }
    }
}

/// The settings of Hyperband.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct HyperbandSettings {
    /// Smallest budget: no bracket begins below it.
    pub smallest_budget: u64,
    /// Largest budget (R).
    pub largest_budget: u64,
    /// What budgets are multiplied with, and numbers of candidates divided by (η).
    pub factor: u64,
}

impl Default for HyperbandSettings {
    /// 27 candidates at 1 to one at 27, and three brackets that begin with larger budgets.
    fn default() -> Self {
        Self {
            smallest_budget: 1,
            largest_budget: 27,
            factor: 3,
        }
    }
}

impl HyperbandSettings {
    /// The brackets: s_max = ⌊log_η (R / smallest budget)⌋.
    ///
    /// # Errors
    /// If a budget is 0, the smallest above the largest, or the factor below 2.
    pub fn brackets(&self) -> Result<Vec<Bracket>> {
        let Self {
            smallest_budget,
            largest_budget,
            factor,
        } = *self;
        if smallest_budget == 0 || smallest_budget > largest_budget || factor < 2 {
            return Err(SearchError::Settings(format!(
                "Hyperband needs a smallest budget of 1 to the largest and a factor of at least 2, not {smallest_budget}, {largest_budget} and {factor}"
            )));
        }
        let (largest, factor) = (u128::from(largest_budget), u128::from(factor));
        let mut powers: Vec<u128> = vec![1];
        while powers[powers.len() - 1] * factor * u128::from(smallest_budget) <= largest {
            powers.push(powers[powers.len() - 1] * factor);
        }
        let total = powers.len() as u128 * largest;
        let brackets = (0..powers.len()).rev().map(|s| {
            let count = (total * powers[s]).div_ceil(largest * (s as u128 + 1));
            let rounds = (0..=s).map(|round| {
                let budget = (largest / powers[s - round]) as u64;
                ((count / powers[round]) as usize, budget)
            });
            rounds.filter(|(count, _)| *count > 0).collect()
        });
        Ok(brackets.collect())
    }
}

/// Screens candidates in brackets of rounds: successive halving has one bracket, Hyperband several.
#[derive(Clone, Debug)]
pub struct Screening {
    proposer: Proposer,
    settings: serde_json::Value,
    brackets: Vec<Bracket>,
    bracket: usize,
    round: usize,
    /// Candidates of this round that were not asked yet, with the number of their first trial; new
    /// ones are drawn in a first round.
    waiting: Vec<(Candidate, u64)>,
    /// How many more a first round draws.
    to_draw: usize,
    out: usize,
    /// Told in this round, best first, equals in the order of their trials.
    told: Vec<(f64, u64, Candidate)>,
    trials: u64,
}

impl Screening {
    /// Successive halving in a region.
    ///
    /// # Errors
    /// If a setting is 0 or the factor is below 2.
    pub fn halving(region: Region, settings: HalvingSettings, seed: u64) -> Result<Self> {
        let bracket = settings.bracket()?;
        let settings = serde_json::json!({ "halving": settings });
        Ok(Self::new(region, settings, vec![bracket], seed))
    }

    /// Hyperband in a region: all brackets once.
    ///
    /// # Errors
    /// As [`HyperbandSettings::brackets`].
    pub fn hyperband(region: Region, settings: HyperbandSettings, seed: u64) -> Result<Self> {
        let brackets = settings.brackets()?;
        let settings = serde_json::json!({ "hyperband": settings });
        Ok(Self::new(region, settings, brackets, seed))
    }

    fn new(region: Region, settings: serde_json::Value, brackets: Vec<Bracket>, seed: u64) -> Self {
        Self {
            proposer: Proposer::new(region, "screening", seed),
            to_draw: brackets[0][0].0,
            settings,
            brackets,
            bracket: 0,
            round: 0,
            waiting: Vec::new(),
            out: 0,
            told: Vec::new(),
            trials: 0,
        }
    }

    /// Goes on to the next round or bracket once all outcomes of this round are in.
    fn advance(&mut self) {
        let is_complete = self.out == 0 && self.waiting.is_empty() && self.to_draw == 0;
        if !is_complete || self.bracket == self.brackets.len() {
            return;
        }
        let told = std::mem::take(&mut self.told);
        self.round += 1;
        match self.brackets[self.bracket].get(self.round) {
            Some(&(count, _)) if !told.is_empty() => {
                let best = told.into_iter().take(count);
                self.waiting = best
                    .map(|(_, first, candidate)| (candidate, first))
                    .collect();
                self.waiting.reverse();
            }
            _ => {
                self.bracket += 1;
                self.round = 0;
                self.to_draw = self
                    .brackets
                    .get(self.bracket)
                    .map_or(0, |bracket| bracket[0].0);
            }
        }
    }

    fn propose(&mut self) -> Result<Option<Trial>> {
        self.advance();
        if self.bracket == self.brackets.len() {
            return Ok(None);
        }
        let found = if self.to_draw > 0 {
            match self.proposer.propose_any()? {
                Some(trial) => {
                    self.to_draw -= 1;
                    Some((trial.candidate, self.trials))
                }
                None => {
                    // The space has no more: rounds go on with those that were found.
                    self.to_draw = 0;
                    None
                }
            }
        } else {
            self.waiting.pop()
        };
        let Some((candidate, first)) = found else {
            return Ok(None);
        };
        self.out += 1;
        self.trials += 1;
        Ok(Some(Trial {
            number: self.trials - 1,
            candidate,
            budget: Some(self.brackets[self.bracket][self.round].1),
            rung: Some(Rung {
                bracket: self.bracket,
                round: self.round,
                first,
            }),
        }))
    }
}

impl Searcher for Screening {
    fn space(&self) -> &Space {
        self.proposer.space()
    }

    fn settings(&self) -> String {
        self.proposer.describe(&self.settings)
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        let mut trials = Vec::with_capacity(count);
        while trials.len() < count {
            match self.propose()? {
                Some(trial) => trials.push(trial),
                // A bracket without candidates has ended; others may follow.
                None if self.out == 0 && self.bracket < self.brackets.len() => {}
                None => break,
            }
        }
        Ok(trials)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        self.out = self.out.saturating_sub(1);
        if let Some(score) = outcome.score() {
            let first = trial.rung.map_or(trial.number, |rung| rung.first);
            let is_before = |other: &(f64, u64, Candidate)| {
                other.0 > score || (other.0 == score && other.1 < first)
            };
            let at = self.told.partition_point(is_before);
            self.told
                .insert(at, (score, first, trial.candidate.clone()));
        }
    }

    fn may_ask_again(&self, candidate: &Candidate) -> bool {
        // The best of a complete last round has been asked for the last time.
        let has_next = self
            .brackets
            .get(self.bracket)
            .is_some_and(|bracket| self.round + 1 < bracket.len());
        let told = self.told.iter().map(|(_, _, other)| other);
        let waiting = self.waiting.iter().map(|(other, _)| other);
        (has_next && told.into_iter().any(|other| other == candidate))
            || waiting.into_iter().any(|other| other == candidate)
    }
}
