//! Exact counting, and the numbering of members that follows from it.
//!
//! A sequence has the product over its steps; a choice the sum over its branches; a repeat
//! `Σ_r Π_{i<r} members of copy i`; tied copies count once. Where a later condition reads a
//! decision, the rest of the sequence is counted for each of its values.
//!
//! The number of a member is its place in the order in which decisions are met, each running
//! through its values: a mixed-radix number whose radices are these counts.

use std::collections::HashMap;

use num_bigint::BigUint;

use crate::error::{Result, SpaceError};
use crate::program::{Formula, Name, Program, Sequence, Step, Times};
use crate::value::Value;

/// Sequences counted, for different values of the decisions that their conditions read, beyond
/// which counting is given up.
const MOST_CASES: usize = 200_000;

/// How many members a program has.
///
/// # Errors
/// If too many decisions are read by conditions far from them.
pub(crate) fn count(program: &Program) -> Result<BigUint> {
    Counter::new(program).sequence(&program.body, 0)
}

/// The decisions of the member of a number below [`count`]: for each slot the index of its value,
/// if it is active.
///
/// # Errors
/// As [`count`].
pub(crate) fn unrank(program: &Program, rank: BigUint) -> Result<Vec<Option<usize>>> {
    let mut counter = Counter::new(program);
    counter.unrank_sequence(&program.body, 0, rank)?;
    Ok(counter.chosen)
}

/// The number of the member whose decisions are given as by [`unrank`].
///
/// # Errors
/// As [`count`].
pub(crate) fn rank(program: &Program, member: &[Option<usize>]) -> Result<BigUint> {
    Counter::new(program).rank_sequence(&program.body, 0, member)
}

struct Counter<'p> {
    program: &'p Program,
    /// Values of decisions, as far as conditions may read them.
    chosen: Vec<Option<usize>>,
    /// Values of variables that follow from them.
    variables: Vec<Option<Value>>,
    /// Members of each rest of a sequence, by its address and the values of what it needs.
    counts: HashMap<(*const Sequence, usize, Vec<Option<usize>>), BigUint>,
}

impl<'p> Counter<'p> {
    fn new(program: &'p Program) -> Self {
        Self {
            program,
            chosen: vec![None; program.slots.len()],
            variables: vec![None; program.variables],
            counts: HashMap::new(),
        }
    }

    /// Members of the steps of a sequence from one step on.
    fn sequence(&mut self, sequence: &'p Sequence, from: usize) -> Result<BigUint> {
        let needed = sequence.needs[from]
            .iter()
            .map(|&slot| self.chosen[slot])
            .collect();
        let key = (std::ptr::from_ref(sequence), from, needed);
        if let Some(count) = self.counts.get(&key) {
            return Ok(count.clone());
        }
        let mut total = BigUint::from(1u32);
        for (index, step) in sequence.steps.iter().enumerate().skip(from) {
            if let Some((slot, variable)) = steering(sequence, index) {
                let mut sum = BigUint::ZERO;
                for value in 0..self.program.slots[slot].domain.values.len() {
                    self.choose(slot, variable, value);
                    sum += self.sequence(sequence, index + 1)?;
                }
                total *= sum;
                break;
            }
            total *= self.step(step)?;
        }
        if self.counts.len() == MOST_CASES {
            return Err(SpaceError::Illegal(format!(
                "this space cannot be counted: its conditions read too many decisions at once (more than {MOST_CASES} cases)"
            )));
        }
        self.counts.insert(key, total.clone());
        Ok(total)
    }

    /// Members of a step by itself. Follows the variables that conditions may read.
    fn step(&mut self, step: &'p Step) -> Result<BigUint> {
        match step {
            // Its condition may read what was not followed.
            Step::If { .. } if !step.decides() => Ok(BigUint::from(1u32)),
            Step::Input { .. }
            | Step::Setting { .. }
            | Step::Keep { .. }
            | Step::Read { .. }
            | Step::Nothing { .. }
            | Step::Operation(_) => Ok(BigUint::from(1u32)),
            Step::Let {
                variable, formula, ..
            } => {
                self.variables[*variable] = self.evaluate(formula);
                Ok(BigUint::from(1u32))
            }
            Step::Decide { slot, .. } => Ok(self.program.slots[*slot].domain.values.len().into()),
            Step::Residual { body, .. } | Step::Gate { body, .. } => self.sequence(body, 0),
            Step::Parallel { branches, .. } => {
                let mut total = BigUint::from(1u32);
                for branch in branches {
                    total *= self.sequence(branch, 0)?;
                }
                Ok(total)
            }
            Step::If {
                condition,
                then,
                otherwise,
                ..
            } => {
                let taken = self.taken(condition, then, otherwise)?;
                self.sequence(taken, 0)
            }
            Step::Choose { branches, .. } => {
                branches.iter().try_fold(BigUint::ZERO, |sum, branch| {
                    Ok(sum + self.sequence(branch, 0)?)
                })
            }
            Step::Repeat {
                times,
                copies,
                tied,
                ..
            } => {
                let products = self.products(copies, *tied)?;
                Ok(match times {
                    Times::Fixed(count) => products[*count].clone(),
                    Times::Decided { counts, .. } => {
                        counts.iter().map(|&count| &products[count]).sum()
                    }
                })
            }
        }
    }

