//! Budget in, deployable file out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oncefit_export::{Metadata, Verification, onnx_bytes, to_channels_first, verify};
use oncefit_nn::Executor;
use oncefit_random::Draws;
use oncefit_search::{
    Evolution, EvolutionSettings, Limit, RandomKind, RandomSearch, Searcher, search,
};
use oncefit_space::{Space, Subnet};
use oncefit_target::{Engine, Machine, Target, time_network};
use oncefit_train::{
    Checkpoint, Confusion, InitRecipe, Recipe, ScheduleKind, ScheduleRecipe, Split,
    write_atomically,
};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::finder::{Budget, Finder, Promising, Scope};
use crate::loaded::LoadedRun;

/// The searchers that `fit` offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SearcherKind {
    /// Once-for-All's evolution on predicted accuracies; the most promising are then measured.
    Predictor,
    /// All subnets of a small space on predicted accuracies; the most promising are then measured.
    Exhaustive,
    /// The best subnets of a space of any size if accuracies were sums over decisions; the most
    /// promising are then measured.
    Exact,
    /// The same evolution on measured accuracies.
    Evolution,
    /// Independent random members: the control.
    Random,
}

/// A search within limits.
#[derive(Clone, Debug)]
pub struct FitSettings {
    /// What the network may cost.
    pub limits: Vec<Limit>,
    /// What files say about themselves ([`file_metadata`]), where their sizes are limited.
    pub metadata: Option<Metadata>,
    /// Which algorithm.
    pub searcher: SearcherKind,
    /// How many subnets are measured.
    pub evaluations: usize,
    /// Seed of the search.
    pub seed: u64,
}

/// A network that was found, exported and measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Fitted {
    /// The subnet's text.
    pub subnet: String,
    /// Hash of the weights that it is from.
    pub weights_hash: String,
    /// The file.
    pub file: PathBuf,
    /// Size of the file.
    pub file_bytes: u64,
    /// Multiply-accumulates for one image.
    pub macs: u64,
    /// Weights.
    pub parameters: u64,
    /// Peak activation memory.
    pub peak_activation_bytes: u64,
    /// Accuracy that it was chosen by.
    pub validation_accuracy: f64,
    /// Accuracy on the test images.
    pub test_accuracy: f64,
    /// Largest difference between the file's logits and the network's, as a share of the largest.
    pub relative_difference: f64,
    /// The engine that ran the file.
    pub engine: String,
    /// Which classes it takes for which, on the test images.
    pub confusion: Confusion,
    /// What was expected of it, where it was found by prediction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<Expected>,
}

/// What a predictor and a target's table expected of a network.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Expected {
    /// Accuracy on the validation images.
    pub validation_accuracy: f64,
    /// Latency on a target, where one was given.
    pub latency: Option<ExpectedLatency>,
}

/// A latency by a target's table.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ExpectedLatency {
    /// The device.
    pub device: String,
    /// Its engine.
    pub engine: String,
    /// Milliseconds by the table.
    pub predicted_ms: f64,
    /// Whether part of it is estimated from work.
    pub is_estimated: bool,
    /// Milliseconds of the exported network here, where this machine is the target.
    pub measured_ms: Option<f64>,
    /// Predicted and measured milliseconds of all subnets that were measured beside it.
    pub pairs: Vec<(f64, f64)>,
}

/// Name of the log of fits in a run folder.
pub const FITS: &str = "fits.jsonl";

/// A search by prediction, for one target or none.
#[derive(Clone, Debug)]
pub struct PredictedFit<'t> {
    /// Limits that follow from the graph.
    pub limits: Vec<Limit>,
    /// The device, and the most milliseconds there.
    pub target: Option<(&'t Target, Option<f64>)>,
    /// Whether operators that the target's table lacks may be estimated from their work.
    pub allow_estimates: bool,
    /// What files say about themselves ([`file_metadata`]), where their sizes are limited.
    pub metadata: Option<Metadata>,
    /// Which subnets are predicted.
    pub scope: Scope,
    /// How many of the most promising subnets are measured.
    pub verify: usize,
}

impl PredictedFit<'_> {
    /// What a network may cost.
    ///
    /// # Errors
    /// If the target is of another family.
    pub fn budget(&self, space: &Space) -> Result<Budget> {
        let mut budget = Budget {
            limits: self.limits.clone(),
            metadata: self.metadata.clone(),
            ..Budget::default()
        };
        if let Some((target, most)) = self.target {
            target.check_space(space)?;
            budget.limits.extend(most.map(Limit::latency_ms));
            budget.leaves_out = target.is_of_ofa_tables();
            budget.table = Some(match self.allow_estimates {
                true => target.table_with_estimates()?,
                false => target.table()?,
            });
        }
        Ok(budget)
    }
}

