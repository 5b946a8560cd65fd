//! A supernet, or one member of a space, that learnt a stream, opened as a run: so that `evaluate`, `fit`, `front`, `export` and the
//! rest work on it.
//!
//! Its images are what a device still has: batch-norm is calibrated on the memory and the last images of
//! the stream. Subnets are chosen on the recipe's held-out images; accuracies are those among the classes
//! that were learnt. What is measured is kept in `supernet/` within the folder of the learning run.

use oncefit_continual::{Learner, LearningRun, NetworkKind, StreamKind};
use oncefit_data::Dataset;
use oncefit_train::{RESOLUTION, Recipe, Run, RunData};

use crate::error::{Error, Result};
use crate::loaded::LoadedRun;

/// Folder within a learning run that holds what is measured of its subnets.
const SUPERNET: &str = "supernet";

/// Opens a run of continual learning.
///
/// # Errors
/// If its network is of no space, its stream changes pixels, or nothing is learnt yet.
pub(crate) fn open(learning: &LearningRun) -> Result<LoadedRun> {
    let recipe = learning.recipe();
    let folder = learning.folder().display();
    let refuse = |reason: &str| Err(Error::Request(format!("{folder}: {reason}")));
    if !matches!(
        recipe.network.kind,
        NetworkKind::Supernet | NetworkKind::Member
    ) {
        return refuse(
            "its network is of no space; files are made of runs with `network.kind` \"supernet\" or \"member\"",
        );
    }
    if recipe.stream.scenario != StreamKind::Classes {
        return refuse(
            "its tasks change pixels, so that there are no images to measure subnets on",
        );
    }
    let data = recipe.load_data()?;
    let learner = learning.experiment(&data)?.learner;
    if learner.steps() == 0 {
        return refuse("nothing is learnt yet; `oncefit learn` goes on with `--resume`");
    }
    if !learner.settings().head.is_network() {
        return refuse(
            "its head is not its networks' own last layer; `results.json` and `report.html` have what was measured of its subnets",
        );
    }
    let kept = learner.calibration_examples();
    let names = data.train.class_names().to_vec();
    let shape = data.train.shape();
    let kept = Dataset::new(
        "memory and recent images",
        shape,
        kept.images,
        kept.labels,
        names,
    )?;
    let is_held_out = recipe.data.validation > 0;
    let test = match is_held_out {
        true => learnt_classes(&recipe.data.source()?.load()?.test, &learner)?,
        false => learnt_classes(&data.test, &learner)?,
    };
    let run_data = RunData {
        normalisation: learner.settings().normalisation.clone(),
        train: kept,
        // Without held-out images the recipe measures on test images.
        validation: learnt_classes(&data.test, &learner)?,
        test,
    };
    let path = learning.file(SUPERNET);
    let run = match path.join("recipe.toml").exists() {
        true => Run::open_to_read(&path)?,
        false => Run::create(&path, &run_recipe(learning, &run_data)?)?,
    };
    let weights = learner.parameters().clone();
    let cost = (learner.steps(), learner.train_macs());
    let mut loaded = LoadedRun::assembled(run, learner.space().clone(), weights, cost, run_data)?;
    loaded.chooses_on_test = !is_held_out;
    Ok(loaded)
}

fn run_recipe(learning: &LearningRun, data: &RunData) -> Result<Recipe> {
    let recipe = learning.recipe();
    let mut space = recipe.network.space.clone().unwrap_or_default();
    let resolution = data.train.shape().height as i64;
    let fixed = vec![toml::Value::Integer(resolution)];
    let built = space.build(data.train.shape().channels, data.train.class_names().len())?;
    if built.decisions().iter().any(|slot| slot.path == RESOLUTION) {
        space.fix.entry(RESOLUTION.into()).or_insert(fixed);
    }
    let mut found = Recipe {
        name: recipe.name.clone(),
        seed: recipe.seed,
        data: recipe.data.clone(),
        space,
        ..Recipe::default()
    };
    found.evaluation.calibration_images = data.train.len();
    Ok(found)
}

/// The images of the classes that were learnt.
fn learnt_classes(dataset: &Dataset, learner: &Learner) -> Result<Dataset> {
    let seen = learner.classes_seen();
    let labels = dataset.labels().iter().enumerate();
    let indices: Vec<usize> = labels
        .filter(|(_, label)| seen.contains(label))
        .map(|(index, _)| index)
        .collect();
    Ok(dataset.subset(&indices)?)
}
