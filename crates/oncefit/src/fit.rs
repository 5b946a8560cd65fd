//! Budget in, deployable file out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oncefit_export::{Metadata, Verification, onnx_bytes, to_channels_first, verify};
use oncefit_nn::Executor;
use oncefit_search::{
    Evolution, EvolutionSettings, Limit, RandomSearch, Searcher, check_feasible, search,
};
use oncefit_space::Subnet;
use oncefit_train::{Confusion, Split, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::loaded::LoadedRun;

/// The searchers that `fit` offers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum SearcherKind {
    /// Evolution as in Once-for-All.
    Evolution,
    /// Independent random members: the control.
    Random,
}

/// A search within limits.
#[derive(Clone, Debug)]
pub struct FitSettings {
    /// What the network may cost.
    pub limits: Vec<Limit>,
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
    let space = run.space.clone();
    check_feasible(&space, &settings.limits)?;
    let population = (settings.evaluations / 4).clamp(4, 100);
    let mut searcher: Box<dyn Searcher> = match settings.searcher {
        SearcherKind::Random => {
            Box::new(RandomSearch::new(&space, &settings.limits, settings.seed)?)
        }
        SearcherKind::Evolution => {
            let evolution = EvolutionSettings {
                population,
                ..Default::default()
            };
            Box::new(Evolution::new(
                &space,
                &settings.limits,
                evolution,
                settings.seed,
            )?)
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
    let normalisation = run.evaluator.normalisation().clone();
    let metadata = Metadata {
        version: env!("CARGO_PKG_VERSION").into(),
        class_names: run.data.train.class_names().to_vec(),
        mean: normalisation.mean,
        std: normalisation.std,
        resolution: shape.height,
        space: run.space.name().into(),
        space_hash: run.space.hash(),
        subnet: subnet.text(),
        weights_hash: run.weights_hash().into(),
        macs: subnet.graph().macs(),
        parameters: subnet.graph().parameters(),
        accuracies: BTreeMap::from([("validation".into(), validation), ("test".into(), test)]),
    };
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
    })
}
