//! One network as operations and shapes. Data, without weights.

use serde::{Deserialize, Serialize};

use crate::error::{Result, SpaceError};
use crate::program::LARGEST_SIZE;

/// Shape of one image's features, channels-last.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct FeatureShape {
    /// Rows of pixels.
    pub height: usize,
    /// Pixels in a row.
    pub width: usize,
    /// Values of a pixel.
    pub channels: usize,
}

impl FeatureShape {
    /// Values in all.
    pub fn len(&self) -> usize {
        self.height * self.width * self.channels
    }

    /// Shape of the weight of a linear layer that reads it: `[out, channels]`, or on several pixels
    /// `[out, height, width, channels]`.
    pub fn linear_weight(&self, out_features: usize) -> Vec<usize> {
        match (self.height, self.width) {
            (1, 1) => vec![out_features, self.channels],
            (height, width) => vec![out_features, height, width, self.channels],
        }
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl std::fmt::Display for FeatureShape {
    fn fmt(&self, formatter: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(
            formatter,
            "{}×{}×{}",
            self.height, self.width, self.channels
        )
    }
}

/// A nonlinearity.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// x
    Identity,
    /// max(x, 0)
    Relu,
    /// min(max(x, 0), 6)
    Relu6,
    /// x · relu6(x + 3) / 6
    HardSwish,
    /// relu6(x + 3) / 6
    HardSigmoid,
}

impl Activation {
    /// The activations and their names in a space's text.
    pub const ALL: [(&'static str, Activation); 5] = [
        ("identity", Self::Identity),
        ("relu", Self::Relu),
        ("relu6", Self::Relu6),
        ("hard_swish", Self::HardSwish),
        ("hard_sigmoid", Self::HardSigmoid),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .iter()
            .find(|(_, other)| *other == self)
            .map_or("identity", |(name, _)| name)
    }

    pub(crate) fn by_name(name: &str) -> Option<Self> {
        Self::ALL
            .iter()
            .find(|(other, _)| *other == name)
            .map(|(_, activation)| *activation)
    }
}

/// An operation.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Op {
    /// The image.
    Input,
    /// Dense convolution, padding `kernel / 2`.
    Convolution {
        /// Output channels.
        out_channels: usize,
        /// Pixels on a side.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// Depthwise convolution, padding `kernel / 2`, no bias.
    Depthwise {
        /// Pixels on a side.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Whether a supernet makes smaller kernels from larger ones through learnt matrices.
        transform: bool,
    },
    /// Batch normalisation.
    BatchNorm {
        /// Added to the variance.
        epsilon: f32,
    },
    /// A nonlinearity.
    Activation(Activation),
    /// Mean over all pixels.
    GlobalAveragePool,
    /// Mean over windows; padding does not count.
    AveragePool {
        /// Pixels on a side.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Pixels around the image.
        padding: usize,
        /// Whether a last, partial window counts.
        ceil: bool,
    },
    /// Maximum over windows.
    MaxPool {
        /// Pixels on a side.
        kernel: usize,
        /// Step between outputs.
        stride: usize,
        /// Pixels around the image.
        padding: usize,
    },
    /// Zeros at random in training, nothing otherwise.
    Dropout {
        /// Probability of a zero.
        rate: f32,
    },
    /// All features times a matrix.
    Linear {
        /// Output features.
        out_features: usize,
        /// Whether it has a bias.
        bias: bool,
    },
    /// Sum of two inputs of one shape.
    Add,
    /// The channels of the first input, then those of the second.
    Concat {
        /// Where the second input's channels begin in the widest network of the space: a
        /// supernet's weights leave the room between.
        offset: usize,
    },
    /// The first input times the second, a gate of 1×1 pixels.
    Multiply,
}

impl Op {
    /// Its sizes, strides and paddings.
    fn numbers(&self) -> [usize; 3] {
        match *self {
            Self::Convolution {
                out_channels,
                kernel,
                stride,
                ..
            } => [out_channels, kernel, stride],
            Self::Depthwise { kernel, stride, .. } => [kernel, stride, 0],
            Self::AveragePool {
                kernel,
                stride,
                padding,
                ..
            }
            | Self::MaxPool {
                kernel,
                stride,
                padding,
            } => [kernel, stride, padding],
            Self::Linear { out_features, .. } => [out_features, 0, 0],
            Self::Concat { offset } => [offset, 0, 0],
            _ => [0; 3],
        }
    }
}

/// An operation with its inputs.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct GraphNode {
    /// Where it is in the space: `unit2[0].expand.conv`.
    pub path: String,
    /// What it does.
    pub op: Op,
    /// Nodes it reads, all before it.
    pub inputs: Vec<usize>,
    /// Shape of its output.
    pub shape: FeatureShape,
}

/// A network: nodes in an order in which they can run. The first is the input, the last the
/// output.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Graph {
    /// The nodes.
    pub nodes: Vec<GraphNode>,
}

