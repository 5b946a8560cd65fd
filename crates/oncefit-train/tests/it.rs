//! Whole trainings in small: determinism, resuming, schedules, the cost meter, the guard.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use oncefit_train::*;

/// A training of a few steps on the embedded images.
const SMALL: &str = r#"
name = "small"
seed = 5
[data]
source = "embedded"
validation = 7000
[space]
family = "fm-nano"
[schedule]
kind = "deps"
epochs = 4
networks = 3
delay = 0.5
ramp_epochs = 1
[training]
batch_size = 100
[evaluation]
every_epochs = 4
calibration_images = 100
"#;

fn recipe(changes: &[(&str, &str)]) -> Recipe {
    let mut text = SMALL.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    Recipe::parse(&text, "small.toml").unwrap()
}

fn never() -> AtomicBool {
    AtomicBool::new(false)
}

/// Bytes of the last checkpoint, and the metrics without their times.
fn result(run: &Run) -> (Vec<u8>, Vec<MetricsRow>) {
    let checkpoints = CheckpointFolder::open_to_read(&run.checkpoints());
    let last = checkpoints.list().unwrap().pop().unwrap();
    let mut rows = run.metrics().unwrap();
    rows.iter_mut().for_each(|row| row.seconds = 0.0);
    (std::fs::read(last).unwrap(), rows)
}

fn train(folder: &Path, recipe: &Recipe) -> (Vec<u8>, Vec<MetricsRow>) {
    let data = RunData::load(recipe).unwrap();
    let run = Run::create(folder, recipe).unwrap();
    let mut trainer = Trainer::new(&run, &data).unwrap();
    assert_eq!(
        trainer.train(&never(), &mut |_| {}).unwrap(),
        Outcome::Finished
    );
    result(&run)
}

/// The weights in a checkpoint file.
fn weights(bytes: &[u8], folder: &Path, recipe: &Recipe) -> Vec<(String, Vec<f32>)> {
    let path = folder.join("copy.safetensors");
    std::fs::write(&path, bytes).unwrap();
    let layout = oncefit_nn::Supernet::layout(&recipe.build_space(1, 10).unwrap()).unwrap();
    let checkpoint = Checkpoint::load(&path, &layout).unwrap();
    checkpoint
        .weights
        .iter()
        .map(|tensor| (tensor.name.clone(), tensor.data.clone()))
        .collect()
}

#[test]
fn the_same_seed_gives_the_same_bytes_with_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, threads: usize, recipe: &Recipe| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(|| train(&folder.path().join(name), recipe))
    };
    let one = run("one", 1, &recipe(&[]));
    assert_eq!(one.1.len(), 4);
    assert!(one == run("two", 2, &recipe(&[])));
    assert!(one == run("three", 3, &recipe(&[])));
    let other = run("other", 2, &recipe(&[("seed = 5", "seed = 6")]));
    assert_ne!(one.0, other.0);
}

/// Trains in parts of seven steps, each in a fresh process's state; returns how many there were.
fn train_in_parts(path: &Path, recipe: &Recipe) -> usize {
    let data = RunData::load(recipe).unwrap();
    Run::create(path, recipe).unwrap();
    let mut parts = 0;
    loop {
        let run = Run::open(path).unwrap();
        let mut trainer = Trainer::new(&run, &data).unwrap();
        let stop = never();
        let mut steps = 0;
        let outcome = trainer
            .train(&stop, &mut |event| {
                if let Event::Step { .. } = event {
                    steps += 1;
                    // Steps 7, 14, …: within epochs of 10, on the ramp, before and after sorting.
                    stop.store(steps == 7, std::sync::atomic::Ordering::Relaxed);
                }
            })
            .unwrap();
        parts += 1;
        if outcome == Outcome::Finished {
            return parts;
        }
    }
}

/// Delayed shrinking with plain momentum; progressive shrinking through all six phases, with a
/// teacher and tiered sorting; AttentiveNAS' sampling with AlphaNet's divergence, Adam, a moving
/// average and batches in parts.
fn resumable_recipes() -> [Recipe; 3] {
    let deps = "kind = \"deps\"\nepochs = 4";
    [
        recipe(&[]),
        recipe(&[(deps, "kind = \"progressive\"\nepochs = 6")]),
        recipe(&[
            (
                deps,
                "kind = \"sandwich\"\nepochs = 2\nsampler = \"worst-of\"\ndistillation = \"alpha\"\naggregation = \"avg_sqrt\"",
            ),
            (
                "[training]",
                "[optimiser]\nkind = \"adamw\"\nlearning_rate = 0.003\nclip_norm = 1.0\naverage_decay = 0.9\n[training]\naccumulation = 2",
            ),
            (
                "[evaluation]",
                "[augmentation]\nresized_crop = 0.5\nauto_augment = \"cifar10\"\nmixup = 0.2\ncutmix = 1.0\n[evaluation]",
            ),
        ]),
    ]
}

