//! A network that learns a stream: network, optimiser, memory and method state as one value.

mod contrastive_step;
mod elastic;
mod evaluation;
mod prototype_step;
mod task_end;
mod unlearning;

use std::sync::Arc;

use oncefit_data::{Augmentation, ImageShape, Normalisation};
use oncefit_nn::{
    Calibration, Executor, Gradients, Images as Batch, Mode, Optimiser, ParameterKind, Parameters,
    Supernet, TransformDecay, UpdateRule,
};
use oncefit_random::Draws;
use oncefit_space::{Graph, Op, Space, Subnet};
use oncefit_train::{Decay, LearningRate};
use serde::{Deserialize, Serialize};

use self::elastic::{Elastic, StepNetwork};
pub use self::elastic::{ElasticSettings, WatchedSubnet};
use self::prototype_step::{PROJECTION, needs_views};
use crate::angles::{less_forget, margin_ranking};
use crate::contrastive::add_projection;
use crate::correction::Correction;
use crate::divergence::{Divergence, binary_cross_entropy, cross_entropy, output_divergence};
use crate::error::{ContinualError, Result, setting};
use crate::head::{HeadSettings, OutputGradients, to_unit_lengths};
use crate::importance::{FisherEstimator, fisher, output_sensitivity};
use crate::linear::{Linear, add_linear};
use crate::memory::{Memory, MemoryPolicy, herding_order};
use crate::method::{BatchClasses, ClassRange, Images, Importance, Method, Reference};
use crate::model::{Model, Output};
use crate::networks::single_member;
use crate::onpro::Centres;
use crate::stream::{Examples, Stream, normalised};

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

/// How fresh weights are drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Initialisation {
    /// As `Supernet::initialise` does; biases are 0.
    #[default]
    Oncefit,
    /// As PyTorch's layers do: weights and biases of convolutions and linear layers uniform in
    /// ±1/√inputs.
    Pytorch,
}

impl Initialisation {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
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
    fn check(&self, values: usize) -> Result<()> {
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

/// What a step did.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Mean cross-entropy of the new images; of methods with contrastive losses the sum of all.
    pub loss: f64,
    /// New images whose label had the largest logit before the step (prequential accuracy).
    pub correct: usize,
    /// New images.
    pub new_images: usize,
    /// Images that ran forward and backward.
    pub images: usize,
    /// A-GEM: whether the gradient was projected.
    pub projected: bool,
}

/// Accuracies on the test images of one task.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct TaskAccuracy {
    /// The largest score among all classes seen (before the first step: all classes).
    pub class_incremental: f64,
    /// The largest score among the task's classes.
    pub task_incremental: f64,
}

/// Images of the current task that are kept for the calibration of batch-norms.
const RECENT: usize = 512;

/// A quadratic form `½ Σ F (θ − θ*)²`.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Anchor {
    pub importance: Parameters,
    pub weights: Parameters,
}

/// A network that learns a stream.
#[derive(Debug)]
pub struct Learner {
    pub(crate) settings: LearnerSettings,
    pub(crate) method: Method,
    space: Space,
    /// The network; of a supernet the largest.
    model: Arc<Model>,
    /// What makes it a supernet.
    pub(crate) elastic: Option<Elastic>,
    has_norms: bool,
    pub(crate) parameters: Parameters,
    pub(crate) optimiser: Optimiser,
    gradients: Gradients,
    executor: Executor,
    pub(crate) memory: Option<Memory>,
    pub(crate) previous: Option<Parameters>,
    /// One for each weight term, from the end of the first task on.
    pub(crate) anchors: Vec<Option<Anchor>>,
    /// Path integrals and the weights at the beginning of the task, one for each term that has them.
    pub(crate) paths: Vec<Option<(Parameters, Parameters)>>,
    pub(crate) recent: Examples,
    /// Classes seen, in order of arrival.
    pub(crate) seen: Vec<u32>,
    /// How many of them before this task.
    pub(crate) old: usize,
    pub(crate) step: u64,
    pub(crate) task: usize,
    /// Batches of this task done.
    pub(crate) batches: usize,
    pub(crate) images: u64,
    pub(crate) train_macs: u64,
    /// Multiply-accumulates of forward passes since a counter last took them.
    forwarded: u64,
    evaluation_macs: u64,
    batches_per_epoch: usize,
    /// BiC's, of the task that ended last.
    pub(crate) correction: Option<Correction>,
    /// Refresh learning: the Fisher information of the tasks that ended.
    pub(crate) fisher: Option<Parameters>,
    /// OnPro's, of the last step's draw from the memory.
    pub(crate) centres: Centres,
}

