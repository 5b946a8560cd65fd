//! Reproduction of papers' claims at small scale: one rule for all.
//!
//! Settings are fixed before the fresh seeds are run, where they are chosen on other seeds and on
//! images held out from training. A claim is a difference, paired by seed, with its
//! 95 % interval: above the threshold it is reproduced, below it is not, across it the seeds do not
//! decide. What holds exactly or not at all is a fact. Each claim's numbers are kept in a file as soon as
//! they exist, and a later call goes on from there.

mod arms;
mod deep_architect;
mod deps;
mod devices;
mod elastic_continual;
mod lingocl;
mod once_for_all;
mod onpro;
mod page;
mod picture;
mod refresh;
mod supernets;

use std::cell::Cell;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oncefit_continual::paired_difference;
use oncefit_train::write_atomically;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::provenance::Origin;

pub use page::{HEADING, Page};

/// A claim of a paper and how it is tried here.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// `deep-architect.P1`
    pub id: &'static str,
    /// What is claimed.
    pub claim: &'static str,
    /// How it is tried.
    pub setting: &'static str,
}

/// What came of a claim.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The interval is above the threshold.
    Reproduced,
    /// The interval is below the threshold.
    NotReproduced,
    /// The interval holds the threshold.
    Inconclusive,
    /// It holds exactly.
    Fact,
    /// It does not hold, and should exactly.
    Violated,
    /// Nothing is claimed.
    Told,
}

impl Verdict {
    /// The verdict on a difference that should be above 0.
    pub fn of(mean: f64, half_width: f64) -> Self {
        match (mean - half_width > 0.0, mean + half_width < 0.0) {
            (true, _) => Self::Reproduced,
            (_, true) => Self::NotReproduced,
            _ => Self::Inconclusive,
        }
    }

    /// As tables show it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reproduced => "reproduced",
            Self::NotReproduced => "not reproduced",
            Self::Inconclusive => "inconclusive",
            Self::Fact => "fact",
            Self::Violated => "violated",
            Self::Told => "told",
        }
    }
}

/// One comparison: values by seed, in the order of `seeds`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Comparison {
    /// What is compared: `surrogate − random, accuracy after 64`.
    pub what: String,
    /// Values of the one.
    pub one: Vec<f64>,
    /// Values of the other.
    pub other: Vec<f64>,
    /// Mean of one − other.
    pub mean: f64,
    /// Half width of its 95 % interval.
    pub half_width: f64,
}

impl Comparison {
    /// Pairs values by seed.
    ///
    /// # Errors
    /// If there are not as many of both.
    pub fn new(what: &str, one: Vec<f64>, other: Vec<f64>) -> Result<(Self, Verdict)> {
        let difference = paired_difference(&one, &other)?;
        let verdict = Verdict::of(difference.mean, difference.half_width);
        let comparison = Self {
            what: what.into(),
            one,
            other,
            mean: difference.mean,
            half_width: difference.half_width,
        };
        Ok((comparison, verdict))
    }
}

/// What was found, as it is kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Finding {
    /// The claim's name.
    pub id: String,
    /// What came of it.
    pub verdict: Verdict,
    /// First seed and how many.
    pub seeds: (u64, usize),
    /// The comparisons that it rests on.
    pub comparisons: Vec<Comparison>,
    /// What else was measured, in words.
    pub notes: Vec<String>,
    /// How long it took, without runs that were kept from before.
    pub seconds: f64,
    /// What all runs cost that it rests on, kept ones included.
    #[serde(default)]
    pub runs: Cost,
    /// The command.
    pub command: String,
    /// Version, machine and time.
    #[serde(default)]
    pub origin: Origin,
}

/// What runs cost.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Multiply-accumulates of their trainings.
    pub train_macs: u64,
    /// How long they took; 0 where it is not known.
    pub seconds: f64,
}

/// What a reproduction is given.
pub struct Request<'a> {
    /// The first fresh seed.
    pub first_seed: u64,
    /// How many.
    pub seeds: usize,
    /// Whether settings are smaller than the claims ask for.
    pub is_quick: bool,
    /// Where findings are kept.
    pub folder: &'a Path,
    /// Folder of NAS tables, where there is one.
    pub nas: Option<PathBuf>,
    /// A request to stop.
    pub stop: &'a AtomicBool,
    /// What the runs of the present claim cost.
    pub cost: Cell<Cost>,
}

impl Request<'_> {
    /// The seeds.
    pub fn seeds(&self) -> impl Iterator<Item = u64> {
        self.first_seed..self.first_seed + self.seeds as u64
    }

    /// Counts a run that the present claim rests on.
    fn count(&self, train_macs: u64, seconds: f64) {
        let before = self.cost.get();
        self.cost.set(Cost {
            train_macs: before.train_macs + train_macs,
            seconds: before.seconds + seconds,
        });
    }

    /// Ends at once if that was asked for.
    ///
    /// # Errors
    /// If so.
    pub fn check(&self) -> Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(Error::Stopped(
                "stopped; what was finished is kept, the same command goes on from there".into(),
            )),
            false => Ok(()),
        }
    }
}

