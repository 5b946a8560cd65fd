//! Measuring subnets: calibrate on training images, then predict held-out ones.

use std::collections::BTreeMap;

use oncefit_data::{
    Augmentation, Batch, Dataset, Normalisation, calibration_batches, evaluation_batches,
};
use oncefit_nn::{
    ActivationRanges, Calibration, Executor, Images, Mode, Network, Parameters, Plan,
    QuantisedSession, Supernet, Target, Variances, softmax_cross_entropy,
};
use oncefit_space::Subnet;
use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::recipe::Recipe;

/// Which images were predicted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// Held out of the training images; choices are made on it.
    Validation,
    /// Reported, never chosen on.
    Test,
}

/// How good a network is on a split.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Accuracy {
    /// Share of the images predicted right.
    pub accuracy: f64,
    /// Mean cross-entropy.
    pub loss: f64,
    /// How many images.
    pub images: usize,
}

/// Which classes were taken for which.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Confusion {
    /// How many images of each class (row) were predicted as each class (column).
    pub counts: Vec<Vec<u32>>,
}

impl Confusion {
    fn new(classes: usize) -> Self {
        Self {
            counts: vec![vec![0; classes]; classes],
        }
    }

    /// Share of each class's images that were predicted right; none for a class without images.
    pub fn class_accuracies(&self) -> Vec<Option<f64>> {
        let rows = self.counts.iter().enumerate();
        rows.map(|(class, row)| {
            let images: u32 = row.iter().sum();
            (images > 0).then(|| f64::from(row[class]) / f64::from(images))
        })
        .collect()
    }

    /// Share of all images that were predicted right.
    pub fn accuracy(&self) -> f64 {
        let right: u32 = (0..self.counts.len())
            .map(|class| self.counts[class][class])
            .sum();
        f64::from(right) / f64::from(self.counts.iter().flatten().sum::<u32>())
    }
}

/// The images that evaluations read, resized once for each resolution.
pub struct Evaluator {
    train: Dataset,
    validation: Dataset,
    test: Dataset,
    normalisation: Normalisation,
    calibration_images: usize,
    batch_size: usize,
    variances: Variances,
    calibration: BTreeMap<usize, Vec<Batch>>,
    splits: BTreeMap<(Split, usize), Vec<Batch>>,
}

/// Seed of the fixed choice of calibration images (Once-for-All, reference code `run_manager`).
const CALIBRATION_SEED: u64 = 937_162_211;
/// Calibration images that the ranges of eight-bit tensors are taken from, at most.
const RANGE_IMAGES: usize = 512;

impl Evaluator {
    /// An evaluator for the images of a run.
    pub fn new(
        recipe: &Recipe,
        train: &Dataset,
        validation: &Dataset,
        test: &Dataset,
        normalisation: &Normalisation,
    ) -> Self {
        Self {
            train: train.clone(),
            validation: validation.clone(),
            test: test.clone(),
            normalisation: normalisation.clone(),
            calibration_images: recipe.evaluation.calibration_images,
            batch_size: recipe.evaluation.batch_size,
            variances: match recipe.evaluation.pooled_variance {
                true => Variances::Pooled,
                false => Variances::Averaged,
            },
            calibration: BTreeMap::new(),
            splits: BTreeMap::new(),
        }
    }

    /// Reads and resizes what evaluations at `resolution` need, so that [`Evaluator::measure`] can
    /// run on several threads.
    ///
    /// # Errors
    /// If the data set has too few images for the calibration.
    pub fn prepare(&mut self, split: Split, resolution: usize) -> Result<()> {
        if !self.calibration.contains_key(&resolution) {
            let batches = calibration_batches(
                &self.train,
                self.calibration_images.min(self.train.len()),
                self.batch_size,
                resolution,
                &self.normalisation,
                CALIBRATION_SEED,
                Augmentation::default(),
            )?;
            self.calibration.insert(resolution, batches);
        }
        if !self.splits.contains_key(&(split, resolution)) {
            let dataset = match split {
                Split::Validation => &self.validation,
                Split::Test => &self.test,
            };
            let batches =
                evaluation_batches(dataset, self.batch_size, resolution, &self.normalisation)?;
            self.splits.insert((split, resolution), batches);
        }
        Ok(())
    }

    /// Calibrates a subnet.
    ///
    /// # Errors
    /// If the subnet has no executed form.
    pub fn calibrate(
        &mut self,
        executor: &mut Executor,
        supernet: &Supernet,
        subnet: &Subnet,
    ) -> Result<Calibration> {
        let plan = supernet.plan(subnet)?;
        self.prepare(Split::Validation, plan.input_shape().height)?;
        self.calibrate_prepared(executor, &plan, &supernet.parameters)
    }

    fn calibrate_prepared(
        &self,
        executor: &mut Executor,
        plan: &Plan,
        parameters: &Parameters,
    ) -> Result<Calibration> {
        let batches = &self.calibration[&plan.input_shape().height];
        let images = batches.iter().map(images);
        Ok(executor.calibrate_with(plan, parameters, images, self.variances)?)
    }

