//! How important each weight is: estimators of the Fisher information's diagonal, and MAS.
//!
//! `F_k = E_x E_y [ (∂ log p(y|x) / ∂θ_k)² ]`. What stands for the expectation over y, and whether
//! gradients are squared per example, differs between code bases and changes results (unified
//! framework, section 3.5), so every result names its estimator.

use oncefit_nn::{Executor, Gradients, Images, Mode, Parameters};
use serde::{Deserialize, Serialize};

use crate::divergence::{cross_entropy, log_softmax};
use crate::error::Result;
use crate::head::OutputGradients;
use crate::model::Model;

/// An estimator of the Fisher information's diagonal.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FisherEstimator {
    /// The expectation over y in full: one backward pass for each class.
    Exact,
    /// The true label, weighted by its probability (mammoth).
    WeightedLabel,
    /// The true label with weight 1 (the "empirical Fisher").
    TrueLabel,
    /// The square of a mini-batch's mean gradient (avalanche, PyCIL); not a Fisher information.
    MiniBatch {
        /// Images of a mini-batch.
        size: usize,
    },
}

/// Images of a pass that has the gradients of each of them.
const SEPARATED: usize = 128;

/// What is summed of a gradient: a multiplicative function.
type Fold = fn(f32) -> f32;

struct Pass<'a> {
    executor: &'a mut Executor,
    model: &'a Model,
    parameters: &'a Parameters,
    mode: Mode<'a>,
    gradients: Gradients,
    sums: Vec<Vec<f64>>,
}

impl Pass<'_> {
    /// Adds `fold(gradient)` of `⟨output, seed(output)⟩` to the sums: of each image's gradient, or of all
    /// images' together.
    fn add(
        &mut self,
        images: Images,
        of_each: bool,
        fold: Fold,
        seed: &mut dyn FnMut(&[f32], &mut [f32]),
    ) -> Result<()> {
        let output = self
            .model
            .forward(self.executor, self.parameters, images, self.mode)?;
        let mut outputs = OutputGradients {
            logits: vec![0.0; output.logits().len()],
            ..OutputGradients::default()
        };
        seed(output.logits(), &mut outputs.logits);
        self.gradients.clear();
        let (executor, gradients) = (&mut *self.executor, &mut self.gradients);
        let in_one_pass = of_each && images.count > 1;
        if in_one_pass {
            let of_logits = &outputs.logits;
            self.model.backward_of_each(
                executor,
                self.parameters,
                output,
                of_logits,
                fold,
                gradients,
            )?;
        } else {
            self.model
                .backward(executor, self.parameters, output, &outputs, gradients)?;
        }
        for (position, sums) in self.sums.iter_mut().enumerate() {
            let found = self.gradients.at(position);
            let pairs = sums.iter_mut().zip(found);
            match in_one_pass {
                true => pairs.for_each(|(sum, value)| *sum += f64::from(*value)),
                false => pairs.for_each(|(sum, value)| *sum += f64::from(fold(*value))),
            }
        }
        Ok(())
    }
}

/// The sums that `work` makes, over `count`.
fn estimate(
    executor: &mut Executor,
    model: &Model,
    parameters: &Parameters,
    mode: Mode,
    count: usize,
    work: impl FnOnce(&mut Pass) -> Result<()>,
) -> Result<Parameters> {
    let zeros = |tensor: &oncefit_nn::Parameter| vec![0.0; tensor.data.len()];
    let mut pass = Pass {
        executor,
        model,
        parameters,
        mode,
        gradients: Gradients::zeros(parameters),
        sums: parameters.iter().map(zeros).collect(),
    };
    work(&mut pass)?;
    let mut found = parameters.clone();
    for (tensor, sums) in found.iter_mut().zip(pass.sums) {
        let means = sums.into_iter().map(|sum| (sum / count as f64) as f32);
        tensor.data = means.collect();
    }
    Ok(found)
}

/// Images of a pass, where gradients of each are needed.
fn images_of_pass(model: &Model) -> usize {
    match model.separates_images() {
        true => SEPARATED,
        false => 1,
    }
}

