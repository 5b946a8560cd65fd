//! A space: an immutable tree of decisions and modules, and everything that follows from it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use num_bigint::BigUint;
use oncefit_random::Draws;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::count::count;
use crate::envelope::Envelope;
use crate::error::{Result, SpaceError, suggestion};
use crate::graph::{Graph, GraphNode};
use crate::parser::parse;
use crate::trace::{Choice, Subnet, Trace};
use crate::tree::Tree;
use crate::value::{DecisionSlot, Value};
use crate::walk::{Mode, Walker};

/// A search space. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Space {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    tree: Tree,
    decisions: Vec<DecisionSlot>,
    envelope: Envelope,
}

/// What follows a partial trace.
#[derive(Clone, Debug)]
pub enum Step {
    /// A decision is open.
    Decide(DecisionSlot),
    /// The member is complete.
    Done(Subnet),
    /// These values make no network; the reason.
    Hole(String),
}

impl Space {
    /// Reads a space; `file_name` is for messages.
    ///
    /// # Errors
    /// If the text is not a space; the message shows the place.
    pub fn parse(text: &str, file_name: &str) -> Result<Self> {
        Self::parse_with(text, file_name, &[])
    }

    /// Reads a space and sets some of its parameters. `classes` and `channels` are ignored where a
    /// space has no such parameter, since callers take them from the data.
    ///
    /// # Errors
    /// If the text is not a space or has no such parameter.
    pub fn parse_with(text: &str, file_name: &str, parameters: &[(&str, Value)]) -> Result<Self> {
        let mut tree = parse(text, file_name)?;
        for (name, value) in parameters {
            let known: Vec<String> = tree
                .parameters
                .iter()
                .map(|(name, _)| name.clone())
                .collect();
            match tree.parameters.iter_mut().find(|(other, _)| other == name) {
                Some((_, old)) => *old = value.clone(),
                None if matches!(*name, "classes" | "channels") => {}
                None => {
                    let hint = suggestion(name, known.iter().map(String::as_str));
                    return Err(SpaceError::Illegal(format!(
                        "space `{}` has no parameter `{name}`{hint}; legal: {}",
                        tree.name,
                        known.join(", ")
                    )));
                }
            }
        }
        Self::new(tree)
    }

