//! An extracted network as an ONNX file: f32, opset 17, dynamic batch, batch-norm folded.
//!
//! ```text
//! image [batch, C, H, W] ──▶ nodes named after the graph's paths ──▶ logits [batch, classes]
//! ```

use oncefit_nn::{Calibration, ChannelStatistics, Network, Parameter, ParameterKind, Parameters};
use oncefit_space::{Activation, Graph, GraphNode, Op};
use prost::Message;

use crate::error::{ExportError, Result};
use crate::metadata::Metadata;
use crate::onnx::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, attribute_proto, tensor_proto, tensor_shape_proto,
    type_proto,
};

const OPSET: i64 = 17;
const IR_VERSION: i64 = 9;

/// The bytes of the file. Equal networks and metadata give equal bytes.
///
/// # Errors
/// If the network cannot be said in ONNX.
pub fn onnx_bytes(network: &Network, metadata: &Metadata) -> Result<Vec<u8>> {
    Ok(model(network, metadata)?.encode_to_vec())
}

/// The size of the file of a network with this graph, whatever its weights. A batch-norm is counted
/// as calibrated.
///
/// # Errors
/// If the network cannot be said in ONNX.
pub fn file_bytes(graph: &Graph, metadata: &Metadata) -> Result<u64> {
    Ok(model(&blank(graph), metadata)?.encoded_len() as u64)
}

/// What a piece of a network adds to the size of its file. Pieces add up to [`file_bytes`] but for
/// the metadata and a few bytes for each piece, whose input has another name in the whole network.
///
/// # Errors
/// If the piece cannot be said in ONNX.
pub fn piece_bytes(piece: &Graph) -> Result<u64> {
    Ok(Writer::write(&blank(piece))?.graph.encoded_len() as u64)
}

/// A network with this graph whose weights are all 0.
fn blank(graph: &Graph) -> Network {
    let mut parameters = Parameters::default();
    for spec in graph.parameter_specs() {
        parameters.insert(Parameter {
            data: vec![0.0; spec.shape.iter().product()],
            name: spec.name,
            // Sizes do not depend on it.
            kind: ParameterKind::Bias,
            shape: spec.shape,
        });
    }
    let norms = graph
        .nodes
        .iter()
        .filter(|node| matches!(node.op, Op::BatchNorm { .. }));
    let statistics = norms.map(|node| {
        let zeros = vec![0.0; node.shape.channels];
        let found = ChannelStatistics {
            mean: zeros.clone(),
            variance: zeros,
        };
        (node.path.clone(), found)
    });
    Network {
        calibration: Calibration::BatchNorm {
            graph_id: String::new(),
            images: 0,
            statistics: statistics.collect(),
        },
        graph: graph.clone(),
        parameters,
    }
}

fn model(network: &Network, metadata: &Metadata) -> Result<ModelProto> {
    let Writer {
        names, mut graph, ..
    } = Writer::write(network)?;
    let input = network.graph.input_shape();
    let output = network.graph.output_shape();
    graph.name = Some(metadata.space.clone());
    graph.input = vec![value_info(
        INPUT,
        &[
            None,
            Some(input.channels),
            Some(input.height),
            Some(input.width),
        ],
    )];
    // Networks end in a linear layer; probes of single operators may end in a feature map.
    let is_flat = matches!(
        network.graph.nodes.last().map(|node| node.op),
        Some(Op::Linear { .. })
    );
    graph.output = vec![match names.last() {
        Some(name) if !is_flat => value_info(
            name,
            &[
                None,
                Some(output.channels),
                Some(output.height),
                Some(output.width),
            ],
        ),
        _ => value_info(OUTPUT, &[None, Some(output.channels)]),
    }];
    Ok(ModelProto {
        ir_version: Some(IR_VERSION),
        opset_import: vec![OperatorSetIdProto {
            domain: None,
            version: Some(OPSET),
        }],
        producer_name: Some("oncefit".into()),
        producer_version: Some(env!("CARGO_PKG_VERSION").into()),
        graph: Some(graph),
        metadata_props: metadata.properties(),
        ..Default::default()
    })
}