/// What the network at the end of the previous task makes of a batch.
struct Previous {
    logits: Vec<f32>,
    /// Of a cosine head.
    unit_features: Vec<f32>,
}

/// What a step learns from.
struct Lesson {
    /// The new images and each draw that a term needs.
    segments: Vec<Segment>,
    /// Their pixels as the networks see them.
    inputs: Vec<f32>,
    /// On which networks, the largest first.
    networks: Vec<StepNetwork>,
}

/// What a pass through the output-space terms found.
#[derive(Default)]
struct Found {
    /// Loss of the new images.
    loss: f64,
    /// Logits of the new images.
    logits: Vec<f32>,
    /// What ran.
    cost: Cost,
}

/// What ran forward and backward.
#[derive(Clone, Copy, Default)]
struct Cost {
    /// Images, once for each network.
    images: usize,
    /// Three times the multiply-accumulates of a forward pass.
    train_macs: u64,
}

impl Cost {
    fn add(&mut self, network: &StepNetwork, images: usize) {
        self.images += images;
        self.train_macs += 3 * network.model.macs() * images as u64;
    }
}

/// Other networks' logits for the rows of a segment.
#[derive(Clone, Copy)]
struct SoftLabels<'a> {
    /// Of the network at the end of the previous task.
    previous: Option<&'a [f32]>,
    /// Of the step's largest network, for those that learn them instead of labels.
    largest: Option<&'a [f32]>,
}

/// The images of one forward pass and where its parts lie.
struct Segment {
    draw: Option<u64>,
    places: Vec<usize>,
    labels: Vec<u32>,
    rows: std::ops::Range<usize>,
}

impl Learner {
    /// A fresh learner with the only member of `space` as its network.
    ///
    /// # Errors
    /// If the space has several members, the memory is smaller than a batch or a draw, or the
    /// method needs what the network cannot give.
    pub fn new(space: &Space, method: Method, settings: LearnerSettings) -> Result<Self> {
        let parameters = initial(space, &settings)?;
        Self::with_weights(space, parameters, method, settings)
    }

    /// As [`Learner::new`], from given weights.
    ///
    /// # Errors
    /// As [`Learner::new`], or if the weights are not those of the network.
    pub fn with_weights(
        space: &Space,
        parameters: Parameters,
        method: Method,
        settings: LearnerSettings,
    ) -> Result<Self> {
        let subnet = single_member(space)?;
        let (model, parameters) =
            Model::new(subnet.graph(), &settings.head, parameters, settings.seed)?;
        Self::of_model(space, model, None, parameters, method, settings)
    }

