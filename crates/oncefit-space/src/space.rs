//! A space: an immutable tree of decisions and modules, and everything that follows from it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decisions::DecisionTree;
use crate::elaborate::{elaborate, unknown_decision};
use crate::envelope::{Envelope, envelope};
use crate::error::{Result, SpaceError, suggestion};
use crate::member;
use crate::parser::parse;
use crate::program::Program;
use crate::trace::{Subnet, Trace};
use crate::tree::{Fix, Source, Tree};
use crate::value::{DecisionSlot, Value};

/// A search space. Cheap to clone; serialised as its text.
#[derive(Clone)]
pub struct Space {
    inner: Arc<Inner>,
}

struct Inner {
    tree: Tree,
    program: Program,
    decision_tree: DecisionTree,
    /// The number of each decision in the program, by path.
    slots: HashMap<String, usize>,
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
    /// If the text is not a space, or has no such parameter, or one of another kind.
    pub fn parse_with(text: &str, file_name: &str, parameters: &[(&str, Value)]) -> Result<Self> {
        let mut tree = parse(text, file_name)?;
        for (name, value) in parameters {
            tree.set_parameter(name, value)?;
        }
        Self::new(tree)
    }

    pub(crate) fn new(tree: Tree) -> Result<Self> {
        let mut program = elaborate(&tree)?;
        let mut envelope = envelope(&program, &tree.source)?;
        if envelope.has_concatenations() {
            // A narrowed space is read from the weights of the whole one: the room that these
            // leave between concatenated channels does not depend on what is narrowed.
            let offsets = match tree.fixes.is_empty() {
                true => envelope.offsets(),
                false => {
                    let whole = Tree {
                        fixes: Vec::new(),
                        ..tree.clone()
                    };
                    crate::envelope::envelope(&elaborate(&whole)?, &tree.source)?.offsets()
                }
            };
            program.body.concatenations(&mut |paths, found| {
                let each = paths.iter().map(|path| offsets.get(path).copied());
                *found = each.map(Option::unwrap_or_default).collect();
            });
            envelope = crate::envelope::envelope(&program, &tree.source)?;
        }
        let paths = program.slots.iter().map(|slot| slot.path.clone());
        let slots = paths
            .enumerate()
            .map(|(index, path)| (path, index))
            .collect();
        Ok(Self {
            inner: Arc::new(Inner {
                tree,
                decision_tree: DecisionTree::new(&program),
                program,
                slots,
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
        &self.inner.program.slots
    }

    /// Names of the training settings that some member has, decided or not.
    pub fn settings(&self) -> &[String] {
        &self.inner.program.settings
    }

    /// What the supernet of this space must store.
    ///
    /// # Errors
    /// Never: a space whose largest shapes do not meet is not read. A `Result`, as all that walks
    /// a space is.
    pub fn envelope(&self) -> Result<Envelope> {
        Ok(self.inner.envelope.clone())
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.inner.tree
    }

    pub(crate) fn program(&self) -> &Program {
        &self.inner.program
    }

    pub(crate) fn source(&self) -> &Source {
        &self.inner.tree.source
    }

    pub(crate) fn decision_tree(&self) -> &DecisionTree {
        &self.inner.decision_tree
    }

    /// The number of the decision at a path.
    pub(crate) fn slot(&self, path: &str) -> Option<usize> {
        self.inner.slots.get(path).copied()
    }

    /// Builds a member: `choose` is asked for the index of a value at each decision.
    ///
    /// # Errors
    /// If an index is out of range or the shapes do not meet.
    pub fn build(&self, choose: &mut dyn FnMut(&DecisionSlot) -> usize) -> Result<Subnet> {
        self.build_slots(&mut |_, slot| choose(slot))
    }

    /// As [`Space::build`]; `choose` also gets the number of the decision.
    pub(crate) fn build_slots(
        &self,
        choose: &mut dyn FnMut(usize, &DecisionSlot) -> usize,
    ) -> Result<Subnet> {
        member::build(&self.inner.program, &self.inner.tree.source, choose)
    }

    /// What follows a partial trace, whose choices are the first decisions in order.
    ///
    /// # Errors
    /// If a choice is not the decision that comes next, or its value is illegal.
    pub fn step(&self, partial: &Trace) -> Result<Step> {
        let mut given = partial.choices.iter();
        let mut problem = None;
        let mut open = None;
        let built = self.build(&mut |slot| {
            let message = match given.next() {
                None => {
                    open.get_or_insert_with(|| slot.clone());
                    return 0;
                }
                Some(choice) if choice.path != slot.path => {
                    format!("decision `{}` comes next, not `{}`", slot.path, choice.path)
                }
                Some(choice) => match slot.domain.position(&choice.value) {
                    Some(index) => return index,
                    None => illegal_value(slot, &choice.value.to_string()),
                },
            };
            problem.get_or_insert(message);
            0
        });
        if let Some(problem) = problem {
            return Err(SpaceError::Illegal(problem));
        }
        match (open, given.next(), built) {
            (Some(slot), ..) => Ok(Step::Decide(slot)),
            (None, _, Err(error)) => Ok(Step::Hole(error.reason())),
            (None, Some(choice), Ok(_)) => Err(SpaceError::Illegal(format!(
                "the network is complete; decision `{}` does not belong to it",
                choice.path
            ))),
            (None, None, Ok(subnet)) => Ok(Step::Done(subnet)),
        }
    }

    /// The member that a trace describes.
    ///
    /// # Errors
    /// Naming the first decision that is unknown, missing, inactive or has an illegal value, with
    /// the legal ones.
    pub fn subnet(&self, trace: &Trace) -> Result<Subnet> {
        self.follow(trace, &mut |_, _| {})
    }

    /// As [`Space::subnet`]; `found` gets the number of each decision and the index of its value.
    pub(crate) fn follow(
        &self,
        trace: &Trace,
        found: &mut dyn FnMut(usize, usize),
    ) -> Result<Subnet> {
        let values = trace.by_path();
        let unknown = trace
            .choices
            .iter()
            .find(|choice| self.slot(&choice.path).is_none());
        if let Some(choice) = unknown {
            return Err(unknown_decision(
                self.name(),
                self.decisions(),
                &choice.path,
            ));
        }
        let mut problem = None;
        let built = self.build_slots(&mut |number, slot| {
            let value = values.get(slot.path.as_str());
            let index = value.and_then(|value| slot.domain.position(value));
            if let Some(index) = index {
                found(number, index);
                return index;
            }
            problem.get_or_insert_with(|| match value {
                Some(value) => illegal_value(slot, &value.to_string()),
                None => missing_value(slot),
            });
            0
        });
        if let Some(problem) = problem {
            return Err(SpaceError::Illegal(problem));
        }
        let subnet = built?;
        if values.len() < trace.choices.len() {
            let message = "a decision stands twice in this trace".to_owned();
            return Err(SpaceError::Illegal(message));
        }
        let active = subnet.trace().by_path();
        match trace
            .choices
            .iter()
            .find(|choice| !active.contains_key(choice.path.as_str()))
        {
            None => Ok(subnet),
            Some(choice) => Err(SpaceError::Illegal(format!(
                "decision `{}` is not active with the other values of this trace",
                choice.path
            ))),
        }
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
        let mut groups = self.groups(text.trim())?;
        let mut problem = None;
        let built = self.build(&mut |slot| {
            let written = groups
                .iter_mut()
                .find(|group| group.name == slot.name)
                .and_then(Group::next);
            let index = written.and_then(|written| slot.domain.read(written));
            if let Some(index) = index {
                return index;
            }
            problem.get_or_insert_with(|| match written {
                Some(written) => illegal_value(slot, written),
                None => missing_value(slot),
            });
            0
        });
        if let Some(problem) = problem {
            return Err(SpaceError::Illegal(problem));
        }
        let subnet = built?;
        for group in groups {
            let choices = subnet.trace().choices.iter();
            let decisions = choices.filter(|choice| choice.name == group.name).count();
            if decisions == 0 {
                return Err(SpaceError::Illegal(format!(
                    "`{}` has a value, but this network has no decision of that name",
                    group.name
                )));
            }
            if !group.is_single() && !group.left.is_empty() {
                return Err(SpaceError::Illegal(format!(
                    "`{}` has {} values too many: this network has {decisions} decisions of that name",
                    group.name,
                    group.left.len()
                )));
            }
        }
        Ok(subnet)
    }

    fn groups<'t>(&self, text: &'t str) -> Result<Vec<Group<'t>>> {
        let mut groups: Vec<Group> = Vec::new();
        for part in text.split(':').filter(|part| !part.is_empty()) {
            let Some((name, values)) = part.split_once('=') else {
                return Err(SpaceError::Illegal(format!(
                    "`{part}` is no part of a subnet; write name=value,value,…, parts joined by `:`, or `largest`, `smallest`"
                )));
            };
            if !self.decisions().iter().any(|slot| slot.name == name) {
                return Err(unknown_decision(self.name(), self.decisions(), name));
            }
            if groups.iter().any(|group| group.name == name) {
                return Err(SpaceError::Illegal(format!("`{name}` is given twice")));
            }
            let left: VecDeque<&str> = values.split(',').map(str::trim).collect();
            groups.push(Group {
                name,
                count: left.len(),
                left,
            });
        }
        Ok(groups)
    }

    /// The same space with the decisions of a name, or one path, narrowed to some of their values.
    /// Its members are members of this space; a decision left with one value is taken by itself and
    /// has no place in the traces of the narrowed space. The path of a decision at the top level is
    /// its name, which stands for all decisions of that name. Where their values differ, each keeps
    /// those of `values` that it has.
    ///
    /// # Errors
    /// If there is no such decision or value, or one of the decisions has none of the values.
    pub fn restrict(&self, name: &str, values: &[Value]) -> Result<Self> {
        let is_meant = |slot: &&DecisionSlot| slot.path == name || slot.name == name;
        let meant: Vec<&DecisionSlot> = self.decisions().iter().filter(is_meant).collect();
        let Some(first) = meant.first() else {
            return Err(unknown_decision(self.name(), self.decisions(), name));
        };
        let has = |slot: &DecisionSlot, value: &Value| slot.domain.position(value).is_some();
        for value in values {
            if !meant.iter().any(|slot| has(slot, value)) {
                return Err(SpaceError::Illegal(illegal_value(
                    first,
                    &value.to_string(),
                )));
            }
        }
        if values.is_empty() {
            return Err(SpaceError::Illegal(format!(
                "decision `{name}` needs at least one value"
            )));
        }
        let is_empty = |slot: &&&DecisionSlot| !values.iter().any(|value| has(slot, value));
        if let Some(slot) = meant.iter().find(is_empty) {
            let given: Vec<String> = values.iter().map(Value::to_string).collect();
            return Err(SpaceError::Illegal(format!(
                "decision `{}` has none of the values {}; its values: {}; decisions called `{name}` that differ are narrowed by their paths",
                slot.path,
                given.join(", "),
                slot.domain.list()
            )));
        }
        let mut tree = self.inner.tree.clone();
        tree.fixes.push(Fix {
            name: name.to_owned(),
            values: values.to_vec(),
            at: None,
        });
        Self::new(tree)
    }
}

/// The values that a compact text gives to the decisions of one name.
struct Group<'t> {
    name: &'t str,
    left: VecDeque<&'t str>,
    count: usize,
}

impl<'t> Group<'t> {
    /// Whether its one value stands for all decisions.
    fn is_single(&self) -> bool {
        self.count == 1
    }

