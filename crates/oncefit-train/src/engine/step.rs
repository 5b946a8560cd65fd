//! One step: the networks of a schedule on one batch, one update of the weights.
//!
//! Its cost in train-MACs is counted as three times the MACs of a network for each image it is
//! trained on, and once for a forward pass without gradient (a teacher's, a candidate's).

use std::sync::Arc;

use oncefit_data::Batch;
use oncefit_nn::{DropoutDraws, Images, Mode, Target, softmax, softmax_cross_entropy};
use oncefit_space::Subnet;

use super::{StepReport, Trainer};
use crate::error::{Result, TrainError};
use crate::sampler::Pick;
use crate::schedule::{Aggregation, Distance, Lesson, Networks, Phase, StepNetwork};

/// The first steps of a phase have no running mean of the loss worth the name.
const SETTLING_STEPS: u64 = 50;

/// The part of a batch that goes through the networks at once.
#[derive(Clone, Copy)]
struct Part<'b> {
    images: Images<'b>,
    labels: &'b [u32],
    /// Labels of what was mixed into the images; empty where nothing was.
    partner_labels: &'b [u32],
    /// Share of `labels` in the targets.
    label_share: f32,
    /// Its share of the batch.
    share: f64,
}

/// Soft labels for the networks of a step.
#[derive(Default)]
struct SoftLabels {
    /// Logits of the step's first network.
    largest: Vec<f32>,
    /// Logits of the teacher.
    teacher: Vec<f32>,
}

/// A loss and its gradient with respect to the logits.
struct Loss {
    value: f64,
    gradient: Vec<f32>,
}

impl Loss {
    fn add(&mut self, other: &Self) {
        self.value += other.value;
        let values = self.gradient.iter_mut().zip(&other.gradient);
        values.for_each(|(value, addend)| *value += addend);
    }
}

