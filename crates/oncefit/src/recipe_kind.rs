//! Which commands a recipe file is for.

use std::path::Path;

use oncefit_continual::LearningRecipe;
use oncefit_train::Recipe;

use crate::error::{Error, Result};
use crate::study_recipe::StudyRecipe;

/// The kinds of recipe file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum RecipeKind {
    Training,
    Learning,
    Study,
}

impl RecipeKind {
    /// `found`, read from a file that should be of this kind; where it is of another kind, the error
    /// says which commands take it.
    pub fn expect<T, E: Into<Error>>(
        self,
        path: &Path,
        found: std::result::Result<T, E>,
    ) -> Result<T> {
        found.map_err(|error| {
            let kinds = [Self::Training, Self::Learning, Self::Study];
            match kinds.into_iter().find(|kind| kind.reads(path)) {
                Some(other) if other != self => {
                    Error::Request(format!("{} is {}", path.display(), other.description()))
                }
                _ => error.into(),
            }
        })
    }

    fn reads(self, path: &Path) -> bool {
        match self {
            Self::Training => Recipe::load(path).is_ok(),
            Self::Learning => LearningRecipe::load(path).is_ok(),
            Self::Study => StudyRecipe::load(path).is_ok(),
        }
    }

    fn description(self) -> &'static str {
        match self {
            Self::Training => {
                "a recipe of training; `oncefit train` and `oncefit data show` take it"
            }
            Self::Learning => {
                "a recipe of continual learning; `oncefit learn` and `oncefit data stream` take it"
            }
            Self::Study => "a study; `oncefit study run` takes it",
        }
    }
}
