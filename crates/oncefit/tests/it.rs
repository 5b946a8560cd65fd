//! The program as its users meet it: kills, full disks, typos, and the main job in small.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use oncefit_random::Draws;
use oncefit_train::{MetricsRow, TEMPORARY_PREFIX};

const PROGRAM: &str = env!("CARGO_BIN_EXE_oncefit");

const RECIPE: &str = r#"
name = "small"
[data]
source = "embedded"
validation = 7000
[space]
family = "fm-nano"
[schedule]
epochs = 6
networks = 3
[training]
batch_size = 20
[evaluation]
every_epochs = 6
calibration_images = 100
[checkpoint]
every_steps = 1
"#;

fn oncefit(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(PROGRAM)
        .args(arguments)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// Runs a command that must succeed.
fn succeed(folder: &Path, arguments: &[&str]) -> String {
    let output = oncefit(folder, arguments);
    assert!(output.status.success(), "{arguments:?}\n{}", text(&output));
    text(&output)
}

/// Runs a command that must fail with a code; returns what it said.
fn fail(folder: &Path, arguments: &[&str], code: i32) -> String {
    let output = oncefit(folder, arguments);
    assert_eq!(
        output.status.code(),
        Some(code),
        "{arguments:?}\n{}",
        text(&output)
    );
    let said = text(&output);
    assert!(!said.contains("panicked"), "{said}");
    said
}

/// A folder with `small.toml`.
fn folder_with_recipe(changes: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut recipe = RECIPE.to_owned();
    for (from, to) in changes {
        assert!(recipe.contains(from), "{from}");
        recipe = recipe.replace(from, to);
    }
    fs::write(folder.path().join("small.toml"), recipe).unwrap();
    folder
}

fn start(folder: &Path, run: &str) -> Child {
    let arguments = match folder.join(run).exists() {
        true => vec!["train", run, "--resume"],
        false => vec!["train", "small.toml", "--out", run],
    };
    Command::new(PROGRAM)
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default()
}

fn unfinished(run: &Path) -> bool {
    files(&run.join("checkpoints")).iter().any(|path| {
        path.file_name()
            .unwrap()
            .to_string_lossy()
            .starts_with(TEMPORARY_PREFIX)
    })
}

/// The finished checkpoints of a run, oldest first.
fn checkpoints(run: &Path) -> Vec<PathBuf> {
    let mut paths = files(&run.join("checkpoints"));
    paths.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "safetensors")
    });
    paths.sort();
    paths
}

/// Bytes of the last checkpoint, and the metrics without their times.
fn result(run: &Path) -> (Vec<u8>, Vec<MetricsRow>) {
    let checkpoints = checkpoints(run);
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let rows = log.lines().map(|line| {
        let row: MetricsRow = serde_json::from_str(line).unwrap();
        MetricsRow {
            seconds: 0.0,
            ..row
        }
    });
    (
        fs::read(checkpoints.last().unwrap()).unwrap(),
        rows.collect(),
    )
}

/// How many epochs a run has logged.
fn epochs_done(run: &Path) -> usize {
    let log = fs::read_to_string(run.join("metrics.jsonl")).unwrap_or_default();
    log.lines().count()
}

/// Ten kills at random moments, three of them while a checkpoint is being written; what comes out
/// at the end is what an undisturbed run gives.
#[test]
fn killed_runs_continue_with_the_same_bits() {
    kill_and_resume(&[]);
}

/// All six phases of progressive shrinking, with its teacher: kills fall into most of them.
#[test]
fn killed_progressive_shrinking_continues_with_the_same_bits() {
    let changes = [
        (
            "epochs = 6\nnetworks = 3",
            "kind = \"progressive\"\nepochs = 6",
        ),
        ("every_epochs = 6", "every_epochs = 2"),
    ];
    let phases = kill_and_resume(&changes);
    assert!(phases.len() >= 4, "kills in phases {phases:?}");
}

