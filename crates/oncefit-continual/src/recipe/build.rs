//! From the sections of a recipe to data, stream and learner.

use oncefit_data::{DataSource, LoadedData, Normalisation, ValidationSplit};
use oncefit_nn::{ImportSettings, Parameters, Supernet, import_weights};
use oncefit_space::{Space, Subnet, Value};
use oncefit_train::{Decay, RESOLUTION, TrainError};

use super::{
    DrawKind, FillKind, LearningRecipe, NetworkKind, NetworkRecipe, RateDecayKind, StreamKind,
    StreamRecipe,
};
use crate::error::{Result, setting};
use crate::learner::{Classifier, ElasticSettings, ImageChanges, Learner, LearnerSettings};
use crate::networks::{mlp, resnet18, small_cnn, small_cnn_with_norms, space_of_member};
use crate::stream::{ClassOrder, Scenario, Stream, StreamSettings};

impl StreamRecipe {
    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        let has_parts = self.base.is_some() || self.increment.is_some();
        match self.scenario {
            StreamKind::Classes if has_parts && self.tasks.is_some() => {
                Err("`stream.tasks` parts the classes evenly; it cannot stand beside `stream.base` or `stream.increment`".into())
            }
            StreamKind::PermutedPixels | StreamKind::RotatedPixels if has_parts => {
                Err("`stream.base` and `stream.increment` belong to `scenario = \"classes\"`; the others have all classes in every task, in `stream.tasks` tasks".into())
            }
            _ => Ok(()),
        }
    }

    fn class_order(&self) -> Result<ClassOrder> {
        let wrong = || {
            let legal = "\"natural\", \"seeded\" or a list of names of classes";
            setting("`stream.class_order`", &self.class_order, legal)
        };
        match &self.class_order {
            toml::Value::String(text) => match text.as_str() {
                "natural" => Ok(ClassOrder::Natural),
                "seeded" => Ok(ClassOrder::Seeded),
                _ => Err(wrong()),
            },
            toml::Value::Array(names) => names
                .iter()
                .map(|name| name.as_str().map(str::to_owned).ok_or_else(wrong))
                .collect::<Result<_>>()
                .map(ClassOrder::Named),
            _ => Err(wrong()),
        }
    }

    /// The scenario for so many classes.
    fn scenario(&self, classes: usize) -> Result<Scenario> {
        let tasks = self.tasks.unwrap_or(10);
        Ok(match self.scenario {
            StreamKind::Classes => match self.tasks {
                Some(tasks) if !classes.is_multiple_of(tasks) => {
                    let legal = format!("a divisor of the {classes} classes");
                    return Err(setting("`stream.tasks`", tasks, legal));
                }
                Some(tasks) => Scenario::Classes {
                    base: classes / tasks,
                    increment: classes / tasks,
                },
                None => {
                    let increment = self.increment.unwrap_or(2);
                    Scenario::Classes {
                        base: self.base.unwrap_or(increment),
                        increment,
                    }
                }
            },
            StreamKind::PermutedPixels => Scenario::PermutedPixels { tasks },
            StreamKind::RotatedPixels => Scenario::RotatedPixels {
                tasks,
                largest_degrees: self.largest_degrees,
            },
        })
    }
}

impl NetworkRecipe {
    pub(super) fn validate(&self) -> std::result::Result<(), String> {
        if self.initialisation.is_some() && self.weights.is_some() {
            return Err(
                "`network.initialisation` is for fresh weights; `network.weights` gives others"
                    .into(),
            );
        }
        let of_spaces: &[NetworkKind] = &[NetworkKind::Member, NetworkKind::Supernet];
        let owners: [(&str, bool, &[NetworkKind]); 7] = [
            ("hidden", self.hidden.is_some(), &[NetworkKind::Mlp]),
            (
                "width",
                self.width.is_some(),
                &[
                    NetworkKind::SmallCnn,
                    NetworkKind::SmallCnnNorms,
                    NetworkKind::Resnet18,
                ],
            ),
            ("subnet", self.subnet.is_some(), &[NetworkKind::Member]),
            ("weights", self.weights.is_some(), of_spaces),
            (
                "fresh_classifier",
                self.fresh_classifier.is_some(),
                of_spaces,
            ),
            ("elastic", self.elastic.is_some(), &[NetworkKind::Supernet]),
            ("space", self.space.is_some(), of_spaces),
        ];
        for (key, is_given, kinds) in owners {
            if is_given && !kinds.contains(&self.kind) {
                let names: Vec<String> = kinds
                    .iter()
                    .map(|kind| format!("`{}`", name(*kind)))
                    .collect();
                return Err(format!(
                    "`network.{key}` belongs to the kinds {}, not to `{}`",
                    names.join(", "),
                    name(self.kind)
                ));
            }
        }
        match (self.kind, &self.space) {
            (NetworkKind::Member | NetworkKind::Supernet, None) => Err(format!(
                "`network.kind = \"{}\"` needs a section `network.space` with `family` or `file`",
                name(self.kind)
            )),
            _ => Ok(()),
        }
    }
}

