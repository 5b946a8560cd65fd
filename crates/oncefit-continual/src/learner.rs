//! A network that learns a stream: network, optimiser, memory and method state as one value.

use oncefit_data::Normalisation;
use oncefit_nn::{
    Calibration, Executor, Gradients, Images as Batch, Mode, Optimiser, Parameters, Plan, Supernet,
    TransformDecay, UpdateRule,
};
use oncefit_random::Draws;
use oncefit_space::{Graph, Op, Space};
use serde::{Deserialize, Serialize};

use crate::divergence::{cross_entropy, output_divergence};
use crate::error::{ContinualError, Result, setting};
use crate::importance::{fisher, output_sensitivity};
use crate::memory::{Memory, MemoryPolicy, herding_order};
use crate::method::{BatchClasses, ClassRange, Images, Importance, Method, Reference};
use crate::networks::single_member;
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

/// What a learner is made of, beside network and method.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LearnerSettings {
    /// Learning rate.
    pub learning_rate: f32,
    /// Momentum; the presets of the field use 0.
    pub momentum: f32,
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
}

/// What a step did.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Mean cross-entropy of the new images.
    pub loss: f64,
    /// New images whose label had the largest logit before the step (prequential accuracy).
    pub correct: usize,
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
    graph: Graph,
    plan: Plan,
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
        let subnet = single_member(space)?;
        let graph = subnet.graph().clone();
        let parameters = Supernet::initialise(space, settings.seed)?.parameters;
        let plan = Plan::new(&graph, &parameters)?;
        let has_norms = graph
            .nodes
            .iter()
            .any(|node| matches!(node.op, Op::BatchNorm { .. }));
        let input = plan.input_shape();
        settings
            .normalisation
            .check(settings.normalisation.mean.len())?;
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
                    plan.output_shape().channels,
                    method.stores_logits(),
                    settings.seed,
                )?)
            }
            None => None,
        };
        let needs_memory = method.largest_draw() > 0 || method.classifier != Classifier::Head;
        if needs_memory && memory.is_none() {
            return Err(setting(
                "the memory of the method",
                "none",
                "a memory policy",
            ));
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
            (has_path && active(term.weight)).then(|| (zeros(&parameters), parameters.clone()))
        });
        Ok(Self {
            optimiser: Optimiser::new(
                &parameters,
                UpdateRule::Sgd {
                    momentum: settings.momentum,
                    nesterov: false,
                },
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
            space: space.clone(),
            graph,
            plan,
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

    /// The network's graph.
    pub fn graph(&self) -> &Graph {
        &self.graph
    }

    /// The memory, if the method has one.
    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_ref()
    }

    /// Tasks ended and batches of the current task done: where a stream goes on.
    pub fn position(&self) -> (usize, usize) {
        (self.task, self.batches)
    }

    /// Images that ran forward and backward so far.
    pub fn images(&self) -> u64 {
        self.images
    }

    /// Classes seen, in order of arrival.
    pub fn classes_seen(&self) -> &[u32] {
        &self.seen
    }

    fn classes(&self) -> usize {
        self.plan.output_shape().channels
    }

    fn check(&self, examples: &Examples) -> Result<()> {
        let classes = self.classes();
        if examples.is_empty() {
            return Err(setting("the number of images in a batch", 0, "1 or more"));
        }
        let needed = examples.len() * self.plan.input_shape().len();
        if examples.images.len() != needed {
            return Err(setting(
                "the bytes of a batch",
                examples.images.len(),
                format!(
                    "{needed}: {} images of {}",
                    examples.len(),
                    self.plan.input_shape()
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
        let seen_before = self.seen.len();
        for &label in &examples.labels {
            if !self.seen.contains(&label) {
                self.seen.push(label);
            }
        }
        match self.learn(examples) {
            Ok(report) => Ok(report),
            Err(error) => {
                self.seen.truncate(seen_before);
                Err(error)
            }
        }
    }

    fn learn(&mut self, examples: &Examples) -> Result<StepReport> {
        let classes = self.classes();
        let (mut pixels, segments) = self.segments(examples);
        let total = segments.last().map_or(0, |segment| segment.rows.end);
        let values = self.plan.input_shape().len();
        let inputs = normalised(&std::mem::take(&mut pixels), &self.settings.normalisation);
        let learns = self.method.cross_entropy != 0.0 || !self.method.outputs.is_empty();
        self.gradients.clear();
        let mut loss = 0.0;
        let mut first_logits = Vec::new();
        if learns {
            // Without batch-norm rows do not see each other: one pass for all segments.
            let groups: Vec<&[Segment]> = match self.has_norms {
                true => segments.chunks(1).collect(),
                false => vec![&segments],
            };
            for group in groups {
                let rows = group[0].rows.start..group[group.len() - 1].rows.end;
                let images = Batch {
                    data: &inputs[rows.start * values..rows.end * values],
                    count: rows.len(),
                };
                let previous = self.previous_logits(images)?;
                let mode = Mode::Train { dropout: None };
                let tape = self
                    .executor
                    .forward(&self.plan, &self.parameters, images, mode)?;
                let mut gradient = vec![0.0; rows.len() * classes];
                for segment in group {
                    let range = (segment.rows.start - rows.start) * classes
                        ..(segment.rows.end - rows.start) * classes;
                    let logits = &tape.output()[range.clone()];
                    let old = previous.as_ref().map(|all| &all[range.clone()]);
                    let found = self.objective(segment, logits, old, &mut gradient[range.clone()]);
                    if segment.draw.is_none() {
                        loss = found;
                        first_logits.extend_from_slice(logits);
                    }
                }
                if let Some(at) = gradient.iter().position(|value| !value.is_finite()) {
                    return Err(ContinualError::NotFinite {
                        what: "the loss",
                        step: self.step,
                        detail: format!("image {} of the step", rows.start + at / classes),
                    });
                }
                self.executor.backward(
                    &self.plan,
                    &self.parameters,
                    tape,
                    &gradient,
                    &mut self.gradients,
                )?;
            }
        }
        let projected = self.project()?;
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
        let (cpu, rate) = (self.executor.cpu(), self.settings.learning_rate);
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
        if let Some(memory) = &mut self.memory {
            memory.offer(examples, self.task, &first_logits);
        }
        if self.has_norms {
            self.keep_recent(examples);
        }
        self.step += 1;
        self.batches += 1;
        let images = if learns { total } else { 0 };
        self.images += images as u64;
        let rows = first_logits.chunks_exact(classes).zip(&examples.labels);
        let correct = rows
            .filter(|(logits, label)| largest(logits, 0..classes as u32) == Some(**label))
            .count();
        Ok(StepReport {
            step: self.step,
            loss,
            correct,
            images,
            projected,
        })
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
            let places = memory.draw(count, self.step, draw);
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

    fn previous_logits(&mut self, images: Batch) -> Result<Option<Vec<f32>>> {
        let is_needed = self
            .method
            .outputs
            .iter()
            .any(|term| term.weight != 0.0 && term.reference == Reference::PreviousNetwork);
        let Some(previous) = self.previous.as_ref().filter(|_| is_needed) else {
            return Ok(None);
        };
        let tape = self
            .executor
            .forward(&self.plan, previous, images, Mode::BatchStatistics)?;
        let logits = tape.output().to_vec();
        self.executor.recycle(tape);
        Ok(Some(logits))
    }

    /// The output-space part of one segment; returns the cross-entropy of new images.
    fn objective(
        &self,
        segment: &Segment,
        logits: &[f32],
        previous: Option<&[f32]>,
        gradient: &mut [f32],
    ) -> f64 {
        let classes = self.classes();
        let all: Vec<u32> = (0..classes as u32).collect();
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
            let weight = self.method.cross_entropy;
            loss = cross_entropy(logits, &segment.labels, classes, &range, weight, gradient);
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
            };
            let stored;
            let reference = match term.reference {
                Reference::Labels => {
                    cross_entropy(
                        logits,
                        &segment.labels,
                        classes,
                        range,
                        term.weight,
                        gradient,
                    );
                    continue;
                }
                Reference::Uniform => &[],
                Reference::PreviousNetwork => match previous {
                    Some(previous) => previous,
                    None => continue,
                },
                Reference::StoredLogits => {
                    let memory = self.memory.as_ref();
                    stored = memory
                        .map_or_else(Vec::new, |memory| memory.stored_logits(&segment.places));
                    &stored[..]
                }
            };
            let weight = term.weight;
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

    /// A-GEM's projection of the gradients; whether it changed them.
    fn project(&mut self) -> Result<bool> {
        let (Some(count), Some(memory)) = (self.method.projection, &self.memory) else {
            return Ok(false);
        };
        if memory.is_empty() {
            return Ok(false);
        }
        let drawn = memory.examples(&memory.draw(count, self.step, 0));
        let inputs = normalised(&drawn.images, &self.settings.normalisation);
        let mut reference = Gradients::zeros(&self.parameters);
        self.plain_gradients(&inputs, &drawn.labels, &mut reference)?;
        self.images += drawn.len() as u64;
        let (dot, norm) = (self.gradients.dot(&reference), reference.dot(&reference));
        let projects = dot < 0.0 && norm > 0.0;
        if projects {
            self.gradients.axpy((-dot / norm) as f32, &reference);
        }
        Ok(projects)
    }

    /// Gradients of the mean cross-entropy over all classes.
    fn plain_gradients(
        &mut self,
        inputs: &[f32],
        labels: &[u32],
        into: &mut Gradients,
    ) -> Result<()> {
        let classes = self.classes();
        let all: Vec<u32> = (0..classes as u32).collect();
        let images = Batch {
            data: inputs,
            count: labels.len(),
        };
        let mode = Mode::Train { dropout: None };
        let tape = self
            .executor
            .forward(&self.plan, &self.parameters, images, mode)?;
        let mut gradient = vec![0.0; labels.len() * classes];
        cross_entropy(tape.output(), labels, classes, &all, 1.0, &mut gradient);
        self.executor
            .backward(&self.plan, &self.parameters, tape, &gradient, into)?;
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
            .drain(..surplus * self.plan.input_shape().len());
    }

    /// Ends a task: what the method keeps of it is computed from `examples`, its training images.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn end_task(&mut self, examples: &Examples) -> Result<()> {
        self.check(examples)?;
        for index in 0..self.method.weights.len() {
            let term = self.method.weights[index].clone();
            if term.weight != 0.0 {
                let found = self.importance(index, &term.importance, examples)?;
                self.anchors[index] = Some(self.anchored(index, &term.importance, found));
            }
        }
        if self
            .memory
            .as_ref()
            .is_some_and(|memory| memory.policy() == MemoryPolicy::Herding)
        {
            self.herd(examples)?;
        }
        if self
            .method
            .outputs
            .iter()
            .any(|term| term.weight != 0.0 && term.reference == Reference::PreviousNetwork)
        {
            self.previous = Some(self.parameters.clone());
        }
        for (omega, start) in self.paths.iter_mut().flatten() {
            omega.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
            *start = self.parameters.clone();
        }
        self.old = self.seen.len();
        self.task += 1;
        self.batches = 0;
        Ok(())
    }

    fn importance(
        &mut self,
        index: usize,
        importance: &Importance,
        examples: &Examples,
    ) -> Result<Parameters> {
        let chosen = |limit: usize| {
            let mut order: Vec<usize> = (0..examples.len()).collect();
            Draws::new(self.settings.seed, "importance", self.task as u64, 0).shuffle(&mut order);
            order.truncate(limit.max(1));
            let bytes = self.plan.input_shape().len();
            let images = order
                .iter()
                .flat_map(|&at| &examples.images[at * bytes..(at + 1) * bytes]);
            let images: Vec<u8> = images.copied().collect();
            let labels: Vec<u32> = order.iter().map(|&at| examples.labels[at]).collect();
            (normalised(&images, &self.settings.normalisation), labels)
        };
        match importance {
            Importance::Identity => {
                let mut ones = self.parameters.clone();
                ones.iter_mut().for_each(|tensor| tensor.data.fill(1.0));
                Ok(ones)
            }
            Importance::Fisher {
                estimator,
                examples,
                ..
            } => {
                let (images, labels) = chosen(*examples);
                let executor = &mut self.executor;
                fisher(
                    executor,
                    &self.plan,
                    &self.parameters,
                    &images,
                    &labels,
                    *estimator,
                )
            }
            Importance::OutputSensitivity { examples } => {
                let (images, labels) = chosen(*examples);
                let executor = &mut self.executor;
                output_sensitivity(
                    executor,
                    &self.plan,
                    &self.parameters,
                    &images,
                    labels.len(),
                )
            }
            Importance::PathIntegral { damping } => {
                let mut found = zeros(&self.parameters);
                if let Some((omega, start)) = &self.paths[index] {
                    for (position, tensor) in found.iter_mut().enumerate() {
                        let now = &self.parameters.at(position).data;
                        let ways = now.iter().zip(&start.at(position).data);
                        let parts = tensor
                            .data
                            .iter_mut()
                            .zip(&omega.at(position).data)
                            .zip(ways);
                        for ((value, omega), (now, start)) in parts {
                            let moved = f64::from(now - start);
                            *value = (f64::from(*omega) / (moved * moved + damping)) as f32;
                        }
                    }
                }
                Ok(found)
            }
        }
    }

    /// The quadratic form after a task whose importance is `found`.
    fn anchored(&self, index: usize, importance: &Importance, mut found: Parameters) -> Anchor {
        let mut weights = self.parameters.clone();
        let Some(before) = &self.anchors[index] else {
            return Anchor {
                importance: found,
                weights,
            };
        };
        let (decay, keeps_anchors) = match importance {
            Importance::Identity => (0.0, false),
            Importance::Fisher { decay: None, .. } => (1.0, true),
            Importance::Fisher {
                decay: Some(decay), ..
            } => (*decay as f32, false),
            Importance::PathIntegral { .. } | Importance::OutputSensitivity { .. } => (1.0, false),
        };
        for (position, tensor) in found.iter_mut().enumerate() {
            let old = before.importance.at(position).data.iter();
            let anchors = before.weights.at(position).data.iter();
            let now = weights.at_mut(position).data.iter_mut();
            for (((new, old), anchor), now) in tensor.data.iter_mut().zip(old).zip(anchors).zip(now)
            {
                let sum = decay * old + *new;
                if keeps_anchors {
                    // ΣF_t(θ−θ_t)² = (ΣF_t)(θ−θ̄)² + constant, θ̄ the mean weighted by F.
                    let share = if sum > 0.0 { *new / sum } else { 0.0 };
                    *now = anchor + share * (*now - anchor);
                }
                *new = sum;
            }
        }
        Anchor {
            importance: found,
            weights,
        }
    }

    fn herd(&mut self, examples: &Examples) -> Result<()> {
        let bytes = self.plan.input_shape().len();
        let mut present = examples.labels.clone();
        present.sort_unstable();
        present.dedup();
        for class in present {
            let of_class: Vec<usize> = (0..examples.len())
                .filter(|&at| examples.labels[at] == class)
                .collect();
            let take = |order: &[usize]| Examples {
                images: order
                    .iter()
                    .flat_map(|&at| &examples.images[at * bytes..(at + 1) * bytes])
                    .copied()
                    .collect(),
                labels: vec![class; order.len()],
            };
            let images = take(&of_class).images;
            let (features, width) = self.unit_features(&images)?;
            let order = herding_order(&features, width, self.settings.memory);
            let order: Vec<usize> = order.into_iter().map(|at| of_class[at]).collect();
            let task = self.task;
            if let Some(memory) = &mut self.memory {
                memory.herd(&take(&order), task);
            }
        }
        Ok(())
    }

    fn calibration(&mut self, graph: &Graph) -> Result<(Plan, Calibration)> {
        let plan = Plan::new(graph, &self.parameters)?;
        if !self.has_norms {
            return Ok((plan, Calibration::None));
        }
        let mut images = self.recent.images.clone();
        if let Some(memory) = &self.memory {
            images.extend_from_slice(&memory.images);
        }
        let inputs = normalised(&images, &self.settings.normalisation);
        let values = plan.input_shape().len();
        let batches = inputs.chunks(128 * values).map(|data| Batch {
            data,
            count: data.len() / values,
        });
        let found = self.executor.calibrate(&plan, &self.parameters, batches)?;
        Ok((plan, found))
    }

    fn outputs(
        &mut self,
        plan: &Plan,
        calibration: &Calibration,
        images: &[u8],
    ) -> Result<Vec<f32>> {
        let values = plan.input_shape().len();
        let mut outputs = Vec::new();
        for bytes in images.chunks(500 * values) {
            let data = normalised(bytes, &self.settings.normalisation);
            let batch = Batch {
                data: &data,
                count: data.len() / values,
            };
            let mode = Mode::Evaluate(calibration);
            let tape = self.executor.forward(plan, &self.parameters, batch, mode)?;
            outputs.extend_from_slice(tape.output());
            self.executor.recycle(tape);
        }
        Ok(outputs)
    }

    /// Features before the head, scaled to unit length, and their width.
    fn unit_features(&mut self, images: &[u8]) -> Result<(Vec<f32>, usize)> {
        let mut graph = self.graph.clone();
        graph.nodes.pop();
        let (plan, calibration) = self.calibration(&graph)?;
        let width = plan.output_shape().len();
        let mut features = self.outputs(&plan, &calibration, images)?;
        features.chunks_exact_mut(width).for_each(to_unit_length);
        Ok((features, width))
    }

    /// Scores of images, N × classes; the largest is the prediction.
    fn scores(&mut self, images: &[u8], fresh: Option<&mut Self>) -> Result<Vec<f32>> {
        match (self.method.classifier, fresh) {
            (Classifier::FreshFromMemory { .. }, Some(fresh)) => fresh.head_scores(images),
            (Classifier::NearestMean, _) if self.memory.as_ref().is_some_and(|m| !m.is_empty()) => {
                self.nearest_mean_scores(images)
            }
            _ => self.head_scores(images),
        }
    }

    fn head_scores(&mut self, images: &[u8]) -> Result<Vec<f32>> {
        if self.has_norms && self.recent.is_empty() {
            let values = self.plan.input_shape().len();
            self.recent.images = images[..images.len().min(RECENT * values)].to_vec();
            let found = self.calibration(&self.graph.clone());
            self.recent.images.clear();
            let (plan, calibration) = found?;
            return self.outputs(&plan, &calibration, images);
        }
        let (plan, calibration) = self.calibration(&self.graph.clone())?;
        self.outputs(&plan, &calibration, images)
    }

    fn nearest_mean_scores(&mut self, images: &[u8]) -> Result<Vec<f32>> {
        let classes = self.classes();
        let Some((stored, labels)) = self
            .memory
            .as_ref()
            .map(|memory| (memory.images.clone(), memory.labels.clone()))
        else {
            return self.head_scores(images);
        };
        let (features, width) = self.unit_features(&stored)?;
        let mut means = vec![0.0f32; classes * width];
        let mut is_there = vec![false; classes];
        for (row, &label) in features.chunks_exact(width).zip(&labels) {
            is_there[label as usize] = true;
            let mean = means[label as usize * width..][..width].iter_mut();
            mean.zip(row).for_each(|(sum, value)| *sum += value);
        }
        means.chunks_exact_mut(width).for_each(to_unit_length);
        let (features, _) = self.unit_features(images)?;
        let mut scores = Vec::with_capacity(features.len() / width * classes);
        for row in features.chunks_exact(width) {
            for (class, mean) in means.chunks_exact(width).enumerate() {
                let distance: f32 = row.iter().zip(mean).map(|(a, b)| (a - b) * (a - b)).sum();
                scores.push(if is_there[class] {
                    -distance
                } else {
                    f32::NEG_INFINITY
                });
            }
        }
        Ok(scores)
    }

    /// GDumb's network: fresh weights, trained on the memory alone.
    fn fresh_from_memory(&self, epochs: usize) -> Result<Option<Self>> {
        let Some(memory) = self.memory.as_ref().filter(|memory| !memory.is_empty()) else {
            return Ok(None);
        };
        let mut fresh = Self::new(&self.space, Method::fine_tune(), self.settings.clone())?;
        for epoch in 0..epochs {
            let mut order: Vec<usize> = (0..memory.len()).collect();
            let index = epoch as u64;
            Draws::new(self.settings.seed, "memory-epoch", self.task as u64, index)
                .shuffle(&mut order);
            for places in order.chunks(self.settings.batch_size.max(1)) {
                fresh.step(&memory.examples(places))?;
            }
        }
        Ok(Some(fresh))
    }

    /// Accuracies on every task of `stream`, class- and task-incremental in one pass. Nothing that
    /// is learnt changes.
    ///
    /// # Errors
    /// If the images do not fit the network.
    pub fn evaluate(&mut self, stream: &Stream) -> Result<Vec<TaskAccuracy>> {
        let classes = self.classes();
        let mut fresh = match self.method.classifier {
            Classifier::FreshFromMemory { epochs } => self.fresh_from_memory(epochs)?,
            _ => None,
        };
        let seen: Vec<u32> = match self.seen.is_empty() {
            true => (0..classes as u32).collect(),
            false => self.seen.clone(),
        };
        let mut accuracies = Vec::new();
        for task in stream.tasks() {
            let examples = stream.test_examples(task.index, &task.test);
            self.check(&examples)?;
            let scores = self.scores(&examples.images, fresh.as_mut())?;
            let accuracy = |range: &[u32]| {
                let rows = scores.chunks_exact(classes).zip(&examples.labels);
                let correct = rows
                    .filter(|(row, label)| largest(row, range.iter().copied()) == Some(**label))
                    .count();
                correct as f64 / examples.len() as f64
            };
            accuracies.push(TaskAccuracy {
                class_incremental: accuracy(&seen),
                task_incremental: accuracy(&task.classes),
            });
        }
        Ok(accuracies)
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

fn to_unit_length(row: &mut [f32]) {
    let norm = row.iter().map(|value| value * value).sum::<f32>().sqrt();
    if norm > 0.0 {
        row.iter_mut().for_each(|value| *value /= norm);
    }
}

fn zeros(parameters: &Parameters) -> Parameters {
    let mut zeros = parameters.clone();
    zeros.iter_mut().for_each(|tensor| tensor.data.fill(0.0));
    zeros
}
