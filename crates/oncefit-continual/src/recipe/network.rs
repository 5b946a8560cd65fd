//! `[network]`: which network learns, and the weights that it starts from.

use std::path::PathBuf;

use oncefit_data::ImageShape;
use oncefit_nn::{ImportSettings, Parameters, Supernet, import_weights};
use oncefit_space::{Space, Subnet, Value};
use oncefit_train::{Aggregation, RESOLUTION, SpaceRecipe, TrainError};
use serde::{Deserialize, Serialize};

use super::LearningRecipe;
use crate::error::{Result, setting};
use crate::learner::{CalibrationImages, Initialisation};
use crate::networks::{mlp, resnet18, small_cnn, small_cnn_with_norms, space_of_member};

/// The kinds of network.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NetworkKind {
    /// Pixels, two hidden layers, classes.
    #[default]
    Mlp,
    /// Three strided convolutions without batch-norm.
    SmallCnn,
    /// The same with batch-norms.
    SmallCnnNorms,
    /// ResNet-18 for small images.
    Resnet18,
    /// A member of a space.
    Member,
    /// All members of a space, in one set of weights.
    Supernet,
}

/// `[network]`
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkRecipe {
    /// Which kind.
    pub kind: NetworkKind,
    /// How fresh weights are drawn; `oncefit` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initialisation: Option<Initialisation>,
    /// `mlp`: units of a hidden layer, 100 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hidden: Option<usize>,
    /// `small-cnn`, `small-cnn-norms`, 16 where it is left out, and `resnet18`, 64: channels of the first layer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub width: Option<usize>,
    /// `member`: the subnet's text, `largest` or `smallest`; `largest` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
    /// `member`: a checkpoint of the same space; the subnet's weights are cut out of it. `supernet`: one
    /// of the same space that it starts from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weights: Option<PathBuf>,
    /// `member`, `supernet`, with `weights`: draws the last linear layer anew, for other classes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fresh_classifier: Option<bool>,
    /// What batch-norms are calibrated on; `balanced` where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<CalibrationImages>,
    /// `supernet`: how its members are trained together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elastic: Option<ElasticRecipe>,
    /// `member`, `supernet`: of which space, as in recipes of training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub space: Option<SpaceRecipe>,
}

/// How the gradients of a step's networks become one; see [`Aggregation`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AggregationKind {
    /// Added up.
    Sum,
    /// Each weight's mean over the networks that hold it.
    Mean,
    /// Each weight's sum, divided by the root of how many networks hold it.
    RootMean,
}

impl From<AggregationKind> for Aggregation {
    fn from(kind: AggregationKind) -> Self {
        match kind {
            AggregationKind::Sum => Self::Sum,
            AggregationKind::Mean => Self::Avg,
            AggregationKind::RootMean => Self::AvgSqrt,
        }
    }
}

/// `[network.elastic]`; see [`crate::ElasticSettings`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default)]
pub struct ElasticRecipe {
    /// Random networks of a step, beside the largest and the smallest.
    pub random: usize,
    /// Whether the others learn the largest's softmax instead of labels.
    pub distillation: bool,
    /// How the networks' gradients become one.
    pub aggregation: AggregationKind,
    /// Texts of subnets that are measured after every task beside the smallest, the middle and the
    /// largest.
    pub subnets: Vec<String>,
}

impl Default for ElasticRecipe {
    fn default() -> Self {
        Self {
            random: 2,
            distillation: false,
            aggregation: AggregationKind::Mean,
            subnets: Vec::new(),
        }
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
    pub(super) fn build_network(
        &self,
        shape: ImageShape,
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
    pub(super) fn build_supernet(
        &self,
        shape: ImageShape,
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

fn check_resolution(subnet: &Subnet, shape: ImageShape) -> Result<()> {
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