/// A weight that a graph needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParameterSpec {
    /// `<path>.weight` or `<path>.bias`; a batch-norm's weight is its scale, its bias its shift.
    pub name: String,
    /// Convolution `[out, k, k, in]`, depthwise `[k, k, channels]`, linear `[out, in]`, or on a map of
    /// several pixels `[out, height, width, in]`, vectors `[n]`.
    pub shape: Vec<usize>,
}

impl Graph {
    /// Shape of the image.
    pub fn input_shape(&self) -> FeatureShape {
        self.nodes.first().map_or(EMPTY, |node| node.shape)
    }

    /// Shape of the output.
    pub fn output_shape(&self) -> FeatureShape {
        self.nodes.last().map_or(EMPTY, |node| node.shape)
    }

    /// For each node, the nodes that read it.
    pub fn consumers(&self) -> Vec<Vec<usize>> {
        let mut consumers = vec![Vec::new(); self.nodes.len()];
        for (index, node) in self.nodes.iter().enumerate() {
            for &input in &node.inputs {
                consumers[input].push(index);
            }
        }
        consumers
    }

    /// A content hash of what the network computes: paths, the order of nodes and of the sides of
    /// an addition, identities and the room that a supernet leaves do not count. Networks of equal
    /// structure have equal hashes, whatever decisions led to them.
    pub fn structure_id(&self) -> String {
        let mut hashes: Vec<blake3::Hash> = Vec::with_capacity(self.nodes.len());
        let mut operations = 0u64;
        for node in &self.nodes {
            if node.op == Op::Activation(Activation::Identity) {
                hashes.push(hashes[node.inputs[0]]);
                continue;
            }
            operations += 1;
            let mut inputs: Vec<[u8; 32]> = node
                .inputs
                .iter()
                .map(|&input| *hashes[input].as_bytes())
                .collect();
            let op = match node.op {
                Op::Concat { .. } => Op::Concat { offset: 0 },
                // A supernet's way to make small kernels is not part of a network.
                Op::Depthwise { kernel, stride, .. } => Op::Depthwise {
                    kernel,
                    stride,
                    transform: false,
                },
                op => op,
            };
            if op == Op::Add {
                inputs.sort_unstable();
            }
            let mut hasher = blake3::Hasher::new();
            hasher.update(format!("{op:?} {}", node.shape).as_bytes());
            inputs.iter().for_each(|input| {
                hasher.update(input);
            });
            hashes.push(hasher.finalize());
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&operations.to_le_bytes());
        if let Some(last) = hashes.last() {
            hasher.update(last.as_bytes());
        }
        hasher.finalize().to_hex()[..16].to_owned()
    }

    /// Shape of a node's first input.
    pub(crate) fn source_shape(&self, node: &GraphNode) -> FeatureShape {
        node.inputs
            .first()
            .map_or(EMPTY, |&input| self.nodes[input].shape)
    }