/// Finds the subnet with the best calibrated validation accuracy among those that a predictor finds
/// most promising within a budget; of equals the one with the fewest MACs. It is the first of what is
/// returned; the other promising ones follow.
///
/// # Errors
/// If no subnet is within the budget, the target is of another family, or its table lacks operators.
pub fn find_predicted(
    run: &mut LoadedRun,
    finder: &mut Finder,
    settings: &PredictedFit,
) -> Result<Vec<Promising>> {
    let budget = settings.budget(&run.space)?;
    let mut found = finder.find(&budget, settings.scope, settings.verify.max(1))?;
    let subnets: Vec<Subnet> = found.iter().map(|one| one.subnet.clone()).collect();
    let rows = run.evaluate(&subnets, Split::Validation)?;
    let best = (0..found.len()).min_by(|&left, &right| {
        let accuracy = rows[right].accuracy.total_cmp(&rows[left].accuracy);
        accuracy.then(rows[left].macs.cmp(&rows[right].macs))
    });
    match best {
        Some(best) => {
            found.swap(0, best);
            Ok(found)
        }
        None => Err(Error::Request("no subnet was found".into())),
    }
}

/// What was expected of the first of some subnets, and how long all of them take here if this
/// machine is the target.
///
/// # Errors
/// If a network cannot be run by the target's engine.
pub fn expected(
    run: &mut LoadedRun,
    promising: &[Promising],
    target: Option<&Target>,
) -> Result<Expected> {
    let best = &promising[0];
    let latency = match (target, best.cost.latency_ms) {
        (Some(target), Some(predicted_ms)) => {
            let is_here = target.engine != Engine::Imported && target.machine == Machine::this();
            let mut pairs = Vec::new();
            for one in promising.iter().filter(|_| is_here) {
                let measured = milliseconds(run, &one.subnet, target)?;
                pairs.extend(one.cost.latency_ms.map(|predicted| (predicted, measured)));
            }
            Some(ExpectedLatency {
                device: target.device.clone(),
                engine: target.engine.name().into(),
                predicted_ms,
                is_estimated: best.cost.is_estimated,
                measured_ms: pairs.first().map(|(_, measured)| *measured),
                pairs,
            })
        }
        _ => None,
    };
    Ok(Expected {
        validation_accuracy: best.accuracy,
        latency,
    })
}

/// Median milliseconds of a subnet as it would be exported, in a target's engine on this machine.
fn milliseconds(run: &mut LoadedRun, subnet: &Subnet, target: &Target) -> Result<f64> {
    /// Timed runs.
    const REPETITIONS: usize = 30;
    let mut executor = Executor::default();
    let calibration = run
        .evaluator
        .calibrate(&mut executor, &run.supernet, subnet)?;
    let network = run.supernet.extract(subnet, &calibration)?;
    Ok(time_network(
        &network,
        target.engine,
        target.threads,
        target.batch,
        REPETITIONS,
    )?)
}

/// Finds the best subnet within limits by calibrated validation accuracy; of equals the one with the
/// fewest MACs. `observe` is told how
/// many subnets are measured and the best accuracy so far.
///
/// # Errors
/// If no subnet is within the limits, or a subnet cannot be measured.
pub fn find(
    run: &mut LoadedRun,
    settings: &FitSettings,
    observe: &mut dyn FnMut(usize, f64),
) -> Result<(Subnet, f64)> {
    if settings.evaluations == 0 {
        return Err(Error::Request(
            "at least one subnet must be measured".into(),
        ));
    }
    let budget = Budget {
        limits: settings.limits.clone(),
        metadata: settings.metadata.clone(),
        ..Budget::default()
    };
    let region = budget.region(&run.space)?;
    let population = (settings.evaluations / 4).clamp(4, 100);
    let mut searcher: Box<dyn Searcher> = match settings.searcher {
        SearcherKind::Random => Box::new(RandomSearch::within(
            region,
            RandomKind::Paths,
            settings.seed,
        )),
        // Predictors have their own ways in.
        _ => {
            let evolution = EvolutionSettings {
                population,
                ..Default::default()
            };
            Box::new(Evolution::within(region, evolution, settings.seed))
        }
    };
    // Subnets of a batch are measured in parallel; the batch's size must not depend on the
    // machine, or the answer would.
    let found = search(&mut *searcher, run, settings.evaluations, 8, observe)?;
    // Of equally accurate subnets the cheapest.
    let best = found
        .history
        .into_iter()
        .filter(|evaluation| evaluation.score == found.best.score)
        .min_by_key(|evaluation| evaluation.subnet.graph().macs())
        .unwrap_or(found.best);
    Ok((best.subnet, best.score))
}

