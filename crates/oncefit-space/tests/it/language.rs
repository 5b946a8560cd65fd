//! What texts mean, and what is wrong with those that mean nothing.

use std::collections::HashSet;

use num_bigint::BigUint;
use oncefit_space::{Op, Space, Value};

use super::{enumerate, parse};

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
            "space s\ninput(8, 8, 1)\nconv(8, kernel = 3, transform = true)\n",
            "`conv` has no argument `transform`: only `depthwise` makes small kernels by learnt matrices",
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
            "s.space:3:1: `add`: 8×8×4 and 8×8×5 cannot be added: both need one shape\n  | sum { conv(4) }",
        ),
        (
            "space s\ndefine unit(a) {\n  sum { conv(4) } { conv(a) }\n}\ninput(8, 8, 1)\ninner: seq { unit(5) }\n",
            "s.space:3:3: `inner.add`: 8×8×4 and 8×8×5 cannot be added",
        ),
        (
            "space s\ninput(8, 8, 1)\nmax_pool(3, stride = 2)\nmax_pool(5)\n",
            "s.space:4:1: `max_pool_2`: a pool of kernel 5, stride 1, padding 0 does not fit into 3×3×1: its kernel is at most",
        ),
        (
            "space s\ninput(8, 8, 1)\ngate { conv(2) }\n",
            "s.space:3:1: `multiply`: a gate of 8×8×1 needs 1×1×1, this one is 8×8×2",
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
            "s.space:4:5: space `s` has no decision `kernel`",
        ),
        (
            "space s\ninput(8, 8, 1)\ndecide w in (2, 4)\nconv(w)\nfix w in (3)\n",
            "s.space:5:5: decision `w` has no values left; its values: 2, 4",
        ),
        (
            "space s\ninput(8, 8, 1)\ndecide w in (2, 4)\nconv(w)\nfix w in ()\n",
            "s.space:5:5: decision `w` needs at least one value",
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

#[test]
fn what_counting_forbids_is_an_error() {
    for (body, expected) in [
        (
            "let m = in * 2\nif m > 8 { conv(4) }",
            "may not depend on `in`",
        ),
        (
            "decide k in (in, 3)\nconv(k)",
            "may not depend on a decision or on `in`",
        ),
        (
            "repeat n in (1, in) { relu }",
            "may not depend on a decision or on `in`",
        ),
        (
            "decide s in (1, 2)\nconv(4, stride = s)",
            "`stride` of `conv` may not depend on a decision",
        ),
        ("decide a in (1, 1.0)\nconv(a)", "stands twice"),
        (
            "repeat tied n in (1, 2) as i { if i == 1 { decide k in (3, 5); depthwise(k) } }",
            "a tied copy decides what the first copy decides",
        ),
        ("let in = 3", "`in` is a word of the language"),
        (
            "decide f in (1, 2)\nif f { relu }",
            "a condition is true or false, this is an integer",
        ),
        ("if 1 < 2 { input(8, 8, 1) }", "one input, at the top level"),
        ("batch_norm(0 - 1)", "0 or more"),
        ("activate(tanh)", "`tanh` is not known here"),
        ("activate(3)", "one of identity, relu"),
        ("conv(1e999)", "no finite number"),
        ("repeat n in (1001) { relu }", "from 0 to 1000"),
        ("average_pool(9)", "does not fit"),
    ] {
        let text = format!("space s\ninput(8, 8, 1)\n{body}\nconv(2)\n");
        let message = Space::parse(&text, "s.space").unwrap_err().to_string();
        assert!(message.contains(expected), "{text}\n{message}");
    }
}

#[test]
fn spaces_that_explode_are_errors() {
    let mut bomb = String::from("space s\ndefine t0() { }\n");
    for level in 1..60 {
        bomb += &format!("define t{level}() {{ t{0}(); t{0}() }}\n", level - 1);
    }
    let copies = "repeat a in (1000) { repeat b in (1000) { repeat c in (1000) { } } }";
    let terms = "let x = 1".to_owned() + &" + 1".repeat(100_000);
    let parentheses = format!("let x = {}1{}", "(".repeat(10_000), ")".repeat(10_000));
    let blocks = format!("{}{}", "seq {".repeat(10_000), "}".repeat(10_000));
    let mut chain = String::from("space s\ndefine t0() { relu }\n");
    for level in 1..2000 {
        chain += &format!("define t{level}() {{ seq {{ t{}() }} }}\n", level - 1);
    }
    for (text, expected) in [
        (
            bomb.clone() + "input(8, 8, 1)\nconv(2)\nt59()\n",
            "more than 100000 statements",
        ),
        (
            bomb + "input(8, 8, 1)\nconv(2)\nif 1 > 2 { t59() }\nrelu\n",
            "more than 100000 statements",
        ),
        (
            format!("space s\ninput(8, 8, 1)\n{copies}\n"),
            "more than 100000 statements",
        ),
        (format!("space s\n{terms}\n"), "operators in a row"),
        (format!("space s\n{parentheses}\n"), "nesting is deeper"),
        (format!("space s\n{blocks}\n"), "nesting is deeper"),
        (chain + "input(8, 8, 1)\nt1999()\n", "nested deeper"),
    ] {
        let message = Space::parse(&text, "s.space").unwrap_err().to_string();
        assert!(
            message.contains(expected),
            "{}",
            &message[..message.len().min(300)]
        );
    }
}

#[test]
fn conditions_on_decisions_are_counted_one_by_one() {
    let mut near = String::from("space s\ninput(8, 8, 1)\n");
    for flag in 0..200 {
        near += &format!(
            "decide f{flag} in (false, true)\nif f{flag} {{ decide k in (3, 5, 7); depthwise(k) }}\n"
        );
    }
    assert_eq!(parse(&near).count().unwrap(), BigUint::from(4u32).pow(200));
    let mut far = String::from("space s\ninput(8, 8, 1)\n");
    for flag in 0..40 {
        far += &format!("decide f{flag} in (false, true)\n");
    }
    for flag in 0..40 {
        far += &format!("if f{flag} {{ relu }}\n");
    }
    // Nothing depends on these conditions.
    let space = parse(&far);
    assert_eq!(space.count().unwrap(), BigUint::from(2u32).pow(40));
    let member = space.sample_uniform(&mut oncefit_random::Draws::new(1, "far", 0, 0));
    let member = member.unwrap();
    assert_eq!(space.unrank(&space.rank(&member).unwrap()).unwrap(), member);
    for flag in 0..40 {
        far += &format!("if f{flag} {{ decide k in (3, 5); depthwise(k) }}\n");
    }
    let message = parse(&far).count().unwrap_err().to_string();
    assert!(message.contains("cannot be counted"), "{message}");
}

#[test]
fn paths_are_unique_and_do_not_depend_on_what_is_left_out() {
    let text = |flag: &str| {
        format!(
            "space s(flag = {flag})\ninput(8, 8, 1)\nconv(2)\nconv_3: conv(2)\nif flag {{ conv(2); relu }}\nconv(4)\nrelu\ndecide kind in (1, 2)\nchoice kind {{ a: relu b: relu6 }}\nconv(kind)\n"
        )
    };
    let paths = |flag: &str| -> Vec<String> {
        let graph = parse(&text(flag)).smallest().unwrap().graph().clone();
        graph.nodes.into_iter().map(|node| node.path).collect()
    };
    assert_eq!(
        paths("true"),
        [
            "input",
            "conv",
            "conv_3",
            "conv_2",
            "relu",
            "conv_4",
            "relu_2",
            "kind_2.a.relu",
            "conv_5"
        ]
    );
    assert_eq!(
        paths("false"),
        [
            "input",
            "conv",
            "conv_3",
            "conv_4",
            "relu_2",
            "kind_2.a.relu",
            "conv_5"
        ]
    );
}

#[test]
fn parameters_have_the_kind_of_their_default() {
    let wide = Space::builtin_with("ofa-mobilenet-v3", &[("width", Value::Int(2))]).unwrap();
    assert!(
        wide.to_text()
            .starts_with("space ofa-mobilenet-v3(width = 2.0,")
    );
    let many = Space::builtin_with("fm-nano", &[("classes", Value::Int(47))]).unwrap();
    assert_eq!(many.largest().unwrap().graph().output_shape().channels, 47);
    let word = Value::Text("ten".into());
    let message = Space::builtin_with("fm-nano", &[("classes", word)])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`classes` of space `fm-nano` is an integer"),
        "{message}"
    );
}

