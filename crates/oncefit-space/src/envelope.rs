//! The envelope of a space: every operation of any member, as large as the largest.

use std::collections::{HashMap, HashSet};

use crate::error::Result;
use crate::graph::{FeatureShape, Op, output_shape};
use crate::program::{
    Combine, Formula, Name, Operation, Program, Sequence, Step, Times, range, size, with_kernel,
    with_size,
};
use crate::tree::Source;
use crate::value::Value;

/// What a supernet must store: all branches and all copies of every repeat, one after the other.
///
/// Where members differ in which operations they have, the outputs of the alternatives meet in an
/// `Add` whose path ends in `join` (with a `+` for each further meeting at the same place): they are
/// the same channels. Such nodes are in no member.
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
    /// Most input channels.
    pub in_channels: usize,
    /// Most output channels.
    pub out_channels: usize,
    /// Numbers of input channels that members have, rising; beyond 4096 combinations of the
    /// decisions behind them, the two ends.
    pub in_channel_choices: Vec<usize>,
    /// Numbers of output channels that members have, as `in_channel_choices`.
    pub out_channel_choices: Vec<usize>,
    /// Kernel sizes that members have, rising; empty for operations without an elastic kernel.
    pub kernels: Vec<usize>,
    /// Largest height and width of its output.
    pub spatial: (usize, usize),
}

/// Pairs of widths of two concatenated tensors that are all listed.
const MOST_SUMS: usize = 4096;

/// Walks all values of all decisions at once.
///
/// # Errors
/// If a value is no size, or the largest shapes do not meet.
pub(crate) fn envelope(program: &Program, source: &Source) -> Result<Envelope> {
    let mut walk = Walk {
        program,
        source,
        variables: vec![Vec::new(); program.variables],
        nodes: Vec::new(),
        paths: HashSet::new(),
        current: 0,
        kept: vec![0; program.tensors],
    };
    walk.sequence(&program.body)?;
    Ok(Envelope { nodes: walk.nodes })
}

/// A walk on which each quantity is the list of the values it can have.
struct Walk<'p> {
    program: &'p Program,
    source: &'p Source,
    variables: Vec<Vec<Value>>,
    nodes: Vec<EnvelopeNode>,
    paths: HashSet<String>,
    /// The node whose output arrives at the next step, or [`NOTHING`].
    current: usize,
    /// The node of each remembered tensor.
    kept: Vec<usize>,
}

/// Arrives behind a branch that is left out in all members.
const NOTHING: usize = usize::MAX;

impl<'p> Walk<'p> {
    fn sequence(&mut self, sequence: &'p Sequence) -> Result<()> {
        sequence.steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &'p Step) -> Result<()> {
        let before = self.current;
        match step {
            Step::Input { path, extents, at } => {
                let [heights, widths, channels] = extents
                    .each_ref()
                    .map(|extent| self.sizes(extent, *at, "an extent of the input"));
                let (heights, widths, channels) = (heights?, widths?, channels?);
                self.nodes.push(EnvelopeNode {
                    path: path.clone(),
                    op: Op::Input,
                    inputs: Vec::new(),
                    in_channels: 0,
                    out_channels: largest(&channels),
                    in_channel_choices: Vec::new(),
                    out_channel_choices: channels,
                    kernels: Vec::new(),
                    spatial: (largest(&heights), largest(&widths)),
                });
            }
            Step::Let {
                variable,
                formula,
                at,
            } => self.variables[*variable] = self.evaluate(formula, *at)?,
            Step::Decide { variable, slot } => {
                self.variables[*variable] = self.program.slots[*slot].domain.values.clone();
            }
            Step::Setting { .. } => {}
            Step::Operation(operation) => self.operation(operation)?,
            Step::Keep { tensor } => self.kept[*tensor] = self.current,
            Step::Read { tensor } => self.current = self.kept[*tensor],
            Step::Nothing { .. } => self.current = NOTHING,
            Step::Residual { path, body, at } => {
                self.sequence(body)?;
                self.shortcut(path, before, *at)?;
            }
            Step::Gate { path, body, at } => {
                self.sequence(body)?;
                self.push(path, Op::Multiply, vec![before, self.current], None, *at)?;
            }
            Step::Parallel {
                paths,
                branches,
                combine,
                at,
            } => {
                let mut sum = None;
                for (index, branch) in branches.iter().enumerate() {
                    self.current = before;
                    self.sequence(branch)?;
                    if self.current == NOTHING {
                        continue;
                    }
                    if let Some(sum) = sum {
                        let path = &paths[index - 1];
                        match combine {
                            Combine::Add => {
                                self.push(path, Op::Add, vec![sum, self.current], None, *at)?;
                            }
                            Combine::Concat(offsets) => {
                                let offset = offsets.get(index - 1).copied();
                                let is_always = !branch.may_be_nothing();
                                let sides = [sum, self.current];
                                self.concatenate(path, offset, sides, is_always, *at)?;
                            }
                        }
                    }
                    sum = Some(self.current);
                }
                // Members that leave all branches out pass the input on.
                self.current = match (sum, paths.last()) {
                    (Some(sum), Some(path)) if branches.iter().all(Sequence::may_be_nothing) => {
                        self.meet(&format!("{path}.join"), Some(before), sum)
                    }
                    _ => sum.unwrap_or(before),
                };
            }
            Step::If {
                join,
                then,
                otherwise,
                ..
            } => self.alternatives(join, [then, otherwise])?,
            Step::Choose { join, branches, .. } => self.alternatives(join, branches)?,
            Step::Repeat {
                join,
                times,
                copies,
                ..
            } => self.repeat(join, times, copies)?,
        }
        Ok(())
    }

