//! Studies: searches that are kept in a folder, can be killed and resumed, and shared.
//!
//! The log holds every ask and every outcome in one order. A searcher is a function of that order,
//! so each process restores its own copy by replaying the log, and a single process that was killed
//! continues bit for bit as if it had not been. Several processes take turns by a file lock; the
//! trials of a process that died are taken over by the others. A kill loses nothing that was told;
//! the log is not forced to disk, so that a power failure may lose its last lines.

mod log;
mod worker;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Result, SearchError};
use crate::outcome::{Outcome, Rung, Trial};
use crate::search::Evaluate;
use crate::searcher::Searcher;

pub use log::Header;
use log::{Event, Log, LoggedTrial, read_events};
use worker::Worker;

/// Version of the log's format.
const FORMAT: u32 = 1;
/// How long to wait for other processes between looks at the log.
const POLL: Duration = Duration::from_millis(20);

/// A trial of a study with what is known of it.
#[derive(Clone, PartialEq, Debug)]
pub struct StudyRow {
    /// Its number.
    pub number: u64,
    /// The subnet's text.
    pub subnet: String,
    /// The budget it was evaluated with, if searchers ask for one.
    pub budget: Option<u64>,
    /// Where it stands in a screening.
    pub rung: Option<Rung>,
    /// The worker that has or had it.
    pub worker: u64,
    /// What came of it, once told.
    pub outcome: Option<Outcome>,
    /// How long the evaluation took.
    pub seconds: f64,
}

impl StudyRow {
    fn new(trial: LoggedTrial, worker: u64) -> Self {
        Self {
            number: trial.number,
            subnet: trial.subnet,
            budget: trial.budget,
            rung: trial.rung,
            worker,
            outcome: None,
            seconds: 0.0,
        }
    }

    /// The main score, if it was told one and violates nothing.
    pub fn score(&self) -> Option<f64> {
        self.outcome.as_ref()?.score()
    }

    /// The trial in which its member was first tried: its own, but in later rounds of a screening.
    pub fn first(&self) -> u64 {
        self.rung.map_or(self.number, |rung| rung.first)
    }

    /// Orders trials by how good they are known to be: by score, after the budget, as a score on a
    /// small budget only guesses at one on a large budget. Those without a score come first; of
    /// equals the later one.
    pub fn by_merit(&self, other: &Self) -> Ordering {
        let key = |row: &Self| row.score().map(|score| (row.budget, score));
        let order = match (key(self), key(other)) {
            (Some((budget, score)), Some((other_budget, other_score))) => budget
                .cmp(&other_budget)
                .then(score.total_cmp(&other_score)),
            (one, other) => one.is_some().cmp(&other.is_some()),
        };
        order.then(other.number.cmp(&self.number))
    }
}

/// What there is to do for a worker.
#[derive(Clone, PartialEq, Debug)]
pub enum Claim {
    /// These trials are now this worker's.
    Trials(Vec<Trial>),
    /// Others are at work on what is left.
    Wait,
    /// Everything is done.
    Finished,
}

/// A study, as one of the processes that share it sees it.
pub struct Study {
    folder: PathBuf,
    log: Log,
    worker: Worker,
    searcher: Box<dyn Searcher>,
    header: Header,
    has_header: bool,
    trials: BTreeMap<u64, Trial>,
    rows: BTreeMap<u64, StudyRow>,
    /// Whether the searcher had nothing to ask since the last outcome.
    is_dry: bool,
}

impl std::fmt::Debug for Study {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            formatter,
            "Study({}, {} trials)",
            self.folder.display(),
            self.rows.len()
        )
    }
}

