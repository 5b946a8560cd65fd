//! What classes are called, in words that a language model knows.
//!
//! A list as text, a class a line; texts after the colon, several of them with `|` between:
//!
//! ```text
//! # a comment
//! group footwear: Sandal, Sneaker, Ankle boot < Dress, Coat
//! T-shirt/top: t-shirt or top
//! Coat: coat | winter coat
//! ```
//!
//! A line `group NAME: a, b < c, d` says that each of a and b must lie nearer to the others of its
//! side, on average, than to those of the other side; without `<` the other side is all others.
//! Without a colon the class's own name, made a phrase, is the text.

use serde::{Deserialize, Serialize};

use crate::error::{Result, TextError};
use crate::quality::Group;

/// A class and its texts.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ClassTexts {
    /// As the data set calls it.
    pub name: String,
    /// In words, one or more.
    pub texts: Vec<String>,
}

/// The classes of a data set with their texts, and which lie near which.
#[derive(Clone, PartialEq, Debug)]
pub struct NameList {
    /// What the list is called.
    pub name: String,
    /// The classes, by label.
    pub classes: Vec<ClassTexts>,
    /// What must hold of their vectors.
    pub groups: Vec<Group>,
}

/// A class's name as a phrase: lower case, underscores made spaces, slashes made `or`.
///
/// ```
/// use oncefit_text::phrase;
/// assert_eq!(phrase("Aquarium_fish"), "aquarium fish");
/// assert_eq!(phrase("T-shirt/top"), "t-shirt or top");
/// ```
pub fn phrase(name: &str) -> String {
    let spaced = name.replace('/', " or ").replace('_', " ").to_lowercase();
    spaced.split_whitespace().collect::<Vec<_>>().join(" ")
}

const BUILTIN: [(&str, &str); 4] = [
    (
        "fashion-mnist",
        include_str!("../targets/fashion-mnist.names"),
    ),
    ("mnist", include_str!("../targets/mnist.names")),
    ("cifar10", include_str!("../targets/cifar10.names")),
    ("icons", include_str!("../targets/icons.names")),
];

impl NameList {
    /// The lists of the shipped data sets.
    pub const BUILTIN: [&str; 4] = [BUILTIN[0].0, BUILTIN[1].0, BUILTIN[2].0, BUILTIN[3].0];

    /// A list of the shipped data sets; `None` for another name.
    pub fn builtin(name: &str) -> Option<Self> {
        let (name, text) = BUILTIN.iter().find(|(known, _)| *known == name)?;
        Some(Self::parse(name, text).expect("the shipped lists are legal"))
    }

    /// Parses a list; `name` is what it is called.
    ///
    /// # Errors
    /// If it has no class, one twice, one without text, or a group of classes that it has not.
    pub fn parse(name: &str, text: &str) -> Result<Self> {
        let wrong = |line: usize, reason: String| TextError::Names {
            file: format!("names {name}, line {}", line + 1),
            reason,
        };
        let mut classes: Vec<ClassTexts> = Vec::new();
        let mut groups = Vec::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some((group, members)) = line
                .strip_prefix("group ")
                .and_then(|rest| rest.split_once(':'))
            {
                let names = |text: &str| -> Vec<String> {
                    let names = text.split(',').map(|name| name.trim().to_owned());
                    names.filter(|name| !name.is_empty()).collect()
                };
                let (members, others) = members.split_once('<').unwrap_or((members, ""));
                let group = Group {
                    name: group.trim().into(),
                    members: names(members),
                    others: names(others),
                };
                groups.push((number, group));
                continue;
            }
            let (class, texts) = match line.split_once(':') {
                Some((class, texts)) => {
                    let texts = texts.split('|').map(|text| text.trim().to_owned());
                    (
                        class.trim(),
                        texts.filter(|text| !text.is_empty()).collect(),
                    )
                }
                None => (line, vec![phrase(line)]),
            };
            if texts.is_empty() {
                return Err(wrong(number, format!("class `{class}` has no text")));
            }
            if classes.iter().any(|known| known.name == class) {
                return Err(wrong(number, format!("class `{class}` is there twice")));
            }
            classes.push(ClassTexts {
                name: class.into(),
                texts,
            });
        }
        if classes.is_empty() {
            let reason = "it has no class; write one a line, `name: text` or `name`";
            return Err(wrong(0, reason.into()));
        }
        for (number, group) in &groups {
            for member in group.members.iter().chain(&group.others) {
                if !classes.iter().any(|class| class.name == *member) {
                    let reason = format!("group `{}` has no such class: `{member}`", group.name);
                    return Err(wrong(*number, reason));
                }
            }
            if group.members.len() < 2 {
                let reason = format!("group `{}` needs two classes or more", group.name);
                return Err(wrong(*number, reason));
            }
        }
        Ok(Self {
            name: name.into(),
            classes,
            groups: groups.into_iter().map(|(_, group)| group).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_parsed_and_wrong_lines_named() {
        let text = "# c\ngroup g: A b, C\nA b: a | the b\nC\nD_e\n";
        let list = NameList::parse("x", text).unwrap();
        assert_eq!(list.classes[0].texts, ["a", "the b"]);
        assert_eq!(list.classes[2].texts, ["d e"]);
        assert_eq!(list.groups[0].members, ["A b", "C"]);
        for (text, part) in [
            ("", "no class"),
            ("a\na", "line 2: class `a` is there twice"),
            ("a:  | ", "has no text"),
            (
                "group g: a, z\na",
                "line 1: group `g` has no such class: `z`",
            ),
            ("group g: a\na", "two classes"),
        ] {
            let found = NameList::parse("x", text).unwrap_err().to_string();
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn the_shipped_lists_are_legal() {
        for name in NameList::BUILTIN {
            assert!(NameList::builtin(name).unwrap().classes.len() >= 10);
        }
        assert!(NameList::builtin("no").is_none());
    }
}
