//! Walking a program to build one member.

use crate::error::{Result, SpaceError};
use crate::graph::{FeatureShape, Graph, GraphNode, Op, output_shape};
use crate::program::{
    Combine, Formula, Name, Operation, Program, Sequence, Step, Times, size, with_kernel, with_size,
};
use crate::trace::{Choice, Subnet, Trace};
use crate::tree::Source;
use crate::value::{DecisionSlot, Value};

/// Builds the member for which `choose` gives the index of a value of each decision, which it gets
/// with its number among the program's slots.
///
/// # Errors
/// If an index is out of range, a size is none or shapes do not meet.
pub(crate) fn build(
    program: &Program,
    source: &Source,
    choose: &mut dyn FnMut(usize, &DecisionSlot) -> usize,
) -> Result<Subnet> {
    let mut walk = Walk {
        program,
        source,
        choose,
        chosen: vec![None; program.slots.len()],
        variables: vec![Value::Bool(false); program.variables],
        choices: Vec::with_capacity(program.slots.len()),
        settings: Vec::new(),
        nodes: Vec::new(),
        current: 0,
        kept: vec![0; program.tensors],
    };
    walk.sequence(&program.body)?;
    let graph = walk.graph();
    let trace = Trace {
        choices: walk.choices,
    };
    Ok(Subnet::new(trace, graph, walk.settings))
}

/// What some steps make of what arrives.
pub(crate) struct Piece {
    pub graph: Graph,
    /// The value of every variable, where it has one.
    pub variables: Vec<Value>,
}

/// Runs some steps of a program on a tensor and variables that arrive.
///
/// # Errors
/// As [`build`].
pub(crate) fn build_piece<'p>(
    program: &'p Program,
    source: &'p Source,
    choose: &mut dyn FnMut(usize, &DecisionSlot) -> usize,
    steps: &'p [Step],
    shape: Option<FeatureShape>,
    variables: &[(usize, Value)],
) -> Result<Piece> {
    let arriving = shape.map(|shape| GraphNode {
        path: String::new(),
        op: Op::Input,
        inputs: Vec::new(),
        shape,
    });
    let mut walk = Walk {
        program,
        source,
        choose,
        chosen: vec![None; program.slots.len()],
        variables: vec![Value::Bool(false); program.variables],
        choices: Vec::new(),
        settings: Vec::new(),
        nodes: arriving.into_iter().collect(),
        current: 0,
        kept: vec![0; program.tensors],
    };
    for (variable, value) in variables {
        walk.variables[*variable] = value.clone();
    }
    steps.iter().try_for_each(|step| walk.step(step))?;
    Ok(Piece {
        graph: walk.graph(),
        variables: walk.variables,
    })
}

struct Walk<'p, 'c> {
    program: &'p Program,
    source: &'p Source,
    choose: &'c mut dyn FnMut(usize, &DecisionSlot) -> usize,
    /// The value of each decision taken so far; tied copies take them again.
    chosen: Vec<Option<usize>>,
    variables: Vec<Value>,
    choices: Vec<Choice>,
    /// Training settings with their values.
    settings: Vec<(String, Value)>,
    nodes: Vec<GraphNode>,
    /// The node whose output arrives at the next step, or [`NOTHING`].
    current: usize,
    /// The node of each remembered tensor.
    kept: Vec<usize>,
}

/// Arrives behind a branch that is left out.
const NOTHING: usize = usize::MAX;

