//! Inference of a standalone network in eight bits.
//!
//! [`ActivationRanges`] says which values each tensor takes on some calibration images. A
//! [`QuantisedSession`] stores every tensor as its consumers read it, after batch-norm and
//! activation, in 255 steps over that range; weights have 127 steps to either side, a scale for each
//! output channel. The outputs are f32.

use std::sync::{Mutex, PoisonError};

use oncefit_kernels as kernels;
use oncefit_kernels::{
    Affine, ConvWeight, Cpu, LayerFinish, Quantisation, QuantisedConvolution, QuantisedDepthwise,
    QuantisedGate, QuantisedOutput, QuantisedTensor, Shape,
};
use serde::{Deserialize, Serialize};

use crate::buffers::{Buffer, BufferPool};
use crate::error::{NnError, Result};
use crate::execute::{
    AppliedNorm, Executor, Images, Tape, bake_kernel, gathered, kernel_activation,
};
use crate::plan::{Plan, PoolKind, Step, View};
use crate::session::{group, run_in_groups};
use crate::supernet::Network;

/// The values that the tensors of a network take.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ActivationRanges {
    /// The graph they belong to ([`Plan::graph_id`]).
    graph_id: String,
    /// How many images they were taken from.
    images: usize,
    /// Least and largest value of each stored tensor as it is read, without its gate.
    tensors: Vec<[f32; 2]>,
    /// The same with the gate, of tensors that have one.
    gated: Vec<Option<[f32; 2]>>,
}

/// Images that run together while ranges are taken.
const RANGE_IMAGES: usize = 16;

impl ActivationRanges {
    /// Runs a calibrated network on images and keeps each tensor's least and largest value.
    ///
    /// # Errors
    /// If the images do not fit the network, the network is not calibrated, or a pixel or weight is
    /// not finite.
    pub fn measure(network: &Network, images: Images) -> Result<Self> {
        let plan = network.plan()?;
        let norms = norms(network, &plan)?;
        check_finite(network, images)?;
        let input = plan.input_shape().len();
        if images.count == 0 || images.data.len() != images.count * input {
            return Err(NnError::BatchSize {
                what: "the calibration images",
                found: images.data.len(),
                needed: images.count.max(1) * input,
                detail: format!("{} images of {}", images.count, plan.input_shape()),
            });
        }
        let nothing = [f32::INFINITY, f32::NEG_INFINITY];
        let mut ranges = Self {
            graph_id: plan.graph_id().to_owned(),
            images: images.count,
            tensors: vec![nothing; plan.tensors.len()],
            gated: vec![None; plan.tensors.len()],
        };
        let mut executor = Executor::default();
        let mut values = Vec::new();
        for data in images.data.chunks(RANGE_IMAGES * input) {
            let count = data.len() / input;
            let mut tape = Tape::new(&plan, Images { data, count });
            tape.norms = norms.clone();
            // So that all tensors are there at the end.
            tape.is_training = true;
            kernels::in_pool(|| {
                executor.run_all(&plan, &network.parameters, &mut tape, false);
            });
            for (tensor, info) in plan.tensors.iter().enumerate() {
                let view = View {
                    gate: None,
                    ..info.view
                };
                let mut widen = |view: View, range: &mut [f32; 2]| {
                    let source = tape.source(&plan, view);
                    values.resize(source.data.len(), 0.0);
                    kernels::materialise(executor.cpu, source, &mut values);
                    for value in &values {
                        range[0] = range[0].min(*value);
                        range[1] = range[1].max(*value);
                    }
                };
                widen(view, &mut ranges.tensors[tensor]);
                if info.view.gate.is_some() {
                    widen(info.view, ranges.gated[tensor].get_or_insert(nothing));
                }
            }
            executor.recycle(tape);
        }
        Ok(ranges)
    }

    /// How many images they were taken from.
    pub fn images(&self) -> usize {
        self.images
    }
}

/// Activations and maxima swallow NaN, so no range would show it.
fn check_finite(network: &Network, images: Images) -> Result<()> {
    let not_finite = |values: &[f32]| values.iter().copied().find(|value| !value.is_finite());
    let mut found = not_finite(images.data).map(|value| ("an image".to_owned(), value));
    for parameter in network.parameters.iter() {
        let of_parameter = || not_finite(&parameter.data);
        found =
            found.or_else(|| Some((format!("parameter `{}`", parameter.name), of_parameter()?)));
    }
    match found {
        Some((what, value)) => Err(NnError::NotFinite { what, value }),
        None => Ok(()),
    }
}

