//! Tables in the form of the Once-for-All authors.

use std::fs;

use oncefit_space::{Space, Value};
use oncefit_target::*;

fn space(width: f64) -> Space {
    Space::builtin_with("ofa-mobilenet-v3", &[("width", Value::Real(width))]).unwrap()
}

/// The keys of a network in the authors' format, written down without the library's help.
#[test]
fn keys_of_a_network_are_those_of_the_published_tables() {
    let space = space(1.2);
    let subnet = space
        .parse_subnet("resolution=224:depth=2:kernel=3:expand=3")
        .unwrap();
    let table = OperatorTable::new("d", KeyStyle::OnceForAll, 0.0, []).unwrap();
    let found: Vec<String> = operators(subnet.graph(), Granularity::Block)
        .iter()
        .map(|operator| table.key(operator))
        .collect();
    let block = |from: (usize, usize),
                 to: (usize, usize),
                 middle: usize,
                 stride: usize,
                 skip: u8,
                 se: u8,
                 hs: u8| {
        format!(
            "expanded_conv-input:{0}x{0}x{1}-output:{2}x{2}x{3}-expand:{middle}-kernel:3-stride:{stride}-idskip:{skip}-se:{se}-hs:{hs}",
            from.0, from.1, to.0, to.1
        )
    };
    let expected = vec![
        "Conv-input:224x224x3-output:112x112x24".to_owned(),
        block((112, 24), (112, 24), 24, 1, 1, 0, 0),
        block((112, 24), (56, 32), 72, 2, 0, 0, 0),
        block((56, 32), (56, 32), 96, 1, 1, 0, 0),
        block((56, 32), (28, 48), 96, 2, 0, 1, 0),
        block((28, 48), (28, 48), 144, 1, 1, 1, 0),
        block((28, 48), (14, 96), 144, 2, 0, 0, 1),
        block((14, 96), (14, 96), 288, 1, 1, 0, 1),
        block((14, 96), (14, 136), 288, 1, 0, 1, 1),
        block((14, 136), (14, 136), 408, 1, 1, 1, 1),
        block((14, 136), (7, 192), 408, 2, 0, 1, 1),
        block((7, 192), (7, 192), 576, 1, 1, 1, 1),
        "Conv_1-input:7x7x192-output:7x7x1152".to_owned(),
        "AvgPool2D-input:7x7x1152-output:1x1x1152".to_owned(),
        "Conv_2-input:1x1x1152-output:1x1x1536".to_owned(),
        "Logits-input:1x1x1536-output:1000".to_owned(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn a_table_in_yaml_prices_networks() {
    let space = space(1.0)
        .restrict("resolution", &[Value::Int(160)])
        .unwrap();
    let empty = OperatorTable::new("d", KeyStyle::OnceForAll, 0.0, []).unwrap();
    let found = Coster::with_table(&space, &empty).explore(100_000).unwrap();
    let mut yaml = String::from("# made up\n");
    let mut keys: Vec<String> = found.iter().map(|operator| empty.key(operator)).collect();
    keys.sort();
    keys.dedup();
    // The authors' tables have 96 entries.
    assert_eq!(keys.len(), 96);
    for (index, key) in keys.iter().enumerate() {
        let mean = 0.1 + index as f64 / 64.0;
        yaml.push_str(&match index % 3 {
            0 => format!("{key}:\n  count: 55\n  mean: {mean}\n  std: 0.5\n"),
            1 => format!("'{key}':\n    mean: {mean}\n    var: 0.25\n    count: 1.0e+0\n"),
            _ => format!("{key}: {{count: 5, mean: {mean}, std: 0.1}}\n"),
        });
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("note10_160.yaml");
    fs::write(&path, &yaml).unwrap();
    let entries = parse_ofa_table(&yaml).unwrap();
    assert_eq!(
        entries[&keys[1]],
        OfaEntry {
            count: 1.0,
            mean_ms: 0.1 + 1.0 / 64.0,
            std_ms: 0.5
        }
    );
    let target = Target::load(&path).unwrap();
    target.check_space(&space).unwrap();
    let table = target.table().unwrap();
    assert_eq!((table.device(), table.len()), ("note10_160", 96));
    let mut coster = Coster::with_table(&space, &table);
    for subnet in [space.smallest().unwrap(), space.largest().unwrap()] {
        let sum: f64 = operators(subnet.graph(), Granularity::Block)
            .iter()
            .map(|operator| entries[&table.key(operator)].mean_ms)
            .sum();
        let found = table.latency(subnet.graph()).unwrap().milliseconds;
        assert!((found - sum).abs() < 1e-6, "{found} {sum}");
        let indices = coster.indices(&subnet).unwrap();
        assert_eq!(coster.cost(&indices).unwrap().latency_ms, Some(found));
    }
    let other = self::space(1.2)
        .parse_subnet("resolution=160:depth=2:kernel=3:expand=3")
        .unwrap();
    let error = table.latency(other.graph()).unwrap_err().to_string();
    assert!(error.contains("of this width, input size"), "{error}");
}

#[test]
fn damaged_tables_are_answered_clearly() {
    for (text, message) in [
        ("", "no entries"),
        ("Conv-a:\n  count: 5\n", "cut short"),
        ("Conv-a:\n  mean: -1\n", "negative"),
        ("Conv-a:\n  mean: .nan\n", "no number"),
        ("Conv-a:\n  mean: NaN\n", "no number"),
        ("Conv-a:\n  mean 5\n", "no `name: number`"),
        ("Conv-a:\n  median: 5\n", "none of count"),
        ("Conv-a:\n  mean: 5\n  mean: 6\n", "stands twice"),
        ("Conv-a:\n  mean: 5\nConv-a:\n  mean: 5\n", "stands twice"),
        ("  mean: 5\n", "without a key"),
        ("- a\n", "is no key"),
    ] {
        let error = parse_ofa_table(text).unwrap_err();
        assert!(error.contains(message), "{text}: {error}");
    }
}
