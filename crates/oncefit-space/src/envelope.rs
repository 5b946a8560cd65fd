//! The envelope of a space: every operation of any member, as large as the largest.

use crate::graph::Op;
use crate::walk::Walked;

/// What a supernet must store: all branches and all copies of every repeat, one after the other.
///
/// Where members differ in which operations they have, the outputs of the alternatives meet in an
/// `Add` whose path ends in `join`: they are the same channels. Such nodes are in no member.
#[derive(Clone, PartialEq, Debug)]
pub struct Envelope {
    /// The operations, in an order in which they can run.
    pub nodes: Vec<EnvelopeNode>,
}

/// An operation of an envelope.
#[derive(Clone, PartialEq, Debug)]
pub struct EnvelopeNode {
    /// Its path.
    pub path: String,
    /// The largest form of it.
    pub op: Op,
    /// Nodes of the envelope that it reads.
    pub inputs: Vec<usize>,
    /// Most input channels; for a linear layer its input features.
    pub in_channels: usize,
    /// Most output channels.
    pub out_channels: usize,
    /// Numbers of input channels that members have.
    pub in_channel_choices: Vec<usize>,
    /// Numbers of output channels that members have.
    pub out_channel_choices: Vec<usize>,
    /// Kernel sizes that members have, rising; empty for operations without an elastic kernel.
    pub kernels: Vec<usize>,
    /// Largest height and width of its output.
    pub spatial: (usize, usize),
}

impl Envelope {
    pub(crate) fn new(walked: &[Walked]) -> Self {
        let node = |node: &Walked| {
            let source = node.inputs.first().map(|&input| &walked[input]);
            let in_channels = match (source, &node.op) {
                (Some(source), Op::Linear { .. }) => source.shape.len(),
                (Some(source), _) => source.shape.channels,
                (None, _) => 0,
            };
            EnvelopeNode {
                path: node.path.clone(),
                op: node.op,
                inputs: node.inputs.clone(),
                in_channels,
                out_channels: node.shape.channels,
                in_channel_choices: source
                    .map(|source| source.channels.clone())
                    .unwrap_or_default(),
                out_channel_choices: node.channels.clone(),
                kernels: node.kernels.clone(),
                spatial: (node.shape.height, node.shape.width),
            }
        };
        Self {
            nodes: walked.iter().map(node).collect(),
        }
    }
}