/// Trains a recipe with ten kills and without; returns after how many epochs the kills came.
fn kill_and_resume(changes: &[(&str, &str)]) -> BTreeSet<usize> {
    let folder = folder_with_recipe(changes);
    let path = folder.path();
    let mut epochs = BTreeSet::new();
    assert!(start(path, "whole").wait().unwrap().success());
    let whole = result(&path.join("whole"));

    let run = path.join("killed");
    let mut draws = Draws::new(20, "kill moments", 0, 0);
    let (mut kills, mut kills_inside) = (0, 0);
    let mut tries = 0;
    while kills < 10 {
        tries += 1;
        assert!(
            tries < 40,
            "{kills} kills, {kills_inside} inside a checkpoint"
        );
        let mut child = start(path, "killed");
        let started = Instant::now();
        let wait = Duration::from_millis(150 + draws.below(250) as u64);
        let wants_inside = kills_inside < 3 && tries % 2 == 0;
        loop {
            // The kills are spread over the six epochs.
            let is_time = started.elapsed() > wait
                && 10 * epochs_done(&run) >= 6 * kills
                && (!wants_inside || unfinished(&run));
            if is_time || child.try_wait().unwrap().is_some() {
                break;
            }
            if !wants_inside {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        child.kill().unwrap();
        let status = child.wait().unwrap();
        assert_eq!(
            status.signal(),
            Some(9),
            "the run ended before it could be killed"
        );
        if wants_inside && !unfinished(&run) {
            continue;
        }
        kills += 1;
        kills_inside += i32::from(wants_inside);
        epochs.insert(epochs_done(&run));
    }
    assert_eq!(kills_inside, 3);
    assert!(start(path, "killed").wait().unwrap().success());
    assert!(whole == result(&run));
    assert!(!unfinished(&run), "nothing unfinished is left");
    epochs
}

#[test]
fn ctrl_c_saves_and_says_how_to_go_on() {
    let folder = folder_with_recipe(&[("every_steps = 1", "every_seconds = 1000")]);
    let child = Command::new(PROGRAM)
        .args(["train", "small.toml"])
        .current_dir(folder.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status()
        .unwrap();
    assert!(killed.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", text(&output));
    assert!(
        text(&output).contains("oncefit train runs/small --resume"),
        "{}",
        text(&output)
    );
    let said = succeed(folder.path(), &["train", "runs/small", "--resume"]);
    assert!(
        said.contains("continuing after step") && said.contains("trained 300 steps"),
        "{said}"
    );
}

#[test]
fn a_full_disk_is_told_and_loses_nothing() {
    let folder = folder_with_recipe(&[("every_steps = 1", "every_steps = 100")]);
    let path = folder.path();
    assert!(start(path, "whole").wait().unwrap().success());
    // Files of at most 100 KiB: a checkpoint has more.
    let limited = |arguments: &str| {
        let script = format!("ulimit -f 200; exec {PROGRAM} {arguments}");
        Command::new("sh")
            .args(["-c", &script])
            .current_dir(path)
            .output()
            .unwrap()
    };
    let output = limited("train small.toml --out run");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let said = text(&output);
    assert!(
        said.contains("cannot write") && said.contains("checkpoints/step-"),
        "{said}"
    );
    assert!(
        files(&path.join("run/checkpoints")).is_empty(),
        "no half file is left"
    );
    assert!(start(path, "run").wait().unwrap().success());
    assert!(result(&path.join("whole")) == result(&path.join("run")));
    // Later on, too: the checkpoint from before stays.
    let run = path.join("later");
    let mut child = start(path, "later");
    while checkpoints(&run).is_empty() {
        std::thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = limited("train later --resume");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(!checkpoints(&run).is_empty());
    assert!(start(path, "later").wait().unwrap().success());
    assert!(result(&path.join("whole")) == result(&run));
}

#[test]
fn bad_requests_are_answered_clearly() {
    let folder = folder_with_recipe(&[]);
    let path = folder.path();
    let recipe = |text: &str| fs::write(path.join("bad.toml"), text).unwrap();
    recipe("[optimiser]\nmomentun = 1\n");
    let said = fail(path, &["train", "bad.toml"], 1);
    assert!(
        said.contains("bad.toml:2:1") && said.contains("did you mean `momentum`?"),
        "{said}"
    );
    recipe("[space]\nfamily = \"fm-nono\"\n");
    let said = fail(path, &["train", "bad.toml"], 1);
    assert!(said.contains("did you mean `fm-nano`?"), "{said}");
    assert!(
        !path.join("runs").exists(),
        "no folder is made for a recipe that cannot run"
    );
    let said = fail(path, &["train", "missing.toml"], 1);
    assert!(said.contains("missing.toml"), "{said}");
    let said = fail(path, &["evaluate", "no-run"], 1);
    assert!(
        said.contains("no-run") && said.contains("no run folder"),
        "{said}"
    );
    fail(path, &["fit", "no-run"], 2);
    let said = fail(path, &["fit", "no-run", "--max-macs", "lots"], 2);
    assert!(said.contains("800k"), "{said}");
    let said = fail(path, &["show", "fm-nono"], 2);
    assert!(said.contains("did you mean `fm-nano`?"), "{said}");

    // Data: cut short, and not there.
    let idx = |name: &str, bytes: &[u8]| fs::write(path.join(name), bytes).unwrap();
    let mut images = vec![0, 0, 8, 3, 0, 0, 0, 40, 0, 0, 0, 28, 0, 0, 0, 28];
    images.extend(std::iter::repeat_n(7u8, 40 * 784 - 5));
    let mut labels = vec![0, 0, 8, 1, 0, 0, 0, 40];
    labels.extend((0..40u8).map(|index| index % 10));
    idx("images", &images);
    idx("labels", &labels);
    recipe(
        "[data]\nsource = \"idx\"\ntrain_images = \"images\"\ntrain_labels = \"labels\"\ntest_images = \"images\"\ntest_labels = \"labels\"\n[space]\nfamily = \"fm-nano\"\n",
    );
    let said = fail(path, &["data", "show", "bad.toml"], 1);
    assert!(
        said.contains("images") && said.contains("31376") && said.contains("31371"),
        "{said}"
    );
    recipe(
        "[data]\nsource = \"fashion-mnist\"\npath = \"nowhere\"\n[space]\nfamily = \"fm-nano\"\n",
    );
    let said = fail(path, &["train", "bad.toml"], 1);
    assert!(
        said.contains("nowhere") && said.contains("dataset-fashion-mnist"),
        "{said}"
    );
}

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
    let said = succeed(path, &["evaluate", "runs/small", "--classes"]);
    assert!(
        said.contains("Ankle boot") && said.contains("accuracy"),
        "{said}"
    );
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
fn runs_are_listed_and_compared() {
    let folder = folder_with_recipe(&[
        ("epochs = 6\nnetworks", "epochs = 1\nnetworks"),
        ("every_epochs = 6", "every_epochs = 1"),
    ]);
    let path = folder.path();
    succeed(path, &["train", "small.toml", "--out", "runs/first"]);
    let text = fs::read_to_string(path.join("small.toml")).unwrap();
    fs::write(
        path.join("small.toml"),
        format!("{text}[optimiser]\nkind = \"adamw\"\nlearning_rate = 0.002\n"),
    )
    .unwrap();
    succeed(path, &["train", "small.toml", "--out", "runs/second"]);
    let said = succeed(path, &["runs", "list"]);
    assert!(
        said.contains("runs/first") && said.contains("1 epochs"),
        "{said}"
    );
    let said = succeed(
        path,
        &[
            "runs",
            "compare",
            "runs/first",
            "runs/second",
            "--html",
            "page.html",
        ],
    );
    assert!(
        said.contains("optimiser.kind") && said.contains("adamw") && !said.contains("seed"),
        "{said}"
    );
    let page = fs::read_to_string(path.join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("optimiser.learning_rate"));
    fs::write(path.join("runs/second/metrics.jsonl"), "nonsense\n").unwrap();
    let said = succeed(path, &["runs", "list"]);
    assert!(
        said.contains("runs/first") && said.contains("line 1 is no row"),
        "{said}"
    );
    let said = fail(path, &["runs", "compare", "runs/first", "nowhere"], 1);
    assert!(said.contains("nowhere"), "{said}");
    fail(path, &["runs", "compare", "runs/first"], 2);
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
        1,
    );
    assert!(
        said.contains("`unit1[0].kernel` cannot be `4`; legal values: 3, 5, 7"),
        "{said}"
    );

    let said = fail(path, &["fit", run, "--max-macs", "10k"], 1);
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

#[test]
fn quickstart_writes_three_checked_files_and_a_report() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let said = succeed(
        path,
        &["quickstart", "--epochs", "2", "--evaluations", "16"],
    );
    let out = path.join("quickstart-out");
    for name in [
        "small.onnx",
        "medium.onnx",
        "large.onnx",
        "fitted.json",
        "this-machine.toml",
        "run/report.html",
    ] {
        assert!(out.join(name).exists(), "{name}\n{said}");
    }
    let fitted: Vec<serde_json::Value> =
        serde_json::from_str(&fs::read_to_string(out.join("fitted.json")).unwrap()).unwrap();
    for (one, budget) in fitted.iter().zip([400_000, 800_000, 1_600_000]) {
        assert!(one["macs"].as_u64().unwrap() <= budget);
        assert!(one["test_accuracy"].as_f64().unwrap() > 0.3);
        assert!(one["expected"]["latency"]["measured_ms"].as_f64().unwrap() > 0.0);
    }
    let report = fs::read_to_string(out.join("run/report.html")).unwrap();
    for part in [
        "Fitted networks",
        "<svg",
        "By class",
        "Predictor",
        "Latency",
        "depthwise",
    ] {
        assert!(report.contains(part), "{part}");
    }
    assert!(
        !report.contains("http://") && !report.contains("https://"),
        "the page is self-contained"
    );
    // Again: the quickstart replaces its own folder.
    succeed(
        path,
        &["quickstart", "--epochs", "1", "--evaluations", "12"],
    );
}

#[test]
fn data_and_spaces_are_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let said = succeed(path, &["data", "show", "--sheet", "sheet.png"]);
    assert!(
        said.contains("Sneaker") && said.contains("7000") && said.contains("2000"),
        "{said}"
    );
    assert!(
        fs::read(path.join("sheet.png"))
            .unwrap()
            .starts_with(b"\x89PNG")
    );
    let said = succeed(path, &["show", "fm-nano"]);
    assert!(said.contains("1648059777 subnets"), "{said}");
    let said = succeed(
        path,
        &[
            "show",
            "fm-nano",
            "--subnet",
            "resolution=28:depth=1:kernel=3:expand=3",
        ],
    );
    assert!(said.contains("355448 MACs"), "{said}");
    fs::write(
        path.join("own.space"),
        "space own\ninput(8, 8, 1)\ndecide w in (4, 8)\nconv(w)\nglobal_average_pool\nlinear(10)\n",
    )
    .unwrap();
    let said = succeed(path, &["show", "own.space"]);
    assert!(said.contains("2 subnets"), "{said}");
    for help in [
        &["--help"][..],
        &["fit", "--help"],
        &["train", "--help"],
        &["data", "show", "--help"],
    ] {
        let said = succeed(path, help);
        assert!(said.contains("Usage: oncefit"), "{said}");
    }
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

#[test]
fn networks_are_fitted_to_devices_here_and_elsewhere() {
    let folder = folder_with_recipe(&[("epochs = 6\nnetworks", "epochs = 2\nnetworks")]);
    let path = folder.path();
    succeed(path, &["train", "small.toml"]);
    let run = "runs/small";
    let said = succeed(
        path,
        &[
            "profile",
            run,
            "--networks",
            "24",
            "--time-limit",
            "5",
            "--out",
            "here.toml",
        ],
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
            &[
                "profile",
                "--import",
                "changed.csv",
                "--probes",
                "probes",
                "--device",
                "phone",
                "--out",
                "phone.toml",
            ],
        )
    };
    assert!(import(&csv).status.success());

    // One command, two devices: the phone's network has smaller kernels or fewer blocks.
    let said = succeed(
        path,
        &[
            "fit",
            run,
            "--target",
            "here.toml",
            "--target",
            "phone.toml",
            "--max-latency",
            "1ms",
            "--allow-estimates",
            "--evaluations",
            "24",
            "--verify",
            "4",
            "--out",
            "models",
            "--json",
        ],
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

    // What was measured is not measured again; the answer is the same.
    let again = [
        "fit",
        run,
        "--max-macs",
        "500k",
        "--evaluations",
        "24",
        "--verify",
        "4",
    ];
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
    let said = fail(path, &["predict", "model.onnx", "small.toml"], 1);
    assert!(
        said.contains("small.toml") && said.contains("no PNG or JPEG"),
        "{said}"
    );

    // Further training of the one that was chosen.
    let said = succeed(
        path,
        &[
            "fit",
            run,
            "--max-macs",
            "500k",
            "--evaluations",
            "24",
            "--verify",
            "2",
            "--finetune",
            "1",
            "--out",
            "tuned.onnx",
        ],
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
        &[
            "fit",
            run,
            "--target",
            "here.toml",
            "--max-latency",
            "5",
            "--evaluations",
            "24",
        ],
        2,
    );
    assert!(said.contains("2ms"), "{said}");
    let said = fail(
        path,
        &[
            "fit",
            run,
            "--target",
            "phone.toml",
            "--max-latency",
            "1us",
            "--evaluations",
            "24",
            "--allow-estimates",
        ],
        1,
    );
    assert!(
        said.contains("ms of latency") && said.contains("ask for"),
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
        &[
            "fit",
            run,
            "--target",
            "other.toml",
            "--max-latency",
            "1ms",
            "--evaluations",
            "24",
        ],
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