    /// The weights it needs, in order.
    pub fn parameter_specs(&self) -> Vec<ParameterSpec> {
        let mut specs = Vec::new();
        for node in &self.nodes {
            let mut add = |role: &str, shape: Vec<usize>| {
                specs.push(ParameterSpec {
                    name: format!("{}.{role}", node.path),
                    shape,
                });
            };
            let source = self.source_shape(node);
            match node.op {
                Op::Convolution {
                    out_channels,
                    kernel,
                    bias,
                    ..
                } => {
                    add(
                        "weight",
                        vec![out_channels, kernel, kernel, source.channels],
                    );
                    if bias {
                        add("bias", vec![out_channels]);
                    }
                }
                Op::Depthwise { kernel, .. } => {
                    add("weight", vec![kernel, kernel, source.channels])
                }
                Op::BatchNorm { .. } => {
                    add("weight", vec![source.channels]);
                    add("bias", vec![source.channels]);
                }
                Op::Linear { out_features, bias } => {
                    add("weight", source.linear_weight(out_features));
                    if bias {
                        add("bias", vec![out_features]);
                    }
                }
                _ => {}
            }
        }
        specs
    }

    /// Checks a graph that comes from outside: order of the nodes, number of inputs, shapes. The
    /// other functions of a graph rely on it.
    ///
    /// # Errors
    /// Naming the first node that is wrong.
    pub fn validate(&self) -> Result<()> {
        let mut paths = std::collections::HashSet::new();
        for (index, node) in self.nodes.iter().enumerate() {
            let fails = |message: String| {
                Err(SpaceError::Graph {
                    path: node.path.clone(),
                    message,
                })
            };
            if !paths.insert(&node.path) {
                return fails("the path is used twice".into());
            }
            if (index == 0) != (node.op == Op::Input) {
                return fails("the first node, and no other, is the input".into());
            }
            if let Some(input) = node.inputs.iter().find(|&&input| input >= index) {
                return fails(format!(
                    "it reads node {input}, which does not come before it"
                ));
            }
            let inputs: Vec<FeatureShape> = node
                .inputs
                .iter()
                .map(|&input| self.nodes[input].shape)
                .collect();
            if index == 0 {
                let FeatureShape {
                    height,
                    width,
                    channels,
                } = node.shape;
                let is_size = |extent| (1..=LARGEST_SIZE as usize).contains(&extent);
                if ![height, width, channels].into_iter().all(is_size) || !node.inputs.is_empty() {
                    return fails(format!(
                        "an input reads nothing and has from 1 to {LARGEST_SIZE} rows, columns and channels, this one has {}",
                        node.shape
                    ));
                }
                continue;
            }
            match output_shape(&node.op, &inputs) {
                Ok(shape) if shape == node.shape => {}
                Ok(shape) => {
                    return fails(format!("its shape is {} instead of {shape}", node.shape));
                }
                Err(message) => return fails(message),
            }
        }
        match self.nodes.is_empty() {
            true => Err(SpaceError::Illegal("the graph has no nodes".into())),
            false => Ok(()),
        }
    }
}

const EMPTY: FeatureShape = FeatureShape {
    height: 0,
    width: 0,
    channels: 0,
};

/// Values of one tensor, beyond which a network is taken for a mistake.
const MOST_VALUES: usize = 1 << 40;

/// The shape that an operation makes of its inputs.
///
/// # Errors
/// What the shapes or the operation's numbers are, and what they would have to be.
pub(crate) fn output_shape(
    op: &Op,
    inputs: &[FeatureShape],
) -> std::result::Result<FeatureShape, String> {
    if let Some(number) = op
        .numbers()
        .into_iter()
        .find(|&number| number > LARGEST_SIZE as usize)
    {
        return Err(format!(
            "{number} is above {LARGEST_SIZE}, the largest size of anything"
        ));
    }
    let shape = shape_of_output(op, inputs)?;
    match shape.len() {
        0 => Err(format!("its output of {shape} holds nothing")),
        MOST_VALUES.. => Err(format!("its output of {shape} is too large")),
        _ => Ok(shape),
    }
}