impl Trainer<'_> {
    pub(super) fn train_step(&mut self, batch: &Batch, saved_step: u64) -> Result<StepReport> {
        let steps_per_epoch = self.loader.steps_per_epoch();
        let place = self.schedule.place(self.step, steps_per_epoch);
        if place.is_first {
            self.begin_phase(place.phase)?;
        }
        let phase = Arc::clone(&self.schedule.phases[place.phase]);
        if phase.sorts_before(place, steps_per_epoch) {
            self.sort_channels(&phase)?;
        }
        let seed = self.run.recipe().seed;
        let mut networks = phase.step_networks(seed, self.step, place.epoch)?;
        for network in &mut networks {
            self.pick_candidate(&phase, network, batch)?;
        }
        self.gradients.clear();
        let mut losses = vec![0.0; networks.len()];
        let parts = self.run.recipe().training.accumulation;
        for part in parts_of(batch, parts) {
            let mut soft = SoftLabels::default();
            self.ask_teacher(&phase, &networks, part, &mut soft)?;
            for (index, network) in networks.iter().enumerate() {
                let loss = self.run_network(part, network, index, &mut soft)?;
                losses[index] += part.share * loss;
            }
        }
        // Of random networks some are new to the phase and bad; all are when training diverges.
        let watched = match phase.networks {
            Networks::Random(_) => losses.iter().copied().fold(f64::INFINITY, f64::min),
            _ => losses[0],
        };
        let steps_in_phase = (place.epoch * steps_per_epoch as f64).round() as u64;
        if place.is_first {
            self.mean_loss = watched;
        }
        for (loss, network) in losses.iter().zip(&networks) {
            let is_watched = *loss == watched && steps_in_phase > SETTLING_STEPS;
            if let Some(reason) = self.find_divergence(*loss, is_watched) {
                return Err(TrainError::Diverged {
                    step: self.step,
                    subnet: network.candidates[0].text(),
                    reason,
                    checkpoint_step: saved_step,
                });
            }
        }
        self.cover(&networks)?;
        self.aggregate();
        let rate = phase.learning_rate.at(place.epoch);
        self.update(rate);
        self.mean_loss = 0.95 * self.mean_loss + 0.05 * watched;
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            epoch: self.step as f64 / steps_per_epoch as f64,
            loss: losses[0],
            learning_rate: rate,
            networks: networks.len(),
            images: batch.images_count,
        })
    }

    /// Leaves a network with the candidate that is to be trained.
    fn pick_candidate(
        &mut self,
        phase: &Phase,
        network: &mut StepNetwork,
        batch: &Batch,
    ) -> Result<()> {
        if network.candidates.len() == 1 {
            return Ok(());
        }
        let mut best: Option<(f64, usize)> = None;
        for index in 0..network.candidates.len() {
            let mut loss = 0.0;
            for part in parts_of(batch, self.run.recipe().training.accumulation) {
                let logits = self.predict(&network.candidates[index], part)?;
                loss += part.share * self.label_loss(&logits, part, 0.0).value;
            }
            let is_better = best.is_none_or(|(found, _)| match phase.space.pick() {
                Pick::Best => loss < found,
                Pick::Worst => loss > found,
            });
            if is_better {
                best = Some((loss, index));
            }
        }
        let picked = best.map_or(0, |(_, index)| index);
        network.candidates = vec![network.candidates.swap_remove(picked)];
        Ok(())
    }

    /// The logits of a subnet with the present weights and the batch's statistics.
    fn predict(&mut self, subnet: &Subnet, part: Part) -> Result<Vec<f32>> {
        let plan = self.supernet.plan(subnet)?;
        let parameters = &self.supernet.parameters;
        let mode = Mode::BatchStatistics;
        let tape = self
            .executor
            .forward(&plan, parameters, part.images, mode)?;
        let logits = tape.output().to_vec();
        self.executor.recycle(tape);
        self.train_macs += subnet.graph().macs() * part.images.count as u64;
        Ok(logits)
    }

    /// The teacher's logits: the largest network with its weights of then and the batch's
    /// statistics (Once-for-All, reference code `progressive_shrinking.py`).
    fn ask_teacher(
        &mut self,
        phase: &Phase,
        networks: &[StepNetwork],
        part: Part,
        soft: &mut SoftLabels,
    ) -> Result<()> {
        let learns = |network: &StepNetwork| matches!(network.lesson, Lesson::Teacher { .. });
        let (true, Some(teacher)) = (networks.iter().any(learns), &self.teacher) else {
            return Ok(());
        };
        let resolution = phase.resolution(self.run.recipe().seed, self.step);
        let largest = phase.space.whole_largest(resolution);
        let plan = teacher.plan(largest)?;
        let tape = self.executor.forward(
            &plan,
            &teacher.parameters,
            part.images,
            Mode::BatchStatistics,
        )?;
        soft.teacher.extend_from_slice(tape.output());
        self.executor.recycle(tape);
        self.train_macs += largest.graph().macs() * part.images.count as u64;
        Ok(())
    }

    /// Runs one network forward and backward and adds its gradients; returns its loss.
    fn run_network(
        &mut self,
        part: Part,
        network: &StepNetwork,
        index: usize,
        soft: &mut SoftLabels,
    ) -> Result<f64> {
        let subnet = &network.candidates[0];
        let plan = self.supernet.plan(subnet)?;
        let dropout = network.dropout.then_some(DropoutDraws {
            seed: self.run.recipe().seed,
            step: self.step,
            network: index as u64,
        });
        let parameters = &self.supernet.parameters;
        let mode = Mode::Train { dropout };
        let tape = self
            .executor
            .forward(&plan, parameters, part.images, mode)?;
        let loss = self.loss(tape.output(), network, part, soft);
        if index == 0 {
            soft.largest.clear();
            soft.largest.extend_from_slice(tape.output());
        }
        let gradients = &mut self.gradients;
        self.executor
            .backward(&plan, parameters, tape, &loss.gradient, gradients)?;
        self.train_macs += 3 * subnet.graph().macs() * part.images.count as u64;
        Ok(loss.value)
    }

    /// What a network's logits are compared with, weighted.
    fn loss(&self, logits: &[f32], network: &StepNetwork, part: Part, soft: &SoftLabels) -> Loss {
        let weight = network.weight * part.share;
        match network.lesson {
            Lesson::Labels => self.label_loss(logits, part, weight),
            Lesson::Largest(distance) => {
                soft_loss(logits, &soft.largest, self.classes(), distance, weight)
            }
            Lesson::Teacher {
                weight: teacher_weight,
                temperature,
            } => {
                let mut loss = self.label_loss(logits, part, weight);
                if teacher_weight > 0.0 {
                    let distance = Distance::CrossEntropy { temperature };
                    let weight = weight * teacher_weight;
                    let taught = soft_loss(logits, &soft.teacher, self.classes(), distance, weight);
                    loss.add(&Loss {
                        value: teacher_weight * taught.value,
                        ..taught
                    });
                }
                loss
            }
        }
    }

    /// The loss against the labels; where images were mixed, against both labels by their shares.
    fn label_loss(&self, logits: &[f32], part: Part, weight: f64) -> Loss {
        let smoothing = self.run.recipe().training.label_smoothing;
        let classes = self.classes();
        let against = |labels, share: f32| {
            let mut gradient = vec![0.0; logits.len()];
            let target = Target::Labels { labels, smoothing };
            let weight = weight as f32 * share;
            let value = softmax_cross_entropy(logits, classes, target, &mut gradient, weight);
            Loss {
                value: f64::from(share) * value,
                gradient,
            }
        };
        if part.partner_labels.is_empty() {
            return against(part.labels, 1.0);
        }
        let mut loss = against(part.labels, part.label_share);
        loss.add(&against(part.partner_labels, 1.0 - part.label_share));
        loss
    }

    fn classes(&self) -> usize {
        let space = &self.schedule.phases[0].space;
        space.largest(0).graph().output_shape().channels
    }

    /// Notes how much of each weight the networks hold, where somebody asks.
    fn cover(&mut self, networks: &[StepNetwork]) -> Result<()> {
        let keeps = self.run.recipe().optimiser.keep_inactive;
        if self.schedule.aggregation == Aggregation::Sum && !keeps {
            return Ok(());
        }
        let coverage = self
            .coverage
            .get_or_insert_with(|| oncefit_nn::Gradients::zeros(&self.supernet.parameters));
        coverage.clear();
        for network in networks {
            let plan = self.supernet.plan(&network.candidates[0])?;
            plan.add_coverage(network.weight as f32, coverage);
        }
        Ok(())
    }

    /// Makes the sum of the networks' gradients what the schedule wants.
    fn aggregate(&mut self) {
        let divisor: fn(f32) -> f32 = match self.schedule.aggregation {
            Aggregation::Sum => return,
            Aggregation::Avg => |covered| covered,
            Aggregation::AvgSqrt => f32::sqrt,
        };
        if let Some(coverage) = &self.coverage {
            self.gradients.divide(coverage, divisor);
        }
    }

    /// Clips the gradients and moves the weights and their average.
    fn update(&mut self, learning_rate: f64) {
        let recipe = &self.run.recipe().optimiser;
        if recipe.clip_value > 0.0 {
            self.gradients.clip_values(recipe.clip_value);
        }
        if recipe.clip_norm > 0.0 {
            self.gradients.clip_norm(recipe.clip_norm);
        }
        let (cpu, rate) = (self.executor.cpu(), learning_rate as f32);
        let (weights, gradients) = (&mut self.supernet.parameters, &mut self.gradients);
        match &self.coverage {
            Some(coverage) if recipe.keep_inactive => {
                self.optimiser
                    .step_within(cpu, weights, gradients, rate, coverage);
            }
            _ => self.optimiser.step(cpu, weights, gradients, rate),
        }
        if let Some(average) = &mut self.average {
            average.average_with(&self.supernet.parameters, recipe.average_decay);
        }
    }

    /// What is wrong with a loss, if anything, and where.
    fn find_divergence(&self, loss: f64, is_watched: bool) -> Option<String> {
        let factor = self.run.recipe().training.divergence_factor;
        if !loss.is_finite() {
            let layer = self
                .gradients
                .first_not_finite()
                .map(|position| self.supernet.parameters.at(position).name.as_str())
                .or_else(|| self.supernet.parameters.first_not_finite())
                .unwrap_or("the logits");
            return Some(format!("the loss is {loss}, first seen in `{layer}`"));
        }
        if is_watched && loss > factor * self.mean_loss {
            return Some(format!(
                "the loss is {loss:.3}, more than {factor} times its running mean {:.3}",
                self.mean_loss
            ));
        }
        None
    }
}

