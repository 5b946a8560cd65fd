//! Spaces as users meet them: `oncefit space`, and networks that only a `.space` file describes.

use super::*;

const TINY: &str = "space tiny\ninput(8, 8, 1)\ndecide width in (2, 4)\nconcat { conv(width) } { choice kind {\n  a: relu\n  b: activate(identity)\n  c: { }\n} }\nglobal_average_pool\nlinear(3)\n";

#[test]
fn spaces_are_counted_sampled_numbered_and_compared() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::write(path.join("tiny.space"), TINY).unwrap();
    let said = succeed(path, &["space", "count", "tiny.space"]);
    assert_eq!(said, "6 members, 10^0.778\n");
    let json = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&succeed(path, arguments)).unwrap()
    };
    let found = json(&["space", "check", "tiny.space", "--json"]);
    assert_eq!(
        [
            &found["members"],
            &found["tried"],
            &found["networks"],
            &found["holes"]
        ],
        [
            &"6".into(),
            &6.into(),
            &4.into(),
            &serde_json::Value::from(0)
        ]
    );
    let pair = found["duplicates"].as_array().unwrap();
    assert_eq!(pair[0], "width=2:kind=b");
    assert_eq!(pair[1], "width=2:kind=c");
    // Members whose shapes do not meet are listed, not an end of the list.
    let holes =
        "space holes\ninput(4, 4, 1)\ndecide w in (2, 3)\nsum { conv(3) } { conv(w) }\nlinear(2)\n";
    fs::write(path.join("holes.space"), holes).unwrap();
    let said = succeed(path, &words("space enumerate holes.space"));
    assert!(
        said.contains("w=2 cannot be built: holes.space:4:1: `add`: 4×4×3 and 4×4×2")
            && said.contains("w=3"),
        "{said}"
    );
    let said = succeed(path, &words("space check holes.space"));
    assert!(said.contains("1 cannot be built (50.00 %)"), "{said}");
    let said = fail(path, &words("space show holes.space --subnet w=2"), 2);
    assert!(said.contains("| sum { conv(3) } { conv(w) }"), "{said}");
    let all = json(&["space", "enumerate", "tiny.space", "--json"]);
    let all = all.as_array().unwrap();
    assert_eq!(all.len(), 6);
    for (number, member) in all.iter().enumerate() {
        let (number, text) = (number.to_string(), member["subnet"].as_str().unwrap());
        assert_eq!(member["number"], number.as_str());
        assert_eq!(
            succeed(path, &["space", "rank", "tiny.space", text]).trim(),
            number
        );
        assert_eq!(
            succeed(path, &["space", "unrank", "tiny.space", &number]).trim(),
            text
        );
    }
    let said = succeed(
        path,
        &[
            "space",
            "enumerate",
            "tiny.space",
            "--limit",
            "2",
            "--from",
            "1",
        ],
    );
    assert!(said.contains("and 3 more"), "{said}");
    let sample = [
        "space",
        "sample",
        "tiny.space",
        "-n",
        "5",
        "--seed",
        "3",
        "--json",
    ];
    assert_eq!(json(&sample), json(&sample));
    assert_ne!(
        json(&sample),
        json(&["space", "sample", "tiny.space", "-n", "5", "--json"])
    );
    let said = succeed(
        path,
        &words("space diff tiny.space --subnet width=2:kind=a --subnet width=4:kind=a"),
    );
    assert!(said.contains("width") && !said.contains("kind"), "{said}");
    fs::write(path.join("wide.space"), TINY.replace("(2, 4)", "(2, 4, 6)")).unwrap();
    let said = succeed(path, &["space", "diff", "tiny.space", "wide.space"]);
    assert!(said.contains("(2, 4, 6)") && said.contains('9'), "{said}");
    assert!(!said.contains("kind"), "{said}");
    let said = succeed(path, &["space", "diff", "tiny.space", "tiny.space"]);
    assert_eq!(said, "no difference\n");
    succeed(
        path,
        &words("space draw tiny.space --subnet largest --out one.svg"),
    );
    let svg = fs::read_to_string(path.join("one.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("concat") && svg.contains("8×8×5"),
        "{svg}"
    );
    fail(path, &words("space diff tiny.space --subnet largest"), 2);
    let said = fail(path, &words("space diff tiny.space"), 2);
    assert!(said.contains("another space, or two members"), "{said}");
    fail(path, &words("space sample tiny.space -n 0"), 2);
    let said = fail(path, &words("space unrank tiny.space 6"), 2);
    assert!(said.contains("6 members"), "{said}");
    fs::write(
        path.join("bad.space"),
        TINY.replace("linear(3)", "liner(3)"),
    )
    .unwrap();
    let said = fail(path, &["space", "check", "bad.space"], 2);
    assert!(
        said.contains("bad.space:10:1") && said.contains("liner(3)") && said.contains("`linear`"),
        "{said}"
    );
}

/// Trained for a few steps, fitted, exported and checked in the engine.
#[test]
fn networks_of_space_files_are_trained_fitted_and_exported() {
    for family in ["vgg-nano", "densenet-nano", "genetic-nano", "nasnet-nano"] {
        let folder = folder_with_recipe(&[("fm-nano", family), ("epochs = 6", "epochs = 1")]);
        let path = folder.path();
        succeed(path, &["train", "small.toml", "--out", "run"]);
        let small = succeed(
            path,
            &words("fit run --max-macs 600k --evaluations 12 --verify 2 --out small.onnx"),
        );
        assert!(small.contains("small.onnx"), "{small}");
        succeed(
            path,
            &words("export run --subnet largest --out largest.onnx"),
        );
        let size = |file: &str| fs::metadata(path.join(file)).unwrap().len();
        assert!(size("small.onnx") < size("largest.onnx"), "{family}");
    }
}

/// DeepArchitect's `tfref_convnet_ss0`, narrowed to its smaller widths: hidden layers on maps.
#[test]
fn networks_with_linear_layers_on_maps_are_trained_and_exported() {
    let space = "file = \"tfref.space\"\nfix = { filters = [32, 48], units = [256, 512], kernel = [\"k1\", \"k3\"] }";
    let folder = folder_with_recipe(&[
        ("family = \"fm-nano\"", space),
        ("epochs = 6", "epochs = 1"),
        ("every_steps = 1", "every_steps = 50"),
    ]);
    let path = folder.path();
    let text = include_str!("../../../oncefit-space/spaces/deep-architect/tfref_convnet_ss0.space");
    fs::write(path.join("tfref.space"), text).unwrap();
    succeed(path, &["train", "small.toml", "--out", "run"]);
    for subnet in ["largest", "smallest"] {
        let said = succeed(
            path,
            &["export", "run", "--subnet", subnet, "--out", "model.onnx"],
        );
        assert!(said.contains("model.onnx"), "{said}");
    }
    succeed(path, &words("evaluate run --random 2 --int8"));
}