/// Images `n × h × w × c` as the file reads them, `n × c × h × w`.
pub fn to_channels_first(images: &[f32], height: usize, width: usize, channels: usize) -> Vec<f32> {
    let pixels = height * width;
    let mut planes = Vec::with_capacity(images.len());
    for image in images.chunks_exact(pixels * channels) {
        for channel in 0..channels {
            planes.extend((0..pixels).map(|pixel| image[pixel * channels + channel]));
        }
    }
    planes
}

const INPUT: &str = "image";
const OUTPUT: &str = "logits";

struct Writer<'n> {
    network: &'n Network,
    /// Name of each graph node's value in the file.
    names: Vec<String>,
    graph: GraphProto,
}

impl<'n> Writer<'n> {
    fn write(network: &'n Network) -> Result<Self> {
        let mut writer = Self {
            network,
            names: Vec::new(),
            graph: GraphProto::default(),
        };
        for index in 0..network.graph.nodes.len() {
            let name = writer.node(index)?;
            writer.names.push(name);
        }
        Ok(writer)
    }

    /// Writes a node; returns the name of its value.
    fn node(&mut self, index: usize) -> Result<String> {
        let network = self.network;
        let node = &network.graph.nodes[index];
        let inputs: Vec<String> = node
            .inputs
            .iter()
            .map(|&input| self.names[input].clone())
            .collect();
        let is_last = index + 1 == network.graph.nodes.len();
        let path = &node.path;
        match node.op {
            Op::Input => Ok(INPUT.into()),
            Op::Dropout { .. } => Ok(inputs[0].clone()),
            Op::BatchNorm { .. } if self.is_folded(node) => Ok(inputs[0].clone()),
            Op::BatchNorm { epsilon } => self.batch_norm(node, inputs, epsilon),
            Op::Convolution {
                out_channels,
                kernel,
                stride,
                ..
            } => {
                let in_channels = network.graph.nodes[node.inputs[0]].shape.channels;
                let taps = kernel * kernel;
                let stored = self.tensor(node, "weight")?;
                let mut weight = vec![0.0; stored.len()];
                for out in 0..out_channels {
                    for tap in 0..taps {
                        for channel in 0..in_channels {
                            weight[(out * in_channels + channel) * taps + tap] =
                                stored[(out * taps + tap) * in_channels + channel];
                        }
                    }
                }
                let shape = [out_channels, in_channels, kernel, kernel];
                self.convolution(index, inputs, weight, shape, 1, stride)
            }
            Op::Depthwise { kernel, stride, .. } => {
                let channels = node.shape.channels;
                let taps = kernel * kernel;
                let stored = self.tensor(node, "weight")?;
                let weight = (0..channels * taps)
                    .map(|at| stored[at % taps * channels + at / taps])
                    .collect();
                self.convolution(
                    index,
                    inputs,
                    weight,
                    [channels, 1, kernel, kernel],
                    channels,
                    stride,
                )
            }
            Op::Activation(activation) => {
                let (kind, attributes): (&str, Vec<AttributeProto>) = match activation {
                    Activation::Identity => ("Identity", vec![]),
                    Activation::Relu => ("Relu", vec![]),
                    Activation::HardSwish => ("HardSwish", vec![]),
                    Activation::HardSigmoid => (
                        "HardSigmoid",
                        vec![float("alpha", 1.0 / 6.0), float("beta", 0.5)],
                    ),
                    Activation::Relu6 => {
                        let mut inputs = inputs;
                        for (name, value) in [("low", 0.0), ("high", 6.0)] {
                            let name = format!("{path}.{name}");
                            self.initialiser(&name, &[], vec![value]);
                            inputs.push(name);
                        }
                        return Ok(self.push(node, "Clip", inputs, vec![], path));
                    }
                };
                Ok(self.push(node, kind, inputs, attributes, path))
            }
            Op::GlobalAveragePool => Ok(self.push(node, "GlobalAveragePool", inputs, vec![], path)),
            Op::Add => Ok(self.push(node, "Add", inputs, vec![], path)),
            Op::Concat { .. } => {
                Ok(self.push(node, "Concat", inputs, vec![integer("axis", 1)], path))
            }
            Op::Multiply => Ok(self.push(node, "Mul", inputs, vec![], path)),
            Op::Linear { out_features, .. } => {
                let source = network.graph.nodes[node.inputs[0]].shape;
                let flat = self.push(node, "Flatten", inputs, vec![], &format!("{path}.flat"));
                let weight = format!("{path}.weight");
                // A file's map is flattened channel by channel.
                let stored = self.tensor(node, "weight")?.chunks_exact(source.len());
                let shape = (source.height, source.width, source.channels);
                let rows = stored.flat_map(|row| to_channels_first(row, shape.0, shape.1, shape.2));
                let values = rows.collect();
                self.initialiser(&weight, &[out_features, source.len()], values);
                let mut inputs = vec![flat, weight];
                if let Ok(bias) = self.tensor(node, "bias") {
                    let bias = bias.to_vec();
                    let name = format!("{path}.bias");
                    self.initialiser(&name, &[out_features], bias);
                    inputs.push(name);
                }
                let output = if is_last { OUTPUT } else { path.as_str() };
                Ok(self.push(node, "Gemm", inputs, vec![integer("transB", 1)], output))
            }
            Op::AveragePool {
                kernel,
                stride,
                padding,
                ceil,
            } => {
                let mut attributes = window(kernel, stride, padding);
                attributes.push(integer("ceil_mode", i64::from(ceil)));
                attributes.push(integer("count_include_pad", 0));
                Ok(self.push(node, "AveragePool", inputs, attributes, path))
            }
            Op::MaxPool {
                kernel,
                stride,
                padding,
            } => {
                let attributes = window(kernel, stride, padding);
                Ok(self.push(node, "MaxPool", inputs, attributes, path))
            }
        }
    }

