//! What a study reads besides its own file, as it was when the study began.
//!
//! A study that goes on with another recipe, table or checkpoint would compare scores of different
//! things. So its folder keeps what it began with, and says what has changed.

use std::path::Path;

use oncefit_random::fnv1a64;
use oncefit_space::Space;
use oncefit_train::write_atomically;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of the file in the study's folder.
pub const INPUTS: &str = "inputs.json";

/// What a study reads.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inputs {
    /// The space's text.
    space: String,
    /// What scores members, as text: of `train` the recipe, resolved; of `table` a hash of the file; of
    /// `run` one of the supernet's weights; of `command` nothing.
    objective: String,
}

/// The files that [`Inputs`] stand in, for messages.
pub struct InputFiles<'f> {
    /// The space's file or family.
    pub space: &'f str,
    /// The recipe, table or run.
    pub objective: &'f Path,
}

impl Inputs {
    /// Of a study of `space`; `objective` is what scores members, as text.
    pub fn new(space: &Space, objective: String) -> Self {
        Self {
            space: space.to_text(),
            objective,
        }
    }

    /// A table as an objective.
    pub fn of_table(text: &str) -> String {
        format!("table {:016x}", fnv1a64(text.as_bytes()))
    }

    /// A supernet as an objective.
    pub fn of_weights(hash: &str) -> String {
        format!("weights {hash}")
    }

    /// Compares with what the study in `folder` began with, or keeps this if it has not begun.
    ///
    /// # Errors
    /// If something has changed since, naming its file and the first line that is different.
    pub fn check(&self, folder: &Path, files: &InputFiles, has_begun: bool) -> Result<()> {
        let path = folder.join(INPUTS);
        if !(has_begun && path.exists()) {
            let text = serde_json::to_string_pretty(self).expect("inputs are plain data");
            return Ok(write_atomically(&path, text.as_bytes())?);
        }
        let text = std::fs::read_to_string(&path).map_err(|source| Error::File {
            action: "read",
            path: path.clone(),
            source,
        })?;
        let known: Self = serde_json::from_str(&text)
            .map_err(|error| Error::Request(format!("{} is damaged: {error}", path.display())))?;
        let (file, what) = if let Some(what) = difference(&known.space, &self.space) {
            (files.space.to_owned(), what)
        } else if let Some(what) = difference(&known.objective, &self.objective) {
            (files.objective.display().to_string(), what)
        } else {
            return Ok(());
        };
        Err(Error::Request(format!(
            "{file} has changed since the study in {} began (it has {what}): what was tried would not be comparable; put it back, or begin another study (--out, --overwrite)",
            folder.display(),
        )))
    }
}

/// The first line of two recipes that is different: what now stands there.
pub fn difference(before: &str, now: &str) -> Option<String> {
    let (mut old, mut new) = (before.lines(), now.lines());
    loop {
        match (old.next(), new.next()) {
            (Some(one), Some(other)) if one == other => {}
            (None, None) => return None,
            (Some(one), Some(other)) => {
                return Some(format!("`{}` instead of `{}`", other.trim(), one.trim()));
            }
            (Some(one), None) => return Some(format!("no `{one}`")),
            (None, Some(other)) => return Some(format!("`{other}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let files = InputFiles {
            space: "own.space",
            objective: Path::new("base.toml"),
        };
        let text = "space own\ninput(4, 4, 1)\ndecide w in (2, 3)\nconv(w)\n";
        let inputs = |text: &str, objective: &str| {
            Inputs::new(&Space::parse(text, "own").unwrap(), objective.to_owned())
        };
        let check = |inputs: Inputs, has_begun| {
            let found = inputs.check(folder.path(), &files, has_begun);
            found.map_err(|error| error.to_string())
        };
        // What a study that has not begun read may change.
        check(inputs(text, "epochs = 1"), true).unwrap();
        check(inputs(text, "epochs = 2"), false).unwrap();
        check(inputs(text, "epochs = 2"), true).unwrap();
        let message = check(inputs(text, "epochs = 3"), true).unwrap_err();
        assert!(
            message.contains("base.toml has changed")
                && message.contains("`epochs = 3` instead of `epochs = 2`"),
            "{message}"
        );
        let other = text.replace("(2, 3)", "(2, 4)");
        let message = check(inputs(&other, "epochs = 2"), true).unwrap_err();
        assert!(
            message.contains("own.space has changed")
                && message.contains("`decide w in (2, 4)` instead of `decide w in (2, 3)`"),
            "{message}"
        );
    }
}
