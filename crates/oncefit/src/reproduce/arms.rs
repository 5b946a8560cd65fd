//! Arms of experiments in continual learning: recipes that are run seed by seed, each result kept in a
//! file as soon as it is there.

use std::ops::Range;

use oncefit_continual::{
    AccuracyMatrix, ContinualError, Experiment, HeadSettings, Learner, LearnerSettings,
    LearningRecipe, Method, Metrics, Stream,
};
use oncefit_nn::{Parameters, UpdateRule};
use oncefit_random::{Draws, fnv1a64};
use oncefit_train::write_atomically;
use serde::{Deserialize, Serialize};

use super::{Request, kept, make_folder};
use crate::error::{Error, Result};
use crate::format::{duration, percent};
use crate::provenance::Origin;

/// A recipe under a name; its seed is set run by run.
#[derive(Clone, Debug)]
pub(super) struct Arm {
    pub name: String,
    /// TOML.
    pub recipe: String,
}

impl Arm {
    /// The same, measured on training images that are held out instead of on test images.
    fn on_held_out_images(&self, request: &Request) -> Self {
        let held_out = if request.is_quick { 1000 } else { 5000 };
        let data = format!("[data]\nvalidation = {held_out}\n");
        Self {
            name: format!("{}-held-out", self.name),
            recipe: self.recipe.replacen("[data]\n", &data, 1),
        }
    }
}

/// What one run gave. Shares are of 1.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Measured {
    /// The recipe, without the seed.
    #[serde(default)]
    pub recipe: String,
    #[serde(default)]
    pub origin: Origin,
    pub class_incremental: Metrics,
    pub task_incremental: Metrics,
    /// Accuracy on each task at the end, among all classes.
    #[serde(default)]
    pub last: Vec<f64>,
    /// How far the features of the first task's test images had turned at the end, where the recipe
    /// measures it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drift: Option<f64>,
    pub train_macs: u64,
    /// How long it took, evaluations included.
    #[serde(default)]
    pub seconds: f64,
    /// Of a network that is no supernet and learns from labels alone, with its own head.
    pub flatness: Option<Flatness>,
    /// Of OnPro.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prototypes: Option<Prototypes>,
    /// Of a supernet: name, text and metrics of its watched subnets.
    pub subnets: Vec<(String, String, Metrics)>,
    /// Of a supernet that of each watched subnet, otherwise the network's own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub courses: Vec<Course>,
}

/// Accuracies among all classes seen, after every task.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Course {
    /// Mean on the tasks so far.
    pub accuracy: Vec<f64>,
    /// Mean, on the tasks before, of the best so far less the present one.
    pub forgetting: Vec<f64>,
}

impl Course {
    fn of(matrix: &AccuracyMatrix) -> Self {
        Self {
            accuracy: matrix.mean_after_each_task(),
            forgetting: matrix.forgotten_after_each_task(),
        }
    }
}

/// How flat the loss on the first test images of each task is around the final weights.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Flatness {
    /// ‖∇L‖²
    pub squared_gradient: f64,
    /// Mean rise of the loss when each tensor is moved by 1 % of its norm in a random direction.
    pub rise: f64,
}

/// What OnPro's projections tell of the test images at the end.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Prototypes {
    /// Mean over pairs of classes of 1 − cosine of their mean projections.
    pub separation: f64,
    /// Rank correlation over pairs of classes of the feedback's probability with how often the one is
    /// taken for the other.
    pub correlation: f64,
}

/// Images of each task, and random directions, for [`Flatness`].
const IMAGES: usize = 100;
const DIRECTIONS: u64 = 10;

/// The results of an arm, seed by seed.
pub(super) fn measure(
    request: &Request,
    arm: &Arm,
    seeds: impl Iterator<Item = u64>,
) -> Result<Vec<Measured>> {
    let found: Vec<Measured> = seeds
        .map(|seed| one(request, arm, seed))
        .collect::<Result<_>>()?;
    for run in &found {
        request.count(run.train_macs, run.seconds);
    }
    Ok(found)
}

/// The candidate whose arm ends with the best mean accuracy on held-out training images, over seeds
/// that no claim uses. One that diverges is out.
pub(super) fn best_of<T>(
    request: &Request,
    candidates: impl IntoIterator<Item = (T, Arm)>,
    seeds: Range<u64>,
) -> Result<T> {
    let mut best: Option<(f64, T)> = None;
    for (candidate, arm) in candidates {
        let found = match measure(request, &arm.on_held_out_images(request), seeds.clone()) {
            Ok(found) => accuracy(&found),
            Err(Error::Learning(error @ ContinualError::NotFinite { .. })) => {
                eprintln!("{}: {error}", arm.name);
                continue;
            }
            Err(error) => return Err(error),
        };
        let mean = mean(&found);
        if best.as_ref().is_none_or(|(before, _)| mean > *before) {
            best = Some((mean, candidate));
        }
    }
    let none = || Error::Request("training diverges with every candidate setting".into());
    best.map(|(_, candidate)| candidate).ok_or_else(none)
}

