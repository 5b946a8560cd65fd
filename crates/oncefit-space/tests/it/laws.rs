//! Laws that hold for every space, tried on random ones.

use std::collections::HashSet;

use num_bigint::BigUint;
use oncefit_random::Draws;
use oncefit_space::{DecisionSlot, Graph, SegmentState, Space, Subnet, Trace, Value};
use proptest::prelude::*;

use super::enumerate;

/// Statements of random small spaces: every kind of node, conditions on decisions near and far.
fn statement(depth: u32) -> BoxedStrategy<String> {
    let leaf = prop::sample::select(vec![
        "conv(8, kernel = 3)",
        "relu",
        "dropout(0.5)",
        "block(4)",
        "block(min(in, 8))",
        "decide k in (3, 5)\ndepthwise(k)",
        "decide single in (3)\ndepthwise(single)",
        "decide w in unordered (4, 8, 16)\nconv(w)\nbatch_norm",
        "decide e in (0.5, 1.0)\nlet w = divisible(in * e, 4)\nconv(w)",
        "decide flag in (false, true)\nif flag { conv(8)\ndecide k in (1, 3)\ndepthwise(k) } else { relu }",
        "if wide { decide k in (1, 3)\ndepthwise(k) }",
        "let both = wide and far == 2\nif both { conv(12) } else { optional tail { relu } }",
        "decide rate in log 0.001..=0.1 count 3\nrelu",
        "recursive(2)",
        "gate { global_average_pool; hard_sigmoid }",
        "decide size in (1, 3, 5)\nconv(8, kernel = size)\nbatch_norm",
        "before: seq { }\nconv(in, kernel = 3)\nsum { choice edge { off: nothing\non: read before } } { choice edge { off: nothing\non: relu } }",
        "before: seq { }\nconv(7)\nrepeat n in (1, 2) { relu6 }\nread before\nif wide { relu }",
    ])
    .prop_map(str::to_owned);
    if depth == 0 {
        return leaf.boxed();
    }
    let body =
        || prop::collection::vec(statement(depth - 1), 1..3).prop_map(|parts| parts.join("\n"));
    prop_oneof![
        3 => leaf,
        1 => body().prop_map(|body| format!("repeat n in (1, 2) {{\n{body}\n}}")),
        1 => body().prop_map(|body| format!("repeat n in (0, 2) as i {{\nif i == 0 {{\n{body}\n}}\n}}")),
        1 => body().prop_map(|body| format!("repeat tied n in (1, 3) {{\n{body}\n}}")),
        1 => body().prop_map(|body| format!("repeat tied n in (2) {{\n{body}\n}}")),
        1 => body().prop_map(|body| format!("optional maybe {{\n{body}\n}}")),
        1 => (body(), body())
            .prop_map(|(a, b)| format!("choice kind {{\na: {{\n{a}\n}}\nb: {{\n{b}\n}}\nc: relu\n}}")),
        1 => body().prop_map(|body| format!("residual {{\n{body}\n}}")),
        1 => (body(), body())
            .prop_map(|(a, b)| format!("sum {{\n{a}\nconv(8)\n}} {{\n{b}\nconv(8)\n}}")),
        1 => (body(), body())
            .prop_map(|(a, b)| format!("concat {{\n{a}\n}} {{\n{b}\n}} {{ conv(4) }}")),
        1 => body().prop_map(|body| format!("dense {{\n{body}\nconv(4)\n}}")),
        1 => (body(), body())
            .prop_map(|(a, b)| format!("permute order {{\n{a}\n}} {{\n{b}\n}}")),
        1 => body().prop_map(|body| format!("part: seq {{\n{body}\n}}")),
    ]
    .boxed()
}

/// A random space whose members all exist, with its text.
fn space() -> impl Strategy<Value = (String, Space)> {
    prop::collection::vec(statement(2), 1..4).prop_map(|parts| {
        // Conditions see only their block's names, so the body is one block.
        let text = format!(
            "space random\ndefine block(w) {{ decide e in (1, 2); conv(w * e) }}\ndefine recursive(n) {{ if n > 0 {{ choice way {{ stop: relu\ngo: {{ inner: recursive(n - 1) }} }} }} }}\ninput(8, 8, 2)\ndecide wide in (false, true)\ndecide far in (1, 2)\nconv(4)\n{}\n",
            parts.join("\n")
        );
        let space = Space::parse(&text, "random").unwrap_or_else(|error| panic!("{text}\n{error}"));
        (text, space)
    })
}