    /// Alternatives that start from the same node.
    fn alternatives(
        &mut self,
        join: &str,
        branches: impl IntoIterator<Item = &'p Sequence>,
    ) -> Result<()> {
        let before = self.current;
        let mut joined = None;
        for branch in branches {
            self.current = before;
            self.sequence(branch)?;
            if self.current != NOTHING {
                joined = Some(self.meet(join, joined, self.current));
            }
        }
        self.current = joined.unwrap_or(NOTHING);
        Ok(())
    }

    /// All copies in a row; the outputs of all numbers of copies meet.
    fn repeat(&mut self, join: &str, times: &Times, copies: &'p [Sequence]) -> Result<()> {
        let fixed = [copies.len()];
        let counts = match times {
            Times::Fixed(_) => &fixed[..],
            Times::Decided { counts, .. } => counts,
        };
        let mut joined = counts.contains(&0).then_some(self.current);
        for (copy, body) in copies.iter().enumerate() {
            self.sequence(body)?;
            if counts.contains(&(copy + 1)) {
                joined = Some(self.meet(join, joined, self.current));
            }
        }
        self.current = joined.unwrap_or(self.current);
        Ok(())
    }

    /// Joins the outputs of two alternatives: as large as the larger, with the channels of both.
    fn meet(&mut self, path: &str, left: Option<usize>, right: usize) -> usize {
        let Some(left) = left.filter(|left| *left != right) else {
            return right;
        };
        let mut path = path.to_owned();
        while !self.paths.insert(path.clone()) {
            path.push('+');
        }
        self.add_where_equal(path, left, right)
    }

    fn add_where_equal(&mut self, path: String, left: usize, right: usize) -> usize {
        let (first, second) = (&self.nodes[left], &self.nodes[right]);
        let mut channels = [
            &first.out_channel_choices[..],
            &second.out_channel_choices[..],
        ]
        .concat();
        channels.sort_unstable();
        channels.dedup();
        let (height, width) = (
            first.spatial.0.max(second.spatial.0),
            first.spatial.1.max(second.spatial.1),
        );
        self.nodes.push(EnvelopeNode {
            path,
            op: Op::Add,
            inputs: vec![left, right],
            in_channels: first.out_channels,
            out_channels: first.out_channels.max(second.out_channels),
            in_channel_choices: first.out_channel_choices.clone(),
            out_channel_choices: channels,
            kernels: Vec::new(),
            spatial: (height, width),
        });
        self.nodes.len() - 1
    }

    /// Members add the input of a residual block to its output where shapes agree: all of them if
    /// the channels are the same ones, some if the two have numbers of channels in common.
    fn shortcut(&mut self, path: &str, before: usize, at: usize) -> Result<()> {
        let (left, right) = (&self.nodes[before], &self.nodes[self.current]);
        let is_common = |channels: &usize| right.out_channel_choices.contains(channels);
        if before == self.current
            || left.spatial != right.spatial
            || !left.out_channel_choices.iter().any(is_common)
        {
            Ok(())
        } else if left.out_channel_choices == right.out_channel_choices {
            self.push(path, Op::Add, vec![self.current, before], None, at)
        } else {
            self.current = self.add_where_equal(path.to_owned(), before, self.current);
            Ok(())
        }
    }

    /// The right side begins where the widest left side ends, or further on at `offset`; some members
    /// leave it out if it is not `always` there.
    fn concatenate(
        &mut self,
        path: &str,
        offset: Option<usize>,
        [left, right]: [usize; 2],
        is_always: bool,
        at: usize,
    ) -> Result<()> {
        let offset = offset.unwrap_or(0).max(self.nodes[left].out_channels);
        let (first, second) = (
            self.nodes[left].out_channel_choices.clone(),
            self.nodes[right].out_channel_choices.clone(),
        );
        let ends = |channels: &[usize]| -> Vec<usize> {
            let ends = [channels.first(), channels.last()];
            ends.into_iter().flatten().copied().collect()
        };
        let (first, second) = match first.len() * second.len() > MOST_SUMS {
            true => (ends(&first), ends(&second)),
            false => (first, second),
        };
        let mut channels: Vec<usize> = first
            .iter()
            .flat_map(|left| second.iter().map(move |right| left + right))
            .collect();
        if !is_always {
            channels.extend(first);
        }
        channels.sort_unstable();
        channels.dedup();
        let width = offset + self.nodes[right].out_channels;
        self.push(
            path,
            Op::Concat { offset },
            vec![left, right],
            Some(channels),
            at,
        )?;
        self.nodes[self.current].out_channels = width;
        Ok(())
    }

