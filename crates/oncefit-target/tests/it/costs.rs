//! Costs by segments are those of the whole graph.

use oncefit_export::{Metadata, file_bytes};
use oncefit_random::{Draws, fnv1a64};
use oncefit_space::{Space, Subnet, Value};
use oncefit_target::*;

/// A time that is a function of the key.
fn time(key: &str) -> f64 {
    (fnv1a64(key.as_bytes()) % 100_000) as f64 / 1e5
}

fn table(space: &Space, style: KeyStyle) -> OperatorTable {
    let mut keys = std::collections::BTreeSet::new();
    let empty = OperatorTable::new("d", style, 0.0, []).unwrap();
    let operators = Coster::with_table(space, &empty)
        .explore(1_000_000)
        .unwrap();
    keys.extend(operators.iter().map(|operator| empty.key(operator)));
    let entries = keys.into_iter().map(|key| {
        let time = time(&key);
        (key, time)
    });
    OperatorTable::new("d", style, 0.25, entries).unwrap()
}

fn check(space: &Space, table: &OperatorTable, coster: &mut Coster, subnet: &Subnet) {
    let indices = coster.indices(subnet).unwrap();
    let mut code = Vec::new();
    let cost = coster.cost_and_code(&indices, &mut code).unwrap();
    let graph = subnet.graph();
    let latency = table.latency(graph).unwrap();
    let expected = Cost {
        macs: graph.macs(),
        parameters: graph.parameters(),
        peak_activation_bytes: graph.peak_activation_bytes(),
        latency_ms: Some(latency.milliseconds),
        is_estimated: false,
        file_bytes: None,
    };
    assert_eq!(cost, expected, "{}", subnet.text());
    let dense = space.encode(subnet);
    code.sort_unstable();
    let ones = (0u32..).zip(&dense).filter(|(_, value)| **value == 1.0);
    assert_eq!(code, ones.map(|(index, _)| index).collect::<Vec<_>>());
    assert_eq!(cost, coster.cost(&indices).unwrap());
}

/// A family, narrowed to what can be explored: all cells of NASNet are one segment, as each reads the
/// outputs of two others.
fn explorable(name: &str) -> Space {
    let mut space = Space::builtin(name).unwrap();
    if name == "nasnet-nano" {
        for (decision, values) in [
            ("from1", &["before"][..]),
            ("from2", &["now"]),
            ("from3", &["before", "node1"]),
            ("from4", &["now"]),
            ("do3", &["max"]),
            ("do4", &["separable5", "identity"]),
            ("reduce_from1", &["before"]),
            ("reduce_from2", &["now"]),
            ("reduce_from3", &["node1"]),
            ("reduce_from4", &["now"]),
            ("reduce_do1", &["separable3", "identity"]),
            ("reduce_do2", &["max"]),
            ("reduce_do3", &["average"]),
            ("reduce_do4", &["separable5", "identity"]),
        ] {
            let values: Vec<Value> = values.iter().map(|&word| word.into()).collect();
            space = space.restrict(decision, &values).unwrap();
        }
    }
    space
}

#[test]
fn costs_by_segments_equal_those_of_the_graph_in_every_family() {
    for name in Space::builtin_names() {
        let space = explorable(name);
        for style in [KeyStyle::Oncefit, KeyStyle::OnceForAll] {
            let table = table(&space, style);
            let mut coster = Coster::with_table(&space, &table);
            let mut draws = Draws::new(3, "costs", 0, 0);
            for _ in 0..200 {
                let subnet = space.sample(&mut draws).unwrap();
                check(&space, &table, &mut coster, &subnet);
            }
            check(&space, &table, &mut coster, &space.smallest().unwrap());
            check(&space, &table, &mut coster, &space.largest().unwrap());
        }
    }
}

#[test]
fn sizes_of_files_by_segments_are_those_of_the_files_in_every_family() {
    let metadata = Metadata::default();
    for name in Space::builtin_names() {
        let space = Space::builtin(name).unwrap();
        let mut coster = Coster::new(&space);
        coster.count_file_bytes(&metadata).unwrap();
        let mut check = |subnet: &Subnet| {
            let indices = coster.indices(subnet).unwrap();
            let counted = coster.cost(&indices).unwrap().file_bytes.unwrap();
            (counted, file_bytes(subnet.graph(), &metadata).unwrap())
        };
        // A batch-norm that begins a segment is counted as one that cannot be folded.
        let (counted, size) = check(&space.largest().unwrap());
        assert!(
            counted >= size && counted <= size + size / 50,
            "{name}: {counted} {size}"
        );
        let mut draws = Draws::new(5, "sizes", 0, 0);
        for _ in 0..10 {
            let subnet = space.sample(&mut draws).unwrap();
            let (counted, size) = check(&subnet);
            let above = counted.saturating_sub(size);
            assert!(
                counted >= size && above < 4096 + size / 50,
                "{name}: {counted} for a file of {size}: {}",
                subnet.text()
            );
        }
    }
}