#[test]
fn a_training_that_is_stopped_anywhere_continues_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    for (index, recipe) in resumable_recipes().iter().enumerate() {
        let whole = train(&folder.path().join(format!("whole{index}")), recipe);
        let path = folder.path().join(format!("parts{index}"));
        let parts = train_in_parts(&path, recipe);
        assert!(parts > 2, "{parts}");
        assert!(
            whole == result(&Run::open(&path).unwrap()),
            "recipe {index}"
        );
    }
}

#[test]
fn progressive_shrinking_goes_through_its_phases_and_needs_its_teacher() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = &resumable_recipes()[1];
    let path = folder.path().join("run");
    let rows = train(&path, recipe).1;
    let names: Vec<&str> = rows.iter().map(|row| row.phase.as_str()).collect();
    assert_eq!(
        names,
        [
            "largest network",
            "elastic kernel",
            "elastic depth, next value",
            "elastic depth",
            "elastic expand, next value",
            "elastic expand"
        ]
    );
    // The meter counts what the schedule plans, the teacher's passes included.
    let schedule = recipe
        .build_schedule(&recipe.build_space(1, 10).unwrap())
        .unwrap();
    let mut planned = 0;
    for step in 0..60 {
        let place = schedule.place(step, 10);
        let phase = &schedule.phases[place.phase];
        planned += 100 * phase.step_macs(recipe.seed, step, place.epoch).unwrap();
    }
    assert_eq!(rows[5].train_macs, planned);
    let teacher = schedule.phases[1].space.whole_largest(2).graph().macs();
    let step = schedule.phases[1].step_macs(recipe.seed, 10, 0.0).unwrap();
    assert!(step > teacher);
    // Cut back to a checkpoint within the fourth phase, its teacher gone.
    let checkpoint = CheckpointFolder::open_to_read(&Run::open(&path).unwrap().checkpoints());
    let layout = oncefit_nn::Supernet::layout(&recipe.build_space(1, 10).unwrap()).unwrap();
    let mut state = checkpoint.newest(&layout).unwrap().0.unwrap();
    state.step = 35;
    for old in checkpoint.list().unwrap() {
        std::fs::remove_file(old).unwrap();
    }
    state
        .save(&path.join("checkpoints/step-000000035.safetensors"))
        .unwrap();
    std::fs::remove_file(path.join("teacher.safetensors")).unwrap();
    let data = RunData::load(recipe).unwrap();
    let run = Run::open(&path).unwrap();
    let error = Trainer::new(&run, &data).err().unwrap().to_string();
    assert!(error.contains("teacher.safetensors"), "{error}");
}

#[test]
fn the_best_checkpoint_is_the_one_with_the_best_validation_accuracy() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&[("every_epochs = 4", "every_epochs = 1")]);
    let path = folder.path().join("run");
    let rows = train(&path, &recipe).1;
    let mean = |row: &MetricsRow| row.accuracies.iter().map(|(_, found)| found).sum::<f64>();
    let mut best = &rows[0];
    for row in &rows[1..] {
        if mean(row) > mean(best) {
            best = row;
        }
    }
    let layout = oncefit_nn::Supernet::layout(&recipe.build_space(1, 10).unwrap()).unwrap();
    let checkpoints = CheckpointFolder::open_to_read(&path.join("checkpoints"));
    assert_eq!(checkpoints.best(&layout).unwrap().unwrap().step, best.step);
}

/// Networks that are new to a phase have a high loss at first; that is no divergence.
#[test]
fn new_networks_of_a_phase_are_not_taken_for_divergence() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&[
        (
            "kind = \"deps\"\nepochs = 4",
            "kind = \"compofa\"\nepochs = 5",
        ),
        ("batch_size = 100", "batch_size = 16"),
        (
            "family = \"fm-nano\"",
            "family = \"fm-nano\"\nfix = { kernel = [3], resolution = [20] }",
        ),
    ]);
    let rows = train(&folder.path().join("run"), &recipe).1;
    assert_eq!(rows.last().unwrap().phase, "compound, second");
}

