//! What a supernet must store.

use oncefit_random::Draws;
use oncefit_space::{Op, Space};

use super::{family, parse};

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
fn alternatives_meet_where_a_body_may_be_left_out() {
    for body in [
        "repeat n in (0, 1) { conv(8) }",
        "optional maybe { conv(8) }",
        "choice kind { a: { } b: conv(8) }",
        "decide flag in (false, true)\nif flag { conv(8) }",
    ] {
        let text = format!("space s\ninput(8, 8, 1)\nstem: conv(4)\n{body}\nlast: conv(2)\n");
        let envelope = parse(&text).envelope().unwrap();
        let last = envelope.nodes.last().unwrap();
        assert_eq!(last.in_channel_choices, [4, 8], "{body}");
        let join = &envelope.nodes[last.inputs[0]];
        assert!(
            join.op == Op::Add && join.path.ends_with("join"),
            "{body}: {}",
            join.path
        );
    }
}

#[test]
fn a_shortcut_that_only_some_members_have_is_a_meeting() {
    // Found by a random space: the widths 4 and (4, 8, 16) are added where both are 4.
    let text =
        "space s\ninput(8, 8, 1)\nconv(4)\nresidual { decide w in (4, 8, 16); body: conv(w) }\n";
    let space = parse(text);
    let has_add = |text: &str| {
        let subnet = space.parse_subnet(text).unwrap();
        subnet.graph().nodes.iter().any(|node| node.path == "add")
    };
    assert!(has_add("w=4") && !has_add("w=8"));
    let envelope = space.envelope().unwrap();
    let add = envelope
        .nodes
        .iter()
        .find(|node| node.path == "add")
        .unwrap();
    assert_eq!(add.out_channel_choices, [4, 8, 16]);
}
