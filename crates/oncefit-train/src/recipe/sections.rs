//! The sections of a recipe, with their defaults.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oncefit_data::{Dataset, ValidationSplit};
use serde::{Deserialize, Serialize};

use super::Problem;

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
    /// Image folders, an archive of them, or CIFAR's binary files.
    Images,
}

impl SourceKind {
    fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::FashionMnist => "fashion-mnist",
            Self::Idx => "idx",
            Self::Images => "images",
        }
    }
}

/// `[data]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct DataRecipe {
    /// Kind of source.
    pub source: SourceKind,
    /// Folder of `fashion-mnist` (Debian's package's folder when absent); folder or archive of
    /// `images`.
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
    /// `images`: rows and columns that they are brought to; not needed where all have one size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_size: Option<usize>,
    /// `images`: share that becomes the test part, where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub test_fraction: Option<f64>,
    /// How many training images are held out as the validation split, in equal parts per class.
    pub validation: usize,
    /// Seed of that split; apart from `seed`, so that runs share their validation images.
    pub validation_seed: u64,
    /// Train on only so many of the other images, in equal parts per class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub train_limit: Option<usize>,
}

impl DataRecipe {
    /// Whether every key belongs to the source.
    ///
    /// # Errors
    /// Naming the first that does not, and the sources that it belongs to.
    pub fn validate(&self) -> Result<(), String> {
        use SourceKind::{FashionMnist, Idx, Images};
        let owners: [(&str, bool, &[SourceKind]); 8] = [
            ("path", self.path.is_some(), &[FashionMnist, Images]),
            ("train_images", self.train_images.is_some(), &[Idx]),
            ("train_labels", self.train_labels.is_some(), &[Idx]),
            ("test_images", self.test_images.is_some(), &[Idx]),
            ("test_labels", self.test_labels.is_some(), &[Idx]),
            ("class_names", self.class_names.is_some(), &[Idx]),
            ("image_size", self.image_size.is_some(), &[Images]),
            ("test_fraction", self.test_fraction.is_some(), &[Images]),
        ];
        for (key, is_given, sources) in owners {
            if is_given && !sources.contains(&self.source) {
                let names = sources
                    .iter()
                    .map(|source| format!("\"{}\"", source.name()));
                return Err(format!(
                    "`data.{key}` belongs to `data.source` {}, not to \"{}\"",
                    names.collect::<Vec<_>>().join(" or "),
                    self.source.name()
                ));
            }
        }
        Ok(())
    }

    /// The images that are trained on, out of those that are not held out.
    ///
    /// # Errors
    /// If `train_limit` is less than the number of classes.
    pub fn limited(&self, train: Dataset) -> oncefit_data::Result<Dataset> {
        let Some(size) = self.train_limit.filter(|size| *size < train.len()) else {
            return Ok(train);
        };
        let seed = self.validation_seed;
        let name = format!("{} ({size} images)", train.name());
        let (_, limited) = train.hold_out(ValidationSplit { size, seed })?;
        Ok(limited.renamed(name))
    }
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
            image_size: None,
            test_fraction: None,
            validation: 1000,
            validation_seed: 2_147_483_647,
            train_limit: None,
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

/// `[init]`: weights to start from.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InitRecipe {
    /// A safetensors file: a checkpoint of the same space, or torchvision's weights for a family
    /// that takes them; without it weights are drawn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// A file that says what the layers are called in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub names: Option<PathBuf>,
    /// Leaves the last linear layer out: for another number of classes.
    pub fresh_classifier: bool,
}

/// The rules by which weights follow gradients.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimiserKind {
    /// Stochastic gradient descent with momentum.
    Sgd,
    /// Adam, its weight decay added to the gradient.
    Adam,
    /// Adam with decoupled weight decay.
    AdamW,
    /// RMSProp with momentum.
    RmsProp,
}

/// The ways a learning rate falls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DecayKind {
    /// Along a cosine to 0.
    Cosine,
    /// By `decay_factor` at each of `milestones`.
    Step,
    /// By `decay_factor` every `decay_epochs`.
    Exponential,
    /// Not at all.
    Constant,
}

