//! From a trained run to files: own families, devices, budgets, pictures.

use oncefit_space::Space;
use oncefit_target::{Coster, KeyStyle, OperatorTable};

use super::*;

/// A family that nobody but its user knows: two stages, elastic width of the stem, no kernels.
const OWN_FAMILY: &str = r#"
space own(channels = 1, classes = 10)

define block(out, stride) {
  decide ratio in (2, 3)
  residual {
    expand: seq { conv(in * ratio); batch_norm; relu6 }
    depthwise: seq { depthwise(3, stride = stride); batch_norm; relu6 }
    project: seq { conv(out); batch_norm }
  }
}

input(28, 28, channels)
decide width in (8, 12)
stem: seq { conv(width, kernel = 3, stride = 2); batch_norm; relu6 }
low: repeat blocks in (1, 2) as i { block(16, if i == 0 then 2 else 1) }
high: repeat blocks in (1, 2) as i { block(24, if i == 0 then 2 else 1) }
global_average_pool
linear(classes)
"#;

#[test]
fn a_users_own_family_is_trained_fitted_and_exported() {
    let folder = folder_with_recipe(&[
        ("family = \"fm-nano\"", "file = \"own.space\""),
        ("epochs = 6", "epochs = 2"),
    ]);
    let path = folder.path();
    fs::write(path.join("own.space"), OWN_FAMILY).unwrap();
    succeed(path, &["train", "small.toml"]);
    let said = succeed(
        path,
        &[
            "fit",
            "runs/small",
            "--max-macs",
            "160k",
            "--evaluations",
            "12",
        ],
    );
    assert!(said.contains("width=") && said.contains("ratio="), "{said}");
    let said = succeed(path, &["show", "model.onnx"]);
    assert!(said.contains("own ("), "{said}");
    // All of its subnets can be predicted; a file that must be small is.
    succeed(
        path,
        &words(
            "fit runs/small --max-file-size 22k --searcher exhaustive --evaluations 12 --verify 2 --out tiny.onnx",
        ),
    );
    assert!(fs::metadata(path.join("tiny.onnx")).unwrap().len() <= 22_000);
    let said = succeed(
        path,
        &words(
            "fit runs/small --max-macs 160k --searcher exact --evaluations 12 --verify 2 --json",
        ),
    );
    let fitted: serde_json::Value =
        serde_json::from_str(&said[said.find('[').unwrap()..=said.rfind(']').unwrap()]).unwrap();
    assert!(fitted[0]["macs"].as_u64().unwrap() <= 160_000, "{said}");
    succeed(
        path,
        &words(
            "fit runs/small --max-file-size 22k --searcher random --evaluations 4 --out random.onnx",
        ),
    );
    assert!(fs::metadata(path.join("random.onnx")).unwrap().len() <= 22_000);
    let said = fail(
        path,
        &words("fit runs/small --max-file-size 2k --evaluations 12"),
        2,
    );
    assert!(said.contains("bytes of file; ask for"), "{said}");
    let said = succeed(
        path,
        &words(
            "front runs/small --over file-size --points 4 --evaluations 12 --html front.html --json",
        ),
    );
    let points: serde_json::Value =
        serde_json::from_str(&said[said.find('[').unwrap()..=said.rfind(']').unwrap()]).unwrap();
    let points = points.as_array().unwrap();
    assert!((1..=4).contains(&points.len()), "{said}");
    for pair in points.windows(2) {
        let of = |name: &str| {
            pair.iter()
                .map(|one| one[name].as_f64().unwrap())
                .collect::<Vec<_>>()
        };
        let (costs, accuracies) = (of("cost"), of("predicted_accuracy"));
        assert!(
            costs[0] < costs[1] && accuracies[0] < accuracies[1],
            "{said}"
        );
    }
    let page = fs::read_to_string(path.join("front.html")).unwrap();
    assert!(page.contains("file size, KiB") && page.contains("</html>"));
    let said = succeed(path, &["evaluate", "runs/small", "--classes"]);
    assert!(
        said.contains("Ankle boot") && said.contains("accuracy"),
        "{said}"
    );
    let said = succeed(path, &["evaluate", "runs/small", "--int8", "--json"]);
    let json = &said[said.find('[').unwrap()..=said.rfind(']').unwrap()];
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
    for row in &rows {
        let accuracies = (row["accuracy"].as_f64().unwrap(), &row["int8"]["accuracy"]);
        let in_bytes = accuracies.1.as_f64().unwrap();
        assert!((accuracies.0 - in_bytes).abs() < 0.1, "{said}");
    }
    let said = succeed(path, &["evaluate", "runs/small", "--checkpoint", "best"]);
    assert!(said.contains("width=12"), "{said}");
    // Its weights start another training, with fewer steps; weights of another family do not.
    let weights = "runs/small/checkpoints/best.safetensors";
    let said = succeed(
        path,
        &[
            "train",
            "small.toml",
            "--init",
            weights,
            "--out",
            "runs/again",
        ],
    );
    assert!(
        said.contains("tensors are from the given weights, 0 are fresh"),
        "{said}"
    );
    fs::write(
        path.join("other.toml"),
        RECIPE.replace(
            "[space]",
            &format!("[init]\nweights = \"{weights}\"\n[space]"),
        ),
    )
    .unwrap();
    let said = fail(path, &["train", "other.toml", "--out", "runs/other"], 1);
    assert!(
        said.contains("best.safetensors") && said.contains("it is of another family"),
        "{said}"
    );
    assert!(!path.join("runs/other").exists());
    // Weights of one family are no weights of another.
    let recipe = fs::read_to_string(path.join("runs/small/recipe.toml")).unwrap();
    let other = replace_line(&recipe, "file = ", "family = \"fm-nano\"");
    fs::write(path.join("runs/small/recipe.toml"), other).unwrap();
    let said = fail(path, &["evaluate", "runs/small"], 1);
    assert!(
        said.contains("checkpoint") && said.contains("this space needs"),
        "{said}"
    );
}