impl<'p> Walk<'p, '_> {
    /// The network, ending at what arrives last, without operations that nobody reads: a tensor
    /// may be remembered in vain.
    fn graph(&mut self) -> Graph {
        let nodes = std::mem::take(&mut self.nodes);
        if self.program.tensors == 0 || nodes.is_empty() {
            return Graph { nodes };
        }
        let mut is_read = vec![false; nodes.len()];
        is_read[0] = true;
        is_read[self.current] = true;
        for index in (0..=self.current).rev() {
            if is_read[index] {
                let inputs = nodes[index].inputs.iter();
                inputs.for_each(|&input| is_read[input] = true);
            }
        }
        let mut places = vec![0; nodes.len()];
        let mut left = Vec::with_capacity(nodes.len());
        for (index, mut node) in nodes.into_iter().enumerate() {
            if is_read[index] {
                places[index] = left.len();
                let inputs = node.inputs.iter_mut();
                inputs.for_each(|input| *input = places[*input]);
                left.push(node);
            }
        }
        Graph { nodes: left }
    }

    fn sequence(&mut self, sequence: &'p Sequence) -> Result<()> {
        sequence.steps.iter().try_for_each(|step| self.step(step))
    }

    fn step(&mut self, step: &'p Step) -> Result<()> {
        match step {
            Step::Input { path, extents, at } => {
                let [height, width, channels] = extents
                    .each_ref()
                    .map(|extent| self.size(extent, *at, "an extent of the input"));
                let shape = FeatureShape {
                    height: height?,
                    width: width?,
                    channels: channels?,
                };
                self.nodes.push(GraphNode {
                    path: path.clone(),
                    op: Op::Input,
                    inputs: Vec::new(),
                    shape,
                });
                Ok(())
            }
            Step::Let {
                variable,
                formula,
                at,
            } => {
                self.variables[*variable] = self.evaluate(formula, *at)?;
                Ok(())
            }
            Step::Decide { variable, slot } => {
                let index = self.decide(*slot)?;
                self.variables[*variable] = self.program.slots[*slot].domain.values[index].clone();
                Ok(())
            }
            Step::Setting { name, formula, at } => {
                let value = self.evaluate(formula, *at)?;
                self.settings.push((name.clone(), value));
                Ok(())
            }
            Step::Operation(operation) => self.operation(operation),
            Step::Keep { tensor } => {
                self.kept[*tensor] = self.current;
                Ok(())
            }
            Step::Read { tensor } => {
                self.current = self.kept[*tensor];
                Ok(())
            }
            Step::Nothing { .. } => {
                self.current = NOTHING;
                Ok(())
            }
            Step::Residual { path, body, at } => {
                let before = self.current;
                self.sequence(body)?;
                let is_kept = self.nodes[before].shape == self.nodes[self.current].shape;
                match is_kept && before != self.current {
                    true => self.push(path, Op::Add, vec![self.current, before], *at),
                    false => Ok(()),
                }
            }
            Step::Gate { path, body, at } => {
                let before = self.current;
                self.sequence(body)?;
                self.push(path, Op::Multiply, vec![before, self.current], *at)
            }
            Step::Parallel {
                paths,
                branches,
                combine,
                at,
            } => {
                let before = self.current;
                let mut sum = None;
                for (index, branch) in branches.iter().enumerate() {
                    self.current = before;
                    self.sequence(branch)?;
                    if self.current == NOTHING {
                        continue;
                    }
                    if let Some(sum) = sum {
                        let op = match combine {
                            Combine::Add => Op::Add,
                            Combine::Concat(offsets) => Op::Concat {
                                offset: offsets[index - 1],
                            },
                        };
                        self.push(&paths[index - 1], op, vec![sum, self.current], *at)?;
                    }
                    sum = Some(self.current);
                }
                self.current = sum.unwrap_or(before);
                Ok(())
            }
            Step::If {
                condition,
                then,
                otherwise,
                at,
                ..
            } => match self.evaluate(condition, *at)? {
                Value::Bool(true) => self.sequence(then),
                _ => self.sequence(otherwise),
            },
            Step::Choose { slot, branches, .. } => {
                let index = self.decide(*slot)?;
                self.sequence(&branches[index])
            }
            Step::Repeat { times, copies, .. } => {
                let count = match times {
                    Times::Fixed(count) => *count,
                    Times::Decided { slot, counts } => counts[self.decide(*slot)?],
                };
                copies[..count]
                    .iter()
                    .try_for_each(|copy| self.sequence(copy))
            }
        }
    }

    fn decide(&mut self, slot: usize) -> Result<usize> {
        if let Some(index) = self.chosen[slot] {
            return Ok(index);
        }
        let decision = &self.program.slots[slot];
        let index = (self.choose)(slot, decision);
        let Some(value) = decision.domain.values.get(index) else {
            return Err(SpaceError::Illegal(format!(
                "decision `{}` has {} values, there is no value {index}",
                decision.path,
                decision.domain.values.len()
            )));
        };
        self.chosen[slot] = Some(index);
        self.choices.push(Choice {
            path: decision.path.clone(),
            name: decision.name.clone(),
            value: value.clone(),
        });
        Ok(index)
    }

    fn operation(&mut self, operation: &Operation) -> Result<()> {
        let Operation {
            size, kernel, at, ..
        } = operation;
        let mut op = operation.op;
        if let Some(formula) = size {
            op = with_size(op, self.size(formula, *at, "the size of an operation")?);
        }
        if let Some(formula) = kernel {
            op = with_kernel(op, self.size(formula, *at, "the kernel of a convolution")?);
        }
        self.push(&operation.path, op, vec![self.current], *at)
    }

    fn push(&mut self, path: &str, op: Op, inputs: Vec<usize>, at: usize) -> Result<()> {
        let mut shapes = [FeatureShape::default(); 2];
        for (shape, &input) in shapes.iter_mut().zip(&inputs) {
            *shape = self.nodes[input].shape;
        }
        let shape = output_shape(&op, &shapes[..inputs.len()])
            .map_err(|message| self.source.error(at, format!("`{path}`: {message}")))?;
        self.current = self.nodes.len();
        self.nodes.push(GraphNode {
            path: path.to_owned(),
            op,
            inputs,
            shape,
        });
        Ok(())
    }

    fn evaluate(&self, formula: &Formula, at: usize) -> Result<Value> {
        let value = formula.evaluate(&|name| match name {
            Name::Variable(variable) => self.variables[*variable].clone(),
            Name::Channels => {
                let arriving = self.nodes.get(self.current);
                Value::Int(arriving.map_or(0, |node| node.shape.channels as i64))
            }
        });
        value.map_err(|message| self.source.error(at, message))
    }

    fn size(&self, formula: &Formula, at: usize, what: &str) -> Result<usize> {
        let value = self.evaluate(formula, at)?;
        size(&value, what).map_err(|message| self.source.error(at, message))
    }
}
