//! From the sections of a recipe to data, stream and learner.

use oncefit_data::{DataSource, LoadedData, Normalisation, ValidationSplit};

use super::{DrawKind, FillKind, LearningRecipe, NetworkKind};
use crate::error::{Result, setting};
use crate::learner::{Classifier, ElasticSettings, ImageChanges, Learner, LearnerSettings};
use crate::stream::{ClassOrder, Stream, StreamSettings};

impl LearningRecipe {
    /// The images: trained on, and measured on (held-out ones where `data.validation` is above 0).
    ///
    /// # Errors
    /// If the data cannot be read or is too small for the validation split.
    pub fn load_data(&self) -> Result<LoadedData> {
        let source: DataSource = self.data.source()?;
        let loaded = source.load()?;
        let (train, measured) = match self.data.validation {
            0 => (loaded.train, loaded.test),
            size => loaded.train.hold_out(ValidationSplit {
                size,
                seed: self.data.validation_seed,
            })?,
        };
        Ok(LoadedData::new(self.data.limited(train)?, measured)?)
    }

    /// The stream of tasks.
    ///
    /// # Errors
    /// If it does not fit the data.
    pub fn build_stream(&self, data: &LoadedData) -> Result<Stream> {
        let class_order = self.stream.class_order()?;
        let classes = match &class_order {
            ClassOrder::Named(names) => names.len(),
            _ => data.train.class_names().len(),
        };
        let stream = Stream::new(
            data,
            StreamSettings {
                scenario: self.stream.scenario(classes)?,
                class_order,
                batch_size: self.training.batch_size,
                epochs: self.training.epochs,
                later_shots: self.stream.later_shots,
                seed: self.seed,
            },
        )?;
        let stream = match self.build_method(stream.classes())?.correction {
            Some(correction) => {
                stream.hold_out(|old| correction.images_of_class(self.memory.capacity, old))
            }
            None => stream,
        };
        match self.method.name == "joint" {
            true => stream.joint(),
            false => Ok(stream),
        }
    }

    /// The learner at its beginning.
    ///
    /// # Errors
    /// If method, network and images do not fit each other.
    pub fn build_learner(&self, data: &LoadedData) -> Result<Learner> {
        let learner = self.new_learner(data)?;
        let width = learner.feature_width();
        match self.metrics.drift {
            Some(count) if count > width => {
                let legal = format!("at most {width}, the values of this network's features");
                Err(setting("`metrics.drift`", count, legal))
            }
            _ => Ok(learner),
        }
    }

    fn new_learner(&self, data: &LoadedData) -> Result<Learner> {
        let shape = data.train.shape();
        let classes = data.train.class_names().len();
        let augmentation = ImageChanges {
            augmentation: self.augmentation,
            shape,
        };
        let method = self.build_method(classes)?;
        let is_changed = self.augmentation != oncefit_data::Augmentation::NONE;
        let settings = LearnerSettings {
            learning_rate: self.optimiser.learning_rate,
            rule: self.optimiser.rule(),
            weight_decay: self.optimiser.weight_decay,
            memory: self.memory.capacity,
            batch_size: self.training.batch_size,
            seed: self.seed,
            normalisation: Normalisation::of(&data.train)?,
            augmentation: is_changed.then_some(augmentation),
            head: self.build_head(data)?,
            initialisation: self.network.initialisation.unwrap_or_default(),
            decay: self.optimiser.decay(),
            epochs: self.training.epochs,
            fills_at_task_end: self.memory.fill == Some(FillKind::TaskEnd),
            replays_in_passes: self.memory.draws == Some(DrawKind::Passes),
            mirrored: self.mirrors(method.classifier)?.then_some(shape),
            calibration: self.network.calibration.unwrap_or_default(),
        };
        if self.network.kind == NetworkKind::Supernet {
            let (space, weights) = self.build_supernet(shape, classes)?;
            let elastic = self.network.elastic.clone().unwrap_or_default();
            let elastic = ElasticSettings {
                random: elastic.random,
                distillation: elastic.distillation,
                aggregation: elastic.aggregation.into(),
                watched: elastic.subnets,
            };
            return match weights {
                Some(weights) => {
                    Learner::elastic_with_weights(&space, elastic, weights, method, settings)
                }
                None => Learner::elastic(&space, elastic, method, settings),
            };
        }
        let (space, weights) = self.build_network(shape, classes)?;
        match weights {
            Some(weights) => Learner::with_weights(&space, weights, method, settings),
            None => Learner::new(&space, method, settings),
        }
    }

    fn mirrors(&self, classifier: Classifier) -> Result<bool> {
        let is_nearest_mean = classifier == Classifier::NearestMean;
        match self.method.mirrored_images {
            Some(true) if !is_nearest_mean => {
                let legal = "left out: it belongs to the nearest-mean classifier";
                Err(setting("`method.mirrored_images`", "true", legal))
            }
            given => Ok(given.unwrap_or(is_nearest_mean && self.augmentation.horizontal_flip)),
        }
    }
}
