//! A supernet that learns a stream: the sandwich within each step.
//!
//! A step trains the largest member, the smallest and some random ones on the same images, new and
//! replayed. Memory, penalties and the previous network are shared: logits that are stored or kept are
//! the largest's, penalties act on the full-size weights once.

use oncefit_random::Draws;
use oncefit_train::{Aggregation, StepSpace, middle};

use super::*;

/// How a supernet learns.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ElasticSettings {
    /// Random networks of a step, beside the largest and the smallest.
    pub random: usize,
    /// Whether the others learn the largest's softmax in the place of labels (in-place distillation).
    pub distillation: bool,
    /// How the networks' gradients become one.
    pub aggregation: Aggregation,
    /// Subnets that are measured after every task beside the smallest, the middle and the largest.
    pub watched: Vec<String>,
}

impl Default for ElasticSettings {
    /// Two random networks, labels, each weight's mean over the networks that hold it.
    fn default() -> Self {
        Self {
            random: 2,
            distillation: false,
            aggregation: Aggregation::Avg,
            watched: Vec::new(),
        }
    }
}

/// A subnet that is measured after every task.
#[derive(Clone, PartialEq, Debug)]
pub struct WatchedSubnet {
    /// `smallest`, `middle`, `largest` or its text.
    pub name: String,
    /// Itself.
    pub subnet: Subnet,
}

/// What makes a learner's network a supernet.
#[derive(Debug)]
pub(crate) struct Elastic {
    pub(crate) settings: ElasticSettings,
    space: StepSpace,
    smallest: Option<StepNetwork>,
    watched: Vec<WatchedSubnet>,
    /// Sum of the weights of a step's networks that hold a value.
    coverage: Gradients,
    /// Layers beside the networks that all of them share.
    layers: Vec<SharedLayer>,
}

/// A layer of a loss; networks with fewer features use its first inputs.
#[derive(Clone, Copy, Debug)]
pub(super) struct SharedLayer {
    pub layer: Linear,
    /// Whether its inputs are features, and not another layer's outputs.
    pub reads_features: bool,
}

/// A network of a step.
#[derive(Clone, Debug)]
pub(super) struct StepNetwork {
    pub model: Arc<Model>,
    /// Whether it learns the largest's softmax where the method says labels.
    pub learns_largest: bool,
}

impl StepNetwork {
    fn new(
        largest: &Model,
        subnet: &Subnet,
        parameters: &Parameters,
        learns_largest: bool,
    ) -> Result<Self> {
        Ok(Self {
            model: Arc::new(largest.member(subnet.graph(), parameters)?),
            learns_largest,
        })
    }
}

impl Elastic {
    fn new(
        space: &Space,
        step_space: StepSpace,
        model: &Model,
        settings: ElasticSettings,
        parameters: &Parameters,
    ) -> Result<Self> {
        let (largest, smallest) = (step_space.largest(0), step_space.smallest(0));
        let mut watched = vec![
            ("smallest".to_owned(), smallest.clone()),
            ("middle".to_owned(), middle(space)?),
            ("largest".to_owned(), largest.clone()),
        ];
        for text in &settings.watched {
            watched.push((text.clone(), space.parse_subnet(text)?));
        }
        let smallest = (largest != smallest)
            .then(|| StepNetwork::new(model, smallest, parameters, settings.distillation))
            .transpose()?;
        let watched = watched.into_iter();
        Ok(Self {
            watched: watched
                .map(|(name, subnet)| WatchedSubnet { name, subnet })
                .collect(),
            coverage: Gradients::zeros(parameters),
            layers: Vec::new(),
            space: step_space,
            smallest,
            settings,
        })
    }

    /// Width of the smallest member's features; of the only one's none.
    pub(super) fn smallest_feature_width(&self) -> Option<usize> {
        let smallest = self.smallest.as_ref();
        smallest.map(|network| network.model.feature_width())
    }

