//! Recipes: everything that decides a training, as a TOML file.
//!
//! A recipe that names nothing but its space is complete: every other key has a default, and the
//! resolved recipe is written into the run. Unknown keys are errors that show the place and the
//! closest legal key.

mod phases;
mod schedule;
mod sections;
mod settings;
mod unknown_key;

use std::path::{Path, PathBuf};

use oncefit_data::{Augmentation, DataSource, Loader};
use oncefit_nn::{
    ImportSettings, Imported, NameMap, Optimiser, Parameters, Supernet, TransformDecay, UpdateRule,
    import_weights,
};
use oncefit_space::{Space, Value};
use serde::{Deserialize, Serialize};

pub use self::schedule::{
    DistillationKind, PhaseRecipe, SamplerKind, ScheduleKind, ScheduleRecipe, SortKind,
};
pub use self::sections::{
    CheckpointRecipe, DataRecipe, DecayKind, EvaluationRecipe, InitRecipe, OptimiserKind,
    OptimiserRecipe, SourceKind, SpaceRecipe, TrainingRecipe, TransformDecayKind,
};
pub use self::unknown_key::parse_strictly;
use crate::engine::RunData;
use crate::error::{Result, TrainError};
use crate::schedule::Schedule;

/// A training, resolved: each field has its value.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct Recipe {
    /// Name of the run; the folder `runs/<name>` by default.
    pub name: String,
    /// Seed of every random draw of the run.
    pub seed: u64,
    /// Which images.
    pub data: DataRecipe,
    /// Which networks.
    pub space: SpaceRecipe,
    /// Which weights they start from.
    pub init: InitRecipe,
    /// Which of them run at each step.
    pub schedule: ScheduleRecipe,
    /// How the weights follow the gradients.
    pub optimiser: OptimiserRecipe,
    /// Batches and loss.
    pub training: TrainingRecipe,
    /// Changes made to training images. Where the section is left out, a crop after 2 pixels of
    /// padding and mirrors; where it is there, what it says and nothing else.
    pub augmentation: Augmentation,
    /// How networks are measured while training.
    pub evaluation: EvaluationRecipe,
    /// When the state is saved.
    pub checkpoint: CheckpointRecipe,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            name: "unnamed".into(),
            seed: 0,
            data: DataRecipe::default(),
            space: SpaceRecipe::default(),
            init: InitRecipe::default(),
            schedule: ScheduleRecipe::default(),
            optimiser: OptimiserRecipe::default(),
            training: TrainingRecipe::default(),
            augmentation: Augmentation {
                crop_padding: 2,
                horizontal_flip: true,
                ..Augmentation::NONE
            },
            evaluation: EvaluationRecipe::default(),
            checkpoint: CheckpointRecipe::default(),
        }
    }
}

