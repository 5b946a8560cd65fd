//! A space without its operations: only what is decided, in the order in which it is met.
//!
//! Searchers walk this tree instead of building a graph for each candidate.

use crate::error::{Result, SpaceError};
use crate::program::{Formula, Name, Program, Sequence, Step, Times};
use crate::value::{DecisionSlot, Value};

/// One place where something is decided.
#[derive(Clone, Debug)]
pub enum DecisionNode {
    /// A decision that only sets a value; `slot` is its number in [`crate::Space::decisions`].
    Decide {
        /// The decision.
        slot: usize,
        /// The variable that conditions may read.
        variable: Variable,
    },
    /// A decision between branches, one for each of its values.
    Choose {
        /// The decision.
        slot: usize,
        /// What each value goes on with.
        branches: Vec<Vec<DecisionNode>>,
    },
    /// The first copies of a body, as many as `slot` decides or always the same number.
    Repeat {
        /// The decision, if there is one.
        slot: Option<usize>,
        /// The number of copies for each of its values.
        counts: Vec<usize>,
        /// The copies, as many as the largest number. Tied copies decide nothing after the first.
        copies: Vec<Vec<DecisionNode>>,
    },
    /// Branches that follow from decisions taken before.
    If {
        /// The condition.
        condition: Condition,
        /// What follows if it is true.
        then: Vec<DecisionNode>,
        /// What follows if it is false.
        otherwise: Vec<DecisionNode>,
    },
    /// An expression that a condition may read.
    Let(Binding),
}

/// The variable of a decision, if conditions of the space may read it.
#[derive(Clone, Copy, Debug)]
pub struct Variable(Option<usize>);

/// A condition on decisions.
#[derive(Clone, Debug)]
pub struct Condition {
    formula: Formula,
    reads: Vec<usize>,
}

impl Condition {
    /// The decisions that it reads.
    pub fn reads(&self) -> &[usize] {
        &self.reads
    }
}

/// A named expression.
#[derive(Clone, Debug)]
pub struct Binding {
    variable: usize,
    formula: Formula,
}

/// All decisions of a space as a tree.
#[derive(Debug)]
pub(crate) struct DecisionTree {
    pub nodes: Vec<DecisionNode>,
    /// What each variable stands for; none if there are no conditions.
    variables: Vec<Meaning>,
}

/// What a variable stands for.
#[derive(Clone, Debug, Default)]
enum Meaning {
    /// Something that no condition reads.
    #[default]
    Unread,
    Decision(usize),
    Expression(Formula),
}

impl DecisionTree {
    pub fn new(program: &Program) -> Self {
        let has_conditions = reads_decisions(&program.body);
        let nodes = nodes(&program.body, has_conditions);
        let mut variables = Vec::new();
        if has_conditions {
            variables.resize(program.variables, Meaning::Unread);
            note_meanings(&nodes, &mut variables);
        }
        Self { nodes, variables }
    }

    /// Whether a condition holds, given the index of each decision's value: `None` if it reads one
    /// that has no value.
    pub fn holds(
        &self,
        slots: &[DecisionSlot],
        condition: &Condition,
        value_of: &dyn Fn(usize) -> Option<usize>,
    ) -> Option<bool> {
        match self.value(slots, &condition.formula, value_of)? {
            Value::Bool(holds) => Some(holds),
            _ => None,
        }
    }

    /// The value of a formula if all of its names have one.
    fn value(
        &self,
        slots: &[DecisionSlot],
        formula: &Formula,
        value_of: &dyn Fn(usize) -> Option<usize>,
    ) -> Option<Value> {
        let value = |name: &Name| match name {
            Name::Channels => None,
            Name::Variable(variable) => match &self.variables[*variable] {
                Meaning::Unread => None,
                Meaning::Decision(slot) => {
                    let values = &slots[*slot].domain.values;
                    value_of(*slot).and_then(|index| values.get(index).cloned())
                }
                Meaning::Expression(formula) => self.value(slots, formula, value_of),
            },
        };
        let mut is_known = true;
        formula.names(&mut |name| is_known &= value(name).is_some());
        let found =
            is_known.then(|| formula.evaluate(&|name| value(name).unwrap_or(Value::Int(0))));
        found?.ok()
    }

