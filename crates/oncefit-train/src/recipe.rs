//! Recipes: everything that decides a training, as a TOML file.
//!
//! A recipe that names nothing but its space is complete: every other key has a default, and the
//! resolved recipe is written into the run. Unknown keys are errors that show the place and the
//! closest legal key.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oncefit_data::{Augmentation, DataSource};
use oncefit_space::{Space, Value};
use serde::{Deserialize, Serialize};

use crate::error::{Result, TrainError};
use crate::field_names::field_names;
use crate::schedule::{Delayed, LearningRate, Schedule};

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
    /// Which of them run at each step.
    pub schedule: ScheduleRecipe,
    /// How the weights follow the gradients.
    pub optimiser: OptimiserRecipe,
    /// Batches and loss.
    pub training: TrainingRecipe,
    /// Changes made to training images.
    pub augmentation: AugmentationRecipe,
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
            schedule: ScheduleRecipe::default(),
            optimiser: OptimiserRecipe::default(),
            training: TrainingRecipe::default(),
            augmentation: AugmentationRecipe::default(),
            evaluation: EvaluationRecipe::default(),
            checkpoint: CheckpointRecipe::default(),
        }
    }
}

/// The kinds of data source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceKind {
    /// The subset of Fashion-MNIST inside the program.
    Embedded,
    /// The whole of Fashion-MNIST, from a folder.
    FashionMnist,
    /// Four IDX files.
    Idx,
}

/// `[data]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRecipe {
    /// Kind of source.
    pub source: SourceKind,
    /// Folder of `fashion-mnist`; Debian's package's folder when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// Training images of `idx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_images: Option<PathBuf>,
    /// Training labels of `idx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_labels: Option<PathBuf>,
    /// Test images of `idx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_images: Option<PathBuf>,
    /// Test labels of `idx`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_labels: Option<PathBuf>,
    /// Names of the classes of `idx`, in label order.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_names: Option<Vec<String>>,
    /// How many training images are held out as the validation split, in equal parts per class.
    pub validation: usize,
    /// Seed of that split; apart from `seed`, so that runs share their validation images.
    pub validation_seed: u64,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            source: SourceKind::Embedded,
            path: None,
            train_images: None,
            train_labels: None,
            test_images: None,
            test_labels: None,
            class_names: None,
            validation: 1000,
            validation_seed: 2_147_483_647,
        }
    }
}

/// `[space]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SpaceRecipe {
    /// A built-in family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub family: Option<String>,
    /// A `.space` file instead of a family; relative to the recipe's folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Values of the space's parameters; `classes` and `channels` follow the data by themselves.
    pub parameters: BTreeMap<String, toml::Value>,
    /// Decisions narrowed to some of their values, by name: `fix = { kernel = [5] }`.
    pub fix: BTreeMap<String, Vec<toml::Value>>,
}

/// The kinds of schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleKind {
    /// One network.
    Plain,
    /// Largest, smallest and random networks from the start (BigNAS).
    Sandwich,
    /// Delayed shrinking: the sandwich begins when the largest network is half trained (DepS).
    Deps,
}

/// `[schedule]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ScheduleRecipe {
    /// Kind of schedule.
    pub kind: ScheduleKind,
    /// Passes over the training images.
    pub epochs: u32,
    /// `plain`: the network to train: `largest`, `smallest` or a subnet's text.
    pub subnet: String,
    /// `sandwich`, `deps`: networks in a step.
    pub networks: usize,
    /// `deps`: share of the epochs before the small networks have their full weight.
    pub delay: f64,
    /// `deps`: epochs over which their weight rises from 0.
    pub ramp_epochs: f64,
    /// `sandwich`, `deps`: weight of a small network's loss.
    pub multiplier: f64,
    /// `sandwich`, `deps`: temperature of the in-place distillation.
    pub temperature: f32,
    /// `deps`: sort channels by importance when shrinking begins.
    pub sort_channels: bool,
}

