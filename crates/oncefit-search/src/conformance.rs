//! What every searcher must do, as tests that an implementation runs with one line.
//!
//! ```
//! use oncefit_search::{RandomKind, RandomSearch, Region, conformance};
//! conformance::check(|seed, space| {
//!     let region = Region::whole(space).unwrap();
//!     Box::new(RandomSearch::within(region, RandomKind::Paths, seed))
//! });
//! ```

use std::collections::HashSet;

use oncefit_space::{Candidate, Space};

use crate::landscape::Landscape;
use crate::outcome::{Outcome, Trial};
use crate::random::{RandomKind, RandomSearch};
use crate::region::Region;
use crate::search::{Evaluate, Formula, Objective, OnSubnets, run};
use crate::searcher::Searcher;
use crate::statistics::{SignTest, sign_test};

/// Asks beyond which a search of a small space has failed to end.
const MANY: usize = 20_000;

/// Conditional decisions, a choice, an option: 2 · (4 + 16) · 2 = 80 members.
const SMALL: &str = "
space small
decide resolution in (4, 8)
input(resolution, resolution, 2)
body: repeat depth in (1, 2) {
  choice kind {
    plain: { conv(4) }
    wide: { decide width in (4, 8); conv(width) }
    nothing: { }
  }
}
optional tail { relu }
global_average_pool
linear(2)
";

/// No decision.
const ONE: &str = "space one\ninput(4, 4, 2)\nglobal_average_pool\nlinear(2)\n";

/// Two branches whose widths must agree: the shapes of 12 of 18 members do not meet.
const HOLES: &str = "
space holes
decide left in (4, 6, 8)
decide right in (4, 6, 8)
decide kernel in (1, 3)
input(4, 4, 2)
sum { conv(left, kernel = 1) } { depthwise(kernel); conv(right, kernel = 1) }
global_average_pool
linear(2)
";

/// Checks a searcher: `build` makes one for a seed and a space.
///
/// Determinism for a seed; restoring by replay; several asks before tells, told in any order;
/// failures, and scores that are no numbers; holes; no candidate twice at one budget, nor after it
/// was said that it is not asked for again; spaces with
/// one member; ending when all is proposed; flat landscapes; settings.
///
/// # Panics
/// With what is wrong, if the searcher does not conform.
pub fn check(build: impl Fn(u64, &Space) -> Box<dyn Searcher>) {
    let small = parse(SMALL);
    let one = parse(ONE);
    let holes = parse(HOLES);
    let large = parse_builtin();

    settings_are_json_and_tell_searchers_apart(&build, &small);
    for space in [&small, &large] {
        equal_seeds_propose_the_same(&build, space);
        replaying_restores(&build, space);
        asks_may_come_before_tells(&build, space);
    }
    for space in [&small, &one, &holes] {
        searches_end(&build, space, "a formula", &|candidate| {
            Outcome::of(formula(candidate))
        });
        searches_end(&build, space, "a flat landscape", &|_| Outcome::of(0.5));
        searches_end(&build, space, "failures", &|_| {
            Outcome::Failed("no luck".into())
        });
        searches_end(
            &build,
            space,
            "failures of every other",
            &|candidate| match candidate.active().map(|(_, index)| index).sum::<usize>() % 2 {
                0 => Outcome::Failed("no luck".into()),
                _ => Outcome::of(formula(candidate)),
            },
        );
        searches_end(&build, space, "scores that are no numbers", &|_| {
            Outcome::Scored {
                scores: vec![f64::NAN],
                constraints: Vec::new(),
            }
        });
        searches_end(&build, space, "violated constraints", &|_| {
            Outcome::with_constraints(vec![1.0], vec![1.0])
        });
    }
    holes_are_survived(&build, &holes);
}

/// Checks that a searcher proposes every member of small spaces before it ends: for searchers
/// without budgets.
///
/// # Panics
/// If it does not.
pub fn check_exhausts(build: impl Fn(u64, &Space) -> Box<dyn Searcher>) {
    for text in [SMALL, ONE] {
        let space = parse(text);
        let mut objective = Formula::new(|candidate: &Candidate| Outcome::of(formula(candidate)));
        let found = run_all(&mut *build(1, &space), &mut objective, 3);
        let members: HashSet<&Candidate> =
            found.iter().map(|(trial, _)| &trial.candidate).collect();
        let count = space.count().map(|count| count.to_string());
        assert_eq!(
            Some(members.len().to_string()),
            count.ok(),
            "a searcher ended before it proposed every member of `{}`",
            space.name()
        );
    }
}

