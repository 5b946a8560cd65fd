//! Tree to program: expands templates, unrolls repeats, gives every operation and decision its
//! path, computes what is constant and checks what does not depend on shapes.

use std::collections::{HashMap, HashSet};

mod values;

use crate::error::{Result, SpaceError, suggestion};
use crate::expression::Expression;
use crate::operation::operation;
use crate::program::{Combine, Formula, Name, Program, Sequence, Step, Times};
use crate::scope::Scope;
use crate::tree::{
    Argument, Block, DomainText, Fix, Node, SettingText, Source, Statement, Tree, Written,
};
use crate::value::{DecisionSlot, Domain, Value};
use values::Fact;

/// Statements and copies, counted at each use of a template and in each copy of a repeat, beyond
/// which a space is taken for a mistake.
const MOST_STATEMENTS: usize = 100_000;
/// Decisions beyond which a space is taken for a mistake.
const MOST_DECISIONS: usize = 4096;
/// Blocks within blocks, templates expanded.
const DEEPEST: usize = 64;
/// Copies of one repeat.
const MOST_COPIES: i64 = 1000;

/// Makes a tree ready to walk.
///
/// # Errors
/// At the place of what has no meaning: unknown names, domains and conditions that depend on what
/// they may not depend on, wrong arguments.
pub(crate) fn elaborate(tree: &Tree) -> Result<Program> {
    let environment = tree
        .parameters
        .iter()
        .map(|(name, value)| (name.as_str(), Expression::Constant(value.clone())));
    let mut read_labels = HashSet::new();
    let templates = tree.definitions.iter().map(|definition| &definition.body);
    for block in templates.chain([&tree.body]) {
        collect_reads(block, &mut read_labels);
    }
    let mut elaborator = Elaborator {
        tree,
        environment: environment.collect(),
        scope: Scope::default(),
        facts: Vec::new(),
        slots: Vec::new(),
        slot_of: HashMap::new(),
        fixed: vec![false; tree.fixes.len()],
        tied: Vec::new(),
        budget: MOST_STATEMENTS,
        depth: 0,
        has_input: false,
        read_labels,
        labels: Vec::new(),
        kept: 0,
        settings: Vec::new(),
        words: Vec::new(),
        in_settings: false,
    };
    let body = elaborator.sequence(&tree.body)?;
    body.check_nothing()
        .map_err(|(at, message)| tree.source.error(at, message))?;
    if !elaborator.has_input {
        let message = format!(
            "space `{}` has no network: it needs an input and operations",
            tree.name
        );
        return Err(tree.source.error(tree.source.text.len(), message));
    }
    for slot in elaborator.slots.iter().filter(|slot| !slot.is_setting) {
        if elaborator.settings.contains(&slot.name) {
            return Err(SpaceError::Illegal(format!(
                "space `{}` has a training setting `{}` and a decision of that name, `{}`; one of them needs another name",
                tree.name, slot.name, slot.path
            )));
        }
    }
    let mut unused = tree
        .fixes
        .iter()
        .zip(&elaborator.fixed)
        .filter(|(_, is_used)| !**is_used)
        .peekable();
    if unused.peek().is_some() {
        // Another fix may have removed the decision that this one narrows.
        let whole = elaborate(&Tree {
            fixes: Vec::new(),
            ..tree.clone()
        })?;
        for (Fix { name, at, .. }, _) in unused {
            let mut slots = whole.slots.iter();
            if !slots.any(|slot| slot.path == *name || slot.name == *name) {
                let error = unknown_decision(&tree.name, &whole.slots, name);
                return Err(match at {
                    Some(at) => tree.source.error(*at, error.to_string()),
                    None => error,
                });
            }
        }
    }
    Ok(Program {
        body,
        slots: elaborator.slots,
        variables: elaborator.facts.len(),
        tensors: elaborator.kept,
        settings: elaborator.settings,
    })
}

/// The labels that some `read` in a block names.
fn collect_reads<'t>(block: &'t Block, found: &mut HashSet<&'t str>) {
    for statement in block {
        if let Statement::Node { node, .. } = statement {
            match node {
                Node::Read(label) => {
                    found.insert(label);
                }
                Node::Call { arguments, .. } => {
                    for argument in arguments {
                        if let Argument::Tensor(label) = argument {
                            found.insert(label);
                        }
                    }
                }
                _ => {}
            }
            let inner = node.blocks().into_iter();
            inner.for_each(|inner| collect_reads(inner, found));
        }
    }
}

