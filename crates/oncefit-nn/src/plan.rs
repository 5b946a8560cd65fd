//! A graph compiled to the fused steps that are executed.
//!
//! A training step stores only the raw outputs of convolutions. Batch-norm, activation and the
//! gate of a squeeze-excite are not steps of their own: they are part of a [`View`], the way a
//! consumer reads a stored tensor,
//!
//! ```text
//! value = gate · act(scale · stored + shift)
//! ```
//!
//! so that a consumer applies them while it loads, and batch-norm's sums are taken while the
//! producer stores. A plan knows the parameters by position; it is cheap to make (microseconds),
//! so each subnet of a step gets its own.

use oncefit_kernels::{PoolWindow, Window};
use oncefit_space::{Activation, FeatureShape, Graph, GraphNode, Op};

use crate::channels::{Channels, WeightPart};
use crate::error::{NnError, Result};
use crate::parameters::Parameters;

/// How a stored tensor is read.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct View {
    pub tensor: usize,
    pub norm: Option<usize>,
    pub activation: Activation,
    pub gate: Option<usize>,
}

impl View {
    pub fn stored(tensor: usize) -> Self {
        Self {
            tensor,
            norm: None,
            activation: Activation::Identity,
            gate: None,
        }
    }

    /// Whether reading it changes nothing.
    pub fn is_plain(&self) -> bool {
        self.norm.is_none() && self.activation == Activation::Identity && self.gate.is_none()
    }
}

/// A stored tensor.
#[derive(Clone, Debug)]
pub(crate) struct TensorInfo {
    pub shape: FeatureShape,
    /// The view through which all its consumers read it (a gated tensor is also pooled, without
    /// its gate).
    pub view: View,
    /// How many steps read it.
    pub uses: usize,
    /// The last step that reads it.
    pub last_use: usize,
    /// The step that makes it again from a tensor that is kept, if it is much larger than that one.
    pub expansion_by: Option<usize>,
}

/// A batch-norm.
#[derive(Clone, Debug)]
pub(crate) struct NormInfo {
    pub path: String,
    pub channels: usize,
    /// Which of the stored channels, if they are not the first ones.
    pub gather: Option<Channels>,
    pub epsilon: f32,
    pub scale: usize,
    pub shift: usize,
}

/// A link of the chain that makes a small depthwise kernel from the stored one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KernelLink {
    /// Pixels on a side of the kernel it makes: the centre of the one before.
    pub kernel: usize,
    /// Position of the matrix that the centre is multiplied by, if there is one.
    pub transform: Option<usize>,
}

/// A step of the execution; `out` is the stored tensor it makes.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Convolution {
        source: View,
        window: Window,
        weight: usize,
        out_stride: usize,
        in_stride: usize,
        /// Which part of the weight it reads, if not the whole kernel and the first input channels.
        gather: Option<WeightPart>,
        bias: Option<usize>,
        out: usize,
    },
    Depthwise {
        source: View,
        window: Window,
        weight: usize,
        stored_kernel: usize,
        stored_channels: usize,
        /// Which of the stored channels it reads.
        channels: Channels,
        links: Vec<KernelLink>,
        out: usize,
    },
    GlobalAveragePool {
        source: View,
        out: usize,
    },
    Pool {
        source: View,
        kind: PoolKind,
        window: PoolWindow,
        out: usize,
    },
    Add {
        left: View,
        right: View,
        out: usize,
    },
    /// The channels of the left tensor, then those of the right one.
    Concat {
        left: View,
        right: View,
        out: usize,
    },
    /// Makes a view a stored tensor; one that a linear layer reads as a single pixel with all values of
    /// the map.
    Activate {
        source: View,
        out: usize,
    },
    /// Nothing in the forward direction; backward, it makes the gate's gradient.
    Gate {
        feature: View,
        gate: usize,
    },
    Dropout {
        source: View,
        rate: f32,
        out: usize,
    },
    /// A map times a pixel that is not made from its pool.
    Scale {
        feature: View,
        factor: View,
        out: usize,
    },
}

