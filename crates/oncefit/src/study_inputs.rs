//! What a study reads besides its own file, as it was when the study began.
//!
//! A study that goes on with another recipe, table or checkpoint would compare scores of different
//! things. So its folder keeps what it began with, and says what has changed.

use std::path::Path;

use oncefit_random::fnv1a64;
use oncefit_train::{Recipe, write_atomically};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Name of the file in the study's folder.
const INPUTS: &str = "inputs.json";

/// What a study reads.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Inputs {
    /// `train`: the recipe, resolved.
    #[serde(skip_serializing_if = "Option::is_none")]
    recipe: Option<String>,
    /// `table`: a hash of the file.
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    /// `run`: the hash of the supernet's weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    weights: Option<String>,
}

impl Inputs {
    /// Of objective `train`.
    pub fn of_recipe(recipe: &Recipe) -> Self {
        Self {
            recipe: Some(recipe.to_toml()),
            ..Self::default()
        }
    }

    /// Of objective `table`.
    pub fn of_table(text: &str) -> Self {
        Self {
            table: Some(format!("{:016x}", fnv1a64(text.as_bytes()))),
            ..Self::default()
        }
    }

    /// Of objective `run`.
    pub fn of_weights(hash: &str) -> Self {
        Self {
            weights: Some(hash.to_owned()),
            ..Self::default()
        }
    }

    /// Compares with what the study in `folder` began with, or keeps this if it has not begun. `file` is
    /// what was read.
    ///
    /// # Errors
    /// If it has changed since, naming `file` and, of a recipe, what is different in it.
    pub fn check(&self, folder: &Path, file: &Path, has_begun: bool) -> Result<()> {
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
        if known == *self {
            return Ok(());
        }
        let before = known.recipe.unwrap_or_default();
        let now = self.recipe.clone().unwrap_or_default();
        Err(Error::Request(format!(
            "{} has changed since the study in {} began{}; its scores would not be comparable: put it back, or begin another study (--out, --overwrite)",
            file.display(),
            folder.display(),
            difference(&before, &now)
                .map(|what| format!(" (it has {what})"))
                .unwrap_or_default()
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
            (Some(one), Some(other)) => return Some(format!("`{other}` instead of `{one}`")),
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
        let file = Path::new("base.toml");
        let recipe = Recipe::default();
        let inputs = Inputs::of_recipe(&recipe);
        Inputs::of_table("")
            .check(folder.path(), file, true)
            .unwrap();
        inputs.check(folder.path(), file, false).unwrap();
        inputs.check(folder.path(), file, true).unwrap();
        let mut other = recipe.clone();
        other.training.batch_size += 1;
        let error = Inputs::of_recipe(&other).check(folder.path(), file, true);
        let message = error.unwrap_err().to_string();
        let (from, to) = (recipe.training.batch_size, other.training.batch_size);
        let expected = format!("`batch_size = {to}` instead of `batch_size = {from}`");
        assert!(
            message.contains("base.toml has changed") && message.contains(&expected),
            "{message}"
        );
        let message = Inputs::of_table("{}").check(folder.path(), file, true);
        assert!(message.unwrap_err().to_string().contains("has changed"));
    }
}
