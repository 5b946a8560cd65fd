//! Members: stepping to them, asking for them, drawing them, writing them down.

use oncefit_random::Draws;
use oncefit_space::{Choice, Graph, Space, Step, Subnet, Trace, Value};

use super::{enumerate, family, parse};

#[test]
fn steps_lead_from_nothing_to_a_member() {
    let space = family("fm-nano");
    let mut trace = Trace::default();
    let subnet = loop {
        match space.step(&trace).unwrap() {
            Step::Decide(slot) => trace.choices.push(Choice {
                value: slot.domain.values[slot.domain.values.len() - 1].clone(),
                path: slot.path,
                name: slot.name,
            }),
            Step::Done(subnet) => break subnet,
            Step::Hole(reason) => panic!("{reason}"),
        }
    };
    assert_eq!(subnet, space.largest().unwrap());
    trace.choices.swap(0, 1);
    assert!(
        space
            .step(&trace)
            .unwrap_err()
            .to_string()
            .contains("comes next")
    );
}

#[test]
fn illegal_requests_name_the_decision_and_its_legal_values() {
    let space = family("fm-nano");
    for (text, parts) in [
        (
            "resolution=28:depth=1:kernel=4:expand=3",
            &["`unit1[0].kernel` cannot be `4`", "3, 5, 7"][..],
        ),
        (
            "resolution=28:depth=1:kernel=3",
            &["`unit1[0].expand` has no value", "3, 4, 6"],
        ),
        (
            "resolution=28:depth=1:kernel=3,3,3,3:expand=3",
            &["`kernel` has 1 values too many", "3 decisions"],
        ),
        (
            "resolution=28:dept=1",
            &["no decision `dept`", "did you mean `depth`?"],
        ),
        ("28", &["no part of a subnet"]),
        ("", &["`resolution` has no value", "20, 24, 28"]),
    ] {
        let message = space.parse_subnet(text).unwrap_err().to_string();
        assert!(
            parts.iter().all(|part| message.contains(part)),
            "{text}: {message}"
        );
    }
    let mut trace = space.largest().unwrap().trace().clone();
    trace.choices.retain(|choice| choice.path != "unit3.depth");
    let message = space.subnet(&trace).unwrap_err().to_string();
    assert!(
        message.contains("`unit3.depth` has no value; legal values: 1, 2, 3"),
        "{message}"
    );
    let mut trace = space.smallest().unwrap().trace().clone();
    trace.choices.push(
        space
            .largest()
            .unwrap()
            .trace()
            .choices
            .last()
            .unwrap()
            .clone(),
    );
    let message = space.subnet(&trace).unwrap_err().to_string();
    assert!(message.contains("not active"), "{message}");
    let message = space
        .restrict("kernel", &[Value::Int(9)])
        .unwrap_err()
        .to_string();
    assert!(message.contains("3, 5, 7"), "{message}");
    let message = Space::builtin("fm-nono").unwrap_err().to_string();
    assert!(message.contains("did you mean `fm-nano`?"), "{message}");
    let message = Space::builtin_with("fm-nano", &[("wdth", Value::Int(1))])
        .unwrap_err()
        .to_string();
    assert!(message.contains("no parameter `wdth`"), "{message}");
}

#[test]
fn uniform_sampling_is_uniform_over_members() {
    let text = "space s\ninput(8, 8, 1)\nunit: repeat n in (1, 2, 3) { decide k in (3, 5)\n depthwise(k) }\nconv(2)\n";
    let space = Space::parse(text, "s").unwrap();
    let members = enumerate(&space);
    assert_eq!(members.len(), 2 + 4 + 8);
    let mut draws = Draws::new(3, "test", 0, 0);
    let total = 14_000;
    let mut counts = vec![0f64; members.len()];
    for _ in 0..total {
        let subnet = space.sample_uniform(&mut draws).unwrap();
        counts[members.iter().position(|member| *member == subnet).unwrap()] += 1.0;
    }
    let expected = f64::from(total) / members.len() as f64;
    let chi_square: f64 = counts
        .iter()
        .map(|count| (count - expected).powi(2) / expected)
        .sum();
    // 99.9 % quantile of chi-square with 13 degrees of freedom.
    assert!(chi_square < 34.53, "{chi_square}");
}

