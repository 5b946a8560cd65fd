//! Studies: kills, sharing, and what is refused.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use oncefit_search::{
    Claim, Evaluate, Formula, HalvingSettings, HyperbandSettings, Mcts, MctsSettings, Outcome,
    RandomKind, RandomSearch, Region, RegularisedEvolution, RegularisedSettings, Screening,
    Searcher, Smbo, SmboSettings, Study, StudyLog, StudyRow, Trial,
};
use oncefit_space::{Candidate, Space};

fn score(candidate: &Candidate) -> f64 {
    let terms = candidate
        .active()
        .map(|(slot, index)| index as f64 / (1.0 + slot as f64));
    terms.sum()
}

fn space() -> Space {
    Space::builtin("fm-nano").unwrap()
}

fn searcher(seed: u64) -> Box<dyn Searcher> {
    let region = Region::whole(&space()).unwrap();
    let settings = RegularisedSettings::default();
    Box::new(RegularisedEvolution::within(region, settings, seed))
}

fn open(folder: &Path, searcher: Box<dyn Searcher>) -> Study {
    Study::open(folder, searcher, &["score"], &[]).unwrap()
}

fn run(study: &mut Study, evaluations: usize, batch: usize) {
    let mut objective = Formula::new(|candidate: &Candidate| Outcome::of(score(candidate)));
    study
        .run(&mut objective, evaluations, batch, &mut |_| {})
        .unwrap();
}

/// What must not depend on kills: the trials and their outcomes.
fn results(folder: &Path) -> Vec<(u64, String, Option<u64>, Option<Outcome>)> {
    let rows = StudyLog::read(folder).unwrap().rows.into_iter();
    rows.map(|row: StudyRow| (row.number, row.subnet, row.budget, row.outcome))
        .collect()
}

#[test]
fn every_searcher_continues_bit_for_bit_from_any_byte_of_its_log() {
    type Make = fn() -> Box<dyn Searcher>;
    let makes: [Make; 5] = [
        || searcher(3),
        || {
            let region = Region::whole(&space()).unwrap();
            Box::new(Mcts::within(region, MctsSettings::default(), 3))
        },
        || {
            let region = Region::whole(&space()).unwrap();
            Box::new(Smbo::within(region, SmboSettings::default(), 3))
        },
        || {
            let region = Region::whole(&space()).unwrap();
            Box::new(RandomSearch::within(region, RandomKind::Leaves, 3))
        },
        || {
            let region = Region::whole(&space()).unwrap();
            Box::new(Screening::hyperband(region, HyperbandSettings::default(), 3).unwrap())
        },
    ];
    for make in makes {
        let whole = tempfile::tempdir().unwrap();
        run(&mut open(whole.path(), make()), 64, 3);
        let expected = results(whole.path());
        assert_eq!(expected.len(), 64);
        let log = std::fs::read(whole.path().join("study.jsonl")).unwrap();
        for share in [0, 7, 31, 47, 70, 99] {
            let cut = tempfile::tempdir().unwrap();
            let kept = &log[..log.len() * share / 100];
            std::fs::write(cut.path().join("study.jsonl"), kept).unwrap();
            run(&mut open(cut.path(), make()), 64, 3);
            assert_eq!(results(cut.path()), expected, "cut at {share} %");
        }
    }
}

#[test]
fn a_study_of_something_else_is_refused_with_what_differs() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut open(folder.path(), searcher(1)), 5, 1);
    let other_space = Space::builtin("ofa-mobilenet-v3").unwrap();
    let region = Region::whole(&other_space).unwrap();
    let other = Box::new(RandomSearch::within(region, RandomKind::Paths, 1));
    let attempts: [(Box<dyn Searcher>, &[&str], &str); 3] = [
        (searcher(2), &["score"], "its searcher is"),
        (other, &["score"], "it searches space `fm-nano`"),
        (searcher(1), &["accuracy"], "it records objectives"),
    ];
    for (searcher, objectives, part) in attempts {
        let error = Study::open(folder.path(), searcher, objectives, &[]).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
    }
    run(&mut open(folder.path(), searcher(1)), 8, 1);
    assert_eq!(results(folder.path()).len(), 8);
}