impl Step {
    /// The views that it reads.
    pub fn views(&self) -> impl Iterator<Item = View> {
        let (first, second) = match self {
            Self::Convolution { source, .. }
            | Self::Depthwise { source, .. }
            | Self::GlobalAveragePool { source, .. }
            | Self::Pool { source, .. }
            | Self::Activate { source, .. }
            | Self::Dropout { source, .. } => (source, None),
            Self::Add { left, right, .. } | Self::Concat { left, right, .. } => (left, Some(right)),
            Self::Gate { feature, .. } => (feature, None),
            Self::Scale {
                feature, factor, ..
            } => (feature, Some(factor)),
        };
        [Some(first), second].into_iter().flatten().copied()
    }

    /// The views that it reads, to be changed.
    pub fn views_mut(&mut self) -> impl Iterator<Item = &mut View> {
        let (first, second) = match self {
            Self::Convolution { source, .. }
            | Self::Depthwise { source, .. }
            | Self::GlobalAveragePool { source, .. }
            | Self::Pool { source, .. }
            | Self::Activate { source, .. }
            | Self::Dropout { source, .. } => (source, None),
            Self::Add { left, right, .. } | Self::Concat { left, right, .. } => (left, Some(right)),
            Self::Gate { feature, .. } => (feature, None),
            Self::Scale {
                feature, factor, ..
            } => (feature, Some(factor)),
        };
        [Some(first), second].into_iter().flatten()
    }

    /// The stored tensors that it reads, without gates, and the one that it makes.
    pub fn tensors(&self) -> impl Iterator<Item = usize> {
        let (first, second) = match self {
            Self::Convolution { source, out, .. }
            | Self::Depthwise { source, out, .. }
            | Self::GlobalAveragePool { source, out }
            | Self::Pool { source, out, .. }
            | Self::Activate { source, out }
            | Self::Dropout { source, out, .. } => ([source.tensor, *out], None),
            Self::Add { left, right, out } | Self::Concat { left, right, out } => {
                ([left.tensor, right.tensor], Some(*out))
            }
            Self::Gate { feature, gate } => ([feature.tensor, *gate], None),
            Self::Scale {
                feature,
                factor,
                out,
            } => ([feature.tensor, factor.tensor], Some(*out)),
        };
        first.into_iter().chain(second)
    }
}

/// What a pool makes of a window.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PoolKind {
    /// The mean of the pixels inside the image.
    Average,
    /// The largest.
    Max,
}

/// A graph compiled for execution with given parameters.
#[derive(Clone, Debug)]
pub struct Plan {
    pub(crate) tensors: Vec<TensorInfo>,
    pub(crate) norms: Vec<NormInfo>,
    pub(crate) steps: Vec<Step>,
    pub(crate) output: usize,
    graph_id: String,
}

impl Plan {
    /// Compiles `graph` against `parameters`, whose tensors may be larger than the graph needs.
    ///
    /// # Errors
    /// If a parameter is missing or too small, or the graph combines operations in a way that has
    /// no fused form (the message says which).
    pub fn new(graph: &Graph, parameters: &Parameters) -> Result<Self> {
        let mut lowering = Lowering {
            graph,
            parameters,
            consumers: graph.consumers(),
            views: Vec::with_capacity(graph.nodes.len()),
            channels: stored_channels(graph),
            plan: Self {
                tensors: Vec::new(),
                norms: Vec::new(),
                steps: Vec::new(),
                output: 0,
                graph_id: graph_id(graph),
            },
        };
        for index in 0..graph.nodes.len() {
            let view = lowering.lower(index)?;
            lowering.views.push(view);
        }
        let output = *lowering.views.last().ok_or_else(|| NnError::Unsupported {
            path: String::new(),
            reason: "the graph has no nodes".into(),
        })?;
        let output = lowering.stored(output);
        let mut plan = lowering.plan;
        plan.output = output;
        plan.tensors[output].last_use = usize::MAX;
        plan.tensors[output].uses += 1;
        plan.mark_expansions();
        Ok(plan)
    }

