//! Channel sorting: the most important channels first, so that narrow slices start good.
//!
//! A run of channels that one convolution makes is the same run in every tensor that it reaches:
//! through batch-norm, activation, depthwise convolution, gate, and, with others before or behind it,
//! through a concatenation. Additions make runs of two convolutions one. What has the same run forms
//! a *group*. Sorting a group permutes the rows of the
//! convolutions that write it, the vectors and depthwise filters that act on it and the columns of
//! the convolutions that read it: the full-width function does not change. The importance of a
//! channel is the L1 norm of the columns that read it (Once-for-All's `dynamic_layers.py`); columns
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
    /// The first channel of the group.
    start: usize,
    /// New channel `start + i` is old channel `start + order[i]`.
    order: Vec<usize>,
}

impl ChannelOrder {
    /// Permutes tensors that are laid out like the parameters it was made from: the weights, or
    /// an optimiser's momentum.
    pub fn apply(&self, parameters: &mut Parameters) {
        for step in &self.moves {
            permute(
                parameters.at_mut(step.position),
                step.axis,
                step.start,
                &step.order,
            );
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

/// A run of channels that is the same run in several nodes of the envelope.
struct Group {
    /// Convolutions and linear layers that make it, all of its channels.
    writers: Vec<usize>,
    /// Batch-norms and depthwise convolutions on it, and where it begins in them.
    channelwise: Vec<(usize, usize)>,
    /// Convolutions and linear layers that read it, and where it begins in their input.
    readers: Vec<(usize, usize)>,
}

impl Group {
    /// Σ|w| over the columns that read each channel.
    fn importance(&self, envelope: &Envelope, parameters: &Parameters) -> Vec<f64> {
        let direct: Vec<(usize, usize)> = self
            .readers
            .iter()
            .copied()
            .filter(|&(reader, _)| !is_behind_a_pool(envelope, reader))
            .collect();
        let readers = if direct.is_empty() {
            &self.readers
        } else {
            &direct
        };
        let mut importance = vec![0.0; envelope.nodes[self.writers[0]].out_channels];
        for &(reader, start) in readers {
            let name = format!("{}.weight", envelope.nodes[reader].path);
            let Some(position) = parameters.position(&name) else {
                continue;
            };
            let inputs = envelope.nodes[reader].in_channels;
            for row in parameters.at(position).data.chunks_exact(inputs) {
                for (sum, weight) in importance.iter_mut().zip(&row[start..]) {
                    *sum += f64::from(weight.abs());
                }
            }
        }
        importance
    }

    fn moves(&self, envelope: &Envelope, parameters: &Parameters, order: &[usize]) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut add = |node: usize, start: usize, role: &str, axis_of: fn(&Parameter) -> usize| {
            let name = format!("{}.{role}", envelope.nodes[node].path);
            if let Some(position) = parameters.position(&name) {
                let axis = axis_of(parameters.at(position));
                moves.push(Move {
                    position,
                    axis,
                    start,
                    order: order.to_vec(),
                });
            }
        };
        let last: fn(&Parameter) -> usize = |parameter| parameter.shape.len() - 1;
        for &node in &self.writers {
            add(node, 0, "weight", |_| 0);
            add(node, 0, "bias", |_| 0);
        }
        for &(node, start) in &self.channelwise {
            add(node, start, "weight", last);
            add(node, start, "bias", last);
        }
        for &(node, start) in &self.readers {
            add(node, start, "weight", last);
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

fn makes_channels(op: &Op) -> bool {
    matches!(op, Op::Input | Op::Convolution { .. } | Op::Linear { .. })
}

/// A run of channels in a tensor.
#[derive(Clone, Copy)]
struct Run {
    start: usize,
    length: usize,
    /// The node that makes it.
    writer: usize,
}

/// Which runs are the same channels: union-find over the nodes that make them.
struct Runs {
    parent: Vec<usize>,
    /// Writers whose channels may not change places.
    frozen: Vec<bool>,
}

impl Runs {
    fn root(&self, mut writer: usize) -> usize {
        while self.parent[writer] != writer {
            writer = self.parent[writer];
        }
        writer
    }

    /// The runs of two tensors that are added, multiplied or alternatives. An alternative may have
    /// more runs; from where runs do not agree they are frozen.
    fn merge(&mut self, left: &[Run], right: &[Run]) {
        let pairs = left.iter().zip(right);
        let agreeing = pairs
            .take_while(|(one, other)| (one.start, one.length) == (other.start, other.length))
            .count();
        for (one, other) in left.iter().zip(right).take(agreeing) {
            let (one, other) = (self.root(one.writer), self.root(other.writer));
            self.parent[one.max(other)] = one.min(other);
        }
        if agreeing < left.len().min(right.len()) {
            self.freeze(&left[agreeing..]);
            self.freeze(&right[agreeing..]);
        }
    }

    fn freeze(&mut self, runs: &[Run]) {
        for run in runs {
            self.frozen[run.writer] = true;
        }
    }
}

/// The groups with an elastic width whose channels may be permuted, in envelope order.
fn groups(envelope: &Envelope) -> Vec<Group> {
    let nodes = &envelope.nodes;
    let mut same = Runs {
        parent: (0..nodes.len()).collect(),
        frozen: vec![false; nodes.len()],
    };
    let mut runs: Vec<Vec<Run>> = Vec::with_capacity(nodes.len());
    for (index, node) in nodes.iter().enumerate() {
        let of_input = |input: usize| node.inputs.get(input).map_or(&[][..], |&at| &runs[at]);
        let own = match node.op {
            Op::Concat { offset } => {
                let moved = of_input(1).iter().map(|run| Run {
                    start: run.start + offset,
                    ..*run
                });
                of_input(0).iter().copied().chain(moved).collect()
            }
            ref op if makes_channels(op) => vec![Run {
                start: 0,
                length: node.out_channels,
                writer: index,
            }],
            Op::Add if of_input(1).len() > of_input(0).len() => of_input(1).to_vec(),
            _ => of_input(0).to_vec(),
        };
        if let (Op::Add | Op::Multiply, [left, right]) = (&node.op, &node.inputs[..]) {
            same.merge(&runs[*left], &runs[*right]);
        }
        if node.op == Op::Input || index + 1 == nodes.len() {
            same.freeze(&own);
        }
        runs.push(own);
    }
    let found = (0..nodes.len()).filter(|&root| makes_channels(&nodes[root].op));
    let found = found.filter_map(|root| {
        let writers: Vec<usize> = (0..nodes.len())
            .filter(|&node| makes_channels(&nodes[node].op) && same.root(node) == root)
            .collect();
        let is_elastic = |writer: &usize| nodes[*writer].out_channel_choices.len() > 1;
        let is_frozen = writers.iter().any(|&writer| same.frozen[writer]);
        if writers.is_empty() || is_frozen || !writers.iter().any(is_elastic) {
            return None;
        }
        let places = |tensor: usize| {
            let own = runs[tensor].iter();
            own.filter(|run| same.root(run.writer) == root)
                .map(|run| run.start)
        };
        let (mut channelwise, mut readers) = (Vec::new(), Vec::new());
        for (index, node) in nodes.iter().enumerate() {
            match node.op {
                Op::BatchNorm { .. } | Op::Depthwise { .. } => {
                    channelwise.extend(places(index).map(|start| (index, start)));
                }
                Op::Convolution { .. } | Op::Linear { .. } => {
                    let input = node.inputs[0];
                    readers.extend(places(input).map(|start| (index, start)));
                }
                _ => {}
            }
        }
        (!readers.is_empty()).then_some(Group {
            writers,
            channelwise,
            readers,
        })
    });
    found.collect()
}

fn permute(parameter: &mut Parameter, axis: usize, start: usize, order: &[usize]) {
    let inner: usize = parameter.shape[axis + 1..].iter().product();
    let old = parameter.data.clone();
    let block = parameter.shape[axis] * inner;
    for (block_new, block_old) in parameter
        .data
        .chunks_exact_mut(block)
        .zip(old.chunks_exact(block))
    {
        let targets = block_new[start * inner..].chunks_exact_mut(inner);
        for (target, &source) in targets.zip(order) {
            target.copy_from_slice(&block_old[(start + source) * inner..][..inner]);
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
        permute(&mut rows, 0, 0, &[2, 0, 1]);
        assert_eq!(rows.data, [4.0, 5.0, 0.0, 1.0, 2.0, 3.0]);
        let mut columns = parameter(vec![2, 3]);
        permute(&mut columns, 1, 0, &[2, 0, 1]);
        assert_eq!(columns.data, [2.0, 0.0, 1.0, 5.0, 3.0, 4.0]);
        permute(&mut columns, 1, 1, &[1, 0]);
        assert_eq!(columns.data, [2.0, 1.0, 0.0, 5.0, 4.0, 3.0]);
    }
}