fn norms(network: &Network, plan: &Plan) -> Result<Vec<AppliedNorm>> {
    let norms = plan.norms.iter().map(|info| {
        let (mean, variance) = network.calibration.statistics(plan, info)?;
        Ok(AppliedNorm::new(&network.parameters, info, mean, variance))
    });
    norms.collect()
}

/// What a step needs of the weights.
#[derive(Debug)]
enum Layer {
    Convolution(QuantisedConvolution),
    Depthwise(QuantisedDepthwise),
    Nothing,
}

/// A network that is ready to run in eight bits.
#[derive(Debug)]
pub struct QuantisedSession {
    plan: Plan,
    layers: Vec<Layer>,
    norms: Vec<AppliedNorm>,
    /// Of each tensor, and of those with a gate also with it.
    steps: Vec<Quantisation>,
    gated_steps: Vec<Quantisation>,
    cpu: Cpu,
    group: usize,
    pools: Mutex<Vec<BufferPool<u8>>>,
}

impl QuantisedSession {
    /// Rounds a network's weights.
    ///
    /// # Errors
    /// If graph and weights do not fit, it is not calibrated, or the ranges are of another network.
    pub fn new(network: &Network, ranges: &ActivationRanges) -> Result<Self> {
        Self::on(Cpu::detect(), network, ranges)
    }

    /// The same with the instructions of `cpu`.
    ///
    /// # Errors
    /// As [`QuantisedSession::new`].
    pub fn on(cpu: Cpu, network: &Network, ranges: &ActivationRanges) -> Result<Self> {
        let plan = network.plan()?;
        if ranges.graph_id != plan.graph_id() || ranges.tensors.len() != plan.tensors.len() {
            return Err(NnError::NotCalibrated {
                reason: format!(
                    "the activation ranges belong to network {}, this one is {}",
                    ranges.graph_id,
                    plan.graph_id()
                ),
            });
        }
        let norms = norms(network, &plan)?;
        let steps = |range: &[f32; 2]| Quantisation::of_range(range[0], range[1]);
        let tensors: Vec<Quantisation> = ranges.tensors.iter().map(steps).collect();
        let gated = ranges.gated.iter().zip(&tensors);
        let gated: Vec<Quantisation> = gated
            .map(|(range, plain)| range.as_ref().map_or(*plain, steps))
            .collect();
        let mut session = Self {
            layers: Vec::with_capacity(plan.steps.len()),
            steps: tensors,
            gated_steps: gated,
            norms,
            cpu,
            group: group(network, 1),
            pools: Mutex::default(),
            plan,
        };
        for step in &session.plan.steps {
            let layer = session.layer(network, step);
            session.layers.push(layer);
        }
        Ok(session)
    }

    fn layer(&self, network: &Network, step: &Step) -> Layer {
        let parameters = &network.parameters;
        match step {
            Step::Convolution {
                source,
                window,
                weight,
                out_stride,
                in_stride,
                gather,
                bias,
                out,
            } => {
                let mut pool = BufferPool::default();
                let gathered = gather
                    .as_ref()
                    .map(|part| gathered(&mut pool, parameters, &self.plan, *weight, *out, part));
                let weight = match &gathered {
                    Some(weight) => weight.as_weight(),
                    None => ConvWeight {
                        data: &parameters.at(*weight).data,
                        out_stride: *out_stride,
                        in_stride: *in_stride,
                    },
                };
                let channels = |tensor: usize| self.plan.tensors[tensor].shape.channels;
                let out_channels = channels(*out);
                let bias = bias.map(|bias| &parameters.at(bias).data[..out_channels]);
                Layer::Convolution(QuantisedConvolution::new(
                    self.cpu,
                    weight,
                    window.kernel,
                    channels(source.tensor),
                    out_channels,
                    self.read_as(*source),
                    &self.finish(*out, bias),
                ))
            }
            Step::Depthwise {
                source,
                window,
                out,
                ..
            } => {
                let mut pool = BufferPool::default();
                let baked = bake_kernel(self.cpu, &mut pool, parameters, &self.plan, step);
                let kernel = baked.last().map_or(&[][..], |kernel| &kernel[..]);
                let mut finish = self.finish(*out, None);
                finish.output = Some(self.steps[*out]);
                let input = self.read_as(*source);
                Layer::Depthwise(QuantisedDepthwise::new(
                    self.cpu,
                    kernel,
                    window.kernel,
                    input,
                    &finish,
                ))
            }
            _ => Layer::Nothing,
        }
    }

