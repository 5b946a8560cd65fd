//! Studies as their users meet them.

use super::*;

/// The files and commands of the documentation's page: `name`: before a block names a file.
struct Page {
    files: Vec<(String, String)>,
    commands: Vec<String>,
}

fn page() -> Page {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/studies.md");
    let text = fs::read_to_string(path).unwrap();
    let mut page = Page {
        files: Vec::new(),
        commands: Vec::new(),
    };
    let mut name = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(file) = line
            .strip_prefix('`')
            .and_then(|rest| rest.strip_suffix("`:"))
        {
            name = Some(file.to_owned());
        } else if line.starts_with("```") {
            let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
            if line == "```sh" {
                page.commands
                    .extend(block.iter().map(|&line| line.to_owned()));
            } else if let Some(file) = name.take() {
                page.files.push((file, block.join("\n") + "\n"));
            }
        }
    }
    page
}

#[test]
fn the_newcomers_page_leads_to_a_file() {
    let page = page();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let names: Vec<&str> = page.files.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["own.space", "train.toml", "study.toml"]);
    for (name, text) in &page.files {
        // The smallest of everything.
        let text = text
            .replace("epochs = 2", "epochs = 1")
            .replace("validation = 2000", "validation = 7000");
        fs::write(path.join(name), text).unwrap();
    }
    assert_eq!(page.commands.len(), 5);
    let mut best: Option<(String, String)> = None;
    for command in &page.commands {
        let command = command.strip_prefix("oncefit ").unwrap();
        let filled = match &best {
            Some((run, member)) => command
                .replace("studies/own/seed-0/networks/trial-N", run)
                .replace("MEMBER", member),
            None => command.to_owned(),
        };
        let said = succeed(path, &words(&filled));
        if command.starts_with("study show") {
            let line = said
                .lines()
                .find(|line| line.contains("oncefit export"))
                .unwrap();
            let parts: Vec<&str> = line.split_whitespace().collect();
            let at = parts.iter().position(|word| *word == "export").unwrap();
            best = Some((
                parts[at + 1].to_owned(),
                parts[at + 3].trim_matches('\'').to_owned(),
            ));
            assert!(said.contains("8 of 8"), "{said}");
        }
    }
    assert!(succeed(path, &["show", "best.onnx"]).contains("own"));
    let report = fs::read_to_string(path.join("studies/own/report.html")).unwrap();
    assert!(report.contains("Trade-off") && report.contains("</html>"));
    let kept = files(&path.join("studies/own/seed-0/networks"));
    assert_eq!(kept.len(), 1, "only the best network is kept");
    // A study goes on with what it began with.
    let recipe = path.join("train.toml");
    let text = fs::read_to_string(&recipe).unwrap();
    let other = text.replace("batch_size = 50", "batch_size = 40");
    fs::write(&recipe, other).unwrap();
    let said = fail(path, &words("study resume studies/own"), 2);
    assert!(
        said.contains("train.toml has changed since")
            && said.contains("`batch_size = 40` instead of `batch_size = 50`"),
        "{said}"
    );
    fs::write(&recipe, text + "# the same\n").unwrap();
    let space = path.join("own.space");
    let text = fs::read_to_string(&space).unwrap();
    fs::write(&space, text.replace("(4, 8, 12)", "(4, 8, 16)")).unwrap();
    let said = fail(path, &words("study resume studies/own"), 2);
    assert!(
        said.contains("own.space has changed since")
            && said
                .contains("`decide width in (4, 8, 16)` instead of `decide width in (4, 8, 12)`"),
        "{said}"
    );
    fs::write(&space, text).unwrap();
    succeed(path, &words("study resume studies/own"));
}

const TABLE_STUDY: &str = r#"
trials = 20
seeds = [0, 1, 2]
[space]
file = "two.space"
[searcher]
kind = "KIND"
[objective]
kind = "table"
table = "two.csv"
names = ["score"]
"#;

const TWO: &str = "space two
decide a in (1, 2, 3, 4, 5, 6)
decide b in (1, 2, 3, 4, 5, 6)
input(4, 4, 1)
conv(a)
conv(b)
global_average_pool
linear(2)
";