    /// A learner of a model, with everything around it.
    fn of_model(
        space: &Space,
        model: Model,
        elastic: Option<Elastic>,
        parameters: Parameters,
        method: Method,
        settings: LearnerSettings,
    ) -> Result<Self> {
        if let Some(refresh) = &method.refresh {
            refresh.check()?;
            if refresh.is_active() && method.cross_entropy == 0.0 && method.outputs.is_empty() {
                return Err(ContinualError::NotAvailable {
                    what: format!("refresh learning with `{}`", method.name),
                    reason: "its loss has no terms that could be unlearnt".into(),
                });
            }
        }
        let graph = model.graph();
        let (mut parameters, mut elastic) = (parameters, elastic);
        if let Some(contrastive) = &method.contrastive {
            contrastive.check()?;
            if elastic.is_some() {
                return Err(ContinualError::NotAvailable {
                    what: format!("`{}` on a supernet", method.name),
                    reason: "its projection has one width; it learns on single networks".into(),
                });
            }
            if method.classifier != Classifier::NearestMean {
                return Err(setting(
                    "the classifier of a contrastive method",
                    "not `nearest-mean`",
                    "`nearest-mean`: the loss does not train the head",
                ));
            }
            let width = contrastive.width;
            add_projection(&mut parameters, model.feature_width(), width, settings.seed);
        }
        if let Some(onpro) = &method.prototypes {
            let changes = settings.augmentation.as_ref().ok_or_else(needs_views)?;
            onpro.turns.check(changes.shape)?;
            let smallest = elastic.as_ref().map(Elastic::smallest_feature_width);
            onpro.check(smallest.unwrap_or(model.feature_width()))?;
            let draws = Draws::new(settings.seed, PROJECTION, 0, 0);
            let sizes = (model.feature_width(), onpro.projection);
            add_linear(&mut parameters, PROJECTION, sizes, draws);
            if let Some(elastic) = &mut elastic {
                if elastic.settings.distillation {
                    return Err(ContinualError::NotAvailable {
                        what: format!("`distillation` with `{}`", method.name),
                        reason: "its smaller networks learn mixed labels".into(),
                    });
                }
                elastic.shares_layer(&parameters, Linear::of(&parameters, PROJECTION));
            }
        }
        let has_norms = graph
            .nodes
            .iter()
            .any(|node| matches!(node.op, Op::BatchNorm { .. }));
        let input = model.input_shape();
        settings
            .normalisation
            .check(settings.normalisation.mean.len())?;
        if let Some(changes) = &settings.augmentation {
            changes.check(input.len())?;
        }
        let memory = match method.memory {
            Some(policy) => {
                let least = settings.batch_size.max(method.largest_draw());
                if settings.memory < least {
                    return Err(setting(
                        "the memory's capacity",
                        settings.memory,
                        format!("{least} or more, the larger of the batch and the replay batch"),
                    ));
                }
                Some(Memory::new(
                    policy,
                    settings.memory,
                    input.len(),
                    model.classes(),
                    method.stores_logits(),
                    settings.seed,
                )?)
            }
            None => None,
        };
        let is_steady = settings.fills_at_task_end || method.memory == Some(MemoryPolicy::Herding);
        if settings.replays_in_passes && !is_steady {
            let legal = "filled at task ends, where replay comes in passes";
            return Err(setting("the memory", "filled batch by batch", legal));
        }
        let needs_memory = method.largest_draw() > 0 || method.classifier != Classifier::Head;
        if needs_memory && memory.is_none() {
            return Err(setting(
                "the memory of the method",
                "none",
                "a memory policy",
            ));
        }
        if method.angles.is_some() && !model.is_cosine() {
            let legal = "a cosine head, whose angles its terms compare";
            return Err(setting("the head of the method", "another", legal));
        }
        let is_per_example = |importance: &Importance| {
            matches!(
                importance,
                Importance::Fisher { .. } | Importance::OutputSensitivity { .. }
            )
        };
        let active = |weight: f64| weight != 0.0;
        if has_norms
            && method
                .weights
                .iter()
                .any(|term| active(term.weight) && is_per_example(&term.importance))
        {
            return Err(ContinualError::NotAvailable {
                what: format!("method `{}` on a network with batch-norm", method.name),
                reason: "one image has no batch statistics; use a network without batch-norm"
                    .into(),
            });
        }
        let paths = method.weights.iter().map(|term| {
            let has_path = matches!(term.importance, Importance::PathIntegral { .. });
            (has_path && active(term.weight)).then(|| (parameters.zeros(), parameters.clone()))
        });
        Ok(Self {
            optimiser: Optimiser::new(
                &parameters,
                settings.rule,
                settings.weight_decay,
                TransformDecay::Zero,
            ),
            gradients: Gradients::zeros(&parameters),
            executor: Executor::default(),
            paths: paths.collect(),
            anchors: method.weights.iter().map(|_| None).collect(),
            memory,
            previous: None,
            recent: Examples::default(),
            seen: Vec::new(),
            old: 0,
            step: 0,
            task: 0,
            batches: 0,
            images: 0,
            train_macs: 0,
            forwarded: 0,
            evaluation_macs: 0,
            batches_per_epoch: 0,
            correction: None,
            fisher: None,
            centres: Centres::default(),
            space: space.clone(),
            model: Arc::new(model),
            elastic,
            has_norms,
            parameters,
            settings,
            method,
        })
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.method
    }

    /// The settings.
    pub fn settings(&self) -> &LearnerSettings {
        &self.settings
    }

    /// The weights.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// Encoder and head.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The graph that is executed: the network's, or its encoder's where the head is not its own.
    pub fn graph(&self) -> &Graph {
        self.model.graph()
    }

    /// The memory, if the method has one.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// Tasks ended and batches of the current task done: where a stream goes on.
    pub fn position(&self) -> (usize, usize) {
        (self.task, self.batches)
    }

