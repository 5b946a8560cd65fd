//! A space made ready to walk: templates expanded, repeats unrolled, names and paths resolved, and
//! everything constant computed.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::expression::Expression;
use crate::graph::Op;
use crate::value::{DecisionSlot, Value};

/// What a name of a formula stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Name {
    /// `in`: the number of channels that arrive.
    Channels,
    /// A decision's value or a `let`.
    Variable(usize),
}

/// An expression that is left when all constants are computed.
pub(crate) type Formula = Expression<Name>;

/// A whole space.
#[derive(Debug)]
pub(crate) struct Program {
    pub body: Sequence,
    /// Every decision with at least two values, in the order in which they are met.
    pub slots: Vec<DecisionSlot>,
    /// How many variables there are.
    pub variables: usize,
    /// How many tensors are read again later.
    pub tensors: usize,
    /// Names of the training settings, in the order in which they are met.
    pub settings: Vec<String>,
}

/// Steps that run one after the other.
#[derive(Default, Debug)]
pub(crate) struct Sequence {
    pub steps: Vec<Step>,
    /// For each step, and for the end: the decisions before it that conditions from there on read, of
    /// those conditions on which other decisions depend.
    pub needs: Vec<Arc<[usize]>>,
    /// Whether anything is decided within.
    pub decides: bool,
}

impl Sequence {
    /// Calls `found` for the paths and offsets of every concatenation.
    pub fn concatenations(&mut self, found: &mut dyn FnMut(&[String], &mut Vec<usize>)) {
        for step in &mut self.steps {
            match step {
                Step::Parallel {
                    paths,
                    branches,
                    combine,
                    ..
                } => {
                    if let Combine::Concat(offsets) = combine {
                        found(paths, offsets);
                    }
                    branches
                        .iter_mut()
                        .for_each(|body| body.concatenations(found));
                }
                Step::Residual { body, .. } | Step::Gate { body, .. } => body.concatenations(found),
                Step::If {
                    then, otherwise, ..
                } => {
                    then.concatenations(found);
                    otherwise.concatenations(found);
                }
                Step::Choose { branches, .. } => {
                    branches
                        .iter_mut()
                        .for_each(|body| body.concatenations(found));
                }
                Step::Repeat { copies, .. } => {
                    copies
                        .iter_mut()
                        .for_each(|body| body.concatenations(found));
                }
                Step::Input { .. }
                | Step::Let { .. }
                | Step::Setting { .. }
                | Step::Decide { .. }
                | Step::Keep { .. }
                | Step::Read { .. }
                | Step::Nothing { .. }
                | Step::Operation(_) => {}
            }
        }
    }

    /// Whether it may end in [`Step::Nothing`].
    pub fn may_be_nothing(&self) -> bool {
        self.steps.last().is_some_and(Step::may_be_nothing)
    }

    /// Checks that [`Step::Nothing`] ends branches of sums and concatenations only.
    ///
    /// # Errors
    /// The place of one that does not, and what is wrong with it.
    pub fn check_nothing(&self) -> Result<(), (usize, &'static str)> {
        self.check_ends(Some(ELSEWHERE))
    }

    /// `forbids` says why the sequence may not end in nothing.
    fn check_ends(&self, forbids: Option<&'static str>) -> Result<(), (usize, &'static str)> {
        for (index, step) in self.steps.iter().enumerate() {
            let forbids = match index + 1 == self.steps.len() {
                true => forbids,
                false => Some(ELSEWHERE),
            };
            match (step, forbids) {
                (Step::Nothing { at }, Some(message)) => return Err((*at, message)),
                (
                    Step::Parallel {
                        branches, combine, ..
                    },
                    _,
                ) => {
                    for (number, branch) in branches.iter().enumerate() {
                        let is_first = number == 0 && *combine != Combine::Add;
                        branch.check_ends(is_first.then_some(FIRST))?;
                    }
                }
                (Step::If { .. } | Step::Choose { .. }, _) => {
                    for body in step.bodies() {
                        body.check_ends(forbids)?;
                    }
                }
                _ => {
                    for body in step.bodies() {
                        body.check_ends(Some(ELSEWHERE))?;
                    }
                }
            }
        }
        Ok(())
    }

    pub fn new(steps: Vec<Step>) -> Self {
        let mut needs: Vec<Arc<[usize]>> = vec![Arc::from([])];
        for step in steps.iter().rev() {
            let after = needs[needs.len() - 1].clone();
            let mut now: BTreeSet<usize> = after.iter().copied().collect();
            if let Step::Decide { slot, .. } = step {
                now.remove(slot);
            }
            step.reads(&mut |slot| {
                now.insert(slot);
            });
            let is_same = now.len() == after.len() && now.iter().eq(after.iter());
            needs.push(if is_same {
                after
            } else {
                now.into_iter().collect()
            });
        }
        needs.reverse();
        Self {
            decides: steps.iter().any(Step::decides),
            steps,
            needs,
        }
    }
}