fn one(request: &Request, arm: &Arm, seed: u64) -> Result<Measured> {
    let hash = fnv1a64(arm.recipe.as_bytes());
    let folder = request.folder.join("arms");
    let path = folder.join(format!("{}-{hash:016x}-{seed}.json", arm.name));
    if let Some(found) = kept(&path)? {
        return Ok(found);
    }
    request.check()?;
    let mut recipe = LearningRecipe::parse(&arm.recipe, &arm.name)?;
    recipe.seed = seed;
    let data = recipe.load_data()?;
    let mut experiment = Experiment::new(recipe.build_stream(&data)?, recipe.build_learner(&data)?);
    experiment = experiment.with_metrics(&recipe.metrics);
    let stop = request.stop;
    oncefit_nn::in_pool(|| {
        experiment.run(&mut |_| !stop.load(std::sync::atomic::Ordering::Relaxed))
    })?;
    request.check()?;
    let Experiment {
        stream,
        learner,
        finished,
        ..
    } = &mut experiment;
    let prototypes = prototypes(learner, stream)?;
    let subnets = finished.subnets.iter().map(|subnet| {
        let metrics = subnet.class_incremental.metrics()?;
        Ok((subnet.name.clone(), subnet.subnet.clone(), metrics))
    });
    let is_plain = prototypes.is_none() && learner.settings().head == HeadSettings::default();
    let matrices: Vec<&AccuracyMatrix> = match finished.subnets.as_slice() {
        [] => vec![&finished.class_incremental],
        all => all.iter().map(|one| &one.class_incremental).collect(),
    };
    let drifts = finished.drift.last().and_then(|row| row.first());
    let found = Measured {
        recipe: arm.recipe.clone(),
        origin: Origin::now(),
        last: finished
            .class_incremental
            .rows
            .last()
            .cloned()
            .unwrap_or_default(),
        drift: drifts.copied(),
        class_incremental: finished.class_incremental.metrics()?,
        task_incremental: finished.task_incremental.metrics()?,
        train_macs: learner.train_macs(),
        seconds: finished.seconds,
        flatness: match learner.watched() {
            [] if is_plain => Some(flatness(learner, stream, seed)?),
            _ => None,
        },
        prototypes,
        subnets: subnets.collect::<Result<_>>()?,
        courses: matrices.into_iter().map(Course::of).collect(),
    };
    eprintln!(
        "{} seed {seed}: {} in {}",
        arm.name,
        percent(found.class_incremental.final_average_accuracy),
        duration(finished.seconds)
    );
    make_folder(&folder)?;
    let text = serde_json::to_string(&found).expect("numbers and words");
    write_atomically(&path, text.as_bytes())?;
    Ok(found)
}

fn prototypes(learner: &mut Learner, stream: &Stream) -> Result<Option<Prototypes>> {
    let classes = stream.classes();
    let (mut means, mut wrong) = (vec![Vec::new(); classes], vec![0.0; classes * classes]);
    for task in stream.tasks() {
        let examples = stream.test_examples(task.index, &task.test);
        let Some((rows, width)) = learner.unit_projections(&examples.images)? else {
            return Ok(None);
        };
        for (row, &label) in rows.chunks_exact(width).zip(&examples.labels) {
            let mean: &mut Vec<f64> = &mut means[label as usize];
            mean.resize(width, 0.0);
            let values = mean.iter_mut().zip(row);
            values.for_each(|(sum, value)| *sum += f64::from(*value));
        }
        let predicted = learner.predictions(&examples.images)?;
        for (one, other) in predicted.into_iter().zip(&examples.labels) {
            let (low, high) = (one.min(*other) as usize, one.max(*other) as usize);
            wrong[low * classes + high] += 1.0;
        }
    }
    let cosine = |one: &[f64], other: &[f64]| {
        let dot = |one: &[f64], other: &[f64]| -> f64 {
            one.iter().zip(other).map(|(one, other)| one * other).sum()
        };
        dot(one, other) / (dot(one, one) * dot(other, other)).sqrt()
    };
    let present: Vec<&Vec<f64>> = means.iter().filter(|mean| !mean.is_empty()).collect();
    let mut distances = Vec::new();
    for (at, one) in present.iter().enumerate() {
        distances.extend(
            present[at + 1..]
                .iter()
                .map(|other| 1.0 - cosine(one, other)),
        );
    }
    let (pairs, shares): (Vec<_>, Vec<f64>) = learner.pair_shares().into_iter().unzip();
    let confusions: Vec<f64> = pairs
        .iter()
        .map(|(one, other)| wrong[*one as usize * classes + *other as usize])
        .collect();
    Ok(Some(Prototypes {
        separation: distances.iter().sum::<f64>() / distances.len().max(1) as f64,
        correlation: oncefit_target::spearman(&shares, &confusions),
    }))
}

