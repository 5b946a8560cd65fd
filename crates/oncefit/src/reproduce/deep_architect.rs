//! DeepArchitect (Negrinho and Gordon, 2017; Negrinho et al., 2019): searchers on a table of trained
//! networks and on formulas.

use std::collections::HashMap;
use std::time::Instant;

use num_bigint::BigUint;
use oncefit_random::Draws;
use oncefit_search::statistics::sign_test;
use oncefit_search::{
    Features, Landscape, Mcts, MctsSettings, Outcome, RandomKind, RandomSearch, Region,
    RegularisedEvolution, RegularisedSettings, Searcher, Smbo, SmboSettings, Table, TableKey,
    TableObjective,
};
use oncefit_space::{Candidate, Space};
use oncefit_train::{Recipe, Split, write_atomically};
use serde::{Deserialize, Serialize};

use super::supernets::trained;
use super::{Claim, Comparison, Paper, Request, Tried, all_of, fact, kept, make_folder};
use crate::error::{Error, Result};
use crate::progress::Progress;

pub const PAPER: Paper = Paper {
    name: "deep-architect",
    title: "DeepArchitect",
    about: "Settings were fixed before anything was run; nothing was chosen by results. Seeds are those of searches: P4's interval is over searches on one trained supernet.",
    claims: &CLAIMS,
    first_seed: 1000,
    first_seeds_of: &[],
    seeds: (100, 20),
    run,
};

const CLAIMS: [Claim; 8] = [
    Claim {
        id: "deep-architect.P1",
        claim: "search with a surrogate beats random search",
        setting: "NAS-Bench-Macro, 64 evaluations, accuracy of the incumbent; default surrogate",
    },
    Claim {
        id: "deep-architect.P2",
        claim: "tree search beats random search",
        setting: "NAS-Bench-Macro, 64 evaluations; normalised, c = 0.1",
    },
    Claim {
        id: "deep-architect.P3",
        claim: "restructuring the tree by bisection helps tree search",
        setting: "formula landscapes 4×16 and 6×8, regret after 64, against tree search without bisection and random; exploration constants 0.3 with bisection and 0.1 without",
    },
    Claim {
        id: "deep-architect.P4",
        claim: "random < tree search with bisection < surrogate, by the area under the curve",
        setting: "a supernet of 4 stages × 8 widths, all 4,096 subnets measured; accuracy less a price on MACs, seen on validation, counted on test images",
    },
    Claim {
        id: "deep-architect.P5",
        claim: "the paper's own settings (raw scores, c = 0.5; n-grams, λ = 1000) beat random search",
        setting: "NAS-Bench-Macro, 64 evaluations",
    },
    Claim {
        id: "deep-architect.P6",
        claim: "a search that is resumed proposes what it would have proposed",
        setting: "all searchers, replayed to evaluation 30, evaluations 31 to 64 compared",
    },
    Claim {
        id: "deep-architect.P7",
        claim: "counting, enumeration, rank and unrank agree; the sizes of the paper's spaces",
        setting: "6,561 members of NAS-Bench-Macro one by one; deepconv_ss0 60,466,176; resnet_ss0 log10 68.188",
    },
    Claim {
        id: "deep-architect.P8",
        claim: "a study of 7 searchers takes seconds",
        setting: "NAS-Bench-Macro, all seeds, 64 evaluations each",
    },
];

const EVALUATIONS: usize = 64;

fn run(id: &str, request: &Request) -> Result<Tried> {
    match id {
        "deep-architect.P1" => on_table(request, &["surrogate"]),
        "deep-architect.P2" => on_table(request, &["tree search"]),
        "deep-architect.P3" => bisection(request),
        "deep-architect.P4" => on_own_table(request),
        "deep-architect.P5" => on_table(request, &["tree search, paper", "surrogate, paper"]),
        "deep-architect.P6" => replay(request),
        "deep-architect.P7" => counts(),
        _ => speed(request),
    }
}

