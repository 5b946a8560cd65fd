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

#[cfg(test)]
mod tests {
    use burn_tensor::TensorData;
    use oncefit_nn::{
        Cpu, Gradients, Optimiser, Parameter, ParameterKind, Parameters, TransformDecay, UpdateRule,
    };

    use super::*;

    #[test]
    fn steps_are_those_of_the_first_executor() {
        let kinds = [ParameterKind::LinearWeight, ParameterKind::NormScale];
        let kinds = kinds.into_iter().chain([ParameterKind::KernelTransform]);
        let mut start = Parameters::default();
        for (index, kind) in kinds.enumerate() {
            start.insert(Parameter {
                name: format!("w{index}"),
                kind,
                shape: vec![2, 2],
                data: vec![1.0, -0.5, 0.25, 2.0],
            });
        }
        for nesterov in [false, true] {
            let rule = UpdateRule::Sgd {
                momentum: 0.9,
                nesterov,
            };
            let mut expected = start.clone();
            let mut first = Optimiser::new(&expected, rule, 0.1, TransformDecay::Zero);
            let (device, _) = crate::open_device("flex").unwrap();
            let mut found = DeviceParameters::upload(&start, &device);
            let mut second = Sgd::new(&found, 0.9, nesterov, 0.1);
            // Each parameter is absent from one of the steps.
            for step in 0..3 {
                let mut gradients = Gradients::zeros(&start);
                let mut on_device = DeviceGradients::none(&found);
                for position in (0..3).filter(|position| *position != step) {
                    let values = [0.5, 1.0 - step as f32, -2.0, 0.125];
                    gradients.at_mut(position).copy_from_slice(&values);
                    let data = TensorData::new(values.to_vec(), [1, 1, 2, 2]);
                    on_device.add(position, Tensor::from_data(data, &device));
                }
                first.step(Cpu::detect(), &mut expected, &mut gradients, 0.5);
                second.step(&mut found, &on_device, 0.5).unwrap();
            }
            let mut back = start.zeros();
            found.download(&mut back).unwrap();
            for (back, expected) in back.iter().zip(expected.iter()) {
                for (found, expected) in back.data.iter().zip(&expected.data) {
                    assert!((found - expected).abs() < 1e-5, "{back:?} {expected:?}");
                }
            }
        }
    }
}
