//! Exact counting, and sampling that is uniform over members.
//!
//! A block's members are the product over its parts; a repeat's `Σ_r Π_{i<r} members of copy i`; a
//! choice's the sum over its branches. Where a condition depends on a decision, the rest of the
//! decision's block is counted for each of its values.

use std::collections::HashMap;

use num_bigint::BigUint;

use crate::error::{Result, SpaceError};
use crate::expression::Expression;
use crate::scope::Scope;
use crate::tree::{Block, DomainText, Node, Statement, Tree};
use crate::value::{Domain, Value};
use crate::walk::effective_domain;

/// Counts the members that agree with `chosen`, values by decision path.
pub(crate) fn count(tree: &Tree, chosen: &HashMap<String, Value>) -> Result<BigUint> {
    let mut counter = Counter {
        tree,
        chosen,
        env: tree
            .parameters
            .iter()
            .map(|(name, value)| (name.clone(), Some(value.clone())))
            .collect(),
    };
    counter.block(&tree.body, &mut Scope::default())
}

struct Counter<'t> {
    tree: &'t Tree,
    chosen: &'t HashMap<String, Value>,
    /// Known values; `None` where a value depends on a decision or on shapes.
    env: Vec<(String, Option<Value>)>,
}

impl<'t> Counter<'t> {
    fn block(&mut self, block: &'t [Statement], names: &mut Scope) -> Result<BigUint> {
        let depth = self.env.len();
        let mut total = BigUint::from(1u32);
        for (index, statement) in block.iter().enumerate() {
            match statement {
                Statement::Decide { name, domain, .. } => {
                    let path = names.decision(name);
                    let values = self.values(&path, name, domain)?;
                    let rest = &block[index + 1..];
                    if values.len() > 1 && steers(self.tree, rest, &mut vec![name.clone()]) {
                        let mut sum = BigUint::ZERO;
                        for value in values {
                            self.env.push((name.clone(), Some(value)));
                            sum += self.block(rest, &mut names.clone())?;
                            self.env.pop();
                        }
                        self.env.truncate(depth);
                        return Ok(total * sum);
                    }
                    total *= values.len();
                    let known = if values.len() == 1 {
                        values.into_iter().next()
                    } else {
                        None
                    };
                    self.env.push((name.clone(), known));
                }
                Statement::Let { name, value } => {
                    let known = self.evaluate(value);
                    self.env.push((name.clone(), known));
                }
                Statement::Node { label, node, .. } => {
                    total *= self.node(label.as_deref(), node, names)?;
                }
            }
        }
        self.env.truncate(depth);
        Ok(total)
    }

