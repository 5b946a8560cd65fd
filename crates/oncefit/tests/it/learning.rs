//! Continual learning: kills, stops, comparisons, illegal requests.

use super::*;

const LEARN: &str = r#"
name = "stream"
[data]
source = "embedded"
[network]
hidden = 30
[method]
name = "der++"
[memory]
capacity = 60
[training]
replay_batch = 20
[augmentation]
crop_padding = 1
[checkpoint]
every_batches = 7
"#;

fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("r.toml"), text).unwrap();
    folder
}

/// The tensors of a state: weights, momentum, memory with its logits. The header before them has
/// times.
fn tensors(run: &Path) -> Vec<u8> {
    let bytes = fs::read(run.join("state.safetensors")).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[8 + header..].to_vec()
}

fn matrix(run: &Path) -> String {
    fs::read_to_string(run.join("accuracies.csv")).unwrap()
}

/// Kills at random moments, and once a polite stop: weights, memory and matrix are those of an
/// undisturbed run.
#[test]
fn killed_and_stopped_streams_go_on_with_the_same_bits() {
    let text = LEARN.replace("[method]", "[method]\n# kills need time\n");
    let text = text.replace("replay_batch = 20", "replay_batch = 20\nepochs = 8");
    let folder = folder_with(&text);
    let path = folder.path();
    let said = succeed(path, &["learn", "r.toml", "--out", "whole"]);
    assert!(said.contains("class-incremental"), "{said}");
    let run = path.join("killed");
    let mut draws = Draws::new(3, "kill moments", 0, 0);
    let mut ends = (0, 0);
    for attempt in 0..60 {
        let arguments = match run.join("recipe.toml").exists() {
            true => vec!["learn", "killed", "--resume"],
            false => vec!["learn", "r.toml", "--out", "killed"],
        };
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .current_dir(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(60 + draws.below(250) as u64));
        if attempt % 3 == 2 {
            let id = child.id().to_string();
            Command::new("kill").args(["-INT", &id]).status().unwrap();
        } else {
            let _ = child.kill();
        }
        let status = child.wait().unwrap();
        match (status.signal(), status.code()) {
            (Some(_), _) => ends.0 += 1,
            (_, Some(130)) => ends.1 += 1,
            (_, Some(0)) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(ends.0 >= 2 && ends.1 >= 1, "{ends:?} kills and stops");
    succeed(path, &["learn", "killed", "--resume"]);
    assert_eq!(matrix(&run), matrix(&path.join("whole")));
    assert!(tensors(&run) == tensors(&path.join("whole")));
    succeed(path, &["learn", "r.toml", "--out", "other", "--seed", "1"]);
    assert!(matrix(&path.join("other")) != matrix(&run));
}

#[test]
fn a_run_leaves_its_matrix_and_a_page_of_its_own() {
    let folder = folder_with(LEARN);
    let path = folder.path();
    let said = succeed(path, &["learn", "r.toml", "--dry-run"]);
    assert!(said.contains("5 tasks, 800 steps: about "), "{said}");
    assert!(said.contains("6 evaluations: about "), "{said}");
    let run = path.join("runs/stream");
    assert!(!run.exists());
    succeed(path, &["learn", "r.toml"]);
    // Two scenarios, a row before training and one for each of five tasks, five columns.
    assert_eq!(matrix(&run).lines().count(), 1 + 2 * 6 * 5);
    for command in ["runs list", "runs list --json", "show runs/stream"] {
        let said = succeed(path, &words(command));
        assert!(said.contains("der++"), "{said}");
    }
    assert!(succeed(path, &words("runs list")).contains("5 tasks"));
    let said = fail(path, &words("export runs/stream --subnet largest"), 2);
    assert!(said.contains("\"member\""), "{said}");
    let page = fs::read_to_string(run.join("report.html")).unwrap();
    for part in [
        "Accuracy matrix",
        "Forgetting",
        "data:image/png;base64,",
        "train-MACs",
        "prefers-color-scheme",
    ] {
        assert!(page.contains(part), "{part}");
    }
    assert!(!page.contains("NaN") && !page.contains("http://") && !page.contains("<script"));
    let again = fail(path, &["learn", "r.toml"], 1);
    assert!(again.contains("--resume"), "{again}");
    succeed(path, &["learn", "r.toml", "--overwrite"]);
    fs::write(run.join("state.safetensors"), b"cut short").unwrap();
    let damaged = fail(path, &["learn", "runs/stream", "--resume"], 1);
    for part in [
        "runs/stream/state.safetensors: cannot restore",
        "learn runs/stream --resume",
    ] {
        assert!(damaged.contains(part), "{damaged}");
    }
}

#[test]
fn comparisons_keep_what_is_finished_and_pair_the_seeds() {
    let folder = folder_with(LEARN);
    let path = folder.path();
    fs::write(
        path.join("plain.toml"),
        LEARN
            .replace("\"der++\"", "\"fine-tune\"")
            .replace("\"stream\"", "\"plain\"")
            .replace("replay_batch = 20", ""),
    )
    .unwrap();
    let line = "compare plain.toml r.toml --seeds 0..1 --out c --json";
    let output = oncefit(path, &words(line));
    assert!(output.status.success(), "{}", text(&output));
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let methods = found["methods"].as_array().unwrap();
    let finals = |index: usize| -> Vec<f64> {
        let values = methods[index]["final_accuracies"].as_array().unwrap();
        values.iter().map(|value| value.as_f64().unwrap()).collect()
    };
    let (plain, replay) = (finals(0), finals(1));
    let difference = (replay[0] - plain[0] + replay[1] - plain[1]) / 2.0;
    let said = methods[1]["difference"]["mean"].as_f64().unwrap();
    assert!(
        (said - difference).abs() < 1e-12 && difference > 0.1,
        "{said} {difference}"
    );
    // Finished runs are kept: a mark in one of them survives.
    let results = path.join("c/stream/seed-1/results.json");
    let before = fs::metadata(&results).unwrap().modified().unwrap();
    let said = succeed(
        path,
        &words("compare plain.toml r.toml --seeds 0..2 --out c --convention avalanche"),
    );
    assert!(said.contains("over 3 seeds"), "{said}");
    assert_eq!(fs::metadata(&results).unwrap().modified().unwrap(), before);
    assert!(
        fs::read_to_string(path.join("c/comparison.html"))
            .unwrap()
            .contains("avalanche")
    );
    // A changed recipe is not mixed with the runs of the old one.
    fs::write(path.join("r.toml"), LEARN.replace("60", "80")).unwrap();
    let said = fail(
        path,
        &words("compare plain.toml r.toml --seeds 0..1 --out c"),
        2,
    );
    assert!(said.contains("another recipe"), "{said}");
    let said = fail(path, &words("compare r.toml r.toml --out d"), 2);
    assert!(said.contains("two recipes are named `stream`"), "{said}");
}

#[test]
fn streams_are_shown_as_they_are_learnt() {
    let text = format!(
        "{LEARN}[stream]\nbase = 1\nincrement = 2\nclass_order = [\"Bag\", \"Coat\", \"Dress\"]\nlater_shots = 5\n"
    );
    let folder = folder_with(&text);
    let said = succeed(
        folder.path(),
        &words("data stream r.toml --sheet s.png --per-task 3"),
    );
    assert!(
        said.contains("Coat, Dress") && said.contains(" 800 ") && said.contains(" 10 "),
        "{said}"
    );
    let png = fs::read(folder.path().join("s.png")).unwrap();
    assert!(png.starts_with(b"\x89PNG"));
    let turned = "[stream]\nscenario = \"rotated-pixels\"\ntasks = 3\n";
    fs::write(folder.path().join("t.toml"), turned).unwrap();
    let said = succeed(folder.path(), &words("data stream t.toml"));
    assert!(said.contains("turned by"), "{said}");
}

/// A member of a family goes on from the weights of a trained supernet.
#[test]
fn a_subnet_of_a_trained_supernet_learns_on() {
    let folder = folder_with_recipe(&[
        ("every_steps = 1", "every_steps = 0"),
        ("epochs = 6", "epochs = 3"),
    ]);
    let path = folder.path();
    succeed(path, &words("train small.toml --out run"));
    let weights = checkpoints(&path.join("run")).pop().unwrap();
    let write = |name: &str, subnet: &str, extra: &str| {
        let text = format!(
            "[data]\nvalidation = 7000\n[network]\nkind = \"member\"\nsubnet = \"{subnet}\"\n{extra}\
             [network.space]\nfamily = \"fm-nano\"\n[training]\nbatch_size = 20\n"
        );
        fs::write(path.join(name), text).unwrap();
    };
    write("fresh.toml", "largest", "");
    let given = format!("weights = \"{}\"\n", weights.display());
    write("tuned.toml", "largest", &given);
    succeed(path, &words("learn fresh.toml"));
    succeed(path, &words("learn tuned.toml"));
    write("small-images.toml", "smallest", "");
    let said = fail(path, &words("learn small-images.toml"), 2);
    assert!(said.contains("resolution of the subnet is 20×20"), "{said}");
    let untrained = |run: &str| -> f64 {
        let rows = matrix(&path.join(run));
        let of = rows
            .lines()
            .filter_map(|line| line.strip_prefix("class_incremental,0,"));
        of.map(|line| line.split_once(',').unwrap().1.parse::<f64>().unwrap())
            .sum::<f64>()
            / 5.0
    };
    // What one member learnt becomes a file.
    let said = succeed(
        path,
        &words("export runs/tuned --subnet largest --out tuned.onnx"),
    );
    assert!(said.contains("tuned.onnx"), "{said}");
    let said = fail(path, &words("fit runs/tuned --max-macs 4M"), 2);
    assert!(said.contains("oncefit export"), "{said}");
    let (tuned, fresh) = (untrained("runs/tuned"), untrained("runs/fresh"));
    assert!(tuned > fresh + 0.15, "{tuned} {fresh}");
}

#[test]
fn illegal_recipes_are_answered_with_what_is_legal() {
    for (change, code, parts) in [
        (
            ("name = \"der++\"", "name = \"der+\""),
            2,
            vec!["one of fine-tune", "der++"],
        ),
        (
            ("name = \"der++\"", "name = \"mir\""),
            2,
            vec!["not available"],
        ),
        (
            ("name = \"der++\"", "name = \"der++\"\ntemperature = 2.0"),
            2,
            vec!["`temperature`", "alpha, beta"],
        ),
        (
            ("capacity = 60", "capacity = 10"),
            2,
            vec!["memory's capacity is 10", "20 or more"],
        ),
        (
            ("capacity = 60", "size = 10"),
            2,
            vec!["unknown key `size`", "capacity, policy"],
        ),
        (
            (
                "[memory]",
                "[stream]\nclass_order = [\"Bag\", \"Boat\"]\n[memory]",
            ),
            2,
            vec!["`Boat`", "T-shirt/top"],
        ),
        (
            ("[memory]", "[stream]\nclass_order = \"random\"\n[memory]"),
            2,
            vec!["natural", "list of names"],
        ),
        (
            ("[memory]", "[stream]\nincrement = 3\n[memory]"),
            2,
            vec!["number of classes is 10", "increment 3"],
        ),
        (
            ("[memory]", "[stream]\ntasks = 3\n[memory]"),
            2,
            vec!["`stream.tasks` is 3", "divisor"],
        ),
        (
            ("crop_padding = 1", "mixup = 0.2"),
            2,
            vec!["mixing of images"],
        ),
        (
            ("hidden = 30", "hidden = 30\nwidth = 3"),
            2,
            vec!["`network.width`", "resnet18"],
        ),
    ] {
        let text = LEARN.replace(change.0, change.1);
        assert!(text != LEARN);
        let folder = folder_with(&text);
        let said = fail(folder.path(), &["learn", "r.toml"], code);
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!folder.path().join("runs").exists(), "{said}");
    }
    // A loss that is not finite ends the run, and says at which step.
    let wild = format!("{LEARN}[optimiser]\nlearning_rate = 1e30\n");
    let folder = folder_with(&wild);
    let said = fail(folder.path(), &["learn", "r.toml"], 1);
    assert!(said.contains("not finite at step"), "{said}");
}

/// A supernet with LingoCL's head: its subnets are measured, and the page shows their curves, the targets
/// and the features; nothing is exported of it.
#[test]
fn a_supernet_learns_with_a_head_of_class_names() {
    let folder = folder_with(
        r#"
name = "named"
[data]
source = "embedded"
train_limit = 600
[network]
kind = "supernet"
elastic = { random = 0 }
[network.space]
family = "fm-nano"
fix = { resolution = [28] }
[head]
targets = "fashion-mnist"
[method]
name = "er"
[memory]
capacity = 40
[metrics]
drift = 2
class_cosines = true
"#,
    );
    let path = folder.path();
    succeed(path, &["learn", "r.toml"]);
    let page = fs::read_to_string(path.join("runs/named/report.html")).unwrap();
    for part in [
        "Subnets",
        "Rank correlation",
        "Cosines of the head",
        "Drift of features",
    ] {
        assert!(page.contains(part), "{part}");
    }
    let text = fs::read_to_string(path.join("runs/named/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cosines = results["finished"]["class_cosines"].as_array().unwrap();
    assert!(cosines.len() == 10 && cosines[3][3].as_f64().unwrap() > 0.999);
    assert_eq!(results["finished"]["subnets"].as_array().unwrap().len(), 3);
    let said = fail(path, &["export", "runs/named", "--subnet", "smallest"], 2);
    assert!(said.contains("own last layer"), "{said}");
}
