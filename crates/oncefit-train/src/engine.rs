//! The training engine: one loop for every schedule.
//!
//! A step runs the networks that its schedule names on one batch, adds up their gradients and
//! updates the weights once. Everything random is a function of (seed, purpose, step, index), so a
//! run that is killed and resumed continues with the same bits.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oncefit_data::{Batch, Dataset, Loader, Normalisation, Prefetch};
use oncefit_nn::{
    DropoutDraws, Executor, Gradients, Mode, Sgd, Supernet, Target, Tiers, softmax,
    softmax_cross_entropy, sort_channels,
};
use oncefit_space::Subnet;

use crate::checkpoint::{Checkpoint, CheckpointFolder};
use crate::error::{Result, TrainError};
use crate::evaluate::{Accuracy, Evaluator, Split, images};
use crate::recipe::Recipe;
use crate::run::{METRICS, MetricsRow, RowLog, Run, truncate_metrics};
use crate::schedule::{Schedule, StepNetwork, StepSpace, Teacher};

/// The images of a run.
#[derive(Clone, Debug)]
pub struct RunData {
    /// Trained on.
    pub train: Dataset,
    /// Held out of the training images.
    pub validation: Dataset,
    /// The test images.
    pub test: Dataset,
    /// From the training part.
    pub normalisation: Normalisation,
}

impl RunData {
    /// Loads and splits what a recipe names.
    ///
    /// # Errors
    /// If the data cannot be read, or is too small for the validation split.
    pub fn load(recipe: &Recipe) -> Result<Self> {
        let loaded = recipe.data_source()?.load()?;
        let (train, validation) = loaded.train.hold_out(oncefit_data::ValidationSplit {
            size: recipe.data.validation,
            seed: recipe.data.validation_seed,
        })?;
        let normalisation = Normalisation::of(&train)?;
        Ok(Self {
            train,
            validation,
            test: loaded.test,
            normalisation,
        })
    }
}

/// What training tells whoever watches it.
#[derive(Clone, Debug)]
pub enum Event<'a> {
    /// Training begins or goes on.
    Started {
        /// Steps done already.
        step: u64,
        /// Steps in all.
        steps: u64,
        /// Steps in an epoch.
        steps_per_epoch: u64,
    },
    /// A newer checkpoint could not be used and an older one was taken.
    CheckpointSkipped {
        /// Why.
        reason: String,
    },
    /// A step is done.
    Step(StepReport),
    /// Subnets were measured on the validation split, by name.
    Evaluated {
        /// Steps done.
        step: u64,
        /// Accuracy of each.
        accuracies: &'a [(String, f64)],
    },
    /// A checkpoint was written.
    Saved {
        /// Steps done.
        step: u64,
        /// The file.
        path: &'a Path,
    },
}

/// A step as it is shown.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Steps done.
    pub step: u64,
    /// Epochs done.
    pub epoch: f64,
    /// Loss of the step's first network.
    pub loss: f64,
    /// Learning rate.
    pub learning_rate: f64,
    /// Networks that ran.
    pub networks: usize,
    /// Images in the batch.
    pub images: usize,
}

/// How training ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// All steps are done.
    Finished,
    /// It was asked to stop, and saved.
    Stopped {
        /// Steps done.
        step: u64,
    },
}

/// What a training will cost.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Estimate {
    /// Steps in all.
    pub steps: u64,
    /// Multiply-accumulates, from a sample of the steps.
    pub train_macs: u64,
    /// Seconds on this machine, from a few timed steps.
    pub seconds: f64,
    /// Bytes of one checkpoint.
    pub checkpoint_bytes: u64,
}

/// A training in progress.
pub struct Trainer<'r> {
    run: &'r Run,
    schedule: Schedule,
    space: StepSpace,
    supernet: Supernet,
    optimiser: Sgd,
    executor: Executor,
    gradients: Gradients,
    loader: Loader,
    evaluator: Evaluator,
    checkpoints: CheckpointFolder,
    step: u64,
    train_macs: u64,
    mean_loss: f64,
    /// Sum of the losses since the last whole epoch.
    epoch_loss: f64,
    seconds_before: f64,
    recipe_hash: String,
    skipped: Vec<TrainError>,
}

