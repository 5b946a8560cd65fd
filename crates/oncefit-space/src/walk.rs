//! Walking a space: names, shapes and decisions, in one order for every purpose.
//!
//! A walk either asks which value each decision takes, and builds one member; or it takes every
//! value of every decision at once, and builds the envelope: each quantity is then the list of the
//! values it can have.

use std::collections::HashMap;

use crate::error::{Result, SpaceError, suggestion};
use crate::expression::{Expression, NoValue};
use crate::graph::{Activation, FeatureShape, Op, output_shape};
use crate::scope::Scope;
use crate::tree::{Block, DomainText, Fallback, Node, OpKind, Statement, Tree};
use crate::value::{DecisionSlot, Domain, Value};

/// Combinations of elastic values that are followed in one expression.
const COMBINATIONS: usize = 4096;
/// Operations in one network, beyond which a space is taken for a mistake.
const MOST_NODES: usize = 20_000;

/// Who decides.
pub(crate) enum Mode<'c> {
    /// Every decision takes the value of the index that is returned.
    Member(&'c mut dyn FnMut(&DecisionSlot) -> usize),
    /// Every decision takes all its values.
    All,
}

/// An operation as it was walked: the largest of what it can be.
#[derive(Clone, Debug)]
pub(crate) struct Walked {
    pub path: String,
    pub op: Op,
    pub inputs: Vec<usize>,
    pub shape: FeatureShape,
    /// Output channels it can have.
    pub channels: Vec<usize>,
    /// Kernel sizes it can have.
    pub kernels: Vec<usize>,
}

pub(crate) struct Walker<'t, 'c> {
    tree: &'t Tree,
    mode: Mode<'c>,
    env: Vec<(String, Vec<Value>)>,
    scope: Scope,
    current: Option<usize>,
    /// Choices that copies of a tied repeat replay, by path within the copy.
    replay: Option<(String, HashMap<String, usize>)>,
    pub nodes: Vec<Walked>,
    pub decisions: Vec<(DecisionSlot, usize)>,
}

/// Whether the members of a space add a residual block's input to its output.
enum Shortcut {
    Always,
    Sometimes,
    Never,
}

/// A decision's domain after the space's fixes.
pub(crate) fn effective_domain(
    tree: &Tree,
    path: &str,
    name: &str,
    domain: Domain,
) -> Result<Domain> {
    let mut values = domain.values;
    for (fixed, legal) in &tree.fixes {
        if fixed == path || fixed == name {
            values.retain(|value| legal.contains(value));
        }
    }
    if values.is_empty() {
        return Err(SpaceError::Illegal(format!(
            "decision `{path}` has no values left"
        )));
    }
    Ok(Domain {
        values,
        ordered: domain.ordered,
    })
}

