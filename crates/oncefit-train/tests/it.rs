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

#[test]
fn a_training_that_is_stopped_anywhere_continues_with_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let recipe = recipe(&[]);
    let whole = train(&folder.path().join("whole"), &recipe);
    let data = RunData::load(&recipe).unwrap();
    let path = folder.path().join("parts");
    Run::create(&path, &recipe).unwrap();
    let mut parts = 0;
    loop {
        let run = Run::open(&path).unwrap();
        let mut trainer = Trainer::new(&run, &data).unwrap();
        let stop = never();
        let mut steps = 0;
        let outcome = trainer
            .train(&stop, &mut |event| {
                if let Event::Step(_) = event {
                    steps += 1;
                    // Steps 7, 14, …: within epochs of 10, on the ramp, before and after sorting.
                    stop.store(steps == 7, std::sync::atomic::Ordering::Relaxed);
                }
            })
            .unwrap();
        parts += 1;
        if outcome == Outcome::Finished {
            assert!(whole == result(&run));
            break;
        }
    }
    assert!(parts > 4, "{parts}");
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

/// C = Σ over steps and networks of 3 · MACs · batch (brief `delayed-shrinking` §4.6).
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
