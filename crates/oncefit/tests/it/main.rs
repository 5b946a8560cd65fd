//! The program as its users meet it: kills, full disks, typos, and the main job in small.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use oncefit_random::Draws;
use oncefit_train::{MetricsRow, TEMPORARY_PREFIX};

mod fitting;
mod language;
mod learning;
mod reproducing;
mod requests;
mod studies;
mod targets;
mod training;

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

/// The words of a command line.
fn words(line: &str) -> Vec<&str> {
    line.split_whitespace().collect()
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