    /// Members of the first r copies, for each r from 0.
    fn products(&mut self, copies: &'p [Sequence], tied: bool) -> Result<Vec<BigUint>> {
        let mut products = vec![BigUint::from(1u32)];
        for (index, copy) in copies.iter().enumerate() {
            let product = match tied && index > 0 {
                true => products[index].clone(),
                false => &products[index] * self.sequence(copy, 0)?,
            };
            products.push(product);
        }
        Ok(products)
    }

    fn unrank_sequence(
        &mut self,
        sequence: &'p Sequence,
        from: usize,
        rank: BigUint,
    ) -> Result<()> {
        let steps = sequence.steps.iter().enumerate().skip(from);
        let end = steps
            .map(|(index, _)| index)
            .find(|&index| steering(sequence, index).is_some());
        let end = end.unwrap_or(sequence.steps.len());
        let mut radices = Vec::with_capacity(end - from + 1);
        for step in &sequence.steps[from..end] {
            radices.push(self.step(step)?);
        }
        radices.push(self.sequence(sequence, end)?);
        let mut digits = digits(rank, &radices).into_iter();
        for (step, digit) in sequence.steps[from..end].iter().zip(&mut digits) {
            self.unrank_step(step, digit)?;
        }
        let (Some(mut rank), Some((slot, variable))) = (digits.next(), steering(sequence, end))
        else {
            return Ok(());
        };
        for value in 0..self.program.slots[slot].domain.values.len() {
            self.choose(slot, variable, value);
            let count = self.sequence(sequence, end + 1)?;
            if rank < count {
                self.choose(slot, variable, value);
                return self.unrank_sequence(sequence, end + 1, rank);
            }
            rank -= count;
        }
        Ok(())
    }

    fn unrank_step(&mut self, step: &'p Step, mut rank: BigUint) -> Result<()> {
        match step {
            Step::If { .. } if !step.decides() => Ok(()),
            Step::Input { .. }
            | Step::Setting { .. }
            | Step::Keep { .. }
            | Step::Read { .. }
            | Step::Nothing { .. }
            | Step::Operation(_) => Ok(()),
            Step::Let { .. } => self.step(step).map(drop),
            Step::Decide { slot, .. } => {
                self.chosen[*slot] = usize::try_from(&rank).ok();
                Ok(())
            }
            Step::Residual { body, .. } | Step::Gate { body, .. } => {
                self.unrank_sequence(body, 0, rank)
            }
            Step::Parallel { branches, .. } => self.unrank_all(branches, rank),
            Step::If {
                condition,
                then,
                otherwise,
                ..
            } => {
                let taken = self.taken(condition, then, otherwise)?;
                self.unrank_sequence(taken, 0, rank)
            }
            Step::Choose { slot, branches, .. } => {
                for (value, branch) in branches.iter().enumerate() {
                    let count = self.sequence(branch, 0)?;
                    if rank < count {
                        self.chosen[*slot] = Some(value);
                        return self.unrank_sequence(branch, 0, rank);
                    }
                    rank -= count;
                }
                Ok(())
            }
            Step::Repeat {
                times,
                copies,
                tied,
                ..
            } => {
                let products = self.products(copies, *tied)?;
                let mut count = match times {
                    Times::Fixed(count) => *count,
                    Times::Decided { .. } => 0,
                };
                if let Times::Decided { slot, counts } = times {
                    for (value, &copies) in counts.iter().enumerate() {
                        if rank < products[copies] {
                            self.chosen[*slot] = Some(value);
                            count = copies;
                            break;
                        }
                        rank -= &products[copies];
                    }
                }
                self.unrank_all(&copies[..if *tied { count.min(1) } else { count }], rank)
            }
        }
    }

    fn unrank_all(&mut self, sequences: &'p [Sequence], rank: BigUint) -> Result<()> {
        let mut radices = Vec::with_capacity(sequences.len());
        for sequence in sequences {
            radices.push(self.sequence(sequence, 0)?);
        }
        for (sequence, digit) in sequences.iter().zip(digits(rank, &radices)) {
            self.unrank_sequence(sequence, 0, digit)?;
        }
        Ok(())
    }

