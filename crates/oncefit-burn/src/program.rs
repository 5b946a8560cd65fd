//! Running a graph, node by node, on a device.
//!
//! Features are `count × channels × height × width`, Burn's order; images come and outputs go
//! channels-last, as everywhere in Oncefit.

use burn_tensor::module::{avg_pool2d, batch_norm, batch_norm_train, conv2d, max_pool2d};
use burn_tensor::ops::{AvgPoolOptions, ConvOptions, MaxPoolOptions};
use burn_tensor::{Tensor, TensorData, activation::relu};
use oncefit_nn::{
    Calibration, Channels, DropoutDraws, Images, KernelLink, Mode, NnError, Parameters, Plan,
    stored_channels,
};
use oncefit_space::{Activation, Graph, GraphNode, Op};

use crate::error::Result;
use crate::parameters::{DeviceGradients, DeviceParameters, check, read};

/// The weights of one node, as positions among the parameters.
#[derive(Clone, Debug)]
struct Binding {
    weight: usize,
    /// The bias, or a batch-norm's shift.
    bias: Option<usize>,
    /// Which of the stored channels the node reads.
    channels: Channels,
    /// Whether it is the weight of a linear layer on a map, `[out, height, width, in]`.
    is_on_map: bool,
    /// How a depthwise kernel is made from the stored one.
    links: Vec<KernelLink>,
}

/// A graph with the places of its weights; made for each subnet, in microseconds.
#[derive(Clone, Debug)]
pub struct Program {
    graph: Graph,
    plan: Plan,
    bindings: Vec<Option<Binding>>,
    consumers: Vec<Vec<usize>>,
}

impl Program {
    /// Binds `graph` to `parameters`, whose tensors may be larger than the graph needs.
    ///
    /// # Errors
    /// As [`Plan::new`]: both executors take the same graphs.
    pub fn new(graph: &Graph, parameters: &Parameters) -> Result<Self> {
        let plan = Plan::new(graph, parameters)?;
        let channels = stored_channels(graph);
        let bind = |node: &GraphNode| bind(node, &channels, parameters);
        Ok(Self {
            bindings: graph.nodes.iter().map(bind).collect::<Result<_>>()?,
            consumers: graph.consumers(),
            graph: graph.clone(),
            plan,
        })
    }

    /// The plan of the first executor: calibrations carry its [`Plan::graph_id`].
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// Runs on a batch, on the device of `parameters`, which were uploaded from the ones that it
    /// was bound to.
    ///
    /// # Errors
    /// If the batch does not fit, a calibration belongs to another network, or the device fails.
    pub fn forward(
        &self,
        parameters: &DeviceParameters,
        images: Images,
        mode: Mode,
    ) -> Result<DeviceTape> {
        let shape = self.graph.input_shape();
        check(
            "the image batch",
            images.data.len(),
            images.count * shape.len(),
        )?;
        let is_training = matches!(mode, Mode::Train { .. });
        let mut pass = Pass {
            count: images.count,
            parameters,
            leaves: vec![None; parameters.tensors.len()],
            is_training,
            dropout: match mode {
                Mode::Train { dropout } => dropout,
                _ => None,
            },
            sites: self.plan.dropout_sites().into_iter(),
            known: match mode {
                Mode::Evaluate(calibration) => Some(in_order(calibration, &self.plan)?.into_iter()),
                _ => None,
            },
            statistics: Vec::new(),
        };
        let extents = [images.count, shape.height, shape.width, shape.channels];
        let mut values: Vec<Option<Tensor<4>>> = vec![None; self.graph.nodes.len()];
        values[0] = Some(
            pass.constant(images.data.to_vec(), extents)
                .permute([0, 3, 1, 2]),
        );
        for (index, node) in self.graph.nodes.iter().enumerate().skip(1) {
            let inputs = node.inputs.iter().enumerate().map(|(side, &input)| {
                // The last reader takes the value: what the backward pass does not need is freed.
                let is_last = self.consumers[input].last() == Some(&index)
                    && !node.inputs[side + 1..].contains(&input);
                let value = match is_last {
                    true => values[input].take(),
                    false => values[input].clone(),
                };
                value.expect("a value is there until its last reader")
            });
            let inputs: Vec<Tensor<4>> = inputs.collect();
            values[index] = Some(pass.run(&node.op, self.bindings[index].as_ref(), inputs));
        }
        let output = values.pop().flatten().expect("the last node was run");
        let features = self.graph.output_shape().len();
        Ok(DeviceTape {
            output: output
                .permute([0, 2, 3, 1])
                .reshape([images.count, features]),
            leaves: pass.leaves,
            statistics: pass.statistics,
            is_training,
        })
    }
}