    fn next(&mut self) -> Option<&'t str> {
        match self.is_single() {
            true => self.left.front().copied(),
            false => self.left.pop_front(),
        }
    }
}

impl Tree {
    fn set_parameter(&mut self, name: &str, value: &Value) -> Result<()> {
        let Some(index) = self.parameters.iter().position(|(other, _)| other == name) else {
            if matches!(name, "classes" | "channels") {
                return Ok(());
            }
            let known: Vec<&str> = self
                .parameters
                .iter()
                .map(|(name, _)| name.as_str())
                .collect();
            return Err(SpaceError::Illegal(format!(
                "space `{}` has no parameter `{name}`{}; legal: {}",
                self.name,
                suggestion(name, known.iter().copied()),
                known.join(", ")
            )));
        };
        let old = &mut self.parameters[index].1;
        *old = match (&*old, value) {
            (Value::Real(_), Value::Int(value)) => Value::Real(*value as f64),
            (Value::Real(_), Value::Real(value)) if value.is_finite() => Value::Real(*value),
            (Value::Int(_), Value::Int(_)) | (Value::Bool(_), Value::Bool(_)) => value.clone(),
            (Value::Text(_), Value::Text(_)) => value.clone(),
            (old, value) => {
                return Err(SpaceError::Illegal(format!(
                    "parameter `{name}` of space `{}` is {}, such as `{old}`; it cannot be `{value}`",
                    self.name,
                    old.kind()
                )));
            }
        };
        Ok(())
    }
}

fn illegal_value(slot: &DecisionSlot, value: &str) -> String {
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

impl PartialEq for Space {
    fn eq(&self, other: &Self) -> bool {
        self.to_text() == other.to_text()
    }
}

impl Eq for Space {}

impl fmt::Debug for Space {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(formatter, "Space({}, {})", self.name(), self.hash())
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