/// Towards what weight decay pulls the matrices of kernel transforms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TransformDecayKind {
    /// Towards 0, as Once-for-All's authors train.
    Zero,
    /// Towards the identity.
    Identity,
    /// They do not decay.
    None,
}

/// `[optimiser]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct OptimiserRecipe {
    /// The rule.
    pub kind: OptimiserKind,
    /// Highest learning rate; a phase may scale it.
    pub learning_rate: f64,
    /// Lowest learning rate of the decay.
    pub learning_rate_floor: f64,
    /// How it falls.
    pub decay: DecayKind,
    /// `decay = "step"`: epochs at which it is multiplied.
    pub milestones: Vec<f64>,
    /// `decay = "step"`, `"exponential"`: by what.
    pub decay_factor: f64,
    /// `decay = "exponential"`: epochs between two multiplications.
    pub decay_epochs: f64,
    /// Epochs of linear warm-up.
    pub warm_up_epochs: f64,
    /// What the warm-up begins with, as a share of the highest rate.
    pub warm_up_factor: f64,
    /// Momentum of `sgd` and `rmsprop`.
    pub momentum: f32,
    /// `sgd`: whether the momentum is Nesterov's.
    pub nesterov: bool,
    /// `adam`, `adamw`: decay of the mean of gradients.
    pub beta1: f32,
    /// `adam`, `adamw`: decay of the mean of squared gradients.
    pub beta2: f32,
    /// `rmsprop`: decay of the mean of squared gradients.
    pub smoothing: f32,
    /// Added to the root of the mean of squared gradients; by default 1e-8 for `adam` and `adamw`,
    /// 0.0316 for `rmsprop` (BigNAS).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub epsilon: Option<f32>,
    /// Weight decay; not applied to biases and batch-norm.
    pub weight_decay: f32,
    /// What it does to the matrices of kernel transforms.
    pub kernel_transform_decay: TransformDecayKind,
    /// Whether values that no network of a step read keep their place, instead of being moved by
    /// weight decay and momentum as in Once-for-All's code.
    pub keep_inactive: bool,
    /// Largest norm of a step's gradient; 0: any.
    pub clip_norm: f64,
    /// Largest absolute value in a step's gradient; 0: any.
    pub clip_value: f32,
    /// Decay of an exponential moving average of the weights, which is then what is evaluated,
    /// fitted and exported; 0: none.
    pub average_decay: f32,
}

impl Default for OptimiserRecipe {
    fn default() -> Self {
        Self {
            kind: OptimiserKind::Sgd,
            learning_rate: 0.05,
            learning_rate_floor: 0.0,
            decay: DecayKind::Cosine,
            milestones: Vec::new(),
            decay_factor: 0.1,
            decay_epochs: 1.0,
            warm_up_epochs: 0.0,
            warm_up_factor: 0.1,
            momentum: 0.9,
            nesterov: true,
            beta1: 0.9,
            beta2: 0.999,
            smoothing: 0.9,
            epsilon: None,
            weight_decay: 3e-5,
            kernel_transform_decay: TransformDecayKind::Zero,
            keep_inactive: false,
            clip_norm: 0.0,
            clip_value: 0.0,
            average_decay: 0.0,
        }
    }
}