/// A folder with a space of 36 members and a table of its scores; the best is a=5, b=2.
fn table_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut table = String::from("subnet,score\n");
    for a in 1..=6i32 {
        for b in 1..=6i32 {
            let score = 1.0 - 0.1 * f64::from((a - 5).pow(2) + (b - 2).pow(2));
            table += &format!("a={a}:b={b},{score}\n");
        }
    }
    fs::write(folder.path().join("two.csv"), table).unwrap();
    fs::write(folder.path().join("two.space"), TWO).unwrap();
    for kind in [
        "random",
        "surrogate",
        "tree-search",
        "regularised-evolution",
        "exhaustive",
    ] {
        let text = TABLE_STUDY.replace("KIND", kind);
        fs::write(folder.path().join(format!("{kind}.toml")), text).unwrap();
    }
    folder
}

fn log(path: &Path, study: &str) -> Vec<String> {
    let file = path.join(format!("studies/{study}/seed-0/study.jsonl"));
    let text = fs::read_to_string(file).unwrap();
    // Times and processes differ.
    let line = |line: &str| {
        let mut event: serde_json::Value = serde_json::from_str(line).unwrap();
        for event in event.as_object_mut().unwrap().values_mut() {
            if let Some(fields) = event.as_object_mut() {
                fields.remove("seconds");
                fields.remove("by");
            }
        }
        event.to_string()
    };
    text.lines().map(line).collect()
}