/// Why `nothing` does not stand in most places.
const ELSEWHERE: &str = "`nothing` is the last word of a branch of a `sum` or `concat`, or of a \
                         `choice`, an `if` or an `optional` that ends one";

/// Why it does not stand in the first branch of a concatenation, where the channels begin.
const FIRST: &str = "the first branch of a `concat` is always there: put one that may be `nothing` \
                     behind another";

/// A step of a walk. `at` is the place in the text, `slot` a decision of [`Program::slots`].
#[derive(Debug)]
pub(crate) enum Step {
    Input {
        path: String,
        /// Height, width, channels.
        extents: [Formula; 3],
        at: usize,
    },
    Let {
        variable: usize,
        formula: Formula,
        at: usize,
    },
    /// A shared decision.
    Decide {
        variable: usize,
        slot: usize,
    },
    /// A training setting of the member.
    Setting {
        name: String,
        formula: Formula,
        at: usize,
    },
    Operation(Operation),
    /// Remembers the tensor that arrives.
    Keep {
        tensor: usize,
    },
    /// Goes on from a remembered tensor.
    Read {
        tensor: usize,
    },
    /// What arrives goes nowhere: the sum around it leaves this branch out.
    Nothing {
        at: usize,
    },
    /// Adds its input to what the body makes of it, where the shape is kept.
    Residual {
        path: String,
        body: Sequence,
        at: usize,
    },
    /// Multiplies its input by what the body makes of it.
    Gate {
        path: String,
        body: Sequence,
        at: usize,
    },
    /// What each branch makes of the input, combined from left to right; `paths` are those of the
    /// additions or concatenations. A sum of which all branches are left out passes its input on.
    Parallel {
        paths: Vec<String>,
        branches: Vec<Sequence>,
        combine: Combine,
        at: usize,
    },
    /// A condition on decisions.
    If {
        join: String,
        condition: Formula,
        then: Sequence,
        otherwise: Sequence,
        /// The decisions that the condition reads.
        reads: Vec<usize>,
        at: usize,
    },
    /// One of several branches; an option is a choice between nothing and its body.
    Choose {
        join: String,
        slot: usize,
        branches: Vec<Sequence>,
    },
    Repeat {
        join: String,
        times: Times,
        /// As many as the largest number of repeats.
        copies: Vec<Sequence>,
        /// Whether all copies take the decisions of the first.
        tied: bool,
    },
}

/// How the outputs of branches become one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Combine {
    Add,
    /// Channels after each other. For each concatenation, where the channels of its right side lie
    /// in the widest network; empty until the envelope is known.
    Concat(Vec<usize>),
}

/// How often a body is repeated.
#[derive(Debug)]
pub(crate) enum Times {
    Fixed(usize),
    /// The number for each value of a decision.
    Decided {
        slot: usize,
        counts: Vec<usize>,
    },
}

/// An operation, complete but for its size.
#[derive(Debug)]
pub(crate) struct Operation {
    pub path: String,
    pub op: Op,
    /// Output channels, output features or the kernel of a depthwise convolution.
    pub size: Option<Formula>,
    /// The kernel of a dense convolution.
    pub kernel: Option<Formula>,
    pub at: usize,
}

/// The largest size of anything in a space.
pub(crate) const LARGEST_SIZE: i64 = 1_000_000;

/// A value as a size.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn size(value: &Value, what: &str) -> Result<usize, String> {
    match value {
        Value::Int(size @ 1..=LARGEST_SIZE) => Ok(*size as usize),
        other => Err(format!(
            "{what} is an integer from 1 to {LARGEST_SIZE}, this is `{other}`"
        )),
    }
}

/// `op` with another number of output channels or, if depthwise, another kernel.
pub(crate) fn with_size(op: Op, size: usize) -> Op {
    match op {
        Op::Convolution {
            kernel,
            stride,
            bias,
            ..
        } => Op::Convolution {
            out_channels: size,
            kernel,
            stride,
            bias,
        },
        Op::Linear { bias, .. } => Op::Linear {
            out_features: size,
            bias,
        },
        Op::Depthwise {
            stride, transform, ..
        } => Op::Depthwise {
            kernel: size,
            stride,
            transform,
        },
        other => other,
    }
}

/// A dense convolution with another kernel.
pub(crate) fn with_kernel(op: Op, size: usize) -> Op {
    match op {
        Op::Convolution {
            out_channels,
            stride,
            bias,
            ..
        } => Op::Convolution {
            out_channels,
            kernel: size,
            stride,
            bias,
        },
        other => other,
    }
}

/// Combinations of values that are followed in one formula.
const COMBINATIONS: usize = 4096;