/// The text with the line that begins with `start` replaced.
fn replace_line(text: &str, start: &str, line: &str) -> String {
    let lines = text.lines();
    let replaced: Vec<&str> = lines
        .map(|old| if old.starts_with(start) { line } else { old })
        .collect();
    replaced.join("\n")
}

#[test]
fn a_run_is_trained_looked_at_fitted_and_exported() {
    let folder = folder_with_recipe(&[("epochs = 6", "epochs = 3")]);
    let path = folder.path();
    let said = succeed(path, &["train", "small.toml", "--dry-run"]);
    assert!(
        said.contains("150 steps") && !path.join("runs").exists(),
        "{said}"
    );
    succeed(path, &["train", "small.toml"]);
    let run = "runs/small";
    let said = fail(path, &["train", "small.toml"], 1);
    assert!(
        said.contains("--resume") && said.contains("--overwrite"),
        "{said}"
    );
    for file in [
        "recipe.toml",
        "space.txt",
        "metrics.jsonl",
        "provenance.json",
    ] {
        assert!(path.join(run).join(file).exists(), "{file}");
    }
    let resolved = fs::read_to_string(path.join(run).join("recipe.toml")).unwrap();
    assert!(
        resolved.contains("label_smoothing"),
        "defaults are written out"
    );
    let said = succeed(path, &["show", run]);
    assert!(said.contains("largest"), "{said}");

    let subnet = "resolution=20:depth=1:kernel=3:expand=3";
    let said = succeed(
        path,
        &[
            "evaluate", run, "--subnet", subnet, "--random", "2", "--json",
        ],
    );
    let json = &said[said.find('[').unwrap()..=said.rfind(']').unwrap()];
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(
        fs::read_to_string(path.join(run).join("evaluations.jsonl"))
            .unwrap()
            .lines()
            .count(),
        3
    );
    let said = fail(
        path,
        &[
            "evaluate",
            run,
            "--subnet",
            "resolution=20:depth=1:kernel=4:expand=3",
        ],
        2,
    );
    assert!(
        said.contains("`unit1[0].kernel` cannot be `4`; legal values: 3, 5, 7"),
        "{said}"
    );

    let said = fail(path, &["fit", run, "--max-macs", "10k"], 2);
    assert!(
        said.contains("no subnet") && said.contains("or more"),
        "{said}"
    );
    let said = fail(
        path,
        &["fit", run, "--max-macs", "1M", "--out", "nowhere/x.onnx"],
        2,
    );
    assert!(said.contains("nowhere"), "{said}");
    let fit = [
        "fit",
        run,
        "--max-macs",
        "600k",
        "--max-parameters",
        "50k",
        "--evaluations",
        "12",
        "--json",
    ];
    let said = succeed(path, &fit);
    let fitted: serde_json::Value =
        serde_json::from_str(&said[said.find('{').unwrap()..=said.rfind('}').unwrap()]).unwrap();
    assert!(fitted["macs"].as_u64().unwrap() <= 600_000);
    assert!(fitted["parameters"].as_u64().unwrap() <= 50_000);
    assert!(fitted["relative_difference"].as_f64().unwrap() < 1e-4);
    let first = fs::read(path.join("model.onnx")).unwrap();
    succeed(path, &[&fit[..], &["--threads", "1"]].concat());
    assert_eq!(
        fs::read(path.join("model.onnx")).unwrap(),
        first,
        "the same seed gives the same file"
    );
    let said = succeed(path, &["show", "model.onnx"]);
    assert!(
        said.contains("Ankle boot") && said.contains("on test"),
        "{said}"
    );
    succeed(
        path,
        &[
            "export",
            run,
            "--subnet",
            "largest",
            "--out",
            "largest.onnx",
        ],
    );
    let said = succeed(path, &["report", run]);
    assert!(said.contains("report.html"), "{said}");

    // A cut checkpoint: the one before it serves; without one the error names the file.
    let checkpoints = checkpoints(&path.join(run));
    let newest = checkpoints.last().unwrap();
    let bytes = fs::read(newest).unwrap();
    fs::write(newest, &bytes[..bytes.len() / 2]).unwrap();
    let said = succeed(path, &["evaluate", run, "--subnet", "smallest"]);
    assert!(
        said.contains("cut short") && said.contains("an older one is used"),
        "{said}"
    );
    let said = succeed(path, &["train", run, "--resume"]);
    assert!(said.contains("an older one is used"), "{said}");
    assert_eq!(
        fs::read(newest).unwrap(),
        bytes,
        "the lost steps are repeated exactly"
    );
    for checkpoint in &checkpoints {
        fs::write(checkpoint, "x").unwrap();
    }
    let said = fail(path, &["evaluate", run], 1);
    assert!(
        said.contains("step-000000150") && said.contains("cut short"),
        "{said}"
    );
}