    /// Whether a batch-norm becomes part of the convolution before it, which nothing else reads.
    fn is_folded(&self, norm: &GraphNode) -> bool {
        let input = norm.inputs[0];
        let nodes = &self.network.graph.nodes;
        let is_convolution = matches!(
            nodes[input].op,
            Op::Convolution { .. } | Op::Depthwise { .. }
        );
        let readers = nodes.iter().flat_map(|node| &node.inputs);
        is_convolution && readers.filter(|&&read| read == input).count() == 1
    }

    /// Writes a batch-norm that cannot be folded.
    fn batch_norm(
        &mut self,
        node: &GraphNode,
        mut inputs: Vec<String>,
        epsilon: f32,
    ) -> Result<String> {
        let statistics = self
            .network
            .calibration
            .of(&node.path)
            .ok_or_else(|| fails(node, "it has no calibrated statistics"))?;
        let channels = node.shape.channels;
        for (role, values) in [
            ("scale", self.tensor(node, "weight")?.to_vec()),
            ("shift", self.tensor(node, "bias")?.to_vec()),
            ("mean", statistics.mean.clone()),
            ("variance", statistics.variance.clone()),
        ] {
            let name = format!("{}.{role}", node.path);
            self.initialiser(&name, &[channels], values);
            inputs.push(name);
        }
        let attributes = vec![float("epsilon", epsilon)];
        Ok(self.push(node, "BatchNormalization", inputs, attributes, &node.path))
    }

    /// Writes a convolution with the batch-norm that follows it, if one does.
    fn convolution(
        &mut self,
        index: usize,
        mut inputs: Vec<String>,
        mut weight: Vec<f32>,
        shape: [usize; 4],
        groups: usize,
        stride: usize,
    ) -> Result<String> {
        let network = self.network;
        let node = &network.graph.nodes[index];
        let outputs = shape[0];
        let mut bias = self.tensor(node, "bias").ok().map(<[f32]>::to_vec);
        let follower = network.graph.nodes.iter().find(|other| {
            matches!(other.op, Op::BatchNorm { .. })
                && other.inputs.first() == Some(&index)
                && self.is_folded(other)
        });
        if let Some(norm) = follower {
            let Op::BatchNorm { epsilon } = norm.op else {
                unreachable!("found above")
            };
            let statistics = network
                .calibration
                .of(&norm.path)
                .ok_or_else(|| fails(norm, "it has no calibrated statistics"))?;
            let scales = self.tensor(norm, "weight")?;
            let shifts = self.tensor(norm, "bias")?;
            let mut folded = Vec::with_capacity(outputs);
            for (out, row) in weight
                .chunks_exact_mut(shape[1] * shape[2] * shape[3])
                .enumerate()
            {
                let deviation = (f64::from(statistics.variance[out]) + f64::from(epsilon)).sqrt();
                let scale = f64::from(scales[out]) / deviation;
                for value in row {
                    *value = (f64::from(*value) * scale) as f32;
                }
                let start = bias.as_ref().map_or(0.0, |bias| f64::from(bias[out]));
                let mean = f64::from(statistics.mean[out]);
                folded.push((f64::from(shifts[out]) + (start - mean) * scale) as f32);
            }
            bias = Some(folded);
        }
        let path = &node.path;
        let name = format!("{path}.weight");
        self.initialiser(&name, &shape, weight);
        inputs.push(name);
        if let Some(bias) = bias {
            let name = format!("{path}.bias");
            self.initialiser(&name, &[outputs], bias);
            inputs.push(name);
        }
        let kernel = shape[2] as i64;
        let attributes = vec![
            integers("dilations", &[1, 1]),
            integer("group", groups as i64),
            integers("kernel_shape", &[kernel, kernel]),
            integers("pads", &[kernel / 2; 4]),
            integers("strides", &[stride as i64; 2]),
        ];
        Ok(self.push(node, "Conv", inputs, attributes, path))
    }