/// The members of a space, counted by formula, by walking and by their traces.
fn counted(text: &str) -> usize {
    let space = parse(text);
    let members = enumerate(&space);
    let traces: HashSet<String> = members
        .iter()
        .map(|member| format!("{:?}", member.trace()))
        .collect();
    assert_eq!(traces.len(), members.len());
    assert_eq!(space.count().unwrap(), BigUint::from(members.len()));
    assert_eq!(parse(&space.to_text()).hash(), space.hash());
    members.len()
}

#[test]
fn kinds_of_nodes_have_the_numbers_of_members_of_the_formulas() {
    let a = "decide k in (3, 5); depthwise(k)";
    let b = "decide w in (4, 6, 8); conv(w)";
    let space = |body: &str| format!("space s\ninput(8, 8, 2)\n{body}\n");
    for (body, members) in [
        (format!("seq {{ {a} }}; seq {{ {b} }}"), 2 * 3),
        (format!("concat {{ {a} }} {{ {b} }}"), 2 * 3),
        (format!("concat {{ }} {{ {b} }} {{ {a} }}"), 3 * 2),
        (format!("dense {{ {b} }}"), 3),
        (
            format!("repeat n in (0, 1, 2) {{ dense {{ {b} }} }}"),
            1 + 3 + 9,
        ),
        (
            format!("repeat tied n in (1, 2, 3) {{ dense {{ {b} }} }}"),
            3 * 3,
        ),
        (format!("permute order {{ {a} }} {{ {b} }}"), 2 * 2 * 3),
        (
            format!("permute order {{ {a} }} {{ {b} }} {{ relu }}"),
            6 * 2 * 3,
        ),
        (format!("optional use {{ {b} }}"), 1 + 3),
        (
            format!("choice which {{ x: {{ {a} }}\ny: {{ {b} }} }}"),
            2 + 3,
        ),
        // Edges: each of three nodes reads the one before it, the input, or both.
        (
            "repeat node in (3) { choice edges { before: relu\nboth: sum { conv(2) } { relu } } }"
                .into(),
            8,
        ),
        // A training setting is a decision like others.
        (
            "decide rate in log 1e-4..=1e-1 count 7\ndecide optimiser in (sgd, adam)\nconv(4)"
                .into(),
            14,
        ),
    ] {
        let text = space(&body).replace("(sgd, adam)", "unordered (1, 2)");
        assert_eq!(counted(&text), members, "{body}");
    }
}

