//! Templates of one space, used in another.

use std::collections::BTreeSet;

use crate::error::suggestion;
use crate::printer::definition_text;
use crate::tree::{Block, Definition, Node, Statement, Tree};

impl Tree {
    /// Adds a template and those that it uses to `definitions`, all of them standing at `at` for
    /// messages, and returns its index there. A template that is there already is not added twice.
    ///
    /// # Errors
    /// If there is no such template, or another one of that name.
    pub fn import_into(
        &self,
        template: &str,
        definitions: &mut Vec<Definition>,
        at: usize,
    ) -> Result<usize, String> {
        let names = || {
            self.definitions
                .iter()
                .map(|definition| definition.name.as_str())
        };
        let Some(wanted) = names().position(|name| name == template) else {
            return Err(format!(
                "space `{}` has no template `{template}`{}; its templates: {}",
                self.name,
                suggestion(template, names()),
                names().collect::<Vec<_>>().join(", ")
            ));
        };
        let mut used = BTreeSet::from([wanted]);
        let mut open = vec![wanted];
        while let Some(index) = open.pop() {
            calls(&self.definitions[index].body, &mut |called| {
                if used.insert(called) {
                    open.push(called);
                }
            });
        }
        // A template uses itself and earlier ones.
        let mut places = vec![0; self.definitions.len()];
        for index in used {
            let definition = &self.definitions[index];
            let known = definitions
                .iter()
                .position(|other| other.name == definition.name);
            places[index] = known.unwrap_or(definitions.len());
            let mut moved = definition.clone();
            relocate(&mut moved.body, &places, at);
            match known {
                None => definitions.push(moved),
                Some(known) => {
                    let own = definition_text(definition, &self.definitions);
                    if own != definition_text(&definitions[known], definitions) {
                        let name = &definition.name;
                        return Err(format!("`{name}` is defined already, otherwise"));
                    }
                }
            }
        }
        Ok(places[wanted])
    }
}

/// Calls `found` for each template that a block uses.
fn calls(block: &Block, found: &mut dyn FnMut(usize)) {
    for statement in block {
        if let Statement::Node { node, .. } = statement {
            if let Node::Call { definition, .. } = node {
                found(*definition);
            }
            node.blocks()
                .into_iter()
                .for_each(|inner| calls(inner, found));
        }
    }
}

/// Gives templates their new indices, and everything the place `at`.
fn relocate(block: &mut Block, places: &[usize], at: usize) {
    for statement in block {
        match statement {
            Statement::Decide {
                domain, at: own, ..
            } => {
                *own = at;
                domain
                    .terms_mut()
                    .into_iter()
                    .for_each(|term| term.names_mut(&mut |word| word.at = at));
            }
            Statement::Let { value, at: own, .. } => {
                *own = at;
                value.names_mut(&mut |word| word.at = at);
            }
            // A template has none: they stand at the top level only.
            Statement::Setting { at: own, .. } => *own = at,
            Statement::Node { node, at: own, .. } => {
                *own = at;
                if let Node::Call { definition, .. } = node {
                    *definition = places[*definition];
                }
                node.terms_mut()
                    .into_iter()
                    .for_each(|term| term.names_mut(&mut |word| word.at = at));
                node.blocks_mut()
                    .into_iter()
                    .for_each(|inner| relocate(inner, places, at));
            }
        }
    }
}
