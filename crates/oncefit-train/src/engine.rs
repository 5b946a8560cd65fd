//! The training engine: one loop for every schedule.
//!
//! A step runs the networks that its schedule names on one batch, adds up their gradients and
//! updates the weights once. Everything random is a function of (seed, purpose, step, index), so a
//! run that is killed and resumed continues with the same bits.

mod data;
mod events;
mod step;
mod workload;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use oncefit_data::{Loader, Prefetch};
use oncefit_nn::{
    Executor, Gradients, Imported, Optimiser, Parameters, Supernet, Tiers, sort_channels,
};
use oncefit_space::Subnet;

pub use self::data::RunData;
pub use self::events::{Estimate, Event, Outcome, StepReport};
use self::workload::Workload;
use crate::checkpoint::{Checkpoint, CheckpointFolder};
use crate::error::{Result, TrainError};
use crate::evaluate::{Accuracy, Evaluator, Split};
use crate::recipe::{Recipe, check_networks};
use crate::run::{METRICS, MetricsRow, RowLog, Run, TEACHER, truncate_metrics};
use crate::schedule::{ChannelSort, Networks, Phase, Schedule};

/// A training in progress.
pub struct Trainer<'r> {
    run: &'r Run,
    schedule: Schedule,
    supernet: Supernet,
    /// Moving average of the weights, where the recipe wants one.
    average: Option<Parameters>,
    /// What phases with a teacher learn from: the supernet as it was.
    teacher: Option<Supernet>,
    optimiser: Optimiser,
    executor: Executor,
    gradients: Gradients,
    /// For averaging aggregations: how much of each weight a step's networks hold.
    coverage: Option<Gradients>,
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
    imported: Option<Imported>,
}

impl<'r> Trainer<'r> {
    /// A training for a run folder: from its newest usable checkpoint, or from the start.
    ///
    /// # Errors
    /// If the space does not fit the data, or every checkpoint is damaged or of another recipe.
    pub fn new(run: &'r Run, data: &RunData) -> Result<Self> {
        let recipe = run.recipe();
        let space = recipe.build_space(data.train.channels(), data.train.class_names().len())?;
        check_networks(&space, data)?;
        let checkpoints = CheckpointFolder::open(&run.checkpoints(), recipe.checkpoint.keep)?;
        let layout = Supernet::layout(&space)?;
        let recipe_hash = training_hash(recipe);
        let (found, skipped) = checkpoints.newest(&layout)?;
        let loader = recipe.loader(data)?;
        // A checkpoint replaces them.
        let (supernet, imported) = match found {
            Some(_) => (Supernet::initialise(&space, recipe.seed)?, None),
            None => recipe.initial_weights(&space)?,
        };
        let averages = recipe.optimiser.average_decay > 0.0;
        let mut trainer = Self {
            schedule: recipe.build_schedule(&space)?,
            optimiser: recipe.build_optimiser(&layout),
            gradients: Gradients::zeros(&layout),
            coverage: None,
            average: averages.then(|| supernet.parameters.clone()),
            teacher: None,
            supernet,
            executor: {
                let mut executor = Executor::default();
                executor.recompute(recipe.training.recompute);
                executor
            },
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
            imported,
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
            trainer.average = checkpoint.average;
            trainer.optimiser.steps = checkpoint.optimiser_steps;
            trainer.optimiser.buffers =
                checkpoint.buffers.into_iter().map(|(_, set)| set).collect();
            trainer.reload_teacher()?;
        }
        run.write("space.txt", &space.to_text())?;
        let rows = truncate_metrics(&run.file(METRICS), trainer.step)?;
        trainer.seconds_before = rows.last().map_or(0.0, |row| row.seconds);
        Ok(trainer)
    }