#[test]
fn log_domains_have_equal_ratios_and_their_ends() {
    let space = parse("space s\ndecide rate in log 0.001..=1.0 count 4\ninput(4, 4, 1)\nconv(1)\n");
    let values: Vec<f64> = space.decisions()[0]
        .domain
        .values
        .iter()
        .map(|value| value.as_f64().unwrap())
        .collect();
    assert_eq!(values, [0.001, 0.01, 0.1, 1.0]);
    assert!(space.decisions()[0].domain.ordered);
    for domain in [
        "log 0..=1 count 3",
        "log 2..=1 count 3",
        "log 1..=2 count 1",
    ] {
        let text = format!("space s\ninput(4, 4, 1)\ndecide rate in {domain}\nconv(1)\n");
        let error = Space::parse(&text, "s.space").unwrap_err().to_string();
        assert!(
            error.contains("s.space:3:1") && error.contains("a log domain"),
            "{error}"
        );
    }
}

#[test]
fn templates_may_use_themselves_to_a_bounded_depth() {
    let tree = |depth: usize| {
        parse(&format!(
            "space s\ndefine tree(n) {{\n  if n == 0 {{ decide w in (2, 4); conv(w) }} else {{\n    concat {{ left: tree(n - 1) }} {{ right: tree(n - 1) }}\n  }}\n}}\ninput(4, 4, 1)\ntree({depth})\n"
        ))
    };
    for depth in 0..4 {
        assert_eq!(
            tree(depth).count().unwrap(),
            BigUint::from(2u32).pow(1 << depth)
        );
    }
    assert_eq!(
        tree(2).largest().unwrap().graph().output_shape().channels,
        16
    );
    let error = |text: &str| Space::parse(text, "s.space").unwrap_err().to_string();
    let endless = error("space s\ndefine f(n) { inner: f(n + 1) }\ninput(4, 4, 1)\nf(0)\n");
    assert!(endless.contains("nested deeper than"), "{endless}");
    let unlabelled = error("space s\ndefine f(n) {\n  f(n - 1)\n}\ninput(4, 4, 1)\nf(2)\n");
    assert!(
        unlabelled.contains("s.space:3:3") && unlabelled.contains("under a label"),
        "{unlabelled}"
    );
}

