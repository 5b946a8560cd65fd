//! The same training steps on both executors, and how far apart they end.

use std::time::Instant;

use burn_tensor::Device;
use oncefit_nn::{
    DropoutDraws, Executor, Gradients, Images, Mode, Optimiser, Parameters, Plan, Supernet, Target,
    TransformDecay, UpdateRule, softmax_cross_entropy,
};
use oncefit_random::Draws;
use oncefit_space::Graph;

use crate::error::{BurnError, Result};
use crate::optimiser::Sgd;
use crate::parameters::{DeviceGradients, DeviceParameters};
use crate::program::Program;

const MOMENTUM: f32 = 0.9;
const WEIGHT_DECAY: f32 = 3e-5;
const LEARNING_RATE: f32 = 0.01;
const SMOOTHING: f32 = 0.1;

/// A gradient whose norm is below this share of the step's largest counts as one of that size, and
/// so does a change of a weight: a shift before a convolution and a batch-norm has the gradient 0,
/// and what is there is rounding.
const SMALLEST_SHARE: f32 = 1e-3;

/// Training steps of a supernet: in each, some networks on a batch of random images, dropout on,
/// their gradients added; then SGD with Nesterov momentum.
#[derive(Clone, Debug)]
pub struct TrainingStep<'a> {
    supernet: &'a Supernet,
    networks: Vec<Network>,
    count: usize,
    seed: u64,
}

#[derive(Clone, Debug)]
struct Network {
    graph: Graph,
    images: Vec<f32>,
    labels: Vec<u32>,
}

/// What some steps came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Logits of each network in the first step.
    pub logits: Vec<Vec<f32>>,
    /// Mean loss of the networks in the first step.
    pub loss: f64,
    /// Gradients of the first step.
    pub gradients: Gradients,
    /// Weights after the last step.
    pub parameters: Parameters,
    /// Time of each step; the first one compiles kernels where a device does that.
    pub seconds: Vec<f64>,
}

/// How far apart two outcomes are. Of tensors, the worst `‖found − expected‖ / ‖expected‖`: a value
/// near the kink of an activation, or one that nearly ties for a maximum, may fall to another side
/// by rounding, which moves single gradients far more than a tensor's norm.
#[derive(Clone, Debug)]
pub struct Differences {
    /// The largest of a logit, in units of the largest logit.
    pub logits: f32,
    /// Of the loss, in units of it.
    pub loss: f32,
    /// Of the gradients.
    pub gradients: f32,
    /// The parameter whose gradient differs most.
    pub gradient_name: String,
    /// Of the weights' changes.
    pub changes: f32,
    /// How many parameters have a gradient.
    pub compared: usize,
}

impl<'a> TrainingStep<'a> {
    /// Steps with `graphs`, members of the supernet's space, each on `count` images drawn by `seed`.
    pub fn new(supernet: &'a Supernet, graphs: Vec<Graph>, count: usize, seed: u64) -> Self {
        let network = |(index, graph): (usize, Graph)| {
            let classes = graph.output_shape().len();
            let mut draws = Draws::new(seed, "images", index as u64, 0);
            let values = count * graph.input_shape().len();
            Network {
                images: (0..values).map(|_| draws.normal() as f32).collect(),
                labels: (0..count)
                    .map(|_| (draws.unit_f32() * classes as f32) as u32)
                    .collect(),
                graph,
            }
        };
        Self {
            supernet,
            networks: graphs.into_iter().enumerate().map(network).collect(),
            count,
            seed,
        }
    }

