//! Which of another library's layers is which of ours, as a text.
//!
//! ```text
//! stem.conv = features.0.0
//! unit1[{n}].expand.conv = features.{n+2}.conv.0.0      # {n}: any number; {n+2}: it and 2
//! ```
//!
//! Left is the path of a node of ours, right the name before `.weight`, `.bias`, `.running_mean`,
//! `.running_var` in a PyTorch state dict. `#` begins a comment.

use crate::error::{NnError, Result};

/// A map from paths of our nodes to names of another library's layers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NameMap {
    rules: Vec<Rule>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Rule {
    ours: String,
    theirs: String,
}

/// What stands for a number on the left side.
const NUMBER: &str = "{n}";

/// The maps of families whose largest network is a network of torchvision.
const BUILT_IN: [(&str, &str); 4] = [
    ("mobilenet-v2", include_str!("names/mobilenet-v2.names")),
    (
        "mobilenet-v3-large",
        include_str!("names/mobilenet-v3-large.names"),
    ),
    (
        "mobilenet-v3-small",
        include_str!("names/mobilenet-v3-small.names"),
    ),
    ("resnet50", include_str!("names/resnet50.names")),
];

impl NameMap {
    /// Reads a map; `file_name` is for messages.
    ///
    /// # Errors
    /// If a line is no rule.
    pub fn parse(text: &str, file_name: &str) -> Result<Self> {
        let mut rules = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let sides = line.split_once('=');
            let sides = sides.map(|(ours, theirs)| (ours.trim(), theirs.trim()));
            let rule = sides.filter(|(ours, theirs)| {
                let numbers = ours.matches(NUMBER).count();
                let is_whole = !ours.is_empty() && !theirs.is_empty();
                let is_known = numbers == 1 || !theirs.contains('{');
                is_whole && numbers <= 1 && is_known && fill(theirs, Some(0)).is_some()
            });
            let Some((ours, theirs)) = rule else {
                return Err(NnError::Weights(format!(
                    "{file_name}:{}: `{line}` is no rule; expected `our.path = their.name`, with at most one {{n}} on the left and {{n}} or {{n+2}} on the right",
                    index + 1
                )));
            };
            rules.push(Rule {
                ours: ours.to_owned(),
                theirs: theirs.to_owned(),
            });
        }
        Ok(Self { rules })
    }

    /// The map for a family that takes weights of torchvision, by the family's name.
    pub fn built_in(family: &str) -> Option<Self> {
        let (_, text) = BUILT_IN.iter().find(|(name, _)| *name == family)?;
        Self::parse(text, family).ok()
    }

    /// The families that have one.
    pub fn built_in_names() -> Vec<&'static str> {
        BUILT_IN.iter().map(|(name, _)| *name).collect()
    }

    /// Their name of the layer whose node we call `path`; the first rule that fits counts.
    pub fn theirs(&self, path: &str) -> Option<String> {
        self.rules
            .iter()
            .find_map(|rule| match rule.ours.split_once(NUMBER) {
                None if rule.ours == path => fill(&rule.theirs, None),
                None => None,
                Some((before, after)) => {
                    let number = path.strip_prefix(before)?.strip_suffix(after)?;
                    fill(&rule.theirs, Some(number.parse().ok()?))
                }
            })
    }
}

/// The right side of a rule with its number put in.
fn fill(theirs: &str, number: Option<u64>) -> Option<String> {
    let Some((before, rest)) = theirs.split_once('{') else {
        return Some(theirs.to_owned());
    };
    let (expression, after) = rest.split_once('}')?;
    let added: u64 = match expression.split_once('+') {
        None => 0,
        Some((_, added)) => added.trim().parse().ok()?,
    };
    let name = expression.split('+').next()?.trim();
    let value = number.filter(|_| name == "n")? + added;
    fill(&format!("{before}{value}{after}"), number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_matched_and_moved() {
        let text = "# comment\na.b = c\nunit[{n}].conv = f.{n+2}.g.{n}  # more\n";
        let map = NameMap::parse(text, "m").unwrap();
        assert_eq!(map.theirs("a.b").unwrap(), "c");
        assert_eq!(map.theirs("unit[3].conv").unwrap(), "f.5.g.3");
        assert_eq!(map.theirs("unit[x].conv"), None);
        assert_eq!(map.theirs("unit[3].conv.more"), None);
    }

    #[test]
    fn lines_that_are_no_rules_are_shown() {
        for line in [
            "a b",
            "a =",
            "= b",
            "a = {n}",
            "a{n}{n} = b",
            "a{n} = {m}",
            "a{n} = {n+x}",
        ] {
            let error = NameMap::parse(&format!("ok = ok\n{line}\n"), "my.names").unwrap_err();
            let error = error.to_string();
            assert!(
                error.contains("my.names:2") && error.contains(line),
                "{error}"
            );
        }
    }

    #[test]
    fn built_in_maps_name_every_layer_of_their_family() {
        for family in NameMap::built_in_names() {
            let map = NameMap::built_in(family).unwrap();
            let space = oncefit_space::Space::builtin(family).unwrap();
            for parameter in crate::Supernet::layout(&space).unwrap().iter() {
                let (path, role) = parameter.name.rsplit_once('.').unwrap();
                if !role.starts_with("transform") {
                    assert!(map.theirs(path).is_some(), "{family}: {}", parameter.name);
                }
            }
        }
    }
}
