//! Optimisers: how weights follow the gradients of a step.

use std::ops::Range;

use oncefit_kernels as kernels;
use oncefit_kernels::Cpu;
use serde::{Deserialize, Serialize};

use crate::parameters::{Gradients, Parameter, ParameterKind, Parameters};

/// The update rule, with its constants; formulas in `oncefit_kernels`.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateRule {
    /// Stochastic gradient descent as PyTorch defines it, dampening 0:
    ///
    /// ```text
    /// g ← gradient + weight_decay · parameter
    /// b ← momentum · b + g
    /// parameter ← parameter − learning_rate · (g + momentum · b   if nesterov, else b)
    /// ```
    Sgd {
        /// Momentum, 0.9 in the papers.
        momentum: f32,
        /// Whether the momentum is Nesterov's.
        nesterov: bool,
    },
    /// Adam, or with `decoupled` AdamW.
    Adam {
        /// Decay of the mean of gradients.
        beta1: f32,
        /// Decay of the mean of squared gradients.
        beta2: f32,
        /// Added to the root of that mean.
        epsilon: f32,
        /// Whether weight decay is taken off the parameter itself (AdamW).
        decoupled: bool,
    },
    /// RMSProp with momentum.
    RmsProp {
        /// Decay of the mean of squared gradients.
        smoothing: f32,
        /// Added to the root of that mean.
        epsilon: f32,
        /// Momentum.
        momentum: f32,
    },
}

impl UpdateRule {
    /// Stochastic gradient descent with a momentum that is not Nesterov's.
    pub const fn sgd(momentum: f32) -> Self {
        Self::Sgd {
            momentum,
            nesterov: false,
        }
    }

    /// The names of the buffers it keeps for each parameter.
    pub fn buffer_names(&self) -> &'static [&'static str] {
        match self {
            Self::Sgd { .. } => &["momentum"],
            Self::Adam { .. } => &["mean", "square"],
            Self::RmsProp { .. } => &["momentum", "square"],
        }
    }
}

/// Towards what weight decay pulls the matrices of kernel transforms
/// ([`ParameterKind::KernelTransform`]).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TransformDecay {
    /// Towards 0 like any weight, as Once-for-All's authors train.
    #[default]
    Zero,
    /// Towards the identity, where a small kernel is the crop of the larger.
    Identity,
    /// They do not decay.
    None,
}

/// An optimiser with its state.
///
/// A parameter that no network of the step used is left alone, with its buffers.
#[derive(Clone, PartialEq, Debug)]
pub struct Optimiser {
    /// The rule.
    pub rule: UpdateRule,
    /// Weight decay of the parameters that decay ([`ParameterKind::decays`]).
    pub weight_decay: f32,
    /// What it does to kernel transforms.
    pub transform_decay: TransformDecay,
    /// Steps done since the buffers were empty.
    pub steps: u64,
    /// The buffers that [`UpdateRule::buffer_names`] names, each named and shaped like the
    /// parameters.
    pub buffers: Vec<Parameters>,
}

impl Optimiser {
    /// An optimiser for `parameters` with empty buffers.
    pub fn new(
        parameters: &Parameters,
        rule: UpdateRule,
        weight_decay: f32,
        transform_decay: TransformDecay,
    ) -> Self {
        let names = rule.buffer_names();
        Self {
            rule,
            weight_decay,
            transform_decay,
            steps: 0,
            buffers: names.iter().map(|_| parameters.zeros()).collect(),
        }
    }

    /// Forgets the past: empties the buffers.
    pub fn reset(&mut self) {
        self.steps = 0;
        for tensor in self.buffers.iter_mut().flat_map(Parameters::iter_mut) {
            tensor.data.fill(0.0);
        }
    }

    /// One step. Values of a present parameter that no network of the step read have a gradient of 0:
    /// weight decay and momentum move them on, as in Once-for-All's code.
    pub fn step(
        &mut self,
        cpu: Cpu,
        parameters: &mut Parameters,
        gradients: &mut Gradients,
        learning_rate: f32,
    ) {
        self.step_where(cpu, parameters, gradients, learning_rate, None);
    }

