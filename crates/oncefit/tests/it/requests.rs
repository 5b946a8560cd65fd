//! What is listed, shown and refused.

use super::*;

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
