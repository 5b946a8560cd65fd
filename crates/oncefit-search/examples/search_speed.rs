//! How fast searchers are on `ofa-mobilenet-v3`, with an objective that costs next to nothing.
//!
//! Reaches random members of fifty layers with all shapes in about 10 µs, 50,000 evaluations of
//! evolution (population 100, 500 generations) in under 0.3 s and a surrogate step over 512 candidates
//! in under 2 ms, on one core of a 2020s laptop; takes seconds.
//!
//! ```text
//! cargo run --release -p oncefit-search --example search_speed
//! ```

use std::time::Instant;

use oncefit_random::Draws;
use oncefit_search::statistics::quantile;
use oncefit_search::{
    Evolution, EvolutionSettings, Formula, Mcts, MctsSettings, Nsga2, Nsga2Settings, Outcome,
    RandomKind, RandomSearch, Region, RegularisedEvolution, RegularisedSettings, Searcher, Smbo,
    SmboSettings, best, run,
};
use oncefit_space::{Candidate, Op, Space};

/// Rewards what is large with falling returns, and the middle of the resolutions.
fn score(candidate: &Candidate) -> f64 {
    let terms = candidate.active().map(|(slot, index)| match slot {
        0 => -0.01 * (index as f64 - 12.0).abs(),
        slot => (1.0 + index as f64).ln() / (10.0 + slot as f64),
    });
    terms.sum()
}

/// Draws members with the shapes of all their layers, of families with fifty layers or so.
fn samples() -> Result<(), Box<dyn std::error::Error>> {
    for family in ["resnet50", "ofa-mobilenet-v3"] {
        let space = Space::builtin(family)?;
        let (mut times, mut layers) = (Vec::new(), Vec::new());
        for index in 0..5000 {
            let mut draws = Draws::new(1, "speed", 0, index);
            let start = Instant::now();
            let subnet = space.sample(&mut draws)?;
            times.push(start.elapsed().as_secs_f64() * 1e6);
            let nodes = subnet.graph().nodes.iter();
            let has_weights = |op: &Op| {
                matches!(
                    op,
                    Op::Convolution { .. } | Op::Depthwise { .. } | Op::Linear { .. }
                )
            };
            layers.push(nodes.filter(|node| has_weights(&node.op)).count() as f64);
        }
        let of = |values: &[f64], share| quantile(values, share).unwrap_or(0.0);
        println!(
            "sampling and shape inference, {family}, {:.0} to {:.0} layers with weights: median {:.1} µs, fastest {:.1} µs",
            of(&layers, 0.0),
            of(&layers, 1.0),
            of(&times, 0.5),
            of(&times, 0.0)
        );
    }
    Ok(())
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    samples()?;
    let space = Space::builtin("ofa-mobilenet-v3")?;
    let region = Region::whole(&space)?;
    let mut objective = Formula::new(|candidate: &Candidate| Outcome::of(score(candidate)));
    println!(
        "{:<26} {:>11} {:>12} {:>12} {:>8}",
        "searcher", "evaluations", "median ms", "µs each", "best"
    );
    let mut measure = |name: &str,
                       evaluations: usize,
                       batch: usize,
                       make: &dyn Fn() -> Box<dyn Searcher>|
     -> Result<(), Box<dyn std::error::Error>> {
        let mut times = Vec::new();
        let mut score = 0.0;
        for _ in 0..5 {
            let start = Instant::now();
            let history = run(&mut *make(), &mut objective, evaluations, batch)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
            score = best(&history).map_or(0.0, |(_, score)| score);
        }
        let median = quantile(&times, 0.5).unwrap_or(0.0);
        let each = 1e3 * median / evaluations as f64;
        println!("{name:<26} {evaluations:>11} {median:>12.1} {each:>12.2} {score:>8.4}");
        Ok(())
    };
    let evolution = EvolutionSettings::default();
    measure("evolution", 50_000, 100, &|| {
        Box::new(Evolution::within(region.clone(), evolution, 1))
    })?;
    measure("random", 50_000, 100, &|| {
        Box::new(RandomSearch::within(region.clone(), RandomKind::Paths, 1))
    })?;
    measure("random leaf", 500, 100, &|| {
        Box::new(RandomSearch::within(region.clone(), RandomKind::Leaves, 1))
    })?;
    let regularised = RegularisedSettings {
        population: 100,
        tournament: 25,
        ..Default::default()
    };
    measure("regularised evolution", 50_000, 1, &|| {
        Box::new(RegularisedEvolution::within(region.clone(), regularised, 1))
    })?;
    measure("nsga-ii", 10_000, 100, &|| {
        Box::new(Nsga2::within(region.clone(), Nsga2Settings::default(), 1))
    })?;
    measure("tree search", 10_000, 1, &|| {
        Box::new(Mcts::within(region.clone(), MctsSettings::default(), 1))
    })?;
    measure("surrogate search", 200, 1, &|| {
        Box::new(Smbo::within(region.clone(), SmboSettings::default(), 1))
    })?;

    // One surrogate step: refit and 512 predictions after 64 evaluations.
    let settings = SmboSettings {
        random_share: 0.0,
        ..SmboSettings::default()
    };
    let mut times = Vec::new();
    for seed in 0..50 {
        let mut searcher = Smbo::within(region.clone(), settings, seed);
        run(&mut searcher, &mut objective, 64, 1)?;
        let start = Instant::now();
        let trials = searcher.ask(1)?;
        searcher.tell(&trials[0], &Outcome::of(score(&trials[0].candidate)));
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    println!(
        "surrogate step of 512 candidates after 64 evaluations: median {:.3} ms, fastest {:.3} ms",
        quantile(&times, 0.5).unwrap_or(0.0),
        quantile(&times, 0.0).unwrap_or(0.0)
    );
    Ok(())
}