    /// Walks one member; `choose` gets the number of each decision and how many values it has.
    /// Returns the index of the value of each slot, `inactive` where none was asked for.
    ///
    /// # Errors
    /// If an index is out of range.
    pub fn walk<F: FnMut(usize, usize) -> usize>(
        &self,
        slots: &[DecisionSlot],
        inactive: u32,
        choose: F,
    ) -> Result<Box<[u32]>> {
        let mut walk = Walk {
            slots,
            inactive,
            choose,
            chosen: vec![inactive; slots.len()].into_boxed_slice(),
            variables: vec![None; self.variables.len()],
        };
        walk.nodes(&self.nodes)?;
        Ok(walk.chosen)
    }
}

/// Finds what variables stand for.
fn note_meanings(nodes: &[DecisionNode], found: &mut [Meaning]) {
    for node in nodes {
        match node {
            DecisionNode::Decide { slot, variable } => {
                if let Variable(Some(variable)) = variable {
                    found[*variable] = Meaning::Decision(*slot);
                }
            }
            DecisionNode::Let(binding) => {
                found[binding.variable] = Meaning::Expression(binding.formula.clone());
            }
            DecisionNode::Choose { branches, .. } => {
                branches
                    .iter()
                    .for_each(|branch| note_meanings(branch, found));
            }
            DecisionNode::Repeat { copies, .. } => {
                copies.iter().for_each(|copy| note_meanings(copy, found));
            }
            DecisionNode::If {
                then, otherwise, ..
            } => {
                note_meanings(then, found);
                note_meanings(otherwise, found);
            }
        }
    }
}

/// Whether a condition is left that decisions settle.
fn reads_decisions(sequence: &Sequence) -> bool {
    sequence.steps.iter().any(|step| match step {
        Step::If { .. } => step.decides(),
        Step::Residual { body, .. } | Step::Gate { body, .. } => reads_decisions(body),
        Step::Parallel { branches, .. } | Step::Choose { branches, .. } => {
            branches.iter().any(reads_decisions)
        }
        Step::Repeat { copies, .. } => copies.iter().any(reads_decisions),
        Step::Input { .. }
        | Step::Let { .. }
        | Step::Setting { .. }
        | Step::Decide { .. }
        | Step::Keep { .. }
        | Step::Read { .. }
        | Step::Nothing { .. }
        | Step::Operation(_) => false,
    })
}

fn nodes(sequence: &Sequence, has_conditions: bool) -> Vec<DecisionNode> {
    let mut found = Vec::new();
    let all = |sequences: &[Sequence]| -> Vec<Vec<DecisionNode>> {
        let each = sequences.iter();
        each.map(|sequence| nodes(sequence, has_conditions))
            .collect()
    };
    for step in &sequence.steps {
        match step {
            Step::Input { .. }
            | Step::Setting { .. }
            | Step::Keep { .. }
            | Step::Read { .. }
            | Step::Nothing { .. }
            | Step::Operation(_) => {}
            Step::Let {
                variable, formula, ..
            } => {
                let mut reads_channels = false;
                formula.names(&mut |name| reads_channels |= matches!(name, Name::Channels));
                if has_conditions && !reads_channels {
                    found.push(DecisionNode::Let(Binding {
                        variable: *variable,
                        formula: formula.clone(),
                    }));
                }
            }
            Step::Decide { variable, slot } => found.push(DecisionNode::Decide {
                slot: *slot,
                variable: Variable(has_conditions.then_some(*variable)),
            }),
            Step::Residual { body, .. } | Step::Gate { body, .. } => {
                found.extend(nodes(body, has_conditions));
            }
            Step::Parallel { branches, .. } => found.extend(all(branches).into_iter().flatten()),
            Step::If { .. } if !step.decides() => {}
            Step::If {
                condition,
                then,
                otherwise,
                reads,
                ..
            } => found.push(DecisionNode::If {
                condition: Condition {
                    formula: condition.clone(),
                    reads: reads.clone(),
                },
                then: nodes(then, has_conditions),
                otherwise: nodes(otherwise, has_conditions),
            }),
            Step::Choose { slot, branches, .. } => found.push(DecisionNode::Choose {
                slot: *slot,
                branches: all(branches),
            }),
            Step::Repeat { times, copies, .. } => {
                let copies = all(copies);
                let (slot, counts) = match times {
                    Times::Fixed(count) => (None, vec![*count]),
                    Times::Decided { slot, counts } => (Some(*slot), counts.clone()),
                };
                found.push(DecisionNode::Repeat {
                    slot,
                    counts,
                    copies,
                });
            }
        }
    }
    found
}

