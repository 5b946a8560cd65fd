//! Trainings that are killed, stopped, out of disk; the quickstart.

use std::collections::BTreeSet;

use super::*;

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
