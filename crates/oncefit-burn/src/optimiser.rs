//! Stochastic gradient descent with momentum on a device.

use burn_tensor::Tensor;

use crate::error::Result;
use crate::parameters::{DeviceGradients, DeviceParameters, check};

/// The rule of `oncefit_nn::UpdateRule::Sgd`, with its state:
///
/// ```text
/// g ← gradient + weight_decay · parameter
/// b ← momentum · b + g
/// parameter ← parameter − learning_rate · (g + momentum · b   if nesterov, else b)
/// ```
///
/// A parameter that no network of the step used is left alone. Kernel transforms decay towards 0.
#[derive(Clone, Debug)]
pub struct Sgd {
    /// Momentum.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Weight decay of the parameters that decay (`ParameterKind::decays`).
    pub weight_decay: f32,
    buffers: Vec<Option<Tensor<4>>>,
}

impl Sgd {
    /// An optimiser for `parameters` that has seen nothing.
    pub fn new(
        parameters: &DeviceParameters,
        momentum: f32,
        nesterov: bool,
        weight_decay: f32,
    ) -> Self {
        Self {
            momentum,
            nesterov,
            weight_decay,
            buffers: vec![None; parameters.tensors.len()],
        }
    }

    /// One step.
    ///
    /// # Errors
    /// If `gradients` or this optimiser belong to other parameters.
    pub fn step(
        &mut self,
        parameters: &mut DeviceParameters,
        gradients: &DeviceGradients,
        learning_rate: f32,
    ) -> Result<()> {
        let count = parameters.tensors.len();
        check("the gradients", gradients.tensors.len(), count)?;
        check("the optimiser's state", self.buffers.len(), count)?;
        for (position, gradient) in gradients.tensors.iter().enumerate() {
            let Some(gradient) = gradient else { continue };
            let parameter = parameters.tensors[position].clone();
            let decays = self.weight_decay != 0.0 && parameters.kinds[position].decays();
            let gradient = match decays {
                true => gradient.clone() + parameter.clone() * self.weight_decay,
                false => gradient.clone(),
            };
            let buffer = match self.buffers[position].take() {
                Some(buffer) => buffer * self.momentum + gradient.clone(),
                None => gradient.clone(),
            };
            let direction = match self.nesterov {
                true => gradient + buffer.clone() * self.momentum,
                false => buffer.clone(),
            };
            parameters.tensors[position] = parameter - direction * learning_rate;
            self.buffers[position] = Some(buffer);
        }
        Ok(())
    }
}
