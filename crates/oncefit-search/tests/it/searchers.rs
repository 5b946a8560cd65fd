//! All searchers of the crate through the public conformance suite.

use oncefit_search::{
    AdditiveModel, Evolution, EvolutionSettings, ExactSearch, ExhaustiveSearch, Features,
    HalvingSettings, HyperbandSettings, Landscape, Mcts, MctsSettings, Nsga2, Nsga2Settings,
    RandomKind, RandomSearch, Region, RegularisedEvolution, RegularisedSettings, Removal,
    Screening, Searcher, Share, Smbo, SmboSettings, Term, conformance,
};
use oncefit_space::Space;

fn whole(space: &Space) -> Region {
    Region::whole(space).unwrap()
}

fn check_all(build: impl Fn(u64, &Space) -> Box<dyn Searcher>) {
    conformance::check(&build);
    conformance::check_exhausts(&build);
}

#[test]
fn random_search_conforms() {
    for kind in [RandomKind::Paths, RandomKind::Leaves] {
        check_all(|seed, space| Box::new(RandomSearch::within(whole(space), kind, seed)));
    }
}

#[test]
fn tree_search_conforms() {
    for settings in [MctsSettings::default(), MctsSettings::paper()] {
        check_all(|seed, space| Box::new(Mcts::within(whole(space), settings, seed)));
    }
}

#[test]
fn surrogate_search_conforms() {
    let small = SmboSettings {
        candidates: 20,
        ..Default::default()
    };
    for settings in [
        small,
        SmboSettings {
            features: Features::Ordinal,
            ..small
        },
        SmboSettings {
            candidates: 5,
            ..SmboSettings::paper_2017()
        },
        SmboSettings {
            candidates: 5,
            features: Features::Hashed { buckets: 64 },
            ..SmboSettings::paper_2019()
        },
    ] {
        check_all(|seed, space| Box::new(Smbo::within(whole(space), settings, seed)));
    }
}

#[test]
fn evolutions_conform() {
    let settings = EvolutionSettings {
        population: 12,
        ..Default::default()
    };
    check_all(|seed, space| Box::new(Evolution::within(whole(space), settings, seed)));
    for removal in [Removal::Oldest, Removal::Worst] {
        let settings = RegularisedSettings {
            population: 8,
            tournament: 3,
            removal,
        };
        check_all(|seed, space| {
            Box::new(RegularisedEvolution::within(whole(space), settings, seed))
        });
    }
    let settings = Nsga2Settings {
        population: 10,
        ..Default::default()
    };
    check_all(|seed, space| Box::new(Nsga2::within(whole(space), settings, seed)));
}

#[test]
fn screening_conforms() {
    let settings = HalvingSettings {
        candidates: 20,
        budget: 1,
        largest_budget: 100,
        factor: 3,
    };
    conformance::check(|seed, space| {
        Box::new(Screening::halving(whole(space), settings, seed).unwrap())
    });
    conformance::check(|seed, space| {
        Box::new(Screening::hyperband(whole(space), HyperbandSettings::default(), seed).unwrap())
    });
}

#[test]
fn exact_and_exhaustive_search_conform() {
    // fm-nano has 1.6 billion members: the conformance of exhaustive search asks for some of them.
    check_all(|_, space| Box::new(ExhaustiveSearch::within(whole(space), u64::MAX).unwrap()));
    conformance::check(|_, space| {
        let mut model = AdditiveModel::new(space, &[]);
        for (slot, decision) in space.decisions().iter().enumerate() {
            let shares = (0..decision.domain.values.len()).map(|index| Share {
                score: index as f64,
                costs: Vec::new(),
            });
            model
                .add_term(Term {
                    slots: vec![slot],
                    shares: shares.collect(),
                })
                .unwrap();
        }
        Box::new(ExactSearch::new(&model, &[], &[]).unwrap())
    });
}

#[test]
fn spaces_too_large_to_try_all_are_refused() {
    let space = Space::builtin("fm-nano").unwrap();
    let error = ExhaustiveSearch::within(whole(&space), 20_000).unwrap_err();
    assert!(error.to_string().contains("too many"), "{error}");
}

/// Sign tests over 40 seeds: 28 wins ↔ p = .008.
#[test]
fn informed_searchers_beat_random_search() {
    let tests = [
        (
            "tree search",
            conformance::against_random(
                |seed, space| Box::new(Mcts::within(whole(space), MctsSettings::default(), seed)),
                40,
                64,
            ),
        ),
        (
            "surrogate search",
            conformance::against_random(
                |seed, space| Box::new(Smbo::within(whole(space), SmboSettings::default(), seed)),
                40,
                64,
            ),
        ),
        (
            "regularised evolution",
            conformance::against_random(
                |seed, space| {
                    let settings = RegularisedSettings::default();
                    Box::new(RegularisedEvolution::within(whole(space), settings, seed))
                },
                40,
                128,
            ),
        ),
        (
            "evolution",
            conformance::against_random(
                |seed, space| {
                    let settings = EvolutionSettings {
                        population: 16,
                        ..Default::default()
                    };
                    Box::new(Evolution::within(whole(space), settings, seed))
                },
                40,
                128,
            ),
        ),
    ];
    for (name, test) in tests {
        assert!(test.p_value < 0.01, "{name}: {test:?}");
    }
}

/// Claim P3 of DeepArchitect: normalised and bisected tree search has the lowest mean regret.
#[test]
fn bisection_pays_on_ordered_widths() {
    let variants = [
        MctsSettings::default(),
        MctsSettings {
            bisect: false,
            exploration: 0.1,
            ..MctsSettings::default()
        },
    ];
    let mut regrets = [0.0; 3];
    const SEEDS: u64 = 100;
    let landscapes: Vec<Landscape> = (0..10)
        .map(|seed| Landscape::new(4, 16, seed).unwrap())
        .collect();
    for seed in 0..SEEDS {
        let landscape = &landscapes[seed as usize % 10];
        let region = whole(landscape.space());
        let mut searchers: Vec<Box<dyn Searcher>> = variants
            .iter()
            .map(|settings| {
                Box::new(Mcts::within(region.clone(), *settings, seed)) as Box<dyn Searcher>
            })
            .collect();
        searchers.push(Box::new(RandomSearch::within(
            region,
            RandomKind::Paths,
            seed,
        )));
        for (regret, searcher) in regrets.iter_mut().zip(&mut searchers) {
            *regret += conformance::regret(&mut **searcher, landscape, seed, 64) / SEEDS as f64;
        }
    }
    let [bisected, plain, random] = regrets;
    assert!(bisected < plain && plain < random, "{regrets:?}");
}
