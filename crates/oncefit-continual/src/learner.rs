//! A network that learns a stream: network, optimiser, memory and method state as one value.

mod build;
mod contrastive_step;
mod elastic;
mod evaluation;
mod initialisation;
mod lesson;
mod objective;
mod projection;
mod prototype_step;
mod settings;
mod step;
mod task_end;
mod unlearning;
mod weight_terms;

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

use self::elastic::{Elastic, SharedLayer, StepNetwork};
pub use self::elastic::{ElasticSettings, WatchedSubnet};
pub use self::initialisation::Initialisation;
use self::initialisation::initial;
use self::lesson::{Lesson, Segment};
use self::objective::Found;
use self::prototype_step::{PROJECTION, needs_views};
pub use self::settings::{CalibrationImages, Classifier, ImageChanges, LearnerSettings};
use self::step::Cost;
pub use self::step::StepReport;
pub(crate) use self::weight_terms::Anchor;
use crate::angles::{less_forget, margin_ranking};
use crate::contrastive::{add_projection, projection_layers};
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
