//! What is listed, shown and refused.

use super::*;

#[test]
fn bad_requests_are_answered_clearly() {
    let folder = folder_with_recipe(&[]);
    let path = folder.path();
    let recipe = |text: &str| fs::write(path.join("bad.toml"), text).unwrap();
    recipe("[optimiser]\nmomentun = 1\n");
    let said = fail(path, &["train", "bad.toml"], 2);
    assert!(
        said.contains("bad.toml:2:1") && said.contains("did you mean `momentum`?"),
        "{said}"
    );
    recipe("[space]\nfamily = \"fm-nono\"\n");
    let said = fail(path, &["train", "bad.toml"], 2);
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
    // Before anything is measured.
    let said = fail(path, &words("profile fm-nano --out nowhere/here.toml"), 2);
    assert!(
        said.contains("nowhere is no folder to write to") && !said.contains("measuring"),
        "{said}"
    );

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

/// What cannot be trained is refused before there is a folder, so that nothing is in the way of the
/// recipe once it is put right.
#[test]
fn trainings_that_cannot_begin_leave_no_folder() {
    for (from, to, part) in [
        (
            "family = \"fm-nano\"",
            "family = \"fm-nano\"\nparameters = { classes = 3 }",
            "1×1×3 outputs, but there are 10 classes",
        ),
        (
            "family = \"fm-nano\"",
            "family = \"fm-nano\"\nparameters = { classes = 20 }",
            "1×1×20 outputs, but there are 10 classes",
        ),
        (
            "family = \"fm-nano\"",
            "family = \"fm-nano\"\nparameters = { channels = 3 }",
            "read 3 channel(s), the images have 1",
        ),
        ("batch_size = 20", "batch_size = 100000", "at most 1000"),
        (
            "networks = 3",
            "kind = \"progressive\"\norder = [\"foo\"]",
            "`foo`",
        ),
    ] {
        let folder = folder_with_recipe(&[(from, to)]);
        let path = folder.path();
        for command in ["train small.toml --dry-run", "train small.toml"] {
            let said = fail(path, &words(command), 2);
            assert!(said.contains(part), "{said}");
        }
        assert!(!path.join("runs").exists());
    }
    let folder = tempfile::tempdir().unwrap();
    let said = fail(folder.path(), &words("quickstart --epochs 0"), 2);
    assert!(said.contains("`schedule.epochs` is 0"), "{said}");
    assert!(files(folder.path()).is_empty());
}

/// The commands of training and of learning have recipes and run folders of their own.
#[test]
fn recipes_and_runs_of_another_command_are_told_apart() {
    let folder = folder_with_recipe(&[("epochs = 6\nnetworks", "epochs = 1\nnetworks")]);
    let path = folder.path();
    let er = "name = \"er\"\n[data]\nvalidation = 7000\n[method]\nname = \"er\"\n[training]\nbatch_size = 50\n";
    fs::write(path.join("er.toml"), er).unwrap();
    succeed(path, &words("train small.toml --out run"));
    for (command, part) in [
        ("train er.toml", "`oncefit learn`"),
        ("data show er.toml", "`oncefit data stream`"),
        ("learn small.toml", "`oncefit train`"),
        ("data stream small.toml", "`oncefit data show`"),
        ("study run er.toml", "`oncefit learn`"),
        ("learn run --resume", "`oncefit train`"),
    ] {
        let said = fail(path, &words(command), 2);
        assert!(said.contains(part), "{said}");
    }
    let said = fail(path, &words("evaluate run --checkpoint best --subnet x"), 2);
    assert!(!said.contains("--resume"), "{said}");
    fs::remove_file(path.join("run/checkpoints/best.safetensors")).unwrap();
    let said = fail(path, &words("evaluate run --checkpoint best"), 2);
    assert!(said.contains("--checkpoint newest"), "{said}");
    let said = fail(
        path,
        &words("fit run --target small.toml --max-latency 1ms"),
        1,
    );
    assert!(
        said.contains("no target file of `oncefit profile`"),
        "{said}"
    );
    // The files of the other kind go, those of the user stay.
    fs::write(path.join("run/mine.txt"), "kept").unwrap();
    succeed(path, &words("learn er.toml --out run --overwrite"));
    assert!(!path.join("run/checkpoints").exists() && !path.join("run/metrics.jsonl").exists());
    let said = fail(path, &words("train run --resume"), 2);
    assert!(said.contains("`oncefit learn`"), "{said}");
    succeed(path, &words("train small.toml --out run --overwrite"));
    assert!(
        !path.join("run/state.safetensors").exists() && !path.join("run/results.json").exists()
    );
    assert!(path.join("run/mine.txt").exists());
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
