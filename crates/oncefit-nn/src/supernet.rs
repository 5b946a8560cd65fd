//! The weights of a whole space, and a network cut out of them.

use oncefit_kernels::Cpu;
use oncefit_random::{Draws, fnv1a64};
use oncefit_space::{Envelope, EnvelopeNode, FeatureShape, Graph, Op, Space, Subnet};

use crate::buffers::BufferPool;
use crate::calibration::Calibration;
use crate::error::{NnError, Result};
use crate::execute::{bake_kernel, gathered};
use crate::parameters::{Parameter, ParameterKind, Parameters};
use crate::plan::{Plan, Step, transform_name};

/// Full-size weights and their space. It holds no "active" state: a subnet is a value passed in.
#[derive(Clone, Debug)]
pub struct Supernet {
    /// The space whose members it contains.
    pub space: Space,
    /// The weights, each as large as the largest member needs.
    pub parameters: Parameters,
}

impl Supernet {
    /// A supernet with fresh weights: convolutions `N(0, 2 / (k² · out_channels))` ("he_fout",
    /// groups ignored, also for depthwise), linear layers uniform in `±1/√in`, batch-norm scale 1
    /// and shift 0, biases 0, kernel transforms the identity (Once-for-All, reference code).
    ///
    /// # Errors
    /// If the space has no consistent envelope.
    pub fn initialise(space: &Space, seed: u64) -> Result<Self> {
        let mut parameters = layout(&space.envelope()?);
        for parameter in parameters.iter_mut() {
            initialise(parameter, seed);
        }
        Ok(Self {
            space: space.clone(),
            parameters,
        })
    }

    /// A supernet with given weights.
    ///
    /// # Errors
    /// If a weight of the space is missing or has another shape.
    pub fn with_parameters(space: &Space, parameters: Parameters) -> Result<Self> {
        for needed in layout(&space.envelope()?).iter() {
            let found = parameters.get(&needed.name)?;
            if found.shape != needed.shape {
                return Err(NnError::ParameterShape {
                    name: needed.name.clone(),
                    found: found.shape.clone(),
                    needed: format!("space `{}` needs {:?}", space.name(), needed.shape),
                });
            }
        }
        Ok(Self {
            space: space.clone(),
            parameters,
        })
    }

    /// The weights that `space` needs, all zero, in canonical order.
    ///
    /// # Errors
    /// If the space has no consistent envelope.
    pub fn layout(space: &Space) -> Result<Parameters> {
        Ok(layout(&space.envelope()?))
    }

    /// Compiles a subnet for execution with this supernet's weights.
    ///
    /// # Errors
    /// If the subnet is of another space or has no executed form.
    pub fn plan(&self, subnet: &Subnet) -> Result<Plan> {
        Plan::new(subnet.graph(), &self.parameters)
    }

    /// Cuts a subnet out: copies its slices, bakes its kernels, keeps its calibration.
    ///
    /// # Errors
    /// If the calibration is not this subnet's.
    pub fn extract(&self, subnet: &Subnet, calibration: &Calibration) -> Result<Network> {
        let plan = self.plan(subnet)?;
        for norm in &plan.norms {
            calibration.statistics(&plan, norm)?;
        }
        Ok(Network {
            graph: subnet.graph().clone(),
            parameters: self.extract_weights(subnet)?,
            calibration: calibration.clone(),
        })
    }

    /// The weights of a subnet alone, to be trained on: as [`Supernet::extract`], without
    /// calibration.
    ///
    /// # Errors
    /// If the subnet is of another space.
    pub fn extract_weights(&self, subnet: &Subnet) -> Result<Parameters> {
        let plan = self.plan(subnet)?;
        let mut baked = std::collections::HashMap::new();
        for norm in &plan.norms {
            if norm.gather.is_some() {
                for at in [norm.scale, norm.shift] {
                    baked.insert(at, norm.vector(&self.parameters, at).into_owned());
                }
            }
        }
        for step in &plan.steps {
            if let Step::Convolution {
                weight,
                gather: Some(gather),
                out,
                ..
            } = step
            {
                let mut pool = BufferPool::default();
                let own = gathered(&mut pool, &self.parameters, &plan, *weight, *out, gather);
                baked.insert(*weight, own.data.to_vec());
            }
            if let Step::Depthwise { weight, .. } = step {
                let mut pool = BufferPool::default();
                let kernels = bake_kernel(Cpu::detect(), &mut pool, &self.parameters, &plan, step);
                let last = kernels.last().map(|kernel| kernel.to_vec());
                baked.insert(*weight, last.unwrap_or_default());
            }
        }
        let mut parameters = Parameters::default();
        for spec in subnet.graph().parameter_specs() {
            let position =
                self.parameters
                    .position(&spec.name)
                    .ok_or_else(|| NnError::MissingParameter {
                        name: spec.name.clone(),
                    })?;
            let stored = self.parameters.at(position);
            let data = match baked.remove(&position) {
                Some(kernel) => kernel,
                // A linear layer that reads one pixel of the largest map.
                None if spec.shape.len() < stored.shape.len() => {
                    leading_slice(stored, &[spec.shape[0], 1, 1, spec.shape[1]])
                }
                None => leading_slice(stored, &spec.shape),
            };
            parameters.insert(Parameter {
                name: spec.name,
                kind: stored.kind,
                shape: spec.shape,
                data,
            });
        }
        Ok(parameters)
    }
}