/// What a forward pass leaves on the device.
#[derive(Debug)]
pub struct DeviceTape {
    output: Tensor<2>,
    leaves: Vec<Option<Tensor<4>>>,
    statistics: Vec<[Tensor<1>; 2]>,
    is_training: bool,
}

impl DeviceTape {
    /// The output: `count × features`. Waits for the device.
    ///
    /// # Errors
    /// If the device fails.
    pub fn output(&self) -> Result<Vec<f32>> {
        read(self.output.clone().without_autodiff(), "reading the output")
    }

    /// Mean and biased variance of the batch in each batch-norm, in the order of the graph; empty
    /// if a calibration gave them.
    ///
    /// # Errors
    /// If the device fails.
    pub fn statistics(&self) -> Result<Vec<[Vec<f32>; 2]>> {
        let read = |tensor: &Tensor<1>| {
            read(
                tensor.clone().without_autodiff(),
                "reading batch statistics",
            )
        };
        let all = self.statistics.iter();
        all.map(|[mean, variance]| Ok([read(mean)?, read(variance)?]))
            .collect()
    }

    /// Adds the gradients of the pass to `gradients`, given `d loss / d output`
    /// (`count × features`).
    ///
    /// # Errors
    /// If the pass was not in training mode or `output_gradient` has another length.
    pub fn backward(self, output_gradient: &[f32], gradients: &mut DeviceGradients) -> Result<()> {
        if !self.is_training {
            return Err(NnError::Unsupported {
                path: "backward".into(),
                reason: "the forward pass was not run in training mode".into(),
            }
            .into());
        }
        let shape = self.output.dims();
        check(
            "the output gradient",
            output_gradient.len(),
            shape[0] * shape[1],
        )?;
        check("the gradients", gradients.tensors.len(), self.leaves.len())?;
        let device = self.output.device().without_autodiff();
        let seed = TensorData::new(output_gradient.to_vec(), shape);
        let seed = Tensor::<2>::from_data(seed, &device).autodiff();
        let mut found = (self.output * seed).sum().backward();
        for (position, leaf) in self.leaves.iter().enumerate() {
            let gradient = leaf.as_ref().and_then(|leaf| leaf.grad_remove(&mut found));
            if let Some(gradient) = gradient {
                gradients.add(position, gradient);
            }
        }
        Ok(())
    }
}

/// The statistics of a calibration as the pass takes them.
fn in_order(calibration: &Calibration, plan: &Plan) -> Result<Vec<[Vec<f32>; 2]>> {
    let all = calibration.in_order(plan)?.into_iter();
    Ok(all
        .map(|(mean, variance)| [mean.to_vec(), variance.to_vec()])
        .collect())
}

fn bind(
    node: &GraphNode,
    channels: &[Channels],
    parameters: &Parameters,
) -> Result<Option<Binding>> {
    let (has_bias, depthwise) = match node.op {
        Op::Convolution { bias, .. } | Op::Linear { bias, .. } => (bias, None),
        Op::BatchNorm { .. } => (true, None),
        Op::Depthwise { kernel, .. } => (false, Some(kernel)),
        _ => return Ok(None),
    };
    let at = |role: &str| {
        let name = format!("{}.{role}", node.path);
        let position = parameters.position(&name);
        position.ok_or(NnError::MissingParameter { name })
    };
    let weight = at("weight")?;
    // Every weight has the channels that it reads on its last axis.
    let shape = &parameters.at(weight).shape;
    let stored = shape.last().copied().unwrap_or(0);
    Ok(Some(Binding {
        weight,
        bias: has_bias.then(|| at("bias")).transpose()?,
        channels: channels[node.inputs[0]].within(stored),
        is_on_map: shape.len() == 4,
        links: match depthwise {
            Some(kernel) => parameters.kernel_links(&node.path, shape[0], kernel)?,
            None => Vec::new(),
        },
    }))
}