/// Once-for-All's sampling: every decision uniform, whatever the depth of the network.
#[test]
fn sampling_by_path_is_uniform_at_each_decision() {
    let space = family("fm-nano");
    let mut draws = Draws::new(9, "test", 0, 0);
    let total = 9_000;
    let subnets: Vec<Subnet> = (0..total)
        .map(|_| space.sample(&mut draws).unwrap())
        .collect();
    for path in [
        "resolution",
        "unit2.depth",
        "unit1[0].kernel",
        "unit3[0].expand",
    ] {
        let slot = space
            .decisions()
            .iter()
            .find(|slot| slot.path == path)
            .unwrap();
        let expected = f64::from(total) / slot.domain.values.len() as f64;
        let chi_square: f64 = slot
            .domain
            .values
            .iter()
            .map(|value| {
                let chosen = |subnet: &&Subnet| subnet.trace().get(path) == Some(value);
                let count = subnets.iter().filter(chosen).count() as f64;
                (count - expected).powi(2) / expected
            })
            .sum();
        // 99.9 % quantile of chi-square with 2 degrees of freedom.
        assert!(chi_square < 13.82, "{path}: {chi_square}");
    }
}

#[test]
fn spaces_and_traces_are_data() {
    let space = family("fm-nano");
    let json = serde_json::to_string(&space).unwrap();
    assert_eq!(serde_json::from_str::<Space>(&json).unwrap(), space);
    let subnet = space.sample(&mut Draws::new(1, "test", 0, 0)).unwrap();
    let json = serde_json::to_string(subnet.trace()).unwrap();
    let trace: Trace = serde_json::from_str(&json).unwrap();
    assert_eq!(space.subnet(&trace).unwrap(), subnet);
    let json = serde_json::to_string(subnet.graph()).unwrap();
    assert_eq!(
        &serde_json::from_str::<Graph>(&json).unwrap(),
        subnet.graph()
    );
}

#[test]
fn texts_of_members_are_read_exactly() {
    let text = "space s\ninput(8, 8, 1)\ndecide e in (1.0, 2.5)\nconv(round(4 * e))\nchoice way { true: relu nan: relu6 }\noptional tail { decide k in (3, 5); depthwise(k) }\n";
    let space = parse(text);
    for (text, expected) in [
        (
            "e=1.0:way=true:tail=false",
            Some("e=1.0:way=true:tail=false"),
        ),
        (
            "e=1:way=nan:tail=true:k=5",
            Some("e=1.0:way=nan:tail=true:k=5"),
        ),
        (
            " e=2.5:way=nan:tail=false:",
            Some("e=2.5:way=nan:tail=false"),
        ),
        ("e=1:e=2.5:way=nan:tail=false", None),
        ("e=1:way=nan:tail=false:k=5", None),
        ("e=1:way=nan:tail=1", None),
    ] {
        let found = space.parse_subnet(text).ok().map(|subnet| subnet.text());
        assert_eq!(found.as_deref(), expected, "{text}");
    }
    let mut trace = space.largest().unwrap().trace().clone();
    trace.choices.push(trace.choices[0].clone());
    let message = space.subnet(&trace).unwrap_err().to_string();
    assert!(message.contains("stands twice"), "{message}");
}

#[test]
fn the_ends_of_unordered_decisions_are_those_of_the_costs() {
    let text = "space s\ninput(8, 8, 4)\nchoice kind { small: conv(4) none: { } big: conv(4, kernel = 3) }\ndecide w in unordered (8, 2, 16)\nconv(w)\ndecide flag in (true, false)\nif flag { conv(3) }\n";
    let space = parse(text);
    assert_eq!(space.smallest().unwrap().text(), "kind=none:w=2:flag=false");
    assert_eq!(space.largest().unwrap().text(), "kind=big:w=16:flag=true");
}

#[test]
fn values_are_ordered_by_size() {
    let sorted = [
        Value::Bool(false),
        Value::Bool(true),
        Value::Real(-0.5),
        Value::Int(1),
        Value::Real(1.0),
        Value::Int(2),
        Value::Text("a".into()),
    ];
    assert!(sorted.is_sorted_by(|left, right| left < right));
}