/// The seven searchers.
fn searcher(name: &str, region: &Region, seed: u64) -> Box<dyn Searcher> {
    let mcts = |settings| Box::new(Mcts::within(region.clone(), settings, seed));
    let smbo = |settings| Box::new(Smbo::within(region.clone(), settings, seed));
    match name {
        "tree search, paper" => mcts(MctsSettings::paper()),
        "tree search" => mcts(MctsSettings {
            exploration: 0.1,
            bisect: false,
            ..MctsSettings::default()
        }),
        "tree search, bisection" => mcts(MctsSettings::default()),
        "surrogate, paper" => smbo(SmboSettings {
            features: Features::NGrams {
                longest: 4,
                of_decisions: true,
            },
            ..SmboSettings::paper_2017()
        }),
        "surrogate" => smbo(SmboSettings::default()),
        "regularised evolution" => Box::new(RegularisedEvolution::within(
            region.clone(),
            RegularisedSettings::default(),
            seed,
        )),
        _ => Box::new(RandomSearch::within(
            region.clone(),
            RandomKind::Paths,
            seed,
        )),
    }
}

const SEARCHERS: [&str; 7] = [
    "random",
    "tree search, paper",
    "tree search",
    "tree search, bisection",
    "surrogate, paper",
    "surrogate",
    "regularised evolution",
];

/// The table of trained networks: three noisy accuracies and their mean for each.
struct Networks {
    objective: TableObjective,
    region: Region,
}

impl Networks {
    fn load(request: &Request) -> Result<Self> {
        const FILE: &str = "nas-bench-macro.json";
        let needed = |found: String| {
            Error::Request(format!(
                "{FILE} of NAS-Bench-Macro is needed{found}: name its folder by --nas or the environment variable ONCEFIT_NAS (docs/studies.md says where it comes from)"
            ))
        };
        let folder = request.nas.as_ref().ok_or_else(|| needed(String::new()))?;
        let path = folder.join(FILE);
        if !path.exists() {
            return Err(needed(format!(", and {} is not there", path.display())));
        }
        let text = std::fs::read_to_string(&path).map_err(|source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let columns = ["mean_acc", "test_acc[0]", "test_acc[1]", "test_acc[2]"];
        let table = Table::from_json(&text, FILE, &columns)?;
        let space = macro_space()?;
        Ok(Self {
            objective: TableObjective::new(&space, table, TableKey::Digits),
            region: Region::whole(&space)?,
        })
    }

    fn row(&self, candidate: &Candidate) -> Result<[f64; 4]> {
        let row = self
            .objective
            .get(candidate)
            .and_then(|row| row.try_into().ok());
        row.ok_or_else(|| Error::Request("the table lacks a network of the space".into()))
    }

    /// Mean accuracy of the network that looked best after 64 evaluations; the searcher sees one
    /// noisy measurement of each.
    fn incumbent(&self, name: &str, seed: u64) -> Result<f64> {
        let mut searcher = searcher(name, &self.region, seed);
        let mut noise = Draws::new(seed, "measurement", 0, 0);
        let (mut seen, mut best) = (f64::NEG_INFINITY, 0.0);
        for _ in 0..EVALUATIONS {
            let Some(trial) = searcher.ask(1)?.pop() else {
                break;
            };
            let row = self.row(&trial.candidate)?;
            let score = row[1 + noise.below(3)];
            searcher.tell(&trial, &Outcome::of(score));
            if score > seen {
                (seen, best) = (score, row[0]);
            }
        }
        Ok(best)
    }

    fn all(&self, name: &str, request: &Request) -> Result<Vec<f64>> {
        let each = request.seeds().map(|seed| {
            request.check()?;
            self.incumbent(name, seed)
        });
        each.collect()
    }
}

/// NAS-Bench-Macro: eight layers, each nothing or one of two blocks.
fn macro_space() -> Result<Space> {
    let text = include_str!("../../../oncefit-space/spaces/deep-architect/nas_bench_macro.space");
    Ok(Space::parse(text, "nas_bench_macro")?)
}

/// Compares searchers, all of which should be better, with random search on the table.
fn on_table(request: &Request, names: &[&str]) -> Result<Tried> {
    let networks = Networks::load(request)?;
    let random = networks.all("random", request)?;
    let (mut comparisons, mut notes, mut verdicts) = (Vec::new(), Vec::new(), Vec::new());
    for name in names {
        let found = networks.all(name, request)?;
        let test = sign_test(&found, &random);
        notes.push(format!(
            "{name}: {} wins, {} losses, {} ties against random, sign test p = {:.2e}",
            test.wins, test.losses, test.ties, test.p_value
        ));
        let what = format!("{name} − random, mean accuracy of the incumbent after 64, points");
        let (comparison, verdict) = Comparison::new(&what, found, random.clone())?;
        comparisons.push(comparison);
        verdicts.push(verdict);
    }
    Ok(Tried {
        verdict: all_of(&verdicts),
        comparisons,
        notes,
    })
}

/// Four stages of eight widths.
const WIDTHS: &str = "
space widths(channels = 1, classes = 10)
input(28, 28, channels)
decide first in 4..=32 step 4
conv(first, kernel = 3, stride = 2); batch_norm; relu
decide second in 4..=32 step 4
conv(second, kernel = 3, stride = 2); batch_norm; relu
decide third in 4..=32 step 4
conv(third, kernel = 3); batch_norm; relu
decide fourth in 4..=32 step 4
conv(fourth, kernel = 3); batch_norm; relu
global_average_pool
linear(classes)
";

const WIDTHS_RECIPE: &str = "
name = \"widths\"
[data]
source = \"embedded\"
validation = 2000
[space]
file = \"widths.space\"
[schedule]
kind = \"sandwich\"
epochs = 25
networks = 4
[training]
batch_size = 64
[evaluation]
every_epochs = 25
calibration_images = 500
";

/// A measured subnet of the own table.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Measured {
    subnet: String,
    validation: f64,
    test: f64,
    macs: u64,
}

