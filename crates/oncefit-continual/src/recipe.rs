//! Recipes of continual learning: everything that decides a run, as a TOML file.
//!
//! Every key has a default; the resolved recipe is written into the run. Unknown keys are errors
//! that show the place and the legal keys, as in the recipes of `oncefit-train`.

mod build;
mod head;
mod memory;
mod method;
mod network;
mod optimiser;
mod refresh;
mod stream;

use std::path::Path;

use oncefit_data::Augmentation;
use oncefit_text::TargetTable;
use oncefit_train::{DataRecipe, SpaceRecipe, TrainError, field_names, parse_strictly};
use serde::{Deserialize, Serialize};

pub use self::head::{ControlKind, HeadKindName, HeadRecipe, RowsKind};
pub use self::memory::{DrawKind, FillKind, MemoryRecipe, PolicyKind};
pub use self::method::{ClassifierKind, ConventionKind, FisherKind, MethodRecipe};
pub use self::network::{AggregationKind, ElasticRecipe, NetworkKind, NetworkRecipe};
pub use self::optimiser::{RateDecayKind, UpdateRecipe};
pub use self::refresh::{RefreshMode, RefreshRecipe};
pub use self::stream::{StreamKind, StreamRecipe};
use crate::error::Result;
use crate::onpro::OnPro;

/// What decides a run of continual learning.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct LearningRecipe {
    /// Name of the run; by default that of the file.
    pub name: String,
    /// Seed of initialisation, stream, memory and augmentation.
    pub seed: u64,
    /// Which images. `validation`, here 0 where it is left out, holds training images out; accuracies
    /// are then those on them, and the test images stay unseen.
    pub data: DataRecipe,
    /// In which tasks they come.
    pub stream: StreamRecipe,
    /// Which network learns.
    pub network: NetworkRecipe,
    /// How it makes logits of features.
    #[serde(skip_serializing_if = "HeadRecipe::is_empty")]
    pub head: HeadRecipe,
    /// How it keeps what it learnt.
    pub method: MethodRecipe,
    /// Refresh learning, of whatever method; none where the section is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refresh: Option<RefreshRecipe>,
    /// Constants of the methods `onpro` and `onpro-lite`, instead of theirs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub onpro: Option<toml::Table>,
    /// Which images it may keep.
    pub memory: MemoryRecipe,
    /// How weights follow gradients.
    pub optimiser: UpdateRecipe,
    /// Batches and epochs.
    pub training: StepsRecipe,
    /// Changes made to new and replayed images; none where the section is left out.
    pub augmentation: Augmentation,
    /// What is measured beside accuracies.
    #[serde(skip_serializing_if = "MetricsRecipe::is_empty")]
    pub metrics: MetricsRecipe,
    /// When the state is saved.
    pub checkpoint: StateRecipe,
}

impl Default for LearningRecipe {
    fn default() -> Self {
        Self {
            name: UNNAMED.into(),
            seed: 0,
            data: DataRecipe {
                validation: 0,
                ..DataRecipe::default()
            },
            stream: StreamRecipe::default(),
            network: NetworkRecipe::default(),
            head: HeadRecipe::default(),
            method: MethodRecipe::default(),
            refresh: None,
            onpro: None,
            memory: MemoryRecipe::default(),
            optimiser: UpdateRecipe::default(),
            training: StepsRecipe::default(),
            augmentation: Augmentation::NONE,
            metrics: MetricsRecipe::default(),
            checkpoint: StateRecipe::default(),
        }
    }
}

const UNNAMED: &str = "unnamed";

/// Over what the mean of replayed images is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReplayMean {
    /// New and replayed images have a mean each, and these are added.
    Separate,
    /// One mean over new and replayed images.
    Joint,
}

/// `[training]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StepsRecipe {
    /// New images of a step.
    pub batch_size: usize,
    /// Epochs of each task; 1 is the online setting.
    pub epochs: usize,
    /// Images of each draw from the memory, instead of the method's own number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_batch: Option<usize>,
    /// Over what the mean of replayed images is taken, instead of the method's own way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replay_mean: Option<ReplayMean>,
}