    /// One step of those values alone that the networks of the step read, where `coverage` is above 0
    /// ([`Plan::add_coverage`](crate::Plan::add_coverage)); the others keep their place and their
    /// buffers.
    pub fn step_within(
        &mut self,
        cpu: Cpu,
        parameters: &mut Parameters,
        gradients: &mut Gradients,
        learning_rate: f32,
        coverage: &Gradients,
    ) {
        self.step_where(cpu, parameters, gradients, learning_rate, Some(coverage));
    }

    fn step_where(
        &mut self,
        cpu: Cpu,
        parameters: &mut Parameters,
        gradients: &mut Gradients,
        learning_rate: f32,
        coverage: Option<&Gradients>,
    ) {
        self.steps += 1;
        for position in 0..parameters.len() {
            if !gradients.is_present(position) {
                continue;
            }
            let parameter = parameters.at_mut(position);
            let weight_decay = self.weight_decay_of(parameter);
            if parameter.kind == ParameterKind::KernelTransform
                && self.transform_decay == TransformDecay::Identity
            {
                // decay·(p − 1) on the diagonal: the kernels below add decay·p.
                let diagonal = parameter.shape[1] + 1;
                let values = gradients.at_mut(position).iter_mut();
                values
                    .step_by(diagonal)
                    .for_each(|value| *value -= weight_decay);
            }
            let all = 0..parameter.data.len();
            let whole = coverage.is_none().then_some(all);
            let covered = coverage.map(|coverage| covered(coverage.at(position)));
            for range in whole.into_iter().chain(covered.into_iter().flatten()) {
                let gradient = &gradients.at(position)[range.clone()];
                let weights = &mut parameter.data[range.clone()];
                self.update(
                    cpu,
                    position,
                    range,
                    weights,
                    gradient,
                    (learning_rate, weight_decay),
                );
            }
        }
    }

    /// Moves a part of the parameter at `position`.
    fn update(
        &mut self,
        cpu: Cpu,
        position: usize,
        range: Range<usize>,
        weights: &mut [f32],
        gradient: &[f32],
        (learning_rate, weight_decay): (f32, f32),
    ) {
        let mut buffers = self.buffers.iter_mut();
        let mut buffer = || {
            let buffer = buffers.next().expect("one for each name");
            &mut buffer.at_mut(position).data[range.clone()]
        };
        match self.rule {
            UpdateRule::Sgd { momentum, nesterov } => {
                let step = kernels::SgdStep {
                    learning_rate,
                    momentum,
                    nesterov,
                    weight_decay,
                };
                kernels::sgd_step(cpu, weights, gradient, buffer(), step);
            }
            UpdateRule::Adam {
                beta1,
                beta2,
                epsilon,
                decoupled,
            } => {
                let step = kernels::AdamStep {
                    learning_rate,
                    beta1,
                    beta2,
                    epsilon,
                    weight_decay,
                    decoupled,
                    step: self.steps,
                };
                kernels::adam_step(cpu, weights, gradient, buffer(), buffer(), step);
            }
            UpdateRule::RmsProp {
                smoothing,
                epsilon,
                momentum,
            } => {
                let step = kernels::RmsPropStep {
                    learning_rate,
                    smoothing,
                    epsilon,
                    momentum,
                    weight_decay,
                };
                kernels::rms_prop_step(cpu, weights, gradient, buffer(), buffer(), step);
            }
        }
    }

    fn weight_decay_of(&self, parameter: &Parameter) -> f32 {
        let is_free = parameter.kind == ParameterKind::KernelTransform
            && self.transform_decay == TransformDecay::None;
        if is_free || !parameter.kind.decays() {
            0.0
        } else {
            self.weight_decay
        }
    }
}

