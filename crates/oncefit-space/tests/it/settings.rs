//! Training settings as decisions.

use num_bigint::BigUint;
use oncefit_space::{Space, Value};

use super::{enumerate, parse};

const NETWORK: &str = "
input(8, 8, 1)
decide width in (4, 8)
conv(width)
global_average_pool
linear(2)
";

fn with(settings: &str) -> String {
    format!("space s(base = 0.1)\nsettings {{\n{settings}\n}}\n{NETWORK}")
}

fn message(text: &str) -> String {
    Space::parse(text, "s.space").unwrap_err().to_string()
}

/// A learning rate whose range follows the optimiser, a momentum that only one of them has.
const CONDITIONAL: &str = "
  optimiser = unordered (sgd, adam)
  if optimiser == sgd {
    learning_rate = log 0.01..=1.0 count 3
    momentum = (0.8, 0.9)
  } else {
    learning_rate = (0.001, 0.002)
  }
  batch_size = 32
  weight_decay = batch_size * base
";

#[test]
fn settings_are_counted_numbered_and_printed_like_other_decisions() {
    let space = parse(&with(CONDITIONAL));
    // (3 · 2 + 2) settings, 2 widths.
    assert_eq!(space.count().unwrap(), BigUint::from(16u32));
    let members = enumerate(&space);
    assert_eq!(members.len(), 16);
    for (number, member) in members.iter().enumerate() {
        assert_eq!(space.rank(member).unwrap(), BigUint::from(number));
        assert_eq!(&space.unrank(&BigUint::from(number)).unwrap(), member);
        assert_eq!(&space.parse_subnet(&member.text()).unwrap(), member);
    }
    assert_eq!(parse(&space.to_text()), space);
    assert_eq!(
        space.settings(),
        [
            "optimiser",
            "learning_rate",
            "momentum",
            "batch_size",
            "weight_decay"
        ]
    );
    let slots = space.decisions();
    let is_setting = |path: &str| {
        slots
            .iter()
            .find(|slot| slot.path == path)
            .unwrap()
            .is_setting
    };
    assert!(is_setting("settings.optimiser") && !is_setting("width"));
    // Other settings, the same network.
    assert_eq!(members[0].graph(), members[2].graph());
    assert_ne!(members[0], members[2]);
}

#[test]
fn a_member_has_the_settings_that_its_decisions_give() {
    let space = parse(&with(CONDITIONAL));
    let adam = space
        .parse_subnet("optimiser=adam:learning_rate=0.002:width=4")
        .unwrap();
    let text = |value: &str| Value::Text(value.into());
    let expected = [
        ("optimiser", text("adam")),
        ("learning_rate", Value::Real(0.002)),
        ("batch_size", Value::Int(32)),
        ("weight_decay", Value::Real(32.0 * 0.1)),
    ]
    .map(|(name, value)| (name.to_owned(), value));
    assert_eq!(adam.settings(), expected);
    // Words stand for themselves in what is computed, too.
    let computed = parse(&with(
        "
      deep = (false, true)
      decay = if deep then cosine else constant
    ",
    ));
    assert_eq!(
        computed.largest().unwrap().settings()[1],
        ("decay".into(), text("cosine"))
    );
    // What is narrowed to one value is no decision any more, but still a setting.
    let narrowed = space.restrict("optimiser", &[text("sgd")]).unwrap();
    assert_eq!(narrowed.count().unwrap(), BigUint::from(12u32));
    let smallest = narrowed.smallest().unwrap();
    assert_eq!(smallest.settings()[0], ("optimiser".into(), text("sgd")));
    assert!(!smallest.text().contains("optimiser"));
}

#[test]
fn blocks_of_settings_that_mean_nothing_are_errors() {
    for (settings, expected) in [
        ("a = ()", "at least one value"),
        ("conv(4)", "`name = values`"),
        ("decide a in (1, 2)", "`name = values`"),
        ("a = (1, 2)\na = 3", "setting `a` is given twice"),
        (
            "a = (1, 2)\nif a == 1 { b = 1 }\nb = 2",
            "`b` is given twice",
        ),
        ("a = (x, y)\nif a == z { b = 1 }", "`z` is not known here"),
        ("a = log 0.0..=1.0 count 3", "rises from above 0"),
        ("width = (1, 2)", "a decision of that name, `width`"),
        ("step = (1, 2)", "is a word of the language"),
    ] {
        let said = message(&with(settings));
        assert!(said.contains(expected), "{settings}: {said}");
    }
    let twice = format!("space s\nsettings {{ a = 1 }}\nsettings {{ b = 1 }}\n{NETWORK}");
    assert!(message(&twice).contains("one block of training settings"));
    let inner = format!("space s\n{NETWORK}seq {{ settings {{ a = 1 }} }}\n");
    assert!(message(&inner).contains("at the top level"));
}