fn flatness(learner: &Learner, stream: &Stream, seed: u64) -> Result<Flatness> {
    let mut examples = oncefit_continual::Examples::default();
    for task in stream.tasks() {
        let some = &task.test[..task.test.len().min(IMAGES)];
        let found = stream.test_examples(task.index, some);
        examples.images.extend(found.images);
        examples.labels.extend(found.labels);
    }
    // One step of plain descent at rate 1 tells the loss, and by its way the gradient.
    let step = |weights: Parameters| -> Result<(f64, Parameters)> {
        let settings = LearnerSettings {
            learning_rate: 1.0,
            rule: UpdateRule::sgd(0.0),
            weight_decay: 0.0,
            augmentation: None,
            ..learner.settings().clone()
        };
        let space = learner.space();
        let mut probe = Learner::with_weights(space, weights, Method::fine_tune(), settings)?;
        let loss = probe.step(&examples)?.loss;
        Ok((loss, probe.parameters().clone()))
    };
    let weights = learner.parameters();
    let (loss, moved) = step(weights.clone())?;
    let ways = weights.iter().zip(moved.iter());
    let squares = ways.flat_map(|(old, new)| {
        let pairs = old.data.iter().zip(&new.data);
        pairs.map(|(old, new)| f64::from(old - new).powi(2))
    });
    let squared_gradient = squares.sum();
    let mut rise = 0.0;
    for direction in 0..DIRECTIONS {
        let mut disturbed = weights.clone();
        for (position, tensor) in disturbed.iter_mut().enumerate() {
            let index = direction << 32 | position as u64;
            let mut draws = Draws::new(seed, "flatness", 0, index);
            let normals: Vec<f64> = tensor.data.iter().map(|_| draws.normal()).collect();
            let norm = |values: &mut dyn Iterator<Item = f64>| -> f64 {
                values.map(|value| value * value).sum::<f64>().sqrt()
            };
            let size = norm(&mut tensor.data.iter().map(|value| f64::from(*value)));
            let length = norm(&mut normals.iter().copied()).max(f64::MIN_POSITIVE);
            let values = tensor.data.iter_mut().zip(normals);
            values.for_each(|(value, normal)| *value += (0.01 * size * normal / length) as f32);
        }
        rise += step(disturbed)?.0 - loss;
    }
    Ok(Flatness {
        squared_gradient,
        rise: rise / DIRECTIONS as f64,
    })
}

/// Final accuracies among all classes, by seed, in per cent.
pub(super) fn accuracy(found: &[Measured]) -> Vec<f64> {
    let metrics = found.iter().map(|one| one.class_incremental);
    metrics
        .map(|found| 100.0 * found.final_average_accuracy)
        .collect()
}

/// Final accuracies among each task's classes, in per cent.
pub(super) fn of_tasks(found: &[Measured]) -> Vec<f64> {
    let metrics = found.iter().map(|one| one.task_incremental);
    metrics
        .map(|found| 100.0 * found.final_average_accuracy)
        .collect()
}

/// Mean accuracies over the stream, among all classes seen, in per cent.
pub(super) fn over_the_stream(found: &[Measured]) -> Vec<f64> {
    let metrics = found.iter().map(|one| one.class_incremental);
    metrics
        .map(|found| 100.0 * found.average_incremental_accuracy)
        .collect()
}

/// Each value and a margin.
pub(super) fn plus(values: Vec<f64>, by: f64) -> Vec<f64> {
    values.into_iter().map(|value| value + by).collect()
}

/// The mean.
pub(super) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Mean train-MACs of a run.
pub(super) fn mean_cost(found: &[Measured]) -> f64 {
    let sum: f64 = found.iter().map(|one| one.train_macs as f64).sum();
    sum / found.len().max(1) as f64
}

/// Where the images of a stream come from: all of Fashion-MNIST, or with `--quick` the embedded tenth.
pub(super) fn data(request: &Request) -> &'static str {
    match request.is_quick {
        true => "[data]\nsource = \"embedded\"\n",
        false => "[data]\nsource = \"fashion-mnist\"\n",
    }
}
