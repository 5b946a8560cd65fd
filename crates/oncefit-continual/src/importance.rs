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

struct Pass<'a> {
    executor: &'a mut Executor,
    model: &'a Model,
    parameters: &'a Parameters,
    mode: Mode<'a>,
    gradients: Gradients,
}

impl Pass<'_> {
    /// Adds `factor · f(gradient)` to `sums`, the gradient of `⟨output, seed(output)⟩`.
    fn add(
        &mut self,
        images: Images,
        seed: &mut dyn FnMut(&[f32], &mut [f32]) -> f64,
        f: fn(f64) -> f64,
        sums: &mut [Vec<f64>],
    ) -> Result<()> {
        let output = self
            .model
            .forward(self.executor, self.parameters, images, self.mode)?;
        let mut outputs = OutputGradients {
            logits: vec![0.0; output.logits().len()],
            ..OutputGradients::default()
        };
        let factor = seed(output.logits(), &mut outputs.logits);
        self.gradients.clear();
        self.model.backward(
            self.executor,
            self.parameters,
            output,
            &outputs,
            &mut self.gradients,
        )?;
        for (position, sums) in sums.iter_mut().enumerate() {
            for (sum, value) in sums.iter_mut().zip(self.gradients.at(position)) {
                *sum += factor * f(f64::from(*value));
            }
        }
        Ok(())
    }
}

fn estimate(
    executor: &mut Executor,
    model: &Model,
    parameters: &Parameters,
    mode: Mode,
    count: f64,
    work: impl FnOnce(&mut Pass, &mut [Vec<f64>]) -> Result<()>,
) -> Result<Parameters> {
    let mut sums: Vec<Vec<f64>> = parameters
        .iter()
        .map(|tensor| vec![0.0; tensor.data.len()])
        .collect();
    let mut pass = Pass {
        executor,
        model,
        parameters,
        mode,
        gradients: Gradients::zeros(parameters),
    };
    work(&mut pass, &mut sums)?;
    let mut found = parameters.clone();
    for (tensor, sums) in found.iter_mut().zip(sums) {
        let means = sums.into_iter().map(|sum| (sum / count) as f32);
        tensor.data = means.collect();
    }
    Ok(found)
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
    let size = match estimator {
        FisherEstimator::MiniBatch { size } => size.max(1),
        _ => 1,
    };
    let batches = labels.len().div_ceil(size) as f64;
    let square = |value: f64| value * value;
    estimate(executor, model, parameters, mode, batches, |pass, sums| {
        for (data, labels) in images.chunks(size * values).zip(labels.chunks(size)) {
            let batch = Images {
                data,
                count: labels.len(),
            };
            let targets: Vec<u32> = match estimator {
                FisherEstimator::Exact => range.to_vec(),
                _ => vec![labels[0]],
            };
            for target in targets {
                let label = [target];
                let labels = if size == 1 { &label[..] } else { labels };
                let mut seed = |logits: &[f32], gradient: &mut [f32]| {
                    cross_entropy(logits, labels, classes, range, 1.0, gradient);
                    let places = range.iter().map(|&class| class as usize);
                    let row: Vec<f64> = places.map(|at| f64::from(logits[at])).collect();
                    let place = range.iter().position(|&class| class == target);
                    match estimator {
                        FisherEstimator::Exact | FisherEstimator::WeightedLabel => {
                            place.map_or(0.0, |place| log_softmax(&row, 1.0)[place].exp())
                        }
                        _ => 1.0,
                    }
                };
                pass.add(batch, &mut seed, square, sums)?;
            }
        }
        Ok(())
    })
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
    estimate(
        executor,
        model,
        parameters,
        mode,
        count as f64,
        |pass, sums| {
            for data in images.chunks(values) {
                let mut seed = |logits: &[f32], gradient: &mut [f32]| {
                    for &class in range {
                        gradient[class as usize] = 2.0 * logits[class as usize];
                    }
                    1.0
                };
                pass.add(Images { data, count: 1 }, &mut seed, f64::abs, sums)?;
            }
            Ok(())
        },
    )
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
        assert_eq!(values(&exact), [2.25, 0.25, 2.25, 0.25, 0.25, 0.25]);
        let half: Vec<f32> = values(&exact).iter().map(|value| value / 2.0).collect();
        assert_eq!(values(&run(FisherEstimator::WeightedLabel)), half);
        assert_eq!(run(FisherEstimator::TrueLabel), exact);
        assert_eq!(run(FisherEstimator::MiniBatch { size: 1 }), exact);
    }
}
