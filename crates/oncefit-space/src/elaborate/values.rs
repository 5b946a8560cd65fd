//! What expressions and domains are worth before any walk.

use std::collections::BTreeSet;

use super::Elaborator;
use crate::error::{Result, suggestion};
use crate::expression::{Expression, Word};
use crate::graph::Activation;
use crate::program::{Formula, Name, Step, range};
use crate::tree::{DomainText, Written};
use crate::value::{Domain, Value};

/// What is known of a variable before any walk.
#[derive(Clone, Default)]
pub(super) struct Fact {
    /// The values it takes; none if they depend on shapes.
    pub values: Option<Vec<Value>>,
    /// The decisions it depends on.
    pub slots: BTreeSet<usize>,
}

impl<'t> Elaborator<'t> {
    /// A constant, or a variable with the value that `value` has here.
    pub(super) fn bind(
        &mut self,
        value: &'t Written,
        at: usize,
        steps: &mut Vec<Step>,
    ) -> Result<Formula> {
        let formula = self.resolve(value, at)?;
        if matches!(
            formula,
            Expression::Constant(_) | Expression::Name(Name::Variable(_))
        ) {
            return Ok(formula);
        }
        let fact = self.fact(&formula, at)?;
        if let Some([single]) = fact.values.as_deref() {
            return Ok(Expression::Constant(single.clone()));
        }
        let variable = self.facts.len();
        self.facts.push(fact);
        steps.push(Step::Let {
            variable,
            formula,
            at,
        });
        Ok(Expression::Name(Name::Variable(variable)))
    }

    pub(super) fn fact(&self, formula: &Formula, at: usize) -> Result<Fact> {
        let mut slots = BTreeSet::new();
        let mut is_known = true;
        formula.names(&mut |name| match name {
            Name::Channels => is_known = false,
            Name::Variable(variable) => {
                let fact = &self.facts[*variable];
                is_known &= fact.values.is_some();
                slots.extend(&fact.slots);
            }
        });
        let values_of = |name| match name {
            Name::Variable(variable) => self.facts[variable].values.clone().unwrap_or_default(),
            Name::Channels => Vec::new(),
        };
        let values = match is_known {
            true => Some(
                range(formula, &values_of).map_err(|message| self.source().error(at, message))?,
            ),
            false => None,
        };
        Ok(Fact { values, slots })
    }

    /// An expression with its names looked up and its constant parts computed.
    pub(super) fn resolve(&self, written: &Written, at: usize) -> Result<Formula> {
        let formula = match written {
            Expression::Constant(value) => return Ok(Expression::Constant(value.clone())),
            Expression::Name(word) => return self.lookup(word),
            Expression::Binary(operator, left, right) => {
                let left = self.resolve(left, at)?;
                if matches!(&left, Expression::Constant(left) if operator.is_decided_by(left)) {
                    return Ok(left);
                }
                Expression::Binary(*operator, left.into(), self.resolve(right, at)?.into())
            }
            Expression::Call(function, arguments) => {
                let arguments: Result<_> = arguments
                    .iter()
                    .map(|part| self.resolve(part, at))
                    .collect();
                Expression::Call(*function, arguments?)
            }
            Expression::If(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.resolve(condition, at)? {
                    Expression::Constant(Value::Bool(true)) => return self.resolve(then, at),
                    Expression::Constant(Value::Bool(false)) => return self.resolve(otherwise, at),
                    condition => Expression::If(Box::new([
                        condition,
                        self.resolve(then, at)?,
                        self.resolve(otherwise, at)?,
                    ])),
                }
            }
        };
        let mut is_constant = true;
        formula.names(&mut |_| is_constant = false);
        if !is_constant {
            return Ok(formula);
        }
        let value = formula.evaluate(&|_| Value::Bool(false));
        value
            .map(Expression::Constant)
            .map_err(|message| self.source().error(at, message))
    }

