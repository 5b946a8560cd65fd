//! Stochastic gradient descent with momentum.

use oncefit_kernels as kernels;
use oncefit_kernels::Cpu;

use crate::parameters::{Gradients, Parameters};

/// SGD as PyTorch defines it, dampening 0:
///
/// ```text
/// g ← gradient + weight_decay · parameter      (decayed parameters only)
/// b ← momentum · b + g
/// parameter ← parameter − learning_rate · (g + momentum · b   if nesterov, else b)
/// ```
///
/// A parameter that no network of the step used is left alone, with its momentum.
#[derive(Clone, PartialEq, Debug)]
pub struct Sgd {
    /// Momentum, 0.9 in the papers.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Weight decay on the parameters that decay
    /// ([`crate::ParameterKind::decays`]).
    pub weight_decay: f32,
    /// Momentum buffers, named and shaped like the parameters.
    pub buffers: Parameters,
}

impl Sgd {
    /// An optimiser for `parameters` with empty momentum.
    pub fn new(parameters: &Parameters, momentum: f32, nesterov: bool, weight_decay: f32) -> Self {
        let mut buffers = parameters.clone();
        buffers.iter_mut().for_each(|buffer| buffer.data.fill(0.0));
        Self {
            momentum,
            nesterov,
            weight_decay,
            buffers,
        }
    }

    /// One step.
    pub fn step(
        &mut self,
        cpu: Cpu,
        parameters: &mut Parameters,
        gradients: &Gradients,
        learning_rate: f32,
    ) {
        for position in 0..parameters.len() {
            if !gradients.is_present(position) {
                continue;
            }
            let parameter = parameters.at_mut(position);
            let settings = kernels::SgdStep {
                learning_rate,
                momentum: self.momentum,
                nesterov: self.nesterov,
                weight_decay: if parameter.kind.decays() {
                    self.weight_decay
                } else {
                    0.0
                },
            };
            kernels::sgd_step(
                cpu,
                &mut parameter.data,
                gradients.at(position),
                &mut self.buffers.at_mut(position).data,
                settings,
            );
        }
    }
}