    /// The wide tensors inside inverted residuals and at the end of bottlenecks: a 1×1 convolution
    /// makes them from a narrow one, which is little work.
    fn mark_expansions(&mut self) {
        /// Times that an expansion is larger than what it is made from, at least.
        const LARGER: usize = 2;
        for (index, step) in self.steps.iter().enumerate() {
            if let Step::Convolution {
                source,
                window,
                out,
                ..
            } = step
                && window.kernel == 1
                && *out != self.output
                && self.tensors[source.tensor].expansion_by.is_none()
                && self.tensors[*out].shape.len()
                    >= LARGER * self.tensors[source.tensor].shape.len()
            {
                self.tensors[*out].expansion_by = Some(index);
            }
        }
    }

    /// Shape of one input image.
    pub fn input_shape(&self) -> FeatureShape {
        self.tensors[0].shape
    }

    /// Shape of one output.
    pub fn output_shape(&self) -> FeatureShape {
        self.tensors[self.output].shape
    }

    /// The address of each dropout within a step ([`DropoutDraws::mask`](crate::DropoutDraws::mask)),
    /// in the order of the graph.
    pub fn dropout_sites(&self) -> Vec<usize> {
        let steps = self.steps.iter().enumerate();
        steps
            .filter(|(_, step)| matches!(step, Step::Dropout { .. }))
            .map(|(index, _)| index)
            .collect()
    }

    /// Whether a weight's gradient is, image by image, the outer product of two vectors: linear
    /// layers and activations only, each weight read once.
    pub fn separates_images(&self) -> bool {
        let mut weights = Vec::new();
        self.norms.is_empty()
            && self.steps.iter().all(|step| match step {
                Step::Convolution {
                    window,
                    weight,
                    gather: None,
                    out,
                    ..
                } => {
                    let is_first = !weights.contains(weight);
                    weights.push(*weight);
                    let shape = self.tensors[*out].shape;
                    is_first && (window.kernel, shape.height, shape.width) == (1, 1, 1)
                }
                Step::Activate { .. } => true,
                _ => false,
            })
    }

    /// A short content hash of the graph: calibrations carry it.
    pub fn graph_id(&self) -> &str {
        &self.graph_id
    }
}

/// A short content hash of a graph.
pub(crate) fn graph_id(graph: &Graph) -> String {
    blake3::hash(format!("{graph:?}").as_bytes()).to_hex()[..16].to_owned()
}

struct Lowering<'a> {
    graph: &'a Graph,
    parameters: &'a Parameters,
    consumers: Vec<Vec<usize>>,
    views: Vec<View>,
    /// Which of the stored channels each node has.
    channels: Vec<Channels>,
    plan: Plan,
}

