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
    /// A layer on the features that all networks share.
    layer: Option<Linear>,
}

/// A network of a step.
#[derive(Clone, Debug)]
pub(super) struct StepNetwork {
    pub model: Arc<Model>,
    /// Whether it learns the largest's softmax where the method says labels.
    pub learns_largest: bool,
}

impl StepNetwork {
    fn new(subnet: &Subnet, parameters: &Parameters, learns_largest: bool) -> Result<Self> {
        Ok(Self {
            model: Arc::new(Model::of_graph(subnet.graph(), parameters)?),
            learns_largest,
        })
    }
}

impl Elastic {
    fn new(space: &Space, settings: ElasticSettings, parameters: &Parameters) -> Result<Self> {
        let step_space = StepSpace::whole(space)?;
        if step_space.resolutions() > 1 {
            return Err(setting(
                "the resolutions of the space",
                step_space.resolutions(),
                "one, that of the images: `fix = { resolution = [28] }`",
            ));
        }
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
            .then(|| StepNetwork::new(smallest, parameters, settings.distillation))
            .transpose()?;
        let watched = watched.into_iter();
        Ok(Self {
            watched: watched
                .map(|(name, subnet)| WatchedSubnet { name, subnet })
                .collect(),
            coverage: Gradients::zeros(parameters),
            layer: None,
            space: step_space,
            smallest,
            settings,
        })
    }

    /// Width of the smallest member's features.
    pub(super) fn smallest_feature_width(&self) -> usize {
        let members = self.watched.iter();
        let widths = members.map(|one| {
            let graph = one.subnet.graph();
            let classifier = graph.nodes.last();
            classifier.map_or(0, |last| graph.nodes[last.inputs[0]].shape.len())
        });
        widths.min().unwrap_or(0)
    }

    /// Counts a layer of `parameters` among what the networks hold.
    pub(super) fn shares_layer(&mut self, parameters: &Parameters, layer: Linear) {
        self.coverage = Gradients::zeros(parameters);
        self.layer = Some(layer);
    }

    /// Makes the sum of the networks' gradients what the settings want.
    pub(super) fn aggregate(&mut self, networks: &[StepNetwork], gradients: &mut Gradients) {
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
            network.model.plan().add_coverage(1.0, &mut self.coverage);
            if let Some(layer) = self.layer {
                layer.add_coverage(network.model.feature_width(), &mut self.coverage);
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
        if !settings.head.is_network() {
            let legal = "the network's own last layer";
            return Err(setting("the head of a supernet", "another", legal));
        }
        let parameters = Supernet::with_parameters(space, parameters)?.parameters;
        let elastic = Elastic::new(space, elastic, &parameters)?;
        let largest = Model::of_graph(elastic.space.largest(0).graph(), &parameters)?;
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
                networks.push(StepNetwork::new(&subnet, &self.parameters, distils)?);
            }
        }
        Ok(networks)
    }
}