    /// Counts layers of `parameters` among what the networks hold.
    pub(super) fn share_layers(&mut self, parameters: &Parameters, layers: &[SharedLayer]) {
        self.coverage = Gradients::zeros(parameters);
        self.layers = layers.to_vec();
    }

    /// Makes the sum of the networks' gradients what the settings want.
    pub(super) fn aggregate(
        &mut self,
        networks: &[StepNetwork],
        parameters: &Parameters,
        gradients: &mut Gradients,
    ) {
        let divisor: fn(f32) -> f32 = match self.settings.aggregation {
            Aggregation::Sum => return,
            Aggregation::Avg => |covered| covered,
            Aggregation::AvgSqrt => f32::sqrt,
        };
        if networks.len() == 1 {
            return;
        }
        self.coverage.clear();
        for network in networks {
            network.model.add_coverage(parameters, &mut self.coverage);
            for shared in &self.layers {
                let width = match shared.reads_features {
                    true => network.model.feature_width(),
                    false => shared.layer.inputs,
                };
                shared.layer.add_coverage(width, &mut self.coverage);
            }
        }
        gradients.divide(&self.coverage, divisor);
    }
}

impl Learner {
    /// A fresh learner whose network is the supernet of `space`.
    ///
    /// # Errors
    /// As [`Learner::new`], or if the space has several resolutions or no such subnet as is to be
    /// watched.
    pub fn elastic(
        space: &Space,
        elastic: ElasticSettings,
        method: Method,
        settings: LearnerSettings,
    ) -> Result<Self> {
        let parameters = initial(space, &settings)?;
        Self::elastic_with_weights(space, elastic, parameters, method, settings)
    }

    /// As [`Learner::elastic`], from given weights.
    ///
    /// # Errors
    /// As [`Learner::elastic`], or if the weights are not those of the space.
    pub fn elastic_with_weights(
        space: &Space,
        elastic: ElasticSettings,
        parameters: Parameters,
        method: Method,
        settings: LearnerSettings,
    ) -> Result<Self> {
        let step_space = StepSpace::whole(space)?;
        if step_space.resolutions() > 1 {
            return Err(setting(
                "the resolutions of the space",
                step_space.resolutions(),
                "one, that of the images: `fix = { resolution = [28] }`",
            ));
        }
        let parameters = Supernet::with_parameters(space, parameters)?.parameters;
        let graph = step_space.largest(0).graph();
        let (largest, parameters) = Model::new(graph, &settings.head, parameters, settings.seed)?;
        let elastic = Elastic::new(space, step_space, &largest, elastic, &parameters)?;
        Self::of_model(space, largest, Some(elastic), parameters, method, settings)
    }

    /// A fresh learner of the same network with another method and settings.
    pub(super) fn fresh(&self, method: Method, settings: LearnerSettings) -> Result<Self> {
        match &self.elastic {
            None => Self::new(&self.space, method, settings),
            Some(elastic) => Self::elastic(&self.space, elastic.settings.clone(), method, settings),
        }
    }

    /// The subnets of a supernet that are measured after every task; none of another network.
    pub fn watched(&self) -> &[WatchedSubnet] {
        match &self.elastic {
            Some(elastic) => &elastic.watched,
            None => &[],
        }
    }

    /// The networks of this step, the largest first.
    pub(super) fn step_networks(&self) -> Result<Vec<StepNetwork>> {
        let mut networks = vec![StepNetwork {
            model: Arc::clone(&self.model),
            learns_largest: false,
        }];
        let Some(elastic) = &self.elastic else {
            return Ok(networks);
        };
        let Some(smallest) = &elastic.smallest else {
            return Ok(networks);
        };
        networks.push(smallest.clone());
        for index in 0..elastic.settings.random {
            let mut draws = Draws::new(self.settings.seed, "subnet", self.step, index as u64);
            for subnet in elastic.space.sample(0, &mut draws)? {
                let distils = elastic.settings.distillation;
                let network = StepNetwork::new(&self.model, &subnet, &self.parameters, distils)?;
                networks.push(network);
            }
        }
        Ok(networks)
    }
}