impl<'r> Trainer<'r> {
    /// A training for a run folder: from its newest usable checkpoint, or from the start.
    ///
    /// # Errors
    /// If the space does not fit the data, or every checkpoint is damaged or of another recipe.
    pub fn new(run: &'r Run, data: &RunData) -> Result<Self> {
        let recipe = run.recipe();
        let space = recipe.build_space(data.train.channels(), data.train.class_names().len())?;
        let checkpoints = CheckpointFolder::open(&run.checkpoints(), recipe.checkpoint.keep)?;
        let layout = Supernet::layout(&space)?;
        let recipe_hash = training_hash(recipe);
        let (found, skipped) = checkpoints.newest(&layout)?;
        let loader = Loader::new(
            data.train.clone(),
            recipe.training.batch_size,
            recipe.seed,
            recipe.build_augmentation(),
            data.normalisation.clone(),
            true,
        )?;
        let sgd = |parameters: &_| {
            let recipe = &recipe.optimiser;
            Sgd::new(
                parameters,
                recipe.momentum,
                recipe.nesterov,
                recipe.weight_decay,
            )
        };
        let mut trainer = Self {
            schedule: recipe.build_schedule(),
            space: StepSpace::new(&space)?,
            optimiser: sgd(&layout),
            gradients: Gradients::zeros(&layout),
            supernet: Supernet::initialise(&space, recipe.seed)?,
            executor: Executor::default(),
            loader,
            evaluator: Evaluator::new(
                recipe,
                &data.train,
                &data.validation,
                &data.test,
                &data.normalisation,
            ),
            checkpoints,
            step: 0,
            train_macs: 0,
            mean_loss: 0.0,
            epoch_loss: 0.0,
            seconds_before: 0.0,
            recipe_hash,
            skipped,
            run,
        };
        if let Some(checkpoint) = found {
            if checkpoint.recipe_hash != trainer.recipe_hash {
                return Err(TrainError::Checkpoint {
                    path: run.checkpoints(),
                    reason: "it was made with another recipe.toml; restore the recipe, or train into a new folder".into(),
                });
            }
            trainer.step = checkpoint.step;
            trainer.train_macs = checkpoint.train_macs;
            trainer.mean_loss = checkpoint.mean_loss;
            trainer.epoch_loss = checkpoint.epoch_loss;
            trainer.supernet.parameters = checkpoint.weights;
            trainer.optimiser.buffers = checkpoint.momentum;
        }
        run.write("space.txt", &space.to_text())?;
        let rows = truncate_metrics(&run.file(METRICS), trainer.step)?;
        trainer.seconds_before = rows.last().map_or(0.0, |row| row.seconds);
        Ok(trainer)
    }

    /// Steps in the whole training.
    pub fn steps(&self) -> u64 {
        u64::from(self.run.recipe().schedule.epochs) * self.loader.steps_per_epoch()
    }

    /// Steps done.
    pub fn step(&self) -> u64 {
        self.step
    }

    /// Multiply-accumulates spent on training so far.
    pub fn train_macs(&self) -> u64 {
        self.train_macs
    }

    /// The supernet as it is now.
    pub fn supernet(&self) -> &Supernet {
        &self.supernet
    }

    /// Takes the supernet and the prepared evaluation images out of a finished training.
    pub fn into_parts(self) -> (Supernet, Evaluator) {
        (self.supernet, self.evaluator)
    }

    /// Trains to the end, or until `stop` is set; then saves.
    ///
    /// # Errors
    /// If training diverges or a file cannot be written; checkpoints written before stay.
    pub fn train(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        let recipe = self.run.recipe().clone();
        let steps = self.steps();
        let steps_per_epoch = self.loader.steps_per_epoch();
        observe(Event::Started {
            step: self.step,
            steps,
            steps_per_epoch,
        });
        for error in self.skipped.drain(..) {
            observe(Event::CheckpointSkipped {
                reason: error.to_string(),
            });
        }
        let mut log = RowLog::append(&self.run.file(METRICS))?;
        let started = Instant::now();
        let mut saved_at = Instant::now();
        let mut saved_step = self.step;
        let mut batches = self.prefetch(steps);
        while self.step < steps {
            let Some(batch) = batches.next() else { break };
            let batch = batch?;
            let report = self.train_step(&batch, saved_step)?;
            batches.recycle(batch);
            self.epoch_loss += report.loss;
            observe(Event::Step(report));
            let ends_epoch = self.step.is_multiple_of(steps_per_epoch);
            if ends_epoch {
                let epoch = self.step / steps_per_epoch;
                let is_due = epoch.is_multiple_of(u64::from(recipe.evaluation.every_epochs));
                let accuracies = if is_due || self.step == steps {
                    self.evaluate_anchors()?
                } else {
                    Vec::new()
                };
                if !accuracies.is_empty() {
                    observe(Event::Evaluated {
                        step: self.step,
                        accuracies: &accuracies,
                    });
                }
                log.push(&MetricsRow {
                    step: self.step,
                    epoch: report.epoch,
                    loss: self.epoch_loss / steps_per_epoch as f64,
                    learning_rate: report.learning_rate,
                    small_network_weight: self
                        .schedule
                        .small_network_weight(&recipe.learning_rate(), report.epoch),
                    train_macs: self.train_macs,
                    seconds: self.seconds_before + started.elapsed().as_secs_f64(),
                    accuracies,
                })?;
                self.epoch_loss = 0.0;
            }
            let is_stopping = stop.load(Ordering::Relaxed) && self.step < steps;
            let every = recipe.checkpoint.every_steps;
            let is_due = (every > 0 && self.step.is_multiple_of(every))
                || saved_at.elapsed().as_secs_f64() >= recipe.checkpoint.every_seconds;
            if is_stopping || is_due || self.step == steps {
                let path = self.save()?;
                observe(Event::Saved {
                    step: self.step,
                    path: &path,
                });
                saved_at = Instant::now();
                saved_step = self.step;
            }
            if is_stopping {
                return Ok(Outcome::Stopped { step: self.step });
            }
        }
        Ok(Outcome::Finished)
    }