fn number(value: usize) -> BigUint {
    BigUint::from(value)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn counting_numbering_and_enumerating_agree((text, space) in space(), seed: u64) {
        let count = space.count().unwrap();
        prop_assert!(space.unrank(&count).unwrap_err().to_string().contains("there is no member"));
        if count <= number(500) {
            let members = enumerate(&space);
            prop_assert_eq!(number(members.len()), count, "{}", text);
            let traces: HashSet<&Trace> = members.iter().map(Subnet::trace).collect();
            prop_assert_eq!(traces.len(), members.len());
            for (index, member) in members.iter().enumerate() {
                prop_assert_eq!(&space.unrank(&number(index)).unwrap(), member, "{}", text);
                prop_assert_eq!(space.rank(member).unwrap(), number(index), "{}", text);
            }
        }
        let mut draws = Draws::new(seed, "test", 0, 0);
        let subnet = space.sample_uniform(&mut draws).unwrap();
        prop_assert_eq!(&space.unrank(&space.rank(&subnet).unwrap()).unwrap(), &subnet);
    }

    #[test]
    fn segments_run_one_after_the_other_are_the_network((text, space) in space(), seed: u64) {
        let mut draws = Draws::new(seed, "test", 0, 0);
        let segments = space.segments();
        let indices: Vec<usize> = space
            .decisions()
            .iter()
            .map(|slot| draws.below(slot.domain.values.len()))
            .collect();
        let position = |slot: &DecisionSlot| {
            space.decisions().iter().position(|other| other == slot).unwrap()
        };
        let subnet = space.build(&mut |slot| indices[position(slot)]).unwrap();
        let mut state = SegmentState::default();
        let (mut ops, mut macs, mut parameters, mut peak) = (Vec::new(), 0, 0, 0);
        let mut active = HashSet::new();
        for (number, segment) in segments.list().iter().enumerate() {
            if !segment.guards.iter().all(|guard| guard.allowed[indices[guard.slot]]) {
                continue;
            }
            active.extend(segment.control);
            let skipped = usize::from(state.shape.is_some());
            let outcome = segments.run(number, &state, &indices).unwrap();
            prop_assert!(outcome.active.iter().all(|slot| segment.slots.contains(slot)));
            active.extend(outcome.active);
            ops.extend(outcome.graph.nodes[skipped..].iter().map(|node| (node.op, node.shape)));
            macs += outcome.graph.macs();
            parameters += outcome.graph.parameters();
            peak = peak.max(outcome.graph.peak_activation_bytes());
            state = outcome.state;
        }
        let graph = subnet.graph();
        let whole: Vec<_> = graph.nodes.iter().map(|node| (node.op, node.shape)).collect();
        prop_assert_eq!(ops, whole, "{}", text);
        prop_assert_eq!((macs, parameters), (graph.macs(), graph.parameters()));
        prop_assert_eq!(peak, graph.peak_activation_bytes(), "{}", text);
        let chosen: HashSet<usize> = subnet
            .trace()
            .choices
            .iter()
            .map(|choice| space.decisions().iter().position(|slot| slot.path == choice.path).unwrap())
            .collect();
        prop_assert_eq!(active, chosen, "{}", text);
    }

    #[test]
    fn candidates_are_the_members((text, space) in space(), seed: u64) {
        let mut draws = Draws::new(seed, "test", 0, 0);
        let candidate = space.sample_candidate(&mut draws).unwrap();
        let subnet = space.subnet_of(&candidate).unwrap();
        prop_assert_eq!(subnet.trace(), &space.trace_of(&candidate), "{}", text);
        prop_assert_eq!(&space.candidate_of(subnet.trace()).unwrap(), &candidate);
        prop_assert_eq!(&space.unrank_candidate(&space.rank(&subnet).unwrap()).unwrap(), &candidate);
        let count = space.count().unwrap();
        prop_assert!(space.unrank_candidate(&count).is_err());
        if count <= number(500) {
            let mut next = Some(space.candidate(|_, _| 0).unwrap());
            let mut rank = 0;
            while let Some(candidate) = next {
                prop_assert_eq!(&space.unrank_candidate(&number(rank)).unwrap(), &candidate, "{}", text);
                next = space.next_candidate(&candidate).unwrap();
                rank += 1;
            }
            prop_assert_eq!(number(rank), count, "{}", text);
        }
    }

    #[test]
    fn printed_spaces_are_the_same_spaces((_, space) in space()) {
        let printed = space.to_text();
        let again = Space::parse(&printed, "again").unwrap();
        prop_assert_eq!(again.to_text(), printed);
        prop_assert_eq!(again.decisions(), space.decisions());
        prop_assert_eq!(again.envelope().unwrap(), space.envelope().unwrap());
    }

    #[test]
    fn members_are_valid_and_written_uniquely((text, space) in space(), seed: u64) {
        let mut draws = Draws::new(seed, "test", 0, 0);
        let envelope = space.envelope().unwrap();
        let length = space.encoding_names().len();
        for _ in 0..5 {
            let one = space.sample(&mut draws).unwrap();
            let two = space.sample_uniform(&mut draws).unwrap();
            let child = space.crossover(&one, &two, &mut draws).unwrap();
            let mutant = space.mutate(&child, 0.3, &mut draws).unwrap();
            prop_assert_eq!(&space.mutate(&one, 0.0, &mut draws).unwrap(), &one);
            prop_assert_eq!(&space.crossover(&one, &one, &mut draws).unwrap(), &one);
            for choice in &child.trace().choices {
                let of = |parent: &Subnet| parent.trace().get(&choice.path).cloned();
                let (of_one, of_two) = (of(&one), of(&two));
                let is_inherited = of_one.as_ref() == Some(&choice.value) || of_two.as_ref() == Some(&choice.value);
                prop_assert!(is_inherited || (of_one.is_none() && of_two.is_none()), "{}", choice.path);
            }
            for subnet in [one, two, child, mutant] {
                subnet.graph().validate().unwrap();
                prop_assert_eq!(&space.subnet(subnet.trace()).unwrap(), &subnet);
                prop_assert_eq!(&space.parse_subnet(&subnet.text()).unwrap(), &subnet, "{}\n{}", text, subnet.text());
                let code = space.encode(&subnet);
                prop_assert_eq!(code.len(), length);
                prop_assert_eq!(code.iter().sum::<f32>(), subnet.trace().choices.len() as f32);
                for choice in &subnet.trace().choices {
                    let slot = space.decisions().iter().find(|slot| slot.path == choice.path).unwrap();
                    prop_assert!(slot.domain.values.len() > 1, "{} has one value", slot.path);
                }
                for node in &subnet.graph().nodes {
                    let stored = envelope.nodes.iter().find(|stored| stored.path == node.path);
                    prop_assert!(
                        stored.is_some_and(|stored| stored.out_channel_choices.contains(&node.shape.channels)),
                        "{}\n{}: {}", text, node.path, node.shape
                    );
                }
            }
        }
    }

    #[test]
    fn members_of_a_narrowed_space_are_members((text, space) in space(), seed: u64) {
        let mut draws = Draws::new(seed, "test", 0, 0);
        let is_name = |path: &str| {
            space.decisions().iter().filter(|slot| slot.name == path).count() > 1
        };
        let paths = space.decisions().iter().filter(|slot| !is_name(&slot.path));
        let slot = draws.choose(&paths.collect::<Vec<_>>()).copied().unwrap();
        let kept = 1 + draws.below(slot.domain.values.len());
        let values: Vec<Value> = slot.domain.values[slot.domain.values.len() - kept..].to_vec();
        let narrow = space.restrict(&slot.path, &values).unwrap();
        prop_assert!(narrow.count().unwrap() <= space.count().unwrap());
        for _ in 0..5 {
            let subnet = narrow.sample(&mut draws).unwrap();
            let same = space.build(&mut |decision| {
                let value = subnet.trace().get(&decision.path).unwrap_or(&values[0]);
                decision.domain.position(value).unwrap()
            });
            let same = same.unwrap();
            prop_assert_eq!(same.graph(), subnet.graph(), "{}", text);
        }
    }

    #[test]
    fn damaged_texts_are_errors_not_panics(
        family in prop::sample::select(Space::builtin_names()),
        damages in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..4), 1..4),
        with in "[ -~\n]{0,3}",
    ) {
        let mut characters: Vec<char> = Space::builtin(family).unwrap().to_text().chars().collect();
        for (at, other, kind) in damages {
            let (at, other) = (at.index(characters.len()), other.index(characters.len()));
            match kind {
                0 => { characters.drain(at..(at + other % 8 + 1).min(characters.len())); }
                1 => { characters.splice(at..at, with.chars()); }
                2 => characters.swap(at, other),
                _ => characters.truncate(at.max(1)),
            }
        }
        let text: String = characters.into_iter().collect();
        if let Ok(space) = Space::parse(&text, "damaged") {
            // What is still a space keeps its laws.
            prop_assert_eq!(Space::parse(&space.to_text(), "again").unwrap().to_text(), space.to_text());
        }
    }

    #[test]
    fn damaged_graphs_are_found_by_validation(seed: u64, field in any::<prop::sample::Index>(), with in prop::sample::select(vec![0u64, 1, 2, 7, 300, 1 << 20, u64::MAX])) {
        let space = Space::builtin("fm-nano").unwrap();
        let subnet = space.sample(&mut Draws::new(seed, "test", 0, 0)).unwrap();
        let mut json = serde_json::to_value(subnet.graph()).unwrap();
        let mut numbers = Vec::new();
        collect_numbers(&mut json, &mut numbers);
        let number = field.index(numbers.len());
        let is_changed = *numbers[number] != serde_json::json!(with);
        *numbers[number] = serde_json::json!(with);
        let Ok(graph) = serde_json::from_value::<Graph>(json) else { return Ok(()) };
        if graph.validate().is_ok() {
            let costs = (graph.macs(), graph.parameters(), graph.peak_activation_bytes(), graph.consumers());
            prop_assert!(!is_changed || graph != *subnet.graph() || costs.0 == subnet.graph().macs());
        }
    }
}

/// Every number of a JSON value that is part of a shape, an operation or a list of inputs.
fn collect_numbers<'j>(
    value: &'j mut serde_json::Value,
    found: &mut Vec<&'j mut serde_json::Value>,
) {
    match value {
        serde_json::Value::Number(_) => found.push(value),
        serde_json::Value::Array(parts) => parts
            .iter_mut()
            .for_each(|part| collect_numbers(part, found)),
        serde_json::Value::Object(parts) => parts
            .values_mut()
            .for_each(|part| collect_numbers(part, found)),
        _ => {}
    }
}