impl Study {
    /// Begins a study in a folder, or joins or resumes the one that is there. `searcher` is new: it
    /// learns what the log holds.
    ///
    /// # Errors
    /// If the folder cannot be used, or holds a study of another space, of another searcher or
    /// other settings, or with other objectives.
    pub fn open(
        folder: &Path,
        searcher: Box<dyn Searcher>,
        objectives: &[&str],
        constraints: &[&str],
    ) -> Result<Self> {
        let mut log = Log::open(folder)?;
        log.lock()?;
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let searcher_settings = serde_json::from_str(&searcher.settings())
            .unwrap_or_else(|_| serde_json::Value::String(searcher.settings()));
        let header = Header {
            format: FORMAT,
            space_name: searcher.space().name().to_owned(),
            space: searcher.space().hash(),
            searcher: searcher_settings,
            objectives: names(objectives),
            constraints: names(constraints),
        };
        let mut study = Self {
            worker: Worker::new(folder, log.highest_worker()?)?,
            folder: folder.to_owned(),
            log,
            searcher,
            header,
            has_header: false,
            trials: BTreeMap::new(),
            rows: BTreeMap::new(),
            is_dry: false,
        };
        study.catch_up()?;
        if !study.has_header {
            study.has_header = true;
            study.log.append(&[Event::Header(study.header.clone())])?;
        }
        study.log.unlock()?;
        Ok(study)
    }

    /// The trials that are known here, by number.
    pub fn rows(&self) -> impl Iterator<Item = &StudyRow> {
        self.rows.values()
    }

    /// The trial with the highest main score that violates nothing, among those of the largest
    /// budget; the first of equals.
    pub fn best(&self) -> Option<&StudyRow> {
        best_row(self.rows.values())
    }

    /// The trials whose members are at work or may be tried again at a larger budget.
    pub fn in_play(&self) -> impl Iterator<Item = &StudyRow> {
        let is_in_play = |row: &&StudyRow| {
            row.outcome.is_none()
                || self
                    .trials
                    .get(&row.number)
                    .is_some_and(|trial| self.searcher.may_ask_again(&trial.candidate))
        };
        self.rows.values().filter(is_in_play)
    }

    /// Claims up to `count` trials for this process: first those of dead workers, then new ones as
    /// long as fewer than `evaluations` were asked.
    ///
    /// # Errors
    /// If the log cannot be used or the searcher fails.
    pub fn claim(&mut self, count: usize, evaluations: usize) -> Result<Claim> {
        self.log.lock()?;
        let claim = self.claim_locked(count, evaluations);
        self.log.unlock()?;
        claim
    }

    fn claim_locked(&mut self, count: usize, evaluations: usize) -> Result<Claim> {
        self.catch_up()?;
        let by = self.worker.number;
        let mut taken = Vec::new();
        let mut is_out = false;
        let mut known_dead: BTreeMap<u64, bool> = BTreeMap::new();
        for row in self.rows.values().filter(|row| row.outcome.is_none()) {
            let is_dead = match known_dead.get(&row.worker) {
                Some(is_dead) => *is_dead,
                None => {
                    let is_dead = self.worker.is_dead(row.worker)?;
                    known_dead.insert(row.worker, is_dead);
                    is_dead
                }
            };
            if is_dead && taken.len() < count {
                taken.push(row.number);
            }
            is_out = true;
        }
        if !taken.is_empty() {
            let events: Vec<Event> = taken
                .iter()
                .map(|&number| Event::Claimed { number, by })
                .collect();
            self.log.append(&events)?;
            for number in &taken {
                if let Some(row) = self.rows.get_mut(number) {
                    row.worker = by;
                }
            }
            let trials = taken.iter().filter_map(|number| self.trials.get(number));
            return Ok(Claim::Trials(trials.cloned().collect()));
        }
        let left = evaluations.saturating_sub(self.rows.len());
        let count = count.min(left);
        if count > 0 && !self.is_dry {
            let trials = self.searcher.ask(count)?;
            let logged = trials.iter().map(|trial| self.logged(trial)).collect();
            self.log.append(&[Event::Asked {
                count,
                by,
                trials: logged,
            }])?;
            self.note_asked(&trials, by);
            if !trials.is_empty() {
                return Ok(Claim::Trials(trials));
            }
        }
        Ok(if is_out { Claim::Wait } else { Claim::Finished })
    }

