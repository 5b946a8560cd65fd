//! The operators of a graph: operations with what engines fuse into them.
//!
//! The rule is local: a batch-norm or an activation becomes part of the operator that makes its
//! input if nothing else reads that input. At the end of a piece of a network the last operator
//! may still be open, since what follows may become part of it; it is handed to the next piece.

use oncefit_space::{Activation, Graph, Op};

use crate::operator::{Operator, OperatorKind};

/// How finely a network is cut into operators.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Granularity {
    /// Every operation by itself, with its batch-norm and activation.
    #[default]
    Operator,
    /// Inverted-residual blocks whole, everything else as operators: what the tables of the
    /// Once-for-All authors list.
    Block,
}

/// The operators of a network, in the order in which they run.
pub fn operators(graph: &Graph, granularity: Granularity) -> Vec<Operator> {
    let Fused { mut closed, open } = fuse(graph, granularity, None);
    closed.extend(open);
    closed
}

/// The operators of a piece of a network.
pub(crate) struct Fused {
    pub closed: Vec<Operator>,
    /// The operator of the last node, if what follows may become part of it.
    pub open: Option<Operator>,
}

/// The operators of a piece of a network into whose input `arriving` was left open.
pub(crate) fn fuse(graph: &Graph, granularity: Granularity, arriving: Option<Operator>) -> Fused {
    let blocks = match granularity {
        Granularity::Operator => Vec::new(),
        Granularity::Block => blocks(graph),
    };
    let mut readers = vec![0usize; graph.nodes.len()];
    for node in &graph.nodes {
        for &input in &node.inputs {
            readers[input] += 1;
        }
    }
    let mut found: Vec<Operator> = arriving.into_iter().collect();
    // For each node, the operator that makes it, if it may still be extended.
    let mut open: Vec<Option<usize>> = Vec::with_capacity(graph.nodes.len());
    for (index, node) in graph.nodes.iter().enumerate() {
        if let Some((first, last, block)) =
            (blocks.iter()).find(|(first, last, _)| (first..=last).contains(&&index))
        {
            if index == *first {
                found.push(*block);
            }
            debug_assert!(index <= *last);
            open.push(None);
            continue;
        }
        let source = node.inputs.first().map(|&input| &graph.nodes[input]);
        let input = source.map_or(node.shape, |source| source.shape);
        let single = node.inputs.first().filter(|&&input| readers[input] == 1);
        let before = single.and_then(|&input| open[input]);
        let foldable = before.filter(|&operator| {
            let kind = found[operator].kind;
            matches!(kind, OperatorKind::Convolution | OperatorKind::Depthwise)
        });
        let mut count = found.len();
        let mut push = |kind, kernel, stride| {
            count += 1;
            found.push(Operator {
                kernel,
                stride,
                ..Operator::new(kind, input, node.shape)
            });
            Some(count - 1)
        };
        use OperatorKind as K;
        let now = match node.op {
            Op::Input => arriving.map(|_| 0),
            Op::Convolution { kernel, stride, .. } => push(K::Convolution, kernel, stride),
            Op::Depthwise { kernel, stride, .. } => push(K::Depthwise, kernel, stride),
            Op::Linear { .. } => push(K::Linear, 1, 1),
            Op::GlobalAveragePool => push(K::GlobalAveragePool, 1, 1),
            Op::AveragePool { kernel, stride, .. } => push(K::AveragePool, kernel, stride),
            Op::MaxPool { kernel, stride, .. } => push(K::MaxPool, kernel, stride),
            Op::Add => push(K::Add, 1, 1),
            Op::Concat { .. } => push(K::Concat, 1, 1),
            Op::Multiply => push(K::Multiply, 1, 1),
            Op::Dropout { .. } | Op::Activation(Activation::Identity) => before,
            Op::BatchNorm { .. } => match foldable {
                Some(operator) => Some(operator),
                None => push(K::BatchNorm, 1, 1),
            },
            Op::Activation(activation) => {
                let operator = before.or_else(|| push(K::Activation, 1, 1));
                if let Some(operator) = operator {
                    found[operator].activation = activation;
                }
                None
            }
        };
        open.push(now);
    }
    let last = open.last().copied().flatten();
    let open = last.map(|last| found.remove(last));
    Fused {
        closed: found,
        open,
    }
}

/// Inverted-residual blocks: first and last node, and the block as an operator.
fn blocks(graph: &Graph) -> Vec<(usize, usize, Operator)> {
    let mut found = Vec::new();
    for depthwise in 0..graph.nodes.len() {
        if let Some(block) = block_around(graph, depthwise) {
            found.push(block);
        }
    }
    found
}

