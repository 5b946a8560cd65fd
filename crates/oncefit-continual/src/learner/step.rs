//! One step: gradients, penalties, the optimiser, the memory.

use super::*;

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

/// What ran forward and backward.
#[derive(Clone, Copy, Default)]
pub(super) struct Cost {
    /// Images, once for each network.
    pub images: usize,
    /// Three times the multiply-accumulates of a forward pass.
    pub train_macs: u64,
}

impl Cost {
    pub fn add(&mut self, network: &StepNetwork, images: usize) {
        self.images += images;
        self.train_macs += 3 * network.model.macs() * images as u64;
    }
}

impl Learner {
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
            loss = self.contrast(&contrastive, examples, &lesson.networks, &mut cost)?;
        }
        let mut centres = None;
        if let Some(onpro) = self.method.prototypes.clone() {
            let networks = &lesson.networks;
            let found = self.prototype_step(&onpro, examples, networks, &mut cost)?;
            (loss, first_logits, centres) = (found.loss, found.logits, found.centres);
        }
        let images = cost.images;
        let projected = self.project(&lesson.networks, &mut cost)?;
        let before = self.before_paths();
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
            self.follow_paths(&gradients, &before);
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
    pub(super) fn mark_unseen(&self, logits: &mut [f32]) {
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