/// A network that is named with its resolution reads images of that size.
#[test]
fn one_network_is_trained_at_its_own_resolution() {
    let folder = tempfile::tempdir().unwrap();
    let kind = "kind = \"plain\"\nsubnet = \"resolution=20:depth=1:kernel=3:expand=3\"\nepochs = 1";
    let recipe = recipe(&[("kind = \"deps\"\nepochs = 4", kind)]);
    let rows = train(&folder.path().join("run"), &recipe).1;
    let space = recipe.build_space(1, 10).unwrap();
    let macs = space.smallest().unwrap().graph().macs();
    assert_eq!(rows[0].train_macs, 3 * 1000 * macs);
}

/// Soft labels carry no gradient: what only the largest network has moves as if it were trained
/// alone, whatever the smallest learns from it.
#[test]
fn soft_labels_carry_no_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let one_step = |kind: &str| {
        let recipe = recipe(&[
            ("kind = \"deps\"\nepochs = 4\nnetworks = 3", kind),
            ("batch_size = 100", "batch_size = 1000"),
            (
                "family = \"fm-nano\"",
                "family = \"fm-nano\"\nfix = { resolution = [20] }",
            ),
        ]);
        let name = kind.replace(['"', '\n', ' '], "");
        let (bytes, _) = train(&folder.path().join(name), &recipe);
        weights(&bytes, folder.path(), &recipe)
    };
    let alone = one_step("kind = \"plain\"\nepochs = 1");
    for distance in ["cross-entropy", "alpha"] {
        let kind =
            format!("kind = \"sandwich\"\nepochs = 1\nnetworks = 2\ndistillation = \"{distance}\"");
        let taught = one_step(&kind);
        let mut shared_moved = false;
        for ((name, alone), (_, taught)) in alone.iter().zip(&taught) {
            if name.contains("[1]") || name.contains("[2]") {
                assert!(alone == taught, "{distance}: {name}");
            } else {
                shared_moved |= alone != taught;
            }
        }
        assert!(shared_moved);
    }
}

/// One network holds all it trains, so dividing by its weight, 1, changes nothing.
#[test]
fn aggregation_of_one_network_is_its_gradient() {
    let folder = tempfile::tempdir().unwrap();
    let weights = ["sum", "avg", "avg_sqrt"].map(|mode| {
        let kind = format!("kind = \"plain\"\naggregation = \"{mode}\"");
        let recipe = recipe(&[
            ("kind = \"deps\"", kind.as_str()),
            ("epochs = 4", "epochs = 1"),
        ]);
        let (bytes, _) = train(&folder.path().join(mode), &recipe);
        self::weights(&bytes, folder.path(), &recipe)
    });
    assert!(weights[0] == weights[1] && weights[0] == weights[2]);
}

/// The largest network reads every weight that is present; random small networks do not.
#[test]
fn keeping_what_is_inactive_changes_nothing_where_all_is_active() {
    let folder = tempfile::tempdir().unwrap();
    let results = |kind: &str, epochs: usize| {
        [false, true].map(|keeps| {
            let schedule = format!("kind = \"{kind}\"");
            let epochs = format!("epochs = {epochs}");
            let sections = format!("[optimiser]\nkeep_inactive = {keeps}\n[training]");
            let recipe = recipe(&[
                ("kind = \"deps\"", schedule.as_str()),
                ("epochs = 4", epochs.as_str()),
                ("[training]", sections.as_str()),
            ]);
            let (bytes, _) = train(&folder.path().join(format!("{kind}{keeps}")), &recipe);
            weights(&bytes, folder.path(), &recipe)
        })
    };
    let [moves, keeps] = results("plain", 1);
    assert!(moves == keeps);
    let [moves, keeps] = results("progressive", 6);
    assert!(moves != keeps);
}