#[test]
fn concatenated_channels_lie_where_the_widest_network_has_them() {
    let text = "space s\ninput(4, 4, 1)\nconcat { decide a in (2, 5); conv(a) } { decide b in (3, 4); conv(b) }\nconv(7)\n";
    let space = parse(text);
    let node = |space: &Space, text: &str| {
        let member = space.parse_subnet(text).unwrap();
        let nodes = &member.graph().nodes;
        let found = nodes.iter().find(|node| node.path == "concat").unwrap();
        (found.op, found.shape.channels)
    };
    assert_eq!(node(&space, "a=2:b=3"), (Op::Concat { offset: 5 }, 5));
    assert_eq!(node(&space, "a=5:b=4"), (Op::Concat { offset: 5 }, 9));
    let envelope = space.envelope().unwrap();
    let widest = envelope
        .nodes
        .iter()
        .find(|node| node.path == "concat")
        .unwrap();
    assert_eq!(widest.out_channels, 9);
    assert_eq!(widest.out_channel_choices, [5, 6, 8, 9]);
    // A narrowed space is read from the same weights.
    let narrow = space.restrict("a", &[Value::Int(2)]).unwrap();
    assert_eq!(node(&narrow, "b=3"), (Op::Concat { offset: 5 }, 5));
    let error = Space::parse(
        "space s\ninput(4, 4, 1)\nconcat { conv(2, 3, 2) } { conv(2) }\n",
        "s.space",
    );
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("cannot be concatenated")
    );
}

#[test]
fn equal_networks_of_different_decisions_have_one_structure() {
    let space = parse(
        "space s\ninput(4, 4, 1)\nconv(2)\nchoice kind { a: relu\nb: activate(identity)\nc: { }\nd: { relu } }\n",
    );
    let members = enumerate(&space);
    let structures: HashSet<String> = members
        .iter()
        .map(|member| member.graph().structure_id())
        .collect();
    assert_eq!((members.len(), structures.len()), (4, 2));
}

/// DeepArchitect's spaces and NAS-Bench-Macro's, with counts from outside this crate (claim P7).
#[test]
fn deep_architects_spaces_have_their_known_counts() {
    let read = |text: &str, name: &str| {
        let space = Space::parse(text, name).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(parse(&space.to_text()).hash(), space.hash(), "{name}");
        let mut draws = oncefit_random::Draws::new(1, "members", 0, 0);
        for _ in 0..20 {
            let member = space.sample_uniform(&mut draws).unwrap();
            member.graph().validate().unwrap();
            let rank = space.rank(&member).unwrap();
            assert_eq!(space.unrank(&rank).unwrap(), member, "{name}");
        }
        space
    };
    let deepconv = read(
        include_str!("../../spaces/deep-architect/deepconv_ss0.space"),
        "deepconv_ss0",
    );
    assert_eq!(deepconv.count().unwrap(), BigUint::from(60_466_176u32));
    let resnet = read(
        include_str!("../../spaces/deep-architect/resnet_ss0.space"),
        "resnet_ss0",
    );
    let half: BigUint = [1, 2, 4, 8]
        .map(|r| BigUint::from(17_496u32).pow(r))
        .iter()
        .sum();
    assert_eq!(half.to_string(), "8780316282388761736410463107953304");
    assert_eq!(resnet.count().unwrap(), &half * (2u32 * &half + 1u32));
    assert_eq!(format!("{:.3}", resnet.log10_count().unwrap()), "68.188");
    let tfref = read(
        include_str!("../../spaces/deep-architect/tfref_convnet_ss0.space"),
        "tfref_convnet_ss0",
    );
    assert_eq!(tfref.count().unwrap(), BigUint::from(2025u32));
    let genetic = read(
        include_str!("../../spaces/deep-architect/genetic.space"),
        "genetic",
    );
    assert_eq!(genetic.count().unwrap(), BigUint::from(524_288u32));
    let bench = read(
        include_str!("../../spaces/deep-architect/nas_bench_macro.space"),
        "nas_bench_macro",
    );
    let members = enumerate(&bench);
    assert_eq!(
        (members.len(), bench.count().unwrap()),
        (6561, BigUint::from(6561u32))
    );
    let structures: HashSet<String> = members
        .iter()
        .map(|member| member.graph().structure_id())
        .collect();
    assert_eq!(structures.len(), 3969);
}