/// The ranges of values above 0.
fn covered(coverage: &[f32]) -> impl Iterator<Item = Range<usize>> {
    let mut end = 0;
    let runs = coverage.chunk_by(|left, right| (*left > 0.0) == (*right > 0.0));
    runs.filter_map(move |run| {
        let start = end;
        end += run.len();
        (run[0] > 0.0).then_some(start..end)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(kind: ParameterKind) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.insert(Parameter {
            name: "w".into(),
            kind,
            shape: vec![2, 2],
            data: vec![1.0, 0.5, 0.5, 2.0],
        });
        parameters
    }

    const SGD: UpdateRule = UpdateRule::Sgd {
        momentum: 0.0,
        nesterov: false,
    };

    fn decayed(kind: ParameterKind, transform_decay: TransformDecay) -> Vec<f32> {
        let mut weights = parameters(kind);
        let mut gradients = Gradients::zeros(&weights);
        gradients.at_mut(0);
        let mut optimiser = Optimiser::new(&weights, SGD, 0.5, transform_decay);
        optimiser.step(Cpu::detect(), &mut weights, &mut gradients, 1.0);
        weights.at(0).data.clone()
    }

    #[test]
    fn transforms_decay_to_zero_to_the_identity_or_not() {
        use ParameterKind::{KernelTransform, LinearWeight, NormScale};
        let zero = [0.5, 0.25, 0.25, 1.0];
        assert_eq!(decayed(LinearWeight, TransformDecay::Identity), zero);
        assert_eq!(decayed(KernelTransform, TransformDecay::Zero), zero);
        let identity = [1.0, 0.25, 0.25, 1.5];
        assert_eq!(decayed(KernelTransform, TransformDecay::Identity), identity);
        let same = [1.0, 0.5, 0.5, 2.0];
        assert_eq!(decayed(KernelTransform, TransformDecay::None), same);
        assert_eq!(decayed(NormScale, TransformDecay::Zero), same);
    }

    /// One of each kind, with buffers.
    fn rules() -> [UpdateRule; 3] {
        [
            UpdateRule::sgd(0.9),
            UpdateRule::Adam {
                beta1: 0.9,
                beta2: 0.999,
                epsilon: 1e-8,
                decoupled: true,
            },
            UpdateRule::RmsProp {
                smoothing: 0.9,
                epsilon: 1e-3,
                momentum: 0.9,
            },
        ]
    }

    #[test]
    fn what_is_not_covered_keeps_its_value_and_buffers() {
        for rule in rules() {
            let mut weights = parameters(ParameterKind::LinearWeight);
            let mut gradients = Gradients::zeros(&weights);
            gradients.at_mut(0).copy_from_slice(&[1.0, 2.0, 3.0, 4.0]);
            let mut optimiser = Optimiser::new(&weights, rule, 0.1, TransformDecay::Zero);
            let cpu = Cpu::detect();
            optimiser.step(cpu, &mut weights, &mut gradients, 0.1);
            let (before, state) = (weights.clone(), optimiser.clone());
            gradients.at_mut(0).copy_from_slice(&[1.0, 0.0, 1.0, 0.0]);
            let mut coverage = Gradients::zeros(&weights);
            coverage.at_mut(0).copy_from_slice(&[1.0, 0.0, 2.0, 0.0]);
            optimiser.step_within(cpu, &mut weights, &mut gradients, 0.1, &coverage);
            // The covered ones move as in a step of all.
            let (mut all, mut whole) = (before.clone(), state.clone());
            whole.step(cpu, &mut all, &mut gradients, 0.1);
            let sets = |weights: &Parameters, optimiser: &Optimiser| -> Vec<Vec<f32>> {
                let sets = std::iter::once(weights).chain(&optimiser.buffers);
                sets.map(|set| set.at(0).data.clone()).collect()
            };
            let found = sets(&weights, &optimiser);
            let (kept, moved) = (sets(&before, &state), sets(&all, &whole));
            for (found, (kept, moved)) in found.iter().zip(kept.iter().zip(&moved)) {
                assert_eq!(*found, [moved[0], kept[1], moved[2], kept[3]], "{rule:?}");
                assert_ne!(kept, moved);
            }
        }
    }

    #[test]
    fn absent_parameters_keep_their_values_and_buffers() {
        for rule in rules() {
            let mut weights = parameters(ParameterKind::LinearWeight);
            let before = weights.clone();
            let mut gradients = Gradients::zeros(&weights);
            let mut optimiser = Optimiser::new(&weights, rule, 0.1, TransformDecay::Zero);
            let empty = optimiser.buffers.clone();
            optimiser.step(Cpu::detect(), &mut weights, &mut gradients, 0.1);
            assert!(weights == before && optimiser.buffers == empty);
            gradients.at_mut(0)[1] = 1.0;
            optimiser.step(Cpu::detect(), &mut weights, &mut gradients, 0.1);
            assert!(weights != before && optimiser.buffers != empty);
            optimiser.reset();
            assert!(optimiser.buffers == empty && optimiser.steps == 0);
        }
    }
}