    fn new(tree: Tree) -> Result<Self> {
        let walker = Walker::new(&tree, Mode::All).run()?;
        let decisions: Vec<DecisionSlot> = walker
            .decisions
            .iter()
            .map(|(slot, _)| slot.clone())
            .collect();
        let envelope = Envelope::new(&walker.nodes);
        for (fixed, _) in &tree.fixes {
            let is_known = decisions
                .iter()
                .any(|slot| slot.path == *fixed || slot.name == *fixed)
                || single_valued(&tree, fixed);
            if !is_known {
                return Err(unknown_decision(&tree.name, &decisions, fixed));
            }
        }
        Ok(Self {
            inner: Arc::new(Inner {
                tree,
                decisions,
                envelope,
            }),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.inner.tree.name
    }

    /// Its text, parameters with their values: what [`Space::parse`] reads back as this space.
    pub fn to_text(&self) -> String {
        self.inner.tree.to_text()
    }

    /// A short content hash of its text.
    pub fn hash(&self) -> String {
        blake3::hash(self.to_text().as_bytes()).to_hex()[..16].to_owned()
    }

    /// Every decision that some member has, in the order in which they are met. Decisions with one
    /// value take it by themselves and are left out.
    pub fn decisions(&self) -> &[DecisionSlot] {
        &self.inner.decisions
    }

    /// What the supernet of this space must store.
    ///
    /// # Errors
    /// Never today; kept fallible for spaces whose envelope is made on demand.
    pub fn envelope(&self) -> Result<Envelope> {
        Ok(self.inner.envelope.clone())
    }

    /// How many members it has, exactly.
    ///
    /// # Errors
    /// If a domain depends on a decision.
    pub fn count(&self) -> Result<BigUint> {
        count(&self.inner.tree, &HashMap::new())
    }

    /// Builds a member: `choose` is asked for the index of a value at each decision.
    ///
    /// # Errors
    /// If an index is out of range or the shapes do not meet.
    pub fn build(&self, choose: &mut dyn FnMut(&DecisionSlot) -> usize) -> Result<Subnet> {
        let walker = Walker::new(&self.inner.tree, Mode::Member(choose)).run()?;
        let choices = walker.decisions.into_iter().map(|(slot, index)| Choice {
            value: slot.domain.values[index].clone(),
            path: slot.path,
            name: slot.name,
        });
        let nodes = walker.nodes.into_iter().map(|node| GraphNode {
            path: node.path,
            op: node.op,
            inputs: node.inputs,
            shape: node.shape,
        });
        Ok(Subnet::new(
            Trace {
                choices: choices.collect(),
            },
            Graph {
                nodes: nodes.collect(),
            },
        ))
    }

    /// What follows a partial trace, whose choices are the first decisions in order.
    ///
    /// # Errors
    /// If a choice is not the decision that comes next, or its value is illegal.
    pub fn step(&self, partial: &Trace) -> Result<Step> {
        let mut at = 0;
        let mut problem = None;
        let mut open = None;
        let built = self.build(&mut |slot| {
            let choice = partial.choices.get(at);
            at += 1;
            match choice {
                Some(choice) if choice.path != slot.path => {
                    problem.get_or_insert_with(|| {
                        format!("decision `{}` comes next, not `{}`", slot.path, choice.path)
                    });
                    0
                }
                Some(choice) => slot.domain.position(&choice.value).unwrap_or_else(|| {
                    problem.get_or_insert_with(|| illegal_value(slot, &choice.value));
                    0
                }),
                None => {
                    open.get_or_insert_with(|| slot.clone());
                    0
                }
            }
        });
        match (problem, open, built) {
            (Some(problem), ..) => Err(SpaceError::Illegal(problem)),
            (None, Some(slot), _) => Ok(Step::Decide(slot)),
            (None, None, Ok(_)) if at < partial.choices.len() => Err(SpaceError::Illegal(format!(
                "the network is complete; decision `{}` does not belong to it",
                partial.choices[at].path
            ))),
            (None, None, Ok(subnet)) => Ok(Step::Done(subnet)),
            (None, None, Err(error)) => Ok(Step::Hole(error.to_string())),
        }
    }

    /// A random member, every decision uniform (Once-for-All's sampling: not uniform over members,
    /// since shallow networks have fewer decisions).
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn sample(&self, draws: &mut Draws) -> Result<Subnet> {
        self.build(&mut |slot| draws.below(slot.domain.values.len()))
    }

    /// A random member, uniform over members.
    ///
    /// # Errors
    /// If the space cannot be counted or the shapes do not meet.
    pub fn sample_uniform(&self, draws: &mut Draws) -> Result<Subnet> {
        let mut chosen = HashMap::new();
        let mut failure = None;
        let subnet = self.build(
            &mut |slot| match self.draw_by_count(slot, &mut chosen, draws) {
                Ok(index) => index,
                Err(error) => {
                    failure.get_or_insert(error);
                    0
                }
            },
        )?;
        failure.map_or(Ok(subnet), Err)
    }

    fn draw_by_count(
        &self,
        slot: &DecisionSlot,
        chosen: &mut HashMap<String, Value>,
        draws: &mut Draws,
    ) -> Result<usize> {
        let mut counts = Vec::with_capacity(slot.domain.values.len());
        for value in &slot.domain.values {
            chosen.insert(slot.path.clone(), value.clone());
            counts.push(count(&self.inner.tree, chosen)?);
        }
        let mut rank = below(&counts.iter().sum(), draws);
        let index = counts
            .iter()
            .position(|count| {
                let is_here = rank < *count;
                if !is_here {
                    rank -= count;
                }
                is_here
            })
            .unwrap_or(0);
        chosen.insert(slot.path.clone(), slot.domain.values[index].clone());
        Ok(index)
    }

    /// The member with ordered decisions at their smallest and unordered ones at the value that
    /// gives the fewest MACs.
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn smallest(&self) -> Result<Subnet> {
        self.extreme(false)
    }

    /// The member with ordered decisions at their largest and unordered ones at the value that
    /// gives the most MACs.
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn largest(&self) -> Result<Subnet> {
        self.extreme(true)
    }

    fn extreme(&self, is_largest: bool) -> Result<Subnet> {
        let mut chosen: HashMap<String, usize> = HashMap::new();
        let build = |chosen: &HashMap<String, usize>| {
            self.build(&mut |slot| match chosen.get(&slot.path) {
                Some(&index) => index,
                None if !slot.domain.ordered => 0,
                None if is_largest => slot.domain.largest(),
                None => slot.domain.smallest(),
            })
        };
        // Unordered decisions in order, each with those after it at their first value.
        for slot in self.decisions().iter().filter(|slot| !slot.domain.ordered) {
            let mut best: Option<(u64, usize)> = None;
            for index in 0..slot.domain.values.len() {
                chosen.insert(slot.path.clone(), index);
                let macs = build(&chosen)?.graph().macs();
                let is_better = best.is_none_or(
                    |(best, _)| {
                        if is_largest { macs > best } else { macs < best }
                    },
                );
                if is_better {
                    best = Some((macs, index));
                }
            }
            chosen.insert(slot.path.clone(), best.map_or(0, |(_, index)| index));
        }
        build(&chosen)
    }

    /// The member that a trace describes.
    ///
    /// # Errors
    /// Naming the first decision that is unknown, missing or has an illegal value, with the legal
    /// ones.
    pub fn subnet(&self, trace: &Trace) -> Result<Subnet> {
        let mut problem = None;
        let mut used = 0;
        let subnet = self.build(&mut |slot| match trace.get(&slot.path) {
            Some(value) => {
                used += 1;
                slot.domain.position(value).unwrap_or_else(|| {
                    problem.get_or_insert_with(|| illegal_value(slot, value));
                    0
                })
            }
            None => {
                problem.get_or_insert_with(|| missing_value(slot));
                0
            }
        })?;
        if let Some(problem) = problem {
            return Err(SpaceError::Illegal(problem));
        }
        if used < trace.choices.len() {
            let extra = trace
                .choices
                .iter()
                .find(|choice| subnet.trace().get(&choice.path).is_none());
            let path = extra.map_or("", |choice| &choice.path);
            let is_known = self.decisions().iter().any(|slot| slot.path == path);
            return Err(match is_known {
                true => SpaceError::Illegal(format!(
                    "decision `{path}` is not active with the other values of this trace"
                )),
                false => unknown_decision(self.name(), self.decisions(), path),
            });
        }
        Ok(subnet)
    }

    /// The member that a compact text describes, `largest` or `smallest`.
    ///
    /// # Errors
    /// As [`Space::subnet`].
    pub fn parse_subnet(&self, text: &str) -> Result<Subnet> {
        match text.trim() {
            "largest" => return self.largest(),
            "smallest" => return self.smallest(),
            _ => {}
        }
        let mut groups: Vec<(String, VecDeque<Value>, bool)> = Vec::new();
        for part in text.trim().split(':').filter(|part| !part.is_empty()) {
            let (name, values) = part.split_once('=').ok_or_else(|| {
                SpaceError::Illegal(format!(
                    "`{part}` is no part of a subnet; write name=value,value,…, parts joined by `:`, or `largest`, `smallest`"
                ))
            })?;
            if !self.decisions().iter().any(|slot| slot.name == name) {
                return Err(unknown_decision(self.name(), self.decisions(), name));
            }
            let values: VecDeque<Value> = values
                .split(',')
                .map(|value| Value::parse(value.trim()))
                .collect();
            let is_single = values.len() == 1;
            groups.push((name.to_owned(), values, is_single));
        }
        let mut problem = None;
        let subnet = self.build(&mut |slot| {
            let group = groups.iter_mut().find(|(name, ..)| *name == slot.name);
            let value = group.and_then(|(_, values, is_single)| match is_single {
                true => values.front().cloned(),
                false => values.pop_front(),
            });
            let found = match &value {
                Some(value) => slot
                    .domain
                    .position(value)
                    .ok_or_else(|| illegal_value(slot, value)),
                None => Err(missing_value(slot)),
            };
            found.unwrap_or_else(|message| {
                problem.get_or_insert(message);
                0
            })
        })?;
        if let Some(problem) = problem {
            return Err(SpaceError::Illegal(problem));
        }
        if let Some((name, values, _)) = groups
            .iter()
            .find(|(_, values, is_single)| !is_single && !values.is_empty())
        {
            return Err(SpaceError::Illegal(format!(
                "`{name}` has {} values too many: this network has {} decisions of that name",
                values.len(),
                subnet
                    .trace()
                    .choices
                    .iter()
                    .filter(|choice| choice.name == *name)
                    .count()
            )));
        }
        Ok(subnet)
    }

    /// `subnet` with each decision redrawn with `probability`; decisions that are new are drawn.
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn mutate(&self, subnet: &Subnet, probability: f64, draws: &mut Draws) -> Result<Subnet> {
        self.build(&mut |slot| {
            let kept = subnet
                .trace()
                .get(&slot.path)
                .and_then(|value| slot.domain.position(value));
            match kept {
                Some(index) if !draws.chance(probability) => index,
                _ => draws.below(slot.domain.values.len()),
            }
        })
    }

    /// A member that has each decision from one of two parents; decisions that neither has are
    /// drawn.
    ///
    /// # Errors
    /// If the shapes do not meet.
    pub fn crossover(&self, left: &Subnet, right: &Subnet, draws: &mut Draws) -> Result<Subnet> {
        self.build(&mut |slot| {
            let of = |parent: &Subnet| {
                parent
                    .trace()
                    .get(&slot.path)
                    .and_then(|value| slot.domain.position(value))
            };
            match (of(left), of(right)) {
                (Some(left), Some(right)) => {
                    if draws.chance(0.5) {
                        left
                    } else {
                        right
                    }
                }
                (Some(index), None) | (None, Some(index)) => index,
                (None, None) => draws.below(slot.domain.values.len()),
            }
        })
    }

    /// A one-hot code of fixed length: one number for each value of each decision of
    /// [`Space::decisions`], 0 where a decision is inactive.
    pub fn encode(&self, subnet: &Subnet) -> Vec<f32> {
        let values: HashMap<&str, &Value> = subnet
            .trace()
            .choices
            .iter()
            .map(|choice| (choice.path.as_str(), &choice.value))
            .collect();
        self.decisions()
            .iter()
            .flat_map(|slot| {
                let chosen = values.get(slot.path.as_str()).copied();
                slot.domain
                    .values
                    .iter()
                    .map(move |value| f32::from(u8::from(chosen == Some(value))))
            })
            .collect()
    }

    /// What each number of [`Space::encode`] stands for: `unit1[0].kernel=5`.
    pub fn encoding_names(&self) -> Vec<String> {
        self.decisions()
            .iter()
            .flat_map(|slot| {
                slot.domain
                    .values
                    .iter()
                    .map(move |value| format!("{}={value}", slot.path))
            })
            .collect()
    }

    /// The same space with the decisions of a name, or one path, narrowed to some of their values.
    /// Its members are members of this space; a decision left with one value is taken by itself.
    ///
    /// # Errors
    /// If there is no such decision or value.
    pub fn restrict(&self, name: &str, values: &[Value]) -> Result<Self> {
        let matching: Vec<&DecisionSlot> = self
            .decisions()
            .iter()
            .filter(|slot| slot.path == name || slot.name == name)
            .collect();
        if matching.is_empty() {
            return Err(unknown_decision(self.name(), self.decisions(), name));
        }
        for slot in matching {
            if let Some(value) = values
                .iter()
                .find(|value| slot.domain.position(value).is_none())
            {
                return Err(SpaceError::Illegal(illegal_value(slot, value)));
            }
        }
        if values.is_empty() {
            return Err(SpaceError::Illegal(format!(
                "decision `{name}` needs at least one value"
            )));
        }
        let mut tree = self.inner.tree.clone();
        tree.fixes.push((name.to_owned(), values.to_vec()));
        Self::new(tree)
    }
}

/// Whether a fixed decision is left out of the list because one value is left to it.
fn single_valued(tree: &Tree, fixed: &str) -> bool {
    let unfixed = Tree {
        fixes: Vec::new(),
        ..tree.clone()
    };
    Walker::new(&unfixed, Mode::All).run().is_ok_and(|walker| {
        walker
            .decisions
            .iter()
            .any(|(slot, _)| slot.path == fixed || slot.name == fixed)
    })
}

fn illegal_value(slot: &DecisionSlot, value: &Value) -> String {
    format!(
        "decision `{}` cannot be `{value}`; legal values: {}",
        slot.path,
        slot.domain.list()
    )
}

fn missing_value(slot: &DecisionSlot) -> String {
    format!(
        "decision `{}` has no value; legal values: {}",
        slot.path,
        slot.domain.list()
    )
}

fn unknown_decision(space: &str, decisions: &[DecisionSlot], name: &str) -> SpaceError {
    let mut names: Vec<&str> = Vec::new();
    for slot in decisions {
        if !names.contains(&slot.name.as_str()) {
            names.push(&slot.name);
        }
    }
    let paths = decisions.iter().map(|slot| slot.path.as_str());
    let hint = suggestion(name, names.iter().copied().chain(paths));
    SpaceError::Illegal(format!(
        "space `{space}` has no decision `{name}`{hint}; its decisions: {}",
        names.join(", ")
    ))
}

/// A uniform integer below `bound`.
fn below(bound: &BigUint, draws: &mut Draws) -> BigUint {
    let digits = (bound.bits() / 32 + 2) as usize;
    // 32 bits more than the bound has: the bias is below 2⁻³².
    let random = BigUint::new((0..digits).map(|_| draws.next_u32()).collect());
    let range = BigUint::from(1u32) << (32 * digits);
    (random * bound) / range
}

impl PartialEq for Space {
    fn eq(&self, other: &Self) -> bool {
        self.to_text() == other.to_text()
    }
}

impl Serialize for Space {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.to_text().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Space {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text, "space").map_err(serde::de::Error::custom)
    }
}