/// Every value that a formula takes for all combinations of the values of its names, numbers in
/// rising order; of too many combinations, those of each name's first and last value.
///
/// # Errors
/// Why it has no value for one of the combinations.
pub(crate) fn range(
    formula: &Formula,
    values_of: &dyn Fn(Name) -> Vec<Value>,
) -> Result<Vec<Value>, String> {
    let mut ranges: Vec<(Name, Vec<Value>)> = Vec::new();
    formula.names(&mut |name| {
        if !ranges.iter().any(|(other, _)| other == name) {
            ranges.push((*name, values_of(*name)));
        }
    });
    let combinations = ranges.iter().try_fold(1usize, |product, (_, values)| {
        product.checked_mul(values.len())
    });
    if combinations.is_none_or(|combinations| combinations > COMBINATIONS) {
        for (_, values) in &mut ranges {
            values.drain(1..values.len().saturating_sub(1).max(1));
        }
    }
    let mut digits = vec![0; ranges.len()];
    let mut found: Vec<Value> = Vec::new();
    loop {
        let value = formula.evaluate(&|name| {
            let position = ranges.iter().position(|(other, _)| other == name);
            position.map_or(Value::Bool(false), |position| {
                ranges[position].1[digits[position]].clone()
            })
        })?;
        if !found.contains(&value) {
            found.push(value);
        }
        let Some(digit) =
            (0..digits.len()).find(|&digit| digits[digit] + 1 < ranges[digit].1.len())
        else {
            break;
        };
        digits[..digit].fill(0);
        digits[digit] += 1;
    }
    found.sort();
    Ok(found)
}

impl Times {
    /// The largest number of copies.
    pub fn most(&self) -> usize {
        match self {
            Self::Fixed(count) => *count,
            Self::Decided { counts, .. } => counts.iter().copied().max().unwrap_or(0),
        }
    }
}

impl Step {
    /// The sequences within it.
    pub fn bodies(&self) -> Vec<&Sequence> {
        match self {
            Self::Input { .. }
            | Self::Let { .. }
            | Self::Setting { .. }
            | Self::Decide { .. }
            | Self::Keep { .. }
            | Self::Read { .. }
            | Self::Nothing { .. }
            | Self::Operation(_) => vec![],
            Self::Residual { body, .. } | Self::Gate { body, .. } => vec![body],
            Self::Parallel { branches, .. } | Self::Choose { branches, .. } => {
                branches.iter().collect()
            }
            Self::If {
                then, otherwise, ..
            } => vec![then, otherwise],
            Self::Repeat { times, copies, .. } => copies.iter().take(times.most()).collect(),
        }
    }

    /// Whether anything is decided in it.
    pub fn decides(&self) -> bool {
        let decides_itself = matches!(
            self,
            Self::Decide { .. }
                | Self::Choose { .. }
                | Self::Repeat {
                    times: Times::Decided { .. },
                    ..
                }
        );
        decides_itself || self.bodies().into_iter().any(|body| body.decides)
    }

    fn may_be_nothing(&self) -> bool {
        match self {
            Self::Nothing { .. } => true,
            Self::If { .. } | Self::Choose { .. } => {
                let mut bodies = self.bodies().into_iter();
                bodies.any(Sequence::may_be_nothing)
            }
            _ => false,
        }
    }

    /// Whether it, or a step within it, goes on from a tensor.
    pub fn reads_tensor(&self, tensor: usize) -> bool {
        match self {
            Self::Read { tensor: own } => *own == tensor,
            _ => {
                let mut steps = self.bodies().into_iter().flat_map(|body| &body.steps);
                steps.any(|step| step.reads_tensor(tensor))
            }
        }
    }

    /// Calls `found` for the decisions taken before this step that conditions in it read, of those
    /// conditions on which other decisions depend.
    pub fn reads(&self, found: &mut dyn FnMut(usize)) {
        if !self.decides() {
            return;
        }
        let mut body = |body: &Sequence| body.needs[0].iter().for_each(|slot| found(*slot));
        match self {
            Self::Input { .. }
            | Self::Let { .. }
            | Self::Setting { .. }
            | Self::Decide { .. }
            | Self::Keep { .. }
            | Self::Read { .. }
            | Self::Nothing { .. }
            | Self::Operation(_) => {}
            Self::Residual { body: inner, .. } | Self::Gate { body: inner, .. } => body(inner),
            Self::Parallel { branches, .. } | Self::Choose { branches, .. } => {
                branches.iter().for_each(body)
            }
            Self::If {
                then,
                otherwise,
                reads,
                ..
            } => {
                body(then);
                body(otherwise);
                reads.iter().for_each(|slot| found(*slot));
            }
            // Tied copies after the first have nothing left to decide.
            Self::Repeat {
                copies, tied: true, ..
            } => copies.iter().take(1).for_each(body),
            Self::Repeat { copies, .. } => copies.iter().for_each(body),
        }
    }
}