/// A device that was not here: its probes' times, where depthwise convolutions are dear.
fn times_of_another_device(probes: &Path) -> String {
    let text = fs::read_to_string(probes.join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut csv = String::from("file,median_ms\n");
    for probe in manifest["probes"].as_array().unwrap() {
        let operators = probe["operators"].as_array().unwrap().iter();
        let cost = |key: &str| match key.split_once("-k").map(|(kind, rest)| (kind, &rest[..1])) {
            Some(("depthwise", kernel)) => 0.02 * kernel.parse::<f64>().unwrap().powi(2),
            _ => 0.002,
        };
        let time: f64 = operators.map(|key| cost(key.as_str().unwrap())).sum();
        csv += &format!("{},{}\n", probe["file"].as_str().unwrap(), 0.01 + time);
    }
    csv
}

/// The keys of all operators of the family in the form of the Once-for-All authors' tables.
fn table_of_the_authors() -> std::collections::BTreeSet<String> {
    let space = Space::builtin("fm-nano").unwrap();
    let empty = OperatorTable::new("d", KeyStyle::OnceForAll, 0.0, []).unwrap();
    let operators = Coster::with_table(&space, &empty).explore(100_000).unwrap();
    operators
        .iter()
        .map(|operator| empty.key(operator))
        .collect()
}

#[test]
fn networks_are_fitted_to_devices_here_and_elsewhere() {
    let folder = folder_with_recipe(&[("epochs = 6\nnetworks", "epochs = 2\nnetworks")]);
    let path = folder.path();
    succeed(path, &["train", "small.toml"]);
    let run = "runs/small";
    let said = succeed(
        path,
        &words("profile runs/small --networks 24 --time-limit 5 --out here.toml"),
    );
    assert!(
        said.contains("median error") && said.contains("tract"),
        "{said}"
    );
    succeed(
        path,
        &[
            "profile",
            run,
            "--emit-probes",
            "probes",
            "--networks",
            "24",
        ],
    );
    let csv = times_of_another_device(&path.join("probes"));
    fs::write(path.join("times.csv"), &csv).unwrap();
    let import = |csv: &str| {
        fs::write(path.join("changed.csv"), csv).unwrap();
        oncefit(
            path,
            &words("profile --import changed.csv --probes probes --device phone --out phone.toml"),
        )
    };
    assert!(import(&csv).status.success());

    // One command, two devices: the phone's network has smaller kernels or fewer blocks.
    let said = succeed(
        path,
        &words(
            "fit runs/small --target here.toml --target phone.toml --max-latency 1ms --allow-estimates --evaluations 24 --verify 4 --out models --json",
        ),
    );
    let start = said.find('[').unwrap();
    let end = said.rfind(']').unwrap() + 1;
    let fitted: serde_json::Value = serde_json::from_str(&said[start..end]).unwrap();
    assert_ne!(fitted[0]["subnet"], fitted[1]["subnet"]);
    let latency = |index: usize| fitted[index]["expected"]["latency"].clone();
    assert!(latency(0)["measured_ms"].as_f64().unwrap() > 0.0);
    assert!(latency(1)["measured_ms"].is_null(), "the phone is not here");
    assert!(latency(1)["predicted_ms"].as_f64().unwrap() <= 1.0);
    assert!(path.join("models/here.onnx").exists() && path.join("models/phone.onnx").exists());
    let said = succeed(path, &["report", run]);
    let report = fs::read_to_string(path.join(run).join("report.html")).unwrap();
    assert!(
        report.contains("phone") && report.contains("Predictor"),
        "{said}"
    );

    // Tables of the Once-for-All authors have one input size each: others are left out.
    fs::create_dir(path.join("tables")).unwrap();
    let all = table_of_the_authors();
    let of_28 =
        |key: &String| key.contains("28x28") || !key.contains("24x24") && !key.contains("20x20");
    let lines = all.iter().filter(|key| of_28(key));
    let yaml: String = lines
        .map(|key| format!("{key}:\n  count: 5\n  mean: 0.1\n  std: 0.01\n"))
        .collect();
    fs::write(path.join("tables/28.yaml"), yaml).unwrap();
    let fit = words("fit runs/small --max-latency 4ms --evaluations 24 --verify 2 --target");
    let said = succeed(path, &[&fit[..], &["tables/28.yaml"]].concat());
    assert!(
        said.contains("resolution=28") && said.contains("on 28 (imported)"),
        "{said}"
    );
    let said = fail(
        path,
        &words("fit runs/small --max-latency 1us --evaluations 24 --target tables/28.yaml"),
        2,
    );
    assert!(said.contains("ask for"), "{said}");
    let from_folder = succeed(path, &[&fit[..], &["tables"]].concat());
    assert!(from_folder.contains("resolution=28"), "{from_folder}");
    let said = succeed(
        path,
        &words("front runs/small --over latency --target tables --evaluations 24 --points 3"),
    );
    assert!(
        said.contains("resolution=28") && !said.contains("resolution=20"),
        "{said}"
    );
    fs::write(
        path.join("tables/28.yaml"),
        "Conv-input:9x9x9-output:1x1x1:\n  mean: 0.1\n",
    )
    .unwrap();
    let said = fail(path, &[&fit[..], &["tables/28.yaml"]].concat(), 1);
    assert!(said.contains("take the table of this width"), "{said}");
    fs::remove_file(path.join("tables/28.yaml")).unwrap();
    let said = fail(path, &[&fit[..], &["tables"]].concat(), 1);
    assert!(said.contains("this folder has no .yaml files"), "{said}");
    let said = fail(path, &words("front runs/small --over latency"), 2);
    assert!(said.contains("--target FILE"), "{said}");

    // What was measured is not measured again; the answer is the same.
    let again = words("fit runs/small --max-macs 500k --evaluations 24 --verify 4");
    let first = succeed(path, &again);
    let second = succeed(path, &again);
    let subnet = |said: &str| {
        said.lines()
            .find(|line| line.starts_with("model.onnx:"))
            .unwrap()
            .to_owned()
    };
    assert_eq!(subnet(&first), subnet(&second));
    assert!(!second.contains("measuring"), "{second}");

    // Pictures.
    succeed(
        path,
        &["data", "show", "--sheet", "sheet.png", "--per-class", "1"],
    );
    let said = succeed(path, &["predict", "model.onnx", "sheet.png", "--top", "2"]);
    assert!(
        said.starts_with("sheet.png: ") && said.matches('%').count() == 2,
        "{said}"
    );
    // One that is none does not hide the others.
    let said = fail(
        path,
        &words("predict model.onnx small.toml sheet.png none.png --top 1"),
        1,
    );
    for part in [
        "small.toml",
        "no PNG or JPEG",
        "sheet.png: ",
        "none.png",
        "2 of 3 pictures",
    ] {
        assert!(said.contains(part), "{said}");
    }
    fail(path, &words("predict model.onnx sheet.png --top 0"), 2);

    // Further training of the one that was chosen.
    let said = succeed(
        path,
        &words(
            "fit runs/small --max-macs 500k --evaluations 24 --verify 2 --finetune 1 --out tuned.onnx",
        ),
    );
    assert!(
        path.join("tuned.finetune/recipe.toml").exists() && said.contains("tuned.onnx"),
        "{said}"
    );

    // What cannot be.
    let said = fail(path, &["fit", run], 2);
    assert!(said.contains("a budget is needed"), "{said}");
    let said = fail(
        path,
        &words("fit runs/small --target here.toml --max-latency 5 --evaluations 24"),
        2,
    );
    assert!(said.contains("2ms"), "{said}");
    let said = fail(
        path,
        &words(
            "fit runs/small --target phone.toml --max-latency 1us --evaluations 24 --allow-estimates",
        ),
        2,
    );
    assert!(
        said.contains("ms of latency; ask for") && said.contains("ms or more"),
        "{said}"
    );
    let lines: Vec<&str> = csv.lines().collect();
    for (changed, part) in [
        (lines[..lines.len() / 2].join("\n"), "no times of"),
        (
            csv.replacen("network-000.onnx,", "network-000.onnx,-", 1),
            "negative",
        ),
        (
            csv.replacen("network-000.onnx,", "network-000.onnx,nan", 1),
            "network-000.onnx",
        ),
        ("nonsense".to_owned(), "changed.csv"),
    ] {
        let output = import(&changed);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(part), "{part}: {said}");
    }
    let other = fs::read_to_string(path.join("here.toml")).unwrap();
    fs::write(
        path.join("other.toml"),
        other.replace("space = \"fm-nano\"", "space = \"resnet50\""),
    )
    .unwrap();
    let said = fail(
        path,
        &words("fit runs/small --target other.toml --max-latency 1ms --evaluations 24"),
        1,
    );
    assert!(
        said.contains("resnet50") && said.contains("fm-nano"),
        "{said}"
    );
    fs::write(path.join("other.toml"), "format = 3").unwrap();
    let said = fail(
        path,
        &["fit", run, "--target", "other.toml", "--max-latency", "1ms"],
        1,
    );
    assert!(said.contains("other.toml"), "{said}");
}