struct Walk<'s, F> {
    slots: &'s [DecisionSlot],
    inactive: u32,
    choose: F,
    chosen: Box<[u32]>,
    variables: Vec<Option<Value>>,
}

impl<F: FnMut(usize, usize) -> usize> Walk<'_, F> {
    fn nodes(&mut self, nodes: &[DecisionNode]) -> Result<()> {
        for node in nodes {
            match node {
                DecisionNode::Decide { slot, variable } => {
                    let index = self.decide(*slot)?;
                    if let Variable(Some(variable)) = variable {
                        let value = &self.slots[*slot].domain.values[index];
                        self.variables[*variable] = Some(value.clone());
                    }
                }
                DecisionNode::Choose { slot, branches } => {
                    let index = self.decide(*slot)?;
                    self.nodes(&branches[index])?;
                }
                DecisionNode::Repeat {
                    slot,
                    counts,
                    copies,
                } => {
                    let index = match slot {
                        Some(slot) => self.decide(*slot)?,
                        None => 0,
                    };
                    for copy in &copies[..counts[index]] {
                        self.nodes(copy)?;
                    }
                }
                DecisionNode::If {
                    condition,
                    then,
                    otherwise,
                } => match self.evaluate(&condition.formula) {
                    Some(Value::Bool(true)) => self.nodes(then)?,
                    Some(Value::Bool(false)) => self.nodes(otherwise)?,
                    _ => {
                        return Err(SpaceError::Illegal(
                            "a condition of this space is neither true nor false".into(),
                        ));
                    }
                },
                DecisionNode::Let(binding) => {
                    self.variables[binding.variable] = self.evaluate(&binding.formula);
                }
            }
        }
        Ok(())
    }

    fn decide(&mut self, slot: usize) -> Result<usize> {
        if self.chosen[slot] != self.inactive {
            return Ok(self.chosen[slot] as usize);
        }
        let count = self.slots[slot].domain.values.len();
        let index = (self.choose)(slot, count);
        if index >= count {
            return Err(SpaceError::Illegal(format!(
                "decision `{}` has {count} values, there is no value {index}",
                self.slots[slot].path
            )));
        }
        self.chosen[slot] = index as u32;
        Ok(index)
    }

    /// The value of a formula if all of its names have one.
    fn evaluate(&self, formula: &Formula) -> Option<Value> {
        let mut is_known = true;
        formula.names(&mut |name| {
            is_known &=
                matches!(name, Name::Variable(variable) if self.variables[*variable].is_some());
        });
        if !is_known {
            return None;
        }
        let value = formula.evaluate(&|name| match name {
            Name::Variable(variable) => self.variables[*variable]
                .clone()
                .unwrap_or(Value::Bool(false)),
            Name::Channels => Value::Bool(false),
        });
        value.ok()
    }
}
