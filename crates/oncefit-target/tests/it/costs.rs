//! Costs by segments are those of the whole graph.

use oncefit_export::{Metadata, file_bytes};
use oncefit_random::{Draws, fnv1a64};
use oncefit_space::{Space, Subnet};
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

#[test]
fn costs_by_segments_equal_those_of_the_graph_in_every_family() {
    for name in Space::builtin_names() {
        let space = Space::builtin(name).unwrap();
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