/// A member whose shapes do not meet is named with the place in the text.
#[test]
fn holes_show_the_place() {
    let text = "space s\ninput(8, 8, 1)\ndecide w in (4, 5)\nunit: sum { conv(4) } { choice k {\n  a: conv(4)\n  b: conv(w) } }\nconv(2)\n";
    // The widest of a sum may be unlike; here it is the member that is.
    let space = Space::parse(&text.replace("(4, 5)", "(4, 3)"), "s.space").unwrap();
    let error = space.parse_subnet("w=3:k=b").unwrap_err();
    assert_eq!(
        error.reason(),
        "s.space:4:1: `unit.add`: 8×8×4 and 8×8×3 cannot be added: both need one shape"
    );
    let shown = "\n  | unit: sum { conv(4) } { choice k {\n  | ^";
    assert!(error.to_string().ends_with(shown), "{error}");
    assert!(space.parse_subnet("w=3:k=a").is_ok());
}

#[test]
fn templates_take_tensors() {
    let text = "space s\ndefine cell(read before, w) {\n  now: conv(w)\n  read before\n  sum { conv(w) } { read now }\n}\n\
                define cells(i, read before) {\n  if i > 0 {\n    now: seq { }\n    cell: cell(read before, 2 + i)\n    rest: cells(i - 1, read now)\n  }\n}\n\
                input(8, 8, 1)\nstem: conv(6)\ncells(3, read stem)\nconv(2)\n";
    let space = parse(text);
    assert_eq!(parse(&space.to_text()).hash(), space.hash());
    let graph = space.largest().unwrap().graph().clone();
    let inputs_of = |path: &str| -> Vec<&str> {
        let node = graph.nodes.iter().find(|node| node.path == path).unwrap();
        let inputs = node.inputs.iter();
        inputs
            .map(|&input| graph.nodes[input].path.as_str())
            .collect()
    };
    assert_eq!(inputs_of("cell.conv"), ["stem"]);
    assert_eq!(inputs_of("rest.cell.now"), ["cell.add"]);
    assert_eq!(inputs_of("rest.cell.conv"), ["stem"]);
    assert_eq!(inputs_of("rest.rest.cell.conv"), ["cell.add"]);
    assert_eq!(inputs_of("rest.rest.cell.now"), ["rest.cell.add"]);
    for (call, expected) in [
        (
            "cell(stem, 2)",
            "s.space:8:6: argument `before` of `cell` is a tensor, given as `read LABEL`",
        ),
        (
            "cell(read stem, read stem)",
            "s.space:8:17: argument `w` of `cell` is a value",
        ),
        (
            "cell(read stm, 2)",
            "s.space:8:1: no node before this, in this block or around it, has the label `stm`; did you mean `stem`?",
        ),
        (
            "cell(read stem)",
            "`cell` takes 2 arguments (read before, w), this gives 1",
        ),
    ] {
        let text = format!(
            "space s\ndefine cell(read before, w) {{\n  conv(w)\n  read before\n}}\ninput(8, 8, 1)\nstem: conv(6)\n{call}\nconv(2)\n"
        );
        let message = Space::parse(&text, "s.space").unwrap_err().to_string();
        assert!(message.contains(expected), "{call}\n{message}");
    }
    // A template knows the tensors that it is given, and no others.
    let text = "space s\ndefine cell(read before) { read stem }\ninput(8, 8, 1)\nstem: conv(6)\ncell(read stem)\n";
    let message = Space::parse(text, "s.space").unwrap_err().to_string();
    assert!(message.contains("labels: before"), "{message}");
}

#[test]
fn words_are_values_of_decisions_and_conditions_follow_each_other() {
    let text = "space s\ninput(8, 8, 1)\ndecide what in (\"wide\", \"narrow\", \"none\")\n\
                if what == \"wide\" { conv(8) } else if what == \"narrow\" { decide w in (2, 3); conv(w) }\nelse { relu }\nconv(1)\n";
    let space = parse(text);
    assert!(!space.decisions()[0].domain.ordered);
    assert_eq!(counted(text), 4);
    let member = space.parse_subnet("what=narrow:w=3").unwrap();
    assert_eq!(member.graph().nodes[1].shape.channels, 3);
    let fixed = space.restrict("what", &[Value::from("none")]).unwrap();
    assert_eq!(fixed.count().unwrap(), BigUint::from(1u32));
    assert_eq!(parse(&fixed.to_text()).hash(), fixed.hash());
    let message = Space::parse(&text.replace("\"none\"", "\"no ne\""), "s.space");
    let message = message.unwrap_err().to_string();
    assert!(message.contains("is no word of letters"), "{message}");
}