#[test]
fn deps_with_weight_zero_is_training_the_largest_network_alone() {
    let folder = tempfile::tempdir().unwrap();
    let changes = (
        "ramp_epochs = 1",
        "ramp_epochs = 1\nsort_channels = \"no\"\nmultiplier = 0.0",
    );
    let nothing = recipe(&[changes]);
    let alone = recipe(&[("kind = \"deps\"", "kind = \"plain\"")]);
    let some = recipe(&[("ramp_epochs = 1", "ramp_epochs = 1\nsort_channels = \"no\"")]);
    let found = ["nothing", "alone", "some"].map(|name| {
        let recipe = match name {
            "nothing" => &nothing,
            "alone" => &alone,
            _ => &some,
        };
        let (bytes, rows) = train(&folder.path().join(name), recipe);
        (weights(&bytes, folder.path(), recipe), rows[3].train_macs)
    });
    assert!(found[0] == found[1], "weight 0 is not executed");
    assert!(found[0].0 != found[2].0, "weight 1 is");
    assert!(found[0].1 < found[2].1);
}

/// C = Σ over steps and networks of 3 · MACs · batch.
#[test]
fn the_cost_meter_is_the_analytic_sum() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&[(
        "family = \"fm-nano\"",
        "family = \"fm-nano\"\nfix = { resolution = [28] }",
    )]);
    let rows = train(&folder.path().join("run"), &recipe).1;
    let space = recipe.build_space(1, 10).unwrap();
    let largest = space.largest().unwrap().graph().macs();
    let smallest = space.smallest().unwrap().graph().macs();
    let steps = StepSpace::whole(&space).unwrap();
    let mut expected = 0;
    for step in 0..40u64 {
        expected += 3 * 100 * largest;
        // Shrinking begins after epoch 1, where its weight is still 0.
        if step > 10 {
            let mut draws = oncefit_random::Draws::new(5, "subnet", step, 2);
            let random = steps.sample(0, &mut draws).unwrap()[0].graph().macs();
            expected += 3 * 100 * (smallest + random);
        }
    }
    assert_eq!(rows[3].train_macs, expected);
}

#[test]
fn training_learns_and_small_networks_follow() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&[
        ("validation = 7000", "validation = 4000"),
        ("epochs = 4", "epochs = 5"),
    ]);
    let rows = train(&folder.path().join("run"), &recipe).1;
    let accuracies = &rows[4].accuracies;
    let names: Vec<&str> = accuracies.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["smallest", "middle", "largest"]);
    assert!(
        accuracies.iter().all(|(_, accuracy)| *accuracy > 0.6),
        "{accuracies:?}"
    );
    assert!(rows[4].loss < rows[0].loss);
}

#[test]
fn a_diverging_training_stops_and_names_the_step_the_subnet_and_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&[
        (
            "[training]",
            "[optimiser]\nlearning_rate = 1e6\n[checkpoint]\nevery_steps = 1\n[training]",
        ),
        ("validation = 7000", "validation = 1000"),
    ]);
    let data = RunData::load(&recipe).unwrap();
    let run = Run::create(&folder.path().join("run"), &recipe).unwrap();
    let mut trainer = Trainer::new(&run, &data).unwrap();
    let error = trainer.train(&never(), &mut |_| {}).unwrap_err();
    let message = error.to_string();
    assert!(matches!(error, TrainError::Diverged { .. }), "{message}");
    assert!(
        message.contains("resolution=") && message.contains("is kept"),
        "{message}"
    );
    assert!(
        !CheckpointFolder::open_to_read(&run.checkpoints())
            .list()
            .unwrap()
            .is_empty()
    );
}

#[test]
fn checkpoints_of_another_recipe_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("run");
    let recipe = recipe(&[]);
    train(&path, &recipe);
    let text = std::fs::read_to_string(path.join("recipe.toml")).unwrap();
    std::fs::write(
        path.join("recipe.toml"),
        text.replace("momentum = 0.9", "momentum = 0.8"),
    )
    .unwrap();
    let run = Run::open(&path).unwrap();
    let data = RunData::load(run.recipe()).unwrap();
    let error = Trainer::new(&run, &data).err().unwrap().to_string();
    assert!(error.contains("another recipe.toml"), "{error}");
}

/// Every recipe that is shipped is legal, and its schedule fits its space.
#[test]
fn shipped_recipes_are_legal() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../recipes");
    let mut found = 0;
    for folder in [folder.clone(), folder.join("schedules")] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path
                .extension()
                .is_some_and(|extension| extension == "toml")
            {
                let recipe = Recipe::load(&path).unwrap();
                let schedule = recipe.build_schedule(&recipe.build_space(3, 10).unwrap());
                assert_eq!(
                    schedule.unwrap().epochs(),
                    u64::from(recipe.schedule.epochs)
                );
                found += 1;
            }
        }
    }
    assert!(found >= 10, "{found}");
}