impl Default for StepsRecipe {
    fn default() -> Self {
        Self {
            batch_size: 10,
            epochs: 1,
            replay_batch: None,
            replay_mean: None,
        }
    }
}

/// `[metrics]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MetricsRecipe {
    /// Principal directions that the drift of features is measured with; it is not measured where it
    /// is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drift: Option<usize>,
    /// Steps between measurements of the accuracy on the tasks so far (anytime accuracy); it is
    /// measured after tasks only where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub every_batches: Option<usize>,
    /// Whether the cosines between the classes' mean features are measured at the end.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub class_cosines: bool,
}

impl MetricsRecipe {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// `[checkpoint]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct StateRecipe {
    /// Seconds between saved states; one is also written after each task and at Ctrl-C.
    pub every_seconds: f64,
    /// Batches between saved states; 0 leaves it to the clock.
    pub every_batches: u64,
}

impl Default for StateRecipe {
    fn default() -> Self {
        Self {
            every_seconds: 30.0,
            every_batches: 0,
        }
    }
}

impl LearningRecipe {
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
        if let Some(targets) = &mut recipe.head.targets
            && !TargetTable::BUILTIN.contains(&targets.as_str())
        {
            let joined = folder.join(&*targets);
            let file = std::path::absolute(&joined).map_err(TrainError::file("find", &joined))?;
            *targets = file.to_string_lossy().into_owned();
        }
        let network = &mut recipe.network;
        let space_file = network.space.as_mut().and_then(|space| space.file.as_mut());
        for file in [network.weights.as_mut(), space_file].into_iter().flatten() {
            let joined = folder.join(&*file);
            *file = std::path::absolute(&joined).map_err(TrainError::file("find", &joined))?;
        }
        if recipe.name == UNNAMED
            && let Some(stem) = path.file_stem()
        {
            recipe.name = stem.to_string_lossy().into_owned();
        }
        Ok(recipe)
    }

    /// Parses a recipe; `file_name` is for messages.
    ///
    /// # Errors
    /// As [`LearningRecipe::load`].
    pub fn parse(text: &str, file_name: &str) -> Result<Self> {
        let mut recipe: Self = parse_strictly(text, file_name, &keys)?;
        let table: toml::Table = toml::from_str(text).unwrap_or_default();
        let says_validation = table.get("data").and_then(|data| data.get("validation"));
        if says_validation.is_none() {
            recipe.data.validation = 0;
        }
        recipe
            .validate()
            .map_err(|problem| TrainError::Recipe(format!("{file_name}: {problem}")))?;
        Ok(recipe)
    }

    /// The recipe with every default written out.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a recipe holds nothing that TOML cannot")
    }

    fn validate(&self) -> std::result::Result<(), String> {
        self.optimiser.validate()?;
        let counts = [
            ("training.batch_size", Some(self.training.batch_size)),
            ("training.epochs", Some(self.training.epochs)),
            ("training.replay_batch", self.training.replay_batch),
            ("memory.capacity", Some(self.memory.capacity)),
            ("stream.base", self.stream.base),
            ("stream.increment", self.stream.increment),
            ("stream.tasks", self.stream.tasks),
            ("stream.later_shots", self.stream.later_shots),
            ("network.hidden", self.network.hidden),
            ("network.width", self.network.width),
            ("metrics.drift", self.metrics.drift),
            ("metrics.every_batches", self.metrics.every_batches),
        ];
        for (key, value) in counts {
            if value == Some(0) {
                return illegal(key, "0".into(), "at least 1");
            }
        }
        let seconds = self.checkpoint.every_seconds;
        if seconds.is_nan() || seconds < 0.0 {
            return illegal("checkpoint.every_seconds", seconds.to_string(), "0 or more");
        }
        let name = &self.name;
        if name.is_empty() || name.contains(['/', '\\']) || name.starts_with('.') {
            let legal = "a folder name without slashes";
            return illegal("name", format!("`{name}`"), legal);
        }
        self.augmentation
            .check_ranges()
            .map_err(|error| error.to_string())?;
        self.data.validate()?;
        self.network.validate()?;
        self.validate_head()?;
        self.stream.validate()
    }
}