    fn lookup(&self, word: &Word) -> Result<Formula> {
        let name = word.text.as_str();
        if let Some((_, meaning)) = self
            .environment
            .iter()
            .rev()
            .find(|(other, _)| *other == name)
        {
            return Ok(meaning.clone());
        }
        if name == "in" && self.has_input {
            return Ok(Expression::Name(Name::Channels));
        }
        if Activation::by_name(name).is_some() {
            return Ok(Expression::Constant(Value::Text(name.to_owned())));
        }
        if self.in_settings && self.words.iter().any(|word| word == name) {
            return Ok(Expression::Constant(Value::Text(name.to_owned())));
        }
        let mut known: Vec<&str> = self.environment.iter().map(|(name, _)| *name).collect();
        known.extend(self.has_input.then_some("in"));
        match self.in_settings {
            true => known.extend(self.words.iter().map(String::as_str)),
            false => known.extend(Activation::ALL.map(|(name, _)| name)),
        }
        let hint = suggestion(name, known.iter().copied());
        let message = format!(
            "`{name}` is not known here{hint}; known: {}",
            known.join(", ")
        );
        Err(self.source().error(word.at, message))
    }

    pub(super) fn domain(&self, domain: &DomainText, at: usize) -> Result<Domain> {
        let constant = |written: &Written| match self.resolve(written, at)? {
            Expression::Constant(value) => Ok(value),
            _ => Err(self.source().error(
                at,
                "a domain may not depend on a decision or on `in`: counting would not be exact",
            )),
        };
        match domain {
            DomainText::List { values, unordered } => {
                let values = values.iter().map(constant).collect::<Result<Vec<_>>>()?;
                for (index, value) in values.iter().enumerate() {
                    if values[..index].iter().any(|other| other.is_equal_to(value)) {
                        let message = format!("`{value}` stands twice in this domain");
                        return Err(self.source().error(at, message));
                    }
                }
                let are_words = values.iter().any(|value| matches!(value, Value::Text(_)));
                Ok(Domain {
                    values,
                    ordered: !unordered && !are_words,
                })
            }
            DomainText::Log { from, to, count } => {
                let (from, to, count) = (constant(from)?, constant(to)?, constant(count)?);
                let (Some(low), Some(high), Value::Int(count @ 2..=1000)) =
                    (from.as_f64(), to.as_f64(), &count)
                else {
                    let message = format!(
                        "a log domain has two numbers as ends and from 2 to 1000 values, this is {from}..={to} count {count}"
                    );
                    return Err(self.source().error(at, message));
                };
                if !(low > 0.0 && low < high && high.is_finite()) {
                    let message = format!("a log domain rises from above 0, this is {from}..={to}");
                    return Err(self.source().error(at, message));
                }
                let last = (count - 1) as f64;
                let values = (0..*count).map(|index| match index {
                    0 => Value::Real(low),
                    index if index + 1 == *count => Value::Real(high),
                    index => {
                        let value = low * (high / low).powf(index as f64 / last);
                        // Nine digits, so that every machine writes the same text.
                        Value::Real(format!("{value:.8e}").parse().unwrap_or(value))
                    }
                });
                Ok(Domain {
                    values: values.collect(),
                    ordered: true,
                })
            }
            DomainText::Range { from, to, step } => {
                let integer = |written: &Written| match constant(written)? {
                    Value::Int(value) => Ok(value),
                    other => {
                        let message = format!(
                            "a range has integer ends and step, this is {}",
                            other.kind()
                        );
                        Err(self.source().error(at, message))
                    }
                };
                let (from, to) = (integer(from)?, integer(to)?);
                let step = step.as_ref().map_or(Ok(1), integer)?;
                if step < 1 || from > to || to.abs_diff(from) / step.unsigned_abs() > 100_000 {
                    let message = format!(
                        "a range rises by a step of at least 1 and has at most 100000 values, this is {from}..={to} step {step}"
                    );
                    return Err(self.source().error(at, message));
                }
                let values = (from..=to).step_by(step as usize).map(Value::Int).collect();
                Ok(Domain {
                    values,
                    ordered: true,
                })
            }
        }
    }
}
