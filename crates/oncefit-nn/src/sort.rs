//! Channel sorting: the most important channels first, so that narrow slices start good.
//!
//! Two tensors whose channels are the same channels (through batch-norm, activation, depthwise
//! convolution, addition, gate) form a *group*. Sorting a group permutes the rows of the
//! convolutions that write it, the vectors and depthwise filters that act on it and the columns of
//! the convolutions that read it: the full-width function does not change. The importance of a
//! channel is the L1 norm of the columns that read it (Once-for-All §3.3 of the brief); columns
//! behind a pool, as in squeeze-excite, count only where nothing else reads the group.

use oncefit_space::{Envelope, Op};

use crate::parameters::{Parameter, Parameters};

/// Which channels may change places.
#[derive(Clone, Copy, Debug)]
pub enum Tiers<'a> {
    /// Any.
    Global,
    /// Only channels between two neighbouring widths of this envelope, whose networks are trained
    /// already: they stay intact.
    Between(&'a Envelope),
}

/// A permutation of channels for every tensor that has them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ChannelOrder {
    moves: Vec<Move>,
}

#[derive(Clone, PartialEq, Debug)]
struct Move {
    position: usize,
    axis: usize,
    /// New channel `i` is old channel `order[i]`.
    order: Vec<usize>,
}

impl ChannelOrder {
    /// Permutes tensors that are laid out like the parameters it was made from: the weights, or
    /// an optimiser's momentum.
    pub fn apply(&self, parameters: &mut Parameters) {
        for step in &self.moves {
            permute(parameters.at_mut(step.position), step.axis, &step.order);
        }
    }
}

/// Sorts the channels of every group whose width is elastic, and says how.
pub fn sort_channels(
    parameters: &mut Parameters,
    envelope: &Envelope,
    tiers: Tiers,
) -> ChannelOrder {
    let mut all = ChannelOrder::default();
    for group in groups(envelope) {
        let importance = group.importance(envelope, parameters);
        let mut boundaries = match tiers {
            Tiers::Global => Vec::new(),
            Tiers::Between(trained) => trained
                .nodes
                .iter()
                .find(|node| node.path == envelope.nodes[group.writers[0]].path)
                .map(|node| node.out_channel_choices.clone())
                .unwrap_or_default(),
        };
        boundaries.retain(|&boundary| boundary < importance.len());
        boundaries.push(importance.len());
        let mut order: Vec<usize> = (0..importance.len()).collect();
        let mut start = 0;
        for end in boundaries {
            order[start..end]
                .sort_by(|&left, &right| importance[right].total_cmp(&importance[left]));
            start = end;
        }
        let found = ChannelOrder {
            moves: group.moves(envelope, parameters, &order),
        };
        found.apply(parameters);
        all.moves.extend(found.moves);
    }
    all
}

/// Channels that are the same channels in several nodes of the envelope.
struct Group {
    /// Convolutions and linear layers that make them.
    writers: Vec<usize>,
    /// Batch-norms and depthwise convolutions on them.
    channelwise: Vec<usize>,
    /// Convolutions and linear layers that read them.
    readers: Vec<usize>,
}

impl Group {
    /// Σ|w| over the columns that read each channel.
    fn importance(&self, envelope: &Envelope, parameters: &Parameters) -> Vec<f64> {
        let direct: Vec<usize> = self
            .readers
            .iter()
            .copied()
            .filter(|&reader| !is_behind_a_pool(envelope, reader))
            .collect();
        let readers = if direct.is_empty() {
            &self.readers
        } else {
            &direct
        };
        let mut importance = vec![0.0; envelope.nodes[self.writers[0]].out_channels];
        for &reader in readers {
            let name = format!("{}.weight", envelope.nodes[reader].path);
            let Some(position) = parameters.position(&name) else {
                continue;
            };
            for row in parameters.at(position).data.chunks_exact(importance.len()) {
                for (sum, weight) in importance.iter_mut().zip(row) {
                    *sum += f64::from(weight.abs());
                }
            }
        }
        importance
    }

    fn moves(&self, envelope: &Envelope, parameters: &Parameters, order: &[usize]) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut add = |node: usize, role: &str, axis_of: fn(&Parameter) -> usize| {
            let name = format!("{}.{role}", envelope.nodes[node].path);
            if let Some(position) = parameters.position(&name) {
                let axis = axis_of(parameters.at(position));
                moves.push(Move {
                    position,
                    axis,
                    order: order.to_vec(),
                });
            }
        };
        let last: fn(&Parameter) -> usize = |parameter| parameter.shape.len() - 1;
        for &node in &self.writers {
            add(node, "weight", |_| 0);
            add(node, "bias", |_| 0);
        }
        for &node in &self.channelwise {
            add(node, "weight", last);
            add(node, "bias", last);
        }
        for &node in &self.readers {
            add(node, "weight", last);
        }
        moves
    }
}