    fn tensor(&self, node: &GraphNode, role: &str) -> Result<&[f32]> {
        let name = format!("{}.{role}", node.path);
        match self.network.parameters.get(&name) {
            Ok(parameter) => Ok(&parameter.data),
            Err(error) => Err(fails(node, &error.to_string())),
        }
    }

    fn initialiser(&mut self, name: &str, shape: &[usize], values: Vec<f32>) {
        let bytes: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.graph.initializer.push(TensorProto {
            name: Some(name.to_owned()),
            dims: shape.iter().map(|&extent| extent as i64).collect(),
            data_type: Some(tensor_proto::DataType::Float as i32),
            raw_data: Some(bytes.into()),
            ..Default::default()
        });
    }

    fn push(
        &mut self,
        node: &GraphNode,
        kind: &str,
        inputs: Vec<String>,
        attributes: Vec<AttributeProto>,
        output: &str,
    ) -> String {
        self.graph.node.push(NodeProto {
            name: Some(if kind == "Flatten" {
                output.to_owned()
            } else {
                node.path.clone()
            }),
            op_type: Some(kind.to_owned()),
            input: inputs,
            output: vec![output.to_owned()],
            attribute: attributes,
            ..Default::default()
        });
        output.to_owned()
    }
}

fn fails(node: &GraphNode, reason: &str) -> ExportError {
    ExportError::Network {
        path: node.path.clone(),
        reason: reason.to_owned(),
    }
}

fn attribute(name: &str, kind: attribute_proto::AttributeType) -> AttributeProto {
    AttributeProto {
        name: Some(name.to_owned()),
        r#type: Some(kind as i32),
        ..Default::default()
    }
}

fn integer(name: &str, value: i64) -> AttributeProto {
    AttributeProto {
        i: Some(value),
        ..attribute(name, attribute_proto::AttributeType::Int)
    }
}

fn integers(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto {
        ints: values.to_vec(),
        ..attribute(name, attribute_proto::AttributeType::Ints)
    }
}

/// The attributes of a pool's window.
fn window(kernel: usize, stride: usize, padding: usize) -> Vec<AttributeProto> {
    vec![
        integers("kernel_shape", &[kernel as i64; 2]),
        integers("pads", &[padding as i64; 4]),
        integers("strides", &[stride as i64; 2]),
    ]
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto {
        f: Some(value),
        ..attribute(name, attribute_proto::AttributeType::Float)
    }
}

/// A float tensor; `None` is the batch.
fn value_info(name: &str, extents: &[Option<usize>]) -> ValueInfoProto {
    use tensor_shape_proto::{Dimension, dimension};
    let dim = extents
        .iter()
        .map(|extent| Dimension {
            denotation: None,
            value: Some(match extent {
                Some(extent) => dimension::Value::DimValue(*extent as i64),
                None => dimension::Value::DimParam("batch".into()),
            }),
        })
        .collect();
    let tensor = type_proto::Tensor {
        elem_type: Some(tensor_proto::DataType::Float as i32),
        shape: Some(TensorShapeProto { dim }),
    };
    ValueInfoProto {
        name: Some(name.to_owned()),
        r#type: Some(TypeProto {
            denotation: None,
            value: Some(type_proto::Value::TensorType(tensor)),
        }),
        ..Default::default()
    }
}