impl Recipe {
    /// Reads a recipe file; relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// If the file cannot be read, is not TOML, or has unknown keys or illegal values; the message
    /// shows the place.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(TrainError::file("read recipe", path))?;
        let mut recipe = Self::parse(&text, &path.display().to_string())?;
        let folder = path.parent().unwrap_or(Path::new(""));
        recipe.data.resolve(folder)?;
        for file in [
            &mut recipe.space.file,
            &mut recipe.init.weights,
            &mut recipe.init.names,
        ]
        .into_iter()
        .flatten()
        {
            *file = absolute(folder, file)?;
        }
        if recipe.name == Self::default().name
            && let Some(stem) = path.file_stem()
        {
            recipe.name = stem.to_string_lossy().into_owned();
        }
        Ok(recipe)
    }

    /// Parses a recipe; `file_name` is for messages.
    ///
    /// # Errors
    /// As [`Recipe::load`].
    pub fn parse(text: &str, file_name: &str) -> Result<Self> {
        let invalid = |message: String| TrainError::Recipe(format!("{file_name}: {message}"));
        let mut recipe: Self = parse_strictly(text, file_name, &unknown_key::keys)?;
        if !recipe.schedule.phases.is_empty() {
            recipe.schedule.epochs = recipe
                .schedule
                .phases
                .iter()
                .map(|phase| phase.epochs)
                .sum();
        }
        recipe.validate().map_err(invalid)?;
        Ok(recipe)
    }

    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds nothing that TOML cannot")
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let sections = [
            self.data.validate().map_err(Problem),
            self.schedule.validate(),
            self.optimiser.validate(),
            self.training.validate(),
            self.evaluation.validate(),
            self.augmentation
                .check_ranges()
                .map_err(|error| Problem(error.to_string())),
        ];
        for section in sections {
            section.map_err(|problem| problem.0)?;
        }
        if self.checkpoint.keep == 0 {
            return Err(Problem::new("checkpoint", "keep", 0, "at least 1").0);
        }
        let seconds = self.checkpoint.every_seconds;
        if seconds.is_nan() || seconds < 0.0 {
            return Err(Problem::new("checkpoint", "every_seconds", seconds, "0 or more").0);
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            let value = format!("`{}`", self.name);
            return Err(Problem::new("", "name", value, "a folder name without slashes").0);
        }
        Ok(())
    }

    /// The data source that `[data]` names.
    ///
    /// # Errors
    /// If `idx` lacks one of its files.
    pub fn data_source(&self) -> Result<DataSource> {
        self.data.source()
    }

    /// The space that `[space]` names, for images of `channels` channels and `classes` classes.
    ///
    /// # Errors
    /// If the space is unknown, malformed or has no such parameter or decision.
    pub fn build_space(&self, channels: usize, classes: usize) -> Result<Space> {
        self.space.build(channels, classes)
    }

    /// The schedule, for the space that [`Recipe::build_space`] gives.
    ///
    /// # Errors
    /// If it names what the space does not have, has too few epochs for its phases, or has other
    /// training settings than the space decides for what it trains.
    pub fn build_schedule(&self, space: &Space) -> Result<Schedule> {
        if self.resolve_settings(space)? != *self {
            return Err(TrainError::Recipe(format!(
                "the recipe has other training settings than `{}` gives to what it trains; resolve them first",
                space.name()
            )));
        }
        self.schedule.build(&self.optimiser, space)
    }

    /// Whether a training can begin: what can be found out before there is a run folder.
    ///
    /// # Errors
    /// If a value is not legal, the networks do not fit the images, or batches, schedule or initial
    /// weights cannot be made.
    pub fn check(&self, space: &Space, data: &RunData) -> Result<()> {
        self.validate().map_err(TrainError::Recipe)?;
        check_networks(space, data)?;
        self.loader(data)?;
        self.build_schedule(space)?;
        self.initial_weights(space)?;
        Ok(())
    }

    /// The batches that are trained on.
    pub(crate) fn loader(&self, data: &RunData) -> Result<Loader> {
        Ok(Loader::new(
            data.train.clone(),
            self.training.batch_size,
            self.seed,
            self.augmentation,
            data.normalisation.clone(),
            true,
        )?)
    }

    /// The weights to start from: drawn, or taken from the file that `[init]` names.
    ///
    /// # Errors
    /// If the file cannot be read or does not hold the weights of the space.
    pub fn initial_weights(&self, space: &Space) -> Result<(Supernet, Option<Imported>)> {
        let fresh = Supernet::initialise(space, self.seed)?;
        let Some(path) = &self.init.weights else {
            return Ok((fresh, None));
        };
        let names = match &self.init.names {
            Some(file) => {
                let text = std::fs::read_to_string(file)
                    .map_err(TrainError::file("read name map", file))?;
                Some(NameMap::parse(&text, &file.display().to_string())?)
            }
            None => None,
        };
        let settings = ImportSettings {
            names,
            fresh_classifier: self.init.fresh_classifier,
            seed: self.seed,
        };
        let bytes = std::fs::read(path).map_err(TrainError::file("read weights", path))?;
        let file_name = path.display().to_string();
        let imported = import_weights(space, &bytes, &file_name, &settings)?;
        let parameters = imported.parameters.clone();
        Ok((
            Supernet::with_parameters(space, parameters)?,
            Some(imported),
        ))
    }

    /// The optimiser, for parameters laid out like `layout`.
    pub fn build_optimiser(&self, layout: &Parameters) -> Optimiser {
        let recipe = &self.optimiser;
        let rule = match recipe.kind {
            OptimiserKind::Sgd => UpdateRule::Sgd {
                momentum: recipe.momentum,
                nesterov: recipe.nesterov,
            },
            OptimiserKind::Adam | OptimiserKind::AdamW => UpdateRule::Adam {
                beta1: recipe.beta1,
                beta2: recipe.beta2,
                epsilon: recipe.epsilon.unwrap_or(1e-8),
                decoupled: recipe.kind == OptimiserKind::AdamW,
            },
            OptimiserKind::RmsProp => UpdateRule::RmsProp {
                smoothing: recipe.smoothing,
                epsilon: recipe.epsilon.unwrap_or(0.0316),
                momentum: recipe.momentum,
            },
        };
        let transform_decay = match recipe.kernel_transform_decay {
            TransformDecayKind::Zero => TransformDecay::Zero,
            TransformDecayKind::Identity => TransformDecay::Identity,
            TransformDecayKind::None => TransformDecay::None,
        };
        Optimiser::new(layout, rule, recipe.weight_decay, transform_decay)
    }
}