    fn rank_sequence(
        &mut self,
        sequence: &'p Sequence,
        from: usize,
        member: &[Option<usize>],
    ) -> Result<BigUint> {
        let mut rank = BigUint::ZERO;
        for (index, step) in sequence.steps.iter().enumerate().skip(from) {
            if let Some((slot, variable)) = steering(sequence, index) {
                rank *= self.sequence(sequence, index)?;
                let own = member[slot].unwrap_or(0);
                for value in 0..own {
                    self.choose(slot, variable, value);
                    rank += self.sequence(sequence, index + 1)?;
                }
                self.choose(slot, variable, own);
                return Ok(rank + self.rank_sequence(sequence, index + 1, member)?);
            }
            rank = rank * self.step(step)? + self.rank_step(step, member)?;
        }
        Ok(rank)
    }

    fn rank_step(&mut self, step: &'p Step, member: &[Option<usize>]) -> Result<BigUint> {
        match step {
            Step::If { .. } if !step.decides() => Ok(BigUint::ZERO),
            Step::Input { .. }
            | Step::Setting { .. }
            | Step::Keep { .. }
            | Step::Read { .. }
            | Step::Nothing { .. }
            | Step::Operation(_) => Ok(BigUint::ZERO),
            Step::Let { .. } => self.step(step).map(|_| BigUint::ZERO),
            Step::Decide { slot, .. } => Ok(member[*slot].unwrap_or(0).into()),
            Step::Residual { body, .. } | Step::Gate { body, .. } => {
                self.rank_sequence(body, 0, member)
            }
            Step::Parallel { branches, .. } => self.rank_all(branches, member),
            Step::If {
                condition,
                then,
                otherwise,
                ..
            } => {
                let taken = self.taken(condition, then, otherwise)?;
                self.rank_sequence(taken, 0, member)
            }
            Step::Choose { slot, branches, .. } => {
                let own = member[*slot].unwrap_or(0);
                let mut rank = self.rank_sequence(&branches[own], 0, member)?;
                for branch in &branches[..own] {
                    rank += self.sequence(branch, 0)?;
                }
                Ok(rank)
            }
            Step::Repeat {
                times,
                copies,
                tied,
                ..
            } => {
                let products = self.products(copies, *tied)?;
                let (count, before) = match times {
                    Times::Fixed(count) => (*count, BigUint::ZERO),
                    Times::Decided { slot, counts } => {
                        let own = member[*slot].unwrap_or(0);
                        (
                            counts[own],
                            counts[..own].iter().map(|&count| &products[count]).sum(),
                        )
                    }
                };
                let copies = &copies[..if *tied { count.min(1) } else { count }];
                Ok(before + self.rank_all(copies, member)?)
            }
        }
    }

    fn rank_all(&mut self, sequences: &'p [Sequence], member: &[Option<usize>]) -> Result<BigUint> {
        let mut rank = BigUint::ZERO;
        for sequence in sequences {
            rank = rank * self.sequence(sequence, 0)? + self.rank_sequence(sequence, 0, member)?;
        }
        Ok(rank)
    }

    fn choose(&mut self, slot: usize, variable: usize, value: usize) {
        self.chosen[slot] = Some(value);
        self.variables[variable] = Some(self.program.slots[slot].domain.values[value].clone());
    }

    fn taken(
        &self,
        condition: &Formula,
        then: &'p Sequence,
        otherwise: &'p Sequence,
    ) -> Result<&'p Sequence> {
        match self.evaluate(condition) {
            Some(Value::Bool(true)) => Ok(then),
            Some(Value::Bool(false)) => Ok(otherwise),
            _ => Err(SpaceError::Illegal(
                "a condition of this space is neither true nor false".into(),
            )),
        }
    }

    /// The value of a formula if all of its names have one.
    fn evaluate(&self, formula: &Formula) -> Option<Value> {
        let mut is_known = true;
        formula.names(&mut |name| {
            is_known &=
                matches!(name, Name::Variable(variable) if self.variables[*variable].is_some());
        });
        let value = formula.evaluate(&|name| match name {
            Name::Variable(variable) => self.variables[*variable]
                .clone()
                .unwrap_or(Value::Bool(false)),
            Name::Channels => Value::Bool(false),
        });
        value.ok().filter(|_| is_known)
    }
}

/// The slot and variable of a decision that a condition after it reads.
fn steering(sequence: &Sequence, index: usize) -> Option<(usize, usize)> {
    match sequence.steps.get(index)? {
        Step::Decide { slot, variable } if sequence.needs[index + 1].contains(slot) => {
            Some((*slot, *variable))
        }
        _ => None,
    }
}

/// A number in mixed radix, the first digit the most significant.
fn digits(mut number: BigUint, radices: &[BigUint]) -> Vec<BigUint> {
    let mut digits = vec![BigUint::ZERO; radices.len()];
    for (digit, radix) in digits.iter_mut().zip(radices).rev() {
        *digit = &number % radix;
        number /= radix;
    }
    digits
}
