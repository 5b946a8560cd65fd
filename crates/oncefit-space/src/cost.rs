//! Exact costs of a graph.

use crate::graph::{FeatureShape, Graph, GraphNode, Op};

impl Graph {
    /// Weights, biases and batch-norm's scales and shifts. Kernel matrices of a supernet are not
    /// part of a network.
    pub fn parameters(&self) -> u64 {
        self.parameter_specs()
            .iter()
            .map(|spec| product(&spec.shape))
            .fold(0, u64::saturating_add)
    }

    /// Multiply-accumulates for one image: convolutions and linear layers only
    /// (what Once-for-All's authors call FLOPs).
    pub fn macs(&self) -> u64 {
        let of_node = |node: &GraphNode| {
            let source = self.source_shape(node);
            let FeatureShape {
                height,
                width,
                channels,
            } = node.shape;
            match node.op {
                Op::Convolution { kernel, .. } => {
                    product(&[height, width, channels, kernel, kernel, source.channels])
                }
                Op::Depthwise { kernel, .. } => product(&[height, width, channels, kernel, kernel]),
                Op::Linear { .. } => product(&[channels, source.len()]),
                _ => 0,
            }
        };
        self.nodes.iter().map(of_node).fold(0, u64::saturating_add)
    }

    /// Bytes of live activations at the worst moment: batch 1, f32, nodes in order, batch-norm
    /// folded into the convolution before it and dropout removed. Every other node owns its
    /// output from when it runs until its last reader has run; the network's output stays.
    pub fn peak_activation_bytes(&self) -> u64 {
        let count = self.nodes.len();
        // A folded node is another name for its input.
        let mut owner: Vec<usize> = (0..count).collect();
        let mut last_use: Vec<usize> = (0..count).collect();
        let mut readers = vec![0; count];
        for &input in self.nodes.iter().flat_map(|node| &node.inputs) {
            readers[input] += 1;
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let is_folded = match node.op {
                Op::Dropout { .. } => true,
                // A batch-norm on a tensor that others read too has an output of its own.
                Op::BatchNorm { .. } => readers[node.inputs[0]] == 1,
                _ => false,
            };
            if is_folded {
                owner[index] = owner[node.inputs[0]];
            }
            for &input in &node.inputs {
                last_use[owner[input]] = index;
            }
        }
        let bytes = |index: usize| 4 * self.nodes[index].shape.len() as u64;
        let owns = |index: &usize| owner[*index] == *index;
        let mut freed_after = vec![0u64; count];
        for tensor in (0..count).filter(owns) {
            if Some(&tensor) != owner.last() {
                freed_after[last_use[tensor]] += bytes(tensor);
            }
        }
        let (mut live, mut peak) = (0u64, 0);
        for (index, freed) in freed_after.into_iter().enumerate() {
            if owns(&index) {
                live += bytes(index);
                peak = peak.max(live);
            }
            live -= freed;
        }
        peak
    }
}

fn product(extents: &[usize]) -> u64 {
    extents.iter().fold(1, |product: u64, &extent| {
        product.saturating_mul(extent as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::Activation;

    #[test]
    fn the_costs_of_a_small_graph_are_those_worked_out_by_hand() {
        let shape = |height, channels| FeatureShape {
            height,
            width: height,
            channels,
        };
        let node = |path: &str, op, inputs: &[usize], shape| GraphNode {
            path: path.into(),
            op,
            inputs: inputs.to_vec(),
            shape,
        };
        let convolution = |out_channels, stride| Op::Convolution {
            out_channels,
            kernel: 3,
            stride,
            bias: false,
        };
        let graph = Graph {
            nodes: vec![
                node("input", Op::Input, &[], shape(4, 1)),
                node("a", convolution(2, 1), &[0], shape(4, 2)),
                node("n", Op::BatchNorm { epsilon: 1e-5 }, &[1], shape(4, 2)),
                node("r", Op::Activation(Activation::Relu), &[2], shape(4, 2)),
                node("b", convolution(2, 1), &[3], shape(4, 2)),
                node("s", Op::Add, &[4, 3], shape(4, 2)),
                node("p", Op::GlobalAveragePool, &[5], shape(1, 2)),
                node(
                    "l",
                    Op::Linear {
                        out_features: 3,
                        bias: true,
                    },
                    &[6],
                    shape(1, 3),
                ),
            ],
        };
        graph.validate().unwrap();
        assert_eq!(graph.macs(), 16 * 2 * 9 + 16 * 2 * 18 + 6);
        assert_eq!(graph.parameters(), 18 + 4 + 36 + 9);
        // While `s` runs: r, b and s, 32 values each.
        assert_eq!(graph.peak_activation_bytes(), 4 * 96);
    }
}
