//! The families' numbers, computed independently of this crate.

use num_bigint::BigUint;
use oncefit_space::{Space, Subnet, Value};

use super::family;

/// The member that a text describes.
fn member(space: &Space, text: &str) -> Subnet {
    space.parse_subnet(text).unwrap()
}

#[test]
fn fm_nano_has_its_known_numbers() {
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
        let subnet = member(&space, &text);
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
fn ofa_mobilenet_v3_has_its_known_numbers() {
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
        let graph = member(&space, &text).graph().clone();
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
        let graph = member(&wide, text).graph().clone();
        assert_eq!(
            (graph.macs(), graph.parameters()),
            (macs, parameters),
            "{text}"
        );
    }
}

#[test]
fn the_other_families_have_their_known_numbers() {
    let proxyless = family("ofa-proxylessnas");
    assert_eq!(
        proxyless.count().unwrap(),
        BigUint::from(7371u32).pow(5) * 9u32 * 25u32
    );
    let resnet = family("ofa-resnet50d");
    assert_eq!(
        resnet.count().unwrap(),
        BigUint::from(117u32).pow(3) * 1053u32 * 2u32 * 729u32 * 25u32
    );
    let at_224 = |text: String| {
        let text = text.replace("resolution=128", "resolution=224");
        member(&resnet, &text).graph().macs()
    };
    assert_eq!(at_224(resnet.smallest().unwrap().text()), 962_192_128);
    assert_eq!(at_224(resnet.largest().unwrap().text()), 7_491_643_904);
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
        let subnet = member(&cifar, &format!("depth={depth}:expand={expand}"));
        let found = subnet.graph().macs() as f64 / 1e6;
        assert!(
            (found - millions).abs() < 0.06,
            "depth {depth}, expand {expand}: {found}"
        );
    }
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
        let widths = ["expand", "ratio", "growth", "features", "edge12", "do1"];
        let slot = space
            .decisions()
            .iter()
            .find(|slot| widths.contains(&slot.name.as_str()));
        let slot = slot.unwrap();
        let narrow = space
            .restrict(&slot.name, &slot.domain.values[..1])
            .unwrap();
        let again = Space::parse(&narrow.to_text(), "again").unwrap();
        assert_eq!(again.hash(), narrow.hash());
        assert!(again.count().unwrap() < space.count().unwrap());
        assert_eq!(again.count().unwrap(), narrow.count().unwrap());
    }
}

#[test]
fn the_points_of_deps_have_its_numbers() {
    let space = family("ofa-mobilenet-v3");
    for (depth, expand, millions) in [
        (2, 3, 151.3),
        (3, 3, 222.0),
        (4, 3, 292.7),
        (4, 4, 383.7),
        (3, 6, 424.4),
        (4, 6, 566.2),
    ] {
        let text = format!("resolution=224:depth={depth}:kernel=7:expand={expand}");
        let found = member(&space, &text).graph().macs() as f64 / 1e6;
        assert!((found - millions).abs() <= 0.05, "{text}: {found}");
    }
    let narrow = space
        .restrict("kernel", &[Value::Int(7)])
        .and_then(|space| space.restrict("resolution", &[Value::Int(224)]))
        .unwrap();
    assert_eq!(narrow.count().unwrap(), BigUint::from(117u32).pow(5));
    let smallest = "resolution=224:depth=2:kernel=7:expand=3";
    assert_eq!(
        narrow.smallest().unwrap().graph(),
        member(&space, smallest).graph()
    );
}

#[test]
fn the_magnitude_of_a_count_is_its_logarithm() {
    let magnitude = family("ofa-mobilenet-v3").log10_count().unwrap();
    assert!((magnitude - (5.0 * 7371f64.log10() + 25f64.log10())).abs() < 1e-12);
    // The residual network space of DeepArchitect: N (1 + 2N) with N = Σ 17496^r over {1, 2, 4, 8}.
    let text = "space s
define filters() { decide filters in (48, 64, 80, 96, 112, 128); decide kernel in (1, 3, 5) conv(filters) }
define block() {
  repeat tied times in (1, 2, 4) { filters(); choice order { a: relu b: batch_norm } }
  filters(); decide stride in (1, 3, 5)
  choice drop { none: { } some: dropout(0.5) more: dropout(0.1) }
}
define half() { repeat blocks in (1, 2, 4, 8) { block() } }
input(32, 32, 3)
half()
optional second { choice pool { a: max_pool(2) b: max_pool(3) } half() }
";
    let magnitude = super::parse(text).log10_count().unwrap();
    assert!((magnitude - 68.188).abs() < 5e-4, "{magnitude}");
}

#[test]
fn cifar_nano_is_small_enough_for_a_laptop() {
    let space = family("cifar-nano");
    assert_eq!(
        space.count().unwrap().to_string(),
        (3 * 42 * 258 * 258).to_string()
    );
    let largest = space.largest().unwrap();
    assert_eq!(largest.graph().macs(), 10_849_280);
    assert!(largest.graph().macs() < 12_000_000);
}

/// torchvision's own counts: parameters, and 10⁹ operations as its documentation rounds them.
#[test]
fn torchvisions_networks_are_the_largest_of_their_families() {
    for (name, parameters, operations) in [
        ("mobilenet-v2", 3_504_872, "0.301"),
        ("mobilenet-v3-large", 5_483_032, "0.217"),
        ("mobilenet-v3-small", 2_542_856, "0.057"),
        ("resnet50", 25_557_032, "4.089"),
    ] {
        let largest = family(name).largest().unwrap();
        assert_eq!(largest.graph().parameters(), parameters, "{name}");
        let macs = largest.graph().macs() as f64;
        assert_eq!(format!("{:.3}", macs / 1e9), operations, "{name}");
    }
}