impl Default for ScheduleRecipe {
    fn default() -> Self {
        Self {
            kind: ScheduleKind::Deps,
            epochs: 20,
            subnet: "largest".into(),
            networks: 4,
            delay: 0.5,
            ramp_epochs: 1.0,
            multiplier: 1.0,
            temperature: 1.0,
            sort_channels: true,
        }
    }
}

/// `[optimiser]`: SGD with momentum and a cosine learning rate.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimiserRecipe {
    /// Highest learning rate.
    pub learning_rate: f64,
    /// Lowest learning rate of the cosine.
    pub learning_rate_floor: f64,
    /// Epochs of linear warm-up.
    pub warm_up_epochs: f64,
    /// Momentum.
    pub momentum: f32,
    /// Whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// Weight decay; not applied to biases and batch-norm.
    pub weight_decay: f32,
}

impl Default for OptimiserRecipe {
    fn default() -> Self {
        Self {
            learning_rate: 0.05,
            learning_rate_floor: 0.0,
            warm_up_epochs: 0.0,
            momentum: 0.9,
            nesterov: true,
            weight_decay: 3e-5,
        }
    }
}

/// `[training]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingRecipe {
    /// Images in a batch.
    pub batch_size: usize,
    /// Share of each label that is spread evenly over the classes.
    pub label_smoothing: f32,
    /// Training stops when the loss of a step's first network is this many times its running mean.
    pub divergence_factor: f64,
}

impl Default for TrainingRecipe {
    fn default() -> Self {
        Self {
            batch_size: 64,
            label_smoothing: 0.1,
            divergence_factor: 4.0,
        }
    }
}

/// `[augmentation]`
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct AugmentationRecipe {
    /// Pixels of zero padding on each side before a random crop.
    pub crop_padding: usize,
    /// Whether half of the images are mirrored.
    pub horizontal_flip: bool,
    /// Probability that a rectangle is erased.
    pub random_erasing: f32,
}

impl Default for AugmentationRecipe {
    fn default() -> Self {
        Self {
            crop_padding: 2,
            horizontal_flip: true,
            random_erasing: 0.0,
        }
    }
}

/// `[evaluation]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct EvaluationRecipe {
    /// Epochs between evaluations of the smallest, middle and largest network.
    pub every_epochs: u32,
    /// Training images from which batch-norm statistics are taken.
    pub calibration_images: usize,
    /// Images in an evaluation batch.
    pub batch_size: usize,
}

impl Default for EvaluationRecipe {
    fn default() -> Self {
        Self {
            every_epochs: 1,
            calibration_images: 500,
            batch_size: 250,
        }
    }
}

/// `[checkpoint]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckpointRecipe {
    /// Seconds between checkpoints; one is also written at the end.
    pub every_seconds: f64,
    /// Steps between checkpoints; 0 leaves it to the clock.
    pub every_steps: u64,
    /// How many checkpoints are kept.
    pub keep: usize,
}