    /// Calibrates and measures a subnet.
    ///
    /// # Errors
    /// If the subnet has no executed form.
    pub fn evaluate(
        &mut self,
        executor: &mut Executor,
        supernet: &Supernet,
        subnet: &Subnet,
        split: Split,
    ) -> Result<Accuracy> {
        self.prepare(split, subnet.graph().input_shape().height)?;
        Ok(self.measure(executor, supernet, subnet, split)?.0)
    }

    /// As [`Evaluator::evaluate`], for a resolution that is prepared, and with the confusion matrix.
    ///
    /// # Errors
    /// If the subnet has no executed form.
    pub fn measure(
        &self,
        executor: &mut Executor,
        supernet: &Supernet,
        subnet: &Subnet,
        split: Split,
    ) -> Result<(Accuracy, Confusion)> {
        let plan = supernet.plan(subnet)?;
        let calibration = self.calibrate_prepared(executor, &plan, &supernet.parameters)?;
        self.predict(executor, &plan, &supernet.parameters, &calibration, split)
    }

    /// Measures an extracted network.
    ///
    /// # Errors
    /// If graph and weights do not fit.
    pub fn evaluate_network(
        &mut self,
        executor: &mut Executor,
        network: &Network,
        split: Split,
    ) -> Result<(Accuracy, Confusion)> {
        let plan = network.plan()?;
        self.prepare(split, plan.input_shape().height)?;
        self.predict(
            executor,
            &plan,
            &network.parameters,
            &network.calibration,
            split,
        )
    }

    fn predict(
        &self,
        executor: &mut Executor,
        plan: &Plan,
        parameters: &Parameters,
        calibration: &Calibration,
        split: Split,
    ) -> Result<(Accuracy, Confusion)> {
        self.tally(split, plan, |batch| {
            let mode = Mode::Evaluate(calibration);
            let tape = executor.forward(plan, parameters, images(batch), mode)?;
            let logits = tape.output().to_vec();
            executor.recycle(tape);
            Ok(logits)
        })
    }

    /// Measures an extracted network in eight bits, with the ranges that its tensors take on some
    /// of the calibration images.
    ///
    /// # Errors
    /// As [`Evaluator::evaluate_network`], or if a weight is not finite.
    pub fn evaluate_quantised(
        &mut self,
        network: &Network,
        split: Split,
    ) -> Result<(Accuracy, Confusion)> {
        let plan = network.plan()?;
        let resolution = plan.input_shape().height;
        self.prepare(split, resolution)?;
        let mut data = Vec::new();
        let mut count = 0;
        for batch in &self.calibration[&resolution] {
            let wanted = batch.images_count.min(RANGE_IMAGES - count);
            data.extend_from_slice(&batch.images[..wanted * plan.input_shape().len()]);
            count += wanted;
        }
        let ranges = ActivationRanges::measure(network, Images { data: &data, count })?;
        let session = QuantisedSession::new(network, &ranges)?;
        self.tally(split, &plan, |batch| Ok(session.run(images(batch))?))
    }

    /// Scores of a plan's outputs on a split that is prepared.
    fn tally(
        &self,
        split: Split,
        plan: &Plan,
        mut run: impl FnMut(&Batch) -> Result<Vec<f32>>,
    ) -> Result<(Accuracy, Confusion)> {
        let classes = plan.output_shape().channels;
        let mut confusion = Confusion::new(classes);
        let (mut loss, mut count) = (0.0, 0);
        let mut unused_gradient = Vec::new();
        for batch in &self.splits[&(split, plan.input_shape().height)] {
            let logits = run(batch)?;
            for (row, label) in logits.chunks_exact(classes).zip(&batch.labels) {
                confusion.counts[*label as usize][largest(row)] += 1;
            }
            unused_gradient.resize(logits.len(), 0.0);
            let target = Target::Labels {
                labels: &batch.labels,
                smoothing: 0.0,
            };
            let mean = softmax_cross_entropy(&logits, classes, target, &mut unused_gradient, 0.0);
            loss += mean * batch.images_count as f64;
            count += batch.images_count;
        }
        let found = Accuracy {
            accuracy: confusion.accuracy(),
            loss: loss / count as f64,
            images: count,
        };
        Ok((found, confusion))
    }

    /// The images of a split at a resolution, for checks in other engines.
    ///
    /// # Errors
    /// As [`Evaluator::prepare`].
    pub fn batches(&mut self, split: Split, resolution: usize) -> Result<&[Batch]> {
        self.prepare(split, resolution)?;
        Ok(&self.splits[&(split, resolution)])
    }

    /// How training images are normalised.
    pub fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }
}

/// A batch as an executor reads it.
pub fn images(batch: &Batch) -> Images<'_> {
    Images {
        data: &batch.images,
        count: batch.images_count,
    }
}

/// The index of the largest value; the first of equals.
pub fn largest(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, value) in row.iter().enumerate() {
        if *value > row[best] {
            best = index;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_come_from_the_confusion_matrix() {
        let mut confusion = Confusion::new(3);
        confusion.counts[0] = vec![3, 1, 0];
        confusion.counts[1] = vec![0, 2, 0];
        assert_eq!(confusion.class_accuracies(), [Some(0.75), Some(1.0), None]);
        assert_eq!(confusion.accuracy(), 5.0 / 6.0);
    }
}
