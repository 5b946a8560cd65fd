//! Check values of the briefs, laws of random spaces, and what errors say.

use std::collections::HashSet;

use num_bigint::BigUint;
use oncefit_random::Draws;
use oncefit_space::*;
use proptest::prelude::*;

/// The member whose units all have depth `d`, whose blocks all have kernel `k` and expand ratio
/// `e`.
fn uniform(space: &Space, text: &str) -> Subnet {
    space.parse_subnet(text).unwrap()
}

fn family(name: &str) -> Space {
    Space::builtin(name).unwrap()
}

#[test]
fn fm_nano_has_the_numbers_of_the_brief() {
    let space = family("fm-nano");
    assert_eq!(space.count().unwrap(), BigUint::from(819u64.pow(3) * 3));
    for (depth, kernel, expand, macs, parameters) in [
        (1, 3, 3, 355_448, Some(20_106)),
        (3, 7, 6, 3_603_440, Some(121_314)),
        (1, 5, 3, 461_816, None),
        (2, 5, 3, 877_832, None),
        (3, 5, 3, 1_293_848, None),
        (2, 5, 6, 1_658_192, None),
        (3, 5, 4, 1_689_824, None),
        (3, 5, 6, 2_496_368, None),
    ] {
        let text = format!("resolution=28:depth={depth}:kernel={kernel}:expand={expand}");
        let subnet = uniform(&space, &text);
        assert_eq!(subnet.graph().macs(), macs, "{text}");
        if let Some(parameters) = parameters {
            assert_eq!(subnet.graph().parameters(), parameters, "{text}");
        }
    }
    assert_eq!(
        space.smallest().unwrap().text(),
        "resolution=20:depth=1,1,1:kernel=3,3,3:expand=3,3,3"
    );
}

#[test]
fn ofa_mobilenet_v3_has_the_numbers_of_the_brief() {
    let space = family("ofa-mobilenet-v3");
    assert_eq!(
        space.count().unwrap(),
        BigUint::from(7371u32).pow(5) * 25u32
    );
    for (depth, expand, kernel, macs, parameters) in [
        (2, 3, 3, 121_278_672, Some(3_410_792)),
        (3, 4, 5, 250_746_944, Some(4_551_792)),
        (4, 3, 3, 226_193_808, Some(4_371_928)),
        (4, 6, 3, 433_141_536, Some(7_299_960)),
        (4, 6, 7, 566_170_656, Some(7_664_760)),
        (2, 3, 7, 151_300_000, None),
    ] {
        let text = format!("resolution=224:depth={depth}:kernel={kernel}:expand={expand}");
        let graph = uniform(&space, &text).graph().clone();
        match parameters {
            Some(parameters) => {
                assert_eq!(
                    (graph.macs(), graph.parameters()),
                    (macs, parameters),
                    "{text}"
                );
            }
            // DepS gives rounded numbers.
            None => assert!(
                graph.macs().abs_diff(macs) < 50_000,
                "{text}: {}",
                graph.macs()
            ),
        }
    }
    let wide = Space::builtin_with("ofa-mobilenet-v3", &[("width", Value::Real(1.2))]).unwrap();
    for (text, macs, parameters) in [
        (
            "resolution=224:depth=2:kernel=3:expand=3",
            193_078_200,
            4_602_456,
        ),
        (
            "resolution=224:depth=4:kernel=7:expand=6",
            843_101_040,
            10_701_632,
        ),
    ] {
        let graph = uniform(&wide, text).graph().clone();
        assert_eq!(
            (graph.macs(), graph.parameters()),
            (macs, parameters),
            "{text}"
        );
    }
}

#[test]
fn the_other_families_have_the_numbers_of_the_briefs() {
    let proxyless = family("ofa-proxylessnas");
    assert_eq!(
        proxyless.count().unwrap(),
        BigUint::from(7371u32).pow(5) * 9u32 * 25u32
    );
    let cifar = family("deps-cifar-mobilenet-v3");
    assert_eq!(cifar.count().unwrap(), BigUint::from(117u32).pow(5));
    for (depth, expand, millions) in [
        (2, 3, 45.1),
        (3, 3, 68.3),
        (4, 3, 91.5),
        (4, 4, 120.8),
        (3, 6, 132.9),
        (4, 6, 179.7),
    ] {
        let subnet = uniform(&cifar, &format!("depth={depth}:expand={expand}"));
        let found = subnet.graph().macs() as f64 / 1e6;
        assert!(
            (found - millions).abs() < 0.06,
            "depth {depth}, expand {expand}: {found}"
        );
    }
}

