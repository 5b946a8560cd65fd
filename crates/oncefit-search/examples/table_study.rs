//! Runs every searcher on a table of trained networks, many seeds each.
//!
//! Reaches, on NAS-Bench-Macro (6,561 CIFAR-10 networks, best mean accuracy 93.13 %), 92.7 % with
//! random search and about 93.0 % with the surrogate after 64 evaluations, in under a minute.
//!
//! ```text
//! cargo run --release -p oncefit-search --example table_study -- TABLE.json [SEEDS [EVALUATIONS]]
//! ```
//!
//! The searcher gets one of the three noisy measurements of a network; the mean of the network that
//! looked best is reported. `TABLE.json` is `data/nas-bench-macro_cifar10.json` of `xiusu/NAS-Bench-Macro`.

use std::time::Instant;

use oncefit_random::Draws;
use oncefit_search::statistics::{Summary, quantile, sign_test};
use oncefit_search::{
    Features, Mcts, MctsSettings, Outcome, RandomKind, RandomSearch, Region, RegularisedEvolution,
    RegularisedSettings, Searcher, Smbo, SmboSettings, Table, TableKey, TableObjective,
};
use oncefit_space::Space;

/// Eight layers, each nothing or one of two blocks.
const SPACE: &str = include_str!("../../oncefit-space/spaces/deep-architect/nas_bench_macro.space");

fn searchers(region: &Region, seed: u64) -> Vec<(&'static str, Box<dyn Searcher>)> {
    let mcts = |settings| Box::new(Mcts::within(region.clone(), settings, seed));
    let smbo = |settings| Box::new(Smbo::within(region.clone(), settings, seed));
    let normalised = MctsSettings {
        exploration: 0.1,
        ..MctsSettings::default()
    };
    vec![
        (
            "random",
            Box::new(RandomSearch::within(
                region.clone(),
                RandomKind::Paths,
                seed,
            )),
        ),
        ("tree search, paper", mcts(MctsSettings::paper())),
        ("tree search, normalised c=.1", mcts(normalised)),
        ("tree search, default c=.3", mcts(MctsSettings::default())),
        (
            "surrogate, 2017",
            smbo(SmboSettings {
                features: Features::NGrams {
                    longest: 4,
                    of_decisions: true,
                },
                ..SmboSettings::paper_2017()
            }),
        ),
        ("surrogate, default", smbo(SmboSettings::default())),
        (
            "regularised evolution",
            Box::new(RegularisedEvolution::within(
                region.clone(),
                RegularisedSettings::default(),
                seed,
            )),
        ),
    ]
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments
        .next()
        .ok_or("usage: table_study TABLE.json [SEEDS [EVALUATIONS]]")?;
    let seeds: u64 = arguments.next().map_or(Ok(100), |text| text.parse())?;
    let evaluations: usize = arguments.next().map_or(Ok(64), |text| text.parse())?;
    let space = Space::parse(SPACE, "nas-bench-macro")?;
    let columns = ["mean_acc", "test_acc[0]", "test_acc[1]", "test_acc[2]"];
    let table = Table::from_json(&std::fs::read_to_string(&path)?, &path, &columns)?;
    println!("{} networks, {seeds} seeds", table.len());
    let table = TableObjective::new(&space, table, TableKey::Digits);
    let region = Region::whole(&space)?;
    let start = Instant::now();
    let mut reached: Vec<(&str, Vec<f64>, Vec<f64>, f64)> = Vec::new();
    for seed in 0..seeds {
        for (index, (name, mut searcher)) in searchers(&region, seed).into_iter().enumerate() {
            let begin = Instant::now();
            let mut noise = Draws::new(seed, "measurement", 0, 0);
            let (mut seen, mut best, mut early) = (f64::NEG_INFINITY, 0.0, 0.0);
            for evaluation in 0..evaluations {
                let Some(trial) = searcher.ask(1)?.pop() else {
                    break;
                };
                let row = table
                    .get(&trial.candidate)
                    .ok_or("the table lacks a network")?;
                let score = row[1 + noise.below(3)];
                searcher.tell(&trial, &Outcome::of(score));
                if score > seen {
                    (seen, best) = (score, row[0]);
                }
                if evaluation == 15 {
                    early = best;
                }
            }
            let seconds = begin.elapsed().as_secs_f64();
            if reached.len() == index {
                reached.push((name, Vec::new(), Vec::new(), 0.0));
            }
            reached[index].1.push(best);
            reached[index].2.push(early);
            reached[index].3 += seconds;
        }
    }
    println!(
        "{:<30} {:>7} {:>7} {:>6} {:>7}  {:<28} {:>8}",
        "searcher", "@16", "@last", "±", "median", "against random", "µs each"
    );
    for (name, best, early, seconds) in &reached {
        let (Some(summary), Some(at_16)) = (Summary::of(best), Summary::of(early)) else {
            continue;
        };
        let test = sign_test(best, &reached[0].1);
        println!(
            "{name:<30} {:>7.3} {:>7.3} {:>6.3} {:>7.3}  {:<28} {:>8.2}",
            at_16.mean,
            summary.mean,
            summary.deviation,
            quantile(best, 0.5).unwrap_or(f64::NAN),
            format!(
                "{}/{}/{} p={:.2e}",
                test.wins, test.losses, test.ties, test.p_value
            ),
            1e6 * seconds / (seeds * evaluations as u64) as f64
        );
    }
    println!("{:.1} s in all", start.elapsed().as_secs_f64());
    Ok(())
}