impl<'t, 'c> Walker<'t, 'c> {
    pub fn new(tree: &'t Tree, mode: Mode<'c>) -> Self {
        let env = tree
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), vec![value.clone()]))
            .collect();
        Self {
            tree,
            mode,
            env,
            scope: Scope::default(),
            current: None,
            replay: None,
            nodes: Vec::new(),
            decisions: Vec::new(),
        }
    }

    pub fn run(mut self) -> Result<Self> {
        let tree = self.tree;
        self.block(&tree.body)?;
        match self.current {
            Some(_) if self.nodes.len() > 1 => Ok(self),
            _ => Err(SpaceError::Illegal(format!(
                "space `{}` has no network: it needs an input and operations",
                tree.name
            ))),
        }
    }

    fn block(&mut self, block: &'t Block) -> Result<()> {
        let depth = self.env.len();
        for statement in block {
            match statement {
                Statement::Decide { name, domain, at } => {
                    let domain = self.domain(domain, *at)?;
                    let path = self.scope.decision(name);
                    let values = self.decide(path, name, domain)?;
                    self.env.push((name.clone(), values));
                }
                Statement::Let { name, value } => {
                    let values = self.evaluate(value, 0)?;
                    self.env.push((name.clone(), values));
                }
                Statement::Node { label, node, at } => self.node(label.as_deref(), node, *at)?,
            }
        }
        self.env.truncate(depth);
        Ok(())
    }

    /// The values that a decision takes on this walk.
    fn decide(&mut self, path: String, name: &str, domain: Domain) -> Result<Vec<Value>> {
        let domain = effective_domain(self.tree, &path, name, domain)?;
        if domain.values.len() == 1 {
            return Ok(domain.values);
        }
        let slot = DecisionSlot {
            path,
            name: name.to_owned(),
            domain,
        };
        let replayed = self.replay.as_ref().and_then(|(prefix, choices)| {
            choices
                .get(slot.path.strip_prefix(prefix.as_str())?)
                .copied()
        });
        if let Some(index) = replayed {
            return Ok(vec![
                slot.domain.values[index.min(slot.domain.values.len() - 1)].clone(),
            ]);
        }
        let (index, values) = match &mut self.mode {
            Mode::All => (0, slot.domain.values.clone()),
            Mode::Member(choose) => {
                let index = choose(&slot);
                let value = slot.domain.values.get(index).ok_or_else(|| {
                    SpaceError::Illegal(format!(
                        "decision `{}` has {} values, there is no value {index}",
                        slot.path,
                        slot.domain.values.len()
                    ))
                })?;
                (index, vec![value.clone()])
            }
        };
        self.decisions.push((slot, index));
        Ok(values)
    }

    fn node(&mut self, label: Option<&str>, node: &'t Node, at: usize) -> Result<()> {
        if self.nodes.len() > MOST_NODES {
            return Err(self.tree.source.error(
                at,
                format!("a network of this space has more than {MOST_NODES} operations"),
            ));
        }
        match node {
            Node::Input(shape) => self.input(shape, at),
            Node::Op { kind, arguments } => {
                let path = self.scope.path(label.unwrap_or(kind.name));
                self.operation(path, kind, arguments, at)
            }
            Node::Call {
                definition,
                arguments,
            } => {
                let definition = &self.tree.definitions[*definition];
                let mut inner = Vec::with_capacity(arguments.len());
                for (name, argument) in definition.parameters.iter().zip(arguments) {
                    inner.push((name.clone(), self.evaluate(argument, at)?));
                }
                // A template sees the space's parameters and its own, not its caller's names.
                let globals = self.env[..self.tree.parameters.len()].to_vec();
                let outer = std::mem::replace(&mut self.env, globals);
                self.env.extend(inner);
                self.labelled(label, |walker| walker.block(&definition.body))?;
                self.env = outer;
                Ok(())
            }
            Node::Seq(body) => self.labelled(label, |walker| walker.block(body)),
            Node::Residual(body) => self.labelled(label, |walker| {
                let before = walker.source(at)?;
                walker.block(body)?;
                let after = walker.source(at)?;
                let path = walker.scope.path("add");
                match walker.shortcut(before, after) {
                    Shortcut::Always => walker.push(path, Op::Add, vec![after, before], None),
                    Shortcut::Sometimes => walker.meet(path, Some(before), after),
                    Shortcut::Never => Ok(()),
                }
            }),
            Node::Gate(body) => self.labelled(label, |walker| {
                let before = walker.source(at)?;
                walker.block(body)?;
                let after = walker.source(at)?;
                let path = walker.scope.path("multiply");
                walker.push(path, Op::Multiply, vec![before, after], None)
            }),
            Node::Sum(branches) => self.labelled(label, |walker| {
                let before = walker.source(at)?;
                let mut sum = None;
                for branch in branches {
                    walker.current = Some(before);
                    walker.block(branch)?;
                    let after = walker.source(at)?;
                    if let Some(left) = sum {
                        let path = walker.scope.path("add");
                        walker.push(path, Op::Add, vec![left, after], None)?;
                    }
                    sum = walker.current;
                }
                Ok(())
            }),
            Node::If {
                condition,
                then,
                otherwise,
            } => self.branch(condition, then, otherwise, at),
            Node::Optional { name, body } => {
                let path = self.scope.path(label.unwrap_or(name));
                let values = [Value::Bool(false), Value::Bool(true)].to_vec();
                let values = self.decide(
                    path.clone(),
                    name,
                    Domain {
                        values,
                        ordered: true,
                    },
                )?;
                let inner = values.contains(&Value::Bool(true)).then_some(body);
                let skips = values.contains(&Value::Bool(false));
                let inner = inner.map(|body| (path.clone(), body));
                self.join(&path, inner.into_iter().collect(), skips, at)
            }
            Node::Choice { name, branches } => {
                let path = self.scope.path(label.unwrap_or(name));
                let values = branches
                    .iter()
                    .map(|(label, _)| Value::Text(label.clone()))
                    .collect();
                let values = self.decide(
                    path.clone(),
                    name,
                    Domain {
                        values,
                        ordered: false,
                    },
                )?;
                let taken = branches
                    .iter()
                    .filter(|(label, _)| values.contains(&Value::Text(label.clone())))
                    .map(|(label, body)| (format!("{path}.{label}"), body))
                    .collect();
                self.join(&path, taken, false, at)
            }
            Node::Repeat {
                tied,
                name,
                domain,
                index,
                body,
            } => self.repeat(label, *tied, name, domain, index.as_deref(), body, at),
        }
    }

    /// Runs `body` in a scope of its own if there is a label, else in the scope around it.
    fn labelled(
        &mut self,
        label: Option<&str>,
        body: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<()> {
        match label {
            None => body(self),
            Some(label) => {
                let path = self.scope.path(label);
                self.within(&path, body)
            }
        }
    }

    fn within(&mut self, path: &str, body: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        let outer = std::mem::replace(&mut self.scope, Scope::inner(path));
        let result = body(self);
        self.scope = outer;
        result
    }

    /// Walks alternatives from the same source. In an envelope they meet in an `Add` called
    /// `<path>.join`, since their outputs are the same channels.
    fn join(
        &mut self,
        path: &str,
        alternatives: Vec<(String, &'t Block)>,
        skips: bool,
        at: usize,
    ) -> Result<()> {
        let before = self.source(at)?;
        let mut joined = skips.then_some(before);
        for (inner, body) in alternatives {
            self.current = Some(before);
            self.within(&inner, |walker| walker.block(body))?;
            let after = self.source(at)?;
            self.meet(format!("{path}.join"), joined, after)?;
            joined = self.current;
        }
        self.current = joined;
        Ok(())
    }

    /// Joins the outputs of two alternatives: as large as the larger, with the channels of both.
    fn meet(&mut self, path: String, before: Option<usize>, after: usize) -> Result<()> {
        self.current = Some(after);
        let Some(before) = before.filter(|before| *before != after) else {
            return Ok(());
        };
        let (left, right) = (&self.nodes[before], &self.nodes[after]);
        let shape = FeatureShape {
            height: left.shape.height.max(right.shape.height),
            width: left.shape.width.max(right.shape.width),
            channels: left.shape.channels.max(right.shape.channels),
        };
        let mut channels = [&left.channels[..], &right.channels[..]].concat();
        channels.sort_unstable();
        channels.dedup();
        let mut path = path;
        while self.nodes.iter().any(|node| node.path == path) {
            path.push('+');
        }
        self.current = Some(self.nodes.len());
        let inputs = vec![before, after];
        self.nodes.push(Walked {
            path,
            op: Op::Add,
            inputs,
            shape,
            channels,
            kernels: Vec::new(),
        });
        Ok(())
    }

    fn branch(
        &mut self,
        condition: &Expression,
        then: &'t Block,
        otherwise: &'t Block,
        at: usize,
    ) -> Result<()> {
        let values = self.evaluate(condition, at)?;
        let mut names = Vec::new();
        condition.names(&mut names);
        if names.iter().any(|name| name == "in") {
            let message = "a condition may not depend on `in`: counting would not be exact";
            return Err(self.tree.source.error(at, message.into()));
        }
        for value in &values {
            if !matches!(value, Value::Bool(_)) {
                let message = format!("a condition is true or false, this is {}", value.kind());
                return Err(self.tree.source.error(at, message));
            }
        }
        let before = self.current;
        let mut joined = None;
        for (wanted, body) in [(true, then), (false, otherwise)] {
            if values.contains(&Value::Bool(wanted)) {
                self.current = before;
                self.block(body)?;
                if let Some(after) = self.current {
                    let path = format!("{}if.join", self.scope.prefix);
                    self.meet(path, joined, after)?;
                }
                joined = self.current;
            } else {
                // Names must not depend on which branch is taken.
                self.scope.reserve(self.tree, body);
            }
        }
        Ok(())
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of a repeat")]
    fn repeat(
        &mut self,
        label: Option<&str>,
        tied: bool,
        name: &str,
        domain: &'t DomainText,
        index: Option<&str>,
        body: &'t Block,
        at: usize,
    ) -> Result<()> {
        let path = self.scope.path(label.unwrap_or("repeat"));
        let domain = self.domain(domain, at)?;
        let counts = self.decide(format!("{path}.{name}"), name, domain)?;
        let counts: Vec<usize> = counts
            .iter()
            .map(|count| match count {
                Value::Int(count @ 0..=1000) => Ok(*count as usize),
                other => Err(self.tree.source.error(
                    at,
                    format!("a number of repeats is an integer from 0 to 1000, this is `{other}`"),
                )),
            })
            .collect::<Result<_>>()?;
        let most = counts.iter().copied().max().unwrap_or(0);
        let mut joined = counts.contains(&0).then(|| self.source(at)).transpose()?;
        let first_decision = self.decisions.len();
        for copy in 0..most {
            let depth = self.env.len();
            if let Some(index) = index {
                self.env
                    .push((index.to_owned(), vec![Value::Int(copy as i64)]));
            }
            let copy_path = format!("{path}[{copy}]");
            let outer = self.replay.take();
            if tied && copy > 0 {
                let first = format!("{path}[0].");
                let choices = self.decisions[first_decision..]
                    .iter()
                    .filter_map(|(slot, index)| {
                        Some((slot.path.strip_prefix(&first)?.to_owned(), *index))
                    })
                    .collect();
                self.replay = Some((format!("{copy_path}."), choices));
            } else {
                self.replay.clone_from(&outer);
            }
            self.within(&copy_path, |walker| walker.block(body))?;
            self.replay = outer;
            self.env.truncate(depth);
            // In an envelope, shorter repeats end here: the outputs of all lengths are the same
            // channels.
            let after = self.source(at)?;
            if counts.contains(&(copy + 1)) && counts.len() > 1 && most > 1 {
                self.meet(format!("{path}.join"), joined, after)?;
                joined = self.current;
                if copy + 1 < most {
                    self.current = Some(after);
                }
            }
        }
        if most == 0 {
            self.current = joined;
        }
        Ok(())
    }

    fn input(&mut self, shape: &'t [Expression; 3], at: usize) -> Result<()> {
        if !self.nodes.is_empty() {
            return Err(self
                .tree
                .source
                .error(at, "a space has one input, before everything else".into()));
        }
        let mut extents = [0; 3];
        for (extent, expression) in extents.iter_mut().zip(shape) {
            *extent = self
                .sizes(expression, at, "an extent of the input")?
                .into_iter()
                .max()
                .unwrap_or(0);
        }
        let [height, width, channels] = extents;
        self.nodes.push(Walked {
            path: self.scope.path("input"),
            op: Op::Input,
            inputs: Vec::new(),
            shape: FeatureShape {
                height,
                width,
                channels,
            },
            channels: vec![channels],
            kernels: Vec::new(),
        });
        self.current = Some(0);
        Ok(())
    }

    fn operation(
        &mut self,
        path: String,
        kind: &'static OpKind,
        arguments: &'t [Option<Expression>],
        at: usize,
    ) -> Result<()> {
        let source = self.source(at)?;
        let mut values = Vec::with_capacity(arguments.len());
        for ((name, default), argument) in kind.arguments.iter().zip(arguments) {
            let found = match (argument, default) {
                (Some(expression), _) => self.evaluate(expression, at)?,
                (None, Fallback::Int(value)) => vec![Value::Int(*value)],
                (None, Fallback::Real(value)) => vec![Value::Real(*value)],
                (None, Fallback::Bool(value)) => vec![Value::Bool(*value)],
                (None, Fallback::Required) => {
                    let message = format!("`{}` needs its argument `{name}`", kind.name);
                    return Err(self.tree.source.error(at, message));
                }
            };
            values.push(found);
        }
        let reader = Arguments {
            walker: self,
            kind,
            values: &values,
            at,
        };
        let mut channels = None;
        let mut kernels = Vec::new();
        let op = match kind.name {
            "conv" => {
                channels = Some(reader.sizes(0)?);
                Op::Convolution {
                    out_channels: reader.largest(0)?,
                    kernel: reader.single_size(1)?,
                    stride: reader.single_size(2)?,
                    bias: reader.truth(3)?,
                }
            }
            "depthwise" => {
                kernels = reader.sizes(0)?;
                Op::Depthwise {
                    kernel: reader.largest(0)?,
                    stride: reader.single_size(1)?,
                    transform: reader.truth(2)?,
                }
            }
            "batch_norm" => Op::BatchNorm {
                epsilon: reader.real(0)?,
            },
            "activate" => Op::Activation(reader.activation(0)?),
            "global_average_pool" => Op::GlobalAveragePool,
            "average_pool" => Op::AveragePool {
                kernel: reader.single_size(0)?,
                stride: reader.single_size(1)?,
                padding: reader.padding(2)?,
                ceil: reader.truth(3)?,
            },
            "max_pool" => Op::MaxPool {
                kernel: reader.single_size(0)?,
                stride: reader.single_size(1)?,
                padding: reader.padding(2)?,
            },
            "dropout" => {
                let rate = reader.real(0)?;
                if !(0.0..1.0).contains(&rate) {
                    let message =
                        format!("a dropout rate is 0 or more and below 1, this is {rate}");
                    return Err(self.tree.source.error(at, message));
                }
                Op::Dropout { rate }
            }
            "linear" => {
                channels = Some(reader.sizes(0)?);
                Op::Linear {
                    out_features: reader.largest(0)?,
                    bias: reader.truth(1)?,
                }
            }
            name => match Activation::by_name(name) {
                Some(activation) => Op::Activation(activation),
                None => {
                    return Err(self
                        .tree
                        .source
                        .error(at, format!("`{name}` has no operation")));
                }
            },
        };
        self.push(path, op, vec![source], channels)?;
        if let Some(node) = self.nodes.last_mut() {
            node.kernels = kernels;
        }
        Ok(())
    }

    /// Adds an operation; its channels are those of its first input unless they are given.
    fn push(
        &mut self,
        path: String,
        op: Op,
        inputs: Vec<usize>,
        channels: Option<Vec<usize>>,
    ) -> Result<()> {
        let shapes: Vec<FeatureShape> = inputs
            .iter()
            .map(|&input| self.nodes[input].shape)
            .collect();
        let shape = output_shape(&op, &shapes).map_err(|message| SpaceError::Shape {
            path: path.clone(),
            message,
        })?;
        let channels = channels.unwrap_or_else(|| self.nodes[inputs[0]].channels.clone());
        self.current = Some(self.nodes.len());
        self.nodes.push(Walked {
            path,
            op,
            inputs,
            shape,
            channels,
            kernels: Vec::new(),
        });
        Ok(())
    }

    /// Whether members add the input of a residual block to its output.
    fn shortcut(&self, before: usize, after: usize) -> Shortcut {
        let (left, right) = (&self.nodes[before], &self.nodes[after]);
        let is_same_size =
            left.shape.height == right.shape.height && left.shape.width == right.shape.width;
        let can_meet = left
            .channels
            .iter()
            .any(|channels| right.channels.contains(channels));
        if before == after || !is_same_size || !can_meet {
            Shortcut::Never
        } else if left.channels == right.channels {
            Shortcut::Always
        } else {
            Shortcut::Sometimes
        }
    }

    fn source(&self, at: usize) -> Result<usize> {
        self.current.ok_or_else(|| {
            self.tree.source.error(
                at,
                "there is no `input(height, width, channels)` before this".into(),
            )
        })
    }

    fn domain(&self, domain: &DomainText, at: usize) -> Result<Domain> {
        let single = |expression: &Expression| -> Result<Value> {
            let mut names = Vec::new();
            expression.names(&mut names);
            let values = self.evaluate(expression, at)?;
            match <[Value; 1]>::try_from(values) {
                Ok([value]) if !names.iter().any(|name| name == "in") => Ok(value),
                _ => Err(self.tree.source.error(
                    at,
                    "a domain may not depend on a decision or on `in`: counting would not be exact"
                        .into(),
                )),
            }
        };
        match domain {
            DomainText::List { values, unordered } => {
                let values = values.iter().map(single).collect::<Result<Vec<_>>>()?;
                for (index, value) in values.iter().enumerate() {
                    if values[..index].contains(value) {
                        let message = format!("`{value}` stands twice in this domain");
                        return Err(self.tree.source.error(at, message));
                    }
                }
                let are_words = values.iter().any(|value| matches!(value, Value::Text(_)));
                Ok(Domain {
                    values,
                    ordered: !unordered && !are_words,
                })
            }
            DomainText::Range { from, to, step } => {
                let integer = |expression: &Expression| match single(expression)? {
                    Value::Int(value) => Ok(value),
                    other => Err(self.tree.source.error(
                        at,
                        format!(
                            "a range has integer ends and step, this is {}",
                            other.kind()
                        ),
                    )),
                };
                let (from, to) = (integer(from)?, integer(to)?);
                let step = step.as_ref().map_or(Ok(1), integer)?;
                if step < 1 || from > to || to.abs_diff(from) / step.unsigned_abs() > 100_000 {
                    let message = format!(
                        "a range rises by a step of at least 1 and has at most 100000 values, this is {from}..={to} step {step}"
                    );
                    return Err(self.tree.source.error(at, message));
                }
                let values = (from..=to).step_by(step as usize).map(Value::Int).collect();
                Ok(Domain {
                    values,
                    ordered: true,
                })
            }
        }
    }

    /// Every value that an expression can have on this walk, in rising order of numbers.
    fn evaluate(&self, expression: &Expression, at: usize) -> Result<Vec<Value>> {
        let fails = |error: NoValue| {
            self.tree
                .source
                .error(error.at.unwrap_or(at), error.message)
        };
        let mut names = Vec::new();
        expression.names(&mut names);
        let mut ranges: Vec<(&str, Vec<Value>)> = Vec::new();
        for name in &names {
            ranges.push((name, self.lookup(name, expression, at)?));
        }
        let combinations: usize = ranges
            .iter()
            .map(|(_, values)| values.len())
            .try_fold(1usize, usize::checked_mul)
            .unwrap_or(usize::MAX);
        if combinations > COMBINATIONS {
            // Only the ends of each range: enough for the largest and the smallest.
            for (_, values) in &mut ranges {
                if values.len() > 2 {
                    *values = vec![values[0].clone(), values[values.len() - 1].clone()];
                }
            }
        }
        let mut indices = vec![0; ranges.len()];
        let mut found: Vec<Value> = Vec::new();
        loop {
            let value = expression
                .evaluate(&|name| {
                    let position = ranges.iter().position(|(other, _)| *other == name)?;
                    Some(ranges[position].1[indices[position]].clone())
                })
                .map_err(fails)?;
            if !found.contains(&value) {
                found.push(value);
            }
            // Next combination.
            let mut digit = 0;
            while digit < indices.len() {
                indices[digit] += 1;
                if indices[digit] < ranges[digit].1.len() {
                    break;
                }
                indices[digit] = 0;
                digit += 1;
            }
            if digit == indices.len() {
                break;
            }
        }
        if found.len() > 1 && found.iter().all(|value| value.as_f64().is_some()) {
            found.sort_by(|left, right| {
                left.as_f64()
                    .unwrap_or(0.0)
                    .total_cmp(&right.as_f64().unwrap_or(0.0))
            });
        }
        Ok(found)
    }

    fn lookup(&self, name: &str, expression: &Expression, at: usize) -> Result<Vec<Value>> {
        if name == "in" {
            let source = self.source(at)?;
            let channels = &self.nodes[source].channels;
            return Ok(channels
                .iter()
                .map(|&channels| Value::Int(channels as i64))
                .collect());
        }
        if let Some((_, values)) = self.env.iter().rev().find(|(other, _)| other == name) {
            return Ok(values.clone());
        }
        if Activation::by_name(name).is_some() {
            return Ok(vec![Value::Text(name.to_owned())]);
        }
        let known: Vec<&str> = self
            .env
            .iter()
            .map(|(name, _)| name.as_str())
            .chain(["in"])
            .chain(Activation::ALL.map(|(name, _)| name))
            .collect();
        let at = position_of(expression, name).unwrap_or(at);
        let hint = suggestion(name, known.iter().copied());
        let message = format!(
            "`{name}` is not known here{hint}; known: {}",
            known.join(", ")
        );
        Err(self.tree.source.error(at, message))
    }

    fn sizes(&self, expression: &Expression, at: usize, what: &str) -> Result<Vec<usize>> {
        let values = self.evaluate(expression, at)?;
        values
            .iter()
            .map(|value| self.size(value, at, what))
            .collect()
    }

    fn size(&self, value: &Value, at: usize, what: &str) -> Result<usize> {
        match value {
            Value::Int(size @ 1..=1_000_000) => Ok(*size as usize),
            other => Err(self.tree.source.error(
                at,
                format!("{what} is an integer from 1 to 1000000, this is `{other}`"),
            )),
        }
    }
}

fn position_of(expression: &Expression, name: &str) -> Option<usize> {
    match expression {
        Expression::Constant(_) => None,
        Expression::Name(other, at) => (other == name).then_some(*at),
        Expression::Binary(_, left, right) => {
            position_of(left, name).or_else(|| position_of(right, name))
        }
        Expression::Call(_, parts) => parts.iter().find_map(|part| position_of(part, name)),
        Expression::If(parts) => parts.iter().find_map(|part| position_of(part, name)),
    }
}

/// The arguments of one operation, each as the list of its values.
struct Arguments<'a, 't, 'c> {
    walker: &'a Walker<'t, 'c>,
    kind: &'static OpKind,
    values: &'a [Vec<Value>],
    at: usize,
}

impl Arguments<'_, '_, '_> {
    fn what(&self, index: usize) -> String {
        format!(
            "argument `{}` of `{}`",
            self.kind.arguments[index].0, self.kind.name
        )
    }

    fn sizes(&self, index: usize) -> Result<Vec<usize>> {
        let what = self.what(index);
        self.values[index]
            .iter()
            .map(|value| self.walker.size(value, self.at, &what))
            .collect()
    }

    fn largest(&self, index: usize) -> Result<usize> {
        Ok(self.sizes(index)?.into_iter().max().unwrap_or(1))
    }

    fn single(&self, index: usize) -> Result<&Value> {
        match &self.values[index][..] {
            [value] => Ok(value),
            _ => {
                let message = format!("{} may not depend on a decision", self.what(index));
                Err(self.walker.tree.source.error(self.at, message))
            }
        }
    }

    fn single_size(&self, index: usize) -> Result<usize> {
        self.walker
            .size(self.single(index)?, self.at, &self.what(index))
    }

    fn padding(&self, index: usize) -> Result<usize> {
        match self.single(index)? {
            Value::Int(0) => Ok(0),
            other => self.walker.size(other, self.at, &self.what(index)),
        }
    }

    fn truth(&self, index: usize) -> Result<bool> {
        match self.single(index)? {
            Value::Bool(value) => Ok(*value),
            other => self.wrong(index, "true or false", other),
        }
    }

    fn real(&self, index: usize) -> Result<f32> {
        match self.single(index)?.as_f64() {
            Some(value) => Ok(value as f32),
            None => self.wrong(index, "a number", self.single(index)?),
        }
    }

    fn activation(&self, index: usize) -> Result<Activation> {
        match self.single(index)? {
            Value::Text(name) if Activation::by_name(name).is_some() => {
                Ok(Activation::by_name(name).unwrap_or(Activation::Identity))
            }
            other => {
                let names = Activation::ALL.map(|(name, _)| name).join(", ");
                self.wrong(index, &format!("one of {names}"), other)
            }
        }
    }

    fn wrong<T>(&self, index: usize, expected: &str, found: &Value) -> Result<T> {
        let message = format!("{} is {expected}, this is `{found}`", self.what(index));
        Err(self.walker.tree.source.error(self.at, message))
    }
}