    /// Runs `steps` of them on `oncefit_nn`'s executor.
    ///
    /// # Errors
    /// If a graph is of another space.
    pub fn on_cpu(&self, steps: usize) -> Result<Outcome> {
        let mut executor = Executor::default();
        let mut parameters = self.supernet.parameters.clone();
        let rule = UpdateRule::Sgd {
            momentum: MOMENTUM,
            nesterov: true,
        };
        let mut optimiser = Optimiser::new(&parameters, rule, WEIGHT_DECAY, TransformDecay::Zero);
        let mut outcome = self.nothing_yet();
        let mut gradients = Gradients::zeros(&parameters);
        for step in 0..steps {
            let started = Instant::now();
            gradients.clear();
            for (index, network) in self.networks.iter().enumerate() {
                let plan = Plan::new(&network.graph, &parameters)?;
                let (images, mode) = self.pass(network, index, step);
                let tape = executor.forward(&plan, &parameters, images, mode)?;
                let logits = tape.output().to_vec();
                let (loss, gradient) = self.loss(network, &logits);
                executor.backward(&plan, &parameters, tape, &gradient, &mut gradients)?;
                outcome.note(step, logits, loss);
            }
            let first = (step == 0).then(|| gradients.clone());
            optimiser.step(
                executor.cpu(),
                &mut parameters,
                &mut gradients,
                LEARNING_RATE,
            );
            outcome.seconds.push(started.elapsed().as_secs_f64());
            if let Some(first) = first {
                outcome.gradients = first;
            }
        }
        outcome.parameters = parameters;
        Ok(outcome)
    }

    /// Runs `steps` of them on a device. The time has neither the copy of the weights there nor
    /// back.
    ///
    /// # Errors
    /// If a graph is of another space, or the device fails.
    pub fn on_device(&self, device: &Device, steps: usize) -> Result<Outcome> {
        let mut parameters = DeviceParameters::upload(&self.supernet.parameters, device);
        let mut optimiser = Sgd::new(&parameters, MOMENTUM, true, WEIGHT_DECAY);
        let mut outcome = self.nothing_yet();
        for step in 0..steps {
            let started = Instant::now();
            let mut gradients = DeviceGradients::none(&parameters);
            for (index, network) in self.networks.iter().enumerate() {
                let program = Program::new(&network.graph, &self.supernet.parameters)?;
                let (images, mode) = self.pass(network, index, step);
                let tape = program.forward(&parameters, images, mode)?;
                let logits = tape.output()?;
                let (loss, gradient) = self.loss(network, &logits);
                tape.backward(&gradient, &mut gradients)?;
                outcome.note(step, logits, loss);
            }
            optimiser.step(&mut parameters, &gradients, LEARNING_RATE)?;
            device.sync().map_err(|error| BurnError::Execution {
                doing: "finishing a step",
                reason: error.to_string(),
            })?;
            outcome.seconds.push(started.elapsed().as_secs_f64());
            if step == 0 {
                gradients.download(&mut outcome.gradients)?;
            }
        }
        parameters.download(&mut outcome.parameters)?;
        Ok(outcome)
    }

    /// The same steps with every pixel changed by a random share of at most `share` of it: how far
    /// rounding alone can move an outcome.
    pub fn with_noise(&self, share: f32) -> Self {
        let mut noisy = self.clone();
        for (index, network) in noisy.networks.iter_mut().enumerate() {
            let mut draws = Draws::new(self.seed, "noise", index as u64, 0);
            for value in &mut network.images {
                *value *= 1.0 + draws.uniform_f32(-share, share);
            }
        }
        noisy
    }