/// One forward pass.
struct Pass<'a> {
    count: usize,
    parameters: &'a DeviceParameters,
    /// The parameters used so far, as the autodiff knows them.
    leaves: Vec<Option<Tensor<4>>>,
    is_training: bool,
    dropout: Option<DropoutDraws>,
    sites: std::vec::IntoIter<usize>,
    /// A calibration's statistics of the batch-norms to come.
    known: Option<std::vec::IntoIter<[Vec<f32>; 2]>>,
    statistics: Vec<[Tensor<1>; 2]>,
}

impl Pass<'_> {
    /// A tensor without gradient.
    fn constant<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        let tensor = Tensor::from_data(TensorData::new(values, shape), &self.parameters.device);
        match self.is_training {
            true => tensor.autodiff(),
            false => tensor,
        }
    }

    fn leaf(&mut self, position: usize) -> Tensor<4> {
        let leaf = self.leaves[position].get_or_insert_with(|| {
            let stored = self.parameters.tensors[position].clone();
            match self.is_training {
                true => stored.autodiff().require_grad(),
                false => stored,
            }
        });
        leaf.clone()
    }

    /// The first `length` values of a vector.
    fn vector(&mut self, position: usize, length: usize) -> Tensor<1> {
        self.leaf(position)
            .slice([0..1, 0..1, 0..1, 0..length])
            .reshape([length])
    }

    /// Some channels of a vector.
    fn channels_of(&mut self, position: usize, channels: &Channels) -> Tensor<1> {
        select(self.leaf(position), channels).reshape([channels.count()])
    }

    fn run(&mut self, op: &Op, binding: Option<&Binding>, inputs: Vec<Tensor<4>>) -> Tensor<4> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("a validated graph has all inputs");
        let binding = || binding.expect("operations with weights are bound");
        match *op {
            Op::Input => unreachable!("the input is the first node"),
            Op::Convolution {
                out_channels,
                kernel,
                stride,
                ..
            } => {
                let Binding {
                    weight,
                    bias,
                    channels,
                    ..
                } = binding();
                let weight = select(self.leaf(*weight), channels);
                // The centre of the stored kernel.
                let border = (weight.dims()[1] - kernel) / 2;
                let taps = border..border + kernel;
                let extents = [0..out_channels, taps.clone(), taps, 0..channels.count()];
                let weight = weight.slice(extents).permute([0, 3, 1, 2]);
                let bias = bias.map(|bias| self.vector(bias, out_channels));
                conv2d(next(), weight, bias, window(kernel, stride, 1))
            }
            Op::Depthwise { kernel, stride, .. } => {
                let channels = binding().channels.count();
                let weight = self.baked(binding()).permute([3, 0, 1, 2]);
                conv2d(next(), weight, None, window(kernel, stride, channels))
            }
            Op::Linear { out_features, .. } => {
                let Binding {
                    weight,
                    bias,
                    channels,
                    is_on_map,
                    ..
                } = binding();
                let input = next();
                let [_, _, height, width] = input.dims();
                let features = channels.count() * height * width;
                let weight = select(self.leaf(*weight), channels);
                let weight = match is_on_map {
                    true => weight,
                    // `[1, 1, out, in]`
                    false => weight.permute([2, 0, 1, 3]),
                };
                let weight = weight
                    .slice([0..out_features, 0..height, 0..width, 0..channels.count()])
                    .permute([0, 3, 1, 2]);
                let weight = weight.reshape([out_features, features]).transpose();
                let bias = bias.map(|bias| self.vector(bias, out_features));
                let output = input.reshape([self.count, features]).matmul(weight);
                let output = match bias {
                    Some(bias) => output + bias.unsqueeze(),
                    None => output,
                };
                output.reshape([self.count, out_features, 1, 1])
            }
            Op::BatchNorm { epsilon } => {
                let Binding {
                    weight,
                    bias,
                    channels,
                    ..
                } = binding();
                let scale = self.channels_of(*weight, channels);
                let shift = bias.expect("a batch-norm has a shift");
                let shift = self.channels_of(shift, channels);
                let epsilon = f64::from(epsilon);
                if let Some(known) = &mut self.known {
                    let known = known.next().expect("one for each batch-norm");
                    let [mean, variance] = known.map(|values| {
                        let length = values.len();
                        self.constant(values, [length])
                    });
                    return batch_norm(next(), scale, shift, mean, variance, epsilon);
                }
                let normalised = batch_norm_train(next(), scale, shift, epsilon);
                self.statistics.push([normalised.mean, normalised.variance]);
                normalised.output
            }
            Op::Activation(activation) => activate(next(), activation),
            Op::GlobalAveragePool => next().mean_dims(&[2, 3]),
            Op::AveragePool {
                kernel,
                stride,
                padding,
                ceil,
            } => {
                let options = AvgPoolOptions {
                    kernel_size: [kernel; 2],
                    stride: [stride; 2],
                    padding: [(padding, padding); 2],
                    count_include_pad: false,
                    ceil_mode: ceil,
                };
                avg_pool2d(next(), options)
            }
            Op::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                let options = MaxPoolOptions::new([kernel; 2])
                    .with_stride([stride; 2])
                    .with_padding([padding; 2]);
                max_pool2d(next(), options)
            }
            Op::Dropout { rate } => {
                let site = self
                    .sites
                    .next()
                    .expect("the plan has a site for each dropout");
                let features = next();
                let Some(draws) = self.dropout else {
                    return features;
                };
                let [count, channels, height, width] = features.dims();
                let length = count * height * width * channels;
                let mask = draws.mask(site, rate).take(length).collect();
                let mask = self.constant(mask, [count, height, width, channels]);
                features * mask.permute([0, 3, 1, 2])
            }
            Op::Add => next() + next(),
            Op::Concat { .. } => Tensor::cat(vec![next(), next()], 1),
            Op::Multiply => next() * next(),
        }
    }

    /// The depthwise kernel of a node, `[1, k, k, channels]`, made from the stored one
    /// (Once-for-All §3.3): of the centre, or a matrix times the centre.
    fn baked(&mut self, binding: &Binding) -> Tensor<4> {
        let channels = binding.channels.count();
        let mut kernel = select(self.leaf(binding.weight), &binding.channels);
        for link in &binding.links {
            let from = kernel.dims()[1];
            let start = from / 2 - link.kernel / 2;
            let centre = start..start + link.kernel;
            kernel = kernel.slice([0..1, centre.clone(), centre, 0..channels]);
            if let Some(transform) = link.transform {
                let taps = link.kernel * link.kernel;
                let matrix = self.leaf(transform).reshape([taps, taps]);
                let product = matrix.matmul(kernel.reshape([taps, channels]));
                kernel = product.reshape([1, link.kernel, link.kernel, channels]);
            }
        }
        kernel
    }
}

/// Some channels of a tensor's last axis.
fn select(tensor: Tensor<4>, channels: &Channels) -> Tensor<4> {
    let [a, b, c, _] = tensor.dims();
    let part =
        |range: &std::ops::Range<usize>| tensor.clone().slice([0..a, 0..b, 0..c, range.clone()]);
    match channels.ranges() {
        [range] => part(range),
        ranges => Tensor::cat(ranges.iter().map(part).collect(), 3),
    }
}

fn window(kernel: usize, stride: usize, groups: usize) -> ConvOptions<2> {
    ConvOptions::new([stride; 2], [kernel / 2; 2], [1; 2], groups)
}

fn activate(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    let relu6 = |x: Tensor<4>| x.clamp(0.0, 6.0);
    match activation {
        Activation::Identity => x,
        Activation::Relu => relu(x),
        Activation::Relu6 => relu6(x),
        Activation::HardSwish => x.clone() * relu6(x + 3.0) / 6.0,
        Activation::HardSigmoid => relu6(x + 3.0) / 6.0,
    }
}
