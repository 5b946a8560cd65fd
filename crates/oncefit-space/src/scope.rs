//! Names within a space: labels are made unique where they stand, whatever branch is taken.

use std::collections::HashMap;

use crate::tree::{Node, Statement, Tree};

/// Names that are taken within a labelled node.
#[derive(Clone, Default)]
pub(crate) struct Scope {
    pub prefix: String,
    used: HashMap<String, usize>,
}

impl Scope {
    /// A path for the operation or block `name`, numbered if it is taken.
    pub fn path(&mut self, name: &str) -> String {
        self.numbered(name.to_owned(), name)
    }

    /// A path for the decision `name`; decisions and operations may share a name.
    pub fn decision(&mut self, name: &str) -> String {
        self.numbered(format!("decide {name}"), name)
    }

    fn numbered(&mut self, key: String, name: &str) -> String {
        let count = self.used.entry(key).or_insert(0);
        *count += 1;
        match *count {
            1 => format!("{}{name}", self.prefix),
            count => format!("{}{name}_{count}", self.prefix),
        }
    }

    /// The scope of what is labelled `path`.
    pub fn inner(path: &str) -> Self {
        Self {
            prefix: format!("{path}."),
            used: HashMap::new(),
        }
    }

    /// Takes the names that a block would take, without walking it.
    pub fn reserve(&mut self, tree: &Tree, block: &[Statement]) {
        for statement in block {
            match statement {
                Statement::Decide { name, .. } => {
                    self.decision(name);
                }
                Statement::Let { .. } => {}
                Statement::Node {
                    label: Some(label), ..
                } => {
                    self.path(label);
                }
                Statement::Node {
                    label: None, node, ..
                } => self.reserve_node(tree, node),
            }
        }
    }

    fn reserve_node(&mut self, tree: &Tree, node: &Node) {
        match node {
            Node::Input(_) => {}
            Node::Op { kind, .. } => {
                self.path(kind.name);
            }
            Node::Call { definition, .. } => {
                self.reserve(tree, &tree.definitions[*definition].body)
            }
            Node::Seq(body) => self.reserve(tree, body),
            Node::Residual(body) => {
                self.reserve(tree, body);
                self.path("add");
            }
            Node::Gate(body) => {
                self.reserve(tree, body);
                self.path("multiply");
            }
            Node::Sum(branches) => {
                for (index, branch) in branches.iter().enumerate() {
                    self.reserve(tree, branch);
                    if index > 0 {
                        self.path("add");
                    }
                }
            }
            Node::If {
                then, otherwise, ..
            } => {
                self.reserve(tree, then);
                self.reserve(tree, otherwise);
            }
            Node::Choice { name, .. } | Node::Optional { name, .. } => {
                self.path(name);
            }
            Node::Repeat { .. } => {
                self.path("repeat");
            }
        }
    }
}
