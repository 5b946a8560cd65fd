//! What is asked and what is told: trials and outcomes.

use oncefit_space::Candidate;
use serde::{Deserialize, Serialize};

/// A candidate that a searcher wants evaluated.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trial {
    /// Its number among those of its searcher, from 0.
    pub number: u64,
    /// The member.
    pub candidate: Candidate,
    /// How much an evaluation may spend, in units of the user (images, steps), for searchers that
    /// screen with small budgets; `None` asks for a full evaluation.
    pub budget: Option<u64>,
    /// Where it stands in such a screening.
    pub rung: Option<Rung>,
}

/// A place in a screening.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Rung {
    /// The bracket, from 0; successive halving has one.
    pub bracket: usize,
    /// The round in it, from 0; each has fewer candidates and a larger budget.
    pub round: usize,
    /// The candidate's trial in round 0: what was begun there may go on.
    pub first: u64,
}

/// What came of a trial.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was evaluated.
    Scored {
        /// One score per objective, the main one first; higher is better.
        scores: Vec<f64>,
        /// One number per constraint, violated above 0; empty without constraints.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        constraints: Vec<f64>,
    },
    /// It could not be evaluated; the reason.
    Failed(String),
}

impl Outcome {
    /// The outcome of one score; numbers that are none are failures that say so.
    pub fn of(score: f64) -> Self {
        Self::of_all(vec![score])
    }

    /// The outcome of several scores.
    pub fn of_all(scores: Vec<f64>) -> Self {
        Self::with_constraints(scores, Vec::new())
    }

    /// The outcome of scores and constraints.
    pub fn with_constraints(scores: Vec<f64>, constraints: Vec<f64>) -> Self {
        let numbers = scores.iter().chain(&constraints);
        match numbers.into_iter().find(|number| !number.is_finite()) {
            Some(number) => Self::Failed(format!("a score of {number} is not a number to compare")),
            None if scores.is_empty() => Self::Failed("no score was given".into()),
            None => Self::Scored {
                scores,
                constraints,
            },
        }
    }

    /// The same outcome, checked: numbers that are none make it a failure.
    #[must_use]
    pub fn checked(self) -> Self {
        match self {
            Self::Scored {
                scores,
                constraints,
            } => Self::with_constraints(scores, constraints),
            failed => failed,
        }
    }

    /// The main score, if the trial has a finite one and violates no constraint.
    pub fn score(&self) -> Option<f64> {
        match self {
            Self::Scored { scores, .. } if self.violation() == 0.0 => {
                scores.first().copied().filter(|score| score.is_finite())
            }
            _ => None,
        }
    }

    /// All scores; empty for a failure or where one is no number.
    pub fn scores(&self) -> &[f64] {
        match self {
            Self::Scored { scores, .. } if scores.iter().all(|score| score.is_finite()) => scores,
            _ => &[],
        }
    }

    /// How far constraints are violated in all; infinite for a failure.
    pub fn violation(&self) -> f64 {
        match self {
            Self::Failed(_) => f64::INFINITY,
            Self::Scored { constraints, .. } => constraints
                .iter()
                .map(|constraint| match constraint.is_nan() {
                    true => f64::INFINITY,
                    false => constraint.max(0.0),
                })
                .sum(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_a_failure_with_a_message() {
        for score in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let Outcome::Failed(reason) = Outcome::of(score) else {
                panic!("{score}");
            };
            assert!(reason.contains("not a number"), "{reason}");
            let unchecked = Outcome::Scored {
                scores: vec![score],
                constraints: Vec::new(),
            };
            assert_eq!((unchecked.score(), unchecked.scores()), (None, &[][..]));
        }
    }

    #[test]
    fn violated_constraints_leave_no_score_to_compare() {
        let fine = Outcome::with_constraints(vec![0.5], vec![-1.0, 0.0]);
        assert_eq!((fine.score(), fine.violation()), (Some(0.5), 0.0));
        let violated = Outcome::with_constraints(vec![0.5], vec![0.25, 0.5, -1.0]);
        assert_eq!((violated.score(), violated.violation()), (None, 0.75));
    }
}