    /// Records what came of a trial and how long it took. Whether it was news: a trial has one
    /// outcome, the first.
    ///
    /// # Errors
    /// If the log cannot be used, or there is no such trial.
    pub fn tell(&mut self, number: u64, outcome: Outcome, seconds: f64) -> Result<bool> {
        self.log.lock()?;
        let told = self.tell_locked(number, outcome, seconds);
        self.log.unlock()?;
        told
    }

    fn tell_locked(&mut self, number: u64, outcome: Outcome, seconds: f64) -> Result<bool> {
        self.catch_up()?;
        let Some(row) = self.rows.get(&number) else {
            return Err(self.error(format!("it has no trial {number}")));
        };
        if row.outcome.is_some() {
            return Ok(false);
        }
        let event = Event::Told {
            number,
            by: self.worker.number,
            seconds,
            outcome: self.fitting(outcome.checked()),
        };
        self.log.append(std::slice::from_ref(&event))?;
        self.apply(event)?;
        Ok(true)
    }

    /// Evaluates until the study has `evaluations` trials with outcomes, `batch` at a time,
    /// together with whoever else shares the folder. `observe` sees each outcome of this process.
    ///
    /// # Errors
    /// If the log cannot be used, the searcher fails, or the objective gives another number of
    /// outcomes than trials.
    pub fn run(
        &mut self,
        evaluate: &mut dyn Evaluate,
        evaluations: usize,
        batch: usize,
        observe: &mut dyn FnMut(&StudyRow),
    ) -> Result<()> {
        loop {
            match self.claim(batch.max(1), evaluations)? {
                Claim::Finished => return Ok(()),
                Claim::Wait => std::thread::sleep(POLL),
                Claim::Trials(trials) => {
                    let start = Instant::now();
                    let outcomes = evaluate.evaluate(&trials);
                    if outcomes.len() != trials.len() {
                        return Err(self.error(format!(
                            "the objective gave {} outcomes for {} trials",
                            outcomes.len(),
                            trials.len()
                        )));
                    }
                    let seconds = start.elapsed().as_secs_f64() / trials.len().max(1) as f64;
                    for (trial, outcome) in trials.iter().zip(outcomes) {
                        self.tell(trial.number, outcome, seconds)?;
                        observe(&self.rows[&trial.number]);
                    }
                }
            }
        }
    }

    /// Applies what was appended since the last look.
    fn catch_up(&mut self) -> Result<()> {
        for event in self.log.read()? {
            self.apply(event)?;
        }
        Ok(())
    }