/// A standalone network: what [`Supernet::extract`] returns and exporters write.
#[derive(Clone, PartialEq, Debug)]
pub struct Network {
    /// Its operations and shapes.
    pub graph: Graph,
    /// Its weights, exactly as large as the graph says.
    pub parameters: Parameters,
    /// Its calibration.
    pub calibration: Calibration,
}

impl Network {
    /// Compiles it for execution.
    ///
    /// # Errors
    /// If graph and weights do not fit.
    pub fn plan(&self) -> Result<Plan> {
        Plan::new(&self.graph, &self.parameters)
    }
}

fn layout(envelope: &Envelope) -> Parameters {
    let mut parameters = Parameters::default();
    for node in &envelope.nodes {
        let mut insert = |role: &str, kind, shape: Vec<usize>| {
            let data = vec![0.0; shape.iter().product()];
            parameters.insert(Parameter {
                name: format!("{}.{role}", node.path),
                kind,
                shape,
                data,
            });
        };
        let (inputs, outputs) = (node.in_channels, node.out_channels);
        match &node.op {
            Op::Convolution { kernel, bias, .. } => {
                let kind = ParameterKind::ConvolutionWeight;
                insert("weight", kind, vec![outputs, *kernel, *kernel, inputs]);
                if *bias {
                    insert("bias", ParameterKind::Bias, vec![outputs]);
                }
            }
            Op::Linear { bias, .. } => {
                let (height, width) = envelope.nodes[node.inputs[0]].spatial;
                let map = FeatureShape {
                    height,
                    width,
                    channels: inputs,
                };
                let shape = map.linear_weight(outputs);
                insert("weight", ParameterKind::LinearWeight, shape);
                if *bias {
                    insert("bias", ParameterKind::Bias, vec![outputs]);
                }
            }
            Op::Depthwise { transform, .. } => {
                let kernel = largest_kernel(node);
                insert(
                    "weight",
                    ParameterKind::DepthwiseWeight,
                    vec![kernel, kernel, outputs],
                );
                if *transform {
                    for pair in node.kernels.windows(2).rev() {
                        let area = pair[0] * pair[0];
                        let name = transform_name(&node.path, pair[1], pair[0]);
                        parameters.insert(Parameter {
                            name,
                            kind: ParameterKind::KernelTransform,
                            shape: vec![area, area],
                            data: vec![0.0; area * area],
                        });
                    }
                }
            }
            Op::BatchNorm { .. } => {
                insert("weight", ParameterKind::NormScale, vec![outputs]);
                insert("bias", ParameterKind::NormShift, vec![outputs]);
            }
            _ => {}
        }
    }
    parameters
}

fn largest_kernel(node: &EnvelopeNode) -> usize {
    node.kernels.last().copied().unwrap_or(1)
}

fn initialise(parameter: &mut Parameter, seed: u64) {
    let mut draws = Draws::new(
        seed,
        "initialisation",
        fnv1a64(parameter.name.as_bytes()),
        0,
    );
    let shape = &parameter.shape;
    match parameter.kind {
        ParameterKind::ConvolutionWeight | ParameterKind::DepthwiseWeight => {
            let fan_out = match parameter.kind {
                ParameterKind::ConvolutionWeight => shape[0] * shape[1] * shape[2],
                _ => shape.iter().product(),
            };
            let deviation = (2.0 / fan_out as f64).sqrt();
            for value in &mut parameter.data {
                *value = (draws.normal() * deviation) as f32;
            }
        }
        ParameterKind::LinearWeight => {
            let inputs: usize = shape[1..].iter().product();
            let bound = 1.0 / (inputs as f32).sqrt();
            for value in &mut parameter.data {
                *value = draws.uniform_f32(-bound, bound);
            }
        }
        ParameterKind::NormScale => parameter.data.fill(1.0),
        ParameterKind::Bias | ParameterKind::NormShift => parameter.data.fill(0.0),
        ParameterKind::KernelTransform => {
            let area = shape[0];
            for (index, value) in parameter.data.iter_mut().enumerate() {
                *value = if index % (area + 1) == 0 { 1.0 } else { 0.0 };
            }
        }
    }
}

/// The leading part of each axis of `parameter`.
fn leading_slice(parameter: &Parameter, shape: &[usize]) -> Vec<f32> {
    fn copy(from: &[f32], stored: &[usize], wanted: &[usize], to: &mut Vec<f32>) {
        match (stored, wanted) {
            ([_], [length]) => to.extend_from_slice(&from[..*length]),
            ([_, stored_rest @ ..], [length, wanted_rest @ ..]) => {
                let stride: usize = stored_rest.iter().product();
                for index in 0..*length {
                    copy(&from[index * stride..], stored_rest, wanted_rest, to);
                }
            }
            _ => {}
        }
    }
    let mut to = Vec::with_capacity(shape.iter().product());
    copy(&parameter.data, &parameter.shape, shape, &mut to);
    to
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_slices_keep_the_leading_part_of_each_axis() {
        let parameter = Parameter {
            name: "w".into(),
            kind: ParameterKind::ConvolutionWeight,
            shape: vec![2, 1, 1, 3],
            data: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        };
        assert_eq!(
            leading_slice(&parameter, &[2, 1, 1, 2]),
            [1.0, 2.0, 4.0, 5.0]
        );
        assert_eq!(leading_slice(&parameter, &[1, 1, 1, 3]), [1.0, 2.0, 3.0]);
    }
}