#[test]
fn the_envelope_holds_every_member() {
    for name in Space::builtin_names() {
        let space = family(name);
        let envelope = space.envelope().unwrap();
        let mut draws = Draws::new(1, "test", 0, 0);
        for index in 0..22 {
            let subnet = match index {
                0 => space.largest().unwrap(),
                1 => space.smallest().unwrap(),
                _ => space.sample(&mut draws).unwrap(),
            };
            subnet.graph().validate().unwrap();
            for node in &subnet.graph().nodes {
                let stored = envelope
                    .nodes
                    .iter()
                    .find(|stored| stored.path == node.path);
                let stored = stored.unwrap_or_else(|| panic!("{name}: {}", node.path));
                assert!(
                    stored.out_channel_choices.contains(&node.shape.channels),
                    "{}",
                    node.path
                );
                if let Op::Depthwise { kernel, .. } = node.op {
                    assert!(stored.kernels.contains(&kernel), "{}", node.path);
                }
            }
        }
    }
    let envelope = family("fm-nano").envelope().unwrap();
    let expand = envelope
        .nodes
        .iter()
        .find(|node| node.path == "unit2[1].expand.conv")
        .unwrap();
    assert_eq!(expand.out_channel_choices, [48, 64, 96]);
    let squeeze = envelope
        .nodes
        .iter()
        .find(|node| node.path == "unit2[1].squeeze.reduce")
        .unwrap();
    assert_eq!(
        squeeze.out_channel_choices,
        [16, 24],
        "48/4 → 16 (the 0.9 rule), 64/4 → 16, 96/4 → 24"
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
fn errors_in_texts_show_the_place() {
    for (text, expected) in [
        (
            "space s\ninput(8, 8, 1)\ncnv(8)\n",
            "s.space:3:1: `cnv` is not known; did you mean `conv`?",
        ),
        (
            "space s\ninput(8, 8, 1)\nconv(8, kernal = 3)\n",
            "`conv` has no argument `kernal`; did you mean `kernel`?",
        ),
        (
            "space s\ninput(8, 8, 1)\nconv(widht)\n",
            "s.space:3:6: `widht` is not known here",
        ),
        (
            "space s\nconv(8)\n",
            "there is no `input(height, width, channels)` before this",
        ),
        (
            "space s\ninput(8, 8, 1)\nrepeat n in (1, 2) { conv(4)\n",
            "a `}` is missing",
        ),
        (
            "space s\ninput(8, 8, 1)\ndecide k in ()\nconv(k)\n",
            "a domain has at least one value",
        ),
        (
            "space s\ninput(8, 8, 1)\nsum { conv(4) } { conv(5) }\n",
            "8×8×4 and 8×8×5 cannot be added",
        ),
        (
            "space s\ninput(8, 8, 1)\ndecide a in (1, 2)\ndecide b in (a, 3)\nconv(b)\n",
            "may not depend on a decision",
        ),
        (
            "space s\ninput(8, 8, 1)\nif in > 1 { conv(4) }\nconv(2)\n",
            "may not depend on `in`",
        ),
        (
            "space s\ninput(8, 8, 1)\nconv(2 +)\n",
            "expected a value, found `)`",
        ),
        ("space s\ninput(8, 8, 1)\nconv(0)\n", "is an integer from 1"),
        ("space s\ninput(8, 8, 1)\nconv(2, 2)\n", "an odd kernel"),
        ("spice s\n", "s.space:1:1: expected `space`, found `spice`"),
        ("space s\n", "it needs an input and operations"),
        ("space s\ninput(8, 8, 1)\nconv(1 / 0)\n", "division by zero"),
        (
            "space s\ninput(8, 8, 1)\nconv(2)\nfix kernel in (3)\n",
            "no decision `kernel`",
        ),
    ] {
        let message = Space::parse(text, "s.space").unwrap_err().to_string();
        assert!(message.contains(expected), "{text}\n{message}");
    }
    let message = Space::parse("space s\ninput(8, 8, 1)\n  cnv(8)\n", "s.space").unwrap_err();
    assert!(
        message.to_string().ends_with("\n  |   cnv(8)\n  |   ^"),
        "{message}"
    );
}

#[test]
fn shipped_texts_are_read_back_from_their_printed_form() {
    for name in Space::builtin_names() {
        let space = family(name);
        let text = space.to_text();
        let again = Space::parse(&text, "again").unwrap();
        assert_eq!(again.to_text(), text);
        assert_eq!(again.largest().unwrap(), space.largest().unwrap());
        assert_eq!(again.decisions(), space.decisions());
        let narrow = space.restrict("depth", &[Value::Int(2)]).unwrap();
        let again = Space::parse(&narrow.to_text(), "again").unwrap();
        assert_eq!(again.count().unwrap(), narrow.count().unwrap());
    }
}

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
fn tied_copies_are_alike_and_counted_once() {
    let text = "space s\ninput(8, 8, 1)\nunit: repeat tied n in (1, 2, 3) { conv(4, kernel = 3)\n decide k in (3, 5)\n depthwise(k) }\n";
    let space = Space::parse(text, "s").unwrap();
    assert_eq!(space.count().unwrap(), BigUint::from(6u32));
    let members = enumerate(&space);
    assert_eq!(members.len(), 6);
    for member in members {
        let kernels: HashSet<usize> = member
            .graph()
            .nodes
            .iter()
            .filter_map(|node| match node.op {
                Op::Depthwise { kernel, .. } => Some(kernel),
                _ => None,
            })
            .collect();
        assert_eq!(kernels.len(), 1, "{}", member.text());
    }
}

/// All members, by walking the tree of decisions.
fn enumerate(space: &Space) -> Vec<Subnet> {
    let mut open = vec![Trace::default()];
    let mut members = Vec::new();
    while let Some(trace) = open.pop() {
        match space.step(&trace).unwrap() {
            Step::Decide(slot) => {
                for value in &slot.domain.values {
                    let mut next = trace.clone();
                    next.choices.push(Choice {
                        path: slot.path.clone(),
                        name: slot.name.clone(),
                        value: value.clone(),
                    });
                    open.push(next);
                }
            }
            Step::Done(subnet) => members.push(subnet),
            Step::Hole(reason) => panic!("{reason}"),
        }
    }
    members
}

/// Statements of random small spaces.
fn statement(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("conv(8, kernel = 3)".to_owned()),
        Just("relu".to_owned()),
        Just("decide k in (3, 5)\ndepthwise(k)".to_owned()),
        Just("decide w in (4, 8, 16)\nconv(w)\nbatch_norm".to_owned()),
        Just("decide flag in (false, true)\nif flag { conv(8)\ndecide k in (1, 3)\nconv(8, kernel = k) } else { relu }".to_owned())
            .prop_map(|text| text.replace("\nconv(8, kernel = k)", "\ndepthwise(k)")),
        Just("block(4)".to_owned()),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    let body =
        || prop::collection::vec(statement(depth - 1), 1..3).prop_map(|parts| parts.join("\n"));
    prop_oneof![
        2 => leaf,
        1 => body().prop_map(|body| format!("repeat n in (1, 2) {{\n{body}\n}}")),
        1 => body().prop_map(|body| format!("optional maybe {{\n{body}\n}}")),
        1 => (body(), body()).prop_map(|(a, b)| format!("choice kind {{\na: {{\n{a}\n}}\nb: {{\n{b}\n}}\n}}")),
        1 => body().prop_map(|body| format!("residual {{\n{body}\n}}")),
    ]
    .boxed()
}

fn space() -> impl Strategy<Value = (String, Space)> {
    prop::collection::vec(statement(2), 1..4).prop_map(|parts| {
        let text = format!(
            "space random\ndefine block(w) {{\ndecide e in (1, 2)\nconv(w * e)\n}}\ninput(8, 8, 2)\nconv(4)\n{}\n",
            parts.join("\n")
        );
        let space = Space::parse(&text, "random").unwrap_or_else(|error| panic!("{text}\n{error}"));
        (text, space)
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn laws_of_random_spaces((text, space) in space(), seed: u64) {
        let count = space.count().unwrap();
        let printed = space.to_text();
        prop_assert_eq!(Space::parse(&printed, "again").unwrap().to_text(), printed);
        if count <= BigUint::from(3000u32) {
            let members = enumerate(&space);
            prop_assert_eq!(BigUint::from(members.len()), count, "{}", text);
            let traces: HashSet<&Trace> = members.iter().map(Subnet::trace).collect();
            prop_assert_eq!(traces.len(), members.len());
        }
        let mut draws = Draws::new(seed, "test", 0, 0);
        let envelope = space.envelope().unwrap();
        let length = space.encode(&space.largest().unwrap()).len();
        prop_assert_eq!(space.encoding_names().len(), length);
        for _ in 0..5 {
            let one = space.sample(&mut draws).unwrap();
            let two = space.sample_uniform(&mut draws).unwrap();
            let child = space.crossover(&one, &two, &mut draws).unwrap();
            let mutant = space.mutate(&child, 0.3, &mut draws).unwrap();
            prop_assert_eq!(&space.mutate(&one, 0.0, &mut draws).unwrap(), &one);
            prop_assert_eq!(&space.crossover(&one, &one, &mut draws).unwrap(), &one);
            for subnet in [one, two, child, mutant] {
                subnet.graph().validate().unwrap();
                prop_assert_eq!(&space.subnet(subnet.trace()).unwrap(), &subnet);
                prop_assert_eq!(&space.parse_subnet(&subnet.text()).unwrap(), &subnet, "{}", subnet.text());
                let code = space.encode(&subnet);
                prop_assert_eq!(code.len(), length);
                let active = subnet.trace().choices.len() as f32;
                prop_assert_eq!(code.iter().sum::<f32>(), active);
                for node in &subnet.graph().nodes {
                    let stored = envelope.nodes.iter().find(|stored| stored.path == node.path);
                    prop_assert!(stored.is_some_and(|stored| stored.out_channels >= node.shape.channels));
                }
            }
        }
    }

    #[test]
    fn damaged_texts_are_errors_not_panics(cut in 0..2000usize, at in 0..2000usize, with in "[ -~\n]{0,3}") {
        let mut text = include_str!("../spaces/fm-nano.space").to_owned();
        let floor = |text: &str, mut at: usize| {
            at = at.min(text.len());
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        text.insert_str(floor(&text, at), &with);
        text.truncate(floor(&text, cut.max(at / 2)));
        let _ = Space::parse(&text, "damaged");
    }
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