    fn apply(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Header(header) => {
                self.check(&header)?;
                self.has_header = true;
            }
            Event::Asked { count, by, trials } => {
                let asked = self.searcher.ask(count)?;
                let logged: Vec<LoggedTrial> =
                    asked.iter().map(|trial| self.logged(trial)).collect();
                if logged != trials {
                    return Err(self.error(
                        "its searcher now proposes other trials than the log holds; was the study made by another version?".into(),
                    ));
                }
                self.note_asked(&asked, by);
            }
            Event::Claimed { number, by } => {
                if let Some(row) = self.rows.get_mut(&number) {
                    row.worker = by;
                }
            }
            Event::Told {
                number,
                by,
                seconds,
                outcome,
            } => {
                let Some(trial) = self.trials.get(&number) else {
                    return Err(
                        self.error(format!("its log tells of a trial {number} never asked"))
                    );
                };
                self.searcher.tell(trial, &outcome);
                self.is_dry = false;
                if let Some(row) = self.rows.get_mut(&number) {
                    row.worker = by;
                    row.seconds = seconds;
                    row.outcome = Some(outcome);
                }
            }
        }
        Ok(())
    }

    fn note_asked(&mut self, trials: &[Trial], worker: u64) {
        self.is_dry = trials.is_empty();
        for trial in trials {
            let row = StudyRow::new(self.logged(trial), worker);
            self.rows.insert(trial.number, row);
            self.trials.insert(trial.number, trial.clone());
        }
    }

    fn logged(&self, trial: &Trial) -> LoggedTrial {
        LoggedTrial {
            number: trial.number,
            subnet: self.searcher.space().trace_of(&trial.candidate).text(),
            budget: trial.budget,
            rung: trial.rung,
        }
    }

    /// An outcome with as many scores and constraints as the study has.
    fn fitting(&self, outcome: Outcome) -> Outcome {
        let Outcome::Scored {
            scores,
            constraints,
        } = &outcome
        else {
            return outcome;
        };
        let (objectives, limits) = (self.header.objectives.len(), self.header.constraints.len());
        if scores.len() == objectives && constraints.len() == limits {
            return outcome;
        }
        Outcome::Failed(format!(
            "{} scores and {} constraints were told, the study has {objectives} and {limits}",
            scores.len(),
            constraints.len()
        ))
    }

    fn check(&self, found: &Header) -> Result<()> {
        let own = &self.header;
        let difference = if found.format != own.format {
            format!("its format is {}, this is {FORMAT}", found.format)
        } else if found.space != own.space {
            format!(
                "it searches space `{}` ({}), not `{}` ({})",
                found.space_name, found.space, own.space_name, own.space
            )
        } else if found.searcher != own.searcher {
            format!(
                "its searcher is {}, not {}; begin a new study in another folder",
                found.searcher, own.searcher
            )
        } else if (&found.objectives, &found.constraints) != (&own.objectives, &own.constraints) {
            format!(
                "it records objectives {:?} and constraints {:?}, not {:?} and {:?}",
                found.objectives, found.constraints, own.objectives, own.constraints
            )
        } else {
            return Ok(());
        };
        Err(self.error(difference))
    }

    fn error(&self, message: String) -> SearchError {
        SearchError::Study {
            folder: self.folder.clone(),
            message,
        }
    }
}

/// A study's log, for those who only look at it.
#[derive(Clone, PartialEq, Debug)]
pub struct StudyLog {
    /// What it is about.
    pub header: Header,
    /// Its trials, by number.
    pub rows: Vec<StudyRow>,
}

impl StudyLog {
    /// Reads the log of a folder, which may be in use.
    ///
    /// # Errors
    /// If there is no log, or it is damaged before its last line.
    pub fn read(folder: &Path) -> Result<Self> {
        let mut header = None;
        let mut rows: BTreeMap<u64, StudyRow> = BTreeMap::new();
        for event in read_events(folder)? {
            match event {
                Event::Header(found) => header = Some(found),
                Event::Asked { by, trials, .. } => {
                    let each = trials.into_iter();
                    rows.extend(each.map(|trial| (trial.number, StudyRow::new(trial, by))));
                }
                Event::Claimed { number, by } => {
                    rows.entry(number).and_modify(|row| row.worker = by);
                }
                Event::Told {
                    number,
                    by,
                    seconds,
                    outcome,
                } => {
                    rows.entry(number).and_modify(|row| {
                        row.worker = by;
                        row.seconds = seconds;
                        row.outcome = Some(outcome);
                    });
                }
            }
        }
        let header = header.ok_or_else(|| SearchError::Study {
            folder: folder.to_owned(),
            message: "its log has no header".into(),
        })?;
        Ok(Self {
            header,
            rows: rows.into_values().collect(),
        })
    }

    /// As [`Study::best`].
    pub fn best(&self) -> Option<&StudyRow> {
        best_row(self.rows.iter())
    }
}

fn best_row<'r>(rows: impl Iterator<Item = &'r StudyRow>) -> Option<&'r StudyRow> {
    let scored = rows.filter(|row| row.score().is_some());
    scored.max_by(|one, other| one.by_merit(other))
}