/// The diagonal of the Fisher information on normalised images with labels, of a softmax over the classes in
/// `range`. A network with batch-norm needs [`Mode::TrainCalibrated`]: one image has no statistics
/// worth the name.
///
/// # Errors
/// If the images do not fit the network.
pub fn fisher(
    executor: &mut Executor,
    model: &Model,
    parameters: &Parameters,
    (images, labels): (&[f32], &[u32]),
    range: &[u32],
    estimator: FisherEstimator,
    mode: Mode,
) -> Result<Parameters> {
    let classes = model.classes();
    let values = images.len() / labels.len().max(1);
    let (size, terms) = match estimator {
        FisherEstimator::MiniBatch { size } => (size.max(1), labels.len().div_ceil(size.max(1))),
        _ => (images_of_pass(model), labels.len()),
    };
    let of_each = !matches!(estimator, FisherEstimator::MiniBatch { .. });
    estimate(executor, model, parameters, mode, terms, |pass| {
        for (data, labels) in images.chunks(size * values).zip(labels.chunks(size)) {
            let count = labels.len();
            let passes: Vec<Vec<u32>> = match estimator {
                FisherEstimator::Exact => range.iter().map(|&class| vec![class; count]).collect(),
                _ => vec![labels.to_vec()],
            };
            for labels in passes {
                let mut seed = |logits: &[f32], gradient: &mut [f32]| {
                    // `cross_entropy` is a mean; the sum of each image's own is meant here.
                    let weight = if of_each { count as f64 } else { 1.0 };
                    cross_entropy(logits, &labels, classes, range, weight, gradient);
                    if matches!(
                        estimator,
                        FisherEstimator::Exact | FisherEstimator::WeightedLabel
                    ) {
                        let rows = gradient.chunks_mut(classes).zip(logits.chunks(classes));
                        for ((gradient, logits), label) in rows.zip(&labels) {
                            let root = probability(logits, range, *label).sqrt() as f32;
                            gradient.iter_mut().for_each(|value| *value *= root);
                        }
                    }
                };
                let images = Images { data, count };
                pass.add(images, of_each, |value| value * value, &mut seed)?;
            }
        }
        Ok(())
    })
}

/// The softmax over the classes in `range`, at `label`; 0 outside of it.
fn probability(logits: &[f32], range: &[u32], label: u32) -> f64 {
    let row: Vec<f64> = range
        .iter()
        .map(|&class| f64::from(logits[class as usize]))
        .collect();
    let place = range.iter().position(|&class| class == label);
    place.map_or(0.0, |place| log_softmax(&row, 1.0)[place].exp())
}

