//! The ask/tell interface.

use oncefit_space::{Candidate, Space};

use crate::error::Result;
use crate::outcome::{Outcome, Trial};

/// An algorithm that proposes candidates and learns what came of them. Higher scores are better.
///
/// Several asks may come before tells, and tells in any order. What a searcher proposes is a
/// function of its settings, its seed and the order of asks and tells, so that replaying a log
/// restores it bit for bit. [`crate::conformance::check`] tests all that is promised here.
pub trait Searcher: Send {
    /// The space that is searched.
    fn space(&self) -> &Space;

    /// Its kind with all settings, limits and the seed, as JSON: two searchers with equal settings
    /// propose the same.
    fn settings(&self) -> String;

    /// Up to `count` new trials. None while trials are out means that the searcher waits for their
    /// outcomes; none while no trial is out means that it has finished, for instance because every
    /// member was proposed. No candidate is proposed twice at the same budget.
    ///
    /// # Errors
    /// If the space cannot be walked.
    fn ask(&mut self, count: usize) -> Result<Vec<Trial>>;

    /// What came of a trial. A failure is an outcome like others: it is learnt from where the
    /// algorithm can, and the candidate is not proposed again.
    fn tell(&mut self, trial: &Trial, outcome: &Outcome);

    /// Whether a candidate whose outcome was told may be asked for again, at another budget. What was
    /// made to evaluate others is not needed any more.
    fn may_ask_again(&self, _candidate: &Candidate) -> bool {
        false
    }
}

impl<S: Searcher + ?Sized> Searcher for Box<S> {
    fn space(&self) -> &Space {
        (**self).space()
    }

    fn settings(&self) -> String {
        (**self).settings()
    }

    fn ask(&mut self, count: usize) -> Result<Vec<Trial>> {
        (**self).ask(count)
    }

    fn tell(&mut self, trial: &Trial, outcome: &Outcome) {
        (**self).tell(trial, outcome);
    }

    fn may_ask_again(&self, candidate: &Candidate) -> bool {
        (**self).may_ask_again(candidate)
    }
}