fn name(kind: NetworkKind) -> &'static str {
    match kind {
        NetworkKind::Mlp => "mlp",
        NetworkKind::SmallCnn => "small-cnn",
        NetworkKind::SmallCnnNorms => "small-cnn-norms",
        NetworkKind::Resnet18 => "resnet18",
        NetworkKind::Member => "member",
        NetworkKind::Supernet => "supernet",
    }
}

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
            decay: match self.optimiser.decay {
                RateDecayKind::Constant => Decay::Constant,
                RateDecayKind::Cosine => Decay::Cosine,
                RateDecayKind::Step => Decay::Step {
                    milestones: self.optimiser.milestones.clone(),
                    factor: self.optimiser.factor.unwrap_or(0.1),
                },
            },
            epochs: self.training.epochs,
            fills_at_task_end: self.memory.fill == Some(FillKind::TaskEnd),
            replays_in_passes: self.memory.draws == Some(DrawKind::Passes),
            mirrored: self.mirrors(method.classifier)?.then_some(shape),
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

    fn build_network(
        &self,
        shape: oncefit_data::ImageShape,
        classes: usize,
    ) -> Result<(Space, Option<Parameters>)> {
        let network = &self.network;
        let square = |what| {
            let legal = "square images";
            let found = format!("not fit for images of {shape}");
            match shape.height == shape.width {
                true => Ok(shape.height),
                false => Err(setting(what, found, legal)),
            }
        };
        Ok(match (network.kind, &network.space) {
            (NetworkKind::SmallCnn | NetworkKind::SmallCnnNorms, _) => {
                let side = square("network `small-cnn`")?;
                let width = network.width.unwrap_or(16);
                let build = match network.kind {
                    NetworkKind::SmallCnn => small_cnn,
                    _ => small_cnn_with_norms,
                };
                (build(side, shape.channels, width, classes)?, None)
            }
            (NetworkKind::Resnet18, _) => {
                let side = square("network `resnet18`")?;
                let width = network.width.unwrap_or(64);
                (resnet18(side, shape.channels, width, classes)?, None)
            }
            (NetworkKind::Member, Some(recipe)) => {
                let space = recipe.build(shape.channels, classes)?;
                let subnet = space.parse_subnet(network.subnet.as_deref().unwrap_or("largest"))?;
                check_resolution(&subnet, shape)?;
                let single = space_of_member(&space, &subnet)?;
                let weights = match self.imported(&space)? {
                    Some(weights) => {
                        let supernet = Supernet::with_parameters(&space, weights)?;
                        Some(supernet.extract_weights(&subnet)?)
                    }
                    None => None,
                };
                (single, weights)
            }
            (NetworkKind::Mlp | NetworkKind::Member | NetworkKind::Supernet, _) => {
                let hidden = network.hidden.unwrap_or(100);
                (mlp(shape.bytes(), hidden, classes)?, None)
            }
        })
    }
    /// The space of a supernet at the images' resolution, and the weights that it starts from.
    fn build_supernet(
        &self,
        shape: oncefit_data::ImageShape,
        classes: usize,
    ) -> Result<(Space, Option<Parameters>)> {
        let Some(recipe) = &self.network.space else {
            return Err(setting("`network.space`", "not there", "a section"));
        };
        let mut space = recipe.build(shape.channels, classes)?;
        let has_resolutions = space.decisions().iter().any(|slot| slot.path == RESOLUTION);
        if has_resolutions && !recipe.fix.contains_key(RESOLUTION) {
            space = space.restrict(RESOLUTION, &[Value::Int(shape.height as i64)])?;
        }
        check_resolution(&space.largest()?, shape)?;
        let weights = self.imported(&space)?;
        Ok((space, weights))
    }

    /// The weights of `network.weights` for a space.
    fn imported(&self, space: &Space) -> Result<Option<Parameters>> {
        let network = &self.network;
        let Some(path) = &network.weights else {
            return Ok(None);
        };
        let bytes = std::fs::read(path).map_err(TrainError::file("read weights", path))?;
        let settings = ImportSettings {
            names: None,
            fresh_classifier: network.fresh_classifier.unwrap_or(false),
            seed: self.seed,
        };
        let file_name = path.display().to_string();
        Ok(Some(
            import_weights(space, &bytes, &file_name, &settings)?.parameters,
        ))
    }
}

fn check_resolution(subnet: &Subnet, shape: oncefit_data::ImageShape) -> Result<()> {
    let wanted = subnet.graph().input_shape();
    match (wanted.height, wanted.width) == (shape.height, shape.width) {
        true => Ok(()),
        false => Err(setting(
            "the resolution of the subnet",
            format!("{}×{}", wanted.height, wanted.width),
            format!("that of the images, {}×{}", shape.height, shape.width),
        )),
    }
}