    /// Steps in the whole training.
    pub fn steps(&self) -> u64 {
        self.schedule.epochs() * self.loader.steps_per_epoch()
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

    /// Trains to the end, or until `stop` is set; then saves.
    ///
    /// # Errors
    /// If training diverges or a file cannot be written; checkpoints written before stay.
    pub fn train(&mut self, stop: &AtomicBool, observe: &mut dyn FnMut(Event)) -> Result<Outcome> {
        self.train_until(self.steps(), stop, observe)
    }

    /// As [`Trainer::train`], but only until `last` steps are done. Going on from there, at once or from
    /// the checkpoint, gives the same bits as training without the break.
    ///
    /// # Errors
    /// As [`Trainer::train`].
    pub fn train_until(
        &mut self,
        last: u64,
        stop: &AtomicBool,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Outcome> {
        let recipe = self.run.recipe().clone();
        let steps = self.steps();
        let last = last.min(steps);
        let steps_per_epoch = self.loader.steps_per_epoch();
        observe(Event::Started {
            step: self.step,
            steps,
            steps_per_epoch,
            work: self.workload()?.share(self.step),
        });
        for error in self.skipped.drain(..) {
            observe(Event::CheckpointSkipped {
                reason: error.to_string(),
            });
        }
        if let Some(imported) = self.imported.take() {
            observe(Event::Initialised {
                loaded: imported.loaded,
                fresh: &imported.fresh,
                unused: &imported.unused,
            });
        }
        let workload = self.workload()?;
        let mut log = RowLog::append(&self.run.file(METRICS))?;
        let started = Instant::now();
        let mut saved_at = Instant::now();
        let mut saved_step = self.step;
        let mut best = best_accuracy(&self.run.metrics()?);
        let mut batches = self.prefetch(last);
        while self.step < last {
            let Some(batch) = batches.next() else { break };
            let batch = batch?;
            let place = self.schedule.place(self.step, steps_per_epoch);
            let phase = &self.schedule.phases[place.phase];
            let phase_name = phase.name.clone();
            let small_network_weight = phase.small_network_weight(place.epoch);
            if place.is_first && self.schedule.phases.len() > 1 {
                observe(Event::Phase {
                    number: place.phase + 1,
                    of: self.schedule.phases.len(),
                    name: &phase_name,
                    epochs: phase.epochs,
                });
            }
            let report = self.train_step(&batch, saved_step)?;
            batches.recycle(batch);
            self.epoch_loss += report.loss;
            observe(Event::Step {
                report,
                work: workload.share(self.step),
            });
            let ends_epoch = self.step.is_multiple_of(steps_per_epoch);
            if ends_epoch {
                let epoch = self.step / steps_per_epoch;
                let is_due = epoch.is_multiple_of(u64::from(recipe.evaluation.every_epochs));
                let accuracies = if is_due || self.step == steps {
                    self.evaluate_anchors()?
                } else {
                    Vec::new()
                };
                if let Some(mean) = mean_accuracy(&accuracies) {
                    let is_best = best.is_none_or(|best| mean > best);
                    if is_best {
                        best = Some(mean);
                        self.checkpoints.save_best(&self.checkpoint())?;
                    }
                    observe(Event::Evaluated {
                        step: self.step,
                        accuracies: &accuracies,
                        is_best,
                    });
                }
                log.push(&MetricsRow {
                    step: self.step,
                    epoch: report.epoch,
                    phase: phase_name,
                    loss: self.epoch_loss / steps_per_epoch as f64,
                    learning_rate: report.learning_rate,
                    small_network_weight,
                    train_macs: self.train_macs,
                    seconds: self.seconds_before + started.elapsed().as_secs_f64(),
                    accuracies,
                })?;
                self.epoch_loss = 0.0;
            }
            let is_stopping = stop.load(Ordering::Relaxed) && self.step < last;
            let every = recipe.checkpoint.every_steps;
            let is_due = (every > 0 && self.step.is_multiple_of(every))
                || saved_at.elapsed().as_secs_f64() >= recipe.checkpoint.every_seconds;
            if is_stopping || is_due || self.step == last {
                let path = self.checkpoints.save(&self.checkpoint())?;
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
        let steps = self.steps();
        let batch_size = self.run.recipe().training.batch_size as f64;
        let train_macs = (self.workload()?.total() * batch_size) as u64;
        self.teacher = Some(self.supernet.clone());
        let mut timed = None;
        for step in [steps - 1, 0, steps / 2, steps - 1] {
            self.step = step;
            // Steps out of order have no running mean to be compared with.
            self.mean_loss = f64::INFINITY;
            let batch = self.loader.batch(step, self.image_size(step))?;
            self.train_step(&batch, 0)?;
            // The first step fills caches and pools; it is not timed.
            timed.get_or_insert((Instant::now(), self.train_macs));
        }
        let (started, before) = timed.unwrap_or((Instant::now(), 0));
        let rate = (self.train_macs - before) as f64 / started.elapsed().as_secs_f64();
        let sets = 1 + self.optimiser.buffers.len() + usize::from(self.average.is_some());
        Ok(Estimate {
            steps,
            train_macs,
            seconds: train_macs as f64 / rate,
            checkpoint_bytes: (4 * sets * self.supernet.parameters.values()) as u64,
        })
    }

    fn workload(&self) -> Result<Workload> {
        let steps_per_epoch = self.loader.steps_per_epoch();
        let seed = self.run.recipe().seed;
        Workload::new(&self.schedule, seed, self.steps(), steps_per_epoch)
    }

    /// Rows and columns of the images of a step.
    fn image_size(&self, step: u64) -> usize {
        image_size(
            &self.schedule,
            self.run.recipe().seed,
            step,
            self.loader.steps_per_epoch(),
        )
    }

    /// The batches from the current step on, made ahead in the background.
    fn prefetch(&self, steps: u64) -> Prefetch {
        let schedule = self.schedule.clone();
        let seed = self.run.recipe().seed;
        let steps_per_epoch = self.loader.steps_per_epoch();
        Prefetch::new(self.loader.clone(), self.step..steps, 4, move |step| {
            image_size(&schedule, seed, step, steps_per_epoch)
        })
    }

    /// What happens between two phases: the optimiser starts anew, and the first phase that has a
    /// teacher takes it.
    fn begin_phase(&mut self, phase: usize) -> Result<()> {
        if phase > 0 {
            self.optimiser.reset();
        }
        if self.schedule.teacher_phase() == Some(phase) && self.teacher.is_none() {
            self.teacher = Some(self.supernet.clone());
            let state = Checkpoint {
                average: None,
                buffers: Vec::new(),
                ..self.checkpoint()
            };
            state.save(&self.run.file(TEACHER))?;
        }
        Ok(())
    }

    /// After a resume: the teacher of the phase that the run is in.
    fn reload_teacher(&mut self) -> Result<()> {
        let place = self
            .schedule
            .place(self.step, self.loader.steps_per_epoch());
        let Some(first) = self.schedule.teacher_phase() else {
            return Ok(());
        };
        // A run that stopped just before the phase takes its teacher from the weights.
        if place.phase > first || (place.phase == first && !place.is_first) {
            let path = self.run.file(TEACHER);
            let found = Checkpoint::load(&path, &self.supernet.parameters)?;
            let space = &self.supernet.space;
            self.teacher = Some(Supernet::with_parameters(space, found.weights)?);
        }
        Ok(())
    }

    fn sort_channels(&mut self, phase: &Phase) -> Result<()> {
        let trained;
        let tiers = match &phase.sort {
            ChannelSort::No => return Ok(()),
            ChannelSort::Global => Tiers::Global,
            ChannelSort::Tiered(space) => {
                trained = space.envelope()?;
                Tiers::Between(&trained)
            }
        };
        let envelope = self.supernet.space.envelope()?;
        let order = sort_channels(&mut self.supernet.parameters, &envelope, tiers);
        for buffers in self.optimiser.buffers.iter_mut().chain(&mut self.average) {
            order.apply(buffers);
        }
        Ok(())
    }

    /// Calibrates and measures a subnet with the weights as they are now, or their moving average
    /// where one is kept.
    ///
    /// # Errors
    /// If the subnet has no executed form.
    pub fn evaluate(&mut self, subnet: &Subnet, split: Split) -> Result<Accuracy> {
        let average = self.average.as_ref().map(|parameters| Supernet {
            space: self.supernet.space.clone(),
            parameters: parameters.clone(),
        });
        let supernet = average.as_ref().unwrap_or(&self.supernet);
        self.evaluator
            .evaluate(&mut self.executor, supernet, subnet, split)
    }

    /// Validation accuracy of the smallest, a middle and the largest network.
    fn evaluate_anchors(&mut self) -> Result<Vec<(String, f64)>> {
        let mut accuracies = Vec::new();
        for (name, subnet) in self.anchors()? {
            let found = self.evaluate(&subnet, Split::Validation)?;
            accuracies.push((name.to_owned(), found.accuracy));
        }
        Ok(accuracies)
    }

    /// The networks that are measured while training; for a plain schedule the one it trains.
    fn anchors(&self) -> Result<Vec<(&'static str, Subnet)>> {
        let space = &self.supernet.space;
        Ok(match &self.schedule.phases[0].networks {
            Networks::One(subnet) => vec![("network", space.parse_subnet(subnet)?)],
            _ => vec![
                ("smallest", space.smallest()?),
                ("middle", middle(space)?),
                ("largest", space.largest()?),
            ],
        })
    }

    fn checkpoint(&self) -> Checkpoint {
        let names = self.optimiser.rule.buffer_names().iter();
        let buffers = names
            .zip(&self.optimiser.buffers)
            .map(|(name, set)| ((*name).to_owned(), set.clone()));
        Checkpoint {
            step: self.step,
            train_macs: self.train_macs,
            mean_loss: self.mean_loss,
            epoch_loss: self.epoch_loss,
            recipe_hash: self.recipe_hash.clone(),
            optimiser_steps: self.optimiser.steps,
            weights: self.supernet.parameters.clone(),
            average: self.average.clone(),
            buffers: buffers.collect(),
        }
    }
}

fn image_size(schedule: &Schedule, seed: u64, step: u64, steps_per_epoch: u64) -> usize {
    let phase = &schedule.phases[schedule.place(step, steps_per_epoch).phase];
    phase.space.image_size(phase.resolution(seed, step))
}

/// The best mean of the accuracies that were measured together.
fn best_accuracy(rows: &[MetricsRow]) -> Option<f64> {
    let means = rows.iter().filter_map(|row| mean_accuracy(&row.accuracies));
    means.max_by(f64::total_cmp)
}

fn mean_accuracy(accuracies: &[(String, f64)]) -> Option<f64> {
    let sum: f64 = accuracies.iter().map(|(_, accuracy)| accuracy).sum();
    (!accuracies.is_empty()).then(|| sum / accuracies.len() as f64)
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