    fn node(&mut self, label: Option<&str>, node: &'t Node, names: &mut Scope) -> Result<BigUint> {
        match node {
            Node::Input(_) => Ok(BigUint::from(1u32)),
            Node::Op { kind, .. } => {
                names.path(label.unwrap_or(kind.name));
                Ok(BigUint::from(1u32))
            }
            Node::Call {
                definition,
                arguments,
            } => {
                let definition = &self.tree.definitions[*definition];
                let values: Vec<_> = definition
                    .parameters
                    .iter()
                    .zip(arguments)
                    .map(|(name, argument)| (name.clone(), self.evaluate(argument)))
                    .collect();
                let globals = self.env[..self.tree.parameters.len()].to_vec();
                let outer = std::mem::replace(&mut self.env, globals);
                self.env.extend(values);
                let found = self.labelled(label, &definition.body, names);
                self.env = outer;
                found
            }
            Node::Seq(body) => self.labelled(label, body, names),
            Node::Residual(body) | Node::Gate(body) => {
                let found = self.labelled(label, body, names);
                if label.is_none() {
                    names.path(if matches!(node, Node::Gate(_)) {
                        "multiply"
                    } else {
                        "add"
                    });
                }
                found
            }
            Node::Sum(branches) => {
                let mut inner = label.map(|label| Scope::inner(&names.path(label)));
                let names = inner.as_mut().unwrap_or(names);
                let mut total = BigUint::from(1u32);
                for (index, branch) in branches.iter().enumerate() {
                    total *= self.block(branch, names)?;
                    if index > 0 {
                        names.path("add");
                    }
                }
                Ok(total)
            }
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                // A condition without a value depends on a decision that was counted value by
                // value only where `steers` saw it; this is such a place or an error of the walk.
                let mut skipped = names.clone();
                let (taken, other) = match self.evaluate(condition) {
                    Some(Value::Bool(true)) => (then, otherwise),
                    Some(Value::Bool(false)) => (otherwise, then),
                    _ => {
                        return Err(SpaceError::Illegal(
                            "a condition depends on something that is no decision of its block"
                                .into(),
                        ));
                    }
                };
                // Both branches take their names, in the order in which they are written.
                if std::ptr::eq(taken, then) {
                    let found = self.block(taken, names)?;
                    names.reserve(self.tree, other);
                    Ok(found)
                } else {
                    skipped.reserve(self.tree, other);
                    let found = self.block(taken, &mut skipped)?;
                    *names = skipped;
                    Ok(found)
                }
            }
            Node::Optional { name, body } => {
                let path = names.path(label.unwrap_or(name));
                let domain = [Value::Bool(false), Value::Bool(true)].to_vec();
                let values = self.legal(
                    &path,
                    name,
                    Domain {
                        values: domain,
                        ordered: true,
                    },
                )?;
                let mut total = BigUint::ZERO;
                for value in values {
                    total += match value {
                        Value::Bool(true) => self.block(body, &mut Scope::inner(&path))?,
                        _ => BigUint::from(1u32),
                    };
                }
                Ok(total)
            }
            Node::Choice { name, branches } => {
                let path = names.path(label.unwrap_or(name));
                let labels = branches
                    .iter()
                    .map(|(label, _)| Value::Text(label.clone()))
                    .collect();
                let values = self.legal(
                    &path,
                    name,
                    Domain {
                        values: labels,
                        ordered: false,
                    },
                )?;
                let mut total = BigUint::ZERO;
                for (label, body) in branches {
                    if values.contains(&Value::Text(label.clone())) {
                        total += self.block(body, &mut Scope::inner(&format!("{path}.{label}")))?;
                    }
                }
                Ok(total)
            }
            Node::Repeat {
                tied,
                name,
                domain,
                index,
                body,
            } => {
                let path = names.path(label.unwrap_or("repeat"));
                let counts = self.values(&format!("{path}.{name}"), name, domain)?;
                let counts: Vec<usize> = counts
                    .iter()
                    .map(|count| match count {
                        Value::Int(count @ 0..=1000) => *count as usize,
                        _ => 0,
                    })
                    .collect();
                let most = counts.iter().copied().max().unwrap_or(0);
                let mut copies = vec![BigUint::from(1u32)];
                for copy in 0..most {
                    if let Some(index) = index {
                        self.env
                            .push((index.clone(), Some(Value::Int(copy as i64))));
                    }
                    let mut inner = Scope::inner(&format!("{path}[{copy}]"));
                    let product = match *tied && copy > 0 {
                        true => copies[copy].clone(),
                        false => &copies[copy] * self.block(body, &mut inner)?,
                    };
                    copies.push(product);
                    if index.is_some() {
                        self.env.pop();
                    }
                }
                Ok(counts.into_iter().map(|count| copies[count].clone()).sum())
            }
        }
    }

    fn labelled(
        &mut self,
        label: Option<&str>,
        body: &'t Block,
        names: &mut Scope,
    ) -> Result<BigUint> {
        match label {
            None => self.block(body, names),
            Some(label) => {
                let path = names.path(label);
                self.block(body, &mut Scope::inner(&path))
            }
        }
    }

    fn values(&self, path: &str, name: &str, domain: &DomainText) -> Result<Vec<Value>> {
        let known = |expression: &Expression| {
            self.evaluate(expression).ok_or_else(|| {
                SpaceError::Illegal(format!("the domain of `{path}` depends on a decision"))
            })
        };
        let domain = match domain {
            DomainText::List { values, .. } => {
                values.iter().map(known).collect::<Result<Vec<_>>>()?
            }
            DomainText::Range { from, to, step } => {
                let integer = |expression: &Expression| match known(expression)? {
                    Value::Int(value) => Ok(value),
                    other => Err(SpaceError::Illegal(format!(
                        "`{other}` is no end of a range"
                    ))),
                };
                let step = step.as_ref().map_or(Ok(1), integer)?.max(1);
                (integer(from)?..=integer(to)?)
                    .step_by(step as usize)
                    .map(Value::Int)
                    .collect()
            }
        };
        self.legal(
            path,
            name,
            Domain {
                values: domain,
                ordered: true,
            },
        )
    }

    fn legal(&self, path: &str, name: &str, domain: Domain) -> Result<Vec<Value>> {
        let domain = effective_domain(self.tree, path, name, domain)?;
        Ok(match self.chosen.get(path) {
            Some(value) => domain
                .values
                .into_iter()
                .filter(|other| other == value)
                .collect(),
            None => domain.values,
        })
    }

    fn evaluate(&self, expression: &Expression) -> Option<Value> {
        expression
            .evaluate(
                &|name| match self.env.iter().rev().find(|(other, _)| other == name) {
                    Some((_, value)) => value.clone(),
                    None if name == "in" => None,
                    None => Some(Value::Text(name.to_owned())),
                },
            )
            .ok()
    }
}

/// Whether a condition in `block` depends on one of the `tainted` names.
fn steers(tree: &Tree, block: &[Statement], tainted: &mut Vec<String>) -> bool {
    let reads = |expression: &Expression, tainted: &[String]| {
        let mut names = Vec::new();
        expression.names(&mut names);
        names.iter().any(|name| tainted.contains(name))
    };
    for statement in block {
        match statement {
            Statement::Decide { .. } => {}
            Statement::Let { name, value } => {
                if reads(value, tainted) {
                    tainted.push(name.clone());
                }
            }
            Statement::Node { node, .. } => {
                let found = match node {
                    Node::Input(_) | Node::Op { .. } => false,
                    Node::Call {
                        definition,
                        arguments,
                    } => {
                        let definition = &tree.definitions[*definition];
                        let mut inner: Vec<String> = definition
                            .parameters
                            .iter()
                            .zip(arguments)
                            .filter(|(_, argument)| reads(argument, tainted))
                            .map(|(name, _)| name.clone())
                            .collect();
                        !inner.is_empty() && steers(tree, &definition.body, &mut inner)
                    }
                    Node::If {
                        condition,
                        then,
                        otherwise,
                    } => {
                        reads(condition, tainted)
                            || steers(tree, then, &mut tainted.clone())
                            || steers(tree, otherwise, &mut tainted.clone())
                    }
                    Node::Seq(body)
                    | Node::Residual(body)
                    | Node::Gate(body)
                    | Node::Optional { body, .. }
                    | Node::Repeat { body, .. } => steers(tree, body, &mut tainted.clone()),
                    Node::Sum(branches) => branches
                        .iter()
                        .any(|branch| steers(tree, branch, &mut tainted.clone())),
                    Node::Choice { branches, .. } => branches
                        .iter()
                        .any(|(_, body)| steers(tree, body, &mut tainted.clone())),
                };
                if found {
                    return true;
                }
            }
        }
    }
    false
}