fn illegal(key: &str, value: String, legal: &str) -> std::result::Result<(), String> {
    Err(format!("`{key}` is {value}, but must be {legal}"))
}

/// The legal keys of each section.
fn keys(section: &str) -> &'static [&'static str] {
    match section {
        "" => field_names::<LearningRecipe>(),
        "data" => field_names::<DataRecipe>(),
        "stream" => field_names::<StreamRecipe>(),
        "network" => field_names::<NetworkRecipe>(),
        "network.space" => field_names::<SpaceRecipe>(),
        "head" => field_names::<HeadRecipe>(),
        "network.elastic" => field_names::<ElasticRecipe>(),
        "method" => field_names::<MethodRecipe>(),
        "refresh" => field_names::<RefreshRecipe>(),
        "onpro" => field_names::<OnPro>(),
        "memory" => field_names::<MemoryRecipe>(),
        "optimiser" => field_names::<UpdateRecipe>(),
        "training" => field_names::<StepsRecipe>(),
        "augmentation" => field_names::<Augmentation>(),
        "metrics" => field_names::<MetricsRecipe>(),
        "checkpoint" => field_names::<StateRecipe>(),
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::angles::Growth;
    use crate::head::{HeadKind, HeadSettings};
    use crate::method::Method;

    fn message(text: &str) -> String {
        LearningRecipe::parse(text, "r.toml")
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_resolved_recipe_reads_back_as_itself() {
        let text = "[data]\nsource = \"embedded\"\n[stream]\nclass_order = [\"Bag\", \"Coat\"]\n\
                    [method]\nname = \"der++\"\nalpha = 0.5\n[network]\nkind = \"member\"\n\
                    [network.space]\nfamily = \"fm-nano\"\n";
        let recipe = LearningRecipe::parse(text, "r.toml").unwrap();
        assert_eq!(recipe.data.validation, 0);
        let again = LearningRecipe::parse(&recipe.to_toml(), "r.toml").unwrap();
        assert_eq!(recipe, again);
        let held_out = LearningRecipe::parse("[data]\nvalidation = 100\n", "r").unwrap();
        assert_eq!(held_out.data.validation, 100);
    }

    #[test]
    fn illegal_recipes_name_the_key_and_the_legal_values() {
        for (text, part) in [
            ("[streem]", "unknown key `streem`"),
            ("[stream]\nincrementt = 2", "did you mean `increment`?"),
            (
                "[network.space]\nfamly = \"x\"",
                "legal keys: family, file, parameters, fix",
            ),
            (
                "[optimiser]\nlearning_rate = nan",
                "`optimiser.learning_rate` is NaN",
            ),
            (
                "[training]\nreplay_batch = 0",
                "`training.replay_batch` is 0",
            ),
            ("[stream]\ntasks = 5\nincrement = 2", "`stream.tasks`"),
            (
                "[stream]\nscenario = \"permuted-pixels\"\nbase = 5",
                "`stream.base`",
            ),
            ("[network]\nwidth = 20", "`network.width`"),
            ("[head]\nneck = 8", "`head.neck` belongs"),
            (
                "[head]\nkind = \"cosine\"\nscale = 0.0",
                "the scale of the head is 0; expected above 0",
            ),
            ("[optimiser]\nmilestones = [1.0]", "`optimiser.milestones`"),
            (
                "[optimiser]\ndecay = \"step\"\nmilestones = [3.0, 1.0]",
                "in order",
            ),
            ("[network]\nkind = \"member\"", "`network.space`"),
            ("[data]\npath = \"x\"", "`data.path` belongs to"),
        ] {
            let found = message(text);
            assert!(found.contains(part), "{found}");
        }
    }

    #[test]
    fn heads_are_the_methods_unless_a_recipe_says_otherwise() {
        let data = LearningRecipe::default().load_data().unwrap();
        let head = |text: &str| {
            let recipe = LearningRecipe::parse(text, "r").unwrap();
            recipe.build_head(&data).unwrap()
        };
        assert_eq!(head(""), HeadSettings::default());
        let lucir = HeadSettings {
            only_seen: true,
            drops_last_activation: true,
            ..HeadSettings::cosine(10.0)
        };
        assert_eq!(head("[method]\nname = \"lucir\""), lucir);
        let found = head(
            "[head]\nkind = \"cosine\"\nscale = 4.0\nlearns_scale = false\nneck = 8\nonly_seen = true",
        );
        let fixed = HeadKind::Cosine {
            scale: 4.0,
            learns_scale: false,
        };
        assert_eq!(
            (found.kind, found.neck, found.only_seen),
            (fixed, Some(8), true)
        );
    }

    #[test]
    fn methods_take_their_options_and_no_others() {
        let method = |text: &str| {
            let recipe = LearningRecipe::parse(text, "r").unwrap();
            recipe.build_method(10)
        };
        assert_eq!(
            method("[method]\nname = \"er\"").unwrap(),
            Method::er(1.0, 10)
        );
        let found = method("[method]\nname = \"er\"\nweight = 0.5\n[training]\nreplay_batch = 32");
        assert_eq!(found.unwrap(), Method::er(0.5, 32));
        let found = method("[method]\nname = \"der\"\nalpha = 0.5\nconvention = \"mammoth\"");
        assert_eq!(found.unwrap(), Method::der(0.05, 10));
        let shared = method("[method]\nname = \"der++\"\ndraws = 1").unwrap();
        let draws = shared.outputs.iter().map(|term| term.images);
        let drawn = crate::method::Images::Memory {
            draw: 0,
            count: 128,
        };
        assert_eq!(Vec::from_iter(draws), [drawn, drawn]);
        let both = method("[method]\nname = \"der++\"\ndraws = 2").unwrap();
        assert_eq!(both, Method::preset("der++", 10).unwrap());
        let wrong = method("[method]\nname = \"der++\"\ndraws = 3").unwrap_err();
        assert!(wrong.to_string().contains("share"), "{wrong}");
        let wrong = method("[method]\nname = \"er\"\ntemperature = 2.0").unwrap_err();
        assert!(wrong.to_string().contains("weight"), "{wrong}");
        for (name, option, value) in [
            ("bic", "held_out", "1"),
            ("bic", "held_out", "5"),
            ("online-ewc", "decay", "2"),
        ] {
            let wrong = method(&format!("[method]\nname = \"{name}\"\n{option} = {value}"));
            let wrong = wrong.unwrap_err().to_string();
            assert!(wrong.contains(&format!("`{option}` = {value}")), "{wrong}");
        }
        let drift = LearningRecipe::parse("[metrics]\ndrift = 101", "r").unwrap();
        let wrong = drift
            .build_learner(&drift.load_data().unwrap())
            .unwrap_err();
        assert!(wrong.to_string().contains("at most 100"), "{wrong}");
        let wrong = method("[method]\nname = \"ewc\"\nbeta = nan").unwrap_err();
        assert!(wrong.to_string().contains("NaN"), "{wrong}");
        let wrong = method("[method]\nname = \"ewc\"\n[memory]\npolicy = \"ring\"").unwrap_err();
        assert!(wrong.to_string().contains("without memory"), "{wrong}");
        let found = method(
            "[method]\nname = \"lucir\"\nalpha = 3.0\nweight = 0.5\ngrowth = \"new-over-old\"",
        )
        .unwrap();
        let angles = found.angles.unwrap();
        assert_eq!((angles.less_forget, angles.ranking), (3.0, 0.5));
        assert_eq!(
            (angles.growth, found.outputs[0].weight),
            (Growth::NewOverOld, 1.0)
        );
        let found = method("[method]\nname = \"bic\"\nalpha = 2.0\nheld_out = 0.3").unwrap();
        assert_eq!(found.correction.unwrap().held_out, 0.3);
        assert_eq!(found.outputs[2].weight, 2.0);
        let found = method("[training]\nreplay_mean = \"joint\"").unwrap();
        assert!(found.joint_mean);
        for name in Method::NAMES {
            method(&format!("[method]\nname = \"{name}\"")).unwrap();
        }
    }
}