#[test]
fn a_damaged_line_is_an_error_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    run(&mut open(folder.path(), searcher(1)), 5, 1);
    let path = folder.path().join("study.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replacen("{\"told\"", "{\"tol\"", 1)).unwrap();
    let error = Study::open(folder.path(), searcher(1), &["score"], &[]).unwrap_err();
    assert!(error.to_string().contains("line 3"), "{error}");
}

#[test]
fn scores_that_are_no_numbers_are_recorded_as_failures() {
    let folder = tempfile::tempdir().unwrap();
    let mut study = open(folder.path(), searcher(1));
    let mut objective = Formula::new(|candidate: &Candidate| {
        if candidate.get(0) == Some(0) {
            Outcome::Scored {
                scores: vec![f64::NAN],
                constraints: Vec::new(),
            }
        } else {
            Outcome::of_all(vec![1.0; candidate.get(0).unwrap_or(1)])
        }
    });
    study.run(&mut objective, 30, 4, &mut |_| {}).unwrap();
    let reasons: Vec<String> = study
        .rows()
        .filter_map(|row| match &row.outcome {
            Some(Outcome::Failed(reason)) => Some(reason.clone()),
            _ => None,
        })
        .collect();
    assert!(reasons.iter().any(|reason| reason.contains("not a number")));
    assert!(
        reasons
            .iter()
            .any(|reason| reason.contains("2 scores and 0 constraints"))
    );
    assert!(study.best().is_some());
}

#[test]
fn several_objectives_and_constraints_are_recorded() {
    let folder = tempfile::tempdir().unwrap();
    let mut study = Study::open(
        folder.path(),
        searcher(1),
        &["accuracy", "speed"],
        &["memory"],
    )
    .unwrap();
    let mut objective = Formula::new(|candidate: &Candidate| {
        let score = score(candidate);
        Outcome::with_constraints(vec![score, -score], vec![score - 2.0])
    });
    study.run(&mut objective, 20, 4, &mut |_| {}).unwrap();
    let log = StudyLog::read(folder.path()).unwrap();
    assert_eq!(log.header.objectives, ["accuracy", "speed"]);
    let best = log.best().unwrap().outcome.as_ref().unwrap();
    assert!(best.scores()[0] <= 2.0 && best.scores().len() == 2);
}

#[test]
fn an_outcome_is_told_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut study = open(folder.path(), searcher(1));
    let Claim::Trials(trials) = study.claim(2, 10).unwrap() else {
        panic!();
    };
    assert!(study.tell(trials[0].number, Outcome::of(1.0), 0.0).unwrap());
    assert!(!study.tell(trials[0].number, Outcome::of(2.0), 0.0).unwrap());
    assert_eq!(study.best().unwrap().outcome, Some(Outcome::of(1.0)));
    assert!(study.tell(99, Outcome::of(1.0), 0.0).is_err());
}

#[test]
fn trials_of_a_worker_that_is_gone_are_claimed_by_others() {
    let folder = tempfile::tempdir().unwrap();
    let mut gone = open(folder.path(), searcher(1));
    let Claim::Trials(first) = gone.claim(3, 10).unwrap() else {
        panic!();
    };
    let mut other = open(folder.path(), searcher(1));
    let Claim::Trials(second) = other.claim(3, 6).unwrap() else {
        panic!();
    };
    assert!(second.iter().all(|trial| !first.contains(trial)));
    assert_eq!(other.claim(3, 6).unwrap(), Claim::Wait);
    drop(gone);
    assert_eq!(other.claim(3, 6).unwrap(), Claim::Trials(first));
}

/// Evaluates slowly enough to be killed in the middle.
struct Slow;

impl Evaluate for Slow {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        std::thread::sleep(Duration::from_millis(4));
        let each = trials.iter();
        each.map(|trial| Outcome::of(score(&trial.candidate)))
            .collect()
    }
}

const FOLDER: &str = "ONCEFIT_TEST_STUDY";

/// Not a test of its own: what the processes of the next tests run.
#[test]
fn worker_process() {
    if let Ok(folder) = std::env::var(FOLDER) {
        let mut study = open(Path::new(&folder), searcher(9));
        study.run(&mut Slow, 120, 2, &mut |_| {}).unwrap();
    }
}