#[test]
fn branches_of_a_concat_are_left_out() {
    let space = parse(
        "space s\ninput(4, 4, 1)\nconv(2)\nconcat { decide a in (2, 3); conv(a) } { choice b { off: nothing\n on: conv(4) } } { optional c { conv(5) } }\nlast: conv(7)\n",
    );
    let places = |text: &str| {
        let graph = space.parse_subnet(text).unwrap().graph().clone();
        graph.validate().unwrap();
        let last = graph.nodes.iter().find(|node| node.path == "last").unwrap();
        let channels = graph.nodes[last.inputs[0]].shape.channels;
        let concats = graph.nodes.iter().filter_map(|node| match node.op {
            Op::Concat { offset } => Some(offset),
            _ => None,
        });
        (channels, concats.collect::<Vec<_>>())
    };
    assert_eq!(places("a=2:b=on:c=true"), (11, vec![3, 7]));
    assert_eq!(places("a=2:b=off:c=true"), (7, vec![7]));
    let envelope = space.envelope().unwrap();
    let concat = envelope.nodes.iter().find(|node| node.path == "concat");
    assert_eq!(concat.unwrap().out_channel_choices, [2, 3, 6, 7]);
}

/// NASNet's cells in small: its count by the formula, its costs, cells that read the two outputs before.
#[test]
fn nasnet_in_small_has_cells_that_are_alike() {
    let space = parse(include_str!("../../spaces/nasnet-nano.space"));
    // A node adds two edges, each from two sources, then three, with five operations.
    let cell = (2u32 * 5).pow(2) * (3u32 * 5).pow(2);
    assert_eq!(
        space.count().unwrap(),
        BigUint::from(cell) * cell * 3u32 * 2u32
    );
    let text = "resolution=28:width=8:from1=before:from2=now:from3=before:from4=node1:do1=separable3:do2=max:do3=identity:do4=average\
                :reduce_from1=now:reduce_from2=now:reduce_from3=now:reduce_from4=before:reduce_do1=identity:reduce_do2=identity:reduce_do3=separable5:reduce_do4=max";
    let member = space.parse_subnet(text).unwrap();
    let graph = member.graph();
    let source = |path: &str, input: usize| {
        let node = graph.nodes.iter().find(|node| node.path == path).unwrap();
        graph.nodes[node.inputs[input]].path.as_str()
    };
    // Every cell reads the two outputs before it.
    assert_eq!(source("cell1.now.conv", 0), "stem.relu");
    assert_eq!(source("cell1.before.conv", 0), "stem.relu");
    assert_eq!(source("reduction1.now.conv", 0), "cell1.node2.add");
    assert_eq!(source("reduction1.before.conv", 0), "stem.relu");
    assert_eq!(source("cell2.before.conv", 0), "cell1.node2.add");
    assert_eq!(source("cell2.now.conv", 0), "reduction1.concat");
    // The first node of the normal cell is read by the second one, that of the reduction cell is not.
    assert!(!graph.nodes.iter().any(|node| node.path == "cell2.concat"));
    assert_eq!(source("cell2.node2.add", 0), "cell2.before.relu");
    assert_eq!(source("reduction2.concat", 1), "reduction2.node1.add");
}