impl DataRecipe {
    /// Makes relative paths those of files in `folder`.
    ///
    /// # Errors
    /// If the working folder cannot be found.
    pub fn resolve(&mut self, folder: &Path) -> Result<()> {
        let files = [
            &mut self.path,
            &mut self.train_images,
            &mut self.train_labels,
            &mut self.test_images,
            &mut self.test_labels,
        ];
        for file in files.into_iter().flatten() {
            *file = absolute(folder, file)?;
        }
        Ok(())
    }

    /// The data source that `[data]` names.
    ///
    /// # Errors
    /// If `idx` lacks one of its files.
    pub fn source(&self) -> Result<DataSource> {
        Ok(match self.source {
            SourceKind::Embedded => DataSource::Embedded,
            SourceKind::FashionMnist => DataSource::FashionMnist {
                path: self.path.clone(),
            },
            SourceKind::Images => DataSource::Images {
                path: self.images_path()?,
                image_size: self.image_size,
                test_fraction: self.test_fraction,
            },
            SourceKind::Idx => {
                let file = |value: &Option<PathBuf>, key: &str| {
                    value.clone().ok_or_else(|| {
                        TrainError::Recipe(format!(
                            "`data.source = \"idx\"` also needs `data.{key}`"
                        ))
                    })
                };
                DataSource::Idx {
                    train_images: file(&self.train_images, "train_images")?,
                    train_labels: file(&self.train_labels, "train_labels")?,
                    test_images: file(&self.test_images, "test_images")?,
                    test_labels: file(&self.test_labels, "test_labels")?,
                    class_names: self.class_names.clone(),
                }
            }
        })
    }

    /// Where `source = "images"` is: `data.path`, or what the environment says.
    fn images_path(&self) -> Result<PathBuf> {
        let named = self.path.clone();
        named
            .or_else(|| std::env::var_os(DATA_VARIABLE).map(PathBuf::from))
            .ok_or_else(|| {
                TrainError::Recipe(format!(
                    "`data.source = \"images\"` needs `data.path`, a folder or archive, or the environment variable {DATA_VARIABLE}"
                ))
            })
    }
}

impl SpaceRecipe {
    /// The space that `[space]` names, for images of `channels` channels and `classes` classes.
    ///
    /// # Errors
    /// If the space is unknown, malformed or has no such parameter or decision.
    pub fn build(&self, channels: usize, classes: usize) -> Result<Space> {
        let mut parameters = vec![
            ("channels", Value::Int(channels as i64)),
            ("classes", Value::Int(classes as i64)),
        ];
        for (name, value) in &self.parameters {
            parameters.retain(|(other, _)| other != name);
            parameters.push((name, space_value(value)?));
        }
        let mut space = match (&self.family, &self.file) {
            (Some(family), None) => Space::builtin_with(family, &parameters)?,
            (None, Some(file)) => {
                let text =
                    std::fs::read_to_string(file).map_err(TrainError::file("read space", file))?;
                Space::parse_with(&text, &file.display().to_string(), &parameters)?
            }
            _ => {
                return Err(TrainError::Recipe(format!(
                    "[space] needs either `family` (one of {}) or `file`",
                    Space::builtin_names().join(", ")
                )));
            }
        };
        for (name, values) in &self.fix {
            let values = values.iter().map(space_value).collect::<Result<Vec<_>>>()?;
            space = space.restrict(name, &values)?;
        }
        Ok(space)
    }
}

/// Whether the smallest and the largest network of a space read the images and tell their classes apart.
///
/// # Errors
/// If they do not, naming both numbers.
pub(crate) fn check_networks(space: &Space, data: &RunData) -> Result<()> {
    let (channels, classes) = (data.train.channels(), data.train.class_names().len());
    for subnet in [space.smallest()?, space.largest()?] {
        let (input, output) = (subnet.graph().input_shape(), subnet.graph().output_shape());
        let unfit = |what: String| {
            Err(TrainError::Recipe(format!(
                "space `{}` does not fit the images of `{}`: {what}",
                space.name(),
                data.train.name()
            )))
        };
        if input.channels != channels {
            return unfit(format!(
                "its networks read {} channel(s), the images have {channels}; leave `channels` to the data",
                input.channels
            ));
        }
        if output.len() != classes {
            return unfit(format!(
                "its networks have {output} outputs, but there are {classes} classes; end the space with `linear(classes)` and leave `classes` to the data"
            ));
        }
    }
    Ok(())
}