const ODD: &str = "space odd
define block(w) { decide e in (1, 2); conv(w * e); batch_norm }
input(8, 8, 2)
decide wide in (false, true)
decide far in (1, 2)
conv(4)
repeat tied n in (1, 3) { decide k in (3, 5)
depthwise(k) }
choice kind { a: { block(4)
optional tail { relu } } b: { batch_norm } c: relu }
relu
let both = wide and far == 2
if both { conv(12) } else { residual { relu
depthwise(3) } }
repeat m in (0, 2) as i { repeat q in (0, 1) { block(min(in, 8)) } }
relu
gate { global_average_pool; hard_sigmoid }
dropout(0.5)
relu
";

#[test]
fn costs_by_segments_equal_those_of_the_graph_in_an_odd_space() {
    let space = Space::parse(ODD, "odd").unwrap();
    let table = table(&space, KeyStyle::Oncefit);
    let mut coster = Coster::with_table(&space, &table);
    let mut draws = Draws::new(3, "costs", 0, 0);
    for _ in 0..2000 {
        let subnet = space.sample(&mut draws).unwrap();
        check(&space, &table, &mut coster, &subnet);
    }
}

#[test]
fn exploring_finds_the_operators_of_all_members_and_no_others() {
    let space = Space::parse(ODD, "odd").unwrap();
    let mut found: Vec<Operator> = Coster::new(&space).explore(100_000).unwrap();
    let mut seen = Vec::new();
    let mut draws = Draws::new(4, "costs", 0, 0);
    for _ in 0..20_000 {
        let subnet = space.sample(&mut draws).unwrap();
        seen.extend(operators(subnet.graph(), Granularity::Operator));
        seen.sort_by_cached_key(Operator::to_string);
        seen.dedup();
    }
    found.sort_by_cached_key(Operator::to_string);
    assert_eq!(found, seen);
}

#[test]
fn missing_operators_are_named_and_may_be_estimated() {
    let space = Space::builtin("fm-nano").unwrap();
    let subnet = space.smallest().unwrap();
    let keys: Vec<String> = operators(subnet.graph(), Granularity::Operator)
        .iter()
        .map(Operator::to_string)
        .collect();
    let but_one = keys[1..]
        .iter()
        .cloned()
        .collect::<std::collections::BTreeSet<_>>();
    let table = OperatorTable::new(
        "phone",
        KeyStyle::Oncefit,
        0.0,
        but_one.into_iter().map(|key| (key, 0.5)),
    )
    .unwrap();
    let mut coster = Coster::with_table(&space, &table);
    let indices = coster.indices(&subnet).unwrap();
    for error in [
        table.latency(subnet.graph()).unwrap_err(),
        coster.cost(&indices).unwrap_err(),
    ] {
        let error = error.to_string();
        assert!(
            error.contains("phone") && error.contains(&keys[0]) && error.contains("estimates"),
            "{error}"
        );
    }
    let cost = WorkCost {
        ms: 1.0,
        ..Default::default()
    };
    let estimate = Estimate {
        kinds: [("conv".to_owned(), cost)].into(),
    };
    let table = table.with_estimates(estimate);
    coster.set_table(Some(&table));
    let cost = coster.cost(&indices).unwrap();
    let latency = table.latency(subnet.graph()).unwrap();
    assert!(cost.is_estimated && latency.is_estimated);
    assert_eq!(cost.latency_ms, Some(latency.milliseconds));
    assert_eq!(latency.milliseconds, 1.0 + 0.5 * (keys.len() - 1) as f64);
}