impl Default for CheckpointRecipe {
    fn default() -> Self {
        Self {
            every_seconds: 60.0,
            every_steps: 0,
            keep: 2,
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
        let data = &mut recipe.data;
        for file in [
            &mut recipe.space.file,
            &mut data.path,
            &mut data.train_images,
            &mut data.train_labels,
            &mut data.test_images,
            &mut data.test_labels,
        ]
        .into_iter()
        .flatten()
        {
            let joined = folder.join(&*file);
            *file = std::path::absolute(&joined).map_err(TrainError::file("find", &joined))?;
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
        let deserializer =
            toml::Deserializer::parse(text).map_err(|error| invalid(error.to_string()))?;
        let mut unknown = Vec::new();
        let recipe: Self =
            serde_ignored::deserialize(deserializer, |path| unknown.push(path.to_string()))
                .map_err(|error| invalid(error.to_string()))?;
        if let Some(path) = unknown.first() {
            return Err(TrainError::Recipe(unknown_key(text, file_name, path)));
        }
        recipe.validate().map_err(invalid)?;
        Ok(recipe)
    }

    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds nothing that TOML cannot")
    }

    fn validate(&self) -> std::result::Result<(), String> {
        let schedule = &self.schedule;
        let fails = |key: &str, value: &dyn std::fmt::Display, legal: &str| {
            Err(format!("`{key}` is {value}, but must be {legal}"))
        };
        if schedule.epochs == 0 {
            return fails("schedule.epochs", &0, "at least 1");
        }
        if schedule.networks < 2 {
            return fails(
                "schedule.networks",
                &schedule.networks,
                "at least 2 (largest and smallest)",
            );
        }
        if !(0.0..=1.0).contains(&schedule.delay) {
            return fails(
                "schedule.delay",
                &schedule.delay,
                "a share of the epochs, 0 to 1",
            );
        }
        if !(schedule.ramp_epochs >= 0.0 && schedule.ramp_epochs.is_finite()) {
            return fails("schedule.ramp_epochs", &schedule.ramp_epochs, "0 or more");
        }
        if !(schedule.temperature > 0.0 && schedule.temperature.is_finite()) {
            return fails("schedule.temperature", &schedule.temperature, "above 0");
        }
        if !(schedule.multiplier >= 0.0 && schedule.multiplier.is_finite()) {
            return fails("schedule.multiplier", &schedule.multiplier, "0 or more");
        }
        let rate = self.optimiser.learning_rate;
        if !(rate > 0.0 && rate.is_finite()) {
            return fails("optimiser.learning_rate", &rate, "above 0");
        }
        if !(0.0..1.0).contains(&self.optimiser.momentum) {
            return fails(
                "optimiser.momentum",
                &self.optimiser.momentum,
                "0 or more and below 1",
            );
        }
        if self.training.batch_size == 0 {
            return fails("training.batch_size", &0, "at least 1");
        }
        if !(0.0..1.0).contains(&self.training.label_smoothing) {
            let smoothing = self.training.label_smoothing;
            return fails(
                "training.label_smoothing",
                &smoothing,
                "0 or more and below 1",
            );
        }
        if self.evaluation.calibration_images == 0 || self.evaluation.batch_size == 0 {
            return Err(
                "`evaluation.calibration_images` and `evaluation.batch_size` must be at least 1"
                    .into(),
            );
        }
        if self.evaluation.every_epochs == 0 {
            return fails("evaluation.every_epochs", &0, "at least 1");
        }
        if self.checkpoint.keep == 0 {
            return fails("checkpoint.keep", &0, "at least 1");
        }
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            return fails(
                "name",
                &format!("`{}`", self.name),
                "a folder name without slashes",
            );
        }
        Ok(())
    }