impl Lowering<'_> {
    /// Two views that the next step reads to make a node's tensor, without gates, and that tensor.
    fn read_both(&mut self, node: &GraphNode, left: View, right: View) -> (View, View, usize) {
        let left = self.without_gate(left);
        let right = self.without_gate(right);
        let out = self.new_tensor(node.shape);
        let step = self.plan.steps.len();
        self.read(left, step);
        self.read(right, step);
        (left, right, out)
    }

    /// Which of `stored` channels `node` reads from its first input, if not the first ones.
    fn gather(&self, node: &GraphNode, stored: usize) -> Option<Channels> {
        let channels = self.channels[node.inputs[0]].within(stored);
        (!channels.are_first()).then_some(channels)
    }

    /// Which part of a stored weight `node` reads, if not the whole kernel and the first channels.
    fn weight_part(
        &self,
        node: &GraphNode,
        stored_channels: usize,
        stored_kernel: usize,
        kernel: usize,
    ) -> Option<WeightPart> {
        let gather = self.gather(node, stored_channels);
        (gather.is_some() || kernel < stored_kernel).then(|| WeightPart {
            channels: gather
                .unwrap_or_else(|| Channels::first(self.shape_of(node.inputs[0]).channels)),
            stored_kernel,
            kernel,
        })
    }

    fn lower(&mut self, index: usize) -> Result<View> {
        let node = &self.graph.nodes[index];
        let source = node.inputs.first().map(|&input| self.views[input]);
        let source = match (source, &node.op) {
            (_, Op::Input) => {
                return Ok(View::stored(self.new_tensor(node.shape)));
            }
            (Some(source), _) => source,
            (None, _) => return Err(self.unsupported(node, "it has no input")),
        };
        let step = self.plan.steps.len();
        match &node.op {
            Op::Input => unreachable!("handled above"),
            Op::Convolution {
                out_channels,
                kernel,
                stride,
                bias,
            } => {
                let in_channels = self.shape_of(node.inputs[0]).channels;
                let weight = self.parameter(node, "weight")?;
                let shape = self.parameters.at(weight).shape.clone();
                let fits = shape.len() == 4
                    && shape[1] == shape[2]
                    && shape[1] >= *kernel
                    && shape[0] >= *out_channels
                    && (shape[3] == in_channels || shape[3] >= self.channels[node.inputs[0]].end());
                if !fits {
                    return Err(self.too_small(
                        weight,
                        format!(
                            "[≥{out_channels}, ≥{kernel}, ≥{kernel}, ≥{in_channels}] is needed"
                        ),
                    ));
                }
                let gather = self.weight_part(node, shape[3], shape[1], *kernel);
                let bias = self.optional_vector(node, "bias", *bias, *out_channels)?;
                let out = self.new_tensor(node.shape);
                self.read(source, step);
                self.plan.steps.push(Step::Convolution {
                    source,
                    window: Window {
                        kernel: *kernel,
                        stride: *stride,
                    },
                    weight,
                    out_stride: shape[1] * shape[2] * shape[3],
                    in_stride: shape[3],
                    gather,
                    bias,
                    out,
                });
                Ok(View::stored(out))
            }
            Op::Linear { out_features, bias } => {
                let shape = self.shape_of(node.inputs[0]);
                let weight = self.parameter(node, "weight")?;
                let stored = self.parameters.at(weight).shape.clone();
                let (outputs, height, width, channels) = match stored[..] {
                    [outputs, channels] => (outputs, 1, 1, channels),
                    [outputs, height, width, channels] => (outputs, height, width, channels),
                    _ => (0, 0, 0, 0),
                };
                let arriving = &self.channels[node.inputs[0]];
                let fits = outputs >= *out_features
                    && height >= shape.height
                    && width >= shape.width
                    && (channels == shape.channels || channels >= arriving.end());
                if !fits {
                    return Err(self.too_small(
                        weight,
                        format!("≥{:?} is needed", shape.linear_weight(*out_features)),
                    ));
                }
                let columns = arriving.within(channels).of_pixels(
                    (shape.height, shape.width),
                    width,
                    channels,
                );
                let gather = (!columns.are_first()).then_some(WeightPart {
                    channels: columns,
                    stored_kernel: 1,
                    kernel: 1,
                });
                let bias = self.optional_vector(node, "bias", *bias, *out_features)?;
                let source = match (shape.height, shape.width) {
                    (1, 1) => source,
                    _ => View::stored(self.flattened(source)),
                };
                let step = self.plan.steps.len();
                let out = self.new_tensor(node.shape);
                self.read(source, step);
                self.plan.steps.push(Step::Convolution {
                    source,
                    window: Window {
                        kernel: 1,
                        stride: 1,
                    },
                    weight,
                    out_stride: height * width * channels,
                    in_stride: height * width * channels,
                    gather,
                    bias,
                    out,
                });
                Ok(View::stored(out))
            }
            Op::Depthwise { kernel, stride, .. } => {
                let weight = self.parameter(node, "weight")?;
                let shape = self.parameters.at(weight).shape.clone();
                let channels = node.shape.channels;
                let places = &self.channels[node.inputs[0]];
                let fits = shape.len() == 3
                    && shape[0] == shape[1]
                    && shape[0] >= *kernel
                    && (shape[2] == channels || shape[2] >= places.end());
                if !fits {
                    return Err(self.too_small(
                        weight,
                        format!("[≥{kernel}, ≥{kernel}, ≥{channels}] is needed"),
                    ));
                }
                let places = places.within(shape[2]);
                let links = self
                    .parameters
                    .kernel_links(&node.path, shape[0], *kernel)?;
                let out = self.new_tensor(node.shape);
                self.read(source, step);
                self.plan.steps.push(Step::Depthwise {
                    source,
                    window: Window {
                        kernel: *kernel,
                        stride: *stride,
                    },
                    weight,
                    stored_kernel: shape[0],
                    stored_channels: shape[2],
                    channels: places,
                    links,
                    out,
                });
                Ok(View::stored(out))
            }
            Op::BatchNorm { epsilon } => {
                let input = node.inputs[0];
                let follows_convolution = matches!(
                    self.graph.nodes[input].op,
                    Op::Convolution { .. } | Op::Depthwise { .. } | Op::Linear { .. }
                );
                // Statistics are taken while a tensor is stored. A tensor that others read too, or
                // that is no raw output of a convolution, is stored once more for that.
                let source = match follows_convolution && self.is_sole_consumer(input) {
                    true => source,
                    false => View::stored(self.copied(source)),
                };
                let channels = node.shape.channels;
                let scale = self.vector(node, "weight", channels)?;
                let shift = self.vector(node, "bias", channels)?;
                let stored = self.parameters.at(scale).shape[0];
                let gather = self.gather(node, stored);
                if let Some(gather) = &gather
                    && (stored < gather.end() || self.parameters.at(shift).shape[0] != stored)
                {
                    return Err(self.too_small(scale, format!("[≥{}] is needed", gather.end())));
                }
                self.plan.norms.push(NormInfo {
                    path: node.path.clone(),
                    channels,
                    gather,
                    epsilon: *epsilon,
                    scale,
                    shift,
                });
                Ok(self.extend(View {
                    norm: Some(self.plan.norms.len() - 1),
                    ..source
                }))
            }
            Op::Activation(activation) => {
                let is_lazy = source.activation == Activation::Identity
                    && source.gate.is_none()
                    && source.tensor != 0
                    && self.is_sole_consumer(node.inputs[0]);
                let source = if is_lazy {
                    source
                } else {
                    View::stored(self.copied(source))
                };
                Ok(self.extend(View {
                    activation: *activation,
                    ..source
                }))
            }
            Op::GlobalAveragePool => {
                if source.gate.is_some() {
                    // The gated value is stored, so that the pool has a tensor of its own to read.
                    let stored = self.stored(source);
                    return Ok(self.pool(View::stored(stored), node));
                }
                Ok(self.pool(source, node))
            }
            Op::Add => {
                let right = self.second(node)?;
                let (left, right, out) = self.read_both(node, source, right);
                self.plan.steps.push(Step::Add { left, right, out });
                Ok(View::stored(out))
            }
            Op::Concat { .. } => {
                let right = self.second(node)?;
                let (left, right, out) = self.read_both(node, source, right);
                self.plan.steps.push(Step::Concat { left, right, out });
                Ok(View::stored(out))
            }
            Op::Multiply => {
                let gate = self.second(node)?;
                let feature = node.inputs[0];
                let is_pooled_once = self.consumers[feature].len() == 2
                    && self.consumers[feature].iter().all(|&consumer| {
                        consumer == index
                            || (consumer < index
                                && self.graph.nodes[consumer].op == Op::GlobalAveragePool)
                    });
                if !is_pooled_once || source.gate.is_some() || source.tensor == 0 {
                    let (feature, factor, out) = self.read_both(node, source, gate);
                    self.plan.steps.push(Step::Scale {
                        feature,
                        factor,
                        out,
                    });
                    // What follows is applied to a copy, so that its own step is a product only.
                    return Ok(View::stored(self.copied(View::stored(out))));
                }
                let gate = self.stored(gate);
                self.plan.steps.push(Step::Gate {
                    feature: source,
                    gate,
                });
                Ok(self.extend(View {
                    gate: Some(gate),
                    ..source
                }))
            }
            Op::Dropout { rate } => {
                let out = self.new_tensor(node.shape);
                let source = self.without_gate(source);
                let step = self.plan.steps.len();
                self.read(source, step);
                self.plan.steps.push(Step::Dropout {
                    source,
                    rate: *rate,
                    out,
                });
                Ok(View::stored(out))
            }
            Op::AveragePool {
                kernel,
                stride,
                padding,
                ceil,
            } => {
                let window = PoolWindow {
                    kernel: *kernel,
                    stride: *stride,
                    padding: *padding,
                    ceil: *ceil,
                };
                Ok(self.window_pool(source, PoolKind::Average, window, node))
            }
            Op::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                let window = PoolWindow {
                    kernel: *kernel,
                    stride: *stride,
                    padding: *padding,
                    ceil: false,
                };
                Ok(self.window_pool(source, PoolKind::Max, window, node))
            }
        }
    }

    fn pool(&mut self, source: View, node: &GraphNode) -> View {
        let out = self.new_tensor(node.shape);
        let step = self.plan.steps.len();
        self.read(source, step);
        self.plan
            .steps
            .push(Step::GlobalAveragePool { source, out });
        View::stored(out)
    }

    fn window_pool(
        &mut self,
        source: View,
        kind: PoolKind,
        window: PoolWindow,
        node: &GraphNode,
    ) -> View {
        let source = self.without_gate(source);
        let out = self.new_tensor(node.shape);
        let step = self.plan.steps.len();
        self.read(source, step);
        self.plan.steps.push(Step::Pool {
            source,
            kind,
            window,
            out,
        });
        View::stored(out)
    }

    fn shape_of(&self, node: usize) -> FeatureShape {
        self.graph.nodes[node].shape
    }

    fn is_sole_consumer(&self, node: usize) -> bool {
        self.consumers[node].len() == 1
    }

    fn second(&self, node: &GraphNode) -> Result<View> {
        match node.inputs.get(1) {
            Some(&input) => Ok(self.views[input]),
            None => Err(self.unsupported(node, "it has one input instead of two")),
        }
    }

    fn new_tensor(&mut self, shape: FeatureShape) -> usize {
        let tensor = self.plan.tensors.len();
        self.plan.tensors.push(TensorInfo {
            shape,
            view: View::stored(tensor),
            uses: 0,
            last_use: 0,
            expansion_by: None,
        });
        tensor
    }

    fn extend(&mut self, view: View) -> View {
        self.plan.tensors[view.tensor].view = view;
        view
    }

    fn read(&mut self, view: View, step: usize) {
        for tensor in [Some(view.tensor), view.gate].into_iter().flatten() {
            self.plan.tensors[tensor].last_use = step;
        }
        self.plan.tensors[view.tensor].uses += 1;
    }

    /// The stored tensor that holds the value of `view`.
    fn stored(&mut self, view: View) -> usize {
        if view.is_plain() {
            view.tensor
        } else {
            self.copied(view)
        }
    }

    /// A new stored tensor with the value of `view`.
    fn copied(&mut self, view: View) -> usize {
        self.copied_as(view, self.plan.tensors[view.tensor].shape)
    }

    /// A new stored tensor of one pixel with all values of `view`.
    fn flattened(&mut self, view: View) -> usize {
        let channels = self.plan.tensors[view.tensor].shape.len();
        let pixel = FeatureShape {
            height: 1,
            width: 1,
            channels,
        };
        self.copied_as(view, pixel)
    }

    fn copied_as(&mut self, view: View, shape: FeatureShape) -> usize {
        let out = self.new_tensor(shape);
        let step = self.plan.steps.len();
        self.read(view, step);
        self.plan.steps.push(Step::Activate { source: view, out });
        out
    }

    fn without_gate(&mut self, view: View) -> View {
        if view.gate.is_some() {
            View::stored(self.stored(view))
        } else {
            view
        }
    }

    fn parameter(&self, node: &GraphNode, role: &str) -> Result<usize> {
        let name = format!("{}.{role}", node.path);
        self.parameters
            .position(&name)
            .ok_or(NnError::MissingParameter { name })
    }

    fn vector(&self, node: &GraphNode, role: &str, length: usize) -> Result<usize> {
        let position = self.parameter(node, role)?;
        let shape = &self.parameters.at(position).shape;
        if shape.len() != 1 || shape[0] < length {
            return Err(self.too_small(position, format!("[≥{length}] is needed")));
        }
        Ok(position)
    }

    fn optional_vector(
        &self,
        node: &GraphNode,
        role: &str,
        is_there: bool,
        length: usize,
    ) -> Result<Option<usize>> {
        is_there
            .then(|| self.vector(node, role, length))
            .transpose()
    }

    fn unsupported(&self, node: &GraphNode, reason: &str) -> NnError {
        NnError::Unsupported {
            path: node.path.clone(),
            reason: reason.to_owned(),
        }
    }

    fn too_small(&self, position: usize, needed: String) -> NnError {
        let parameter = self.parameters.at(position);
        NnError::ParameterShape {
            name: parameter.name.clone(),
            found: parameter.shape.clone(),
            needed,
        }
    }
}