fn shape_of_output(op: &Op, inputs: &[FeatureShape]) -> std::result::Result<FeatureShape, String> {
    let wanted = match op {
        Op::Input => 0,
        Op::Add | Op::Multiply | Op::Concat { .. } => 2,
        _ => 1,
    };
    if inputs.len() != wanted {
        return Err(format!(
            "it has {} inputs instead of {wanted}",
            inputs.len()
        ));
    }
    let Some(&source) = inputs.first() else {
        return Err("it reads nothing".into());
    };
    let strided = |channels: usize, kernel: usize, stride: usize| {
        if kernel.is_multiple_of(2) || stride == 0 {
            return Err(format!(
                "a convolution has an odd kernel and a stride, this one has kernel {kernel}, stride {stride}"
            ));
        }
        Ok(FeatureShape {
            height: (source.height - 1) / stride + 1,
            width: (source.width - 1) / stride + 1,
            channels,
        })
    };
    let pooled = |kernel: usize, stride: usize, padding: usize, ceil: bool| {
        let along = |size: usize| {
            if kernel == 0 || stride == 0 || size + 2 * padding < kernel || 2 * padding > kernel {
                return Err(format!(
                    "a pool of kernel {kernel}, stride {stride}, padding {padding} does not fit into {source}: its kernel is at most the image with its padding, the padding at most half the kernel"
                ));
            }
            let room = size + 2 * padding - kernel;
            let outputs = if ceil {
                room.div_ceil(stride)
            } else {
                room / stride
            } + 1;
            // The last window must begin inside the image or its leading padding.
            Ok(if (outputs - 1) * stride >= size + padding {
                outputs - 1
            } else {
                outputs
            })
        };
        Ok(FeatureShape {
            height: along(source.height)?,
            width: along(source.width)?,
            ..source
        })
    };
    match *op {
        Op::Input | Op::BatchNorm { .. } | Op::Activation(_) | Op::Dropout { .. } => Ok(source),
        Op::Convolution {
            out_channels,
            kernel,
            stride,
            ..
        } => strided(out_channels, kernel, stride),
        Op::Depthwise { kernel, stride, .. } => strided(source.channels, kernel, stride),
        Op::GlobalAveragePool => Ok(FeatureShape {
            height: 1,
            width: 1,
            ..source
        }),
        Op::AveragePool {
            kernel,
            stride,
            padding,
            ceil,
        } => pooled(kernel, stride, padding, ceil),
        Op::MaxPool {
            kernel,
            stride,
            padding,
        } => pooled(kernel, stride, padding, false),
        Op::Linear { out_features, .. } => Ok(FeatureShape {
            height: 1,
            width: 1,
            channels: out_features,
        }),
        Op::Add if inputs[1] == source => Ok(source),
        Op::Add => Err(format!(
            "{source} and {} cannot be added: both need one shape",
            inputs[1]
        )),
        Op::Concat { offset } => {
            let right = inputs[1];
            if (right.height, right.width) != (source.height, source.width) {
                return Err(format!(
                    "{source} and {right} cannot be concatenated: both need one height and width"
                ));
            }
            if offset < source.channels {
                return Err(format!(
                    "the second input begins at channel {offset}, inside the first, which has {}",
                    source.channels
                ));
            }
            Ok(FeatureShape {
                channels: source.channels + right.channels,
                ..source
            })
        }
        Op::Multiply => {
            let gate = FeatureShape {
                height: 1,
                width: 1,
                ..source
            };
            if inputs[1] == gate {
                Ok(source)
            } else {
                Err(format!(
                    "a gate of {source} needs {gate}, this one is {}",
                    inputs[1]
                ))
            }
        }
    }
}