/// Plays a searcher against random search on landscapes over ordered widths ([`Landscape`], four
/// stages of sixteen widths), `seeds` times with `evaluations` noisy scores each, paired by seed. A
/// win is a lower true regret of the member that looked best.
///
/// # Panics
/// If the searcher fails.
pub fn against_random(
    build: impl Fn(u64, &Space) -> Box<dyn Searcher>,
    seeds: u64,
    evaluations: usize,
) -> SignTest {
    let random = |seed: u64, space: &Space| -> Box<dyn Searcher> {
        Box::new(RandomSearch::within(whole(space), RandomKind::Paths, seed))
    };
    let landscapes: Vec<Landscape> = (0..seeds.clamp(1, 10))
        .map(|seed| Landscape::new(4, 16, seed).unwrap_or_else(|error| panic!("{error}")))
        .collect();
    let (mut own, mut control) = (Vec::new(), Vec::new());
    for seed in 0..seeds {
        let landscape = &landscapes[seed as usize % landscapes.len()];
        own.push(-regret(
            &mut *build(seed, landscape.space()),
            landscape,
            seed,
            evaluations,
        ));
        let mut random = random(seed, landscape.space());
        control.push(-regret(&mut *random, landscape, seed, evaluations));
    }
    sign_test(&own, &control)
}

/// The regret of the member that looked best after some evaluations of a noisy landscape.
///
/// # Panics
/// If the searcher fails.
pub fn regret(
    searcher: &mut dyn Searcher,
    landscape: &Landscape,
    seed: u64,
    evaluations: usize,
) -> f64 {
    let mut objective =
        Formula::new(|candidate: &Candidate| Outcome::of(landscape.measure(candidate, seed)));
    let found = run(searcher, &mut objective, evaluations, 1);
    let found = found.unwrap_or_else(|error| panic!("{error}"));
    crate::search::best(&found).map_or(f64::INFINITY, |(trial, _)| {
        landscape.regret(&trial.candidate)
    })
}

fn parse(text: &str) -> Space {
    Space::parse(text, "conformance").unwrap_or_else(|error| panic!("{error}"))
}

fn parse_builtin() -> Space {
    Space::builtin("fm-nano").unwrap_or_else(|error| panic!("{error}"))
}

fn whole(space: &Space) -> Region {
    Region::whole(space).unwrap_or_else(|error| panic!("{error}"))
}

/// A score that every decision contributes to.
fn formula(candidate: &Candidate) -> f64 {
    let terms = candidate
        .active()
        .map(|(slot, index)| (index as f64 - 0.7) / (1.0 + slot as f64));
    terms.sum()
}

fn ask(searcher: &mut dyn Searcher, count: usize) -> Vec<Trial> {
    let trials = searcher
        .ask(count)
        .unwrap_or_else(|error| panic!("asking for {count} trials failed: {error}"));
    assert!(
        trials.len() <= count,
        "{} trials where {count} were asked for",
        trials.len()
    );
    trials
}

fn run_all(
    searcher: &mut dyn Searcher,
    evaluate: &mut dyn Evaluate,
    batch: usize,
) -> Vec<(Trial, Outcome)> {
    let mut found: Vec<(Trial, Outcome)> = Vec::new();
    let space = searcher.space().clone();
    let mut tried: HashSet<Candidate> = HashSet::new();
    loop {
        let is_over = |candidate: &Candidate| !searcher.may_ask_again(candidate);
        let over: HashSet<Candidate> = tried.iter().filter(|one| is_over(one)).cloned().collect();
        let trials = ask(searcher, batch);
        if trials.is_empty() {
            break;
        }
        for trial in &trials {
            assert!(
                !over.contains(&trial.candidate),
                "`{}` is asked for again after `may_ask_again` said that it is not",
                space.trace_of(&trial.candidate).text()
            );
            tried.insert(trial.candidate.clone());
        }
        for (trial, outcome) in trials.iter().zip(evaluate.evaluate(&trials)) {
            searcher.tell(trial, &outcome);
            found.push((trial.clone(), outcome));
        }
        assert!(
            found.len() < MANY,
            "a search of `{}` does not end",
            space.name()
        );
    }
    assert!(
        ask(searcher, 1).is_empty(),
        "a searcher that had ended goes on"
    );
    are_new_members(&space, found.iter().map(|(trial, _)| trial));
    found
}