    fn operation(&mut self, operation: &Operation) -> Result<()> {
        let Operation { path, op, at, .. } = operation;
        let mut op = *op;
        let mut kernels = Vec::new();
        if let Some(formula) = &operation.kernel {
            kernels = self.sizes(formula, *at, "the kernel of a convolution")?;
            op = with_kernel(op, largest(&kernels));
        }
        let sizes = match &operation.size {
            None => Vec::new(),
            Some(formula) => self.sizes(formula, *at, "the size of an operation")?,
        };
        if !sizes.is_empty() {
            op = with_size(op, largest(&sizes));
        }
        let channels = match op {
            Op::Convolution {
                out_channels: size, ..
            }
            | Op::Linear {
                out_features: size, ..
            } if sizes.is_empty() => Some(vec![size]),
            Op::Convolution { .. } | Op::Linear { .. } => Some(sizes),
            Op::Depthwise { kernel, .. } => {
                kernels = match sizes.is_empty() {
                    true => vec![kernel],
                    false => sizes,
                };
                None
            }
            _ => None,
        };
        self.push(path, op, vec![self.current], channels, *at)?;
        self.nodes[self.current].kernels = kernels;
        Ok(())
    }

    /// Adds an operation; its channels are those of its first input unless they are given.
    fn push(
        &mut self,
        path: &str,
        op: Op,
        inputs: Vec<usize>,
        channels: Option<Vec<usize>>,
        at: usize,
    ) -> Result<()> {
        let shapes: Vec<FeatureShape> = inputs
            .iter()
            .map(|&input| self.nodes[input].largest_shape())
            .collect();
        let shape = output_shape(&op, &shapes)
            .map_err(|message| self.source.error(at, format!("`{path}`: {message}")))?;
        let source = &self.nodes[inputs[0]];
        let arriving = source.out_channel_choices.clone();
        let in_channels = source.out_channels;
        self.current = self.nodes.len();
        self.paths.insert(path.to_owned());
        self.nodes.push(EnvelopeNode {
            path: path.to_owned(),
            op,
            inputs,
            in_channels,
            out_channels: shape.channels,
            out_channel_choices: channels.unwrap_or_else(|| arriving.clone()),
            in_channel_choices: arriving,
            kernels: Vec::new(),
            spatial: (shape.height, shape.width),
        });
        Ok(())
    }

    /// Every value that a formula can have, numbers rising.
    fn evaluate(&self, formula: &Formula, at: usize) -> Result<Vec<Value>> {
        let values_of = |name| match name {
            Name::Variable(variable) => self.variables[variable].clone(),
            Name::Channels => {
                let arriving = self.nodes.get(self.current);
                let channels = arriving.map_or(&[][..], |node| &node.out_channel_choices);
                channels
                    .iter()
                    .map(|&channels| Value::Int(channels as i64))
                    .collect()
            }
        };
        range(formula, &values_of).map_err(|message| self.source.error(at, message))
    }

    fn sizes(&self, formula: &Formula, at: usize, what: &str) -> Result<Vec<usize>> {
        let values = self.evaluate(formula, at)?;
        let sizes: std::result::Result<_, String> =
            values.iter().map(|value| size(value, what)).collect();
        sizes.map_err(|message| self.source.error(at, message))
    }
}

impl Envelope {
    /// For each concatenation by its path, where its second input begins.
    pub(crate) fn offsets(&self) -> HashMap<String, usize> {
        let nodes = self.nodes.iter();
        nodes
            .filter_map(|node| match node.op {
                Op::Concat { offset } => Some((node.path.clone(), offset)),
                _ => None,
            })
            .collect()
    }

    pub(crate) fn has_concatenations(&self) -> bool {
        let mut nodes = self.nodes.iter();
        nodes.any(|node| matches!(node.op, Op::Concat { .. }))
    }
}

impl EnvelopeNode {
    fn largest_shape(&self) -> FeatureShape {
        FeatureShape {
            height: self.spatial.0,
            width: self.spatial.1,
            channels: self.out_channels,
        }
    }
}

fn largest(sizes: &[usize]) -> usize {
    sizes.iter().copied().max().unwrap_or(0)
}