/// Trains the supernet and measures all of its subnets, unless that was done.
fn own_table(request: &Request) -> Result<(Space, Vec<Measured>)> {
    const PART: usize = 64;
    let space = Space::parse(WIDTHS, "widths.space")?;
    let folder = request.folder.join("deep-architect.T2");
    let table = folder.join("table.json");
    if let Some(rows) = kept(&table)? {
        return Ok((space, rows));
    }
    make_folder(&folder)?;
    let (described, recipe) = (folder.join("widths.space"), folder.join("widths.toml"));
    write_atomically(&described, WIDTHS.as_bytes())?;
    write_atomically(&recipe, WIDTHS_RECIPE.as_bytes())?;
    let run = folder.join("run");
    let mut trained = trained(&run, &Recipe::load(&recipe)?)?;
    let mut subnets = Vec::new();
    let mut next = Some(space.candidate(|_, _| 0)?);
    while let Some(candidate) = next {
        subnets.push(space.subnet_of(&candidate)?);
        next = space.next_candidate(&candidate)?;
    }
    let mut rows = Vec::with_capacity(subnets.len());
    let mut progress = Progress::new("measuring", 0, subnets.len() as u64);
    for part in subnets.chunks(PART) {
        request.check()?;
        let validation = trained.evaluate(part, Split::Validation)?;
        let test = trained.evaluate(part, Split::Test)?;
        let each = part.iter().zip(validation).zip(test);
        rows.extend(each.map(|((subnet, seen), counted)| Measured {
            subnet: subnet.text(),
            validation: seen.accuracy,
            test: counted.accuracy,
            macs: subnet.graph().macs(),
        }));
        progress.update(rows.len() as u64, || "subnets".into());
    }
    progress.finish();
    let text = serde_json::to_string(&rows).expect("numbers and words");
    write_atomically(&table, text.as_bytes())?;
    // The supernet is not needed again.
    std::fs::remove_dir_all(&run).map_err(|source| Error::File {
        action: "remove",
        path: run,
        source,
    })?;
    Ok((space, rows))
}