fn spawn(folder: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["studies::worker_process", "--exact"])
        .env(FOLDER, folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_killed_process_continues_bit_for_bit() {
    let whole = tempfile::tempdir().unwrap();
    assert!(spawn(whole.path()).wait().unwrap().success());
    let killed = tempfile::tempdir().unwrap();
    let mut kills = 0;
    loop {
        let mut child = spawn(killed.path());
        std::thread::sleep(Duration::from_millis(60 + 17 * kills));
        // SIGKILL: the process has no say in it.
        if child.try_wait().unwrap().is_none() {
            child.kill().unwrap();
            kills += 1;
        }
        if child.wait().unwrap().success() {
            break;
        }
        assert!(kills < 200);
    }
    assert!(kills > 0);
    assert_eq!(results(killed.path()), results(whole.path()));
}

#[test]
fn processes_share_a_study_and_nothing_is_lost_or_doubled() {
    let folder = tempfile::tempdir().unwrap();
    let mut children: Vec<Child> = (0..3).map(|_| spawn(folder.path())).collect();
    let start = Instant::now();
    // One of them dies at work.
    while StudyLog::read(folder.path()).map_or(0, |log| log.rows.len()) < 20 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(2));
    }
    children[0].kill().unwrap();
    children[0].wait().unwrap();
    for child in &mut children[1..] {
        assert!(child.wait().unwrap().success());
    }
    let log = StudyLog::read(folder.path()).unwrap();
    assert_eq!(log.rows.len(), 120);
    assert!(log.rows.iter().all(|row| row.outcome.is_some()));
    let text = std::fs::read_to_string(folder.path().join("study.jsonl")).unwrap();
    let told = text.lines().filter(|line| line.starts_with("{\"told\""));
    assert_eq!(told.count(), 120);
    let workers: std::collections::HashSet<u64> = log.rows.iter().map(|row| row.worker).collect();
    assert!(workers.len() >= 2, "{workers:?}");
}

/// Scores that shrink with the budget, as scores on few images may.
struct Optimistic;

impl Evaluate for Optimistic {
    fn evaluate(&mut self, trials: &[Trial]) -> Vec<Outcome> {
        let each = trials.iter();
        each.map(|trial| Outcome::of(score(&trial.candidate) - trial.budget.unwrap_or(0) as f64))
            .collect()
    }
}

#[test]
fn a_screening_logs_its_rungs_and_its_best_has_the_largest_budget() {
    let folder = tempfile::tempdir().unwrap();
    let region = Region::whole(&space()).unwrap();
    let settings = HalvingSettings {
        candidates: 9,
        budget: 1,
        largest_budget: 9,
        factor: 3,
    };
    assert_eq!(settings.bracket().unwrap(), [(9, 1), (3, 3), (1, 9)]);
    let searcher = Box::new(Screening::halving(region, settings, 5).unwrap());
    let mut study = open(folder.path(), searcher);
    study.run(&mut Optimistic, 11, 2, &mut |_| {}).unwrap();
    // Nine, then two of three: those that were told may go on, but for the two that lost.
    let in_play: Vec<u64> = study.in_play().map(StudyRow::first).collect();
    let mut firsts = in_play.clone();
    firsts.sort_unstable();
    firsts.dedup();
    assert_eq!(firsts.len(), 3, "{in_play:?}");
    study.run(&mut Optimistic, 100, 2, &mut |_| {}).unwrap();
    assert_eq!(study.in_play().count(), 0);
    let log = StudyLog::read(folder.path()).unwrap();
    assert_eq!(log.rows.len(), 13);
    assert_eq!(log.best(), study.best());
    let best = log.best().unwrap();
    assert_eq!((best.budget, best.number), (Some(9), 12));
    let member = |number: u64| &log.rows[number as usize];
    for row in &log.rows {
        let rung = row.rung.unwrap();
        let expected = [1, 3, 9][rung.round];
        assert_eq!((row.budget, rung.bracket), (Some(expected), 0));
        assert_eq!(member(row.first()).subnet, row.subnet);
        assert_eq!(member(row.first()).rung.unwrap().round, 0);
    }
    let small = log.rows.iter().filter(|row| row.budget == Some(1));
    assert!(
        small
            .map(|row| row.score())
            .max_by(|one, other| one.partial_cmp(other).unwrap())
            > Some(best.score())
    );
}