/// `file`, of a recipe in `folder`, wherever the program is.
fn absolute(folder: &Path, file: &Path) -> Result<PathBuf> {
    let joined = folder.join(file);
    std::path::absolute(&joined).map_err(TrainError::file("find", &joined))
}

/// Names the images of a recipe that says `source = "images"` and no path.
const DATA_VARIABLE: &str = "ONCEFIT_DATA";

/// What is wrong with a key.
struct Problem(String);

impl Problem {
    fn new(section: &str, key: &str, value: impl std::fmt::Display, legal: &str) -> Self {
        let dot = if section.is_empty() { "" } else { "." };
        Self(format!(
            "`{section}{dot}{key}` is {value}, but must be {legal}"
        ))
    }
}

fn space_value(value: &toml::Value) -> Result<Value> {
    match value {
        toml::Value::Integer(value) => Ok(Value::Int(*value)),
        toml::Value::Float(value) => Ok(Value::Real(*value)),
        toml::Value::Boolean(value) => Ok(Value::Bool(*value)),
        toml::Value::String(value) => Ok(Value::Text(value.clone())),
        other => Err(TrainError::Recipe(format!(
            "`{other}` cannot be a value of a space; integers, reals, booleans and strings can"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMAL: &str = "[space]\nfamily = \"fm-nano\"\n";

    fn message(text: &str) -> String {
        Recipe::parse(text, "r.toml").unwrap_err().to_string()
    }

    #[test]
    fn a_resolved_recipe_reads_back_as_itself() {
        let recipe = Recipe::parse(MINIMAL, "r.toml").unwrap();
        let again = Recipe::parse(&recipe.to_toml(), "r.toml").unwrap();
        assert_eq!(recipe, again);
        assert!(recipe.to_toml().contains("weight_decay"));
    }

    #[test]
    fn an_unknown_key_is_shown_with_its_place_and_the_closest_legal_one() {
        let found = message("[space]\nfamily = \"fm-nano\"\n\n[optimiser]\nmomentun = 0.8\n");
        let (found, legal) = found.split_once("\n  legal keys: ").unwrap();
        assert!(legal.contains("learning_rate, learning_rate_floor, decay"));
        assert_eq!(
            found,
            "r.toml:5:1: unknown key `momentun` in [optimiser]; did you mean `momentum`?\n  \
             | momentun = 0.8\n  | ^^^^^^^^"
        );
        assert!(message("sed = 3\n").contains("did you mean `seed`?"));
    }

    #[test]
    fn illegal_values_name_the_key_and_the_legal_ones() {
        for (text, part) in [
            (
                "[schedule]\nepochs = 0",
                "`schedule.epochs` is 0, but must be at least 1",
            ),
            ("[schedule]\nkind = \"depz\"", "unknown variant `depz`"),
            (
                "[optimiser]\nlearning_rate = nan",
                "`optimiser.learning_rate` is NaN",
            ),
            ("[training]\nbatch_size = \"many\"", "invalid type"),
            ("name = \"../x\"", "a folder name without slashes"),
            ("[schedule", "r.toml: TOML parse error"),
            (
                "[data]\npath = \"x\"",
                "`data.path` belongs to `data.source` \"fashion-mnist\" or \"images\", not to \"embedded\"",
            ),
            ("[data]\nimage_size = 64", "`data.image_size` belongs to"),
            ("[checkpoint]\nevery_seconds = -1", "0 or more"),
            ("[training]\ndivergence_factor = -1", "above 1"),
            ("[schedule]\nramp_epochs = 100", "at most `epochs`, 20"),
        ] {
            let found = message(text);
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn spaces_take_their_classes_from_the_data_and_can_be_narrowed() {
        let text = format!("{MINIMAL}fix = {{ kernel = [5], resolution = [28] }}\n");
        let recipe = Recipe::parse(&text, "r.toml").unwrap();
        let space = recipe.build_space(1, 7).unwrap();
        assert_eq!(space.largest().unwrap().graph().output_shape().channels, 7);
        assert!(
            space
                .decisions()
                .iter()
                .all(|slot| slot.name != "kernel" || slot.domain.values.len() == 1)
        );
        let text = format!("{MINIMAL}fix = {{ kernel = [4] }}\n");
        let error = Recipe::parse(&text, "r.toml")
            .unwrap()
            .build_space(1, 7)
            .unwrap_err();
        assert!(error.to_string().contains("kernel"), "{error}");
        let none = Recipe::parse("", "r.toml")
            .unwrap()
            .build_space(1, 7)
            .unwrap_err();
        assert!(none.to_string().contains("fm-nano"), "{none}");
    }
}