    /// How far `found` is from `expected`, two outcomes of these steps.
    pub fn differences(&self, found: &Outcome, expected: &Outcome) -> Differences {
        let before = &self.supernet.parameters;
        let loss = ((found.loss - expected.loss) / expected.loss).abs();
        let mut all = Differences {
            logits: 0.0,
            loss: loss as f32,
            gradients: 0.0,
            gradient_name: String::new(),
            changes: 0.0,
            compared: 0,
        };
        for (found, expected) in found.logits.iter().zip(&expected.logits) {
            let pairs = found.iter().zip(expected);
            let difference = largest(pairs.map(|(found, expected)| found - expected));
            all.logits = worse(all.logits, difference / largest(expected.iter().copied()));
        }
        let changes = [found, expected].map(|outcome| {
            let after = outcome.parameters.iter().zip(before.iter());
            let change = after.map(|(after, before)| {
                let values = after.data.iter().zip(&before.data);
                values.map(|(after, before)| after - before).collect()
            });
            change.collect::<Vec<Vec<f32>>>()
        });
        let positions = 0..before.len();
        let gradient_norms = positions.clone().map(|at| norm(expected.gradients.at(at)));
        let smallest_gradient = SMALLEST_SHARE * largest(gradient_norms);
        let smallest_change = SMALLEST_SHARE * largest(changes[1].iter().map(|all| norm(all)));
        for position in positions {
            let gradients = [found, expected].map(|outcome| &outcome.gradients);
            let [is_there, is_expected] = gradients.map(|all| all.is_present(position));
            let [ours, theirs] = gradients.map(|all| all.at(position));
            all.compared += usize::from(is_expected);
            let difference = match is_there == is_expected {
                true => distance(ours, theirs) / norm(theirs).max(smallest_gradient),
                false => f32::INFINITY,
            };
            if worse(all.gradients, difference) != all.gradients {
                all.gradients = difference;
                all.gradient_name = before.at(position).name.clone();
            }
            let [ours, theirs] = [&changes[0][position], &changes[1][position]];
            let difference = distance(ours, theirs) / norm(theirs).max(smallest_change);
            all.changes = worse(all.changes, difference);
        }
        all
    }

    fn nothing_yet(&self) -> Outcome {
        Outcome {
            logits: Vec::new(),
            loss: 0.0,
            gradients: Gradients::zeros(&self.supernet.parameters),
            parameters: self.supernet.parameters.clone(),
            seconds: Vec::new(),
        }
    }

    fn pass<'n>(&self, network: &'n Network, index: usize, step: usize) -> (Images<'n>, Mode<'n>) {
        let images = Images {
            data: &network.images,
            count: self.count,
        };
        let dropout = DropoutDraws {
            seed: self.seed,
            step: step as u64,
            network: index as u64,
        };
        let mode = Mode::Train {
            dropout: Some(dropout),
        };
        (images, mode)
    }

    /// Mean loss over all networks' images: this network's share and its gradient.
    fn loss(&self, network: &Network, logits: &[f32]) -> (f64, Vec<f32>) {
        let mut gradient = vec![0.0; logits.len()];
        let target = Target::Labels {
            labels: &network.labels,
            smoothing: SMOOTHING,
        };
        let classes = logits.len() / self.count;
        let share = 1.0 / self.networks.len() as f32;
        let loss = softmax_cross_entropy(logits, classes, target, &mut gradient, share);
        (loss * f64::from(share), gradient)
    }
}

impl Outcome {
    fn note(&mut self, step: usize, logits: Vec<f32>, loss: f64) {
        if step == 0 {
            self.logits.push(logits);
            self.loss += loss;
        }
    }
}

/// The largest magnitude; infinite if a value is not a number.
fn largest(values: impl Iterator<Item = f32>) -> f32 {
    values.fold(0.0, |most, value| worse(most, value.abs()))
}

/// The Euclidean norm.
fn norm(values: &[f32]) -> f32 {
    let squares = values.iter().map(|value| f64::from(*value).powi(2));
    squares.sum::<f64>().sqrt() as f32
}

/// The Euclidean distance.
fn distance(found: &[f32], expected: &[f32]) -> f32 {
    let pairs = found.iter().zip(expected);
    norm(
        &pairs
            .map(|(found, expected)| found - expected)
            .collect::<Vec<f32>>(),
    )
}

/// The larger one; infinite if `difference` is not a number.
fn worse(most: f32, difference: f32) -> f32 {
    match difference.is_nan() {
        true => f32::INFINITY,
        false => most.max(difference),
    }
}