impl OptimiserRecipe {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        let positive = |value: f64| value > 0.0 && value.is_finite();
        let share = |value: f32| (0.0..1.0).contains(&value);
        let checks = [
            (
                "learning_rate",
                self.learning_rate,
                positive(self.learning_rate),
                "above 0",
            ),
            (
                "learning_rate_floor",
                self.learning_rate_floor,
                self.learning_rate_floor >= 0.0 && self.learning_rate_floor <= self.learning_rate,
                "0 to `learning_rate`",
            ),
            (
                "decay_factor",
                self.decay_factor,
                positive(self.decay_factor),
                "above 0",
            ),
            (
                "decay_epochs",
                self.decay_epochs,
                positive(self.decay_epochs),
                "above 0",
            ),
            (
                "warm_up_epochs",
                self.warm_up_epochs,
                self.warm_up_epochs >= 0.0 && self.warm_up_epochs.is_finite(),
                "0 or more",
            ),
            (
                "warm_up_factor",
                self.warm_up_factor,
                (0.0..=1.0).contains(&self.warm_up_factor),
                "0 to 1",
            ),
            (
                "momentum",
                self.momentum.into(),
                share(self.momentum),
                SHARE,
            ),
            ("beta1", self.beta1.into(), share(self.beta1), SHARE),
            ("beta2", self.beta2.into(), share(self.beta2), SHARE),
            (
                "smoothing",
                self.smoothing.into(),
                share(self.smoothing),
                SHARE,
            ),
            (
                "epsilon",
                self.epsilon.unwrap_or(1.0).into(),
                self.epsilon.is_none_or(|epsilon| positive(epsilon.into())),
                "above 0",
            ),
            (
                "weight_decay",
                self.weight_decay.into(),
                self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
                "0 or more",
            ),
            (
                "clip_norm",
                self.clip_norm,
                self.clip_norm >= 0.0,
                "0 (off) or more",
            ),
            (
                "clip_value",
                self.clip_value.into(),
                self.clip_value >= 0.0,
                "0 (off) or more",
            ),
            (
                "average_decay",
                self.average_decay.into(),
                share(self.average_decay),
                SHARE,
            ),
        ];
        for (key, value, is_legal, legal) in checks {
            if !is_legal {
                return Err(Problem::new("optimiser", key, value, legal));
            }
        }
        if !self.milestones.is_sorted() {
            let value = format!("{:?}", self.milestones);
            return Err(Problem::new(
                "optimiser",
                "milestones",
                value,
                "ascending epochs",
            ));
        }
        Ok(())
    }
}

const SHARE: &str = "0 or more and below 1";

/// `[training]`
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct TrainingRecipe {
    /// Images of a step.
    pub batch_size: usize,
    /// Parts into which they are cut to save memory; their gradients are averaged, and each has
    /// batch-norm statistics of its own.
    pub accumulation: usize,
    /// Whether wide tensors inside blocks are made again in the backward pass instead of being kept:
    /// less memory, a little more time, the same bits.
    pub recompute: bool,
    /// Share of each label that is spread evenly over the classes.
    pub label_smoothing: f32,
    /// Training stops when the loss of a step's first network (of random networks the best one's)
    /// is this many times its running mean in the phase.
    pub divergence_factor: f64,
}

impl Default for TrainingRecipe {
    fn default() -> Self {
        Self {
            batch_size: 64,
            accumulation: 1,
            recompute: false,
            label_smoothing: 0.1,
            divergence_factor: 4.0,
        }
    }
}

impl TrainingRecipe {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        if self.batch_size == 0 {
            return Err(Problem::new("training", "batch_size", 0, "at least 1"));
        }
        if self.accumulation == 0 || !self.batch_size.is_multiple_of(self.accumulation) {
            let legal = format!("a divisor of batch_size, {}", self.batch_size);
            return Err(Problem::new(
                "training",
                "accumulation",
                self.accumulation,
                &legal,
            ));
        }
        if !(0.0..1.0).contains(&self.label_smoothing) {
            let value = self.label_smoothing;
            return Err(Problem::new("training", "label_smoothing", value, SHARE));
        }
        if self.divergence_factor.is_nan() || self.divergence_factor <= 1.0 {
            let value = self.divergence_factor;
            let legal = "above 1; inf never stops";
            return Err(Problem::new("training", "divergence_factor", value, legal));
        }
        Ok(())
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
    /// Whether the variance of the calibration images is that of all of them together, instead of
    /// the average over batches as Once-for-All's authors take it.
    pub pooled_variance: bool,
}

impl Default for EvaluationRecipe {
    fn default() -> Self {
        Self {
            every_epochs: 1,
            calibration_images: 500,
            batch_size: 250,
            pooled_variance: false,
        }
    }
}

impl EvaluationRecipe {
    pub(super) fn validate(&self) -> Result<(), Problem> {
        for (key, value) in [
            ("every_epochs", self.every_epochs as usize),
            ("calibration_images", self.calibration_images),
            ("batch_size", self.batch_size),
        ] {
            if value == 0 {
                return Err(Problem::new("evaluation", key, 0, "at least 1"));
            }
        }
        Ok(())
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
    /// How many checkpoints are kept, besides the best.
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