/// Nodes of Genetic CNN's stages, worked out from the edges by themselves.
#[test]
fn edges_lead_to_the_networks_that_they_mean() {
    let space = parse(include_str!("../../spaces/genetic-nano.space"));
    let stages = 2u32 * 2u32.pow(3);
    assert_eq!(space.count().unwrap(), BigUint::from(3 * stages * stages));
    let largest = space.largest().unwrap();
    let costs = (largest.graph().macs(), largest.graph().parameters());
    assert_eq!(costs, (3_092_256, 10_594));
    for edges in 0..8u32 {
        let [edge12, edge13, edge23] = [0, 1, 2].map(|bit| edges >> bit & 1 == 1);
        let text = format!(
            "resolution=28:width=4,8:edge12={edge12},false:edge13={edge13},false:edge23={edge23},false"
        );
        let member = space.parse_subnet(&text).unwrap();
        let graph = member.graph();
        graph.validate().unwrap();
        let has = |path: &str| graph.nodes.iter().any(|node| node.path == path);
        let inputs_of = |path: &str| -> Vec<&str> {
            let node = graph.nodes.iter().find(|node| node.path == path).unwrap();
            let inputs = node.inputs.iter();
            inputs
                .map(|&input| graph.nodes[input].path.as_str())
                .collect()
        };
        // Nodes with an edge are there, others are not; the second stage is one without nodes.
        assert_eq!(has("stage1.node1.conv"), edge12 || edge13, "{edges}");
        assert_eq!(has("stage1.node2.conv"), edge12 || edge23, "{edges}");
        assert_eq!(has("stage1.node3.conv"), edge13 || edge23, "{edges}");
        assert!(!has("stage2.node1.conv") && !has("stage2.node3.conv"));
        if edge13 && edge23 {
            assert_eq!(
                inputs_of("stage1.add"),
                ["stage1.node1.relu", "stage1.node2.relu"]
            );
            assert_eq!(inputs_of("stage1.node3.conv"), ["stage1.add"]);
        } else if edge23 {
            assert_eq!(inputs_of("stage1.node3.conv"), ["stage1.node2.relu"]);
        }
        let leaves_two = edge12 && edge13 && !edge23;
        assert_eq!(
            inputs_of("stage1.exit.conv"),
            [match edges {
                0 => "stage1.entry.relu",
                0b001 => "stage1.node2.relu",
                _ if leaves_two => "stage1.add_2",
                _ => "stage1.node3.relu",
            }],
            "{edges}"
        );
    }
}

#[test]
fn labels_are_read_where_they_are_known_and_nothing_ends_branches() {
    for (body, expected) in [
        (
            "read stm",
            "no node before this, in this block or around it, has the label `stm`; did you mean `stem`?",
        ),
        ("seq { inner: relu }\nread inner", "has the label `inner`"),
        ("read later\nlater: relu", "has the label `later`"),
        ("unit()", "has the label `stem`"),
        ("again: read stem", "take no label"),
        ("nothing", "last word of a branch of a `sum`"),
        (
            "sum { nothing; relu } { relu }",
            "last word of a branch of a `sum`",
        ),
        (
            "concat { nothing } { relu }",
            "the first branch of a `concat` is always there",
        ),
        (
            "residual { optional o { nothing } }",
            "last word of a branch of a `sum`",
        ),
    ] {
        let text = format!(
            "space s\ndefine unit() {{ read stem }}\ninput(8, 8, 1)\nstem: conv(4)\n{body}\nconv(2)\n"
        );
        let message = Space::parse(&text, "s.space").unwrap_err().to_string();
        assert!(message.contains(expected), "{text}\n{message}");
    }
    // Labels hide those around them; a label that is used again is the last one.
    let space = parse(
        "space s\ninput(8, 8, 1)\nstem: conv(4)\nstem: conv(5)\nseq { stem: conv(6)\nrelu\nread stem\nconv(1) }\nread stem\nlinear(2)\n",
    );
    let graph = space.largest().unwrap().graph().clone();
    let paths: Vec<&str> = graph.nodes.iter().map(|node| node.path.as_str()).collect();
    assert_eq!(paths, ["input", "stem", "stem_2", "linear"]);
    assert_eq!(graph.nodes[3].inputs, [2]);
}

#[test]
fn decisions_of_one_name_are_narrowed_to_what_each_has() {
    let space = parse(include_str!("../../spaces/genetic-nano.space"));
    let width = |path: &str, space: &Space| -> Option<usize> {
        let slot = space.decisions().iter().find(|slot| slot.path == path)?;
        Some(slot.domain.values.len())
    };
    let narrow = space
        .restrict("width", &[Value::Int(4), Value::Int(8), Value::Int(16)])
        .unwrap();
    assert_eq!(width("stage1.width", &narrow), Some(2));
    let narrow = space
        .restrict("width", &[Value::Int(4), Value::Int(8)])
        .unwrap();
    assert_eq!(width("stage1.width", &narrow), Some(2));
    assert_eq!(width("stage2.width", &narrow), None);
    let message = space
        .restrict("width", &[Value::Int(4)])
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("`stage2.width` has none of the values 4; its values: 8, 16"),
        "{message}"
    );
    let message = space
        .restrict("width", &[Value::Int(5)])
        .unwrap_err()
        .to_string();
    assert!(message.contains("cannot be `5`"), "{message}");
}