    /// Batch-norm, activation and steps of a stored tensor; the network's output stays f32.
    fn finish<'a>(&'a self, tensor: usize, bias: Option<&'a [f32]>) -> LayerFinish<'a> {
        let view = self.plan.tensors[tensor].view;
        LayerFinish {
            bias,
            affine: self.affine(view),
            activation: kernel_activation(view.activation),
            output: (tensor != self.plan.output).then_some(self.steps[tensor]),
        }
    }

    fn affine(&self, view: View) -> Option<Affine<'_>> {
        view.norm.map(|norm| Affine {
            scale: &self.norms[norm].scale,
            shift: &self.norms[norm].shift,
        })
    }

    /// What the integers stand for that a consumer reads.
    fn read_as(&self, view: View) -> Quantisation {
        match view.gate {
            Some(_) => self.gated_steps[view.tensor],
            None => self.steps[view.tensor],
        }
    }

    /// The outputs for some images, `count × features`; the same bits for any number of images and
    /// threads.
    ///
    /// # Errors
    /// If the images do not fit the network's input.
    pub fn run(&self, images: Images) -> Result<Vec<f32>> {
        run_in_groups(&self.plan, images, self.group, |images, outputs| {
            let known = self.pools().pop();
            let mut pool = known.unwrap_or_default();
            self.run_group(&mut pool, images, outputs);
            self.pools().push(pool);
        })
    }

    fn pools(&self) -> std::sync::MutexGuard<'_, Vec<BufferPool<u8>>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run_group(&self, pool: &mut BufferPool<u8>, images: Images, outputs: &mut [f32]) {
        let count = self.plan.tensors.len();
        let mut pass = Pass {
            session: self,
            images: images.count,
            tensors: vec![None; count],
            gated: vec![None; count],
        };
        let mut input = pool.take(images.data.len());
        kernels::quantise(self.cpu, images.data, self.steps[0], &mut input);
        pass.tensors[0] = Some(input);
        for (index, step) in self.plan.steps.iter().enumerate() {
            pass.run(pool, step, &self.layers[index], outputs);
            for (tensor, info) in self.plan.tensors.iter().enumerate() {
                if info.last_use == index {
                    let freed = [pass.tensors[tensor].take(), pass.gated[tensor].take()];
                    freed
                        .into_iter()
                        .flatten()
                        .for_each(|buffer| pool.give(buffer));
                }
            }
        }
        if let Some(output) = pass.tensors[self.plan.output].take() {
            // A network that does not end with a convolution or linear layer.
            kernels::dequantise(pass.tensor(&output, self.plan.output), outputs);
            pool.give(output);
        }
    }
}

/// The tensors of some images.
struct Pass<'s> {
    session: &'s QuantisedSession,
    images: usize,
    tensors: Vec<Option<Buffer<u8>>>,
    /// Tensors times their gates.
    gated: Vec<Option<Buffer<u8>>>,
}