fn on_own_table(request: &Request) -> Result<Tried> {
    let (space, rows) = own_table(request)?;
    // A price on MACs, so that the largest network is not the best: half of what accuracy gains
    // from the worst to the best network.
    let range = |of: fn(&Measured) -> f64| {
        let values = || rows.iter().map(of);
        values().fold(f64::NEG_INFINITY, f64::max) - values().fold(f64::INFINITY, f64::min)
    };
    let price = 0.5 * range(|row| row.validation) / range(|row| row.macs as f64);
    let values: HashMap<&str, (f64, f64)> = rows
        .iter()
        .map(|row| {
            let paid = price * row.macs as f64;
            (
                row.subnet.as_str(),
                (row.validation - paid, row.test - paid),
            )
        })
        .collect();
    let counted = values.values().map(|(_, counted)| *counted);
    let best = counted.fold(f64::NEG_INFINITY, f64::max);
    let region = Region::whole(&space)?;
    // Mean regret of the incumbent over the evaluations: the area under its curve.
    let area = |name: &str, seed: u64| -> Result<f64> {
        let mut searcher = searcher(name, &region, seed);
        let (mut seen, mut regret, mut sum) = (f64::NEG_INFINITY, f64::NAN, 0.0);
        for _ in 0..EVALUATIONS {
            let Some(trial) = searcher.ask(1)?.pop() else {
                break;
            };
            let text = space.trace_of(&trial.candidate).text();
            let (shown, counted) = values.get(text.as_str()).copied().ok_or_else(|| {
                Error::Request(format!("the table of all subnets lacks `{text}`"))
            })?;
            searcher.tell(&trial, &Outcome::of(shown));
            if shown > seen {
                (seen, regret) = (shown, best - counted);
            }
            sum += regret;
        }
        Ok(100.0 * sum / EVALUATIONS as f64)
    };
    let mut areas: Vec<Vec<f64>> = Vec::new();
    for name in ["random", "tree search, bisection", "surrogate"] {
        let each = request.seeds().map(|seed| {
            request.check()?;
            area(name, seed)
        });
        areas.push(each.collect::<Result<_>>()?);
    }
    let mut comparisons = Vec::new();
    let mut verdicts = Vec::new();
    for (what, one, other) in [
        (
            "regret over 64 of random − tree search with bisection, points",
            0,
            1,
        ),
        (
            "regret over 64 of tree search with bisection − surrogate, points",
            1,
            2,
        ),
    ] {
        let (comparison, verdict) =
            Comparison::new(what, areas[one].clone(), areas[other].clone())?;
        comparisons.push(comparison);
        verdicts.push(verdict);
    }
    Ok(Tried {
        verdict: all_of(&verdicts),
        comparisons,
        notes: vec![format!(
            "{} subnets, price {:.3} points for a million MACs",
            rows.len(),
            1e8 * price
        )],
    })
}

/// Regret of the incumbent on landscapes, one for each seed.
fn regret(name: &str, landscape: &Landscape, seed: u64) -> Result<f64> {
    let region = Region::whole(landscape.space())?;
    let mut searcher = searcher(name, &region, seed);
    let mut best: Option<(f64, Candidate)> = None;
    for _ in 0..EVALUATIONS {
        let Some(trial) = searcher.ask(1)?.pop() else {
            break;
        };
        let score = landscape.measure(&trial.candidate, seed);
        searcher.tell(&trial, &Outcome::of(score));
        if best.as_ref().is_none_or(|(seen, _)| score > *seen) {
            best = Some((score, trial.candidate));
        }
    }
    Ok(best.map_or(f64::NAN, |(_, candidate)| landscape.regret(&candidate)))
}

fn bisection(request: &Request) -> Result<Tried> {
    let (mut comparisons, mut verdicts) = (Vec::new(), Vec::new());
    for (stages, widths) in [(4, 16), (6, 8)] {
        let mut regrets: [Vec<f64>; 3] = Default::default();
        for seed in request.seeds() {
            request.check()?;
            let landscape = Landscape::new(stages, widths, seed)?;
            for (name, values) in ["tree search, bisection", "tree search", "random"]
                .into_iter()
                .zip(&mut regrets)
            {
                values.push(regret(name, &landscape, seed)?);
            }
        }
        let [bisected, plain, random] = regrets;
        for (name, other) in [("without bisection", plain), ("random", random)] {
            // A lower regret is better: the difference is turned round.
            let what = format!("{stages}×{widths}: regret of {name} − with bisection, after 64");
            let (comparison, verdict) = Comparison::new(&what, other, bisected.clone())?;
            comparisons.push(comparison);
            verdicts.push(verdict);
        }
    }
    Ok(Tried {
        verdict: all_of(&verdicts),
        comparisons,
        notes: vec!["reproduced only if all four are".into()],
    })
}