    /// What the whole training will cost, from a few steps that are run and forgotten.
    ///
    /// # Errors
    /// If a step cannot be run.
    pub fn estimate(mut self) -> Result<Estimate> {
        const SAMPLED_STEPS: u64 = 64;
        let (steps, steps_per_epoch) = (self.steps(), self.loader.steps_per_epoch());
        let learning_rate = self.run.recipe().learning_rate();
        let seed = self.run.recipe().seed;
        let batch_size = self.run.recipe().training.batch_size as u64;
        let mut sampled = 0;
        let stride = (steps / SAMPLED_STEPS).max(1);
        let picked: Vec<u64> = (0..steps).step_by(stride as usize).collect();
        for &step in &picked {
            let epoch = step as f64 / steps_per_epoch as f64;
            let networks =
                self.schedule
                    .networks(&self.space, &learning_rate, seed, step, epoch)?;
            let macs: u64 = networks
                .iter()
                .map(|network| network.subnet.graph().macs())
                .sum();
            sampled += 3 * macs * batch_size;
        }
        let train_macs = (u128::from(sampled) * u128::from(steps) / picked.len() as u128) as u64;
        // Steps out of order have no running mean to be compared with.
        self.mean_loss = f64::INFINITY;
        let mut timed = None;
        for step in [steps - 1, 0, steps / 2, steps - 1] {
            self.step = step;
            let resolution = self.schedule.resolution(&self.space, seed, step);
            let height = self.space.largest(resolution).graph().input_shape().height;
            let batch = self.loader.batch(step, height)?;
            self.train_step(&batch, 0)?;
            // The first step fills caches and pools; it is not timed.
            timed.get_or_insert((Instant::now(), self.train_macs));
        }
        let (started, before) = timed.unwrap_or((Instant::now(), 0));
        let rate = (self.train_macs - before) as f64 / started.elapsed().as_secs_f64();
        Ok(Estimate {
            steps,
            train_macs,
            seconds: train_macs as f64 / rate,
            checkpoint_bytes: 8 * self.supernet.parameters.values() as u64,
        })
    }

    /// The batches from the current step on, made ahead in the background.
    fn prefetch(&self, steps: u64) -> Prefetch {
        let schedule = self.schedule.clone();
        let space = self.space.clone();
        let seed = self.run.recipe().seed;
        Prefetch::new(self.loader.clone(), self.step..steps, 4, move |step| {
            let resolution = schedule.resolution(&space, seed, step);
            space.largest(resolution).graph().input_shape().height
        })
    }

    fn train_step(&mut self, batch: &Batch, saved_step: u64) -> Result<StepReport> {
        let recipe = self.run.recipe();
        let steps_per_epoch = self.loader.steps_per_epoch();
        let epoch = self.step as f64 / steps_per_epoch as f64;
        let learning_rate = recipe.learning_rate();
        if self
            .schedule
            .sorts_channels_before(self.step, steps_per_epoch)
        {
            let envelope = self.space.space().envelope()?;
            let order = sort_channels(&mut self.supernet.parameters, &envelope, Tiers::Global);
            order.apply(&mut self.optimiser.buffers);
        }
        let networks =
            self.schedule
                .networks(&self.space, &learning_rate, recipe.seed, self.step, epoch)?;
        self.gradients.clear();
        let mut first_loss = 0.0;
        let mut first_logits = Vec::new();
        for (index, network) in networks.iter().enumerate() {
            let loss = self.run_network(batch, network, index, &mut first_logits)?;
            if index == 0 {
                first_loss = loss;
            }
            let problem = self.find_divergence(loss, index == 0);
            if let Some(reason) = problem {
                return Err(TrainError::Diverged {
                    step: self.step,
                    subnet: network.subnet.text(),
                    reason,
                    checkpoint_step: saved_step,
                });
            }
        }
        let rate = learning_rate.at(epoch);
        self.optimiser.step(
            self.executor.cpu(),
            &mut self.supernet.parameters,
            &self.gradients,
            rate as f32,
        );
        self.mean_loss = match self.step {
            0 => first_loss,
            _ => 0.95 * self.mean_loss + 0.05 * first_loss,
        };
        self.step += 1;
        Ok(StepReport {
            step: self.step,
            epoch: self.step as f64 / steps_per_epoch as f64,
            loss: first_loss,
            learning_rate: rate,
            networks: networks.len(),
            images: batch.images_count,
        })
    }