/// The block whose depthwise convolution is node `depthwise`, if it is in one.
fn block_around(graph: &Graph, depthwise: usize) -> Option<(usize, usize, Operator)> {
    let nodes = &graph.nodes;
    let Op::Depthwise { kernel, stride, .. } = nodes[depthwise].op else {
        return None;
    };
    // `unit1[0].depthwise.depthwise`: the block is `unit1[0].`
    let label = |path: &str| {
        let cut = path.rsplitn(3, '.').nth(2)?;
        Some(format!("{cut}."))
    };
    let label = label(&nodes[depthwise].path)?;
    let is_inside = |index: usize| nodes[index].path.starts_with(&label);
    // Backwards over activation, batch-norm and convolution of the expansion.
    let mut first = depthwise;
    let mut source = *nodes[depthwise].inputs.first()?;
    if is_inside(source) {
        loop {
            let node = &nodes[source];
            first = source;
            source = *node.inputs.first()?;
            match node.op {
                Op::Convolution {
                    kernel: 1,
                    stride: 1,
                    ..
                } => break,
                Op::BatchNorm { .. } | Op::Activation(_) if is_inside(source) => {}
                _ => return None,
            }
        }
    }
    // Forwards over its batch-norm and activation, a gate, the projection, its batch-norm and the
    // shortcut. The nodes of a block follow each other.
    let reads = |index: usize, input: usize| {
        let node = nodes.get(index).filter(|_| is_inside(index));
        node.filter(|node| node.inputs.first() == Some(&input))
    };
    let mut last = depthwise;
    let mut activation = Activation::Identity;
    while let Some(node) = reads(last + 1, last) {
        match node.op {
            Op::Activation(found) => activation = found,
            Op::BatchNorm { .. } => {}
            _ => break,
        }
        last += 1;
    }
    let is_pooled = reads(last + 1, last).is_some_and(|node| node.op == Op::GlobalAveragePool);
    if is_pooled {
        let is_gate =
            |index: &usize| reads(*index, last).is_some_and(|node| node.op == Op::Multiply);
        last = (last + 2..nodes.len()).find(is_gate)?;
    }
    let project = reads(last + 1, last)?;
    if !matches!(project.op, Op::Convolution { kernel: 1, .. }) {
        return None;
    }
    last += 1;
    if reads(last + 1, last).is_some_and(|node| matches!(node.op, Op::BatchNorm { .. })) {
        last += 1;
    }
    let shortcut =
        reads(last + 1, last).is_some_and(|node| node.op == Op::Add && node.inputs[1] == source);
    last += usize::from(shortcut);
    let block = Operator {
        kernel,
        stride,
        activation,
        middle: nodes[depthwise].shape.channels,
        squeeze: is_pooled,
        shortcut,
        ..Operator::new(
            OperatorKind::InvertedResidual,
            nodes[source].shape,
            nodes[last].shape,
        )
    };
    Some((first, last, block))
}

#[cfg(test)]
mod tests {
    use super::*;
    use oncefit_space::Space;

    fn keys(space: &str, subnet: &str, granularity: Granularity) -> Vec<String> {
        let subnet = Space::builtin(space).unwrap().parse_subnet(subnet).unwrap();
        let found = operators(subnet.graph(), granularity);
        found.iter().map(Operator::to_string).collect()
    }

    #[test]
    fn a_small_network_has_the_operators_that_one_reads_off_it() {
        let text = "resolution=20:depth=1:kernel=3:expand=3";
        let found = keys("fm-nano", text, Granularity::Operator);
        assert_eq!(
            found[..4],
            [
                "conv-k3-s2-in:20x20x1-out:10x10x8-hard_swish",
                "depthwise-k3-s1-in:10x10x8-out:10x10x8-relu",
                "conv-k1-s1-in:10x10x8-out:10x10x8",
                "add-in:10x10x8-out:10x10x8",
            ]
        );
        assert_eq!(
            found[found.len() - 4..],
            [
                "conv-k1-s1-in:3x3x24-out:3x3x144-hard_swish",
                "global_average_pool-in:3x3x144-out:1x1x144",
                "conv-k1-s1-in:1x1x144-out:1x1x64-hard_swish",
                "linear-in:1x1x64-out:1x1x10",
            ]
        );
    }

    #[test]
    fn blocks_are_found_whole() {
        let text = "resolution=20:depth=1:kernel=3,5,7:expand=3,4,6";
        let found = keys("fm-nano", text, Granularity::Block);
        assert_eq!(
            found,
            [
                "conv-k3-s2-in:20x20x1-out:10x10x8-hard_swish",
                "inverted_residual-k3-s1-m8-in:10x10x8-out:10x10x8-relu-shortcut",
                "inverted_residual-k3-s1-m24-in:10x10x8-out:10x10x8-relu-shortcut",
                "inverted_residual-k5-s2-m32-in:10x10x8-out:5x5x16-relu-squeeze",
                "inverted_residual-k7-s2-m96-in:5x5x16-out:3x3x24-hard_swish-squeeze",
                "conv-k1-s1-in:3x3x24-out:3x3x144-hard_swish",
                "global_average_pool-in:3x3x144-out:1x1x144",
                "conv-k1-s1-in:1x1x144-out:1x1x64-hard_swish",
                "linear-in:1x1x64-out:1x1x10",
            ]
        );
    }
}