/// Whether the input of `node` comes from a global average pool through channel-wise nodes.
fn is_behind_a_pool(envelope: &Envelope, node: usize) -> bool {
    let mut at = node;
    while let Some(&input) = envelope.nodes[at].inputs.first() {
        match envelope.nodes[input].op {
            Op::GlobalAveragePool => return true,
            Op::Activation(_) | Op::BatchNorm { .. } | Op::Dropout { .. } => at = input,
            _ => return false,
        }
    }
    false
}

/// The groups with an elastic width whose channels may be permuted, in envelope order.
fn groups(envelope: &Envelope) -> Vec<Group> {
    let nodes = &envelope.nodes;
    // Union-find over nodes: the representative of a node's output channels.
    let mut parent: Vec<usize> = (0..nodes.len()).collect();
    fn find(parent: &mut [usize], mut node: usize) -> usize {
        while parent[node] != node {
            parent[node] = parent[parent[node]];
            node = parent[node];
        }
        node
    }
    let makes_channels =
        |op: &Op| matches!(op, Op::Input | Op::Convolution { .. } | Op::Linear { .. });
    for (index, node) in nodes.iter().enumerate() {
        if !makes_channels(&node.op) {
            for &input in &node.inputs {
                let (left, right) = (find(&mut parent, index), find(&mut parent, input));
                parent[left.max(right)] = left.min(right);
            }
        }
    }
    let representative: Vec<usize> = (0..nodes.len())
        .map(|node| find(&mut parent, node))
        .collect();
    let output = representative.last().copied();
    let mut found = Vec::new();
    for root in 0..nodes.len() {
        let members: Vec<usize> = (0..nodes.len())
            .filter(|&node| representative[node] == root)
            .collect();
        let is_elastic = members
            .iter()
            .any(|&node| nodes[node].out_channel_choices.len() > 1);
        let is_border =
            Some(root) == output || members.iter().any(|&node| nodes[node].op == Op::Input);
        if !is_elastic || is_border {
            continue;
        }
        let writers: Vec<usize> = members
            .iter()
            .copied()
            .filter(|&node| makes_channels(&nodes[node].op))
            .collect();
        let channelwise = members
            .iter()
            .copied()
            .filter(|&node| matches!(nodes[node].op, Op::BatchNorm { .. } | Op::Depthwise { .. }))
            .collect();
        let readers: Vec<usize> = (0..nodes.len())
            .filter(|&node| {
                makes_channels(&nodes[node].op)
                    && nodes[node]
                        .inputs
                        .iter()
                        .any(|&input| representative[input] == root)
            })
            .collect();
        let width = nodes[writers[0]].out_channels;
        let is_whole = members
            .iter()
            .all(|&node| nodes[node].out_channels == width)
            && readers.iter().all(|&node| nodes[node].in_channels == width);
        if is_whole && !readers.is_empty() {
            found.push(Group {
                writers,
                channelwise,
                readers,
            });
        }
    }
    found
}

fn permute(parameter: &mut Parameter, axis: usize, order: &[usize]) {
    let inner: usize = parameter.shape[axis + 1..].iter().product();
    let old = parameter.data.clone();
    let block = order.len() * inner;
    for (block_new, block_old) in parameter
        .data
        .chunks_exact_mut(block)
        .zip(old.chunks_exact(block))
    {
        for (target, &source) in block_new.chunks_exact_mut(inner).zip(order) {
            target.copy_from_slice(&block_old[source * inner..][..inner]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::ParameterKind;

    #[test]
    fn permuting_moves_whole_rows_or_columns() {
        let parameter = |shape: Vec<usize>| Parameter {
            name: "w".into(),
            kind: ParameterKind::LinearWeight,
            data: (0..shape.iter().product::<usize>())
                .map(|value| value as f32)
                .collect(),
            shape,
        };
        let mut rows = parameter(vec![3, 2]);
        permute(&mut rows, 0, &[2, 0, 1]);
        assert_eq!(rows.data, [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]);
        let mut columns = parameter(vec![2, 3]);
        permute(&mut columns, 1, &[2, 0, 1]);
        assert_eq!(columns.data, [2.0, 0.0, 1.0, 5.0, 3.0, 4.0]);
    }
}
