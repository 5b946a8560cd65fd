//! Names within a space: labels are made unique where they stand, whatever branch is taken.

use std::collections::HashMap;

use crate::tree::{Node, Statement, Tree};

/// Operations and decisions may share a name: `unit.expand` may be both.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Operation,
    Decision,
}

/// Names that are taken within a labelled node.
#[derive(Default)]
pub(crate) struct Scope {
    prefix: String,
    /// The number that was given last to each name.
    used: HashMap<(Kind, String), usize>,
}

impl Scope {
    /// A path for the operation or block `name`, numbered if it is taken.
    pub fn path(&mut self, name: &str) -> String {
        self.claim(&[Kind::Operation], name)
    }

    /// A path for the decision `name`, numbered if it is taken.
    pub fn decision(&mut self, name: &str) -> String {
        self.claim(&[Kind::Decision], name)
    }

    /// A path for a block that is a decision too, numbered if it is taken.
    pub fn branching(&mut self, name: &str) -> String {
        self.claim(&[Kind::Operation, Kind::Decision], name)
    }

    /// The path of what is not part of any network.
    pub fn join(&self, name: &str) -> String {
        format!("{}{name}.join", self.prefix)
    }

    fn claim(&mut self, kinds: &[Kind], name: &str) -> String {
        let last = |kind: &Kind| self.used.get(&(*kind, name.to_owned())).copied();
        let mut number = kinds
            .iter()
            .filter_map(last)
            .max()
            .map_or(1, |last| last + 1);
        let numbered = |number: usize| match number {
            1 => name.to_owned(),
            number => format!("{name}_{number}"),
        };
        let is_used = |name: &str| {
            kinds
                .iter()
                .any(|kind| self.used.contains_key(&(*kind, name.to_owned())))
        };
        while is_used(&numbered(number)) {
            number += 1;
        }
        for kind in kinds {
            self.used.insert((*kind, numbered(number)), 1);
            self.used.insert((*kind, name.to_owned()), number);
        }
        format!("{}{}", self.prefix, numbered(number))
    }

    /// The scope of what is labelled `path`.
    pub fn inner(path: &str) -> Self {
        Self {
            prefix: format!("{path}."),
            used: HashMap::new(),
        }
    }

    /// Takes the names that a block would take, without walking it; `budget` is how many statements
    /// may still be looked at.
    pub fn reserve(&mut self, tree: &Tree, block: &[Statement], budget: &mut usize) {
        for statement in block {
            let Some(left) = budget.checked_sub(1) else {
                return;
            };
            *budget = left;
            match statement {
                Statement::Let { .. } => {}
                Statement::Decide { name, .. } | Statement::Setting { name, .. } => {
                    self.decision(name);
                }
                Statement::Node { label, node, .. } => match (node, label) {
                    (
                        Node::Choice { name, .. }
                        | Node::Optional { name, .. }
                        | Node::Permute { name, .. },
                        label,
                    ) => {
                        self.branching(label.as_ref().unwrap_or(name));
                    }
                    (_, Some(label)) => {
                        self.path(label);
                    }
                    (node, None) => self.reserve_node(tree, node, budget),
                },
            }
        }
    }

    fn reserve_node(&mut self, tree: &Tree, node: &Node, budget: &mut usize) {
        match node {
            Node::Choice { .. }
            | Node::Optional { .. }
            | Node::Permute { .. }
            | Node::Read(_)
            | Node::Nothing
            | Node::Settings(_) => {}
            Node::Input(_) => {
                self.path("input");
            }
            Node::Op { kind, .. } => {
                self.path(kind.name);
            }
            Node::Call { definition, .. } => {
                self.reserve(tree, &tree.definitions[*definition].body, budget);
            }
            Node::Seq(body) => self.reserve(tree, body, budget),
            Node::Residual(body) => {
                self.reserve(tree, body, budget);
                self.path("add");
            }
            Node::Gate(body) => {
                self.reserve(tree, body, budget);
                self.path("multiply");
            }
            Node::Sum(branches) | Node::Concat(branches) => {
                let name = match node {
                    Node::Sum(_) => "add",
                    _ => "concat",
                };
                for (index, branch) in branches.iter().enumerate() {
                    self.reserve(tree, branch, budget);
                    if index > 0 {
                        self.path(name);
                    }
                }
            }
            Node::Dense(body) => {
                self.reserve(tree, body, budget);
                self.path("concat");
            }
            Node::If {
                then, otherwise, ..
            } => {
                self.reserve(tree, then, budget);
                self.reserve(tree, otherwise, budget);
            }
            Node::Repeat { .. } => {
                self.path("repeat");
            }
        }
    }
}