    /// The data source that `[data]` names.
    ///
    /// # Errors
    /// If `idx` lacks one of its files.
    pub fn data_source(&self) -> Result<DataSource> {
        let data = &self.data;
        Ok(match data.source {
            SourceKind::Embedded => DataSource::Embedded,
            SourceKind::FashionMnist => DataSource::FashionMnist {
                path: data.path.clone(),
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
                    train_images: file(&data.train_images, "train_images")?,
                    train_labels: file(&data.train_labels, "train_labels")?,
                    test_images: file(&data.test_images, "test_images")?,
                    test_labels: file(&data.test_labels, "test_labels")?,
                    class_names: data.class_names.clone(),
                }
            }
        })
    }

    /// The space that `[space]` names, for images of `channels` channels and `classes` classes.
    ///
    /// # Errors
    /// If the space is unknown, malformed or has no such parameter or decision.
    pub fn build_space(&self, channels: usize, classes: usize) -> Result<Space> {
        let recipe = &self.space;
        let mut parameters = vec![
            ("channels", Value::Int(channels as i64)),
            ("classes", Value::Int(classes as i64)),
        ];
        for (name, value) in &recipe.parameters {
            parameters.retain(|(other, _)| other != name);
            parameters.push((name, space_value(value)?));
        }
        let mut space = match (&recipe.family, &recipe.file) {
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
        for (name, values) in &recipe.fix {
            let values = values.iter().map(space_value).collect::<Result<Vec<_>>>()?;
            space = space.restrict(name, &values)?;
        }
        Ok(space)
    }

    /// The augmentation of training images.
    pub fn build_augmentation(&self) -> Augmentation {
        Augmentation {
            crop_padding: self.augmentation.crop_padding,
            horizontal_flip: self.augmentation.horizontal_flip,
            random_erasing: self.augmentation.random_erasing,
        }
    }

    /// The learning rate over time.
    pub fn learning_rate(&self) -> LearningRate {
        LearningRate {
            base: self.optimiser.learning_rate,
            floor: self.optimiser.learning_rate_floor,
            warm_up_epochs: self.optimiser.warm_up_epochs,
            epochs: f64::from(self.schedule.epochs),
        }
    }

    /// The schedule.
    pub fn build_schedule(&self) -> Schedule {
        let recipe = &self.schedule;
        let delayed = Delayed {
            networks: recipe.networks,
            delay: 0.0,
            ramp: 0.0,
            multiplier: recipe.multiplier,
            temperature: recipe.temperature,
            sorts_channels: false,
        };
        match recipe.kind {
            ScheduleKind::Plain => Schedule::Plain {
                subnet: recipe.subnet.clone(),
            },
            ScheduleKind::Sandwich => Schedule::Delayed(delayed),
            ScheduleKind::Deps => Schedule::Delayed(Delayed {
                delay: recipe.delay * f64::from(recipe.epochs),
                ramp: recipe.ramp_epochs,
                sorts_channels: recipe.sort_channels,
                ..delayed
            }),
        }
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

/// The message about an unknown key: its place, its line, the closest legal key and all of them.
fn unknown_key(text: &str, file_name: &str, path: &str) -> String {
    let (section, key) = path.rsplit_once('.').unwrap_or(("", path));
    let legal = match section {
        "" => field_names::<Recipe>(),
        "data" => field_names::<DataRecipe>(),
        "space" => field_names::<SpaceRecipe>(),
        "schedule" => field_names::<ScheduleRecipe>(),
        "optimiser" => field_names::<OptimiserRecipe>(),
        "training" => field_names::<TrainingRecipe>(),
        "augmentation" => field_names::<AugmentationRecipe>(),
        "evaluation" => field_names::<EvaluationRecipe>(),
        "checkpoint" => field_names::<CheckpointRecipe>(),
        _ => &[],
    };
    let place = key_offset(text, path).map(|offset| {
        let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let number = text[..offset].matches('\n').count() + 1;
        let column = text[line_start..offset].chars().count() + 1;
        let caret = " ".repeat(column - 1) + &"^".repeat(key.chars().count().max(1));
        (
            format!(":{number}:{column}"),
            format!("\n  | {line}\n  | {caret}"),
        )
    });
    let (position, excerpt) = place.unwrap_or_default();
    let closest = legal
        .iter()
        .map(|candidate| (strsim::jaro_winkler(key, candidate), candidate))
        .max_by(|left, right| left.0.total_cmp(&right.0))
        .filter(|(similarity, _)| *similarity > 0.75);
    let hint = closest
        .map(|(_, name)| format!("; did you mean `{name}`?"))
        .unwrap_or_default();
    let place = if section.is_empty() {
        "at the top level".into()
    } else {
        format!("in [{section}]")
    };
    format!(
        "{file_name}{position}: unknown key `{key}` {place}{hint}{excerpt}\n  legal keys: {}",
        legal.join(", ")
    )
}

fn key_offset(text: &str, path: &str) -> Option<usize> {
    let document = toml_edit::Document::parse(text).ok()?;
    let mut table = document.as_table() as &dyn toml_edit::TableLike;
    let mut parts = path.split('.').peekable();
    while let Some(part) = parts.next() {
        let (key, item) = table.get_key_value(part)?;
        if parts.peek().is_none() {
            return key.span().map(|span| span.start);
        }
        table = item.as_table_like()?;
    }
    None
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
        assert_eq!(
            message("[space]\nfamily = \"fm-nano\"\n\n[optimiser]\nmomentun = 0.8\n"),
            "r.toml:5:1: unknown key `momentun` in [optimiser]; did you mean `momentum`?\n  \
             | momentun = 0.8\n  | ^^^^^^^^\n  \
             legal keys: learning_rate, learning_rate_floor, warm_up_epochs, momentum, nesterov, weight_decay"
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