fn replay(request: &Request) -> Result<Tried> {
    const RESUMED_AT: usize = 30;
    let mut wrong = Vec::new();
    for seed in request.seeds() {
        request.check()?;
        let landscape = Landscape::new(4, 8, seed)?;
        let region = Region::whole(landscape.space())?;
        for name in SEARCHERS {
            let go_on = |searcher: &mut dyn Searcher, count: usize| -> Result<Vec<Candidate>> {
                let mut asked = Vec::new();
                for _ in 0..count {
                    let Some(trial) = searcher.ask(1)?.pop() else {
                        break;
                    };
                    let score = landscape.measure(&trial.candidate, seed);
                    searcher.tell(&trial, &Outcome::of(score));
                    asked.push(trial.candidate);
                }
                Ok(asked)
            };
            let whole = go_on(&mut *searcher(name, &region, seed), EVALUATIONS)?;
            let mut resumed = searcher(name, &region, seed);
            go_on(&mut *resumed, RESUMED_AT)?;
            let rest = go_on(&mut *resumed, EVALUATIONS - RESUMED_AT)?;
            if whole[RESUMED_AT..] != rest[..] {
                wrong.push(format!("{name}, seed {seed}"));
            }
        }
    }
    Ok(Tried {
        verdict: fact(wrong.is_empty()),
        comparisons: Vec::new(),
        notes: match wrong.is_empty() {
            true => vec![format!(
                "{} searchers, {} seeds: equal",
                SEARCHERS.len(),
                request.seeds
            )],
            false => wrong,
        },
    })
}

fn counts() -> Result<Tried> {
    let space = macro_space()?;
    let mut notes = Vec::new();
    let mut holds = space.count()? == BigUint::from(6561u32);
    let mut next = Some(space.candidate(|_, _| 0)?);
    let mut members = 0u32;
    while let Some(candidate) = next {
        let subnet = space.subnet_of(&candidate)?;
        let number = space.rank(&subnet)?;
        holds &= number == BigUint::from(members) && space.unrank(&number)? == subnet;
        members += 1;
        next = space.next_candidate(&candidate)?;
    }
    holds &= members == 6561;
    notes.push(format!(
        "nas-bench-macro: {members} members, each the one of its number"
    ));
    for (text, name, digits) in [
        (
            include_str!("../../../oncefit-space/spaces/deep-architect/deepconv_ss0.space"),
            "deepconv_ss0",
            "60466176",
        ),
        (
            include_str!("../../../oncefit-space/spaces/deep-architect/resnet_ss0.space"),
            "resnet_ss0",
            "",
        ),
    ] {
        let space = Space::parse(text, name)?;
        let (count, log10) = (space.count()?.to_string(), space.log10_count()?);
        holds &= match digits {
            "" => (log10 - 68.188).abs() < 5e-4,
            digits => count == digits,
        };
        notes.push(format!("{name}: {count}, log10 {log10:.3}"));
    }
    Ok(Tried {
        verdict: fact(holds),
        comparisons: Vec::new(),
        notes,
    })
}

fn speed(request: &Request) -> Result<Tried> {
    let networks = Networks::load(request)?;
    let start = Instant::now();
    for name in SEARCHERS {
        networks.all(name, request)?;
    }
    let seconds = start.elapsed().as_secs_f64();
    Ok(Tried {
        verdict: fact(seconds < 60.0),
        comparisons: Vec::new(),
        notes: vec![format!(
            "{} searchers × {} seeds × {EVALUATIONS} evaluations: {seconds:.1} s on one thread (limit: 60)",
            SEARCHERS.len(),
            request.seeds
        )],
    })
}
