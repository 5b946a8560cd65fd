//! Target files: built, shown, learnt with, and refused when they change under a run.

use super::*;

fn model() -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../oncefit-text/tests/tiny-bert");
    folder.display().to_string()
}

const NAMES: &str = "T-shirt/top: t-shirt\nTrouser: boots\nPullover: top\nDress: shirt\nCoat: coat\nSandal: ankle\nShirt: shirt top\nSneaker: boot\nBag: cafe\nAnkle boot: ankle boot | ankle boots\n";

const STREAM: &str = r#"
[data]
source = "embedded"
[stream]
class_order = ["Coat", "Bag", "Dress", "Sneaker"]
[network]
hidden = 20
[head]
targets = "t.json"
[metrics]
drift = 4
[checkpoint]
every_batches = 40
"#;

#[test]
fn targets_are_built_learnt_with_and_pinned() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let model = model();
    fs::write(path.join("names.txt"), NAMES).unwrap();
    fs::write(path.join("r.toml"), STREAM).unwrap();
    let build = |out: &str, more: &[&str]| {
        let mut words = vec![
            "targets",
            "build",
            "names.txt",
            "--model",
            &model,
            "--out",
            out,
        ];
        words.extend(more);
        succeed(path, &words)
    };
    let said = build("t.json", &["--licence", "none"]);
    assert!(said.contains("names: 10 classes, 12 values each"), "{said}");
    build("again.json", &["--licence", "none"]);
    let bytes = fs::read(path.join("t.json")).unwrap();
    assert_eq!(bytes, fs::read(path.join("again.json")).unwrap());
    let shown = succeed(path, &["targets", "show", "t.json", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["model"]["name"], "tiny-bert");
    succeed(path, &["learn", "r.toml", "--out", "run"]);
    let recipe = fs::read_to_string(path.join("run/recipe.toml")).unwrap();
    let pinned = format!("targets_hash = \"{}\"", shown["hash"].as_str().unwrap());
    assert!(recipe.contains(&pinned), "{recipe}");
    let results = fs::read_to_string(path.join("run/results.json")).unwrap();
    let results: serde_json::Value = serde_json::from_str(&results).unwrap();
    let drift = results["finished"]["drift"][1][0].as_f64().unwrap();
    assert!(drift > 0.0 && drift < 1.0, "{drift}");
    // Another file under the same name: the run does not go on.
    build("t.json", &["--template", "a {}"]);
    let said = fail(path, &["learn", "run", "--resume"], 2);
    assert!(said.contains("the hash of the head's targets"), "{said}");
}

#[test]
fn illegal_targets_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let (path, model) = (folder.path(), model());
    let said = fail(path, &["targets", "build", "no", "--model", &model], 2);
    assert!(
        said.contains("fashion-mnist, mnist, cifar10, icons"),
        "{said}"
    );
    let said = fail(path, &["targets", "build", "mnist", "--model", "no.whl"], 1);
    assert!(said.contains("cannot read no.whl"), "{said}");
    let said = fail(path, &["targets", "show", "no.json"], 1);
    assert!(said.contains("no shipped table of that name"), "{said}");
    let said = succeed(path, &["targets", "show", "fashion-mnist"]);
    assert!(said.contains("mean cosine 0.319"), "{said}");
}
