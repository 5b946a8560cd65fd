//! The images of a run.

use oncefit_data::{Dataset, Normalisation, ValidationSplit};

use crate::error::Result;
use crate::recipe::Recipe;

/// The images of a run.
#[derive(Clone, Debug)]
pub struct RunData {
    /// Trained on.
    pub train: Dataset,
    /// Held out of the training images.
    pub validation: Dataset,
    /// The test images.
    pub test: Dataset,
    /// From the training part.
    pub normalisation: Normalisation,
}

impl RunData {
    /// Loads and splits what a recipe names.
    ///
    /// # Errors
    /// If the data cannot be read, or is too small for the validation split.
    pub fn load(recipe: &Recipe) -> Result<Self> {
        let loaded = recipe.data_source()?.load()?;
        let seed = recipe.data.validation_seed;
        let size = recipe.data.validation;
        let (train, validation) = loaded.train.hold_out(ValidationSplit { size, seed })?;
        let train = recipe.data.limited(train)?;
        let normalisation = Normalisation::of(&train)?;
        Ok(Self {
            train,
            validation,
            test: loaded.test,
            normalisation,
        })
    }
}