/// The recipe that trains one subnet of a run further, from the run's weights, which are written
/// beside it; a tenth of the run's learning rate, falling to 0.
///
/// # Errors
/// If the weights cannot be written.
pub fn finetune_recipe(
    run: &LoadedRun,
    subnet: &Subnet,
    epochs: u32,
    folder: &Path,
) -> Result<Recipe> {
    const LEARNING_RATE_SHARE: f64 = 0.1;
    if epochs == 0 {
        return Err(Error::Request("--finetune needs at least 1 epoch".into()));
    }
    std::fs::create_dir_all(folder).map_err(|source| Error::File {
        action: "create",
        path: folder.to_owned(),
        source,
    })?;
    let weights = folder.join("init.safetensors");
    let state = Checkpoint {
        step: run.step,
        train_macs: run.train_macs,
        mean_loss: 0.0,
        epoch_loss: 0.0,
        recipe_hash: String::new(),
        optimiser_steps: 0,
        weights: run.supernet.parameters.clone(),
        average: None,
        buffers: Vec::new(),
    };
    state.save(&weights)?;
    let mut recipe = run.run.recipe().clone();
    recipe.name = format!("{}-finetune", recipe.name);
    recipe.init = InitRecipe {
        weights: Some(std::path::absolute(&weights).map_err(|source| Error::File {
            action: "find",
            path: weights.clone(),
            source,
        })?),
        ..InitRecipe::default()
    };
    recipe.schedule = ScheduleRecipe {
        kind: ScheduleKind::Plain,
        epochs,
        subnet: subnet.text(),
        ..ScheduleRecipe::default()
    };
    recipe.optimiser.learning_rate *= LEARNING_RATE_SHARE;
    recipe.optimiser.learning_rate_floor = 0.0;
    recipe.optimiser.warm_up_epochs = 0.0;
    Ok(recipe)
}

/// What the file of a subnet says about itself.
fn metadata(run: &LoadedRun, subnet: &Subnet, validation: f64, test: f64) -> Metadata {
    let normalisation = run.evaluator.normalisation().clone();
    Metadata {
        version: env!("CARGO_PKG_VERSION").into(),
        class_names: run.data.train.class_names().to_vec(),
        mean: normalisation.mean,
        std: normalisation.std,
        resolution: subnet.graph().input_shape().height,
        space: run.space.name().into(),
        space_hash: run.space.hash(),
        subnet: subnet.text(),
        weights_hash: run.weights_hash().into(),
        macs: subnet.graph().macs(),
        parameters: subnet.graph().parameters(),
        accuracies: BTreeMap::from([("validation".into(), validation), ("test".into(), test)]),
    }
}

/// What the files of a run's subnets say about themselves, as long as it gets: by this their sizes
/// are counted before they exist.
///
/// # Errors
/// If the space has no largest member.
pub fn file_metadata(run: &LoadedRun) -> Result<Metadata> {
    const SAMPLED: u64 = 64;
    /// As many digits as an accuracy can have.
    const ACCURACY: f64 = 0.123_456_789_012_345_68;
    let largest = run.space.largest()?;
    let mut metadata = metadata(run, &largest, ACCURACY, ACCURACY);
    for index in 0..SAMPLED {
        let mut draws = Draws::new(0, "texts of subnets", index, 0);
        let text = run.space.sample(&mut draws)?.text();
        if text.len() > metadata.subnet.len() {
            metadata.subnet = text;
        }
    }
    Ok(metadata)
}

/// Calibrates, extracts and writes a subnet, runs the file, and measures it on the test images.
///
/// # Errors
/// If the file cannot be written or does not compute what the network computes.
pub fn export(run: &mut LoadedRun, subnet: &Subnet, path: &Path) -> Result<Fitted> {
    /// Images that the file and the network are compared on.
    const COMPARED: usize = 16;
    let validation = run.evaluate(std::slice::from_ref(subnet), Split::Validation)?[0].accuracy;
    let test = run.evaluate(std::slice::from_ref(subnet), Split::Test)?[0].accuracy;
    let mut executor = Executor::default();
    let calibration = run
        .evaluator
        .calibrate(&mut executor, &run.supernet, subnet)?;
    let network = run.supernet.extract(subnet, &calibration)?;
    let shape = subnet.graph().input_shape();
    let metadata = metadata(run, subnet, validation, test);
    write_atomically(path, &onnx_bytes(&network, &metadata)?)?;
    let batch = &run.evaluator.batches(Split::Test, shape.height)?[0];
    let count = batch.images_count.min(COMPARED);
    let images = &batch.images[..count * shape.len()];
    let plan = network.plan()?;
    let compared = oncefit_nn::Images {
        data: images,
        count,
    };
    let mode = oncefit_nn::Mode::Evaluate(&network.calibration);
    let tape = executor.forward(&plan, &network.parameters, compared, mode)?;
    let planes = to_channels_first(images, shape.height, shape.width, shape.channels);
    let Verification {
        engine,
        largest_difference,
        largest_logit,
        ..
    } = verify(path, &planes, count, tape.output())?;
    let file_bytes = std::fs::metadata(path)
        .map_err(|source| Error::File {
            action: "read",
            path: path.to_owned(),
            source,
        })?
        .len();
    Ok(Fitted {
        subnet: subnet.text(),
        weights_hash: run.weights_hash().to_owned(),
        file: path.to_owned(),
        file_bytes,
        macs: metadata.macs,
        parameters: metadata.parameters,
        peak_activation_bytes: subnet.graph().peak_activation_bytes(),
        validation_accuracy: validation,
        test_accuracy: test,
        relative_difference: f64::from(largest_difference / largest_logit),
        engine: engine.into(),
        confusion: run.confusion(subnet, Split::Test)?,
        expected: None,
    })
}