    /// Runs one network of a step and adds its gradients; returns its loss.
    fn run_network(
        &mut self,
        batch: &Batch,
        network: &StepNetwork,
        index: usize,
        first_logits: &mut Vec<f32>,
    ) -> Result<f64> {
        let recipe = self.run.recipe();
        let plan = self.supernet.plan(&network.subnet)?;
        let dropout = network.dropout.then_some(DropoutDraws {
            seed: recipe.seed,
            step: self.step,
            network: index as u64,
        });
        let parameters = &self.supernet.parameters;
        let mode = Mode::Train { dropout };
        let tape = self
            .executor
            .forward(&plan, parameters, images(batch), mode)?;
        let logits = tape.output();
        let classes = plan.output_shape().channels;
        let mut gradient = vec![0.0; logits.len()];
        let mut probabilities = Vec::new();
        let target = match network.teacher {
            Teacher::Labels => {
                let smoothing = recipe.training.label_smoothing;
                Target::Labels {
                    labels: &batch.labels,
                    smoothing,
                }
            }
            Teacher::Largest { temperature } => {
                probabilities.resize(first_logits.len(), 0.0);
                softmax(first_logits, classes, temperature, &mut probabilities);
                Target::Soft {
                    probabilities: &probabilities,
                    temperature,
                }
            }
        };
        let weight = network.weight as f32;
        let loss = softmax_cross_entropy(logits, classes, target, &mut gradient, weight);
        if index == 0 {
            first_logits.clear();
            first_logits.extend_from_slice(logits);
        }
        self.executor
            .backward(&plan, parameters, tape, &gradient, &mut self.gradients)?;
        self.train_macs += 3 * network.subnet.graph().macs() * batch.images_count as u64;
        Ok(loss)
    }

    /// What is wrong with a loss, if anything, and where.
    fn find_divergence(&self, loss: f64, is_first: bool) -> Option<String> {
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
        // The first steps have no running mean worth the name.
        if is_first && self.step > 50 && loss > factor * self.mean_loss {
            return Some(format!(
                "the loss is {loss:.3}, more than {factor} times its running mean {:.3}",
                self.mean_loss
            ));
        }
        None
    }

    /// Validation accuracy of the smallest, a middle and the largest network.
    fn evaluate_anchors(&mut self) -> Result<Vec<(String, f64)>> {
        let mut accuracies = Vec::new();
        for (name, subnet) in self.anchors()? {
            let found: Accuracy = self.evaluator.evaluate(
                &mut self.executor,
                &self.supernet,
                &subnet,
                Split::Validation,
            )?;
            accuracies.push((name.to_owned(), found.accuracy));
        }
        Ok(accuracies)
    }

    /// The networks that are measured while training; for a plain schedule the one it trains.
    fn anchors(&self) -> Result<Vec<(&'static str, Subnet)>> {
        let space = self.space.space();
        Ok(match &self.schedule {
            Schedule::Plain { subnet } => vec![("network", space.parse_subnet(subnet)?)],
            Schedule::Delayed(_) => vec![
                ("smallest", space.smallest()?),
                ("middle", middle(space)?),
                ("largest", space.largest()?),
            ],
        })
    }

    fn save(&self) -> Result<std::path::PathBuf> {
        self.checkpoints.save(&Checkpoint {
            step: self.step,
            train_macs: self.train_macs,
            mean_loss: self.mean_loss,
            epoch_loss: self.epoch_loss,
            recipe_hash: self.recipe_hash.clone(),
            weights: self.supernet.parameters.clone(),
            momentum: self.optimiser.buffers.clone(),
        })
    }
}

/// The member whose every decision has its middle value.
///
/// # Errors
/// If it cannot be built.
pub fn middle(space: &oncefit_space::Space) -> Result<Subnet> {
    Ok(space.build(&mut |slot| slot.domain.values.len() / 2)?)
}

/// Hash of what decides the weights: the recipe without its name and without how often it saves.
fn training_hash(recipe: &Recipe) -> String {
    let decisive = Recipe {
        name: String::new(),
        checkpoint: Default::default(),
        evaluation: Default::default(),
        ..recipe.clone()
    };
    blake3::hash(decisive.to_toml().as_bytes()).to_hex()[..16].to_owned()
}