/// Which of a supernet's stored channels each node of `graph` has. A sum or product has those of its
/// first input: where the second one's lie in other places, channels meet in the order in which they stand.
pub fn stored_channels(graph: &Graph) -> Vec<Channels> {
    let mut all: Vec<Channels> = Vec::with_capacity(graph.nodes.len());
    for node in &graph.nodes {
        let of = |input: usize| &all[node.inputs[input]];
        all.push(match node.op {
            Op::Input | Op::Convolution { .. } | Op::Linear { .. } => {
                Channels::first(node.shape.channels)
            }
            Op::Concat { offset } => of(0).followed_by(of(1), offset),
            _ => of(0).clone(),
        });
    }
    all
}

impl Parameters {
    /// The chain of kernel sizes from the `stored` one of the depthwise convolution at `path` down
    /// to `kernel`, with its matrices; empty if they are equal.
    ///
    /// # Errors
    /// If a kernel of the chain has no centre of the next one's size.
    pub fn kernel_links(
        &self,
        path: &str,
        stored: usize,
        kernel: usize,
    ) -> Result<Vec<KernelLink>> {
        let mut links = Vec::new();
        let mut from = stored;
        while from > kernel {
            let next = (kernel..from).rev().find_map(|to| {
                let transform = self.position(&transform_name(path, from, to))?;
                Some((to, transform))
            });
            let (to, transform) = match next {
                Some((to, transform)) => (to, Some(transform)),
                None => (kernel, None),
            };
            if !(from - to).is_multiple_of(2) {
                return Err(NnError::Unsupported {
                    path: path.to_owned(),
                    reason: format!("a {to}×{to} kernel has no centre in a {from}×{from} one"),
                });
            }
            links.push(KernelLink {
                kernel: to,
                transform,
            });
            from = to;
        }
        Ok(links)
    }
}

/// Name of the matrix that makes a `to`×`to` kernel from a `from`×`from` one.
pub(crate) fn transform_name(path: &str, from: usize, to: usize) -> String {
    format!("{path}.transform_{from}_{to}")
}