/// Trials are members of the space, have different numbers and are new at their budget.
fn are_new_members<'t>(space: &Space, trials: impl Iterator<Item = &'t Trial>) {
    let mut numbers = HashSet::new();
    let mut seen = HashSet::new();
    for trial in trials {
        assert!(
            numbers.insert(trial.number),
            "two trials have number {}",
            trial.number
        );
        assert!(
            seen.insert((trial.candidate.clone(), trial.budget)),
            "`{}` is proposed twice",
            space.trace_of(&trial.candidate).text()
        );
        let again = space.candidate(|slot, _| trial.candidate.get(slot).unwrap_or(usize::MAX));
        assert_eq!(
            again.ok().as_ref(),
            Some(&trial.candidate),
            "a candidate is no member of `{}`",
            space.name()
        );
    }
}

type Build<'b> = &'b dyn Fn(u64, &Space) -> Box<dyn Searcher>;

fn settings_are_json_and_tell_searchers_apart(build: Build, space: &Space) {
    let settings = build(1, space).settings();
    assert!(
        serde_json::from_str::<serde_json::Value>(&settings).is_ok(),
        "settings are not JSON: {settings}"
    );
    assert_eq!(
        settings,
        build(1, space).settings(),
        "equal searchers have different settings"
    );
    assert_eq!(
        build(1, space).space(),
        space,
        "a searcher has another space than it was made for"
    );
}

fn equal_seeds_propose_the_same(build: Build, space: &Space) {
    let mut objective = Formula::new(|candidate: &Candidate| Outcome::of(formula(candidate)));
    for batch in [1, 5] {
        let mut histories = (0..2).map(|_| {
            run(&mut *build(7, space), &mut objective, 60, batch)
                .unwrap_or_else(|error| panic!("{error}"))
        });
        assert_eq!(
            histories.next(),
            histories.next(),
            "equal seeds propose different trials"
        );
    }
}

/// Asks of four while eight are out, told in another order than asked.
fn asks_may_come_before_tells(build: Build, space: &Space) {
    let mut searcher = build(3, space);
    let mut out: Vec<Trial> = Vec::new();
    let mut all: Vec<Trial> = Vec::new();
    for round in 0..25 {
        let trials = ask(&mut *searcher, 4);
        all.extend(trials.iter().cloned());
        out.extend(trials);
        if out.len() >= 8 || round % 3 == 2 {
            out.reverse();
            for trial in out.drain(..) {
                searcher.tell(&trial, &Outcome::of(formula(&trial.candidate)));
            }
        }
    }
    assert!(!all.is_empty(), "nothing is proposed");
    are_new_members(space, all.iter());
}

/// A log of asks and tells, given to a new searcher, makes it go on as the first one.
fn replaying_restores(build: Build, space: &Space) {
    let outcome = |trial: &Trial| match trial.number % 5 {
        3 => Outcome::Failed("no luck".into()),
        _ => Outcome::of(formula(&trial.candidate)),
    };
    let mut first = build(5, space);
    let mut log: Vec<(usize, Vec<Trial>)> = Vec::new();
    for round in 0..10 {
        let count = 1 + round % 3;
        let trials = ask(&mut *first, count);
        for trial in trials.iter().rev() {
            first.tell(trial, &outcome(trial));
        }
        log.push((count, trials));
    }
    let mut second = build(5, space);
    for (count, trials) in &log {
        assert_eq!(
            &ask(&mut *second, *count),
            trials,
            "a replayed searcher proposes other trials"
        );
        for trial in trials.iter().rev() {
            second.tell(trial, &outcome(trial));
        }
    }
    for _ in 0..10 {
        let trials = ask(&mut *first, 2);
        assert_eq!(
            trials,
            ask(&mut *second, 2),
            "a restored searcher goes on otherwise"
        );
        for trial in &trials {
            first.tell(trial, &outcome(trial));
            second.tell(trial, &outcome(trial));
        }
    }
}

fn searches_end(
    build: Build,
    space: &Space,
    what: &str,
    outcome: &(dyn Fn(&Candidate) -> Outcome + Sync),
) {
    for batch in [1, 4] {
        let mut objective = Formula::new(outcome);
        let found = run_all(&mut *build(2, space), &mut objective, batch);
        assert!(
            !found.is_empty(),
            "nothing is proposed on `{}` with {what}",
            space.name()
        );
    }
}

fn holes_are_survived(build: Build, space: &Space) {
    struct Constant;
    impl Objective for Constant {
        fn score(
            &mut self,
            subnets: &[oncefit_space::Subnet],
        ) -> std::result::Result<Vec<f64>, String> {
            Ok(vec![1.0; subnets.len()])
        }
    }
    let mut constant = Constant;
    let mut objective = OnSubnets::new(space, &mut constant);
    let found = run_all(&mut *build(4, space), &mut objective, 2);
    assert!(
        found
            .iter()
            .any(|(_, outcome)| matches!(outcome, Outcome::Failed(_)))
            || found.len() < 18,
        "no hole was met among {} members",
        found.len()
    );
}