impl Pass<'_> {
    fn shape(&self, tensor: usize) -> Shape {
        let shape = self.session.plan.tensors[tensor].shape;
        Shape {
            images: self.images,
            height: shape.height,
            width: shape.width,
            channels: shape.channels,
        }
    }

    fn tensor<'b>(&self, data: &'b [u8], tensor: usize) -> QuantisedTensor<'b> {
        QuantisedTensor {
            data,
            shape: self.shape(tensor),
            quantisation: self.session.steps[tensor],
        }
    }

    fn source(&self, view: View) -> QuantisedTensor<'_> {
        let stored = match view.gate {
            Some(_) => &self.gated[view.tensor],
            None => &self.tensors[view.tensor],
        };
        let data = stored
            .as_deref()
            .expect("a tensor is made before it is read");
        QuantisedTensor {
            quantisation: self.session.read_as(view),
            ..self.tensor(data, view.tensor)
        }
    }

    fn run(&mut self, pool: &mut BufferPool<u8>, step: &Step, layer: &Layer, outputs: &mut [f32]) {
        let session = self.session;
        let (cpu, plan) = (session.cpu, &session.plan);
        let activation = |tensor: usize| kernel_activation(plan.tensors[tensor].view.activation);
        let (out, made) = match step {
            Step::Convolution {
                source,
                window,
                out,
                ..
            } => {
                let Layer::Convolution(layer) = layer else {
                    unreachable!("a layer is made for each convolution");
                };
                let source = self.source(*source);
                if *out == plan.output {
                    let output = QuantisedOutput::Floats(outputs);
                    kernels::quantised_convolution(cpu, source, *window, layer, output);
                    return;
                }
                let mut made = pool.take(self.shape(*out).len());
                let output = QuantisedOutput::Bytes(&mut made);
                kernels::quantised_convolution(cpu, source, *window, layer, output);
                (*out, made)
            }
            Step::Depthwise {
                source,
                window,
                out,
                ..
            } => {
                let Layer::Depthwise(layer) = layer else {
                    unreachable!("a layer is made for each convolution");
                };
                let mut made = pool.take(self.shape(*out).len());
                kernels::quantised_depthwise(cpu, self.source(*source), *window, layer, &mut made);
                (*out, made)
            }
            Step::GlobalAveragePool { source, out } => {
                let mut made = pool.take(self.shape(*out).len());
                kernels::quantised_global_average_pool(
                    cpu,
                    self.source(*source),
                    activation(*out),
                    session.steps[*out],
                    &mut made,
                );
                (*out, made)
            }
            Step::Pool {
                source,
                kind,
                window,
                out,
            } => {
                let pooled = match kind {
                    PoolKind::Average => kernels::quantised_average_pool,
                    PoolKind::Max => kernels::quantised_max_pool,
                };
                let mut made = pool.take(self.shape(*out).len());
                pooled(
                    cpu,
                    self.source(*source),
                    *window,
                    activation(*out),
                    session.steps[*out],
                    &mut made,
                );
                (*out, made)
            }
            Step::Add { left, right, out } => {
                let mut made = pool.take(self.shape(*out).len());
                kernels::quantised_add(
                    cpu,
                    self.source(*left),
                    self.source(*right),
                    activation(*out),
                    session.steps[*out],
                    &mut made,
                );
                (*out, made)
            }
            Step::Concat { left, right, out } => {
                let mut made = pool.take(self.shape(*out).len());
                let width = self.shape(*out).channels;
                let mut start = 0;
                for view in [left, right] {
                    let source = self.source(*view);
                    let own = source.shape.channels;
                    let mut part = pool.take(source.data.len());
                    let steps = session.steps[*out];
                    kernels::quantised_map(
                        cpu,
                        source,
                        None,
                        activation(*out),
                        None,
                        steps,
                        &mut part,
                    );
                    for (pixel, own) in made.chunks_exact_mut(width).zip(part.chunks_exact(own)) {
                        pixel[start..start + own.len()].copy_from_slice(own);
                    }
                    start += own;
                    pool.give(part);
                }
                (*out, made)
            }
            Step::Activate { source, out } | Step::Dropout { source, out, .. } => {
                let mut made = pool.take(self.shape(*out).len());
                kernels::quantised_map(
                    cpu,
                    self.source(*source),
                    session.affine(plan.tensors[*out].view),
                    activation(*out),
                    None,
                    session.steps[*out],
                    &mut made,
                );
                (*out, made)
            }
            Step::Scale {
                feature,
                factor,
                out,
            } => {
                let mut made = pool.take(self.shape(*out).len());
                let factor = self.source(*factor);
                let gate = QuantisedGate {
                    data: factor.data,
                    quantisation: factor.quantisation,
                };
                kernels::quantised_map(
                    cpu,
                    self.source(*feature),
                    None,
                    activation(*out),
                    Some(gate),
                    session.steps[*out],
                    &mut made,
                );
                (*out, made)
            }
            Step::Gate { feature, gate } => {
                let source = self.source(View {
                    gate: None,
                    ..*feature
                });
                let gate = QuantisedGate {
                    data: self.tensors[*gate]
                        .as_deref()
                        .expect("a gate is made first"),
                    quantisation: session.steps[*gate],
                };
                let mut made = pool.take(source.data.len());
                kernels::quantised_map(
                    cpu,
                    source,
                    None,
                    kernels::Activation::Identity,
                    Some(gate),
                    session.gated_steps[feature.tensor],
                    &mut made,
                );
                self.gated[feature.tensor] = Some(made);
                return;
            }
        };
        self.tensors[out] = Some(made);
    }
}