/// Memory-aware synapses: the mean over images of |∂‖h(x)‖² / ∂θ|, h the logits in `range`.
///
/// # Errors
/// If the images do not fit the network.
pub fn output_sensitivity(
    executor: &mut Executor,
    model: &Model,
    parameters: &Parameters,
    images: &[f32],
    count: usize,
    range: &[u32],
) -> Result<Parameters> {
    let values = images.len() / count.max(1);
    let mode = Mode::Train { dropout: None };
    let classes = model.classes();
    let size = images_of_pass(model);
    estimate(executor, model, parameters, mode, count, |pass| {
        for data in images.chunks(size * values) {
            let mut seed = |logits: &[f32], gradient: &mut [f32]| {
                let rows = gradient.chunks_mut(classes).zip(logits.chunks(classes));
                for (gradient, logits) in rows {
                    for &class in range {
                        gradient[class as usize] = 2.0 * logits[class as usize];
                    }
                }
            };
            let count = data.len() / values;
            pass.add(Images { data, count }, true, f32::abs, &mut seed)?;
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_fisher_is_the_curvature_of_a_softmax() {
        // One image of two values, weights 0: p = (½, ½). ∂log p_c/∂b_k = [c = k] − ½, squared ¼.
        let text = "space s() input(1, 1, 2) linear(2)";
        let text = text.replace(") ", ")\n");
        let space = oncefit_space::Space::parse(&text, "s.space").unwrap();
        let mut parameters = oncefit_nn::Supernet::layout(&space).unwrap();
        parameters
            .iter_mut()
            .for_each(|tensor| tensor.data.fill(0.0));
        let graph = space.largest().unwrap().graph().clone();
        let head = crate::head::HeadSettings::default();
        let (model, parameters) = Model::new(&graph, &head, parameters, 0).unwrap();
        let run = |estimator| {
            let mut executor = Executor::default();
            fisher(
                &mut executor,
                &model,
                &parameters,
                (&[3.0, 1.0], &[1]),
                &[0, 1],
                estimator,
                Mode::Train { dropout: None },
            )
            .unwrap()
        };
        let exact = run(FisherEstimator::Exact);
        let values = |found: &Parameters| -> Vec<f32> {
            found
                .iter()
                .flat_map(|tensor| tensor.data.clone())
                .collect()
        };
        let expected = [2.25, 0.25, 2.25, 0.25, 0.25, 0.25];
        let is_near = |found: &Parameters, factor: f32| {
            let pairs = values(found).into_iter().zip(expected);
            assert!(
                pairs
                    .into_iter()
                    .all(|(a, b)| (a - factor * b).abs() < 1e-6)
            );
        };
        is_near(&exact, 1.0);
        is_near(&run(FisherEstimator::WeightedLabel), 0.5);
        is_near(&run(FisherEstimator::TrueLabel), 1.0);
        is_near(&run(FisherEstimator::MiniBatch { size: 1 }), 1.0);
    }

    /// All images in one pass give what one pass for each image gives.
    #[test]
    fn images_in_one_pass_are_images_one_by_one() {
        let text = "space s()\ninput(1, 1, 6)\nlinear(7)\nrelu\nlinear(5)\nrelu\nlinear(4)\n";
        let space = oncefit_space::Space::parse(text, "s.space").unwrap();
        let mut parameters = oncefit_nn::Supernet::layout(&space).unwrap();
        let mut draws = oncefit_random::Draws::new(3, "importance test", 0, 0);
        for tensor in parameters.iter_mut() {
            let data = tensor.data.iter_mut();
            data.for_each(|value| *value = draws.uniform_f32(-1.0, 1.0));
        }
        let graph = space.largest().unwrap().graph().clone();
        let head = crate::head::HeadSettings::default();
        let (model, parameters) = Model::new(&graph, &head, parameters, 0).unwrap();
        assert!(model.separates_images());
        let count = SEPARATED + 3;
        let images: Vec<f32> = (0..6 * count)
            .map(|_| draws.uniform_f32(-1.0, 1.0))
            .collect();
        let labels: Vec<u32> = (0..count as u32).map(|at| at % 4).collect();
        let mode = Mode::Train { dropout: None };
        let range = [0, 1, 3];
        let estimators = [
            FisherEstimator::Exact,
            FisherEstimator::WeightedLabel,
            FisherEstimator::TrueLabel,
        ];
        let run = |images: &[f32], labels: &[u32], estimator: Option<FisherEstimator>| {
            let mut executor = Executor::default();
            let (executor, model, parameters) = (&mut executor, &model, &parameters);
            match estimator {
                Some(estimator) => {
                    let examples = (images, labels);
                    fisher(
                        executor, model, parameters, examples, &range, estimator, mode,
                    )
                }
                None => {
                    output_sensitivity(executor, model, parameters, images, labels.len(), &range)
                }
            }
            .unwrap()
        };
        for estimator in estimators.map(Some).into_iter().chain([None]) {
            let together = run(&images, &labels, estimator);
            let mut means = together.zeros();
            for (image, label) in images.chunks(6).zip(labels.chunks(1)) {
                let one = run(image, label, estimator);
                for (sum, one) in means.iter_mut().zip(one.iter()) {
                    let pairs = sum.data.iter_mut().zip(&one.data);
                    pairs.for_each(|(sum, one)| *sum += one / count as f32);
                }
            }
            for (a, b) in together.iter().zip(means.iter()) {
                let largest = b
                    .data
                    .iter()
                    .fold(0.0, |most: f32, value| most.max(value.abs()));
                assert!(largest > 1e-4, "{}: all zero", a.name);
                for (a, b) in a.data.iter().zip(&b.data) {
                    assert!((a - b).abs() < 1e-5 * largest, "{estimator:?}: {a} {b}");
                }
            }
        }
    }
}