#[test]
fn wrong_values_are_errors() {
    let space = Space::builtin("fm-nano").unwrap();
    let mut coster = Coster::new(&space);
    let count = space.decisions().len();
    assert!(coster.cost(&vec![0; count]).is_ok());
    for indices in [vec![0; count - 1], vec![9; count], vec![]] {
        assert!(
            coster
                .cost(&indices)
                .unwrap_err()
                .to_string()
                .contains("no member")
        );
    }
    for time in [-1.0, f64::NAN, f64::INFINITY] {
        let entries = [("conv".to_owned(), time)];
        assert!(OperatorTable::new("d", KeyStyle::Oncefit, 0.0, entries).is_err());
    }
}

/// Two stages whose widths meet, a depth, a choice: 3 · 3 · (1 + 2) · 2 · 2 members.
const SEPARABLE: &str = "space separable
input(6, 6, 1)
decide first in (1, 2, 3)
conv(first, kernel = 3); batch_norm; relu
decide second in (1, 2, 4)
conv(second); batch_norm
body: repeat depth in (1, 2) { decide ratio in (1, 2)
residual { conv(in * ratio); relu; conv(second) } }
choice end { a: { conv(2) } b: { relu; conv(3, kernel = 3) } }
global_average_pool
linear(2)
";

#[test]
fn the_best_sums_are_those_of_brute_force() {
    let space = Space::parse(SEPARABLE, "separable").unwrap();
    let table = table(&space, KeyStyle::Oncefit);
    let mut coster = Coster::with_table(&space, &table);
    let length = space.encode(&space.largest().unwrap()).len();
    for seed in 0..20u64 {
        let mut draws = Draws::new(seed, "weights of sums", 0, 0);
        let score = SumScore {
            weights: (0..length).map(|_| draws.normal()).collect(),
            intercept: draws.normal(),
        };
        // Every member: its cost, score and indices.
        let mut members = Vec::new();
        let mut next = Some(space.candidate(|_, _| 0).unwrap());
        while let Some(candidate) = next {
            let subnet = space.subnet_of(&candidate).unwrap();
            let indices = coster.indices(&subnet).unwrap();
            let ones = space.encode(&subnet);
            let sum: f64 = ones
                .iter()
                .zip(&score.weights)
                .map(|(one, weight)| f64::from(*one) * weight)
                .sum();
            members.push((coster.cost(&indices).unwrap(), score.intercept + sum));
            next = space.next_candidate(&candidate).unwrap();
        }
        let middle = &members[draws.below(members.len())].0;
        let all = Bounds::default();
        for bounds in [
            all,
            Bounds {
                parameters: Some(middle.parameters),
                ..all
            },
            Bounds {
                peak_activation_bytes: Some(middle.peak_activation_bytes),
                ..all
            },
            Bounds {
                parameters: Some(middle.parameters),
                peak_activation_bytes: Some(middle.peak_activation_bytes),
                ..all
            },
        ] {
            let holds = |most: Option<u64>, value: u64| most.is_none_or(|most| value <= most);
            let within = members.iter().filter(|(cost, _)| {
                holds(bounds.parameters, cost.parameters)
                    && holds(bounds.peak_activation_bytes, cost.peak_activation_bytes)
            });
            let best = within
                .map(|(_, score)| *score)
                .fold(f64::NEG_INFINITY, f64::max);
            let found = coster.best_sums(&score, &bounds, 3, 100_000).unwrap();
            assert!(
                (found[0].1 - best).abs() < 1e-9,
                "{seed} {bounds:?}: {} {best}",
                found[0].1
            );
            assert!(found.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        }
        // Bounds that are not whole steps: never broken, and next to nothing is missed.
        let bounds = Bounds {
            latency_ms: middle.latency_ms,
            macs: Some(middle.macs),
            ..all
        };
        for (indices, _) in coster.best_sums(&score, &bounds, 3, 100_000).unwrap() {
            let cost = coster.cost(&indices).unwrap();
            assert!(cost.macs <= middle.macs && cost.latency_ms <= middle.latency_ms);
        }
    }
    let short = SumScore {
        weights: vec![0.0],
        intercept: 0.0,
    };
    let error = coster
        .best_sums(&short, &Bounds::default(), 1, 1000)
        .unwrap_err();
    assert!(error.to_string().contains("weights, not 1"), "{error}");
    let tied = Space::parse(ODD, "odd").unwrap();
    let mut coster = Coster::new(&tied);
    let score = SumScore {
        weights: vec![0.0; tied.encode(&tied.largest().unwrap()).len()],
        intercept: 0.0,
    };
    let error = coster
        .best_sums(&score, &Bounds::default(), 1, 1000)
        .unwrap_err();
    assert!(error.to_string().contains("more than"), "{error}");
}