#[test]
fn studies_of_a_table_are_run_shown_resumed_and_compared() {
    let folder = table_folder();
    let path = folder.path();
    for kind in ["random", "surrogate", "tree-search"] {
        succeed(path, &["study", "run", &format!("{kind}.toml")]);
    }
    let said = succeed(path, &words("study show studies/surrogate"));
    assert!(
        said.contains("20 of 20") && said.contains("a=5:b=2"),
        "{said}"
    );
    let said = succeed(
        path,
        &words("study compare studies/random studies/surrogate studies/tree-search --html c.html"),
    );
    assert!(said.contains("@20") && said.contains("sign test"), "{said}");
    assert!(
        fs::read_to_string(path.join("c.html"))
            .unwrap()
            .contains("</html>")
    );
    // A study that is finished has nothing left to do; one whose log was cut is finished again, with
    // the same proposals.
    let whole = log(path, "surrogate");
    succeed(path, &words("study resume studies/surrogate"));
    assert_eq!(log(path, "surrogate"), whole);
    let file = path.join("studies/surrogate/seed-0/study.jsonl");
    let text = fs::read(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    succeed(path, &words("study resume studies/surrogate"));
    let again = log(path, "surrogate");
    let told = |lines: &[String]| -> Vec<String> {
        lines
            .iter()
            .filter(|line| line.contains("told"))
            .cloned()
            .collect()
    };
    assert_eq!(told(&again), told(&whole));
    // The same study again, from the start: the same bytes but for times.
    succeed(path, &words("study run surrogate.toml --overwrite"));
    assert_eq!(log(path, "surrogate"), whole);
    let json = succeed(path, &words("study show studies/random --json"));
    let rows: serde_json::Value =
        serde_json::from_str(&json[json.find('[').unwrap()..=json.rfind(']').unwrap()]).unwrap();
    assert_eq!(rows.as_array().unwrap().len(), 60);
}

#[test]
fn two_processes_share_a_study_of_a_program() {
    let folder = table_folder();
    let path = folder.path();
    let study = r#"
name = "program"
trials = 24
[space]
file = "two.space"
[searcher]
kind = "random"
[objective]
kind = "command"
program = "sh"
arguments = ["-c", "read line; echo x >> calls; sleep 0.05; echo '{\"score\": 0.5}'"]
"#;
    fs::write(path.join("program.toml"), study).unwrap();
    let begin = || {
        Command::new(PROGRAM)
            .args(["study", "run", "program.toml"])
            .current_dir(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let (mut one, mut two) = (begin(), begin());
    // A third one is killed at work; what it had claimed is done by the others.
    let mut three = begin();
    std::thread::sleep(Duration::from_millis(200));
    three.kill().unwrap();
    three.wait().unwrap();
    assert!(one.wait().unwrap().success() && two.wait().unwrap().success());
    let said = succeed(path, &words("study show studies/program"));
    assert!(said.contains("24 of 24"), "{said}");
    let lines = log(path, "program");
    assert_eq!(
        lines.iter().filter(|line| line.contains("told")).count(),
        24
    );
    let calls = fs::read_to_string(path.join("calls"))
        .unwrap()
        .lines()
        .count();
    assert!(
        (24..=25).contains(&calls),
        "{calls} calls: none twice but the killed one's"
    );
}

/// Hyperband on a table of learning curves: each round reads the column of its budget.
#[test]
fn screenings_read_learning_curves_from_tables() {
    let folder = table_folder();
    let path = folder.path();
    let mut table = String::from("subnet,one,three,nine\n");
    for line in fs::read_to_string(path.join("two.csv"))
        .unwrap()
        .lines()
        .skip(1)
    {
        let (key, score) = line.rsplit_once(',').unwrap();
        let score: f64 = score.parse().unwrap();
        table += &format!("{key},{},{},{score}\n", score / 4.0, score / 2.0);
    }
    fs::write(path.join("two.csv"), table).unwrap();
    let curves = "[objective.budgets]\n1 = \"one\"\n3 = [\"three\"]\n9 = \"nine\"\n";
    let study = TABLE_STUDY.replace("trials = 20\n", "") + curves;
    fs::write(path.join("curves.toml"), study.replace("KIND", "hyperband")).unwrap();
    succeed(path, &words("study run curves.toml"));
    let json = succeed(path, &words("study show studies/curves --json"));
    let rows: serde_json::Value = serde_json::from_str(&json).unwrap();
    let mut budgets = std::collections::BTreeSet::new();
    for row in rows.as_array().unwrap() {
        let text = row["subnet"].as_str().unwrap();
        let numbers: Vec<i32> = text
            .split(':')
            .map(|part| part[2..].parse().unwrap())
            .collect();
        let full = 1.0 - 0.1 * f64::from((numbers[0] - 5).pow(2) + (numbers[1] - 2).pow(2));
        let budget = row["budget"].as_u64().unwrap();
        let share = [(1, 4.0), (3, 2.0), (9, 1.0)];
        let (_, share) = share.into_iter().find(|(one, _)| *one == budget).unwrap();
        let scores = row["outcome"].to_string();
        assert!(scores.contains(&format!("{}", full / share)), "{row}");
        budgets.insert(budget);
    }
    assert_eq!(budgets.into_iter().collect::<Vec<_>>(), [1, 3, 9]);
    // A searcher without budgets reads the last column, so that the two can be compared.
    fs::write(path.join("plain.toml"), study.replace("KIND", "random")).unwrap();
    succeed(path, &words("study run plain.toml"));
    succeed(path, &words("study compare studies/plain studies/curves"));
    for (from, to, message) in [
        (
            "9 = \"nine\"",
            "8 = \"nine\"",
            "for which [objective.budgets] has no column; it has [1, 3, 8]",
        ),
        ("9 = \"nine\"", "9 = \"ten\"", "no column `ten`"),
        (
            "9 = \"nine\"",
            "9 = [\"nine\", \"one\"]",
            "2 columns for budget 9",
        ),
        (
            "9 = \"nine\"",
            "all = \"nine\"",
            "an integer from 1, this is `all`",
        ),
        ("9 = \"nine\"", "9 = 9", "the name of a column"),
        (curves, "", "need a table with a column for each budget"),
    ] {
        let bad = study.replace("KIND", "hyperband").replace(from, to);
        fs::write(path.join("bad.toml"), bad).unwrap();
        let said = text(&oncefit(path, &words("study run bad.toml --overwrite")));
        assert!(said.contains(message), "{to}: {said}");
    }
    // The table may not change under a study.
    let table = fs::read_to_string(path.join("two.csv")).unwrap();
    fs::write(path.join("two.csv"), table + "\n").unwrap();
    let said = fail(path, &words("study resume studies/curves"), 2);
    assert!(said.contains("two.csv has changed since"), "{said}");
}

#[test]
fn bad_studies_are_answered_clearly() {
    let folder = table_folder();
    let path = folder.path();
    let study = TABLE_STUDY.replace("KIND", "random");
    let answer = |from: &str, to: &str| {
        assert!(study.contains(from), "{from}");
        fs::write(path.join("bad.toml"), study.replace(from, to)).unwrap();
        let said = text(&oncefit(
            path,
            &words("study run bad.toml --out studies/bad --overwrite"),
        ));
        assert!(!said.contains("panicked"), "{said}");
        said
    };
    for (from, to, message) in [
        ("trials = 20", "trails = 20", "legal keys"),
        ("trials = 20", "trials = 0", "at least 1"),
        ("seeds = [0, 1, 2]", "seeds = [0, 0]", "each once"),
        ("kind = \"random\"", "kind = \"magic\"", "unknown variant"),
        ("kind = \"random\"", "kind = \"nsga-ii\"", "two names"),
        (
            "kind = \"random\"",
            "kind = \"tree-search\"\nsettings = { depth = 3 }",
            "legal keys",
        ),
        (
            "names = [\"score\"]",
            "names = [\"other\"]",
            "no column `other`; there are subnet, score",
        ),
        ("table = \"two.csv\"", "table = \"none.csv\"", "none.csv"),
        ("file = \"two.space\"", "family = \"nothing\"", "fm-nano"),
        ("[objective]", "[limits]\nmacs = 3\n[objective]", "ask for"),
    ] {
        let said = answer(from, to);
        assert!(said.contains(message), "{to}: {said}");
        assert!(!path.join("studies/bad/seed-0").exists(), "{to}");
    }
    // Scores that are no numbers are failures that are told, and the study goes on.
    let table = fs::read_to_string(path.join("two.csv")).unwrap();
    fs::write(
        path.join("nan.csv"),
        table.replace("a=1:b=1,", "a=1:b=1,NaN\nz,"),
    )
    .unwrap();
    fs::write(
        path.join("nan.toml"),
        TABLE_STUDY
            .replace("KIND", "exhaustive")
            .replace("two.csv", "nan.csv")
            .replace("trials = 20", "trials = 36"),
    )
    .unwrap();
    let said = succeed(path, &words("study run nan.toml"));
    assert!(
        said.contains("not a number") && said.contains("36 of 36"),
        "{said}"
    );
    // A study that was refused before its first trial can be put right.
    let wrong = TABLE_STUDY
        .replace("KIND", "random")
        .replace("\"score\"", "\"scare\"");
    fs::write(path.join("typo.toml"), &wrong).unwrap();
    let said = fail(path, &words("study run typo.toml"), 1);
    assert!(said.contains("no column `scare`"), "{said}");
    fs::write(path.join("typo.toml"), wrong.replace("scare", "score")).unwrap();
    succeed(path, &words("study run typo.toml"));
    // Another study in the folder, no study at all.
    succeed(path, &words("study run random.toml --out studies/x"));
    let said = fail(path, &words("study run surrogate.toml --out studies/x"), 2);
    assert!(said.contains("holds another study"), "{said}");
    let said = fail(path, &words("study resume studies"), 2);
    assert!(said.contains("is no study"), "{said}");
    let log = path.join("studies/x/seed-0/study.jsonl");
    let damaged = fs::read_to_string(&log).unwrap().replacen("{", "?", 1);
    fs::write(&log, damaged).unwrap();
    let said = fail(path, &words("study resume studies/x"), 1);
    assert!(said.contains("line 1 of its log is no event"), "{said}");
}

/// A study begun again removes what the one before it made, and nothing else: its folder may be
/// the user's own.
#[test]
fn a_study_begun_again_spares_the_users_files() {
    let folder = table_folder();
    let path = folder.path();
    fs::rename(path.join("random.toml"), path.join("study.toml")).unwrap();
    let before = files(path).len();
    let run = words("study run study.toml --out . --overwrite");
    succeed(path, &run);
    assert_eq!(files(path).len(), before + 5, "three seeds, inputs, report");
    fs::write(path.join("seed-0/networks"), "old").unwrap();
    fs::create_dir(path.join("seed-9")).unwrap();
    // A study that cannot be run removes nothing.
    let text = fs::read_to_string(path.join("study.toml")).unwrap();
    let wrong = text.replace("two.space", "three.space");
    fs::write(path.join("study.toml"), wrong).unwrap();
    fail(path, &run, 1);
    assert!(path.join("seed-0/networks").exists());
    fs::write(path.join("study.toml"), &text).unwrap();
    succeed(path, &run);
    assert!(!path.join("seed-0/networks").exists());
    assert_eq!(files(path).len(), before + 6);
    assert_eq!(fs::read_to_string(path.join("study.toml")).unwrap(), text);
}

#[test]
fn programs_that_are_missing_or_always_fail_are_told() {
    let folder = table_folder();
    let path = folder.path();
    let study = "trials = 2\n[space]\nfile = \"two.space\"\n[objective]\nkind = \"command\"\nprogram = \"nope\"\n";
    fs::write(path.join("s.toml"), study).unwrap();
    let said = fail(path, &words("study run s.toml"), 2);
    assert!(said.contains("no program `nope`"), "{said}");
    assert!(!path.join("studies").exists());
    fs::write(path.join("s.toml"), study.replace("nope", "false")).unwrap();
    let said = fail(path, &words("study run s.toml"), 1);
    assert!(
        said.contains("every trial") && said.contains("--overwrite"),
        "{said}"
    );
}

/// A space of networks and of how they are trained.
const SETTINGS: &str = "space settings(channels = 1, classes = 10)
settings {
  optimiser = unordered (sgd, adam)
  learning_rate = if optimiser == sgd then 0.1 else 0.003
  batch_size = (20, 40)
}
input(28, 28, channels)
decide width in (2, 4)
choice window {
  small: conv(width, kernel = 3, stride = 2)
  large: conv(width, kernel = 5, stride = 2)
}
batch_norm
relu
global_average_pool
linear(classes)
";

const SMALL_TRAINING: &str = "
[data]
source = \"embedded\"
validation = 7000
[space]
file = \"settings.space\"
[schedule]
kind = \"plain\"
epochs = 4
subnet = \"optimiser=adam:batch_size=40:width=2:window=small\"
[evaluation]
calibration_images = 100
[checkpoint]
every_steps = 5
";

const SCREENING: &str = "
[searcher]
kind = \"successive-halving\"
settings = { factor = 2 }
[objective]
kind = \"train\"
recipe = \"train.toml\"
";

fn training_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("settings.space", SETTINGS),
        ("train.toml", SMALL_TRAINING),
        ("screening.toml", SCREENING),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// What was told, by trial.
fn told(path: &Path, study: &str) -> std::collections::BTreeMap<u64, String> {
    let lines = log(path, study).into_iter();
    let events = lines.map(|line| serde_json::from_str::<serde_json::Value>(&line).unwrap());
    events
        .filter_map(|event| {
            let told = event.get("told")?;
            Some((told["number"].as_u64()?, told["outcome"].to_string()))
        })
        .collect()
}

#[test]
fn training_settings_of_a_member_are_trained_and_shown() {
    let folder = training_folder();
    let path = folder.path();
    assert!(succeed(path, &words("space count settings.space")).starts_with("16 members"));
    succeed(path, &words("train train.toml --out run"));
    let recipe = fs::read_to_string(path.join("run/recipe.toml")).unwrap();
    for key in [
        "kind = \"adam\"",
        "learning_rate = 0.003",
        "batch_size = 40",
    ] {
        assert!(recipe.contains(key), "{key}: {recipe}");
    }
    succeed(path, &words("train run --resume"));
    let said = succeed(path, &words("space show settings.space --subnet largest"));
    assert!(said.contains("trained with optimiser"), "{said}");
    // A supernet's members are trained together.
    let shared = SMALL_TRAINING.replace("kind = \"plain\"", "kind = \"sandwich\"");
    fs::write(path.join("shared.toml"), shared).unwrap();
    let said = fail(path, &words("train shared.toml"), 2);
    assert!(said.contains("space.fix.optimiser"), "{said}");
    // Settings that a training does not know, before anything is tried.
    let unknown = SETTINGS.replace("batch_size", "batch_sise");
    fs::write(path.join("settings.space"), unknown).unwrap();
    let said = fail(path, &words("study run screening.toml"), 2);
    assert!(
        said.contains("did you mean `batch_size`") && said.contains("legal settings"),
        "{said}"
    );
    assert!(!path.join("studies").exists());
}

#[test]
fn a_screening_that_is_killed_ends_with_the_same_bits() {
    let folder = training_folder();
    let path = folder.path();
    succeed(path, &words("study run screening.toml"));
    let whole = told(path, "screening");
    // 4 members for one epoch, 2 for two, 1 for four.
    assert_eq!(whole.len(), 7);
    let weights = |study: &str| -> Vec<u8> {
        let networks = path.join(format!("studies/{study}/seed-0/networks"));
        let kept: Vec<PathBuf> = fs::read_dir(networks)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        assert_eq!(kept.len(), 1, "only the winner is kept: {kept:?}");
        let mut files: Vec<PathBuf> = fs::read_dir(kept[0].join("checkpoints"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|file| file.to_string_lossy().contains("step-"))
            .collect();
        files.sort();
        fs::read(files.last().unwrap()).unwrap()
    };
    let mut kills = 0;
    loop {
        let mut process = Command::new(PROGRAM)
            .args(words("study run screening.toml --out studies/killed"))
            .current_dir(path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(250 + 50 * kills));
        let status = process.try_wait().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
        kills += 1;
        if status.is_some() {
            break;
        }
        assert!(kills < 100, "it never ends");
    }
    assert!(kills > 1, "it was killed at work");
    assert_eq!(told(path, "killed"), whole);
    assert_eq!(weights("killed"), weights("screening"));
    // The winner is the one of the largest budget, and goes into a file.
    let said = succeed(path, &words("study show studies/screening"));
    let best: Vec<&str> = said
        .lines()
        .filter(|line| line.trim().starts_with("0 ") && line.contains("width="))
        .collect();
    assert_eq!(best.len(), 4, "each member once: {said}");
    assert_eq!(best[0].split_whitespace().nth(2), Some("4"), "{said}");
    let report = fs::read_to_string(path.join("studies/screening/report.html")).unwrap();
    assert!(report.contains("Rounds") && report.contains("Seed 0, trial"));
}

#[test]
fn screenings_of_runs_and_programs_have_budgets() {
    let folder = training_folder();
    let path = folder.path();
    fs::write(
        path.join("small.toml"),
        RECIPE.replace("epochs = 6", "epochs = 1"),
    )
    .unwrap();
    succeed(path, &words("train small.toml --out run"));
    let study = "[searcher]\nkind = \"hyperband\"\nsettings = { smallest_budget = 11, largest_budget = 900, factor = 9 }\n\
                 [objective]\nkind = \"run\"\nrun = \"run\"\nat_once = 3\n";
    fs::write(path.join("images.toml"), study).unwrap();
    succeed(path, &words("study run images.toml"));
    let lines = log(path, "images").join("\n");
    // Three brackets: from 11, 100 and 900 images.
    for budget in [11, 100, 900] {
        assert!(lines.contains(&format!("\"budget\":{budget},")), "{lines}");
    }
    succeed(path, &words("study compare studies/images studies/images"));
    fs::write(
        path.join("few.toml"),
        study.replace("smallest_budget = 11", "smallest_budget = 1"),
    )
    .unwrap();
    let said = fail(path, &words("study run few.toml"), 2);
    assert!(
        said.contains("at least one of each of the 10 classes"),
        "{said}"
    );

    let program = "[space]\nfile = \"settings.space\"\n[searcher]\nkind = \"successive-halving\"\n\
                   settings = { candidates = 4, budget = 1, largest_budget = 4, factor = 2 }\n\
                   [objective]\nkind = \"command\"\nprogram = \"sh\"\n\
                   arguments = [\"-c\", \"tee -a requests | sed 's/.*\\\"budget\\\":\\\\([0-9]*\\\\).*/{\\\"score\\\": \\\\1}/'\"]\n";
    fs::write(path.join("program.toml"), program).unwrap();
    succeed(path, &words("study run program.toml"));
    let requests = fs::read_to_string(path.join("requests")).unwrap();
    let requests: Vec<serde_json::Value> = requests
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(requests.len(), 7);
    assert_eq!(requests[6]["budget"], 4);
    let first = requests[6]["rung"]["first"].as_u64().unwrap();
    assert_eq!(requests[first as usize]["subnet"], requests[6]["subnet"]);
    assert!(requests[0]["settings"]["learning_rate"].is_f64());
    for (from, to, message) in [
        (", largest_budget = 4", "", "needs `largest_budget`"),
        ("factor = 2", "factor = 1", "a factor of at least 2"),
        ("factor = 2", "factr = 2", "legal keys"),
        (
            "kind = \"command\"",
            "kind = \"table\"",
            "a table with a column for each budget",
        ),
    ] {
        fs::write(path.join("bad.toml"), program.replace(from, to)).unwrap();
        let said = text(&oncefit(path, &words("study run bad.toml --overwrite")));
        assert!(said.contains(message), "{to}: {said}");
    }
}