/// Distance from soft labels, the softmax of `target_logits`.
fn soft_loss(
    logits: &[f32],
    target_logits: &[f32],
    classes: usize,
    distance: Distance,
    weight: f64,
) -> Loss {
    let mut gradient = vec![0.0; logits.len()];
    let mut probabilities = vec![0.0; target_logits.len()];
    let weight = weight as f32;
    let value = match distance {
        Distance::CrossEntropy { temperature } => {
            softmax(target_logits, classes, temperature, &mut probabilities);
            let target = Target::Soft {
                probabilities: &probabilities,
                temperature,
            };
            softmax_cross_entropy(logits, classes, target, &mut gradient, weight)
        }
        Distance::Alpha(divergence) => {
            softmax(target_logits, classes, 1.0, &mut probabilities);
            divergence.loss(logits, classes, &probabilities, &mut gradient, weight)
        }
    };
    Loss { value, gradient }
}

/// A batch in `count` parts of one size, the last possibly smaller.
fn parts_of(batch: &Batch, count: usize) -> impl Iterator<Item = Part<'_>> {
    let size = batch.images_count.div_ceil(count).max(1);
    let values = batch.images.len() / batch.images_count.max(1);
    (0..batch.images_count).step_by(size).map(move |start| {
        let end = (start + size).min(batch.images_count);
        Part {
            images: Images {
                data: &batch.images[start * values..end * values],
                count: end - start,
            },
            labels: &batch.labels[start..end],
            partner_labels: match batch.partner_labels.is_empty() {
                true => &[],
                false => &batch.partner_labels[start..end],
            },
            label_share: batch.label_share,
            share: (end - start) as f64 / batch.images_count as f64,
        }
    })
}