/// The error of a decision that a space does not have.
pub(crate) fn unknown_decision(space: &str, slots: &[DecisionSlot], name: &str) -> SpaceError {
    let mut names: Vec<&str> = Vec::new();
    for slot in slots {
        if !names.contains(&slot.name.as_str()) {
            names.push(&slot.name);
        }
    }
    let paths = slots.iter().map(|slot| slot.path.as_str());
    let hint = suggestion(name, names.iter().copied().chain(paths));
    SpaceError::Illegal(format!(
        "space `{space}` has no decision `{name}`{hint}; its decisions: {}",
        names.join(", ")
    ))
}

struct Elaborator<'t> {
    tree: &'t Tree,
    /// Names with what they stand for: constants and variables.
    environment: Vec<(&'t str, Formula)>,
    scope: Scope,
    /// What is known of each variable.
    facts: Vec<Fact>,
    slots: Vec<DecisionSlot>,
    slot_of: HashMap<String, usize>,
    /// Whether each of the tree's fixes met a decision.
    fixed: Vec<bool>,
    /// Around this place, copies of tied repeats: the path of the copy and that of the first one.
    tied: Vec<(String, String)>,
    budget: usize,
    depth: usize,
    has_input: bool,
    /// Labels that some `read` names.
    read_labels: HashSet<&'t str>,
    /// The labels of the nodes before this place, with what they made if it is remembered.
    labels: Vec<(&'t str, Option<usize>)>,
    /// How many tensors are remembered.
    kept: usize,
    /// Names of the training settings, in the order in which they are met.
    settings: Vec<String>,
    /// Words that stand for themselves: values of training settings.
    words: Vec<String>,
    in_settings: bool,
}

/// A decision as it is met.
enum Decided {
    Single(Value),
    Open(usize),
}

impl<'t> Elaborator<'t> {
    fn source(&self) -> &'t Source {
        &self.tree.source
    }

    /// A block in a sequence of its own.
    fn sequence(&mut self, block: &'t Block) -> Result<Sequence> {
        let mut steps = Vec::new();
        self.block(block, &mut steps)?;
        Ok(Sequence::new(steps))
    }

    fn block(&mut self, block: &'t Block, steps: &mut Vec<Step>) -> Result<()> {
        let (known, labels) = (self.environment.len(), self.labels.len());
        self.depth += 1;
        for statement in block {
            let (Statement::Decide { at, .. }
            | Statement::Let { at, .. }
            | Statement::Setting { at, .. }
            | Statement::Node { at, .. }) = statement;
            if self.depth > DEEPEST {
                let message = format!(
                    "blocks and templates are nested deeper than {DEEPEST} levels here; a template that uses itself needs an `if` that ends it"
                );
                return Err(self.source().error(*at, message));
            }
            self.spend(*at)?;
            match statement {
                Statement::Decide { name, domain, at } => {
                    let meaning = self.decide_value(name, domain, *at, steps)?;
                    self.environment.push((name, meaning));
                }
                Statement::Setting { name, value, at } => {
                    let formula = match value {
                        SettingText::Decided(domain) => {
                            if let DomainText::List { values, .. } = domain {
                                values.iter().for_each(|value| self.note_word(value));
                            }
                            self.decide_value(name, domain, *at, steps)?
                        }
                        SettingText::Computed(value) => {
                            self.note_word(value);
                            self.bind(value, *at, steps)?
                        }
                    };
                    if !self.settings.contains(name) {
                        self.settings.push(name.clone());
                    }
                    self.environment.push((name, formula.clone()));
                    steps.push(Step::Setting {
                        name: name.clone(),
                        formula,
                        at: *at,
                    });
                }
                Statement::Let { name, value, at } => {
                    let meaning = self.bind(value, *at, steps)?;
                    self.environment.push((name, meaning));
                }
                Statement::Node { label, node, at } => {
                    self.node(label.as_deref(), node, *at, steps)?;
                    if let Some(label) = label {
                        self.keep(label, steps);
                    }
                }
            }
        }
        self.depth -= 1;
        self.environment.truncate(known);
        self.labels.truncate(labels);
        Ok(())
    }

    /// A decision that sets a value: what its name stands for.
    fn decide_value(
        &mut self,
        name: &str,
        domain: &'t DomainText,
        at: usize,
        steps: &mut Vec<Step>,
    ) -> Result<Formula> {
        let domain = self.domain(domain, at)?;
        let path = self.scope.decision(name);
        Ok(match self.decide(path, name, domain, at)? {
            Decided::Single(value) => Expression::Constant(value),
            Decided::Open(slot) => {
                let variable = self.facts.len();
                let values = Some(self.slots[slot].domain.values.clone());
                self.facts.push(Fact {
                    values,
                    slots: [slot].into(),
                });
                steps.push(Step::Decide { variable, slot });
                Expression::Name(Name::Variable(variable))
            }
        })
    }

    /// A value of a training setting that is a word and no name stands for itself from here on.
    fn note_word(&mut self, written: &Written) {
        match written {
            Expression::Name(word)
                if self.environment.iter().all(|(name, _)| *name != word.text)
                    && !self.words.contains(&word.text) =>
            {
                self.words.push(word.text.clone());
            }
            Expression::If(parts) => parts[1..].iter().for_each(|part| self.note_word(part)),
            _ => {}
        }
    }

    /// A decision: a new slot, that of the first copy of a tied repeat, or its only value.
    fn decide(
        &mut self,
        path: String,
        name: &str,
        mut domain: Domain,
        at: usize,
    ) -> Result<Decided> {
        let mut first = path.clone();
        for (copy, first_copy) in self.tied.iter().rev() {
            if let Some(rest) = first.strip_prefix(copy.as_str()) {
                first = format!("{first_copy}{rest}");
            }
        }
        let all = match self.tree.fixes.is_empty() {
            true => String::new(),
            false => domain.list(),
        };
        let mut place = None;
        for (fix, is_used) in self.tree.fixes.iter().zip(&mut self.fixed) {
            if fix.name == first || fix.name == name {
                *is_used = true;
                place = fix.at.or(place);
                domain.values.retain(|value| fix.values.contains(value));
            }
        }
        match &domain.values[..] {
            [] => {
                let message = format!("decision `{path}` has no values left; its values: {all}");
                return Err(match place {
                    Some(place) => self.source().error(place, message),
                    None => SpaceError::Illegal(message),
                });
            }
            [_] => return Ok(Decided::Single(domain.values.remove(0))),
            _ => {}
        }
        if first != path {
            return match self.slot_of.get(&first) {
                Some(&slot) if self.slots[slot].domain == domain => Ok(Decided::Open(slot)),
                _ => {
                    let message = format!(
                        "a tied copy decides what the first copy decides, but `{path}` is not like `{first}`"
                    );
                    Err(self.source().error(at, message))
                }
            };
        }
        if self.slots.len() == MOST_DECISIONS {
            let message = format!("this space has more than {MOST_DECISIONS} decisions");
            return Err(self.source().error(at, message));
        }
        self.slot_of.insert(path.clone(), self.slots.len());
        self.slots.push(DecisionSlot {
            path,
            name: name.to_owned(),
            domain,
            is_setting: self.in_settings,
        });
        Ok(Decided::Open(self.slots.len() - 1))
    }

    fn spend(&mut self, at: usize) -> Result<()> {
        self.budget = self.budget.checked_sub(1).ok_or_else(|| {
            let message = format!("this space unrolls to more than {MOST_STATEMENTS} statements");
            self.source().error(at, message)
        })?;
        Ok(())
    }

    fn node(
        &mut self,
        label: Option<&str>,
        node: &'t Node,
        at: usize,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let needs_input = !self.in_settings && !matches!(node, Node::Input(_) | Node::Settings(_));
        if needs_input && !self.has_input {
            let message = "there is no `input(height, width, channels)` before this";
            return Err(self.source().error(at, message));
        }
        match node {
            Node::Input(extents) => {
                if self.has_input || self.depth > 1 {
                    let message =
                        "a space has one input, at the top level and before everything else";
                    return Err(self.source().error(at, message));
                }
                let [height, width, channels] =
                    extents.each_ref().map(|extent| self.resolve(extent, at));
                self.has_input = true;
                let path = self.scope.path(label.unwrap_or("input"));
                steps.push(Step::Input {
                    path,
                    extents: [height?, width?, channels?],
                    at,
                });
                Ok(())
            }
            Node::Settings(body) => {
                if self.depth > 1 || !self.settings.is_empty() {
                    let message = "a space has one block of training settings, at the top level";
                    return Err(self.source().error(at, message));
                }
                let path = self.scope.branching("settings");
                self.in_settings = true;
                self.within(&path, |elaborator| elaborator.block(body, steps))?;
                self.in_settings = false;
                Ok(())
            }
            Node::Op { kind, arguments } => {
                let path = self.scope.path(label.unwrap_or(kind.name));
                let mut formulas = Vec::with_capacity(arguments.len());
                for argument in arguments {
                    formulas.push(
                        argument
                            .as_ref()
                            .map(|written| self.resolve(written, at))
                            .transpose()?,
                    );
                }
                steps.push(Step::Operation(operation(
                    self.source(),
                    path,
                    kind,
                    &formulas,
                    at,
                )?));
                Ok(())
            }
            Node::Call {
                definition,
                arguments,
            } => {
                let definition = &self.tree.definitions[*definition];
                let mut inner = self.environment[..self.tree.parameters.len()].to_vec();
                let mut tensors = Vec::new();
                for (parameter, argument) in definition.parameters.iter().zip(arguments) {
                    let name = parameter.name.as_str();
                    match argument {
                        Argument::Value(value) => inner.push((name, self.bind(value, at, steps)?)),
                        Argument::Tensor(label) => {
                            tensors.push((name, Some(self.tensor(label, at)?)));
                        }
                    }
                }
                // A template sees the space's parameters and its own, not its caller's names.
                let outer = std::mem::replace(&mut self.environment, inner);
                let labels = std::mem::replace(&mut self.labels, tensors);
                self.labelled(label, |elaborator| {
                    elaborator.block(&definition.body, steps)
                })?;
                self.environment = outer;
                self.labels = labels;
                Ok(())
            }
            Node::Read(name) => {
                let tensor = self.tensor(name, at)?;
                steps.push(Step::Read { tensor });
                Ok(())
            }
            Node::Nothing => {
                steps.push(Step::Nothing { at });
                Ok(())
            }
            Node::Seq(body) => self.labelled(label, |elaborator| elaborator.block(body, steps)),
            Node::Residual(body) => self.labelled(label, |elaborator| {
                let body = elaborator.sequence(body)?;
                let path = elaborator.scope.path("add");
                steps.push(Step::Residual { path, body, at });
                Ok(())
            }),
            Node::Gate(body) => self.labelled(label, |elaborator| {
                let body = elaborator.sequence(body)?;
                let path = elaborator.scope.path("multiply");
                steps.push(Step::Gate { path, body, at });
                Ok(())
            }),
            Node::Sum(blocks) => self.labelled(label, |elaborator| {
                let (mut paths, mut branches) = (Vec::new(), Vec::new());
                for block in blocks {
                    branches.push(elaborator.sequence(block)?);
                    if branches.len() > 1 {
                        paths.push(elaborator.scope.path("add"));
                    }
                }
                steps.push(Step::Parallel {
                    paths,
                    branches,
                    combine: Combine::Add,
                    at,
                });
                Ok(())
            }),
            Node::Concat(blocks) => self.labelled(label, |elaborator| {
                let (mut paths, mut branches) = (Vec::new(), Vec::new());
                for block in blocks {
                    branches.push(elaborator.sequence(block)?);
                    if branches.len() > 1 {
                        paths.push(elaborator.scope.path("concat"));
                    }
                }
                steps.push(Step::Parallel {
                    paths,
                    branches,
                    combine: Combine::Concat(Vec::new()),
                    at,
                });
                Ok(())
            }),
            Node::Dense(body) => self.labelled(label, |elaborator| {
                let body = elaborator.sequence(body)?;
                steps.push(Step::Parallel {
                    paths: vec![elaborator.scope.path("concat")],
                    branches: vec![Sequence::new(Vec::new()), body],
                    combine: Combine::Concat(Vec::new()),
                    at,
                });
                Ok(())
            }),
            Node::Permute { name, blocks } => {
                let path = self.scope.branching(label.unwrap_or(name));
                let orders = orders(blocks.len());
                let words = orders.iter().map(|order| Value::Text(letters(order)));
                let domain = Domain {
                    values: words.collect(),
                    ordered: false,
                };
                let decided = self.decide(path.clone(), name, domain, at)?;
                let legal = match &decided {
                    Decided::Single(value) => vec![value.clone()],
                    Decided::Open(slot) => self.slots[*slot].domain.values.clone(),
                };
                let mut taken = Vec::new();
                for order in &orders {
                    let word = letters(order);
                    if !legal.iter().any(|value| value.is_text(&word)) {
                        continue;
                    }
                    let mut inner = Vec::new();
                    self.within(&format!("{path}.{word}"), |elaborator| {
                        order
                            .iter()
                            .try_for_each(|&block| elaborator.block(&blocks[block], &mut inner))
                    })?;
                    taken.push(Sequence::new(inner));
                }
                match decided {
                    Decided::Single(_) => {
                        steps.extend(taken.into_iter().flat_map(|sequence| sequence.steps));
                    }
                    Decided::Open(slot) => steps.push(Step::Choose {
                        join: format!("{path}.join"),
                        slot,
                        branches: taken,
                    }),
                }
                Ok(())
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => self.labelled(label, |elaborator| {
                elaborator.condition(condition, then, otherwise, at, steps)
            }),
            Node::Optional { name, body } => {
                let path = self.scope.branching(label.unwrap_or(name));
                let values = vec![Value::Bool(false), Value::Bool(true)];
                let domain = Domain {
                    values,
                    ordered: true,
                };
                match self.decide(path.clone(), name, domain, at)? {
                    Decided::Single(Value::Bool(true)) => {
                        self.within(&path, |elaborator| elaborator.block(body, steps))
                    }
                    Decided::Single(_) => Ok(()),
                    Decided::Open(slot) => {
                        let body = self.within(&path, |elaborator| elaborator.sequence(body))?;
                        let branches = vec![Sequence::new(Vec::new()), body];
                        steps.push(Step::Choose {
                            join: format!("{path}.join"),
                            slot,
                            branches,
                        });
                        Ok(())
                    }
                }
            }
            Node::Choice { name, branches } => {
                let path = self.scope.branching(label.unwrap_or(name));
                let values = branches
                    .iter()
                    .map(|(label, _)| Value::Text(label.clone()))
                    .collect();
                let decided = self.decide(
                    path.clone(),
                    name,
                    Domain {
                        values,
                        ordered: false,
                    },
                    at,
                )?;
                let legal = match &decided {
                    Decided::Single(value) => std::slice::from_ref(value).to_vec(),
                    Decided::Open(slot) => self.slots[*slot].domain.values.clone(),
                };
                let mut taken = Vec::new();
                for (label, body) in branches
                    .iter()
                    .filter(|(label, _)| legal.iter().any(|value| value.is_text(label)))
                {
                    let inner = format!("{path}.{label}");
                    match decided {
                        Decided::Single(_) => {
                            self.within(&inner, |elaborator| elaborator.block(body, steps))?
                        }
                        Decided::Open(_) => {
                            taken.push(self.within(&inner, |elaborator| elaborator.sequence(body))?)
                        }
                    }
                }
                if let Decided::Open(slot) = decided {
                    steps.push(Step::Choose {
                        join: format!("{path}.join"),
                        slot,
                        branches: taken,
                    });
                }
                Ok(())
            }
            Node::Repeat {
                tied,
                name,
                domain,
                index,
                body,
            } => {
                let path = self.scope.path(label.unwrap_or("repeat"));
                let domain = self.domain(domain, at)?;
                let repeat = Repeat {
                    path,
                    tied: *tied,
                    index: index.as_deref(),
                    body,
                    at,
                };
                let decided = self.decide(format!("{}.{name}", repeat.path), name, domain, at)?;
                self.repeat(repeat, decided, steps)
            }
        }
    }

    /// Remembers what a labelled node made, if any `read` names such a label.
    fn keep(&mut self, label: &'t str, steps: &mut Vec<Step>) {
        let is_read = self.read_labels.contains(label);
        let tensor = is_read.then_some(self.kept);
        self.labels.push((label, tensor));
        if let Some(tensor) = tensor {
            self.kept += 1;
            steps.push(Step::Keep { tensor });
        }
    }

    /// What the node with this label made.
    fn tensor(&self, label: &str, at: usize) -> Result<usize> {
        let labels = self.labels.iter().rev();
        let found = labels.clone().find(|(known, _)| *known == label);
        if let Some((_, Some(tensor))) = found {
            return Ok(*tensor);
        }
        let mut known: Vec<&str> = labels.map(|(label, _)| *label).collect();
        known.dedup();
        let hint = suggestion(label, known.iter().copied());
        let message = format!(
            "no node before this, in this block or around it, has the label `{label}`{hint}; labels: {}",
            known.join(", ")
        );
        Err(self.source().error(at, message))
    }

    fn condition(
        &mut self,
        condition: &'t Written,
        then: &'t Block,
        otherwise: &'t Block,
        at: usize,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let condition = self.resolve(condition, at)?;
        let fact = self.fact(&condition, at)?;
        let Some(values) = fact.values else {
            let message = "a condition may not depend on `in`: counting would not be exact";
            return Err(self.source().error(at, message));
        };
        if let Some(other) = values.iter().find(|value| !matches!(value, Value::Bool(_))) {
            let message = format!("a condition is true or false, this is {}", other.kind());
            return Err(self.source().error(at, message));
        }
        // Paths must not depend on which branch is taken.
        match &values[..] {
            [Value::Bool(true)] => {
                self.block(then, steps)?;
                self.scope.reserve(self.tree, otherwise, &mut self.budget);
                Ok(())
            }
            [Value::Bool(false)] => {
                self.scope.reserve(self.tree, then, &mut self.budget);
                self.block(otherwise, steps)
            }
            _ => {
                let join = self.scope.join("if");
                let (then, otherwise) = (self.sequence(then)?, self.sequence(otherwise)?);
                let reads = fact.slots.into_iter().collect();
                steps.push(Step::If {
                    join,
                    condition,
                    then,
                    otherwise,
                    reads,
                    at,
                });
                Ok(())
            }
        }
    }

    fn repeat(
        &mut self,
        repeat: Repeat<'t>,
        decided: Decided,
        steps: &mut Vec<Step>,
    ) -> Result<()> {
        let Repeat {
            path,
            tied,
            index,
            body,
            at,
        } = repeat;
        let count = |value: &Value| match value {
            Value::Int(count @ 0..=MOST_COPIES) => Ok(*count as usize),
            other => {
                let message = format!(
                    "a number of repeats is an integer from 0 to {MOST_COPIES}, this is `{other}`"
                );
                Err(self.source().error(at, message))
            }
        };
        let times = match decided {
            Decided::Single(value) => Times::Fixed(count(&value)?),
            Decided::Open(slot) => {
                let counts = self.slots[slot].domain.values.iter().map(count);
                Times::Decided {
                    slot,
                    counts: counts.collect::<Result<_>>()?,
                }
            }
        };
        let is_unrolled = matches!(times, Times::Fixed(_)) && !tied;
        let mut copies = Vec::new();
        for copy in 0..times.most() {
            self.spend(at)?;
            let copy_path = format!("{path}[{copy}]");
            let known = self.environment.len();
            if let Some(index) = index {
                self.environment
                    .push((index, Expression::Constant(Value::Int(copy as i64))));
            }
            let is_replay = tied && copy > 0;
            if is_replay {
                self.tied
                    .push((format!("{copy_path}."), format!("{path}[0].")));
            }
            self.within(&copy_path, |elaborator| match is_unrolled {
                true => elaborator.block(body, steps),
                false => {
                    copies.push(elaborator.sequence(body)?);
                    Ok(())
                }
            })?;
            if is_replay {
                self.tied.pop();
            }
            self.environment.truncate(known);
        }
        if !is_unrolled {
            steps.push(Step::Repeat {
                join: format!("{path}.join"),
                times,
                copies,
                tied,
            });
        }
        Ok(())
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

    fn within<T>(&mut self, path: &str, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let outer = std::mem::replace(&mut self.scope, Scope::inner(path));
        let result = body(self);
        self.scope = outer;
        result
    }
}

/// Every order of `count` things, lexicographically.
fn orders(count: usize) -> Vec<Vec<usize>> {
    let mut found = vec![Vec::new()];
    for _ in 0..count {
        found = found
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                let left = (0..count).filter(|next| !order.contains(next));
                let longer = left.map(|next| [&order[..], &[next]].concat());
                longer.collect::<Vec<_>>()
            })
            .collect();
    }
    found
}

/// An order as a word: `ba` is the second block, then the first.
fn letters(order: &[usize]) -> String {
    order
        .iter()
        .map(|&block| char::from(b'a' + block as u8))
        .collect()
}

/// A repeat whose number of copies is known or decided.
struct Repeat<'t> {
    path: String,
    tied: bool,
    index: Option<&'t str>,
    body: &'t Block,
    at: usize,
}