/// A paper's claims and who tries them.
pub struct Paper {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its name as a heading.
    pub title: &'static str,
    /// What a reader of its table should know.
    pub about: &'static str,
    /// Its claims.
    pub claims: &'static [Claim],
    /// The first of its fresh seeds; those below are for calibration.
    pub first_seed: u64,
    /// Claims whose fresh seeds begin elsewhere: their setting was changed after the others had been run.
    pub first_seeds_of: &'static [(&'static str, u64)],
    /// Fresh seeds, in full and in quick form.
    pub seeds: (usize, usize),
    /// Tries a claim.
    pub run: fn(&str, &Request) -> Result<Tried>,
}

impl Paper {
    /// The first fresh seed of a claim.
    pub fn first_seed(&self, id: &str) -> u64 {
        let of_its_own = self.first_seeds_of.iter().find(|(claim, _)| *claim == id);
        of_its_own.map_or(self.first_seed, |(_, seed)| *seed)
    }
}

/// What trying a claim gives.
pub struct Tried {
    /// What came of it.
    pub verdict: Verdict,
    /// What it rests on.
    pub comparisons: Vec<Comparison>,
    /// What else was measured.
    pub notes: Vec<String>,
}

impl Tried {
    /// A claim that holds if each of some differences is above zero: what is compared, the one and the
    /// other by seed.
    ///
    /// # Errors
    /// If there are not as many of both.
    fn compared(
        pairs: Vec<(impl Into<String>, Vec<f64>, Vec<f64>)>,
        notes: Vec<String>,
    ) -> Result<Self> {
        let compared = pairs
            .into_iter()
            .map(|(what, one, other)| Comparison::new(&what.into(), one, other));
        let (comparisons, verdicts): (Vec<_>, Vec<_>) =
            compared.collect::<Result<Vec<_>>>()?.into_iter().unzip();
        Ok(Self {
            verdict: all_of(&verdicts),
            comparisons,
            notes,
        })
    }
}

/// All papers.
pub const PAPERS: [Paper; 7] = [
    once_for_all::PAPER,
    deps::PAPER,
    deep_architect::PAPER,
    onpro::PAPER,
    refresh::PAPER,
    lingocl::PAPER,
    elastic_continual::PAPER,
];

/// A claim of several parts.
fn all_of(verdicts: &[Verdict]) -> Verdict {
    let is_reproduced = |verdict: &Verdict| *verdict == Verdict::Reproduced;
    if !verdicts.is_empty() && verdicts.iter().all(is_reproduced) {
        Verdict::Reproduced
    } else if verdicts.contains(&Verdict::NotReproduced) {
        Verdict::NotReproduced
    } else {
        Verdict::Inconclusive
    }
}

/// A part of a claim that is arithmetic, or that each single run must have.
fn holds(is_so: bool) -> Verdict {
    match is_so {
        true => Verdict::Reproduced,
        false => Verdict::NotReproduced,
    }
}

fn fact(holds: bool) -> Verdict {
    match holds {
        true => Verdict::Fact,
        false => Verdict::Violated,
    }
}

/// The file of a claim.
pub fn file(folder: &Path, id: &str) -> PathBuf {
    folder.join(format!("{id}.json"))
}

/// What is kept of a claim, if it was tried.
///
/// # Errors
/// If the file is damaged.
pub fn known(folder: &Path, id: &str) -> Result<Option<Finding>> {
    kept(&file(folder, id))
}

/// What a file of an earlier call holds, if there is one.
fn kept<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let text = match std::fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        found => found.map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?,
    };
    serde_json::from_str(&text).map(Some).map_err(|error| {
        Error::Request(format!(
            "{} is damaged ({error}); remove it to measure again what it held",
            path.display()
        ))
    })
}

/// Makes a folder, unless it is there.
pub fn make_folder(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|source| Error::File {
        action: "create",
        path: path.to_owned(),
        source,
    })
}

/// Tries a claim and keeps what came of it.
///
/// # Errors
/// If it cannot be tried.
pub fn try_claim(
    paper: &Paper,
    claim: &Claim,
    request: &Request,
    command: &str,
) -> Result<Finding> {
    let started = Instant::now();
    request.cost.set(Cost::default());
    let tried = (paper.run)(claim.id, request)?;
    let finding = Finding {
        id: claim.id.into(),
        verdict: tried.verdict,
        seeds: (request.first_seed, request.seeds),
        comparisons: tried.comparisons,
        notes: tried.notes,
        seconds: started.elapsed().as_secs_f64(),
        runs: request.cost.get(),
        command: command.into(),
        origin: Origin::now(),
    };
    let folder = request.folder;
    make_folder(folder)?;
    let text = serde_json::to_string(&finding).expect("numbers and words");
    write_atomically(&file(folder, claim.id), text.as_bytes())?;
    Ok(finding)
}