    /// The space: of a supernet all its members.
    pub fn space(&self) -> &Space {
        &self.space
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// Images that ran forward and backward so far, once for each network of a step.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Multiply-accumulates of training so far, a backward pass as two forward passes: steps, the
    /// previous network's outputs, what the ends of tasks compute.
    pub fn train_macs(&self) -> u64 {
        self.train_macs
    }

    /// Multiply-accumulates of evaluations since the last call; they are no part of the state.
    pub fn take_evaluation_macs(&mut self) -> u64 {
        std::mem::take(&mut self.evaluation_macs)
    }

    /// Says how many batches an epoch of the coming task has: a decaying learning rate follows it.
    pub fn expect(&mut self, batches_per_epoch: usize) {
        self.batches_per_epoch = batches_per_epoch;
    }

    /// BiC's correction, of the task that ended last.
    pub fn correction(&self) -> Option<&Correction> {
        self.correction.as_ref()
    }

    /// Classes seen, in order of arrival.
    pub fn classes_seen(&self) -> &[u32] {
        &self.seen
    }

    fn classes(&self) -> usize {
        self.model.classes()
    }

    /// The classes that a softmax over all outputs ranges over.
    fn classes_of_head(&self) -> Vec<u32> {
        match self.settings.head.only_seen {
            true => self.seen.clone(),
            false => (0..self.classes() as u32).collect(),
        }
    }

    fn check(&self, examples: &Examples) -> Result<()> {
        let classes = self.classes();
        if examples.is_empty() {
            return Err(setting("the number of images in a batch", 0, "1 or more"));
        }
        let needed = examples.len() * self.model.input_shape().len();
        if examples.images.len() != needed {
            return Err(setting(
                "the bytes of a batch",
                examples.images.len(),
                format!(
                    "{needed}: {} images of {}",
                    examples.len(),
                    self.model.input_shape()
                ),
            ));
        }
        match examples
            .labels
            .iter()
            .find(|label| **label as usize >= classes)
        {
            Some(&label) => Err(ContinualError::UnknownClass { label, classes }),
            None => Ok(()),
        }
    }

    /// Learns one batch: one optimiser step, then the memory takes the batch.
    ///
    /// # Errors
    /// If the batch does not fit, or loss or gradients are not finite: nothing has changed then.
    pub fn step(&mut self, examples: &Examples) -> Result<StepReport> {
        self.check(examples)?;
        let before = (self.seen.len(), self.images, self.train_macs);
        for &label in &examples.labels {
            if !self.seen.contains(&label) {
                self.seen.push(label);
            }
        }
        match self.learn(examples) {
            Ok(report) => Ok(report),
            Err(error) => {
                self.seen.truncate(before.0);
                (self.images, self.train_macs) = (before.1, before.2);
                Err(error)
            }
        }
    }

    fn learn(&mut self, examples: &Examples) -> Result<StepReport> {
        let (pixels, segments) = self.segments(examples);
        let lesson = Lesson {
            inputs: self.inputs(pixels, "augmentation"),
            segments,
            networks: self.step_networks()?,
        };
        let Some(before) = self.unlearn(&lesson)? else {
            return self.relearn(examples, &lesson, Cost::default());
        };
        let learnt = self.relearn(examples, &lesson, before.cost);
        if learnt.is_err() {
            self.parameters = before.parameters;
        }
        learnt
    }

    /// The gradients of the output-space terms, on every network of the step.
    fn output_gradients(&mut self, lesson: &Lesson) -> Result<Found> {
        let values = self.model.input_shape().len();
        let mut found = Found::default();
        self.gradients.clear();
        if self.method.cross_entropy == 0.0 && self.method.outputs.is_empty() {
            return Ok(found);
        }
        let segments = &lesson.segments;
        // Without batch-norm rows do not see each other: one pass for all segments.
        let groups: Vec<&[Segment]> = match self.has_norms {
            true => segments.chunks(1).collect(),
            false => vec![segments],
        };
        let total = segments.last().map_or(0, |segment| segment.rows.end);
        for group in groups {
            let rows = group[0].rows.start..group[group.len() - 1].rows.end;
            let images = Batch {
                data: &lesson.inputs[rows.start * values..rows.end * values],
                count: rows.len(),
            };
            let previous = self.previous_outputs(images)?;
            let mut largest = None;
            for network in &lesson.networks {
                let logits = self.network_gradients(
                    network,
                    group,
                    (images, total),
                    previous.as_ref(),
                    largest.as_deref(),
                    &mut found,
                )?;
                largest.get_or_insert(logits);
                found.cost.add(network, rows.len());
            }
        }
        if let Some(elastic) = &mut self.elastic {
            elastic.aggregate(&lesson.networks, &mut self.gradients);
        }
        Ok(found)
    }

    /// Adds the gradients of one network on neighbouring segments of a step's `total` images;
    /// returns its logits. Without `largest` it is the step's largest.
    fn network_gradients(
        &mut self,
        network: &StepNetwork,
        group: &[Segment],
        (images, total): (Batch, usize),
        previous: Option<&Previous>,
        largest: Option<&[f32]>,
        found: &mut Found,
    ) -> Result<Vec<f32>> {
        let classes = self.classes();
        let first = group[0].rows.start;
        let mode = Mode::Train { dropout: None };
        let model = &network.model;
        let output = model.forward(&mut self.executor, &self.parameters, images, mode)?;
        let mut outputs = OutputGradients {
            logits: vec![0.0; images.count * classes],
            ..OutputGradients::default()
        };
        for segment in group {
            // One mean over all images, or one over each segment's.
            let share = match self.method.joint_mean {
                true => segment.rows.len() as f64 / total as f64,
                false => 1.0,
            };
            let range =
                (segment.rows.start - first) * classes..(segment.rows.end - first) * classes;
            let logits = &output.logits()[range.clone()];
            let soft = SoftLabels {
                previous: previous.map(|all| &all.logits[range.clone()]),
                largest: largest
                    .filter(|_| network.learns_largest)
                    .map(|all| &all[range.clone()]),
            };
            let gradient = &mut outputs.logits[range.clone()];
            let mut loss = self.objective(segment, share, logits, soft, gradient);
            if self.method.angles.is_some() {
                let at = segment.rows.start - first;
                loss += self.angle_terms(segment, at, share, &output, previous, &mut outputs);
            }
            if largest.is_none() && segment.draw.is_none() {
                found.loss = loss;
                found.logits.extend_from_slice(logits);
            }
        }
        if let Some(at) = outputs.logits.iter().position(|value| !value.is_finite()) {
            return Err(ContinualError::NotFinite {
                what: "the loss",
                step: self.step,
                detail: format!("image {} of the step", first + at / classes),
            });
        }
        let logits = output.logits().to_vec();
        model.backward(
            &mut self.executor,
            &self.parameters,
            output,
            &outputs,
            &mut self.gradients,
        )?;
        Ok(logits)
    }

    /// One step of the host method.
    fn relearn(
        &mut self,
        examples: &Examples,
        lesson: &Lesson,
        unlearnt: Cost,
    ) -> Result<StepReport> {
        let rate = self.rate()?;
        let Found {
            mut loss,
            logits: mut first_logits,
            mut cost,
        } = self.output_gradients(lesson)?;
        if let Some(contrastive) = self.method.contrastive.clone() {
            loss = self.contrast(&contrastive, examples, &mut cost)?;
        }
        let mut centres = None;
        if let Some(onpro) = self.method.prototypes.clone() {
            let networks = &lesson.networks;
            let found = self.prototype_step(&onpro, examples, networks, &mut cost)?;
            (loss, first_logits, centres) = (found.loss, found.logits, found.centres);
        }
        let images = cost.images;
        let projected = self.project(&lesson.networks, &mut cost)?;
        let has_paths = self.paths.iter().any(Option::is_some);
        let before = has_paths.then(|| (self.gradients.clone(), self.parameters.clone()));
        self.add_penalties();
        if let Some(position) = self.gradients.first_not_finite() {
            return Err(ContinualError::NotFinite {
                what: "the gradient",
                step: self.step,
                detail: format!("parameter `{}`", self.parameters.at(position).name),
            });
        }
        let cpu = self.executor.cpu();
        self.optimiser
            .step(cpu, &mut self.parameters, &mut self.gradients, rate);
        if let Some((gradients, before)) = before {
            for (omega, _) in self.paths.iter_mut().flatten() {
                for (position, tensor) in omega.iter_mut().enumerate() {
                    let moved = before
                        .at(position)
                        .data
                        .iter()
                        .zip(&self.parameters.at(position).data);
                    let parts = tensor
                        .data
                        .iter_mut()
                        .zip(gradients.at(position))
                        .zip(moved);
                    parts.for_each(|((sum, gradient), (old, new))| *sum += gradient * (old - new));
                }
            }
        }
        if let Some(centres) = centres {
            self.centres = centres;
        }
        let correct = self.correct_of(&first_logits, &examples.labels);
        if self.method.stores_logits() {
            self.mark_unseen(&mut first_logits);
        }
        if let (Some(memory), false) = (&mut self.memory, self.settings.fills_at_task_end) {
            memory.offer(examples, self.task, &first_logits);
        }
        if self.has_norms {
            self.keep_recent(examples);
        }
        self.step += 1;
        self.batches += 1;
        self.images += (cost.images + unlearnt.images) as u64;
        self.train_macs += cost.train_macs + unlearnt.train_macs;
        Ok(StepReport {
            step: self.step,
            loss,
            correct,
            new_images: examples.len(),
            images,
            projected,
        })
    }

    /// Images whose label has the largest logit among all outputs.
    fn correct_of(&self, logits: &[f32], labels: &[u32]) -> usize {
        let classes = self.classes();
        let rows = logits.chunks_exact(classes).zip(labels);
        rows.filter(|(logits, label)| largest(logits, 0..classes as u32) == Some(**label))
            .count()
    }

    /// A class that has not come yet has no logit where [`HeadSettings::only_seen`] holds.
    fn mark_unseen(&self, logits: &mut [f32]) {
        if self.settings.head.only_seen {
            let classes = self.classes();
            let unseen = |at: usize| !self.seen.contains(&((at % classes) as u32));
            let logits = logits.iter_mut().enumerate();
            logits
                .filter(|(at, _)| unseen(*at))
                .for_each(|(_, logit)| *logit = f32::NAN);
        }
    }

    /// The learning rate of this step.
    fn rate(&self) -> Result<f32> {
        if self.settings.decay == Decay::Constant {
            return Ok(self.settings.learning_rate);
        }
        if self.batches_per_epoch == 0 {
            let legal = "told by `Learner::expect` before a decaying rate's task";
            return Err(setting("the batches of an epoch", 0, legal));
        }
        let schedule = LearningRate {
            base: f64::from(self.settings.learning_rate),
            floor: 0.0,
            warm_up_epochs: 0.0,
            warm_up_factor: 1.0,
            epochs: self.settings.epochs as f64,
            decay: self.settings.decay.clone(),
        };
        Ok(schedule.at(self.batches as f64 / self.batches_per_epoch as f64) as f32)
    }

    /// Places of the memory that BiC keeps out of this task's draws.
    fn held_out(&self) -> Vec<usize> {
        match (&self.memory, &self.method.correction) {
            (Some(memory), Some(correction)) => {
                let count = correction.images_of_class(memory.capacity(), self.old);
                memory.some_of_each_class(count, self.task)
            }
            _ => Vec::new(),
        }
    }

    /// Places of the memory that draw number `draw` of the coming step takes.
    pub fn drawn_places(&self, count: usize, draw: u64) -> Vec<usize> {
        let Some(memory) = &self.memory else {
            return Vec::new();
        };
        let held_out = self.held_out();
        match self.settings.replays_in_passes {
            true => memory.part_of_pass(&held_out, count, (self.task, self.batches), draw),
            false => memory.draw_without(&held_out, count, self.step, draw),
        }
    }

    /// Pixels as the network sees them in a training step.
    fn inputs(&self, pixels: Vec<u8>, purpose: &'static str) -> Vec<f32> {
        let normalisation = &self.settings.normalisation;
        let Some(changes) = &self.settings.augmentation else {
            return normalised(&pixels, normalisation);
        };
        let means = normalisation.mean.iter();
        let fill: Vec<u8> = means.map(|mean| (mean * 255.0).round() as u8).collect();
        let address = (self.settings.seed, purpose, self.step);
        let augmentation = changes.augmentation;
        let changed = augmentation.images(&pixels, changes.shape, &fill, address);
        normalised(&changed, normalisation)
    }

    /// The new batch and each draw that a term of the step needs, one after the other.
    fn segments(&self, examples: &Examples) -> (Vec<u8>, Vec<Segment>) {
        let mut pixels = examples.images.clone();
        let mut segments = vec![Segment {
            draw: None,
            places: Vec::new(),
            labels: examples.labels.clone(),
            rows: 0..examples.len(),
        }];
        let Some(memory) = self.memory.as_ref().filter(|memory| !memory.is_empty()) else {
            return (pixels, segments);
        };
        for term in self.method.outputs.iter().filter(|term| term.weight != 0.0) {
            let Images::Memory { draw, count } = term.images else {
                continue;
            };
            if segments.iter().any(|segment| segment.draw == Some(draw)) {
                continue;
            }
            let places = self.drawn_places(count, draw);
            let drawn = memory.examples(&places);
            let start = segments[segments.len() - 1].rows.end;
            segments.push(Segment {
                draw: Some(draw),
                rows: start..start + drawn.len(),
                labels: drawn.labels,
                places,
            });
            pixels.extend_from_slice(&drawn.images);
        }
        (pixels, segments)
    }

    fn previous_outputs(&mut self, images: Batch) -> Result<Option<Previous>> {
        let Some(previous) = &self.previous else {
            return Ok(None);
        };
        self.train_macs += images.count as u64 * self.model.macs();
        let executor = &mut self.executor;
        let mode = Mode::BatchStatistics;
        let output = self.model.forward(executor, previous, images, mode)?;
        let mut found = Previous {
            logits: output.logits().to_vec(),
            unit_features: output.unit_features_and_cosines().0.to_vec(),
        };
        self.model.recycle(executor, output);
        if let Some(correction) = &self.correction {
            correction.apply(&mut found.logits, self.model.classes());
        }
        Ok(Some(found))
    }

    /// The output-space part of one segment; returns the cross-entropy of new images.
    fn objective(
        &self,
        segment: &Segment,
        share: f64,
        logits: &[f32],
        soft: SoftLabels,
        gradient: &mut [f32],
    ) -> f64 {
        let classes = self.classes();
        let all = self.classes_of_head();
        let (of_labels, of_previous) = match self.method.shares_by_classes {
            true => {
                let old = self.old as f64 / self.seen.len() as f64;
                (share * (1.0 - old), share * old)
            }
            false => (share, share),
        };
        let mut loss = 0.0;
        if segment.draw.is_none() && self.method.cross_entropy != 0.0 {
            let range = match self.method.batch_classes {
                BatchClasses::All => all.clone(),
                BatchClasses::Seen => self.seen.clone(),
                BatchClasses::OfBatch => {
                    let mut present = segment.labels.clone();
                    present.sort_unstable();
                    present.dedup();
                    present
                }
            };
            let weight = self.method.cross_entropy * of_labels;
            let labels = &segment.labels;
            loss = match soft.largest {
                None => cross_entropy(logits, labels, classes, &range, weight, gradient),
                Some(largest) => {
                    let kind = Divergence::KullbackLeibler { temperature: 1.0 };
                    output_divergence(kind, logits, largest, classes, &range, weight, gradient)
                }
            };
        }
        for term in self.method.outputs.iter().filter(|term| term.weight != 0.0) {
            let draw = match term.images {
                Images::Current => None,
                Images::Memory { draw, .. } => Some(draw),
            };
            if draw != segment.draw {
                continue;
            }
            let range = match term.classes {
                ClassRange::All => &all[..],
                ClassRange::Old => &self.seen[..self.old],
                ClassRange::New => &self.seen[self.old..],
            };
            let stored;
            let reference = match (term.reference, soft.largest) {
                (Reference::Labels, Some(largest)) => largest,
                (Reference::Labels, None) => {
                    let divergence = match term.divergence {
                        Divergence::BinaryKullbackLeibler => binary_cross_entropy,
                        _ => cross_entropy,
                    };
                    let labels = &segment.labels;
                    let weight = term.weight * of_labels;
                    let found = divergence(logits, labels, classes, range, weight, gradient);
                    if segment.draw.is_none() {
                        loss += term.weight * found;
                    }
                    continue;
                }
                (Reference::Uniform, _) => &[],
                (Reference::PreviousNetwork, _) => match soft.previous {
                    Some(previous) => previous,
                    None => continue,
                },
                (Reference::StoredLogits, _) => {
                    let memory = self.memory.as_ref();
                    stored = memory
                        .map_or_else(Vec::new, |memory| memory.stored_logits(&segment.places));
                    &stored[..]
                }
            };
            let weight = match term.reference {
                Reference::Labels => term.weight * of_labels,
                Reference::PreviousNetwork => term.weight * of_previous,
                _ => term.weight * share,
            };
            output_divergence(
                term.divergence,
                logits,
                reference,
                classes,
                range,
                weight,
                gradient,
            );
        }
        loss
    }

    /// LUCIR's part of one segment, whose rows of `output` begin at `first`; returns its loss.
    fn angle_terms(
        &self,
        segment: &Segment,
        first: usize,
        share: f64,
        output: &Output,
        previous: Option<&Previous>,
        outputs: &mut OutputGradients,
    ) -> f64 {
        let Some(angles) = &self.method.angles else {
            return 0.0;
        };
        let (unit, cosines) = output.unit_features_and_cosines();
        outputs.unit_features.resize(unit.len(), 0.0);
        outputs.cosines.resize(cosines.len(), 0.0);
        let (width, classes) = (self.model.feature_width(), self.classes());
        let rows = first..first + segment.rows.len();
        let (old, new) = self.seen.split_at(self.old);
        let lambda = angles.less_forget * angles.growth.factor(old.len(), new.len());
        let mut loss = 0.0;
        if let (Some(previous), true) = (previous, lambda != 0.0) {
            let range = rows.start * width..rows.end * width;
            let (now, fixed) = (&unit[range.clone()], &previous.unit_features[range.clone()]);
            let gradient = &mut outputs.unit_features[range];
            loss += lambda * less_forget(now, fixed, width, lambda * share, gradient);
        }
        if angles.ranking != 0.0 {
            let range = rows.start * classes..rows.end * classes;
            let gradient = &mut outputs.cosines[range.clone()];
            let weight = (angles, angles.ranking);
            let labels = &segment.labels;
            let cosines = &cosines[range];
            loss += angles.ranking
                * margin_ranking(cosines, labels, classes, (old, new), weight, gradient);
        }
        loss
    }

    /// A-GEM's projection of the gradients; whether it changed them.
    fn project(&mut self, networks: &[StepNetwork], cost: &mut Cost) -> Result<bool> {
        let (Some(count), Some(memory)) = (self.method.projection, &self.memory) else {
            return Ok(false);
        };
        if memory.is_empty() {
            return Ok(false);
        }
        let drawn = memory.examples(&memory.draw(count, self.step, 0));
        let inputs = self.inputs(drawn.images.clone(), "reference-augmentation");
        let mut reference = Gradients::zeros(&self.parameters);
        self.plain_gradients(networks, &inputs, &drawn.labels, &mut reference, cost)?;
        let (dot, norm) = (self.gradients.dot(&reference), reference.dot(&reference));
        let projects = dot < 0.0 && norm > 0.0;
        if projects {
            self.gradients.axpy((-dot / norm) as f32, &reference);
        }
        Ok(projects)
    }

    /// Adds the gradients of the mean cross-entropy over all classes.
    fn plain_gradients(
        &mut self,
        networks: &[StepNetwork],
        inputs: &[f32],
        labels: &[u32],
        into: &mut Gradients,
        cost: &mut Cost,
    ) -> Result<()> {
        let classes = self.classes();
        let all = self.classes_of_head();
        let images = Batch {
            data: inputs,
            count: labels.len(),
        };
        for network in networks {
            let mode = Mode::Train { dropout: None };
            let (executor, parameters) = (&mut self.executor, &self.parameters);
            let output = network.model.forward(executor, parameters, images, mode)?;
            let mut outputs = OutputGradients {
                logits: vec![0.0; labels.len() * classes],
                ..OutputGradients::default()
            };
            let gradient = &mut outputs.logits;
            cross_entropy(output.logits(), labels, classes, &all, 1.0, gradient);
            network
                .model
                .backward(executor, parameters, output, &outputs, into)?;
            cost.add(network, labels.len());
        }
        if let Some(elastic) = &mut self.elastic {
            elastic.aggregate(networks, into);
        }
        Ok(())
    }

    /// Adds `β F (θ − θ*)` of every weight term.
    fn add_penalties(&mut self) {
        for (term, anchor) in self.method.weights.iter().zip(&self.anchors) {
            let (Some(anchor), true) = (anchor, term.weight != 0.0) else {
                continue;
            };
            let beta = term.weight as f32;
            for position in 0..self.parameters.len() {
                let weights = self.parameters.at(position).data.iter();
                let anchors = &anchor.weights.at(position).data;
                let importance = &anchor.importance.at(position).data;
                let gradient = self.gradients.at_mut(position).iter_mut();
                let parts = gradient.zip(weights).zip(anchors).zip(importance);
                parts.for_each(|(((g, w), a), f)| *g += beta * f * (w - a));
            }
        }
    }

    fn keep_recent(&mut self, examples: &Examples) {
        self.recent.images.extend_from_slice(&examples.images);
        self.recent.labels.extend_from_slice(&examples.labels);
        let surplus = self.recent.len().saturating_sub(RECENT);
        self.recent.labels.drain(..surplus);
        self.recent
            .images
            .drain(..surplus * self.model.input_shape().len());
    }
}

/// Fresh weights of a space.
fn initial(space: &Space, settings: &LearnerSettings) -> Result<Parameters> {
    let mut parameters = Supernet::initialise(space, settings.seed)?.parameters;
    if settings.initialisation == Initialisation::Pytorch {
        draw_as_pytorch(&mut parameters, settings.seed);
    }
    Ok(parameters)
}

fn draw_as_pytorch(parameters: &mut Parameters, seed: u64) {
    let mut inputs = 1;
    for (position, tensor) in parameters.iter_mut().enumerate() {
        inputs = match tensor.kind {
            ParameterKind::ConvolutionWeight | ParameterKind::LinearWeight => {
                tensor.shape[1..].iter().product()
            }
            ParameterKind::DepthwiseWeight => tensor.shape[..2].iter().product(),
            // A bias follows its weight.
            ParameterKind::Bias => inputs,
            _ => continue,
        };
        let reach = 1.0 / (inputs as f32).sqrt();
        let mut draws = Draws::new(seed, "pytorch-initialisation", position as u64, 0);
        let values = tensor.data.iter_mut();
        values.for_each(|value| *value = draws.uniform_f32(-reach, reach));
    }
}

/// The class in `range` with the largest score, the first of equals.
fn largest(scores: &[f32], range: impl Iterator<Item = u32>) -> Option<u32> {
    range.reduce(|best, class| {
        if scores[class as usize] > scores[best as usize] {
            class
        } else {
            best
        }
    })
}
