//! Weights and gradients on a device.
//!
//! Each is a tensor of four axes in the layout of [`Parameters`], shorter shapes with leading 1s:
//! `[out, k, k, in]`, `[1, k, k, channels]`, `[1, 1, out, in]`, `[1, 1, 1, n]`.

use burn_tensor::{Device, Tensor, TensorData};
use oncefit_nn::{Gradients, ParameterKind, Parameters};

use crate::error::{BurnError, Result};

/// A supernet's or a network's weights on a device, in the order of the [`Parameters`] they were
/// copied from.
#[derive(Clone, Debug)]
pub struct DeviceParameters {
    pub(crate) tensors: Vec<Tensor<4>>,
    pub(crate) kinds: Vec<ParameterKind>,
    pub(crate) device: Device,
}

impl DeviceParameters {
    /// Copies `parameters` to `device`.
    pub fn upload(parameters: &Parameters, device: &Device) -> Self {
        let device = device.clone().without_autodiff();
        let upload = |data: &[f32], shape: &[usize]| {
            let mut padded = [1; 4];
            padded[4 - shape.len()..].copy_from_slice(shape);
            Tensor::from_data(TensorData::new(data.to_vec(), padded), &device)
        };
        Self {
            tensors: parameters
                .iter()
                .map(|parameter| upload(&parameter.data, &parameter.shape))
                .collect(),
            kinds: parameters.iter().map(|parameter| parameter.kind).collect(),
            device,
        }
    }

    /// Copies the weights back into `parameters`, the ones they came from or their equals in shape.
    ///
    /// # Errors
    /// If the number of tensors or a tensor's length differs, or the device fails.
    pub fn download(&self, parameters: &mut Parameters) -> Result<()> {
        check("the weights", self.tensors.len(), parameters.len())?;
        for (tensor, parameter) in self.tensors.iter().zip(parameters.iter_mut()) {
            let values = read(tensor.clone(), "reading a weight")?;
            check("a weight", values.len(), parameter.data.len())?;
            parameter.data = values;
        }
        Ok(())
    }
}

/// The gradients of a step on a device: one for each parameter that a network of the step used.
#[derive(Clone, Debug)]
pub struct DeviceGradients {
    pub(crate) tensors: Vec<Option<Tensor<4>>>,
}

impl DeviceGradients {
    /// No gradients yet.
    pub fn none(parameters: &DeviceParameters) -> Self {
        Self {
            tensors: vec![None; parameters.tensors.len()],
        }
    }

    /// Adds to the gradient of the parameter at `position`.
    pub(crate) fn add(&mut self, position: usize, addend: Tensor<4>) {
        let slot = &mut self.tensors[position];
        *slot = Some(match slot.take() {
            Some(sum) => sum + addend,
            None => addend,
        });
    }

    /// Adds them to `gradients`, of parameters in the same order.
    ///
    /// # Errors
    /// If a gradient's length differs, or the device fails.
    pub fn download(&self, gradients: &mut Gradients) -> Result<()> {
        for (position, tensor) in self.tensors.iter().enumerate() {
            let Some(tensor) = tensor else { continue };
            let values = read(tensor.clone(), "reading a gradient")?;
            let target = gradients.at_mut(position);
            check("a gradient", values.len(), target.len())?;
            for (target, value) in target.iter_mut().zip(values) {
                *target += value;
            }
        }
        Ok(())
    }
}

/// Copies a tensor from its device.
pub(crate) fn read<const D: usize>(tensor: Tensor<D>, doing: &'static str) -> Result<Vec<f32>> {
    tensor
        .try_into_vec_as::<f32>()
        .map_err(|error| BurnError::Execution {
            doing,
            reason: error.to_string(),
        })
}

pub(crate) fn check(what: &'static str, found: usize, needed: usize) -> Result<()> {
    match found == needed {
        true => Ok(()),
        false => Err(BurnError::Length {
            what,
            found,
            needed,
        }),
    }
}
