//! What a learner is made of, beside network and method.

use super::*;

/// How test images are classified.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Classifier {
    /// The largest logit.
    Head,
    /// The nearest mean of the memory's unit-length features, class by class (iCaRL, SCR); without
    /// mirrored images.
    NearestMean,
    /// The largest logit of a fresh network trained on the memory alone (GDumb).
    FreshFromMemory {
        /// Passes through the memory.
        epochs: usize,
    },
}

/// What a learner is made of, beside network and method.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct LearnerSettings {
    /// Learning rate.
    pub learning_rate: f32,
    /// How weights follow gradients; the presets of the field are plain gradient descent.
    pub rule: UpdateRule,
    /// Weight decay.
    pub weight_decay: f32,
    /// Images the memory holds.
    pub memory: usize,
    /// Images of a batch, for checks.
    pub batch_size: usize,
    /// Seed of initialisation and memory.
    pub seed: u64,
    /// How bytes become values.
    pub normalisation: Normalisation,
    /// How images are changed, new and replayed ones each time anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augmentation: Option<ImageChanges>,
    /// How logits are made of features.
    #[serde(skip_serializing_if = "HeadSettings::is_default")]
    pub head: HeadSettings,
    /// How fresh weights are drawn; given weights stay.
    #[serde(skip_serializing_if = "Initialisation::is_default")]
    pub initialisation: Initialisation,
    /// How the learning rate falls over the epochs of each task.
    pub decay: Decay,
    /// Epochs of each task, for a cosine.
    pub epochs: usize,
    /// Whether the memory takes a task's images at its end instead of batch by batch.
    pub fills_at_task_end: bool,
    /// Whether replayed images come in passes through the memory, each image once in a pass, instead
    /// of in independent draws; the memory must be filled at task ends.
    pub replays_in_passes: bool,
    /// Shape of images whose mirror images count in the class means of the nearest-mean classifier.
    pub mirrored: Option<ImageShape>,
    /// What batch-norms are calibrated on.
    #[serde(skip_serializing_if = "CalibrationImages::is_default")]
    pub calibration: CalibrationImages,
}

/// What batch-norms are calibrated on for evaluation; without a memory on the last images of the stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CalibrationImages {
    /// The memory, and from the second task on so many of the last images that no class has less than
    /// its share: the statistics are those of all classes.
    #[default]
    Balanced,
    /// The memory and all of the last images: mostly those of the newest task.
    Recent,
}

impl CalibrationImages {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Default for LearnerSettings {
    /// SGD at 0.03, a memory of 200, batches of 10, pixels from 0 to 1 of one channel.
    fn default() -> Self {
        Self {
            learning_rate: 0.03,
            rule: UpdateRule::sgd(0.0),
            weight_decay: 0.0,
            memory: 200,
            batch_size: 10,
            seed: 0,
            normalisation: Normalisation {
                mean: vec![0.0],
                std: vec![1.0],
            },
            augmentation: None,
            head: HeadSettings::default(),
            initialisation: Initialisation::default(),
            decay: Decay::Constant,
            epochs: 1,
            fills_at_task_end: false,
            replays_in_passes: false,
            mirrored: None,
            calibration: CalibrationImages::default(),
        }
    }
}

/// Changes of images of a shape. The memory keeps images as they were; logits that it keeps are
/// those of the changed image, as in mammoth.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct ImageChanges {
    /// Which changes; mixing is refused.
    pub augmentation: Augmentation,
    /// The images; a network may take them in another shape, such as flat.
    pub shape: ImageShape,
}

impl ImageChanges {
    pub(super) fn check(&self, values: usize) -> Result<()> {
        self.augmentation.check(self.shape)?;
        if self.augmentation.mixup > 0.0 || self.augmentation.cutmix > 0.0 {
            return Err(ContinualError::NotAvailable {
                what: "mixing of images (`mixup`, `cutmix`)".into(),
                reason: "replayed images have one label".into(),
            });
        }
        match self.shape.bytes() == values {
            true => Ok(()),
            false => Err(setting(
                "the values of an augmented image",
                self.shape.bytes(),
                format!("{values}, as the network takes"),
            )),
        }
    }
}
